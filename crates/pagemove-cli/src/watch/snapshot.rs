//! What one capture tells, in numbers: small enough to be kept for each capture.
//!
//! Takes a layout and the names of its owners; gives counts, of which two can be compared. Names are without what could
//! steer a terminal.

use std::{cmp::Reverse, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    kernel::free::FreeBlocks,
    layout::{Layout, Sizes, census::Census},
    owners::{Holding, holdings, names::Names},
    terminal::plain,
};

/// Owners that are kept, those who hold most.
const OWNERS: usize = 500;

/// What one capture tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    /// Where it comes from.
    pub(crate) source: String,
    /// When the capture ended.
    pub(crate) at: Timestamp,
    /// How long it took.
    pub(crate) took_us: u64,
    /// Sizes of frames and pageblocks.
    pub(crate) frame_bytes: u64,
    pub(crate) pageblock_order: u8,
    /// None: this user may not read frames.
    pub(crate) blocks: Option<Blocks>,
    pub(crate) owners: Vec<Holder>,
    pub(crate) free_blocks: Vec<FreeBlocks>,
    /// The kernel's counters.
    pub(crate) counters: Vec<(String, u64)>,
    /// What isn't shown, and how to see it.
    pub(crate) lacks: Option<String>,
}

/// Blocks by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Blocks {
    pub(crate) free: u64,
    pub(crate) movable: u64,
    pub(crate) hostage: u64,
    pub(crate) full: u64,
}

impl Blocks {
    /// Gives the counts in the order in which they are shown.
    pub(crate) fn counts(&self) -> [u64; 4] {
        [self.free, self.movable, self.hostage, self.full]
    }

    /// Counts all of them.
    pub(crate) fn total(&self) -> u64 {
        self.counts().into_iter().fold(0, u64::saturating_add)
    }
}

/// What an owner holds; [`Holding`] has the meaning of each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Holder {
    pub(crate) name: String,
    pub(crate) processes: u64,
    pub(crate) blocks: u64,
    pub(crate) alone: u64,
    pub(crate) to_move: u64,
    pub(crate) frames: u64,
}

impl From<Holding> for Holder {
    fn from(holding: Holding) -> Self {
        let Holding { owner, processes, blocks, alone, to_move, frames, .. } = holding;
        Self { name: plain(&owner), processes, blocks, alone, to_move, frames }
    }
}

impl Snapshot {
    /// Makes one without frames.
    pub(crate) fn without_frames(source: String, sizes: Sizes) -> Self {
        Self {
            source: plain(&source),
            at: Timestamp::now(),
            took_us: 0,
            frame_bytes: sizes.frame_bytes,
            pageblock_order: sizes.pageblock_order,
            blocks: None,
            owners: Vec::new(),
            free_blocks: Vec::new(),
            counters: Vec::new(),
            lacks: None,
        }
    }

    /// Counts what a layout holds.
    pub(crate) fn of(layout: &Layout, names: &Names) -> Self {
        let counts = Census::take(layout, |_, _, _| {}).total.blocks;
        let mut owners = holdings(layout, names);
        owners.truncate(OWNERS);
        Self {
            blocks: Some(Blocks {
                free: counts.free,
                movable: counts.movable,
                hostage: counts.hostage,
                full: counts.full,
            }),
            owners: owners.into_iter().map(Holder::from).collect(),
            ..Self::without_frames(layout.source().to_owned(), layout.sizes())
        }
    }

    /// Gives how long the capture took.
    pub(crate) fn took(&self) -> Duration {
        Duration::from_micros(self.took_us)
    }

    /// Gives the bytes of a block.
    pub(crate) fn block_bytes(&self) -> u64 {
        self.frame_bytes.saturating_mul(1_u64.checked_shl(self.pageblock_order.into()).unwrap_or(u64::MAX))
    }

    /// Counts the wholly free blocks. Without frames, those in the kernel's free lists: fewer, since it doesn't list those
    /// of per-CPU lists.
    pub(crate) fn free(&self) -> u64 {
        let of_lists = || self.free_blocks.iter().map(|zone| zone.of_order(self.pageblock_order));
        self.blocks.map_or_else(|| of_lists().fold(0, u64::saturating_add), |blocks| blocks.free)
    }

    /// Gives the owner of this name.
    pub(crate) fn owner(&self, name: &str) -> Option<&Holder> {
        self.owners.iter().find(|owner| owner.name == name)
    }

