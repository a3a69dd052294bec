//! One policy from beginning to end: builds memory, lets writers loose, compacts, checks every word.

use std::{
    collections::BTreeMap,
    mem,
    panic::{self, AssertUnwindSafe},
    thread,
    time::{Duration, Instant},
};

use pagemove::{
    Engine,
    compact::{Compaction, Goal, Observation, Plan},
    migrate::{Mode, Options, Policy},
    report::Reason,
    units::Pfn,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    compressed_user::User,
    damage::Damage,
    error::{EngineError, RunError},
    load::Load,
    pictures::{self, Hostages},
    progress::Progress,
    rebuild::rebuild,
    region::Compared,
    watchdog::Watchdog,
    words::{FIRST, Words},
    world::{Base, Shape, World},
    writers::{self, Sequences, Shared, Written},
};
use crate::{
    cancel::Stop,
    layout::Layout,
    results::{BlockPicture, BlockedMicros, PolicyResult},
};

/// Rounds of compaction at most; one that frees no block is the last.
const ROUNDS: u32 = 4;
/// Of so many pages that no writer writes to, one is read through the TLB; the others are read through their page
/// tables, which no TLB keeps anything of: these pages were never loaded before.
const LOADED: usize = 16;

/// How long writers write before compaction, and after it.
const AROUND: Duration = Duration::from_millis(100);

/// What all policies of a run have in common.
pub(crate) struct Common<'a> {
    /// Seed of every random choice.
    pub(crate) seed: u64,
    /// What memory is like before the load.
    pub(crate) layout: &'a Layout,
    /// What machine to make.
    pub(crate) shape: Shape,
    /// Looked at between steps.
    pub(crate) stop: &'a Stop,
    /// Hears what is under way.
    pub(crate) progress: &'a Progress,
    /// Hears of wrong words.
    pub(crate) damage: &'a Damage,
}

/// Runs one policy. `before` is the state that the policy before it started from.
pub(crate) fn run(
    common: &Common<'_>,
    policy: Policy,
    before: Option<&[BlockPicture]>,
) -> Result<PolicyResult, RunError> {
    let &Common { seed, stop, progress, .. } = common;
    let base = Base::new(common.shape)?;
    let world = build(common, policy, &base)?;
    if !world.regions.iter().any(|region| region.live.contains(&true)) {
        return Err(RunError::NothingToCheck);
    }
    let physical = world.host.engine.physical();
    physical.drain_cpu_lists();
    let picture = pictures::blocks(physical);
    if before.is_some_and(|before| before != picture) {
        return Err(RunError::Differs { policy: policy.name(), seed });
    }
    let free_blocks_before = pictures::free_blocks(physical);

    let fire = under_fire(common, policy, &world, |watchdog| compact(common, policy, &world.host.engine, watchdog));
    let (compacted, written) = match fire {
        Ok(done) => done,
        Err(error) => {
            // An engine that has panicked may hang when it's dropped, and the error would never be told.
            mem::forget(world);
            return Err(error);
        }
    };
    stop.check()?;
    progress.stage("checking every word");
    let (mut last, mut during) = (Sequences::new(), Compared::default());
    for Written { sequences, compared } in written {
        during.add(compared);
        last.extend(sequences);
    }
    let after = check(&world, &last, common, policy)?;
    physical.drain_cpu_lists();
    physical.validate().map_err(|what| RunError::Invalid { policy: policy.name(), seed, what })?;

    let hostages = Hostages::of(&world.host.engine, policy);
    let mut stayed = compacted.stayed;
    // Those that moved in a later round, or were freed, stayed no longer.
    stayed.retain(|&pfn, _| physical.frame(pfn).state().kind().is_movable());
    stayed.extend(&hostages.pages);
    let mut not_moved = BTreeMap::<String, u64>::new();
    for reason in stayed.values() {
        *not_moved.entry(reason.name().to_owned()).or_default() += 1;
    }
    let (blocked_us, blocked_histogram) = blocked(&world.host.engine);
    Ok(PolicyResult {
        policy: policy.name().into(),
        fixed: pictures::fixed(policy),
        free_blocks_before,
        free_blocks_after: pictures::free_blocks(physical),
        hostage_blocks_after: hostages.blocks,
        moved: compacted.moved,
        not_moved,
        blocked_us,
        words_checked: during.words + after.words,
        lost_writes: during.lost + after.lost,
        stale_reads: during.stale + after.stale,
        seconds: compacted.seconds,
        before: picture,
        after: pictures::blocks(physical),
        hostages: hostages.holders,
        blocked_histogram,
    })
}

/// Rebuilds the layout and runs the load on top of it, the same for every policy but for the words in the pages.
fn build<'e>(common: &Common<'_>, policy: Policy, base: &'e Base) -> Result<World<'e>, RunError> {
    let &Common { seed, layout, stop, progress, .. } = common;
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut world = World::new(base, Words::new(seed, policy as u64))?;
    progress.stage("rebuilding the layout");
    rebuild(&mut world, layout, &mut rng, stop, seed)?;
    progress.stage("churning memory");
    Load::new(&mut world, &mut rng, stop).run(seed, &mut |part| progress.part(part))?;
    Ok(world)
}

/// What compaction came to.
#[derive(Default)]
struct Compacted {
    moved: u64,
    stayed: BTreeMap<Pfn, Reason>,
    seconds: f64,
}

