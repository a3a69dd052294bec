//! Booting: each way to configure memory wrongly, and right layouts that are not the usual one.
mod common;

use common::*;
use pagemove::{
    frame::{Class, Kind},
    units::{FrameRange, MAX_ORDER, Order, Pfn},
    zone::{BootError, Config},
};
use pagemove_hosted::{HostedError, TlbKind};
use rand::RngExt;

fn boot_error(frames: u32, zones: Vec<FrameRange>, pageblock_order: u8) -> Option<BootError> {
    let hooked = Hooked::new(hosted(TlbKind::Soft, frames, 1), usize::MAX);
    hooked.boot(&Config::new(zones, order(pageblock_order))).err()
}

#[test]
fn wrong_layouts_are_refused_with_the_zone_that_is_wrong() {
    let ok = range(0, 1024);
    assert_eq!(boot_error(2048, vec![ok], 0), Some(BootError::PageblockOrder(Order::ZERO)));
    assert_eq!(boot_error(2048, vec![], 9), Some(BootError::Empty(0)));
    assert_eq!(boot_error(2048, vec![ok, range(1024, 0)], 9), Some(BootError::Empty(1)));
    assert_eq!(boot_error(2048, vec![range(1, 512)], 9), Some(BootError::Misaligned(0)));
    assert_eq!(boot_error(2048, vec![ok, range(1024, 100)], 9), Some(BootError::Misaligned(1)));
    assert_eq!(boot_error(2048, vec![ok, range(512, 512)], 9), Some(BootError::Overlap(1)));
    assert_eq!(boot_error(2048, vec![range(1024, 512), range(0, 512)], 9), Some(BootError::Overlap(1)));
    assert_eq!(boot_error(2048, vec![ok, range(1024, 1536)], 9), Some(BootError::BeyondRam(1)));
    assert_eq!(boot_error(1000, vec![ok], 9), Some(BootError::BeyondRam(0)));
    let last = FrameRange { start: Pfn::new(u64::MAX - 511), frames: 1024 };
    assert_eq!(boot_error(2048, vec![last], 9), Some(BootError::BeyondRam(0)));
    assert_eq!(boot_error(2048, vec![ok, range(1024, 1024)], 9), None);
}

#[test]
fn a_machine_that_lends_no_memory_is_told_so() {
    // The frame table, the pageblocks, their index.
    for loans in 0..3 {
        let hooked = Hooked::new(hosted(TlbKind::Soft, 1024, 1), loans);
        assert_eq!(hooked.boot(&one_zone(1024, 9)).err(), Some(BootError::NoMetadata(1024)), "{loans} loan(s)");
    }
    assert!(Hooked::new(hosted(TlbKind::Soft, 1024, 1), 3).boot(&one_zone(1024, 9)).is_ok());
}

#[test]
fn errors_name_the_zone_and_the_stage() {
    let errors = [
        BootError::PageblockOrder(Order::ZERO),
        BootError::Empty(3),
        BootError::Misaligned(3),
        BootError::Overlap(3),
        BootError::BeyondRam(3),
        BootError::NoMetadata(3),
    ];
    for error in errors {
        let text = error.to_string();
        assert!(text.starts_with("boot: ") && (text.contains('3') || text.contains("not 0")), "{text}");
    }
}

#[test]
fn machines_of_nothing_are_refused() {
    use pagemove::port::Contents;
    use pagemove_hosted::{Config, Hosted};
    for (frames, cpus) in [(0, 1), (1, 0)] {
        let config = Config { frames, cpus, tlb: TlbKind::Soft, contents: Contents::All };
        assert!(matches!(Hosted::new(config), Err(HostedError::Nothing)));
    }
    // All frames that 32 bits can name: 16 TiB of contents, which nobody has.
    let config = Config { frames: u32::MAX, cpus: 1, tlb: TlbKind::Soft, contents: Contents::All };
    assert!(matches!(Hosted::new(config), Err(HostedError::NotEnoughMemory { .. })));
}

/// Allocates at random until nothing is left, checks that no frame is given twice nor from outside, and gives all back.
fn exercise(lab: &Lab, seed: u64) {
    let mut rng = rng(seed);
    let physical = lab.engine.physical();
    let all: u32 = physical.zones().map(|zone| zone.frames).sum();
    assert_eq!(lab.free_frames(), all);
    let mut held = Vec::new();
    let mut given = vec![false; number(physical.frames().end()) as usize];
    loop {
        let order = order(rng.random_range(0..=MAX_ORDER.get()));
        let kind = [Kind::Anon, Kind::Kernel, Kind::Slab][rng.random_range(0..3)];
        let Ok(folio) = physical.alloc(order, kind) else {
            if order == Order::ZERO {
                break;
            }
            continue;
        };
        assert!(folio.pfn().is_aligned(order));
        for frame in range(number(folio.pfn()), order.frames()).iter() {
            assert!(physical.is_managed(frame), "frame {frame} belongs to no zone");
            assert!(!std::mem::replace(&mut given[number(frame) as usize], true), "frame {frame} was given twice");
        }
        held.push(folio.publish());
    }
    lab.validate();
    // Other frames may wait on the lists of other types on this processor: these come first to who wants that type.
    assert!(lab.free_frames() <= 3 * 64);
    while !held.is_empty() {
        drop(held.swap_remove(rng.random_range(0..held.len())));
    }
    lab.assert_all_free(all);
}

