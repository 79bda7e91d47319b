//! What every file of a store begins with, and how the checksums in it are bound to their place.
//!
//! ```text
//! byte   0  magic        8   "LTQ-file"
//!        8  version      u16
//!       10  kind         u16  1 identity, 2 journal, 3 segment, 4 checkpoint
//!       12  behind       u32  of a journal file, see below; else 0
//!       16  store        16   the store's random id
//!       32  number       u64  of a journal file; of a segment, its log's id
//!       40  first        u64  of a segment, its first offset; of a journal file, see below
//!       48  rewrite      u32  of a segment, how often its records were written anew
//!       52  bytes        u64  of a journal file, how long it is; else 0
//!       60  crc          u32  CRC-32C of the bytes before
//! ```
//!
//! `behind` is how many numbers before this one the file has on whose end this one goes on; 0 when
//! there is none, or none that must be there.
//!
//! All numbers are little-endian. A journal file's `first` is 0 when its entries go on where the
//! file before ends; else the sequence that its first entry will have: what the files before hold
//! from there on was cut off when the store was opened.
//!
//! Checksums of journal entries and segment blocks are seeded with a [`Salt`], so that what is
//! valid in one place of one file is valid nowhere else: zeros, what a recycled file held before,
//! bytes of another file, or a copy of an entry inside a message.

use bytes::{Buf, BufMut};

use super::filesystem::{StoreFile, read_up_to};

/// Bytes of a file's header.
pub(super) const HEADER_BYTES: usize = 64;
/// The format that this code reads and writes. In 1 nothing could be discarded; in 2 what a segment
/// says of its records stood there only once.
pub(super) const VERSION: u16 = 3;
const MAGIC: &[u8; 8] = b"LTQ-file";

/// A store's random id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StoreId(pub(super) [u8; 16]);

impl StoreId {
    pub(super) fn random() -> Self {
        Self(rand::random::<u128>().to_le_bytes())
    }
}

/// What a file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Identity = 1,
    Journal = 2,
    Segment = 3,
    Checkpoint = 4,
}

/// What a file says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileHeader {
    pub(super) kind: Kind,
    pub(super) store: StoreId,
    pub(super) number: u64,
    pub(super) first: u64,
    pub(super) behind: u32,
    pub(super) rewrite: u32,
    pub(super) bytes: u64,
}

/// Why a file's header is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// The file cannot be read, or is too short or damaged.
    Damaged,
    /// It is of another format than this code's.
    Other(u16),
}

impl FileHeader {
    /// Of a file of which nothing else is to be said.
    pub(super) const fn new(kind: Kind, store: StoreId) -> Self {
        Self { kind, store, number: 0, first: 0, behind: 0, rewrite: 0, bytes: 0 }
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut into = bytes.as_mut_slice();
        into.put_slice(MAGIC);
        into.put_u16_le(VERSION);
        into.put_u16_le(self.kind as u16);
        into.put_u32_le(self.behind);
        into.put_slice(&self.store.0);
        into.put_u64_le(self.number);
        into.put_u64_le(self.first);
        into.put_u32_le(self.rewrite);
        into.put_u64_le(self.bytes);
        seal(&mut bytes);
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let (content, mut crc) = bytes.split_at(HEADER_BYTES - 4);
        let mut from = content;
        let mut magic = [0; 8];
        from.copy_to_slice(&mut magic);
        let version = from.get_u16_le();
        if &magic != MAGIC || crc32c::crc32c(content) != crc.get_u32_le() || version == 0 {
            return Err(HeaderError::Damaged);
        }
        if version != VERSION {
            return Err(HeaderError::Other(version));
        }
        let kind = match from.get_u16_le() {
            1 => Kind::Identity,
            2 => Kind::Journal,
            3 => Kind::Segment,
            4 => Kind::Checkpoint,
            _ => return Err(HeaderError::Damaged),
        };
        let behind = from.get_u32_le();
        let mut store = [0; 16];
        from.copy_to_slice(&mut store);
        let (number, first, rewrite) = (from.get_u64_le(), from.get_u64_le(), from.get_u32_le());
        let bytes = from.get_u64_le();
        Ok(Self { kind, store: StoreId(store), number, first, behind, rewrite, bytes })
    }

