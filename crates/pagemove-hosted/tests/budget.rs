//! Batches by their time: as large as the time allows by what folios have cost, unblocked in parts, and what is waited for first; then
//! it is left alone for a while. On a clock of the test's own.
mod common;

use std::sync::{
    Arc, Mutex, OnceLock,
    atomic::{AtomicBool, Ordering},
    mpsc,
};

use common::*;
use pagemove::{
    compact::{Goal, compact},
    folio::LockedFolio,
    frame::Kind,
    migrate::{AnyFree, Batch, Mode, Mover, Options},
    movable::{IsolationRun, MigrationRun, MovableOps, PageIndex, Refusal, Registration},
    paging::Entry,
    report::Reason,
    rmap::RangeMap,
    space::{FileError, Mappable},
    units::{Pfn, VirtAddr},
};
use pagemove_hosted::Process;

type Look = Box<dyn Fn(&[u32]) + Send + Sync>;

/// A driver that takes its time to copy, and notes which pages come together.
struct Slow {
    index: Arc<PageIndex>,
    hooked: Arc<Hooked>,
    ns: Mutex<u64>,
    batches: Mutex<Vec<usize>>,
    parts: Mutex<Vec<Vec<u32>>>,
    /// Refuses all but each tenth page.
    refuses: AtomicBool,
    /// Sees each part before it's copied.
    sees: OnceLock<Look>,
}

impl MovableOps for Slow {
    fn name(&self) -> &str {
        "slow"
    }

    fn isolate(&self, run: &mut IsolationRun<'_>) {
        let mut granted = 0;
        run.decide(|folio| {
            if self.refuses.load(Ordering::Relaxed) && folio.index % 10 != 0 {
                return Err(Refusal::No);
            }
            granted += 1;
            Ok(())
        });
        self.batches.lock().unwrap().push(granted);
    }

    fn copy(&self, run: &mut MigrationRun<'_>) {
        let mut part = Vec::new();
        run.for_each(|folio| {
            part.push(folio.index());
            self.hooked.advance(*self.ns.lock().unwrap());
            Ok(())
        });
        if let Some(sees) = self.sees.get() {
            sees(&part);
        }
        self.parts.lock().unwrap().push(part);
        run.copy_contents();
    }

    fn migrate(&self, run: &mut MigrationRun<'_>) {
        self.index.repoint(run);
    }
}

/// The driver's file.
struct File {
    driver: Arc<Slow>,
    _registration: Registration,
}

impl Mappable for File {
    fn name(&self) -> &str {
        "slow"
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn fault(&self, index: u32) -> Result<LockedFolio<'_>, FileError> {
        Ok(self.driver.index.try_lock_or_insert(index)?)
    }

    fn bring(&self, index: u32) -> Result<(), FileError> {
        Ok(self.driver.index.lock_or_insert(index).map(drop)?)
    }
}

fn file(lab: &Lab, hooked: &Arc<Hooked>, ns: u64) -> Arc<File> {
    hooked.advance(1);
    let index = lab.engine.new_index(Kind::Driver, "slow");
    let (batches, parts, refuses, sees) = Default::default();
    let driver = Arc::new(Slow { index, hooked: hooked.clone(), ns: Mutex::new(ns), batches, parts, refuses, sees });
    let registration = lab.engine.owners().register(driver.clone());
    driver.index.set_owner(&registration);
    Arc::new(File { driver, _registration: registration })
}

fn pfns(file: &File, pages: u32) -> Vec<Pfn> {
    (0..pages).map(|page| file.driver.index.lock_or_insert(page).unwrap().pfn()).collect()
}

