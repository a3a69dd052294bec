//! zram on the engine: each page has what was written last, whatever compresses it, writes it back, or moves it meanwhile; what is refused; and
//! figures.
//!
//! Varied: contents (same, compressible, not), algorithms, idle or not, backing store (none, full, failing), limits, users of one slot and of
//! different ones, moves. Not varied: interleavings at each step (schedules run zsmalloc's), chains (zsmalloc's tests).
mod common;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use common::*;
use pagemove::{frame::Kind, migrate::Mode, units::PAGE_SIZE};
use pagemove_drivers::{
    zram::{
        self, BackingError, BackingStore, Compressor, CompressorError, Options as Settings, Page, Recompress, Room,
        Writeback, Zram, ZramError,
    },
    zsmalloc::StoreError,
};
use pagemove_hosted::{TlbKind, enter_cpu};
use rand::{RngExt, rngs::SmallRng};
use rand_chacha::rand_core::{Rng as _, SeedableRng};

fn lab() -> Lab {
    Lab::new(TlbKind::Soft, 16)
}

fn lz4() -> Box<dyn Compressor> {
    zram::by_name("lz4").unwrap()
}

/// Both compressors, and a store.
fn full(lab: &Lab, pages: u32, store: Arc<Store>) -> Zram {
    let mut settings = Settings::new("zram0", pages, lz4());
    settings.compressors.push(zram::by_name("zstd").unwrap());
    settings.backing = Some(store);
    Zram::new(&lab.engine, settings).unwrap()
}

fn plain(lab: &Lab, pages: u32) -> Zram {
    Zram::new(&lab.engine, Settings::new("zram0", pages, lz4())).unwrap()
}

/// Text of few words: a third or so of its size.
fn text(name: u64) -> Page {
    let mut rng = SmallRng::seed_from_u64(name);
    let mut page = [0; PAGE_SIZE];
    for word in page.chunks_mut(16) {
        let number = rng.random_range(0..400u64);
        word.copy_from_slice(&format!("word {number:010} ").into_bytes()[..word.len()]);
    }
    page
}

fn noise(name: u64) -> Page {
    let mut page = [0; PAGE_SIZE];
    SmallRng::seed_from_u64(name).fill_bytes(&mut page);
    page
}

/// A page that tells its name, by which all of it is known.
fn any(name: u64) -> Page {
    let mut page = match name % 4 {
        0 => [name as u8; PAGE_SIZE],
        1 => noise(name),
        _ => text(name),
    };
    page[..8].copy_from_slice(&name.to_le_bytes());
    if name.is_multiple_of(8) {
        let (words, _) = page.as_chunks_mut::<8>();
        words.fill(name.to_le_bytes());
    }
    page
}

fn read(zram: &Zram, page: u32) -> Page {
    let mut found = [1; PAGE_SIZE];
    zram.read(page, &mut found).unwrap();
    found
}

/// A store of blocks, some of which fail.
struct Store {
    blocks: Vec<Mutex<Page>>,
    fails: AtomicBool,
}

impl Store {
    fn new(blocks: usize) -> Arc<Self> {
        Arc::new(Self {
            blocks: (0..blocks).map(|_| Mutex::new([7; PAGE_SIZE])).collect(),
            fails: AtomicBool::new(false),
        })
    }

    fn check(&self) -> Result<(), BackingError> {
        if self.fails.load(Ordering::Relaxed) { Err(BackingError) } else { Ok(()) }
    }
}

impl BackingStore for Store {
    fn blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    fn read(&self, block: u32, page: &mut Page) -> Result<(), BackingError> {
        self.check()?;
        *page = *self.blocks[block as usize].lock().unwrap();
        Ok(())
    }

    fn write(&self, block: u32, page: &Page) -> Result<(), BackingError> {
        self.check()?;
        *self.blocks[block as usize].lock().unwrap() = *page;
        Ok(())
    }
}

