//! Runs a history on engine and model, and compares each answer, and at the end all that is visible, through every TLB.

use alloc::{format, string::String, vec, vec::Vec};
use core::{fmt, mem::ManuallyDrop};

use crate::{
    call::{Address, Answer, Call, TLBS, WORDS},
    compare::compare,
    engine::Engine,
    model::Model,
    operation::{BYTES, Operation},
    sabotage::Sabotage,
    world::World,
};

/// Blocks of the larger machine, where memory rarely runs out, and of the smaller one, where it does.
const BLOCKS: [u32; 2] = [12, 2];

/// A list of operations, and the machine's memory.
#[derive(Clone, PartialEq, Eq)]
pub struct History {
    /// On a machine where memory runs out.
    pub small: bool,
    /// On a machine whose memory is in two parts, far apart.
    pub apart: bool,
    /// The operations.
    pub operations: Vec<Operation>,
}

impl History {
    /// The most operations; a longer list is cut.
    pub const MOST: usize = 256;

    /// Makes a history from any bytes.
    pub fn decode(bytes: &[u8]) -> Self {
        let (&first, rest) = bytes.split_first().unwrap_or((&0, &[]));
        let (chunks, _) = rest.as_chunks::<BYTES>();
        let operations = chunks.iter().take(Self::MOST).map(|&bytes| Operation::decode(bytes)).collect();
        Self { small: first & 1 != 0, apart: first & 2 != 0, operations }
    }

    /// Gives the bytes from which [`History::decode`] makes this history.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.small) | u8::from(self.apart) << 1];
        self.operations.iter().for_each(|operation| bytes.extend(operation.encode()));
        bytes
    }
}

/// As Rust code, to paste into a test.
impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "History {{ small: {}, apart: {}, operations: vec![", self.small, self.apart)?;
        self.operations.iter().try_for_each(|operation| write!(f, "\n    Operation::{operation:?},"))?;
        write!(f, "\n] }}")
    }
}

/// The statistics of a successful history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Summary {
    /// Compared calls.
    pub calls: u64,
    /// Operations without an object.
    pub nothing: u64,
    /// Calls that ran out of memory.
    pub out_of_memory: u64,
    /// Moved pages.
    pub moved: u64,
}

/// A difference between engine and model.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The calls, up to the failing one.
    pub calls: Vec<Call>,
    /// The failure.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, call) in self.calls.iter().enumerate() {
            writeln!(f, "{number:>4}  {call:?}")?;
        }
        write!(f, "after {} calls: {}", self.calls.len(), self.what)
    }
}

/// Runs a history on a machine, with a deliberate fault if there is one; gives its statistics, or the failure.
///
/// # Errors
/// When the engine's answer or visible memory differs from the model's; when it panics, is inconsistent, or loses a
/// frame.
pub fn run_on<W: World>(history: &History, sabotage: Option<Sabotage>) -> Result<Summary, Failure> {
    let mut calls = Vec::new();
    let failed = |what| Failure { calls: Vec::new(), what };
    let world = W::boot(BLOCKS[usize::from(history.small)], history.apart).map_err(failed)?;
    let engine = Engine::new(&world, sabotage).map_err(failed)?;
    // A failed engine is not dropped: that would wait for the frames that a failed move left locked.
    let mut engine = ManuallyDrop::new(engine);
    let outcome = W::caught(|| steps(history, &mut engine, &mut calls));
    let outcome = outcome.and_then(|summary| W::caught(|| ManuallyDrop::into_inner(engine).finish()).map(|()| summary));
    outcome.map_err(|what| Failure { calls, what })
}

fn steps<W: World>(history: &History, engine: &mut Engine<'_, W>, calls: &mut Vec<Call>) -> Result<Summary, String> {
    let mut model = Model::new(engine.bounds());
    let mut summary = Summary::default();
    // Each store has a unique value, so that a wrong one shows.
    for (value, &operation) in (1..).zip(&history.operations) {
        match model.resolve(operation, value) {
            None => summary.nothing += 1,
            Some(call) => step(call, &mut model, engine, calls, &mut summary)?,
        }
    }
    let contents_only = summary.out_of_memory > 0;
    compare(&model, engine, contents_only)?;
    for process in 0..model.processes.len() {
        for page in model.processes[process].ever_used.clone() {
            for (cpu, word) in (0..TLBS).flat_map(|cpu| (0..WORDS.len()).map(move |word| (cpu, word))) {
                let call = Call::Load { at: Address { process, page, word }, cpu };
                step(call, &mut model, engine, calls, &mut summary)?;
                calls.pop();
            }
        }
    }
    summary.moved = engine.moved();
    Ok(summary)
}

fn step<W: World>(
    call: Call,
    model: &mut Model,
    engine: &mut Engine<'_, W>,
    calls: &mut Vec<Call>,
    summary: &mut Summary,
) -> Result<(), String> {
    calls.push(call.clone());
    let found = engine.apply(&call)?;
    if found == Answer::OutOfMemory {
        summary.out_of_memory += 1;
        return Ok(());
    }
    summary.calls += 1;
    let expected = model.apply(&call);
    // The number of clean pages depends on accesses, which are unknown after a call that failed half-way.
    let unknown = summary.out_of_memory > 0 && matches!(call, Call::DropClean { .. });
    if found.is_allowed_for(&expected) || unknown {
        Ok(())
    } else {
        Err(format!("the engine gave {found:?}, the model {expected:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_a_history_and_come_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let history = History::decode(&bytes);
        assert_eq!(history.operations.len(), 31);
        assert_eq!(History::decode(&history.encode()), history);
        assert_eq!(History::decode(&[]), History { small: false, apart: false, operations: Vec::new() });
    }
}
