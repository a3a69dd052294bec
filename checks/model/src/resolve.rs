//! Finds the objects of an operation among the model's; `None` if there is none.
//!
//! 0 means the simplest (the first mapping, one page, full rights), so that a list shrinks towards that.

use alloc::vec::Vec;

use pagemove::{
    migrate::{Batch, Mode, Options, Policy, Purpose},
    movable::Refusal,
    space::{Orders, Protection},
    units::{HUGE_ORDER, Order},
};

use crate::{
    call::{Address, Backing, Call, Pages, TLBS, WORDS},
    model::{FILE_PAGES, FILES, FIRST_DEVICE, Model},
    moody::{Mood, Step},
    operation::Operation,
    space::Space,
    store,
};

/// Most processes.
const PROCESSES: usize = 4;
/// Most pages that one call pins.
const PINNED: u32 = 4;
/// Numbers below this one let the engine choose the address.
const ANYWHERE: u8 = 96;

impl Model {
    /// Gives the call; a store stores `value`.
    pub(crate) fn resolve(&self, operation: Operation, value: u64) -> Option<Call> {
        let word = |word: u8| usize::from(word) % WORDS.len();
        let file = |file: u8| usize::from(file) % FILES;
        // Also one page after the end.
        let file_page = |page: u8| u32::from(page) % (FILE_PAGES + 1);
        Some(match operation {
            Operation::Load { process, mapping, offset, word: number, cpu } => {
                Call::Load { at: self.address(process, mapping, offset, word(number))?, cpu: usize::from(cpu) % TLBS }
            }
            Operation::Store { process, mapping, offset, word: number, cpu } => {
                let at = self.address(process, mapping, offset, word(number))?;
                Call::Store { at, cpu: usize::from(cpu) % TLBS, value }
            }
            Operation::Fetch { process, mapping, offset } => {
                Call::Fetch { at: self.address(process, mapping, offset, 0)? }
            }
            Operation::MapAnonymous { process, pages, at, rights: allowed } => {
                self.new_mapping(process, length(pages), at, allowed, Backing::Anonymous { orders: Orders::BASE })?
            }
            Operation::MapLarge { process, pages, at, rights: allowed, orders: which } => {
                let orders = orders(which);
                let pages = match orders.largest() {
                    HUGE_ORDER => HUGE_ORDER.frames() + u32::from(pages) % 4 * 200,
                    largest => largest.frames() + u32::from(pages) % 40,
                };
                self.new_mapping(process, pages, at, allowed, Backing::Anonymous { orders })?
            }
            Operation::MapShared { process, pages, at, rights: allowed, file: number, first } => {
                let backing = Backing::Shared { file: file(number), first: file_page(first) };
                self.new_mapping(process, length(pages), at, allowed, backing)?
            }
            Operation::MapPrivate { process, pages, at, rights: allowed, file: number, first } => {
                let backing = Backing::Private { file: file(number), first: file_page(first) };
                self.new_mapping(process, length(pages), at, allowed, backing)?
            }
            Operation::Unmap { process, mapping, offset, pages } => {
                Call::Unmap(self.range(process, mapping, offset, pages)?)
            }
            Operation::Protect { process, mapping, offset, pages, rights: allowed } => {
                Call::Protect { range: self.range(process, mapping, offset, pages)?, rights: rights(allowed) }
            }
            Operation::Remap { process, mapping, offset, pages, new_pages, to } => Call::Remap {
                range: self.range(process, mapping, offset, pages)?,
                pages: length(new_pages),
                to: place(to),
            },
            Operation::Collapse { process, mapping, offset } => {
                let process = self.process(process)?;
                let space = &self.processes[process];
                let (page, mapping) = space.find(page(space, mapping, offset))?;
                mapping.has_large_folios().then_some(Call::Collapse(Pages { process, page, pages: mapping.pages }))?
            }
            Operation::ClearSoftDirty { process } => Call::ClearSoftDirty { process: self.process(process)? },
            Operation::Start {} => (self.processes.len() < PROCESSES).then_some(Call::Start)?,
            Operation::Fork { process } => {
                (self.processes.len() < PROCESSES).then_some(Call::Fork { process: self.process(process)? })?
            }
            Operation::Exit { process } => Call::Exit { process: self.process(process)? },
            Operation::Pin { process, mapping, offset, pages, write } => {
                let range = self.range(process, mapping, offset, pages)?;
                Call::Pin { range: Pages { pages: range.pages.min(PINNED), ..range }, write: write.is_multiple_of(2) }
            }
            Operation::Unpin { pin } => Call::Unpin { pin: usize::from(pin).checked_rem(self.pins.len())? },
            Operation::PinStore { pin, word: number } => {
                let writing: Vec<usize> = (0..self.pins.len()).filter(|&pin| self.pins[pin].write).collect();
                let pin = *writing.get(usize::from(pin).checked_rem(writing.len())?)?;
                Call::PinStore { pin, word: word(number), value }
            }
            Operation::FileLoad { file: number, page, word: place } => {
                Call::FileLoad { file: file(number), page: file_page(page), word: word(place) }
            }
            Operation::FileStore { file: number, page, word: place } => {
                Call::FileStore { file: file(number), page: file_page(page), word: word(place), value }
            }
            Operation::Truncate { file: number, page, pages } => {
                Call::Truncate { file: file(number), page: file_page(page), pages: length(pages) }
            }
            Operation::DropClean { file } => Call::DropClean { file: usize::from(file) % FIRST_DEVICE },
            Operation::Mood { mood: number } => Call::Mood(mood(number)),
            Operation::Move { process, mapping, offset, pages, mode, batch, policy } => {
                let Pages { process, page, pages } = self.range(process, mapping, offset, pages)?;
                let there = self.processes[process].touched.range(page..page + pages);
                let pages = there.map(|(&page, _)| page).collect();
                Call::Move { process, pages, options: options(mode, batch, policy) }
            }
            Operation::MoveAll { mode, batch, policy } => Call::MoveAll(options(mode, batch, policy)),
            Operation::Compact { mode, batch, policy } => Call::Compact(options(mode, batch, policy)),
            Operation::Take { order, frozen } => Call::Take { order: Order::new(order % 10)?, frozen: frozen % 2 == 1 },
            Operation::TakeHuge { mode, batch, policy } => Call::TakeHuge(options(mode, batch, policy)),
            Operation::Give { taken } => Call::Give { taken: usize::from(taken) },
            Operation::Inflate { pages } => Call::Inflate { pages: 4 * u32::from(pages) },
            Operation::Deflate { pages } => Call::Deflate { pages: u32::from(pages) },
            Operation::Drain {} => Call::Drain,
            Operation::ZramWrite { page, pages, contents } => Call::ZramWrite {
                page: slot(page),
                pages: length(pages).min(store::PAGES - slot(page)),
                value: value << 3 | u64::from(contents & 7),
            },
            Operation::ZramRead { page } => Call::ZramRead { page: slot(page) },
            Operation::ZramDiscard { page, pages } => Call::ZramDiscard { page: slot(page), pages: length(pages) },
            Operation::ZramCompact { pages } => Call::ZramCompact { pages: u32::from(pages) },
            Operation::Report { order } => Call::Report { order: Order::new(order % 11)? },
        })
    }

