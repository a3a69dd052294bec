//! The engine's last events, as a failure tells them.

use pagemove::{Engine, report::Event};

/// Events told after a failure.
const EVENTS: usize = 24;

/// Gives a line for each of the last events, oldest first.
pub(crate) fn last(engine: &Engine) -> String {
    let mut lines = Vec::new();
    engine.physical().events().for_each(|event| {
        lines.push(match event {
            Event::Moved { from, to } => format!("  frame {from} moved to {to}\n"),
            Event::Stayed { pfn, reason } => format!("  frame {pfn} stayed: {reason}\n"),
        });
    });
    lines.split_off(lines.len().saturating_sub(EVENTS)).concat()
}
