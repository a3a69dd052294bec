//! fork: copy-on-write in both directions and over generations, shared memory, reuse once alone, ends in any order.
mod common;

use common::*;
use pagemove::{
    frame::Kind,
    migrate::Mode,
    paging::Flags,
    space::{PageCache, Protection},
    units::VirtRange,
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, enter_cpu};
use rand::RngExt;

#[test]
fn neither_side_sees_the_others_stores() {
    on_both(2, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 8);
        at.iter().for_each(|page| parent.store(page, 1).unwrap());
        let child = parent.fork().unwrap();
        assert_eq!(lab.count_kind(Kind::Anon), 8);
        let pages: Vec<_> = at.iter().collect();
        for cpu in 0..4 {
            // A translation for stores from before the fork, on any processor, must be gone.
            enter_cpu(cpu);
            parent.store(pages[cpu], 2).unwrap();
            child.store(pages[4 + cpu], 3).unwrap();
        }
        for (number, &page) in pages.iter().enumerate() {
            let (of_parent, of_child) = if number < 4 { (2, 1) } else { (1, 3) };
            assert_eq!((parent.load(page).unwrap(), child.load(page).unwrap()), (of_parent, of_child));
            assert_ne!(pfn_at(&parent, page), pfn_at(&child, page));
        }
        // Untouched words of a copied page are copied, too.
        parent.store(pages[0], 4).unwrap();
        assert_eq!(lab.count_kind(Kind::Anon), 16);
    });
}

/// The translations for stores that every processor holds at the time of the fork.
#[test]
fn stale_translations_for_stores_are_flushed_on_every_processor() {
    for tlb in BOTH {
        for cpu in 0..4 {
            let lab = Lab::new(tlb, 1);
            let parent = lab.process();
            let at = anonymous(&parent, 1);
            for every in 0..4 {
                enter_cpu(every);
                parent.store(at.start(), 1).unwrap();
            }
            let child = parent.fork().unwrap();
            enter_cpu(cpu);
            parent.store(at.start(), 2).unwrap();
            assert_eq!(child.load(at.start()).unwrap(), 1);
        }
    }
}

#[test]
fn shared_pages_stay_shared_and_private_ones_are_copied() {
    on_both(1, |lab| {
        let parent = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        let (file, _) = stored_file(lab, 2);
        let of_device = shared(&parent, device.clone(), 2, RW);
        let of_file = private(&parent, file.clone(), 2);
        parent.store(of_device.start(), 1).unwrap();
        parent.store(of_file.start(), 2).unwrap();
        let child = parent.fork().unwrap();
        child.store(of_device.start(), 11).unwrap();
        child.store(of_device.start().up(1), 12).unwrap();
        assert_eq!(parent.load(of_device.start()).unwrap(), 11);
        assert_eq!(parent.load(of_device.start().up(1)).unwrap(), 12);
        assert_eq!(child.load(of_file.start()).unwrap(), 2);
        child.store(of_file.start(), 22).unwrap();
        child.store(of_file.start().up(1), 23).unwrap();
        assert_eq!(parent.load(of_file.start()).unwrap(), 2);
        assert_eq!(parent.load(of_file.start().up(1)).unwrap(), 1001);
        assert_eq!(lab.process_reading(&file, 0), 1000);
        assert_eq!(lab.process_reading(&file, 1), 1001);
    });
}

#[test]
fn who_is_left_alone_uses_the_page_without_a_copy() {
    on_both(1, |lab| {
        for leaver in 0..2 {
            let parent = lab.process();
            let at = anonymous(&parent, 1);
            parent.store(at.start(), 1).unwrap();
            let before = pfn_at(&parent, at.start());
            let mut family = [Some(parent.fork().unwrap()), Some(parent)];
            family[leaver] = None;
            let left = family.into_iter().flatten().next().unwrap();
            assert_eq!(lab.count_kind(Kind::Anon), 1);
            left.store(at.start(), 2).unwrap();
            assert_eq!(pfn_at(&left, at.start()), before);
            assert!(left.space().entry(at.start()).has(Flags::EXCLUSIVE | Flags::WRITE));
        }
    });
}

#[test]
fn who_unmaps_leaves_the_page_to_the_other() {
    on_both(1, |lab| {
        let parent = lab.process();
        let at = anonymous(&parent, 2);
        at.iter().for_each(|page| parent.store(page, 5).unwrap());
        let child = parent.fork().unwrap();
        parent.space().munmap(at).unwrap();
        let before = pfn_at(&child, at.start());
        child.store(at.start(), 6).unwrap();
        assert_eq!(pfn_at(&child, at.start()), before);
        assert_eq!(child.load(at.start().up(1)).unwrap(), 5);
    });
}

