//! The bar chart of the README, on a logarithmic scale.

use std::fmt::Write;

use super::results::{EMPTY, Measured, PROFILER};

/// The variants that the chart shows, and their colours. The colours are readable on light and dark backgrounds.
const SERIES: [(&str, &str); 6] = [
    (EMPTY, "#9aa0a6"),
    (PROFILER, "#1a73e8"),
    ("syscount", "#f29900"),
    ("bpftrace sums", "#188038"),
    ("perf trace -s", "#a142f4"),
    ("strace -c", "#d93025"),
];

const LEFT: usize = 130;
const WIDTH: usize = 620;
const BAR: usize = 7;
const GAP: usize = 14;
const TOP: usize = 70;
/// The scale's ends as powers of ten: from 10 to 1,000,000.
const DECADES: (f64, f64) = (1.0, 6.0);

/// An SVG chart of the cost that each variant adds to an operation.
pub fn svg(measured: &Measured) -> String {
    let shown: Vec<_> = SERIES
        .iter()
        .filter(|(name, _)| measured.variants.iter().any(|variant| variant == name))
        .collect();
    let block = shown.len() * BAR + GAP;
    let height = TOP + measured.workloads.len() * block + 20;
    let total = LEFT + WIDTH + 20;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {total} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{total}\" height=\"{height}\" fill=\"#ffffff\"/>\n\
         <text x=\"10\" y=\"20\" font-size=\"14\">{} that each adds to one operation; {}</text>\n",
        measured.unit, measured.kernel
    );
    for (index, (name, colour)) in shown.iter().enumerate() {
        let x = 10 + index * 125;
        let _ = writeln!(
            text,
            "<rect x=\"{x}\" y=\"32\" width=\"10\" height=\"10\" fill=\"{colour}\"/>\
             <text x=\"{}\" y=\"41\">{name}</text>",
            x + 14
        );
    }
    let (low, high) = DECADES;
    let mut decade = low;
    while decade <= high {
        let x = LEFT + place(10f64.powf(decade));
        let _ = writeln!(
            text,
            "<line x1=\"{x}\" y1=\"{}\" x2=\"{x}\" y2=\"{}\" stroke=\"#dadce0\"/>\
             <text x=\"{x}\" y=\"{}\" text-anchor=\"middle\" fill=\"#5f6368\">{:.0}</text>",
            TOP - 8,
            height - 15,
            TOP - 12,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    for (row, workload) in measured.workloads.iter().enumerate() {
        let top = TOP + row * block;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{workload}</text>",
            LEFT - 8,
            top + shown.len() * BAR / 2 + 4
        );
        for (index, (name, colour)) in shown.iter().enumerate() {
            if let Some(cost) = measured.cost(workload, name) {
                let _ = writeln!(
                    text,
                    "<rect x=\"{LEFT}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"{colour}\">\
                     <title>{name}, {workload}: {:.0}</title></rect>",
                    top + index * BAR,
                    place(cost.median).max(1),
                    BAR - 1,
                    cost.median
                );
            }
        }
    }
    text.push_str("</svg>\n");
    text
}

/// The length of a value's bar.
fn place(value: f64) -> usize {
    let (low, high) = DECADES;
    let share = (value.max(1.0).log10() - low) / (high - low);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "between 0 and the width"
    )]
    let place = (share.clamp(0.0, 1.0) * WIDTH as f64) as usize;
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_grow_with_the_cost() {
        assert_eq!(place(-5.0), 0);
        assert_eq!(place(10.0), 0);
        assert!(place(100.0) < place(1000.0));
        assert_eq!(place(1e9), WIDTH);
    }

    #[test]
    fn a_bar_for_each_variant_that_was_measured() {
        let text = r#"{"variant":"nothing","workload":"read","values":[1000]}
{"variant":"zc-profiler","workload":"read","values":[1800]}"#;
        let svg = svg(&Measured::parse("Linux", "instructions", text).unwrap());
        assert_eq!(svg.matches("<title>").count(), 1, "{svg}");
    }
}
