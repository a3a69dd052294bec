//! What the events come to.
//!
//! Takes lines one after the other; gives one report, the same for a person and as JSON. Promises to need little memory
//! however long it runs, and that every name in a report can be printed: a process chooses its own.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::Serialize;

use super::event::{Entry, Event, Line, Migrated, Zone, parse};
use crate::terminal::plain;

/// Rows of each kind that are kept; what comes later is counted together.
const ROWS: usize = 4096;
/// Tasks in a run at once.
const TASKS: usize = 1 << 16;
/// Letters of a name; of a zone's, which are few.
const NAME: usize = 24;
const ZONE: usize = 12;

/// What `--json` prints. Lists are sorted, the most frequent first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// How long it watched.
    pub(super) seconds: f64,
    /// A signal ended it early.
    pub(super) interrupted: bool,
    /// Events that were read.
    pub(super) events: u64,
    /// Events that Linux dropped, since they came faster than they were read: all sums are too small.
    pub(super) lost_events: u64,
    /// Lines that couldn't be read.
    pub(super) unreadable_lines: u64,
    /// Events in rows beyond those that are kept.
    pub(super) beyond: u64,
    /// Events that this kernel doesn't have.
    pub(super) missing_events: Vec<&'static str>,
    /// Runs of compaction that ended.
    pub(super) runs: Vec<RunRow>,
    /// Runs that weren't begun.
    pub(super) refusals: Vec<RefusalRow>,
    /// What all runs did.
    pub(super) compaction: Compaction,
    /// Migrations of pages, whatever for.
    pub(super) migrations: Vec<MigrationRow>,
    /// Ranges that were to be wholly free.
    pub(super) isolation: Isolation,
    /// Areas of the contiguous memory allocator.
    pub(super) cma: Vec<CmaRow>,
    /// Allocations that took memory of another migratetype's blocks.
    pub(super) fallbacks: Vec<FallbackRow>,
    /// Processes that had to compact before their allocation succeeded.
    pub(super) direct: Vec<DirectRow>,
    /// How often a node's kcompactd was woken.
    pub(super) kcompactd_wakes: u64,
}

impl Report {
    /// Gives the rate of migration as measured: the pages that compaction moved in a second of its runs, of those runs
    /// whose beginning and end were seen. None if none of them moved a page.
    pub(crate) fn pages_per_second(&self) -> Option<f64> {
        self.compaction.pages_per_second
    }
}

/// Runs of one kind with one end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct RunRow {
    #[serde(flatten)]
    pub(super) place: Place,
    /// `async` or `sync`.
    pub(super) mode: String,
    /// Linux' name of how it ended.
    pub(super) status: String,
    pub(super) runs: u64,
    pub(super) moved_pages: u64,
    pub(super) failed_pages: u64,
    /// From the beginning to the end, so with what interrupted it.
    pub(super) seconds: f64,
}

/// Where a run was, and what for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub(super) struct Place {
    /// None if Linux didn't say.
    pub(super) node: Option<u32>,
    pub(super) zone: String,
    /// Of the block that was wanted; -1 for all of memory, None if Linux didn't say.
    pub(super) order: Option<i32>,
}

/// Why runs weren't begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct RefusalRow {
    #[serde(flatten)]
    pub(super) place: Place,
    /// Linux' name of the reason.
    pub(super) reason: String,
    pub(super) times: u64,
}

/// What compaction did.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct Compaction {
    /// Movable pages that were looked at, and those that were isolated to be moved.
    pub(super) scanned_pages: u64,
    pub(super) isolated_pages: u64,
    /// Pages that were looked at for a place, and free ones that were taken.
    pub(super) scanned_for_free: u64,
    pub(super) isolated_free: u64,
    pub(super) moved_pages: u64,
    pub(super) failed_pages: u64,
    /// Of runs whose beginning and end were seen.
    pub(super) seconds: f64,
    /// Pages that such a run moved in a second. None if none moved a page.
    pub(super) pages_per_second: Option<f64>,
}

/// Migrations of one mode and reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct MigrationRow {
    pub(super) reason: String,
    pub(super) mode: String,
    pub(super) calls: u64,
    pub(super) succeeded_pages: u64,
    pub(super) failed_pages: u64,
    pub(super) thp_succeeded: u64,
    pub(super) thp_failed: u64,
    pub(super) thp_split: u64,
    pub(super) folios_split: u64,
}

