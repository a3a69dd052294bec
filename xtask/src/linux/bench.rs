//! The bench: what a driver's pages cost in a guest, beside the kernel's ordinary pages in the same boot.
//!
//! Takes a kernel with its module; gives ratios, each with what was asked for. Promises medians: of the rounds within a
//! boot, then of the boots, with the lowest and the highest boot beside. Judges nothing: a loaded machine is no fault of
//! the driver's.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::ready::Ready;

const MEMORY_MIB: u32 = 512;
/// Pages in a round: so many that the clock's own cost is lost in theirs.
const PAGES: usize = 2000;
const ROUNDS: usize = 24;
const LIMIT: Duration = Duration::from_secs(600);

/// What the guest calls a row, what a person does, and the most that was asked for.
const ROWS: &[(&str, &str, f64)] = &[
    ("move", "move_pages, beside anonymous pages", 1.2),
    ("fault-store", "first fault by a store, beside a memfd", 1.2),
    ("fault-load", "first fault by a load, beside a memfd", 1.2),
    ("load-present", "loads of present pages, beside a memfd", 1.2),
];

/// One boot's medians of a row, in nanoseconds per page.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Boot {
    driver: f64,
    beside: f64,
    /// The median of the rounds' own ratios: what slows the machine down slows both sides of a round.
    ratio: f64,
}

/// What was measured on one kernel.
pub(super) struct Measured {
    kernel: String,
    /// As in [`ROWS`].
    rows: Vec<Vec<Boot>>,
}

/// Boots a kernel so many times.
pub(super) fn run(ready: &Ready<'_>, boots: usize) -> Result<Measured> {
    let mut measured = Measured { kernel: String::new(), rows: vec![Vec::new(); ROWS.len()] };
    for boot in 1..=boots {
        eprintln!("linux: booting {} ({boot} of {boots})", ready.kernel.version);
        let orders = format!("bench,{PAGES},{ROUNDS}");
        let guest = ready.guest(&orders, MEMORY_MIB, LIMIT);
        let mut faults = Vec::new();
        guest.run(|told| measured.hear(told, &mut faults))?;
        if !faults.is_empty() {
            bail!("in the guest: {}", faults.join("; "));
        }
        if let Some(at) = measured.rows.iter().position(|boots| boots.len() != boot) {
            bail!("the guest has told nothing of \"{}\"", ROWS[at].1);
        }
    }
    Ok(measured)
}

impl Measured {
    fn hear(&mut self, told: &Value, faults: &mut Vec<String>) {
        if let Some(release) = told["kernel"].as_str() {
            self.kernel = release.to_owned();
        }
        if told["ok"].as_bool() == Some(false) {
            faults.push(told["why"].as_str().unwrap_or_default().to_owned());
        }
        let row = ROWS.iter().position(|&(name, ..)| told["bench"].as_str() == Some(name));
        let times =
            |side: &str| told[side].as_array().into_iter().flatten().filter_map(Value::as_f64).collect::<Vec<_>>();
        if let Some(row) = row
            && let (drivers, besides) = (times("driver"), times("beside"))
            && let Some(ratio) = median(drivers.iter().zip(&besides).map(|(driver, beside)| driver / beside).collect())
            && let (Some(driver), Some(beside)) = (median(drivers), median(besides))
        {
            self.rows[row].push(Boot { driver, beside, ratio });
        }
    }

    /// What a person sees.
    pub(super) fn screen(&self) -> String {
        let boots = self.rows.first().map_or(0, Vec::len);
        let mut text = format!(
            "\nLinux {}, as Debian ships it, in QEMU without KVM; one thread; microseconds per page.\n\
             Medians of {boots} boots of {ROUNDS} rounds of {PAGES} pages; lowest and highest ratio of a boot.\n\n\
             {:42}{:>8}{:>8}{:>8}{:>8}{:>9}{:>7}\n",
            self.kernel, "", "driver", "beside", "ratio", "lowest", "highest", "asked"
        );
        for ((_, words, asked), boots) in ROWS.iter().zip(&self.rows) {
            let sum = Summary::of(boots);
            text += &format!(
                "{words:42}{:8.2}{:8.2}{:8.2}{:8.2}{:9.2}{asked:7.2}\n",
                sum.driver / 1000.0,
                sum.beside / 1000.0,
                sum.ratio,
                sum.lowest,
                sum.highest
            );
        }
        text
    }

    /// The same for programs.
    pub(super) fn to_json(&self) -> Value {
        let rows: Vec<Value> = ROWS
            .iter()
            .zip(&self.rows)
            .map(|(&(name, _, asked), boots)| {
                let sum = Summary::of(boots);
                json!({
                    "what": name, "driver_ns": sum.driver.round(), "beside_ns": sum.beside.round(), "ratio": sum.ratio,
                    "ratio_lowest": sum.lowest, "ratio_highest": sum.highest, "ratio_asked": asked, "boots": boots.len(),
                })
            })
            .collect();
        json!({"kernel": self.kernel, "pages": PAGES, "rounds": ROUNDS, "rows": rows})
    }
}

/// A row over all boots.
struct Summary {
    driver: f64,
    beside: f64,
    ratio: f64,
    lowest: f64,
    highest: f64,
}

impl Summary {
    fn of(boots: &[Boot]) -> Self {
        let over = |of: fn(&Boot) -> f64| boots.iter().map(of).collect::<Vec<f64>>();
        let ratios = over(|boot| boot.ratio);
        Self {
            driver: median(over(|boot| boot.driver)).unwrap_or(f64::NAN),
            beside: median(over(|boot| boot.beside)).unwrap_or(f64::NAN),
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(0.0, f64::max),
            ratio: median(ratios).unwrap_or(f64::NAN),
        }
    }
}

/// The middle one, or the mean of the two in the middle.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some(f64::midpoint(values[low], values[high]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_slow_rounds_and_boots_do_not_show() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![9.0, 1.0, 2.0, 4.0]), Some(3.0));

        let mut measured = Measured { kernel: String::new(), rows: vec![Vec::new(); ROWS.len()] };
        for slow in [1, 1, 7] {
            for (name, ..) in ROWS {
                let told = json!({"bench": name, "driver": [30 * slow, 30 * slow, 9999, 30 * slow], "beside": [20, 20, 20, 20]});
                measured.hear(&told, &mut Vec::new());
            }
        }
        let sum = Summary::of(&measured.rows[0]);
        assert_eq!((sum.driver, sum.beside, sum.ratio, sum.lowest, sum.highest), (30.0, 20.0, 1.5, 1.5, 10.5));
        assert_eq!(measured.to_json()["rows"][2]["ratio"], 1.5);
        assert!(measured.screen().lines().last().is_some_and(|line| line.contains("1.50") && line.contains("1.20")));
    }

    #[test]
    fn what_went_wrong_in_the_guest_is_heard() {
        let mut measured = Measured { kernel: String::new(), rows: vec![Vec::new(); ROWS.len()] };
        let mut faults = Vec::new();
        measured.hear(&json!({"test": "guest", "ok": false, "why": "3 of 4 pages arrived"}), &mut faults);
        measured.hear(&json!({"bench": "move", "driver": [], "beside": []}), &mut faults);
        assert_eq!(faults, ["3 of 4 pages arrived"]);
        assert!(measured.rows[0].is_empty(), "no times are no row");
    }
}
