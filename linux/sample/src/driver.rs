// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The sample driver: a character device. Each open has a buffer to map, read and write.
//!
//! Serves the ioctls of `uapi`. All pages but pinned ones can move while mapped. A table holds the frame of each
//! watched page, as a device that reads memory by itself would need. The table is correct whenever the page isn't being
//! moved.

use core::sync::atomic::{AtomicU64, Ordering};

use kit::{
    Absent, Driver, Errno, IsolatedFolio, Migration, Moves, Page, Pins, Refusal, Store, UserMemory, copy_in, copy_out,
};

use crate::uapi::{self, Counts, Listed, Named, One, Policy, Range, WATCHED, Watched};

/// An open. `H` is a held page.
pub struct Buffer<H> {
    pins: Pins<H, { uapi::MOST_PINS }>,
}

/// The state that moves share with the open.
///
/// All accesses are relaxed: counters order nothing. Table entries are read only with the page held, and the page's
/// lock orders earlier writes.
#[derive(Debug)]
pub struct Device {
    /// The frame of each watched page; 0 if it isn't watched.
    table: [AtomicU64; WATCHED],
    policy: AtomicU64,
    asked: AtomicU64,
    refused: AtomicU64,
    moved: AtomicU64,
    over: AtomicU64,
}

impl Default for Device {
    fn default() -> Self {
        Self {
            table: [const { AtomicU64::new(0) }; WATCHED],
            policy: AtomicU64::new(Policy::Allow as u64),
            asked: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            moved: AtomicU64::new(0),
            over: AtomicU64::new(0),
        }
    }
}

