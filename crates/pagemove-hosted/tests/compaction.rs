//! Compaction: what is observed, planned and done for each policy; hostages; large allocations at high use; nothing lost.
mod common;

use common::*;
use pagemove::{
    compact::{Compaction, Goal, Observation, Plan, alloc_compacting, compact, is_fixed},
    folio::{FrozenFolio, PinnedPage},
    frame::{Class, Kind},
    migrate::{AnyFree, Destination, Mode, Options, Policy},
    report::{Counter, Reason},
    units::{FrameRange, HUGE_ORDER, MAX_ORDER, Order, VirtRange},
    zone::Request,
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind};
use rand::{RngExt, seq::SliceRandom};

const SYNC: Options = Options::new(Mode::Sync);
/// 2 MiB for the kernel.
const KERNELS: Request = Request::new(HUGE_ORDER, Kind::Kernel);

fn zone(lab: &Lab) -> FrameRange {
    lab.engine.physical().zones().next().unwrap()
}

/// A process whose pages fill memory but for `spare` frames, all touched, each holding its number; then `holes` random
/// pages are unmapped, one by one.
struct Crowd {
    process: Process,
    at: VirtRange,
    left: Vec<u32>,
}

impl Crowd {
    fn new(lab: &Lab, seed: u64, spare: u32, holes: usize, device: bool) -> Self {
        let process = lab.process();
        // Tables: at most one for every 512 pages, and those above.
        let tables = lab.free_frames().div_ceil(512) + 4;
        let pages = lab.free_frames() - spare - tables;
        let at = if device {
            shared(&process, CharDevice::new(&lab.engine, "chardev").open(pages), pages, RW)
        } else {
            anonymous(&process, pages)
        };
        at.iter().enumerate().for_each(|(number, page)| process.store(page, number as u64).unwrap());
        let mut left: Vec<u32> = (0..pages).collect();
        left.shuffle(&mut rng(seed));
        for page in left.split_off(left.len() - holes) {
            if !device {
                process.space().munmap(part(at, page, 1)).unwrap();
            }
        }
        Self { process, at, left }
    }

    fn check(&self) {
        for &page in &self.left {
            assert_eq!(self.process.load(self.at.start().up(page)).unwrap(), u64::from(page));
        }
    }
}

#[test]
fn fragmented_memory_is_emptied_block_by_block() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 6);
        {
            let crowd = Crowd::new(&lab, 1, 20, 1600, false);
            let physical = lab.engine.physical();
            physical.drain_cpu_lists();
            let free = physical.blocks().free_blocks(zone(&lab));
            assert_eq!(free, 0);
            let seen = Observation::of(physical, zone(&lab), Policy::Any);
            assert_eq!(seen.blocks.iter().map(|seen| seen.tally.free).sum::<u32>(), lab.free_frames());
            let plan = Plan::new(&seen, Goal::All);
            assert!(plan.empty.len() >= 2 && plan.free_frames >= plan.moves, "{plan}");
            let outcomes: Vec<_> = Compaction::new(&lab.engine, &plan, SYNC).collect();
            assert_eq!(outcomes.len(), plan.empty.len());
            for (outcome, planned) in outcomes.iter().zip(&plan.empty) {
                assert_eq!((outcome.block, outcome.moved), (planned.block, u64::from(planned.pages)));
                assert!(outcome.free && outcome.stayed.is_empty());
            }
            assert_eq!(physical.blocks().free_blocks(zone(&lab)), plan.empty.len() as u32);
            assert_eq!(physical.counters().get(Counter::CompactSuccess), plan.empty.len() as u64);
            lab.validate();
            crowd.check();
            // A second run has nothing to do, or moves less.
            let again = compact(&lab.engine, zone(&lab), Goal::All, SYNC);
            assert!(again.iter().map(|outcome| outcome.moved).sum::<u64>() < plan.moves);
            crowd.check();
        }
        lab.assert_all_free(6 * 512);
    }
}

