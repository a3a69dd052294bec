//! What a survey prints for a person: tables, a picture of the blocks, and what it comes to.

use super::{free, view::View};
use crate::{
    layout::{
        capture::FreeCheck,
        tables::{block_table, frame_tables, grouped, mib},
    },
    owners::table::holdings_table,
    terminal::plain,
};

/// Writes it, in UTF-8 or ASCII.
pub(super) fn describe(view: &View<'_>, ascii: bool) -> String {
    let (layout, census, held) = (view.layout, &view.census, view.held);
    let block = layout.block_bytes();
    let block = if block < 1 << 20 { format!("{} KiB", block >> 10) } else { format!("{} MiB", block >> 20) };
    let blocks = &census.total.blocks;
    let mut text = format!("{}\n{} pageblocks of {block}\n", plain(layout.source()), grouped(blocks.total));
    let mut tables = frame_tables(census, ascii);
    tables.push(block_table(census, ascii));
    tables.extend(holdings_table(&view.holdings, ascii));
    for table in tables {
        text += &format!("\n{table}\n");
    }
    if !view.free_blocks.is_empty() {
        text += &format!("\n{}", free::describe(&view.free_blocks, census.frame_bytes, ascii));
    }

    let per_char = view.picture.blocks_per_char();
    let each = if per_char == 1 { "one block".to_owned() } else { format!("{} blocks", grouped(per_char)) };
    text += &format!("\nBlocks by rising PFN, each character {each}; the fuller, the more of it:\n");
    for (caption, strip) in view.picture.strips(ascii) {
        text += format!("  {caption:>16}  {strip}").trim_end();
        text += "\n";
    }

    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    text += &format!(
        "\n{} of {} blocks are hostages ({:.1} %): {} frames that Linux can't move keep {} others,\n{} MiB, \
         from becoming whole free blocks.\n",
        grouped(blocks.hostage),
        grouped(blocks.total),
        percent(blocks.hostage, blocks.total),
        grouped(held.stay),
        grouped(held.others),
        mib(held.others, census.frame_bytes),
    );
    if let Some(first) = view.holdings.first().filter(|first| first.alone > 0) {
        text += &format!(
            "If all pages of one owner could move, most would be gained with {}: {} blocks, {} MiB.\n",
            first.owner,
            grouped(first.alone),
            mib(first.alone * layout.frames_per_block(), census.frame_bytes),
        );
    }
    text += &uncertain(view);
    if ascii { crate::terminal::to_ascii(&text) } else { text }
}

/// Says what a capture can't see.
fn uncertain(view: &View<'_>) -> String {
    let mut text = String::new();
    if !view.sums.is_empty() {
        text += "\nLinux counts of its own memory, without saying where it lies:\n";
        for sum in view.sums.iter().filter(|sum| sum.bytes > 0) {
            text += &format!(
                "  {:>8} MiB  {} ({})\n",
                mib(sum.bytes / view.census.frame_bytes, view.census.frame_bytes),
                sum.what,
                sum.field
            );
        }
    }
    if let Some(pins) = view.pins.filter(|&pins| pins > 0) {
        text += &format!(
            "Up to {} pages are pinned (nr_foll_pin_acquired less released): which, a capture doesn't show. A block with one of\n\
             them can't be emptied; at most as many of those that \"could be emptied\" can't.\n",
            grouped(pins),
        );
    } else if view.pins.is_none() {
        text += "Pinned pages look like others here: blocks that \"could be emptied\" may hold some.\n";
    }
    if view.is_blind {
        text += "The kernel shows this user no frames of processes (it takes CAP_SYS_ADMIN): what processes map has no name here.\n";
    }
    if view.unread > 0 {
        text += &format!(
            "{} of the processes ended or couldn't be read; what only they map has no name.\n",
            grouped(view.unread)
        );
    }
    if let Some(FreeCheck { captured, zoneinfo, per_cpu }) = view.check {
        let percent = captured.abs_diff(zoneinfo) as f64 * 100.0 / zoneinfo.max(1) as f64;
        text += &format!(
            "Check: {} frames are free here, Linux counts {} ({percent:.2} % apart).\nOf the kernel's frames, {} may be free \
             as well, on per-CPU lists{}\n",
            grouped(captured),
            grouped(zoneinfo),
            grouped(per_cpu),
            if per_cpu > captured / 1000 { "; --settle trims these." } else { "." },
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::Layout,
        owners::{mapped::Mapped, sums::Sum},
    };

    #[test]
    fn the_text_says_what_the_census_counts_in_ascii_as_well() {
        let sample = Layout::sample();
        let mut view = View::of(&sample, &Mapped::default());
        view.check = Some(FreeCheck { captured: 1_000, zoneinfo: 990, per_cpu: 3 });
        view.pins = Some(1234);
        view.sums = vec![Sum { what: "kernel stacks", field: "KernelStack", bytes: 5 << 20 }];
        let text = describe(&view, true);
        let hostages = format!("{} of 1,024 blocks are hostages", grouped(view.census.total.blocks.hostage));
        for words in [
            &hostages,
            "driver, mapped",
            "hostage blocks held by",
            "(1.01 % apart)",
            "--settle",
            "1,234 pages are pinned",
            "5.0 MiB  kernel stacks (KernelStack)",
            "most would be gained",
        ] {
            assert!(text.contains(words), "{words:?} isn't in\n{text}");
        }
        assert!(text.is_ascii(), "{text}");
        let longest = text.lines().map(str::len).max();
        assert!(longest <= Some(120), "{longest:?} columns:\n{text}");
        assert!(describe(&view, false).contains('█'));
    }
}
