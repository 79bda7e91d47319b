//! Journal files made ahead, used again, and given up; and what becomes of that when the device
//! fills up.

use std::{io, iter::successors, sync::atomic::Ordering::Relaxed};

use ltq_core::StoreError;

use super::{
    engine::Engine,
    front::{NoRoom, Sealed},
    journal::{ENTRIES_AT, GoesOn, JournalFile},
    keeper::Keeping,
    reserve::{is_short, passes, short},
};

/// What is asked of the next journal file.
struct Wanted {
    /// The least that it must have.
    least: u64,
    /// What it should have.
    bytes: u64,
    /// Whether records are to go into it.
    records: bool,
}

impl Engine {
    /// Sees to it that there is a journal file to go on with, large enough for who waits for one.
    pub(super) fn make_ready(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let Some(wanted) = self.wanted() else { return Ok(()) };
        let goes_on = GoesOn::Behind(self.front.lock().current().number);
        let made = match take_spare(keeping, &wanted) {
            Some(spare) => {
                let (number, old, bytes) = (keeping.next_file, spare.number, spare.bytes);
                let doing = "preparing a journal file";
                let file = match self.journal.open_to_write(old) {
                    Err(error) if is_short(&error) => {
                        keeping.spare.push(spare);
                        return Err(short(doing, &error));
                    }
                    file => file.map_err(|error| self.fail(doing, &error))?,
                };
                let made = self.journal.recycle(file, old, number, goes_on, bytes);
                made.map_err(|error| self.trouble_with_names(doing, number, &error))?
            }
            None => self.make(keeping, &wanted, goes_on)?,
        };
        keeping.next_file += 1;
        // Nobody waits for `front` while a file is removed.
        let unused = self.front.lock().set_ready(made);
        if let Some(old) = unused {
            // Not to be used again: its number is not among those that a crash would ignore.
            let (number, bytes) = (old.number, old.bytes);
            self.remove_journal_file(Sealed { number, bytes, last_sequence: 0 });
        }
        Ok(())
    }

    fn wanted(&self) -> Option<Wanted> {
        let front = self.front.lock();
        let parked = front.parked().front();
        let least = match parked.map(|parked| parked.no_room) {
            Some(NoRoom::Journal(bytes)) => (bytes + ENTRIES_AT).next_multiple_of(4096),
            _ => 0,
        };
        if front.ready().is_some_and(|ready| ready.bytes >= least) {
            return None;
        }
        let next = front.current().bytes.saturating_mul(2).min(self.options.journal_file_bytes);
        let records = parked.is_none_or(|parked| parked.draft.record_bytes() > 0);
        Some(Wanted { least, bytes: next.max(least), records })
    }

    fn make(
        &self,
        keeping: &mut Keeping,
        wanted: &Wanted,
        goes_on: GoesOn,
    ) -> Result<JournalFile, StoreError> {
        let limit = self.options.journal_bytes_max;
        let used = || self.front.lock().journal_bytes();
        let spares = keeping.spare.iter().map(|spare| spare.bytes).sum::<u64>();
        if used() + spares + wanted.bytes > limit {
            self.remove_spares(keeping);
        }
        if used() + wanted.bytes > limit {
            self.checkpoint(keeping, false)?;
            self.remove_spares(keeping);
        }
        let used = used();
        if used + wanted.bytes > limit {
            let what = "journal_bytes_max".to_owned();
            return Err(StoreError::Full { what, limit, used, wanted: wanted.bytes });
        }
        let bytes = self.affordable(wanted)?;
        let made = self.journal.create(keeping.next_file, goes_on, bytes);
        self.counters.syncs.fetch_add(1, Relaxed);
        self.counters.bytes_written.fetch_add(bytes, Relaxed);
        let doing = "making a journal file";
        made.map_err(|error| match is_short(&error) {
            true => self.trouble_with_names(doing, keeping.next_file, &error),
            false => self.trouble(doing, &error, bytes),
        })
    }

    /// The error for a journal file that was not made. Where nothing but its directory was not opened, to
    /// sync its name, it goes, and is made anew another time.
    fn trouble_with_names(&self, doing: &str, number: u64, error: &io::Error) -> StoreError {
        if !is_short(error) {
            return self.fail(doing, error);
        }
        // It may not have its name yet, and under that nobody knows it.
        let _ = self.journal.remove(number);
        short(doing, error)
    }

