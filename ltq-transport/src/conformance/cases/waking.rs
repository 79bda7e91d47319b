use std::{
    future::poll_fn,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
};

use tokio::sync::{Notify, oneshot};

use crate::conformance::{
    ends::{End, PIECE_BYTES},
    trial::{A_TASK, CaseResult, Trial, ensure, fail, worked},
};

/// A task that is not there: it notes that it was woken.
#[derive(Default)]
struct Witness {
    woken: Notify,
}

impl Wake for Witness {
    fn wake(self: Arc<Self>) {
        self.woken.notify_one();
    }
}

impl Witness {
    fn new() -> (Arc<Self>, Waker) {
        let witness = Arc::new(Self::default());
        (Arc::clone(&witness), Waker::from(witness))
    }
}

pub(super) async fn every_piece_wakes_its_reader(trial: Trial) -> CaseResult {
    const ROUNDS: usize = 1000;
    async fn echo(far: &mut End) -> CaseResult {
        for round in 0..ROUNDS {
            far.recv.receive_exactly(round % 100 + 1).await?;
            far.send.send(round % 100 + 1).await?;
        }
        Ok(())
    }
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    // It hands its end back, so that its failure does not become one of the other end first.
    let echoing = tokio::spawn(async move { (echo(&mut far).await, far) });
    let asking = async {
        for round in 0..ROUNDS {
            near.send.send(round % 100 + 1).await?;
            near.recv.receive_exactly(round % 100 + 1).await?;
        }
        Ok(())
    };
    let (asked, echoed) = futures::join!(asking, echoing);
    let (echoed, _far) = worked(A_TASK, echoed)?;
    echoed.and(asked)
}

pub(super) async fn the_newest_waker_is_woken_for_bytes(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    for _ in 0..20 {
        let (_, earlier) = Witness::new();
        let (newest, waker) = Witness::new();
        for waker in [&earlier, &waker] {
            if let Poll::Ready(came) = far.recv.poll_some(&mut Context::from_waker(waker), 100) {
                return fail(format!("{:?} came though nothing was sent", came?));
            }
        }
        near.send.send(100).await?;
        let expected = far.recv.received + 100;
        while far.recv.received < expected {
            trial.within("the newest task to be woken", newest.woken.notified()).await?;
            loop {
                let came = far.recv.poll_some(&mut Context::from_waker(&waker), 100);
                let Poll::Ready(came) = came else { break };
                worked("poll_recv", came?)?;
                if far.recv.received == expected {
                    break;
                }
            }
        }
    }
    Ok(())
}

pub(super) async fn the_newest_waker_is_woken_for_room(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (mut near, mut far) = trial.stream(&link).await?;
    let (_, earlier) = Witness::new();
    let (newest, waker) = Witness::new();
    loop {
        near.send.fill().await?;
        let mut pending = |waker| {
            let sent = near.send.poll_some(&mut Context::from_waker(waker), PIECE_BYTES);
            match sent {
                Poll::Pending => Ok(true),
                Poll::Ready(sent) => worked("poll_send", sent?).map(|_| false),
            }
        };
        // Between the two nothing is read; room that comes late only means another try.
        if pending(&earlier)? && pending(&waker)? {
            break;
        }
    }
    far.recv.receive_up_to(near.send.sent).await?;
    loop {
        trial.within("the newest task to be woken", newest.woken.notified()).await?;
        let sent = near.send.poll_some(&mut Context::from_waker(&waker), 1);
        if let Poll::Ready(sent) = sent {
            worked("poll_send", sent?)?;
            break;
        }
    }
    far.recv.receive_up_to(near.send.sent).await
}

pub(super) async fn an_end_wakes_a_waiting_reader(trial: Trial) -> CaseResult {
    for finishes in [true, false] {
        let link = trial.link().await?;
        let (mut near, mut far) = trial.stream(&link).await?;
        let (witness, waker) = Witness::new();
        let came = far.recv.poll_some(&mut Context::from_waker(&waker), 1);
        if let Poll::Ready(came) = came {
            return fail(format!("{:?} came though nothing was sent", came?));
        }
        if finishes {
            near.send.finish().await?;
        } else {
            drop((near, link.near));
        }
        loop {
            trial.within("the reader to be woken", witness.woken.notified()).await?;
            let ended = far.recv.poll_some(&mut Context::from_waker(&waker), 1);
            match ended {
                Poll::Pending => {}
                Poll::Ready(ended) => match ended? {
                    Ok(0) => break,
                    Err(_) if !finishes => break,
                    other => return fail(format!("{other:?} came instead of the end")),
                },
            }
        }
    }
    Ok(())
}

pub(super) async fn halves_move_between_tasks(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let (near, far) = trial.stream(&link).await?;
    let (mut sender, mut receiver) = (near.send, far.recv);
    for _ in 0..4 {
        // Both have been polled from this task; what they still expect of it must not matter.
        sender.fill().await?;
        let total = sender.sent + PIECE_BYTES as u64;
        // They hand their halves back, so that the failure of one is not followed by the other's.
        let (begun, has_begun) = oneshot::channel();
        let sending = tokio::spawn(async move {
            let mut begun = Some(begun);
            let sent = {
                let mut all = pin!(async {
                    while sender.sent < total {
                        sender.send(PIECE_BYTES).await?;
                    }
                    Ok(())
                });
                let told = poll_fn(|context| {
                    let polled = all.as_mut().poll(context);
                    begun.take().map(|begun| begun.send(()));
                    polled
                });
                told.await
            };
            (sent, sender)
        });
        let receiving = tokio::spawn(async move {
            // Nothing makes room before the other half waits for it in its new task.
            let _ = has_begun.await;
            let received = receiver.receive_up_to(total).await;
            (received, receiver)
        });
        let (sent, received) = futures::join!(sending, receiving);
        let (received, same_receiver) = worked(A_TASK, received)?;
        let (sent, same_sender) = worked(A_TASK, sent)?;
        received?;
        sent?;
        (sender, receiver) = (same_sender, same_receiver);
        receiver.receive_up_to(sender.sent).await?;
        let once = poll_fn(|context| Poll::Ready(receiver.poll_some(context, 1))).await;
        ensure(once.is_pending(), || "more came than was sent".to_owned())?;
    }
    Ok(())
}
