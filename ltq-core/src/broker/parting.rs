//! The last words to a peer.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{sync::Semaphore, time::timeout};

use crate::{Connection, RecvStream, SendStream, process::inherit, protocol::WriteQueue};

/// Sends what is left, the goodbye last, and waits a little for the peer to have read it: closing a socket with unread
/// bytes in it could take the goodbye away. What is read goes into `read`, and is thrown away.
pub async fn part(
    write: &mut WriteQueue,
    send: &mut dyn SendStream,
    recv: &mut dyn RecvStream,
    read: &mut BytesMut,
) {
    let parted = async {
        poll_fn(|context| write.poll_flush(context, send)).await?;
        poll_fn(|context| send.poll_finish(context)).await?;
        loop {
            // Not every stream gives way by itself, and a peer may send without a pause.
            tokio::task::consume_budget().await;
            read.clear();
            if poll_fn(|context| recv.poll_recv(context, read, READ_BYTES)).await? == 0 {
                return io::Result::Ok(());
            }
        }
    };
    // Whether the peer heard it makes no difference any more.
    let _ = timeout(PART_TIMEOUT, parted).await;
}

/// Turns at telling those who are turned away why: each holds a socket for as long, and nothing else.
#[derive(Clone, Debug)]
pub struct Farewells(Arc<Semaphore>);

impl Default for Farewells {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(Self::MAX)))
    }
}

impl Farewells {
    /// How many that are turned away are told why at a time: each has a socket of its own beside the places of
    /// connections.
    pub const MAX: usize = 64;

    /// Tells a connection that there is no place for it, in these words, in a task of its own and until then at most; as
    /// far as there are not too many of them: the others are closed without a word. Whether it is told.
    pub fn turn_away(
        &self,
        connection: Box<dyn Connection>,
        words: impl FnOnce(&mut WriteQueue),
        until: impl Future<Output = ()> + Send + 'static,
    ) -> bool {
        let Ok(turn) = self.0.clone().try_acquire_owned() else { return false };
        let mut write = WriteQueue::new();
        words(&mut write);
        tokio::spawn(inherit(async move {
            let farewell = async {
                let Ok(Ok(Some(mut stream))) =
                    timeout(PART_TIMEOUT, connection.accept_stream()).await
                else {
                    return;
                };
                part(&mut write, &mut *stream.send, &mut *stream.recv, &mut BytesMut::new()).await;
            };
            tokio::select! {
                () = until => {}
                () = farewell => {}
            }
            drop(turn);
        }));
        true
    }
}

/// How long a goodbye may take.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// What is thrown away at a time.
const READ_BYTES: usize = 16 << 10;

#[cfg(test)]
mod tests {
    use std::future::pending;

    use async_trait::async_trait;

    use super::*;
    use crate::{Address, Peer, Stream, TransportError};

    /// Opens no stream that could be told anything.
    struct Silent(Peer);

    #[async_trait]
    impl Connection for Silent {
        fn multiplexed(&self) -> bool {
            false
        }
        fn peer(&self) -> &Peer {
            &self.0
        }
        async fn open_stream(&self) -> Result<Stream, TransportError> {
            Err(TransportError::Closed)
        }
        async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
            pending().await
        }
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_64_are_told_so_at_a_time_and_more_are_closed_without_a_word() {
        let farewells = Farewells::default();
        let turn_away = || {
            let peer = Peer { address: Address::new("t", "peer"), identity: None };
            farewells.turn_away(Box::new(Silent(peer)), |_| {}, pending())
        };
        for _ in 0..64 {
            assert!(turn_away());
        }
        assert!(!turn_away());
        // Whoever does not listen has the time of a goodbye and no more.
        tokio::time::sleep(PART_TIMEOUT * 2).await;
        assert!(turn_away());
    }
}
