//! `pagemove soak`: everything at once, for as long as one likes. Writers write words that tell their page and the number of
//! the store; beside them processes fork, remap, protect and pin, drivers and files lose pages, memory is compacted, and two
//! more threads move whatever they find ([`deeds`]). Once a round all stand still, and everything is checked.
//!
//! Takes arguments; prints what was done on stdout, how it goes on stderr. Promises to end at the first thing that is
//! wrong, with exit code 1, the seed, and the last events of the engine, and in the same way if nothing goes on any more;
//! to end cleanly on Ctrl-C, with all that was done so far checked; and to fail if the memory of the program itself, or
//! that of the engine, grows.
//!
//! An engine that takes a right from a program that has it ends the whole program with SIGSEGV, with the host TLB; the
//! seed was printed before.

mod deeds;
mod memory;

use std::{
    io::{self, Write},
    mem,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use pagemove::{
    report::Counter,
    units::{HUGE_ORDER, PAGE_SIZE},
    zone::AllocError,
};
use pagemove_drivers::{balloon::InflateError, zram::ZramError};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use self::{
    deeds::{DEEDS, Stage},
    memory::Resident,
};
use crate::cancel::Stop;
use crate::run::{
    args::Tlb,
    error::{EngineError, RunError},
    events,
    load::Load,
    memory::Memory,
    progress::Progress,
    region::{Compared, Wrong},
    watchdog::Watchdog,
    words::{FIRST, Words},
    world::{Base, Shape, World},
    writers::{self, Sequences, Shared},
};

/// Time between two checks of everything.
const ROUND: Duration = Duration::from_secs(2);
/// Time between two looks at whether the round is over.
const TICK: Duration = Duration::from_millis(5);
/// Time between two lines.
const LINE: Duration = Duration::from_secs(1);
/// The program's own memory may grow by this much after the first round: its allocator's caches, page tables' places.
const GROWTH_KIB: u64 = 48 << 10;
/// Frames that may be in use beyond those of the first round: page tables, which come and go with addresses.
const MORE_FRAMES: u32 = 256;
/// Words of a writer: few, so that it comes round to each again and again.
const WORDS: usize = 1000;
/// Frames of a MiB.
const MIB: u64 = 256;

/// Does everything at once on the hosted machine, and checks all of it, for as long as asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SoakArgs {
    /// How long; parts of a minute as well, as 0.5.
    #[arg(long, value_name = "N", default_value = "10", value_parser = minutes)]
    minutes: Duration,
    /// Number that fixes every random choice, though not which thread is first [default: a new one each time].
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Memory of the machine, as 128M or 1G [default: 256M].
    #[arg(long, value_name = "SIZE")]
    memory: Option<Memory>,
    /// TLB of the machine: in software, or the host's own MMU.
    #[arg(long, value_enum, default_value_t = Tlb::Host)]
    tlb: Tlb,
    /// Says nothing but the seed and the result.
    #[arg(long)]
    quiet: bool,
}

fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "say for example 10 or 0.5".to_owned())?;
    if !(minutes > 0.0 && minutes <= 100_000.0) {
        return Err("more than 0, and at most 100000".into());
    }
    Ok(Duration::from_secs_f64(minutes * 60.0))
}

/// Why a soak ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SoakError {
    /// It could not begin, or can't print.
    #[error(transparent)]
    Run(#[from] RunError),
    /// Ctrl-C, or `kill`; all that was done by then was right.
    #[error("stopped; everything was right so far")]
    Stopped,
    /// Something is wrong.
    #[error("after {seconds} s: {what}\nThe last events:\n{events}Repeat with --seed {seed}.")]
    Failed {
        /// When.
        seconds: u64,
        /// What is wrong.
        what: String,
        /// What the engine did last.
        events: String,
        /// Seed of the run.
        seed: u64,
    },
}

impl SoakError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Run(error) => error.exit_code(),
            Self::Stopped => 130,
            Self::Failed { .. } => 1,
        }
    }
}

/// What was done so far.
#[derive(Default)]
struct Done {
    rounds: u64,
    compared: Compared,
    deeds: [u64; DEEDS.len()],
    /// 2 MiB that the kernel got.
    huge: AtomicU64,
    /// Values stored by deeds so far.
    next: AtomicU64,
    /// Deeds that found no frame or no room, which is nobody's fault.
    without_room: u64,
}

