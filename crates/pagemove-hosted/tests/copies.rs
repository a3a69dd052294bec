//! The kernel's accesses to a process's memory: bytes at any place and of any length, with faults, rights, marks and copy-on-write as
//! for the process's own, and while pages move.
//!
//! Varied: offset, length, source, order, TLB, rights, a moving page, a moving table. Not varied: several engines.
mod common;

use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{Mode, Options},
    paging::{Flags, Format},
    space::{FaultError, Orders, PageCache, Protection},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TableFormat};
use rand::RngExt;

fn sources(lab: &Lab, process: &Process) -> Vec<VirtRange> {
    vec![
        anonymous(process, 6),
        huge(process, 1024),
        shared(process, PageCache::new(&lab.engine, "file", 6), 6, RW),
        private(process, PageCache::new(&lab.engine, "copied", 6), 6),
        shared(process, stored_file(lab, 6).0, 6, RW),
        shared(process, CharDevice::new(&lab.engine, "chardev").open(6), 6, RW),
    ]
}

fn bytes_from(at: VirtAddr, offset: u64) -> VirtAddr {
    VirtAddr::new(at.get() + offset).unwrap()
}

/// Random pieces, written and read, against a copy.
#[test]
fn bytes_are_what_was_written() {
    on_both(12, |lab| {
        let process = lab.process();
        let mut rng = rng(5);
        for at in sources(lab, &process) {
            let length = 5 * 4096 + 100;
            let mut want = vec![0; length];
            process.space().read(at.start(), &mut want).unwrap();
            for _ in 0..60 {
                let first = rng.random_range(0..length);
                let last = (first + rng.random_range(1..9000)).min(length);
                let value: u8 = rng.random();
                let data: Vec<u8> = (first..last).map(|at| value.wrapping_add(at as u8)).collect();
                want[first..last].copy_from_slice(&data);
                process.space().write(bytes_from(at.start(), first as u64), &data).unwrap();
                let mut found = vec![0; length];
                process.space().read(at.start(), &mut found).unwrap();
                assert!(found == want, "{first}..{last}");
            }
            for word in (0..length - 8).step_by(8) {
                let loaded = process.load(bytes_from(at.start(), word as u64)).unwrap();
                assert_eq!(loaded.to_ne_bytes(), want[word..word + 8]);
            }
        }
        process.space().read(VirtAddr::new(8).unwrap(), &mut []).unwrap();
        lab.validate();
    });
}

#[test]
fn errors_tell_how_far_it_came() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 3);
        let mut bytes = vec![7; 3 * 4096];
        let space = process.space();
        space.mprotect(part(at, 1, 1), Protection::READ).unwrap();
        let error = space.write(bytes_from(at.start(), 10), &bytes[..8000]).unwrap_err();
        assert_eq!((error.done, error.cause), (4086, FaultError::Protection(at.start().up(1))));
        space.read(at.start(), &mut bytes).unwrap();
        assert!(bytes[..10].iter().all(|&byte| byte == 0) && bytes[10..4096].iter().all(|&byte| byte == 7));
        space.mprotect(part(at, 2, 1), Protection::empty()).unwrap();
        let error = space.read(at.start(), &mut bytes).unwrap_err();
        assert_eq!((error.done, error.cause), (8192, FaultError::Protection(at.start().up(2))));
        space.munmap(part(at, 2, 1)).unwrap();
        let error = space.read(at.start().up(1), &mut bytes).unwrap_err();
        assert_eq!((error.done, error.cause), (4096, FaultError::NotMapped(at.start().up(2))));
        let file = shared(&process, CharDevice::new(&lab.engine, "chardev").open(1), 2, RW);
        let error = space.write(file.start(), &bytes).unwrap_err();
        assert_eq!((error.done, error.cause), (4096, FaultError::BeyondEnd(file.start().up(1))));
        let last = VirtAddr::new(VirtAddr::LIMIT - 1).unwrap();
        assert!(space.write(last, &bytes).is_err_and(|error| error.done == 0));
    });
}

