//! Compressing again, by another algorithm, what lies idle or is large (Linux: `recompress`).

use super::{
    Zram, ZramError,
    slot::{Flags, RAW, Slot, Stored},
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
        let mut old = 0;
        let wanted = |slot: &Slot| match slot.stored {
            Stored::Object { length, algorithm, .. } => {
                old = usize::from(length);
                (!which.idle || slot.flags.contains(Flags::IDLE))
                    && (!which.huge || algorithm == RAW)
                    && old >= which.threshold
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
        let length = self
            .compress(page, which.compressor, &buffers.page, &mut buffers.room)
            .inspect_err(|_| self.end_work(page, Flags::empty()))?;
        let size = |length| self.pool.usable_size(length);
        let Some(length) = length.filter(|&length| size(length).is_some_and(|new| size(old) > Some(new))) else {
            // Linux: what none of the algorithms makes smaller isn't tried again.
            let is_last = which.compressor + 1 == self.compressors.len();
            self.end_work(page, if is_last { Flags::INCOMPRESSIBLE } else { Flags::empty() });
            return Ok(());
        };
        let token = self.object(page, &buffers.room[..length]).inspect_err(|_| self.end_work(page, Flags::empty()))?;
        let new = Stored::Object { token, length: length as u16, algorithm: which.compressor as u8 };
        if self.end_work_with(page, new, Flags::IDLE) {
            done.smaller += 1;
            done.saved += (old - length) as u64;
        }
        Ok(())
    }
}
