use std::{future::poll_fn, task::Poll};

use bytes::BytesMut;
use tokio::task::yield_now;

use crate::conformance::{
    ends::{PIECE_BYTES, Receiver, Sender},
    pattern::Sizes,
    trial::{A_TASK, CaseResult, Trial, ensure, fail, poll_once, worked},
};

pub(super) async fn bytes_keep_their_order_both_ways(trial: Trial) -> CaseResult {
    async fn send(mut sender: Sender, mut sizes: Sizes) -> CaseResult<Sender> {
        while sender.sent < TOTAL {
            let slices: Vec<_> = (0..sizes.next(5)).map(|_| sizes.next(20_000)).collect();
            sender.send_in_slices(&slices).await?;
        }
        sender.finish().await?;
        Ok(sender)
    }
    async fn receive(mut receiver: Receiver, mut sizes: Sizes) -> CaseResult<u64> {
        while receiver.receive(sizes.next(50_000)).await? > 0 {}
        Ok(receiver.received)
    }
    const TOTAL: u64 = 1 << 20;
    let link = trial.link().await?;
    let (near, far) = trial.stream(&link).await?;
    let sizes = || trial.sizes();
    let (there, at_far, back, at_near) = futures::try_join!(
        send(near.send, sizes()),
        receive(far.recv, sizes()),
        send(far.send, sizes()),
        receive(near.recv, sizes()),
    )?;
    for (sender, received) in [(there, at_far), (back, at_near)] {
        ensure(sender.sent == received, || {
            format!("the end came after {received} of {} bytes", sender.sent)
        })?;
    }
    Ok(())
}

pub(super) async fn one_big_write_arrives_whole(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    futures::try_join!(near.send.send(BIG_BYTES), far.recv.receive_exactly(BIG_BYTES))?;
    Ok(())
}

pub(super) async fn single_bytes_arrive(trial: Trial) -> CaseResult {
    const BYTES: usize = 2000;
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    let sending = async {
        for _ in 0..BYTES {
            near.send.send(1).await?;
        }
        Ok(())
    };
    let receiving = async {
        for _ in 0..BYTES {
            far.recv.receive_exactly(1).await?;
        }
        Ok(())
    };
    futures::try_join!(sending, receiving)?;
    Ok(())
}

pub(super) async fn empty_slices_are_nothing(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    let empty = std::io::IoSlice::new(&[]);
    for slices in [&[][..], &[empty], &[empty; 3000]] {
        match poll_once(poll_fn(|context| near.send.poll_slices(context, slices))).await {
            Poll::Ready(taken) => match taken? {
                Ok(0) => {}
                other => return fail(format!("poll_send of empty slices gave {other:?}")),
            },
            Poll::Pending => return fail("poll_send waits with nothing but empty slices"),
        }
    }
    let mut lengths = vec![0; 3000];
    lengths.extend([1, 0, 0, 2, 0]);
    near.send.send_in_slices(&lengths).await?;
    near.send.finish().await?;
    far.recv.receive_to_the_end(near.send.sent).await
}

pub(super) async fn many_slices_go_as_one(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    let mut sizes = trial.sizes();
    let lengths: Vec<_> = (0..5000).map(|i| if i % 7 == 0 { 0 } else { sizes.next(300) }).collect();
    let bytes = lengths.iter().sum();
    futures::try_join!(near.send.send_in_slices(&lengths), far.recv.receive_exactly(bytes))?;
    Ok(())
}

pub(super) async fn heavy_traffic_both_ways_does_not_deadlock(trial: Trial) -> CaseResult {
    // They hand their halves back, so that the failure of one is not followed by others.
    async fn send(mut sender: Sender) -> (CaseResult, Sender) {
        for _ in 0..BIG_BYTES / PIECE_BYTES {
            if let Err(stop) = sender.send(PIECE_BYTES).await {
                return (Err(stop), sender);
            }
        }
        (Ok(()), sender)
    }
    async fn receive(mut receiver: Receiver) -> (CaseResult, Receiver) {
        (receiver.receive_exactly(BIG_BYTES).await, receiver)
    }
    let link = trial.link().await?;
    let (near, far) = trial.stream(&link).await?;
    // Each half in a task of its own, on two threads where there are two.
    let (there, at_far, back, at_near) = futures::join!(
        tokio::spawn(send(near.send)),
        tokio::spawn(receive(far.recv)),
        tokio::spawn(send(far.send)),
        tokio::spawn(receive(near.recv)),
    );
    for receiving in [at_far, at_near] {
        worked(A_TASK, receiving)?.0?;
    }
    for sending in [there, back] {
        worked(A_TASK, sending)?.0?;
    }
    Ok(())
}

pub(super) async fn a_receive_takes_no_more_than_it_was_told(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    near.send.send(10_000).await?;
    near.send.finish().await?;
    match far.recv.try_receive(0).await? {
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => {}
        other => return fail(format!("a receive of at most 0 bytes gave {other:?}")),
    }
    let mut max = 1;
    while far.recv.receive(max).await? > 0 {
        max = max * 2 % 1999;
    }
    ensure(far.recv.received == near.send.sent, || {
        format!("the end came after {} of {} bytes", far.recv.received, near.send.sent)
    })
}

pub(super) async fn a_pending_receive_leaves_the_buffer_alone(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    // The watched half compares the buffer at each of these.
    for held in [&b""[..], b"held"] {
        for _ in 0..50 {
            let receiving = poll_fn(|cx| far.recv.poll_behind(cx, BytesMut::from(held), 1 << 20));
            if let Poll::Ready(came) = poll_once(receiving).await {
                return fail(format!("{:?} came though nothing was sent", came?));
            }
            yield_now().await;
        }
        near.send.send(1000).await?;
        let expected = far.recv.received + 1000;
        while far.recv.received < expected {
            let receiving = poll_fn(|cx| far.recv.poll_behind(cx, BytesMut::from(held), 999));
            match trial.within("poll_recv", receiving).await?? {
                Ok(1..) => {}
                other => return fail(format!("{other:?} came instead of bytes")),
            }
        }
    }
    Ok(())
}

const BIG_BYTES: usize = 8 << 20;
