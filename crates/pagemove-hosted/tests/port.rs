//! What the machine is told: flushes with page sizes and changed tables, and roots that live until no flush is owed for them. And what
//! it may do: tables of its own in an address space's tree.
mod common;

use std::sync::{Arc, Mutex};

use common::*;
use pagemove::{
    folio::FrozenFolio,
    frame::Kind,
    migrate::{Mode, Options},
    paging::{Entry, Format},
    port::FlushRange,
    space::{Map, Orders, Protection, Source},
    units::{HUGE_ORDER, Order, VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, TableFormat};

/// The ranges of the flushes that `deed` makes first.
fn ranges_of(hooked: &Arc<Hooked>, deed: impl FnOnce()) -> Vec<FlushRange> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = seen.clone();
    hooked.before_next_flush(move |ranges| noted.lock().unwrap().extend_from_slice(ranges));
    deed();
    assert!(hooked.has_run());
    std::mem::take(&mut *seen.lock().unwrap())
}

fn anonymous_at(process: &Process, at: VirtAddr, pages: u32) -> VirtRange {
    let source = Source::Anonymous { orders: Orders::BASE };
    process.space().mmap(&Map { at: Some(at), pages, protection: RW, source }).unwrap()
}

/// (first page, pages, order, tables changed), by first page.
fn sorted(ranges: &[FlushRange]) -> Vec<(VirtAddr, u32, Order, bool)> {
    let all = ranges.iter().map(|range| (range.start, range.pages, range.order, range.tables_changed));
    let mut all: Vec<_> = all.collect();
    all.sort_by_key(|&(start, pages, order, tables)| (tables, start, pages, order));
    all
}

#[test]
fn flushes_tell_sizes_and_changed_tables() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 8);
    let process = lab.process();
    let at = huge(&process, 3 * 512);
    let start = at.start();
    // 4 KiB entries in the first 2 MiB, since a page of them is protected; the others by one entry each.
    (0..at.pages()).for_each(|page| process.store(start.up(page), 1).unwrap());
    process.space().mprotect(part(at, 5, 1), Protection::READ).unwrap();
    let root = process.space().table().space();
    let protects = ranges_of(&hooked, || process.space().clear_soft_dirty());
    assert!(protects.iter().all(|range| range.space == root && !range.tables_changed));
    let base: u32 = protects.iter().filter(|range| range.order == Order::ZERO).map(|range| range.pages).sum();
    let large: Vec<_> = protects.iter().filter(|range| range.order == HUGE_ORDER).collect();
    assert_eq!((base, large.len(), large[0].pages), (512, 1, 1024), "{protects:?}");
    let gone = sorted(&ranges_of(&hooked, || process.space().munmap(at).unwrap()));
    let entries = [(start, 512, Order::ZERO, false), (start.up(512), 1024, HUGE_ORDER, false)];
    assert_eq!(gone[..2], entries, "{gone:?}");
    // The lowest-level table of the first 2 MiB, and those above it but the root, which serve nothing else.
    let tables: Vec<u32> = gone[2..]
        .iter()
        .map(|&(.., pages, _, tables)| {
            assert!(tables);
            pages
        })
        .collect();
    assert_eq!(tables.len() as u32, TableFormat::LEVELS - 1, "{gone:?}");
    assert!((1..TableFormat::LEVELS).all(|level| tables.contains(&(1 << (9 * level)))), "{gone:?}");
}

/// A processor that kept a lowest-level table drops it when the table goes; pages mapped there later are found by the new one.
#[test]
fn no_processor_walks_through_a_table_that_is_gone() {
    on_both(4, |lab| {
        let process = lab.process();
        let at = huge(&process, 512);
        process.space().mprotect(part(at, 0, 1), Protection::READ).unwrap();
        process.space().munmap(at).unwrap();
        for round in 0..20 {
            let at = anonymous_at(&process, at.start(), 64);
            at.iter().for_each(|page| process.store(page, page.get() + round).unwrap());
            // Others take the frame of the table that goes.
            process.space().munmap(at).unwrap();
            let other = anonymous_at(&process, at.start().up(1 << 16), 200);
            other.iter().for_each(|page| process.store(page, u64::MAX).unwrap());
            let again = anonymous_at(&process, at.start(), 64);
            again.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), 0, "round {round}"));
            process.space().munmap(again).unwrap();
            process.space().munmap(other).unwrap();
        }
    });
}