/// Tests of whether a range is free.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Isolation {
    pub(super) tests: u64,
    pub(super) failed: u64,
    pub(super) busy: Vec<BusyRow>,
}

/// A page that kept a range from being free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BusyRow {
    pub(super) first_busy_pfn: u64,
    /// The last range that failed there; its end is the next PFN.
    pub(super) start_pfn: u64,
    pub(super) end_pfn: u64,
    pub(super) times: u64,
}

/// An area.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct CmaRow {
    pub(super) area: String,
    pub(super) begun: u64,
    pub(super) ended: u64,
    pub(super) failed: u64,
    pub(super) busy_retries: u64,
}

/// Fallbacks between two migratetypes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FallbackRow {
    pub(super) wanted: String,
    pub(super) from: String,
    /// Of a whole pageblock or more, which mixes nothing.
    pub(super) whole_blocks: u64,
    /// Of less: from then on the block has pages of both.
    pub(super) fragmenting: u64,
    /// In these the rest of the block changed its migratetype as well.
    pub(super) claimed_blocks: u64,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct DirectRow {
    pub(super) process: String,
    pub(super) times: u64,
    pub(super) highest_order: i32,
}

/// A run that hasn't ended.
#[derive(Debug, Default)]
struct OpenRun {
    /// None if that, or what it has moved since, isn't known.
    begun_ns: Option<u64>,
    zone_start: Option<u64>,
    place: Option<Place>,
    moved: u64,
    failed: u64,
    /// The same as `mm_migrate_pages` has it.
    migrated: u64,
}

/// Runs of one kind.
#[derive(Debug, Default)]
struct Runs {
    count: u64,
    moved: u64,
    failed: u64,
    time_ns: u64,
}

/// The sums as they grow.
#[derive(Debug, Default)]
pub(super) struct Sums {
    events: u64,
    lost: u64,
    unreadable: u64,
    beyond: u64,
    open: BTreeMap<u32, OpenRun>,
    /// Names of zones by first PFN, as far as runs told.
    zones: BTreeMap<u64, (Option<u32>, String)>,
    runs: BTreeMap<(Place, String, String), Runs>,
    refusals: BTreeMap<(Place, String), u64>,
    compaction: Compaction,
    /// Of runs whose time is known.
    timed_ns: u64,
    timed_pages: u64,
    migrations: BTreeMap<(String, String), MigrationRow>,
    isolation: Isolation,
    busy: BTreeMap<u64, BusyRow>,
    cma: BTreeMap<String, CmaRow>,
    fallbacks: BTreeMap<(i32, i32), FallbackRow>,
    direct: BTreeMap<String, DirectRow>,
    wakes: u64,
}

impl Sums {
    /// Adds a line of the trace.
    pub(super) fn line(&mut self, line: &str) {
        match parse(line) {
            Some(Line::Entry(entry)) => self.add(&entry),
            Some(Line::Lost(count)) => {
                self.lost = self.lost.saturating_add(count);
                // What open runs moved meanwhile isn't known.
                self.open.clear();
            }
            Some(Line::Nothing) => {}
            None => self.unreadable += 1,
        }
    }

