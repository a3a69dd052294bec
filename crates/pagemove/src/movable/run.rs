//! Runs: the folios of one owner that follow each other in a batch, as its callbacks get them.
//!
//! A run shows the folios that are still on their way. Those that were refused, or can't move for another reason, are passed over.

use alloc::sync::Arc;

use super::{FolioToken, Mode, Purpose, Refusal};
use crate::{
    folio::Migration,
    sync::AtomicU64,
    units::{Order, Pfn},
    zone::Physical,
};

/// What all calls of a batch have in common.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) physical: &'a Arc<Physical>,
    pub(crate) mode: Mode,
    pub(crate) purpose: Purpose,
}

/// A folio that its owner is asked for, or gets back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolatedFolio {
    /// Its first frame.
    pub pfn: Pfn,
    /// Where the owner keeps it: the index of its key.
    pub index: u32,
    /// Its order.
    pub order: Order,
}

/// Folios that their owner is asked for. Each is locked.
pub struct IsolationRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a mut [Migration],
}

impl IsolationRun<'_> {
    /// Tells how far the move goes.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Tells what the move is made for.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Lets `grant` decide on each folio, once.
    pub fn decide(&mut self, mut grant: impl FnMut(IsolatedFolio) -> Result<(), Refusal>) {
        for folio in self.folios.iter_mut().filter(|folio| !folio.stays()) {
            if let Err(refusal) = grant(IsolatedFolio { pfn: folio.src, index: folio.key.index, order: folio.order }) {
                folio.stay(refusal.reason());
            }
        }
    }
}

/// Folios to be moved. Both places of each are locked and frozen: no mapping is left, and no reference.
pub struct MigrationRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a mut [Migration],
}

impl MigrationRun<'_> {
    /// Tells how far the move goes.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Tells what the move is made for.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Calls `act` with each folio that is on its way; one for which it gives an error stays where it is, unless it was exchanged
    /// before.
    pub fn for_each(&mut self, mut act: impl FnMut(&mut MovingFolio<'_>) -> Result<(), Refusal>) {
        let physical = self.context.physical;
        for folio in self.folios.iter_mut().filter(|folio| !folio.stays()) {
            let mut folio = MovingFolio { physical, folio };
            if let Err(refusal) = act(&mut folio)
                && !folio.folio.is_exchanged
            {
                folio.folio.stay(refusal.reason());
            }
        }
    }

    /// Copies the contents of all folios that are on their way; neighbours in both places by one copy.
    pub fn copy_contents(&mut self) {
        copy_contents(self.context.physical, self.folios);
    }

    /// Gives the folios whose tokens were exchanged.
    pub fn exchanged(&self) -> impl Iterator<Item = &Migration> {
        self.folios.iter().filter(|folio| folio.is_exchanged)
    }
}

/// Copies the contents of folios that are on their way; `Ram::settle_copies` must follow.
pub(crate) fn copy_contents(physical: &Physical, folios: &[Migration]) {
    let mut moving = folios.iter().filter(|folio| !folio.stays()).peekable();
    while let Some(first) = moving.next() {
        let mut frames = first.order.frames();
        while let Some(next) =
            moving.next_if(|next| first.src.up(frames) == next.src && first.dst.up(frames) == next.dst)
        {
            frames += next.order.frames();
        }
        physical.ram().copy_streaming(first.src, first.dst, frames);
    }
}

/// One folio of a [`MigrationRun`].
pub struct MovingFolio<'a> {
    physical: &'a Arc<Physical>,
    folio: &'a mut Migration,
}

impl MovingFolio<'_> {
    /// Names the first frame of where it is.
    pub fn src(&self) -> Pfn {
        self.folio.src
    }

    /// Names the first frame of where it's to be.
    pub fn dst(&self) -> Pfn {
        self.folio.dst
    }

    /// Tells where the owner keeps it: the index of its key.
    pub fn index(&self) -> u32 {
        self.folio.key.index
    }

    /// Gives its order.
    pub fn order(&self) -> Order {
        self.folio.order
    }

    /// Copies the contents.
    pub fn copy_contents(&mut self) {
        self.physical.ram().copy_streaming(self.folio.src, self.folio.dst, self.folio.order.frames());
    }

    /// Views the contents of frame number `frame` of the source, for a copy of the owner's own. Panics if there is no such frame.
    pub fn src_words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.folio.src, frame)
    }

    /// Views frame number `frame` of the destination. Panics if there is no such frame.
    pub fn dst_words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.folio.dst, frame)
    }

    /// Makes the owner's token name the destination. From now on the folio has moved, and the owner can't refuse any more. Refuses
    /// if the token is that of another folio.
    pub fn exchange(&mut self, token: &mut FolioToken) -> Result<(), Refusal> {
        if !token.names(self.physical, self.folio.src) {
            return Err(Refusal::No);
        }
        *token = FolioToken::new(self.physical, self.folio.dst);
        self.folio.is_exchanged = true;
        Ok(())
    }
}

/// Folios that their owner gets back: where they are now.
pub struct PutbackRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a [Migration],
}

impl PutbackRun<'_> {
    /// Tells how far the move went.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Tells what the move was made for.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Gives the folios: each that was granted, once.
    pub fn folios(&self) -> impl Iterator<Item = IsolatedFolio> {
        let granted = self.folios.iter().filter(|folio| folio.is_isolated);
        granted.map(|folio| IsolatedFolio { pfn: folio.target(), index: folio.key.index, order: folio.order })
    }
}