    fn process(&self, number: u8) -> Option<usize> {
        usize::from(number).checked_rem(self.processes.len())
    }

    fn new_mapping(&self, process: u8, pages: u32, at: u8, allowed: u8, backing: Backing) -> Option<Call> {
        Some(Call::Map { process: self.process(process)?, at: place(at), pages, rights: rights(allowed), backing })
    }

    fn address(&self, process: u8, mapping: u8, offset: u8, word: usize) -> Option<Address> {
        let process = self.process(process)?;
        Some(Address { process, page: page(&self.processes[process], mapping, offset), word })
    }

    fn range(&self, process: u8, mapping: u8, offset: u8, pages: u8) -> Option<Pages> {
        let process = self.process(process)?;
        Some(Pages { process, page: page(&self.processes[process], mapping, offset), pages: length(pages) })
    }
}

/// Finds a page of a process, mostly a mapped one.
fn page(space: &Space, mapping: u8, offset: u8) -> u32 {
    let number = usize::from(mapping).checked_rem(space.mappings.len());
    match number.filter(|_| mapping < 240).and_then(|number| space.mappings.iter().nth(number)) {
        Some((&start, mapping)) => start + u32::from(offset) * mapping.pages / 256,
        None => place(offset | 128).unwrap_or_default(),
    }
}

/// Gives the place of a mapping, in one of four ranges of 2 MiB; `None`: the engine chooses.
fn place(number: u8) -> Option<u32> {
    let within = u32::from(number - ANYWHERE.min(number)) % 40;
    let page = match (number - ANYWHERE.min(number)) / 40 {
        3 => within * 51,
        range => u32::from(range) * HUGE_ORDER.frames() + within,
    };
    (number >= ANYWHERE).then_some(page)
}

/// Mostly few pages, sometimes more than 2 MiB.
fn length(number: u8) -> u32 {
    if number < 208 { 1 + u32::from(number) % 13 } else { 1 << (number % 11) }
}

fn rights(number: u8) -> Protection {
    let read_write = Protection::READ | Protection::WRITE;
    // x86-64 has no right to store without the right to load.
    [read_write, Protection::READ, read_write | Protection::EXECUTE, Protection::empty(), read_write]
        [usize::from(number) % 5]
}

fn slot(number: u8) -> u32 {
    u32::from(number) % store::PAGES
}

fn orders(number: u8) -> Orders {
    let small = |order: u8| Orders::only(Order::new(order).unwrap_or_default());
    [Orders::HUGE, small(2), Orders::up_to(HUGE_ORDER), small(4), small(1)][usize::from(number) % 5]
}

fn mood(number: u8) -> Mood {
    let refusal = if number.is_multiple_of(2) { Refusal::Retry } else { Refusal::No };
    match number {
        0..64 => Mood::Moves,
        64..125 => Mood::Refuses(Step::Isolate, refusal),
        125..185 => Mood::Refuses(Step::Copy, refusal),
        185..245 => Mood::Refuses(Step::Migrate, refusal),
        245.. => Mood::Gone,
    }
}

fn options(mode: u8, batch: u8, policy: u8) -> Options {
    Options {
        mode: [Mode::Sync, Mode::SyncLight, Mode::Async][usize::from(mode) % 3],
        policy: match policy {
            0..192 => Policy::Any,
            192..224 => Policy::Unmapped,
            224.. => Policy::Unmovable,
        },
        purpose: Purpose::Compaction,
        batch: Batch::Folios([512, 1, 7][usize::from(batch) % 3]),
    }
}
