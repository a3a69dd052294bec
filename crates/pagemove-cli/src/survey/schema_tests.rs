//! The schema of `survey --json`: what the types give is what stands in `docs/survey.schema.json`.
//!
//! After a change of the types `UPDATE=1 cargo test -p pagemove-cli --lib schema` writes the file again. `tests/schema.rs` holds what the command
//! prints against it.

use std::{borrow::Cow, env, fs};

use schemars::{JsonSchema, Schema, SchemaGenerator, generate::SchemaSettings, json_schema};

use super::view::Survey;
use crate::layout::{FrameClass, census::ByClass};

/// A link to the file in `docs`, so that the packaged crate has it.
const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/survey.schema.json");

/// As it's serialized: a number for each class, by its code.
impl JsonSchema for ByClass {
    fn schema_name() -> Cow<'static, str> {
        "ByClass".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let codes = FrameClass::ALL.map(FrameClass::code);
        let count = |class: FrameClass| {
            let schema = serde_json::json!({"description": class.description(), "type": "integer", "minimum": 0});
            (class.code().to_owned(), schema)
        };
        let properties: serde_json::Map<_, _> = FrameClass::ALL.into_iter().map(count).collect();
        json_schema!({
            "description": "A count for each class of frames.",
            "type": "object",
            "properties": properties,
            "required": codes,
        })
    }
}

#[test]
fn the_file_is_what_the_types_give() {
    // Of what is written, where a field that may be null is there all the same.
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<Survey<'_>>();
    let given = serde_json::to_string_pretty(&schema).expect("serializes") + "\n";
    if env::var_os("UPDATE").is_some_and(|value| value == "1") {
        fs::write(FILE, &given).expect("writes");
    }
    let there = fs::read_to_string(FILE).expect("reads");
    // Not as text: the order of fields depends on what else of the workspace is built.
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).expect("JSON");
    let is_same = value(&given) == value(&there);
    assert!(is_same, "docs/survey.schema.json is of other types: UPDATE=1 writes it again. It should be\n{given}");
}

/// `docs/survey.md` tells what each field means, at whatever depth.
#[test]
fn the_page_for_operators_names_each_field() {
    fn properties(schema: &serde_json::Value, names: &mut Vec<String>) {
        let inner = |value| properties(value, names);
        match schema {
            serde_json::Value::Object(fields) => fields.values().for_each(inner),
            serde_json::Value::Array(all) => all.iter().for_each(inner),
            _ => {}
        }
        names.extend(schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()));
    }
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/survey.md")).expect("reads");
    let mut names = Vec::new();
    properties(&serde_json::from_str(&fs::read_to_string(FILE).expect("reads")).expect("JSON"), &mut names);
    assert!(names.len() > 40, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/survey.md doesn't name {missing:?}");
}
