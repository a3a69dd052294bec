//! Cases of Linux's selftests for memory management (`tools/testing/selftests/mm`) again; `selftests_rmap.rs` and `hmm.rs`
//! have those of `rmap` and `hmm-tests`, `pins.rs` those of `gup_test`, `fire.rs` that of `transhuge-stress`.
//!
//! | not here | why |
//! | --- | --- |
//! | `migration`: `shared_anon_thp`, `*_hugetlb` | 2 MiB pages are one process's: a fork splits them; there is no pool of huge pages |
//! | `mkdirty`: `ptrace`, `uffdio_copy` | nobody writes behind a mapping's rights; no userfaultfd |
//! | `cow`: swapped out, `io_uring`, `vmsplice`, zero page | no swap and no shared zero page; the users of pins there are one kind of pin here |
//! | `gup_longterm`: refused on file systems that track dirty pages | a pin for writing marks its page dirty when it ends, so none need be refused |
//! | `split_huge_page_test`: by debugfs, in the page cache | splits come from what needs a part; files have base pages only |
mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use common::*;
use pagemove::{
    compact::alloc_compacting,
    folio::{FrozenFolio, PinnedPage},
    frame::Kind,
    migrate::{Batch, Mode, Options},
    paging::Flags,
    report::Reason,
    space::{FaultError, PageCache, Protection},
    units::{HUGE_ORDER, Pfn, VirtAddr, VirtRange},
    zone::Request,
};
use pagemove_drivers::CharDevice;
use pagemove_hosted::{Process, TlbKind, enter_cpu};
use rand::seq::SliceRandom;

/// Users of a page: in which process, and where.
type Users = (Vec<Process>, VirtAddr);

const USERS: usize = 4;
const MOVES: u64 = 60;

/// A page moves to and fro while four threads use it, each by one of the processes; each has a word of its own, which it
/// counts up, and looks at the others', which never go back.
fn to_and_fro(nodes: &Nodes, (processes, at): &Users, mut move_once: impl FnMut(u64, Pfn) -> u64) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for user in 0..USERS {
            let over = &over;
            scope.spawn(move || {
                enter_cpu(user);
                let _failed = SetAtEnd(over);
                let process = &processes[user % processes.len()];
                let mut seen = [0; USERS];
                while !over.load(Ordering::Relaxed) {
                    for (other, seen) in seen.iter_mut().enumerate() {
                        let now = process.load(word(*at, other as u64)).unwrap();
                        assert!(if other == user { now == *seen } else { now >= *seen }, "a store was lost");
                        *seen = now;
                    }
                    seen[user] += 1;
                    process.store(word(*at, user as u64), seen[user]).unwrap();
                }
            });
        }
        let _end = SetAtEnd(&over);
        let mut moved = 0;
        while moved < MOVES && !over.load(Ordering::Relaxed) {
            moved += move_once(moved, pfn_at(&processes[0], *at));
        }
    });
    nodes.lab.validate();
}

fn between_nodes(make: fn(&Lab) -> Users) {
    for tlb in BOTH {
        let nodes = Nodes::new(tlb, 2);
        let free = nodes.lab.free_frames();
        let users = make(&nodes.lab);
        to_and_fro(&nodes, &users, |turn, pfn| {
            let node = 1 - nodes.of(pfn);
            let outcome = nodes.move_to(node, &[pfn], MODES[turn as usize % 3]);
            assert!(outcome.stayed.iter().all(|(_, reason)| reason.is_transient()), "{outcome:?}");
            assert_eq!(nodes.of(pfn_at(&users.0[0], users.1)) == node, outcome.moved == 1);
            outcome.moved
        });
        drop(users);
        nodes.lab.assert_all_free(free);
    }
}

#[test]
fn selftests_migration_private_anon() {
    between_nodes(|lab| {
        let process = lab.process();
        let at = anonymous(&process, 1).start();
        process.store(word(at, 9), 1).unwrap();
        (vec![process], at)
    });
}

#[test]
fn selftests_migration_shared_anon() {
    between_nodes(|lab| {
        let parent = lab.process();
        let at = shared(&parent, PageCache::new(&lab.engine, "shared memory", 1), 1, RW).start();
        parent.store(word(at, 9), 1).unwrap();
        let children: Vec<Process> = (1..USERS).map(|_| parent.fork().unwrap()).collect();
        ([vec![parent], children].into_iter().flatten().collect(), at)
    });
}

