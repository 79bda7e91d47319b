//! One stream between a registry and whoever talks to it.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::ready,
};

use bytes::{Buf, BytesMut};
use ltq_core::{RecvStream, SendStream, Stream, protocol::WriteQueue};
use serde::{Serialize, de::DeserializeOwned};
use thiserror::Error;

use super::{
    protocol::REGISTRY_FRAME_BYTES_MAX,
    wire::{self, WireError},
};

/// Frames over a stream, its halves apart so that both can be waited for at once.
pub(crate) struct Link {
    pub(crate) mouth: Mouth,
    pub(crate) ear: Ear,
}

/// What is said waits here until the stream takes it.
pub(crate) struct Mouth {
    send: Box<dyn SendStream>,
    unsent: BytesMut,
}

/// What is heard.
pub(crate) struct Ear {
    recv: Box<dyn RecvStream>,
    received: BytesMut,
}

/// Why a link is of no use any more.
#[derive(Debug, Error)]
pub(crate) enum LinkError {
    #[error("the connection was lost: {0}")]
    Lost(#[from] io::Error),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("the peer is gone")]
    Ended,
}

impl Link {
    pub(crate) fn new(Stream { send, recv }: Stream) -> Self {
        Self {
            mouth: Mouth { send, unsent: BytesMut::new() },
            ear: Ear { recv, received: BytesMut::new() },
        }
    }

    /// Sends all that waits, and the end, and waits a little for the peer to have read it.
    pub(crate) async fn part(self) {
        let Self { mut mouth, mut ear } = self;
        let mut write = WriteQueue::new();
        write.push(&mouth.unsent.freeze());
        ltq_core::part(&mut write, &mut *mouth.send, &mut *ear.recv, &mut ear.received).await;
    }
}

impl Mouth {
    /// Says something, as soon as it can.
    pub(crate) fn say(&mut self, frame: &impl Serialize) -> Result<(), LinkError> {
        Ok(wire::encode(frame, &mut self.unsent)?)
    }

    /// Bytes that wait.
    pub(crate) fn unsent(&self) -> usize {
        self.unsent.len()
    }

    /// Sends some of what waits; waits for ever when nothing does. Cancel safe.
    pub(crate) async fn send_some(&mut self) -> Result<(), LinkError> {
        poll_fn(|context| {
            if self.unsent.is_empty() {
                return std::task::Poll::Pending;
            }
            let sent = ready!(self.send.poll_send(context, &[IoSlice::new(&self.unsent)]))?;
            self.unsent.advance(sent);
            if self.unsent.is_empty() {
                // Nothing is held while nothing is said.
                self.unsent = BytesMut::new();
            }
            std::task::Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Ear {
    /// The next frame. Cancel safe.
    pub(crate) async fn hear<T: DeserializeOwned>(&mut self) -> Result<T, LinkError> {
        self.hear_at_most(REGISTRY_FRAME_BYTES_MAX).await
    }

    /// The next frame, which is no longer than this; no more of it is kept. Cancel safe.
    pub(crate) async fn hear_at_most<T: DeserializeOwned>(
        &mut self,
        bytes_max: usize,
    ) -> Result<T, LinkError> {
        poll_fn(|context| {
            loop {
                if let Some(frame) = wire::decode(&mut self.received, bytes_max)? {
                    return std::task::Poll::Ready(Ok(frame));
                }
                let got = ready!(self.recv.poll_recv(context, &mut self.received, bytes_max))?;
                if got == 0 {
                    return std::task::Poll::Ready(Err(LinkError::Ended));
                }
            }
        })
        .await
    }
}