/// Any list of calls has the results that a map from pages to contents has.
#[test]
fn random_histories_have_the_results_of_a_map() {
    const PAGES: u32 = 200;
    for seed in 0..6 {
        let lab = lab();
        let free = lab.free_frames();
        let store = Store::new(60);
        let zram = full(&lab, PAGES, store);
        let mut model: HashMap<u32, u64> = HashMap::new();
        let mut rng = rng(seed);
        for turn in 0..3000u64 {
            let page = rng.random_range(0..PAGES);
            match rng.random_range(0..100) {
                0..40 => {
                    let name = turn << 8 | rng.random_range(0..256);
                    zram.write(page, &any(name)).unwrap();
                    model.insert(page, name);
                }
                40..80 => {
                    let expected = model.get(&page).map_or([0; PAGE_SIZE], |&name| any(name));
                    assert_eq!(read(&zram, page), expected, "page {page}, turn {turn}, seed {seed}");
                }
                80..88 => {
                    let pages = rng.random_range(0..8);
                    zram.discard(page..page + pages);
                    model.retain(|other, _| !(page..page + pages).contains(other));
                }
                88..90 => zram.mark_idle(),
                90..92 => {
                    let how = Recompress { idle: rng.random(), huge: rng.random(), max_pages: 50, ..Recompress::by(1) };
                    zram.recompress(how).unwrap();
                }
                92..94 => {
                    let which = Writeback {
                        idle: rng.random(),
                        huge: rng.random(),
                        max_pages: 20,
                        incompressible: rng.random(),
                    };
                    zram.write_back(which).unwrap();
                }
                94..96 => drop(zram.compact(rng.random_range(0..20))),
                _ => drop(lab.move_drivers(MODES[rng.random_range(0..3)])),
            }
        }
        for page in 0..PAGES {
            let expected = model.get(&page).map_or([0; PAGE_SIZE], |&name| any(name));
            assert_eq!(read(&zram, page), expected, "page {page}, seed {seed}");
        }
        let (mm, bd) = (zram.mm_stat(), zram.bd_stat());
        assert_eq!(mm.orig_data_size, (model.len() * PAGE_SIZE) as u64);
        assert_eq!(mm.mem_used_total, zram.pool().stats().bytes());
        assert!(
            mm.mem_used_max >= mm.mem_used_total && mm.pages_compacted > 0 && bd.bd_writes >= bd.bd_count,
            "{mm} {bd}"
        );
        zram.discard(0..PAGES);
        let mm = zram.mm_stat();
        assert_eq!((mm.orig_data_size, mm.compr_data_size, mm.same_pages, mm.huge_pages), (0, 0, 0, 0));
        assert_eq!((mm.mem_used_total, zram.bd_stat().bd_count), (0, 0));
        drop(zram);
        lab.assert_all_free(free);
    }
}

