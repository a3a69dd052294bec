//! What happens to pages while they move. Each deed checks what it can know by itself while it's done, and tells what it
//! leaves for the check at the end.

use pagemove::{
    compact::{Goal, compact},
    migrate::{AnyFree, Mode, Mover, Options, split},
    space::{FaultError, Protection},
    sync::set_stepping,
    units::VirtRange,
};

use crate::world::{End, Fate, Kind, PAGES, RW, World, first_value};

/// What a thread does beside the migrator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    Load,
    Store,
    Unmap,
    Remap,
    Fork,
    Protect,
    Pin,
    Free,
    Truncate,
    Migrate,
    Compact,
    Exit,
    ClearSoftDirty,
    Unregister,
    Device,
    Accelerate,
    Split,
    Tables,
}

/// A second place for the mapping, far from the first, so that page tables come and go.
const FAR: u32 = 1 << 19;

/// Moves all pages that the first process maps, twice; gives how many were moved, and how many stayed.
pub fn migrate(world: &World, mode: Mode) -> (u64, u64) {
    let mut sums = (0, 0);
    for _ in 0..2 {
        let frames = world.frames();
        let mut destination = AnyFree::new(world.engine.physical(), frames.len());
        let outcome = Mover::new(&world.engine).migrate(&frames, &mut destination, Options::new(mode));
        sums.0 += outcome.moved;
        sums.1 += outcome.stayed.len() as u64;
    }
    sums
}

impl Deed {
    pub const ALL: &[Self] = &[
        Self::Load,
        Self::Store,
        Self::Unmap,
        Self::Remap,
        Self::Fork,
        Self::Protect,
        Self::Pin,
        Self::Free,
        Self::Truncate,
        Self::Migrate,
        Self::Compact,
        Self::Exit,
        Self::ClearSoftDirty,
        Self::Unregister,
        Self::Device,
        Self::Accelerate,
        Self::Split,
        Self::Tables,
    ];

    /// Tells whether it can be done to such pages.
    pub fn fits(self, kind: Kind) -> bool {
        match self {
            Self::Free | Self::Unregister | Self::Device => matches!(kind, Kind::Driver | Kind::DriverTwice),
            Self::Truncate => kind == Kind::SharedFile,
            Self::Accelerate => kind == Kind::Device,
            Self::Exit => kind.is_forked() || matches!(kind, Kind::SharedFile | Kind::DriverTwice),
            Self::Split => kind.is_large(),
            _ => true,
        }
    }

    /// Tells whether both can be done at once, with what each checks still true.
    pub fn goes_with(self, other: Self) -> bool {
        let remaps = |deed| matches!(deed, Self::Unmap | Self::Remap | Self::Protect);
        let empties = |deed| matches!(deed, Self::Free | Self::Truncate);
        let looks = |deed| matches!(deed, Self::Load | Self::Fork | Self::Pin | Self::Device | Self::Accelerate);
        let at_odds = |one, other| {
            remaps(one) && (remaps(other) || empties(other) || looks(other) || other == Self::Store)
                || empties(one) && looks(other)
                || one == Self::Accelerate && other == Self::Accelerate
        };
        !at_odds(self, other) && !at_odds(other, self)
    }