/// Acts while writers write; they write before and afterwards as well. A panic of any of them ends all of them.
pub(super) fn under_fire<T: Default>(
    common: &Common<'_>,
    policy: Policy,
    world: &World<'_>,
    act: impl FnOnce(&Watchdog) -> T,
) -> Result<(T, Vec<Written>), RunError> {
    let &Common { seed, shape, stop, progress, damage, .. } = common;
    let shared = Shared::new(shape.writers);
    let writers = writers::choose(world, shape.writers, writers::MOST, seed, &Sequences::new());
    let on_wrong = |wrong| damage.tell(policy.name(), wrong, progress);
    let user = User::new(world);
    let watchdog = Watchdog::of(&world.host.engine, policy.name(), seed);
    let fire = || {
        thread::scope(|scope| {
            let _end = shared.stop_on_drop();
            let threads: Vec<_> = (0..)
                .zip(writers)
                .map(|(number, writer)| writer.start(scope, number, &world.host.processes, &shared, &on_wrong))
                .collect();
            let user = user.start(scope, &shared, seed, &on_wrong);
            progress.stage("warming up the writers");
            let running = shared.let_run(AROUND, || stop.is_set());
            watchdog.beat();
            let done = if running { act(&watchdog) } else { T::default() };
            watchdog.beat();
            // Once more, so that writes that come after the last move are among those checked.
            shared.let_run(AROUND, || stop.is_set());
            shared.stop();
            let written = threads.into_iter().map(|thread| match thread.join() {
                Ok(written) => written.map_err(|error| error.with_seed(seed)),
                Err(_) => Err(EngineError::Lost("a writer panicked".into()).with_seed(seed)),
            });
            let mut written: Vec<Written> = written.collect::<Result<_, _>>()?;
            let lost = |_| EngineError::Lost("the user of compressed pages panicked".into()).with_seed(seed);
            written.push(Written { sequences: Sequences::new(), compared: user.join().map_err(lost)?? });
            Ok((done, written))
        })
    };
    // What a panic leaves behind is looked at no more.
    panic::catch_unwind(AssertUnwindSafe(fire))
        .unwrap_or_else(|_| Err(EngineError::Lost("a panic, told above".into()).with_seed(seed)))
}

fn compact(common: &Common<'_>, policy: Policy, engine: &Engine, watchdog: &Watchdog) -> Compacted {
    let &Common { stop, progress, .. } = common;
    let physical = engine.physical();
    let options = Options { policy, ..Options::new(Mode::SyncLight) };
    let (start, mut done) = (Instant::now(), Compacted::default());
    progress.stage("compacting");
    for _ in 0..ROUNDS {
        // Else free frames on processors' lists would be taken for pages in use.
        physical.drain_cpu_lists();
        let free = pictures::free_blocks(physical);
        for zone in physical.zones() {
            let plan = Plan::new(&Observation::of(physical, zone, policy), Goal::All);
            let all = plan.empty.len().max(1) as f64;
            for (number, outcome) in Compaction::new(engine, &plan, options).enumerate() {
                done.moved += outcome.moved;
                done.stayed.extend(outcome.stayed);
                watchdog.beat();
                progress.part(number as f64 / all);
                if stop.is_set() {
                    return done;
                }
            }
        }
        physical.drain_cpu_lists();
        if pictures::free_blocks(physical) <= free {
            break;
        }
    }
    done.seconds = start.elapsed().as_secs_f64();
    done
}

/// Compares every page's word with what was stored last. Nothing moves or writes any more.
fn check(world: &World<'_>, last: &Sequences, common: &Common<'_>, policy: Policy) -> Result<Compared, RunError> {
    let mut compared = Compared::default();
    let all = world.regions.len().max(1) as f64;
    for (number, region) in world.regions.iter().enumerate() {
        common.stop.check()?;
        common.progress.part(number as f64 / all);
        for page in (0..region.filled).filter(|&page| region.live[page as usize]) {
            let written = last.get(&(number, page)).copied();
            let loads = written.is_some() || (page as usize).is_multiple_of(LOADED);
            region
                .check(&world.host, page, written.unwrap_or(FIRST), loads, &mut compared)
                .map_err(|error| error.with_seed(common.seed))?;
        }
        if let Some(wrong) = compared.first {
            common.damage.tell(policy.name(), wrong, common.progress);
        }
    }
    Ok(compared)
}

/// Gives percentiles and histogram of the times for which threads were blocked.
fn blocked(engine: &Engine) -> (BlockedMicros, Vec<(f64, u64)>) {
    let counters = engine.physical().counters();
    let max = counters.blocked_max_ns();
    let us = |ns: u64| ns as f64 / 1e3;
    // A bucket's upper bound can lie beyond the longest time.
    let histogram: Vec<(u64, u64)> = counters.blocked_histogram().map(|(ns, count)| (ns.min(max), count)).collect();
    let blocked = BlockedMicros { p50: us(quantile(&histogram, 50)), p99: us(quantile(&histogram, 99)), max: us(max) };
    (blocked, histogram.into_iter().map(|(ns, count)| (us(ns), count)).collect())
}

/// Gives the bound that this many per cent of the counts do not pass.
fn quantile(histogram: &[(u64, u64)], percent: u64) -> u64 {
    let all: u64 = histogram.iter().map(|(_, count)| count).sum();
    let wanted = (all * percent).div_ceil(100);
    let mut seen = 0;
    let bound = histogram.iter().find(|(_, count)| {
        seen += count;
        seen >= wanted
    });
    bound.map_or(0, |&(bound, _)| bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_bounds_of_buckets() {
        let histogram = [(10, 98), (20, 1), (500, 1)];
        assert_eq!([50, 98, 99, 100].map(|percent| quantile(&histogram, percent)), [10, 10, 20, 500]);
        assert_eq!(quantile(&[], 99), 0);
        assert_eq!(quantile(&[(7, 1)], 50), 7);
    }
}
