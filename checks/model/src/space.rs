//! A process of the model: its mappings, and the pages it has touched. Sorted maps, nothing clever.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    vec::Vec,
};

use pagemove::{
    space::Protection,
    units::{Order, VirtAddr, VirtRange},
};

use crate::call::Backing;

/// A mapping. Once split it stays two, as the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mapping {
    pub(crate) pages: u32,
    pub(crate) rights: Protection,
    pub(crate) backing: Backing,
}

impl Mapping {
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.backing, Backing::Shared { .. })
    }

    /// Tells whether its pages come in by folios of several.
    pub(crate) fn has_large_folios(&self) -> bool {
        self.largest() > Order::ZERO
    }

    fn largest(&self) -> Order {
        match self.backing {
            Backing::Anonymous { orders } => orders.largest(),
            _ => Order::ZERO,
        }
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.rights.contains(Protection::WRITE)
    }

    /// Gives its source from page `offset` on.
    fn backing_at(&self, offset: u32) -> Backing {
        match self.backing {
            Backing::Anonymous { orders } => Backing::Anonymous { orders },
            Backing::Shared { file, first } => Backing::Shared { file, first: first + offset },
            Backing::Private { file, first } => Backing::Private { file, first: first + offset },
        }
    }
}

/// A present page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Touched {
    /// The number of its cell.
    pub(crate) cell: usize,
    /// Stored to, or made writable, since the marks were cleared.
    pub(crate) soft_dirty: bool,
    /// Stored to since the marks were cleared.
    pub(crate) is_stored_to: bool,
    /// Anonymous, and not shared with another process.
    pub(crate) exclusive: bool,
}

/// A process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Space {
    /// By first page.
    pub(crate) mappings: BTreeMap<u32, Mapping>,
    /// By page.
    pub(crate) touched: BTreeMap<u32, Touched>,
    /// All pages ever used: a TLB may have translations of them.
    pub(crate) ever_used: BTreeSet<u32>,
}

/// Gives the address of a page, and of the word in it.
pub(crate) fn address(bounds: VirtRange, page: u32, word: usize) -> VirtAddr {
    VirtAddr::new(bounds.start().up(page).get() + word as u64 * 8).unwrap_or_default()
}

impl Space {
    /// Finds the mapping of a page, with its first page.
    pub(crate) fn find(&self, page: u32) -> Option<(u32, &Mapping)> {
        let (&start, mapping) = self.mappings.range(..=page).next_back()?;
        (page < start + mapping.pages).then_some((start, mapping))
    }

    /// Gives the source of `page`.
    pub(crate) fn backing(&self, page: u32) -> Option<Backing> {
        self.find(page).map(|(start, mapping)| mapping.backing_at(page - start))
    }

    /// Gives the first page of a range that is mapped.
    pub(crate) fn first_mapped(&self, page: u32, pages: u32) -> Option<u32> {
        let reaching_in = self.find(page).map(|_| page);
        reaching_in.or_else(|| self.mappings.range(page..page + pages).next().map(|(&start, _)| start))
    }

    /// Gives the lowest free place for `pages` pages of `mapping`, that lies to its largest folios as page `like` does.
    pub(crate) fn lowest_free(&self, pages: u32, mapping: &Mapping, like: u32) -> u32 {
        let step = mapping.largest().frames();
        let mut page = like % step;
        while self.first_mapped(page, pages).is_some() {
            page += step;
        }
        page
    }

    /// Splits the mapping of `page` there, unless it starts there.
    pub(crate) fn cut(&mut self, page: u32) {
        let Some((start, mapping)) = self.find(page).map(|(start, mapping)| (start, mapping.clone())) else { return };
        let below = page - start;
        if below > 0 {
            let upper = Mapping { pages: mapping.pages - below, backing: mapping.backing_at(below), ..mapping.clone() };
            self.mappings.insert(page, upper);
            self.mappings.insert(start, Mapping { pages: below, ..mapping });
        }
    }

    /// Splits at both ends of a range; gives the first pages of the mappings inside.
    pub(crate) fn isolate(&mut self, page: u32, pages: u32) -> Vec<u32> {
        self.cut(page);
        self.cut(page + pages);
        self.mappings.range(page..page + pages).map(|(&start, _)| start).collect()
    }

    pub(crate) fn unmap(&mut self, page: u32, pages: u32) {
        for start in self.isolate(page, pages) {
            self.mappings.remove(&start);
        }
        self.touched.retain(|at, _| !(page..page + pages).contains(at));
    }
}
