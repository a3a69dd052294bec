//! The soak test: everything at once, for as long as asked.
//!
//! Takes a time and a seed; prints progress and results. Three processes call everything on their own buffers in random
//! order, each with a model of every page's contents. Meanwhile the kernel moves pages in all the ways of `triggers`,
//! and memory is fragmented and used up. Pages are compared with the model again and again. A failure names the
//! process, its last action and the seed. A hang is a failure.

use std::error::Error;
use std::fs;
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

use pagemove_sample::uapi::Policy;

use crate::console::{give_up, tell};
use crate::device::Device;
use crate::dmesg;
use crate::machine::{Random, compact, free_order9, free_pages, is_configured, number_in};
use crate::sys::{self, Child, End, Map, PRIVATE, Pipe, READ_ONLY, Ring, SHARED, errno};
use crate::triggers::Block;
use crate::work::frames_of;

/// The number of working processes.
const WORKERS: usize = 3;
/// The size of the largest buffer in pages.
const PAGES: usize = 1024;
/// The number of steps before a buffer is closed.
const STEPS_PER_BUFFER: usize = 200;
/// Pages left for the processes, so that the OOM killer doesn't run.
const RESERVED_PAGES: usize = 10_000;
const PROGRESS: Duration = Duration::from_secs(15);
/// A turn takes some seconds, on a busy machine half a minute.
const TURN_LIMIT: Duration = Duration::from_secs(120);

/// Words of the shared page: stop flag, and the current turn.
const STOP: usize = 0;
const TURN: usize = 1;

type ThreadResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// Each process's counters, in shared memory: one page for each process.
#[derive(Clone, Copy)]
enum Count {
    Steps,
    Buffers,
    Moves,
    Compared,
}

/// Runs for `time`; prints what was done.
pub(crate) fn run(time: Duration, seed: u64) -> Result<(), Box<dyn Error>> {
    // Allocations will fail often, and print call traces.
    dmesg::expect_low_memory(true)?;
    let counts = Map::new(None, 0, WORKERS, SHARED)?;
    let stop = Map::new(None, 0, 1, SHARED)?;
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        workers.push(sys::fork(|| {
            let mut worker =
                Worker { random: Random::new(seed + number as u64), number, counts: &counts, last: "nothing" };
            let outcome = worker.run(|| stop.load(0, STOP) != 0);
            if let Err(error) = &outcome {
                let what = format!("process {number}, seed {seed}, at `{}`: {error}", worker.last);
                tell(&format!("{{\"fact\":{what:?},\"of\":\"soak\"}}"));
            }
            i32::from(outcome.is_err())
        })?);
    }
    let _watchdog = sys::fork(|| watch(&stop, seed))?;
    let outcome = run_movers(&workers, &counts, &stop, time, seed);
    stop.store(0, STOP, 1);
    let ends: Vec<End> = workers.iter().map(Child::wait).collect();
    let moved = outcome?;
    if ends.iter().any(|end| *end != End::Exit(0)) {
        return Err(format!("the processes ended by {ends:?}").into());
    }
    tell(&format!("{{\"fact\":{:?},\"of\":\"soak\"}}", summary(&counts, &moved)));
    if sum(&counts, Count::Moves) == 0 {
        return Err("nothing has moved".into());
    }
    Ok(())
}

fn sum(counts: &Map, count: Count) -> u64 {
    (0..WORKERS).map(|number| counts.load(number, count as usize)).sum()
}

fn summary(counts: &Map, movers: &Movers) -> String {
    let Movers { compactions, offlined, offline_tries, grown, soft_offlined, shortages } = movers;
    format!(
        "{} steps in {} buffers, {} moves of their pages, {} pages compared; {compactions} compactions, {offlined} of \
         {offline_tries} tries to offline a block, {grown} huge pages, {soft_offlined} frames soft-offlined, {shortages} times \
         short of memory",
        sum(counts, Count::Steps),
        sum(counts, Count::Buffers),
        sum(counts, Count::Moves),
        sum(counts, Count::Compared)
    )
}

/// Counts of what the kernel was asked for.
#[derive(Debug, Default)]
struct Movers {
    compactions: u64,
    offlined: u64,
    offline_tries: u64,
    grown: u64,
    soft_offlined: u64,
    shortages: u64,
}

