//! The model: the word at each address of each process, marks and pins of pages, and the errors of calls. It has no
//! frames, no TLB, no batches and no concurrency, so a move changes nothing.

use alloc::{collections::BTreeMap, vec, vec::Vec};

use pagemove::{
    migrate::{Options, Policy},
    movable::Refusal,
    report::Reason,
    space::{FaultError, FileError, Orders, Protection, SpaceError},
    units::{VirtAddr, VirtRange},
};

use crate::{
    call::{Address, Answer, Backing, Call, Pages, WORDS, answer},
    moody::Mood,
    space::{Mapping, Space, Touched, address},
    store,
};

/// Pages of each file.
pub(crate) const FILE_PAGES: u32 = 12;
/// A memory file, one with a backing store, a character device's, the moody driver's.
pub(crate) const FILES: usize = 4;
pub(crate) const STORED: usize = 1;
pub(crate) const FIRST_DEVICE: usize = 2;
pub(crate) const MOODY: usize = 3;

/// Gives a word of a page in the backing store.
pub(crate) fn stored(page: u32, word: usize) -> u64 {
    1 << 32 | u64::from(page) << 8 | word as u64
}

/// The contents of a page.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cell {
    pub(crate) words: [u64; WORDS.len()],
    /// Written to since it was last cleaned.
    pub(crate) dirty: bool,
    /// Dirty by a store, to it or to what it was copied from, or by a device; not just by being a copy.
    pub(crate) is_stored_to: bool,
    /// The file of which it is, or was, a page; `None`: anonymous.
    file: Option<usize>,
}

/// A pinned page.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pin {
    pub(crate) cell: usize,
    pub(crate) write: bool,
}

/// The whole machine.
pub(crate) struct Model {
    pub(crate) bounds: VirtRange,
    pub(crate) processes: Vec<Space>,
    /// For each file: the cell of the page at each index.
    pub(crate) files: [BTreeMap<u32, usize>; FILES],
    pub(crate) cells: Vec<Cell>,
    pub(crate) pins: Vec<Pin>,
    pub(crate) balloon: u32,
    /// What stands for each page of zram that was written.
    zram: BTreeMap<u32, u64>,
    mood: Mood,
}

impl Cell {
    fn mark_dirty(&mut self, is_dirty: bool) {
        self.dirty |= is_dirty;
        self.is_stored_to |= is_dirty;
    }
}

impl Model {
    /// Makes a machine with one process, with mappings within `bounds`.
    pub(crate) fn new(bounds: VirtRange) -> Self {
        Self {
            bounds,
            processes: vec![Space::default()],
            files: Default::default(),
            cells: Vec::new(),
            pins: Vec::new(),
            balloon: 0,
            zram: BTreeMap::new(),
            mood: Mood::default(),
        }
    }

    /// Makes a call.
    pub(crate) fn apply(&mut self, call: &Call) -> Answer {
        match *call {
            Call::Load { at, .. } => {
                answer(self.access(at, Protection::READ).map(|cell| Answer::Word(self.cells[cell].words[at.word])))
            }
            Call::Store { at, value, .. } => answer(self.access(at, Protection::WRITE).map(|cell| {
                self.store(cell, at.word, value);
                let touched = self.processes[at.process].touched.get_mut(&at.page);
                touched.into_iter().for_each(|touched| touched.is_stored_to = true);
                Answer::Done
            })),
            Call::Fetch { at } => answer(self.access(at, Protection::EXECUTE).map(|_| Answer::Done)),
            Call::Map { process, at, pages, rights, backing } => answer(self.map(process, at, pages, rights, backing)),
            Call::Unmap(Pages { process, page, pages }) => {
                self.processes[process].unmap(page, pages);
                Answer::Done
            }
            Call::Protect { range, rights } => answer(self.protect(range, rights)),
            Call::Remap { range, pages, to } => answer(self.remap(range, pages, to)),
            Call::ClearSoftDirty { process } => {
                self.processes[process].touched.values_mut().for_each(|touched| {
                    (touched.soft_dirty, touched.is_stored_to) = (false, false);
                });
                Answer::Done
            }
            Call::Start => {
                self.processes.push(Space::default());
                Answer::Done
            }
            Call::Fork { process } => self.fork(process),
            Call::Exit { process } => {
                self.processes.remove(process);
                Answer::Done
            }
            Call::Pin { range, write } => self.pin(range, write),
            Call::Unpin { pin } => {
                let pin = self.pins.remove(pin);
                self.cells[pin.cell].mark_dirty(pin.write);
                Answer::Done
            }
            Call::PinStore { pin, word, value } => {
                self.cells[self.pins[pin].cell].words[word] = value;
                Answer::Done
            }
            Call::FileLoad { file, page, word } => {
                answer(self.file_page(file, page).map(|cell| Answer::Word(self.cells[cell].words[word])))
            }
            Call::FileStore { file, page, word, value } => answer(self.file_page(file, page).map(|cell| {
                self.store(cell, word, value);
                Answer::Done
            })),
            Call::Truncate { file, page, pages } => self.truncate(file, page, pages),
            Call::DropClean { file } => self.drop_clean(file),
            Call::Mood(mood) => {
                // An unregistered driver doesn't come back.
                self.mood = if self.mood == Mood::Gone { Mood::Gone } else { mood };
                Answer::Done
            }
            Call::Move { process, ref pages, options } => self.stayed(process, pages, options),
            Call::Inflate { pages } => {
                self.balloon += pages;
                Answer::Done
            }
            Call::Deflate { pages } => {
                let freed = self.balloon.min(pages);
                self.balloon -= freed;
                Answer::Count(freed)
            }
            Call::ZramWrite { page, pages, value } => {
                self.zram.extend((page..page + pages).map(|page| (page, store::word_of(page, value))));
                Answer::Done
            }
            Call::ZramRead { page } => Answer::Word(self.zram.get(&page).copied().unwrap_or(0)),
            Call::ZramDiscard { page, pages } => {
                self.zram.retain(|other, _| !(page..page + pages).contains(other));
                Answer::Done
            }
            // Changes nothing visible.
            Call::Collapse(_)
            | Call::MoveAll(_)
            | Call::Compact(_)
            | Call::Take { .. }
            | Call::TakeHuge(_)
            | Call::Give { .. }
            | Call::ZramCompact { .. }
            | Call::Report { .. }
            | Call::Drain => Answer::Done,
        }
    }

