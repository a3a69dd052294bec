//! Units that can't be mixed up: page frame numbers, orders, ranges, physical and virtual addresses.
//!
//! Uses no other layer. Arithmetic that can leave a type's range is checked, or says so in its name.

use core::fmt;

/// Shift from bytes to 4 KiB pages.
pub const PAGE_SHIFT: u32 = 12;
/// Size of a base page in bytes.
pub const PAGE_SIZE: usize = 1 << PAGE_SHIFT;
/// Largest order of the buddy allocator (order 10: 4 MiB).
pub const MAX_ORDER: Order = Order(10);
/// Order of a 2 MiB page: one second-level entry of x86-64 page tables.
pub const HUGE_ORDER: Order = Order(9);

/// A page frame number (PFN): a physical address in units of 4 KiB frames.
///
/// A memory's frames are below [`Self::LIMIT`]; [`Engine::boot`](crate::Engine::boot) refuses others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pfn(u64);

impl Pfn {
    /// The first number that no frame has: physical addresses have at most 52 bits (x86-64, aarch64).
    pub const LIMIT: u64 = 1 << (52 - PAGE_SHIFT);

    /// Names frame `number`.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Gives the number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Gives the frame `frames` above this one.
    pub const fn up(self, frames: u32) -> Self {
        Self(self.0 + frames as u64)
    }

    /// Gives the number of frames from `below`, a lower one of the same range, to this one.
    pub const fn offset_from(self, below: Self) -> u32 {
        (self.0 - below.0) as u32
    }

    /// Gives the first frame of the aligned block of `order` that contains this one.
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !(order.frames() as u64 - 1))
    }

    /// Tells whether this frame starts an aligned block of `order`.
    pub const fn is_aligned(self, order: Order) -> bool {
        self.0 & (order.frames() as u64 - 1) == 0
    }

    /// Gives the buddy: the other half of the block of `order + 1` that contains this block of `order`.
    pub const fn buddy(self, order: Order) -> Self {
        Self(self.0 ^ order.frames() as u64)
    }

    /// Gives the physical address of the frame's first byte.
    pub const fn address(self) -> PhysAddr {
        PhysAddr(self.0 << PAGE_SHIFT)
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The power of two of a number of frames: order 0 is one frame, order 9 is 2 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Order(u8);

impl Order {
    /// One frame.
    pub const ZERO: Self = Self(0);

    /// Makes an order; `None` above [`MAX_ORDER`].
    pub const fn new(order: u8) -> Option<Self> {
        if order <= MAX_ORDER.0 { Some(Self(order)) } else { None }
    }

    /// Gives the exponent.
    pub const fn get(self) -> u8 {
        self.0
    }

    /// Gives the number of frames, 2 to the power of the order.
    pub const fn frames(self) -> u32 {
        1 << self.0
    }

    /// Gives the order above; `None` above [`MAX_ORDER`].
    pub const fn above(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }

    /// Walks the orders from 0 to this one, inclusive.
    pub fn up_to(self) -> impl DoubleEndedIterator<Item = Order> {
        (0..=self.0).map(Order)
    }
}

/// A set of orders for folios, of a mapping or a file; order 0 is always in it (Linux: `thp_anon=`, since 6.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Orders(u16);

impl Orders {
    /// Base pages only.
    pub const BASE: Self = Self(1);
    /// Base pages and 2 MiB pages.
    pub const HUGE: Self = Self(1 | 1 << HUGE_ORDER.get());

    /// All orders up to `order`, at most that of a 2 MiB page.
    pub const fn up_to(order: Order) -> Self {
        let largest = if order.get() < HUGE_ORDER.get() { order.get() } else { HUGE_ORDER.get() };
        Self((1 << (largest + 1)) - 1)
    }

    /// Order 0 and `order`, at most that of a 2 MiB page.
    pub const fn only(order: Order) -> Self {
        Self(1 | (Self::up_to(order).0 + 1) >> 1)
    }

    /// Adds `order`, at most that of a 2 MiB page.
    pub const fn with(self, order: Order) -> Self {
        Self(self.0 | Self::only(order).0)
    }

    /// Gives the largest order.
    pub fn largest(self) -> Order {
        self.downwards().next().unwrap_or(Order::ZERO)
    }

    /// Walks the orders, the largest one first.
    pub fn downwards(self) -> impl Iterator<Item = Order> {
        HUGE_ORDER.up_to().rev().filter(move |order| self.0 >> order.get() & 1 == 1)
    }
}

/// A half-open range of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FrameRange {
    /// First frame.
    pub start: Pfn,
    /// Number of frames.
    pub frames: u32,
}

