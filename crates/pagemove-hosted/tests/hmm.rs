//! Cases of Linux's selftest `hmm-tests` again: a device with a page table of its own sees pages, alone or together with
//! processes, by a reverse map that it brings; they move for all, whatever the device or a process does meanwhile.
//!
//! | of `hmm-tests` | here |
//! | --- | --- |
//! | open_close, anon_read, anon_write and their kin, snapshot | not cases of a move: a device sees its driver's pages, not any process's addresses |
//! | migrate to device memory and back | both sides are RAM here: a page moves from frame to frame, and the device follows |
//! | exclusive, exclusive_mprotect, exclusive_cow | the engine has no exclusive entries; what is left is that no move comes between a device's read and write: [`hmm_exclusive`] |
//! | compound, anon_write_huge, hmm2 with two devices | a driver's pages are base pages, and a page has one reverse map |
//! | cow_in_device | a device maps its driver's pages, which are shared, never copied on write |
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    frame::Class,
    migrate::{Mode, Options},
    movable::Refusal,
    report::{Counter, Reason},
    units::Pfn,
};
use pagemove_hosted::{TlbKind, enter_cpu};
use rand::{RngExt, seq::SliceRandom};

const PAGES: u32 = 4;

/// A device whose table maps all pages of its driver; page `n` holds `n + 7`.
fn device(lab: &Lab) -> (Arc<Device>, Arc<Accelerator>) {
    let device = Device::open(lab);
    let accelerator = Accelerator::attach(&lab.engine, &device.driver.index);
    for page in 0..PAGES {
        device.fill(page, u64::from(page) + 7);
        accelerator.map(page);
    }
    (device, accelerator)
}

#[test]
fn hmm_migrate_pages_that_only_a_device_sees() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        for page in 0..PAGES {
            let before = device.peek(page);
            lab.migrate(before, Mode::Async).unwrap();
            let after = device.peek(page);
            assert_ne!(after, before);
            assert_eq!(accelerator.entry(page), Some(DeviceEntry::Runs(after)));
            assert_eq!(accelerator.load(page, 0), Some(u64::from(page) + 7));
            assert_eq!(lab.engine.physical().frame(after).maps(), 1);
        }
        assert_eq!(accelerator.stops(), u64::from(PAGES));
    });
}

#[test]
fn hmm_migrate_and_fault() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let process = lab.process();
        let at = shared(&process, device.clone(), PAGES, RW);
        for (page, address) in (0..).zip(at.iter()) {
            process.store(address, 40 + u64::from(page)).unwrap();
            let before = pfn_at(&process, address);
            assert_eq!(lab.engine.physical().frame(before).maps(), 2);
            lab.migrate(before, Mode::Sync).unwrap();
            assert_ne!(pfn_at(&process, address), before);
            assert_eq!(accelerator.load(page, 0), Some(40 + u64::from(page)));
            process.store(address, 50).unwrap();
            assert_eq!(accelerator.add(page, 0, 1), Some(50));
            assert_eq!(process.load(address).unwrap(), 51);
        }
    });
}

#[test]
fn hmm_migrate_refused_leaves_the_device_running_where_it_was() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let before = device.peek(0);
        for (stage, mode) in [(Stage::Copy, Mode::Sync), (Stage::Migrate, Mode::Async)] {
            device.driver.refuse(stage, Refusal::No);
            assert_eq!(lab.migrate(before, mode), Err(Reason::Refused));
            assert_eq!(accelerator.entry(0), Some(DeviceEntry::Runs(before)));
            let frame = lab.engine.physical().frame(before);
            assert_eq!((frame.maps(), frame.refs()), (1, 2));
        }
    });
}

/// What a device maps outside of a move counts as mapped at once, so that a policy or a census knows.
#[test]
fn hmm_pages_that_only_a_device_maps_count_as_mapped() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let (device, accelerator) = device(&lab);
    let class = || lab.engine.physical().frame(device.peek(0)).state().class();
    assert_eq!(class(), Class::DriverMapped);
    assert!(accelerator.unmap(0));
    assert_eq!(class(), Class::DriverUnmapped);
    lab.validate();
}