    fn store(&mut self, cell: usize, word: usize, value: u64) {
        self.cells[cell].words[word] = value;
        self.cells[cell].mark_dirty(true);
    }

    fn new_cell(&mut self, cell: Cell) -> usize {
        self.cells.push(cell);
        self.cells.len() - 1
    }

    /// Makes an anonymous copy of `cell`.
    fn copy_of(&mut self, cell: usize) -> usize {
        // No backing store has it.
        let Cell { words, is_stored_to, .. } = self.cells[cell];
        self.new_cell(Cell { words, dirty: true, is_stored_to, ..Cell::default() })
    }

    fn file_page(&mut self, file: usize, page: u32) -> Result<usize, FileError> {
        if page >= FILE_PAGES {
            return Err(FileError::BeyondEnd(page));
        }
        if let Some(&cell) = self.files[file].get(&page) {
            return Ok(cell);
        }
        let words = if file == STORED { core::array::from_fn(|word| stored(page, WORDS[word])) } else { [0; _] };
        let cell = self.new_cell(Cell { words, file: Some(file), ..Cell::default() });
        self.files[file].insert(page, cell);
        Ok(cell)
    }

    fn access(&mut self, at: Address, right: Protection) -> Result<usize, FaultError> {
        self.processes[at.process].ever_used.insert(at.page);
        let place = address(self.bounds, at.page, WORDS[at.word]);
        self.fault(at.process, at.page, place, right, false)
    }

    /// Makes a page present with a right; with `unshare` an anonymous page also becomes exclusive.
    fn fault(
        &mut self,
        process: usize,
        page: u32,
        place: VirtAddr,
        right: Protection,
        unshare: bool,
    ) -> Result<usize, FaultError> {
        let space = &self.processes[process];
        let (_, mapping) = space.find(page).ok_or(FaultError::NotMapped(place))?;
        if !mapping.rights.contains(right) {
            return Err(FaultError::Protection(place));
        }
        let (shared, writable) = (mapping.is_shared(), mapping.is_writable());
        let write = right == Protection::WRITE;
        let touched = match space.touched.get(&page).copied() {
            None => self.fill(process, page, write)?,
            Some(Touched { cell, soft_dirty, .. }) if shared => {
                Touched { cell, soft_dirty: soft_dirty || write, exclusive: false, is_stored_to: false }
            }
            Some(Touched { cell, .. }) if self.cells[cell].file.is_some() && write => {
                Touched { cell: self.copy_of(cell), soft_dirty: true, exclusive: true, is_stored_to: false }
            }
            Some(Touched { cell, soft_dirty, exclusive: false, .. })
                if self.cells[cell].file.is_none() && (write || unshare) =>
            {
                let cell = if self.mappings_of(cell) == 1 { cell } else { self.copy_of(cell) };
                Touched { cell, soft_dirty: soft_dirty || writable, exclusive: true, is_stored_to: false }
            }
            Some(touched) => Touched { soft_dirty: touched.soft_dirty || write, ..touched },
        };
        self.processes[process].touched.insert(page, touched);
        Ok(touched.cell)
    }