#[test]
fn policies_see_the_same_blocks_differently() {
    let lab = Lab::new(TlbKind::Soft, 4);
    {
        let physical = lab.engine.physical();
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(64);
        // In two blocks without page tables, by hand: mapped and unmapped pages of a device.
        process.store(anonymous(&process, 1).start(), 1).unwrap();
        physical.drain_cpu_lists();
        let mut blocks = (0..4).filter(|&block| physical.blocks().summary(block).of(Class::Free) == 512);
        let (one, two) = (blocks.next().unwrap(), blocks.next().unwrap());
        let (mapped, unmapped) = (lab.frame_in(one, 400), lab.frame_in(two, 400));
        for (page, pfn) in [(0, mapped), (1, unmapped)] {
            assert!(device.adopt(page, physical.alloc_exactly(pfn, Kind::Driver).unwrap()));
        }
        let at = shared(&process, device.clone(), 1, RW);
        process.store(at.start(), 4).unwrap();
        let tally = |policy, block| {
            let seen = Observation::of(physical, zone(&lab), policy);
            let tally = seen.blocks.iter().find(|seen| seen.block == block).unwrap().tally;
            (tally.free, tally.movable, tally.fixed)
        };
        for (policy, of_mapped, of_unmapped) in [
            (Policy::Unmovable, (511, 0, 1), (511, 0, 1)),
            (Policy::Unmapped, (511, 0, 1), (511, 1, 0)),
            (Policy::Any, (511, 1, 0), (511, 1, 0)),
        ] {
            assert_eq!((tally(policy, one), tally(policy, two)), (of_mapped, of_unmapped), "{}", policy.name());
            let hostage = Observation::of(physical, zone(&lab), policy);
            let hostages: Vec<u32> =
                hostage.blocks.iter().filter(|seen| seen.tally.is_hostage()).map(|seen| seen.block).collect();
            assert_eq!(hostages.contains(&one), policy != Policy::Any);
            assert_eq!(hostages.contains(&two), policy == Policy::Unmovable);
        }
        // What each policy empties, once the process's own page is out of the way.
        compact(&lab.engine, zone(&lab), Goal::All, Options { policy: Policy::Unmovable, ..SYNC });
        for (policy, freed) in [(Policy::Unmovable, 0), (Policy::Unmapped, 1), (Policy::Any, 1)] {
            let before = physical.blocks().free_blocks(zone(&lab));
            compact(&lab.engine, zone(&lab), Goal::All, Options { policy, ..SYNC });
            assert_eq!(physical.blocks().free_blocks(zone(&lab)), before + freed, "{}", policy.name());
            lab.validate();
        }
        assert_eq!(process.load(at.start()).unwrap(), 4);
        assert!(device.moves() >= 1);
        for class in [Class::Pinned, Class::Slab, Class::PageTable, Class::Kernel, Class::Reserved] {
            assert!(Policy::ALL.iter().all(|&policy| is_fixed(class, policy)));
        }
    }
    lab.assert_all_free(2048);
}

#[test]
fn a_block_with_a_pinned_page_is_known_as_a_hostage() {
    let lab = Lab::new(TlbKind::Soft, 4);
    {
        let crowd = Crowd::new(&lab, 2, 10, 900, false);
        let physical = lab.engine.physical();
        let pinned = part(crowd.at, crowd.left[0], 1);
        let pins = crowd.process.space().pin(pinned, false, "nic").unwrap();
        let block = physical.blocks().number(pins[0].pfn());
        let outcomes = compact(&lab.engine, zone(&lab), Goal::All, SYNC);
        assert!(!outcomes.is_empty());
        assert!(outcomes.iter().all(|outcome| outcome.block != block));
        let seen = Observation::of(physical, zone(&lab), Policy::Any);
        let of_block = seen.blocks.iter().find(|seen| seen.block == block).unwrap().tally;
        assert_eq!(of_block.fixed, physical.blocks().summary(block).of(Class::Pinned) + fixed_but_pins(&lab, block));
        assert_eq!(physical.blocks().summary(block).of(Class::Pinned), 1);
        assert_eq!(physical.pins().all()[0].1[0].who, "nic");
        crowd.check();
        // Let go, it's a block like any other.
        drop(pins);
        assert_eq!(physical.blocks().summary(block).of(Class::Pinned), 0);
        lab.validate();
    }
    lab.assert_all_free(2048);
}

fn fixed_but_pins(lab: &Lab, block: u32) -> u32 {
    let summary = lab.engine.physical().blocks().summary(block);
    [Class::Slab, Class::PageTable, Class::Kernel, Class::Reserved].iter().map(|&class| summary.of(class)).sum()
}

