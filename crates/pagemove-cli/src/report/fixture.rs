//! Made-up results for tests and for looking at the page: a machine of any number of blocks, compacted by a toy.
//!
//! The same seed gives the same results. The toy keeps two laws of the real thing: frames of each class are neither
//! made nor lost, and what a policy can't move stays in its block.

use std::collections::BTreeMap;

use pagemove::{compact::is_fixed, frame::Class, migrate::Policy};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::kind::{self, Kind};
use crate::results::{BlockPicture, BlockedMicros, CLASSES, LayoutInfo, PolicyResult, Results, Throughput};

/// Frames of a block of order 9.
const FRAMES: u16 = 512;

/// Gives the classes that a policy leaves where they are, as the engine says.
pub(crate) fn fixed(policy: &str) -> kind::Fixed {
    let policy = Policy::ALL.into_iter().find(|known| known.name() == policy).expect("a policy's name");
    Class::ALL.map(|class| is_fixed(class, policy))
}

/// Gives the results of a run on so many blocks.
pub(crate) fn results(blocks: usize) -> Results {
    let mut rng = ChaCha8Rng::seed_from_u64(2016);
    let before: Vec<_> = (0..blocks).map(|at| fragmented(&mut rng, at)).collect();
    let policies = [("unmovable", 0.9), ("unmapped", 1.0), ("any", 1.25)]
        .into_iter()
        .map(|(name, slow)| policy(name, &before, slow, &mut rng))
        .collect();
    Results {
        seed: 2016,
        layout: LayoutInfo { source: "sample".into(), frames: blocks as u64 * u64::from(FRAMES), pageblock_order: 9 },
        policies,
        throughput: Throughput { moved_gb_per_s: 4.38, memcpy_gb_per_s: 6.12 },
        again: "pagemove run --seed 2016".into(),
    }
}

/// Makes a block as months of use leave it; the kernel's own memory clusters at the start.
fn fragmented(rng: &mut ChaCha8Rng, at: usize) -> BlockPicture {
    let mut frames = [0_u16; CLASSES.len()];
    let kernel_near = at < 40 && rng.random_bool(0.8);
    match rng.random_range(0..100) {
        _ if at < 6 => frames[8] = FRAMES,
        _ if kernel_near => frames[7] = if rng.random_bool(0.5) { FRAMES } else { rng.random_range(60..400) },
        0..3 => {}
        3..40 => frames[3] = rng.random_range(1..60),
        40..55 => {
            frames[2] = rng.random_range(1..40);
            frames[3] = if rng.random_bool(0.3) { rng.random_range(1..20) } else { 0 };
        }
        55..63 => frames[5] = rng.random_range(1..120),
        63..66 => frames[6] = rng.random_range(1..30),
        66..68 => frames[4] = rng.random_range(1..6),
        _ => frames[1] = 1,
    }
    let held: u16 = frames.iter().sum();
    if held > 0 && held < FRAMES {
        frames[1] += rng.random_range(0..=(FRAMES - held) * 6 / 10);
    }
    frames[0] = FRAMES - frames[1..].iter().sum::<u16>();
    BlockPicture { frames }
}

/// Compacts as the policy allows: movable pages go to the free room of hostage blocks, then to as few blocks as hold them.
fn compacted(before: &[BlockPicture], policy: &str) -> (Vec<BlockPicture>, u64) {
    let mut after = before.to_vec();
    let mut homeless = [0_u16; CLASSES.len()].map(u64::from);
    for block in &mut after {
        if kind::kind(block, &fixed(policy)) == Kind::Movable {
            for (count, left) in block.frames.iter_mut().zip(&mut homeless).skip(1) {
                *left += u64::from(std::mem::take(count));
            }
            block.frames[0] = FRAMES;
        }
    }
    let moved = homeless.iter().sum();
    let (hostages, rest): (Vec<_>, Vec<_>) =
        after.iter_mut().partition(|block| matches!(kind::kind(block, &fixed(policy)), Kind::Hostage(_)));
    for block in hostages.into_iter().chain(rest) {
        for (class, left) in homeless.iter_mut().enumerate().skip(1) {
            let fits = block.frames[0].min(u16::try_from(*left).unwrap_or(FRAMES));
            block.frames[class] += fits;
            block.frames[0] -= fits;
            *left -= u64::from(fits);
        }
    }
    (after, moved)
}

