//! What a pool has.

use alloc::vec::Vec;

use pagemove::units::PAGE_SIZE;

use super::{Pool, SizeClass, zspages::GROUPS};

/// A class's figures (Linux: a line of `zsmalloc/<pool>/classes`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassStats {
    /// The class.
    pub class: SizeClass,
    /// Zspages by how full they are: empty, ten by tenths, full.
    pub zspages: [u32; GROUPS],
    /// Objects that there is room for.
    pub capacity: u64,
    /// Objects in use.
    pub used: u64,
    /// Pages.
    pub pages: u64,
    /// Pages that a compaction could free.
    pub compactable: u64,
}

/// A pool's figures.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct PoolStats {
    /// Objects in use.
    pub objects: u64,
    /// Pages.
    pub pages: u64,
    /// Bytes of the pool's own tables: handles, lists of objects, cells.
    pub metadata: u64,
}

impl PoolStats {
    /// Gives the bytes of all pages (zram: `mem_used_total`).
    pub fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE as u64
    }
}

impl Pool {
    /// Gives the figures of all classes, from the smallest on. Each class's are of one moment.
    pub fn classes(&self) -> Vec<ClassStats> {
        let stats = self.inner.classes.iter().map(|class| {
            let state = class.state.lock();
            let (count, pages) = (state.zspages.count(), u64::from(class.size.pages));
            ClassStats {
                class: class.size,
                zspages: state.zspages.lengths(),
                capacity: count * u64::from(class.size.objects),
                used: state.zspages.used(),
                pages: count * pages,
                compactable: state.zspages.surplus() * pages,
            }
        });
        stats.collect()
    }

    /// Gives the pool's figures.
    pub fn stats(&self) -> PoolStats {
        let mut stats = PoolStats {
            metadata: (self.inner.handles.bytes() + self.inner.pages.bytes()) as u64,
            ..PoolStats::default()
        };
        for class in &self.inner.classes {
            let state = class.state.lock();
            stats.objects += state.zspages.used();
            stats.pages += state.zspages.count() * u64::from(class.size.pages);
            stats.metadata += (state.zspages.bytes() + state.slabs.capacity() * size_of::<u32>()) as u64;
        }
        stats
    }
}
