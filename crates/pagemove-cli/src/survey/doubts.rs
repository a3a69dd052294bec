//! What a survey can't see, said so that nobody takes it for more than it is.

use super::view::View;
use crate::{layout::capture::FreeCheck, numbers::thousands};

/// Gives a paragraph for each doubt, in lines that fit on a screen.
pub(super) fn doubts(view: &View<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    if let Some(pins) = view.pins.filter(|&pins| pins > 0) {
        doubts.push(format!(
            "Up to {} pages are pinned (nr_foll_pin_acquired less released): which, a capture doesn't show. A block with one of\n\
             them can't be emptied; at most as many of those that \"could be emptied\" can't.",
            thousands(pins),
        ));
    } else if view.pins.is_none() {
        doubts.push("Pinned pages look like others here: blocks that \"could be emptied\" may hold some.".to_owned());
    }
    if view.is_blind {
        doubts.push(
            "The kernel shows this user no frames of processes (it takes CAP_SYS_ADMIN): what processes map has no name here."
                .to_owned(),
        );
    }
    if view.unread > 0 {
        doubts.push(format!(
            "{} of the processes ended or couldn't be read; what only they map has no name.",
            thousands(view.unread)
        ));
    }
    if let Some(FreeCheck { captured, zoneinfo, per_cpu }) = view.check {
        let percent = captured.abs_diff(zoneinfo) as f64 * 100.0 / zoneinfo.max(1) as f64;
        doubts.push(format!(
            "Check: {} frames are free here, Linux counts {} ({percent:.2} % apart).\nOf the kernel's frames, {} may be free \
             as well, on per-CPU lists{}",
            thousands(captured),
            thousands(zoneinfo),
            thousands(per_cpu),
            if per_cpu > captured / 1000 { "; --settle trims these." } else { "." },
        ));
    }
    doubts
}