impl FrameRange {
    /// Makes the range of `frames` frames from `start`; `None` if it would pass [`Pfn::LIMIT`].
    pub const fn new(start: Pfn, frames: u32) -> Option<Self> {
        if start.0 <= Pfn::LIMIT && frames as u64 <= Pfn::LIMIT - start.0 { Some(Self { start, frames }) } else { None }
    }

    /// Gives the first frame after the range.
    pub const fn end(self) -> Pfn {
        // Saturating: anybody can write down a range that passes the last number.
        Pfn(self.start.0.saturating_add(self.frames as u64))
    }

    /// Tells whether `pfn` is in the range.
    pub const fn contains(self, pfn: Pfn) -> bool {
        pfn.0.wrapping_sub(self.start.0) < self.frames as u64
    }

    /// Tells whether the two ranges share a frame.
    pub const fn overlaps(self, other: Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// Gives the frames that both ranges have; `None` if there are none.
    pub fn common(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let frames = self.end().0.min(other.end().0).checked_sub(start.0).filter(|&frames| frames > 0)?;
        Some(Self { start, frames: frames as u32 })
    }

    /// Walks the frames upwards.
    pub fn iter(self) -> impl DoubleEndedIterator<Item = Pfn> + ExactSizeIterator {
        (0..self.frames).map(move |frame| self.start.up(frame))
    }
}

/// A physical address in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PhysAddr(u64);

impl PhysAddr {
    /// Gives the address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A virtual address of a process, below 2^47 (the lower half of the x86-64 address space).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VirtAddr(u64);

impl VirtAddr {
    /// The first address outside of user space.
    pub const LIMIT: u64 = 1 << 47;
    /// Address 0.
    pub const ZERO: Self = Self(0);

    /// Makes an address; `None` at or above [`Self::LIMIT`].
    pub const fn new(address: u64) -> Option<Self> {
        if address < Self::LIMIT { Some(Self(address)) } else { None }
    }

    /// Gives the address in bytes.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Tells whether the address starts a 4 KiB page.
    pub const fn is_page_aligned(self) -> bool {
        self.0 & (PAGE_SIZE as u64 - 1) == 0
    }

    /// Gives the first address of the page that holds this one.
    pub const fn page(self) -> Self {
        Self(self.0 & !(PAGE_SIZE as u64 - 1))
    }

    /// Gives the virtual page number.
    pub const fn vpn(self) -> u64 {
        self.0 >> PAGE_SHIFT
    }

    /// Gives the address `pages` pages above. Unchecked: the caller stays within a checked range.
    pub const fn up(self, pages: u32) -> Self {
        Self(self.0 + ((pages as u64) << PAGE_SHIFT))
    }

    /// Gives the first address of the aligned range of 2^`order` pages that contains this one.
    pub const fn align_down(self, order: Order) -> Self {
        Self(self.0 & !((PAGE_SIZE as u64 * order.frames() as u64) - 1))
    }

    /// Gives the first address of the aligned 2 MiB range that contains this one.
    pub const fn align_down_huge(self) -> Self {
        self.align_down(HUGE_ORDER)
    }
}

impl fmt::Display for VirtAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A half-open, page-aligned range of virtual addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VirtRange {
    start: VirtAddr,
    pages: u32,
}

impl VirtRange {
    /// Makes the range of `pages` pages from `start`; `None` if `start` is not aligned, `pages` is 0, or the end passes
    /// user space.
    pub const fn new(start: VirtAddr, pages: u32) -> Option<Self> {
        let bytes = (pages as u64) << PAGE_SHIFT;
        if start.is_page_aligned() && pages > 0 && start.0 + bytes <= VirtAddr::LIMIT {
            Some(Self { start, pages })
        } else {
            None
        }
    }

