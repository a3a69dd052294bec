// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! The contract of `rules`, on the engine: each rule in each mode, with the page mapped and not.

use std::sync::Arc;

use pagemove::migrate::Mode;
use pagemove::report::Reason;
use pagemove::units::{Pfn, VirtRange};
use pagemove_hosted::{Process, TlbKind};
use pagemove_kit::{Absent, Store};
use pagemove_kit_hosted::{Held, Host, Open, Outcome, User};
use pagemove_sample::driver::Buffer;
use pagemove_sample::uapi::FIRST_PAGES;

mod rules;

use rules::{Hold, Holder, MoveOutcome, Platform, RULES, Result};

struct Engine {
    host: Host,
    open: Arc<Open<Buffer<Held>>>,
    mode: Mode,
    // A process that maps the pages. Without one, the driver's `read` and `write` access them.
    mapping: Option<(Process, VirtRange)>,
}

impl Engine {
    fn new(mode: Mode, mapped: bool) -> Self {
        let host = Host::new(TlbKind::Soft, 4);
        let open = host.open().expect("opens");
        let process = mapped.then(|| host.process());
        let mapping = process.map(|process| {
            let range = host.map(&process, &open, FIRST_PAGES as u32);
            (process, range)
        });
        Self { host, open, mode, mapping }
    }
}

impl Platform for Engine {
    fn call(&self, command: u32, argument: &mut [u8]) -> Result<()> {
        self.open.ioctl(command, argument).map(drop).map_err(|errno| format!("{errno:?}").into())
    }

    fn load(&self, page: u64) -> Result<u64> {
        if let Some((process, range)) = &self.mapping {
            return process.load(range.start().up(page as u32)).map_err(|error| format!("{error:?}").into());
        }
        let mut user = User::new(vec![0; 8]);
        self.open.read(page * 4096, &mut user).map_err(|errno| format!("{errno:?}"))?;
        Ok(u64::from_ne_bytes(user.bytes.as_slice().try_into()?))
    }

    fn store(&self, page: u64, word: u64) -> Result<()> {
        if let Some((process, range)) = &self.mapping {
            return process.store(range.start().up(page as u32), word).map_err(|error| format!("{error:?}").into());
        }
        let mut user = User::new(word.to_ne_bytes().to_vec());
        self.open.write(page * 4096, &mut user).map(drop).map_err(|errno| format!("{errno:?}").into())
    }

    fn frame(&self, page: u64) -> Result<u64> {
        self.open.pages().pfn(page).ok_or_else(|| "there is no such page".into())
    }

    fn request_move(&self, page: u64) -> Result<MoveOutcome> {
        match self.open.move_page(page, self.mode) {
            Outcome::Moved => Ok(MoveOutcome::Moved),
            Outcome::Stayed(Reason::Pinned | Reason::Referenced) => Ok(MoveOutcome::Busy),
            Outcome::Stayed(Reason::Refused | Reason::Retry) => Ok(MoveOutcome::Refused),
            other => Err(format!("{other:?}").into()),
        }
    }

    fn hold(&self, holder: Holder, page: u64) -> Result<Option<Box<dyn Hold + '_>>> {
        if holder == Holder::Guard {
            let guard = self.open.pages().page(page, Absent::Fail).map_err(|errno| format!("{errno:?}"))?;
            return Ok(Some(Box::new(guard)));
        }
        let pfn = Pfn::new(self.frame(page)?);
        let reference = self.host.engine().physical().get(pfn).ok_or("the page gives no reference")?;
        Ok(Some(Box::new(reference)))
    }
}

#[test]
fn the_engine_keeps_the_contract() {
    for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
        for mapped in [false, true] {
            for (name, rule) in RULES {
                let platform = Engine::new(mode, mapped);
                rule(&platform).unwrap_or_else(|why| panic!("{name}, {mode:?}, mapped: {mapped}: {why}"));
                platform.host.engine().physical().validate().expect("all counts are right");
            }
        }
    }
}
