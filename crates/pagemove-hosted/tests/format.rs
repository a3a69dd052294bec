//! The format of page tables: what is in them is what their format says, and who sets the marks. The other tests run once for each
//! format too (`cargo xtask formats`); here is what differs.

mod common;

use common::*;
use pagemove::{
    paging::{Aarch64, Entry, Flags, Format, PageTable, Sv39, Sv48, X86_64},
    report::Counter,
    space::{AddressSpace, SpaceError},
    sync::Ordering,
    units::{HUGE_ORDER, Order, Orders, Pfn, VirtAddr, VirtRange},
};
use pagemove_hosted::TableFormat;

/// The chore says which format it wants; without it the tests run in that of x86-64.
#[test]
fn the_format_is_the_one_asked_for() {
    let asked = std::env::var("PAGEMOVE_FORMAT").unwrap_or_else(|_| X86_64::NAME.into());
    assert_eq!(TableFormat::NAME, asked);
}

/// Reads the leaf of `address` from the tables' words, as the manual of the format says.
fn read_leaf(lab: &Lab, root: Pfn, address: VirtAddr) -> (Entry, u32) {
    let mut table = root;
    for level in (0..TableFormat::LEVELS).rev() {
        let number = (address.vpn() >> (9 * level)) as usize % 512;
        let word = raw::words(lab.physical(), table)[number].load(Ordering::Acquire);
        assert_eq!(word & 1, 1, "an entry of level {level} is not present");
        let entry = TableFormat::decode(word, level);
        assert_eq!(TableFormat::encode(entry, level), word, "a word that no entry has");
        if level == 0 || entry.has(Flags::HUGE) {
            return (entry, level);
        }
        table = entry.pfn();
    }
    unreachable!("the lowest level has leaves only")
}

#[test]
fn the_tables_have_words_of_the_format() {
    on_both(4, |lab| {
        let process = lab.process();
        let base = anonymous(&process, 3);
        let huge = large(&process, 512, Orders::only(HUGE_ORDER));
        fill(&process, base);
        process.load(huge.start()).unwrap();
        let root = process.space().table().root();
        for (address, level) in base.iter().map(|address| (address, 0)).chain([(huge.start(), 1)]) {
            assert_eq!(read_leaf(lab, root, address), (process.space().entry(address), level));
        }
    });
}

/// A store to a page that was only loaded from sets the dirty mark: the CPU does it, or a fault.
#[test]
fn marks_are_set_by_the_cpu_or_by_a_fault() {
    for order in [Order::ZERO, HUGE_ORDER] {
        on_both(4, |lab| {
            let process = lab.process();
            let at = large(&process, 512, Orders::only(order));
            process.load(at.start()).unwrap();
            let entry = process.space().entry(at.start());
            assert!(entry.has(Flags::ACCESSED | Flags::WRITE) && !entry.has(Flags::DIRTY));
            let faults = || lab.physical().counters().get(Counter::Pgfault);
            let before = faults();
            process.store(at.start(), 1).unwrap();
            assert_eq!(faults() - before, u64::from(!TableFormat::CPU_SETS_MARKS));
            assert!(process.space().entry(at.start()).has(Flags::DIRTY));
            // The first store brings both marks at once.
            let other = large(&process, 512, Orders::only(order));
            let before = faults();
            process.store(other.start(), 1).unwrap();
            assert_eq!(faults() - before, 1);
            assert!(process.space().entry(other.start()).has(Flags::ACCESSED | Flags::DIRTY));
        });
    }
}

fn ends_at<F: Format>(lab: &Lab, end: u64) {
    assert_eq!(PageTable::<F>::LIMIT, end, "{}", F::NAME);
    let bounds = |first, pages| VirtRange::new(VirtAddr::new(first).unwrap(), pages).unwrap();
    let within = AddressSpace::<F>::with_format(&lab.engine, bounds(end - (2 << 20), 512)).unwrap();
    assert_eq!(within.bounds().end().get(), end);
    if end < VirtAddr::LIMIT {
        let beyond = AddressSpace::<F>::with_format(&lab.engine, bounds(end - (2 << 20), 513));
        assert!(matches!(beyond, Err(SpaceError::BadRange { .. })));
    }
}

#[test]
fn an_address_space_has_only_addresses_of_its_format() {
    on_both(1, |lab| {
        ends_at::<X86_64>(lab, 1 << 47);
        ends_at::<Aarch64>(lab, 1 << 47);
        ends_at::<Sv39>(lab, 1 << 38);
        ends_at::<Sv48>(lab, 1 << 47);
    });
}
