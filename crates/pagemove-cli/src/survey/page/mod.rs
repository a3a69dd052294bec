//! The HTML report of a survey: each pageblock a cell, who holds it, and what would be gained.
//!
//! Takes what there is to tell, and gives the page. Without scripts all but the map is there. Promises that names from outside are text and
//! never markup, and that the page's size is bounded ([`blocks`]).

mod blocks;

use maud::{Markup, PreEscaped, html};

use super::{doubts::doubts, view::View};
use crate::{
    html::Page,
    kernel::{
        free::{FreeBlocks, LEGEND},
        types::OfType,
    },
    layout::{
        FrameClass,
        tables::{bytes_as_mib, mib},
    },
    numbers::{bytes_size, counted, percent, thousands},
};

/// Owners with a row of their own.
const MOST_OWNERS: usize = 200;

/// Gives the page.
pub(super) fn page(view: &View<'_>) -> Markup {
    let blocks = &view.census.total.blocks;
    let size = bytes_size(view.layout.block_bytes());
    let claim = match (blocks.total, blocks.hostage) {
        (0, _) => "This layout has no blocks".to_owned(),
        (total, 0) => format!("None of {} of {size} is held hostage", counted(total, "block")),
        (total, hostage) => {
            format!("{} of {} of {size} are held hostage", thousands(hostage), counted(total, "block"))
        }
    };
    let body = html! {
        header {
            p.kicker { "pagemove survey · " (view.layout.source()) }
            h1 { (claim) "." }
            p.detail {
                (thousands(view.held.stay)) " frames that Linux can’t move keep " (thousands(view.held.others)) " others, "
                (mib(view.held.others, view.census.frame_bytes)) " MiB, from becoming whole free blocks."
            }
            @for doubt in doubts(view) { p.caveat { (doubt.replace('\n', " ")) } }
        }
        main {
            section { (figures(view)) }
            section { h2 { "Memory, block by block" } (map(view)) }
            section { h2 { "Who holds the hostages" } (owners(view)) }
            section { h2 { "What the frames are" } (frames(view)) }
            @if !view.free_blocks.is_empty() { section { h2 { "Free blocks by order" } (free(&view.free_blocks)) (types(&view.types)) } }
            @if !view.sums.is_empty() { section { h2 { "What Linux counts of its own memory" } (sums(view)) } }
            section { h2 { "How to read this" } (reading(&size)) }
        }
    };
    Page { title: &claim, style: include_str!("page.css"), script: include_str!("map.js"), body }.whole()
}

/// The four numbers to remember.
fn figures(view: &View<'_>) -> Markup {
    let blocks = &view.census.total.blocks;
    let share = |part: u64| percent(part as f64, blocks.total as f64);
    let first = view.holdings.first().filter(|first| first.alone > 0);
    html! {
        dl.figures {
            div { dt { "blocks are wholly free" } dd { (thousands(blocks.free)) } dd.against { (share(blocks.free)) " of all" } }
            div {
                dt { "could be emptied" }
                dd { (thousands(blocks.movable)) }
                dd.against { "if no page in them is pinned" }
            }
            div { dt { "are hostages" } dd { (thousands(blocks.hostage)) } dd.against { (share(blocks.hostage)) " of all" } }
            @if let Some(first) = first {
                div {
                    dt { "would be gained if one owner’s pages could move" }
                    dd { (thousands(first.alone)) }
                    dd.against { (first.owner) }
                }
            }
        }
    }
}

/// The map's frame; what is in it is drawn by the script.
fn map(view: &View<'_>) -> Markup {
    let data = blocks::packed(view, MOST_OWNERS);
    let zones = &view.census.zones;
    html! {
        p {
            "Each cell is one block, by rising address, row by row; holes are left out. Its colour is that of who holds most frames in it. "
            "Point at a block, or choose one with the arrow keys, Page Up and Page Down, Home and End; N and P go to the next and the "
            "previous block that the filter lets through."
        }
        noscript { p.caveat { "The map is drawn by a script, which this browser doesn’t run. The tables below need none." } }
        div #map hidden {
            form #filter {
                label { "Held by " select #owner { option value="" { "anybody" } } }
                label { "State " select #state {
                    option value="" { "any" }
                    option value="0" { "wholly free" } option value="1" { "could be emptied" }
                    option value="2" { "hostage" } option value="3" { "nothing to gain" }
                } }
                @if zones.len() > 1 {
                    label { "Zone " select #zone {
                        option value="" { "all" }
                        @for (at, zone) in zones.iter().enumerate() { option value=(at) { (zone.name) ", node " (zone.node) } }
                    } }
                }
                label { "Go to PFN " input #pfn type="text" size="12" placeholder="0x12345" autocomplete="off"; }
                output #shown {}
            }
            ul.legend #legend {}
            canvas #all tabindex="0" role="application" aria-label="All blocks: arrow keys choose one" aria-describedby="told" {}
            canvas #near hidden aria-hidden="true" {}
            h3 #told aria-live="polite" {}
            div #block hidden {
                div { canvas #frames role="img" aria-label="The block’s frames; the table beside it has the same" {} }
                div.scroll { table { thead { tr { th { "PFN" } th { "frames" } th { "who" } th {} } } tbody #runs {} } }
            }
        }
        script #data type="application/json" { (PreEscaped(data.json)) }
        @if data.left_out > 0 {
            p.note { "The frames of " (counted(data.left_out, "block")) " are left out, to keep this page small; their counts are there." }
        }
    }
}

