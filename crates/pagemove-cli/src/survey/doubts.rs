//! What a survey can't see, said so that nobody takes it for more than it is.

use super::view::View;
use crate::{
    layout::{FrameClass, capture::FreeCheck, tables::mib},
    numbers::thousands,
    owners::{pinners::Pinner, sums},
};

/// Processes that are named; `--json` has all.
const MOST_PINNERS: usize = 8;

/// Gives a paragraph for each doubt, in lines that fit on a screen.
pub(super) fn doubts(view: &View<'_>) -> Vec<String> {
    let mut doubts = Vec::new();
    let kernels = view.census.total.frames.of(FrameClass::Kernel);
    if let Some(per_cpu) = view.check.map(|check| check.per_cpu).filter(|&per_cpu| per_cpu > kernels / 20) {
        let advice = if view.is_settled { "" } else { " With --settle (a sysctl, set back) they count as free." };
        doubts.push(format!(
            "As many as {} of the kernel's {} frames may be free ones on per-CPU lists, which look like its own and hold\nblocks hostage \
             here.{advice}",
            thousands(per_cpu.min(kernels)),
            thousands(kernels),
        ));
    }
    let per_cpu = view.check.map_or(0, |check| check.per_cpu);
    let frame_bytes = view.census.frame_bytes;
    let unexplained = sums::unexplained(&view.sums, kernels, per_cpu, frame_bytes);
    // Below that, counts that are read a moment apart make as much.
    if !view.sums.is_empty() && unexplained * 20 > kernels {
        doubts.push(format!(
            "{} MiB of the kernel's frames are in none of its counts: buffers of pipes, pages that drivers keep to themselves.",
            mib(unexplained, frame_bytes),
        ));
    }
    if let Some(pins) = view.pins.filter(|&pins| pins > 0) {
        doubts.push(format!(
            "Up to {} pages are pinned (nr_foll_pin_acquired less released): which, a capture doesn't show. A block with one of\n\
             them can't be emptied; at most as many of those that \"could be emptied\" can't.",
            thousands(pins),
        ));
    } else if view.pins.is_none() {
        doubts.push("Pinned pages look like others here: blocks that \"could be emptied\" may hold some.".to_owned());
    }
    if !view.pinners.is_empty() {
        doubts.push(format!("Processes that may have memory pinned: {}.", pinners(&view.pinners)));
    }
    if view.lacks_page_owner {
        doubts.push(
            "Who allocated the kernel's own frames isn't known here: a kernel with CONFIG_PAGE_OWNER, booted with page_owner=on, tells\n\
             (debugfs)."
                .to_owned(),
        );
    }
    if let Some(unreadable) =
        view.names.allocated.as_ref().map(|allocated| allocated.unreadable).filter(|&count| count > 0)
    {
        doubts.push(format!("{} records of page_owner couldn't be read.", thousands(unreadable)));
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
    if let Some(FreeCheck { captured, zoneinfo, .. }) = view.check {
        let percent = captured.abs_diff(zoneinfo) as f64 * 100.0 / zoneinfo.max(1) as f64;
        doubts.push(format!(
            "Check: {} frames are free here, Linux counts {} ({percent:.2} % apart).",
            thousands(captured),
            thousands(zoneinfo),
        ));
    }
    doubts
}

/// Names processes, and what each may have pinned.
fn pinners(all: &[Pinner]) -> String {
    let one = |pinner: &Pinner| {
        let mut has = Vec::new();
        if pinner.pinned_bytes > 0 {
            has.push(format!("VmPin {} KiB", thousands(pinner.pinned_bytes >> 10)));
        }
        if pinner.io_uring_bytes > 0 {
            has.push(format!("io_uring's buffers {} KiB", thousands(pinner.io_uring_bytes >> 10)));
        }
        has.extend(pinner.devices.iter().cloned());
        format!("{} ({}): {}", pinner.process, pinner.pid, has.join(", "))
    };
    let mut named: Vec<String> = all.iter().take(MOST_PINNERS).map(one).collect();
    if all.len() > MOST_PINNERS {
        named.push(format!("{} more (--json)", all.len() - MOST_PINNERS));
    }
    named.join(";\n  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_may_pin_are_named() {
        let one = |pid| Pinner {
            process: "qemu".into(),
            pid,
            pinned_bytes: 5 << 20,
            io_uring_bytes: 4096,
            devices: vec!["/dev/vfio/7".into()],
        };
        let text = pinners(&(0..9).map(one).collect::<Vec<_>>());
        assert!(
            text.starts_with("qemu (0): VmPin 5,120 KiB, io_uring's buffers 4 KiB, /dev/vfio/7;\n  qemu (1)"),
            "{text}"
        );
        assert!(text.ends_with(";\n  1 more (--json)"), "{text}");
    }
}