    fn add(&mut self, entry: &Entry<'_>) {
        self.events += 1;
        let pid = entry.pid;
        match entry.event {
            Event::Begin { zone_start, .. } => {
                if self.open.len() < TASKS || self.open.contains_key(&pid) {
                    let run = OpenRun { begun_ns: entry.time_ns, zone_start, ..OpenRun::default() };
                    self.open.insert(pid, run);
                }
            }
            Event::Finished { zone, order } => {
                if let Some(run) = self.open.get_mut(&pid) {
                    run.place.get_or_insert_with(|| place(zone, order));
                }
            }
            Event::End { zone_start, mode, status } => self.end(entry, zone_start, mode, status),
            Event::Suitable { answer: "continue", .. } => {}
            Event::Suitable { zone, order, answer } => self.refuse(zone, order, answer),
            Event::Deferred { zone, order } => self.refuse(zone, order, "deferred"),
            Event::Moved { migrated, failed } => {
                add(&mut self.compaction.moved_pages, migrated);
                add(&mut self.compaction.failed_pages, failed);
                if let Some(run) = self.open.get_mut(&pid) {
                    add(&mut run.moved, migrated);
                    add(&mut run.failed, failed);
                }
            }
            Event::IsolatedMovable { scanned, taken } => {
                add(&mut self.compaction.scanned_pages, scanned);
                add(&mut self.compaction.isolated_pages, taken);
            }
            Event::IsolatedFree { scanned, taken } => {
                add(&mut self.compaction.scanned_for_free, scanned);
                add(&mut self.compaction.isolated_free, taken);
            }
            Event::Direct { order } => {
                // Linux forgets names; their number tells such tasks apart.
                let process = if entry.task == "<...>" { format!("PID {pid}") } else { name(entry.task) };
                let new = || DirectRow { process: process.clone(), times: 0, highest_order: order };
                if let Some(row) = row(&mut self.direct, process.clone(), &mut self.beyond, new) {
                    row.times += 1;
                    row.highest_order = row.highest_order.max(order);
                }
            }
            Event::Wake => self.wakes += 1,
            Event::Migrated(migrated) => self.migrate(pid, &migrated),
            Event::CmaStart { area } => self.area(area, |row| row.begun += 1),
            Event::CmaFinish { area, is_failed } => self.area(area, |row| {
                row.ended += 1;
                row.failed += u64::from(is_failed);
            }),
            Event::CmaBusy { area } => self.area(area, |row| row.busy_retries += 1),
            Event::IsolationTest { start, end, first_busy } => {
                self.isolation.tests += 1;
                if first_busy < end {
                    self.isolation.failed += 1;
                    let new = || BusyRow { first_busy_pfn: first_busy, start_pfn: start, end_pfn: end, times: 0 };
                    if let Some(row) = row(&mut self.busy, first_busy, &mut self.beyond, new) {
                        (row.start_pfn, row.end_pfn) = (start, end);
                        row.times += 1;
                    }
                }
            }
            Event::Fallback { wanted, from, is_fragmenting, takes_block } => {
                let new = || FallbackRow {
                    wanted: migratetype(wanted),
                    from: migratetype(from),
                    whole_blocks: 0,
                    fragmenting: 0,
                    claimed_blocks: 0,
                };
                if let Some(row) = row(&mut self.fallbacks, (wanted, from), &mut self.beyond, new) {
                    row.whole_blocks += u64::from(!is_fragmenting);
                    row.fragmenting += u64::from(is_fragmenting);
                    row.claimed_blocks += u64::from(is_fragmenting && takes_block);
                }
            }
            Event::Other => {}
        }
    }

    fn end(&mut self, entry: &Entry<'_>, zone_start: Option<u64>, mode: &str, status: &str) {
        // A run whose beginning wasn't seen counts, without a time.
        let run = self.open.remove(&entry.pid).unwrap_or_default();
        let start = zone_start.or(run.zone_start);
        let place = match (run.place, start) {
            (Some(place), start) => {
                if let Some(start) = start
                    && self.zones.len() < ROWS
                {
                    self.zones.insert(start, (place.node, place.zone.clone()));
                }
                place
            }
            (None, Some(start)) => {
                let known = self.zones.get(&start).cloned();
                let (node, zone) = known.unwrap_or_else(|| (None, format!("at PFN {start:#x}")));
                Place { node, zone, order: None }
            }
            (None, None) => Place { node: None, zone: "unknown".into(), order: None },
        };
        // Some kernels have only one of the events.
        let moved = run.moved.max(run.migrated);
        let time_ns = run.begun_ns.zip(entry.time_ns).and_then(|(begun, now)| now.checked_sub(begun));
        if let Some(time_ns) = time_ns {
            add(&mut self.timed_ns, time_ns);
            add(&mut self.timed_pages, moved);
        }
        let key = (place, name(mode).to_lowercase(), name(status));
        if let Some(sum) = row(&mut self.runs, key, &mut self.beyond, Runs::default) {
            sum.count += 1;
            add(&mut sum.moved, moved);
            add(&mut sum.failed, run.failed);
            add(&mut sum.time_ns, time_ns.unwrap_or(0));
        }
    }

    fn refuse(&mut self, zone: Zone<'_>, order: i32, reason: &str) {
        if let Some(times) = row(&mut self.refusals, (place(zone, order), name(reason)), &mut self.beyond, || 0) {
            *times += 1;
        }
    }