/// Users of different slots and of the same ones; pages move, are compressed again and written back meanwhile. A page that is read is one that
/// was written, as a whole.
#[test]
fn a_storm() {
    const PAGES: u32 = 64;
    const TURNS: u64 = 2000;
    let seed = new_seed();
    let lab = lab();
    let free = lab.free_frames();
    let zram = full(&lab, PAGES, Store::new(30));
    let (moved, worked, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let users: Vec<_> = (0..2u64)
            .map(|user| {
                let (zram, moved, worked) = (&zram, &moved, &worked);
                scope.spawn(move || {
                    enter_cpu(user as usize);
                    let mut rng = rng(seed ^ user);
                    // Of the first half of the pages, which are this user's alone.
                    let mut own: HashMap<u32, u64> = HashMap::new();
                    let done = || [moved, worked].iter().all(|count| count.load(Ordering::Relaxed) > 0);
                    for turn in (0..).take_while(|&turn| turn < TURNS || !done()) {
                        let name = 1 << 32 | turn << 1 | user;
                        let shared = rng.random_range(PAGES / 2..PAGES);
                        let mine = rng.random_range(0..PAGES / 4) * 2 + user as u32;
                        match rng.random_range(0..6) {
                            0 => zram.write(shared, &any(name)).unwrap(),
                            1 | 2 => {
                                let found = read(zram, shared);
                                let name = u64::from_le_bytes(found[..8].try_into().unwrap());
                                assert!(found == [0; PAGE_SIZE] || found == any(name), "a mixture; seed {seed}");
                            }
                            3 => {
                                zram.write(mine, &any(name)).unwrap();
                                own.insert(mine, name);
                            }
                            4 if turn.is_multiple_of(16) => {
                                zram.discard(mine..mine + 1);
                                own.remove(&mine);
                            }
                            _ => {
                                let expected = own.get(&mine).map_or([0; PAGE_SIZE], |&name| any(name));
                                assert_eq!(read(zram, mine), expected, "page {mine}, seed {seed}");
                            }
                        }
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            enter_cpu(2);
            while !over.load(Ordering::Relaxed) {
                moved.fetch_add(
                    lab.move_drivers(Mode::Async).moved + lab.move_drivers(Mode::Sync).moved,
                    Ordering::Relaxed,
                );
            }
        });
        scope.spawn(|| {
            enter_cpu(3);
            while !over.load(Ordering::Relaxed) {
                zram.mark_idle();
                let smaller =
                    zram.recompress(Recompress { idle: true, max_pages: 5, ..Recompress::by(1) }).unwrap().smaller;
                let written = zram.write_back(Writeback { max_pages: 3, ..Writeback::IDLE }).unwrap().pages;
                zram.compact(3);
                worked.fetch_add(smaller.min(written), Ordering::Relaxed);
            }
        });
        let results: Vec<_> = users.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::Relaxed);
        results.into_iter().for_each(|result| result.unwrap());
    });
    println!("{moved:?} pages moved, {}", zram.mm_stat());
    zram.discard(0..PAGES);
    // Zspages that became empty while their pages moved.
    zram.compact(u64::MAX);
    assert_eq!((zram.mm_stat().mem_used_total, zram.mm_stat().compr_data_size, zram.bd_stat().bd_count), (0, 0, 0));
    drop(zram);
    lab.assert_all_free(free);
}

#[test]
fn figures_are_linuxs() {
    let lab = lab();
    let zram = full(&lab, 100, Store::new(10));
    let zeros = [0; PAGE_SIZE];
    zram.write(0, &zeros).unwrap();
    zram.write(1, &[7; PAGE_SIZE]).unwrap();
    zram.write(2, &noise(1)).unwrap();
    (10..20).for_each(|page| zram.write(page, &text(u64::from(page))).unwrap());
    let mm = zram.mm_stat();
    assert_eq!((mm.orig_data_size, mm.same_pages, mm.huge_pages, mm.huge_pages_since), (13 * 4096, 2, 1, 1));
    assert!(mm.compr_data_size > 4096 && mm.compr_data_size < 11 * 4096);
    assert_eq!(mm.to_string().split_whitespace().count(), 9);
    let states = [0, 2, 10, 50].map(|page| zram.state(page).unwrap());
    assert_eq!(states, ["s.....", "..h...", "......", "......"]);
    // Zstandard makes text smaller, and not noise.
    zram.mark_idle();
    let again = zram.recompress(Recompress { idle: true, ..Recompress::by(1) }).unwrap();
    assert_eq!((again.pages, again.smaller), (11, 10));
    assert_eq!(mm.compr_data_size - zram.mm_stat().compr_data_size, again.saved);
    assert_eq!([2, 10].map(|page| zram.state(page).unwrap()), ["..hi.n", "...ir."]);
    assert_eq!(zram.recompress(Recompress::by(1)).unwrap().pages, 0, "nothing is left to try");
    assert_eq!(read(&zram, 10), text(10));
    assert_eq!(zram.state(10).unwrap(), "....r.", "read, so not idle");
    // The noise, and then what is idle.
    let incompressible = Writeback { incompressible: true, idle: false, ..Writeback::IDLE };
    assert_eq!(zram.write_back(incompressible).unwrap().pages, 1);
    assert_eq!(zram.state(2).unwrap(), ".w....");
    assert_eq!(zram.write_back(Writeback { max_pages: 4, ..Writeback::IDLE }).unwrap().pages, 4);
    assert_eq!((zram.bd_stat().bd_count, zram.bd_stat().bd_writes, zram.bd_stat().bd_reads), (5, 5, 0));
    assert_eq!((read(&zram, 2), read(&zram, 11)), (noise(1), text(11)));
    assert_eq!(zram.bd_stat().bd_reads, 2);
    assert_eq!((zram.mm_stat().orig_data_size, zram.mm_stat().huge_pages), (13 * 4096, 0));
    zram.discard(0..5);
    assert_eq!((zram.io_stat().notify_free, zram.bd_stat().bd_count), (3, 4));
}

#[test]
fn bad_input_is_refused_and_harms_nothing() {
    let lab = lab();
    let zram = plain(&lab, 10);
    let mut page = [3; PAGE_SIZE];
    for number in [10, u32::MAX] {
        assert_eq!(zram.write(number, &text(1)), Err(ZramError::BeyondEnd { page: number, pages: 10 }));
        assert_eq!(zram.read(number, &mut page), Err(ZramError::BeyondEnd { page: number, pages: 10 }));
        assert!(zram.state(number).is_err());
        zram.discard(number..u32::MAX);
    }
    assert_eq!(zram.io_stat().invalid_io, 6);
    assert_eq!(zram.write_back(Writeback::IDLE), Err(ZramError::NoBacking));
    for number in [0, 1, usize::MAX] {
        assert_eq!(zram.recompress(Recompress::by(number)), Err(ZramError::NoCompressor(number)));
    }
    let (from, to) = (5, 2);
    zram.discard(from..to);
    assert_eq!(read(&zram, 9), [0; PAGE_SIZE]);
}

/// What a compressor may do wrong.
enum Wrong {
    Longer,
    MuchLonger,
    Fails,
    Nothing,
}

impl Compressor for Wrong {
    fn name(&self) -> &str {
        "wrong"
    }

    fn compress(&self, _: &Page, _: &mut Room) -> Result<usize, CompressorError> {
        match self {
            Wrong::Longer => Ok(PAGE_SIZE + 1),
            Wrong::MuchLonger => Ok(usize::MAX),
            Wrong::Fails => Err(CompressorError::Data),
            Wrong::Nothing => Ok(0),
        }
    }

    fn decompress(&self, _: &[u8], _: &mut Page) -> Result<(), CompressorError> {
        Err(CompressorError::Data)
    }
}

/// Also a result that grew since it was measured (zram: a page that changed between two compressions).
#[test]
fn past_bug_zram_a_compressor_that_returns_more_than_it_got() {
    for wrong in [Wrong::Longer, Wrong::MuchLonger, Wrong::Fails, Wrong::Nothing] {
        let lab = lab();
        let mut settings = Settings::new("zram0", 4, Box::new(wrong));
        settings.compressors.push(lz4());
        let zram = Zram::new(&lab.engine, settings).unwrap();
        zram.write(1, &text(1)).unwrap();
        assert_eq!((read(&zram, 1), zram.state(1).unwrap().as_str()), (text(1), "..h..."));
        assert_eq!(zram.recompress(Recompress::by(1)).unwrap().smaller, 1);
        assert_eq!((read(&zram, 1), zram.state(1).unwrap().as_str()), (text(1), "....r."));
    }
}

#[test]
fn a_limit_holds() {
    let lab = lab();
    let zram = plain(&lab, 100);
    zram.set_limit(PAGE_SIZE as u64);
    zram.write(0, &[5; PAGE_SIZE]).unwrap();
    zram.write(1, &noise(1)).unwrap();
    let refused = |page| Err(ZramError::LimitReached { page, limit: PAGE_SIZE as u64 });
    assert_eq!(zram.write(2, &noise(2)), refused(2));
    assert_eq!(zram.write(1, &noise(3)), refused(1), "there is no room for both");
    assert_eq!((read(&zram, 1), read(&zram, 2)), (noise(1), [0; PAGE_SIZE]), "the old contents");
    assert_eq!((zram.mm_stat().mem_used_total, zram.mm_stat().mem_used_max), (4096, 4096));
    assert_eq!(zram.io_stat().failed_writes, 2);
    zram.set_limit(0);
    zram.write(2, &noise(2)).unwrap();
}

#[test]
fn a_store_that_is_full_or_fails_loses_nothing() {
    let lab = lab();
    let store = Store::new(3);
    let zram = full(&lab, 20, store.clone());
    (0..10).for_each(|page| zram.write(page, &text(u64::from(page))).unwrap());
    zram.mark_idle();
    let done = zram.write_back(Writeback::IDLE).unwrap();
    assert_eq!((done.pages, done.is_full), (3, true));
    store.fails.store(true, Ordering::Relaxed);
    let mut page = [0; PAGE_SIZE];
    let failed = |page| Err(ZramError::Backing { page, cause: BackingError });
    assert_eq!(zram.read(1, &mut page), failed(1));
    assert_eq!(zram.io_stat().failed_reads, 1);
    // A block is free again, and can't be written: the page stays as it is.
    zram.discard(1..2);
    assert_eq!(zram.write_back(Writeback::IDLE), Err(ZramError::Backing { page: 9, cause: BackingError }));
    store.fails.store(false, Ordering::Relaxed);
    let done = zram.write_back(Writeback::IDLE).unwrap();
    assert_eq!((done.pages, done.is_full), (1, true));
    for number in (0..10).filter(|&number| number != 1) {
        assert_eq!(read(&zram, number), text(u64::from(number)), "page {number}");
    }
}

#[test]
fn a_damaged_page_is_an_error_and_harms_no_other() {
    let lab = lab();
    let zram = full(&lab, 20, Store::new(20));
    (0..10).for_each(|page| zram.write(page, &text(u64::from(page))).unwrap());
    // All pages that the first one's object may be in.
    let pages = lab.frames_of(Kind::Driver);
    let before: Vec<Vec<u64>> = pages
        .iter()
        .map(|&pfn| lab.get(pfn).words(0).iter().map(|word| word.swap(0, Ordering::Relaxed)).collect())
        .collect();
    let mut page = [0; PAGE_SIZE];
    for number in 0..10 {
        assert_eq!(zram.read(number, &mut page), Err(ZramError::Corrupt { page: number }));
    }
    zram.mark_idle();
    assert!(matches!(zram.recompress(Recompress::by(1)), Err(ZramError::Corrupt { .. })));
    assert!(matches!(zram.write_back(Writeback::IDLE), Err(ZramError::Corrupt { .. })));
    assert_eq!(zram.bd_stat().bd_count, 0);
    for (&pfn, words) in pages.iter().zip(&before) {
        lab.get(pfn).words(0).iter().zip(words).for_each(|(word, &value)| word.store(value, Ordering::Relaxed));
    }
    // One alone: it is written anew.
    zram.write(3, &text(33)).unwrap();
    for number in 0..10 {
        assert_eq!(read(&zram, number), text(if number == 3 { 33 } else { u64::from(number) }));
    }
}

#[test]
fn without_memory_a_page_keeps_its_contents() {
    let lab = Lab::new(TlbKind::Soft, 2);
    let zram = plain(&lab, 2000);
    zram.write(0, &noise(0)).unwrap();
    let mut written = 0;
    let error = loop {
        match zram.write(written + 1, &noise(u64::from(written) + 1)) {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ZramError::OutOfMemory { cause: StoreError::OutOfMemory(_), .. }), "{error}");
    assert!(written > 900);
    assert!(zram.write(0, &noise(99)).is_err());
    assert_eq!(zram.read(written + 1, &mut [0; PAGE_SIZE]), Ok(()));
    for page in 0..=written {
        assert_eq!(read(&zram, page), noise(u64::from(page)));
    }
    lab.validate();
}
