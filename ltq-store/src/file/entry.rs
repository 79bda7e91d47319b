//! An entry of the journal: one batch.
//!
//! ```text
//! byte  0  magic          u32  "LTQe"
//!       4  heads_len      u32
//!       8  sequence       u64  counts entries without a gap, from 1
//!      16  synced         u64  the sequence up to which all was known synced at writing
//!      24  raw_len        u32
//!      28  payload_len    u32
//!      32  heads_crc      u32
//!      36  raw_crc        u32
//!      40  payload_crc    u32
//!      44  header_crc     u32  of the bytes before, seeded with the file and the position
//!      48  heads               postcard: one `Head` for each change, in order
//!          zeros               up to a multiple of 8
//!          raw                 for each head in order: a table, or a key and a value
//!          payload             the encoded messages of all appends, in order
//!          zeros               up to a multiple of 8
//!          heads               again
//!          zeros               up to a multiple of 8
//!          header              again, with the magic "LTQE", its checksum for its own position
//! ```
//!
//! So damage to a few neighbouring bytes never hides what a batch did to which log: it is either in
//! one copy of the header and heads, and costs nothing, or in what is told of by them.
//!
//! An entry without heads says nothing but how far everything was synced.

use bytes::{Buf, BufMut, Bytes};
use ltq_core::{LogName, LogOptions, Offset, Records, TABLE_ENTRY_BYTES, Timestamp};
use serde::{Deserialize, Serialize};

use super::{change::Change, format::Salt};

/// Bytes of an entry's header. Entries start at multiples of 8.
pub(super) const ENTRY_HEADER_BYTES: usize = 48;
const MAGIC: u32 = u32::from_le_bytes(*b"LTQe");
const MAGIC_BEHIND: u32 = u32::from_le_bytes(*b"LTQE");

/// The header of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct EntryHeader {
    pub(super) sequence: u64,
    pub(super) synced: u64,
    pub(super) heads_len: u32,
    pub(super) raw_len: u32,
    pub(super) payload_len: u32,
    pub(super) heads_crc: u32,
    pub(super) raw_crc: u32,
    pub(super) payload_crc: u32,
}

impl EntryHeader {
    /// Of an entry with these heads and nothing else.
    pub(super) fn of(heads: &[u8]) -> Self {
        let (heads_len, heads_crc) = (heads.len() as u32, crc32c::crc32c(heads));
        Self { heads_len, heads_crc, ..Self::default() }
    }

    /// Writes the header before and behind the heads, for an entry at that position. `around` is
    /// what [`frame`] made.
    pub(super) fn encode(&self, salt: Salt, position: u64, around: &mut [u8]) {
        self.encode_one(MAGIC, salt, position, around);
        let behind = around.len().saturating_sub(ENTRY_HEADER_BYTES);
        let position = position + self.entry_bytes() - ENTRY_HEADER_BYTES as u64;
        let behind = around.get_mut(behind..).unwrap_or_default();
        self.encode_one(MAGIC_BEHIND, salt, position, behind);
    }

    fn encode_one(&self, magic: u32, salt: Salt, position: u64, into: &mut [u8]) {
        let Some((content, crc)) = into
            .split_at_mut_checked(ENTRY_HEADER_BYTES - 4)
            .and_then(|(content, rest)| Some((content, rest.first_chunk_mut::<4>()?)))
        else {
            return;
        };
        let mut to = &mut *content;
        to.put_u32_le(magic);
        to.put_u32_le(self.heads_len);
        to.put_u64_le(self.sequence);
        to.put_u64_le(self.synced);
        to.put_u32_le(self.raw_len);
        to.put_u32_le(self.payload_len);
        to.put_u32_le(self.heads_crc);
        to.put_u32_le(self.raw_crc);
        to.put_u32_le(self.payload_crc);
        *crc = salt.checksum(position, content).to_le_bytes();
    }

