//! Work that sometimes fails: two workers share a channel, a handler runs for several jobs at a
//! time, and a job whose handler fails comes back after a while, to either of them.
//!
//! ```text
//! cargo run -p ltq-examples --example work_queue
//! ```

mod support;

use std::{
    collections::BTreeMap,
    error::Error,
    future::IntoFuture,
    sync::{Arc, Mutex},
};

use ltq_client::{Client, Message};
use tokio::sync::watch;

const JOBS: usize = 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = support::server().await?;
    let client = Client::connect(&server).await?;
    let producer = client.producer("jobs").await?;
    producer.send_batch((0..JOBS).map(|job| Message::new(format!("job {job}")))).await?;
    println!("{JOBS} jobs are stored");

    // How often each job was tried, and how many are done.
    let tries = Arc::new(Mutex::new(BTreeMap::<String, u32>::new()));
    let (done, mut all_done) = watch::channel(0);

    let mut workers = Vec::new();
    for worker in ["anna", "boris"] {
        let consumer = client.consumer("jobs", "workers").await?;
        let (tries, done) = (tries.clone(), done.clone());
        let running = consumer.for_each(4, move |received| {
            let (tries, done) = (tries.clone(), done.clone());
            async move {
                let job = String::from_utf8_lossy(&received.message.body).into_owned();
                *tries.lock().map_err(|_| "a worker panicked")?.entry(job.clone()).or_default() +=
                    1;
                // Every fifth job fails when it is first tried.
                if received.offset.0 % 5 == 0 && received.attempt == 1 {
                    return Err("it did not work");
                }
                println!("{worker} did {job} (attempt {})", received.attempt);
                done.send_modify(|jobs| *jobs += 1);
                Ok(())
            }
        });
        let stop = running.stop_handle();
        workers.push((stop, tokio::spawn(running.into_future())));
    }

    all_done.wait_for(|jobs| *jobs == JOBS).await?;
    for (stop, worker) in workers {
        stop.stop();
        let summary = worker.await??;
        println!("a worker ended: {summary:?}");
    }
    client.close().await?;

    let tries = tries.lock().map_err(|_| "a worker panicked")?;
    let again = tries.values().filter(|tries| **tries == 2).count();
    println!("{JOBS} jobs done, {again} of them at the second try");
    assert_eq!((tries.len(), again), (JOBS, JOBS / 5));
    Ok(())
}
