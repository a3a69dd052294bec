//! The tests, by name.
//!
//! Each runs with the driver newly loaded, gives a fact for the log or an error, and fails if the rule in its name is
//! broken. `contract` and `marks`: what a process may rely on. `owner`: what a driver may rely on. `hostile`: what a
//! hostile process may try. `triggers`: what makes pages move. `views`: what all sides see meanwhile. `pins`: what
//! keeps pages in place. `pressure`: low memory. `storm`: stress. `survey`: what the command says of such a machine.

use std::error::Error;

use pagemove_sample::uapi::{self, Policy};

use crate::machine::{compact, frames, free_pages};
use crate::triggers::{self, move_across};
use crate::verdict::{Outcome, check};
use crate::work::{Scene, wrong_words};
use crate::{administrator, contract, hostile, marks, movement, owner, pins, pressure, storm, survey, tutorial, views};

/// A test.
pub(crate) struct Test {
    pub(crate) name: &'static str,
    /// Loads the module without `migrate_folio`, as a control.
    pub(crate) unmovable: bool,
    /// Needs its own machine or archive, so it runs only if named.
    pub(crate) by_name_only: bool,
    pub(crate) body: fn() -> Outcome,
}

const fn test(name: &'static str, body: fn() -> Outcome) -> Test {
    Test { name, unmovable: false, by_name_only: false, body }
}

/// Needs the command in the archive.
const fn of_the_command(name: &'static str, body: fn() -> Outcome) -> Test {
    Test { by_name_only: true, ..test(name, body) }
}

/// All tests, in the order they run.
pub(crate) const ALL: &[Test] = &[
    test("bad-input", contract::bad_input),
    test("past-the-end", contract::past_the_end),
    test("cleared-and-apart", contract::cleared_and_apart),
    test("read-and-write", contract::read_and_write),
    test("private-mapping", contract::private_mapping),
    test("clear-refs", contract::clear_refs),
    test("drop-caches", contract::drop_caches),
    test("broken-memory", contract::broken_memory),
    test("killed-at-work", contract::killed_at_work),
    test("unload-in-use", contract::unload_in_use),
    test("opened-again", hostile::opened_again),
    test("any-advice", hostile::any_advice),
    test("buffer-of-its-own", hostile::buffer_of_its_own),
    test("memory-limit", hostile::memory_limit),
    test("listed-while-blocked", hostile::listed_while_blocked),
    test("neighbours", hostile::neighbours),
    test("soft-dirty", marks::soft_dirty),
    test("userfaultfd", marks::userfaultfd),
    test("userfaultfd-notes", marks::userfaultfd_notes),
    test("movement", movement),
    Test { unmovable: true, ..test("control", control) },
    test("policy", policy),
    test("driver-contract", owner::contract),
    test("policy-of-others", administrator::policy_of_others),
    test("one-page-for-all", views::one_page_for_all),
    test("pins", pins::by_name_and_by_pipe),
    test("pins-of-others", administrator::pins_of_others),
    test("many-opens", administrator::many_opens),
    test("pins-left-behind", administrator::pins_left_behind),
    test("direct-io", pins::direct_io),
    test("registered-buffers", pins::registered_buffers),
    test("move-pages", triggers::move_pages),
    test("migrate-pages", triggers::migrate_pages),
    test("mbind", triggers::mbind),
    test("soft-offline", triggers::soft_offline),
    test("soft-offline-unmapped", triggers::soft_offline_unmapped),
    test("memory-offline", triggers::memory_offline),
    test("huge-page-pool", triggers::huge_page_pool),
    test("thp-faults", triggers::thp_faults),
    Test { by_name_only: true, ..test("hugetlb-cma", triggers::hugetlb_cma) },
    test("tutorial", tutorial::tutorial),
    test("no-destinations", pressure::no_destinations),
    test("out-of-memory", pressure::out_of_memory),
    test("storm-of-mappings", storm::mappings),
    test("storm-of-truncations", storm::truncations),
    test("storm-of-faults", storm::faults),
    test("storm-of-unloads", storm::unloads),
    of_the_command("survey-packet-ring", survey::packet_ring),
    of_the_command("survey-secret-memory", survey::secret_memory),
    of_the_command("survey-registered-buffers", survey::registered_buffers),
    of_the_command("survey-huge-page-pool", survey::huge_page_pool),
    of_the_command("survey-pins", survey::pins),
    of_the_command("survey-slabs", survey::slabs),
];

fn sound(outcome: &movement::Outcome) -> Result<(), Box<dyn Error>> {
    let sound = outcome.pinned_moved + outcome.lost_writes + outcome.bad_words == 0 && outcome.writes > 0;
    check(sound, || outcome.to_json())
}

fn movement() -> Outcome {
    // Most of memory: with much free memory, compaction fills free blocks as fast as it empties used ones.
    let pages = free_pages()? * 3 / 4;
    let outcome = movement::run(pages as usize, 1, 3)?;
    sound(&outcome)?;
    check(outcome.moved * 4 > outcome.kept, || format!("too few have moved: {}", outcome.to_json()))?;
    check(outcome.free_after > outcome.free_before, || format!("no huge blocks gained: {}", outcome.to_json()))?;
    Ok(outcome.to_json())
}

fn control() -> Outcome {
    let outcome = movement::run(20_000, 1, 1)?;
    sound(&outcome)?;
    check(outcome.moved == 0, || format!("unmovable pages moved: {}", outcome.to_json()))?;
    Ok(outcome.to_json())
}

fn policy() -> Outcome {
    let Scene { device, map, kept } = Scene::worn(20_000, 4, 5)?;
    let watched: Vec<usize> = kept.iter().copied().filter(|&page| page < uapi::WATCHED).collect();
    for &page in &watched {
        device.watch(page as u64)?;
    }
    let moves = |policy| -> std::io::Result<(usize, u64)> {
        device.policy(policy)?;
        let (before, refused) = (frames(&map)?, device.counts()?.refused);
        compact()?;
        kept.iter().for_each(|&page| map.store(page, 1, 1));
        let after = frames(&map)?;
        let moved = kept.iter().filter(|&&page| before[page] != after[page]).count();
        Ok((moved, device.counts()?.refused - refused))
    };
    let (moved, refused) = moves(Policy::Refuse)?;
    check(moved == 0 && refused > 0, || format!("refusing: {moved} moved, {refused} refused"))?;
    let across = move_across(&map, &watched)?;
    check(across == 0, || format!("refusing: {across} of {} watched pages moved", watched.len()))?;
    let (moved, later) = moves(Policy::Retry)?;
    check(moved > 0 && later > 0, || format!("putting off: {moved} moved, {later} put off"))?;
    // The kernel retries by itself.
    let across = move_across(&map, &watched)?;
    check(across == watched.len(), || format!("putting off: {across} of {} watched pages moved", watched.len()))?;
    let (allowed, none) = moves(Policy::Allow)?;
    check(none == 0, || format!("allowing: {none} refused"))?;
    let across = move_across(&map, &watched)?;
    check(across == watched.len(), || format!("{across} of {} watched pages moved", watched.len()))?;
    let now = frames(&map)?;
    for &page in &watched {
        let table = device.look(page as u64)?;
        check(table == now[page], || {
            format!("the device's table has {table} for page {page}, which is in {}", now[page])
        })?;
    }
    let wrong: u64 = kept.iter().map(|&page| wrong_words(&map, page)).sum();
    check(wrong == 0, || format!("{wrong} words are wrong"))?;
    Ok(format!(
        "{refused} refused; {later} put off and {moved} moved; then {allowed}; {} table entries right",
        watched.len()
    ))
}
