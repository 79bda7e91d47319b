use std::{future::poll_fn, io::IoSlice, time::Duration};

use bytes::BytesMut;
use ltq_core::{
    Connection, Stream,
    protocol::{Decoder, Frame},
};
use tokio::time::timeout;

use super::Failed;
use crate::bytes_of;

/// A stream to the node that nobody behaves on.
pub(super) struct Line {
    /// As long as it lives, so does the stream.
    _connection: Box<dyn Connection>,
    stream: Stream,
    read: BytesMut,
}

/// What came of waiting for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It ended the stream.
    End,
    /// It did not, for as long as was waited.
    Open,
}

impl Line {
    pub(super) async fn over(connection: Box<dyn Connection>) -> Option<Self> {
        let stream = connection.open_stream().await.ok()?;
        Some(Self { _connection: connection, stream, read: BytesMut::new() })
    }

    /// Sends bytes for as long as the node takes them, and for `patience` at most; says whether it
    /// took them all.
    pub(super) async fn send_for(&mut self, mut bytes: &[u8], patience: Duration) -> bool {
        let send = &mut self.stream.send;
        let sent = poll_fn(|context| {
            while !bytes.is_empty() {
                match std::task::ready!(send.poll_send(context, &[IoSlice::new(bytes)])) {
                    Ok(sent) => bytes = &bytes[sent..],
                    Err(_) => return false.into(),
                }
            }
            true.into()
        });
        timeout(patience, sent).await.unwrap_or(false)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.send_for(bytes, SENDING).await
    }

    pub(super) async fn say(&mut self, frame: &Frame) -> bool {
        self.send(&bytes_of(frame)).await
    }

    /// Says that no more comes.
    pub(super) async fn finish(&mut self) {
        let send = &mut self.stream.send;
        let _ = timeout(SENDING, poll_fn(|context| send.poll_finish(context))).await;
    }

    /// Reads for so long, or to the end.
    ///
    /// # Errors
    /// What the node said is not made of frames, or is nothing that it should say here.
    pub(super) async fn hear(
        &mut self,
        patience: Duration,
        mut allowed: impl FnMut(&Frame) -> bool,
    ) -> Result<Heard, Failed> {
        let Self { stream, read, .. } = self;
        let hearing = async {
            loop {
                let recv = &mut stream.recv;
                let got = poll_fn(|context| recv.poll_recv(context, read, 64 << 10)).await;
                if got.unwrap_or(0) == 0 {
                    return Ok(Heard::End);
                }
                loop {
                    match Decoder::new(16 << 20).decode(read) {
                        Ok(None) => break,
                        Ok(Some(frame)) if allowed(&frame) => {}
                        Ok(Some(frame)) => {
                            return Err(Failed::Fault(format!("the node said {frame:?}")));
                        }
                        Err(error) => {
                            return Err(Failed::Fault(format!("the node said no frame: {error}")));
                        }
                    }
                }
            }
        };
        timeout(patience, hearing).await.unwrap_or(Ok(Heard::Open))
    }

    /// Reads to the end, which must come.
    pub(super) async fn hear_the_end(
        &mut self,
        allowed: impl FnMut(&Frame) -> bool,
    ) -> Result<(), Failed> {
        match self.hear(PATIENCE, allowed).await? {
            Heard::End => Ok(()),
            Heard::Open => Err(Failed::Fault(format!("the stream was open after {PATIENCE:?}"))),
        }
    }
}

/// For bytes that a node has every reason to take, or to end the stream.
const SENDING: Duration = Duration::from_secs(5);
/// For what a node does at a deadline of a second or two, on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
