//! Frames that aren't memory: a device's registers, mapped by processes. They are never counted, never move, and are no memory to copy or
//! pin; their entries keep the caching.
//!
//! Varied: caching, rights, call, a move in the middle; frames in RAM, where the soft TLB can load and store them, and beyond it. Not varied:
//! orders (each entry is of order 0), and what a CPU makes of the caching.
#![allow(unsafe_code)]

mod common;

use common::*;
use pagemove::{
    compact::{Goal, compact},
    migrate::{Mode, Options},
    paging::{Entry, Flags},
    report::Reason,
    space::{Access, Caching, DeviceFrames, FaultError, Map, PinError, Protection, Source, SpaceError},
    units::{FrameRange, HUGE_ORDER, Pfn, VirtRange},
    zone::Config,
};
use pagemove_hosted::{FIRST_FRAME, Process, TableFormat, TlbKind};

/// Reserved frames, which play a device's registers.
const FIRST: u32 = 700;
const FRAMES: u32 = 16;

fn lab() -> Lab {
    let config = Config::new(vec![range(0, 2048)], HUGE_ORDER).with_reserved([range(FIRST, FRAMES)]);
    Lab::boot(hosted(TlbKind::Soft, 2048, 3), &config)
}

fn frames(range: FrameRange, caching: Caching) -> DeviceFrames {
    // SAFETY: reserved frames that nobody uses, or frames that no access reaches.
    unsafe { DeviceFrames::new(range, caching) }
}

fn registers(caching: Caching) -> DeviceFrames {
    frames(range(FIRST, FRAMES), caching)
}

fn map(frames: DeviceFrames, first: u32, pages: u32, protection: Protection) -> Map {
    Map { at: None, pages, protection, source: Source::Device { frames, first } }
}

fn mapped(process: &Process, first: u32, pages: u32) -> VirtRange {
    process.space().mmap(&map(registers(Caching::Uncached), first, pages, RW)).unwrap()
}

#[test]
fn registers_are_shared_and_never_counted() {
    let lab = lab();
    let free = lab.free_frames();
    let (one, two) = (lab.process(), lab.process());
    let (at, there) = (mapped(&one, 0, FRAMES), mapped(&two, 4, 8));
    for (number, page) in at.iter().enumerate() {
        one.store(page, number as u64 + 100).unwrap();
    }
    for (number, page) in there.iter().enumerate() {
        assert_eq!(two.load(page).unwrap(), number as u64 + 104);
    }
    let child = two.fork().unwrap();
    child.store(there.start(), 7).unwrap();
    assert_eq!((one.load(at.start().up(4)).unwrap(), two.load(there.start()).unwrap()), (7, 7), "shared, not copied");
    // All that changes mappings.
    one.space().munmap(VirtRange::new(at.start().up(3), 2).unwrap()).unwrap();
    assert_eq!(one.load(at.start().up(4)), Err(FaultError::NotMapped(at.start().up(4))));
    two.space().mprotect(there, Protection::READ).unwrap();
    assert_eq!(two.store(there.start(), 1), Err(FaultError::Protection(there.start())));
    two.space().mprotect(there, RW).unwrap();
    two.space().clear_soft_dirty();
    two.store(there.start(), 8).unwrap();
    let new = two.space().mremap(there, 6, Some(there.start().up(1000))).unwrap();
    assert_eq!((two.load(new.start()).unwrap(), two.load(new.start().up(5)).unwrap()), (8, 109));
    lab.validate();
    drop((one, two, child));
    assert_eq!(lab.free_frames(), free);
    lab.validate();
}

#[test]
fn registers_stay_where_they_are() {
    let lab = lab();
    let process = lab.process();
    let at = mapped(&process, 0, FRAMES);
    let memory = anonymous(&process, 300);
    at.iter().chain(memory.iter()).for_each(|page| process.store(page, page.vpn()).unwrap());
    let pfn = process.space().frame(at.start()).unwrap();
    assert_eq!(pfn, range(FIRST, 1).start);
    let outcome = lab.migrate_all(&[pfn], Options::new(Mode::Sync));
    assert_eq!((outcome.moved, outcome.stayed), (0, vec![(pfn, Reason::Unmovable)]));
    // Also around what does move, its page tables with it.
    let before = process.space().leaf_table(at.start());
    for _ in 0..3 {
        let zone = lab.physical().zones().next().unwrap();
        compact(&lab.engine, zone, Goal::All, Options::new(Mode::Sync));
    }
    for page in at.iter().chain(memory.iter()) {
        assert_eq!(process.load(page).unwrap(), page.vpn());
    }
    assert_eq!(process.space().frame(at.start()), Some(pfn));
    assert!(before.is_some());
    lab.validate();
}

