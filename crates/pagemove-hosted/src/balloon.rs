//! The host's side of a balloon: this program gives the memory of ballooned pages back to its own host.
//!
//! `unsafe`: memory that is given back loses its contents.
#![allow(unsafe_code)]

use pagemove::units::PAGE_SIZE;
use pagemove_drivers::balloon::{BalloonHost, BalloonPages, HostRefused};

use crate::Hosted;

impl BalloonHost for Hosted {
    fn inflate(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
        // A balloon may be of another machine's engine.
        if pages.physical().ram() != self.ram() {
            return Err(HostRefused);
        }
        for range in pages.ranges() {
            let offset = (range.start.get() - self.frames().start.get()) as usize * PAGE_SIZE;
            // SAFETY: a balloon's pages, by their type, and of this machine's RAM: nobody uses them.
            unsafe { self.area().remove(offset, range.frames as usize * PAGE_SIZE) }.map_err(|_| HostRefused)?;
        }
        Ok(())
    }

    /// The host allocates them again at their first use.
    fn deflate(&self, _: BalloonPages<'_>) {}

    fn report(&self, pages: BalloonPages<'_>) -> Result<(), HostRefused> {
        self.inflate(pages)
    }
}
