//! Diagnostics: the reason why a page wasn't moved, counters under the usual names, and a ring of recent events.
//!
//! Used by all layers; uses only the units. Recording never blocks or allocates.

mod counters;
mod ring;

pub use counters::{Counter, Counters};
pub use ring::{Event, Ring};

/// Why a page was not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Reason {
    /// It has a long-term pin; [`crate::frame::Pins`] has the owner and the start time.
    Pinned,
    /// It has a short-term reference (an access by the kernel, or an unmapping not flushed yet).
    Referenced,
    /// Its lock, or a reverse map's lock, is held, and the mode doesn't wait.
    Locked,
    /// It is being written to its backing store.
    Writeback,
    /// The driver refused.
    Refused,
    /// The driver asked to retry more often than the mode does.
    Retry,
    /// There was no destination frame.
    NoDestination,
    /// It was freed, or its mappings changed, during the move.
    Raced,
    /// Its kind can't be moved: slab, kernel, reserved, page tables that aren't an address space's.
    Unmovable,
    /// It is mapped, and the policy lets its driver move only unmapped pages.
    Mapped,
    /// Its owner is unregistering or has unregistered.
    OwnerGone,
    /// It is part of a larger page that the destination can't take.
    Order,
    /// The frame number is outside of the zone.
    CrossedZone,
    /// Its owner lets it move for other purposes only.
    Purpose,
    /// A thread that waited for it a moment ago gets time to use it.
    Awaited,
}

impl Reason {
    /// All reasons, in numeric order.
    pub const ALL: [Reason; 15] = [
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
        Reason::Purpose,
        Reason::Awaited,
    ];

    /// The name used in reports.
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
            Reason::Purpose => "purpose",
            Reason::Awaited => "awaited",
        }
    }

    /// Tells whether a retry a moment later may succeed by itself.
    pub const fn is_transient(self) -> bool {
        matches!(
            self,
            Reason::Referenced | Reason::Locked | Reason::Writeback | Reason::Retry | Reason::Raced | Reason::Awaited
        )
    }
}

impl core::fmt::Display for Reason {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}