fn policy(name: &str, before: &[BlockPicture], slow: f64, rng: &mut ChaCha8Rng) -> PolicyResult {
    let (after, moved) = compacted(before, name);
    let free = |blocks: &[BlockPicture]| {
        blocks.iter().filter(|block| kind::kind(block, &fixed(name)) == Kind::Free).count() as u64
    };
    let histogram = if before.is_empty() { Vec::new() } else { blocked(slow, rng) };
    PolicyResult {
        policy: name.into(),
        fixed: fixed(name),
        free_blocks_before: free(before),
        free_blocks_after: free(&after),
        hostage_blocks_after: kind::hostages(&after, &fixed(name)),
        moved,
        not_moved: reasons(&after, name),
        blocked_us: BlockedMicros {
            p50: quantile(&histogram, 0.5),
            p99: quantile(&histogram, 0.99),
            max: quantile(&histogram, 1.0),
        },
        words_checked: before.len() as u64 * 61_440,
        lost_writes: 0,
        stale_reads: 0,
        seconds: moved as f64 * 1.9e-6 * slow,
        before: before.to_vec(),
        hostages: holders(&after, name),
        after,
        blocked_histogram: histogram,
    }
}

fn holders(after: &[BlockPicture], policy: &str) -> Vec<(String, u64)> {
    let names = [&["chardev0", "gpu-shm", "net-rx"][..], &["zsmalloc"], &["dentry", "inode"], &["tables"], &["kernel"]];
    let mut by_name = BTreeMap::<String, u64>::new();
    for (at, block) in after.iter().enumerate() {
        let group = match kind::kind(block, &fixed(policy)) {
            Kind::Hostage(3) => 0,
            Kind::Hostage(2) => 1,
            Kind::Hostage(4 | 5) => 2,
            Kind::Hostage(6) => 3,
            Kind::Hostage(_) => 4,
            _ => continue,
        };
        let name = names[group][at * at % names[group].len()];
        *by_name.entry(name.into()).or_default() += 1;
    }
    let mut holders: Vec<_> = by_name.into_iter().collect();
    holders.sort_by_key(|(_, blocks)| std::cmp::Reverse(*blocks));
    holders
}

fn reasons(after: &[BlockPicture], policy: &str) -> BTreeMap<String, u64> {
    let sum = |class: usize| after.iter().map(|block| u64::from(block.frames[class])).sum::<u64>();
    let mut reasons = BTreeMap::from([
        ("pinned".to_string(), sum(4)),
        ("unmovable owner".to_string(), sum(5) + sum(6) + sum(7)),
        ("locked".to_string(), after.len() as u64 / 100),
    ]);
    if policy != "any" {
        reasons.insert("driver page mapped".into(), sum(3));
    }
    if policy == "unmovable" {
        reasons.insert("driver refused".into(), sum(2));
    }
    reasons.retain(|_, count| *count > 0);
    reasons
}

/// Makes a log-normal body with a thin tail, in buckets of a tenth of a decade.
fn blocked(slow: f64, rng: &mut ChaCha8Rng) -> Vec<(f64, u64)> {
    let mut buckets = BTreeMap::<i32, u64>::new();
    for _ in 0..6_000 {
        let normal = (0..3).map(|_| rng.random_range(0.0..1.0)).sum::<f64>() * 2.0 - 3.0;
        let tail = if rng.random_bool(0.002) { rng.random_range(0.5..1.6) } else { 0.0 };
        let bucket = ((6.0 * slow).log10() + normal * 0.22 + tail) * 10.0;
        *buckets.entry(bucket.ceil() as i32).or_default() += 1;
    }
    buckets.into_iter().map(|(tenth, count)| (10_f64.powf(f64::from(tenth) / 10.0), count)).collect()
}

fn quantile(histogram: &[(f64, u64)], wanted: f64) -> f64 {
    let all: u64 = histogram.iter().map(|(_, count)| count).sum();
    let mut seen = 0;
    let bound = histogram.iter().find(|(_, count)| {
        seen += count;
        seen as f64 >= wanted * all as f64
    });
    bound.map_or(0.0, |(bound, _)| *bound)
}
