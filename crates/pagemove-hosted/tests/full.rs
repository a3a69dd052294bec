//! Nearly full memory: at 95 % use, of which 30 % are drivers' pages (a third mapped, a third zspages, a third neither), every 2 MiB block that the free
//! memory allows can be had if all pages may move, while threads read and write all kinds of pages. Prints what each policy gives.
//!
//! Varied: policy, TLB, size. Not varied: shares; how memory was fragmented (bursts of 1 to 16 pages of one kind in random turn).
mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{
    compact::alloc_compacting,
    frame::Kind,
    migrate::{Mode, Options, Policy},
    units::{PAGE_SIZE, VirtAddr, VirtRange},
    zone::Request,
};
use pagemove_drivers::{
    CharDevice, DeviceFile,
    zram::{self, Page, Zram},
};
use pagemove_hosted::{Process, enter_cpu};
use rand::{RngExt, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

/// Pages of a process's mapping, and of a device's file.
const REGION: u32 = 1024;
/// Frames more, which zram needs where it stores a page anew before it frees the old one: a zspage for each thread.
const SPARE: u32 = 64;
/// Calls that may fail in a row: a page that somebody has just locked stays for once.
const TRIES: u32 = 500;

/// A page in use, whose word 0 counts its writes.
enum Used {
    Anonymous(Arc<Process>, VirtAddr),
    Mapped(Arc<Process>, VirtAddr),
    Unmapped(Arc<DeviceFile>, u32),
    Compressed(u32),
}

/// Fills memory, and uses it.
struct Load<'l> {
    lab: &'l Lab,
    device: CharDevice,
    zram: Zram,
    slots: u32,
    pages: Vec<Used>,
    /// Pages of the last process and file of each kind that aren't used yet.
    room: [Vec<Used>; 3],
}

impl<'l> Load<'l> {
    fn new(lab: &'l Lab, rng: &mut ChaCha8Rng) -> Self {
        let frames = lab.free_frames();
        let settings = zram::Options::new("zram0", frames, zram::by_name("lz4").unwrap());
        let zram = Zram::new(&lab.engine, settings).unwrap();
        let device = CharDevice::new(&lab.engine, "device");
        let mut load = Self { lab, device, zram, slots: 0, pages: Vec::new(), room: Default::default() };
        // Of what is used in the end, each kind of drivers' pages is a tenth. More anonymous ones than stay.
        let tenth = frames * 95 / 1000;
        let mut left = [frames - 3 * tenth, tenth, tenth, tenth];
        while let Some(free) = load.free_if_above(256) {
            let draw = rng.random_range(0..left.iter().sum::<u32>().max(1));
            let kind = (0..3).find(|&kind| draw < left[..=kind].iter().sum()).unwrap_or(3);
            for _ in 0..rng.random_range(1..=16).min(free - 256) {
                left[kind] = left[kind].saturating_sub(load.add(kind));
            }
        }
        load.pages.shuffle(rng);
        load.thin(frames / 20 + SPARE);
        load
    }

    fn free_if_above(&self, bound: u32) -> Option<u32> {
        // Frames on the CPUs' lists are counted only if it matters.
        let free = self.lab.physical().free_frames();
        let free = if free > bound { free } else { self.lab.free_frames() };
        (free > bound).then_some(free)
    }

    /// Ends single anonymous pages until so many frames are free.
    fn thin(&mut self, free: u32) {
        let mut at = 0;
        while self.lab.free_frames() < free {
            for _ in 0..16 {
                while !matches!(self.pages[at], Used::Anonymous(..)) {
                    at += 1;
                }
                if let Used::Anonymous(process, page) = self.pages.swap_remove(at) {
                    process.space().munmap(VirtRange::new(page, 1).unwrap()).unwrap();
                }
            }
        }
    }

    /// Adds a page of kind 0 to 3: anonymous, mapped, unmapped, compressed; of the last kind a whole zspage. Gives how many frames.
    fn add(&mut self, kind: usize) -> u32 {
        if kind == 3 {
            let pages = self.zram.pool().pages();
            while self.zram.pool().pages() == pages {
                let page = Used::Compressed(self.slots);
                page.set(&self.zram, 0);
                self.pages.push(page);
                self.slots += 1;
            }
            return (self.zram.pool().pages() - pages) as u32;
        }
        if self.room[kind].is_empty() {
            self.room[kind] = self.open(kind);
        }
        let page = self.room[kind].pop().unwrap();
        page.set(&self.zram, 0);
        self.pages.push(page);
        1
    }

    fn open(&self, kind: usize) -> Vec<Used> {
        let file = self.device.open(REGION);
        if kind == 2 {
            return (0..REGION).map(|page| Used::Unmapped(file.clone(), page)).collect();
        }
        let process = Arc::new(self.lab.process());
        match kind {
            0 => anonymous(&process, REGION).iter().map(|page| Used::Anonymous(process.clone(), page)).collect(),
            _ => shared(&process, file, REGION, RW).iter().map(|page| Used::Mapped(process.clone(), page)).collect(),
        }
    }
}

