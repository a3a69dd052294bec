//! A reverse map that somebody else brings: a device with a page table of its own sees pages, alone or together with
//! processes, and they move; when a move fails, the device's entries are as before.
mod common;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, Weak, atomic::Ordering},
};

use common::*;
use pagemove::{
    frame::Kind,
    migrate::Mode,
    movable::{MovableOps, OwnedMove, PageIndex, Refusal, Registration},
    paging::FlushDebt,
    report::Reason,
    rmap::{MovingPage, RangeMap, ReverseMap, mapping_added, mapping_removed},
    space::{FileError, Mappable},
    units::Pfn,
    zone::Physical,
};

/// An entry of the device's table: stopped, it would make the device wait.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Entry {
    Runs(Pfn),
    Stopped(Pfn),
}

/// A device whose table maps pages by their index; and what it shares them with processes by.
struct Device {
    table: Mutex<BTreeMap<u32, Entry>>,
    processes: Arc<RangeMap>,
    /// Stopped entries seen at flushes would be used by the device otherwise.
    stops: Mutex<u32>,
}

impl ReverseMap for Device {
    fn block(&self, physical: &Physical, pages: &mut [MovingPage], wait: bool, debt: &mut FlushDebt<'_>) {
        self.processes.block(physical, pages, wait, debt);
        let mut table = self.table.lock().unwrap();
        for page in pages.iter_mut().filter(|page| page.stay.is_none()) {
            if let Some(entry) = table.get_mut(&page.key.index)
                && *entry == Entry::Runs(page.from)
            {
                *entry = Entry::Stopped(page.from);
                mapping_removed(physical, page.from);
                page.blocked = true;
                *self.stops.lock().unwrap() += 1;
            }
        }
    }

    fn rebind(&self, physical: &Physical, pages: &[MovingPage]) {
        self.processes.rebind(physical, pages);
        let mut table = self.table.lock().unwrap();
        for page in pages {
            if let Some(entry) = table.get_mut(&page.key.index)
                && *entry == Entry::Stopped(page.from)
            {
                mapping_added(physical, page.target());
                *entry = Entry::Runs(page.target());
            }
        }
    }
}

struct Driver {
    index: Arc<PageIndex>,
    refuses: Mutex<bool>,
}

impl MovableOps for Driver {
    fn name(&self) -> &str {
        "accelerator"
    }

    fn migrate(&self, page: &OwnedMove<'_>) -> Result<(), Refusal> {
        if *self.refuses.lock().unwrap() { Err(Refusal::No) } else { self.index.repoint(page) }
    }
}

struct File {
    driver: Arc<Driver>,
    device: Arc<Device>,
    _registration: Registration,
}

impl File {
    /// Opens the device: 4 pages, each in its table.
    fn open(lab: &Lab) -> Arc<Self> {
        let index = lab.engine.new_index(Kind::Driver, "accelerator");
        let processes = index.reverse_map().clone();
        let device = Arc::new(Device { table: Mutex::default(), processes, stops: Mutex::new(0) });
        let map: Weak<Device> = Arc::downgrade(&device);
        index.set_reverse_map(lab.engine.reverse_maps().add(map));
        let driver = Arc::new(Driver { index, refuses: Mutex::new(false) });
        let registration = lab.engine.owners().register(driver.clone());
        driver.index.set_owner(&registration);
        for number in 0..4 {
            let page = driver.index.lock_or_insert(number).unwrap();
            mapping_added(lab.engine.physical(), page.pfn());
            device.table.lock().unwrap().insert(number, Entry::Runs(page.pfn()));
        }
        Arc::new(Self { driver, device, _registration: registration })
    }

    /// What the device reads at a page's first word.
    fn device_reads(&self, lab: &Lab, page: u32) -> u64 {
        let Some(&Entry::Runs(pfn)) = self.device.table.lock().unwrap().get(&page) else { panic!("stopped") };
        lab.engine.physical().ram_words(pfn)[0].load(Ordering::SeqCst)
    }

    /// Takes the pages out of the device's table, as closing it does.
    fn close(&self, lab: &Lab) {
        for (number, entry) in std::mem::take(&mut *self.device.table.lock().unwrap()) {
            let page = self.driver.index.lock_page(number).unwrap();
            assert_eq!(entry, Entry::Runs(page.pfn()));
            mapping_removed(lab.engine.physical(), page.pfn());
        }
    }
}

impl Mappable for File {
    fn name(&self) -> &str {
        "accelerator"
    }

    fn reverse_map(&self) -> &Arc<RangeMap> {
        self.driver.index.reverse_map()
    }

    fn fault(&self, index: u32) -> Result<pagemove::movable::LockedPage<'_>, FileError> {
        self.driver.index.lock_page(index).ok_or(FileError::BeyondEnd(index))
    }
}

#[test]
fn pages_that_only_a_device_sees_move() {
    let lab = Lab::new(BOTH[0], 2);
    let file = File::open(&lab);
    for page in 0..4 {
        let before = file.driver.index.peek(page).unwrap();
        lab.engine.physical().ram_words(before)[0].store(u64::from(page) + 7, Ordering::SeqCst);
        lab.migrate(before, Mode::Async).unwrap();
        let after = file.driver.index.peek(page).unwrap();
        assert_ne!(after, before);
        assert_eq!(file.device.table.lock().unwrap()[&page], Entry::Runs(after));
        assert_eq!(file.device_reads(&lab, page), u64::from(page) + 7);
        assert_eq!(lab.engine.physical().frame(after).maps(), 1);
    }
    assert_eq!(*file.device.stops.lock().unwrap(), 4);
    file.close(&lab);
    drop(file);
    lab.validate();
    assert_eq!(lab.free_frames(), 1024);
}

#[test]
fn pages_that_a_device_and_processes_see_move_for_both() {
    for tlb in BOTH {
        let lab = Lab::new(tlb, 2);
        let file = File::open(&lab);
        let process = lab.process();
        let at = shared(&process, file.clone(), 4, RW);
        for (page, address) in (0..).zip(at.iter()) {
            process.store(address, 40 + u64::from(page)).unwrap();
            let before = pfn_at(&process, address);
            assert_eq!(lab.engine.physical().frame(before).maps(), 2);
            lab.migrate(before, Mode::Sync).unwrap();
            assert_ne!(pfn_at(&process, address), before);
            assert_eq!(file.device_reads(&lab, page), 40 + u64::from(page));
            process.store(address, 50).unwrap();
            assert_eq!(file.device_reads(&lab, page), 50);
        }
        file.close(&lab);
        lab.validate();
    }
}

#[test]
fn a_move_that_is_refused_leaves_the_device_running_where_it_was() {
    let lab = Lab::new(BOTH[0], 2);
    let file = File::open(&lab);
    let before = file.driver.index.peek(0).unwrap();
    *file.driver.refuses.lock().unwrap() = true;
    assert_eq!(lab.migrate(before, Mode::Sync), Err(Reason::Refused));
    assert_eq!(file.device.table.lock().unwrap()[&0], Entry::Runs(before));
    let frame = lab.engine.physical().frame(before);
    assert_eq!((frame.maps(), frame.refs()), (1, 2));
    file.close(&lab);
    lab.validate();
}