/// A process may exit between the blocking of its entries and their flush; its root is freed after that. (The machine panics at a
/// flush of a root that it doesn't know.)
#[test]
fn a_root_is_kept_while_a_flush_is_owed() {
    for tlb in BOTH {
        let (lab, hooked) = Hooked::lab(tlb, 2);
        let process = lab.process();
        let at = anonymous(&process, 4);
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        let pages: Vec<_> = at.iter().map(|page| pfn_at(&process, page)).collect();
        let root = process.space().table().space();
        hooked.before_next_flush(move |ranges| {
            assert!(ranges.iter().all(|range| range.space == root));
            // Its own flush first.
            drop(process);
        });
        let outcome = lab.migrate_all(&pages, Options::new(Mode::SyncLight));
        assert_eq!((outcome.moved + outcome.stayed.len() as u64, hooked.has_run()), (4, true));
        lab.assert_all_free(1024);
    }
}

/// A kernel's own tables in the lower half, outside of the space's bounds: in the root, and in a table that serves the bounds too.
#[test]
fn tables_of_the_kernel_stay() {
    use std::sync::atomic::Ordering::Relaxed;
    on_both(4, |lab| {
        let process = lab.process();
        let physical = lab.physical();
        let own = [(); 2].map(|()| physical.alloc(order(0), Kind::Kernel).unwrap());
        for (own, value) in own.iter().zip([1 << 12 | 3, 2 << 12 | 3]) {
            own.words(0).iter().for_each(|word| word.store(value, Relaxed));
        }
        let at = anonymous(&process, 4);
        fill(&process, at);
        let table = process.space().table();
        let bounds = process.space().bounds();
        // Entries of a table of level 3 serve 512 GiB each, those of level 2 serve 1 GiB.
        let root = || raw::words(physical, table.root());
        let upper = || match TableFormat::LEVELS {
            3 => table.root(),
            _ => TableFormat::decode(root()[0].load(Relaxed), 3).pfn(),
        };
        let beyond = (bounds.end().get() >> 30) as usize + 7;
        assert!(beyond < 100, "the bounds end in the first 100 GiB");
        let entry = |own: &FrozenFolio<'_>| TableFormat::encode(Entry::table(own.pfn()), 2);
        root()[100].store(entry(&own[0]), Relaxed);
        raw::words(physical, upper())[beyond].store(entry(&own[1]), Relaxed);
        let is_there = || {
            assert_eq!(root()[100].load(Relaxed), entry(&own[0]));
            assert_eq!(raw::words(physical, upper())[beyond].load(Relaxed), entry(&own[1]));
            own.iter().all(|own| own.words(0).iter().all(|word| word.load(Relaxed) & 0xfff == 3))
        };
        process.space().munmap(at).unwrap();
        assert!(is_there());
        let again = anonymous(&process, 4);
        fill(&process, again);
        lab.migrate(upper(), Mode::Sync).unwrap();
        assert!(is_there());
        lab.migrate(table.root(), Mode::Sync).unwrap();
        assert!(is_there());
        assert_holds(&process, again, 0);
        process.space().exit();
        assert!(is_there());
        // The kernel takes its entries out, and the next change of mappings frees the table that they were in.
        raw::words(physical, upper())[beyond].store(0, Relaxed);
        root()[100].store(0, Relaxed);
        process.space().exit();
        assert_eq!(lab.count_kind(Kind::PageTable), 1);
    });
}
