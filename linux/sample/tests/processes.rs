// SPDX-License-Identifier: MIT OR GPL-2.0-only
//! Processes map the sample driver's pages while the engine moves them, as the guests' tests do on stock kernels.
//!
//! The driver's source is the kernel module's. A lost write, a page that doesn't move without a reason, and a stale
//! entry in the device's table each fail a test.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use pagemove::migrate::Mode;
use pagemove::space::FaultError;
use pagemove::units::VirtAddr;
use pagemove_hosted::TlbKind;
use pagemove_kit_hosted::{Held, Host, Open, Outcome, User};
use pagemove_sample::driver::Buffer;
use pagemove_sample::uapi::{self, Counts, Named, One, Range, WATCHED, Watched};

type Device = Arc<Open<Buffer<Held>>>;

const BOTH: [TlbKind; 2] = [TlbKind::Soft, TlbKind::Host];

fn sized(host: &Host, pages: u32) -> Device {
    let open: Device = host.open().expect("opens");
    open.ioctl(uapi::RESIZE, &mut One { number: pages.into() }.to_bytes()).expect("the size is good");
    open
}

fn counts(open: &Device) -> Counts {
    let mut bytes = [0; Counts::BYTES];
    open.ioctl(uapi::COUNT, &mut bytes).expect("counts");
    Counts::from_bytes(&bytes).expect("the length is right")
}

fn pin(open: &Device, command: u32, index: u64) {
    open.ioctl(command, &mut Named { index, name: *b"a device\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" }.to_bytes())
        .expect("pins");
}

/// Sets a flag when dropped, so that threads also end after a failed check.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_write_is_lost_while_pages_move() {
    const PAGES: u32 = 64;
    for tlb in BOTH {
        let host = Host::new(tlb, 4);
        let open = sized(&host, PAGES);
        for index in 0..WATCHED as u64 {
            open.ioctl(uapi::WATCH, &mut One { number: index }.to_bytes()).expect("watches");
        }
        let (stop, ready) = (AtomicBool::new(false), AtomicUsize::new(0));
        let rounds = thread::scope(|scope| {
            let writers: Vec<_> = (0..2)
                .map(|writer| {
                    let (host, open, stop, ready) = (&host, &open, &stop, &ready);
                    scope.spawn(move || {
                        // Each writer is its own process, with its own word in each page.
                        let process = host.process();
                        let at = host.map(&process, open, PAGES).start();
                        let word = |page| VirtAddr::new(at.up(page).get() + 8 * writer).expect("an address");
                        let mut rounds = 0;
                        while !stop.load(Ordering::Relaxed) || rounds == 0 {
                            for page in 0..PAGES {
                                assert_eq!(process.load(word(page)), Ok(rounds), "page {page}");
                                process.store(word(page), rounds + 1).expect("is mapped");
                            }
                            rounds += 1;
                            ready.fetch_add(usize::from(rounds == 1), Ordering::Relaxed);
                        }
                        rounds
                    })
                })
                .collect();
            let _stop = SetAtEnd(&stop);
            // A first fault that meets a move waits with a reference to the page. On a busy machine it waits so long
            // that the move gives up.
            while ready.load(Ordering::Relaxed) < writers.len() && !writers.iter().any(|writer| writer.is_finished()) {
                thread::yield_now();
            }
            for _ in 0..50 {
                for index in 0..u64::from(PAGES) {
                    assert_eq!(open.move_page(index, Mode::Sync), Outcome::Moved);
                }
            }
            drop(_stop);
            writers.into_iter().map(|writer| writer.join().expect("no write is lost")).collect::<Vec<u64>>()
        });
        assert_eq!((counts(&open).moved, counts(&open).refused), (50 * u64::from(PAGES), 0));
        for index in 0..u64::from(PAGES) {
            let mut seen = User::new(vec![0; 16]);
            open.read(index * 4096, &mut seen).expect("reads");
            let mut expected = rounds[0].to_ne_bytes().to_vec();
            expected.extend(rounds[1].to_ne_bytes());
            assert_eq!(seen.bytes, expected, "the driver sees what processes wrote to page {index}");
            let mut entry = Watched { index, pfn: 0 }.to_bytes();
            open.ioctl(uapi::LOOK, &mut entry).expect("looks");
            let entry = Watched::from_bytes(&entry).expect("the length is right");
            assert_eq!(Some(entry.pfn), open.pages().pfn(index), "the device's table follows");
        }
    }
}

/// The founding case: memory full of a driver's mapped pages. Every other page is freed, and one is pinned.
#[test]
fn worn_memory_becomes_whole_but_for_what_is_pinned() {
    const PAGES: u32 = 3 * 512;
    for tlb in BOTH {
        let host = Host::new(tlb, 4);
        let open = sized(&host, PAGES);
        let process = host.process();
        let at = host.map(&process, &open, PAGES).start();
        (0..PAGES).for_each(|page| process.store(at.up(page), page.into()).expect("is mapped"));
        for page in (1..PAGES).step_by(2) {
            open.ioctl(uapi::FREE, &mut Range { first: page.into(), pages: 1 }.to_bytes()).expect("frees");
        }
        pin(&open, uapi::PIN, 1000);
        let pinned = open.pages().pfn(1000);
        let physical = host.engine().physical();
        let free = || {
            physical.drain_cpu_lists();
            physical.zones().map(|zone| physical.blocks().free_blocks(zone)).sum::<u32>()
        };
        let before = free();
        let moved = host.compact(Mode::Sync);
        assert!(moved >= 256 && free() >= before + 2, "{moved} moved; {before} free blocks before, {} after", free());
        assert_eq!(open.pages().pfn(1000), pinned);
        assert!((0..PAGES).step_by(2).all(|page| process.load(at.up(page)) == Ok(page.into())));
        pin(&open, uapi::UNPIN, 1000);
        assert_eq!(open.move_page(1000, Mode::Sync), Outcome::Moved);
        physical.validate().expect("all counts are right");
    }
}

#[test]
fn what_is_cut_off_is_gone_for_processes_and_comes_back_clear() {
    let host = Host::new(TlbKind::Soft, 4);
    let open = sized(&host, 8);
    let process = host.process();
    let at = host.map(&process, &open, 8).start();
    process.store(at.up(5), 7).expect("is mapped");
    open.ioctl(uapi::RESIZE, &mut One { number: 5 }.to_bytes()).expect("shrinks");
    assert_eq!(process.load(at.up(5)), Err(FaultError::BeyondEnd(at.up(5))));
    open.ioctl(uapi::RESIZE, &mut One { number: 8 }.to_bytes()).expect("grows");
    assert_eq!(process.load(at.up(5)), Ok(0));
}

/// Pages live as long as a mapping, and are freed with the last one.
#[test]
fn closing_gives_everything_back() {
    let host = Host::new(TlbKind::Soft, 4);
    let physical = host.engine().physical();
    physical.drain_cpu_lists();
    let free = physical.free_frames();
    let open = sized(&host, 64);
    let process = host.process();
    let at = host.map(&process, &open, 64).start();
    (0..64).for_each(|page| process.store(at.up(page), 1).expect("is mapped"));
    pin(&open, uapi::PIN, 3);
    drop(open);
    assert_eq!(process.load(at.up(3)), Ok(1));
    drop(process);
    physical.drain_cpu_lists();
    assert_eq!(physical.free_frames(), free);
    physical.validate().expect("all counts are right");
}
