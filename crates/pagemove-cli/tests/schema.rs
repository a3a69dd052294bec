//! What `pagemove survey --json` prints is as `docs/survey.schema.json` says, and no field is in it that the schema doesn't have.

use std::{fs, process::Command};

use jsonschema::Validator;
use serde_json::{Value, json};

/// What is wrong, and a change that makes it so.
type Break = (&'static str, fn(&mut Value));

/// Reads the schema, and forbids fields that it doesn't name: readers must bear new ones, but here one was forgotten.
fn strict() -> Validator {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/survey.schema.json");
    let mut schema: Value = serde_json::from_str(&fs::read_to_string(path).expect("reads")).expect("is JSON");
    forbid_others(&mut schema);
    jsonschema::validator_for(&schema).expect("a schema")
}

fn forbid_others(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(forbid_others);
            if fields.get("type") == Some(&json!("object")) && fields.contains_key("properties") {
                fields.insert("additionalProperties".into(), false.into());
            }
        }
        Value::Array(all) => all.iter_mut().for_each(forbid_others),
        _ => {}
    }
}

fn survey(layout: &str) -> Option<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pagemove"));
    let output = command.args(["survey", "--layout", layout, "--json"]).output().expect("starts");
    output.status.success().then(|| String::from_utf8(output.stdout).expect("UTF-8"))
}

fn faults(schema: &Validator, survey: &Value) -> Vec<String> {
    schema.iter_errors(survey).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

#[test]
fn what_it_prints_is_as_the_schema_says() {
    let schema = strict();
    let sample = survey("sample").expect("ships");
    // Without root there is none of this machine.
    for text in [Some(sample), survey("live")].into_iter().flatten() {
        assert!(text.starts_with("{\n  \"format\": \"pagemove-survey\",\n  \"version\": 1,\n"), "{text}");
        assert_eq!(text.matches("\n  \"frame_bytes\":").count(), 1, "a field twice is no JSON for many");
        let found = serde_json::from_str(&text).expect("JSON");
        assert_eq!(faults(&schema, &found), [""; 0]);
    }
}

#[test]
fn what_is_otherwise_is_refused() {
    let schema = strict();
    let sample: Value = serde_json::from_str(&survey("sample").expect("ships")).expect("JSON");
    let breaks: [Break; 7] = [
        ("another format", |all| all["format"] = "pagemove-layout".into()),
        ("another version", |all| all["version"] = 2.into()),
        ("a field of the wrong type", |all| all["total"]["blocks"]["free"] = "many".into()),
        ("a negative count", |all| all["owners"][0]["alone"] = (-1).into()),
        ("a field that nobody knows", |all| all["zones"][0]["colour"] = 1.into()),
        ("a class that nobody knows", |all| all["total"]["frames"]["plaid"] = 1.into()),
        ("a field less", |all| drop(all["total"]["frames"].as_object_mut().and_then(|classes| classes.remove("slab")))),
    ];
    for (what, change) in breaks {
        let mut broken = sample.clone();
        change(&mut broken);
        assert_eq!(faults(&schema, &broken).len(), 1, "{what}: {:?}", faults(&schema, &broken));
    }
}
