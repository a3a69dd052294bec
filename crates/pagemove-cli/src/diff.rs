//! `pagemove diff`: what changed between two layouts of one machine: which blocks became free or hostages, and of whom.
//!
//! Takes two layouts (mostly files of `survey --save`), prints tables or one JSON object. Promises that each pageblock counts once; blocks that only one of them
//! has are told apart.

use std::{
    cmp::{Ordering, Reverse},
    collections::BTreeMap,
    io, iter,
};

use serde::Serialize;

use crate::{
    cancel::{STOPPED, Stop, Stopped},
    layout::{
        Block, FrameClass, Layout, LayoutSource, Sizes, SourceError,
        census::{ByClass, Census, Verdict},
        tables::table,
    },
    message::print,
    numbers::thousands,
    owners::{
        holdings,
        names::{Names, named},
        staying,
    },
    terminal::{self, cut, plain, shown},
};

/// Owners that a sentence names, or a table.
const MOST_OWNERS: usize = 12;
/// Columns of a name at most.
const NAME: usize = 60;

/// Shows what changed between two layouts.
#[derive(Debug, clap::Args)]
pub(crate) struct DiffArgs {
    /// The first layout: a file, `live` or `sample`.
    #[arg(value_name = "BEFORE")]
    before: LayoutSource,
    /// The second one.
    #[arg(value_name = "AFTER")]
    after: LayoutSource,
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
}

/// Why there is no comparison.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiffError {
    /// One of the layouts can't be had.
    #[error(transparent)]
    Source(SourceError),
    /// A signal.
    #[error(transparent)]
    Stopped(Stopped),
    /// Signals can't be caught.
    #[error("can't catch Ctrl-C: {0}")]
    Signals(io::Error),
    /// They are of different kinds of machines.
    #[error(
        "the layouts have frames of {} and {} KiB, pageblocks of order {} and {}: they can't be compared",
        .0.frame_bytes >> 10, .1.frame_bytes >> 10, .0.pageblock_order, .1.pageblock_order
    )]
    Sizes(Sizes, Sizes),
    /// Stdout is gone.
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

impl DiffError {
    /// Gives the code to exit with.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(Stopped) => STOPPED,
            _ => 2,
        }
    }
}

impl From<SourceError> for DiffError {
    fn from(error: SourceError) -> Self {
        match error {
            SourceError::Stopped(stopped) => Self::Stopped(stopped),
            error => Self::Source(error),
        }
    }
}

/// A count before and after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
struct Change {
    before: u64,
    after: u64,
}

/// What `--json` prints; its version rises when a field goes, or means something else.
#[derive(Serialize)]
struct Printed<'d> {
    format: &'static str,
    version: u64,
    #[serde(flatten)]
    diff: &'d Diff,
}

