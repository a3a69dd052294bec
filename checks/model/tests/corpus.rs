//! Every history of the fuzz target's corpus, as an ordinary test: what a fuzzer found once stays found, and the roads that it
//! found through the engine are gone every time.

use std::{fs, path::PathBuf};

use pagemove_model::{History, Operation, Summary, run, shrink};

#[test]
fn the_corpus_holds() {
    let folder: PathBuf = [env!("CARGO_MANIFEST_DIR"), "../../fuzz/corpus/history"].iter().collect();
    let (mut files, mut sum) = (0, Summary::default());
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("a file").path();
        let history = History::decode(&fs::read(&path).expect("reads"));
        let done = run(&history).unwrap_or_else(|_| {
            let short = shrink(&history, |history| run(history).is_err());
            let failure = run(&short).map_or_else(|failure| failure.to_string(), |_| "only now and then".into());
            panic!("{}: {short:?}\n{failure}", path.display())
        });
        (files, sum.calls, sum.moved) = (files + 1, sum.calls + done.calls, sum.moved + done.moved);
    }
    assert!(files > 5 && sum.calls > 100 && sum.moved > 10, "{files} files in {}: {sum:?}", folder.display());
}

/// A pin that fails for want of memory may have copied its first pages.
#[test]
fn pages_that_a_failed_pin_has_copied_are_no_difference() {
    // How many pages are left for the pin depends on the levels of the format's tables.
    let histories = (100..=130).map(history_of_a_pin_without_memory);
    let failed: u64 =
        histories.map(|history| run(&history).unwrap_or_else(|failure| panic!("{failure}")).out_of_memory).sum();
    assert!(failed > 0, "nothing failed");
}

fn history_of_a_pin_without_memory(taken: u8) -> History {
    let operations = vec![
        Operation::MapPrivate { process: 0, pages: 0, at: 0, rights: 0, file: 0, first: 0 },
        Operation::MapAnonymous { process: 0, pages: 0, at: 176, rights: 0 },
        Operation::Store { process: 0, mapping: 0, offset: 0, word: 0, cpu: 0 },
        Operation::Load { process: 0, mapping: 1, offset: 0, word: 0, cpu: 0 },
        Operation::Fork { process: 0 },
        Operation::Unmap { process: 0, mapping: 0, offset: 0, pages: 0 },
        Operation::MapPrivate { process: 1, pages: 3, at: 136, rights: 0, file: 0, first: 1 },
        Operation::Start {},
        Operation::Pin { process: 1, mapping: 1, offset: 0, pages: 3, write: 0 },
        Operation::Fork { process: 1 },
        Operation::MapAnonymous { process: 0, pages: 0, at: 0, rights: 0 },
        Operation::Inflate { pages: taken },
        Operation::Inflate { pages: 2 },
        Operation::Exit { process: 62 },
        Operation::FileLoad { file: 57, page: 0, word: 0 },
        Operation::Load { process: 0, mapping: 0, offset: 0, word: 0, cpu: 0 },
        Operation::Fork { process: 2 },
        Operation::Store { process: 0, mapping: 1, offset: 0, word: 0, cpu: 0 },
        Operation::TakeHuge { mode: 0, batch: 0, policy: 0 },
        Operation::Pin { process: 2, mapping: 1, offset: 0, pages: 3, write: 0 },
    ];
    History { small: true, apart: false, operations }
}

/// A model that knows nothing of frames must not be surprised by what only frames explain.
#[test]
fn pages_that_find_no_room_to_move_to_are_no_difference() {
    let operations = vec![
        Operation::MapPrivate { process: 0, pages: 0, at: 0, rights: 0, file: 3, first: 0 },
        Operation::Load { process: 0, mapping: 0, offset: 0, word: 0, cpu: 0 },
        Operation::Mood { mood: 64 },
        Operation::Inflate { pages: 245 },
        Operation::Take { order: 4, frozen: 0 },
        Operation::Take { order: 3, frozen: 0 },
        Operation::Take { order: 2, frozen: 0 },
        Operation::Take { order: 1, frozen: 0 },
        Operation::Take { order: 0, frozen: 0 },
        Operation::Move { process: 0, mapping: 0, offset: 0, pages: 0, mode: 0, batch: 0, policy: 0 },
    ];
    let done = run(&History { small: true, apart: false, operations }).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(done.nothing, 0, "{done:?}");
}
