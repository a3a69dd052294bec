//! The layout of physical memory: which class of frame stands where.
//!
//! Takes a live kernel, a layout file, or the sample that ships with the command; gives a [`Layout`], zones and runs
//! of classes in the order of their PFN. Promises that every `Layout` is consistent (each is made by
//! [`Layout::new`], which asks [`check`]), so nothing that uses it needs to look for contradictions.
//!
//! The modules, in the order in which they depend on each other: [`class`], [`parts`], [`check`], [`physical`],
//! [`blocks`], [`scale`], [`file`], for a live kernel [`memory_blocks`], [`zoneinfo`], [`kpage`], [`capture`] and [`settle`]; [`source`] chooses between them;
//! [`census`] counts what a layout holds, and [`tables`] and [`picture`] show it. [`fuzz`] feeds any bytes to what reads them.

mod blocks;
pub(crate) mod capture;
pub(crate) mod census;
pub(crate) mod check;
mod class;
pub(crate) mod file;
pub mod fuzz;
#[cfg(test)]
mod file_tests;
mod kpage;
pub(crate) mod memory_blocks;
mod parts;
mod physical;
pub(crate) mod picture;
pub(crate) mod plan;
mod scale;
pub(crate) mod settle;
mod source;
pub(crate) mod tables;
mod zoneinfo;

pub(crate) use blocks::{Block, Group};
pub(crate) use check::LayoutError;
pub(crate) use class::FrameClass;
pub(crate) use parts::{Owned, Run, Sizes, Zone};
pub(crate) use physical::Layout;
pub(crate) use source::{LayoutSource, SourceError};
