//! What the engine tells: why a page stayed, counters under the field's usual names, and a ring of the last events.
//!
//! Takes values from all layers and uses none of them but the units; recording never blocks and never allocates.

mod counters;
mod ring;

pub use counters::{Counter, Counters};
pub use ring::{Event, Ring};

/// Why a page was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// Somebody holds a long-term pin on it; [`crate::frame::Pins`] tells who, and since when.
    Pinned,
    /// Somebody holds a short-term reference (an access by the kernel, or an unmapping that isn't flushed yet).
    Referenced,
    /// Its lock, or a lock on the way to its mappings, is held, and the mode doesn't wait.
    Locked,
    /// It is being written to its backing store.
    Writeback,
    /// The driver refused.
    Refused,
    /// The driver asked to try again later, more often than the mode tries.
    Retry,
    /// No frame to move it to.
    NoDestination,
    /// It was freed, or its mappings changed, while the move was under way.
    Raced,
    /// Its owner can't move pages: slab, page tables, kernel, reserved.
    Unmovable,
    /// Its driver can move it only while it's not mapped, under this policy.
    Mapped,
    /// Its owner is unregistering, or has.
    OwnerGone,
    /// It is part of a larger page that the destination can't take.
    Order,
    /// The frame number names no frame of the zone.
    CrossedZone,
}

impl Reason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [Reason; 13] = [
        Reason::Pinned,
        Reason::Referenced,
        Reason::Locked,
        Reason::Writeback,
        Reason::Refused,
        Reason::Retry,
        Reason::NoDestination,
        Reason::Raced,
        Reason::Unmovable,
        Reason::Mapped,
        Reason::OwnerGone,
        Reason::Order,
        Reason::CrossedZone,
    ];

    /// Gives the name that reports print.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Pinned => "pinned",
            Reason::Referenced => "referenced",
            Reason::Locked => "locked",
            Reason::Writeback => "writeback",
            Reason::Refused => "refused",
            Reason::Retry => "retry",
            Reason::NoDestination => "no_destination",
            Reason::Raced => "raced",
            Reason::Unmovable => "unmovable",
            Reason::Mapped => "mapped",
            Reason::OwnerGone => "owner_gone",
            Reason::Order => "order",
            Reason::CrossedZone => "crossed_zone",
        }
    }

    /// Tells whether another try, a moment later, can succeed without anybody else's doing.
    pub const fn is_transient(self) -> bool {
        matches!(self, Reason::Referenced | Reason::Locked | Reason::Writeback | Reason::Retry | Reason::Raced)
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