    /// Brings a page in.
    fn fill(&mut self, process: usize, page: u32, write: bool) -> Result<Touched, FaultError> {
        let end = address(self.bounds, page, 0);
        let beyond = |_| FaultError::BeyondEnd(end);
        match self.processes[process].backing(page) {
            // The page may have been brought in with its folio by another page's access, and its marks cleared since.
            Some(Backing::Anonymous { orders }) if orders != Orders::BASE => Ok(Touched {
                cell: self.new_cell(Cell::default()),
                soft_dirty: write,
                exclusive: true,
                is_stored_to: false,
            }),
            None | Some(Backing::Anonymous { .. }) => Ok(Touched {
                cell: self.new_cell(Cell::default()),
                soft_dirty: true,
                exclusive: true,
                is_stored_to: false,
            }),
            Some(Backing::Shared { file, first }) => Ok(Touched {
                cell: self.file_page(file, first).map_err(beyond)?,
                soft_dirty: write,
                exclusive: false,
                is_stored_to: false,
            }),
            Some(Backing::Private { file, first }) => {
                let cell = self.file_page(file, first).map_err(beyond)?;
                let cell = if write { self.copy_of(cell) } else { cell };
                Ok(Touched { cell, soft_dirty: write, exclusive: write, is_stored_to: false })
            }
        }
    }

    /// Counts the processes' pages with this cell.
    fn mappings_of(&self, cell: usize) -> usize {
        self.processes.iter().flat_map(|space| space.touched.values()).filter(|touched| touched.cell == cell).count()
    }

    pub(crate) fn is_pinned(&self, cell: usize) -> bool {
        self.pins.iter().any(|pin| pin.cell == cell)
    }

    fn map(
        &mut self,
        process: usize,
        at: Option<u32>,
        pages: u32,
        rights: Protection,
        backing: Backing,
    ) -> Result<Answer, SpaceError> {
        let bounds = self.bounds;
        let space = &mut self.processes[process];
        let mapping = Mapping { pages, rights, backing };
        let page = at.unwrap_or_else(|| space.lowest_free(pages, &mapping, 0));
        if let Some(taken) = space.first_mapped(page, pages) {
            return Err(SpaceError::Overlap { stage: "mmap", at: address(bounds, taken, 0) });
        }
        space.mappings.insert(page, mapping);
        Ok(Answer::Mapped { page, pages })
    }

    fn protect(&mut self, Pages { process, page, pages }: Pages, rights: Protection) -> Result<Answer, SpaceError> {
        let bounds = self.bounds;
        let space = &mut self.processes[process];
        if let Some(hole) = (page..page + pages).find(|&page| space.find(page).is_none()) {
            return Err(SpaceError::NotMapped { stage: "mprotect", at: address(bounds, hole, 0) });
        }
        for start in space.isolate(page, pages) {
            if let Some(mapping) = space.mappings.get_mut(&start) {
                mapping.rights = rights;
            }
        }
        Ok(Answer::Done)
    }

    fn remap(&mut self, old: Pages, pages: u32, to: Option<u32>) -> Result<Answer, SpaceError> {
        let (stage, bounds) = ("mremap", self.bounds);
        let space = &mut self.processes[old.process];
        let not_mapped = |page| SpaceError::NotMapped { stage, at: address(bounds, page, 0) };
        let (start, mapping) = space.find(old.page).ok_or(not_mapped(old.page))?;
        let (old_end, end) = (old.page + old.pages, start + mapping.pages);
        if old_end > end {
            return Err(not_mapped(end));
        }
        if to.is_none() && pages <= old.pages {
            if pages < old.pages {
                space.unmap(old.page + pages, old.pages - pages);
            }
            return Ok(Answer::Mapped { page: old.page, pages });
        }
        if to.is_none() && old_end == end && space.first_mapped(old_end, pages - old.pages).is_none() {
            let grown = Mapping { pages: mapping.pages + pages - old.pages, ..mapping.clone() };
            space.mappings.insert(start, grown);
            return Ok(Answer::Mapped { page: old.page, pages });
        }
        let new = to.unwrap_or_else(|| space.lowest_free(pages, mapping, old.page));
        if new < old_end && old.page < new + pages {
            return Err(SpaceError::BadRange { stage });
        }
        if let Some(taken) = space.first_mapped(new, pages) {
            return Err(SpaceError::Overlap { stage, at: address(bounds, taken, 0) });
        }
        space.isolate(old.page, old.pages);
        let Some(mapping) = space.mappings.remove(&old.page) else { return Err(not_mapped(old.page)) };
        space.mappings.insert(new, Mapping { pages, ..mapping });
        for offset in 0..old.pages {
            if let Some(touched) = space.touched.remove(&(old.page + offset)).filter(|_| offset < pages) {
                space.touched.insert(new + offset, touched);
            }
        }
        Ok(Answer::Mapped { page: new, pages })
    }

