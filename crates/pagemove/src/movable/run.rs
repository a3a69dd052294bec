//! Runs: the arguments of an owner's callbacks, which are its consecutive folios in a batch.
//!
//! A run shows only folios that still move. It skips those that were refused, or stay for another reason.

use alloc::sync::Arc;

use super::{FolioToken, Mode, Purpose, Refusal, TokenCell};
use crate::{
    folio::Migration,
    sync::AtomicU64,
    units::{Order, Pfn},
    zone::Physical,
};

/// The common arguments of a batch's calls.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub(crate) physical: &'a Arc<Physical>,
    pub(crate) mode: Mode,
    pub(crate) purpose: Purpose,
}

/// A folio in `isolate` or `putback`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IsolatedFolio {
    /// Its head frame.
    pub pfn: Pfn,
    /// The index of its key: its place in the owner's table.
    pub index: u32,
    /// Its order.
    pub order: Order,
}

/// The folios of an `isolate`. Each is locked.
pub struct IsolationRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a mut [Migration],
}

impl IsolationRun<'_> {
    /// Gives the mode.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Gives the purpose.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Calls `grant` once for each folio; an error makes it stay.
    pub fn decide(&mut self, mut grant: impl FnMut(IsolatedFolio) -> Result<(), Refusal>) {
        for folio in self.folios.iter_mut().filter(|folio| !folio.stays()) {
            if let Err(refusal) = grant(IsolatedFolio { pfn: folio.src, index: folio.key.index, order: folio.order }) {
                folio.stay(refusal.reason());
            }
        }
    }
}

/// The folios of a `copy` or `migrate`. Source and destination of each are locked and frozen: no mapping, no reference.
pub struct MigrationRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a mut [Migration],
}

impl MigrationRun<'_> {
    /// Gives the mode.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Gives the purpose.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Calls `act` with each folio that still moves; an error makes it stay, unless its token was exchanged before.
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

    /// Copies the contents of all folios that still move; those adjacent in source and destination by one copy.
    pub fn copy_contents(&mut self) {
        copy_contents(self.context.physical, self.folios);
    }

    /// Gives the folios whose tokens were exchanged.
    pub fn exchanged(&self) -> impl Iterator<Item = &Migration> {
        self.folios.iter().filter(|folio| folio.is_exchanged)
    }
}

/// Copies the contents of folios that still move; `Ram::order_copies` must follow.
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
    /// Gives the head frame of the source.
    pub fn src(&self) -> Pfn {
        self.folio.src
    }

    /// Gives the head frame of the destination.
    pub fn dst(&self) -> Pfn {
        self.folio.dst
    }

    /// Gives the index of its key: its place in the owner's table.
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

    /// Views frame number `frame` of the source, for owners that copy themselves. Panics if there is no such frame.
    pub fn src_words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.folio.src, frame)
    }

    /// Views frame number `frame` of the destination. Panics if there is no such frame.
    pub fn dst_words(&self, frame: u32) -> &[AtomicU64; 512] {
        self.physical.folio_words(self.folio.dst, frame)
    }

    /// Changes the owner's token to the destination's. Now the folio has moved, and the owner can't refuse any more. An
    /// error if the token is of another folio.
    pub fn exchange(&mut self, token: &mut FolioToken) -> Result<(), Refusal> {
        if !token.names(self.physical, self.folio.src) {
            return Err(Refusal::No);
        }
        *token = FolioToken::new(self.physical, self.folio.dst);
        self.folio.is_exchanged = true;
        Ok(())
    }

    /// As [`Self::exchange`], for a token in a cell.
    pub fn exchange_in(&mut self, cell: &TokenCell) -> Result<(), Refusal> {
        let token = |pfn| FolioToken::new(self.physical, pfn);
        if !cell.exchange(&token(self.folio.src), &token(self.folio.dst)) {
            return Err(Refusal::No);
        }
        self.folio.is_exchanged = true;
        Ok(())
    }
}

/// The folios of a `putback`, in their current place.
pub struct PutbackRun<'a> {
    pub(crate) context: Context<'a>,
    pub(crate) folios: &'a [Migration],
}

impl PutbackRun<'_> {
    /// Gives the mode.
    pub fn mode(&self) -> Mode {
        self.context.mode
    }

    /// Gives the purpose.
    pub fn purpose(&self) -> Purpose {
        self.context.purpose
    }

    /// Gives the folios that `isolate` granted.
    pub fn folios(&self) -> impl Iterator<Item = IsolatedFolio> {
        let granted = self.folios.iter().filter(|folio| folio.is_isolated);
        granted.map(|folio| IsolatedFolio { pfn: folio.target(), index: folio.key.index, order: folio.order })
    }
}
