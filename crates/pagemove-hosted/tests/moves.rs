//! Moves that succeed: every kind of page, in each mode and batch size, with contents, entries and counts kept.
mod common;

use std::sync::Arc;

use common::*;
use pagemove::{
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options, Policy},
    report::{Counter, Event, Reason},
    space::{Map, Orders, PageCache, Protection, Source},
    units::{Pfn, VirtAddr},
};
use pagemove_drivers::{CharDevice, DeviceFile};
use pagemove_hosted::{Process, TlbKind, enter_cpu};

const PAGES: u32 = 6;

/// Pages of one kind: in which processes, at which addresses, with which values; and those that only a file holds.
#[derive(Default)]
struct Subject {
    processes: Vec<Process>,
    views: Vec<(usize, VirtAddr, u64)>,
    files: Vec<(Arc<PageCache>, u32)>,
    devices: Vec<(Arc<DeviceFile>, u32)>,
}

impl Subject {
    fn pages(&self) -> Vec<Pfn> {
        let mapped = self.views.iter().map(|&(process, address, _)| pfn_at(&self.processes[process], address));
        let in_files = self.files.iter().map(|(file, page)| file.index().peek(*page).unwrap());
        let in_devices = self.devices.iter().map(|(file, page)| file.peek(*page).unwrap());
        let mut pages: Vec<Pfn> = mapped.chain(in_files).chain(in_devices).collect();
        pages.sort();
        pages.dedup();
        pages
    }

    fn check(&self) {
        for cpu in 0..4 {
            enter_cpu(cpu);
            for &(process, address, value) in &self.views {
                assert_eq!(self.processes[process].load(address).unwrap(), value);
            }
        }
        for (device, page) in &self.devices {
            assert_eq!(device.read(*page, 3).unwrap(), 300 + u64::from(*page));
        }
    }

    fn see(&mut self, process: usize, at: pagemove::units::VirtRange, first: u64) {
        self.views.extend(at.iter().enumerate().map(|(number, page)| (process, page, first + number as u64)));
    }

    fn store(&mut self, process: usize, at: pagemove::units::VirtRange, first: u64) {
        self.see(process, at, first);
        let stored = at.iter().enumerate();
        stored.for_each(|(number, page)| self.processes[process].store(page, first + number as u64).unwrap());
    }
}

fn anonymous_private(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let at = anonymous(&subject.processes[0], PAGES);
    subject.store(0, at, 10);
    subject
}

fn anonymous_clean(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let at = anonymous(&subject.processes[0], PAGES);
    subject.see(0, at, 0);
    subject.views.iter_mut().for_each(|(_, address, value)| {
        *value = 0;
        subject.processes[0].load(*address).unwrap();
    });
    subject
}

fn anonymous_of_three(lab: &Lab) -> Subject {
    let mut subject = anonymous_private(lab);
    let child = subject.processes[0].fork().unwrap();
    let grandchild = child.fork().unwrap();
    subject.processes.extend([child, grandchild]);
    let of_first = subject.views.clone();
    for process in 1..3 {
        subject.views.extend(of_first.iter().map(|&(_, address, value)| (process, address, value)));
    }
    // One page is the first's own again.
    subject.processes[0].store(subject.views[0].1, 10).unwrap();
    subject
}

fn file_mapped_twice(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let file = PageCache::new(&lab.engine, "file", PAGES);
    let one = shared(&subject.processes[0], file.clone(), PAGES, RW);
    let two = shared(&subject.processes[0], file, PAGES, RW);
    subject.store(0, one, 50);
    subject.see(0, two, 50);
    subject
}

fn private_copies(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let (file, _) = stored_file(lab, PAGES);
    let at = private(&subject.processes[0], file, PAGES);
    subject.store(0, at, 70);
    subject
}

fn private_uncopied(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let (file, _) = stored_file(lab, PAGES);
    let at = private(&subject.processes[0], file, PAGES);
    subject.see(0, at, 1000);
    subject.check();
    subject
}

fn device_mapped(lab: &Lab, times: usize) -> Subject {
    let mut subject = Subject::default();
    let device = CharDevice::new(&lab.engine, "chardev").open(PAGES);
    for page in 0..PAGES {
        device.write(page, 3, 300 + u64::from(page)).unwrap();
        device.write(page, 0, 90 + u64::from(page)).unwrap();
        subject.devices.push((device.clone(), page));
    }
    for number in 0..times {
        subject.processes.push(lab.process());
        anonymous(&subject.processes[number], 1 + number as u32);
        let protection = if number == 2 { Protection::READ } else { RW };
        let at = shared(&subject.processes[number], device.clone(), PAGES, protection);
        subject.see(number, at, 90);
    }
    // Mapped by each, stored to by the first.
    subject.check();
    for (process, address, value) in subject.views.clone() {
        if process == 0 {
            subject.processes[0].store(address, value).unwrap();
        }
    }
    subject
}

fn read_only(lab: &Lab) -> Subject {
    let subject = anonymous_private(lab);
    for &(process, address, _) in &subject.views {
        let page = pagemove::units::VirtRange::new(address, 1).unwrap();
        subject.processes[process].space().mprotect(page, Protection::READ).unwrap();
    }
    subject
}

