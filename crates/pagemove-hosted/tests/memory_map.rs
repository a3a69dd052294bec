//! Memory as a machine's firmware describes it: holes and reserved ranges of any size, several nodes, ends that are no pageblock's.
mod common;

use std::collections::BTreeSet;

use common::*;
use pagemove::{
    Engine,
    compact::{Goal, compact},
    frame::{Class, Kind},
    migrate::{Mode, Options},
    port::Contents,
    units::{FrameRange, HUGE_ORDER, Order, Pfn},
    zone::{AllocError, BootError, Config, Effort, Request},
};
use pagemove_hosted::{Hosted, TlbKind};
use rand::RngExt;

fn boot(frames: u32, config: &Config) -> Lab {
    Lab::boot(hosted(TlbKind::Soft, frames, 2), config)
}

/// Takes every frame that can be had, by base pages.
fn all_frames(lab: &Lab) -> BTreeSet<u32> {
    let held = lab.take_all(Kind::Kernel);
    let all: BTreeSet<u32> = held.iter().map(|folio| number(folio.pfn())).collect();
    assert_eq!(all.len(), held.len(), "a frame was given twice");
    lab.validate();
    all
}

fn reserved_in(lab: &Lab, range: FrameRange) -> u32 {
    let blocks = lab.engine.physical().blocks();
    let numbers = number(range.start) >> 9..(number(range.end()) + 511) >> 9;
    numbers.map(|number| blocks.summary(number).of(Class::Reserved)).sum()
}

/// A PC: nothing below 4 KiB, a hole below 1 MiB, the kernel's image at 16 MiB, a last block that ends early.
#[test]
fn reserved_ranges_are_never_handed_out() {
    let image = range(4096, 1234);
    let reserved = [range(0, 1), range(0xa0, 0x60), image, range(5000, 300), range(8191, 1)];
    let config = Config::new(vec![range(0, 8192)], HUGE_ORDER).with_reserved(reserved);
    let lab = boot(8192, &config);
    let out: BTreeSet<u32> = reserved.iter().flat_map(|range| range.iter()).map(number).collect();
    assert_eq!(lab.free_frames(), 8192 - out.len() as u32);
    assert_eq!(reserved_in(&lab, range(0, 8192)), out.len() as u32);
    let all = all_frames(&lab);
    assert!(all.is_disjoint(&out) && all.len() + out.len() == 8192);
    for &at in &out {
        assert!(lab.engine.physical().alloc_exactly(pfn(at), Kind::Kernel).is_none());
        assert!(lab.engine.physical().get(pfn(at)).is_none());
    }
    assert_eq!(lab.free_frames(), 8192 - out.len() as u32);
    lab.validate();
}

/// RAM that begins and ends within pageblocks, as an identity map does, which can't have frame 0: all of it is used.
#[test]
fn no_frame_is_lost_at_the_edges_of_ram() {
    for (start, end) in [(1, 2048), (511, 1500), (512, 1537), (700, 900)] {
        let ram = range(start, end - start);
        let config = Config::from_map(&[(range(0, 4096), 0)], &[], ram.start..ram.end(), HUGE_ORDER);
        assert!(
            config.zones.iter().all(|zone| number(zone.start).is_multiple_of(512) && zone.frames.is_multiple_of(512))
        );
        let machine = || {
            let config =
                pagemove_hosted::Config { frames: ram.frames, cpus: 2, tlb: TlbKind::Soft, contents: Contents::All };
            Hosted::with_ram(config, ram).unwrap()
        };
        let lab = Lab::boot(machine(), &config);
        let all = all_frames(&lab);
        assert_eq!(all, (start..end).collect::<BTreeSet<u32>>());
        // What isn't there must be reserved.
        let bare = Config::new(config.zones.clone(), HUGE_ORDER);
        assert_eq!(Engine::boot(machine(), &bare).err(), Some(BootError::BeyondRam(0)));
    }
}

