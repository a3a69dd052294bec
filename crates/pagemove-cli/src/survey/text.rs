//! What a survey prints for a person: tables, a picture of the blocks, and what it comes to.

use super::{doubts::doubts, view::View};
use crate::{
    kernel::{free, types},
    layout::tables::{block_table, bytes_as_mib, frame_tables, mib},
    numbers::{bytes_size, thousands},
    owners::{page_owner::ALLOCATORS, table::holdings_table},
    terminal::{plain, shown},
};

/// Writes it, in UTF-8 or ASCII.
pub(super) fn describe(view: &View<'_>, ascii: bool) -> String {
    let (layout, census, held) = (view.layout, &view.census, view.held);
    let block = bytes_size(layout.block_bytes());
    let blocks = &census.total.blocks;
    let mut text = format!("{}\n{} pageblocks of {block}\n", plain(layout.source()), thousands(blocks.total));
    let mut tables = frame_tables(census, ascii);
    tables.push(block_table(census, ascii));
    tables.extend(holdings_table(&view.holdings, ascii));
    for table in tables {
        text += &format!("\n{table}\n");
    }
    if !view.free_blocks.is_empty() {
        text += &format!("\n{}", free::describe(&view.free_blocks, census.frame_bytes, ascii));
        text += &types::describe(&view.types, ascii);
    }

    let per_char = view.picture.blocks_per_char();
    let each = if per_char == 1 { "one block".to_owned() } else { format!("{} blocks", thousands(per_char)) };
    text += &format!("\nBlocks by rising PFN, each character {each}; the fuller, the more of it:\n");
    for (caption, strip) in view.picture.strips(ascii) {
        text += format!("  {caption:>16}  {strip}").trim_end();
        text += "\n";
    }

    let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
    text += &format!(
        "\n{} of {} blocks are hostages ({:.1} %): {} frames that Linux can't move keep {} others,\n{} MiB, \
         from becoming whole free blocks.\n",
        thousands(blocks.hostage),
        thousands(blocks.total),
        percent(blocks.hostage, blocks.total),
        thousands(held.stay),
        thousands(held.others),
        mib(held.others, census.frame_bytes),
    );
    if let Some(first) = view.holdings.first().filter(|first| first.alone > 0) {
        text += &format!(
            "If all pages of one owner could move, most would be gained with {}: {} blocks, {} MiB;\n{} pages beside them would move.\n",
            first.owner,
            thousands(first.alone),
            mib(first.alone * layout.frames_per_block(), census.frame_bytes),
            thousands(first.to_move),
        );
    }
    text += &sums(view);
    for doubt in doubts(view) {
        text += &format!("{doubt}\n");
    }
    shown(text, ascii)
}

/// A stack of each owner that has one, and how they are read.
pub(super) fn stacks(view: &View<'_>, ascii: bool) -> String {
    let with_stacks = view.holdings.iter().map(|holding| (holding, view.names.stack(holding.key)));
    let mut text = String::new();
    for (holding, stack) in with_stacks.filter(|(_, stack)| !stack.is_empty()) {
        text += &format!("\n{}: {} frames\n", holding.owner, thousands(holding.frames));
        stack.iter().for_each(|line| text += &format!("  {}\n", plain(line)));
    }
    if text.is_empty() {
        return "\nNo owner here has a stack: that takes a kernel with CONFIG_PAGE_OWNER, booted with page_owner=on, and debugfs mounted.\n"
            .to_owned();
    }
    text += "\nAn owner is the first function of a stack whose name begins with none of:\n";
    for names in ALLOCATORS.chunks(6) {
        text += &format!("  {}\n", names.join(" "));
    }
    shown(text, ascii)
}

/// What Linux counts of its own memory.
fn sums(view: &View<'_>) -> String {
    let mut text = String::new();
    if !view.sums.is_empty() {
        text += "\nLinux counts of its own memory, without saying where it lies:\n";
        for sum in view.sums.iter().filter(|sum| sum.bytes > 0) {
            text += &format!("  {:>8} MiB  {} ({})\n", bytes_as_mib(sum.bytes), sum.what, sum.field);
            let parts = sum.parts.iter().map(|part| format!("{} {}", part.name, bytes_as_mib(part.bytes)));
            if !sum.parts.is_empty() {
                text += &format!("                most: {}\n", parts.collect::<Vec<_>>().join(", "));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        layout::{Layout, capture::FreeCheck},
        owners::{names::Names, sums::Sum},
    };

    #[test]
    fn the_text_says_what_the_census_counts_in_ascii_as_well() {
        let sample = Layout::sample();
        let names = Names::default();
        let mut view = View::of(&sample, &names);
        view.check = Some(FreeCheck { captured: 1_000, zoneinfo: 990, per_cpu: 90_000 });
        view.pins = Some(1234);
        view.sums = vec![Sum { what: "kernel stacks", field: "KernelStack", bytes: 5 << 20, parts: Vec::new() }];
        let text = describe(&view, true);
        let hostages = format!("{} of 1,024 blocks are hostages", thousands(view.census.total.blocks.hostage));
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
        assert!(stacks(&view, true).contains("page_owner=on"));
        let longest = text.lines().map(str::len).max();
        assert!(longest <= Some(120), "{longest:?} columns:\n{text}");
        assert!(describe(&view, false).contains('█'));
    }
}
