//! The memory that batches are copied into: pages of its own, used again.
//!
//! Commits take buffers of all sizes on one thread, and tails give them back by the megabyte on
//! another. An allocator that is treated like that ends up with several times what is in use; so
//! these come from the operating system and go back there.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use memmap2::MmapMut;
use parking_lot::Mutex;

/// Buffers that nobody uses.
#[derive(Debug)]
pub(super) struct Buffers {
    free: Mutex<Free>,
    bytes_max: usize,
    /// How many there are, in use or not.
    mapped: AtomicUsize,
}

#[derive(Debug, Default)]
struct Free {
    /// Those given back last are behind.
    buffers: VecDeque<MmapMut>,
    bytes: usize,
}

/// A buffer that one batch fills.
#[derive(Debug)]
pub(super) enum Buffer {
    /// Of the allocator.
    Small(BytesMut),
    /// Pages, of which so many bytes are wanted.
    Pages(MmapMut, usize),
}

/// Pages that go back when the last slice of them goes.
struct Lent {
    /// Always there, until it goes back.
    pages: Option<MmapMut>,
    len: usize,
    from: Arc<Buffers>,
}

impl Buffers {
    /// Keeps at most so many bytes that nobody uses.
    pub(super) fn new(bytes_max: u64) -> Arc<Self> {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        Arc::new(Self { free: Mutex::default(), bytes_max, mapped: AtomicUsize::new(0) })
    }

    /// A buffer of so many bytes. What is in it is left over from its last use.
    pub(super) fn take(&self, len: usize) -> Buffer {
        if len < PAGES_FROM {
            return Buffer::Small(BytesMut::zeroed(len));
        }
        let fits = |pages: &MmapMut| (len..=len + len / 8).contains(&pages.len());
        let mut free = self.free.lock();
        if let Some(at) = free.buffers.iter().rposition(fits)
            && let Some(pages) = free.buffers.remove(at)
        {
            free.bytes -= pages.len();
            return Buffer::Pages(pages, len);
        }
        drop(free);
        if self.mapped.fetch_add(1, Relaxed) < MAPPINGS_MAX
            && let Ok(pages) = MmapMut::map_anon(len.next_multiple_of(PAGE_BYTES))
        {
            return Buffer::Pages(pages, len);
        }
        self.mapped.fetch_sub(1, Relaxed);
        Buffer::Small(BytesMut::zeroed(len))
    }

    /// A buffer, filled, to be shared. It comes back when nobody has any of it.
    pub(super) fn share(self: &Arc<Self>, buffer: Buffer) -> Bytes {
        match buffer {
            Buffer::Small(bytes) => bytes.freeze(),
            Buffer::Pages(pages, len) => {
                Bytes::from_owner(Lent { pages: Some(pages), len, from: Arc::clone(self) })
            }
        }
    }

    fn give_back(&self, pages: MmapMut) {
        let bytes = pages.len();
        if bytes > self.bytes_max {
            self.mapped.fetch_sub(1, Relaxed);
            return;
        }
        let mut gone = Vec::new();
        let mut free = self.free.lock();
        while free.bytes + bytes > self.bytes_max || free.buffers.len() >= BUFFERS_MAX {
            let Some(oldest) = free.buffers.pop_front() else { break };
            free.bytes -= oldest.len();
            gone.push(oldest);
        }
        free.bytes += bytes;
        free.buffers.push_back(pages);
        drop(free);
        self.mapped.fetch_sub(gone.len(), Relaxed);
        // Unmapping takes its time, for which nobody should wait.
        drop(gone);
    }
}

impl Buffer {
    /// What there is to be filled.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Pages(pages, len) => pages.get_mut(..*len).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.pages.as_deref().and_then(|pages| pages.get(..self.len)).unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(pages) = self.pages.take() {
            self.from.give_back(pages);
        }
    }
}

