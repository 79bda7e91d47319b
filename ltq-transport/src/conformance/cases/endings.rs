use std::io;

use crate::conformance::{
    ends::{End, PIECE_BYTES},
    trial::{CaseResult, Trial, ensure, fail},
};

pub(super) async fn a_half_close_ends_one_direction(trial: Trial) -> CaseResult {
    for opener_first in [true, false] {
        let link = trial.link().await?;
        let (near, far) = trial.stream(&link).await?;
        if opener_first {
            half_close(near, far).await?;
        } else {
            half_close(far, near).await?;
        }
    }
    Ok(())
}

async fn half_close(mut first: End, mut second: End) -> CaseResult {
    first.send.send(PIECE_BYTES).await?;
    first.send.finish().await?;
    second.recv.receive_to_the_end(first.send.sent).await?;
    for _ in 0..16 {
        second.send.send(PIECE_BYTES).await?;
        first.recv.receive_exactly(PIECE_BYTES).await?;
    }
    second.send.finish().await?;
    first.recv.receive_to_the_end(second.send.sent).await
}

pub(super) async fn a_finished_stream_takes_no_more(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    let total = near.send.sent;
    for _ in 0..3 {
        near.send.finish().await?;
        let sending = std::future::poll_fn(|context| near.send.poll_some(context, 1));
        match trial.within("poll_send", sending).await?? {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => return fail(format!("sending on a finished stream gave {other:?}")),
        }
    }
    far.recv.receive_to_the_end(total).await
}

pub(super) async fn a_finished_stream_survives_being_dropped(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    near.send.send(PIECE_BYTES).await?;
    // Ready may mean that the peer has it, for which the peer may have to read.
    let (finished, received) =
        futures::join!(near.send.finish(), far.recv.receive_exactly(PIECE_BYTES / 2));
    finished?;
    received?;
    let total = near.send.sent;
    drop((near, link.near));
    far.recv.receive_to_the_end(total).await
}

pub(super) async fn a_peer_that_does_not_read_stops_the_sender(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    near.send.fill().await?;
    let unread = near.send.sent;
    ensure(unread >= 1024, || format!("the sender has to wait after {unread} bytes"))?;
    // What comes after the wait shows that it took nothing while it waited.
    let more = unread + 4 * PIECE_BYTES as u64;
    let sending = async {
        while near.send.sent < more {
            near.send.send(PIECE_BYTES).await?;
        }
        near.send.finish().await?;
        Ok(near.send.sent)
    };
    let receiving = async {
        while far.recv.receive(PIECE_BYTES).await? > 0 {}
        Ok(far.recv.received)
    };
    let (sent, received) = futures::try_join!(sending, receiving)?;
    ensure(sent == received, || format!("the end came after {received} of {sent} bytes"))
}

pub(super) async fn a_cut_is_seen_and_stays(trial: Trial) -> CaseResult {
    for unread in [false, true] {
        let link = trial.link().await?;
        let (mut near, mut far) = trial.stream(&link).await?;
        if unread {
            far.send.send(PIECE_BYTES).await?;
        }
        let flood = async {
            let sent: CaseResult = loop {
                if let Err(stopped) = near.send.send(PIECE_BYTES).await {
                    break Err(stopped);
                }
            };
            sent
        };
        let some = far.recv.receive_exactly(4 * PIECE_BYTES);
        // Dropped in the middle of a send.
        match futures::future::select(Box::pin(flood), Box::pin(some)).await {
            futures::future::Either::Left((stopped, _)) => stopped?,
            futures::future::Either::Right((received, _)) => received?,
        }
        let taken = near.send.sent;
        drop((near, link.near));
        let ended = loop {
            match far.recv.try_receive(PIECE_BYTES).await? {
                Ok(0) => break "the end",
                Err(_) => break "an error",
                Ok(_) => {}
            }
        };
        let received = far.recv.received;
        ensure(received <= taken, || format!("{received} bytes came of {taken} that were taken"))?;
        for _ in 0..3 {
            match (ended, far.recv.try_receive(PIECE_BYTES).await?) {
                ("the end", Ok(0)) | ("an error", Err(_)) => {}
                (_, other) => return fail(format!("{other:?} came after {ended}")),
            }
        }
        for _ in 0..3 {
            far.send.send_until_cut().await?;
        }
        ensure(far.send.try_finish().await?.is_err(), || {
            "poll_finish succeeded on a stream whose sends fail".to_owned()
        })?;
    }
    Ok(())
}
