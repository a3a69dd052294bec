//! Stressors of stress-ng and of mmtests again, short, with every value checked, while everything moves.
//!
//! | not here | why |
//! | --- | --- |
//! | `memhotplug` | no memory is unplugged yet |
//! | mmtests `usemem-stress-numa-compact` | writers beside movers and a compactor are in `fire.rs` |
mod common;

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    migrate::{Mode, Options},
    paging::Flags,
    report::{Counter, Reason},
    space::{FaultError, Map, PageCache, Protection, Source},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind, enter_cpu};
use rand::{RngExt, seq::SliceRandom};

const PAGES: u32 = 32;

/// Does `work` beside a thread that moves whatever moves, until that much has moved; `work` gets the number of its turn.
fn while_all_moves(lab: &Lab, moves: u64, mut work: impl FnMut(u64)) {
    let over = AtomicBool::new(false);
    let frames = lab.engine.physical().frames().len();
    let moved = || lab.engine.physical().counters().get(Counter::PgmigrateSuccess);
    let end_at = moved() + moves;
    thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            enter_cpu(3);
            let _failed = SetAtEnd(over);
            let all: Vec<Pfn> = range(0, frames).iter().collect();
            let mut turn = 0;
            while !over.load(Ordering::Relaxed) {
                for pages in all.chunks(256) {
                    lab.migrate_all(pages, Options::new(MODES[turn % 3]));
                    turn += 1;
                }
            }
        });
        let _end = SetAtEnd(over);
        let mut turn = 0;
        while moved() < end_at || turn < 8 {
            assert!(!over.load(Ordering::Relaxed), "the mover has failed");
            work(turn);
            turn += 1;
        }
    });
    lab.validate();
}

fn seeded(test: impl Fn(&Lab, u64)) {
    for (tlb, seed) in [(TlbKind::Soft, 1), (TlbKind::Soft, 2), (TlbKind::Host, 3)] {
        println!("{tlb:?} TLB, seed {seed}");
        // More memory than the mover sets aside, or allocations would find none.
        let lab = Lab::new(tlb, 4);
        test(&lab, seed);
        lab.assert_all_free(2048);
    }
}

/// Pages to random nodes, with a pin now and then.
#[test]
fn stress_ng_numa() {
    for (tlb, seed) in [(TlbKind::Soft, 1), (TlbKind::Host, 2)] {
        println!("{tlb:?} TLB, seed {seed}");
        let nodes = Nodes::new(tlb, 2);
        let mut rng = rng(seed);
        {
            let process = nodes.lab.process();
            let at = anonymous(&process, PAGES);
            let mut holds = [0; PAGES as usize];
            for turn in 1..200 {
                let page = rng.random_range(0..PAGES);
                let address = at.start().up(page);
                assert_eq!(process.load(address).unwrap(), holds[page as usize]);
                process.store(address, turn).unwrap();
                holds[page as usize] = turn;
                let pins = rng.random_bool(0.2).then(|| process.space().pin(part(at, page, 1), true, "nic").unwrap());
                let before = pfn_at(&process, address);
                let node = rng.random_range(0..2);
                let outcome = nodes.move_to(node, &[before], MODES[turn as usize % 3]);
                if pins.is_some() {
                    assert_eq!(outcome.stayed, [(before, Reason::Pinned)]);
                    assert_eq!(pfn_at(&process, address), before);
                } else {
                    assert_eq!((outcome.moved, nodes.of(pfn_at(&process, address))), (1, node));
                }
            }
            nodes.lab.validate();
        }
        nodes.lab.assert_all_free(4 * 512);
    }
}

/// The pages of a mapping change places with each other by mremap.
#[test]
fn stress_ng_pagemove() {
    seeded(|lab, seed| {
        let mut rng = rng(seed);
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        for at in [anonymous(&process, PAGES), shared(&process, device, PAGES, RW)] {
            at.iter().enumerate().for_each(|(number, page)| process.store(page, number as u64).unwrap());
            let mut holds: Vec<u64> = (0..u64::from(PAGES)).collect();
            let spare = at.start().up(4096);
            while_all_moves(lab, 200, |_| {
                let (one, two) = (rng.random_range(0..PAGES), rng.random_range(0..PAGES));
                let place = |page| at.start().up(page);
                let moved = |from: VirtAddr, to: VirtAddr| {
                    let from = VirtRange::new(from, 1).unwrap();
                    assert_eq!(process.space().mremap(from, 1, Some(to)).unwrap().start(), to);
                };
                if one != two {
                    moved(place(one), spare);
                    moved(place(two), place(one));
                    moved(spare, place(two));
                    holds.swap(one as usize, two as usize);
                }
                for page in [one, two, rng.random_range(0..PAGES)] {
                    assert_eq!(process.load(place(page)).unwrap(), holds[page as usize], "seed {seed}");
                }
            });
            at.iter().zip(&holds).for_each(|(page, &value)| assert_eq!(process.load(page).unwrap(), value));
        }
    });
}

