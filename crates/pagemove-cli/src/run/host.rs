//! Processes and the engine below them, and one process's view of pages.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use pagemove::{
    Engine,
    space::{Access, Map, Protection, Source},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_hosted::{Hosted, Process};

use super::{
    error::{EngineError, RunError},
    words::Words,
};

/// A mapping of all of a region's pages in one process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    /// Which process.
    pub(crate) process: usize,
    /// Where the region's first page is.
    pub(crate) start: VirtAddr,
    /// It may be written through.
    pub(crate) writable: bool,
}

impl View {
    /// Gives the address of a word.
    pub(crate) fn word(&self, page: u32, place: usize) -> Result<VirtAddr, EngineError> {
        let address = VirtAddr::new(self.start.up(page).get() + place as u64 * 8);
        address.ok_or_else(|| EngineError::Lost("a mapping beyond the last address".into()))
    }
}

/// Processes and the engine below them.
pub(crate) struct Host {
    /// The processes.
    pub(crate) processes: Vec<Process>,
    /// The engine.
    pub(crate) engine: Arc<Engine>,
    /// The machine.
    pub(crate) machine: Arc<Hosted>,
    /// What pages hold.
    pub(crate) words: Words,
    next: Vec<VirtAddr>,
}

impl Host {
    /// Makes a host without a process.
    pub(crate) fn new(machine: Arc<Hosted>, engine: Arc<Engine>, words: Words) -> Self {
        Self { processes: Vec::new(), engine, machine, words, next: Vec::new() }
    }

    /// Starts a process.
    pub(crate) fn start_process(&mut self) -> Result<(), RunError> {
        let process = Process::new(&self.machine, &self.engine)?;
        self.next.push(process.space().bounds().start());
        self.processes.push(process);
        Ok(())
    }

    /// Maps `pages` pages in a process, at its next address: no two mappings touch, so none of them is merged or found
    /// by searching.
    pub(crate) fn map(
        &mut self,
        process: usize,
        pages: u32,
        writable: bool,
        source: Source,
    ) -> Result<View, EngineError> {
        let protection = if writable { Protection::READ | Protection::WRITE } else { Protection::READ };
        let at = self.next[process];
        let range = self.processes[process].space().mmap(&Map { at: Some(at), pages, protection, source })?;
        self.next[process] = range.end().up(1);
        Ok(View { process, start: range.start(), writable })
    }

    /// Makes a page of a view present, as an access of its process would.
    pub(crate) fn fault(&self, view: &View, page: u32) -> Result<(), EngineError> {
        let access = if view.writable { Access::Write } else { Access::Read };
        Ok(self.processes[view.process].space().fault(view.start.up(page), access)?)
    }

    /// Gives the frame that a page of a view maps now.
    pub(crate) fn frame(&self, view: &View, page: u32) -> Result<Pfn, EngineError> {
        let address = view.start.up(page);
        let entry = self.processes[view.process].space().entry(address);
        let lost = || EngineError::Lost(format!("nothing is mapped at {address}, where a page was"));
        entry.is_present().then(|| entry.pfn()).ok_or_else(lost)
    }

    /// Accesses a word of frame `pfn`, which is in use. Only while nothing moves.
    pub(crate) fn access<R>(
        &self,
        pfn: Pfn,
        place: usize,
        act: impl FnOnce(&AtomicU64) -> R,
    ) -> Result<R, EngineError> {
        let lost = || EngineError::Lost(format!("frame {pfn} is free, where a page was"));
        let folio = self.engine.physical().get(pfn).ok_or_else(lost)?;
        Ok(act(&folio.words(pfn.offset_from(folio.pfn()))[place]))
    }

    /// Writes a word through a view's page table. Only while nothing moves.
    pub(crate) fn poke(&self, view: &View, page: u32, place: usize, word: u64) -> Result<(), EngineError> {
        self.access(self.frame(view, page)?, place, |found| found.store(word, Ordering::Release))
    }

    /// Reads a word through a view's page table. Only while nothing moves.
    pub(crate) fn peek(&self, view: &View, page: u32, place: usize) -> Result<u64, EngineError> {
        self.access(self.frame(view, page)?, place, |found| found.load(Ordering::Acquire))
    }

    /// Loads a word as the view's process does, through the TLB.
    pub(crate) fn load(&self, view: &View, page: u32, place: usize) -> Result<u64, EngineError> {
        Ok(self.processes[view.process].load(view.word(page, place)?)?)
    }

    /// Unmaps pages of a view.
    pub(crate) fn unmap(&self, view: &View, first: u32, pages: u32) -> Result<(), EngineError> {
        let range = VirtRange::new(view.start.up(first), pages);
        let range = range.ok_or_else(|| EngineError::Lost("a mapping without pages".into()))?;
        Ok(self.processes[view.process].space().munmap(range)?)
    }
}
