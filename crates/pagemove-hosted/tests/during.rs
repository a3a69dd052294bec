//! What happens to a page just while it moves, at each step of the move, ends as if it had come before or after.
mod common;

use std::sync::Arc;

use common::*;
use pagemove::{
    frame::{Kind, Marks},
    migrate::Mode,
    paging::Flags,
    space::{Map, Orders, Protection, Source},
    units::{Pfn, VirtAddr, VirtRange},
};
use pagemove_hosted::{Process, Space, enter_cpu};

/// Where in a move: in one of the driver's callbacks, or at the flush.
#[derive(Debug, Clone, Copy, PartialEq)]
enum At {
    Callback(Stage),
    Flush,
}

const STEPS: [At; 5] = [
    At::Callback(Stage::Isolate),
    At::Flush,
    At::Callback(Stage::Copy),
    At::Callback(Stage::Migrate),
    At::Callback(Stage::Putback),
];

/// A device of four pages mapped by two processes; page 1 moves.
struct Scene<'l> {
    lab: &'l Lab,
    hooked: Arc<Hooked>,
    device: Arc<Device>,
    one: Process,
    two: Process,
    at: VirtRange,
}

const MOVING: u32 = 1;

impl Scene<'_> {
    fn page(&self) -> VirtAddr {
        self.at.start().up(MOVING)
    }

    /// Does `deed` at step `at` of the move of page 1; gives whether the page moved.
    fn during(&self, at: At, deed: impl FnOnce() + Send + 'static) -> bool {
        let before = self.device.peek(MOVING);
        match at {
            At::Callback(stage) => self.device.driver.during_next(stage, deed),
            At::Flush => self.hooked.before_next_flush(move |_| deed()),
        }
        let moved = self.lab.migrate(before, Mode::Sync);
        assert!(self.hooked.has_run());
        moved.is_ok()
    }

    fn space(&self) -> Arc<Space> {
        self.one.space().clone()
    }
}