#[test]
fn pageblocks_of_every_order_work() {
    for pageblock_order in 1..=10 {
        // An odd number of pageblocks, and an odd number of frames behind them that no zone takes.
        let frames = 1024.max(3 << pageblock_order);
        let machine = hosted(TlbKind::Soft, frames + 7, 2);
        exercise(&Lab::boot(machine, &one_zone(frames, pageblock_order)), u64::from(pageblock_order));
    }
}

#[test]
fn two_zones_with_a_hole_between_them() {
    // Neither starts at a multiple of the largest order, so buddies of both lie outside.
    let zones = vec![range(512, 1536), range(2560, 512 * 5)];
    let lab = Lab::boot(hosted(TlbKind::Soft, 6000, 2), &Config::new(zones, order(9)));
    let physical = lab.engine.physical();
    for (at, managed) in [(0, false), (511, false), (512, true), (2047, true), (2048, false), (2559, false)] {
        assert_eq!(physical.is_managed(pfn(at)), managed, "frame {at}");
    }
    for (at, managed) in [(2560, true), (5119, true), (5120, false), (5999, false), (6000, false), (u32::MAX, false)] {
        assert_eq!(physical.is_managed(pfn(at)), managed, "frame {at}");
    }
    // The hole counts as reserved, and is never given.
    assert_eq!(physical.blocks().summary(physical.blocks().number(pfn(2048))).of(Class::Reserved), 512);
    assert_eq!(physical.blocks().count(), 10, "and one in front, so that numbers are aligned");
    assert!(physical.alloc_exactly(pfn(2048), Kind::Kernel).is_none());
    assert!(physical.alloc_exactly(pfn(6000), Kind::Kernel).is_none());
    for seed in 0..4 {
        exercise(&lab, seed);
    }
}

#[test]
fn neighbouring_zones_never_merge() {
    let zones = vec![range(0, 512), range(512, 512), range(1024, 1024)];
    let lab = Lab::boot(hosted(TlbKind::Soft, 2048, 1), &Config::new(zones, order(9)));
    let physical = lab.engine.physical();
    // The last zone is asked first; the two others have no block of that order.
    let largest = physical.alloc(MAX_ORDER, Kind::Anon).unwrap();
    assert_eq!(largest.pfn(), pfn(1024));
    assert!(physical.alloc(MAX_ORDER, Kind::Anon).is_err());
    drop(largest);
    for seed in 0..4 {
        exercise(&lab, seed);
    }
    let ranges: Vec<_> = physical.zones().collect();
    assert_eq!(ranges.len(), 3);
}

/// Low memory can be asked for while there is high memory, by its zone or by an upper bound, and nothing else is given.
#[test]
fn requests_name_a_zone_or_a_bound() {
    use pagemove::zone::{AllocError, Request};
    let zones = vec![range(0, 1024), range(1024, 1024)];
    let lab = Lab::boot(hosted(TlbKind::Soft, 2048, 2), &Config::new(zones, order(9)));
    let physical = lab.engine.physical();
    for size in [0, 2, 4, 9, 10] {
        let request = Request::new(order(size), Kind::Kernel);
        let low = physical.alloc_with(&request.in_zone(0)).unwrap().pfn();
        assert!(low < pfn(1024), "order {size}");
        let high = physical.alloc_with(&request).unwrap().pfn();
        assert!(high >= pfn(1024), "order {size}");
    }
    // Bounds at a zone's end, within a block, and one frame too low for the order.
    for (size, below) in [(0, 1024), (10, 1024), (0, 700), (9, 512), (4, 16), (0, 1), (2, 1500)] {
        let request = Request::new(order(size), Kind::Kernel).below(pfn(below));
        let all: Vec<_> = std::iter::from_fn(|| physical.alloc_with(&request).ok()).collect();
        let mut held = pfns(&all);
        assert_eq!(held.len() as u32, below >> size, "order {size} below {below}");
        held.sort();
        held.dedup();
        assert_eq!(held.len() as u32, below >> size, "no frame twice");
        assert!(held.iter().all(|pfn| number(*pfn) + (1 << size) <= below), "order {size} below {below}");
        let error = AllocError { order: order(size), zone: None, node: None, below: Some(pfn(below)) };
        assert_eq!(physical.alloc_with(&request).err(), Some(error));
        drop(all);
    }
    let none = Request::new(order(4), Kind::Kernel).below(pfn(15));
    assert!(physical.alloc_with(&none).is_err());
    assert!(physical.alloc_with(&Request::new(order(0), Kind::Kernel).in_zone(2)).is_err());
    lab.assert_all_free(2048);
}
