//! Moves of page tables: each address space moves its own, since only it can keep everybody else out of them.

use alloc::vec::Vec;

use super::{Destination, Mode, Mover, Options, Outcome, Policy, claim::take_destination};
use crate::{
    folio::{FrozenFolio, Migration},
    frame::{Class, Kind, Marks, State},
    report::{Counter, Event, Reason},
    units::{Order, Pfn},
};

/// Tables of one process that move at once; its faults wait meanwhile, about a microsecond for each.
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
        left.sort_unstable();
        left.dedup();
        if options.policy != Policy::Any {
            outcome.stayed.extend(left.drain(..).map(|table| (table, Reason::Unmovable)));
        }
        for attempt in 0..options.tries() {
            if left.is_empty() {
                break;
            }
            if attempt > 0 {
                self.physical().machine().pause();
            }
            let is_last = attempt + 1 == options.tries();
            let wait = options.mode > Mode::Async && attempt > 1;
            let mut again = Vec::new();
            for batch in left.chunk_by(|&one, &next| self.holder_of(one) == self.holder_of(next)) {
                for batch in batch.chunks(MOST) {
                    for (table, reason) in self.move_some(batch, destination, wait, outcome) {
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

    fn holder_of(&self, table: Pfn) -> u32 {
        self.physical().frame(table).key().rmap
    }

    /// Moves up to [`MOST`] tables of one address space; gives those that stay, with reasons.
    fn move_some(
        &self,
        batch: &[Pfn],
        destination: &mut dyn Destination<'e>,
        wait: bool,
        outcome: &mut Outcome,
    ) -> Vec<(Pfn, Reason)> {
        let physical = self.physical();
        let Some(holder) = self.engine.table_holders().get(self.holder_of(batch[0])) else {
            // The process has ended, and its tables are being freed.
            return self.all_stay(batch, Reason::Raced);
        };
        let mut tables: Vec<Migration> = Vec::with_capacity(batch.len());
        let mut stayed = Vec::new();
        for &src in batch {
            let key = physical.frame(src).key();
            match take_destination(physical, destination, Order::ZERO, None) {
                Some(dst) => {
                    let frame = physical.frame(dst);
                    physical.count(dst, Order::ZERO, frame.state().class(), Class::SpaceTable);
                    frame.set_owner(0, key);
                    frame.set_state(SPACE_TABLE);
                    tables.push(Migration::new(src, dst, key, Order::ZERO));
                }
                None => stayed.push((src, Reason::NoDestination)),
            }
        }
        holder.move_tables(&mut tables, wait);
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
