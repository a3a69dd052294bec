//! Memory that begins at 64 TiB, and in two parts with a hole of 1 TiB between them.
mod common;

use common::*;
use pagemove::{
    compact::{Goal, alloc_compacting, compact},
    frame::{Class, Kind},
    migrate::{Mode, Mover, Options, TheseFrames},
    paging::{Aarch64, Format},
    port::Contents,
    report::{Event, Reason},
    space::{AddressSpace, Map, Orders, PageCache, Source, SpaceError},
    units::{FrameRange, HUGE_ORDER, MAX_ORDER, Order, Pfn, VirtAddr, VirtRange},
    zone::{BootError, Config, Effort, Request},
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Config as Machine, Hosted, TlbKind};

/// 64 TiB, and 1 TiB.
const FIRST: Pfn = Pfn::new(1 << 34);
const HOLE: u32 = 1 << 28;

/// Two parts of `blocks` pageblocks each, of two nodes.
fn parts(blocks: u32) -> [FrameRange; 2] {
    let frames = blocks * 512;
    [FIRST, FIRST.up(frames + HOLE)].map(|start| FrameRange { start, frames })
}

fn machine(tlb: TlbKind, blocks: u32) -> std::sync::Arc<Hosted> {
    let config = Machine { frames: 2 * blocks * 512, cpus: 4, tlb, contents: Contents::All };
    let ram = FrameRange { start: FIRST, frames: 2 * blocks * 512 + HOLE };
    Hosted::with_ram(config, ram).unwrap()
}

fn lab(tlb: TlbKind, blocks: u32) -> Lab {
    let config = Config::new(parts(blocks).to_vec(), HUGE_ORDER).with_nodes(vec![0, 1]);
    Lab::boot(machine(tlb, blocks), &config)
}

/// Moves all movable folios of one part into the other; gives how many pages.
fn empty(lab: &Lab, part: usize, blocks: u32) -> u64 {
    let physical = lab.physical();
    physical.drain_cpu_lists();
    let sources: Vec<Pfn> = parts(blocks)[part]
        .iter()
        .filter(|&pfn| physical.frame(pfn).state().is_movable() && physical.get(pfn).is_some_and(|it| it.pfn() == pfn))
        .collect();
    let other = parts(blocks)[1 - part];
    let numbers = (0..blocks).map(|block| physical.blocks().number(other.start.up(block * 512)));
    let mut to = TheseFrames::new(physical, numbers);
    let outcome = Mover::new(&lab.engine).migrate(&sources, &mut to, Options::new(Mode::Sync));
    assert_eq!(outcome.stayed, [], "part {part}");
    outcome.moved
}

/// Processes' pages, a file's, a device's, of orders 0, 4 and 9, go from one part to the other and back.
#[test]
fn all_pages_move_between_the_parts_of_memory() {
    for tlb in BOTH {
        let blocks = 12;
        let lab = lab(tlb, blocks);
        let (process, child);
        {
            process = lab.process();
            let file = PageCache::new(&lab.engine, "file", 1024);
            file.index().set_orders(Orders::only(order(4)), 1024);
            let device = CharDevice::new(&lab.engine, "device").open(64);
            let ranges = [
                anonymous(&process, 300),
                huge(&process, 512),
                shared(&process, file.clone(), 256, RW),
                shared(&process, device.clone(), 64, RW),
            ];
            let pages = || ranges.iter().flat_map(|range| range.iter());
            pages().for_each(|page| process.store(page, page.get()).unwrap());
            child = process.fork().unwrap();
            pages().step_by(3).for_each(|page| process.store(page, page.get() + 1).unwrap());
            for round in 0..4 {
                let part = usize::from(pages().any(|page| parts(blocks)[1].contains(pfn_at(&process, page))));
                assert!(empty(&lab, part, blocks) > 900, "round {round}");
                assert!(pages().all(|page| parts(blocks)[1 - part].contains(pfn_at(&process, page))), "round {round}");
                for (number, page) in pages().enumerate() {
                    assert_eq!(process.load(page).unwrap(), page.get() + u64::from(number % 3 == 0), "{page}");
                }
                lab.validate();
            }
            // What a file or a device has is shared; a process's own pages aren't.
            for (number, page) in pages().enumerate() {
                let is_shared = number >= 812 && number % 3 == 0;
                assert_eq!(child.load(page).unwrap(), page.get() + u64::from(is_shared), "{page}");
            }
            compact(&lab.engine, parts(blocks)[0], Goal::All, Options::new(Mode::Sync));
            compact(&lab.engine, parts(blocks)[1], Goal::All, Options::new(Mode::Sync));
            lab.validate();
            let mut moved = 0;
            lab.physical().events().for_each(|event| {
                let Event::Moved { from, to } = event else { return };
                moved += 1;
                assert!([from, to].iter().all(|&pfn| parts(blocks).iter().any(|part| part.contains(pfn))), "{event:?}");
            });
            assert!(moved > 500, "{moved} events");
        }
        drop((process, child));
        lab.assert_all_free(2 * blocks * 512);
    }
}