    /// The header that stands at `position` of the file of that salt, before or behind its entry,
    /// and where that begins; `None` when these bytes are none.
    pub(super) fn decode(salt: Salt, position: u64, bytes: &[u8]) -> Option<(Self, u64)> {
        let (content, mut crc) =
            bytes.get(..ENTRY_HEADER_BYTES)?.split_at_checked(ENTRY_HEADER_BYTES - 4)?;
        let mut from = content;
        let magic = from.get_u32_le();
        if (magic != MAGIC && magic != MAGIC_BEHIND)
            || crc.get_u32_le() != salt.checksum(position, content)
        {
            return None;
        }
        let heads_len = from.get_u32_le();
        let (sequence, synced) = (from.get_u64_le(), from.get_u64_le());
        let (raw_len, payload_len) = (from.get_u32_le(), from.get_u32_le());
        let (heads_crc, raw_crc) = (from.get_u32_le(), from.get_u32_le());
        let payload_crc = from.get_u32_le();
        let header = Self {
            sequence,
            synced,
            heads_len,
            raw_len,
            payload_len,
            heads_crc,
            raw_crc,
            payload_crc,
        };
        let start = if magic == MAGIC {
            position
        } else {
            (position + ENTRY_HEADER_BYTES as u64).checked_sub(header.entry_bytes())?
        };
        Some((header, start))
    }

    /// Bytes of header and heads, filled up.
    pub(super) fn head_bytes(&self) -> u64 {
        padded(ENTRY_HEADER_BYTES as u64 + u64::from(self.heads_len))
    }

    /// Bytes of the whole entry.
    pub(super) fn entry_bytes(&self) -> u64 {
        2 * self.head_bytes() + padded(u64::from(self.raw_len) + u64::from(self.payload_len))
    }
}

/// What stands before and behind raw and payload, one after the other, with room for the headers;
/// and how long the first part is. `heads` has that room at its start.
pub(super) fn frame(header: &EntryHeader, mut heads: Vec<u8>) -> (Vec<u8>, usize) {
    let before = header.head_bytes() as usize;
    heads.resize(before, 0);
    heads.extend_from_within(ENTRY_HEADER_BYTES..);
    heads.resize(2 * before, 0);
    (heads, before)
}

/// The bytes of a whole entry at that position, made from what was read of it behind its header:
/// with both copies of what it says of itself, whichever of them was whole, and filled up with
/// zeros. `None` when neither copy was whole.
pub(super) fn restored(
    header: &EntryHeader,
    salt: Salt,
    position: u64,
    content: &Bytes,
) -> Option<Vec<u8>> {
    let heads = whole_heads(header, content)?;
    let mut around = vec![0; ENTRY_HEADER_BYTES];
    around.extend_from_slice(&heads);
    let (mut around, before) = frame(header, around);
    header.encode(salt, position, &mut around);
    let (front, behind) = around.split_at_checked(before)?;
    let body_at = before.checked_sub(ENTRY_HEADER_BYTES)?;
    let body = content.get(body_at..content.len().checked_sub(before)?)?;
    // What fills it up may be torn where all that a checksum covers is whole.
    let covered = header.raw_len as usize + header.payload_len as usize;
    let (body, fill) = body.split_at_checked(covered)?;
    Some([front, body, &vec![0; fill.len()], behind].concat())
}

/// One change as an entry tells it, except for what stands in `raw` and `payload`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Head<'a> {
    Create {
        id: u64,
        name: &'a str,
        options: LogOptions,
        first: Offset,
    },
    Delete {
        id: u64,
        name: &'a str,
    },
    // The name is there so that records are not lost with a damaged entry that made their log.
    Append {
        id: u64,
        name: &'a str,
        at: Offset,
        time: Timestamp,
        base: u32,
        count: u32,
        len: u32,
    },
    Truncate {
        id: u64,
        name: &'a str,
        before: Offset,
    },
    Discard {
        id: u64,
        name: &'a str,
        from: Offset,
        until: Offset,
    },
    Put {
        key_len: u32,
        value_len: u32,
    },
    Remove {
        key_len: u32,
    },
    /// The store was closed: everything up to here was synced, and nothing follows.
    Stopped,
}