/// Linux has none: a device's page, mapped at other places by strangers.
#[test]
fn selftests_migration_shared_device() {
    between_nodes(|lab| {
        let device = CharDevice::new(&lab.engine, "chardev").open(1);
        let processes: Vec<Process> = (0..USERS).map(|_| lab.process()).collect();
        let at: Vec<VirtRange> = processes.iter().map(|process| shared(process, device.clone(), 1, RW)).collect();
        processes[0].store(word(at[0].start(), 9), 1).unwrap();
        (processes, at[0].start())
    });
}

#[test]
fn selftests_migration_private_anon_thp() {
    for tlb in BOTH {
        let nodes = Nodes::new(tlb, 2);
        let free = nodes.lab.free_frames();
        let process = nodes.lab.process();
        let at = huge(&process, 512).start();
        process.store(word(at, 9), 1).unwrap();
        assert!(process.space().entry(at).has(Flags::HUGE));
        let users = (vec![process], at);
        to_and_fro(&nodes, &users, |turn, pfn| {
            let moved = nodes.lab.migrate(pfn, MODES[turn as usize % 3]).is_ok();
            assert_eq!(pfn_at(&users.0[0], at) != pfn, moved);
            // 512 base pages in one; so that there are fewer turns.
            if moved { 4 } else { 0 }
        });
        assert!(users.0[0].space().entry(at).has(Flags::HUGE));
        drop(users);
        nodes.lab.assert_all_free(free);
    }
}

/// A dirty page of a mapping without the right to store must not become writable by its move. (On the host TLB a store
/// kills the process; `kill.rs` has that.)
fn mkdirty(pages: u32, make: fn(&Lab, &Process) -> VirtRange) {
    let lab = Lab::new(TlbKind::Soft, 4);
    let process = lab.process();
    let at = make(&lab, &process);
    process.store(at.start(), 6).unwrap();
    process.space().mprotect(part(at, 0, pages), Protection::READ).unwrap();
    for mode in MODES {
        let before = process.space().entry(at.start());
        assert!(before.has(Flags::DIRTY) && !before.has(Flags::WRITE));
        lab.migrate(before.pfn(), mode).unwrap();
        let after = process.space().entry(at.start());
        assert_ne!(after.pfn(), before.pfn());
        assert_eq!(after.flags(), before.flags());
        assert_eq!(process.store(at.start(), 7), Err(FaultError::Protection(at.start())));
        assert_eq!(process.load(at.start()).unwrap(), 6);
    }
}

#[test]
fn selftests_mkdirty_page_migration() {
    mkdirty(1, |_, process| anonymous(process, 1));
    mkdirty(1, |lab, process| shared(process, PageCache::new(&lab.engine, "file", 1), 1, RW));
    mkdirty(1, |lab, process| private(process, PageCache::new(&lab.engine, "file", 1), 1));
    mkdirty(1, |lab, process| shared(process, CharDevice::new(&lab.engine, "chardev").open(1), 1, RW));
}

#[test]
fn selftests_mkdirty_page_migration_thp() {
    mkdirty(512, |_, process| huge(process, 512));
}

/// As the one above, of a page that belonged to a 2 MiB page once.
#[test]
fn selftests_mkdirty_pte_mapped_thp() {
    mkdirty(1, |_, process| huge(process, 512));
}