/// Pinned after the plan was made: the block is tried, stays, and says for whose sake.
#[test]
fn a_page_pinned_behind_the_plan_is_named_in_the_outcome() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 4);
        {
            let crowd = Crowd::new(&lab, 3, 10, 1000, false);
            let physical = lab.engine.physical();
            physical.drain_cpu_lists();
            let plan = Plan::new(&Observation::of(physical, zone(&lab), Policy::Any), Goal::All);
            let target = physical.blocks().range(plan.empty[0].block);
            let mut victim = None;
            crowd.process.space().for_each_entry(|at, entry| {
                if target.contains(entry.pfn()) {
                    victim = Some(VirtRange::new(at, 1).unwrap());
                }
            });
            let pins: Vec<PinnedPage> = crowd.process.space().pin(victim.unwrap(), true, "nic").unwrap();
            let first = Compaction::new(&lab.engine, &plan, SYNC).next().unwrap();
            assert_eq!(first.stayed, [(pins[0].pfn(), Reason::Pinned)]);
            assert!(!first.free);
            assert_eq!(physical.counters().get(Counter::CompactFail), 1);
            lab.validate();
            crowd.check();
            drop(pins);
            let first = Compaction::new(&lab.engine, &plan, SYNC).next().unwrap();
            assert!(first.free && first.moved == 1);
            crowd.check();
        }
        lab.assert_all_free(2048);
    }
}

#[test]
fn an_order_9_block_is_had_at_95_percent_use() {
    for (tlb, mode) in [(TlbKind::Soft, Mode::Async), (TlbKind::Soft, Mode::Sync), (TlbKind::Host, Mode::SyncLight)] {
        let lab = Lab::new(tlb, 24);
        {
            let crowd = Crowd::new(&lab, 4, 0, 640, false);
            let all = 24 * 512;
            assert!(lab.free_frames() * 100 < all * 6, "{} frames are free", lab.free_frames());
            assert!(lab.engine.physical().alloc(HUGE_ORDER, Kind::Kernel).is_err());
            let huge = alloc_compacting(&lab.engine, &KERNELS, Options::new(mode)).unwrap();
            assert!(huge.pfn().is_aligned(HUGE_ORDER));
            assert_eq!(lab.engine.physical().counters().get(Counter::CompactStall), 1);
            lab.validate();
            crowd.check();
        }
        lab.assert_all_free(24 * 512);
    }
}

/// A folio of order 10 needs several pageblocks beside each other, aligned, where nothing stays.
#[test]
fn folios_larger_than_a_pageblock_are_compacted_for() {
    const LARGEST: Request = Request::new(MAX_ORDER, Kind::Kernel);
    for tlb in BOTH {
        for pageblock_order in [9, 6, 4] {
            let lab = Lab::boot(hosted(tlb, 12 * 512, 4), &one_zone(12 * 512, pageblock_order));
            {
                let physical = lab.physical();
                // In each aligned 4 MiB but the third something stays.
                let held =
                    [0, 1, 3, 4, 5].map(|run| physical.alloc_exactly(pfn(run * 1024 + 77), Kind::Kernel).unwrap());
                let crowd = Crowd::new(&lab, 9, 0, 1500, false);
                assert!(physical.alloc(MAX_ORDER, Kind::Kernel).is_err());
                let folio = alloc_compacting(&lab.engine, &LARGEST, SYNC).unwrap();
                assert_eq!(folio.pfn(), pfn(2 * 1024));
                lab.validate();
                crowd.check();
                assert!(alloc_compacting(&lab.engine, &LARGEST, SYNC).is_err(), "what stays was moved");
                drop((folio, held));
                lab.validate();
                crowd.check();
            }
            lab.assert_all_free(12 * 512);
        }
    }
}

#[test]
fn mapped_device_pages_make_way_as_well() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 4);
        {
            let physical = lab.engine.physical();
            // Every third frame of each block, adopted by a device and mapped.
            let process = lab.process();
            let device = CharDevice::new(&lab.engine, "chardev").open(640);
            let frames = range(1, 2040).iter().filter(|pfn| pfn.get() % 3 == 0);
            let pages = frames
                .filter_map(|pfn| physical.alloc_exactly(pfn, Kind::Driver))
                .take(640)
                .enumerate()
                .map(|(page, folio)| assert!(device.adopt(page as u32, folio)))
                .count() as u32;
            let at = shared(&process, device.clone(), pages, RW);
            at.iter().enumerate().for_each(|(number, page)| process.store(page, number as u64).unwrap());
            assert!(physical.alloc(HUGE_ORDER, Kind::Kernel).is_err());
            for policy in [Policy::Unmovable, Policy::Unmapped] {
                let options = Options { policy, ..SYNC };
                assert!(alloc_compacting(&lab.engine, &KERNELS, options).is_err());
            }
            drop(alloc_compacting(&lab.engine, &KERNELS, SYNC).unwrap());
            for (number, page) in at.iter().enumerate() {
                assert_eq!(process.load(page).unwrap(), number as u64);
                assert_eq!(device.read(number as u32, 0).unwrap(), number as u64);
            }
        }
        lab.assert_all_free(2048);
    }
}

