//! What must come before what: at the moment of a flush no frame that an old translation reaches is free, and no byte of a
//! moving page is copied yet. A machine that looks at the engine whenever it is told to flush makes this certain, where
//! threads would need luck.
#![allow(unsafe_code, reason = "a machine is an unsafe trait; this one passes all on to a real one")]
mod common;

use std::sync::{Arc, Mutex, atomic::AtomicU32};

use common::{RW, raw};
use pagemove::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    paging::Format,
    port::{Contents, FlushRange, Machine},
    space::{Access, Map, Orders, Source},
    units::{FrameRange, Order, Pfn, VirtAddr, VirtRange},
    zone,
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Config, FIRST_FRAME, Hosted, Space, TableFormat, TlbKind};

type Look = Box<dyn Fn() + Send>;

/// Calls `look` at every flush.
struct Spy {
    machine: Arc<Hosted>,
    look: Mutex<Option<Look>>,
    flushes: AtomicU32,
}

// SAFETY: as the hosted machine's.
unsafe impl Machine for Spy {
    pagemove::pass_on!(machine: take_ram return_ram lend lend_sparse root_made move_root root_freed cpus cpu_claim interrupt_mask preemption might_wait barrier wait wake now_ns);

    fn flush(&self, ranges: &[FlushRange]) {
        self.flushes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        if let Some(look) = &*self.look.lock().unwrap() {
            look();
        }
        self.machine.flush(ranges);
    }
}

struct Scene {
    spy: Arc<Spy>,
    engine: Arc<Engine>,
    space: Space,
    at: VirtRange,
}

impl Scene {
    fn new(source: impl Fn(&Arc<Engine>) -> Source) -> Self {
        let config = Config { frames: 2048, cpus: 2, tlb: TlbKind::Soft, contents: Contents::All };
        let spy =
            Arc::new(Spy { machine: Hosted::new(config).unwrap(), look: Mutex::default(), flushes: AtomicU32::new(0) });
        let zones = vec![FrameRange::new(FIRST_FRAME, 2048).unwrap()];
        let zone = zone::Config::new(zones, Order::new(9).unwrap());
        let engine = Engine::boot(spy.clone(), &zone).unwrap();
        let bounds = VirtRange::new(VirtAddr::new(1 << 22).unwrap(), 1 << 20).unwrap();
        let space = Space::with_format(&engine, bounds).unwrap();
        let at = space.mmap(&Map { at: None, pages: 4, protection: RW, source: source(&engine) }).unwrap();
        at.iter().for_each(|address| space.fault(address, Access::Write).unwrap());
        Self { spy, engine, space, at }
    }

    fn pfns(&self) -> Vec<Pfn> {
        self.at.iter().map(|address| self.space.entry(address).pfn()).collect()
    }

    /// Does `act`, and checks at each of its flushes what `look` tells; there must be at least one.
    fn at_each_flush(&self, look: impl Fn(&Engine) + Send + 'static, act: impl FnOnce()) {
        let engine = self.engine.clone();
        *self.spy.look.lock().unwrap() = Some(Box::new(move || look(&engine)));
        let before = self.spy.flushes.load(std::sync::atomic::Ordering::SeqCst);
        act();
        assert!(self.spy.flushes.load(std::sync::atomic::Ordering::SeqCst) > before, "nothing was flushed");
        *self.spy.look.lock().unwrap() = None;
    }
}

fn anonymous(_: &Arc<Engine>) -> Source {
    Source::Anonymous { orders: Orders::BASE }
}

fn driver(engine: &Arc<Engine>) -> Source {
    Source::Shared { file: CharDevice::new(engine, "chardev").open(4), first: 0 }
}

fn assert_in_use(engine: &Engine, pfns: &[Pfn]) {
    for &pfn in pfns {
        let frame = engine.physical().frame(pfn);
        let kind = frame.state().kind();
        assert!(kind.is_allocation(), "{pfn} is free, but still in TLBs");
        let counted = !matches!(kind, Kind::Driver | Kind::PageTable);
        assert!(frame.refs() > 0 || !counted, "{pfn} has no reference, but is still in TLBs");
    }
}

#[test]
fn munmap_frees_after_the_flush() {
    for source in [anonymous, driver] {
        let scene = Scene::new(source);
        let pfns = scene.pfns();
        let first = pfns[0];
        let watched = pfns.clone();
        scene.at_each_flush(move |engine| assert_in_use(engine, &watched), || scene.space.munmap(scene.at).unwrap());
        let kind = scene.engine.physical().frame(first).state().kind();
        assert!(!kind.is_allocation(), "the page went with its last user, after the flush");
    }
}

#[test]
fn page_tables_are_freed_after_the_flush() {
    let scene = Scene::new(anonymous);
    let tables: Vec<Pfn> = FrameRange::new(FIRST_FRAME, 2048)
        .unwrap()
        .iter()
        .filter(|&pfn| scene.engine.physical().frame(pfn).state().kind() == Kind::PageTable)
        .collect();
    assert_eq!(tables.len() as u32, TableFormat::LEVELS);
    let watched = tables.clone();
    scene.at_each_flush(move |engine| assert_in_use(engine, &watched), || scene.space.munmap(scene.at).unwrap());
    let left = tables.iter().filter(|&&pfn| scene.engine.physical().frame(pfn).state().kind() == Kind::PageTable);
    assert_eq!(left.count(), 1, "only the root is left");
}

