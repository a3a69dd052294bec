//! Free-page reporting (Linux 5.7, `mm/page_reporting.c`; Virtio 1.2, 5.5.6.7): the host gets the memory of free blocks without being asked for it
//! back. A block is reported again only once a part of it, or of what it merged with, was used; the engine knows which, and of each order allocates the others
//! first.
//!
//! The caller says when, and for which orders: a kernel's thread, some seconds after memory was freed (Linux: 2 s, from a pageblock's order on).

use arrayvec::ArrayVec;
use pagemove::{
    folio::FrozenFolio,
    units::{MAX_ORDER, Order, Pfn},
};

use super::{BATCH, Balloon, BalloonPages, HostRefused};

/// At once at most this part of what is free is out of the allocator's reach.
const PART: u32 = 16;

impl Balloon {
    /// Tells the host of the free blocks of at least `order` that it doesn't know, the largest first; gives the number of frames. Left for another call are
    /// blocks that others free meanwhile, those of isolated pageblocks, and frames on CPUs' lists. When the host refuses, what it has taken stays reported.
    ///
    /// While the host is told, a sixteenth of the free memory at most, or one block, can't be allocated. One call at a time, else each has as much. Sleeps if
    /// the host does; not in an interrupt.
    pub fn report_free(&self, order: Order) -> Result<u64, HostRefused> {
        let orders = MAX_ORDER.up_to().rev().take_while(|&one| one >= order);
        orders.map(|order| self.report_order(order)).sum()
    }

    fn report_order(&self, order: Order) -> Result<u64, HostRefused> {
        let physical = self.registration.physical();
        let all = physical.free_frames() / order.frames();
        let mut reported = 0;
        // Others free blocks meanwhile: no more than there were.
        while reported < all {
            let part = physical.free_frames() / order.frames() / PART;
            let most = part.clamp(1, all - reported) as usize;
            let unreported = core::iter::from_fn(|| physical.alloc_unreported(order));
            let mut blocks: ArrayVec<FrozenFolio<'_>, BATCH> = unreported.take(most.min(BATCH)).collect();
            // The host is told of neighbours at once.
            blocks.sort_unstable_by_key(|block| block.pfn());
            if blocks.is_empty() {
                break;
            }
            let frames: ArrayVec<Pfn, BATCH> = blocks.iter().map(|block| block.pfn()).collect();
            self.pages.host.report(BalloonPages::new(physical, &frames, order))?;
            reported += blocks.len() as u32;
            blocks.into_iter().for_each(FrozenFolio::free_reported);
        }
        Ok(u64::from(reported) * u64::from(order.frames()))
    }
}