#[test]
fn hostages_everywhere_make_it_fail() {
    let lab = Lab::new(TlbKind::Soft, 4);
    {
        let crowd = Crowd::new(&lab, 5, 10, 1200, false);
        let physical = lab.engine.physical();
        // One pin in each block.
        let mut pins = Vec::new();
        for block in 0..4 {
            let mut victim = None;
            crowd.process.space().for_each_entry(|at, entry| {
                if physical.blocks().number(entry.pfn()) == block {
                    victim = Some(VirtRange::new(at, 1).unwrap());
                }
            });
            pins.extend(crowd.process.space().pin(victim.unwrap(), true, "nic").unwrap());
        }
        let huge = Request::new(HUGE_ORDER, Kind::Anon);
        let error = alloc_compacting(&lab.engine, &huge, SYNC).unwrap_err();
        assert_eq!(error.order, HUGE_ORDER);
        lab.validate();
        crowd.check();
        // One hostage let go is enough.
        pins.pop();
        drop(alloc_compacting(&lab.engine, &huge, SYNC).unwrap());
        crowd.check();
        let moved = physical.counters().get(Counter::PgmigrateSuccess);
        let larger = Request::new(order(10), Kind::Anon);
        assert!(alloc_compacting(&lab.engine, &larger, SYNC).is_err_and(|error| error.order == order(10)));
        assert_eq!(physical.counters().get(Counter::PgmigrateSuccess), moved, "each run of two has a hostage");
    }
    lab.assert_all_free(2048);
}

#[test]
fn small_and_large_pageblocks_compact_too() {
    for pageblock_order in [4, 6, 10] {
        let lab = Lab::boot(hosted(TlbKind::Soft, 4096, 2), &one_zone(4096, pageblock_order));
        {
            let crowd = Crowd::new(&lab, 6, 10, 2200, false);
            let physical = lab.engine.physical();
            physical.drain_cpu_lists();
            let before = physical.blocks().free_blocks(zone(&lab));
            let outcomes = compact(&lab.engine, zone(&lab), Goal::All, SYNC);
            let freed = outcomes.iter().filter(|outcome| outcome.free).count() as u32;
            assert!(freed >= 1 && physical.blocks().free_blocks(zone(&lab)) >= before + freed);
            lab.validate();
            crowd.check();
            let goal = Request::new(order(pageblock_order), Kind::Kernel);
            drop(alloc_compacting(&lab.engine, &goal, SYNC).unwrap());
        }
        lab.assert_all_free(4096);
    }
}

#[test]
fn a_goal_of_blocks_moves_no_more_than_it_needs() {
    let lab = Lab::new(TlbKind::Soft, 8);
    {
        let crowd = Crowd::new(&lab, 7, 20, 2500, false);
        let all: u64 = {
            let physical = lab.engine.physical();
            physical.drain_cpu_lists();
            Plan::new(&Observation::of(physical, zone(&lab), Policy::Any), Goal::All).moves
        };
        let one = compact(&lab.engine, zone(&lab), Goal::Blocks(1), SYNC);
        assert_eq!(one.len(), 1);
        assert!(one[0].free && one[0].moved < all);
        assert!(compact(&lab.engine, zone(&lab), Goal::Blocks(0), SYNC).is_empty());
        crowd.check();
        let mut rng = rng(7);
        // In use all along: stores between runs are kept.
        for turn in 0..5u64 {
            let page = crowd.left[rng.random_range(0..crowd.left.len())];
            crowd.process.store(crowd.at.start().up(page), 1000 + turn).unwrap();
            compact(&lab.engine, zone(&lab), Goal::Blocks(2), Options::new(Mode::Async));
            assert_eq!(crowd.process.load(crowd.at.start().up(page)).unwrap(), 1000 + turn);
            crowd.process.store(crowd.at.start().up(page), u64::from(page)).unwrap();
        }
        crowd.check();
    }
    lab.assert_all_free(8 * 512);
}