#[test]
fn the_hole_has_no_frames() {
    let blocks = 4;
    let lab = lab(TlbKind::Soft, blocks);
    let physical = lab.physical();
    let [lower, upper] = parts(blocks);
    let outside = [
        Pfn::new(0),
        Pfn::new(FIRST.get() - 1),
        lower.end(),
        lower.end().up(HOLE / 2),
        Pfn::new(upper.start.get() - 1),
        upper.end(),
        Pfn::new(u64::MAX),
    ];
    for pfn in outside {
        assert!(physical.get(pfn).is_none() && !physical.is_managed(pfn) && physical.frames().end() == upper.end());
        assert!(physical.alloc_exactly(pfn, Kind::Kernel).is_none() && physical.node_of(pfn).is_none());
    }
    let outcome = lab.migrate_all(&outside, Options::new(Mode::Sync));
    assert_eq!(outcome.stayed, outside.map(|pfn| (pfn, Reason::CrossedZone)));
    // Ranges may be larger than memory.
    let all = FrameRange { start: Pfn::new(0), frames: u32::MAX };
    assert_eq!(physical.blocks().free_blocks(FrameRange { start: Pfn::new(FIRST.get() - 1000), ..all }), 2 * blocks);
    assert_eq!(
        [all, FrameRange { start: upper.end(), ..all }].map(|range| physical.blocks().free_blocks(range)),
        [0; 2]
    );
    assert_eq!(physical.frames().len(), 2 * blocks * 512);
    // The hole's blocks have numbers, and nothing else.
    let hole = HOLE / 512;
    assert_eq!(physical.blocks().count(), 2 * blocks + hole);
    for number in [0, 1, blocks - 1, blocks, blocks + hole / 2, blocks + hole - 1, blocks + hole, 2 * blocks + hole - 1]
    {
        let block = physical.blocks().range(number);
        assert_eq!(block, FrameRange { start: FIRST.up(number * 512), frames: 512 });
        assert_eq!([block.start, block.start.up(511)].map(|pfn| physical.blocks().number(pfn)), [number; 2]);
        let zone = [lower, upper].iter().position(|part| part.contains(block.start));
        assert_eq!(physical.blocks().zone(number), zone);
        let free = if zone.is_some() { 512 } else { 0 };
        assert_eq!(physical.blocks().summary(number).of(Class::Free), free);
    }
    // Every frame is had once, of every order; bounds and nodes are obeyed.
    for order in [0, 3, 9, 10].map(order) {
        let request = Request::new(order, Kind::Kernel);
        let all: Vec<_> = std::iter::from_fn(|| physical.alloc_with(&request).ok()).collect();
        assert_eq!(all.len() as u32, (2 * blocks * 512) >> order.get());
        assert!(all.iter().all(|folio| [lower, upper].iter().any(|part| part.contains(folio.pfn()))));
        drop(all);
        let low: Vec<_> = std::iter::from_fn(|| physical.alloc_with(&request.below(upper.start)).ok()).collect();
        assert!(low.len() as u32 == (blocks * 512) >> order.get() && low.iter().all(|it| lower.contains(it.pfn())));
        let high = physical.alloc_with(&request.on_node(1)).unwrap();
        assert!(upper.contains(high.pfn()));
    }
    lab.assert_all_free(2 * blocks * 512);
}

