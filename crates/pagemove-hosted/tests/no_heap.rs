//! Each allocation that a call of zsmalloc, zram or the balloon makes fails once, of the kernel's heap and of frames: the call says so or does without,
//! nothing is lost, and the next call does it. So none of them ends the kernel for want of memory.
//!
//! Varied: call, which allocation. Not varied: two failures in one call; making a pool or a device, which a kernel does early; Zstandard's own heap, which
//! is C's.

#![allow(unsafe_code)]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    ptr::null_mut,
    sync::{Arc, Mutex},
};

use common::*;
use pagemove::{
    frame::Kind,
    units::{Order, PAGE_SIZE},
};
use pagemove_drivers::{
    Balloon,
    zram::{
        self, BackingError, BackingStore, Compressor, CompressorError, Page, Recompress, Room, Writeback, Zram,
        ZramError,
    },
    zsmalloc::{self, Pool, StoreError},
};
use pagemove_hosted::TlbKind;

/// Refuses one allocation of a thread that says which.
struct Failing;

thread_local! {
    /// Allocations until the one that fails; 0: none does.
    static LEFT: Cell<u32> = const { Cell::new(0) };
}

// SAFETY: the system's allocator, or nothing.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let left = LEFT.get();
        LEFT.set(left.saturating_sub(1));
        if left == 1 {
            return null_mut();
        }
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(start, layout) }
    }
}

#[global_allocator]
static HEAP: Failing = Failing;

/// Calls `deed` with its first allocation failing, then its second, and so on, until it makes no more; gives how many it made.
/// `made` is called after each, to check what came of it, and undo it.
fn each_fails<T>(mut deed: impl FnMut() -> T, mut made: impl FnMut(T, bool)) -> u32 {
    for at in 1.. {
        LEFT.set(at);
        let result = deed();
        let all_made = LEFT.replace(0) > 0;
        made(result, all_made);
        if all_made {
            return at - 1;
        }
    }
    unreachable!("a call ends")
}

fn text(name: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    let (words, _) = page.as_chunks_mut::<8>();
    (0..).zip(words).for_each(|(at, word)| *word = (name ^ (at % 50)).to_le_bytes());
    page
}

fn noise(name: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    rand_chacha::rand_core::Rng::fill_bytes(&mut rng(name), &mut page);
    page
}

fn read(zram: &Zram, page: u32) -> Page {
    let mut found = [1; PAGE_SIZE];
    zram.read(page, &mut found).unwrap();
    found
}

#[test]
fn zsmalloc() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let free = lab.free_frames();
    let mut failures = 0;
    // Each class needs tables of its own.
    for length in [32, 700, 2500, PAGE_SIZE] {
        let pool = Pool::new(&lab.engine, zsmalloc::Options::new("pool"));
        let first = pool.store(&vec![3; length]).unwrap();
        let mut kept = Vec::with_capacity(1000);
        for round in 0..100 {
            let data = vec![round as u8; length];
            failures += each_fails(
                || pool.store(&data),
                |result, all_made| match result {
                    Ok(object) => kept.push((object, round as u8)),
                    Err(error) => assert!(!all_made && error == StoreError::NoTables, "{error}"),
                },
            );
            let mut found = vec![0; length];
            first.read().copy_to(0, &mut found);
            assert_eq!(found, vec![3; length]);
        }
        for (object, value) in &kept {
            let mut found = vec![0; length];
            object.read().copy_to(0, &mut found);
            assert_eq!(found, vec![*value; length]);
        }
        // Freeing and compaction do without.
        each_fails(|| drop(kept.pop()), |(), _| ());
        (0..).zip(std::mem::take(&mut kept)).for_each(|(at, one)| {
            if at % 3 == 0 {
                kept.push(one)
            }
        });
        each_fails(|| pool.compact(u64::MAX), |_, _| ());
        for (object, value) in &kept {
            let mut found = vec![0; length];
            object.read().copy_to(0, &mut found);
            assert_eq!(found, vec![*value; length]);
        }
        lab.validate();
        drop((kept, first));
        drop(pool);
        lab.assert_all_free(free);
    }
    assert!(failures > 10, "only {failures} allocations failed");
}

struct Store(Mutex<Vec<Page>>);

impl BackingStore for Store {
    fn blocks(&self) -> u32 {
        self.0.lock().unwrap().len() as u32
    }

    fn read(&self, block: u32, page: &mut Page) -> Result<(), BackingError> {
        *page = self.0.lock().unwrap()[block as usize];
        Ok(())
    }

    fn write(&self, block: u32, page: &Page) -> Result<(), BackingError> {
        self.0.lock().unwrap()[block as usize] = *page;
        Ok(())
    }
}

