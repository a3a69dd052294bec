//! Buffers for the calls that are under way: as many as there ever were at once.

use alloc::{boxed::Box, vec::Vec};
use core::ops::{Deref, DerefMut};

use pagemove::{sync::Mutex, units::PAGE_SIZE};

use super::{Page, Room};

/// A call's buffers.
pub(super) struct Buffers {
    pub(super) page: Box<Page>,
    pub(super) room: Box<Room>,
}

/// All that aren't used.
#[derive(Default)]
pub(super) struct Scratch(Mutex<Vec<Buffers>>);

impl Scratch {
    /// Takes buffers, or makes them; `None` without memory. Dropping gives them back.
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        let kept = self.0.lock().pop();
        let buffers = match kept {
            Some(buffers) => buffers,
            None => Buffers { page: zeros::<PAGE_SIZE>()?, room: zeros::<{ 2 * PAGE_SIZE }>()? },
        };
        Some(Taken { of: self, buffers: Some(buffers) })
    }
}

/// Makes an array on the heap.
fn zeros<const N: usize>() -> Option<Box<[u8; N]>> {
    let mut bytes = Vec::new();
    bytes.try_reserve_exact(N).ok()?;
    bytes.resize(N, 0);
    bytes.into_boxed_slice().try_into().ok()
}

/// Buffers in use.
pub(super) struct Taken<'s> {
    of: &'s Scratch,
    buffers: Option<Buffers>,
}

impl Deref for Taken<'_> {
    type Target = Buffers;

    fn deref(&self) -> &Buffers {
        self.buffers.as_ref().expect("there until they are dropped")
    }
}

impl DerefMut for Taken<'_> {
    fn deref_mut(&mut self) -> &mut Buffers {
        self.buffers.as_mut().expect("there until they are dropped")
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        let mut kept = self.of.0.lock();
        // Without memory they are not kept.
        if kept.try_reserve(1).is_ok() {
            kept.extend(self.buffers.take());
        }
    }
}
