//! The last words to a peer.

use std::{future::poll_fn, io, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::time::timeout;

use super::shared::Shared;
use crate::{
    Connection, RecvStream, Refusal, SendStream,
    process::inherit,
    protocol::{Frame, WriteQueue, encode},
};

/// Sends what is left, the goodbye last, and waits a little for the peer to have read it: closing a socket with unread
/// bytes in it could take the goodbye away.
pub(super) async fn part(
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

/// Tells a connection that there is no place for it, in a task of its own and as far as there are not too many of them;
/// the others are closed without a word.
pub(super) fn turn_away(shared: &Arc<Shared>, connection: Box<dyn Connection>, refusal: Refusal) {
    let Ok(turn) = shared.farewells.clone().try_acquire_owned() else { return };
    shared.refusals.count(&refusal);
    let closing = shared.closing();
    tokio::spawn(inherit(async move {
        let farewell = async {
            let Ok(Ok(Some(mut stream))) = timeout(PART_TIMEOUT, connection.accept_stream()).await
            else {
                return;
            };
            let mut write = WriteQueue::new();
            encode(&Frame::Goodbye { refusal }, &mut write);
            part(&mut write, &mut *stream.send, &mut *stream.recv, &mut BytesMut::new()).await;
        };
        tokio::select! {
            () = closing => {}
            () = farewell => {}
        }
        drop(turn);
    }));
}

/// How many that are turned away are told why at a time; each holds a socket, and nothing else.
pub(super) const FAREWELLS_MAX: usize = 64;
/// How long a goodbye may take.
const PART_TIMEOUT: Duration = Duration::from_secs(2);
/// What is thrown away at a time.
const READ_BYTES: usize = 16 << 10;
