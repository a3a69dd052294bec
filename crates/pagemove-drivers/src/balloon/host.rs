//! The hypervisor's side of a balloon.

use pagemove::{
    units::{FrameRange, Order, Pfn},
    zone::Physical,
};

/// The most pages that the host is told of at once. (Linux: 256, kept in the device; here they are on the caller's stack, which may be a kernel's.)
pub const BATCH: usize = 64;

/// The hypervisor's side.
pub trait BalloonHost: Send + Sync {
    /// The host may use these pages until they are deflated; what is in them is lost. It may refuse, but not some of them only.
    ///
    /// Also called in the midst of a move, whose folios are locked: so it must not wait for folios, move or compact, and allocates at most with
    /// [`Effort::Drain`](pagemove::zone::Effort::Drain).
    fn inflate(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused>;

    /// The guest takes these pages back, whatever is in them. Called where [`Self::inflate`] is.
    fn deflate(&self, pages: BalloonPages<'_>);

    /// These blocks are free: the host takes their memory before this returns, and what is in them is lost. From then on the guest may use them without
    /// telling, so the host gives memory at the first access. Called without locks; may sleep. A host without free-page reporting refuses.
    fn report(&self, _: BalloonPages<'_>) -> Result<(), HostRefused> {
        Err(HostRefused)
    }

    /// Tells whether these calls may sleep. Then the pages don't move in [`Mode::Async`](pagemove::migrate::Mode::Async).
    fn sleeps(&self) -> bool {
        false
    }
}

/// Pages for the host, at most [`BATCH`]: only a balloon makes one, so nobody else uses them.
#[derive(Clone, Copy)]
pub struct BalloonPages<'p> {
    physical: &'p Physical,
    frames: &'p [Pfn],
    order: Order,
}

impl<'p> BalloonPages<'p> {
    /// Names the pages of `order` at `frames`, which nobody but the caller uses.
    pub(super) fn new(physical: &'p Physical, frames: &'p [Pfn], order: Order) -> Self {
        Self { physical, frames, order }
    }

    /// Gives their memory, which a host compares with its own.
    pub fn physical(&self) -> &Physical {
        self.physical
    }

    /// Gives the first frame of each.
    pub fn frames(&self) -> &[Pfn] {
        self.frames
    }

    /// Gives the order of each: 0 for a balloon's pages, any for reported blocks.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Gives their frames, neighbours in one range.
    pub fn ranges(&self) -> impl Iterator<Item = FrameRange> {
        let frames = self.order.frames();
        self.frames
            .chunk_by(move |one, next| one.up(frames) == *next)
            .map(move |run| FrameRange { start: run[0], frames: run.len() as u32 * frames })
    }
}

/// The host takes no pages now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host takes no pages")]
pub struct HostRefused;

/// A host that is told nothing.
pub(super) struct Nobody;

impl BalloonHost for Nobody {
    fn inflate(&self, _: BalloonPages<'_>) -> Result<(), HostRefused> {
        Ok(())
    }

    fn deflate(&self, _: BalloonPages<'_>) {}
}
