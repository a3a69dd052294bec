//! Histories: lists of operations, run on the engine and on a deliberately simple model of it, and compared.
//!
//! Takes bytes or [`Operation`]s; reports where the engine differs from the model, or its memory is inconsistent. Every
//! list is valid: operations name objects by small numbers, modulo the number that exists. A list that fails once
//! always fails. The machine has one thread, so a wait panics instead of hanging.
//!
//! The modules, in the order of use: `operation` defines the operations; `resolve` finds their objects, and makes a
//! `call`; `model` computes the expected answer; `engine` makes the call, on a `machine` that a `sabotage` can break,
//! with a `moody` driver, which can refuse moves; `history` compares, and `shrink` shortens a failing list.

mod call;
mod compare;
mod engine;
mod history;
mod machine;
mod model;
mod moody;
mod operation;
mod resolve;
mod sabotage;
mod shrink;
mod space;

pub use call::{Address, Answer, Call};
pub use history::{Failure, History, Summary, run, run_sabotaged};
pub use operation::{BYTES, Operation};
pub use sabotage::Sabotage;
pub use shrink::shrink;