fn contents(engine: &Engine, pfn: Pfn) -> Vec<u64> {
    let words = raw::words(engine.physical(), pfn).iter();
    words.map(|word| word.load(std::sync::atomic::Ordering::Relaxed)).collect()
}

#[test]
fn page_tables_are_copied_after_the_flush() {
    let scene = Scene::new(anonymous);
    let root = scene.space.table().root();
    let physical = scene.engine.physical();
    let is_table = |pfn: &Pfn| physical.frame(*pfn).state().is_space_table() && *pfn != root;
    let tables: Vec<Pfn> = FrameRange::new(FIRST_FRAME, 2048).unwrap().iter().filter(is_table).collect();
    assert_eq!(tables.len() as u32, TableFormat::LEVELS - 1);
    for table in tables {
        let entries = contents(&scene.engine, table);
        assert!(entries.iter().any(|&entry| entry != 0));
        let look = move |engine: &Engine| {
            assert_in_use(engine, &[table]);
            let copies = FrameRange::new(FIRST_FRAME, 2048).unwrap().iter().filter(|&pfn| {
                engine.physical().frame(pfn).state().is_space_table() && contents(engine, pfn) == entries
            });
            assert_eq!(copies.collect::<Vec<_>>(), [table], "copied before the flush");
        };
        scene.at_each_flush(look, || {
            let mut destination = AnyFree::new(physical, 1);
            let moved = Mover::new(&scene.engine).migrate(&[table], &mut destination, Options::new(Mode::Sync)).moved;
            assert_eq!(moved, 1);
        });
        assert!(!physical.frame(table).state().is_space_table());
    }
}

#[test]
fn copy_on_write_frees_after_the_flush() {
    let scene = Scene::new(anonymous);
    let child = scene.space.fork().unwrap();
    let pfn = scene.pfns()[0];
    // The parent's reference, that of the copy in progress, and that of the entry which is gone but not flushed.
    scene.at_each_flush(
        move |engine| assert_eq!(engine.physical().frame(pfn).refs(), 3),
        || child.fault(scene.at.start(), Access::Write).unwrap(),
    );
    assert_eq!(scene.engine.physical().frame(pfn).refs(), 1);
}

#[test]
fn truncation_frees_after_the_flush() {
    let config = |engine: &Arc<Engine>| CharDevice::new(engine, "chardev").open(4);
    let file = Mutex::new(None);
    let scene = Scene::new(|engine| {
        let open = config(engine);
        *file.lock().unwrap() = Some(open.clone());
        Source::Shared { file: open, first: 0 }
    });
    let pfn = scene.pfns()[0];
    let open = file.lock().unwrap().take().unwrap();
    // The index's reference, that of who truncates, and that of the entry which is gone but not flushed.
    scene.at_each_flush(move |engine| assert_eq!(engine.physical().frame(pfn).refs(), 3), || assert!(open.free(0)));
    let kind = scene.engine.physical().frame(pfn).state().kind();
    assert!(!kind.is_allocation());
}

/// One flush for the batch; at that moment all entries are blocked, nothing is copied, and the sources are in use.
#[test]
fn a_move_flushes_once_after_blocking_and_before_copying() {
    for source in [anonymous, driver] {
        let scene = Scene::new(source);
        let pfns = scene.pfns();
        for &pfn in &pfns {
            raw::words(scene.engine.physical(), pfn)[3].store(0x5eed, std::sync::atomic::Ordering::SeqCst);
        }
        let watched = pfns.clone();
        let flushes = scene.spy.flushes.load(std::sync::atomic::Ordering::SeqCst);
        scene.at_each_flush(
            move |engine| {
                assert_in_use(engine, &watched);
                for &pfn in &watched {
                    let frame = engine.physical().frame(pfn);
                    assert_eq!(frame.maps(), 0, "{pfn} is still mapped while its page is flushed");
                }
                let copies = (0..2048)
                    .map(|at| FIRST_FRAME.up(at))
                    .filter(|pfn| !watched.contains(pfn))
                    .filter(|&pfn| {
                        raw::words(engine.physical(), pfn)[3].load(std::sync::atomic::Ordering::SeqCst) == 0x5eed
                    })
                    .count();
                assert_eq!(copies, 0, "a page was copied before the flush");
            },
            || {
                let mut destination = AnyFree::new(scene.engine.physical(), 4);
                let outcome = Mover::new(&scene.engine).migrate(&pfns, &mut destination, Options::new(Mode::Sync));
                assert_eq!((outcome.moved, outcome.stayed), (4, vec![]));
            },
        );
        assert_eq!(scene.spy.flushes.load(std::sync::atomic::Ordering::SeqCst), flushes + 1);
        for pfn in scene.pfns() {
            assert_eq!(raw::words(scene.engine.physical(), pfn)[3].load(std::sync::atomic::Ordering::SeqCst), 0x5eed);
        }
    }
}