#[test]
fn what_is_no_memory_is_neither_copied_nor_pinned() {
    let lab = lab();
    let process = lab.process();
    let (at, space) = (mapped(&process, 0, 4), process.space());
    let refused = FaultError::NotMemory(at.start());
    for _ in 0..2 {
        assert_eq!(space.pin(at, false, "device").err(), Some(PinError::Fault(refused)));
        assert_eq!(space.pin(at, true, "device").err(), Some(PinError::Fault(refused)));
        assert_eq!(space.read(at.start(), &mut [0; 8]).err().map(|error| error.cause), Some(refused));
        assert_eq!(space.write(at.start(), &[0; 8]).err().map(|error| error.cause), Some(refused));
        // With an entry, too.
        process.store(at.start(), 1).unwrap();
    }
    let many = FrameRange { start: FIRST_FRAME.up(1 << 20), frames: 1100 };
    let many = space.mmap(&map(frames(many, Caching::WriteBack), 0, 1100, RW)).unwrap();
    assert!(space.collapse(many).is_err());
    // A copy that comes to one after memory says how far it came.
    let memory = anonymous(&process, 1);
    space.mmap(&Map { at: Some(memory.end()), ..map(registers(Caching::Uncached), 0, 1, RW) }).unwrap();
    let error = space.read(memory.end().up(0), &mut [0; 8]).unwrap_err();
    assert_eq!((error.done, error.cause), (0, FaultError::NotMemory(memory.end())));
    lab.validate();
}

#[test]
fn entries_have_the_caching_and_the_rights() {
    let lab = lab();
    let process = lab.process();
    let beyond = FrameRange { start: FIRST_FRAME.up(1 << 20), frames: 600 };
    for (caching, bits) in [
        (Caching::WriteBack, Flags::empty()),
        (Caching::WriteCombining, Flags::WRITE_COMBINING),
        (Caching::Uncached, Flags::UNCACHED),
    ] {
        for protection in [RW, Protection::READ] {
            let at = process.space().mmap(&map(frames(beyond, caching), 5, 590, protection)).unwrap();
            process.space().fault(at.start().up(585), Access::Read).unwrap();
            let entry = process.space().entry(at.start().up(585));
            assert_eq!(entry.pfn(), beyond.start.up(590));
            let found = entry.flags() & (Flags::UNCACHED | Flags::WRITE_COMBINING | Flags::WRITE | Flags::USER);
            let right = if protection == RW { Flags::WRITE } else { Flags::empty() };
            assert_eq!(found, bits | right | Flags::USER, "{caching:?}");
            let outcome = lab.migrate_all(&[entry.pfn()], Options::new(Mode::Sync));
            assert_eq!(outcome.stayed, vec![(entry.pfn(), Reason::CrossedZone)]);
            let child = process.fork().unwrap();
            let of_child = child.space().entry(at.start().up(585));
            assert_eq!(of_child.pfn(), entry.pfn());
            assert!(of_child.flags().contains(bits | Flags::USER));
            process.space().munmap(at).unwrap();
            assert_eq!(process.space().entry(at.start().up(585)), Entry::NONE);
        }
    }
    lab.validate();
}

/// Beyond a device's last frame is memory.
#[test]
fn a_mapping_grows_no_further_than_its_device() {
    let lab = lab();
    let process = lab.process();
    let space = process.space();
    let (at, other) = (mapped(&process, 4, 2), anonymous(&process, 1).start().up(4000));
    let refused = Err(SpaceError::TooFar { stage: "mremap" });
    for pages in [13, 1300, u32::MAX - 4] {
        assert_eq!(space.mremap(at, pages, None), refused, "in place");
        assert_eq!(space.mremap(at, pages, Some(other)), refused, "to another address");
        let part = VirtRange::new(at.start().up(1), 1).unwrap();
        assert_eq!(space.mremap(part, pages - 1, None), refused, "a part of it");
    }
    let grown = space.mremap(at, 12, None).unwrap();
    grown.iter().for_each(|page| process.store(page, page.vpn()).unwrap());
    assert_eq!(space.frame(grown.start().up(11)), Some(range(FIRST + FRAMES - 1, 1).start), "all of it can be had");
    assert_eq!(space.mremap(grown, 13, None), refused);
    lab.validate();
}

#[test]
fn only_what_is_not_the_engines_can_be_mapped() {
    let lab = lab();
    let process = lab.process();
    let refused = |frames, first, pages| process.space().mmap(&map(frames, first, pages, RW)).err();
    let stage = "mmap";
    for (start, taken) in [(FIRST - 1, FIRST - 1), (FIRST + 1, FIRST + FRAMES), (0, 0), (2047, 2047)] {
        let pfn = range(taken, 1).start;
        let error = refused(frames(range(start, FRAMES), Caching::Uncached), 0, FRAMES);
        assert_eq!(error, Some(SpaceError::Managed { stage, pfn }), "from {start} on");
    }
    for (first, pages) in [(0, FRAMES + 1), (FRAMES, 1), (u32::MAX, 1), (1, u32::MAX)] {
        assert_eq!(refused(registers(Caching::Uncached), first, pages), Some(SpaceError::TooFar { stage }));
    }
    let last = FrameRange { start: Pfn::new(<TableFormat as pagemove::paging::Format>::FRAMES - 1), frames: 2 };
    assert!(matches!(refused(frames(last, Caching::Uncached), 0, 2), Some(SpaceError::FrameTooHigh { .. })));
    assert_eq!(refused(frames(last, Caching::Uncached), 0, 1), None);
    lab.validate();
}