/// A file's pages mapped in any order, one mapping each.
#[test]
fn stress_ng_remap() {
    seeded(|lab, seed| {
        let mut rng = rng(seed);
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", PAGES);
        let straight = shared(&process, file.clone(), PAGES, RW);
        let place = straight.start().up(4096);
        let mut order: Vec<u32> = (0..PAGES).collect();
        while_all_moves(lab, 200, |turn| {
            order.shuffle(&mut rng);
            for (number, &first) in (0..).zip(&order) {
                let source = Source::Shared { file: file.clone(), first };
                let map = Map { at: Some(place.up(number)), pages: 1, protection: RW, source };
                process.space().mmap(&map).unwrap();
            }
            for (number, &first) in (0..).zip(&order) {
                let value = turn * 1000 + u64::from(first);
                process.store(place.up(number), value).unwrap();
                assert_eq!(process.load(straight.start().up(first)).unwrap(), value, "seed {seed}");
            }
            process.space().munmap(VirtRange::new(place, PAGES).unwrap()).unwrap();
        });
    });
}

/// Processors use a mapping all the time while its rights come and go: none stores once they are gone. On the soft TLB,
/// which gives a violation back as an error.
#[test]
fn stress_ng_tlb_shootdown() {
    let lab = Lab::new(TlbKind::Soft, 4);
    {
        let process = lab.process();
        let at = anonymous(&process, 4);
        at.iter().for_each(|page| process.store(page, 0).unwrap());
        let over = AtomicBool::new(false);
        let stores = AtomicU64::new(0);
        thread::scope(|scope| {
            for cpu in 0..2 {
                let (process, over, stores) = (&process, &over, &stores);
                scope.spawn(move || {
                    enter_cpu(cpu);
                    let _failed = SetAtEnd(over);
                    let mut next = 1;
                    while !over.load(Ordering::Relaxed) {
                        for page in at.iter() {
                            let place = word(page, cpu as u64);
                            match process.store(place, next) {
                                Ok(()) => {
                                    assert_eq!(process.load(place).unwrap(), next);
                                    stores.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(error) => assert_eq!(error, FaultError::Protection(place)),
                            }
                            next += 1;
                        }
                    }
                });
            }
            let _end = SetAtEnd(&over);
            while_all_moves(&lab, 20, |_| {
                process.space().mprotect(at, Protection::READ).unwrap();
                let look = || -> Vec<u64> {
                    let words = at.iter().flat_map(|page| (0..2).map(move |cpu| word(page, cpu)));
                    words.map(|place| process.load(place).unwrap()).collect()
                };
                let before = look();
                thread::yield_now();
                assert_eq!(look(), before, "a store went through a right that was taken");
                process.space().mprotect(at, RW).unwrap();
                // Others have their turn, before rights go again.
                let seen = stores.load(Ordering::Relaxed);
                while stores.load(Ordering::Relaxed) == seen && !over.load(Ordering::Relaxed) {
                    thread::yield_now();
                }
            });
        });
    }
    lab.assert_all_free(2048);
}

/// Random rights for random pages, against a model of what each page allows and holds.
#[test]
fn stress_ng_mprotect() {
    for seed in 0..3 {
        println!("seed {seed}");
        let lab = Lab::new(TlbKind::Soft, 4);
        let mut rng = rng(seed);
        {
            let process = lab.process();
            let file = PageCache::new(&lab.engine, "file", PAGES);
            for at in
                [anonymous(&process, PAGES), shared(&process, file.clone(), PAGES, RW), private(&process, file, PAGES)]
            {
                let mut model = [(RW, 0); PAGES as usize];
                if at != process.space().vmas()[0].range {
                    // What the shared mapping left in the file.
                    for (page, (_, holds)) in at.iter().zip(&mut model) {
                        *holds = process.load(page).unwrap();
                    }
                }
                while_all_moves(&lab, 100, |turn| {
                    let first = rng.random_range(0..PAGES);
                    let pages = rng.random_range(1..=PAGES - first);
                    let choices = [Protection::empty(), Protection::READ, RW];
                    let protection = choices[rng.random_range(0..3)];
                    process.space().mprotect(part(at, first, pages), protection).unwrap();
                    model[first as usize..(first + pages) as usize]
                        .iter_mut()
                        .for_each(|(rights, _)| *rights = protection);
                    for _ in 0..8 {
                        let page = rng.random_range(0..PAGES);
                        let (rights, holds) = &mut model[page as usize];
                        let address = at.start().up(page);
                        let may =
                            |right| if rights.contains(right) { Ok(()) } else { Err(FaultError::Protection(address)) };
                        assert_eq!(process.load(address), may(Protection::READ).map(|()| *holds), "seed {seed}");
                        assert_eq!(process.store(address, turn), may(Protection::WRITE), "seed {seed}");
                        if rights.contains(Protection::WRITE) {
                            *holds = turn;
                        }
                    }
                });
                process.space().mprotect(at, RW).unwrap();
            }
        }
        lab.assert_all_free(2048);
    }
}

/// From address to frame and back: the frame holds what the address shows, and names the map that leads to the address.
#[test]
fn stress_ng_physpage() {
    seeded(|lab, seed| {
        let mut rng = rng(seed);
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
        let own = anonymous(&process, PAGES);
        let of_device = shared(&process, device.clone(), PAGES, RW);
        let physical = lab.engine.physical();
        for turn in 0..30u64 {
            let (at, page) = (if turn % 2 == 0 { own } else { of_device }, rng.random_range(0..PAGES));
            process.store(at.start().up(page), turn + 1).unwrap();
            let mut all = Vec::new();
            process.space().for_each_entry(|address, entry| all.push((address, entry)));
            for &(address, entry) in &all {
                let frame = physical.frame(entry.pfn());
                let word = lab.get(entry.pfn()).words(0)[0].load(Ordering::SeqCst);
                assert_eq!(word, process.load(address).unwrap(), "seed {seed}");
                let mine = if own.contains(address) { own } else { of_device };
                assert_eq!(frame.key().index, mine.offset_of(address));
                assert!(lab.engine.reverse_maps().get(frame.key().rmap).is_some());
                assert_eq!((frame.maps(), frame.refs()), (1, 1 + u32::from(mine == of_device)));
                assert!(entry.has(Flags::ACCESSED));
            }
            let pages: Vec<Pfn> = all.iter().map(|(_, entry)| entry.pfn()).collect();
            assert_eq!(lab.migrate_all(&pages, Options::new(MODES[turn as usize % 3])).moved, pages.len() as u64);
        }
    });
}

/// Processes want 2 MiB pages in memory that base pages are strewn over, while it's compacted for them.
#[test]
fn mmtests_thpchallenge() {
    for (tlb, seed) in [(TlbKind::Soft, 1), (TlbKind::Host, 2)] {
        println!("{tlb:?} TLB, seed {seed}");
        let lab = Lab::new(tlb, 16);
        let mut rng = rng(seed);
        {
            let crowd = lab.process();
            let pages = 16 * 512 - 100;
            let at = anonymous(&crowd, pages);
            at.iter().enumerate().for_each(|(number, page)| crowd.store(page, number as u64).unwrap());
            let mut left: Vec<u32> = (0..pages).collect();
            left.shuffle(&mut rng);
            for page in left.split_off(pages as usize / 2) {
                crowd.space().munmap(part(at, page, 1)).unwrap();
            }
            let zone = lab.engine.physical().zones().next().unwrap();
            let challengers: Vec<Process> = (0..3).map(|_| lab.process()).collect();
            let wanted: Vec<VirtRange> = challengers.iter().map(|process| huge(process, 512)).collect();
            for (process, &at) in challengers.iter().zip(&wanted) {
                // One to spare: the process's page tables may break a block, if no other frame is free for the kernel.
                let freed = compact(&lab.engine, zone, Goal::Blocks(2), Options::new(Mode::SyncLight));
                assert!(freed.iter().any(|outcome| outcome.free), "no block could be emptied: {freed:?}");
                at.iter().step_by(37).for_each(|page| process.store(page, page.get()).unwrap());
                assert!(process.space().entry(at.start()).has(Flags::HUGE), "the process got small pages");
            }
            for (process, at) in challengers.iter().zip(wanted) {
                assert!(at.iter().step_by(37).all(|page| process.load(page).unwrap() == page.get()));
            }
            assert!(left.iter().all(|&page| crowd.load(at.start().up(page)).unwrap() == u64::from(page)));
            lab.validate();
        }
        lab.assert_all_free(16 * 512);
    }
}
