//! The content of a file: what readers get, and what the disk has.

use super::Chance;

/// A file without its name.
#[derive(Clone, Debug, Default)]
pub(super) struct Inode {
    /// What the disk has.
    pub(super) durable: Vec<u8>,
    /// What readers get.
    pub(super) current: Vec<u8>,
    /// What was done since the last sync.
    pub(super) pending: Vec<Change>,
    /// Whether readers get something that the disk will never have.
    pub(super) forgotten: bool,
    pub(super) locked: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum Change {
    Write(usize, Vec<u8>),
    SetLen(usize),
}

/// How much of what was not synced gets through.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    Nothing,
    Half,
    Most,
}

impl Kept {
    pub(super) fn by(chance: &mut Chance) -> Self {
        [Self::Nothing, Self::Half, Self::Most][chance.below(3) as usize]
    }
}

impl Inode {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), current: bytes, ..Self::default() }
    }

    pub(super) fn write(&mut self, position: usize, data: Vec<u8>) {
        put(&mut self.current, position, &data);
        self.pending.push(Change::Write(position, data));
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.current.resize(len, 0);
        self.pending.push(Change::SetLen(len));
    }

    /// Makes the first so many changes durable.
    pub(super) fn settle(&mut self, count: usize) {
        for change in self.pending.drain(..count.min(self.pending.len())) {
            change.apply(&mut self.durable);
        }
    }

    /// The first so many changes were to be made durable, and were not.
    pub(super) fn forget(&mut self, count: usize, chance: &mut Chance) {
        let kept = Kept::by(chance);
        for change in self.pending.drain(..count.min(self.pending.len())) {
            match change {
                // Lengths are the file system's own: it knows them, and which sectors it gave out.
                Change::SetLen(_) => change.apply(&mut self.durable),
                Change::Write(..) => change.tear(&mut self.durable, kept, chance),
            }
        }
        self.forgotten = true;
    }

    /// Memory is wanted for something else: what counts as clean is read from the disk again.
    pub(super) fn evict(&mut self) {
        let len = self.current.len();
        self.current.clone_from(&self.durable);
        self.pending.iter().for_each(|change| change.apply(&mut self.current));
        self.current.resize(len, 0);
        self.forgotten = false;
    }

    /// What the disk has after a power cut.
    pub(super) fn torn(&self, chance: &mut Chance) -> Vec<u8> {
        let mut bytes = self.durable.clone();
        let kept = Kept::by(chance);
        self.pending.iter().for_each(|change| change.tear(&mut bytes, kept, chance));
        bytes
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(position, data) => put(bytes, *position, data),
            Self::SetLen(len) => bytes.resize(*len, 0),
        }
    }

    /// Sectors get through or do not, each for itself.
    fn tear(&self, bytes: &mut Vec<u8>, kept: Kept, chance: &mut Chance) {
        match (self, kept) {
            (_, Kept::Nothing) => (),
            (Self::SetLen(len), _) => bytes.resize(*len, 0),
            (Self::Write(position, data), _) => {
                let mut at = 0;
                while at < data.len() {
                    // To the end of the sector that it lies in.
                    let end = data.len().min(at + SECTOR - (position + at) % SECTOR);
                    let lost = match kept {
                        Kept::Most => chance.one_in(20),
                        _ => chance.one_in(2),
                    };
                    if !lost {
                        put(bytes, position + at, &data[at..end]);
                    }
                    at = end;
                }
            }
        }
    }
}

fn put(bytes: &mut Vec<u8>, position: usize, data: &[u8]) {
    let end = position + data.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[position..end].copy_from_slice(data);
}

/// What a disk writes as a whole or not at all.
pub(super) const SECTOR: usize = 512;
