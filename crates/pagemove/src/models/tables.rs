//! Page tables: a thread that sees an entry also sees what it points to, on every level.

use alloc::sync::Arc;

use loom::{sync::Mutex, thread};

use super::{
    all,
    machine::{Guarded, Model, Waiting},
};
use crate::{
    folio::Migration,
    frame::{Key, Kind},
    paging::{Entry, Flags, PageTable, Root, Translation, Walk},
    port::SpaceId,
    sync::Ordering,
    units::{HUGE_ORDER, Order, Pfn, VirtAddr},
};

/// A frame outside of every model's memory, so that nobody reads its entry in the frame table.
const PAGE: Pfn = Pfn::new(1000);

fn table() -> Arc<PageTable> {
    let engine = Model::polling().boot_larger();
    Arc::new(PageTable::new(Root::new(engine.physical().clone(), SpaceId(1)).expect("a table"), 0))
}

/// A table for the small pages of [`PAGE`], of which models look at number 3 only.
fn small(shared: &PageTable) -> Pfn {
    let lower = shared.new_leaf_table(address(0)).expect("a frame");
    lower.words(0)[3].store(Entry::present(PAGE.up(3), Flags::USER).bits(), Ordering::Relaxed);
    lower.into_raw()
}

fn address(page: u32) -> VirtAddr {
    VirtAddr::new(1 << 30).expect("an address").up(page)
}

#[test]
fn a_walk_sees_what_a_fault_filled() {
    all("page tables: a fault that adds all levels against a walk", || {
        let shared = Arc::new((table(), Guarded::new()));
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            let Some(slot) = other.0.slot(address(0)) else { return };
            if slot.load().is_present() {
                assert_eq!(other.1.read(), 1, "the page's contents are not seen");
            }
        });
        let slot = shared.0.slot_or_create(address(0)).expect("enough frames");
        // After the tables, since publishing these would order the store as well.
        shared.1.write(1);
        slot.swap_if(Entry::NONE, Entry::present(PAGE, Flags::USER)).expect("nobody else fills it");
        cpu.join().expect("no panic");
    });
}

#[test]
fn two_faults_add_the_same_tables() {
    all("page tables: two faults that add the same tables", || {
        let shared = table();
        let _first = shared.slot_or_create(address(600)).expect("enough frames");
        let other = shared.clone();
        let fault = thread::spawn(move || {
            let slot = other.slot_or_create(address(1)).expect("enough frames");
            slot.swap_if(Entry::NONE, Entry::present(PAGE, Flags::USER)).expect("an entry of its own");
        });
        let slot = shared.slot_or_create(address(0)).expect("enough frames");
        slot.swap_if(Entry::NONE, Entry::present(PAGE, Flags::USER)).expect("an entry of its own");
        fault.join().expect("no panic");
        for page in 0..2 {
            let entry = shared.slot(address(page)).map(|slot| slot.load());
            assert_eq!(entry, Some(Entry::present(PAGE, Flags::USER)), "a table that others use was replaced");
        }
    });
}

/// The split of a 2 MiB entry: a walk finds the large page or the small one, never a hole.
#[test]
fn a_walk_sees_a_table_filled() {
    all("page tables: a split against a walk", || {
        let shared = table();
        let slot = shared.huge_slot(address(0)).expect("enough frames");
        let huge = Entry::present(PAGE, Flags::USER | Flags::HUGE);
        slot.swap_if(Entry::NONE, huge).expect("nobody else fills it");
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            let mut seen = None;
            other.for_each_leaf(crate::units::VirtRange::new(address(3), 1).expect("a range"), |_, slot| {
                seen = Some(slot.load().is_present());
            });
            assert_eq!(seen, Some(true), "a hole in a mapping");
            let slot = other.slot(address(3)).expect("a leaf");
            let mut entry = slot.load();
            if entry.is_none() {
                // The entry of the large page was found, and has become a table since.
                assert_eq!(slot.order(), HUGE_ORDER);
                let slot = other.slot(address(3)).expect("a leaf");
                assert_eq!(slot.order(), Order::ZERO);
                entry = slot.load();
            }
            assert!(entry.is_present(), "a hole in a mapping");
        });
        slot.swap_if(huge, Entry::table(small(&shared))).expect("nobody else changes it");
        cpu.join().expect("no panic");
    });
}

/// A CPU that reads a 2 MiB migration entry during its split never takes the new table for the page.
#[test]
fn a_table_is_not_taken_for_a_large_page() {
    all("page tables: a split in mid-move against a translation", || {
        let shared = table();
        let slot = shared.huge_slot(address(0)).expect("enough frames");
        let huge = Entry::present(PAGE, Flags::USER | Flags::HUGE);
        slot.swap_if(Entry::NONE, huge.blocked()).expect("nobody else fills it");
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            #[allow(unsafe_code)]
            // SAFETY: no table is freed in this model.
            let found = unsafe { other.translate(address(3), Walk::Load) };
            assert!(found.is_none_or(|found| (found.first, found.order) == (PAGE.up(3), Order::ZERO)), "{found:?}");
        });
        slot.swap_if(huge.blocked(), Entry::table(small(&shared))).expect("nobody else changes it");
        cpu.join().expect("no panic");
    });
}