/// Device, process and driver count in words of their own while the pages move: no count is lost.
#[test]
fn hmm_migrate_while_device_and_process_write() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let process = lab.process();
        let at = shared(&process, device.clone(), PAGES, RW);
        let over = AtomicBool::new(false);
        let counted = thread::scope(|scope| {
            let of_device = scope.spawn(|| {
                let _failed = SetAtEnd(&over);
                let mut turns = 0;
                while !over.load(Ordering::Relaxed) {
                    for page in 0..PAGES {
                        assert_eq!(accelerator.add(page, 1, 1), Some(turns));
                    }
                    turns += 1;
                }
                turns
            });
            let of_process = scope.spawn(|| {
                enter_cpu(1);
                let _failed = SetAtEnd(&over);
                let mut turns = 0;
                while !over.load(Ordering::Relaxed) {
                    for page in at.iter() {
                        assert_eq!(process.load(word(page, 2)).unwrap(), turns);
                        process.store(word(page, 2), turns + 1).unwrap();
                    }
                    turns += 1;
                }
                turns
            });
            let counters = lab.engine.physical().counters();
            let end = SetAtEnd(&over);
            while counters.get(Counter::PgmigrateSuccess) < 400 && !over.load(Ordering::Relaxed) {
                for mode in MODES {
                    let pages: Vec<Pfn> = (0..PAGES).map(|page| device.peek(page)).collect();
                    lab.migrate_all(&pages, Options::new(mode));
                }
            }
            drop(end);
            [of_device.join().unwrap(), of_process.join().unwrap()]
        });
        for (page, address) in (0..).zip(at.iter()) {
            assert_eq!(process.load(word(address, 1)).unwrap(), counted[0]);
            assert_eq!(accelerator.load(page, 2), Some(counted[1]));
        }
    });
}

/// Who sees the page lets go of it in the midst of its move.
#[test]
fn hmm_migrate_release() {
    for tlb in BOTH {
        for stage in Stage::ALL {
            for (device_goes, process_goes) in [(true, false), (false, true), (true, true)] {
                let lab = Lab::new(tlb, 2);
                {
                    let (device, accelerator) = device(&lab);
                    let process = lab.process();
                    let at = shared(&process, device.clone(), PAGES, RW);
                    process.store(at.start(), 3).unwrap();
                    let (other, space) = (accelerator.clone(), process.space().clone());
                    device.driver.during_next(stage, move || {
                        if device_goes {
                            assert!(other.unmap(0));
                        }
                        if process_goes {
                            space.exit();
                        }
                    });
                    lab.migrate(device.peek(0), Mode::Sync).unwrap();
                    let frame = lab.engine.physical().frame(device.peek(0));
                    let left = u32::from(!device_goes) + u32::from(!process_goes);
                    assert_eq!((frame.maps(), frame.refs()), (left, left + 1), "{stage:?}");
                    assert_eq!(accelerator.load(0, 0), (!device_goes).then_some(3));
                    lab.validate();
                }
                lab.assert_all_free(1024);
            }
        }
    }
}

#[test]
fn hmm_migrate_shared() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let parent = lab.process();
        let at = shared(&parent, device.clone(), PAGES, RW);
        at.iter().for_each(|page| parent.store(page, 5).unwrap());
        let child = parent.fork().unwrap();
        for (mode, process) in MODES.into_iter().zip([&parent, &child, &parent]) {
            let pages: Vec<Pfn> = (0..PAGES).map(|page| device.peek(page)).collect();
            assert_eq!(lab.engine.physical().frame(pages[0]).maps(), 3);
            assert_eq!(lab.migrate_all(&pages, Options::new(mode)).moved, u64::from(PAGES));
            let value = process.load(at.start()).unwrap() + 1;
            process.store(at.start(), value).unwrap();
            let seen = [parent.load(at.start()).unwrap(), child.load(at.start()).unwrap()];
            assert_eq!((seen, accelerator.load(0, 0)), ([value; 2], Some(value)));
        }
    });
}

/// One batch of pages that only the device sees, only a process, both, and nobody.
#[test]
fn hmm_mixed_map() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        assert!(accelerator.unmap(1) && accelerator.unmap(3));
        let process = lab.process();
        let at = shared(&process, device.clone(), PAGES, RW);
        for page in [1, 2] {
            process.store(at.start().up(page), 20 + u64::from(page)).unwrap();
        }
        for mode in MODES {
            let before: Vec<Pfn> = (0..PAGES).map(|page| device.peek(page)).collect();
            assert_eq!(lab.migrate_all(&before, Options::new(mode)).moved, u64::from(PAGES));
            for page in 0..PAGES {
                let pfn = device.peek(page);
                assert_ne!(pfn, before[page as usize]);
                let runs = (page % 2 == 0).then_some(DeviceEntry::Runs(pfn));
                assert_eq!(accelerator.entry(page), runs);
                let seen = [1, 2].contains(&page).then_some(pfn);
                let entry = process.space().entry(at.start().up(page));
                assert_eq!(entry.is_present().then(|| entry.pfn()), seen);
                let maps = u32::from(runs.is_some()) + u32::from(seen.is_some());
                assert_eq!(lab.engine.physical().frame(pfn).maps(), maps);
            }
        }
        assert_eq!((accelerator.load(0, 0), accelerator.load(2, 0)), (Some(7), Some(22)));
        assert_eq!((process.load(at.start().up(1)).unwrap(), process.load(at.start().up(3)).unwrap()), (21, 10));
    });
}

