//! Moving objects together, so that zspages become empty and their pages free (Linux: `zs_compact`).

use arrayvec::ArrayVec;
use pagemove::{
    folio::{FrozenReferences, LockedFolio},
    units::PAGE_SIZE,
};

use super::{
    Pool,
    class::LONGEST,
    handle::Location,
    object::{Held, read},
    pool::{Class, ClassState, Inner},
    zspages::Place,
};

/// Zspages of a class that are passed over, since their pages are read or moving, before its compaction ends.
const PATIENCE: usize = 8;

/// What a compaction has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// Pages that are free now.
    pub pages: u64,
    /// Objects that were moved.
    pub objects: u64,
}

impl Pool {
    /// Gives how many pages a compaction could free: what a shrinker counts.
    pub fn compactable_pages(&self) -> u64 {
        self.inner.classes.iter().map(|class| class.state.lock().zspages.surplus() * u64::from(class.size.pages)).sum()
    }

    /// Moves objects together until `pages` pages are free, or no more can be had. Doesn't sleep; each class's lock is held for one zspage at
    /// a time. Passes over zspages with a page that is read or moving.
    pub fn compact(&self, pages: u64) -> Compacted {
        let mut done = Compacted::default();
        // The largest objects first, as Linux does.
        for class in self.inner.classes.iter().rev() {
            let mut passed_over = ArrayVec::<u32, PATIENCE>::new();
            while done.pages < pages && !passed_over.is_full() {
                let mut state = class.state.lock();
                let freed = self.inner.free_empty(class, &mut state);
                done.pages += u64::from(freed);
                if freed > 0 {
                    // There may be more of them.
                    continue;
                }
                if state.zspages.surplus() == 0 {
                    break;
                }
                let Some(from) = state.zspages.emptiest_but(&passed_over) else { break };
                done.objects += self.inner.empty_zspage(class, &mut state, from);
                match self.inner.free_empty(class, &mut state) {
                    0 => passed_over.push(from),
                    freed => done.pages += u64::from(freed),
                }
            }
        }
        done
    }
}

impl Inner {
    /// Moves objects out of a zspage into fuller ones; gives their number. Does nothing if somebody reads one of them.
    fn empty_zspage(&self, class: &Class, state: &mut ClassState, from: u32) -> u64 {
        let first = class.first_cell(state, from);
        let mut pages = ArrayVec::<LockedFolio<'_>, LONGEST>::new();
        for cell in first..first + class.size.pages {
            let Some(page) = self.pages.try_lock(&self.registration, cell) else { return 0 };
            pages.push(page);
        }
        // Now no reader has one of its objects, nor can get one.
        let mut frozen = ArrayVec::<FrozenReferences<'_, '_>, LONGEST>::new();
        for page in &mut pages {
            let Some(page) = page.try_freeze() else { return 0 };
            frozen.push(page);
        }
        let (mut moved, mut next) = (0, 0);
        while let Some((object, handle)) = state.zspages.next_object(from, next) {
            let Some(to) = state.zspages.fullest_but(from) else { break };
            let room = Location::new(class.first_cell(state, to), class.number, state.zspages.free_object(to));
            let Ok(target) = self.try_hold(room) else { break };
            copy(&frozen, object as usize * class.size.size as usize, &target);
            state.zspages.take_of(to, handle);
            // Before the pages are thawed: a reader that gets a reference to the old place then finds the new one.
            self.handles.store(handle, room);
            state.zspages.give_back(Place { zspage: from, object }, handle);
            (moved, next) = (moved + 1, object + 1);
        }
        moved
    }
}

/// Copies an object that begins at byte `start` of a zspage.
fn copy(pages: &[FrozenReferences<'_, '_>], start: usize, target: &Held<'_>) {
    let mut part = [0; 256];
    for offset in (0..target.size()).step_by(part.len()) {
        let part = &mut part[..(target.size() - offset).min(256)];
        let pages = &pages[(start + offset) / PAGE_SIZE..];
        read(pages, (start + offset) % PAGE_SIZE, part);
        target.write(offset, part);
    }
}