/// New memory at the address of old is marked by its first store, whatever was cleared there before.
#[test]
fn selftests_soft_dirty_vma_reuse() {
    on_both(1, |lab| {
        let process = lab.process();
        let file = PageCache::new(&lab.engine, "file", 1);
        let mut at = anonymous(&process, 1);
        for turn in 0..4 {
            process.store(at.start(), 1).unwrap();
            assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
            process.space().clear_soft_dirty();
            assert!(!process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
            lab.migrate(pfn_at(&process, at.start()), MODES[turn % 3]).unwrap();
            process.space().munmap(at).unwrap();
            let again = if turn % 2 == 0 { shared(&process, file.clone(), 1, RW) } else { anonymous(&process, 1) };
            assert_eq!(again, at);
            at = again;
        }
    });
}

#[test]
fn selftests_soft_dirty_simple_and_mprotect() {
    on_both(1, |lab| {
        let process = lab.process();
        let device = CharDevice::new(&lab.engine, "chardev").open(3);
        let file = PageCache::new(&lab.engine, "file", 3);
        let mappings = [anonymous(&process, 3), shared(&process, device, 3, RW), private(&process, file, 3)];
        for at in mappings {
            let is_marked = |page| process.space().entry(at.start().up(page)).has(Flags::SOFT_DIRTY);
            at.iter().for_each(|page| process.store(page, 1).unwrap());
            assert!((0..3).all(is_marked));
            process.space().clear_soft_dirty();
            assert!(!(0..3).any(is_marked));
            assert_eq!(process.load(at.start()).unwrap(), 1);
            assert!(!is_marked(0), "a load is no store");
            for page in [1, 2] {
                process.store(at.start().up(page), 2).unwrap();
                process.store(at.start().up(page), 3).unwrap();
            }
            process.space().mprotect(part(at, 2, 1), Protection::READ).unwrap();
            assert_eq!([0, 1, 2].map(is_marked), [false, true, true]);
            for page in at.iter() {
                lab.migrate(pfn_at(&process, page), Mode::Sync).unwrap();
            }
            assert_eq!([0, 1, 2].map(is_marked), [false, true, true]);
            process.store(at.start(), 3).unwrap();
            assert!(is_marked(0));
            assert!(at.iter().all(|page| process.load(page).unwrap() == 3));
        }
    });
}

#[test]
fn selftests_soft_dirty_hugepage() {
    on_both(5, |lab| {
        let process = lab.process();
        let at = huge(&process, 512);
        process.store(at.start().up(98), 5).unwrap();
        process.space().clear_soft_dirty();
        lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
        assert!(!process.space().entry(at.start()).has(Flags::SOFT_DIRTY));
        process.store(at.start().up(99), 100).unwrap();
        lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
        assert!(process.space().entry(at.start()).has(Flags::SOFT_DIRTY | Flags::DIRTY | Flags::HUGE));
        assert_eq!([98, 99].map(|page| process.load(at.start().up(page)).unwrap()), [5, 100]);
    });
}

/// When a page is pinned, in [`cow`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Pinned {
    Never,
    BeforeFork { write: bool },
    AfterFork { write: bool, by_child: bool },
}

/// Parent and child store, in either order, with pins, with moves at any time between: neither sees the other's, and a
/// pin always shows its own process's memory.
fn cow(lab: &Lab, is_huge: bool, pinned: Pinned, moves_at: u32, child_first: bool) {
    let what = format!("huge {is_huge}, {pinned:?}, moved at {moves_at}, child first {child_first}");
    let parent = lab.process();
    let at = part(if is_huge { huge(&parent, 512) } else { anonymous(&parent, 4) }, 1, 1);
    let move_all = |step: u32, processes: &[&Process]| {
        if step == moves_at {
            let mut pages: Vec<Pfn> = processes.iter().map(|process| pfn_at(process, at.start())).collect();
            pages.sort();
            pages.dedup();
            let outcome = lab.migrate_all(&pages, Options::new(MODES[step as usize % 3]));
            let stays = |&(pfn, reason)| reason == Reason::Pinned && !lab.engine.physical().pins().of(pfn).is_empty();
            let tail = |&(pfn, reason): &(Pfn, Reason)| {
                reason == Reason::Order || reason == Reason::Unmovable && is_huge && pfn.get() % 512 != 0
            };
            assert!(outcome.stayed.iter().all(|stayed| stays(stayed) || tail(stayed)), "{what}: {outcome:?}");
        }
    };
    parent.store(at.start(), 1).unwrap();
    let pin = |process: &Process, write| -> Vec<PinnedPage> { process.space().pin(at, write, "nic").unwrap() };
    let shows = |pins: &[PinnedPage], process: &Process| {
        for pin in pins {
            assert_eq!(pin.words(0)[0].load(Ordering::SeqCst), process.load(at.start()).unwrap(), "{what}: of the pin");
            assert_eq!(pin.pfn(), pfn_at(process, at.start()), "{what}: of the pin");
        }
    };
    move_all(0, &[&parent]);
    let mut of_parent = match pinned {
        Pinned::BeforeFork { write } => pin(&parent, write),
        _ => Vec::new(),
    };
    let mut of_child = Vec::new();
    let child = parent.fork().unwrap();
    move_all(1, &[&parent, &child]);
    if let Pinned::AfterFork { write, by_child } = pinned {
        if by_child {
            of_child = pin(&child, write);
        } else {
            of_parent = pin(&parent, write);
        }
    }
    assert_eq!([parent.load(at.start()).unwrap(), child.load(at.start()).unwrap()], [1, 1], "{what}");
    move_all(2, &[&parent, &child]);
    let mut holds = [1, 1];
    for turn in 0..2 {
        let who = usize::from(child_first == (turn == 0));
        holds[who] = 10 + who as u64;
        [&parent, &child][who].store(at.start(), holds[who]).unwrap();
        assert_eq!([parent.load(at.start()).unwrap(), child.load(at.start()).unwrap()], holds, "{what}");
        shows(&of_parent, &parent);
        shows(&of_child, &child);
        move_all(3 + turn, &[&parent, &child]);
    }
    // A device's store shows to its process alone.
    for (pins, process, other) in [(&of_parent, &parent, &child), (&of_child, &child, &parent)] {
        for pin in pins {
            let before = other.load(at.start()).unwrap();
            pin.words(0)[0].store(99, Ordering::SeqCst);
            assert_eq!([process.load(at.start()).unwrap(), other.load(at.start()).unwrap()], [99, before], "{what}");
        }
    }
}

