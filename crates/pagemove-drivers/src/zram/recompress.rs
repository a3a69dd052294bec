//! Compressing again, by another algorithm, what lies idle or is large (Linux: `recompress`).

use super::{
    Zram, ZramError,
    slot::{Flags, RAW, Slot, Stored},
    stats::Count,
};

/// Which pages, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recompress {
    /// Only pages that are idle.
    pub idle: bool,
    /// Only pages that are stored as they are.
    pub huge: bool,
    /// Only pages whose objects have at least so many bytes.
    pub threshold: usize,
    /// The compressor's number, from 1 on.
    pub compressor: usize,
    /// At most so many pages are compressed.
    pub max_pages: u64,
}

impl Recompress {
    /// All pages, by compressor number `compressor`.
    pub fn by(compressor: usize) -> Self {
        Self { idle: false, huge: false, threshold: 0, compressor, max_pages: u64::MAX }
    }
}

/// What a recompression has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Recompressed {
    /// Pages that were compressed.
    pub pages: u64,
    /// Those that take less memory now.
    pub smaller: u64,
    /// The bytes of their objects that are saved.
    pub saved: u64,
}

impl Zram {
    /// Compresses pages again; each stays as it is unless its object then is of a smaller class. Goes on after a page that is damaged, and then
    /// gives that error; ends where memory does.
    pub fn recompress(&self, which: Recompress) -> Result<Recompressed, ZramError> {
        if which.compressor == 0 || which.compressor >= self.compressors.len() {
            return Err(ZramError::NoCompressor(which.compressor));
        }
        let _working = self.begin()?;
        let (mut done, mut result) = (Recompressed::default(), Ok(()));
        for page in 0..self.pages() {
            if done.pages == which.max_pages {
                break;
            }
            match self.recompress_page(page, which, &mut done) {
                Err(error @ ZramError::Corrupt { .. }) => result = Err(error),
                other => other?,
            }
        }
        result.map(|()| done)
    }

    fn recompress_page(&self, page: u32, which: Recompress, done: &mut Recompressed) -> Result<(), ZramError> {
        let wanted = |slot: &Slot| match slot.stored {
            Stored::Object { length, algorithm, .. } => {
                (!which.idle || slot.flags.contains(Flags::IDLE))
                    && (!which.huge || algorithm == RAW)
                    && usize::from(length) >= which.threshold
                    // The same algorithm gives the same.
                    && usize::from(algorithm) != which.compressor
                    && !slot.flags.contains(Flags::INCOMPRESSIBLE)
            }
            _ => false,
        };
        let mut buffers = self.buffers(page)?;
        if !self.begin_work(page, wanted, &mut buffers)? {
            return Ok(());
        }
        let buffers = &mut *buffers;
        done.pages += 1;
        let length = self.compressors[which.compressor].compress(&buffers.page, &mut buffers.room);
        let slot = &self.slots[page as usize];
        let old = slot.lock().object_length();
        let is_smaller = |length: &usize| {
            let size = |length| self.pool.usable_size(length).unwrap_or(usize::MAX);
            *length <= buffers.room.len() && old.is_some_and(|old| size(*length) < size(old))
        };
        let Some(length) = length.filter(is_smaller) else {
            let mut slot = slot.lock();
            // Linux: what none of the algorithms makes smaller isn't tried again.
            if slot.end_work() && which.compressor + 1 == self.compressors.len() {
                slot.flags |= Flags::INCOMPRESSIBLE;
            }
            return Ok(());
        };
        let token = self.object(page, &buffers.room[..length]).inspect_err(|_| {
            slot.lock().end_work();
        })?;
        let new = Stored::Object { token, length: length as u16, algorithm: which.compressor as u8 };
        self.count(&new, Count::add);
        let replaced = {
            let mut slot = slot.lock();
            if slot.end_work() {
                let idle = slot.flags & Flags::IDLE;
                let old = slot.replace(new);
                slot.flags = idle;
                (old, true)
            } else {
                // It was written to, or discarded, meanwhile.
                (new, false)
            }
        };
        if let (Stored::Object { length: old, .. }, true) = &replaced {
            done.smaller += 1;
            done.saved += (usize::from(*old) - length) as u64;
        }
        self.discard_stored(replaced.0);
        Ok(())
    }
}
