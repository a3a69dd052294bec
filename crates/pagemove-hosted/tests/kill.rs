//! On the host TLB a genuine violation kills the program by SIGSEGV, as it kills a process; each case in a child.
#![allow(unsafe_code)]
mod common;

use std::os::unix::process::ExitStatusExt;

use common::*;
use pagemove::{
    migrate::Mode,
    space::{PageCache, Protection},
    units::VirtRange,
};
use pagemove_hosted::{Process, TlbKind};

const SIGSEGV: i32 = 11;

/// Accesses `address` of this program as native code does.
fn poke(address: *mut u8, store: bool) {
    let address = std::hint::black_box(address).cast::<u64>();
    if store {
        // SAFETY: meant to trap; nothing else of the program lies there.
        unsafe { address.write_volatile(1) };
    } else {
        // SAFETY: as above.
        unsafe { std::hint::black_box(address.read_volatile()) };
    }
}

fn ignore<T>(_: T) {}

type Case = fn(&Lab, &Process, VirtRange);

/// Each with what is fine before it (so that the window has live translations), and dies in its last line.
const CASES: [(&str, Case); 12] = [
    ("load of an unmapped address", |_, process, at| ignore(process.load(at.end().up(100)))),
    ("store to an unmapped address", |_, process, at| ignore(process.store(at.end().up(100), 1))),
    ("load after munmap", |_, process, at| {
        process.space().munmap(at).unwrap();
        ignore(process.load(at.start()));
    }),
    ("store to a read-only page", |_, process, at| {
        process.space().mprotect(at, Protection::READ).unwrap();
        assert_eq!(process.load(at.start()).unwrap(), 1);
        ignore(process.store(at.start(), 2));
    }),
    ("load without any right", |_, process, at| {
        process.space().mprotect(at, Protection::empty()).unwrap();
        ignore(process.load(at.start()));
    }),
    ("store to a moved read-only page", |lab, process, at| {
        process.space().mprotect(at, Protection::READ).unwrap();
        lab.migrate(pfn_at(process, at.start()), Mode::Sync).unwrap();
        assert_eq!(process.load(at.start()).unwrap(), 1);
        ignore(process.store(at.start(), 2));
    }),
    ("load at the old address after mremap", |_, process, at| {
        let new = process.space().mremap(at, 4, Some(at.start().up(50))).unwrap();
        assert_eq!(process.load(new.start()).unwrap(), 1);
        ignore(process.load(at.start()));
    }),
    ("load behind the end of a file", |lab, process, _| {
        let at = shared(process, PageCache::new(&lab.engine, "file", 1), 2, RW);
        assert_eq!(process.load(at.start()).unwrap(), 0);
        ignore(process.load(at.start().up(1)));
    }),
    ("store behind the end of a private file", |lab, process, _| {
        let at = private(process, PageCache::new(&lab.engine, "file", 1), 2);
        process.store(at.start(), 1).unwrap();
        ignore(process.store(at.start().up(1), 1));
    }),
    ("native store outside all mappings", |_, process, at| {
        poke(process.host_address(at.start()).unwrap(), true);
        poke(process.host_address(at.end()).unwrap(), true);
    }),
    ("null pointer", |_, _, _| poke(std::ptr::without_provenance_mut(8), false)),
    ("store without memory", |lab, process, at| {
        let _all = lab.take_all(pagemove::frame::Kind::Kernel);
        process.space().munmap(part(at, 1, 1)).unwrap();
        let at = anonymous(process, 600);
        at.iter().for_each(|page| ignore(process.store(page, 1)));
    }),
];

#[test]
fn violations_kill() {
    if let Some(case) = case() {
        let lab = Lab::new(TlbKind::Host, 1);
        let process = lab.process();
        let at = anonymous(&process, 4);
        at.iter().for_each(|page| process.store(page, 1).unwrap());
        println!("ready");
        CASES.iter().find(|(name, _)| *name == case).unwrap().1(&lab, &process, at);
        println!("survived");
        return;
    }
    for (name, _) in CASES {
        let output = run_case("violations_kill", name);
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("ready"), "{name}: {output:?}");
        assert!(!text.contains("survived"), "{name}: {output:?}");
        assert_eq!(output.status.signal(), Some(SIGSEGV), "{name}: {output:?}");
    }
}

/// A child that does nothing wrong ends well: so the deaths above are of the violations.
#[test]
fn no_violation_does_not_kill() {
    if case().is_some() {
        let lab = Lab::new(TlbKind::Host, 1);
        let process = lab.process();
        let at = anonymous(&process, 4);
        poke(process.host_address(at.start()).unwrap(), true);
        lab.migrate(pfn_at(&process, at.start()), Mode::Sync).unwrap();
        poke(process.host_address(at.start()).unwrap(), false);
        assert_eq!(process.load(at.start()).unwrap(), 1);
        println!("survived");
        return;
    }
    let output = run_case("no_violation_does_not_kill", "none");
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("survived"), "{output:?}");
}

/// Accesses outside the bounds of a window are errors of the call, not accesses at all.
#[test]
fn addresses_outside_the_window_are_refused_by_the_call() {
    on_both(1, |lab| {
        let process = lab.process();
        let bounds = process.space().bounds();
        assert!(process.load(bounds.end()).is_err());
        assert!(process.store(pagemove::units::VirtAddr::default(), 1).is_err());
        let odd = pagemove::units::VirtAddr::new(bounds.start().get() + 4).unwrap();
        assert!(process.load(odd).is_err());
        assert_eq!(process.host_address(bounds.end()), None);
    });
}