    /// Gives each counter's rise in a second since an earlier capture; none if the clock was set back, or the machine was
    /// started meanwhile.
    pub(crate) fn rates(&self, before: &Self) -> Vec<(&str, Option<f64>)> {
        let seconds = self.at.duration_since(before.at).as_secs_f64();
        let rate = |name: &str, count: u64| {
            let before = before.counters.iter().find(|(known, _)| known == name)?.1;
            (seconds > 0.0).then_some(count.checked_sub(before)? as f64 / seconds)
        };
        self.counters.iter().map(|(name, count)| (name.as_str(), rate(name, *count))).collect()
    }

    /// Gives the owners who hold most alone.
    pub(crate) fn top(&self, count: usize) -> Vec<&Holder> {
        let mut owners: Vec<&Holder> = self.owners.iter().collect();
        owners.sort_by_key(|owner| Reverse((owner.alone, owner.blocks)));
        owners.truncate(count);
        owners
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A made-up capture; `more` makes a later one differ.
    pub(crate) fn made_up(more: u64) -> Snapshot {
        let owner = |name: &str, [processes, blocks, alone, to_move, frames]: [u64; 5]| Holder {
            name: name.to_owned(),
            processes,
            blocks,
            alone,
            to_move,
            frames,
        };
        let mut owners = vec![
            owner("kernel", [0, 1_200 + more, 900, 38_000, 120_000]),
            owner("slab", [0, 700, 120 + more, 9_100, 54_321]),
            owner("/dev/dri/card0, mapped by gnome-shell × 北京", [3, 90, 31, 7_000, 20_480]),
            owner("socket, mapped by dumpcap", [1, 40 - more, 12, 600, 2_048]),
        ];
        owners.extend((0..30).map(|number| owner(&format!("anon_inode:[{number}]"), [1, 2, 1, 9, 30 - number])));
        let free_blocks = crate::kernel::free::parse(
            "Node 0, zone DMA 1 0 0 0 0 0 0 0 1 1 3\nNode 0, zone DMA32 73 80 66 60 52 40 33 20 10 7 250\n\
             Node 0, zone Normal 20411 9802 4011 2002 840 310 101 40 12 3 2900\n",
            9,
        );
        let counters =
            [("compact_stall", 12 + 10 * more), ("compact_fail", 7), ("pgmigrate_success", 123_456 + 1000 * more)];
        let counters = counters.into_iter().map(|(name, count)| (name.to_owned(), count));
        Snapshot {
            source: "live capture, Linux 6.12".into(),
            at: Timestamp::from_second(1_795_814_000 + 5 * more as i64).expect("in range"),
            took_us: 250_000,
            frame_bytes: 4096,
            pageblock_order: 9,
            blocks: Some(Blocks { free: 6_012 - more, movable: 3_201, hostage: 1_200 + more, full: 12 }),
            owners,
            free_blocks,
            counters: counters.chain((0..20).map(|number| (format!("thp_{number}"), number))).collect(),
            lacks: None,
        }
    }

    #[test]
    fn the_sample_in_numbers() {
        let sample = Layout::sample();
        let snapshot = Snapshot::of(&sample, &Names::default());
        let blocks = snapshot.blocks.expect("frames");
        assert_eq!((blocks.total(), snapshot.free(), snapshot.block_bytes()), (1024, blocks.free, 2 << 20));
        assert!(snapshot.owner("kernel").is_some_and(|owner| owner.blocks >= owner.alone && owner.frames > 0));
        let text = serde_json::to_string(&snapshot).expect("JSON");
        assert_eq!(serde_json::from_str::<Snapshot>(&text).expect("reads"), snapshot);
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let (before, now) = (made_up(0), made_up(2));
        let rates = now.rates(&before);
        assert_eq!(
            rates[..3],
            [("compact_stall", Some(2.0)), ("compact_fail", Some(0.0)), ("pgmigrate_success", Some(200.0))]
        );
        // The machine was started again; the clock was set back.
        assert_eq!(before.rates(&now)[0].1, None);
        let mut later = made_up(0);
        later.at = Timestamp::from_second(1_795_815_000).expect("in range");
        assert_eq!(later.rates(&now)[0].1, None);
        assert_eq!(later.rates(&now)[1].1, Some(0.0));
    }
}