#[test]
fn selftests_cow() {
    let both = [false, true];
    let mut pins = vec![Pinned::Never];
    pins.extend(both.map(|write| Pinned::BeforeFork { write }));
    pins.extend(both.into_iter().flat_map(|write| both.map(|by_child| Pinned::AfterFork { write, by_child })));
    for tlb in BOTH {
        for is_huge in both {
            let lab = Lab::new(tlb, 8);
            for &pinned in &pins {
                for moves_at in 0..5 {
                    for child_first in both {
                        cow(&lab, is_huge, pinned, moves_at, child_first);
                    }
                }
            }
            lab.assert_all_free(8 * 512);
        }
    }
}

/// Any memory can be pinned for long, to read or to write; it stays, and device and process see each other's stores.
#[test]
fn selftests_gup_longterm() {
    on_both(1, |lab| {
        let process = lab.process();
        let (store, _) = stored_file(lab, 2);
        let memory = PageCache::new(&lab.engine, "memory file", 2);
        let device = CharDevice::new(&lab.engine, "chardev").open(2);
        let mappings = [
            ("anonymous", anonymous(&process, 2)),
            ("a memory file, shared", shared(&process, memory.clone(), 2, RW)),
            ("a memory file, private", private(&process, memory.clone(), 2)),
            ("a file, shared", shared(&process, store.clone(), 2, RW)),
            ("a file, private", private(&process, store.clone(), 2)),
            ("a device, shared", shared(&process, device.clone(), 2, RW)),
            ("a device, private", private(&process, device.clone(), 2)),
        ];
        for (name, at) in mappings {
            for (page, write) in [(0, false), (1, true)] {
                let address = at.start().up(page);
                let pins = process.space().pin(part(at, page, 1), write, "nic").unwrap();
                process.store(address, 5).unwrap();
                assert_eq!(pins[0].words(0)[0].load(Ordering::SeqCst), 5, "{name}, write {write}");
                for mode in MODES {
                    assert_eq!(lab.migrate(pins[0].pfn(), mode), Err(Reason::Pinned), "{name}, write {write}");
                }
                pins[0].words(0)[0].store(6, Ordering::SeqCst);
                assert_eq!(process.load(address).unwrap(), 6, "{name}, write {write}");
                drop(pins);
                assert_eq!(lab.migrate(pfn_at(&process, address), Mode::Async), Ok(()), "{name}, write {write}");
                assert_eq!(process.load(address).unwrap(), 6, "{name}, write {write}");
            }
        }
        // The stores to private mappings were to copies: what the files hold was stored through the shared ones.
        process.store(mappings_of(&process, "memory file"), 60).unwrap();
        assert_eq!(lab.process_reading(&memory, 0), 60);
        assert_eq!(device.read(0, 0).unwrap(), 6);
    });
}