    pub(super) fn read(file: &dyn StoreFile) -> Result<Self, HeaderError> {
        let mut bytes = [0; HEADER_BYTES];
        match read_up_to(file, &mut bytes, 0) {
            Ok(HEADER_BYTES) => Self::decode(&bytes),
            _ => Err(HeaderError::Damaged),
        }
    }
}

/// Puts the checksum of all that comes before it into the last four bytes.
fn seal(bytes: &mut [u8; HEADER_BYTES]) {
    let (content, mut crc) = bytes.split_at_mut(HEADER_BYTES - 4);
    crc.put_u32_le(crc32c::crc32c(content));
}

/// Binds checksums to a place in a file of a store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Salt(u32);

impl Salt {
    /// For the file of this kind, number and first offset.
    pub(super) fn new(store: StoreId, kind: Kind, number: u64, first: u64) -> Self {
        // Bound to the file as named, not to the header in it, which may itself be damaged.
        let crc = crc32c::crc32c(&store.0);
        let crc = crc32c::crc32c_append(crc, &(kind as u16).to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
        Self(crc32c::crc32c_append(crc, &first.to_le_bytes()))
    }

    /// For a segment whose records were written anew so often.
    pub(super) fn rewritten(self, times: u32) -> Self {
        Self(crc32c::crc32c_append(self.0, &times.to_le_bytes()))
    }

    /// The checksum of bytes at a position of that file.
    pub(super) fn checksum(self, position: u64, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c_append(self.0, &position.to_le_bytes()), bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> FileHeader {
        let header = FileHeader::new(Kind::Segment, StoreId([7; 16]));
        FileHeader { number: 9, first: 1 << 40, behind: 2, rewrite: 3, bytes: 5, ..header }
    }

    #[test]
    fn a_header_comes_back_and_no_flipped_bit_does() {
        let bytes = header().encode();
        assert_eq!(FileHeader::decode(&bytes), Ok(header()));
        for bit in 0..HEADER_BYTES * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FileHeader::decode(&flipped), Err(HeaderError::Damaged), "bit {bit}");
        }
        assert_eq!(FileHeader::decode(&[0; HEADER_BYTES]), Err(HeaderError::Damaged));
    }

    #[test]
    fn another_format_is_told_from_damage() {
        for version in [VERSION - 1, VERSION + 1] {
            let mut bytes = header().encode();
            bytes[8..10].copy_from_slice(&version.to_le_bytes());
            seal(&mut bytes);
            assert_eq!(FileHeader::decode(&bytes), Err(HeaderError::Other(version)));
        }
    }

    #[test]
    fn the_same_bytes_have_another_checksum_everywhere_else() {
        let salt =
            |store, kind, number, first| Salt::new(StoreId([store; 16]), kind, number, first);
        let here = salt(1, Kind::Journal, 1, 0).checksum(64, b"entry");
        assert_ne!(here, salt(1, Kind::Journal, 1, 0).checksum(72, b"entry"));
        assert_ne!(here, salt(1, Kind::Journal, 2, 0).checksum(64, b"entry"));
        assert_ne!(here, salt(1, Kind::Segment, 1, 0).checksum(64, b"entry"));
        assert_ne!(here, salt(2, Kind::Journal, 1, 0).checksum(64, b"entry"));
        assert_ne!(here, salt(1, Kind::Journal, 1, 1).checksum(64, b"entry"));
        assert_ne!(here, salt(1, Kind::Journal, 1, 0).rewritten(1).checksum(64, b"entry"));
    }
}