impl Head<'_> {
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let taken = std::mem::take(into);
        // Writing to memory cannot fail.
        *into = postcard::to_extend(self, taken).unwrap_or_default();
    }
}

/// What an entry holds, as far as it can be told.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) changes: Vec<Told>,
    /// Whether it says that the store was closed.
    pub(super) stopped: bool,
    /// What is damaged. The checksums of records tell which of those are whole.
    pub(super) damage: Option<&'static str>,
}

/// A change as an entry tells it.
#[derive(Debug)]
pub(super) enum Told {
    Change(Change),
    /// Records that cannot be taken apart.
    LostRecords {
        id: u64,
        log: LogName,
        at: Offset,
        count: u32,
    },
    /// A value or key that may be anything.
    LostValue,
}

fn part(content: &Bytes, from: usize, len: u32) -> Bytes {
    let from = from.min(content.len());
    content.slice(from..from.saturating_add(len as usize).min(content.len()))
}

/// What an entry says of itself, from the copy of it that is whole.
fn whole_heads(header: &EntryHeader, content: &Bytes) -> Option<Bytes> {
    let behind = (header.entry_bytes() - header.head_bytes()) as usize - ENTRY_HEADER_BYTES;
    let copies = [0, behind].map(|from| part(content, from, header.heads_len));
    copies.into_iter().find(|heads| {
        heads.len() == header.heads_len as usize && crc32c::crc32c(heads) == header.heads_crc
    })
}

/// Takes the bytes of an entry behind its header apart.
pub(super) fn decode_content(header: &EntryHeader, content: &Bytes) -> Content {
    let body_at = (header.head_bytes() as usize).saturating_sub(ENTRY_HEADER_BYTES);
    let raw = part(content, body_at, header.raw_len);
    let payload = part(content, body_at + header.raw_len as usize, header.payload_len);
    let Some(heads) = whole_heads(header, content) else {
        return Content { damage: Some("what an entry says of itself"), ..Content::default() };
    };
    let whole_raw = crc32c::crc32c(&raw) == header.raw_crc;
    let whole_payload = crc32c::crc32c(&payload) == header.payload_crc;
    let mut told = Content::default();
    let trusted = Trusted { raw: whole_raw, tables: whole_raw || whole_payload };
    let understood = decode_changes(&heads, raw, payload, trusted, &mut told);
    told.damage = if !whole_raw {
        Some(TABLES_AND_VALUES)
    } else if !whole_payload {
        Some("an entry's records")
    } else if understood.is_none() {
        Some("an entry, which does not hold what it says")
    } else {
        None
    };
    told
}

/// What may be gone by.
#[derive(Clone, Copy)]
struct Trusted {
    raw: bool,
    /// A table that is damaged still tells which of some whole records it fits, from either end. With
    /// both damaged it may fit what was written here by mistake, table and records together.
    tables: bool,
}