    fn migrate(&mut self, pid: u32, migrated: &Migrated<'_>) {
        if migrated.reason == "compaction"
            && let Some(run) = self.open.get_mut(&pid)
        {
            add(&mut run.migrated, migrated.succeeded);
        }
        let (reason, mode) = (name(migrated.reason), name(migrated.mode).to_lowercase());
        let new = || MigrationRow {
            reason: reason.clone(),
            mode: mode.clone(),
            calls: 0,
            succeeded_pages: 0,
            failed_pages: 0,
            thp_succeeded: 0,
            thp_failed: 0,
            thp_split: 0,
            folios_split: 0,
        };
        if let Some(row) = row(&mut self.migrations, (reason.clone(), mode.clone()), &mut self.beyond, new) {
            row.calls += 1;
            add(&mut row.succeeded_pages, migrated.succeeded);
            add(&mut row.failed_pages, migrated.failed);
            add(&mut row.thp_succeeded, migrated.thp_succeeded);
            add(&mut row.thp_failed, migrated.thp_failed);
            add(&mut row.thp_split, migrated.thp_split);
            add(&mut row.folios_split, migrated.split);
        }
    }

    fn area(&mut self, area: &str, change: impl FnOnce(&mut CmaRow)) {
        let area = name(area);
        let new = || CmaRow { area: area.clone(), begun: 0, ended: 0, failed: 0, busy_retries: 0 };
        if let Some(row) = row(&mut self.cma, area.clone(), &mut self.beyond, new) {
            change(row);
        }
    }

    /// Gives what there is to tell.
    pub(super) fn report(self, seconds_watched: f64, interrupted: bool, missing_events: Vec<&'static str>) -> Report {
        let is_known = self.timed_pages > 0 && self.timed_ns > 0;
        let pages_per_second = is_known.then(|| self.timed_pages as f64 / seconds(self.timed_ns));
        let run = |((place, mode, status), sum): ((Place, String, String), Runs)| RunRow {
            place,
            mode,
            status,
            runs: sum.count,
            moved_pages: sum.moved,
            failed_pages: sum.failed,
            seconds: seconds(sum.time_ns),
        };
        let refusal = |((place, reason), times)| RefusalRow { place, reason, times };
        Report {
            seconds: seconds_watched,
            interrupted,
            events: self.events,
            lost_events: self.lost,
            unreadable_lines: self.unreadable,
            beyond: self.beyond,
            missing_events,
            runs: sorted(self.runs.into_iter().map(run), |row| row.runs),
            refusals: sorted(self.refusals.into_iter().map(refusal), |row| row.times),
            compaction: Compaction { seconds: seconds(self.timed_ns), pages_per_second, ..self.compaction },
            migrations: sorted(self.migrations.into_values(), |row| {
                row.succeeded_pages.saturating_add(row.failed_pages)
            }),
            isolation: Isolation { busy: sorted(self.busy.into_values(), |row| row.times), ..self.isolation },
            cma: sorted(self.cma.into_values(), |row| row.busy_retries),
            fallbacks: sorted(self.fallbacks.into_values(), |row| row.fragmenting),
            direct: sorted(self.direct.into_values(), |row| row.times),
            kcompactd_wakes: self.wakes,
        }
    }
}

/// Gives the row of a key, a new one while there is room.
fn row<'m, K: Ord, V>(
    rows: &'m mut BTreeMap<K, V>,
    key: K,
    beyond: &mut u64,
    new: impl FnOnce() -> V,
) -> Option<&'m mut V> {
    if rows.len() >= ROWS && !rows.contains_key(&key) {
        *beyond += 1;
        return None;
    }
    Some(rows.entry(key).or_insert_with(new))
}

/// Numbers come from text, so a sum can't be trusted to fit.
fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn seconds(time_ns: u64) -> f64 {
    time_ns as f64 / 1e9
}

fn place(zone: Zone<'_>, order: i32) -> Place {
    Place { node: zone.node, zone: name(zone.name).chars().take(ZONE).collect(), order: Some(order) }
}

/// Makes a name from a line printable and short.
fn name(text: &str) -> String {
    plain(text).chars().take(NAME).collect()
}

/// Gives the name of a migratetype; those that kernels number differently never fall back.
fn migratetype(number: i32) -> String {
    match number {
        0 => "unmovable".into(),
        1 => "movable".into(),
        2 => "reclaimable".into(),
        other => format!("type {other}"),
    }
}

