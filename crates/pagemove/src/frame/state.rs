//! The state word of a frame: kind, class in its pageblock's summary, order, and marks of one bit each.

use bitflags::bitflags;

use crate::units::Order;

/// What a frame is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// Free: head of a free block (marked [`Marks::HEAD`]), or inside one.
    Free = 0,
    /// Free, on a CPU's list: not merged with its buddy.
    PerCpu = 1,
    /// Part of a folio, not its head.
    Tail = 2,
    /// Not available to the engine.
    Reserved = 3,
    /// The kernel's own data.
    Kernel = 4,
    /// A slab.
    Slab = 5,
    /// A page table: an address space's, or another one, whose owner doesn't let it move.
    PageTable = 6,
    /// Anonymous memory, on the LRU.
    Anon = 7,
    /// Page cache, on the LRU.
    File = 8,
    /// Owned by a driver, movable by its [`crate::movable::MovableOps`].
    Driver = 9,
    /// Free, set aside as the destination of a move.
    Destination = 10,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Kind::Free,
        Kind::PerCpu,
        Kind::Tail,
        Kind::Reserved,
        Kind::Kernel,
        Kind::Slab,
        Kind::PageTable,
        Kind::Anon,
        Kind::File,
        Kind::Driver,
        Kind::Destination,
    ];

    /// Tells whether memory can be allocated as this kind.
    pub const fn is_allocation(self) -> bool {
        !matches!(self, Kind::Free | Kind::PerCpu | Kind::Destination | Kind::Tail)
    }

    /// Tells whether folios of this kind can move at all. (Page tables have no references, and move by calls of their own:
    /// see [`State::is_movable`].)
    pub const fn is_movable(self) -> bool {
        matches!(self, Kind::Anon | Kind::File | Kind::Driver)
    }

    /// Gives the class of a new frame of this kind.
    pub const fn first_class(self) -> Class {
        FIRST_CLASSES[self as usize]
    }
}

/// Indexed by kind.
const FIRST_CLASSES: [Class; Kind::ALL.len()] = [
    Class::Free,
    Class::Free,
    Class::Free,
    Class::Reserved,
    Class::Kernel,
    Class::Slab,
    Class::PageTable,
    Class::Lru,
    Class::Lru,
    Class::DriverUnmapped,
    Class::Free,
];

/// The class that a frame is counted under in its pageblock's summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// Free. A frame on a CPU's list stays under that list's usual class.
    Free = 0,
    /// On the LRU: anonymous memory and page cache.
    Lru = 1,
    /// A driver's movable page, not mapped.
    DriverUnmapped = 2,
    /// A driver's movable page, mapped: the founding case.
    DriverMapped = 3,
    /// Movable by its kind, but pinned, or truncated while still referenced.
    Pinned = 4,
    /// A slab.
    Slab = 5,
    /// A page table that isn't an address space's.
    PageTable = 6,
    /// The kernel's own data.
    Kernel = 7,
    /// Not available to the engine.
    Reserved = 8,
    /// A page table of an address space, which moves.
    SpaceTable = 9,
}

impl Class {
    /// All classes, in the order of their numbers.
    pub const ALL: [Class; 10] = [
        Class::Free,
        Class::Lru,
        Class::DriverUnmapped,
        Class::DriverMapped,
        Class::Pinned,
        Class::Slab,
        Class::PageTable,
        Class::Kernel,
        Class::Reserved,
        Class::SpaceTable,
    ];

    /// Gives the name for reports.
    pub const fn name(self) -> &'static str {
        match self {
            Class::Free => "free",
            Class::Lru => "lru",
            Class::DriverUnmapped => "driver, unmapped",
            Class::DriverMapped => "driver, mapped",
            Class::Pinned => "pinned",
            Class::Slab => "slab",
            Class::PageTable => "page table",
            Class::Kernel => "kernel",
            Class::Reserved => "reserved",
            Class::SpaceTable => "page table of a process",
        }
    }
}