fn decode_changes(
    mut heads: &[u8],
    mut raw: Bytes,
    mut payload: Bytes,
    trusted: Trusted,
    told: &mut Content,
) -> Option<()> {
    while !heads.is_empty() {
        let (head, rest) = postcard::take_from_bytes::<Head<'_>>(heads).ok()?;
        heads = rest;
        let mut value = |len: u32| take(&mut raw, len as usize).filter(|_| trusted.raw);
        let change = match head {
            Head::Create { id, name, options, first } => {
                Some(Change::Create { id, log: LogName::new(name), options, first })
            }
            Head::Delete { id, name } => Some(Change::Delete { id, log: LogName::new(name) }),
            Head::Append { id, name, at, time, base, count, len } => {
                let log = LogName::new(name);
                let table = take(&mut raw, count as usize * TABLE_ENTRY_BYTES);
                let bytes = take(&mut payload, len as usize);
                let (table, bytes) = (table.unwrap_or_default(), bytes.unwrap_or_default());
                let append = |at, records| {
                    let log = log.clone();
                    Change::Append { id, log, at, time, records, durable: true }
                };
                let whole = Records::from_parts(base, table.clone(), bytes.clone());
                let whole = whole.ok().filter(|_| trusted.raw);
                if whole.is_none() {
                    let left = trusted.tables.then(|| salvage(base, &table, &bytes));
                    let (front, back) = left.unwrap_or_default();
                    let lost = (count as usize).saturating_sub(front.count() + back.count());
                    let from = at.plus(front.count() as u64);
                    let behind = from.plus(lost as u64);
                    told.changes.push(Told::Change(append(at, front)));
                    let log = log.clone();
                    told.changes.push(Told::LostRecords { id, log, at: from, count: lost as u32 });
                    told.changes.push(Told::Change(append(behind, back)));
                    continue;
                }
                whole.map(|records| append(at, records))
            }
            Head::Truncate { id, name, before } => {
                Some(Change::Truncate { id, log: LogName::new(name), before, durable: true })
            }
            Head::Discard { id, name, from, until } => {
                Some(Change::Discard { id, log: LogName::new(name), from, until, durable: true })
            }
            Head::Put { key_len, value_len } => {
                let key = value(key_len);
                let value = value(value_len);
                key.zip(value).map(|(key, value)| Change::Put { key, value })
            }
            Head::Remove { key_len } => value(key_len).map(|key| Change::Remove { key }),
            Head::Stopped => {
                told.stopped = true;
                continue;
            }
        };
        told.changes.push(change.map_or(Told::LostValue, Told::Change));
    }
    (raw.is_empty() && payload.is_empty()).then_some(())
}

/// What is left of records whose table is damaged, and whose payload is not: those from the first
/// on, and those back from the last, whose checksums are right. Each stands against one that is
/// right or against an end of the payload, so that it is the one that it is taken for, whatever the
/// table says by mistake.
fn salvage(base: u32, table: &Bytes, payload: &Bytes) -> (Records, Records) {
    let count = table.len() / TABLE_ENTRY_BYTES;
    let entry = |index: usize| {
        let bytes = table.get(index * TABLE_ENTRY_BYTES..)?.first_chunk::<TABLE_ENTRY_BYTES>()?;
        let both = u64::from_le_bytes(*bytes);
        let end = (both as u32).checked_sub(base)? as usize;
        (end <= payload.len()).then_some((end, (both >> 32) as u32))
    };
    let is_right = |start: usize, end: usize, crc: u32| {
        start < end && payload.get(start..end).is_some_and(|it| crc32c::crc32c(it) == crc)
    };
    let (mut front, mut start) = (0, 0);
    while let Some((end, _)) = entry(front).filter(|&(end, crc)| is_right(start, end, crc)) {
        (front, start) = (front + 1, end);
    }
    let (mut back, mut end) = (count, payload.len());
    while back > front {
        let before = (back - 1).checked_sub(1).map_or(Some(0), |at| entry(at).map(|it| it.0));
        let right = entry(back - 1).filter(|it| it.0 == end).zip(before);
        let Some((_, before)) = right.filter(|&((end, crc), from)| is_right(from, end, crc)) else {
            break;
        };
        (back, end) = (back - 1, before);
    }
    let part = |entries: std::ops::Range<usize>, bytes: std::ops::Range<usize>| {
        let table = table.slice(entries.start * TABLE_ENTRY_BYTES..entries.end * TABLE_ENTRY_BYTES);
        let base = base.saturating_add(bytes.start as u32);
        Records::from_parts(base, table, payload.slice(bytes)).unwrap_or_default()
    };
    (part(0..front, 0..start), part(back..count, end..payload.len()))
}

fn take(from: &mut Bytes, len: usize) -> Option<Bytes> {
    (len <= from.len()).then(|| from.split_to(len))
}

