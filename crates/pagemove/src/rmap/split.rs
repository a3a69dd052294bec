//! Splits: of a 2 MiB entry into a table of 512, and of a folio into base folios.
//!
//! An entry is split where a change of mappings needs a part of it; the folio stays whole. A folio is split where no
//! destination of its order is free, where a truncation needs a part of it, or to free its unmapped pages. It takes the
//! first steps of a move (block, flush, freeze), and is rebound to where it is (Linux: `split_folio`).

use alloc::vec::Vec;

use super::{ReverseMap, SplitError};
use crate::{
    folio::{LockedFolio, Migration},
    frame::{Key, Marks, State},
    paging::{Entry, Flags, FlushDebt, Format, PageTable, Slot},
    report::{Counter, Reason},
    units::{Order, VirtAddr},
    zone::Physical,
};

/// Replaces a 2 MiB entry for `folio` by a table of 512 entries. Does nothing if the entry has changed.
///
/// The folio's lock excludes moves, and makes faults on the migration entry wait.
pub(crate) fn split_entry<F: Format>(
    folio: &LockedFolio<'_>,
    table: &PageTable<F>,
    slot: Slot<'_, F>,
    address: VirtAddr,
) -> Result<(), SplitError> {
    let (physical, head, order) = (folio.physical(), folio.pfn(), folio.order());
    let lower = table.new_leaf_table(address)?;
    let frames = physical.frames();
    frames.map_pages(head)?;
    let is_ours = |entry: Entry| entry.is_present() && entry.has(Flags::HUGE) && entry.pfn() == head;
    // Break, flush, make: accesses by the large entry end before there are small ones.
    let Some(before) = slot.update(|entry| is_ours(entry).then(|| entry.blocked())) else {
        frames.unmap_pages(head);
        return Ok(());
    };
    if before.has(Flags::DIRTY) {
        // In case that the entry is removed before it's a table.
        frames.mark_dirty(head);
    }
    frames.unmap_with_reference(head, order);
    let mut debt = FlushDebt::new(physical);
    debt.owe(table.root_of(), address, order);
    debt.pay();
    let mut blocked = before.blocked();
    loop {
        let flags = blocked.flags() - Flags::MIGRATION - Flags::HUGE;
        PageTable::<F>::fill_table(&lower, head, flags);
        match slot.swap_if(blocked, Entry::table(lower.pfn())) {
            Ok(()) => break,
            // Its rights or marks were changed meanwhile, by a holder of the address space.
            Err(now) if now.is_migration() && now.pfn() == head => blocked = now,
            // It was unmapped.
            Err(_) => {
                frames.unmap_pages(head);
                return Ok(());
            }
        }
    }
    let _ = lower.into_raw();
    physical.counters().add(Counter::ThpSplitPmd, 1);
    Ok(())
}

/// Splits a large folio into base folios with the same contents, mappings and owner; gives each back with a lock and a
/// reference. On error the folio is unchanged, except that its 2 MiB entries may have been split.
///
/// If the folio `is_owned`, its owner has a reference; `commit` tells it of the split, which can't fail any more, while
/// nobody gets a reference. `map` is the reverse map that the folio's key names, if any.
pub(crate) fn split_folio<'p>(
    folio: LockedFolio<'p>,
    map: Option<&dyn ReverseMap>,
    is_owned: bool,
    commit: impl FnOnce(),
) -> Result<Vec<LockedFolio<'p>>, (LockedFolio<'p>, Reason)> {
    let (physical, head, order) = (folio.physical(), folio.pfn(), folio.order());
    let frame = physical.frame(head);
    let (key, owner) = (frame.key(), frame.owner());
    let expected = 1 + u32::from(is_owned);
    if frame.pins() > 0 {
        return Err((folio, Reason::Pinned));
    }
    if !frame.counts().has_only_mappings_and(expected) || frame.state().marks().contains(Marks::WRITEBACK) {
        return Err((folio, Reason::Referenced));
    }
    let mut debt = FlushDebt::new(physical);
    let mut whole = [Migration::new(head, head, key, order)];
    if let Some(map) = map {
        if map.split(&folio).is_err() {
            return Err((folio, Reason::NoDestination));
        }
        map.block(physical, &mut whole, true, &mut debt);
    }
    debt.pay();
    let [whole] = &mut whole;
    if whole.stays() || !frame.freeze(expected) {
        whole.stay(Reason::Referenced);
        rebind(physical, map, core::slice::from_ref(whole));
        let reason = whole.stay.unwrap_or(Reason::Referenced);
        return Err((folio, reason));
    }
    let _ = folio.into_raw();
    commit();
    physical.unmark_partly_mapped(head);
    let state = frame.state();
    // The head last: a look-up by a tail takes its reference there, and gets none until each frame says what it is.
    let pages: Vec<Migration> = (0..order.frames())
        .rev()
        .map(|number| {
            let (pfn, key) = (head.up(number), Key { index: key.index.wrapping_add(number), ..key });
            let frame = physical.frame(pfn);
            if number > 0 {
                frame.clear_page_maps();
                // Faults on its entries wait for this lock from now on.
                physical.frames().lock_exclusive(pfn);
            }
            frame.set_owner(owner, key);
            frame.set_state(State::new(state.kind(), state.class(), Order::ZERO).with(state.marks()));
            frame.thaw(expected, 0);
            let mut page = Migration::new(pfn, pfn, key, Order::ZERO);
            page.is_blocked = whole.is_blocked;
            page
        })
        .collect();
    rebind(physical, map, &pages);
    physical.counters().add(Counter::ThpSplitPage, 1);
    Ok(pages
        .iter()
        .map(|page| {
            physical.update_class(page.src);
            LockedFolio::from_locked(physical, page.src)
        })
        .collect())
}

fn rebind(physical: &Physical, map: Option<&dyn ReverseMap>, pages: &[Migration]) {
    if let Some(map) = map
        && pages.iter().any(Migration::is_blocked)
    {
        map.rebind(physical, pages);
    }
}