/// What a base page costs decides how many share a batch; it follows a driver that becomes slower or faster.
#[test]
fn a_batch_takes_as_long_as_it_may() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 6);
    let file = file(&lab, &hooked, 5_000);
    let driver = &file.driver;
    let mut mover = Mover::new(&lab.engine);
    let mut sizes = |micros: u32| {
        let mut destination = AnyFree::new(lab.engine.physical(), 512);
        let options = Options { batch: Batch::Micros(micros), ..Options::new(Mode::Async) };
        let outcome = mover.migrate(&pfns(&file, 1000), &mut destination, options);
        assert_eq!((outcome.moved, outcome.stayed), (1000, vec![]));
        std::mem::take(&mut *driver.batches.lock().unwrap())
    };
    let at_50 = sizes(50);
    assert_eq!(at_50[0], 50, "before anything is known");
    assert!(at_50[20..at_50.len() - 1].iter().all(|&pages| pages == 10), "5 µs a page: {at_50:?}");
    let at_200 = sizes(200);
    assert!(at_200[..at_200.len() - 1].iter().all(|&pages| pages == 40), "{at_200:?}");
    *driver.ns.lock().unwrap() = 500;
    let faster = sizes(50);
    assert!(faster[..faster.len() - 1].is_sorted(), "{faster:?}");
    assert!(faster.iter().max() >= Some(&90), "half a µs a page: {faster:?}");
    // Far too slow for the time: alone.
    *driver.ns.lock().unwrap() = 90_000;
    let alone = sizes(50);
    assert!(alone[alone.len() - 500..].iter().all(|&pages| pages == 1), "{alone:?}");
    lab.validate();
}

/// Folios that stay cost nothing, and aren't cheap ones.
#[test]
fn folios_that_stay_do_not_make_batches_too_long() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 6);
    let file = file(&lab, &hooked, 5_000);
    let mut mover = Mover::new(&lab.engine);
    let mut to = AnyFree::new(lab.physical(), 512);
    let options = Options { batch: Batch::Micros(50), ..Options::new(Mode::Async) };
    file.driver.refuses.store(true, Ordering::Relaxed);
    mover.migrate(&pfns(&file, 1000), &mut to, options);
    file.driver.refuses.store(false, Ordering::Relaxed);
    file.driver.batches.lock().unwrap().clear();
    mover.migrate(&pfns(&file, 1000), &mut to, options);
    let batches = file.driver.batches.lock().unwrap();
    assert!(batches[0] <= 20, "10 pages take the 50 µs; batches of {batches:?}");
}

/// What one compaction has measured the next one knows.
#[test]
fn a_compaction_knows_what_the_last_one_measured() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 6);
    let file = file(&lab, &hooked, 5_000);
    let index = &file.driver.index;
    let mut firsts = Vec::new();
    for round in 0..3 {
        // A hundred pages in a block of their own, and another block that is partly used.
        for page in 0..100 {
            for (page, block) in [(page, 2 + round), (1000 + page, 1)] {
                index.remove(page);
                let folio = lab.physical().alloc_exactly(pfn(512 * block + page % 1000 * 2), Kind::Driver);
                if let Some(folio) = folio {
                    drop(index.insert(page, folio).unwrap());
                }
            }
        }
        file.driver.batches.lock().unwrap().clear();
        compact(&lab.engine, range(512, 5 * 512), Goal::Blocks(1), Options::new(Mode::Async));
        firsts.push(file.driver.batches.lock().unwrap().first().copied());
    }
    assert!(firsts[1..].iter().all(|&first| first <= Some(20)), "first batches: {firsts:?}; 10 pages take 50 µs");
}

fn map(lab: &Lab, file: &Arc<File>, pages: u32) -> (Process, VirtAddr) {
    let process = lab.process();
    let at = shared(&process, file.clone(), pages, RW).start();
    (0..pages).for_each(|page| process.store(at.up(page), u64::from(page) + 1).unwrap());
    (process, at)
}