fn page_cache_unmapped(lab: &Lab) -> Subject {
    let mut subject = Subject::default();
    let (file, _) = stored_file(lab, PAGES);
    for page in 0..PAGES {
        assert_eq!(lab.process_reading(&file, page), 1000 + u64::from(page));
        subject.files.push((file.clone(), page));
    }
    let locked = file.index().lock_page(0).unwrap();
    locked.mark_dirty();
    drop(locked);
    subject
}

fn huge_page(lab: &Lab) -> Subject {
    let mut subject = Subject { processes: vec![lab.process()], ..Subject::default() };
    let at = huge(&subject.processes[0], 512);
    subject.store(0, part(at, 3, 1), 5);
    subject.store(0, part(at, 510, 2), 6);
    subject
}

type Make = fn(&Lab) -> Subject;

const KINDS: [(&str, Make); 13] = [
    ("anonymous", anonymous_private),
    ("anonymous, clean", anonymous_clean),
    ("anonymous of three processes", anonymous_of_three),
    ("anonymous, read-only", read_only),
    ("file mapped twice", file_mapped_twice),
    ("private copies", private_copies),
    ("private, not copied", private_uncopied),
    ("device, unmapped", |lab| device_mapped(lab, 0)),
    ("device, mapped once", |lab| device_mapped(lab, 1)),
    ("device, mapped three times", |lab| device_mapped(lab, 3)),
    ("page cache, unmapped", page_cache_unmapped),
    ("2 MiB", huge_page),
    ("everything", |lab| {
        let mut all = anonymous_of_three(lab);
        for other in [file_mapped_twice(lab), device_mapped(lab, 3), private_copies(lab)] {
            let base = all.processes.len();
            all.views.extend(other.views.into_iter().map(|(process, at, value)| (process + base, at, value)));
            all.processes.extend(other.processes);
            all.devices.extend(other.devices);
        }
        all
    }),
];

#[test]
fn every_kind_in_every_mode_and_batch_size() {
    for (name, make) in KINDS {
        on_both(6, |lab| {
            let subject = make(lab);
            for mode in [Mode::Async, Mode::SyncLight, Mode::Sync] {
                for batch in BATCHES {
                    let what = format!("{name}, {mode:?}, {batch:?}");
                    subject.check();
                    let mut pages = subject.pages();
                    if name == "2 MiB" {
                        pages = vec![pages[0]];
                    }
                    let before = Snapshot::of(lab, &subject.processes);
                    let outcome = lab.migrate_all(&pages, Options { batch, ..Options::new(mode) });
                    assert_eq!(outcome.stayed, [], "{what}");
                    let frames = if name == "2 MiB" { 512 } else { pages.len() as u64 };
                    assert_eq!(outcome.moved, frames, "{what}");
                    let after = Snapshot::of(lab, &subject.processes);
                    assert_eq!(after.without_places(), before.without_places(), "{what}");
                    let now = subject.pages();
                    assert!(pages.iter().all(|page| !now.contains(page)), "{what}: a page is where it was");
                    subject.check();
                    lab.validate();
                }
            }
            for &(process, address, value) in &subject.views {
                if subject.processes[process].space().entry(address).has(pagemove::paging::Flags::WRITE) {
                    subject.processes[process].store(address, value).unwrap();
                }
            }
            subject.check();
        });
    }
}

#[test]
fn more_pages_than_one_batch_and_one_flush_for_each() {
    on_both(6, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 1200);
        at.iter().enumerate().for_each(|(number, page)| process.store(page, number as u64).unwrap());
        let pages: Vec<Pfn> = at.iter().map(|page| pfn_at(&process, page)).collect();
        let counters = lab.engine.physical().counters();
        let flushes = counters.get(Counter::TlbFlush);
        let outcome = lab.migrate_all(&pages, Options::new(Mode::Async).in_full_batches());
        assert_eq!((outcome.moved, outcome.stayed), (1200, vec![]));
        assert_eq!(counters.get(Counter::TlbFlush) - flushes, 3);
        assert_eq!(counters.get(Counter::PgmigrateSuccess), 1200);
        for (number, page) in at.iter().enumerate() {
            assert_eq!(process.load(page).unwrap(), number as u64);
        }
    });
}

/// The accessed mark of a child's entries comes with its own accesses only; a move gives none.
#[test]
fn a_move_sets_no_accessed_or_dirty_mark() {
    use pagemove::paging::Flags;
    on_both(2, |lab| {
        let parent = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        for at in [anonymous(&parent, 2), shared(&parent, device, 2, RW)] {
            at.iter().for_each(|page| parent.store(page, 1).unwrap());
            let child = parent.fork().unwrap();
            child.load(at.start().up(1)).unwrap();
            for page in at.iter() {
                lab.migrate(pfn_at(&parent, page), Mode::Sync).unwrap();
            }
            let marks = [0, 1].map(|page| {
                let entry = child.space().entry(at.start().up(page));
                (entry.has(Flags::ACCESSED), entry.has(Flags::DIRTY))
            });
            assert_eq!(marks, [(false, false), (true, false)]);
            assert!(parent.space().entry(at.start()).has(Flags::ACCESSED | Flags::DIRTY));
        }
    });
}

