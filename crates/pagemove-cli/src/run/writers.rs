//! Writers: threads that store to pages and read them back while they move.
//!
//! Each has words of its own, and keeps what it stored last outside the machine. A word is loaded, compared, and stored
//! anew, by real accesses of a process; where two processes map the page, stores go through one and loads through either.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use pagemove::units::VirtAddr;
use pagemove_hosted::Process;
use rand::{RngExt, SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    error::EngineError,
    region::{Compared, Wrong},
    words::{self, FIRST},
    world::World,
};

/// Translations that all writers use, so that the host's limit of map areas evicts few of them.
const TRANSLATIONS: usize = 24_000;
/// Words of a writer, at most, in a run.
pub(crate) const MOST: usize = 8_000;
/// Of ten words, how many are of driver pages, if there are as many: those are what it's about.
const DRIVERS_OF_TEN: usize = 6;

/// Hears of each wrong word at once.
pub(crate) type OnWrong<'a> = &'a (dyn Fn(Wrong) + Sync);

/// A word that a writer keeps writing.
struct Target {
    region: usize,
    page: u32,
    tag: u32,
    sequence: u32,
    store: (usize, VirtAddr),
    load: (usize, VirtAddr),
}

impl Target {
    /// Loads the word through one mapping and compares it; stores the next one.
    fn write(
        &mut self,
        processes: &[Process],
        from: (usize, VirtAddr),
        compared: &mut Compared,
        on_wrong: OnWrong<'_>,
    ) -> Result<(), EngineError> {
        let expected = words::word(self.tag, self.sequence);
        let load = || processes[from.0].load(from.1);
        let found = load()?;
        let mut wrong = None;
        if found != expected {
            // Before the next store hides it: is it still wrong?
            let lost = load()? != expected;
            let word = Wrong { region: self.region as u32, page: self.page, found, expected, lost };
            on_wrong(word);
            wrong = Some(word);
        }
        compared.count(wrong);
        // Wraps after four thousand million stores, of which the tag knows nothing; a run makes fewer.
        self.sequence = self.sequence.wrapping_add(1);
        let (process, address) = self.store;
        Ok(processes[process].store(address, words::word(self.tag, self.sequence))?)
    }
}

/// The words of one writer.
pub(crate) struct Writer {
    targets: Vec<Target>,
    rng: ChaCha8Rng,
}

/// What a writer did.
pub(crate) struct Written {
    /// Numbers of its last stores, for the check afterwards.
    pub(crate) sequences: Sequences,
    /// Words loaded and compared while it ran; those that were wrong.
    pub(crate) compared: Compared,
}

/// What writers and their owner share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    rounds: Vec<AtomicU64>,
}

