//! The README's picture: a dashboard's own queries, answered by a real Prometheus and drawn here, since a
//! Grafana is not at hand. `ZC_PICTURE` names the file; without it nothing is drawn.

use std::{env, fmt::Write, fs, path::PathBuf};

use serde_json::Value;

use crate::{
    agent::monitoring::{Prometheus, Stretch, filled},
    harness::support::release,
};

/// What one unit of a dashboard's grid is, in pixels.
const GRID: (f64, f64) = (50.0, 30.0);
/// What fits into a column of a legend.
const LETTERS: usize = 34;
const COLOURS: [&str; 10] = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#b877d9", "#f2495c", "#8ab8ff", "#96d98d",
    "#ffb357", "#ca95e5",
];

/// Where the picture is wanted, if it is.
pub fn wanted() -> Option<PathBuf> {
    env::var_os("ZC_PICTURE").map(PathBuf::from)
}

struct Series {
    name: String,
    points: Vec<(f64, f64)>,
}

struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

/// Draws every panel where the dashboard has it.
pub fn draw(prometheus: &Prometheus, worked: &Stretch, dashboard: &Value, file: &PathBuf) {
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut picture = String::new();
    let mut bottom = 0.0_f64;
    for panel in panels {
        let grid = |name: &str| panel["gridPos"][name].as_f64().expect("a position");
        let frame = Frame {
            x: grid("x") * GRID.0 + 4.0,
            y: grid("y") * GRID.1 + 4.0,
            width: grid("w") * GRID.0 - 8.0,
            height: grid("h") * GRID.1 - 8.0,
        };
        bottom = bottom.max(frame.y + frame.height + 4.0);
        let title = escaped(panel["title"].as_str().expect("a title"));
        let (x, y) = (frame.x + 8.0, frame.y + 17.0);
        if panel["type"] != "row" {
            rectangle(&mut picture, &frame);
        }
        text(
            &mut picture,
            (x, y),
            "#d8d9da",
            &format!("<tspan font-weight='600'>{title}</tspan>"),
        );
        match panel["type"].as_str() {
            Some("stat") => stat(
                &mut picture,
                &frame,
                panel,
                &series(prometheus, worked, panel),
            ),
            Some("timeseries") => lines(
                &mut picture,
                &frame,
                panel,
                series(prometheus, worked, panel),
            ),
            _ => {}
        }
    }
    let caption = format!(
        "Linux {}, emulated, scraped for two minutes or three. Drawn by zc-profiler's tests from the answers of a real \
         Prometheus to the dashboard's queries; no screenshot.",
        release()
    );
    text(&mut picture, (12.0, bottom + 14.0), "#8e8e8e", &caption);
    bottom += 24.0;
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 1200 {bottom}' font-family='sans-serif' \
         font-size='12'>\n<rect width='100%' height='100%' fill='#111217'/>\n{picture}</svg>\n"
    );
    fs::write(file, svg).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}

fn series(prometheus: &Prometheus, worked: &Stretch, panel: &Value) -> Vec<Series> {
    let mut all = Vec::new();
    for target in panel["targets"].as_array().expect("targets") {
        let query = filled(target["expr"].as_str().expect("a query"));
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        for answer in prometheus.range(&query, worked) {
            let mut name = legend.to_owned();
            for (label, value) in answer["metric"].as_object().expect("labels") {
                name = name.replace(&format!("{{{{{label}}}}}"), value.as_str().expect("a text"));
            }
            for label in ["unit", "container", "comm"] {
                name = name.replace(&format!("{{{{{label}}}}}"), "");
            }
            let point = |point: &Value| {
                let value = point[1].as_str()?.parse::<f64>().ok()?;
                Some((point[0].as_f64()?, value)).filter(|_| value.is_finite())
            };
            let points = answer["values"].as_array().expect("points");
            all.push(Series {
                name: name.split_whitespace().collect::<Vec<_>>().join(" "),
                points: points.iter().filter_map(point).collect(),
            });
        }
    }
    all
}

fn rectangle(picture: &mut String, frame: &Frame) {
    let Frame {
        x,
        y,
        width,
        height,
    } = frame;
    writeln!(
        picture,
        "<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='2' fill='#181b1f' stroke='#2c3235'/>"
    )
    .expect("a string");
}

