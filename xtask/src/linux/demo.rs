//! The demonstration: the same worn memory compacted twice, with a driver's pages movable and not.
//!
//! Takes a kernel with its module; gives one screen, or JSON. Promises that both guests get the same pages and the same
//! random numbers, and an error if a write was lost, a pinned page moved, or nothing was gained.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::ready::Ready;

const MEMORY_MIB: u32 = 512;
/// Pages of the driver: 312 MiB.
const PAGES: u64 = 80_000;
/// Many times what it takes on a machine that has nothing else to do.
const LIMIT: Duration = Duration::from_secs(900);

/// What `--json` tells of each guest.
const FIELDS: [&str; 6] =
    ["moved", "pinned_moved", "lost_writes", "bad_words", "free_order9_before", "free_order9_after"];

/// Runs both guests, and shows them.
pub(super) fn run(ready: &Ready<'_>, as_json: bool) -> Result<()> {
    let (mut kernel, mut outcomes) = (String::new(), Vec::new());
    for kind in ["movable", "unmovable"] {
        eprintln!("linux: booting {} with the driver's pages {kind}", ready.kernel.version);
        let orders = format!("demo,{PAGES},1,{kind}");
        let guest = ready.guest(&orders, MEMORY_MIB, LIMIT);
        let (mut outcome, mut faults) = (None, Vec::new());
        guest.run(|told| {
            if let Some(release) = told["kernel"].as_str() {
                kernel = release.to_owned();
            }
            if told.get("outcome").is_some() {
                outcome = Some(told["outcome"].clone());
            }
            if told["ok"].as_bool() == Some(false) {
                faults.push(told["why"].as_str().unwrap_or_default().to_owned());
            }
        })?;
        if !faults.is_empty() {
            bail!("in the guest: {}", faults.join("; "));
        }
        outcomes.push(outcome.context("the guest has told of no outcome")?);
    }
    let (movable, unmovable) = (&outcomes[0], &outcomes[1]);
    if as_json {
        println!("{}", to_json(&kernel, movable, unmovable));
    } else {
        print!("{}", screen(&kernel, movable, unmovable));
    }
    judge(movable, unmovable)
}

fn number(outcome: &Value, name: &str) -> u64 {
    outcome[name].as_u64().unwrap_or(0)
}

/// What a program sees.
fn to_json(kernel: &str, movable: &Value, unmovable: &Value) -> Value {
    let told = |outcome: &Value| FIELDS.iter().map(|&field| (field.to_owned(), outcome[field].clone())).collect();
    let [movable, unmovable]: [Map<String, Value>; 2] = [told(movable), told(unmovable)];
    json!({"kernel": kernel, "movable": movable, "unmovable": unmovable})
}

/// What a person sees.
fn screen(kernel: &str, movable: &Value, unmovable: &Value) -> String {
    let mut text = format!(
        "\nLinux {kernel}, as Debian ships it, {MEMORY_MIB} MiB. A driver's pages ({PAGES} of them), mapped by processes;\n\
         a random half is freed, and memory is compacted while two threads and a child write to the rest.\n\n\
         {:44}{:>12}{:>12}\n",
        "", "movable", "unmovable"
    );
    for (name, words) in [
        ("kept", "pages in use"),
        ("moved", "of these moved, while mapped and written to"),
        ("pinned", "pages pinned"),
        ("pinned_moved", "of these moved"),
        ("writes", "words written meanwhile"),
        ("lost_writes", "writes lost"),
        ("bad_words", "words wrong"),
        ("free_order9_before", "free 2 MiB blocks before"),
        ("free_order9_after", "free 2 MiB blocks after"),
    ] {
        text += &format!("{words:44}{:>12}{:>12}\n", number(movable, name), number(unmovable, name));
    }
    text
}

fn judge(movable: &Value, unmovable: &Value) -> Result<()> {
    for name in ["pinned_moved", "lost_writes", "bad_words"] {
        for (kind, outcome) in [("movable", movable), ("unmovable", unmovable)] {
            if outcome[name].as_u64() != Some(0) {
                bail!("{kind}: {name} is {}, not 0", outcome[name]);
            }
        }
    }
    let after = |outcome| number(outcome, "free_order9_after");
    if number(movable, "moved") == 0 || after(movable) <= after(unmovable) {
        bail!("nothing is gained by movable pages");
    }
    if number(unmovable, "moved") != 0 {
        bail!("unmovable pages have moved, so there's nothing to compare with");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(moved: u64, lost: u64, after: u64) -> Value {
        json!({"moved": moved, "pinned_moved": 0, "lost_writes": lost, "bad_words": 0, "free_order9_after": after})
    }

    #[test]
    fn json_has_the_fields_that_are_promised_and_no_others() {
        let json = to_json("7.3", &json!({"moved": 5, "kept": 9, "lost_writes": 0}), &outcome(0, 0, 100));
        let sizes = ["movable", "unmovable"].map(|kind| json[kind].as_object().map(Map::len));
        assert_eq!((json["kernel"].as_str(), sizes), (Some("7.3"), [Some(6); 2]));
        assert_eq!((&json["movable"]["moved"], &json["unmovable"]["free_order9_after"]), (&json!(5), &json!(100)));
    }

    #[test]
    fn only_a_gain_without_loss_is_good() {
        let unmovable = outcome(0, 0, 100);
        judge(&outcome(5, 0, 200), &unmovable).expect("a gain");
        judge(&outcome(5, 1, 200), &unmovable).expect_err("a lost write");
        judge(&outcome(0, 0, 200), &unmovable).expect_err("nothing moved");
        judge(&outcome(5, 0, 100), &unmovable).expect_err("nothing gained");
        judge(&outcome(5, 0, 200), &outcome(1, 0, 100)).expect_err("no control");
        judge(&json!({"moved": 5, "free_order9_after": 200}), &unmovable).expect_err("nothing told of losses");
    }
}