    /// Does it, as thread `who` from 1 on.
    pub fn act(self, world: &World, who: usize) -> End {
        let first = &world.first;
        let load = |page| first.load(world.word(page, 0));
        let one = VirtRange::new(world.at.start(), 1).expect("a page");
        match self {
            Self::Load => {
                for page in (0..PAGES).chain(0..PAGES) {
                    assert_eq!(load(page), Ok(first_value(page)));
                }
                End::NOTHING
            }
            Self::Store => {
                for value in 1..=3 {
                    first.store(world.word(0, who), value).expect("a store");
                    let found = first.load(world.word(0, who)).expect("a load");
                    assert!(found == value || found == 0, "stored {value}, loaded {found}");
                }
                End::fate(0, Fate::Kept(Some((who, 3))))
            }
            Self::Unmap => {
                first.space().munmap(one).expect("to unmap");
                assert_eq!(load(0), Err(FaultError::NotMapped(world.word(0, 0))));
                End::fate(0, Fate::Unmapped)
            }
            Self::Remap => {
                let to = world.at.start().up(FAR);
                first.space().mremap(world.at, PAGES, Some(to)).expect("to remap");
                assert_eq!(load(0), Err(FaultError::NotMapped(world.word(0, 0))));
                assert_eq!(first.load(to), Ok(first_value(0)));
                End { moved_to: Some(to), ..End::NOTHING }
            }
            Self::Fork => {
                let child = first.fork().expect("a child");
                assert_eq!(child.load(world.word(0, 0)), Ok(first_value(0)));
                child.store(world.word(0, who + 4), 9).expect("a store");
                let seen = if world.kind.is_shared() { 9 } else { 0 };
                assert_eq!(first.load(world.word(0, who + 4)), Ok(seen));
                first.store(world.word(1, who), 5).expect("a store");
                let seen = if world.kind.is_shared() { 5 } else { 0 };
                assert_eq!(child.load(world.word(1, who)), Ok(seen));
                world.children.lock().expect("no panic").push(child);
                End::fate(1, Fate::Kept(Some((who, 5))))
            }
            Self::Protect => {
                first.space().mprotect(one, Protection::READ).expect("to protect");
                let address = world.word(0, who);
                assert_eq!(first.store(address, 1), Err(FaultError::Protection(address)));
                assert_eq!(load(0), Ok(first_value(0)));
                first.space().mprotect(one, RW).expect("to protect");
                first.store(address, 2).expect("a store");
                End::fate(0, Fate::Kept(Some((who, 2))))
            }
            Self::Pin => {
                let pins = first.space().pin(one, true, "a device").expect("to pin");
                let pfn = pins[0].pfn();
                pins[0].words(0)[who].store(7, pagemove::sync::Ordering::Relaxed);
                assert_eq!(first.load(world.word(0, who)), Ok(7), "the device and the process use one page");
                let entry = first.space().entry(world.at.start());
                assert_eq!(entry.pfn(), pfn, "a pinned page moved");
                drop(pins);
                End::fate(0, Fate::Kept(Some((who, 7))))
            }
            Self::Free => {
                let device = world.device.as_ref().expect("a device's");
                device.free(0);
                assert_eq!(load(0), Ok(0), "a freed page was seen again");
                End::fate(0, Fate::Freed)
            }
            Self::Truncate => {
                let cache = world.cache.as_ref().expect("a file's");
                cache.index().truncate(0..1);
                assert_eq!(load(0), Ok(0), "a page that was cut off was seen again");
                End::fate(0, Fate::Freed)
            }
            Self::Migrate => {
                migrate(world, Mode::Sync);
                End::NOTHING
            }
            Self::Compact => {
                let zone = world.engine.physical().zones().next().expect("a zone");
                compact(&world.engine, zone, Goal::Blocks(2), Options::new(Mode::Sync));
                End::NOTHING
            }
            Self::Exit => {
                world.second.as_ref().expect("a second process").space().exit();
                End { exited: true, ..End::NOTHING }
            }
            Self::ClearSoftDirty => {
                first.space().clear_soft_dirty();
                End::NOTHING
            }
            Self::Unregister => {
                world.device.as_ref().expect("a device's").registration().unregister();
                let before = world.frames();
                let mut destination = AnyFree::new(world.engine.physical(), before.len());
                let outcome = Mover::new(&world.engine).migrate(&before, &mut destination, Options::new(Mode::Sync));
                assert_eq!(outcome.moved, 0, "a driver's page moved after it had unregistered");
                End::NOTHING
            }
            Self::Accelerate => {
                let device = world.accelerator.as_ref().expect("a device");
                assert_eq!(device.load(0, 0), Some(first_value(0)));
                assert_eq!(device.add(1, who, 3), Some(0));
                assert_eq!(device.add(1, who, 3), Some(3), "a device's store was lost");
                // Out of the device's table and in again, maybe in the midst of a move.
                assert!(device.unmap(0));
                device.map(0);
                assert_eq!(device.load(0, 0), Some(first_value(0)));
                End::fate(1, Fate::Kept(Some((who, 6))))
            }
            Self::Split => {
                for pfn in world.frames() {
                    if let Some(folio) = world.engine.physical().get(pfn) {
                        // Others may hold it.
                        let _ = split(&world.engine, folio.lock());
                    }
                }
                End::NOTHING
            }
            Self::Tables => {
                for _ in 0..2 {
                    let physical = world.engine.physical();
                    // The search is of no interest.
                    set_stepping(false);
                    let all = physical.zones().flat_map(|zone| zone.iter().collect::<Vec<_>>());
                    let tables: Vec<_> = all.filter(|&pfn| physical.frame(pfn).state().is_space_table()).collect();
                    set_stepping(true);
                    let mut destination = AnyFree::new(physical, 1);
                    Mover::new(&world.engine).migrate(&tables, &mut destination, Options::new(Mode::Sync));
                }
                End::NOTHING
            }
            Self::Device => {
                let device = world.device.as_ref().expect("a device's");
                assert_eq!(device.read(0, 0), Ok(first_value(0)));
                device.write(1, who, 6).expect("to write");
                assert_eq!(first.load(world.word(1, who)), Ok(6));
                End::fate(1, Fate::Kept(Some((who, 6))))
            }
        }
    }
}
