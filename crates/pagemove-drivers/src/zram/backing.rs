//! The backing store, which the caller gives, and which of its blocks are used.

use alloc::{sync::Arc, vec::Vec};

use pagemove::sync::Mutex;

use super::Page;

/// It couldn't be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the backing store failed")]
pub struct BackingError;

/// Blocks of a page each. Called without a lock; may sleep.
pub trait BackingStore: Send + Sync {
    /// Gives the number of blocks; called once.
    fn blocks(&self) -> u32;

    /// Reads a block.
    fn read(&self, block: u32, page: &mut Page) -> Result<(), BackingError>;

    /// Writes a block.
    fn write(&self, block: u32, page: &Page) -> Result<(), BackingError>;
}

/// A store and its free blocks.
pub(super) struct Backing {
    pub(super) store: Arc<dyn BackingStore>,
    count: u32,
    blocks: Mutex<Blocks>,
}

#[derive(Default)]
struct Blocks {
    /// From here on none has been used.
    unused: u32,
    free: Vec<u32>,
    /// Freed while they are read.
    later: Vec<u32>,
    /// Being read, each as often as it is.
    read: Vec<u32>,
}

impl Backing {
    pub(super) fn new(store: Arc<dyn BackingStore>) -> Self {
        Self { count: store.blocks(), store, blocks: Mutex::default() }
    }

    /// Takes a block; `None` if the store is full, or there is no memory for the lists.
    pub(super) fn take(&self) -> Option<u32> {
        let mut blocks = self.blocks.lock();
        if let Some(block) = blocks.free.pop() {
            return Some(block);
        }
        let block = blocks.unused;
        // For all in use, so that giving back needs no memory.
        let most = block as usize + 1;
        let Blocks { free, later, .. } = &mut *blocks;
        for list in [free, later] {
            list.try_reserve(most - list.len()).ok()?;
        }
        (block < self.count).then(|| {
            blocks.unused += 1;
            block
        })
    }

    pub(super) fn give_back(&self, block: u32) {
        let mut blocks = self.blocks.lock();
        if blocks.read.contains(&block) {
            blocks.later.push(block);
        } else {
            blocks.free.push(block);
        }
    }

    /// Says that a block is about to be read. Called under the lock of the slot that has it; until the result is dropped the block isn't used
    /// again. `None` without memory.
    pub(super) fn begin_read(&self, block: u32) -> Option<Reading<'_>> {
        let mut blocks = self.blocks.lock();
        blocks.read.try_reserve(1).ok()?;
        blocks.read.push(block);
        Some(Reading { backing: self, block })
    }
}

/// A read of a block.
pub(super) struct Reading<'b> {
    backing: &'b Backing,
    block: u32,
}

impl Reading<'_> {
    pub(super) fn read(&self, page: &mut Page) -> Result<(), BackingError> {
        self.backing.store.read(self.block, page)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let mut blocks = self.backing.blocks.lock();
        if let Some(at) = blocks.read.iter().position(|block| *block == self.block) {
            blocks.read.swap_remove(at);
        }
        if !blocks.read.contains(&self.block)
            && let Some(at) = blocks.later.iter().position(|block| *block == self.block)
        {
            blocks.later.swap_remove(at);
            blocks.free.push(self.block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing(u32);

    impl BackingStore for Nothing {
        fn blocks(&self) -> u32 {
            self.0
        }

        fn read(&self, _: u32, _: &mut Page) -> Result<(), BackingError> {
            Err(BackingError)
        }

        fn write(&self, _: u32, _: &Page) -> Result<(), BackingError> {
            Err(BackingError)
        }
    }

    #[test]
    fn a_block_is_not_used_again_while_it_may_be_read() {
        let backing = Backing::new(Arc::new(Nothing(2)));
        assert_eq!((backing.take(), backing.take(), backing.take()), (Some(0), Some(1), None));
        let [first, second] = [(); 2].map(|()| backing.begin_read(1).expect("memory"));
        backing.give_back(1);
        assert_eq!(backing.take(), None);
        drop(first);
        assert_eq!(backing.take(), None);
        // Another one is free at once.
        backing.give_back(0);
        assert_eq!((backing.take(), backing.take()), (Some(0), None));
        drop(second);
        assert_eq!((backing.take(), backing.take()), (Some(1), None));
    }
}