/// What stays the same from round to round.
struct Soak<'a> {
    args: &'a SoakArgs,
    seed: u64,
    writers: usize,
    stop: &'a Stop,
    progress: &'a Progress,
    watchdog: Watchdog,
    started: Instant,
}

/// The first thing that was wrong in a round, and the engine's events of that moment.
struct First {
    what: String,
    events: String,
}

/// Runs the command.
pub(crate) fn run(args: &SoakArgs) -> Result<(), SoakError> {
    let stop = Stop::on_signals().map_err(RunError::Signals)?;
    let seed = args.seed.unwrap_or_else(|| u64::from(rand::random::<u32>()));
    let memory = match args.memory {
        Some(memory) => memory,
        None => "256M".parse().unwrap_or_else(|_| Memory::by_default()),
    };
    memory.check().map_err(RunError::from)?;
    let progress = Progress::new(args.quiet);
    progress.subject("soak".into());
    progress.say(&format!("Seed: {seed}."));
    let writers = thread::available_parallelism().map_or(2, |cpus| cpus.get().clamp(2, 8));
    // `Memory` keeps below 2^28 frames.
    let frames = (memory.bytes() / PAGE_SIZE as u64) as u32;
    // A virtual processor for each thread.
    let shape = Shape { frames, pageblock_order: HUGE_ORDER, writers: writers + DEEDS.len(), tlb: args.tlb.kind() };
    let base = Base::new(shape)?;
    let mut world = World::new(&base, Words::new(seed, 0))?;
    let free = free_frames(&world);
    world.start_processes()?;
    progress.stage("filling memory");
    Load::new(&mut world, &mut ChaCha8Rng::seed_from_u64(seed), &stop).run(seed, &mut |part| progress.part(part))?;

    let watchdog = Watchdog::of(&world.host.engine, "soak", seed);
    let soak = Soak { args, seed, writers, stop: &stop, progress: &progress, watchdog, started: Instant::now() };
    let mut done = Done::default();
    let (first, last) = match soak.rounds(&world, &mut done) {
        Ok(resident) => resident,
        Err(error) => {
            // An engine that has failed may hang when it's dropped, and the error would never be told.
            mem::forget(world);
            return Err(error);
        }
    };
    let told = summary(&soak, &world, &done, first, last);
    soak.end(world, free)?;
    drop(progress);
    writeln!(io::stdout(), "{told}").or_else(ignore_broken_pipe).map_err(RunError::Print)?;
    if stop.is_set() { Err(SoakError::Stopped) } else { Ok(()) }
}

/// `| head` has seen enough.
fn ignore_broken_pipe(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(error) }
}

fn free_frames(world: &World<'_>) -> u32 {
    world.host.engine.physical().drain_cpu_lists();
    world.host.engine.physical().free_frames()
}