#[test]
fn zram() {
    const PAGES: u32 = 40;
    let lab = Lab::new(TlbKind::Soft, 4);
    let free = lab.free_frames();
    let mut failures = [0; 5];
    let mut settings = zram::Options::new("zram0", PAGES, zram::by_name("lz4").unwrap());
    settings.compressors.push(zram::by_name("zstd").unwrap());
    settings.backing = Some(Arc::new(Store(Mutex::new(vec![[0; PAGE_SIZE]; 60]))));
    let zram = Zram::new(&lab.engine, settings).unwrap();
    let contents = |page: u32| if page.is_multiple_of(3) { noise(page.into()) } else { text(page.into()) };
    for page in 0..PAGES {
        let data = contents(page);
        failures[0] += each_fails(
            || zram.write(page, &data),
            |result, all_made| match result {
                Ok(()) => assert_eq!(read(&zram, page), data),
                Err(error) => {
                    assert!(!all_made && matches!(error, ZramError::OutOfMemory { .. }), "{error}");
                }
            },
        );
    }
    let holds = || (0..PAGES).for_each(|page| assert_eq!(read(&zram, page), contents(page), "page {page}"));
    holds();
    // One that could be compressed wasn't stored as it is because there was no memory.
    assert_eq!(zram.mm_stat().huge_pages, u64::from(PAGES.div_ceil(3)));
    let is_no_memory = |error: ZramError| assert!(matches!(error, ZramError::OutOfMemory { .. }), "{error}");
    failures[1] +=
        each_fails(|| zram.recompress(Recompress::by(1)), |result, _| result.map_or_else(is_no_memory, |_| ()));
    holds();
    zram.mark_idle();
    let some = Writeback { max_pages: 3, ..Writeback::IDLE };
    failures[2] += each_fails(|| zram.write_back(some), |result, _| result.map_or_else(is_no_memory, |_| ()));
    let mut page = [0; PAGE_SIZE];
    for number in 0..PAGES {
        failures[3] +=
            each_fails(|| zram.read(number, &mut page), |result, _| result.map_or_else(is_no_memory, |_| ()));
    }
    holds();
    failures[4] += each_fails(|| zram.discard(0..PAGES / 2), |(), _| ());
    println!("allocations that failed: {failures:?}");
    assert!(failures[0] > 3 && failures[2] > 0);
    assert_eq!(failures[4], 0, "discarding needs no memory");
    drop(zram);
    lab.assert_all_free(free);
}

/// Can't compress anything.
struct Never;

impl Compressor for Never {
    fn name(&self) -> &str {
        "never"
    }

    fn compress(&self, _: &Page, _: &mut Room) -> Result<usize, CompressorError> {
        Err(CompressorError::Data)
    }

    fn decompress(&self, _: &[u8], _: &mut Page) -> Result<(), CompressorError> {
        Err(CompressorError::Data)
    }
}

/// For want of memory a page isn't taken for one that can't be compressed.
#[test]
fn a_recompression_is_tried_again() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let mut settings = zram::Options::new("zram0", 1, Box::new(Never));
    settings.compressors.push(zram::by_name("lz4").unwrap());
    let zram = Zram::new(&lab.engine, settings).unwrap();
    zram.write(0, &text(1)).unwrap();
    let mut smaller = 0;
    let failures = each_fails(
        || zram.recompress(Recompress::by(1)),
        |result, all_made| match result {
            Ok(done) => smaller += done.smaller,
            Err(error) => assert!(!all_made && matches!(error, ZramError::OutOfMemory { .. }), "{error}"),
        },
    );
    assert!(failures > 0 && smaller == 1);
    assert_eq!((zram.state(0).unwrap().as_str(), read(&zram, 0)), ("....r.", text(1)));
}

#[test]
fn balloon() {
    let lab = Lab::new(TlbKind::Soft, 4);
    let free = lab.free_frames();
    let balloon = Balloon::new(&lab.engine);
    let mut failures = 0;
    let mut pages = 0;
    for _ in 0..20 {
        failures += each_fails(
            || balloon.inflate(70),
            |result, all_made| {
                assert!(result.is_ok() || !all_made);
                pages += if result.is_ok() { 70 } else { 0 };
                assert_eq!(balloon.pages(), pages);
            },
        );
    }
    assert!(failures > 3, "only {failures} allocations failed");
    lab.validate();
    assert_eq!(each_fails(|| balloon.deflate(u32::MAX), |_, _| ()), 0, "deflating needs no memory");
    lab.assert_all_free(free);
}

/// Frames run out at each page that a call takes.
#[test]
fn frames() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let free = lab.free_frames();
    for left in 0..20 {
        let mut taken = lab.take_all(Kind::Kernel);
        taken.truncate(taken.len() - left);
        let zram = Zram::new(&lab.engine, zram::Options::new("zram0", 100, zram::by_name("lz4").unwrap())).unwrap();
        let mut written = 0;
        while zram.write(written, &noise(written.into())).is_ok() {
            written += 1;
        }
        assert_eq!(written as usize, left);
        (0..written).for_each(|page| assert_eq!(read(&zram, page), noise(page.into())));
        assert_eq!(read(&zram, written), [0; PAGE_SIZE]);
        let balloon = Balloon::new(&lab.engine);
        assert!(balloon.inflate(1).is_err() && lab.physical().alloc(Order::ZERO, Kind::Kernel).is_err());
        zram.discard(0..2);
        balloon.inflate(left.min(2) as u32).unwrap();
        drop((zram, balloon, taken));
        lab.assert_all_free(free);
    }
}
