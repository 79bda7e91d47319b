//! Connections of many streams.

use std::task::Poll;

use futures::future::try_join_all;
use ltq_core::{Connection, TransportError};
use tokio::{task::JoinSet, time::timeout};

use crate::conformance::{
    ends::{End, PIECE_BYTES, QUIET},
    trial::{A_TASK, CaseResult, Link, Stop, Trial, ensure, fail, poll_once, skip, worked},
};

/// A connection, or the reason why the case does not apply.
async fn multiplexed(trial: &Trial) -> CaseResult<Link> {
    let link = trial.link().await?;
    if !link.near.multiplexed() {
        return skip("a connection of this transport carries one stream");
    }
    ensure(link.far.multiplexed(), || "the two sides disagree on multiplexed()".to_owned())?;
    Ok(link)
}

/// Streams of a connection, with bytes of its own for each.
async fn streams(
    trial: &Trial,
    near: &dyn Connection,
    far: &dyn Connection,
    count: u64,
) -> CaseResult<Vec<(End, End)>> {
    let mut streams = Vec::new();
    for number in 0..count {
        streams.push(trial.numbered(number).stream_between(near, far).await?);
    }
    Ok(streams)
}

/// So many bytes both ways, in pieces of any size.
async fn traffic(trial: Trial, streams: &mut (End, End), bytes: u64) -> CaseResult {
    let (near, far) = streams;
    let (there, back) = (near.send.sent + bytes, far.send.sent + bytes);
    let (mut sizes, mut other) = (trial.sizes(), trial.sizes());
    let sending = async {
        while near.send.sent < there {
            let left = usize::try_from(there - near.send.sent).unwrap_or(usize::MAX);
            near.send.send(sizes.next(20_000).min(left)).await?;
        }
        Ok(())
    };
    let answering = async {
        while far.send.sent < back {
            let left = usize::try_from(back - far.send.sent).unwrap_or(usize::MAX);
            far.send.send(other.next(20_000).min(left)).await?;
        }
        Ok(())
    };
    let receiving = far.recv.receive_up_to(there);
    futures::try_join!(sending, answering, receiving, near.recv.receive_up_to(back))?;
    Ok(())
}

pub(super) async fn streams_keep_their_bytes_apart(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let mut tasks = JoinSet::new();
    for (number, mut stream) in (0..).zip(streams(&trial, &*link.near, &*link.far, 100).await?) {
        let trial = trial.numbered(number);
        // It hands its ends back, so that the failure of one is not followed by others.
        tasks.spawn(async move { (traffic(trial, &mut stream, 100_000).await, stream) });
    }
    let mut kept = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        let (outcome, stream) = worked(A_TASK, ended)?;
        outcome?;
        kept.push(stream);
    }
    Ok(())
}

pub(super) async fn a_stalled_stream_stops_no_other(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let (mut stalled, mut unread) = trial.stream(&link).await?;
    stalled.send.fill().await?;
    let mut others = streams(&trial, &*link.near, &*link.far, 4).await?;
    try_join_all(others.iter_mut().map(|other| traffic(trial.clone(), other, 2 << 20))).await?;
    // What waited is whole, and goes on.
    unread.recv.receive_up_to(stalled.send.sent).await?;
    traffic(trial.clone(), &mut (stalled, unread), 1 << 20).await
}

pub(super) async fn streams_are_accepted_in_the_order_of_opening(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let mut opened = Vec::new();
    for number in 0..20 {
        let mut near = trial.numbered(number).near_end(trial.open(&*link.near).await?);
        near.send.send(100).await?;
        opened.push(near);
    }
    for number in 0..20 {
        let accepted = trial.accept_stream(&*link.far).await?;
        let mut far = trial.numbered(number).far_end(accepted);
        if let Err(Stop::Failed(why)) = far.recv.receive_exactly(100).await {
            return fail(format!("another came where stream {number} was expected: {why}"));
        }
        opened.push(far);
    }
    Ok(())
}

pub(super) async fn a_cut_stream_leaves_the_others(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let mut others = streams(&trial, &*link.near, &*link.far, 4).await?;
    for cut_by_opener in [true, false] {
        let (near, far) = trial.stream(&link).await?;
        let (mut cut, mut left) = if cut_by_opener { (near, far) } else { (far, near) };
        cut.send.send(PIECE_BYTES).await?;
        drop(cut);
        while let Ok(1..) = left.recv.try_receive(PIECE_BYTES).await? {}
        left.send.send_until_cut().await?;
        for other in &mut others {
            traffic(trial.clone(), other, 100_000).await?;
        }
    }
    traffic(trial.clone(), &mut trial.stream(&link).await?, 1000).await
}

