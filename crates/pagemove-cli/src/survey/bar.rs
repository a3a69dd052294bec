//! A progress bar for what takes longer than a moment.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that is gone at once says nothing.
const QUIET: Duration = Duration::from_secs(1);

/// Does something behind a progress bar.
pub(super) fn behind_a_bar<R>(what: &'static str, work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> R) -> R {
    let (start, mut bar) = (Instant::now(), None::<ProgressBar>);
    let result = work(&mut |done, total| {
        if start.elapsed() < QUIET {
            return;
        }
        let bar = bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent} %");
            let bar = ProgressBar::new(total).with_message(what);
            // The template is a constant; the plain bar would do as well.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        bar.set_position(done);
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    result
}