/// Taking an entry out against the CPU's marks: one comes first, and the taker sees all stores before.
#[test]
fn taking_out_sees_the_stores() {
    all("page tables: taking an entry out against a store through it", || {
        let shared = Arc::new((table(), Guarded::new()));
        let slot = shared.0.slot_or_create(address(0)).expect("enough frames");
        let entry = Entry::present(PAGE, Flags::USER | Flags::WRITE);
        slot.swap_if(Entry::NONE, entry).expect("nobody else fills it");
        let other = shared.clone();
        let cpu = thread::spawn(move || {
            let slot = other.0.slot(address(0)).expect("a leaf");
            other.1.write(1);
            // The CPU checks the rights and sets the mark in one step; the mark says that the store is done.
            slot.swap_if(entry, entry.with(Flags::DIRTY)).is_ok()
        });
        let taken = slot.take();
        if taken.has(Flags::DIRTY) {
            assert_eq!(shared.1.read(), 1, "a store is not seen by the thread that took its entry");
        }
        cpu.join().expect("no panic");
    });
}

/// A CPU's walk, during which no flush ends.
type Walking = Arc<Mutex<()>>;

/// A tree with a page, on a machine whose flush waits for the CPU's walk.
fn mapped() -> (Arc<PageTable>, Walking) {
    let walking = Walking::default();
    let flush = walking.clone();
    let machine = Model::with(Waiting::Polling, move || drop(flush.lock().expect("no panic")));
    let engine = machine.boot_larger();
    let tree = Arc::new(PageTable::new(Root::new(engine.physical().clone(), SpaceId(1)).expect("a table"), 0));
    let slot = tree.slot_or_create(address(0)).expect("enough frames");
    slot.swap_if(Entry::NONE, Entry::present(PAGE, Flags::USER | Flags::WRITE)).expect("nobody else fills it");
    (tree, walking)
}

/// A CPU that stores, by its own walk.
fn storing((tree, walking): &(Arc<PageTable>, Walking)) -> thread::JoinHandle<Option<Translation>> {
    let (tree, walking) = (tree.clone(), walking.clone());
    thread::spawn(move || {
        let _walking = walking.lock().expect("no panic");
        #[allow(unsafe_code)]
        // SAFETY: a flush and a move of the root wait for the lock.
        unsafe {
            tree.translate(address(0), Walk::Store)
        }
    })
}

/// Moves the table with key `index` from `src`, and spoils the new one before and the old one afterwards: both may have any
/// contents in their other uses.
fn move_table(tree: &PageTable, src: Pfn, index: u32) {
    let dst = tree.physical().alloc(Order::ZERO, Kind::PageTable).expect("a frame").into_raw();
    let other = Flags::USER | Flags::WRITE | Flags::ACCESSED | Flags::DIRTY;
    let other = Entry::present(PAGE.up(100), other).bits();
    tree.physical().ram_words(dst).iter().take(4).for_each(|word| word.store(other, Ordering::Relaxed));
    let mut moves = [Migration::new(src, dst, Key { rmap: 0, index }, Order::ZERO)];
    tree.move_tables(&mut moves);
    assert!(!moves[0].stays(), "nobody else moves it");
    tree.physical().ram_words(src).iter().take(4).for_each(|word| word.store(u64::MAX, Ordering::Relaxed));
}

/// The lowest-level table: a walk comes before and its mark is copied, or it faults, or it finds the copy.
#[test]
fn a_table_that_moves_loses_no_mark() {
    all("page tables: a move of a table against a store's walk", || {
        let shared = mapped();
        let cpu = storing(&shared);
        let tree = &shared.0;
        let src = tree.leaf_table(address(0)).expect("a table");
        move_table(tree, src, (address(0).vpn() >> 9) as u32);
        let found = cpu.join().expect("no panic");
        assert_ne!(tree.leaf_table(address(0)), Some(src), "it didn't move");
        let entry = tree.slot(address(0)).expect("a leaf").load();
        assert_eq!(entry.pfn(), PAGE);
        if let Some(found) = found {
            assert_eq!(found.first, PAGE);
            assert!(entry.has(Flags::DIRTY), "a mark was lost");
        }
    });
}

/// The top-level table: no walk faults, and none uses the old one afterwards.
#[test]
fn a_root_that_moves_makes_no_walk_fault() {
    all("page tables: a move of the root against a store's walk", || {
        let shared = mapped();
        let cpu = storing(&shared);
        let tree = &shared.0;
        move_table(tree, tree.root(), 3 << 28);
        let found = cpu.join().expect("no panic").expect("a walk faulted");
        assert_eq!(found.first, PAGE);
        assert!(tree.slot(address(0)).expect("a leaf").load().has(Flags::DIRTY), "a mark was lost");
    });
}
