//! Histories of operations on real page tables (`checks/model`), each answer compared with a simple model's: an engine of its own on memory
//! that it has of the kernel's, and processes whose words are loaded and stored in ring 3, on the processor that the history names.

mod memory;
mod world;

use alloc::sync::Arc;

use pagemove_model::{BYTES, History, Operation, Sabotage, Summary, run_on};
use rand::{RngExt, SeedableRng, rngs::SmallRng};

use self::{
    memory::{MEMORY, Memory},
    world::Base,
};
use crate::console::print;

/// Runs `count` histories of random bytes; or one with a deliberate fault, which must differ: what that one had is lost. Tells whether it
/// went otherwise than it should.
pub(crate) fn run(seed: u64, count: u64, sabotage: Option<Sabotage>) -> bool {
    match Memory::take() {
        Ok(memory) => *MEMORY.lock() = Some(Arc::new(memory)),
        Err(error) => {
            print!("histories: {error}\n");
            return true;
        }
    }
    let failed = if sabotage.is_some() { !is_noticed(sabotage) } else { differs(seed, count) };
    let memory = MEMORY.lock().take();
    drop(memory);
    failed
}

fn differs(seed: u64, count: u64) -> bool {
    let mut sum = Summary::default();
    // The last one is that which notices skipped flushes.
    let histories = (0..count).map(|number| history(seed, number)).chain([history_of_stale_loads()]);
    for (number, history) in histories.enumerate() {
        match run_on::<Base>(&history, None) {
            Ok(done) => {
                sum.calls += done.calls;
                sum.moved += done.moved;
                sum.out_of_memory += done.out_of_memory;
            }
            Err(failure) => {
                print!("histories: number {number} of seed {seed}: {failure}\n");
                return true;
            }
        }
    }
    print!(
        "histories: {count}, with {} calls that gave what the model gives, {} without memory, and {} moved pages\n",
        sum.calls, sum.out_of_memory, sum.moved
    );
    // Else nothing was shown.
    sum.calls == 0 || sum.moved == 0
}

fn is_noticed(sabotage: Option<Sabotage>) -> bool {
    match run_on::<Base>(&history_of_stale_loads(), sabotage) {
        Err(failure) => {
            print!("histories: the fault is noticed: {}\n", failure.what);
            true
        }
        Ok(_) => {
            print!("histories: the fault is not noticed\n");
            false
        }
    }
}

/// Again and again one CPU stores to a page, the page moves, another CPU stores to it, and the first one loads.
fn history_of_stale_loads() -> History {
    let (process, mapping, offset, word) = (0, 0, 0, 0);
    let round = [
        Operation::Store { process, mapping, offset, word, cpu: 0 },
        Operation::Move { process, mapping, offset, pages: 0, mode: 0, batch: 0, policy: 0 },
        Operation::Store { process, mapping, offset, word, cpu: 1 },
        Operation::Load { process, mapping, offset, word, cpu: 0 },
    ];
    let map = Operation::MapAnonymous { process, pages: 0, at: 0, rights: 0 };
    History { small: false, apart: false, operations: [map].into_iter().chain(round.repeat(20)).collect() }
}

fn history(seed: u64, number: u64) -> History {
    let mut random = SmallRng::seed_from_u64(seed << 32 ^ number);
    let mut bytes = [0; 1 + 100 * BYTES];
    let used = 1 + random.random_range(20..=100) * BYTES;
    random.fill(&mut bytes[..used]);
    History::decode(&bytes[..used])
}