fn text(picture: &mut String, (x, y): (f64, f64), colour: &str, text: &str) {
    writeln!(
        picture,
        "<text x='{x:.0}' y='{y:.0}' fill='{colour}'>{text}</text>"
    )
    .expect("a string");
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn stat(picture: &mut String, frame: &Frame, panel: &Value, series: &[Series]) {
    let last = series.first().and_then(|series| series.points.last());
    let shown = last.map_or_else(|| "-".into(), |(_, value)| human(panel, *value));
    let place = (frame.x + 8.0, frame.y + frame.height - 24.0);
    text(
        picture,
        place,
        "#d8d9da",
        &format!("<tspan font-size='34'>{shown}</tspan>"),
    );
}

/// A value in the panel's unit.
fn human(panel: &Value, value: f64) -> String {
    let unit = panel["fieldConfig"]["defaults"]["unit"]
        .as_str()
        .unwrap_or_default();
    if unit == "percentunit" {
        return format!("{:.1} %", value * 100.0);
    }
    let (mut value, mut prefix) = (value, "");
    for larger in ["k", "M", "G"] {
        if value < 1000.0 {
            break;
        }
        (value, prefix) = (value / 1000.0, larger);
    }
    let suffix = match unit {
        "Bps" => "B/s",
        "ops" => "/s",
        _ => "",
    };
    let digits = if unit == "none" || value < 10.0 { 2 } else { 0 };
    format!("{value:.digits$} {prefix}{suffix}")
        .trim_end()
        .to_owned()
}

/// Lines, or areas on top of each other, with the highest value at the axis and a legend below.
fn lines(picture: &mut String, frame: &Frame, panel: &Value, mut series: Vec<Series>) {
    const LEGEND: f64 = 15.0;
    series.sort_by(|left, right| right.peak().total_cmp(&left.peak()));
    series.truncate(COLOURS.len());
    let stacks = panel["fieldConfig"]["defaults"]["custom"]["stacking"].is_object();
    if stacks {
        let mut below: Vec<(f64, f64)> = Vec::new();
        for one in &mut series {
            for point in &mut one.points {
                let under = below.iter().find(|(time, _)| same(*time, point.0));
                point.1 += under.map_or(0.0, |(_, value)| *value);
            }
            below.retain(|(time, _)| !one.points.iter().any(|(other, _)| same(*time, *other)));
            below.extend(&one.points);
        }
    }
    // A legend has two columns.
    let rows = series.len().div_ceil(2);
    #[allow(clippy::cast_precision_loss, reason = "a handful")]
    let (top, bottom) = (
        frame.y + 30.0,
        frame.y + frame.height - 8.0 - LEGEND * rows as f64,
    );
    let (left, right) = (frame.x + 70.0, frame.x + frame.width - 10.0);
    let peak = series
        .iter()
        .map(Series::peak)
        .fold(f64::MIN_POSITIVE, f64::max);
    let times = || {
        series
            .iter()
            .flat_map(|one| &one.points)
            .map(|(time, _)| *time)
    };
    let (first, last) = (
        times().fold(f64::MAX, f64::min),
        times().fold(f64::MIN, f64::max),
    );
    for (share, value) in [(0.0, 0.0), (0.5, peak / 2.0), (1.0, peak)] {
        let y = bottom - share * (bottom - top);
        writeln!(
            picture,
            "<path d='M{left:.0} {y:.1}H{right:.0}' stroke='#2c3235'/>"
        )
        .expect("a string");
        text(
            picture,
            (frame.x + 8.0, y + 4.0),
            "#8e8e8e",
            &human(panel, value),
        );
    }
    let place = |(time, value): &(f64, f64)| {
        let x = left + (time - first) / (last - first).max(1.0) * (right - left);
        (x, bottom - value / peak * (bottom - top))
    };
    // The highest first, so that lower areas lie on top of it.
    for (number, one) in series.iter().enumerate().rev() {
        let colour = COLOURS[number];
        let mut path = String::new();
        for (index, point) in one.points.iter().enumerate() {
            let (x, y) = place(point);
            let step = if index == 0 { 'M' } else { 'L' };
            write!(path, "{step}{x:.1} {y:.1}").expect("a string");
        }
        let ends = one
            .points
            .first()
            .map(place)
            .zip(one.points.last().map(place));
        if let Some(((from, _), (to, _))) = ends.filter(|_| stacks) {
            let area = format!("{path}L{to:.1} {bottom:.1}L{from:.1} {bottom:.1}Z");
            writeln!(picture, "<path d='{area}' fill='#181b1f'/>").expect("a string");
            writeln!(
                picture,
                "<path d='{area}' fill='{colour}' fill-opacity='.35'/>"
            )
            .expect("a string");
        }
        writeln!(
            picture,
            "<path d='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>"
        )
        .expect("a string");
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let (x, y) = (
            frame.x + 8.0 + (number % 2) as f64 * frame.width / 2.0,
            bottom + 8.0 + LEGEND * ((number / 2) as f64 + 0.7),
        );
        let name = escaped(&one.name);
        let shown: String = name.chars().take(LETTERS).collect();
        text(
            picture,
            (x, y),
            "#d8d9da",
            &format!("<tspan fill='{colour}'>■</tspan> {shown}"),
        );
    }
}

fn same(left: f64, right: f64) -> bool {
    (left - right).abs() < 0.001
}

impl Series {
    fn peak(&self) -> f64 {
        self.points
            .iter()
            .map(|(_, value)| *value)
            .fold(0.0, f64::max)
    }
}