/// Whatever is allocated while a block is being emptied comes from elsewhere, or emptying would have no end.
#[test]
fn nothing_is_allocated_from_a_block_that_is_being_emptied() {
    let lab = Lab::new(TlbKind::Soft, 4);
    {
        let physical = lab.engine.physical();
        // One page to move out of block 1; block 2 can't be emptied, and so is filled.
        let (page, hostage) = (pfn(512 + 77), pfn(1024 + 77));
        let device = Device::open(&lab);
        let page = physical.alloc_exactly(page, Kind::Driver).unwrap();
        let hostage = physical.alloc_exactly(hostage, Kind::Kernel).unwrap();
        drop(device.driver.index.insert(0, page).unwrap());
        let (send, receive) = std::sync::mpsc::channel();
        let engine = lab.engine.clone();
        device.driver.during_next(Stage::Copy, move || {
            let physical = engine.physical();
            let kinds = [Kind::Anon, Kind::Kernel].into_iter().cycle();
            let got: Vec<FrozenFolio<'_>> = kinds.map_while(|kind| physical.alloc(order(0), kind).ok()).collect();
            send.send(got.iter().filter(|folio| physical.blocks().number(folio.pfn()) == 1).count()).unwrap();
        });
        let outcomes = compact(&lab.engine, zone(&lab), Goal::Blocks(1), SYNC);
        assert_eq!(receive.try_recv().unwrap(), 0);
        assert_eq!((outcomes[0].block, outcomes[0].moved, outcomes[0].free), (1, 1, true));
        assert_eq!(physical.blocks().number(device.peek(0)), 2);
        // Afterwards it's a block like any other again.
        drop(physical.alloc(order(10), Kind::Kernel).unwrap());
        drop(hostage);
    }
    lab.assert_all_free(2048);
}

/// Frames on processors' lists are room as well: up to an eighth of a zone may lie there, at 90 % use all that is free.
#[test]
fn compact_sees_the_room_that_lies_on_processors_lists() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 1024, 64), &one_zone(1024, 9));
    let physical = lab.engine.physical();
    // Block 0: 50 movable pages of a device. Block 1: full, but for 60 frames that were freed a moment ago.
    let device = Device::open(&lab);
    for page in 0..50 {
        let folio = physical.alloc_exactly(pfn(page * 10), Kind::Driver).unwrap();
        drop(device.driver.index.insert(page, folio).unwrap());
    }
    let mut block_1: Vec<FrozenFolio<'_>> =
        (512..1024).map(|at| physical.alloc_exactly(pfn(at), Kind::Kernel).unwrap()).collect();
    block_1.retain(|folio| !(600..660).contains(&number(folio.pfn())));
    assert_eq!(lab.free_frames(), 462 + 60);
    let seen = Observation::of(physical, zone(&lab), Policy::Any);
    let outcomes = compact(&lab.engine, zone(&lab), Goal::All, SYNC);
    assert_eq!(outcomes.iter().filter(|outcome| outcome.free).count(), 1, "one block could be emptied");
    assert_eq!(seen.blocks.iter().map(|seen| seen.tally.free).sum::<u32>(), 462 + 60);
}

/// An allocation that may compact does so once compaction is hung in, and only then.
#[test]
fn an_allocation_compacts_by_itself() {
    use pagemove::{compact::compact_for_allocations, zone::Effort};
    for tlb in BOTH {
        let lab = Lab::new(tlb, 24);
        {
            let crowd = Crowd::new(&lab, 4, 0, 640, false);
            let physical = lab.engine.physical();
            let request = KERNELS.with_effort(Effort::Compact);
            assert!(physical.alloc_with(&request).is_err(), "nobody compacts yet");
            compact_for_allocations(&lab.engine, SYNC);
            assert!(physical.alloc_with(&request.with_effort(Effort::Drain)).is_err());
            // Another mover has a frame set aside; recalling that would not help.
            let mut other = AnyFree::new(physical, 1);
            let aside = other.take(Order::ZERO, None).unwrap();
            other.give_back(aside);
            let huge = physical.alloc_with(&request).unwrap();
            assert!(huge.pfn().is_aligned(HUGE_ORDER));
            assert_eq!(physical.counters().get(Counter::CompactStall), 1);
            crowd.check();
            drop(huge);
            assert!(physical.alloc_with(&request.in_zone(7)).is_err(), "there is no such zone");
        }
        lab.assert_all_free(24 * 512);
    }
}
