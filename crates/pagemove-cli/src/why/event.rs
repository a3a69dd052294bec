//! One line of Linux' `trace_pipe`.
//!
//! Takes the line as text, gives the task, the time and the event. Promises never to panic: a line that it can't read is
//! none. Kernels differ in fields and their order, so fields are found by name, and only what an event is of no use
//! without must be there. Names in it are as the line has them: they can contain anything.

/// What a line tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// An event.
    Entry(Entry<'a>),
    /// So many events are missing here, at least.
    Lost(u64),
    /// A heading, or an empty line.
    Nothing,
}

/// An event, and who caused it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    /// The task's name; `<...>` where Linux has forgotten it.
    pub(super) task: &'a str,
    /// Its thread's number.
    pub(super) pid: u32,
    /// None where the clock doesn't count seconds.
    pub(super) time_ns: Option<u64>,
    pub(super) event: Event<'a>,
}

/// A zone as an event names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Zone<'a> {
    pub(super) node: Option<u32>,
    pub(super) name: &'a str,
}

/// An event, by the end of its name in Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// `mm_compaction_begin`.
    Begin { zone_start: Option<u64>, mode: &'a str },
    /// `mm_compaction_end`.
    End { zone_start: Option<u64>, mode: &'a str, status: &'a str },
    /// `mm_compaction_finished`: whether a run goes on, asked after each block.
    Finished { zone: Zone<'a>, order: i32 },
    /// `mm_compaction_suitable`: whether compacting a zone would help.
    Suitable { zone: Zone<'a>, order: i32, answer: &'a str },
    /// `mm_compaction_deferred`.
    Deferred { zone: Zone<'a>, order: i32 },
    /// `mm_compaction_migratepages`.
    Moved { migrated: u64, failed: u64 },
    /// `mm_compaction_isolate_migratepages`.
    IsolatedMovable { scanned: u64, taken: u64 },
    /// `mm_compaction_isolate_freepages`.
    IsolatedFree { scanned: u64, taken: u64 },
    /// `mm_compaction_try_to_compact_pages`: the task compacts for its own allocation.
    Direct { order: i32 },
    /// `mm_compaction_kcompactd_wake`.
    Wake,
    /// `mm_migrate_pages`.
    Migrated(Migrated<'a>),
    /// `cma_alloc_start`.
    CmaStart { area: &'a str },
    /// `cma_alloc_finish`.
    CmaFinish { area: &'a str, is_failed: bool },
    /// `cma_alloc_busy_retry`.
    CmaBusy { area: &'a str },
    /// `test_pages_isolated`: `first_busy` is the range's end, or beyond, if all of it was free.
    IsolationTest { start: u64, end: u64, first_busy: u64 },
    /// `mm_page_alloc_extfrag`.
    Fallback { wanted: i32, from: i32, is_fragmenting: bool, takes_block: bool },
    /// Another event.
    Other,
}

/// What `mm_migrate_pages` says; what a kernel doesn't count is 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Migrated<'a> {
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) thp_succeeded: u64,
    pub(super) thp_failed: u64,
    pub(super) thp_split: u64,
    /// Large folios of any size.
    pub(super) split: u64,
    pub(super) mode: &'a str,
    pub(super) reason: &'a str,
}

/// Reads a line.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() || line.starts_with('#') {
        return Some(Line::Nothing);
    }
    if let Some(lost) = lost(line) {
        return Some(Line::Lost(lost));
    }
    let (task, pid, rest) = head(line)?;
    // Flags of the interrupt state come first, where they aren't switched off.
    let (mut time, mut rest) = word(rest)?;
    if !is_time(time) {
        (time, rest) = word(rest)?;
    }
    if !is_time(time) {
        return None;
    }
    let (name, body) = word(rest)?;
    let event = event(name.strip_suffix(':')?, Fields(body))?;
    Some(Line::Entry(Entry { task, pid, time_ns: nanoseconds(time), event }))
}

/// Reads `CPU:1 [LOST 5 EVENTS]`; a kernel that has no number leaves it out.
fn lost(line: &str) -> Option<u64> {
    let rest = line.trim_start().strip_prefix("CPU:")?;
    let count = rest.split_once("[LOST ")?.1.strip_suffix("EVENTS]")?.trim();
    if count.is_empty() { Some(1) } else { count.parse().ok() }
}

/// Parts `name-123 [001] rest`, or `name-123 (  120) [001] rest`, into name, number and rest. Taken from the right, since a
/// name can look like all of it.
fn head(line: &str) -> Option<(&str, u32, &str)> {
    line.rmatch_indices('-').find_map(|(at, _)| {
        let after = &line[at + 1..];
        let digits = after.bytes().take_while(u8::is_ascii_digit).count();
        let pid = after[..digits].parse().ok()?;
        let mut rest = after[digits..].trim_start();
        if let Some(group) = rest.strip_prefix('(') {
            rest = group.split_once(')')?.1.trim_start();
        }
        let (cpu, rest) = rest.strip_prefix('[')?.split_once(']')?;
        let is_cpu = !cpu.is_empty() && cpu.bytes().all(|byte| byte.is_ascii_digit());
        is_cpu.then(|| (line[..at].trim_start(), pid, rest))
    })
}

/// Parts the first word from the rest.
fn word(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_start();
    let (first, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    (!first.is_empty()).then_some((first, rest))
}

/// Tells whether a word is the line's time, such as `986.901654:`.
fn is_time(word: &str) -> bool {
    let digits = word.strip_suffix(':').unwrap_or("");
    digits.starts_with(|first: char| first.is_ascii_digit()) && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn nanoseconds(time: &str) -> Option<u64> {
    let (seconds, part) = time.strip_suffix(':')?.split_once('.')?;
    let digits = part.get(..part.len().min(9))?;
    let scale = 10_u64.pow(9 - digits.len() as u32);
    let part = digits.parse::<u64>().ok()?.checked_mul(scale)?;
    seconds.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(part)
}

/// The `name=value` words after an event's name.
#[derive(Clone, Copy)]
struct Fields<'a>(&'a str);

impl<'a> Fields<'a> {
    fn text(self, name: &str) -> Option<&'a str> {
        let value = |word: &'a str| Some(word.strip_prefix(name)?.strip_prefix('=')?.trim_end_matches(','));
        self.0.split_whitespace().find_map(value)
    }

    /// Decimal, or hexadecimal with 0x.
    fn number(self, name: &str) -> Option<u64> {
        number(self.text(name)?)
    }

    /// As `number`; -1 can be 0xffffffff as well.
    fn signed(self, name: &str) -> Option<i32> {
        let text = self.text(name)?;
        text.parse().ok().or_else(|| number(text).map(|number| number as i32))
    }

    fn zone(self) -> Option<Zone<'a>> {
        Some(Zone { node: self.number("node").and_then(|node| node.try_into().ok()), name: self.text("zone")? })
    }

    /// A mode of migration, without what all their names begin with.
    fn mode(self) -> &'a str {
        let mode = self.text("mode").unwrap_or("unknown");
        mode.strip_prefix("MIGRATE_").unwrap_or(mode)
    }
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn event<'a>(name: &str, fields: Fields<'a>) -> Option<Event<'a>> {
    let count = |name| fields.number(name).unwrap_or(0);
    Some(match name {
        "mm_compaction_begin" => Event::Begin { zone_start: fields.number("zone_start"), mode: fields.mode() },
        "mm_compaction_end" => {
            Event::End { zone_start: fields.number("zone_start"), mode: fields.mode(), status: fields.text("status")? }
        }
        "mm_compaction_finished" => Event::Finished { zone: fields.zone()?, order: fields.signed("order")? },
        "mm_compaction_suitable" => {
            Event::Suitable { zone: fields.zone()?, order: fields.signed("order")?, answer: fields.text("ret")? }
        }
        "mm_compaction_deferred" => Event::Deferred { zone: fields.zone()?, order: fields.signed("order")? },
        "mm_compaction_migratepages" => {
            Event::Moved { migrated: fields.number("nr_migrated")?, failed: count("nr_failed") }
        }
        "mm_compaction_isolate_migratepages" => {
            Event::IsolatedMovable { scanned: count("nr_scanned"), taken: fields.number("nr_taken")? }
        }
        "mm_compaction_isolate_freepages" => {
            Event::IsolatedFree { scanned: count("nr_scanned"), taken: fields.number("nr_taken")? }
        }
        "mm_compaction_try_to_compact_pages" => Event::Direct { order: fields.signed("order")? },
        "mm_compaction_kcompactd_wake" => Event::Wake,
        "mm_migrate_pages" => Event::Migrated(Migrated {
            succeeded: fields.number("nr_succeeded")?,
            failed: fields.number("nr_failed")?,
            thp_succeeded: count("nr_thp_succeeded"),
            thp_failed: count("nr_thp_failed"),
            thp_split: count("nr_thp_split"),
            split: count("nr_split"),
            mode: fields.mode(),
            reason: fields.text("reason").unwrap_or("unknown"),
        }),
        "cma_alloc_start" => Event::CmaStart { area: area(fields) },
        "cma_alloc_finish" => {
            // Without an error's number, a PFN of -1 says it; older kernels write it without 0x.
            let no_pfn = || fields.text("pfn").is_some_and(|pfn| pfn.ends_with("ffffffff"));
            let is_failed = fields.signed("errorno").map_or_else(no_pfn, |error| error != 0);
            Event::CmaFinish { area: area(fields), is_failed }
        }
        "cma_alloc_busy_retry" => Event::CmaBusy { area: area(fields) },
        "test_pages_isolated" => Event::IsolationTest {
            start: fields.number("start_pfn")?,
            end: fields.number("end_pfn")?,
            first_busy: fields.number("fin_pfn")?,
        },
        "mm_page_alloc_extfrag" => {
            let orders = || Some(fields.signed("fallback_order")? < fields.signed("pageblock_order")?);
            let is_fragmenting = fields.number("fragmenting").map(|is| is != 0).or_else(orders).unwrap_or(true);
            Event::Fallback {
                wanted: fields.signed("alloc_migratetype")?,
                from: fields.signed("fallback_migratetype")?,
                is_fragmenting,
                takes_block: count("change_ownership") != 0,
            }
        }
        _ => Event::Other,
    })
}

