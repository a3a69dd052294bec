//! What a driver may rely on: the contract that the engine keeps as well, on a stock kernel.
//!
//! Takes the driver freshly loaded; gives facts, as all tests do. Promises what `rules` does, and that a move that comes to
//! nothing is counted at its open: `refused` if the driver said so, `busy` if it wasn't asked.

use crate::device::{Device, opens_of};
use crate::machine::frames;
use crate::sys::{self, Map, Pipe, SHARED};
use crate::verdict::Outcome;

#[path = "../../sample/tests/contract/rules.rs"]
mod rules;

use rules::{Came, Hold, Holder, Home, RULES, Result};

/// Pages of an open.
const PAGES: usize = 16;

/// How often the kernel is asked to try a move: a page that is on its way to a list isn't looked at.
const TRIES: usize = 200;

struct Guest {
    device: Device,
    map: Map,
}

impl Guest {
    /// What the list of opens has counted.
    fn listed(&self, what: &str) -> Result<u64> {
        let lines = opens_of(std::process::id())?;
        let count = lines.first().and_then(|line| line.split(what).nth(1)?.split(' ').next()?.parse().ok());
        count.ok_or_else(|| format!("no {what} in {lines:?}").into())
    }
}

impl Home for Guest {
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

    fn ask(&self, page: u64) -> Result<Came> {
        let pages = [page as usize];
        for _ in 0..TRIES {
            let before = (self.frame(page)?, self.listed(" refused=")?, self.listed(" busy=")?);
            let node = sys::nodes_of(&self.map, &pages)?[0];
            sys::move_pages(&self.map, &pages, 1 - node)?;
            if self.frame(page)? != before.0 {
                return Ok(Came::Moved);
            } else if self.listed(" refused=")? > before.1 {
                return Ok(Came::Refused);
            } else if self.listed(" busy=")? > before.2 {
                return Ok(Came::Busy);
            }
        }
        Err("the kernel has tried no move, or the open doesn't count them".into())
    }

    /// A guard ends with the call that it's taken in, so no test can have one here. A pin is the same reference.
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
