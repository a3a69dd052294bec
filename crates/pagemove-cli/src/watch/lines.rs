//! A capture in a few lines, for a pipe, a file, or a terminal that can't show a screen.

use super::{
    snapshot::{Holder, Snapshot},
    state::difference,
    words::{rate, signed},
};
use crate::{
    kernel::free,
    numbers::{bytes_size, seconds, thousands},
    terminal::shown,
};

/// Owners that have a line.
const OWNERS: usize = 5;

/// Writes a capture, with its change since another one if there is one.
pub(crate) fn describe(now: &Snapshot, before: Option<&Snapshot>, ascii: bool) -> String {
    let mut text = format!(
        "{}  {}, took {}\n",
        now.at.strftime("%Y-%m-%dT%H:%M:%SZ"),
        now.source,
        seconds(now.took().as_secs_f64())
    );
    match &now.blocks {
        Some(blocks) => {
            let before = before.and_then(|before| before.blocks.as_ref());
            let names = ["wholly free", "could be emptied", "hostage", "nothing to gain"];
            let part = |at: usize| {
                let count = blocks.counts()[at];
                let change = before.map(|before| difference(before.counts()[at], count));
                format!("{}{} {}", thousands(count), changed(change), names[at])
            };
            let parts: Vec<String> = (0..names.len()).map(part).collect();
            text += &format!("  blocks of {}: {}\n", bytes_size(now.block_bytes()), parts.join(", "));
        }
        None => {
            text += &format!("  {}\n", now.lacks.as_deref().unwrap_or("This capture has no frames."));
            text += &free::describe(&now.free_blocks, now.frame_bytes, ascii);
        }
    }
    for owner in now.top(OWNERS) {
        let old = |of: fn(&Holder) -> u64| {
            before.map(|before| difference(before.owner(&owner.name).map_or(0, of), of(owner)))
        };
        text += &format!(
            "  {:>9}{} alone, {}{} blocks, {} to move: {}\n",
            thousands(owner.alone),
            changed(old(|owner| owner.alone)),
            thousands(owner.blocks),
            changed(old(|owner| owner.blocks)),
            thousands(owner.to_move),
            owner.name,
        );
    }
    let counters: Vec<String> = match before {
        Some(before) => {
            let moved = now.rates(before).into_iter().filter(|(_, rate)| *rate != Some(0.0));
            moved.map(|(name, per_second)| format!("{name} {}", rate(per_second))).collect()
        }
        // Without root they are half of what there is to tell.
        None if now.blocks.is_none() => {
            now.counters.iter().map(|(name, count)| format!("{name} {}", thousands(*count))).collect()
        }
        None => Vec::new(),
    };
    for part in counters.chunks(4) {
        text += &format!("  {}\n", part.join(", "));
    }
    shown(text, ascii)
}

fn changed(change: Option<i64>) -> String {
    change.filter(|&change| change != 0).map_or(String::new(), |change| format!(" ({})", signed(change)))
}
