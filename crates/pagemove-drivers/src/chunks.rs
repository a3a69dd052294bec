//! A table that grows, and is read without a lock.
//!
//! A tree of three levels, each part of which is made when it's needed. What is in it stays where it is.

use alloc::{boxed::Box, vec::Vec};

use once_cell::race::OnceBox;
use pagemove::sync::Mutex;

/// No memory for the kernel's own data, or the table is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

const MIDDLE: usize = 512;
const ROOT: usize = 2048;

type Leaf<T, const N: usize> = OnceBox<[T; N]>;

/// At most 2^20 leaves of `N` items.
pub(crate) struct Chunks<T, const N: usize> {
    root: OnceBox<[OnceBox<[Leaf<T, N>; MIDDLE]>; ROOT]>,
    items: Mutex<u32>,
}

impl<T, const N: usize> Chunks<T, N> {
    pub(crate) fn new() -> Self {
        Self { root: OnceBox::new(), items: Mutex::new(0) }
    }

    /// Gives an item. `None`: it hasn't been added.
    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        let (leaf, at) = (number as usize / N, number as usize % N);
        let leaf = self.root.get()?.get(leaf / MIDDLE)?.get()?[leaf % MIDDLE].get()?;
        Some(&leaf[at])
    }

    /// Adds an item; gives its number.
    pub(crate) fn add(&self, mut new: impl FnMut() -> T) -> Result<u32, NoRoom> {
        let mut items = self.items.lock();
        let number = *items;
        let leaf = number as usize / N;
        if self.root.get().is_none() {
            let _ = self.root.set(array(OnceBox::new)?);
        }
        let middle = self.root.get().and_then(|root| root.get(leaf / MIDDLE)).ok_or(NoRoom)?;
        if middle.get().is_none() {
            let _ = middle.set(array(OnceBox::new)?);
        }
        let place = &middle.get().ok_or(NoRoom)?[leaf % MIDDLE];
        if place.get().is_none() {
            let _ = place.set(array(&mut new)?);
        }
        *items += 1;
        Ok(number)
    }

    /// Gives the bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        let leaves = (*self.items.lock() as usize).div_ceil(N);
        ROOT * size_of::<usize>()
            + leaves.div_ceil(MIDDLE) * size_of::<[Leaf<T, N>; MIDDLE]>()
            + leaves * size_of::<[T; N]>()
    }
}

/// Makes an array on the heap, or fails.
fn array<T, const N: usize>(new: impl FnMut() -> T) -> Result<Box<[T; N]>, NoRoom> {
    let mut items = Vec::new();
    items.try_reserve_exact(N).map_err(|_| NoRoom)?;
    items.extend(core::iter::repeat_with(new).take(N));
    items.into_boxed_slice().try_into().map_err(|_| NoRoom)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_stay_where_they_are() {
        let chunks = Chunks::<u32, 3>::new();
        assert_eq!(chunks.get(0), None);
        let first = chunks.add(|| 7).expect("memory");
        let place: *const u32 = chunks.get(first).expect("the item");
        for number in 1..5000 {
            assert_eq!(chunks.add(|| 7), Ok(number));
        }
        assert!(core::ptr::eq(place, chunks.get(first).expect("the item")));
        assert_eq!((chunks.get(4999), chunks.get(6000)), (Some(&7), None));
        assert!(chunks.bytes() >= 5000 * 4);
    }
}