pub(super) async fn the_end_of_a_stream_ends_no_other(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let mut streams = streams(&trial, &*link.near, &*link.far, 6).await?;
    while let Some((mut near, mut far)) = streams.pop() {
        let total = near.send.sent;
        let (finished, received) =
            futures::join!(near.send.finish(), far.recv.receive_to_the_end(total));
        received?;
        finished?;
        // Nor does it end its own other direction.
        far.send.send(PIECE_BYTES).await?;
        near.recv.receive_up_to(far.send.sent).await?;
        for other in &mut streams {
            traffic(trial.clone(), other, 10_000).await?;
        }
    }
    Ok(())
}

pub(super) async fn streams_come_and_go(trial: Trial) -> CaseResult {
    const AT_ONCE: u64 = 100;
    let link = multiplexed(&trial).await?;
    let total = trial.harness.streams_max.unwrap_or(1000) as u64 * 3 / 2;
    for _ in 0..total.div_ceil(AT_ONCE) {
        let streams = streams(&trial, &*link.near, &*link.far, AT_ONCE).await?;
        try_join_all(streams.into_iter().map(end)).await?;
    }
    Ok(())
}

pub(super) async fn streams_at_once_are_bounded(trial: Trial) -> CaseResult {
    let Some(max) = trial.harness.streams_max else {
        return skip("the harness names no bound");
    };
    let link = multiplexed(&trial).await?;
    let mut opened = Vec::new();
    for _ in 0..max {
        opened.push(trial.open(&*link.near).await?);
    }
    match timeout(QUIET, link.near.open_stream()).await {
        Err(_) | Ok(Err(TransportError::Closed)) => {}
        Ok(Err(error)) => return fail(format!("at the bound open_stream failed: {error}")),
        Ok(Ok(_)) => return fail(format!("more than {max} streams were opened at once")),
    }
    // Half of them: a transport need not tell its peer of each place by itself.
    let mut ended = Vec::new();
    for stream in opened.drain(..max.div_ceil(2)) {
        let mut near = trial.near_end(stream);
        near.send.send(10).await?;
        let mut far = trial.far_end(trial.accept_stream(&*link.far).await?);
        far.recv.receive_exactly(10).await?;
        ended.push((near, far));
    }
    try_join_all(ended.into_iter().map(end)).await?;
    drop(trial.open(&*link.near).await?);
    Ok(())
}

/// Ends both directions of a stream, and gives it up.
async fn end((mut near, mut far): (End, End)) -> CaseResult {
    let (there, back) = (near.send.sent, far.send.sent);
    futures::try_join!(
        near.send.finish(),
        far.send.finish(),
        far.recv.receive_to_the_end(there),
        near.recv.receive_to_the_end(back),
    )?;
    Ok(())
}

pub(super) async fn dropped_opens_and_accepts_lose_no_stream(trial: Trial) -> CaseResult {
    const STREAMS: usize = 50;
    let link = multiplexed(&trial).await?;
    for number in 0..STREAMS {
        drop(link.near.open_stream());
        let opened = match poll_once(link.near.open_stream()).await {
            Poll::Ready(opened) => worked("opening a stream", opened)?,
            Poll::Pending => trial.open(&*link.near).await?,
        };
        drop(link.far.accept_stream());
        let early = match poll_once(link.far.accept_stream()).await {
            Poll::Pending => None,
            Poll::Ready(accepted) => worked("accepting a stream", accepted)?,
        };
        let trial = trial.numbered(number as u64);
        let mut near = trial.near_end(opened);
        near.send.send(100).await?;
        let accepted = match early {
            Some(stream) => stream,
            None => trial.accept_stream(&*link.far).await?,
        };
        trial.far_end(accepted).recv.receive_exactly(100).await?;
    }
    Ok(())
}

pub(super) async fn streams_outlive_what_gave_them_out(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let mut streams = streams(&trial, &*link.near, &*link.far, 3).await?;
    drop((link.listener, link.near, link.far));
    for stream in &mut streams {
        traffic(trial.clone(), stream, 100_000).await?;
    }
    Ok(())
}

pub(super) async fn who_waits_for_a_stream_learns_of_the_end(trial: Trial) -> CaseResult {
    let link = multiplexed(&trial).await?;
    let stream = trial.stream(&link).await?;
    drop((stream, link.near));
    let far: &dyn Connection = &*link.far;
    let accepting = far.accept_stream();
    match trial.within("accept_stream to say that the peer is gone", accepting).await? {
        Ok(None) | Err(_) => {}
        Ok(Some(_)) => return fail("a stream came from a peer that is gone"),
    }
    let opening = far.open_stream();
    if let Ok(stream) = trial.within("open_stream to a peer that is gone", opening).await? {
        trial.far_end(stream).send.send_until_cut().await?;
    }
    Ok(())
}