impl Moves for Device {
    fn isolate(&self, _: IsolatedFolio) -> Result<(), Refusal> {
        let odd = self.asked.fetch_add(1, Ordering::Relaxed) % 2 == 1;
        let policy = self.policy.load(Ordering::Relaxed);
        let refusal = if policy == Policy::Refuse as u64 {
            Refusal::No
        } else if policy == Policy::Retry as u64 && !odd {
            Refusal::Retry
        } else {
            return Ok(());
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(refusal)
    }

    fn migrate(&self, folio: Migration) {
        self.moved.fetch_add(1, Ordering::Relaxed);
        if let Some(entry) = self.entry(folio.index) {
            // Only if the entry still names this frame: `forget` may have cleared it during the move.
            let _ = entry.compare_exchange(folio.src, folio.dst, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    fn putback(&self, _: IsolatedFolio) {
        self.over.fetch_add(1, Ordering::Relaxed);
    }
}

impl Device {
    fn entry(&self, index: u64) -> Option<&AtomicU64> {
        self.table.get(usize::try_from(index).ok()?)
    }
}

impl<S: Store> Driver<S> for Buffer<S::Held> {
    const NAME: &'static core::ffi::CStr = uapi::DEVICE;
    type Moves = Device;

    fn open(pages: &S) -> Result<(Self, Device), Errno> {
        pages.resize(uapi::FIRST_PAGES);
        Ok((Self { pins: Pins::default() }, Device::default()))
    }

    fn read(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        copy_out(pages, at, user)
    }

    fn write(&mut self, pages: &S, at: u64, user: &mut impl UserMemory) -> Result<usize, Errno> {
        copy_in(pages, at, user)
    }

    fn ioctl(&mut self, pages: &S, device: &Device, command: u32, argument: &mut [u8]) -> Result<u32, Errno> {
        let invalid = Errno::EINVAL;
        match command {
            uapi::RESIZE => {
                let size = One::from_bytes(argument).ok_or(invalid)?.number;
                if size > uapi::MOST_PAGES {
                    return Err(invalid);
                }
                let cut = pages.len().saturating_sub(size);
                self.forget(device, Range { first: size, pages: cut });
                pages.resize(size);
            }
            uapi::FREE => {
                let range = checked(pages, Range::from_bytes(argument).ok_or(invalid)?)?;
                self.forget(device, range);
                pages.free(range.first, range.pages);
            }
            uapi::FILL => {
                let range = checked(pages, Range::from_bytes(argument).ok_or(invalid)?)?;
                for index in range.first..range.first + range.pages {
                    pages.page(index, Absent::Create)?;
                }
            }
            uapi::COUNT => {
                // In this order, so that a move under way never counts as failed.
                let over = device.over.load(Ordering::Relaxed);
                let moved = device.moved.load(Ordering::Relaxed);
                let counts = Counts {
                    size: pages.len(),
                    pages: pages.count(),
                    pins: self.pins.iter().count() as u64,
                    asked: device.asked.load(Ordering::Relaxed),
                    moved,
                    over,
                    failed: over.saturating_sub(moved),
                    refused: device.refused.load(Ordering::Relaxed),
                };
                answer(argument, &counts.to_bytes())?;
            }
            uapi::PIN => {
                let named = Named::from_bytes(argument).ok_or(invalid)?;
                self.pins.pin(pages, named.index, trimmed(&named.name))?;
            }
            uapi::UNPIN => {
                let named = Named::from_bytes(argument).ok_or(invalid)?;
                self.pins.unpin(named.index, trimmed(&named.name))?;
            }
            uapi::LIST => {
                let asked = Listed::from_bytes(argument).ok_or(invalid)?;
                let place = usize::try_from(asked.place).map_err(|_| Errno::ENOENT)?;
                let pin = self.pins.iter().nth(place).ok_or(Errno::ENOENT)?;
                let listed = Listed {
                    place: asked.place,
                    index: pin.index,
                    since_ns: pin.since_ns,
                    pid: pin.by.pid.into(),
                    by: pin.by.name,
                    name: pin.name,
                };
                answer(argument, &listed.to_bytes())?;
            }
            uapi::POLICY => {
                let policy = One::from_bytes(argument).ok_or(invalid)?.number;
                if policy > Policy::Retry as u64 {
                    return Err(invalid);
                }
                // Otherwise any process could keep any number of pages from moving.
                if !pages.caller_is_administrator() {
                    return Err(Errno::EPERM);
                }
                device.policy.store(policy, Ordering::Relaxed);
            }
            uapi::WATCH => {
                let index = One::from_bytes(argument).ok_or(invalid)?.number;
                let entry = device.entry(index).ok_or(Errno::ENXIO)?;
                // The guard keeps the page from moving, so the recorded frame is correct when it is dropped.
                let page = pages.page(index, Absent::Create)?;
                entry.store(page.pfn(), Ordering::Relaxed);
            }
            uapi::LOOK => {
                let index = Watched::from_bytes(argument).ok_or(invalid)?.index;
                let entry = device.entry(index).ok_or(Errno::ENXIO)?;
                let _stays = pages.page(index, Absent::Fail)?;
                answer(argument, &Watched { index, pfn: entry.load(Ordering::Relaxed) }.to_bytes())?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
}

impl<H: Page> Buffer<H> {
    /// Removes pages about to be freed from the device's table. Pins stay, since the device may still write there.
    fn forget(&self, device: &Device, range: Range) {
        for (index, entry) in (0u64..).zip(&device.table) {
            if index >= range.first && index - range.first < range.pages {
                entry.store(0, Ordering::Relaxed);
            }
        }
    }
}

/// Checks that a range is within the buffer; `EINVAL` otherwise.
fn checked(pages: &impl Store, range: Range) -> Result<Range, Errno> {
    match range.first.checked_add(range.pages) {
        Some(end) if end <= pages.len() => Ok(range),
        _ => Err(Errno::EINVAL),
    }
}

fn answer(argument: &mut [u8], bytes: &[u8]) -> Result<(), Errno> {
    if argument.len() != bytes.len() {
        return Err(Errno::EINVAL);
    }
    argument.copy_from_slice(bytes);
    Ok(())
}

fn trimmed(name: &[u8]) -> &[u8] {
    name.split(|&byte| byte == 0).next().unwrap_or(name)
}
