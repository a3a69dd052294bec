//! A folio on its way from one place to another, as the steps of a move hand it on.

use crate::{
    frame::Key,
    report::Reason,
    units::{Order, Pfn},
};

/// A folio on its way; made and kept by the mover, which holds the locks of both places.
#[derive(Debug)]
pub struct Migration {
    pub(crate) src: Pfn,
    pub(crate) dst: Pfn,
    pub(crate) key: Key,
    pub(crate) order: Order,
    /// Why it stays, once that is known.
    pub(crate) stay: Option<Reason>,
    /// Its reverse map has looked for mappings to block; else there is nothing to rebind.
    pub(crate) is_blocked: bool,
    /// Its owner has granted the move, and gets it back at the end.
    pub(crate) is_isolated: bool,
    /// Nobody can get a reference to it.
    pub(crate) is_frozen: bool,
    /// Its owner's tables point to the destination.
    pub(crate) is_exchanged: bool,
    /// Its last step is done.
    pub(crate) is_released: bool,
}

impl Migration {
    pub(crate) fn new(src: Pfn, dst: Pfn, key: Key, order: Order) -> Self {
        Self {
            src,
            dst,
            key,
            order,
            stay: None,
            is_blocked: false,
            is_isolated: false,
            is_frozen: false,
            is_exchanged: false,
            is_released: false,
        }
    }

    /// Names the first frame of where it is.
    pub fn src(&self) -> Pfn {
        self.src
    }

    /// Names the first frame of where it's to be.
    pub fn dst(&self) -> Pfn {
        self.dst
    }

    /// Gives the place in its object, by which its mappings are found.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Gives its order.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Tells whether it stays where it is.
    pub fn stays(&self) -> bool {
        self.stay.is_some()
    }

    /// Lets it stay; the first reason counts. For a reverse map that can't block it.
    pub fn stay(&mut self, reason: Reason) {
        self.stay.get_or_insert(reason);
    }

    /// Tells whether its reverse map may have blocked mappings of it.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Says that some or all of its mappings may be blocked, so that they are rebound. For a reverse map.
    pub fn set_blocked(&mut self) {
        self.is_blocked = true;
    }

    /// Names the place that blocked mappings are to point to: the destination, or the source if the folio stays.
    pub fn target(&self) -> Pfn {
        if self.stays() { self.src } else { self.dst }
    }
}