/// Every process of four generations stores to a page of its own and one of its ancestors'; all see what they should.
#[test]
fn four_generations() {
    on_both(2, |lab| {
        let mut line = vec![lab.process()];
        let at = anonymous(&line[0], 6);
        at.iter().for_each(|page| line[0].store(page, 100).unwrap());
        for generation in 1..=4u32 {
            let child = line.last().unwrap().fork().unwrap();
            child.store(at.start().up(generation), 100 + u64::from(generation)).unwrap();
            line.push(child);
        }
        let expected = |process: u32, page: u32| 100 + u64::from(if page <= process { page } else { 0 });
        let check = |line: &[Process]| {
            for (number, process) in line.iter().enumerate() {
                for (page, address) in at.iter().enumerate() {
                    assert_eq!(process.load(address).unwrap(), expected(number as u32, page as u32));
                }
            }
        };
        check(&line);
        // All of them share pages 0 and 5; moved once, all see it.
        let before = pfn_at(&line[4], at.start());
        assert_eq!(lab.engine.physical().frame(before).maps(), 5);
        lab.migrate(before, Mode::Sync).unwrap();
        let after = pfn_at(&line[0], at.start());
        assert_ne!(after, before);
        assert!(line.iter().all(|process| pfn_at(process, at.start()) == after));
        check(&line);
    });
}

#[test]
fn ends_in_any_order_lose_nothing() {
    for (seed, tlb) in [(1, BOTH[0]), (2, BOTH[0]), (3, BOTH[1])] {
        let lab = Lab::new(tlb, 2);
        let mut rng = rng(seed);
        let device = CharDevice::new(&lab.engine, "chardev").open(4);
        let first = lab.process();
        let at = anonymous(&first, 16);
        let common = shared(&first, device.clone(), 4, RW);
        // What each process holds in its anonymous pages, beside it.
        let mut family: Vec<(Process, Vec<u64>)> = vec![(first, vec![0; 16])];
        for step in 1..250u64 {
            let who = rng.random_range(0..family.len());
            match rng.random_range(0..10) {
                0..2 if family.len() < 12 => {
                    let child = family[who].0.fork().unwrap();
                    let model = family[who].1.clone();
                    family.push((child, model));
                }
                2 if family.len() > 1 => drop(family.swap_remove(who)),
                3 => {
                    let pages: Vec<_> = at.iter().map(|page| family[who].0.space().entry(page)).collect();
                    for entry in pages.into_iter().filter(|entry| entry.is_present()) {
                        assert_eq!(lab.migrate(entry.pfn(), Mode::Sync), Ok(()));
                    }
                }
                _ => {
                    let page = rng.random_range(0..16u32);
                    let (process, model) = &mut family[who];
                    process.store(at.start().up(page), step).unwrap();
                    model[page as usize] = step;
                    process.store(common.start().up(page % 4), step).unwrap();
                    assert_eq!(device.read(page % 4, 0).unwrap(), step);
                }
            }
            for (process, model) in &family {
                let page = rng.random_range(0..16u32);
                let loaded = process.load(at.start().up(page)).unwrap();
                assert_eq!(loaded, model[page as usize], "seed {seed}, step {step}");
            }
            if step % 50 == 0 {
                lab.validate();
            }
        }
        drop((family, device));
        lab.assert_all_free(1024);
    }
}

#[test]
fn a_fork_without_memory_fails_and_leaves_the_parent_as_it_was() {
    let lab = Lab::new(BOTH[0], 1);
    let process = lab.process();
    let at = anonymous(&process, 64);
    at.iter().for_each(|page| process.store(page, 3).unwrap());
    let mut held = lab.take_all(Kind::Kernel);
    // With some frames for tables, but not enough; and with none.
    for spare in 0..4 {
        for _ in 0..spare {
            drop(held.pop().unwrap());
        }
        let free = lab.free_frames();
        if process.fork().is_ok() {
            assert!(spare >= 3, "a child needs four tables at least");
        }
        lab.validate();
        assert!(lab.free_frames() <= free);
        held.extend(lab.take_all(Kind::Kernel));
        assert!(at.iter().all(|page| process.load(page).unwrap() == 3));
    }
    drop(held);
    at.iter().for_each(|page| process.store(page, 4).unwrap());
    assert_eq!(lab.count_kind(Kind::Anon), 64);
    drop(process);
    lab.assert_all_free(512);
}

#[test]
fn a_child_has_the_same_mappings_and_its_own_rights() {
    on_both(1, |lab| {
        let parent = lab.process();
        let file = PageCache::new(&lab.engine, "file", 4);
        let at = shared(&parent, file, 4, Protection::READ);
        anonymous(&parent, 2);
        let child = parent.fork().unwrap();
        let of = |process: &Process| -> Vec<(VirtRange, Protection, bool)> {
            process.space().vmas().iter().map(|vma| (vma.range, vma.protection, vma.is_shared())).collect()
        };
        assert_eq!(of(&parent), of(&child));
        child.space().mprotect(at, RW).unwrap();
        child.store(at.start(), 1).unwrap();
        assert_eq!(parent.load(at.start()).unwrap(), 1);
        assert!(!parent.space().entry(at.start()).has(Flags::WRITE));
        child.space().munmap(at).unwrap();
        assert_eq!(parent.load(at.start()).unwrap(), 1);
    });
}
