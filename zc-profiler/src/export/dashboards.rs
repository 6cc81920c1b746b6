//! The dashboards of `deploy/grafana`, held against Grafana's schema and the families that exist.
//!
//! The schema is that of Grafana's dashboard kind v1 (`dashboard_kind.cue` in its repository) at version
//! 42 of `schemaVersion`, the last that it will have: what these structures take, it takes. They know no
//! other fields, so a misspelt one is found.

use std::{collections::HashSet, fs, path::Path};

use serde::Deserialize;
use serde_json::Value;

use super::prometheus::FAMILIES;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Dashboard {
    uid: String,
    title: String,
    description: String,
    tags: Vec<String>,
    schema_version: u16,
    #[serde(rename = "version")]
    _version: u32,
    #[serde(rename = "editable")]
    _editable: bool,
    graph_tooltip: u8,
    #[serde(rename = "timezone")]
    _timezone: String,
    #[serde(rename = "refresh")]
    _refresh: String,
    #[serde(rename = "time")]
    _time: Time,
    fiscal_year_start_month: u8,
    #[serde(rename = "timepicker")]
    _timepicker: Empty,
    annotations: List<Empty>,
    links: Vec<Link>,
    templating: List<Variable>,
    panels: Vec<Panel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Empty {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Time {
    #[serde(rename = "from")]
    _from: String,
    #[serde(rename = "to")]
    _to: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List<T> {
    list: Vec<T>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[expect(
    dead_code,
    clippy::struct_excessive_bools,
    reason = "the schema asks for all of them"
)]
struct Link {
    title: String,
    #[serde(rename = "type")]
    kind: LinkKind,
    icon: String,
    tooltip: String,
    url: String,
    tags: Vec<String>,
    as_dropdown: bool,
    target_blank: bool,
    include_vars: bool,
    keep_time: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum LinkKind {
    Link,
    Dashboards,
}

#[derive(Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct DataSource {
    #[serde(rename = "type")]
    kind: String,
    uid: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Variable {
    name: String,
    #[serde(rename = "label")]
    _label: String,
    #[serde(rename = "type")]
    kind: VariableKind,
    query: Value,
    datasource: Option<DataSource>,
    definition: Option<String>,
    refresh: u8,
    sort: Option<u8>,
    hide: u8,
    #[serde(rename = "skipUrlSync")]
    _skip_url_sync: bool,
    multi: bool,
    include_all: bool,
    all_value: Option<String>,
    #[serde(rename = "regex")]
    _regex: String,
    #[serde(rename = "options")]
    _options: Vec<Empty>,
    #[serde(rename = "current")]
    _current: Value,
}

#[derive(Deserialize, PartialEq)]
#[serde(rename_all = "lowercase")]
enum VariableKind {
    Query,
    Datasource,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Panel {
    Row(Row),
    Stat(Chart),
    Timeseries(Chart),
    Table(Chart),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Row {
    id: u32,
    title: String,
    collapsed: bool,
    grid_pos: GridPos,
    panels: Vec<Empty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Chart {
    id: u32,
    title: String,
    #[serde(rename = "description")]
    _description: Option<String>,
    grid_pos: GridPos,
    datasource: DataSource,
    targets: Vec<Target>,
    field_config: FieldConfig,
    options: Value,
    #[serde(default)]
    transformations: Vec<Transformation>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GridPos {
    h: u32,
    w: u32,
    x: u32,
    y: u32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Target {
    ref_id: String,
    datasource: DataSource,
    expr: String,
    #[serde(rename = "legendFormat")]
    _legend_format: Option<String>,
    instant: Option<bool>,
    range: Option<bool>,
    format: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FieldConfig {
    defaults: Defaults,
    overrides: Vec<Empty>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Defaults {
    unit: String,
    #[serde(rename = "min")]
    _min: Option<f64>,
    #[serde(rename = "max")]
    _max: Option<f64>,
    decimals: Option<f64>,
    #[serde(rename = "custom")]
    _custom: Option<Value>,
    #[serde(default)]
    mappings: Vec<Mapping>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    #[serde(rename = "type")]
    kind: String,
    options: std::collections::BTreeMap<String, Shown>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shown {
    text: String,
    #[serde(rename = "color")]
    _color: String,
    #[serde(rename = "index")]
    _index: i32,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Transformation {
    id: String,
    #[serde(rename = "options")]
    _options: Value,
}

/// Units that Grafana knows, of those that fit.
const UNITS: [&str; 6] = ["Bps", "bytes", "none", "ops", "percentunit", "s"];

/// Families besides those of processes.
const OWN: [&str; 9] = [
    "zc_probe_attached",
    "zc_probe_runs_total",
    "zc_probe_seconds_total",
    "zc_calibration_ok",
    "zc_dropped_total",
    "zc_exported_series",
    "zc_processes",
    "zc_groups",
    "zc_scrape_seconds",
];

fn read(name: &str) -> Dashboard {
    let file = format!("deploy/grafana/{name}.json");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
    let text = fs::read_to_string(path).expect(name);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{file}: {error}"))
}

#[test]
fn dashboards_follow_grafana_s_schema() {
    let mut uids = HashSet::new();
    for name in ["overview", "service", "agent"] {
        let board = read(name);
        assert_eq!(board.schema_version, 42, "{name}");
        assert!((8..=40).contains(&board.uid.len()) && uids.insert(board.uid.clone()));
        assert!(!board.title.is_empty() && !board.description.is_empty());
        assert!(board.graph_tooltip < 3 && board.fiscal_year_start_month < 12);
        assert!(board.annotations.list.is_empty());
        let tagged = board.links.iter().all(|link| link.tags == board.tags);
        assert!(tagged, "each leads to the others");
        variables(&board);
        panels(&board);
    }
}

fn variables(board: &Dashboard) {
    for variable in &board.templating.list {
        assert!(variable.hide < 3 && variable.refresh < 3);
        match variable.kind {
            VariableKind::Datasource => assert_eq!(variable.query, "prometheus"),
            VariableKind::Query => {
                assert!(by_variable(variable.datasource.as_ref()));
                assert!(variable.sort.is_some_and(|sort| sort < 9));
                let query = variable.query["query"].as_str();
                assert_eq!(query, variable.definition.as_deref());
                assert!(variable.multi && variable.include_all);
                assert_eq!(variable.all_value.as_deref(), Some(".*"));
            }
        }
    }
}

fn by_variable(source: Option<&DataSource>) -> bool {
    source.is_some_and(|source| source.kind == "prometheus" && source.uid == "${datasource}")
}

fn panels(board: &Dashboard) {
    let (mut ids, mut places) = (HashSet::new(), HashSet::new());
    for panel in &board.panels {
        let (id, title, place) = match panel {
            Panel::Row(row) => {
                assert!(!row.collapsed && row.panels.is_empty());
                (row.id, &row.title, &row.grid_pos)
            }
            Panel::Stat(chart) | Panel::Timeseries(chart) | Panel::Table(chart) => {
                check_chart(board, chart);
                (chart.id, &chart.title, &chart.grid_pos)
            }
        };
        assert!(ids.insert(id), "{title}: its number is another's");
        assert!(
            place.h > 0 && place.w > 0 && place.x + place.w <= 24,
            "{title}"
        );
        for x in place.x..place.x + place.w {
            for y in place.y..place.y + place.h {
                assert!(places.insert((x, y)), "{title} lies on another panel");
            }
        }
    }
}

fn check_chart(board: &Dashboard, chart: &Chart) {
    let title = &chart.title;
    assert!(by_variable(Some(&chart.datasource)), "{title}");
    assert!(
        UNITS.contains(&&*chart.field_config.defaults.unit),
        "{title}"
    );
    assert!(chart.options.is_object() && chart.field_config.overrides.is_empty());
    assert!(
        chart
            .field_config
            .defaults
            .decimals
            .is_none_or(|digits| digits < 5.0)
    );
    for mapping in &chart.field_config.defaults.mappings {
        assert_eq!(mapping.kind, "value");
        assert!(mapping.options.values().all(|shown| !shown.text.is_empty()));
    }
    let organized = chart.transformations.iter().all(|one| one.id == "organize");
    assert!(organized, "{title}");
    assert!(!chart.targets.is_empty(), "{title}");
    let mut references = HashSet::new();
    for target in &chart.targets {
        assert!(by_variable(Some(&target.datasource)) && references.insert(&target.ref_id));
        assert_eq!(
            target.instant.is_some(),
            target.range == Some(false),
            "{title}"
        );
        assert!(
            target
                .format
                .as_deref()
                .is_none_or(|format| format == "table")
        );
        check_query(board, &target.expr);
    }
}

/// It names families and variables that exist.
fn check_query(board: &Dashboard, query: &str) {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_';
    for word in query.split(|letter| !is_word(letter)) {
        let of_processes = FAMILIES.iter().any(|family| family.name == word);
        let known = of_processes || OWN.contains(&word) || word == "zc_build_info";
        assert!(!word.starts_with("zc_") || known, "{word} in {query}");
    }
    for rest in query.split('$').skip(1) {
        let word = rest
            .split(|letter| !is_word(letter))
            .next()
            .unwrap_or_default();
        let defined = board
            .templating
            .list
            .iter()
            .any(|variable| variable.name == word);
        assert!(defined || word == "__rate_interval", "${word} in {query}");
    }
}
