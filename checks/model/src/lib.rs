//! Histories: lists of operations, run on the engine and on a deliberately simple model of it, and compared.
//!
//! Takes bytes or [`Operation`]s; reports where the engine differs from the model, or its memory is inconsistent. Every
//! list is valid: operations name objects by small numbers, modulo the number that exists. A list that fails once
//! always fails.
//!
//! The modules, in the order of use: `operation` defines the operations; `resolve` finds their objects, and makes a
//! `call`; `model` computes the expected answer; `engine` makes the call, on a `world` that a `sabotage` can break,
//! with a `moody` driver, which can refuse moves, and a compressed `store`; `history` compares, and `shrink` shortens a failing list. `hosted` is the hosted
//! machine: it has one thread, so a wait panics instead of hanging. A kernel brings its own world.
#![no_std]

extern crate alloc;
#[cfg(feature = "hosted")]
#[macro_use]
extern crate std;

mod call;
mod compare;
mod engine;
mod history;
#[cfg(feature = "hosted")]
mod hosted;
mod model;
mod moody;
mod operation;
mod resolve;
mod sabotage;
mod shrink;
mod space;
mod store;
mod world;

pub use call::{Address, Answer, Call};
pub use history::{Failure, History, Summary, run_on};
#[cfg(feature = "hosted")]
pub use hosted::{run, run_sabotaged};
pub use operation::{BYTES, Operation};
pub use sabotage::Sabotage;
pub use shrink::shrink;
pub use world::{Failed, Process, World};
