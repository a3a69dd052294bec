//! The state of one folio's move.

use crate::{
    frame::Key,
    report::Reason,
    units::{Order, Pfn},
};

/// A folio's move from `src` to `dst`. The mover makes it, and holds the locks of both folios.
#[derive(Debug)]
pub struct Migration {
    pub(crate) src: Pfn,
    pub(crate) dst: Pfn,
    pub(crate) key: Key,
    pub(crate) order: Order,
    /// The reason, if it stays.
    pub(crate) stay: Option<Reason>,
    /// Some of its mappings may be blocked; otherwise there is nothing to rebind.
    pub(crate) is_blocked: bool,
    /// Its owner has granted the move, and gets a `putback` at the end.
    pub(crate) is_isolated: bool,
    /// The source is frozen.
    pub(crate) is_frozen: bool,
    /// Its owner has exchanged the token: its tables point to the destination.
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

    /// Gives the head frame of the source.
    pub fn src(&self) -> Pfn {
        self.src
    }

    /// Gives the head frame of the destination.
    pub fn dst(&self) -> Pfn {
        self.dst
    }

    /// Gives the key, by which its mappings are found.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Gives its order.
    pub fn order(&self) -> Order {
        self.order
    }

    /// Tells whether it stays in its place.
    pub fn stays(&self) -> bool {
        self.stay.is_some()
    }

    /// Makes it stay; the first reason counts. For a reverse map that can't block it.
    pub fn stay(&mut self, reason: Reason) {
        self.stay.get_or_insert(reason);
    }

    /// Tells whether some of its mappings may be blocked.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Says that some of its mappings may be blocked, so that they will be rebound. For a reverse map.
    pub fn set_blocked(&mut self) {
        self.is_blocked = true;
    }

    /// Gives the frame to which blocked mappings are rebound: the destination, or the source if the folio stays.
    pub fn target(&self) -> Pfn {
        if self.stays() { self.src } else { self.dst }
    }
}