/// A page can be used again a few pages after its own copy, long before the batch is over.
#[test]
fn pages_are_unblocked_in_parts() {
    for (batch, parts) in [(Batch::Micros(50), vec![16, 16, 16, 2]), (Batch::Folios(512), vec![50])] {
        let (lab, hooked) = Hooked::lab(BOTH[0], 2);
        let file = file(&lab, &hooked, 10);
        let (process, at) = map(&lab, &file, 50);
        let (space, seen) = (process.space().clone(), Arc::new(Mutex::new(Vec::new())));
        let noted = seen.clone();
        let _ = file.driver.sees.set(Box::new(move |part| {
            let usable = (0..50).filter(|&page| Entry::is_present(space.entry(at.up(page)))).count();
            noted.lock().unwrap().push((part[0] as usize, usable));
        }));
        let options = Options { batch, ..Options::new(Mode::Async) };
        assert_eq!(lab.migrate_all(&pfns(&file, 50), options).moved, 50);
        let sizes: Vec<usize> = file.driver.parts.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, parts);
        // Whatever comes before a part can be used by then.
        assert!(seen.lock().unwrap().iter().all(|(first, usable)| first == usable), "{seen:?}");
        for page in 0..50 {
            assert_eq!(process.load(at.up(page)).unwrap(), u64::from(page) + 1);
        }
    }
}

/// A thread that waits for a page of the last part gets it first.
#[test]
fn what_is_waited_for_goes_first() {
    for wanted in [1, 20, 49] {
        let (lab, hooked) = Hooked::lab(BOTH[0], 2);
        let file = file(&lab, &hooked, 10);
        let (process, at) = map(&lab, &file, 50);
        let process = Arc::new(process);
        let (in_hook, before) = (process.clone(), hooked.waits());
        let waiter = Arc::new(Mutex::new(None));
        let (started, of_machine) = (waiter.clone(), Arc::downgrade(&hooked));
        hooked.before_next_flush(move |_| {
            let hooked = of_machine.upgrade().unwrap();
            *started.lock().unwrap() = Some(std::thread::spawn(move || in_hook.load(at.up(wanted)).unwrap()));
            // Asleep, or about to be: it has said so.
            while hooked.waits() == before {
                std::thread::yield_now();
            }
        });
        assert_eq!(lab.migrate_all(&pfns(&file, 50), Options::new(Mode::Async)).moved, 50);
        assert_eq!(waiter.lock().unwrap().take().unwrap().join().unwrap(), u64::from(wanted) + 1);
        let parts = file.driver.parts.lock().unwrap().clone();
        assert_eq!(parts[0], [wanted]);
        let mut all: Vec<u32> = parts.concat();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..50), "each page once: {parts:?}");
        for page in 0..50 {
            assert_eq!(process.load(at.up(page)).unwrap(), u64::from(page) + 1);
        }
        lab.validate();
    }
}