/// Moves pages in all ways until the time is over or a worker ends; writes each turn's number for the watchdog.
fn run_movers(
    workers: &[Child],
    counts: &Map,
    stop: &Map,
    time: Duration,
    seed: u64,
) -> Result<Movers, Box<dyn Error>> {
    let (started, mut printed_at) = (Instant::now(), Instant::now());
    let mut random = Random::new(seed + 1000);
    let mut movers = Movers::default();
    let block = Block::spare()?;
    for turn in 0.. {
        if started.elapsed() > time {
            break;
        }
        if let Some(number) = workers.iter().position(|worker| worker.ended().is_some()) {
            return Err(format!("process {number} ended early").into());
        }
        if printed_at.elapsed() > PROGRESS {
            printed_at = Instant::now();
            let now = format!("{} s of {}: {}", started.elapsed().as_secs(), time.as_secs(), summary(counts, &movers));
            tell(&format!("{{\"progress\":{now:?}}}"));
        }
        stop.store(0, TURN, turn);
        match turn % 9 {
            0 => movers.one_block(&block)?,
            1 => movers.grown += wear(&mut random, true)?,
            2 => fs::write("/proc/sys/vm/drop_caches", "3")?,
            3 => movers.soft_offline()?,
            4 => {
                // Leaves enough for the processes to run without the OOM killer.
                let pages = (free_pages()? as usize).saturating_sub(RESERVED_PAGES);
                let map = Map::new(None, 0, pages.max(1), PRIVATE)?;
                (0..map.pages()).for_each(|page| map.store(page, 0, 1));
                compact()?;
                movers.shortages += 1;
            }
            5 | 6 => drop(wear(&mut random, false)?),
            _ => {
                compact()?;
                movers.compactions += 1;
            }
        }
    }
    Ok(movers)
}

/// Ends the guest when a turn hangs, and prints every process's stack.
fn watch(stop: &Map, seed: u64) -> i32 {
    let (mut turn, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let now = stop.load(0, TURN);
        if now != turn {
            (turn, since) = (now, Instant::now());
        } else if since.elapsed() > TURN_LIMIT {
            for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
                let Ok(process) = entry.file_name().display().to_string().parse::<u32>() else { continue };
                let read = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
                // Kernel threads have no memory, and are skipped.
                let (stack, memory) = (read("stack"), read("statm"));
                if !memory.starts_with("0 ") {
                    let what = format!("process {process} is at {}", stack.trim().replace('\n', " "));
                    tell(&format!("{{\"fact\":{what:?},\"of\":\"soak\"}}"));
                }
            }
            give_up("soak", &format!("turn {turn} has taken more than {} s, seed {seed}", TURN_LIMIT.as_secs()));
        }
    }
}

/// Allocates memory, frees a random half, then compacts or allocates huge pages; gives the number of huge pages.
fn wear(random: &mut Random, huge: bool) -> std::io::Result<u64> {
    const POOL: &str = "/proc/sys/vm/nr_hugepages";
    let pages = if huge { (free_pages()? as usize).saturating_sub(RESERVED_PAGES) } else { 3000 };
    let map = Map::new(None, 0, pages.max(1), PRIVATE)?;
    map.advise(0, map.pages(), libc::MADV_NOHUGEPAGE)?;
    (0..map.pages()).for_each(|page| map.store(page, 0, 1));
    for page in (0..map.pages()).filter(|_| random.below(2) == 0) {
        map.advise(page, 1, libc::MADV_DONTNEED)?;
    }
    if !huge {
        return compact().map(|()| 0);
    }
    fs::write(POOL, (free_order9()? + 4).to_string())?;
    let made = number_in(POOL)?;
    fs::write(POOL, "0")?;
    Ok(made)
}

impl Movers {
    /// Brings a memory block online, lets pages move there, and takes it offline again.
    fn one_block(&mut self, block: &Block) -> Result<(), Box<dyn Error>> {
        block.set("online_movable")?;
        sys::migrate_pages(0, 1)?;
        wear(&mut Random::new(self.offline_tries), false)?;
        self.offline_tries += 1;
        // Waits for pinned pages, which the workers unpin in time.
        block.set("offline")?;
        self.offlined += 1;
        Ok(())
    }

    fn soft_offline(&mut self) -> std::io::Result<()> {
        // Each soft-offlining costs a frame for ever.
        if is_configured("CONFIG_MEMORY_FAILURE")? && self.soft_offlined < 200 {
            let device = Device::open(4)?;
            let map = device.map(0, 4, SHARED)?;
            (0..4).for_each(|page| map.store(page, 0, 1));
            self.soft_offlined += u64::from(errno(&map.advise(2, 1, libc::MADV_SOFT_OFFLINE)) == 0);
            if (0..4).any(|page| map.load(page, 0) != 1) {
                return Err(std::io::Error::other("soft-offlining lost a word"));
            }
        }
        Ok(())
    }
}

/// A working process.
struct Worker<'a> {
    random: Random,
    number: usize,
    counts: &'a Map,
    /// The current action, for the failure message.
    last: &'static str,
}