    /// How large a new file may be: as wanted, or where that would leave too little for what is
    /// in memory, smaller; and where only the reserve is left and no records are to go into it, as
    /// small as will do.
    fn affordable(&self, wanted: &Wanted) -> Result<u64, StoreError> {
        let free = self.free_space();
        let kept = self.options.reserve_bytes.saturating_add(self.state.read().unspilled_cost());
        let small = wanted.least.max(SMALL_FILE_BYTES).min(wanted.bytes);
        if free >= kept.saturating_add(small) {
            let halves = successors(Some(wanted.bytes), |bytes| Some(bytes / 2));
            let fits = |&bytes: &u64| bytes <= small || free - kept >= bytes;
            return Ok(halves.into_iter().find(fits).map_or(small, |bytes| bytes.max(small)));
        }
        if !wanted.records && free >= small {
            return Ok(small);
        }
        Err(self.device_full(wanted.bytes))
    }

    /// Finds out whether the device has room for records: for those that may go into the files at
    /// hand, and for moving what is in memory to segments. Before it says no it frees what of the
    /// journal can be freed.
    pub(super) fn relieve_device(&self, keeping: &mut Keeping) -> Result<(), StoreError> {
        let (parked, switching) = {
            let front = self.front.lock();
            let parked = front.parked().front();
            let records = parked.map_or(0, |parked| parked.draft.record_bytes());
            (records, front.ready().is_none())
        };
        let was_short = self.device_short.load(Relaxed);
        if !switching && !was_short {
            return Ok(());
        }
        let lacks_room = || {
            let left = self.front.lock().left_in_current();
            // More than the budget is never in memory, whatever fits into the file at hand.
            let unspilled = self.state.read().unspilled_cost();
            let may_come = (unspilled + left).min(self.options.tail_bytes.max(unspilled));
            let wanted = self.options.reserve_bytes.saturating_add(may_come + parked);
            self.free_space() < wanted
        };
        let mut short = lacks_room();
        if short && (!was_short || parked > 0 || switching) {
            let sealed = !self.front.lock().sealed().is_empty();
            let freed = if sealed { self.checkpoint(keeping, false) } else { Ok(()) };
            self.remove_garbage(keeping)?;
            match freed {
                Err(error) if !passes(&error) => return Err(error),
                Ok(()) | Err(_) => (),
            }
            self.remove_spares(keeping);
            short = lacks_room();
        }
        self.device_short.store(short, Relaxed);
        if short && parked > 0 { Err(self.device_full(parked)) } else { Ok(()) }
    }

    fn free_space(&self) -> u64 {
        self.files.free_space(&self.options.dir).unwrap_or(u64::MAX)
    }

    /// Keeps a journal file to be used again, or removes it.
    pub(super) fn spare(&self, keeping: &mut Keeping, file: Sealed) {
        let large = file.bytes >= self.options.journal_file_bytes / 2;
        if large && keeping.spare.len() < SPARE_MAX {
            keeping.spare.push(file);
        } else {
            self.remove_journal_file(file);
        }
    }

    fn remove_spares(&self, keeping: &mut Keeping) {
        keeping.spare.drain(..).for_each(|spare| self.remove_journal_file(spare));
    }

    fn remove_journal_file(&self, file: Sealed) {
        if let Err(error) = self.journal.remove(file.number) {
            tracing::warn!(%error, file = file.number, "a journal file could not be removed");
        }
    }
}

fn take_spare(keeping: &mut Keeping, wanted: &Wanted) -> Option<Sealed> {
    let least = wanted.least.max(wanted.bytes / 2);
    let at = keeping.spare.iter().position(|spare| spare.bytes >= least)?;
    Some(keeping.spare.swap_remove(at))
}

/// So many journal files are kept to be used again: as many as a checkpoint frees at a time, with which
/// the next ones need not be made, that is written twice.
const SPARE_MAX: usize = 4;
/// The first journal file, as most stores stay small. Each one after it is twice as large.
pub(super) const FIRST_FILE_BYTES: u64 = 1 << 20;
/// The first journal file on a device that has no room for that.
pub(super) const LEAST_FILE_BYTES: u64 = 64 << 10;
/// A journal file for some thousand small changes, when there is no room for more.
const SMALL_FILE_BYTES: u64 = 1 << 20;