/// What changed.
#[derive(Debug, PartialEq, Eq, Default, Serialize)]
pub(crate) struct Diff {
    blocks: Vec<(&'static str, Change)>,
    frames: Vec<(&'static str, Change)>,
    /// Hostage blocks by who holds them, those first that changed most; a block that several hold counts for each.
    owners: Vec<(String, Change)>,
    /// Blocks that are hostages now and weren't, and by the classes that hold them.
    became_hostages: Moved,
    /// Blocks that were hostages and aren't now, by the classes that held them.
    freed: Moved,
    /// Blocks that could be emptied, and of these those that are wholly free now.
    could_be_emptied: u64,
    emptied: u64,
    /// Blocks that only one layout has.
    only_before: u64,
    only_after: u64,
}

/// Blocks, and who holds or held them; one that several hold counts for each.
#[derive(Debug, PartialEq, Eq, Default, Serialize)]
struct Moved {
    blocks: u64,
    by: ByClass,
    /// By the names that the layouts have.
    by_owner: BTreeMap<String, u64>,
}

impl Moved {
    fn add(&mut self, block: &Block, frames: &ByClass, names: &Names) {
        self.blocks += 1;
        for class in FrameClass::ALL.into_iter().filter(|class| class.stays() && frames.of(*class) > 0) {
            self.by.add(class, 1);
        }
        for owner in staying(block, names).into_keys() {
            *self.by_owner.entry(names.name(owner)).or_default() += 1;
        }
    }
}

/// Runs the command.
pub(crate) fn run(args: &DiffArgs) -> Result<(), DiffError> {
    let stop = Stop::on_signals().map_err(DiffError::Signals)?;
    let open = |source: &LayoutSource| {
        let (layout, _) = source.open(&stop, &mut |_, _| {})?;
        named(layout, *source == LayoutSource::Live, &stop, &mut |_, _| {}).map(|(layout, _)| layout)
    };
    let (before, after) = (open(&args.before)?, open(&args.after)?);
    let diff = Diff::of(&before, &after)?;
    let text = if args.json {
        serde_json::to_string_pretty(&Printed { format: "pagemove-diff", version: 1, diff: &diff })
            .map_err(io::Error::from)?
            + "\n"
    } else {
        describe(&diff, [&before, &after].map(|layout| plain(layout.source())), !terminal::is_utf8())
    };
    Ok(print(&text)?)
}

impl Diff {
    /// Compares two layouts of one machine.
    pub(crate) fn of(before: &Layout, after: &Layout) -> Result<Self, DiffError> {
        if before.sizes() != after.sizes() {
            return Err(DiffError::Sizes(before.sizes(), after.sizes()));
        }
        let mut diff = Self::default();
        let counts = |layout: &Layout| Census::take(layout, |_, _, _| {}).total;
        let (one, other) = (counts(before), counts(after));
        let change = |of: fn(&crate::layout::census::Counts) -> u64| Change { before: of(&one), after: of(&other) };
        diff.blocks = vec![
            ("wholly free", change(|counts| counts.blocks.free)),
            ("could be emptied", change(|counts| counts.blocks.movable)),
            ("hostage", change(|counts| counts.blocks.hostage)),
            ("nothing to gain", change(|counts| counts.blocks.full)),
        ];
        let of_class = |class: FrameClass| Change { before: one.frames.of(class), after: other.frames.of(class) };
        let classes = FrameClass::ALL.into_iter().map(|class| (class.name(), of_class(class)));
        diff.frames = classes.filter(|(_, change)| change.before + change.after > 0).collect();
        let names = [before, after].map(Names::of_file);
        let mut owners = BTreeMap::<String, Change>::new();
        for holding in holdings(before, &names[0]) {
            owners.entry(holding.owner).or_default().before += holding.blocks;
        }
        for holding in holdings(after, &names[1]) {
            owners.entry(holding.owner).or_default().after += holding.blocks;
        }
        diff.owners = owners.into_iter().collect();
        diff.owners.sort_by_key(|(_, change)| Reverse(change.before.abs_diff(change.after)));
        diff.compare_blocks(before, after, &names);
        Ok(diff)
    }

    fn compare_blocks(&mut self, before: &Layout, after: &Layout, names: &[Names; 2]) {
        let (mut before, mut after) = (before.blocks().peekable(), after.blocks().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(other)) => one.pfn.cmp(&other.pfn),
            };
            let one = if order.is_le() { before.next() } else { None };
            let other = if order.is_ge() { after.next() } else { None };
            let (Some(one), Some(other)) = (&one, &other) else {
                self.only_before += u64::from(one.is_some());
                self.only_after += u64::from(other.is_some());
                continue;
            };
            let counts = [one, other].map(|block| ByClass::counted(&block.classes));
            let verdicts = counts.each_ref().map(Verdict::of);
            match verdicts.map(|verdict| verdict == Verdict::Hostage) {
                [true, false] => self.freed.add(one, &counts[0], &names[0]),
                [false, true] => self.became_hostages.add(other, &counts[1], &names[1]),
                _ => {}
            }
            self.could_be_emptied += u64::from(verdicts[0] == Verdict::Movable);
            self.emptied += u64::from(verdicts == [Verdict::Movable, Verdict::Free]);
        }
    }
}

/// Writes it for a person.
pub(crate) fn describe(diff: &Diff, [before, after]: [String; 2], ascii: bool) -> String {
    let mut text = format!("before: {before}\nafter:  {after}\n");
    for (name, rows) in [("blocks", &diff.blocks), ("frames", &diff.frames)] {
        let header = [name, "before", "after", "change"].map(str::to_owned);
        let rows = rows.iter().map(|(name, change)| {
            vec![
                (*name).to_owned(),
                thousands(change.before),
                thousands(change.after),
                difference(change.before, change.after),
            ]
        });
        text += &format!("\n{}\n", table(&header, rows.collect(), &[0], ascii));
    }
    let rows: Vec<Vec<String>> = diff
        .owners
        .iter()
        .take(MOST_OWNERS)
        .map(|(name, change)| {
            let counts = [thousands(change.before), thousands(change.after), difference(change.before, change.after)];
            [vec![cut(&shown(plain(name), ascii), NAME)], counts.to_vec()].concat()
        })
        .collect();
    if !rows.is_empty() {
        let header = ["hostage blocks held by", "before", "after", "change"].map(str::to_owned);
        text += &format!("\n{}\n", table(&header, rows, &[0], ascii));
    }
    let holders = |moved: &Moved| {
        let mut by: Vec<(&String, u64)> = moved.by_owner.iter().map(|(name, &blocks)| (name, blocks)).collect();
        by.sort_by_key(|&(_, blocks)| Reverse(blocks));
        let (named, rest) = by.split_at(by.len().min(MOST_OWNERS));
        let mut named: Vec<String> =
            named.iter().map(|(name, blocks)| format!("{} {}", plain(name), thousands(*blocks))).collect();
        if !rest.is_empty() {
            named.push(format!("{} more (--json)", thousands(rest.len() as u64)));
        }
        named.join("; ")
    };
    let line = |moved: &Moved, what: &str, who: &str| match moved.blocks {
        0 => format!("\nNo block {what}."),
        1 => format!("\n1 block {what}, {who}: {}.", holders(moved)),
        blocks => format!("\n{} blocks {what}, {who}: {}.", thousands(blocks), holders(moved)),
    };
    text += &line(&diff.became_hostages, "became hostages", "held now by");
    text += &line(&diff.freed, "stopped being hostages", "held before by");
    text += &format!(
        "\nOf {} blocks that could be emptied {} are wholly free now.",
        thousands(diff.could_be_emptied),
        thousands(diff.emptied)
    );
    let only = [(diff.only_before, "before"), (diff.only_after, "after")];
    for (blocks, when) in only.into_iter().filter(|(blocks, _)| *blocks > 0) {
        text += &format!("\nOnly {when}: {} of the blocks.", thousands(blocks));
    }
    shown(text, ascii)
        + "\n(Free frames on per-CPU lists look like the kernel's: --settle, for both, brings them back first.)\n"
}

