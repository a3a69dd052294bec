//! The load: processes, files and devices that fill memory, and churn it until it is fragmented.
//!
//! Allocations come in bursts of one kind, a few pages each, and bursts in phases: in some a program that uses a device
//! is at work, in others none. So driver pages stand among those of the processes that ran at the same time, in some
//! blocks and not in all, as they do on a machine that has run for weeks; they also live longer than memory of
//! processes and cached files. The shares are a choice, made so that the policies can differ: a desktop with a GPU or a
//! packet capture has more mapped driver pages, a plain server fewer.

use pagemove::{
    frame::Kind,
    space::{Orders, PageCache, Source},
    units::{Order, VirtRange},
};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

use super::{
    error::{EngineError, RunError},
    region::{Backing, Region},
    world::World,
};
use crate::cancel::Stop;

/// Memory is filled until this share of it is free, and again in each round.
const FULL: f64 = 0.10;
/// Rounds of ending and filling.
const ROUNDS: u32 = 3;
/// Share of the regions that end in a round: processes exit, files are dropped, device files closed.
const ENDED: f64 = 0.2;
/// Share of memory that is free in the end.
const FREE: f64 = 0.45;
/// Frees a driver makes for each that processes and caches make: its pages live longer.
const DRIVER_FREES: f64 = 0.5;
/// What a compressed page takes of a frame, about.
const COMPRESSED: f64 = 0.5;
/// Frames for each page that is in the balloon.
const FRAMES_PER_BALLOONED: u32 = 64;
/// Pages that are freed together, at most.
const RUN: u32 = 16;
/// Blocks for each pinned page.
const BLOCKS_PER_PIN: u32 = 32;
/// Phases that it takes to allocate all of memory, about: so that memory of any size gets the same picture.
const PHASES: u32 = 64;
/// Kinds of phases, in turn; each filling of memory begins anew, with the programs that use no device.
const CYCLE: [Phase; 8] = [
    Phase::PLAIN,
    Phase::PLAIN,
    Phase { mapped: true, unmapped: false },
    Phase::PLAIN,
    Phase::PLAIN,
    Phase { mapped: false, unmapped: true },
    Phase::PLAIN,
    Phase::PLAIN,
];

/// What a burst allocates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    Anonymous,
    Cached,
    CachedMapped,
    Private,
    DeviceMapped,
    DeviceUnmapped,
    Compressed,
    Kernel,
}

/// How a use allocates.
#[derive(Debug, Clone, Copy)]
struct Habit {
    of: Use,
    /// Its share of the pages, beside the others that are at work in a phase.
    weight: u32,
    /// Pages of a burst at most.
    burst: u32,
    /// Pages of a region.
    region: u32,
}

impl Habit {
    const fn new(of: Use, weight: u32, burst: u32, region: u32) -> Self {
        Self { of, weight, burst, region }
    }

    /// Gives how likely a burst is of this use.
    fn bursts(self, phase: Phase) -> u32 {
        match self.of {
            Use::DeviceMapped if !phase.mapped => 0,
            Use::DeviceUnmapped | Use::Compressed if !phase.unmapped => 0,
            _ => self.weight * 64 / self.burst,
        }
    }
}

/// What all uses do.
const HABITS: [Habit; 8] = [
    Habit::new(Use::Anonymous, 44, 64, 512),
    Habit::new(Use::Cached, 16, 64, 256),
    Habit::new(Use::CachedMapped, 12, 32, 256),
    Habit::new(Use::Private, 8, 16, 128),
    Habit::new(Use::DeviceMapped, 200, 16, 64),
    Habit::new(Use::DeviceUnmapped, 43, 16, 64),
    Habit::new(Use::Compressed, 86, 16, 64),
    Habit::new(Use::Kernel, 6, 2, 0),
];

/// Which devices are at work.
#[derive(Debug, Clone, Copy)]
struct Phase {
    mapped: bool,
    unmapped: bool,
}

impl Phase {
    const PLAIN: Self = Self { mapped: false, unmapped: false };
}

/// Fills memory, churns it, and leaves it fragmented.
pub(crate) struct Load<'a, 'e> {
    world: &'a mut World<'e>,
    rng: &'a mut ChaCha8Rng,
    stop: &'a Stop,
    /// The region that each use is filling.
    open: [Option<usize>; HABITS.len()],
    phase: Phase,
    /// Pages left of the phase.
    left: u32,
    /// Phases begun since memory was last freed.
    turn: usize,
}

impl<'a, 'e> Load<'a, 'e> {
    /// Prepares the load.
    pub(crate) fn new(world: &'a mut World<'e>, rng: &'a mut ChaCha8Rng, stop: &'a Stop) -> Self {
        Self { world, rng, stop, open: [None; _], phase: Phase::PLAIN, left: 0, turn: 0 }
    }

