//! A device that maps a large folio by one entry of its own, alone or together with processes: the folio moves whole, is put back
//! whole, and is split or truncated by splitting the entry first.
//!
//! Varied: order, mode, TLB, who maps it, where the folio's move ends. Not varied: several devices.
#![allow(unsafe_code, reason = "a reverse map is an unsafe trait")]
mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use common::*;
use pagemove::{
    Engine,
    folio::{LockedFolio, Migration},
    frame::Kind,
    migrate::{Mode, Options},
    paging::FlushDebt,
    report::Reason,
    rmap::{
        RangeMap, Registered, ReverseMap, SplitError, device_mapped, device_unmapped, mapping_rebound, mapping_removed,
    },
    space::PageCache,
    units::{HUGE_ORDER, Order, Orders, Pfn},
    zone::Physical,
};

/// An entry of the device: maps `order` pages from its index on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wide {
    first: Pfn,
    order: Order,
    runs: bool,
}

/// The device; an access holds the lock of its table.
struct Device {
    engine: Arc<Engine>,
    processes: Arc<RangeMap>,
    table: Mutex<BTreeMap<u32, Wide>>,
    running: Condvar,
    registered: Mutex<Option<Registered<dyn ReverseMap>>>,
}

impl Device {
    fn attach(lab: &Lab, file: &PageCache) -> Arc<Self> {
        let (table, running, registered) = Default::default();
        let processes = file.index().reverse_map().clone();
        let this = Arc::new(Self { engine: lab.engine.clone(), processes, table, running, registered });
        let map: std::sync::Weak<Self> = Arc::downgrade(&this);
        let registered = lab.engine.reverse_maps().add(map);
        file.index().set_reverse_map(registered.number());
        *this.registered.lock().unwrap() = Some(registered);
        this
    }

    /// Maps the folio of page `index` by one entry. The folio counts each page of it.
    fn map(&self, file: &PageCache, index: u32) {
        let folio = file.index().lock_or_insert(index).unwrap();
        let entry = Wide { first: folio.pfn(), order: folio.order(), runs: true };
        assert_eq!(self.table.lock().unwrap().insert(folio.key().index, entry), None);
        (0..folio.order().frames()).for_each(|number| device_mapped(&folio, number).unwrap());
    }

    fn entries(&self) -> Vec<(u32, Wide)> {
        self.table.lock().unwrap().iter().map(|(&index, &entry)| (index, entry)).collect()
    }

    /// Adds 1 to the first word of a page; `None` if the device doesn't map it.
    fn add(&self, page: u32) -> Option<u64> {
        let mut table = self.table.lock().unwrap();
        loop {
            let (&index, entry) = table.range(..=page).next_back()?;
            if page - index >= entry.order.frames() {
                return None;
            }
            if entry.runs {
                let pfn = entry.first.up(page - index);
                return Some(raw::words(self.engine.physical(), pfn)[0].fetch_add(1, Ordering::SeqCst));
            }
            table = self.running.wait(table).unwrap();
        }
    }
}

// SAFETY: an access holds the table's lock, and uses frames only by an entry that runs, all of whose pages are counted.
unsafe impl ReverseMap for Device {
    fn block(&self, physical: &Physical, pages: &mut [Migration], wait: bool, debt: &mut FlushDebt<'_>) {
        self.processes.block(physical, pages, wait, debt);
        let mut table = self.table.lock().unwrap();
        for folio in pages.iter_mut().filter(|folio| !folio.stays()) {
            // One for the whole folio, or one for each page of a folio that is being split.
            let index = folio.key().index;
            for (at, entry) in table.range_mut(index..index + folio.order().frames()) {
                if entry.runs && entry.first == folio.src().up(at - index) {
                    entry.runs = false;
                    let pages = (0..entry.order.frames()).map(|page| entry.first.up(page));
                    // SAFETY: just blocked.
                    pages.for_each(|page| unsafe { mapping_removed(physical, page) });
                    folio.set_blocked();
                }
            }
        }
    }

    fn rebind(&self, physical: &Physical, pages: &[Migration]) {
        self.processes.rebind(physical, pages);
        let mut table = self.table.lock().unwrap();
        for folio in pages {
            // One for the whole folio, or one for each page after a split that failed.
            let index = folio.key().index;
            for (at, entry) in table.range_mut(index..index + folio.order().frames()) {
                if !entry.runs && entry.first == folio.src().up(at - index) {
                    let to = folio.target().up(at - index);
                    // SAFETY: was blocked by this move.
                    (0..entry.order.frames()).for_each(|page| unsafe { mapping_rebound(physical, to.up(page)) });
                    *entry = Wide { first: to, runs: true, ..*entry };
                }
            }
        }
        self.running.notify_all();
    }

