//! Random histories, which shrink to short ones when they fail; and faults put in on purpose, which must be found.
//!
//! `PAGEMOVE_HISTORIES` sets how many are run (a few seconds' worth else), `PAGEMOVE_SEED` repeats a run. What failed once is
//! kept in `proptest-regressions`, and is run first from then on.

use std::{
    cell::Cell,
    sync::{Mutex, Once, PoisonError},
    thread::{self, ThreadId},
    time::Duration,
};

use pagemove_model::{Failure, History, Operation, Sabotage, Summary, run, run_sabotaged, shrink};
use proptest::{
    prelude::*,
    strategy::Union,
    test_runner::{Config, FileFailurePersistence, RngAlgorithm, TestError, TestRng, TestRunner},
};

/// Histories of a run, unless the environment says otherwise.
const HISTORIES: u32 = if cfg!(debug_assertions) { 120 } else { 1500 };

fn from_environment(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Small numbers more often than others, so that operations meet on the same objects.
fn numbers() -> impl Strategy<Value = [u8; 7]> {
    prop::array::uniform7(prop_oneof![2 => 0..4u8, 1 => any::<u8>()])
}

fn operations(most: usize) -> impl Strategy<Value = Vec<Operation>> {
    let kinds = Operation::kinds().map(|(weight, make)| (weight, numbers().prop_map(make).boxed()));
    prop::collection::vec(Union::new_weighted(kinds.collect()), 0..most)
}

/// One in four on the small machine; one in three with memory in two parts.
fn histories(most: usize) -> impl Strategy<Value = History> {
    let (small, apart) = (prop::bool::weighted(0.25), prop::bool::weighted(0.33));
    (small, apart, operations(most)).prop_map(|(small, apart, operations)| History { small, apart, operations })
}

fn runner(seed: u64, cases: u32, keep: bool) -> TestRunner {
    let kept = FileFailurePersistence::WithSource("proptest-regressions");
    let config = Config {
        cases,
        max_shrink_iters: 20_000,
        source_file: Some(file!()),
        failure_persistence: if keep { Some(Box::new(kept)) } else { None },
        ..Config::default()
    };
    let bytes: Vec<u8> = (0..4).flat_map(|part| (seed ^ part << 56).to_le_bytes()).collect();
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Longest time that a history may take; one takes milliseconds.
const LONGEST: Duration = Duration::from_secs(60);
/// Looks in that time. They count, and not seconds: those go on while the program is stopped.
const LOOKS: u32 = 4;

/// Runs a history, perhaps with a fault; if it goes round and round for ever, prints it and ends the program.
fn watched(history: &History, sabotage: Option<Sabotage>) -> Result<Summary, Failure> {
    /// By the test's thread: the looks so far.
    static RUNNING: Mutex<Vec<(ThreadId, u32, History)>> = Mutex::new(Vec::new());
    static WATCH: Once = Once::new();
    let running = || RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    WATCH.call_once(|| {
        thread::spawn(move || {
            loop {
                thread::sleep(LONGEST / LOOKS);
                for (_, looks, history) in running().iter_mut() {
                    *looks += 1;
                    if *looks > LOOKS {
                        eprintln!("this history hangs: {history:?}");
                        std::process::abort();
                    }
                }
            }
        });
    });
    let me = thread::current().id();
    running().push((me, 0, history.clone()));
    let outcome = match sabotage {
        None => run(history),
        Some(sabotage) => run_sabotaged(history, sabotage),
    };
    running().retain(|(thread, ..)| *thread != me);
    outcome
}

#[test]
fn the_engine_does_what_the_model_does() {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |now| now.as_nanos() as u64);
    let seed = from_environment("PAGEMOVE_SEED").unwrap_or(now);
    let cases = from_environment("PAGEMOVE_HISTORIES").map_or(HISTORIES, |cases| cases as u32);
    println!("PAGEMOVE_SEED={seed} PAGEMOVE_HISTORIES={cases}");
    let sum = Cell::new(Summary::default());
    let well = Cell::new(0);
    let outcome = runner(seed, cases, true).run(&histories(120), |history| {
        let done = watched(&history, None).map_err(|failure| TestCaseError::fail(failure.to_string()))?;
        well.set(well.get() + 1);
        let before = sum.get();
        sum.set(Summary {
            calls: before.calls + done.calls,
            nothing: before.nothing + done.nothing,
            out_of_memory: before.out_of_memory + done.out_of_memory,
            moved: before.moved + done.moved,
        });
        Ok(())
    });
    match outcome {
        Ok(()) => {}
        Err(TestError::Fail(reason, history)) => {
            let history = shrink(&history, |history| watched(history, None).is_err());
            let failure = run(&history).map_or_else(|failure| failure.to_string(), |_| reason.to_string());
            panic!("seed {seed}, after {} histories: {history:?}\n{failure}", well.get())
        }
        Err(TestError::Abort(reason)) => panic!("seed {seed}: {reason}"),
    }
    let sum = sum.get();
    println!("{sum:?}");
    // Else the lists do nothing, and find nothing; a few of them may.
    assert!(cases < 50 || (sum.calls > 20 * u64::from(cases) && sum.moved > u64::from(cases)), "{sum:?}");
}

/// Operations that are a handful: mostly it's three to five.
const SHORT: usize = 8;

/// Each fault is found by one of a few hundred histories, and shrinks to a handful of operations.
#[test]
fn faults_put_in_on_purpose_are_found_by_short_histories() {
    for sabotage in [Sabotage::SkipFlushes, Sabotage::LoseContents, Sabotage::LoseWrite] {
        let fails = |history: &History| watched(history, Some(sabotage)).is_err();
        let found = runner(1, 500, false)
            .run(&histories(60), |history| if fails(&history) { Err(TestCaseError::fail("found")) } else { Ok(()) });
        let Err(TestError::Fail(_, history)) = found else { panic!("{sabotage:?} was not found: {found:?}") };
        let history = shrink(&history, fails);
        println!("{sabotage:?}: {history:?}");
        assert!(history.operations.len() <= SHORT, "{sabotage:?} was found only by {history:?}");
        run(&history).unwrap_or_else(|failure| panic!("without {sabotage:?}: {failure}"));
    }
}