    /// Runs it; `progress` hears how much of it is done, from 0 to 1.
    pub(crate) fn run(mut self, seed: u64, progress: &mut dyn FnMut(f64)) -> Result<(), RunError> {
        let failed = |error: LoadError| match error {
            LoadError::Stopped => RunError::Stopped,
            LoadError::Engine(error) => error.with_seed(seed),
        };
        for round in 0..ROUNDS {
            self.end_some().map_err(failed)?;
            self.fill(&mut |part| progress((f64::from(round) + part) / f64::from(ROUNDS))).map_err(failed)?;
        }
        self.world.balloon.inflate(self.frames() / FRAMES_PER_BALLOONED).map_err(|error| failed(error.into()))?;
        let share = self.share_to_free();
        self.thin(share).map_err(failed)?;
        self.pin().map_err(failed)?;
        progress(1.0);
        Ok(())
    }

    fn free(&self) -> u32 {
        self.world.host.engine.physical().drain_cpu_lists();
        self.world.host.engine.physical().free_frames()
    }

    fn frames(&self) -> u32 {
        self.world.host.engine.physical().frames().len()
    }

    /// Allocates until memory is full.
    fn fill(&mut self, progress: &mut dyn FnMut(f64)) -> Result<(), LoadError> {
        let full = (f64::from(self.frames()) * FULL) as u32;
        let start = self.free();
        (self.turn, self.left) = (0, 0);
        loop {
            // Counting what is free disturbs all processors, so it's done seldom.
            let free = self.free();
            let left = free.saturating_sub(full.max(Self::MARGIN));
            if left < Self::NEAR {
                return Ok(());
            }
            progress(1.0 - f64::from(left) / f64::from(start.saturating_sub(full)).max(1.0));
            // A page takes two frames at most, and tables come on top.
            let mut pages = left / 4;
            while pages > 0 {
                pages = pages.saturating_sub(self.burst()?);
            }
        }
    }

    /// Frames that a burst and its tables can take: memory can be tiny.
    const MARGIN: u32 = 512;
    /// Frames that don't matter.
    const NEAR: u32 = 64;

    /// Allocates a few pages of one kind; gives how many.
    fn burst(&mut self) -> Result<u32, LoadError> {
        if self.stop.is_set() {
            return Err(LoadError::Stopped);
        }
        if self.left == 0 {
            self.next_phase();
        }
        let at = self.choose();
        let Habit { of, burst, region, .. } = HABITS[at];
        let pages = self.rng.random_range(1..=burst);
        self.left = self.left.saturating_sub(pages);
        if of == Use::Kernel {
            return self.kernel(pages).map(|()| pages);
        }
        for _ in 0..pages {
            let number = match self.open[at].filter(|&number| !self.world.regions[number].is_full()) {
                Some(number) => number,
                None => self.open(of, region)?,
            };
            self.open[at] = Some(number);
            let World { regions, host, .. } = &mut *self.world;
            let page = regions[number].filled;
            regions[number].populate(host, page)?;
        }
        Ok(pages)
    }

    /// Begins the next phase.
    fn next_phase(&mut self) {
        self.phase = CYCLE[self.turn % CYCLE.len()];
        self.turn += 1;
        let mean = (self.frames() / PHASES).max(2);
        self.left = self.rng.random_range(mean / 2..mean * 3 / 2);
    }

    /// Chooses a use by weight among those of the phase.
    fn choose(&mut self) -> usize {
        let phase = self.phase;
        let all: u32 = HABITS.into_iter().map(|habit| habit.bursts(phase)).sum();
        let mut draw = self.rng.random_range(0..all);
        let drawn = HABITS.into_iter().position(|habit| {
            let bursts = habit.bursts(phase);
            let hit = draw < bursts;
            draw = draw.saturating_sub(bursts);
            hit
        });
        drawn.unwrap_or(0)
    }