    fn unmap(&self, folio: &LockedFolio<'_>, debt: &mut FlushDebt<'_>) {
        self.processes.unmap(folio, debt);
        let mut table = self.table.lock().unwrap();
        let index = folio.key().index;
        let pages = index..index + folio.order().frames();
        let is_ours = |(at, entry): &(&u32, &Wide)| entry.runs && entry.first == folio.pfn().up(*at - index);
        let ours: Vec<u32> = table.range(pages).filter(is_ours).map(|(&at, _)| at).collect();
        for entry in ours.iter().filter_map(|at| table.remove(at)) {
            // SAFETY: counted by `map` or `rebind`, and taken out of the table.
            (0..entry.order.frames())
                .for_each(|page| unsafe { device_unmapped(folio.physical(), entry.first.up(page)) });
        }
    }

    fn split(&self, folio: &LockedFolio<'_>) -> Result<(), SplitError> {
        self.processes.split(folio)?;
        let mut table = self.table.lock().unwrap();
        let index = folio.key().index;
        if let Some(&entry) = table.get(&index).filter(|entry| entry.first == folio.pfn()) {
            // Each page is counted already.
            let parts = (0..entry.order.frames())
                .map(|page| (index + page, Wide { first: entry.first.up(page), order: Order::ZERO, runs: entry.runs }));
            table.extend(parts);
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        for (_, entry) in std::mem::take(&mut *self.table.lock().unwrap()) {
            assert!(entry.runs, "a page is still blocked at the end");
            let physical = self.engine.physical();
            // SAFETY: as in `unmap`.
            (0..entry.order.frames()).for_each(|page| unsafe { device_unmapped(physical, entry.first.up(page)) });
        }
    }
}

const SIZES: [u8; 3] = [1, 4, 9];

/// A file of two folios, and the device.
fn mapped(lab: &Lab, size: Order) -> (Arc<PageCache>, Arc<Device>) {
    let file = PageCache::new(&lab.engine, "file", 2 * size.frames());
    file.index().set_orders(Orders::only(size), 2 * size.frames());
    let device = Device::attach(lab, &file);
    (file, device)
}

#[test]
fn a_folio_behind_one_entry_moves_whole() {
    for (size, with_process) in SIZES.into_iter().flat_map(|size| [(size, false), (size, true)]) {
        let size = order(size);
        on_both(6, |lab| {
            let (file, device) = mapped(lab, size);
            let process = lab.process();
            let at = shared(&process, file.clone(), 2 * size.frames(), RW);
            for first in [0, size.frames()] {
                device.map(&file, first);
            }
            if with_process {
                fill(&process, at);
            }
            // One of the process's for 2 MiB, or one for each page.
            let of_process = if size == HUGE_ORDER { 1 } else { size.frames() };
            let maps = size.frames() + if with_process { of_process } else { 0 };
            let base = |page: u32| if with_process { u64::from(page) + 1 } else { 0 };
            let mut turn = 0;
            for mode in MODES {
                for batch in BATCHES {
                    let before = device.entries();
                    let heads: Vec<Pfn> = before.iter().map(|(_, entry)| entry.first).collect();
                    let options = Options { batch, ..Options::new(mode) };
                    let moved = lab.migrate_all(&heads, options).moved;
                    assert_eq!(moved, 2 * u64::from(size.frames()), "{mode:?} {batch:?}");
                    for ((index, was), (now_at, now)) in before.iter().zip(device.entries()) {
                        assert_eq!((now_at, now.order, now.runs), (*index, size, true));
                        assert_ne!(now.first, was.first);
                        assert_eq!(lab.physical().frame(now.first).maps(), maps);
                    }
                    for page in 0..2 * size.frames() {
                        assert_eq!(device.add(page), Some(base(page) + turn));
                    }
                    turn += 1;
                    lab.validate();
                }
            }
            if with_process {
                assert_eq!(process.load(at.start()).unwrap(), 1 + turn);
            }
        });
    }
}

/// Somebody else's reference makes the freeze fail after the device was stopped: it runs again, in the same place.
#[test]
fn a_folio_behind_one_entry_is_put_back_whole() {
    for size in SIZES.map(order) {
        on_both(6, |lab| {
            let (file, device) = mapped(lab, size);
            device.map(&file, 0);
            let before = device.entries();
            let held = lab.get(before[0].1.first);
            assert_eq!(lab.migrate(before[0].1.first, Mode::Sync), Err(Reason::Referenced));
            assert_eq!((device.entries(), device.add(0)), (before.clone(), Some(0)));
            drop(held);
            lab.migrate(before[0].1.first, Mode::Sync).unwrap();
            assert_eq!(device.add(size.frames() - 1), Some(0));
            lab.validate();
        });
    }
}

/// Without a destination of its order the folio is split, and its pages move one by one; the device has an entry for each then.
#[test]
fn an_entry_is_split_with_its_folio() {
    for size in [1, 4].map(order) {
        on_both(6, |lab| {
            let (file, device) = mapped(lab, size);
            device.map(&file, 0);
            for page in 0..size.frames() {
                (0..=page).for_each(|_| assert!(device.add(page).is_some()));
            }
            let head = device.entries()[0].1.first;
            // Every second frame is free: none of a larger order.
            let mut held = lab.take_all(Kind::Kernel);
            let mut number = 0;
            held.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            let outcome = lab.migrate_all(&[head], Options::new(Mode::Sync));
            assert_eq!(outcome.moved, u64::from(size.frames()), "{:?}", outcome.stayed);
            let entries = device.entries();
            assert_eq!(entries.len() as u32, size.frames());
            assert!(entries.iter().all(|(_, entry)| entry.order == order(0) && entry.runs));
            for page in 0..size.frames() {
                assert_eq!(device.add(page), Some(u64::from(page) + 1));
            }
            drop(held);
            lab.validate();
        });
    }
}

/// Truncating a part splits the entry, and takes the pages behind the new end from the device.
#[test]
fn truncation_of_a_part_splits_the_entry() {
    for size in SIZES.map(order) {
        on_both(6, |lab| {
            let (file, device) = mapped(lab, size);
            device.map(&file, 0);
            let half = size.frames() / 2;
            assert_eq!(device.add(half - 1), Some(0));
            file.index().truncate(half..u32::MAX);
            assert_eq!((device.add(half - 1), device.add(half)), (Some(1), None));
            assert_eq!(device.entries().len() as u32, half);
            lab.validate();
        });
    }
}

/// The device adds to all pages while they move: nothing is lost.
#[test]
fn accesses_by_one_entry_race_with_moves() {
    for size in [order(2), HUGE_ORDER] {
        on_both(8, |lab| {
            let (file, device) = mapped(lab, size);
            let process = lab.process();
            let at = shared(&process, file.clone(), 2 * size.frames(), RW);
            [0, size.frames()].into_iter().for_each(|first| device.map(&file, first));
            let (over, added) = (AtomicBool::new(false), AtomicU64::new(0));
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        (0..2 * size.frames()).for_each(|page| assert!(device.add(page).is_some()));
                        added.fetch_add(1, Ordering::Relaxed);
                    }
                });
                let mut moved = 0;
                // The other thread may be late.
                for round in 0.. {
                    let heads: Vec<Pfn> = device.entries().iter().map(|(_, entry)| entry.first).collect();
                    moved += lab.migrate_all(&heads, Options::new(MODES[round % 3])).moved;
                    if round >= 100 && moved > 20 && added.load(Ordering::Relaxed) > 20 {
                        break;
                    }
                }
                over.store(true, Ordering::Relaxed);
            });
            let expected = added.load(Ordering::Relaxed);
            at.iter().for_each(|page| assert_eq!(process.load(page).unwrap(), expected));
            lab.validate();
        });
    }
}

