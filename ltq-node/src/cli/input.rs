//! Lines of a reader as batches of bodies, read on a thread of their own.

use std::io::{self, ErrorKind, Read};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

/// What a reader brought: lines without their newlines, or why there are no more.
pub(super) type Batch = io::Result<Vec<Bytes>>;

/// Reads lines to the end on a thread of their own. A batch is what one read completes, so that a
/// slow writer's lines are there at once and a fast one's come together. A few batches are read
/// ahead, no more.
pub(super) fn lines(reader: impl Read + Send + 'static) -> io::Result<mpsc::Receiver<Batch>> {
    let (sender, receiver) = mpsc::channel(BATCHES_AHEAD);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        let mut lines = Lines::new(reader);
        while let Some(batch) = lines.next_batch().transpose() {
            let failed = batch.is_err();
            if sender.blocking_send(batch).is_err() || failed {
                return;
            }
        }
    })?;
    Ok(receiver)
}

struct Lines<R> {
    reader: R,
    buffer: BytesMut,
    /// The part of `buffer` that is known to hold no newline.
    searched: usize,
    ended: bool,
}

impl<R: Read> Lines<R> {
    fn new(reader: R) -> Self {
        Self { reader, buffer: BytesMut::new(), searched: 0, ended: false }
    }

    /// At least one line; `None` at the end.
    fn next_batch(&mut self) -> io::Result<Option<Vec<Bytes>>> {
        let mut batch = Vec::new();
        while batch.is_empty() && !self.ended {
            self.read()?;
            while let Some(at) = self.newline() {
                let mut line = self.buffer.split_to(at + 1);
                line.truncate(at);
                batch.push(line.freeze());
                self.searched = 0;
            }
            self.searched = self.buffer.len();
            if self.ended && !self.buffer.is_empty() {
                batch.push(self.buffer.split().freeze());
            }
            if self.buffer.len() > LINE_BYTES_MAX {
                let words = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(ErrorKind::InvalidData, words));
            }
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    fn newline(&self) -> Option<usize> {
        let rest = self.buffer.get(self.searched..)?;
        Some(self.searched + rest.iter().position(|byte| *byte == b'\n')?)
    }

    fn read(&mut self) -> io::Result<()> {
        let held = self.buffer.len();
        self.buffer.resize(held + READ_BYTES, 0);
        let read = loop {
            match self.reader.read(self.buffer.get_mut(held..).unwrap_or_default()) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        self.buffer.truncate(held + read.as_ref().copied().unwrap_or(0));
        self.ended = read? == 0;
        Ok(())
    }
}

/// Some hundred messages of a usual size, and as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// Reading goes on while one batch is being sent and another waits.
const BATCHES_AHEAD: usize = 4;
/// The largest message that a node can be set to allow.
const LINE_BYTES_MAX: usize = 256 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    /// Brings its parts one read at a time.
    struct Parts(Vec<&'static [u8]>);

    impl Read for Parts {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0);
            into[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    fn batches(parts: &[&'static [u8]]) -> Vec<Vec<Bytes>> {
        let mut lines = Lines::new(Parts(parts.to_vec()));
        std::iter::from_fn(|| lines.next_batch().unwrap()).collect()
    }

    #[test]
    fn lines_are_kept_byte_for_byte() {
        assert_eq!(
            batches(&[b"a\r\n\n\xff b\n"]),
            [["a\r".into(), "".into(), Bytes::from_static(b"\xff b")]]
        );
        assert_eq!(batches(&[b"no end"]), [["no end"]]);
        assert_eq!(batches(&[b""]), [[""; 0]; 0]);
        assert_eq!(batches(&[]), [[""; 0]; 0]);
    }

    #[test]
    fn what_one_read_completes_comes_together() {
        assert_eq!(
            batches(&[b"a\nb\nc", b"c", b"c\nd", b"\n", b"e"]),
            [&["a", "b"][..], &["ccc"], &["d"], &["e"]]
        );
    }

    #[test]
    fn a_failing_reader_fails_after_its_lines() {
        struct Failing(bool);
        impl Read for Failing {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if std::mem::replace(&mut self.0, true) {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                into[..4].copy_from_slice(b"a\nb ");
                Ok(4)
            }
        }
        let mut batches = lines(Failing(false)).unwrap();
        assert_eq!(batches.blocking_recv().unwrap().unwrap(), ["a"]);
        let error = batches.blocking_recv().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
        assert!(batches.blocking_recv().is_none());
    }
}