/// A store of the kernel is a store of the process: it copies what is shared, and marks.
#[test]
fn a_write_copies_and_marks() {
    on_both(10, |lab| {
        let parent = lab.process();
        for at in [anonymous(&parent, 2), huge(&parent, 512)] {
            fill(&parent, at);
            let child = parent.fork().unwrap();
            child.space().write(bytes_from(at.start(), 4090), &[9; 20]).unwrap();
            assert_holds(&parent, at, 0);
            assert_eq!(child.load(bytes_from(at.start(), 4096)).unwrap() & 0xff, 9);
            parent.space().clear_soft_dirty();
            let page = at.start().up(1);
            let mut byte = [0];
            parent.space().read(page, &mut byte).unwrap();
            assert!(!parent.space().entry(page).has(Flags::SOFT_DIRTY));
            parent.space().write(page, &byte).unwrap();
            assert!(parent.space().entry(page).has(Flags::SOFT_DIRTY | Flags::DIRTY | Flags::ACCESSED));
            assert_holds(&parent, at, 0);
        }
        lab.validate();
    });
}

/// The marks are set in entries that allow the access already, so that nobody faults.
#[test]
fn copies_mark_entries_as_a_cpu_does() {
    on_both(4, |lab| {
        let process = lab.process();
        let at = large(&process, 16, Orders::only(order(4)));
        // One fault maps all pages.
        process.load(at.start()).unwrap();
        let page = at.start().up(3);
        let marks = || process.space().entry(page).flags() & (Flags::ACCESSED | Flags::DIRTY);
        assert!(process.space().entry(page).has(Flags::PRESENT | Flags::WRITE) && !marks().contains(Flags::DIRTY));
        // Where faults set marks, all pages that one maps have the first.
        assert_eq!(marks().is_empty(), TableFormat::CPU_SETS_MARKS);
        process.space().read(page, &mut [0; 5]).unwrap();
        assert_eq!(marks(), Flags::ACCESSED);
        process.space().write(page, &[1; 5]).unwrap();
        assert_eq!(marks(), Flags::ACCESSED | Flags::DIRTY);
    });
}

/// Two threads write bytes of the same words while their pages and page tables move: no byte is lost.
#[test]
fn no_byte_is_lost_while_pages_move() {
    const PAGES: u32 = 8;
    for tlb in BOTH {
        let lab = &Lab::new(tlb, 6);
        let process = &lab.process();
        let at = anonymous(process, PAGES);
        fill(process, at);
        let over = &AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let is_movable = |pfn: &Pfn| lab.physical().frame(*pfn).state().is_movable();
                    let all: Vec<Pfn> = range(0, 6 * 512).iter().filter(is_movable).collect();
                    lab.migrate_all(&all, Options::new(Mode::Sync));
                }
            });
            let _end = SetAtEnd(over);
            std::thread::scope(|scope| {
                for thread in 0..2 {
                    scope.spawn(move || {
                        // Every second byte is this thread's.
                        let mut mine = vec![0; PAGES as usize * 2048];
                        let mut rng = rng(thread);
                        let at_byte = |number: usize| bytes_from(at.start(), number as u64 * 2 + thread);
                        (0..mine.len()).for_each(|number| process.space().write(at_byte(number), &[0]).unwrap());
                        for _ in 0..4000 {
                            let number = rng.random_range(0..mine.len());
                            let mut found = [0];
                            process.space().read(at_byte(number), &mut found).unwrap();
                            assert_eq!(found[0], mine[number]);
                            mine[number] = rng.random();
                            process.space().write(at_byte(number), &[mine[number]]).unwrap();
                        }
                        let mut all = vec![0; PAGES as usize * 4096];
                        process.space().read(at.start(), &mut all).unwrap();
                        assert!(all.iter().skip(thread as usize).step_by(2).eq(&mine));
                    });
                }
            });
        });
        assert_eq!(lab.count_kind(Kind::Anon), PAGES);
        lab.validate();
    }
}