#[test]
fn hmm_double_map() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let process = lab.process();
        let [one, two] = [0, 1].map(|_| shared(&process, device.clone(), PAGES, RW));
        for (turn, mode) in (1..).zip(MODES) {
            process.store(one.start(), turn).unwrap();
            assert_eq!(process.load(two.start()).unwrap(), turn);
            let before = device.peek(0);
            assert_eq!(lab.engine.physical().frame(before).maps(), 3);
            lab.migrate(before, mode).unwrap();
            let now = [one, two].map(|at| pfn_at(&process, at.start()));
            assert_eq!(now, [device.peek(0); 2]);
            assert_ne!(now[0], before);
            assert_eq!(accelerator.add(0, 0, 100), Some(turn));
            assert_eq!(process.load(two.start()).unwrap(), turn + 100);
        }
    });
}

/// No move comes between a device's read and its write while it holds the page.
#[test]
fn hmm_exclusive() {
    let (lab, hooked) = Hooked::lab(TlbKind::Soft, 2);
    {
        let (device, accelerator) = device(&lab);
        let process = lab.process();
        let at = shared(&process, device.clone(), PAGES, RW);
        process.store(at.start(), 1).unwrap();
        for mode in MODES {
            let before = device.peek(0);
            let held = device.driver.index.lock_page(0).unwrap();
            let read = held.words(0)[0].load(Ordering::SeqCst);
            thread::scope(|scope| {
                let waits = hooked.waits();
                let mover = scope.spawn(|| lab.migrate(before, mode));
                if mode == Mode::Async {
                    assert_eq!(mover.join().unwrap(), Err(Reason::Locked));
                    held.words(0)[0].store(read * 2, Ordering::SeqCst);
                    drop(held);
                    return;
                }
                while hooked.waits() == waits {
                    thread::yield_now();
                }
                assert_eq!(device.peek(0), before);
                held.words(0)[0].store(read * 2, Ordering::SeqCst);
                drop(held);
                assert_eq!(mover.join().unwrap(), Ok(()));
                assert_ne!(device.peek(0), before);
            });
            assert_eq!((process.load(at.start()).unwrap(), accelerator.load(0, 0)), (read * 2, Some(read * 2)));
        }
    }
    lab.assert_all_free(1024);
}

/// A process's pin holds a page for the device, too.
#[test]
fn hmm_gup_test() {
    on_both(2, |lab| {
        let (device, accelerator) = device(lab);
        let process = lab.process();
        let at = shared(&process, device.clone(), PAGES, RW);
        let pins = process.space().pin(part(at, 0, 1), true, "nic").unwrap();
        for mode in MODES {
            assert_eq!(lab.migrate(pins[0].pfn(), mode), Err(Reason::Pinned));
        }
        pins[0].words(0)[0].store(70, Ordering::SeqCst);
        assert_eq!(accelerator.add(0, 0, 1), Some(70));
        assert_eq!(process.load(at.start()).unwrap(), 71);
        drop(pins);
        lab.migrate(device.peek(0), Mode::Async).unwrap();
        assert_eq!(accelerator.load(0, 0), Some(71));
    });
}

/// The ends of all who see the pages, in a random order, while they move at full speed.
#[test]
fn hmm_teardown() {
    for (tlb, seed) in [(TlbKind::Soft, 1), (TlbKind::Soft, 2), (TlbKind::Soft, 3), (TlbKind::Host, 4)] {
        println!("{tlb:?} TLB, seed {seed}");
        // More memory than the mover sets aside, or allocations would find none.
        let lab = Lab::new(tlb, 4);
        let mut rng = rng(seed);
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                let _failed = SetAtEnd(&over);
                let all: Vec<Pfn> = range(0, 2048).iter().collect();
                while !over.load(Ordering::Relaxed) {
                    lab.migrate_all(&all, Options::new(Mode::SyncLight));
                }
            });
            let _end = SetAtEnd(&over);
            for _ in 0..60 {
                let (device, accelerator) = device(&lab);
                let parent = lab.process();
                let at = shared(&parent, device.clone(), PAGES, RW);
                at.iter().for_each(|page| parent.store(page, 9).unwrap());
                let child = parent.fork().unwrap();
                let index = device.driver.index.clone();
                let page = rng.random_range(0..PAGES);
                let mut ends: Vec<Box<dyn FnOnce() + '_>> = vec![
                    Box::new(move || drop(parent)),
                    Box::new(move || drop(child)),
                    Box::new(|| accelerator.close()),
                    Box::new(move || assert!(index.remove(page))),
                    Box::new(|| device.registration.unregister()),
                ];
                ends.shuffle(&mut rng);
                ends.into_iter().for_each(|end| end());
            }
        });
        lab.assert_all_free(2048);
    }
}