/// The table of owners.
fn owners(view: &View<'_>) -> Markup {
    if view.holdings.is_empty() {
        return html! { p.nothing { "No block is held hostage." } };
    }
    let (shown, rest) = view.holdings.split_at(view.holdings.len().min(MOST_OWNERS));
    html! {
        div.scroll {
            table.numbers.owners {
                thead { tr { th { "Owner" } th { "blocks" } th { "alone" } th { "to move" } th { "frames" } th { "processes" } th { "one is at" } th { "what it is, or how it is known" } } }
                tbody {
                    @for (at, holding) in shown.iter().enumerate() {
                        tr {
                            th scope="row" { button.js hidden data-owner=(at) { (holding.owner) } span.plain { (holding.owner) } }
                            td { (thousands(holding.blocks)) }
                            td { (thousands(holding.alone)) }
                            td { (thousands(holding.to_move)) }
                            td { (thousands(holding.frames)) }
                            td title=(pids(&holding.pids)) { @if holding.processes > 0 { (thousands(holding.processes)) } }
                            td { (format!("{:#x}", holding.example)) }
                            td.words { (holding.source) }
                        }
                    }
                }
            }
        }
        @if !rest.is_empty() { p.note { "And " (thousands(rest.len() as u64)) " more owners: survey --json has all." } }
        p.note {
            "Blocks: hostage blocks with a frame of this owner. Alone: those that only this owner holds, and which would be gained if its "
            "pages could move. To move: the pages beside them in these."
        }
    }
}

fn pids(pids: &[u32]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Frames by class, zone by zone.
fn frames(view: &View<'_>) -> Markup {
    let census = &view.census;
    let classes = FrameClass::ALL.into_iter().filter(|class| census.total.frames.of(*class) > 0);
    let several_nodes = census.has_several_nodes();
    html! {
        div.scroll {
            table.numbers {
                thead { tr {
                    th { "Class" }
                    @for zone in &census.zones { th { (zone.name) @if several_nodes { ", node " (zone.node) } } }
                    th { "all" } th { "MiB" } th { "what it is" }
                } }
                tbody {
                    @for class in classes {
                        tr {
                            th scope="row" { (class.name()) }
                            @for zone in &census.zones { td { (thousands(zone.counts.frames.of(class))) } }
                            td { (thousands(census.total.frames.of(class))) }
                            td { (mib(census.total.frames.of(class), census.frame_bytes)) }
                            td.words { (class.description()) }
                        }
                    }
                }
            }
        }
    }
}

fn free(zones: &[FreeBlocks]) -> Markup {
    let orders = zones.iter().map(|zone| zone.blocks.len()).max().unwrap_or(0);
    html! {
        div.scroll {
            table.numbers {
                thead { tr { th { "Order" } @for order in 0..orders { th { (order) } } th { "unusable" } th { "index" } } }
                tbody {
                    @for zone in zones {
                        tr {
                            th scope="row" { (zone.zone) ", node " (zone.node) }
                            @for order in 0..orders { td { (thousands(zone.blocks.get(order).copied().unwrap_or(0))) } }
                            td { (format!("{:.1} %", zone.unusable_per_mille as f64 / 10.0)) }
                            td { (zone.fragmentation_index) }
                        }
                    }
                }
            }
        }
        p.note { (LEGEND.replace('\n', " ")) }
    }
}

fn types(types: &[OfType]) -> Markup {
    let orders = types.iter().map(|of_type| of_type.blocks.len()).max().unwrap_or(0);
    html! {
        @if orders > 0 {
            div.scroll {
                table.numbers {
                    thead { tr { th { "By migratetype" } @for order in 0..orders { th { (order) } } th { "pageblocks" } } }
                    tbody {
                        @for of_type in types {
                            tr {
                                th scope="row" { (of_type.zone) ", node " (of_type.node) ", " (of_type.migratetype) }
                                @for order in 0..orders { td { (thousands(of_type.blocks.get(order).copied().unwrap_or(0))) } }
                                td { (thousands(of_type.pageblocks)) }
                            }
                        }
                    }
                }
            }
            p.note { "Linux stops counting at 100,000." }
        }
    }
}

fn sums(view: &View<'_>) -> Markup {
    html! {
        p { "Linux doesn’t say where these lie; they bound what has no name above." }
        table.numbers {
            thead { tr { th { "What" } th { "MiB" } th { "Linux’ name" } } }
            tbody {
                @for sum in view.sums.iter().filter(|sum| sum.bytes > 0) {
                    tr { th scope="row" { (sum.what) @for part in &sum.parts { p.part { (part.name) " " (bytes_as_mib(part.bytes)) } } } td { (bytes_as_mib(sum.bytes)) } td.words { (sum.field) } }
                }
            }
        }
    }
}

fn reading(size: &str) -> Markup {
    html! {
        dl.reading {
            dt { "Block" }
            dd { "A pageblock: " (size) " of physical memory, aligned to its size. Only a block that is wholly free can become a huge page." }
            dt { "Hostage" }
            dd { "A block with frames that Linux can’t move, and others beside them which are free or could move. A page that a driver or "
                "the kernel holds keeps the whole block from becoming free." }
            dt { "Could be emptied" }
            dd { "All frames are free or of kinds that Linux moves. A page that is pinned stays nevertheless, and a capture doesn’t show pins: "
                "survey --try compacts, and tells what stayed." }
            dt { "Nothing to gain" }
            dd { "All frames stay, so nothing is lost by leaving the block alone." }
        }
    }
}

#[cfg(test)]
mod tests;
