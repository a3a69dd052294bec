//! Numbers for reverse maps, owners and address spaces, so that a frame can name each in 32 bits. A number is not reused
//! while registered.

use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Weak},
};

use crate::sync::RwLock;

struct Table<T: ?Sized> {
    next: u32,
    entries: BTreeMap<u32, Weak<T>>,
}

/// Numbered weak references; 0 is never a number.
pub struct Registry<T: ?Sized> {
    table: RwLock<Table<T>>,
}

impl<T: ?Sized> Default for Registry<T> {
    fn default() -> Self {
        Self { table: RwLock::new(Table { next: 1, entries: BTreeMap::new() }) }
    }
}

/// A number in a registry; given back when this is dropped.
#[must_use = "the number is given back when this is dropped"]
pub struct Registered<T: ?Sized> {
    registry: Arc<Registry<T>>,
    number: u32,
}

impl<T: ?Sized> Registered<T> {
    /// Gives the number.
    pub fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn registry(&self) -> &Arc<Registry<T>> {
        &self.registry
    }
}

impl<T: ?Sized> Drop for Registered<T> {
    fn drop(&mut self) {
        self.registry.table.write().entries.remove(&self.number);
    }
}

impl<T: ?Sized> Registry<T> {
    /// Gives `holder` a number.
    pub fn add(self: &Arc<Self>, holder: Weak<T>) -> Registered<T> {
        let mut table = self.table.write();
        loop {
            let number = table.next;
            table.next = number.checked_add(1).unwrap_or(1);
            if let Entry::Vacant(entry) = table.entries.entry(number) {
                entry.insert(holder);
                return Registered { registry: self.clone(), number };
            }
        }
    }

    /// Finds the holder of a number, if it still exists.
    pub fn get(&self, number: u32) -> Option<Arc<T>> {
        self.table.read().entries.get(&number)?.upgrade()
    }
}
