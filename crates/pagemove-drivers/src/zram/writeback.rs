//! Moving what lies idle, or is large, to the backing store (Linux: `writeback`).

use super::{
    Zram, ZramError,
    slot::{Flags, Slot, Stored},
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
            (!which.idle || slot.flags.contains(Flags::IDLE))
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
            let Some(block) = backing.take() else {
                self.end_work(page, Flags::empty());
                done.is_full = true;
                break;
            };
            if let Err(cause) = backing.store.write(block, &buffers.page) {
                self.end_work(page, Flags::empty());
                backing.give_back(block);
                result = Err(ZramError::Backing { page, cause });
                continue;
            }
            self.counts.backing_writes.add(1);
            done.pages += u64::from(self.end_work_with(page, Stored::Backed(block), Flags::empty()));
        }
        result.map(|()| done)
    }
}
