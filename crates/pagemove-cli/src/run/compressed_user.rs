//! A thread that reads and writes compressed pages while everything moves.

use std::{
    sync::Arc,
    thread::{Scope, ScopedJoinHandle},
};

use pagemove_drivers::zram::ZramError;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    compressed::Compressed,
    error::{EngineError, RunError},
    region::{Compared, CompressedPage, Wrong},
    words::{self, FIRST},
    world::World,
    writers::{OnWrong, Shared},
};

/// Pages that a user reads and writes.
pub(crate) struct User {
    store: Arc<Compressed>,
    pages: Vec<CompressedPage>,
}

impl User {
    /// Makes one for all compressed pages.
    pub(crate) fn new(world: &World<'_>) -> Self {
        let pages = world.regions.iter().flat_map(|region| region.compressed(world.host.words));
        Self { store: world.compressed.clone(), pages: pages.collect() }
    }

    /// Reads and compares pages until all writers end, and writes some anew, as they were.
    pub(crate) fn start<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        shared: &'scope Shared,
        seed: u64,
        on_wrong: OnWrong<'scope>,
    ) -> ScopedJoinHandle<'scope, Result<Compared, RunError>> {
        scope.spawn(move || {
            let _end = shared.stop_on_drop();
            let used = self.use_all(shared, seed, on_wrong);
            used.map_err(|error| error.with_seed(seed))
        })
    }

    fn use_all(&self, shared: &Shared, seed: u64, on_wrong: OnWrong<'_>) -> Result<Compared, EngineError> {
        let (mut rng, mut compared) = (ChaCha8Rng::seed_from_u64(seed ^ 0x7a72), Compared::default());
        while !shared.is_over() {
            if self.pages.is_empty() {
                std::thread::sleep(std::time::Duration::from_millis(1));
                continue;
            }
            let CompressedPage { region, page, slot, tag } = self.pages[rng.random_range(0..self.pages.len())];
            let (expected, found) = (words::word(tag, FIRST), self.store.word(slot, tag)?);
            // Nobody writes other contents, so what is wrong is lost.
            let wrong = (found != expected).then_some(Wrong { region, page, found, expected, lost: true });
            wrong.into_iter().for_each(on_wrong);
            compared.count(wrong);
            if rng.random_bool(0.25) {
                // It needs memory for both at once; without, it stays as it is.
                match self.store.write(slot, tag) {
                    Ok(()) | Err(ZramError::OutOfMemory { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(compared)
    }
}
