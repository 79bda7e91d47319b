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