/// Sorts rows, the most frequent first.
fn sorted<T>(rows: impl Iterator<Item = T>, count: impl Fn(&T) -> u64) -> Vec<T> {
    let mut rows: Vec<T> = rows.collect();
    rows.sort_by_key(|row| Reverse(count(row)));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summed(lines: &[&str]) -> Report {
        let mut sums = Sums::default();
        for line in lines {
            sums.line(line);
        }
        sums.report(1.0, false, Vec::new())
    }

    const RUN: [&str; 7] = [
        "   bash-7  [001] .....     1.000000: mm_compaction_begin: zone_start=0x1000 migrate_pfn=0x1000, mode=sync",
        "   bash-7  [001] .....     1.000001: mm_compaction_finished: node=1 zone=Normal   order=9 ret=continue",
        "   bash-7  [001] .....     1.000002: mm_compaction_isolate_migratepages: range=(0x0 ~ 0x2) nr_scanned=9 nr_taken=7",
        "   bash-7  [001] .....     1.000003: mm_compaction_isolate_freepages: range=(0x0 ~ 0x2) nr_scanned=5 nr_taken=4",
        "   bash-7  [001] .....     1.000004: mm_migrate_pages: nr_succeeded=4 nr_failed=3 mode=MIGRATE_SYNC reason=compaction",
        "   bash-7  [001] .....     1.000005: mm_compaction_migratepages: nr_migrated=4 nr_failed=3",
        "   bash-7  [002] .....     1.500000: mm_compaction_end: zone_start=0x1000, mode=sync status=complete",
    ];

    #[test]
    fn a_run_has_its_zone_order_pages_and_time() {
        let report = summed(&RUN);
        let place = Place { node: Some(1), zone: "Normal".into(), order: Some(9) };
        assert_eq!(
            report.runs,
            [RunRow {
                place,
                mode: "sync".into(),
                status: "complete".into(),
                runs: 1,
                moved_pages: 4,
                failed_pages: 3,
                seconds: 0.5
            }]
        );
        let done = &report.compaction;
        assert_eq!((done.scanned_pages, done.isolated_pages, done.scanned_for_free, done.isolated_free), (9, 7, 5, 4));
        assert_eq!((done.moved_pages, done.failed_pages, done.seconds, done.pages_per_second), (4, 3, 0.5, Some(8.0)));
        let migration = &report.migrations[0];
        assert_eq!((migration.mode.as_str(), migration.succeeded_pages, migration.failed_pages), ("sync", 4, 3));
        assert_eq!((report.events, report.unreadable_lines, report.lost_events), (7, 0, 0));

        // Without the one event, the other one has the pages.
        let without =
            |left_out| summed(&RUN.iter().copied().filter(|line| !line.contains(left_out)).collect::<Vec<_>>());
        for event in ["mm_migrate_pages", "mm_compaction_migratepages"] {
            assert_eq!(without(event).runs[0].moved_pages, 4, "{event}");
        }
        // No begin: no time, no rate, but it ended.
        let report = without("begin");
        assert_eq!((report.runs[0].runs, report.compaction.pages_per_second), (1, None));
        // No question: the zone's name is as another run had it.
        let mut lines = RUN.to_vec();
        lines.extend([RUN[0], RUN[6]]);
        let report = summed(&lines);
        let without_order = report.runs.iter().find(|row| row.place.order.is_none()).expect("a row");
        assert_eq!((without_order.place.node, without_order.place.zone.as_str()), (Some(1), "Normal"));
        assert_eq!(without("finished").runs[0].place.zone, "at PFN 0x1000");
    }

    #[test]
    fn runs_of_two_tasks_at_once_are_told_apart() {
        let other: Vec<String> =
            RUN.iter().map(|line| line.replace("bash-7", "kcompactd1-8").replace("Normal", "DMA")).collect();
        let mixed: Vec<&str> = RUN.iter().zip(&other).flat_map(|(one, two)| [*one, two.as_str()]).collect();
        let report = summed(&mixed);
        assert_eq!(report.runs.len(), 2);
        assert!(report.runs.iter().all(|row| row.moved_pages == 4 && row.seconds == 0.5), "{report:?}");
    }

    #[test]
    fn lost_events_make_no_rate() {
        let mut lines = RUN.to_vec();
        lines.insert(3, "CPU:1 [LOST 12 EVENTS]");
        let report = summed(&lines);
        assert_eq!((report.lost_events, report.compaction.pages_per_second, report.runs[0].runs), (12, None, 1));
    }

    #[test]
    fn the_other_events_have_their_sums() {
        let report = summed(&[
            "a-1 [0] 1.0: mm_compaction_suitable: node=0 zone=Normal order=9 ret=continue",
            "a-1 [0] 1.0: mm_compaction_suitable: node=0 zone=Normal order=9 ret=not_suitable_zone",
            "a-1 [0] 1.0: mm_compaction_deferred: node=0 zone=Normal order=9 order_failed=9",
            "a-1 [0] 1.0: mm_compaction_deferred: node=0 zone=Normal order=9 order_failed=9",
            "a-1 [0] 1.0: mm_compaction_try_to_compact_pages: order=9 gfp_mask=0x1 priority=1",
            "qemu: x-2 [0] 1.0: mm_compaction_try_to_compact_pages: order=3 gfp_mask=0x1 priority=1",
            "qemu: x-3 [0] 1.0: mm_compaction_try_to_compact_pages: order=4 gfp_mask=0x1 priority=1",
            "<...>-4 [0] 1.0: mm_compaction_try_to_compact_pages: order=4 gfp_mask=0x1 priority=1",
            "k-5 [0] 1.0: mm_compaction_kcompactd_wake: nid=0 order=9",
            "a-1 [0] 1.0: cma_alloc_start: name=gpu count=1 align=0",
            "a-1 [0] 1.0: cma_alloc_busy_retry: name=gpu pfn=0x1 count=1 align=0",
            "a-1 [0] 1.0: cma_alloc_finish: name=gpu pfn=0x1 count=1 align=0 errorno=-16",
            "a-1 [0] 1.0: test_pages_isolated: start_pfn=0x0 end_pfn=0x8 fin_pfn=0x8 ret=success",
            "a-1 [0] 1.0: test_pages_isolated: start_pfn=0x0 end_pfn=0x8 fin_pfn=0x7 ret=fail",
            "a-1 [0] 1.0: test_pages_isolated: start_pfn=0x4 end_pfn=0x8 fin_pfn=0x7 ret=fail",
            "a-1 [0] 1.0: mm_page_alloc_extfrag: alloc_migratetype=0 fallback_migratetype=1 fragmenting=1 change_ownership=1",
            "a-1 [0] 1.0: mm_page_alloc_extfrag: alloc_migratetype=0 fallback_migratetype=1 fragmenting=0 change_ownership=1",
            "nonsense",
        ]);
        let refused: Vec<_> = report.refusals.iter().map(|row| (row.reason.as_str(), row.times)).collect();
        assert_eq!(refused, [("deferred", 2), ("not_suitable_zone", 1)]);
        let direct: Vec<_> =
            report.direct.iter().map(|row| (row.process.as_str(), row.times, row.highest_order)).collect();
        assert_eq!(direct, [("qemu: x", 2, 4), ("PID 4", 1, 4), ("a", 1, 9)]);
        assert_eq!(report.cma, [CmaRow { area: "gpu".into(), begun: 1, ended: 1, failed: 1, busy_retries: 1 }]);
        assert_eq!((report.isolation.tests, report.isolation.failed), (3, 2));
        assert_eq!(report.isolation.busy, [BusyRow { first_busy_pfn: 7, start_pfn: 4, end_pfn: 8, times: 2 }]);
        let [fallback] = &report.fallbacks[..] else { panic!("{report:?}") };
        assert_eq!((fallback.fragmenting, fallback.whole_blocks, fallback.claimed_blocks), (1, 1, 1));
        assert_eq!((fallback.wanted.as_str(), fallback.from.as_str()), ("unmovable", "movable"));
        assert_eq!((report.kcompactd_wakes, report.unreadable_lines, report.events), (1, 1, 17));
    }

    #[test]
    fn names_dont_steer_and_rows_dont_grow_without_end() {
        let mut sums = Sums::default();
        for number in 0..ROWS + 100 {
            sums.line(&format!("\u{1b}[31m{number}-1 [0] 1.0: mm_compaction_try_to_compact_pages: order=9"));
            sums.line(&format!("a-{number} [0] 1.0: mm_compaction_end: status=\u{202e}{}", "x".repeat(number)));
        }
        let report = sums.report(1.0, false, Vec::new());
        assert_eq!((report.direct.len(), report.beyond), (ROWS, 100));
        let json = serde_json::to_string(&report).expect("JSON");
        assert!(!json.contains(['\u{1b}', '\u{202e}']) && !json.contains("\\u001b"));
        assert!(report.runs.iter().all(|row| row.status.chars().count() <= NAME));
    }

    #[test]
    fn sums_too_large_stay_at_the_most() {
        let line = format!("a-1 [0] 1.0: mm_compaction_migratepages: nr_migrated={0} nr_failed={0}", u64::MAX);
        let report = summed(&[&line, &line]);
        assert_eq!(report.compaction.moved_pages, u64::MAX);
    }
}
