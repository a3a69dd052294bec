//! Moves of page tables: each address space moves its own, since only it can keep everybody else out of them.

use alloc::vec::Vec;

use super::{Destination, Mover, Options, Outcome, Policy, claim::take_destination};
use crate::{
    folio::{FrozenFolio, Migration},
    frame::{Class, Kind, Marks, State},
    report::{Counter, Event, Reason},
    units::{Order, Pfn},
};

/// Tables of one process that move at once; its faults wait meanwhile, for less than a microsecond each, and a flush.
const MOST: usize = 16;

const SPACE_TABLE: State = State::new(Kind::PageTable, Class::SpaceTable, Order::ZERO).with(Marks::SPACE_TABLE);

impl<'e> Mover<'e> {
    /// Moves the page tables that [`Self::claim`] has found. Those that were freed meanwhile count as neither moved nor
    /// stayed.
    pub(super) fn move_tables(
        &mut self,
        destination: &mut dyn Destination<'e>,
        options: Options,
        outcome: &mut Outcome,
    ) {
        let mut left = core::mem::take(&mut self.tables);
        let physical = self.physical();
        let holder_of = |table: Pfn| physical.frame(table).key().rmap;
        if options.policy != Policy::Any {
            outcome.stayed.extend(left.drain(..).map(|table| (table, Reason::Unmovable)));
        }
        self.exhausted.clear();
        for attempt in 0..options.tries() {
            if left.is_empty() {
                break;
            }
            if attempt > 0 {
                physical.machine().pause();
            }
            let is_last = attempt + 1 == options.tries();
            let mut again = Vec::new();
            // By address space, for batches; a table may be listed twice.
            left.sort_by_cached_key(|&table| (holder_of(table), table));
            left.dedup();
            for batch in left.chunk_by(|&one, &next| holder_of(one) == holder_of(next)) {
                for batch in batch.chunks(MOST) {
                    for (table, reason) in self.move_some(batch, destination, outcome) {
                        match reason.is_transient() && !is_last {
                            true => again.push(table),
                            false => outcome.stayed.push((table, reason)),
                        }
                    }
                }
            }
            left = again;
        }
        left.clear();
        self.tables = left;
    }

    /// Moves up to [`MOST`] tables of one address space; gives those that stay, with reasons.
    fn move_some(
        &mut self,
        batch: &[Pfn],
        destination: &mut dyn Destination<'e>,
        outcome: &mut Outcome,
    ) -> Vec<(Pfn, Reason)> {
        let physical = self.physical();
        let Some(holder) = self.engine.table_holders().get(physical.frame(batch[0]).key().rmap) else {
            // The process has ended, and its tables are being freed.
            return self.all_stay(batch, Reason::Raced);
        };
        let mut tables: Vec<Migration> = Vec::with_capacity(batch.len());
        let mut stayed = Vec::new();
        for &src in batch {
            let key = physical.frame(src).key();
            // Asked once, since looking for the last free frames interrupts all CPUs.
            let is_exhausted = self.exhausted.contains(&(Order::ZERO, None));
            let dst = if is_exhausted { None } else { take_destination(physical, destination, Order::ZERO, None) };
            match dst {
                Some(dst) => {
                    // Not by the source's state, which may be another one's by now.
                    let frame = physical.frame(dst);
                    physical.count(dst, Order::ZERO, frame.state().class(), Class::SpaceTable);
                    frame.set_owner(0, key);
                    frame.set_state(SPACE_TABLE);
                    tables.push(Migration::new(src, dst, key, Order::ZERO));
                }
                None => {
                    if !is_exhausted {
                        self.exhausted.push((Order::ZERO, None));
                    }
                    stayed.push((src, Reason::NoDestination));
                }
            }
        }
        holder.move_tables(&mut tables);
        for table in &tables {
            match table.stay {
                None => physical.free_frozen(table.src),
                Some(reason) => {
                    physical.reset_destination(table.dst);
                    destination.give_back(FrozenFolio::from_exclusive(physical, table.dst));
                    stayed.extend(self.all_stay(&[table.src], reason));
                }
            }
        }
        tables.retain(|table| !table.stays());
        let count = tables.len() as u64;
        physical.destinations_used(count as u32);
        physical.counters().add(Counter::PagetableMigrationSuccess, count);
        physical.events().push(tables.iter().map(|table| Event::Moved { from: table.src, to: table.dst }));
        outcome.moved += count;
        stayed
    }

    /// Gives the tables that stay for `reason`, except those that are none any more.
    fn all_stay(&self, tables: &[Pfn], reason: Reason) -> Vec<(Pfn, Reason)> {
        let is_left = |&table: &Pfn| self.physical().frame(table).state().is_space_table();
        tables.iter().copied().filter(is_left).map(|table| (table, reason)).collect()
    }
}