#[test]
fn large_folios_lie_between_reserved_frames() {
    for seed in 0..10 {
        let mut rng = rng(seed);
        let ranges: Vec<FrameRange> =
            (0..20).map(|_| range(rng.random_range(0..4000), rng.random_range(1..60))).collect();
        let lab = boot(4096, &Config::new(vec![range(0, 4096)], HUGE_ORDER).with_reserved(ranges.clone()));
        let free = lab.free_frames();
        let mut held = Vec::new();
        for order in [9, 8, 6, 3, 0].map(order) {
            while let Ok(folio) = lab.engine.physical().alloc(order, Kind::Kernel) {
                let own = range(number(folio.pfn()), order.frames());
                assert!(ranges.iter().all(|reserved| !reserved.overlaps(own)), "seed {seed}");
                held.push(folio);
            }
        }
        assert_eq!((lab.free_frames(), held.iter().map(|folio| folio.order().frames()).sum::<u32>()), (0, free));
        drop(held);
        assert_eq!(lab.free_frames(), free);
        lab.validate();
    }
}

/// Blocks with reserved frames are filled, never emptied.
#[test]
fn compaction_fills_blocks_that_have_reserved_frames() {
    let lab = boot(2048, &Config::new(vec![range(0, 2048)], HUGE_ORDER).with_reserved([range(100, 3)]));
    let process = lab.process();
    let at = anonymous(&process, 900);
    at.iter().for_each(|page| process.store(page, page.get()).unwrap());
    // Every other page goes.
    at.iter().step_by(2).for_each(|page| process.space().munmap(part(at, at.offset_of(page), 1)).unwrap());
    let outcomes = compact(&lab.engine, range(0, 2048), Goal::All, Options::new(Mode::Sync));
    assert!(outcomes.iter().any(|outcome| outcome.free) && outcomes.iter().all(|outcome| outcome.block != 0));
    at.iter().skip(1).step_by(2).for_each(|page| assert_eq!(process.load(page).unwrap(), page.get()));
    lab.validate();
}

#[test]
fn requests_name_nodes() {
    let zones = vec![range(0, 1024), range(1024, 512), range(1536, 512)];
    let lab = boot(2048, &Config::new(zones, HUGE_ORDER).with_nodes(vec![0, 1, 0]));
    let physical = lab.engine.physical();
    assert_eq!([0, 1, 2, 3].map(|zone| physical.node_of_zone(zone)), [Some(0), Some(1), Some(0), None]);
    assert_eq!([5, 1200, 2000].map(|at| physical.node_of(pfn(at))), [Some(0), Some(1), Some(0)]);
    for (node, frames) in [(0, 1536), (1, 512)] {
        for effort in [Effort::Drain, Effort::Compact] {
            let request = Request::new(Order::ZERO, Kind::Kernel).on_node(node).with_effort(effort);
            let held: Vec<_> = std::iter::from_fn(|| physical.alloc_with(&request).ok()).collect();
            assert!(held.iter().all(|folio| physical.node_of(folio.pfn()) == Some(node)));
            assert_eq!(held.len(), frames);
            let error = AllocError { order: Order::ZERO, zone: None, node: Some(node), below: None };
            assert_eq!(physical.alloc_with(&request).unwrap_err(), error);
            let other = Request::new(HUGE_ORDER, Kind::Kernel).on_node(1 - node);
            assert_eq!(physical.node_of(physical.alloc_with(&other).unwrap().pfn()), Some(1 - node));
        }
    }
    assert!(physical.alloc_with(&Request::new(Order::ZERO, Kind::Kernel).on_node(7)).is_err());
    lab.assert_all_free(2048);
}

/// Zones of a map, as (start, frames, node), and what is reserved in them.
fn from_map(usable: &[(u32, u32, u32)], borders: &[u32], frames: u32) -> (Vec<(u32, u32, u32)>, u32) {
    let usable: Vec<_> = usable.iter().map(|&(start, frames, node)| (range(start, frames), node)).collect();
    let borders: Vec<Pfn> = borders.iter().map(|&border| pfn(border)).collect();
    let config = Config::from_map(&usable, &borders, pfn(0)..pfn(frames), HUGE_ORDER);
    let zones = config.zones.iter().zip(&config.nodes).map(|(zone, &node)| (number(zone.start), zone.frames, node));
    (zones.collect(), config.reserved.iter().map(|range| range.frames).sum())
}