/// Below this an allocator is as good, and tails copy what is smaller together anyway.
const PAGES_FROM: usize = 16 << 10;
const PAGE_BYTES: usize = 4096;
/// So many are looked through at most.
const BUFFERS_MAX: usize = 1024;
/// So many there are at most, in use or not. A process may have 65,530 mappings by default, and its
/// threads and allocator need some: with a large budget of small batches these would take all.
const MAPPINGS_MAX: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn free(buffers: &Buffers) -> (usize, usize) {
        let free = buffers.free.lock();
        assert_eq!(free.bytes, free.buffers.iter().map(|pages| pages.len()).sum::<usize>());
        (free.buffers.len(), free.bytes)
    }

    fn filled(buffers: &Arc<Buffers>, len: usize, with: u8) -> Bytes {
        let mut buffer = buffers.take(len);
        buffer.bytes_mut().fill(with);
        buffers.share(buffer)
    }

    #[test]
    fn a_buffer_comes_back_with_its_last_slice_and_is_used_again() {
        let buffers = Buffers::new(1 << 20);
        let shared = filled(&buffers, 100_000, 7);
        let place = shared.as_ptr();
        assert_eq!(shared, vec![7; 100_000]);
        let slice = shared.slice(10..20);
        drop(shared);
        assert_eq!((free(&buffers).0, &slice[..]), (0, &[7; 10][..]));
        drop(slice);
        assert_eq!(free(&buffers).0, 1);
        // One that is much too large, or too small, is not taken.
        assert_ne!(buffers.take(50_000).bytes_mut().as_ptr(), place);
        assert_ne!(buffers.take(110_000).bytes_mut().as_ptr(), place);
        let mut again = buffers.take(99_000);
        assert_eq!((again.bytes_mut().as_ptr(), free(&buffers)), (place, (0, 0)));
        assert_eq!(again.bytes_mut().len(), 99_000);
    }

    #[test]
    fn promise_9_what_nobody_uses_is_bounded_and_the_oldest_goes() {
        let buffers = Buffers::new(1 << 20);
        let many: Vec<_> = (1..=60).map(|pages| filled(&buffers, 4096 * (3 + pages), 1)).collect();
        drop(many);
        let (count, bytes) = free(&buffers);
        assert!(bytes <= 1 << 20 && bytes > 3 << 18, "{count}, {bytes}");
        assert!(buffers.free.lock().buffers.iter().all(|pages| pages.len() > 4096 * 40));
        drop(filled(&buffers, 2 << 20, 1));
        assert_eq!(free(&buffers), (count, bytes));
        // What is small is left to the allocator.
        drop(filled(&buffers, 100, 1));
        assert_eq!(free(&buffers), (count, bytes));
        let roomy = Buffers::new(1 << 30);
        let many: Vec<_> = (0..BUFFERS_MAX + 9).map(|_| filled(&roomy, PAGES_FROM, 1)).collect();
        drop(many);
        assert_eq!(free(&roomy).0, BUFFERS_MAX);
        assert_eq!(roomy.mapped.load(Relaxed), BUFFERS_MAX);
    }

    #[test]
    fn mappings_are_bounded_and_the_allocator_serves_the_rest() {
        let buffers = Buffers::new(1 << 20);
        let take = || filled(&buffers, PAGES_FROM, 1);
        let lent: Vec<_> = (0..10).map(|_| take()).collect();
        assert_eq!(buffers.mapped.load(Relaxed), 10);
        // As though so many more were lent.
        buffers.mapped.fetch_add(MAPPINGS_MAX - 10, Relaxed);
        assert!(matches!(buffers.take(PAGES_FROM), Buffer::Small(_)));
        assert_eq!(take(), vec![1; PAGES_FROM]);
        assert_eq!((buffers.mapped.load(Relaxed), free(&buffers)), (MAPPINGS_MAX, (0, 0)));
        drop(lent);
        assert!(matches!(buffers.take(PAGES_FROM), Buffer::Pages(..)));
        buffers.mapped.fetch_sub(1, Relaxed);
        assert!(matches!(buffers.take(PAGES_FROM * 2), Buffer::Pages(..)));
    }
}