#[test]
fn policies_decide_about_drivers_pages_only() {
    on_both(2, |lab| {
        let subject = device_mapped(lab, 1);
        let unmapped = device_mapped(lab, 0);
        let plain = anonymous_private(lab);
        let table = [
            (Policy::Unmovable, Err(Reason::Unmovable), Err(Reason::Unmovable)),
            (Policy::Unmapped, Err(Reason::Mapped), Ok(())),
            (Policy::Any, Ok(()), Ok(())),
        ];
        for (policy, of_mapped, of_unmapped) in table {
            let options = Options { policy, ..Options::new(Mode::Sync) };
            let try_move = |page: Pfn| match lab.migrate_all(&[page], options).stayed.first() {
                Some(&(_, reason)) => Err(reason),
                None => Ok(()),
            };
            assert_eq!(try_move(subject.pages()[0]), of_mapped);
            assert_eq!(try_move(unmapped.pages()[0]), of_unmapped);
            assert_eq!(try_move(plain.pages()[0]), Ok(()));
        }
        subject.check();
    });
}

/// `move_pages` of Linux told the wrong thing of pages that are none for years.
#[test]
fn past_bug_the_status_of_pages_that_are_none_or_named_twice() {
    on_both(2, |lab| {
        let process = lab.process();
        let at = anonymous(&process, 2);
        at.iter().for_each(|page| process.store(page, 4).unwrap());
        let physical = lab.engine.physical();
        let [one, two] = [0, 1].map(|page| pfn_at(&process, at.start().up(page)));
        let [freed, held] = [0, 1].map(|_| physical.alloc(order(0), Kind::Kernel).unwrap());
        let (free, kernel) = (freed.pfn(), held.pfn());
        drop(freed);
        let beyond = physical.frames().end();
        let root = process.space().table().root();
        let sources = [one, one, root, free, two, kernel, one, root, beyond, Pfn::new(u64::MAX)];
        let outcome = lab.migrate_all(&sources, Options::new(Mode::Sync));
        assert_eq!(outcome.moved, 3);
        let mut stayed = outcome.stayed;
        stayed.sort();
        let mut expected =
            vec![(kernel, Reason::Unmovable), (beyond, Reason::CrossedZone), (Pfn::new(u64::MAX), Reason::CrossedZone)];
        expected.sort();
        assert_eq!(stayed, expected);
        assert_eq!(process.load(at.start()).unwrap(), 4);
        assert_eq!(
            Mover::new(&lab.engine).migrate(&[], &mut AnyFree::new(physical, 1), Options::new(Mode::Async)).moved,
            0
        );
        drop(held);
    });
}

#[test]
fn events_and_counters_tell_what_moved_and_what_stayed() {
    on_both(2, |lab| {
        let process = lab.process();
        let source = Source::Anonymous { orders: Orders::BASE };
        let at = process.space().mmap(&Map { at: None, pages: 2, protection: RW, source }).unwrap();
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        let _pins = process.space().pin(part(at, 1, 1), true, "nic").unwrap();
        let [moves, stays] = [0, 1].map(|page| pfn_at(&process, at.start().up(page)));
        lab.migrate_all(&[moves, stays], Options::new(Mode::Sync));
        let counters = lab.engine.physical().counters();
        assert_eq!((counters.get(Counter::PgmigrateSuccess), counters.get(Counter::PgmigrateFail)), (1, 1));
        assert_eq!(counters.stayed_for(Reason::Pinned), 1);
        let mut events = Vec::new();
        lab.engine.physical().events().for_each(|event| events.push(event));
        assert!(events.contains(&Event::Stayed { pfn: stays, reason: Reason::Pinned }));
    });
}

#[test]
fn moves_are_recorded_as_events() {
    let lab = Lab::new(TlbKind::Soft, 1);
    let process = lab.process();
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let from = pfn_at(&process, at.start());
    lab.migrate(from, Mode::Sync).unwrap();
    let mut events = Vec::new();
    lab.engine.physical().events().for_each(|event| events.push(event));
    assert_eq!(events, [Event::Moved { from, to: pfn_at(&process, at.start()) }]);
}

#[test]
fn frames_on_other_processors_lists_are_destinations_too() {
    let lab = Lab::boot(hosted(TlbKind::Soft, 512, 64), &one_zone(512, 9));
    let process = lab.process();
    let at = anonymous(&process, 1);
    process.store(at.start(), 1).unwrap();
    let mut held = lab.take_all(Kind::Anon);
    let freed: Vec<_> = held.drain(..10).collect();
    std::thread::scope(|scope| drop(scope.spawn(|| drop(freed))));
    assert_eq!(lab.free_frames(), 10);
    assert_eq!(lab.migrate(pfn_at(&process, at.start()), Mode::Sync), Ok(()));
}
