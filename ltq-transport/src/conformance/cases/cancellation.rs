use std::{collections::BTreeSet, sync::Arc, task::Poll};

use ltq_core::{Connection, Stream};
use tokio::{sync::mpsc, task::yield_now};

use crate::conformance::trial::{A_TASK, CaseResult, Trial, ensure, fail, poll_once, worked};

pub(super) async fn a_dropped_accept_loses_no_connection(trial: Trial) -> CaseResult {
    const CLIENTS: usize = 20;
    let mut listener = trial.listen().await?;
    let address = listener.local_address();
    let client = |number: usize| {
        let (trial, address) = (trial.clone(), address.clone());
        async move {
            let connection = trial.connect(&address).await?;
            let mut stream = trial.near_end(trial.open(&*connection).await?);
            // Its number is how many bytes it sends.
            stream.send.send(number + 1).await?;
            stream.send.finish().await?;
            Ok((connection, stream))
        }
    };
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(number))).collect();
    let mut seen = BTreeSet::new();
    let mut connections = Vec::new();
    while seen.len() < CLIENTS {
        drop(listener.accept());
        let mut accepted = None;
        for _ in 0..5 {
            yield_now().await;
            if let Poll::Ready(ready) = poll_once(listener.accept()).await {
                accepted = Some(worked("accepting", ready)?);
                break;
            }
        }
        let connection = match accepted {
            Some(connection) => connection,
            None => trial.accept(&mut listener).await?,
        };
        let mut end = trial.far_end(trial.accept_stream(&*connection).await?);
        while end.recv.receive(100).await? > 0 {}
        let first = seen.insert(end.recv.received);
        ensure(first, || "one connection was accepted twice".to_owned())?;
        connections.push((connection, end));
    }
    for client in clients {
        worked(A_TASK, client.await)??;
    }
    Ok(())
}

pub(super) async fn a_dropped_connect_harms_nobody(trial: Trial) -> CaseResult {
    let mut listener = trial.listen().await?;
    let address = listener.local_address();
    let (found, mut finds) = mpsc::channel(1);
    let accepting = {
        let trial = trial.clone();
        tokio::spawn(async move {
            // A connect that was given up may show as a connection that ends, or as an error.
            for _ in 0..1000 {
                match listener.accept().await {
                    Ok(connection) => {
                        drop(tokio::spawn(greet(trial.clone(), connection.into(), found.clone())))
                    }
                    Err(_) => yield_now().await,
                }
            }
        })
    };
    for _ in 0..30 {
        drop(trial.harness.transport.connect(&address));
        let _given_up = poll_once(trial.harness.transport.connect(&address)).await;
        yield_now().await;
    }
    let connection = trial.connect(&address).await?;
    let mut near = trial.near_end(trial.open(&*connection).await?);
    near.send.send(100).await?;
    let greeted = trial.within("the one connect that was meant", finds.recv()).await;
    accepting.abort();
    // Its listener is gone when the next case listens.
    let _aborted = accepting.await;
    ensure(greeted?.is_some(), || "no connection arrived whole".to_owned())
}

async fn greet(
    trial: Trial,
    connection: Arc<dyn Connection>,
    found: mpsc::Sender<Arc<dyn Connection>>,
) {
    if let Ok(stream) = trial.accept_stream(&*connection).await
        && trial.far_end(stream).recv.receive_exactly(100).await.is_ok()
    {
        let _late = found.send(connection).await;
    }
}

pub(super) async fn a_dropped_open_uses_nothing_up(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let opened = {
        drop(link.near.open_stream());
        match poll_once(link.near.open_stream()).await {
            Poll::Ready(opened) => worked("opening a stream", opened)?,
            Poll::Pending => trial.open(&*link.near).await?,
        }
    };
    drop(link.far.accept_stream());
    let early: Option<Stream> = match poll_once(link.far.accept_stream()).await {
        Poll::Pending => None,
        Poll::Ready(accepted) => match worked("accepting a stream", accepted)? {
            Some(stream) => Some(stream),
            None => return fail("no stream can come, says the first accept_stream"),
        },
    };
    let mut near = trial.near_end(opened);
    near.send.send(100).await?;
    let accepted = match early {
        Some(stream) => stream,
        None => trial.accept_stream(&*link.far).await?,
    };
    trial.far_end(accepted).recv.receive_exactly(100).await
}
