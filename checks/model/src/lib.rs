//! Histories: lists of operations, run on the engine and on a deliberately simple model of it, and compared.
//!
//! Takes bytes or [`Operation`]s; gives what the engine did otherwise than the model, or what of the engine's memory
//! contradicts itself. Promises that every list means something (operations name objects by small numbers, taken modulo what
//! exists), and that a list which fails goes on failing when it is run again. The machine has one thread, so whoever would
//! wait for another one panics, and doesn't hang.
//!
//! The modules, in the order in which a list goes through them: `operation` names what can be done; `resolve` finds
//! the objects and gives a `call`; `model` answers it by the book; `engine` answers it by doing it, on a `machine`
//! that a `sabotage` can break, with a `moody` driver among its objects; `history` compares, and `shrink` makes short what failed.

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