/// Who waited for a page gets time to use it: its next move comes later. A driver's page, and an anonymous one.
#[test]
fn what_was_waited_for_is_left_alone_for_a_while() {
    const MILLISECOND: u64 = 1_000_000;
    for (is_drivers, stays) in [(true, false), (true, true), (false, false)] {
        let (lab, hooked) = Hooked::lab(BOTH[0], 2);
        hooked.advance(77 * MILLISECOND);
        let file = file(&lab, &hooked, 10);
        let (process, at) = if is_drivers {
            map(&lab, &file, 2)
        } else {
            let process = lab.process();
            let at = anonymous(&process, 2).start();
            (0..2).for_each(|page| process.store(at.up(page), u64::from(page) + 1).unwrap());
            (process, at)
        };
        let process = Arc::new(process);
        let pages = || (0..2).map(|page| process.space().frame(at.up(page)).unwrap()).collect::<Vec<Pfn>>();
        let (in_hook, before) = (process.clone(), hooked.waits());
        let waiter = Arc::new(Mutex::new(None));
        let (started, of_machine) = (waiter.clone(), Arc::downgrade(&hooked));
        let (physical, held) = (lab.physical().clone(), pages()[1]);
        // Another thread has a reference that outlives the hook, until this is dropped.
        let (until, over) = mpsc::channel::<()>();
        let holder = Arc::new(Mutex::new(None));
        let of_hook = holder.clone();
        hooked.before_next_flush(move |_| {
            let hooked = of_machine.upgrade().unwrap();
            *started.lock().unwrap() = Some(std::thread::spawn(move || in_hook.load(at.up(1)).unwrap()));
            while hooked.waits() == before {
                std::thread::yield_now();
            }
            // With a reference the move fails.
            if stays {
                let (taken, is_taken) = mpsc::channel();
                *of_hook.lock().unwrap() = Some(std::thread::spawn(move || {
                    let _reference = physical.get(held).unwrap();
                    taken.send(()).unwrap();
                    assert!(over.recv().is_err());
                }));
                is_taken.recv().unwrap();
            }
        });
        let options = Options::new(Mode::Async);
        let moved = lab.migrate_all(&pages(), options).moved;
        assert_eq!(moved, if stays { 1 } else { 2 });
        assert_eq!(waiter.lock().unwrap().take().unwrap().join().unwrap(), 2);
        drop(until);
        if let Some(holder) = holder.lock().unwrap().take() {
            holder.join().unwrap();
        }
        let again = pages();
        let outcome = lab.migrate_all(&again, options);
        assert_eq!((outcome.moved, outcome.stayed), (1, vec![(again[1], Reason::Awaited)]));
        hooked.advance(20 * MILLISECOND);
        assert_eq!(lab.migrate_all(&pages(), options).moved, 2);
        lab.validate();
    }
}

/// A mover that may wait gives one round of waiters their time, however many come after them. The clock stands.
#[test]
fn a_mover_does_not_wait_for_ever_for_others() {
    let (lab, hooked) = Hooked::lab(BOTH[0], 2);
    hooked.advance(77_000_000);
    let file = file(&lab, &hooked, 10);
    let contended = |file: &Arc<File>, hooked: &Hooked| {
        let index = &file.driver.index;
        let locked = index.lock_or_insert(0).unwrap();
        std::thread::scope(|scope| {
            let before = hooked.waits();
            scope.spawn(|| drop(index.lock_or_insert(0).unwrap()));
            while hooked.waits() == before {
                std::thread::yield_now();
            }
            drop(locked);
        });
    };
    // Without a move nobody is left alone.
    contended(&file, &hooked);
    assert_eq!(lab.migrate_all(&pfns(&file, 1), Options::new(Mode::Async)).moved, 1);
    let (process, at) = map(&lab, &file, 1);
    let (process, of_machine) = (Arc::new(process), Arc::downgrade(&hooked));
    let (in_hook, before, waiter) = (process.clone(), hooked.waits(), Arc::new(Mutex::new(None)));
    let started = waiter.clone();
    hooked.before_next_flush(move |_| {
        let hooked = of_machine.upgrade().unwrap();
        *started.lock().unwrap() = Some(std::thread::spawn(move || in_hook.load(at).unwrap()));
        while hooked.waits() == before {
            std::thread::yield_now();
        }
    });
    assert_eq!(lab.migrate_all(&pfns(&file, 1), Options::new(Mode::Async)).moved, 1);
    waiter.lock().unwrap().take().unwrap().join().unwrap();
    let pages = pfns(&file, 1);
    assert_eq!(lab.migrate_all(&pages, Options::new(Mode::Async)).stayed, vec![(pages[0], Reason::Awaited)]);
    let (of_pause, of_machine) = (file.clone(), Arc::downgrade(&hooked));
    // The first pause is between two tries; at the second one the mover waits.
    let again = Arc::downgrade(&hooked);
    hooked.at_next_pause(move || {
        again.upgrade().unwrap().at_next_pause(move || {
            let hooked = of_machine.upgrade().unwrap();
            hooked.at_next_pause(move || contended(&of_pause, &of_machine.upgrade().unwrap()));
        });
    });
    assert_eq!(lab.migrate_all(&pages, Options::new(Mode::Sync)).moved, 1);
    lab.validate();
}
