//! Checks the journal: each entry in both its copies, and what replaying it says.

use std::{collections::HashMap, path::PathBuf, sync::Arc};

use ltq_core::{LogName, Offset, Records, RecordsError, StoreError};

use super::{
    super::{
        change::Change,
        checkpoint::Snapshot,
        entry::{Content, ENTRY_HEADER_BYTES, EntryHeader, TABLES_AND_VALUES, Told, padded},
        filesystem::{StoreFile, read_up_to},
        format::{FileHeader, HEADER_BYTES, HeaderError, Salt},
        journal::ENTRIES_AT,
        replay::Replay,
        segments::SegmentDir,
        state::State,
        walk::{Step, Walk, WalkedFile},
    },
    Checker, FileKind, Loss, known,
};

/// A file of the journal that is still needed.
struct JournalPart {
    path: PathBuf,
    file: Arc<dyn StoreFile>,
    bytes: u64,
    salt: Salt,
    /// Where the last of its entries ends.
    end: u64,
}

impl Checker<'_> {
    /// Checks the journal. Returns what an opening would find, without the records in memory.
    pub(super) fn journal(
        &mut self,
        walked: Vec<WalkedFile>,
        segments: &SegmentDir,
        snapshot: Snapshot,
    ) -> Result<State, StoreError> {
        let mut parts = HashMap::new();
        let mut order = Vec::new();
        for walked in &walked {
            let part = JournalPart {
                path: PathBuf::from(walked.name.as_ref()),
                file: Arc::clone(&walked.file),
                bytes: walked.bytes,
                salt: walked.salt,
                end: ENTRIES_AT.min(walked.bytes),
            };
            order.push(walked.number);
            parts.insert(walked.number, part);
        }
        // Nothing is moved to segments: there is no budget to exceed.
        let options = self.options.clone().tail_bytes(u64::MAX);
        let first = snapshot.sequence;
        let mut replay = Replay::new(&options, segments, snapshot);
        let mut logs: Vec<_> = replay.state.logs.iter().collect();
        logs.sort_unstable_by_key(|(name, _)| *name);
        for (name, log) in logs {
            self.report.known_losses.extend(log.holes.iter().map(|hole| known(name, hole)));
        }
        let mut told = Vec::new();
        // Up to which entry all is proven to have been on the device; what was found since.
        let (mut synced, mut unproven) = (0, Vec::new());
        let mut walk = Walk::new(walked, first);
        loop {
            let step = walk.step().map_err(|error| self.failed(&self.options.dir, &error))?;
            let Some(step) = step else { break };
            match &step {
                Step::Entry { file, position, header, content, .. } => {
                    synced = synced.max(header.synced);
                    if let Some(part) = parts.get_mut(file) {
                        let before = self.report.damage.len();
                        self.entry(part, *position, header)?;
                        let found = self.report.damage.split_off(before);
                        let place = (self.relative(&part.path), *position);
                        unproven.push((header.sequence, place, found));
                        self.losses(part, *position, header, content, &replay.state, &mut told);
                    }
                    self.report.closed_in_order = content.stopped;
                }
                Step::Lost { name, position, entries } => {
                    let batches = Loss::Batches(entries.end - entries.start);
                    let path = PathBuf::from(name.as_ref());
                    self.damage(&path, *position, "entries cannot be found", batches);
                }
            }
            replay.step(step).map_err(|error| self.failed(&self.options.dir, &error))?;
            give_up_tails(&mut replay.state);
            let proven = |(sequence, ..): &mut (u64, _, _)| *sequence <= synced;
            for (.., found) in unproven.extract_if(.., proven) {
                self.report.damage.extend(found);
            }
        }
        // The end of the journal may be torn without anything being lost.
        let torn = unproven.into_iter().find(|(_, _, found)| !found.is_empty());
        if let Some((_, place, _)) = torn {
            self.report.torn_end.get_or_insert(place);
        }
        let expected = walk.expected();
        for number in order {
            let Some(part) = parts.remove(&number) else { continue };
            // One without entries may have been in the making.
            let used = part.end > ENTRIES_AT;
            if used {
                self.journal_header(&part)?;
            }
            self.torn_end(&part, expected)?;
            let checked = if used { part.end } else { 0 };
            self.file(&part.path, FileKind::Journal, part.bytes, checked);
            self.advance(&part.path, part.bytes.saturating_sub(part.end) + ENTRIES_AT);
        }
        self.other_losses(&replay.state, &told);
        Ok(replay.state)
    }

    fn journal_header(&mut self, part: &JournalPart) -> Result<(), StoreError> {
        let mut page = vec![0; ENTRIES_AT as usize];
        let read = self.read_part(part, &mut page, 0)?;
        page.truncate(read);
        let (header, rest) = page.split_at(read.min(HEADER_BYTES));
        let decoded = header.first_chunk().map_or(Err(HeaderError::Damaged), FileHeader::decode);
        if decoded.is_err() {
            self.damage(&part.path, 0, "the file's header is damaged", Loss::Nothing);
        }
        self.zeros(&part.path, HEADER_BYTES as u64, rest);
        Ok(())
    }

    /// Whether both copies of what the entry says of itself are whole, and nothing stands between.
    fn entry(
        &mut self,
        part: &mut JournalPart,
        position: u64,
        header: &EntryHeader,
    ) -> Result<(), StoreError> {
        let (all, head) = (header.entry_bytes(), header.head_bytes());
        let behind = position + all - head;
        let tail = position + all - ENTRY_HEADER_BYTES as u64;
        part.end = part.end.max(position + all);
        let body = u64::from(header.raw_len) + u64::from(header.payload_len);
        let heads = header.heads_len as usize;
        let mut before = vec![0; head as usize];
        self.read_part(part, &mut before, position)?;
        let mut after = vec![0; (padded(body) - body + head) as usize];
        self.read_part(part, &mut after, position + head + body)?;
        let (fill, after) = after.split_at((padded(body) - body) as usize);
        let front = before.split_at(ENTRY_HEADER_BYTES.min(before.len()));
        let back = after.split_at(after.len().saturating_sub(ENTRY_HEADER_BYTES));
        for (at, bytes) in [(position, front.0), (tail, back.1)] {
            let found = EntryHeader::decode(part.salt, at, bytes);
            if found.is_none_or(|(found, start)| found != *header || start != position) {
                let what = "one of an entry's two headers is damaged";
                self.damage(&part.path, at, what, Loss::Nothing);
            }
        }
        for (at, bytes) in [(position + ENTRY_HEADER_BYTES as u64, front.1), (behind, back.0)] {
            let (copy, fill) = bytes.split_at(heads.min(bytes.len()));
            if crc32c::crc32c(copy) != header.heads_crc {
                let what = "one of the two copies of what an entry says of itself is damaged";
                self.damage(&part.path, at, what, Loss::Nothing);
            }
            self.zeros(&part.path, at + heads as u64, fill);
        }
        self.zeros(&part.path, position + head + body, fill);
        self.advance(&part.path, all);
        Ok(())
    }

    /// Tells what of an entry is lost, as far as that counts.
    fn losses(
        &mut self,
        part: &JournalPart,
        position: u64,
        header: &EntryHeader,
        content: &Content,
        state: &State,
        told: &mut Vec<(LogName, Offset, Offset)>,
    ) {
        let Some(what) = content.damage else { return };
        let in_tables = what == TABLES_AND_VALUES;
        let what = format!("{what} cannot be read");
        let raw = position + header.head_bytes();
        let mut payload = raw + u64::from(header.raw_len);
        let before = self.report.damage.len();
        let mut values = 0;
        // What is in segments, or was given up, is not lost.
        let counts = |log: &LogName| state.logs.get(log).map_or(Offset::ZERO, |log| log.bounds.end);
        for change in &content.changes {
            match change {
                Told::LostValue => values += 1,
                Told::LostRecords { log, at, count, .. } => {
                    let until = at.plus(u64::from(*count));
                    let from = (*at).max(counts(log));
                    if from < until {
                        told.push((log.clone(), from, until));
                        let loss = Loss::Records { log: log.clone(), from, until };
                        self.damage(&part.path, raw, &what, loss);
                    }
                }
                Told::Change(Change::Append { log, at, records, .. }) => {
                    for bad in bad_records(records) {
                        let until = at.plus(bad.end as u64);
                        let from = at.plus(bad.start as u64).max(counts(log));
                        if from < until {
                            let skipped = records.slice(0..bad.start).payload().len() as u64;
                            told.push((log.clone(), from, until));
                            let loss = Loss::Records { log: log.clone(), from, until };
                            let what = "the checksum of a record is wrong";
                            let place = if in_tables { raw } else { payload + skipped };
                            self.damage(&part.path, place, what, loss);
                        }
                    }
                    payload += records.payload().len() as u64;
                }
                Told::Change(_) => (),
            }
        }
        if values > 0 {
            self.damage(&part.path, raw, &what, Loss::Values(values));
        }
        if self.report.damage.len() == before {
            let whole_batch = content.changes.is_empty() && header.heads_len > 0;
            let loss = if whole_batch { Loss::Batches(1) } else { Loss::Nothing };
            self.damage(&part.path, position, &what, loss);
        }
    }

    /// Losses that replaying found and that were neither known nor told.
    fn other_losses(&mut self, state: &State, told: &[(LogName, Offset, Offset)]) {
        let mut logs: Vec<_> = state.logs.iter().collect();
        logs.sort_unstable_by_key(|(name, _)| *name);
        for (name, log) in logs {
            let known = self.report.known_losses.iter().filter(|known| known.log == *name);
            let known = known.map(|known| (known.from, known.until));
            let told = told.iter().filter(|(log, ..)| log == name);
            let told = told.map(|&(_, from, until)| (from, until));
            let mut without: Vec<_> = known.chain(told).collect();
            without.sort_unstable();
            for hole in &log.holes {
                for (from, until) in super::without(hole.from, hole.until, &without) {
                    let loss = Loss::Records { log: name.clone(), from, until };
                    let path = PathBuf::from(hole.file.as_ref());
                    self.damage(&path, hole.position, &hole.what, loss);
                }
            }
        }
    }

    /// Whether behind the last entry stands one that nothing proves to have been synced.
    fn torn_end(&mut self, part: &JournalPart, expected: u64) -> Result<(), StoreError> {
        let mut bytes = [0; ENTRY_HEADER_BYTES];
        let read = self.read_part(part, &mut bytes, part.end)?;
        let bytes = bytes.get(..read).unwrap_or_default();
        let found = EntryHeader::decode(part.salt, part.end, bytes);
        if found.is_some_and(|(header, _)| header.sequence >= expected) {
            self.report.torn_end = Some((self.relative(&part.path), part.end));
        }
        Ok(())
    }

    fn read_part(
        &self,
        part: &JournalPart,
        into: &mut [u8],
        position: u64,
    ) -> Result<usize, StoreError> {
        read_up_to(&*part.file, into, position).map_err(|error| self.failed(&part.path, &error))
    }
}

/// The stretches of records whose checksums are wrong, by their places.
pub(super) fn bad_records(records: &Records) -> Vec<std::ops::Range<usize>> {
    let mut bad: Vec<std::ops::Range<usize>> = Vec::new();
    let mut next = 0;
    while next < records.count() {
        match records.slice(next..records.count()).verify() {
            Ok(()) => break,
            Err(RecordsError::Checksum { index, .. }) => {
                let at = next + index;
                match bad.last_mut() {
                    Some(last) if last.end == at => last.end = at + 1,
                    _ => bad.push(at..at + 1),
                }
                next = at + 1;
            }
            Err(_) => {
                bad.push(next..records.count());
                break;
            }
        }
    }
    bad
}

/// Records were verified as they came by; only where they are counts from now on.
fn give_up_tails(state: &mut State) {
    if state.tail_cost() < TAILS_BYTES_MAX {
        return;
    }
    let logs: Vec<_> = state.logs.iter().map(|(name, log)| (name.clone(), log.id)).collect();
    for (name, id) in logs {
        state.change_log(id, &name, |log| log.tail.drop_before(log.bounds.end));
    }
}

const TAILS_BYTES_MAX: u64 = 16 << 20;