/// Folios above a pageblock's order are compacted for within one part, and aligned: parts of three blocks that begin in the middle
/// of 4 MiB have one place each.
#[test]
fn larger_folios_than_pageblocks_are_made_within_a_part() {
    let frames = 3 * 512;
    let parts = [FIRST.up(512), FIRST.up(512 + frames + HOLE)].map(|start| FrameRange { start, frames });
    let config = Machine { frames: 2 * frames, cpus: 2, tlb: TlbKind::Soft, contents: Contents::All };
    let ram = FrameRange { start: FIRST, frames: 512 + 2 * frames + HOLE };
    let lab = Lab::boot(Hosted::with_ram(config, ram).unwrap(), &Config::new(parts.to_vec(), HUGE_ORDER));
    let device = Device::open(&lab);
    // A page that can move in each block.
    for (page, start) in (0..).zip(parts.iter().flat_map(|part| [0, 512, 1024].map(|at| part.start.up(at)))) {
        let folio = lab.physical().alloc_exactly(start.up(77), Kind::Driver).unwrap();
        drop(device.driver.index.insert(page, folio).unwrap());
    }
    let request = Request::new(MAX_ORDER, Kind::Kernel).with_effort(Effort::Compact);
    assert!(lab.physical().alloc(MAX_ORDER, Kind::Kernel).is_err(), "the scene is set");
    let two = [0, 1].map(|_| alloc_compacting(&lab.engine, &request, Options::new(Mode::Sync)).unwrap());
    for folio in two {
        let whole = FrameRange { start: folio.pfn(), frames: 1024 };
        let is_within = parts.iter().any(|part| part.common(whole) == Some(whole));
        assert!(folio.pfn().is_aligned(MAX_ORDER) && is_within, "{folio:?}");
    }
}

/// The hole costs next to nothing.
#[test]
fn metadata_costs_by_the_frames_there_are() {
    let blocks = 64;
    let config = Config::new(parts(blocks).to_vec(), HUGE_ORDER);
    let hooked = Hooked::new(machine(TlbKind::Soft, blocks), usize::MAX);
    let engine = hooked.boot(&config).unwrap();
    assert_eq!(hooked.lent(), config.lent_bytes());
    let frames = 2 * blocks * 512;
    // A bit for each pageblock of the hole.
    let one = Config::new(vec![range(0, frames)], HUGE_ORDER).lent_bytes();
    assert_eq!(config.lent_bytes(), one + HOLE as usize / 512 / 8);
    assert!(engine.physical().frames().len() == frames && (one as f64) < 32.4 * f64::from(frames));
}