/// Writes a difference with its sign.
fn difference(before: u64, after: u64) -> String {
    let sign = match after.cmp(&before) {
        Ordering::Less => "-",
        Ordering::Equal => "",
        Ordering::Greater => "+",
    };
    iter::once(sign).chain([thousands(after.abs_diff(before)).as_str()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::{Owned, Run, Zone};

    fn layout(start_pfn: u64, runs: &[(FrameClass, u64)]) -> Layout {
        let frames = runs.iter().map(|(_, frames)| frames).sum();
        let zone = Zone { name: "Normal".into(), node: 0, start_pfn, spanned: frames, present: frames };
        let runs = runs.iter().copied().map(Run::from).collect();
        Layout::new("test".into(), Sizes::usual(2), vec![zone], runs).expect("consistent")
    }

    #[test]
    fn each_block_is_compared_with_itself() {
        use FrameClass::*;
        // Blocks 0 to 3, and 1 to 4: the first is gone, the last is new.
        let before = layout(0, &[(Free, 4), (Free, 3), (Slab, 1), (Anon, 3), (Kernel, 1), (Free, 4)]);
        let after = layout(4, &[(Free, 7), (Kernel, 1), (Free, 2), (Slab, 1), (DriverMapped, 1), (Anon, 4)]);
        let diff = Diff::of(&before, &after).expect("of one kind");
        assert_eq!((diff.only_before, diff.only_after), (1, 1));
        assert_eq!((diff.freed.blocks, diff.freed.by.of(Slab)), (1, 1));
        let became = &diff.became_hostages;
        assert_eq!((became.blocks, became.by.of(Slab), became.by.of(DriverMapped)), (1, 1, 1));
        assert_eq!(diff.blocks[0], ("wholly free", Change { before: 2, after: 1 }));
        assert!(diff.frames.contains(&("slab", Change { before: 1, after: 1 })));
        let text = describe(&diff, ["a", "b"].map(str::to_owned), true);
        for words in
            ["1 block became hostages, held now by: driver, mapped 1; slab 1.", "Only after: 1 of the blocks.", "-1"]
        {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        assert_eq!((diff.could_be_emptied, diff.emptied), (0, 0));
        let emptied =
            Diff::of(&layout(0, &[(Anon, 2), (Free, 2), (Anon, 4)]), &layout(0, &[(Free, 4), (Anon, 2), (Slab, 2)]));
        let emptied = emptied.expect("of one kind");
        assert_eq!((emptied.could_be_emptied, emptied.emptied), (2, 1));
        let same = Diff::of(&before, &before).expect("of one kind");
        assert!(describe(&same, ["a", "b"].map(str::to_owned), true).contains("No block became hostages."));
        let other = Layout::sample();
        assert!(matches!(Diff::of(&before, &other), Err(DiffError::Sizes(..))));
    }

    #[test]
    fn who_holds_them_is_told_by_name() {
        use FrameClass::*;
        let before = layout(0, &[(Free, 8)]);
        let after = layout(0, &[(Free, 3), (DriverMapped, 2), (Free, 3)]);
        let owned =
            Owned { name: "/dev/a, mapped by b".into(), source: "maps".into(), processes: 1, ranges: vec![(4, 1)] };
        let after = after.with_owners(vec![owned]).expect("within the layout");
        let diff = Diff::of(&before, &after).expect("of one kind");
        let text = describe(&diff, ["a", "b"].map(str::to_owned), true);
        let told = "2 blocks became hostages, held now by: /dev/a, mapped by b 1; driver, mapped 1.";
        assert!(text.contains(told), "{text}");
        assert_eq!(diff.owners.first(), Some(&("/dev/a, mapped by b".to_owned(), Change { before: 0, after: 1 })));
    }
}
