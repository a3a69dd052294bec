//! An allocator for objects of up to a page, packed densely into pages that all move: for compressed memory (Linux: zsmalloc).
//!
//! | file | does |
//! | --- | --- |
//! | `class` | size classes: which sizes, and how many pages a zspage has |
//! | `zspages` | which objects of a class's zspages are free, and lists by how full they are |
//! | `handle` | handles: where each object is |
//! | `pages` | the pages, and the owner's part of a move |
//! | `pool` | the pool: allocating and freeing |
//! | `object` | objects: owning values, and the guards by which they are read and written |
//! | `compact` | moving objects together, so that zspages become empty |
//! | `stats` | what a pool has |
//!
//! # Protocol
//! *Pages move without a lock.* A page's token is in a cell. A reader takes a reference to the one or two pages of its object and then reads
//! the handle again, so it has the object's place or tries anew; while it has them they don't move, however long it sleeps. A move freezes a page,
//! copies it and exchanges the token: only readers of that page wait, as long as that takes. (Linux stops all readers of the pool.)
//!
//! *Objects move under their class's lock* (`compact`), with their pages frozen, so without readers. Handles of objects are owned values, so
//! freeing needs no readers either.
//!
//! *What is free is known outside of the pages*: allocating and freeing touch no page, so they never wait for a move. A page that is moving when
//! its zspage becomes empty is freed later, or used again.
//!
//! Lock order: class, then folios (only tried), then tables that grow. Callbacks take no lock.

mod class;
mod compact;
mod handle;
mod object;
mod pages;
mod pool;
mod stats;
mod zspages;

pub use class::SizeClass;
pub use compact::Compacted;
pub use object::{Moving, Object, ObjectToken, ReadGuard, WriteGuard};
pub use pool::{Options, Pool, StoreError};
pub use stats::{ClassStats, PoolStats};