/// Older kernels don't name the area.
fn area(fields: Fields<'_>) -> &str {
    fields.text("name").unwrap_or("unnamed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Entry<'_> {
        let Some(Line::Entry(entry)) = parse(line) else { panic!("not an event: {line}") };
        entry
    }

    fn told(line: &str) -> Event<'_> {
        entry(line).event
    }

    const NORMAL: Zone<'_> = Zone { node: Some(0), name: "Normal" };

    /// Lines of Linux 6.18.
    #[test]
    fn lines_of_6_18() {
        let begin = "            bash-16087   [001] .N...   986.901654: mm_compaction_begin: zone_start=0x1 migrate_pfn=0x1 \
                     free_pfn=0xe00 zone_end=0x1000, mode=sync\n";
        let expected = Event::Begin { zone_start: Some(1), mode: "sync" };
        assert_eq!(entry(begin), Entry { task: "bash", pid: 16087, time_ns: Some(986_901_654_000), event: expected });
        let head = "            bash-16087   [001] .....   986.901710: ";
        let rows = [
            (
                "mm_compaction_end: zone_start=0x1 migrate_pfn=0xe00 free_pfn=0xe00 zone_end=0x1000, mode=sync status=complete",
                Event::End { zone_start: Some(1), mode: "sync", status: "complete" },
            ),
            (
                "mm_compaction_finished: node=0 zone=Normal   order=-1 ret=continue",
                Event::Finished { zone: NORMAL, order: -1 },
            ),
            (
                "mm_compaction_suitable: node=0 zone=Normal   order=9 ret=not_suitable_zone",
                Event::Suitable { zone: NORMAL, order: 9, answer: "not_suitable_zone" },
            ),
            (
                "mm_compaction_deferred: node=0 zone=Normal   order=9 order_failed=9 consider=1 limit=2",
                Event::Deferred { zone: NORMAL, order: 9 },
            ),
            ("mm_compaction_migratepages: nr_migrated=32 nr_failed=1", Event::Moved { migrated: 32, failed: 1 }),
            (
                "mm_compaction_isolate_migratepages: range=(0x600 ~ 0x800) nr_scanned=512 nr_taken=7",
                Event::IsolatedMovable { scanned: 512, taken: 7 },
            ),
            (
                "mm_compaction_isolate_freepages: range=(0xffe00 ~ 0x100000) nr_scanned=512 nr_taken=512",
                Event::IsolatedFree { scanned: 512, taken: 512 },
            ),
            (
                "mm_compaction_try_to_compact_pages: order=9 gfp_mask=GFP_TRANSHUGE|__GFP_THISNODE priority=2",
                Event::Direct { order: 9 },
            ),
            ("mm_compaction_kcompactd_wake: nid=0 order=9 classzone_idx=Normal  ", Event::Wake),
            (
                "mm_migrate_pages: nr_succeeded=5 nr_failed=2 nr_thp_succeeded=1 nr_thp_failed=3 nr_thp_split=4 nr_split=6 \
                 mode=MIGRATE_SYNC reason=compaction",
                Event::Migrated(Migrated {
                    succeeded: 5,
                    failed: 2,
                    thp_succeeded: 1,
                    thp_failed: 3,
                    thp_split: 4,
                    split: 6,
                    mode: "SYNC",
                    reason: "compaction",
                }),
            ),
            (
                "test_pages_isolated: start_pfn=0x8000 end_pfn=0x8200 fin_pfn=0x8123 ret=fail",
                Event::IsolationTest { start: 0x8000, end: 0x8200, first_busy: 0x8123 },
            ),
            (
                "mm_page_alloc_extfrag: page=00000000e1e4d8a5 pfn=0x1c2600 alloc_order=0 fallback_order=8 pageblock_order=9 \
                 alloc_migratetype=0 fallback_migratetype=1 fragmenting=1 change_ownership=0",
                Event::Fallback { wanted: 0, from: 1, is_fragmenting: true, takes_block: false },
            ),
            ("sched_switch: prev_comm=a", Event::Other),
        ];
        for (body, event) in rows {
            assert_eq!(told(&format!("{head}{body}")), event, "{body}");
        }
    }

    /// Fewer fields, another order, numbers in another base, no flags, a thread group.
    #[test]
    fn lines_of_other_kernels() {
        let expected = Event::Fallback { wanted: 0, from: 2, is_fragmenting: true, takes_block: true };
        let line = "<idle>-0     [006] d.s.  1110.217281: mm_page_alloc_extfrag: page=ffffea0064142000 pfn=26235008 \
                    alloc_order=3 fallback_order=3 pageblock_order=9 alloc_migratetype=0 fallback_migratetype=2 fragmenting=1 \
                    change_ownership=1";
        assert_eq!(told(line), expected);
        let line =
            "sh-14869 [000] ....  6850.456639: mm_compaction_try_to_compact_pages: order=2 gfp_mask=0x27000c0 mode=1";
        assert_eq!(told(line), Event::Direct { order: 2 });
        let Event::Migrated(migrated) = told(
            "a-1 (-----) [000] 5.5: mm_migrate_pages: reason=demotion nr_failed=0x2 nr_succeeded=0x10 mode=MIGRATE_ASYNC",
        ) else {
            panic!("not that event");
        };
        assert_eq!((migrated.succeeded, migrated.failed, migrated.thp_failed), (16, 2, 0));
        assert_eq!((migrated.mode, migrated.reason), ("ASYNC", "demotion"));
        let zone = Zone { node: None, name: "0x4" };
        assert_eq!(
            told("a-1 (   77) [000] .... 5.5: mm_compaction_finished: zone=0x4 order=0xffffffff ret=0x9"),
            Event::Finished { zone, order: -1 }
        );
        let fallback = |fields: &str| {
            let line =
                format!("a-1 [0] 5.5: mm_page_alloc_extfrag: {fields} alloc_migratetype=1 fallback_migratetype=0");
            matches!(told(&line), Event::Fallback { is_fragmenting: true, .. })
        };
        assert!(fallback("fallback_order=8 pageblock_order=9") && fallback("") && !fallback("fragmenting=0"));
        assert!(!fallback("fallback_order=9 pageblock_order=9"));
        let cma = |fields: &str| {
            let line = format!("a-1 [0] 5.5: cma_alloc_finish: {fields}");
            let Event::CmaFinish { area, is_failed } = told(&line) else { panic!("not that event") };
            format!("{area} {is_failed}")
        };
        assert_eq!(cma("name=linux,cma pfn=0x8000 page=0 count=1 align=0 errorno=-16"), "linux,cma true");
        assert_eq!(cma("name=linux,cma pfn=0xffffffffffffffff page=0 count=1 align=0 errorno=0"), "linux,cma false");
        assert_eq!(cma("name=x pfn=ffffffffffffffff page=0 count=1 align=0"), "x true");
        assert_eq!(cma("pfn=8000 page=0 count=1 align=0"), "unnamed false");
        assert_eq!(
            told("a-1 [0] 5.5: cma_alloc_busy_retry: name=gpu pfn=0x1 page=0 count=1 align=0"),
            Event::CmaBusy { area: "gpu" }
        );
    }

    #[test]
    fn a_name_can_look_like_a_line() {
        let body = "mm_compaction_migratepages: nr_migrated=1 nr_failed=0";
        for name in ["a b: c", "x-1 [000] ...", "-5 [001] 1.0: a", "<...>", "zürich", "a=b, c", "mm_migrate_page", ""]
        {
            let line = format!("{name:>16}-42      [001] .....    10.000001: {body}");
            let entry = entry(&line);
            assert_eq!((entry.task, entry.pid, entry.time_ns), (name, 42, Some(10_000_001_000)));
            assert_eq!(entry.event, Event::Moved { migrated: 1, failed: 0 });
        }
    }

    #[test]
    fn lost_events_and_headings() {
        assert_eq!(parse("CPU:3 [LOST 1234 EVENTS]\n"), Some(Line::Lost(1234)));
        assert_eq!(parse("CPU:3 [LOST EVENTS]"), Some(Line::Lost(1)));
        assert_eq!((parse("# tracer: nop"), parse(" \n")), (Some(Line::Nothing), Some(Line::Nothing)));
    }

    #[test]
    fn what_cant_be_read_is_none() {
        let good = "  kcompactd0-33 (   33) [001] d..1.   986.901710: mm_compaction_end: zone_start=0x1 mode=sync \
                    status=complete";
        assert!(parse(good).is_some());
        // Cut anywhere, or with a byte exchanged, it's an event, or none, and no panic.
        for at in 0..good.len() {
            let _ = parse(&good[..at]);
            for other in ["\u{0}", "-", "[", ":", "=", " ", "é", "9"] {
                let _ = parse(&format!("{}{other}{}", &good[..at], &good[at + 1..]));
            }
        }
        for line in [
            "nonsense",
            "a-1 [000] .... 5.5:",
            "a-1 [000] .... 5.5: mm_compaction_end: zone_start=0x1",
            "a-1 [000] .... five: mm_compaction_end: status=complete",
            "a-1 [x] .... 5.5: mm_compaction_end: status=complete",
            "a-99999999999 [000] .... 5.5: mm_compaction_end: status=complete",
            "a-1 [000] .... 5.5: mm_migrate_pages: nr_succeeded=many nr_failed=0",
            "CPU:3 [LOST many EVENTS]",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
        let no_seconds = "a-1 [000] .... 123456: mm_compaction_end: status=complete";
        assert_eq!(entry(no_seconds).time_ns, None);
        let much = "a-1 [000] .... 99999999999999999999.5: mm_compaction_end: status=complete";
        assert_eq!(entry(much).time_ns, None);
        assert_eq!(entry("a-1 [0] 5.1234567891: mm_compaction_end: status=x").time_ns, Some(5_123_456_789));
        assert_eq!(entry("a-1 [0] 5.: mm_compaction_end: status=x").time_ns, None);
    }
}
