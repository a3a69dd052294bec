//! Numbers for reverse maps and owners, so that a frame names either in 32 bits. A number is not reused while its holder lives.

use alloc::{
    collections::{BTreeMap, btree_map::Entry},
    sync::{Arc, Weak},
};

use crate::sync::RwLock;

struct Table<T: ?Sized> {
    next: u32,
    entries: BTreeMap<u32, Weak<T>>,
}

/// Numbers given to things that others keep alive; 0 is never given.
pub struct Registry<T: ?Sized> {
    table: RwLock<Table<T>>,
}

impl<T: ?Sized> Default for Registry<T> {
    fn default() -> Self {
        Self { table: RwLock::new(Table { next: 1, entries: BTreeMap::new() }) }
    }
}

impl<T: ?Sized> Registry<T> {
    /// Gives `holder` a number, until [`Self::remove`].
    pub fn add(&self, holder: Weak<T>) -> u32 {
        let mut table = self.table.write();
        loop {
            let number = table.next;
            table.next = number.checked_add(1).unwrap_or(1);
            if let Entry::Vacant(entry) = table.entries.entry(number) {
                entry.insert(holder);
                return number;
            }
        }
    }

    /// Takes the number back.
    pub fn remove(&self, number: u32) {
        self.table.write().entries.remove(&number);
    }

    /// Finds who has the number, if he still lives.
    pub fn get(&self, number: u32) -> Option<Arc<T>> {
        self.table.read().entries.get(&number)?.upgrade()
    }
}
