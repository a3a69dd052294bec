//! The driver's contract on a stock kernel: the rules that also run on the engine.
//!
//! A failed move is also counted at its open: `refused` if the driver refused, `busy` if it wasn't asked.

use crate::device::{Device, opens_of};
use crate::machine::frames;
use crate::sys::{self, Map, Pipe, SHARED};
use crate::verdict::Outcome;

#[path = "../../sample/tests/contract/rules.rs"]
mod rules;

use rules::{Hold, Holder, MoveOutcome, Platform, RULES, Result};

/// The size of an open in pages.
const PAGES: usize = 16;

/// How often to ask the kernel for a move: it skips a page on its way to an LRU list.
const TRIES: usize = 200;

struct Guest {
    device: Device,
    map: Map,
}

impl Guest {
    /// A counter in the list of opens.
    fn listed(&self, what: &str) -> Result<u64> {
        let lines = opens_of(std::process::id())?;
        let count = lines.first().and_then(|line| line.split(what).nth(1)?.split(' ').next()?.parse().ok());
        count.ok_or_else(|| format!("no {what} in {lines:?}").into())
    }
}

impl Platform for Guest {
    fn call(&self, command: u32, argument: &mut [u8]) -> Result<()> {
        Ok(self.device.call(command, argument).map(drop)?)
    }

    fn load(&self, page: u64) -> Result<u64> {
        Ok(self.map.load(page as usize, 0))
    }

    fn store(&self, page: u64, word: u64) -> Result<()> {
        self.map.store(page as usize, 0, word);
        Ok(())
    }

    fn frame(&self, page: u64) -> Result<u64> {
        Ok(frames(&self.map)?[page as usize])
    }

    fn request_move(&self, page: u64) -> Result<MoveOutcome> {
        let pages = [page as usize];
        for _ in 0..TRIES {
            let before = (self.frame(page)?, self.listed(" refused=")?, self.listed(" busy=")?);
            let node = sys::nodes_of(&self.map, &pages)?[0];
            sys::move_pages(&self.map, &pages, 1 - node)?;
            if self.frame(page)? != before.0 {
                return Ok(MoveOutcome::Moved);
            } else if self.listed(" refused=")? > before.1 {
                return Ok(MoveOutcome::Refused);
            } else if self.listed(" busy=")? > before.2 {
                return Ok(MoveOutcome::Busy);
            }
        }
        Err("the kernel tried no move, or the open doesn't count moves".into())
    }

    /// A guard ends with its call, so a test can't hold one here. A pin takes the same reference.
    fn hold(&self, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + '_>>> {
        if holder == Holder::Guard {
            return Ok(None);
        }
        let pipe = Pipe::new(1)?;
        self.map.vmsplice(page as usize, &pipe)?;
        Ok(Some(Box::new(pipe)))
    }
}

pub(crate) fn contract() -> Outcome {
    for (name, rule) in RULES {
        let device = Device::open(PAGES as u64)?;
        let map = device.map(0, PAGES, SHARED)?;
        rule(&Guest { device, map }).map_err(|why| format!("{name}: {why}"))?;
    }
    Ok(format!("{} rules, as on the engine", RULES.len()))
}