/// A split of the folio fails after the device has split its entry: the device runs again.
#[test]
fn an_entry_that_was_split_in_vain_runs_again() {
    let (lab, hooked) = Hooked::lab(pagemove_hosted::TlbKind::Soft, 6);
    let (file, device) = mapped(&lab, order(4));
    let process = lab.process();
    let at = shared(&process, file.clone(), 16, RW);
    device.map(&file, 0);
    fill(&process, at);
    let engine = lab.engine.clone();
    let head = device.entries()[0].1.first;
    hooked.before_next_flush(move |_| {
        let _ = engine.physical().get(head).unwrap().into_raw();
    });
    let folio = file.index().lock_page(0).unwrap();
    let result = pagemove::migrate::split(&lab.engine, folio).map(|_| ()).map_err(|(_, reason)| reason);
    assert!(hooked.has_run());
    assert_eq!(result, Err(Reason::Referenced));
    drop(raw::counted(lab.physical(), head));
    let stopped = device.entries().iter().filter(|(_, entry)| !entry.runs).count();
    if stopped > 0 {
        keep((process, device, file));
        keep(lab);
        panic!("{stopped} entries stay blocked after a split in vain");
    }
    // Single entries of a folio that is still whole are taken out, too.
    file.index().truncate(0..16);
    assert_eq!(device.entries(), []);
    lab.validate();
}
