//! The arguments of an allocation (Linux: GFP flags). Plain data.

use core::fmt;

use super::pageblock::Migratetype;
use crate::{
    frame::Kind,
    units::{Order, Pfn},
};

/// The means that an allocation may use. Each level includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    /// Takes from the free lists. Never waits, interrupts no CPU, and may be called in an interrupt.
    Lists,
    /// Drains all CPUs' lists, which interrupts every CPU. Doesn't sleep.
    Drain,
    /// Compacts for an order above 0; for order 0 makes movers return destinations. Sleeps, so the caller may hold no
    /// lock of the engine: of an address space, a folio, a reverse map, an index.
    Compact,
}

/// What to allocate: `Request::new(order, kind)`, restricted by the other calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    pub(super) order: Order,
    pub(super) kind: Kind,
    pub(super) below: Option<Pfn>,
    pub(super) zone: Option<usize>,
    pub(super) node: Option<u32>,
    pub(super) effort: Effort,
}

impl Request {
    /// Asks for a folio of `order` for `kind`, anywhere, with [`Effort::Drain`].
    pub const fn new(order: Order, kind: Kind) -> Self {
        Self { order, kind, below: None, zone: None, node: None, effort: Effort::Drain }
    }

    /// Only frames below `limit`, for devices that can't address more.
    pub const fn below(self, limit: Pfn) -> Self {
        Self { below: Some(limit), ..self }
    }

    /// Only frames of zone number `zone` in [`super::Config::zones`].
    pub const fn in_zone(self, zone: usize) -> Self {
        Self { zone: Some(zone), ..self }
    }

    /// Only frames of node `node`, by [`super::Config::nodes`].
    pub const fn on_node(self, node: u32) -> Self {
        Self { node: Some(node), ..self }
    }

    /// Sets the effort.
    pub const fn with_effort(self, effort: Effort) -> Self {
        Self { effort, ..self }
    }

    /// Gives the order.
    pub const fn order(&self) -> Order {
        self.order
    }

    /// Gives the kind.
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// Tells whether a zone is allowed, by its number, its node and its first frame.
    pub(crate) fn allows_zone(&self, number: usize, node: u32, start: Pfn) -> bool {
        self.zone.is_none_or(|only| only == number) && self.node.is_none_or(|only| only == node) && self.allows(start)
    }

    /// Gives the effort.
    pub const fn effort(&self) -> Effort {
        self.effort
    }

    /// Tells whether the folio at `pfn` would be below the upper bound.
    fn allows(&self, pfn: Pfn) -> bool {
        self.below.is_none_or(|below| pfn.up(self.order.frames() - 1) < below)
    }

    /// Gives the migratetype to take from.
    pub(super) fn migratetype(&self) -> Migratetype {
        migratetype_of(self.kind)
    }
}

/// Gives the migratetype of frames for `kind`.
pub(super) fn migratetype_of(kind: Kind) -> Migratetype {
    match kind {
        kind if kind.is_movable() => Migratetype::Movable,
        Kind::Slab => Migratetype::Reclaimable,
        _ => Migratetype::Unmovable,
    }
}

/// No block of the order is free where the request allows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocError {
    /// The requested order.
    pub order: Order,
    /// The only zone that was allowed.
    pub zone: Option<usize>,
    /// The only node that was allowed.
    pub node: Option<u32>,
    /// The requested upper bound.
    pub below: Option<Pfn>,
}

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no block of {} free page(s) in a row", self.order.frames())?;
        if let Some(zone) = self.zone {
            write!(f, " in zone {zone}")?;
        }
        if let Some(node) = self.node {
            write!(f, " on node {node}")?;
        }
        match self.below {
            Some(below) => write!(f, " below frame {below}"),
            None => Ok(()),
        }
    }
}

impl core::error::Error for AllocError {}

impl From<&Request> for AllocError {
    fn from(request: &Request) -> Self {
        Self { order: request.order, zone: request.zone, node: request.node, below: request.below }
    }
}

#[cfg(all(test, not(feature = "loom")))]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn an_error_says_what_was_asked_for() {
        let request = Request::new(Order::ZERO, Kind::Anon).in_zone(1).on_node(2).below(Pfn::new(16));
        let text = AllocError::from(&request).to_string();
        assert_eq!(text, "no block of 1 free page(s) in a row in zone 1 on node 2 below frame 0x10");
        assert!(request.allows(Pfn::new(15)) && !request.allows(Pfn::new(16)));
    }
}
