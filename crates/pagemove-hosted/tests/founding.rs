//! The founding case and the three traps of 2016: a driver's pages, mapped by processes, move.
mod common;

use common::*;
use pagemove::{
    frame::Marks,
    migrate::Mode,
    paging::Flags,
    report::Reason,
    space::{PageCache, Protection},
};
use pagemove_drivers::CharDevice;

#[test]
fn mapped_driver_pages_move() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 4);
        let file = CharDevice::new(&lab.engine, "chardev").open(8);
        let (one, two) = (lab.process(), lab.process());
        let at = shared(&one, file.clone(), 8, RW);
        // At another address, and to read only.
        anonymous(&two, 3);
        let seen = shared(&two, file.clone(), 8, Protection::READ);
        assert_ne!(at.start(), seen.start());
        for (page, address) in at.iter().enumerate() {
            one.store(address, 1000 + page as u64).unwrap();
        }
        for (page, address) in seen.iter().enumerate() {
            assert_eq!(two.load(address).unwrap(), 1000 + page as u64);
        }
        for (page, address) in at.iter().enumerate() {
            let before = pfn_at(&one, address);
            assert_eq!(pfn_at(&two, seen.start().up(page as u32)), before);
            lab.migrate(before, Mode::Sync).unwrap();
            let after = pfn_at(&one, address);
            assert_ne!(after, before);
            // The other process, and the driver, see the same frame, and what each writes.
            assert_eq!(pfn_at(&two, seen.start().up(page as u32)), after);
            assert_eq!(file.peek(page as u32), Some(after));
            assert_eq!(two.load(seen.start().up(page as u32)).unwrap(), 1000 + page as u64);
            one.store(address, 2000 + page as u64).unwrap();
            assert_eq!(file.read(page as u32, 0).unwrap(), 2000 + page as u64);
            file.write(page as u32, 1, 7).unwrap();
            assert_eq!(two.load(seen.start().up(page as u32)).unwrap(), 2000 + page as u64);
        }
        assert_eq!(file.moves(), 8);
        lab.validate();
    }
}

/// Trap 1: the reverse map and the driver's operations are found from the same frame, at the same time.
#[test]
fn trap_1_a_page_has_its_owner_and_its_reverse_map() {
    let lab = Lab::new(BOTH[0], 2);
    let file = CharDevice::new(&lab.engine, "chardev").open(1);
    let process = lab.process();
    let at = shared(&process, file.clone(), 1, RW);
    process.store(at.start(), 1).unwrap();
    for _ in 0..3 {
        let frame = lab.engine.physical().frame(pfn_at(&process, at.start()));
        assert_eq!(lab.engine.owners().get(frame.owner()).unwrap().name(), "chardev");
        assert!(lab.engine.reverse_maps().get(frame.key().rmap).is_some());
        lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
    }
}

/// Trap 2: a dirty page that stands in no page cache is unmapped, and its dirty mark is kept: in the entry over a move,
/// on the frame once the entry is gone.
#[test]
fn trap_2_dirty_entries_of_pages_outside_any_cache() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 2);
        let file = CharDevice::new(&lab.engine, "chardev").open(2);
        let process = lab.process();
        let at = shared(&process, file.clone(), 2, RW);
        process.store(at.start(), 1).unwrap();
        process.load(at.start().up(1)).unwrap();
        for page in [0, 1] {
            lab.migrate(pfn_at(&process, at.start().up(page)), Mode::Sync).unwrap();
        }
        let entries = [0, 1].map(|page| process.space().entry(at.start().up(page)));
        assert!(entries[0].has(Flags::DIRTY) && !entries[1].has(Flags::DIRTY));
        process.space().munmap(at).unwrap();
        let dirty = [0, 1].map(|page| {
            let frame = lab.engine.physical().frame(file.peek(page).unwrap());
            frame.state().marks().contains(Marks::DIRTY)
        });
        assert_eq!(dirty, [true, false]);
        lab.validate();
    }
}

/// Trap 3: a page is isolated while it's locked; nothing that happens to it during its move clears that, and it ends with the move.
#[test]
fn trap_3_the_isolation_mark_outlives_what_happens_to_the_page() {
    use pagemove::movable::{IsolationRun, MigrationRun, MovableOps, PutbackRun, Refusal};
    use std::sync::{Arc, Mutex};

    struct Watch {
        lab: Mutex<Option<Arc<pagemove::Engine>>>,
        seen: Mutex<Vec<bool>>,
    }
    impl Watch {
        fn look(&self, pfn: pagemove::units::Pfn, frozen: bool) {
            let engine = self.lab.lock().unwrap().clone().unwrap();
            let physical = engine.physical();
            // What a write-back and a device do to a page, while there is a reference to be had.
            assert_eq!(physical.get(pfn).is_none(), frozen);
            if !frozen {
                drop(physical.get(pfn).unwrap().start_writeback());
                drop(physical.get(pfn).unwrap().pin(true, "nic"));
                assert!(physical.frame(pfn).state().marks().contains(Marks::DIRTY));
            }
            self.seen.lock().unwrap().push(physical.frames().is_locked(pfn));
        }
    }
    impl MovableOps for Watch {
        fn name(&self) -> &str {
            "watch"
        }
        fn isolate(&self, run: &mut IsolationRun<'_>) {
            run.decide(|folio| {
                self.look(folio.pfn, false);
                Ok(())
            });
        }
        fn migrate(&self, run: &mut MigrationRun<'_>) {
            run.for_each(|folio| {
                self.look(folio.src(), true);
                Err(Refusal::No)
            });
        }
        fn putback(&self, run: &PutbackRun<'_>) {
            run.folios().for_each(|folio| self.look(folio.pfn, false));
        }
    }
    let lab = Lab::new(BOTH[0], 2);
    let watch = Arc::new(Watch { lab: Mutex::new(Some(lab.engine.clone())), seen: Mutex::default() });
    let registration = lab.engine.owners().register(watch.clone());
    let index = lab.engine.new_index(pagemove::frame::Kind::Driver, "watch");
    index.set_owner(&registration);
    let pfn = index.lock_or_insert(0).unwrap().pfn();
    assert_eq!(lab.migrate(pfn, Mode::Sync), Err(Reason::Refused));
    assert_eq!(*watch.seen.lock().unwrap(), [true, true, true]);
    assert!(!lab.engine.physical().frames().is_locked(pfn));
    *watch.lab.lock().unwrap() = None;
    lab.validate();
}

#[test]
fn page_cache_pages_move_mapped_and_unmapped() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 2);
        let file = PageCache::new(&lab.engine, "file", 4);
        let process = lab.process();
        let at = shared(&process, file.clone(), 2, RW);
        process.store(at.start(), 5).unwrap();
        drop(file.index().lock_or_insert(3).unwrap());
        for page in [0, 3] {
            let before = file.index().peek(page).unwrap();
            lab.migrate(before, Mode::Async).unwrap();
            assert_ne!(file.index().peek(page).unwrap(), before);
        }
        assert_eq!(process.load(at.start()).unwrap(), 5);
        lab.validate();
    }
}