impl Soak<'_> {
    /// Goes on until the time is over; gives the program's memory after the first round and after the last.
    fn rounds(&self, world: &World<'_>, done: &mut Done) -> Result<(Option<Resident>, Option<Resident>), SoakError> {
        let mut last = Sequences::new();
        let mut first: Option<(Option<Resident>, u32)> = None;
        loop {
            self.watchdog.beat();
            self.round(world, done, &mut last)?;
            self.watchdog.beat();
            self.check(world, done, &last).map_err(|what| self.failed(world, what))?;
            done.rounds += 1;
            // Else zspages that happen not to be full would be counted.
            world.compressed.compact(u64::MAX);
            let (resident, free) = (Resident::now(), free_frames(world));
            let &mut (before, free_before) = first.get_or_insert((resident, free));
            if let (Some(now), Some(before)) = (resident, before)
                && now.growth_kib(before) > GROWTH_KIB
            {
                return Err(self.failed(world, format!("the program's memory has grown from {before} to {now}")));
            }
            if free + MORE_FRAMES < free_before {
                let what = format!("{free} frames are free at rest, {free_before} were: some are lost");
                return Err(self.failed(world, what));
            }
            if self.stop.is_set() || self.started.elapsed() >= self.args.minutes {
                return Ok((before, resident));
            }
        }
    }

    /// Everything at once, for a while.
    fn round(&self, world: &World<'_>, done: &mut Done, last: &mut Sequences) -> Result<(), SoakError> {
        let seed = self.seed.wrapping_add(done.rounds << 32);
        let shared = Shared::new(self.writers);
        let writers = writers::choose(world, self.writers, WORDS, seed, last);
        let first = OnceLock::new();
        let found = |what: String| {
            first.get_or_init(|| First { what, events: events::last(&world.host.engine) });
            shared.stop();
        };
        let on_wrong = |wrong: Wrong| found(wrong.to_string());
        let (mut counts, mut compared) = ([(0, 0); DEEDS.len()], Compared::default());
        thread::scope(|scope| {
            let _end = shared.stop_on_drop();
            let writers: Vec<_> = (0..)
                .zip(writers)
                .map(|(number, writer)| writer.start(scope, number, &world.host.processes, &shared, &on_wrong))
                .collect();
            let (shared, found) = (&shared, &found);
            let (next, huge) = (&done.next, &done.huge);
            let deeds: Vec<_> = (1..)
                .zip(&DEEDS)
                .map(|(number, deed)| {
                    scope.spawn(move || {
                        let _end = shared.stop_on_drop();
                        let stage = Stage { world, shared, next, huge };
                        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ number << 48);
                        let (mut times, mut without_room) = (0, 0);
                        while !shared.is_over() {
                            // There are more threads than processors, and writers are what it's about.
                            thread::yield_now();
                            match (deed.act)(&stage, &mut rng) {
                                Ok(()) => times += 1,
                                Err(error) if is_want_of_room(&error) => without_room += 1,
                                Err(error) => found(format!("{}: {error}", deed.name)),
                            }
                        }
                        (times, without_room)
                    })
                })
                .collect();
            self.wait(world, done, shared);
            shared.stop();
            for thread in writers {
                match thread.join() {
                    Ok(Ok(written)) => {
                        compared.add(written.compared);
                        last.extend(written.sequences);
                    }
                    Ok(Err(error)) => found(format!("a writer: {error}")),
                    Err(_) => found("a writer panicked, as told above".into()),
                }
            }
            for ((thread, deed), count) in deeds.into_iter().zip(&DEEDS).zip(&mut counts) {
                match thread.join() {
                    Ok(done) => *count = done,
                    Err(_) => found(format!("{} panicked, as told above", deed.name)),
                }
            }
        });
        done.compared.add(compared);
        for (deed, (times, without_room)) in done.deeds.iter_mut().zip(counts) {
            *deed += times;
            done.without_room += without_room;
        }
        match first.into_inner() {
            None => Ok(()),
            Some(First { what, events }) => Err(self.failed_with(what, events)),
        }
    }

    /// Waits for the end of the round, and tells every second how it goes.
    fn wait(&self, world: &World<'_>, done: &Done, shared: &Shared) {
        let (start, mut line) = (Instant::now(), Instant::now());
        let left = self.args.minutes.saturating_sub(self.started.elapsed());
        while start.elapsed() < ROUND.min(left) && !shared.is_over() && !self.stop.is_set() {
            if line.elapsed() >= LINE {
                line = Instant::now();
                self.tell(world, done);
            }
            thread::sleep(TICK);
        }
    }

    /// All stand still: memory adds up, and every page holds the word that was stored last.
    fn check(&self, world: &World<'_>, done: &mut Done, last: &Sequences) -> Result<(), String> {
        let physical = world.host.engine.physical();
        physical.validate().map_err(|what| format!("memory contradicts itself: {what}"))?;
        for (number, region) in world.regions.iter().enumerate() {
            self.watchdog.beat();
            for page in (0..region.filled).filter(|&page| region.live[page as usize]) {
                let written = last.get(&(number, page)).copied();
                let sequence = written.unwrap_or(FIRST);
                region
                    .check(&world.host, page, sequence, written.is_some(), &mut done.compared)
                    .map_err(|error| format!("region {number}, page {page}: {error}"))?;
            }
        }
        match done.compared.first {
            None if done.compared.words == 0 => Err("no word was compared: memory is too small, or full".into()),
            None => Ok(()),
            Some(wrong) => Err(wrong.to_string()),
        }
    }

    fn tell(&self, world: &World<'_>, done: &Done) {
        let counters = world.host.engine.physical().counters();
        self.progress.part(self.started.elapsed().as_secs_f64() / self.args.minutes.as_secs_f64());
        self.progress.tell(format!(
            "{} s: {} words right, {} moves, {} waits, {} forks, {}",
            self.started.elapsed().as_secs(),
            done.compared.words,
            counters.get(Counter::PgmigrateSuccess),
            counters.get(Counter::MigrationWait),
            done.deeds[0],
            Resident::now().map_or("memory unknown".into(), |resident| resident.to_string()),
        ));
    }

    fn failed(&self, world: &World<'_>, what: String) -> SoakError {
        self.failed_with(what, events::last(&world.host.engine))
    }

    fn failed_with(&self, what: String, events: String) -> SoakError {
        SoakError::Failed { seconds: self.started.elapsed().as_secs(), what, events, seed: self.seed }
    }

    /// Ends all processes, files and devices: every frame must be free then.
    fn end(&self, mut world: World<'_>, free: u32) -> Result<(), SoakError> {
        world.pins.clear();
        world.host.processes.clear();
        world.regions.clear();
        world.compressed.free(0, world.compressed.pages());
        world.balloon.deflate(u32::MAX);
        world.kernel.clear();
        let physical = world.host.engine.physical();
        physical.drain_cpu_lists();
        physical.validate().map_err(|what| self.failed(&world, format!("memory contradicts itself: {what}")))?;
        let now = physical.free_frames();
        if now == free {
            Ok(())
        } else {
            Err(self.failed(&world, format!("{now} frames are free in the end, {free} were: some are lost")))
        }
    }
}