impl Shared {
    /// Makes it for so many writers.
    pub(crate) fn new(writers: usize) -> Self {
        Self { stop: AtomicBool::new(false), rounds: (0..writers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Ends all writers.
    pub(crate) fn stop(&self) {
        // Relaxed: joining them publishes what they did.
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Ends all writers when it's dropped, also by a panic: who waits for the others would wait for ever.
    pub(crate) fn stop_on_drop(&self) -> StopOnDrop<'_> {
        StopOnDrop(self)
    }

    /// Tells whether all writers are to end, or one has failed.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits for a time, and until every writer has gone on meanwhile, or one has failed; gives false then, or if `stop`
    /// says so.
    pub(crate) fn let_run(&self, time: Duration, stop: impl Fn() -> bool) -> bool {
        let start = Instant::now();
        let targets: Vec<u64> = self.rounds.iter().map(|rounds| rounds.load(Ordering::Relaxed) + 4096).collect();
        loop {
            let behind = self.rounds.iter().zip(&targets).any(|(now, &then)| now.load(Ordering::Relaxed) < then);
            if !behind && start.elapsed() >= time {
                return true;
            }
            if stop() || self.is_over() {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Ends all writers when it's dropped.
pub(crate) struct StopOnDrop<'a>(&'a Shared);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Numbers of the last stores, by region and page; those that aren't there had none but the first.
pub(crate) type Sequences = BTreeMap<(usize, u32), u32>;

/// Chooses the words of all writers, at most so many for each: no two share one. They go on from what is stored there.
pub(crate) fn choose(world: &World<'_>, writers: usize, most: usize, seed: u64, stored: &Sequences) -> Vec<Writer> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let (mut drivers, mut others) = (Vec::new(), Vec::new());
    for (number, region) in world.regions.iter().enumerate().filter(|(_, region)| !region.views.is_empty()) {
        let list = if region.is_device() { &mut drivers } else { &mut others };
        list.extend((0..).zip(&region.live).filter(|(_, live)| **live).map(|(page, _)| (number, page)));
    }
    let each = (TRANSLATIONS * 2 / 3 / writers).min(most);
    let wanted = (each * writers * DRIVERS_OF_TEN / 10).min(drivers.len());
    let (chosen, _) = drivers.partial_shuffle(&mut rng, wanted);
    let mut pages = chosen.to_vec();
    let (chosen, _) = others.partial_shuffle(&mut rng, (each * writers).saturating_sub(wanted));
    pages.extend_from_slice(chosen);
    pages.shuffle(&mut rng);
    let mut all: Vec<Writer> = (0..writers as u64)
        .map(|writer| Writer { targets: Vec::new(), rng: ChaCha8Rng::seed_from_u64(seed ^ (writer + 1)) })
        .collect();
    for (at, &(region, page)) in pages.iter().enumerate() {
        let tag = world.host.words.tag(region as u32, page);
        let word = |view: &super::host::View| view.word(page, words::place(tag)).map(|at| (view.process, at));
        if let [first, .., last] | [first @ last] = &world.regions[region].views[..]
            && let (Ok(store), Ok(load)) = (word(first), word(last))
        {
            let sequence = stored.get(&(region, page)).copied().unwrap_or(FIRST);
            all[at % writers].targets.push(Target { region, page, tag, sequence, store, load });
        }
    }
    all
}

impl Writer {
    /// Starts the thread; `number` is its place in `shared`. When it ends, for whatever reason, the others end as well.
    pub(crate) fn start<'scope>(
        mut self,
        scope: &'scope Scope<'scope, '_>,
        number: usize,
        processes: &'scope [Process],
        shared: &'scope Shared,
        on_wrong: OnWrong<'scope>,
    ) -> ScopedJoinHandle<'scope, Result<Written, EngineError>> {
        scope.spawn(move || {
            let _end = shared.stop_on_drop();
            let compared = self.write(processes, number, shared, on_wrong)?;
            let sequences = self.targets.iter().map(|target| ((target.region, target.page), target.sequence)).collect();
            Ok(Written { sequences, compared })
        })
    }

    fn write(
        &mut self,
        processes: &[Process],
        number: usize,
        shared: &Shared,
        on_wrong: OnWrong<'_>,
    ) -> Result<Compared, EngineError> {
        let mut compared = Compared::default();
        // Each once, so that the TLB has them all before anything moves.
        for target in &mut self.targets {
            if !shared.stop.load(Ordering::Relaxed) {
                target.write(processes, target.load, &mut compared, on_wrong)?;
            }
        }
        while !shared.stop.load(Ordering::Relaxed) {
            // Looking at the flag less often keeps it out of the way of what is measured.
            for _ in 0..64 {
                if self.targets.is_empty() {
                    break;
                }
                let at = self.rng.random_range(0..self.targets.len());
                let target = &mut self.targets[at];
                let from = if self.rng.random_bool(0.5) { target.load } else { target.store };
                target.write(processes, from, &mut compared, on_wrong)?;
            }
            shared.rounds[number].fetch_add(64, Ordering::Relaxed);
        }
        Ok(compared)
    }
}