    /// Opens a new region for a use.
    fn open(&mut self, of: Use, pages: u32) -> Result<usize, LoadError> {
        let number = self.world.regions.len() as u32;
        let (backing, views) = match of {
            Use::Anonymous => (Backing::Anonymous, 1),
            Use::Cached => (Backing::Cache(PageCache::new(&self.world.host.engine, "file", pages)), 0),
            Use::CachedMapped => {
                let views = self.rng.random_range(1..=2);
                (Backing::Cache(PageCache::new(&self.world.host.engine, "file", pages)), views)
            }
            Use::Private => {
                let store = Region::store_of(number, self.world.host.words);
                let file = PageCache::with_store(&self.world.host.engine, "file", pages, Some(store));
                (Backing::Private(file), 1)
            }
            Use::DeviceMapped => {
                let device = self.rng.random_range(0..self.world.mapped.len());
                // Mostly two: a client and a server, a program and its monitor.
                let views = if self.rng.random_bool(0.7) { 2 } else { 1 };
                (Backing::Device(self.world.mapped[device].open(pages)), views)
            }
            // Regions that have ended leave their pages of the device, so it ends once.
            Use::Compressed if self.world.compressed_pages + pages <= self.world.compressed.pages() => {
                let first = self.world.compressed_pages;
                self.world.compressed_pages += pages;
                (Backing::Compressed(self.world.compressed.clone(), first), 0)
            }
            // The kernel's frames are in no region.
            Use::DeviceUnmapped | Use::Compressed | Use::Kernel => {
                let device = self.rng.random_range(0..self.world.unmapped.len());
                (Backing::Device(self.world.unmapped[device].open(pages)), 0)
            }
        };
        let mut mapped = Vec::with_capacity(views);
        for view in 0..views {
            let source = match &backing {
                Backing::Anonymous => Source::Anonymous { orders: Orders::BASE },
                Backing::Private(file) => Source::Private { file: file.clone(), first: 0 },
                Backing::Cache(file) => Source::Shared { file: file.clone(), first: 0 },
                Backing::Device(file) => Source::Shared { file: file.clone(), first: 0 },
                // Nobody maps it.
                Backing::Compressed(..) => break,
            };
            let process = self.rng.random_range(0..self.world.host.processes.len());
            // The second one reads only, or writes as well.
            let writable = view == 0 || self.rng.random_bool(0.5);
            mapped.push(self.world.host.map(process, pages, writable, source)?);
        }
        Ok(self.world.add(|number| Region::new(number, backing, mapped, pages)))
    }

    fn kernel(&mut self, pages: u32) -> Result<(), LoadError> {
        for _ in 0..pages {
            let kind = if self.rng.random_bool(0.7) { Kind::Slab } else { Kind::Kernel };
            let page = self.world.engine.physical().alloc(Order::ZERO, kind).map_err(EngineError::from)?;
            self.world.kernel.push(page);
        }
        Ok(())
    }

    /// Gives the share of pages to free so that in the end [`FREE`] of memory is free.
    fn share_to_free(&self) -> f64 {
        let live = |region: &Region| region.live.iter().filter(|&&live| live).count() as f64;
        // A page of a private mapping frees its file's page as well.
        let worth: f64 = self
            .world
            .regions
            .iter()
            .map(|region| match region.backing {
                Backing::Private(_) => 2.0 * live(region),
                Backing::Device(_) => DRIVER_FREES * live(region),
                Backing::Compressed(..) => DRIVER_FREES * COMPRESSED * live(region),
                _ => live(region),
            })
            .sum();
        let missing = f64::from(self.frames()) * FREE - f64::from(self.free());
        (missing / worth.max(1.0)).clamp(0.0, 0.9)
    }

    /// Frees whole regions.
    fn end_some(&mut self) -> Result<(), LoadError> {
        let World { regions, host, .. } = &mut *self.world;
        for region in regions.iter_mut().filter(|region| region.filled > 0) {
            let share = if region.is_device() { ENDED * DRIVER_FREES } else { ENDED };
            if self.rng.random_bool(share) {
                region.free(host, 0, region.live.len() as u32)?;
                region.filled = region.live.len() as u32;
            }
        }
        Ok(())
    }

    /// Frees a share of all pages, in short runs.
    fn thin(&mut self, share: f64) -> Result<(), LoadError> {
        let World { regions, host, .. } = &mut *self.world;
        for region in regions {
            if self.stop.is_set() {
                return Err(LoadError::Stopped);
            }
            let share = if region.is_device() { share * DRIVER_FREES } else { share };
            let mut at = 0;
            while at < region.filled {
                let run = self.rng.random_range(1..=RUN).min(region.filled - at);
                if self.rng.random_bool(share) && region.live[at as usize..(at + run) as usize].contains(&true) {
                    region.free(host, at, run)?;
                }
                at += run;
            }
        }
        Ok(())
    }

    /// Pins a few pages, each for a device that has their addresses.
    fn pin(&mut self) -> Result<(), LoadError> {
        let World { regions, host, pins, .. } = &mut *self.world;
        let anonymous: Vec<&Region> =
            regions.iter().filter(|region| matches!(region.backing, Backing::Anonymous)).collect();
        if anonymous.is_empty() {
            return Ok(());
        }
        let wanted = host.engine.physical().blocks().count() / BLOCKS_PER_PIN;
        for number in 0..wanted {
            let region = anonymous[self.rng.random_range(0..anonymous.len())];
            let page = self.rng.random_range(0..region.filled);
            let who = ["rdma", "vfio"][number as usize % 2];
            if region.live[page as usize]
                && let Some(view) = region.views.first()
                && let Some(range) = VirtRange::new(view.start.up(page), 1)
            {
                pins.extend(host.processes[view.process].space().pin(range, true, who).map_err(EngineError::from)?);
            }
        }
        Ok(())
    }
}

/// Why the load ended early.
enum LoadError {
    Stopped,
    Engine(EngineError),
}

impl<E: Into<EngineError>> From<E> for LoadError {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}
