//! The dashboard for Grafana (`docs/grafana-dashboard.json`) asks for nothing that `survey` doesn't give.

use std::{
    collections::{BTreeSet, HashSet},
    fs,
};

use serde_json::{Value, json};

use super::{free, metrics, view::View};
use crate::{kernel::counters, layout::Layout, owners::names::Names};

/// A link to the file in `docs`, so that the packaged crate has it.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/grafana-dashboard.json");
/// The label that Prometheus itself gives.
const SCRAPED: &str = "instance";

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(FILE).expect("reads")).expect("JSON")
}

/// What a survey gives of a machine whose kernel has all counters.
fn printed() -> String {
    let sample = Layout::sample();
    let names = Names::default();
    let mut view = View::of(&sample, &names);
    let counts = counters::NAMES.map(|name| (name.to_owned(), 1)).into();
    view.counters = counters::read(&counts);
    view.pins = Some(1);
    view.free_blocks = free::parse("Node 0, zone Normal 5 4 3 2 1\n", 9);
    metrics::openmetrics(&view)
}

/// The words of an expression that are names: of metrics, labels and functions.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_')).filter(|word| !word.is_empty())
}

/// Says what is wrong with a dashboard.
fn faults(dashboard: &Value, printed: &str) -> Vec<String> {
    let metrics: HashSet<&str> = printed
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split(['{', ' ']).next())
        .collect();
    let mut faults = Vec::new();
    let mut ids = BTreeSet::new();
    let panels = dashboard["panels"].as_array().map(Vec::as_slice).unwrap_or_default();
    for panel in panels {
        let title = panel["title"].as_str().unwrap_or_default();
        let mut fault = |what: &str| faults.push(format!("{title:?}: {what}"));
        if title.is_empty() {
            fault("no title");
        }
        if panel["fieldConfig"]["defaults"]["unit"].as_str().is_none_or(str::is_empty) {
            fault("no unit");
        }
        if !ids.insert(panel["id"].as_u64()) {
            fault("its id is another one's");
        }
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        if targets.is_empty() {
            fault("asks for nothing");
        }
        for target in targets {
            let expression = target["expr"].as_str().unwrap_or_default();
            let asked: Vec<&str> = words(expression).filter(|word| word.contains("pagemove")).collect();
            if asked.is_empty() {
                fault(&format!("{expression:?} asks for no metric of ours"));
            }
            for metric in asked.iter().filter(|metric| !metrics.contains(*metric)) {
                fault(&format!("there is no {metric}"));
            }
            // All that is asked for is of the machines that were chosen.
            if expression.matches("{instance=~\"$instance\"}").count() != asked.len() {
                fault(&format!("{expression:?} goes by other machines as well"));
            }
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            for label in legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()) {
                let of_metric = |line: &str| asked.iter().any(|metric| line.starts_with(&format!("{metric}{{")));
                let has = |line: &str| of_metric(line) && line.contains(&format!("{label}=\""));
                if label != SCRAPED && !printed.lines().any(has) {
                    fault(&format!("its metrics have no label {label}"));
                }
            }
            for source in [&panel["datasource"], &target["datasource"]] {
                if source["uid"] != "${datasource}" {
                    fault("its data source is somebody's own");
                }
            }
        }
    }
    let variables: Vec<&Value> = dashboard["templating"]["list"].as_array().into_iter().flatten().collect();
    for name in ["datasource", "instance"] {
        if !variables.iter().any(|variable| variable["name"] == name) {
            faults.push(format!("there is no variable {name}"));
        }
    }
    faults
}

#[test]
fn it_asks_for_what_a_survey_gives() {
    let dashboard = dashboard();
    assert_eq!(faults(&dashboard, &printed()), [""; 0]);
    let panels = dashboard["panels"].as_array().map_or(0, Vec::len);
    assert!(panels >= 5, "only {panels} panels");
    // Of Grafana 10.
    assert_eq!(dashboard["schemaVersion"], 39);
}

#[test]
fn a_dashboard_that_asks_for_more_is_refused() {
    let printed = printed();
    let breaks: [(&str, &str, Value, &str); 8] = [
        ("/panels/0/title", "", json!(""), "no title"),
        ("/panels/0/fieldConfig/defaults/unit", "", json!(null), "no unit"),
        ("/panels/1/id", "", json!(1), "another one's"),
        ("/panels/0/targets", "", json!([]), "asks for nothing"),
        ("/panels/4/targets/0/expr", "_success", json!("_luck"), "there is no pagemove_vmstat_compact_luck"),
        ("/panels/0/targets/0/expr", "{instance=~\"$instance\"}", json!(""), "other machines"),
        ("/panels/0/targets/0/legendFormat", "state", json!("mood"), "no label mood"),
        ("/templating/list/1/name", "", json!("host"), "no variable instance"),
    ];
    for (place, part, value, expected) in breaks {
        let mut broken = dashboard();
        let field = broken.pointer_mut(place).unwrap_or_else(|| panic!("there is no {place}"));
        *field = match (field.as_str(), value.as_str()) {
            (Some(text), Some(new)) if !part.is_empty() => text.replace(part, new).into(),
            _ => value,
        };
        let found = faults(&broken, &printed);
        assert!(found.len() == 1 && found[0].contains(expected), "{place}: {found:?}");
    }
}

/// `docs/survey.md` tells what each metric means.
#[test]
fn the_page_for_operators_names_each_metric() {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/survey.md")).expect("reads");
    let printed = printed();
    let names: BTreeSet<&str> =
        printed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() > 15, "{names:?}");
    for name in names {
        let told = name.strip_prefix("pagemove_vmstat_").unwrap_or(name);
        assert!(page.contains(&format!("`{told}`")), "docs/survey.md doesn't name {name}");
    }
}
