//! Moving what lies idle, or is large, to the backing store (Linux: `writeback`).

use super::{
    Zram, ZramError,
    slot::{Flags, Slot, Stored},
    stats::Count,
};

/// Which pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writeback {
    /// Only pages that are idle.
    pub idle: bool,
    /// Only pages that are stored as they are.
    pub huge: bool,
    /// Only pages that were compressed again in vain.
    pub incompressible: bool,
    /// At most so many.
    pub max_pages: u64,
}

impl Writeback {
    /// Those that are idle.
    pub const IDLE: Self = Self { idle: true, huge: false, incompressible: false, max_pages: u64::MAX };

    /// Those that are stored as they are.
    pub const HUGE: Self = Self { idle: false, huge: true, incompressible: false, max_pages: u64::MAX };
}

/// What a writeback has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct WrittenBack {
    /// Pages that are in the backing store now.
    pub pages: u64,
    /// The store is full: not all that were wanted.
    pub is_full: bool,
}

impl Zram {
    /// Writes pages to the backing store, and frees their objects. Ends when the store is full; goes on after a page that is damaged or can't be
    /// written, which stays as it is, and then gives that error.
    pub fn write_back(&self, which: Writeback) -> Result<WrittenBack, ZramError> {
        let backing = self.backing.as_ref().ok_or(ZramError::NoBacking)?;
        let _working = self.begin()?;
        let (mut done, mut result) = (WrittenBack::default(), Ok(()));
        let wanted = |slot: &Slot| {
            matches!(slot.stored, Stored::Object { .. })
                && (!which.idle || slot.flags.contains(Flags::IDLE))
                && (!which.huge || slot.is_huge())
                && (!which.incompressible || slot.flags.contains(Flags::INCOMPRESSIBLE))
        };
        for page in 0..self.pages() {
            if done.pages == which.max_pages {
                break;
            }
            let mut buffers = self.buffers(page)?;
            match self.begin_work(page, wanted, &mut buffers) {
                Ok(true) => (),
                Ok(false) => continue,
                Err(error) => {
                    result = Err(error);
                    continue;
                }
            }
            let slot = &self.slots[page as usize];
            let Some(block) = backing.take() else {
                slot.lock().end_work();
                done.is_full = true;
                break;
            };
            if let Err(cause) = backing.store.write(block, &buffers.page) {
                slot.lock().end_work();
                backing.give_back(block);
                result = Err(ZramError::Backing { page, cause });
                continue;
            }
            self.counts.backing_writes.add(1);
            let new = Stored::Backed(block);
            self.count(&new, Count::add);
            let mut locked = slot.lock();
            let is_unchanged = locked.end_work();
            // If it was written to, or discarded, meanwhile, the block isn't needed.
            let left = if is_unchanged { locked.replace(new) } else { new };
            drop(locked);
            done.pages += u64::from(is_unchanged);
            self.discard_stored(left);
        }
        result.map(|()| done)
    }
}