/// Where the process maps the file of this name, shared.
fn mappings_of(process: &Process, name: &str) -> VirtAddr {
    let vmas = process.space().vmas();
    vmas.iter().find(|vma| vma.is_shared() && vma.file_name() == Some(name)).unwrap().range.start()
}

/// A quarter of RAM as 2 MiB blocks, out of memory in which base pages are strewn everywhere.
#[test]
fn selftests_compaction_test() {
    for (tlb, seed) in [(TlbKind::Soft, 1), (TlbKind::Host, 2)] {
        println!("{tlb:?} TLB, seed {seed}");
        let lab = Lab::new(tlb, 32);
        {
            let process = lab.process();
            let pages = 32 * 512 - 100;
            let at = anonymous(&process, pages);
            at.iter().enumerate().for_each(|(number, page)| process.store(page, number as u64).unwrap());
            let mut left: Vec<u32> = (0..pages).collect();
            left.shuffle(&mut rng(seed));
            let gone = left.split_off(left.len() * 3 / 5);
            gone.into_iter().for_each(|page| process.space().munmap(part(at, page, 1)).unwrap());
            let physical = lab.engine.physical();
            assert!(physical.alloc(HUGE_ORDER, Kind::Kernel).is_err(), "memory was not fragmented");
            let request = Request::new(HUGE_ORDER, Kind::Kernel);
            let got: Vec<FrozenFolio<'_>> = (0..8)
                .map(|_| alloc_compacting(&lab.engine, &request, Options::new(Mode::SyncLight)).unwrap())
                .collect();
            assert!(got.iter().all(|folio| folio.pfn().is_aligned(HUGE_ORDER)));
            assert!(left.iter().all(|&page| process.load(at.start().up(page)).unwrap() == u64::from(page)));
            lab.validate();
            drop(got);
        }
        lab.assert_all_free(32 * 512);
    }
}

/// Everything that splits a 2 MiB page leaves its contents, in 512 pages that move one by one.
#[test]
fn selftests_split_huge_page_test() {
    type Split = fn(&Process, VirtRange);
    let splits: [(&str, Split); 5] = [
        ("munmap of a page", |process, at| process.space().munmap(part(at, 3, 1)).unwrap()),
        ("mprotect of a page", |process, at| process.space().mprotect(part(at, 3, 1), Protection::READ).unwrap()),
        ("mremap of a page", |process, at| {
            process.space().mremap(part(at, 3, 1), 1, Some(at.start().up(4096))).unwrap();
        }),
        ("fork", |process, _| drop(process.fork().unwrap())),
        ("a pin", |process, at| drop(process.space().pin(part(at, 3, 1), true, "nic").unwrap())),
    ];
    for (name, split) in splits {
        on_both(5, |lab| {
            let process = lab.process();
            let at = huge(&process, 512);
            at.iter().for_each(|page| process.store(page, page.get()).unwrap());
            assert!(process.space().entry(at.start()).has(Flags::HUGE));
            split(&process, at);
            lab.validate();
            // The entry is split where it must be; then the folio, as the selftest does through debugfs.
            let is_split = !matches!(name, "fork" | "a pin");
            assert_eq!(process.space().entry(at.start()).has(Flags::HUGE), !is_split, "{name}");
            let left = if name == "munmap of a page" { 511 } else { 512 };
            let head = pfn_at(&process, at.start());
            drop(pagemove::migrate::split(&lab.engine, lab.get(head).lock()).expect(name));
            let mut pages = Vec::new();
            process.space().for_each_entry(|_, entry| {
                assert!(!entry.has(Flags::HUGE), "{name}");
                pages.push(entry.pfn());
            });
            assert_eq!(pages.len(), left, "{name}");
            lab.validate();
            let outcome = lab.migrate_all(&pages, Options { batch: Batch::Folios(7), ..Options::new(Mode::Sync) });
            assert_eq!((outcome.moved, outcome.stayed), (left as u64, vec![]), "{name}");
            for page in at.iter().filter(|&page| process.space().entry(page).is_present()) {
                assert_eq!(process.load(page).unwrap(), page.get(), "{name}");
            }
        });
    }
}