/// A page that must not move.
struct Pinned {
    page: usize,
    frame: u64,
}

/// A buffer, with the model of its contents.
struct Buffer {
    device: Device,
    map: Map,
    /// The value of each page's two words.
    model: Vec<u64>,
    size: usize,
    pinned: Vec<Pinned>,
    ring: Option<(Ring, Vec<Pinned>)>,
}

/// One word in each half of a page.
const CHECKED_WORDS: [usize; 2] = [3, 300];
const PIN: &str = "soak";

fn must(is_so: bool, words: &str) -> ThreadResult<()> {
    if is_so { Ok(()) } else { Err(words.into()) }
}

impl Buffer {
    fn new(size: usize) -> ThreadResult<Self> {
        let device = Device::open(size as u64)?;
        let map = device.map(0, PAGES, SHARED)?;
        Ok(Self { device, map, model: vec![0; PAGES], size, pinned: Vec::new(), ring: None })
    }

    fn put(&mut self, page: usize, value: u64) {
        CHECKED_WORDS.iter().for_each(|&word| self.map.store(page, word, value));
        self.model[page] = value;
    }

    fn compare(&self, page: usize) -> ThreadResult<()> {
        let seen = CHECKED_WORDS.map(|word| self.map.load(page, word));
        must(seen == [self.model[page]; 2], &format!("page {page} has {seen:x?}, not {:x}", self.model[page]))
    }

    fn compare_all(&self) -> ThreadResult<()> {
        (0..self.size).try_for_each(|page| self.compare(page))
    }

    fn hold(&self, page: usize) -> ThreadResult<Pinned> {
        self.compare(page)?;
        Ok(Pinned { page, frame: frames_of(&self.map, &[page])?[page] })
    }

    fn must_have_stayed(&self, pinned: &Pinned) -> ThreadResult<()> {
        let now = self.hold(pinned.page)?.frame;
        must(now == pinned.frame, &format!("page {} was pinned in {}, and is in {now}", pinned.page, pinned.frame))
    }

    fn unpin(&mut self) -> ThreadResult<()> {
        if let Some(pinned) = self.pinned.pop() {
            self.must_have_stayed(&pinned)?;
            self.device.unpin(pinned.page as u64, PIN)?;
        }
        Ok(())
    }

    fn unregister(&mut self) -> ThreadResult<()> {
        if let Some((ring, pages)) = self.ring.take() {
            pages.iter().try_for_each(|pinned| self.must_have_stayed(pinned))?;
            ring.unregister()?;
        }
        Ok(())
    }

    /// Before pages are freed: otherwise the pins would be on other pages afterwards.
    fn release_all(&mut self) -> ThreadResult<()> {
        while !self.pinned.is_empty() {
            self.unpin()?;
        }
        self.unregister()
    }
}