/// Tells whether a deed only found no frame, or no addresses.
fn is_want_of_room(error: &EngineError) -> bool {
    use pagemove::space::{FaultError, FileError, PinError, SpaceError};
    matches!(
        error,
        EngineError::Space(SpaceError::OutOfMemory { .. } | SpaceError::NoRoom { .. })
            | EngineError::Fault(FaultError::OutOfMemory(_))
            | EngineError::File(FileError::OutOfMemory(_))
            | EngineError::Pin(PinError::Fault(FaultError::OutOfMemory(_)))
            | EngineError::Alloc(AllocError { .. })
            | EngineError::Balloon(InflateError::OutOfMemory(_))
            | EngineError::Zram(ZramError::OutOfMemory { .. })
    )
}

fn summary(soak: &Soak<'_>, world: &World<'_>, done: &Done, first: Option<Resident>, last: Option<Resident>) -> String {
    let counters = world.host.engine.physical().counters();
    let deeds: Vec<_> = DEEDS.iter().zip(done.deeds).map(|(deed, times)| format!("{}: {times}", deed.name)).collect();
    let memory = |resident: Option<Resident>| resident.map_or("unknown".into(), |resident| resident.to_string());
    format!(
        "{} s, seed {}, {} MiB: {} checks of all memory, {} words compared, none wrong.\n{}, 2 MiB for the kernel: {}; for want of room not: {}.\n\
         {} pages moved, {} stayed; {} faults, {} waited for a move, at most {} us.\n\
         The program's memory after the first round: {}; after the last: {}.",
        soak.started.elapsed().as_secs(),
        soak.seed,
        u64::from(world.host.engine.physical().frames().len()) / MIB,
        done.rounds,
        done.compared.words,
        deeds.join(", "),
        done.huge.load(Ordering::Relaxed),
        done.without_room,
        counters.get(Counter::PgmigrateSuccess),
        counters.get(Counter::PgmigrateFail),
        counters.get(Counter::Pgfault),
        counters.get(Counter::MigrationWait),
        counters.blocked_max_ns() / 1000,
        memory(first),
        memory(last),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_read_and_absurd_ones_refused() {
        assert_eq!(minutes("0.5"), Ok(Duration::from_secs(30)));
        for text in ["", "0", "-1", "nan", "inf", "1e9", "ten"] {
            assert!(minutes(text).is_err(), "{text:?} is taken");
        }
    }
}
