//! A cache of answers in zsmalloc: values of any length up to a page, found by key, while all memory under them moves.
//!
//! Shows zsmalloc as an allocator for others than zram. `cargo run --example cache`
use std::{
    collections::HashMap,
    error::Error,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use pagemove::{
    Engine,
    frame::Kind,
    migrate::{AnyFree, Mode, Mover, Options},
    port::Contents,
    units::{FrameRange, HUGE_ORDER, PAGE_SIZE, Pfn},
    zone,
};
use pagemove_drivers::zsmalloc::{self, Object, Pool, StoreError};
use pagemove_hosted::{Config, FIRST_FRAME, Hosted, TlbKind};

/// Values by key. A value is freed when it is dropped.
struct Cache {
    pool: Pool,
    values: HashMap<String, (Object, usize)>,
}

impl Cache {
    fn new(engine: &Engine) -> Self {
        Self { pool: Pool::new(engine, zsmalloc::Options::new("cache")), values: HashMap::new() }
    }

    fn put(&mut self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let object = self.pool.store(value)?;
        self.values.insert(key.to_owned(), (object, value.len()));
        Ok(())
    }

    fn get(&self, key: &str) -> Option<Vec<u8>> {
        let (object, length) = self.values.get(key)?;
        let mut value = vec![0; *length];
        // Waits only if just this object's page is being moved.
        object.read().copy_to(0, &mut value);
        Some(value)
    }
}

/// The value of a key, to know it again.
fn value_of(number: usize) -> Vec<u8> {
    format!("answer {number} ").bytes().cycle().take(1 + number * 37 % 3000).collect()
}

/// Fills a cache, and looks all up again and again until all of its pages have moved some times.
pub(crate) fn main() -> Result<(), Box<dyn Error>> {
    const FRAMES: u32 = 16 << 10;
    const VALUES: usize = 5000;
    let machine = Hosted::new(Config { frames: FRAMES, cpus: 2, tlb: TlbKind::Soft, contents: Contents::All })?;
    let zone = FrameRange::new(FIRST_FRAME, FRAMES).ok_or("no such frames")?;
    let engine = Engine::boot(machine, &zone::Config::new(vec![zone], HUGE_ORDER))?;
    let mut cache = Cache::new(&engine);
    for number in 0..VALUES {
        cache.put(&number.to_string(), &value_of(number))?;
    }
    // Every other one goes, and what is left is packed.
    cache.values.retain(|key, _| key.parse::<usize>().is_ok_and(|number| number % 2 == 0));
    let before = cache.pool.pages();
    let freed = cache.pool.compact(u64::MAX).pages;
    println!("{} values in {} pages, of {before} before they were packed", cache.values.len(), before - freed);

    let is_moved = AtomicBool::new(false);
    let (moved, looked_up) = thread::scope(|scope| {
        let mover = scope.spawn(|| {
            let pages: Vec<Pfn> = zone.iter().collect();
            let is_owned = |pfn: &Pfn| engine.physical().frame(*pfn).state().kind() == Kind::Driver;
            let mut moved = 0;
            for _ in 0..20 {
                let owned: Vec<Pfn> = pages.iter().copied().filter(is_owned).collect();
                let mut destination = AnyFree::new(engine.physical(), 64);
                moved += Mover::new(&engine).migrate(&owned, &mut destination, Options::new(Mode::Sync)).moved;
            }
            is_moved.store(true, Ordering::Release);
            moved
        });
        let mut looked_up = 0;
        while !is_moved.load(Ordering::Acquire) || looked_up == 0 {
            for number in (0..VALUES).step_by(2) {
                assert_eq!(cache.get(&number.to_string()), Some(value_of(number)), "value {number}");
                looked_up += 1;
            }
        }
        (mover.join().unwrap_or(0), looked_up)
    });
    println!("{moved} pages of {PAGE_SIZE} bytes moved while {looked_up} values were looked up, each as it was stored");
    if moved == 0 { Err("no page has moved".into()) } else { Ok(()) }
}