    /// Gives the first address.
    pub const fn start(self) -> VirtAddr {
        self.start
    }

    /// Gives the first address after the range (may equal [`VirtAddr::LIMIT`]).
    pub const fn end(self) -> VirtAddr {
        self.start.up(self.pages)
    }

    /// Gives the number of pages.
    pub const fn pages(self) -> u32 {
        self.pages
    }

    /// Tells whether `address` is in the range.
    pub const fn contains(self, address: VirtAddr) -> bool {
        address.0 >= self.start.0 && address.0 < self.end().0
    }

    /// Gives the part that both ranges share.
    pub fn intersect(self, other: Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self { start, pages: ((end.0 - start.0) >> PAGE_SHIFT) as u32 })
    }

    /// Tells whether the two ranges share a page.
    pub fn overlaps(self, other: Self) -> bool {
        self.intersect(other).is_some()
    }

    /// Tells whether `other` is entirely inside.
    pub fn covers(self, other: Self) -> bool {
        self.intersect(other) == Some(other)
    }

    /// Gives the number of pages from the range's start to `address`, which is in the range or at its end.
    pub const fn offset_of(self, address: VirtAddr) -> u32 {
        ((address.0 - self.start.0) >> PAGE_SHIFT) as u32
    }

    /// Walks the addresses of the pages upwards.
    pub fn iter(self) -> impl ExactSizeIterator<Item = VirtAddr> {
        (0..self.pages).map(move |page| self.start.up(page))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_refuse_what_does_not_fit() {
        assert_eq!(VirtAddr::new(VirtAddr::LIMIT), None);
        let last = VirtAddr::new(VirtAddr::LIMIT - PAGE_SIZE as u64).unwrap();
        assert!(VirtRange::new(last, 1).is_some());
        assert!(VirtRange::new(last, 2).is_none());
        assert!(VirtRange::new(last, 0).is_none());
        assert!(VirtRange::new(VirtAddr::new(1).unwrap(), 1).is_none());
        let last = Pfn::new(Pfn::LIMIT - 1);
        assert!(FrameRange::new(last, 1).is_some());
        assert!(FrameRange::new(last, 2).is_none() && FrameRange::new(Pfn::new(u64::MAX), 1).is_none());
        assert_eq!(Order::new(11), None);
    }

    #[test]
    fn buddies_are_mutual_and_aligned() {
        let order = Order::new(3).unwrap();
        let pfn = Pfn::new(24);
        assert_eq!(pfn.buddy(order), Pfn::new(16));
        assert_eq!(pfn.buddy(order).buddy(order), pfn);
        assert_eq!(Pfn::new(31).align_down(order), pfn);
    }

    #[test]
    fn intersections() {
        let at = |start: u64, pages| VirtRange::new(VirtAddr::new(start << 12).unwrap(), pages).unwrap();
        assert_eq!(at(1, 4).intersect(at(3, 9)), Some(at(3, 2)));
        assert_eq!(at(1, 2).intersect(at(3, 1)), None);
        assert!(at(1, 4).covers(at(2, 3)) && !at(1, 4).covers(at(2, 4)));
    }

    #[test]
    fn orders_are_sets_that_have_order_0() {
        let orders = |set: Orders| set.downwards().map(Order::get).collect::<alloc::vec::Vec<_>>();
        let order = |order| Order::new(order).unwrap_or_default();
        assert_eq!((orders(Orders::BASE), orders(Orders::HUGE)), (alloc::vec![0], alloc::vec![9, 0]));
        assert_eq!(orders(Orders::up_to(order(2))), [2, 1, 0]);
        assert_eq!(orders(Orders::only(order(4)).with(order(2))), [4, 2, 0]);
        // No entry maps more than 2 MiB.
        assert_eq!((Orders::only(MAX_ORDER), Orders::up_to(MAX_ORDER)), (Orders::HUGE, Orders::up_to(HUGE_ORDER)));
        assert_eq!((Orders::only(Order::ZERO).largest(), Orders::HUGE.largest()), (Order::ZERO, HUGE_ORDER));
    }
}