/// What is damaged where the tables of an entry cannot be trusted.
pub(super) const TABLES_AND_VALUES: &str = "an entry's tables and values";

/// The next multiple of 8.
pub(super) const fn padded(bytes: u64) -> u64 {
    bytes.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use ltq_core::Message;

    use super::{
        super::format::{Kind, StoreId},
        *,
    };

    /// What is salvaged, by the places of the records.
    fn salvaged(records: &Records, table: &[u8]) -> Vec<usize> {
        let table = Bytes::copy_from_slice(table);
        let (front, back) = salvage(records.base(), &table, records.payload());
        let count = records.count();
        let places = (0..front.count()).chain(count - back.count()..count);
        let found = (0..front.count()).map(|at| front.encoded(at));
        let found = found.chain((0..back.count()).map(|at| back.encoded(at)));
        for (place, found) in places.clone().zip(found) {
            assert_eq!(found, records.encoded(place), "a wrong record at {place}");
        }
        places.collect()
    }

    #[test]
    fn promise_8_a_damaged_table_costs_the_records_of_which_it_tells() {
        let messages: Vec<_> = (0..20).map(|at| Message::new(vec![at; 5 + at as usize])).collect();
        let all = Records::encode(&messages);
        for records in [all.clone(), all.slice(4..20), all.slice(7..8)] {
            let (count, whole) = (records.count(), records.table());
            assert_eq!(salvaged(&records, whole), (0..count).collect::<Vec<_>>());
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut table = whole.to_vec();
                    table[at] ^= 1 << bit;
                    let damaged = at / TABLE_ENTRY_BYTES;
                    // Where a record ends is where the next one begins.
                    let is_end = at % TABLE_ENTRY_BYTES < 4 && damaged + 1 < count;
                    let lost = damaged..damaged + 1 + usize::from(is_end);
                    let expected: Vec<_> = (0..count).filter(|it| !lost.contains(it)).collect();
                    assert_eq!(salvaged(&records, &table), expected, "byte {at}, bit {bit}");
                }
            }
        }
        // A stretch of it zeroed, or with entries that belong further on.
        for from in 0..15 {
            let range = from * TABLE_ENTRY_BYTES..(from + 4) * TABLE_ENTRY_BYTES;
            let mut zeroed = all.table().to_vec();
            zeroed[range.clone()].fill(0);
            let kept = |it: &usize| !(from..=from + 4).contains(it);
            let expected: Vec<_> = (0..20).filter(kept).collect();
            assert_eq!(salvaged(&all, &zeroed), expected, "{from}");
            let mut moved = all.table().to_vec();
            moved.copy_within(
                range.start + TABLE_ENTRY_BYTES..range.end + TABLE_ENTRY_BYTES,
                range.start,
            );
            assert!(salvaged(&all, &moved).iter().all(|it| *it < from || *it >= from + 4));
        }
    }

    /// An entry that is written again after a crash is as it was to be, also where no checksum says so.
    #[test]
    fn what_is_restored_is_what_was_framed_whatever_fills_it_up() {
        let salt = Salt::new(StoreId([1; 16]), Kind::Journal, 1, 0);
        let heads = vec![7; 13];
        let header = EntryHeader { sequence: 5, raw_len: 9, ..EntryHeader::of(&heads) };
        let (mut around, before) = frame(&header, [vec![0; ENTRY_HEADER_BYTES], heads].concat());
        header.encode(salt, 4096, &mut around);
        let (front, behind) = around.split_at(before);
        let whole = [front, &[3; 9], &[0; 7], behind].concat();
        for at in ENTRY_HEADER_BYTES..whole.len() {
            let covered = (before..before + 9).contains(&at);
            let mut torn = whole.clone();
            torn[at] ^= 0x55;
            let content = Bytes::from(torn.split_off(ENTRY_HEADER_BYTES));
            let found = restored(&header, salt, 4096, &content).unwrap();
            assert_eq!(found == whole, !covered, "byte {at}");
        }
    }
}
