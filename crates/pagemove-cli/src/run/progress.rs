//! Progress on stderr: one bar that says what is being done. Nothing if stderr is no terminal, or on request.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::message;

/// Steps of a full bar.
const FULL: u64 = 1000;

/// The bar.
pub(crate) struct Progress(ProgressBar, Quiet);

/// Nothing is to be told.
type Quiet = bool;

impl Progress {
    /// Makes the bar.
    pub(crate) fn new(quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(FULL), target);
        // The template is a constant; the plain bar would do as well.
        let style = ProgressStyle::with_template("{prefix:>24} {bar:30} {percent:>3} % {msg}");
        Self(if let Ok(style) = style { bar.with_style(style) } else { bar }, quiet)
    }

    /// Names what is under way from now on.
    pub(crate) fn subject(&self, subject: String) {
        self.0.set_prefix(subject);
    }

    /// Begins a stage.
    pub(crate) fn stage(&self, stage: &'static str) {
        self.0.set_message(stage);
        self.0.set_position(0);
    }

    /// Tells how much of the stage is done, from 0 to 1.
    pub(crate) fn part(&self, part: f64) {
        self.0.set_position((part.clamp(0.0, 1.0) * FULL as f64) as u64);
    }

    /// Tells how it goes: beside the bar, or as a line of its own where there is no bar to see.
    pub(crate) fn tell(&self, line: String) {
        if self.0.is_hidden() && !self.1 {
            message::say(&line);
        }
        self.0.set_message(line);
    }

    /// Prints a line of its own; the bar stays below it.
    pub(crate) fn say(&self, line: &str) {
        self.0.suspend(|| message::say(line));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