#[test]
fn zones_follow_a_map() {
    // A PC of 32 MiB whose first page and video memory are missing, and whose last block is cut.
    let pc = [(1, 0x9f, 0), (0x100, 7900, 0)];
    assert_eq!(from_map(&pc, &[], 8192), (vec![(0, 8192, 0)], 8192 - 0x9f - 7900));
    // A border at 16 MiB; one outside, and one within the first block, change nothing.
    let at_16_mib = (vec![(0, 4096, 0), (4096, 4096, 0)], 8192 - 0x9f - 7900);
    assert_eq!(from_map(&pc, &[4096], 8192), at_16_mib);
    assert_eq!(from_map(&pc, &[1 << 20, 100, 4096, 4096], 8192), at_16_mib);
    // A large hole within a node, which its zone spans; and one between two nodes, which none does.
    assert_eq!(from_map(&[(0, 512, 0), (5120, 512, 0)], &[], 8192), (vec![(0, 5632, 0)], 4608));
    assert_eq!(from_map(&[(5120, 512, 1), (0, 512, 0)], &[], 8192), (vec![(0, 512, 0), (5120, 512, 1)], 0));
    // Nodes that interleave; and that share a pageblock, which is the first one's.
    let three = vec![(0, 512, 0), (512, 512, 1), (1024, 512, 0)];
    assert_eq!(from_map(&[(0, 512, 0), (512, 512, 1), (1024, 512, 0)], &[], 8192), (three, 0));
    assert_eq!(from_map(&[(0, 700, 0), (700, 1000, 1)], &[], 8192), (vec![(0, 1024, 0), (1024, 1024, 1)], 348));
    // RAM that ends within a block, or before the range; ranges that overlap; none.
    assert_eq!(from_map(&[(0, 1000, 0)], &[], 1000), (vec![(0, 1024, 0)], 24));
    assert_eq!(from_map(&[(0, 100, 0), (2000, 100, 0)], &[], 1024), (vec![(0, 512, 0)], 412));
    assert_eq!(from_map(&[(0, 300, 0), (100, 300, 0)], &[], 1024), (vec![(0, 512, 0)], 112));
    assert_eq!(from_map(&[], &[5], 1024), (vec![], 0));
    assert_eq!(from_map(&[(0, 0, 0)], &[], 1024), (vec![], 0));
}

/// Whatever the map: the engine boots by it, and hands out just what it says.
#[test]
fn random_maps_boot_and_give_what_they_name() {
    for seed in 0..60 {
        let mut rng = rng(seed);
        let frames = rng.random_range(2048..5000);
        let usable: Vec<(FrameRange, u32)> = (0..rng.random_range(1..8))
            .map(|_| (range(rng.random_range(0..4000), rng.random_range(0..1500)), rng.random_range(0..3)))
            .collect();
        let borders: Vec<Pfn> = (0..rng.random_range(0..3)).map(|_| pfn(rng.random_range(0..5000))).collect();
        let config = Config::from_map(&usable, &borders, pfn(0)..pfn(frames), HUGE_ORDER);
        let all = usable.iter().flat_map(|(range, _)| range.iter()).map(number);
        let named: BTreeSet<u32> = all.filter(|&pfn| pfn < frames).collect();
        if named.is_empty() {
            assert!(config.zones.is_empty());
            continue;
        }
        let lab = boot(frames, &config);
        assert_eq!(all_frames(&lab), named, "seed {seed}: {usable:?} {borders:?}");
        for zone in lab.engine.physical().zones() {
            let is_cut =
                |border: &Pfn| zone.start < border.align_down(HUGE_ORDER) && border.align_down(HUGE_ORDER) < zone.end();
            assert!(!borders.iter().any(is_cut), "seed {seed}: a zone over a border");
        }
    }
}

/// What the engine says that it will borrow is what it borrows.
#[test]
fn lent_bytes_are_known_before() {
    for (frames, order) in [(512, 9), (5000, 9), (1 << 16, 4), (1 << 18, 10)] {
        let config = one_zone(frames >> order << order, order);
        let hooked = Hooked::new(hosted(TlbKind::Soft, frames, 1), usize::MAX);
        hooked.boot(&config).unwrap();
        assert_eq!(hooked.lent(), config.lent_bytes());
    }
}
