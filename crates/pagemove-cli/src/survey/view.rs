//! What there is to tell of a layout, for a person or a program.

use serde::Serialize;

use crate::{
    kernel::free::FreeBlocks,
    layout::{
        FrameClass, Layout, Sizes,
        capture::FreeCheck,
        census::{Census, Verdict},
        picture::Picture,
    },
    owners::{Holding, holdings, mapped::Mapped, sums::Sum},
};

/// What `--json` prints.
#[derive(Serialize)]
pub(super) struct Survey<'a> {
    source: &'a str,
    frame_bytes: u64,
    pageblock_order: u8,
    frames: u64,
    free_check: Option<FreeCheck>,
    #[serde(flatten)]
    census: &'a Census,
    owners: &'a [Holding],
    free_blocks: &'a [FreeBlocks],
    kernel: &'a [Sum],
    /// At most so many pages.
    pinned: Option<u64>,
    /// Processes that couldn't be read.
    unread_processes: u64,
    /// The kernel shows no frames of processes.
    is_blind: bool,
}

/// What there is to tell of a layout.
pub(super) struct View<'l> {
    pub(super) layout: &'l Layout,
    pub(super) mapped: &'l Mapped,
    pub(super) census: Census,
    pub(super) picture: Picture,
    pub(super) held: Held,
    pub(super) holdings: Vec<Holding>,
    pub(super) unread: u64,
    pub(super) is_blind: bool,
    // Of this machine, as it is now.
    pub(super) check: Option<FreeCheck>,
    pub(super) sums: Vec<Sum>,
    pub(super) pins: Option<u64>,
    pub(super) free_blocks: Vec<FreeBlocks>,
    /// Of `/proc/vmstat`.
    pub(super) counters: Vec<(&'static str, u64)>,
}

/// Frames in hostage blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Held {
    /// Those that stay.
    pub(super) stay: u64,
    /// Those that are free or could move.
    pub(super) others: u64,
}

impl<'l> View<'l> {
    /// Looks at a layout.
    pub(super) fn of(layout: &'l Layout, mapped: &'l Mapped) -> Self {
        let (mut picture, mut held) = (Picture::default(), Held::default());
        let census = Census::take(layout, |frames, verdict, count| {
            picture.add(frames, verdict, count);
            if verdict == Verdict::Hostage {
                held.stay += count * frames.sum(|class| class.stays() && class != FrameClass::Absent);
                held.others += count * frames.sum(|class| !class.stays());
            }
        });
        let (holdings, unread, is_blind) = (holdings(layout, mapped), mapped.unread, mapped.is_blind);
        Self {
            layout,
            mapped,
            census,
            picture,
            held,
            holdings,
            unread,
            is_blind,
            check: None,
            sums: Vec::new(),
            pins: None,
            counters: Vec::new(),
            free_blocks: Vec::new(),
        }
    }

    /// Gives what `--json` prints.
    pub(super) fn json(&self) -> Survey<'_> {
        let Sizes { frame_bytes, pageblock_order } = self.layout.sizes();
        Survey {
            source: self.layout.source(),
            frame_bytes,
            pageblock_order,
            frames: self.layout.frames(),
            free_check: self.check,
            census: &self.census,
            owners: &self.holdings,
            free_blocks: &self.free_blocks,
            kernel: &self.sums,
            pinned: self.pins,
            unread_processes: self.unread,
            is_blind: self.is_blind,
        }
    }
}