bitflags! {
    /// Marks of a frame. Each has its own bit, changed only by that mark's calls.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Marks: u32 {
        /// Head of a free block of the buddy allocator; the state's order is the block's.
        const HEAD = 1 << 16;
        /// Written to since it was last cleaned; collected from page-table entries.
        const DIRTY = 1 << 18;
        /// Being written to its backing store.
        const WRITEBACK = 1 << 19;
        /// Removed from its index while others held references: it can't move, and the last of these frees it.
        const TRUNCATED = 1 << 20;
        /// A large anonymous folio: the last mapping of some page was removed, so a split may free frames.
        const PARTLY_MAPPED = 1 << 21;
        /// A page table of an address space, which its key names.
        const SPACE_TABLE = 1 << 22;
        /// Head of a free block whose memory the host has back.
        const REPORTED = 1 << 23;
    }
}

// Padded to 16, so that a 4-bit field needs no bounds check.
const KINDS: [Kind; 16] = filled(&Kind::ALL, Kind::Reserved);
const CLASSES: [Class; 16] = filled(&Class::ALL, Class::Reserved);
const ORDERS: [Order; 16] = {
    let mut orders = [Order::ZERO; 16];
    let mut order = 0;
    while let Some(known) = Order::new(order) {
        orders[order as usize] = known;
        order += 1;
    }
    orders
};

const fn filled<T: Copy>(known: &[T], rest: T) -> [T; 16] {
    let mut all = [rest; 16];
    let mut at = 0;
    while at < known.len() {
        all[at] = known[at];
        at += 1;
    }
    all
}

/// A value of the state word: kind in bits 0-3, class in 4-7, order in 8-11, marks from 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u32);

impl State {
    /// Makes a state without marks.
    pub const fn new(kind: Kind, class: Class, order: Order) -> Self {
        Self(kind as u32 | (class as u32) << 4 | (order.get() as u32) << 8)
    }

    pub(super) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    pub(super) const fn bits(self) -> u32 {
        self.0
    }

    /// Gives the kind.
    pub const fn kind(self) -> Kind {
        KINDS[(self.0 & 0xf) as usize]
    }

    /// Gives the class.
    pub const fn class(self) -> Class {
        CLASSES[(self.0 >> 4 & 0xf) as usize]
    }

    /// Gives the order of the folio (also for a tail), or of the free block that the frame heads.
    pub const fn order(self) -> Order {
        ORDERS[(self.0 >> 8 & 0xf) as usize]
    }

    /// Gives the marks.
    pub const fn marks(self) -> Marks {
        Marks::from_bits_truncate(self.0)
    }

    /// Adds marks.
    pub const fn with(self, marks: Marks) -> Self {
        Self(self.0 | marks.bits())
    }

    /// Tells whether the folio can move: its kind can, or it's a page table of an address space.
    pub const fn is_movable(self) -> bool {
        self.kind().is_movable() || self.is_space_table()
    }

    /// Tells whether the frame is a page table of an address space.
    pub const fn is_space_table(self) -> bool {
        matches!(self.kind(), Kind::PageTable) && self.marks().contains(Marks::SPACE_TABLE)
    }

    pub(crate) const fn with_class(self, class: Class) -> Self {
        Self(self.0 & !0xf0 | (class as u32) << 4)
    }

    /// Tells whether order is 0 and the class is `class`, whatever the kind.
    pub(crate) const fn is_base_page_of(self, class: Class) -> bool {
        self.0 & 0xff0 == (class as u32) << 4
    }

    /// Tells whether the host has the memory of the free block that the frame heads.
    pub const fn is_reported(self) -> bool {
        self.marks().contains(Marks::REPORTED)
    }

    /// Tells whether the frame heads a free block of the buddy allocator.
    pub const fn is_free_head(self) -> bool {
        matches!(self.kind(), Kind::Free) && self.marks().contains(Marks::HEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        for kind in Kind::ALL {
            for class in Class::ALL {
                for order in crate::units::MAX_ORDER.up_to() {
                    let state = State::new(kind, class, order).with(Marks::all());
                    assert_eq!((state.kind(), state.class(), state.order()), (kind, class, order));
                    assert_eq!(state.marks(), Marks::all());
                    assert_eq!(state.with_class(Class::Lru).kind(), kind);
                    assert_eq!(state.with_class(Class::Lru).class(), Class::Lru);
                }
            }
        }
    }

    #[test]
    fn zero_is_free_inside_a_block() {
        let zero = State::from_bits(0);
        assert_eq!((zero.kind(), zero.class(), zero.is_free_head()), (Kind::Free, Class::Free, false));
    }
}
