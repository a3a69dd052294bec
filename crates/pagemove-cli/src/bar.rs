//! A progress bar on stderr, for what takes longer than a moment.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// A bar that is gone at once says nothing.
const QUIET: Duration = Duration::from_secs(1);

/// The bar: it appears once the work has taken a while, and goes when dropped.
pub(crate) struct Bar {
    message: &'static str,
    start: Instant,
    shown: Option<ProgressBar>,
}

impl Bar {
    /// Makes one that isn't there yet.
    pub(crate) fn new(message: &'static str) -> Self {
        Self { message, start: Instant::now(), shown: None }
    }

    /// Shows how much is done, and of how much.
    pub(crate) fn show(&mut self, done: u64, total: u64) {
        if self.start.elapsed() < QUIET {
            return;
        }
        let bar = self.shown.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg} {wide_bar} {percent} %");
            let bar = ProgressBar::new(total).with_message(self.message);
            // The template is a constant; the plain bar would do as well.
            if let Ok(style) = style { bar.with_style(style) } else { bar }
        });
        // Several steps may follow one another, each with its own total.
        bar.set_length(total);
        bar.set_position(done);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if let Some(bar) = &self.shown {
            bar.finish_and_clear();
        }
    }
}

/// Does something behind a bar.
pub(crate) fn behind_a_bar<R>(message: &'static str, work: impl FnOnce(&mut dyn FnMut(u64, u64)) -> R) -> R {
    let mut bar = Bar::new(message);
    work(&mut |done, total| bar.show(done, total))
}
