//! The HTML report: one file that tells what a run found, to be shown as it is.
//!
//! Takes the results of a run and a folder, gives the path of the page. The page needs nothing else: no network, no
//! fonts, no libraries; its own policy forbids it to load any. It appears whole or not at all.

mod bars;
mod blocked;
mod blocks;
mod finding;
#[cfg(test)]
pub(crate) mod fixture;
mod kind;
pub(crate) mod rows;
mod tables;

use std::path::{Path, PathBuf};

use maud::{Markup, html};

use self::finding::{Verdict, baseline, finding, named, verdict};
use crate::html::{Page, PageError};
use crate::numbers::{DASH, block_size, change, frames_size, micros, percent, significant, thousands};
use crate::results::{CLASSES, Results};

/// Name of the page in its folder.
const FILE_NAME: &str = "report.html";

/// Writes the report of a run as `report.html` in a folder, which it makes if need be, and gives the page's path.
pub(crate) fn write(results: &Results, dir: &Path) -> Result<PathBuf, PageError> {
    crate::html::write(&page(results), dir, FILE_NAME)
}

/// Gives the whole page.
fn page(results: &Results) -> Markup {
    let finding = finding(results);
    let size = block_size(results.layout.pageblock_order);
    let body = html! {
        header {
            p.kicker { "pagemove · one memory, compacted under each policy" }
            h1 { (unbroken(&finding.claim, &size)) "." }
            p.detail { (unbroken(&finding.detail, &size)) }
            @for caveat in &finding.caveats { p.caveat { (caveat) } }
            (judged(results))
        }
        main {
            section {
                (bars::free_blocks(results))
                (key_figures(results))
            }
            section {
                h2 { "Memory, block by block" }
                p { "Each cell is one block of " (size) ", in the order of its address, row by row. "
                    "The stronger the shade, the fuller the block. The colour tells what the block is to that policy: "
                    "the same page can hold a block hostage under one and be movable under another." }
                (blocks::section(results))
            }
            section {
                h2 { "Who holds the hostages" }
                (bars::hostages(results))
            }
            section {
                h2 { "Why pages stayed" }
                (tables::reasons(results))
            }
            section {
                h2 { "How long a thread was blocked" }
                (blocked::section(results))
            }
            section {
                h2 { "Speed" }
                (bars::throughput(results))
            }
            section {
                h2 { "All numbers" }
                (tables::everything(results))
            }
            section {
                h2 { "How to read this" }
                (reading(&size))
            }
            section {
                h2 { "How to repeat this" }
                (repeating(results))
            }
        }
        div #tip hidden data-classes=(CLASSES.join("|")) {}
    };
    Page { title: &finding.claim, style: include_str!("run.css"), script: include_str!("hover.js"), body }.whole()
}

/// Keeps a size on one line with its unit.
fn unbroken(text: &str, size: &str) -> String {
    text.replace(size, &size.replace(' ', "\u{a0}"))
}

/// Says whether the run may be believed, in a sign, a colour and words.
fn judged(results: &Results) -> Markup {
    let checked = tables::checked(results);
    match verdict(results) {
        Verdict::Sound => html! { p.verdict.sound { b { "✓ No data was lost." } " " (checked) } },
        Verdict::Broken { .. } => {
            html! { p.verdict.broken { b { "✗ Memory was corrupted." } " " (checked) } }
        }
        Verdict::Unchecked(policies) if policies.is_empty() => {
            html! { p.verdict.unchecked { b { "? Nothing was checked." } " No policy was run." } }
        }
        Verdict::Unchecked(policies) => html! {
            p.verdict.unchecked {
                b { "? Not all was checked." } " No words were compared under “" (policies.join("”, “")) "”. " (checked)
            }
        },
    }
}

/// Gives the four numbers to remember.
fn key_figures(results: &Results) -> Markup {
    let Some(any) = named(results, "any") else {
        return html! {};
    };
    let other = baseline(results);
    let rate = results.throughput;
    let waited = any.blocked_us.max > 0.0;
    html! {
        dl.figures {
            div {
                dt { "blocks gained by compaction" }
                dd { (change(any.free_blocks_before, any.free_blocks_after)) }
                dd.against {
                    @if let Some(other) = other {
                        "“" (other.policy) "”: " (change(other.free_blocks_before, other.free_blocks_after))
                    }
                }
            }
            div {
                dt { "blocks still held hostage" }
                dd { (thousands(any.hostage_blocks_after)) }
                dd.against {
                    @if let Some(other) = other { "“" (other.policy) "”: " (thousands(other.hostage_blocks_after)) }
                }
            }
            div {
                dt { "99 % of waits are shorter than" }
                dd { @if waited { (micros(any.blocked_us.p99)) } @else { (DASH) } }
                dd.against { @if waited { "longest: " (micros(any.blocked_us.max)) } @else { "no thread was blocked" } }
            }
            div {
                dt { "of memcpy’s speed while moving" }
                dd { (percent(rate.moved_gb_per_s, rate.memcpy_gb_per_s)) }
                dd.against {
                    @if rate.memcpy_gb_per_s > 0.0 {
                        (significant(rate.moved_gb_per_s)) " of " (significant(rate.memcpy_gb_per_s)) " GB/s"
                    } @else { "not measured" }
                }
            }
        }
        @if other.is_some() { p.note { "Large: the policy “any”. Below it: what it is compared with." } }
    }
}

fn reading(size: &str) -> Markup {
    html! {
        dl.reading {
            dt { "Block" }
            dd { "A piece of physical memory of " (size) ", aligned to its size. Only a block that is wholly free can become one large page." }
            dt { "Hostage" }
            dd { "A block that holds at least one page which the policy can’t move, and room or other pages beside it. "
                "That one page keeps the whole block from becoming free. In the pictures, a block with several holders has the colour of the one that is "
                "hardest to move: what no policy moves first, then mapped driver pages, then unmapped ones. "
                "So the colours of driver pages show just the blocks that a better policy could win." }
            dt { "Policies" }
            dd {
                "The same memory is compacted once under each. "
                @for name in ["unmovable", "unmapped", "any"] { b { (name) } ": " (kind::policy_in_words(name)) " " }
            }
            dt { "Blocked" }
            dd { "While a page moves, a thread that touches it waits until the page is in its new place. Each wait is measured." }
            dt { "Lost writes, stale reads" }
            dd { "Threads keep writing to the pages while they move. A word whose last write is gone is a lost write; a read "
                "that gives a value that was overwritten before is a stale read. Both must be zero." }
        }
    }
}

fn repeating(results: &Results) -> Markup {
    let layout = &results.layout;
    html! {
        pre { code { (results.again) } }
        p {
            "Layout: " b { (layout.source) } ", " (thousands(layout.frames)) " frames of 4 KiB ("
            (frames_size(layout.frames)) "), blocks of " (block_size(layout.pageblock_order)) ". "
            "The seed fixes every random choice of the run; times depend on the machine and its load."
        }
    }
}

#[cfg(test)]
mod tests;