    fn fork(&mut self, process: usize) -> Answer {
        let mut child = self.processes[process].clone();
        for (&page, touched) in &mut child.touched {
            let shared = self.processes[process].find(page).is_some_and(|(_, mapping)| mapping.is_shared());
            if shared {
                continue;
            }
            if touched.exclusive && self.is_pinned(touched.cell) {
                // The parent keeps a page that a device may write, the child gets a copy.
                touched.cell = self.copy_of(touched.cell);
            } else {
                touched.exclusive = false;
                if let Some(parent) = self.processes[process].touched.get_mut(&page) {
                    parent.exclusive = false;
                }
            }
        }
        self.processes.push(child);
        Answer::Done
    }

    fn pin(&mut self, Pages { process, page, pages }: Pages, write: bool) -> Answer {
        let before = self.pins.len();
        for page in page..page + pages {
            match self.pin_page(process, page, write) {
                Ok(cell) => self.pins.push(Pin { cell, write }),
                Err(error) => {
                    // All or none. Pages already pinned may have been written to.
                    for pin in self.pins.drain(before..) {
                        self.cells[pin.cell].mark_dirty(pin.write);
                    }
                    return Answer::Pin(error.into());
                }
            }
        }
        Answer::Done
    }

    fn pin_page(&mut self, process: usize, page: u32, write: bool) -> Result<usize, FaultError> {
        let space = &mut self.processes[process];
        space.ever_used.insert(page);
        let mapping = space.find(page).map(|(_, mapping)| mapping);
        let copied = mapping.is_some_and(|mapping| !mapping.is_shared() && mapping.is_writable());
        // It may be present already, as part of a large folio, and then nothing marks it.
        let unmarked = mapping.is_some_and(Mapping::has_large_folios) && !space.touched.contains_key(&page);
        let readable = mapping.is_some_and(|mapping| mapping.rights.contains(Protection::READ));
        if let Some(touched) = space.touched.get(&page).filter(|_| readable && !write) {
            let of_file = self.cells[touched.cell].file.is_some();
            if if of_file { !copied } else { touched.exclusive } {
                return Ok(touched.cell);
            }
        }
        // A page that the next store would copy becomes exclusive now: otherwise that store would go to a page that the
        // device doesn't see.
        let right = if write || (copied && !unmarked) { Protection::WRITE } else { Protection::READ };
        self.fault(process, page, address(self.bounds, page, 0), right, true)
    }

    fn truncate(&mut self, file: usize, page: u32, pages: u32) -> Answer {
        for page in page..page + pages {
            if let Some(cell) = self.files[file].remove(&page) {
                self.processes.iter_mut().for_each(|space| space.touched.retain(|_, touched| touched.cell != cell));
            }
        }
        Answer::Done
    }

    fn drop_clean(&mut self, file: usize) -> Answer {
        let is_used = |cell: usize| self.cells[cell].dirty || self.is_pinned(cell) || self.mappings_of(cell) > 0;
        let clean: Vec<u32> =
            self.files[file].iter().filter(|&(_, &cell)| !is_used(cell)).map(|(&page, _)| page).collect();
        self.files[file].retain(|page, _| !clean.contains(page));
        Answer::Count(clean.len() as u32)
    }

    /// Gives the pages that can't move, and why.
    fn stayed(&self, process: usize, pages: &[u32], options: Options) -> Answer {
        let touched = &self.processes[process].touched;
        let reason = |page| self.reason(touched.get(page)?.cell, options.policy);
        Answer::Stayed(pages.iter().filter_map(|page| Some((*page, reason(page)?))).collect())
    }

    fn reason(&self, cell: usize, policy: Policy) -> Option<Reason> {
        if self.is_pinned(cell) {
            return Some(Reason::Pinned);
        }
        let file = self.cells[cell].file.filter(|&file| file >= FIRST_DEVICE)?;
        match (policy, self.mood) {
            (Policy::Unmovable, _) => Some(Reason::Unmovable),
            // All pages of `Move` are mapped.
            (Policy::Unmapped, _) => Some(Reason::Mapped),
            (Policy::Any, _) if file != MOODY => None,
            (Policy::Any, Mood::Moves) => None,
            (Policy::Any, Mood::Refuses(_, Refusal::No)) => Some(Reason::Refused),
            (Policy::Any, Mood::Refuses(_, Refusal::Retry)) => Some(Reason::Retry),
            (Policy::Any, Mood::Gone) => Some(Reason::OwnerGone),
        }
    }
}
