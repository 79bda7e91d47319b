use std::sync::Arc;

use ltq_core::{Address, TransportError};
use tokio::{sync::Barrier, task::JoinSet};

use crate::conformance::{
    ends::PIECE_BYTES,
    trial::{A_TASK, CaseResult, Trial, ensure, fail, skip, worked},
};

pub(super) async fn a_multiplexed_connection_carries_many_streams(trial: Trial) -> CaseResult {
    const STREAMS: usize = 50;
    let link = trial.link().await?;
    if !link.near.multiplexed() {
        return skip("a connection of this transport carries one stream");
    }
    ensure(link.far.multiplexed(), || "the two sides disagree on multiplexed()".to_owned())?;
    // Nobody reads this one, and nothing else may wait for it.
    let (mut blocked, _unread) = trial.stream(&link).await?;
    blocked.send.fill().await?;
    let mut streams = Vec::new();
    for number in 0..STREAMS {
        // Either side may open.
        let (near, far) = (&*link.near, &*link.far);
        let (opener, acceptor) = if number % 2 == 0 { (near, far) } else { (far, near) };
        streams.push(trial.stream_between(opener, acceptor).await?);
    }
    for (near, far) in &mut streams {
        near.send.send(PIECE_BYTES / 8).await?;
        far.send.send(PIECE_BYTES / 8).await?;
    }
    for (near, far) in streams.iter_mut().rev() {
        far.recv.receive_exactly(PIECE_BYTES / 8).await?;
        near.recv.receive_exactly(PIECE_BYTES / 8).await?;
    }
    // The end of one is the end of no other.
    for (mut near, mut far) in streams {
        near.send.finish().await?;
        far.recv.receive_to_the_end(near.send.sent).await?;
    }
    Ok(())
}

pub(super) async fn a_connection_of_one_stream_says_so(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    if link.near.multiplexed() {
        return skip("a connection of this transport carries many streams");
    }
    ensure(!link.far.multiplexed(), || "the two sides disagree on multiplexed()".to_owned())?;
    let (mut near, mut far) = trial.stream(&link).await?;
    for connection in [&link.near, &link.far] {
        let opening = connection.open_stream();
        match trial.within("a second open_stream to be refused", opening).await? {
            Err(TransportError::Closed) => {}
            other => return fail(format!("a second open_stream gave {other:?}")),
        }
        let accepting = connection.accept_stream();
        match trial.within("a second accept_stream to say None", accepting).await? {
            Ok(None) => {}
            other => return fail(format!("a second accept_stream gave {other:?}")),
        }
    }
    // The one stream goes on, also without the objects that gave it out.
    drop((link.near, link.far));
    near.send.send(100).await?;
    far.recv.receive_exactly(100).await?;
    far.send.send(100).await?;
    near.recv.receive_exactly(100).await
}

pub(super) async fn many_connections_work_at_once(trial: Trial) -> CaseResult {
    const CONNECTIONS: usize = 200;
    async fn client(trial: Trial, address: Address, all: Arc<Barrier>) -> CaseResult {
        let connection = trial.connect(&address).await?;
        let mut near = trial.near_end(trial.open(&*connection).await?);
        near.send.send(100).await?;
        near.recv.receive_exactly(100).await?;
        trial.within("all connections to be open at once", all.wait()).await?;
        near.send.send(5000).await?;
        near.send.finish().await?;
        near.recv.receive_to_the_end(5100).await
    }
    let mut listener = trial.listen().await?;
    let address = listener.local_address();
    let all = Arc::new(Barrier::new(CONNECTIONS));
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        tasks.spawn(client(trial.clone(), address.clone(), Arc::clone(&all)));
    }
    for _ in 0..CONNECTIONS {
        let connection = trial.accept(&mut listener).await?;
        let trial = trial.clone();
        tasks.spawn(async move {
            let mut far = trial.far_end(trial.accept_stream(&*connection).await?);
            for bytes in [100, 5000] {
                far.recv.receive_exactly(bytes).await?;
                far.send.send(bytes).await?;
            }
            // A client that has the end closes; until then this side must not. It may do so before
            // its word reaches this side that it has it: the client tells whether it has.
            let _closed_early = far.send.try_finish().await?;
            far.recv.receive_to_the_end(5100).await
        });
    }
    while let Some(ended) = tasks.join_next().await {
        worked(A_TASK, ended)??;
    }
    Ok(())
}

pub(super) async fn a_dropped_listener_leaves_its_connections(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    drop(link.listener);
    let (mut near, mut far) = trial.stream_between(&*link.near, &*link.far).await?;
    near.send.send(PIECE_BYTES).await?;
    far.recv.receive_exactly(PIECE_BYTES).await?;
    far.send.send(PIECE_BYTES).await?;
    far.send.finish().await?;
    near.recv.receive_to_the_end(far.send.sent).await
}

pub(super) async fn a_connection_that_waits_is_cut_with_its_listener(trial: Trial) -> CaseResult {
    let listener = trial.listen().await?;
    let address = listener.local_address();
    let mut connecting = Box::pin(trial.try_connect(&address));
    // Some transports connect without the listener's doing anything, others wait for it.
    let connected = crate::conformance::trial::poll_once(&mut connecting).await;
    drop(listener);
    let connected = match connected {
        std::task::Poll::Ready(connected) => connected?,
        std::task::Poll::Pending => connecting.await?,
    };
    let Ok(connection) = connected else { return Ok(()) };
    let opening = trial.within("open_stream", connection.open_stream()).await?;
    let Ok(stream) = opening else { return Ok(()) };
    let mut near = trial.near_end(stream);
    match near.recv.try_receive(100).await? {
        Ok(0) | Err(_) => Ok(()),
        Ok(bytes) => fail(format!("{bytes} bytes came from nobody")),
    }
}
