//! What there is to tell of a layout, for a person or a program.

use serde::Serialize;

use crate::{
    kernel::{free::FreeBlocks, types::OfType},
    layout::{
        FrameClass, Layout, Sizes,
        capture::FreeCheck,
        census::{Census, Verdict},
        picture::Picture,
    },
    owners::{Holding, holdings, names::Names, pinners::Pinner, sums::Sum},
};

/// Says what `--json` prints, and in which version: a higher one when a field goes, or means something else.
const FORMAT: &str = "pagemove-survey";
const VERSION: u64 = 1;

/// What `pagemove survey --json` prints.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(super) struct Survey<'a> {
    /// What this is.
    #[cfg_attr(test, schemars(extend("const" = FORMAT)))]
    format: &'static str,
    /// Rises when a field goes or means something else; new fields may come without.
    #[cfg_attr(test, schemars(extend("const" = VERSION)))]
    version: u64,
    /// Where the layout comes from.
    source: &'a str,
    /// Bytes in a frame.
    frame_bytes: u64,
    /// A pageblock has 2 to this power frames.
    pageblock_order: u8,
    /// Frames that the zones span, and the holes between them.
    frames: u64,
    /// Of a live survey of the whole machine: how far to trust it.
    free_check: Option<FreeCheck>,
    #[serde(flatten)]
    census: &'a Census,
    /// Who holds hostage blocks; those who hold most alone come first.
    owners: &'a [Holding],
    /// The kernel's own list of free blocks; empty but for a live survey of the whole machine.
    free_blocks: &'a [FreeBlocks],
    free_by_type: &'a [OfType],
    /// What the kernel counts of its own memory; empty but for a live survey of the whole machine.
    kernel: &'a [Sum],
    /// At most so many pages are pinned.
    pinned: Option<u64>,
    pinners: &'a [Pinner],
    /// Processes that couldn't be read.
    unread_processes: u64,
    /// The kernel shows no frames of processes.
    is_blind: bool,
}

/// What there is to tell of a layout.
pub(super) struct View<'l> {
    pub(super) layout: &'l Layout,
    pub(super) names: &'l Names,
    pub(super) census: Census,
    pub(super) picture: Picture,
    pub(super) held: Held,
    pub(super) holdings: Vec<Holding>,
    pub(super) unread: u64,
    pub(super) is_blind: bool,
    // Of this machine, as it is now.
    pub(super) check: Option<FreeCheck>,
    /// Per-CPU lists were kept short while it was read.
    pub(super) is_settled: bool,
    pub(super) sums: Vec<Sum>,
    pub(super) pins: Option<u64>,
    pub(super) pinners: Vec<Pinner>,
    /// The kernel doesn't say who allocated a frame, or not to this user.
    pub(super) lacks_page_owner: bool,
    pub(super) free_blocks: Vec<FreeBlocks>,
    pub(super) types: Vec<OfType>,
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
    pub(super) fn of(layout: &'l Layout, names: &'l Names) -> Self {
        let (mut picture, mut held) = (Picture::default(), Held::default());
        let census = Census::take(layout, |frames, verdict, count| {
            picture.add(frames, verdict, count);
            if verdict == Verdict::Hostage {
                held.stay += count * frames.sum(|class| class.stays() && class != FrameClass::Absent);
                held.others += count * frames.sum(|class| !class.stays());
            }
        });
        let (holdings, unread, is_blind) = (holdings(layout, names), names.mapped.unread, names.mapped.is_blind);
        Self {
            layout,
            names,
            census,
            picture,
            held,
            holdings,
            unread,
            is_blind,
            check: None,
            is_settled: false,
            sums: Vec::new(),
            pins: None,
            pinners: Vec::new(),
            lacks_page_owner: false,
            counters: Vec::new(),
            free_blocks: Vec::new(),
            types: Vec::new(),
        }
    }

    /// Gives what `--json` prints.
    pub(super) fn json(&self) -> Survey<'_> {
        let Sizes { frame_bytes, pageblock_order } = self.layout.sizes();
        Survey {
            format: FORMAT,
            version: VERSION,
            source: self.layout.source(),
            frame_bytes,
            pageblock_order,
            frames: self.layout.frames(),
            free_check: self.check,
            census: &self.census,
            owners: &self.holdings,
            free_blocks: &self.free_blocks,
            free_by_type: &self.types,
            kernel: &self.sums,
            pinned: self.pins,
            pinners: &self.pinners,
            unread_processes: self.unread,
            is_blind: self.is_blind,
        }
    }
}