#[test]
fn maps_with_large_holes_make_zones_without_them() {
    let far = u64::from(HOLE);
    let at = |start: u64, frames| FrameRange { start: Pfn::new(start), frames };
    let zones = |usable: &[FrameRange], end: u64| {
        let usable: Vec<_> = usable.iter().map(|&range| (range, 0)).collect();
        let config = Config::from_map(&usable, &[], FIRST..Pfn::new(end), HUGE_ORDER);
        (config.zones.clone(), config.reserved.iter().map(|range| range.frames).sum::<u32>())
    };
    let first = FIRST.get();
    let (lower, upper) = (at(first, 1000), at(first + far, 700));
    assert_eq!(zones(&[upper, lower], 1 << 36), (vec![at(first, 1024), at(first + far, 1024)], 24 + 324));
    // 128 MiB end a zone; a pageblock less does not.
    assert_eq!(zones(&[lower, at(first + 1024 + (1 << 15), 512)], 1 << 36).0.len(), 2);
    let small = (1 << 15) - 512;
    let one = (vec![at(first, 1024 + small + 512)], 24 + small);
    assert_eq!(zones(&[lower, at(first + 1024 + u64::from(small), 512)], 1 << 36), one);
    // What lies outside of the machine's memory is left out, or reserved where a pageblock has a part of it.
    assert_eq!(zones(&[at(first - 100, 612), at(first + 512, 600)], first + 1000), (vec![at(first, 1024)], 24));
    assert_eq!(zones(&[at(u64::MAX - 5, 600)], 1 << 36), (vec![], 0));
    // More frames than a zone counts make two, and more than can be numbered are refused.
    let (half, most) = (1 << 31, u32::MAX - 511);
    let two = [at(first, half), at(first + (1 << 31), half + 1024)];
    assert_eq!(zones(&[at(first, half), at(first + (1 << 31), half), at(first + (1 << 32), 1024)], 1 << 36).0, two);
    assert_eq!(zones(&[at(first, u32::MAX)], 1 << 36), (vec![at(first, most), at(first + u64::from(most), 512)], 1));
    let hooked = Hooked::new(machine(TlbKind::Soft, 1), usize::MAX);
    assert_eq!(hooked.boot(&Config::new(two.to_vec(), HUGE_ORDER)).err(), Some(BootError::BeyondRam(0)));
    // Layouts that are refused borrow nothing.
    let swapped = [at(first + 512, 512), at(first, 512)];
    for zones in [two.to_vec(), swapped.to_vec(), vec![at(first + 1, 512)], vec![]] {
        assert_eq!(Config::new(zones, HUGE_ORDER).lent_bytes(), 0);
    }
    assert_eq!(Config::new(vec![at(first, 512)], Order::ZERO).lent_bytes(), 0);
}

#[test]
fn memory_that_the_machine_or_the_tables_cannot_name_is_refused() {
    let outside = [
        FrameRange { start: Pfn::new(0), frames: 512 },
        FrameRange { start: Pfn::new(FIRST.get() - 512), frames: 1024 },
        FrameRange { start: parts(1)[1].end(), frames: 512 },
        FrameRange { start: Pfn::new(u64::MAX - 511), frames: 512 },
    ];
    for zone in outside {
        let hooked = Hooked::new(machine(TlbKind::Soft, 1), usize::MAX);
        let error = hooked.boot(&Config::new(vec![zone], HUGE_ORDER)).err();
        assert_eq!(error, Some(BootError::BeyondRam(0)), "{zone:?}");
    }
    // The last block that an entry of aarch64 names, and the one after it.
    for (over, is_told) in [(0, false), (512, true)] {
        let frames = FrameRange { start: Pfn::new(Aarch64::FRAMES - 512 + over), frames: 512 };
        let config = Machine { frames: 512, cpus: 1, tlb: TlbKind::Soft, contents: Contents::All };
        let lab = Lab::boot(Hosted::with_ram(config, frames).unwrap(), &Config::new(vec![frames], HUGE_ORDER));
        let bounds = VirtRange::new(VirtAddr::new(1 << 22).unwrap(), 512).unwrap();
        let space = AddressSpace::<Aarch64>::with_format(&lab.engine, bounds);
        match (space, is_told) {
            (Ok(space), false) => {
                let source = Source::Anonymous { orders: Orders::BASE };
                let at = space.mmap(&Map { at: None, pages: 1, protection: RW, source }).unwrap().start();
                space.fault(at, pagemove::space::Access::Write).unwrap();
                assert_eq!(lab.migrate(space.entry(at).pfn(), Mode::Sync), Ok(()));
            }
            (Err(error @ SpaceError::FrameTooHigh { .. }), true) => {
                assert!(error.to_string().contains("0x1000000000"), "{error}");
            }
            (other, _) => panic!("{:?}", other.map(|_| ())),
        }
        lab.assert_all_free(512);
    }
}
