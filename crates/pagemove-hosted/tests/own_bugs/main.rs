//! Bugs that this engine had, each as a test that failed with it. The names tell the fault; each file is one kind.
#[path = "../common/mod.rs"]
mod common;

mod copy_on_write;
mod destination;
mod fork_pinned;
mod isolate;
mod isolation;
mod large_folios;
mod remap;
mod reverse_map;
mod second_reading;
mod starving;

mod third_reading;
mod truncate;
mod waiting;