fn at_every_step(deed: impl Fn(&Scene<'_>, At)) {
    for tlb in BOTH {
        for step in STEPS {
            let (lab, hooked) = Hooked::lab(tlb, 2);
            {
                let (one, two) = (lab.process(), lab.process());
                let device = Device::open(&lab);
                let at = shared(&one, device.clone(), 4, RW);
                assert_eq!(shared(&two, device.clone(), 4, RW), at);
                at.iter().for_each(|page| {
                    one.store(page, page.get()).unwrap();
                    assert_eq!(two.load(page).unwrap(), page.get());
                });
                deed(&Scene { lab: &lab, hooked, device, one, two, at }, step);
                lab.validate();
            }
            lab.assert_all_free(1024);
        }
    }
}

#[test]
fn unmapped() {
    at_every_step(|scene, step| {
        let (space, gone) = (scene.space(), part(scene.at, 0, 2));
        assert!(scene.during(step, move || space.munmap(gone).unwrap()));
        assert!(scene.one.space().entry(scene.page()).is_none());
        assert_eq!(scene.one.space().vmas().len(), 1);
        let frame = scene.lab.engine.physical().frame(scene.device.peek(MOVING));
        assert_eq!(frame.maps(), 1);
        // The one entry that knew of the store is gone, as a migration entry maybe.
        assert!(frame.state().marks().contains(Marks::DIRTY), "{step:?}: nobody knows any more that the page is dirty");
        assert_eq!(scene.two.load(scene.page()).unwrap(), scene.page().get());
    });
}

#[test]
fn unmapped_and_something_else_mapped_there() {
    at_every_step(|scene, step| {
        let (space, place) = (scene.space(), part(scene.at, 0, 2));
        scene.during(step, move || {
            space.munmap(place).unwrap();
            let source = Source::Anonymous { orders: Orders::BASE };
            space.mmap(&Map { at: Some(place.start()), pages: 2, protection: RW, source }).unwrap();
            space.fault(place.start().up(1), pagemove::space::Access::Write).unwrap();
        });
        assert_eq!(scene.one.load(scene.page()).unwrap(), 0);
        scene.one.store(scene.page(), 5).unwrap();
        assert_eq!(scene.two.load(scene.page()).unwrap(), scene.page().get());
    });
}

#[test]
fn protected() {
    at_every_step(|scene, step| {
        let (space, at) = (scene.space(), scene.at);
        scene.during(step, move || space.mprotect(at, Protection::READ).unwrap());
        let entry = scene.one.space().entry(scene.page());
        assert!(entry.is_present() && !entry.has(Flags::WRITE) && entry.has(Flags::DIRTY));
        assert_eq!(scene.one.load(scene.page()).unwrap(), scene.page().get());
        scene.two.store(scene.page(), 6).unwrap();
        assert_eq!(scene.one.load(scene.page()).unwrap(), 6);
    });
}

#[test]
fn rights_taken_and_given_back() {
    at_every_step(|scene, step| {
        let (space, at) = (scene.space(), scene.at);
        scene.during(step, move || {
            space.mprotect(at, Protection::empty()).unwrap();
            space.mprotect(at, RW | Protection::EXECUTE).unwrap();
        });
        scene.one.store(scene.page(), 9).unwrap();
        assert_eq!(scene.two.load(scene.page()).unwrap(), 9);
    });
}

#[test]
fn soft_dirty_marks_cleared() {
    at_every_step(|scene, step| {
        let space = scene.space();
        scene.during(step, move || space.clear_soft_dirty());
        assert!(!scene.one.space().entry(scene.page()).has(Flags::SOFT_DIRTY));
        scene.one.store(scene.page(), 9).unwrap();
        assert!(scene.one.space().entry(scene.page()).has(Flags::SOFT_DIRTY));
    });
}

#[test]
fn mapped_elsewhere() {
    at_every_step(|scene, step| {
        let (space, at) = (scene.space(), scene.at);
        let to = at.start().up(700);
        scene.during(step, move || {
            space.mremap(part(at, 1, 2), 2, Some(to)).unwrap();
        });
        assert!(scene.one.space().entry(scene.page()).is_none());
        assert_eq!(scene.one.load(to).unwrap(), scene.page().get());
        scene.one.store(to, 8).unwrap();
        assert_eq!(scene.two.load(scene.page()).unwrap(), 8);
        // And it can move on from there.
        let before = scene.device.peek(MOVING);
        scene.lab.migrate(before, Mode::Sync).unwrap();
        assert_ne!(pfn_at(&scene.one, to), before);
    });
}

#[test]
fn forked() {
    at_every_step(|scene, step| {
        let (space, kept) = (scene.space(), Arc::new(std::sync::Mutex::new(None)));
        let child = kept.clone();
        scene.during(step, move || *child.lock().unwrap() = Some(space.fork().unwrap()));
        let child = kept.lock().unwrap().take().unwrap();
        let entry = child.entry(scene.page());
        assert!(entry.is_present(), "{step:?}");
        assert_eq!(entry.pfn(), scene.device.peek(MOVING));
        assert_eq!(pfn_at(&scene.one, scene.page()), entry.pfn());
        assert_eq!(scene.lab.engine.physical().frame(entry.pfn()).maps(), 3);
    });
}

#[test]
fn one_of_its_processes_ends() {
    at_every_step(|scene, step| {
        let space = scene.space();
        assert!(scene.during(step, move || space.exit()));
        assert_eq!(scene.two.load(scene.page()).unwrap(), scene.page().get());
        assert_eq!(scene.lab.engine.physical().frame(scene.device.peek(MOVING)).maps(), 1);
    });
}

#[test]
fn mapped_once_more() {
    at_every_step(|scene, step| {
        let (space, device) = (scene.space(), scene.device.clone());
        let place = scene.at.start().up(100);
        scene.during(step, move || {
            let source = Source::Shared { file: device, first: 0 };
            space.mmap(&Map { at: Some(place), pages: 4, protection: RW, source }).unwrap();
        });
        assert_eq!(scene.one.load(place.up(MOVING)).unwrap(), scene.page().get());
        assert_eq!(pfn_at(&scene.one, place.up(MOVING)), scene.device.peek(MOVING));
    });
}

/// Deeds that wait for the page, and so are another thread's; begun in the midst of the move, done by its end or after.
fn by_another(deed: impl Fn(&Scene<'_>) -> Box<dyn FnOnce() + Send>, check: impl Fn(&Scene<'_>)) {
    at_every_step(|scene, step| {
        let deed = deed(scene);
        let (send, receive) = std::sync::mpsc::channel();
        scene.during(step, move || {
            let started = Arc::new(std::sync::Barrier::new(2));
            let other = started.clone();
            let thread = std::thread::spawn(move || {
                enter_cpu(1);
                other.wait();
                deed();
            });
            started.wait();
            // Some time to run into the page; the outcome is the same if it does not.
            (0..20).for_each(|_| std::thread::yield_now());
            send.send(thread).unwrap();
        });
        receive.recv().unwrap().join().unwrap();
        scene.lab.validate();
        check(scene);
    });
}

/// zsmalloc and z3fold freed pages that were isolated for a move.
#[test]
fn past_bug_a_page_freed_by_its_driver_while_it_is_isolated() {
    by_another(
        |scene| {
            let driver = scene.device.driver.clone();
            Box::new(move || assert!(driver.index.remove(MOVING)))
        },
        |scene| {
            assert_eq!(scene.device.driver.index.peek(MOVING), None);
            assert!(scene.one.space().entry(scene.page()).is_none());
            assert!(scene.two.space().entry(scene.page()).is_none());
            assert_eq!(scene.lab.count_kind(Kind::Driver), 3);
            assert_eq!(scene.one.load(scene.page()).unwrap(), 0);
        },
    );
}

/// z3fold let its users map a page in the midst of its move, and they used the old one.
#[test]
fn past_bug_a_page_used_by_its_driver_during_its_move() {
    by_another(
        |scene| {
            let (driver, value) = (scene.device.driver.clone(), scene.page().get());
            Box::new(move || {
                let page = driver.index.lock_page(MOVING).unwrap();
                assert_eq!(page.words(0)[0].load(std::sync::atomic::Ordering::Acquire), value);
                page.words(0)[1].store(5, std::sync::atomic::Ordering::Release);
            })
        },
        |scene| {
            let second = word(scene.page(), 1);
            assert_eq!([scene.one.load(second), scene.two.load(second)], [Ok(5), Ok(5)]);
        },
    );
}

#[test]
fn truncated() {
    by_another(
        |scene| {
            let driver = scene.device.driver.clone();
            Box::new(move || driver.index.truncate(0..3))
        },
        |scene| {
            assert_eq!(scene.device.driver.index.len(), 1);
            assert_eq!(scene.lab.count_kind(Kind::Driver), 1);
            assert_eq!(scene.one.load(scene.at.start().up(3)).unwrap(), scene.at.start().up(3).get());
        },
    );
}

#[test]
fn stored_to() {
    by_another(
        |scene| {
            let (space, page) = (scene.space(), scene.page());
            Box::new(move || space.fault(page, pagemove::space::Access::Write).unwrap())
        },
        |scene| {
            scene.one.store(scene.page(), 3).unwrap();
            assert_eq!(scene.two.load(scene.page()).unwrap(), 3);
        },
    );
}

#[test]
fn pinned() {
    let kept: Arc<std::sync::Mutex<Vec<_>>> = Arc::default();
    let keep = kept.clone();
    by_another(
        move |scene| {
            let (space, page, keep) = (scene.space(), VirtRange::new(scene.page(), 1).unwrap(), keep.clone());
            Box::new(move || keep.lock().unwrap().extend(space.pin(page, true, "nic").unwrap()))
        },
        |scene| {
            let pins = std::mem::take(&mut *kept.lock().unwrap());
            assert_eq!(pins[0].pfn(), scene.device.peek(MOVING));
            assert!(scene.lab.migrate(pins[0].pfn(), Mode::Sync).is_err());
            pins[0].words(0)[0].store(4, std::sync::atomic::Ordering::Release);
            assert_eq!([scene.one.load(scene.page()), scene.two.load(scene.page())], [Ok(4), Ok(4)]);
        },
    );
}

#[test]
fn moved_by_another_mover() {
    by_another(
        |scene| {
            let (engine, pfn) = (scene.lab.engine.clone(), scene.device.peek(MOVING));
            Box::new(move || {
                let mut to = pagemove::migrate::AnyFree::new(engine.physical(), 1);
                let options = pagemove::migrate::Options::new(Mode::Sync);
                pagemove::migrate::Mover::new(&engine).migrate(&[pfn], &mut to, options);
            })
        },
        |scene| {
            assert_eq!(scene.one.load(scene.page()).unwrap(), scene.page().get());
            assert_eq!(pfn_at(&scene.one, scene.page()), pfn_at(&scene.two, scene.page()));
        },
    );
}

/// Anonymous pages have no driver to look from; the flush of their move is where it can be met.
#[test]
fn anonymous_pages_at_the_flush() {
    type Deed = fn(&Space, VirtRange);
    let deeds: [(&str, Deed, bool); 5] = [
        ("munmap", |space, at| space.munmap(at).unwrap(), false),
        ("mprotect", |space, at| space.mprotect(at, Protection::READ).unwrap(), true),
        ("mremap", |space, at| assert!(space.mremap(at, 1, Some(at.start())).is_err()), true),
        ("fork", |space, _| drop(space.fork().unwrap()), true),
        ("exit", |space, _| space.exit(), false),
    ];
    for tlb in BOTH {
        for (name, deed, stays) in deeds {
            let (lab, hooked) = Hooked::lab(tlb, 2);
            {
                let parent = lab.process();
                let at = anonymous(&parent, 1);
                parent.store(at.start(), 11).unwrap();
                let child = parent.fork().unwrap();
                let before: Pfn = pfn_at(&parent, at.start());
                let space = parent.space().clone();
                hooked.before_next_flush(move |_| deed(&space, at));
                lab.migrate(before, Mode::Sync).unwrap();
                assert_eq!(child.load(at.start()).unwrap(), 11, "{name}");
                assert_ne!(pfn_at(&child, at.start()), before);
                assert_eq!(parent.space().entry(at.start()).is_present(), stays, "{name}");
                if stays {
                    assert_eq!(parent.load(at.start()).unwrap(), 11, "{name}");
                }
                child.store(at.start(), 12).unwrap();
                lab.validate();
            }
            lab.assert_all_free(1024);
        }
    }
}