impl Worker<'_> {
    fn count(&self, count: Count, more: u64) {
        let now = self.counts.load(self.number, count as usize);
        self.counts.store(self.number, count as usize, now + more);
    }

    fn run(&mut self, done: impl Fn() -> bool) -> ThreadResult<()> {
        while !done() {
            let mut buffer = Buffer::new(16 + self.random.below(PAGES - 16))?;
            for step in 0..STEPS_PER_BUFFER {
                if done() {
                    break;
                }
                self.step(&mut buffer, step as u64 + 1)?;
                self.count(Count::Steps, 1);
            }
            self.last = "comparing all";
            buffer.compare_all()?;
            self.count(Count::Compared, buffer.size as u64);
            self.count(Count::Buffers, 1);
            self.count(Count::Moves, buffer.device.counts()?.moved);
            self.last = "closing";
            // In either order, with pins left.
            let Buffer { device, map, .. } = buffer;
            if self.random.below(2) == 0 { drop((device, map)) } else { drop((map, device)) }
        }
        Ok(())
    }

    fn step(&mut self, buffer: &mut Buffer, step: u64) -> ThreadResult<()> {
        let size = buffer.size;
        let page = self.random.below(size);
        let some = 1 + self.random.below((size - page).min(64));
        let value = step << 20 | page as u64;
        match self.random.below(26) {
            0..6 => {
                self.last = "writing";
                for _ in 0..64 {
                    let page = self.random.below(size);
                    buffer.compare(page)?;
                    buffer.put(page, step << 20 | page as u64);
                }
            }
            6 => {
                self.last = "write and read";
                for word in CHECKED_WORDS {
                    buffer.device.write_word(page as u64, word as u64, value)?;
                    must(buffer.device.read_word(page as u64, word as u64)? == value, "a write isn't read back")?;
                }
                buffer.model[page] = value;
            }
            7 => {
                self.last = "mmap";
                buffer.map = buffer.device.map(0, PAGES, SHARED)?;
            }
            8 => {
                self.last = "mremap";
                // After mremap the registered pages have other addresses, so check them first.
                buffer.unregister()?;
                buffer.map.remap()?;
            }
            9 => {
                self.last = "mprotect";
                buffer.map.protect(page, some, false)?;
                buffer.compare(page)?;
                buffer.map.protect(page, some, true)?;
                buffer.put(page, value);
            }
            10 => {
                self.last = "advice";
                for advice in [libc::MADV_DONTNEED, libc::MADV_PAGEOUT, libc::MADV_COLD] {
                    buffer.map.advise(page, some, advice)?;
                    buffer.compare(page)?;
                }
            }
            11 => {
                self.last = "mlock";
                buffer.map.lock(page, some, true)?;
                buffer.compare(page)?;
                buffer.map.lock(page, some, false)?;
            }
            12 => {
                self.last = "fork";
                let child = sys::fork(|| {
                    let same = buffer.compare_all().is_ok();
                    buffer.put(page, value);
                    i32::from(!same)
                })?;
                must(child.wait() == End::Exit(0), "a child saw other words")?;
                buffer.model[page] = value;
            }
            13 => {
                self.last = "freeing";
                buffer.release_all()?;
                buffer.device.free(page as u64, some as u64)?;
                buffer.model[page..page + some].fill(0);
            }
            14 => {
                self.last = "resizing";
                buffer.release_all()?;
                buffer.device.resize(page as u64 + 1)?;
                buffer.model[page + 1..].fill(0);
                buffer.size = 16 + self.random.below(PAGES - 16);
                buffer.model[buffer.size..].fill(0);
                buffer.device.resize(buffer.size as u64)?;
            }
            15 => {
                self.last = "filling";
                buffer.device.fill(0, size as u64)?;
            }
            16 | 17 => {
                self.last = "pinning";
                if buffer.pinned.len() < 8 && buffer.pinned.iter().all(|pinned| pinned.page != page) {
                    buffer.device.pin(page as u64, PIN)?;
                    let pinned = buffer.hold(page)?;
                    buffer.pinned.push(pinned);
                } else {
                    buffer.unpin()?;
                }
            }
            18 => {
                self.last = "vmsplice";
                // Offlining keeps refused pages isolated until they move, and compaction waits while too many are
                // isolated. So a process that refuses and then compacts would wait for itself.
                buffer.device.policy(Policy::Allow)?;
                let mut pipe = Pipe::new(1)?;
                buffer.compare(page)?;
                buffer.map.vmsplice(page, &pipe)?;
                compact()?;
                let mut bytes = [0; sys::PAGE];
                pipe.read.read_exact(&mut bytes)?;
                let seen =
                    CHECKED_WORDS.map(|word| bytes[word * 8..][..8].try_into().map(u64::from_ne_bytes).unwrap_or(!0));
                must(seen == [buffer.model[page]; 2], "a page in a pipe has other words")?;
            }
            19 => {
                self.last = "registering";
                buffer.unregister()?;
                let ring = Ring::new()?;
                let registered = match ring.register(&buffer.map, page, some) {
                    // Registering may have to move pages out of the spare block first, and there is no memory now.
                    Err(error) if error.kind() == ErrorKind::OutOfMemory => false,
                    other => other?,
                };
                if registered {
                    let pages = (page..page + some).map(|page| buffer.hold(page)).collect::<ThreadResult<Vec<_>>>()?;
                    buffer.ring = Some((ring, pages));
                }
            }
            20 => {
                self.last = "a private mapping";
                let private = buffer.device.map(page as u64, some, PRIVATE)?;
                let other = buffer.device.map(page as u64, some, READ_ONLY)?;
                private.store(0, CHECKED_WORDS[0], u64::MAX);
                must(other.load(0, CHECKED_WORDS[0]) == buffer.model[page], "a private write is seen by others")?;
            }
            21 => {
                self.last = "policy";
                let policy = [Policy::Allow, Policy::Allow, Policy::Retry, Policy::Refuse][self.random.below(4)];
                buffer.device.policy(policy)?;
            }
            22 => {
                self.last = "clear_refs";
                fs::write("/proc/self/clear_refs", if step.is_multiple_of(2) { "4" } else { "1" })?;
            }
            23 | 24 => {
                self.last = "move_pages";
                let pages: Vec<usize> = (page..page + some).collect();
                // Pages that can't be moved stay; the contents must be right either way.
                let _ = sys::move_pages(&buffer.map, &pages, self.random.below(2) as i32);
            }
            _ => {
                self.last = "comparing";
                buffer.compare_all()?;
                self.count(Count::Compared, size as u64);
            }
        }
        Ok(())
    }
}