/// A page that half a page holds.
fn compressed(slot: u32, writes: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    let (words, _) = page[..PAGE_SIZE / 2].as_chunks_mut::<8>();
    // No word again, and none like another one.
    (u64::from(slot) << 32..)
        .zip(words.iter_mut())
        .for_each(|(at, word)| *word = at.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    words[0] = writes.to_le_bytes();
    page
}

impl Used {
    fn set(&self, zram: &Zram, writes: u64) {
        match self {
            Self::Anonymous(process, at) | Self::Mapped(process, at) => process.store(*at, writes).unwrap(),
            Self::Unmapped(file, page) => file.write(*page, 0, writes).unwrap(),
            Self::Compressed(slot) => zram.write(*slot, &compressed(*slot, writes)).unwrap(),
        }
    }

    fn assert_is(&self, zram: &Zram, writes: u64) {
        let found = match self {
            Self::Anonymous(process, at) | Self::Mapped(process, at) => process.load(*at).unwrap(),
            Self::Unmapped(file, page) => file.read(*page, 0).unwrap(),
            Self::Compressed(slot) => {
                let mut page = [0; PAGE_SIZE];
                zram.read(*slot, &mut page).unwrap();
                assert_eq!(page, compressed(*slot, writes), "slot {slot}");
                writes
            }
        };
        assert_eq!(found, writes, "a word was lost");
    }
}

/// Checks and writes pages in random turn, of which each thread has its own; gives how often.
fn use_pages<'p>(
    load: &Load<'_>,
    pages: impl Iterator<Item = &'p Used>,
    mut rng: ChaCha8Rng,
    done: &AtomicBool,
) -> u64 {
    let mut pages: Vec<(&Used, u64)> = pages.map(|page| (page, 0)).collect();
    let mut uses = 0;
    while !done.load(Ordering::Relaxed) || uses < 3000 {
        let at = rng.random_range(0..pages.len());
        let (page, writes) = &mut pages[at];
        page.assert_is(&load.zram, *writes);
        *writes += 1;
        page.set(&load.zram, *writes);
        uses += 1;
    }
    pages.iter().for_each(|(page, writes)| page.assert_is(&load.zram, *writes));
    uses
}

/// Allocates 2 MiB blocks until there are no more; gives how many the free memory would have allowed, and how many there were.
fn take_all_blocks(load: &Load<'_>, policy: Policy, seed: u64) -> (u32, u32) {
    let lab = load.lab;
    let allowed = (lab.free_frames() - SPARE) / 512;
    let options = Options { policy, ..Options::new(Mode::Sync) };
    let done = AtomicBool::new(false);
    let mut blocks = Vec::new();
    thread::scope(|scope| {
        let end = SetAtEnd(&done);
        for user in 0..3usize {
            let pages = load.pages.iter().skip(user).step_by(3);
            let (load, done) = (&load, &done);
            scope.spawn(move || {
                enter_cpu(user);
                use_pages(load, pages, rng(seed ^ user as u64), done)
            });
        }
        enter_cpu(3);
        let mut failed = 0;
        // What can't move can't be had by trying again.
        let tries = if policy == Policy::Any { TRIES } else { 3 };
        while blocks.len() < allowed as usize && failed < tries {
            match alloc_compacting(&lab.engine, &Request::new(order(9), Kind::Kernel), options) {
                Ok(block) => blocks.push(block),
                Err(_) => failed += 1,
            }
        }
        drop(end);
    });
    (allowed, blocks.len() as u32)
}

#[test]
fn all_free_memory_can_be_had_as_2_mib_blocks() {
    let seed = new_seed();
    println!("2 MiB blocks that were had, of those that the free memory allows, at 95 % use:");
    // Without optimization it would take minutes.
    let sizes = if cfg!(debug_assertions) { [64, 40] } else { [512, 64] };
    for (tlb, blocks) in BOTH.into_iter().zip(sizes) {
        for policy in Policy::ALL {
            let lab = Lab::new(tlb, blocks);
            let free = lab.free_frames();
            let load = Load::new(&lab, &mut rng(seed));
            let of = |kind: Kind| lab.count_kind(kind) * 100 / free;
            let shares = format!("{} % anonymous, {} % drivers'", of(Kind::Anon), of(Kind::Driver));
            let (allowed, had) = take_all_blocks(&load, policy, seed);
            println!("{tlb:?} TLB, {blocks} blocks, {shares}, policy {}: {had} of {allowed}", policy.name());
            match policy {
                Policy::Any => assert_eq!(had, allowed, "policy any"),
                // Else nothing was fragmented.
                Policy::Unmovable => assert_eq!(had, 0, "policy unmovable"),
                Policy::Unmapped => (),
            }
            lab.validate();
            drop(load);
            lab.assert_all_free(free);
        }
    }
}
