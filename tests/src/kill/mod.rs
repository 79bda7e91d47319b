//! A node under load that is killed again and again, and a ledger that must balance at the end.
//!
//! Producers with names publish numbered messages; consumers of two channels ack, give back, drop
//! or forget them; the node's process is killed with SIGKILL at random moments and started anew
//! on the same directory. Everybody uses the real client over real sockets. What was published,
//! confirmed, delivered and acked is written into a [`Ledger`], whose
//! [`check`](Ledger::check) speaks in the promises' numbers.

mod consumers;
mod ledger;
mod producers;

pub use ledger::{Ledger, Summary};
pub use ltq_sim::Body;

use std::{path::Path, sync::Arc, time::Duration};

use ltq_client::Client;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{DEADLINE, NodeProcess, within};

/// How to torment a node.
#[derive(Clone, Debug)]
pub struct Torment {
    /// What the node keeps its messages in: `file` or `rocksdb`.
    pub store: String,
    /// How often it is killed.
    pub kills: u32,
    /// Producers, each with a name of its own.
    pub producers: usize,
    /// The longest life of a node.
    pub life_max: Duration,
    /// The seed of everything random in the load.
    pub seed: u64,
}

/// The topic that all of it is about.
pub(crate) const TOPIC: &str = "torment";
/// A channel whose consumers share, and one with a lone consumer.
pub(crate) const CHANNELS: [(&str, usize); 2] = [("shared", 2), ("alone", 1)];

/// Runs a torment on a data directory and checks the ledger.
///
/// # Panics
/// When a promise is broken, naming it.
pub async fn run(data_dir: &Path, torment: Torment) -> Summary {
    let mut chance = SmallRng::seed_from_u64(torment.seed);
    let ledger = Arc::new(Ledger::new(torment.producers));
    let flags = ["--store", torment.store.as_str()];
    let mut node = NodeProcess::start(data_dir, 0, &flags).await.expect("the node starts");
    let (port, server) = (node.port(), node.address().to_string());

    // The channels are there before the first message, so that both must see all of them.
    let client = connect(&server).await;
    for (channel, _) in CHANNELS {
        client.admin().create_channel(TOPIC, channel, Default::default()).await.expect("a channel");
    }
    let (stop_producers, producers_run) = watch::channel(true);
    let (stop_consumers, consumers_run) = watch::channel(true);
    let mut producing = JoinSet::new();
    for producer in 0..torment.producers {
        let seed = chance.random();
        let load =
            producers::run(server.clone(), producer, seed, ledger.clone(), producers_run.clone());
        producing.spawn(load);
    }
    let mut consuming = JoinSet::new();
    for (index, (channel, count)) in CHANNELS.into_iter().enumerate() {
        for _ in 0..count {
            let seed = chance.random();
            consuming.spawn(consumers::run(
                server.clone(),
                channel,
                index,
                seed,
                ledger.clone(),
                consumers_run.clone(),
            ));
        }
    }

    for _ in 0..torment.kills {
        // The load's own pace decides where in its work the kill strikes.
        let life = chance.random_range(20..=torment.life_max.as_millis() as u64);
        sleep(Duration::from_millis(life)).await;
        node.kill().await.expect("it is killed");
        ledger.killed();
        node = NodeProcess::start(data_dir, port, &flags).await.expect("it starts after a kill");
    }

    stop_producers.send_replace(false);
    within("the producers' end", async {
        while let Some(ended) = producing.join_next().await {
            ended.expect("a producer ends well");
        }
    })
    .await;
    ledger.calm();
    drain(&ledger).await;
    // What was given back last is acked too, sooner or later.
    settled(&client).await;
    stop_consumers.send_replace(false);
    within("the consumers' end", async {
        while let Some(ended) = consuming.join_next().await {
            ended.expect("a consumer ends well");
        }
    })
    .await;

    // Promise 12: after a clean restart nothing that was acked comes again.
    client.close().await.expect("a clean close");
    let ended = node.terminate().await.expect("it stops");
    assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");
    let node = NodeProcess::start(data_dir, port, &flags).await.expect("it starts after a stop");
    let client = connect(&server).await;
    settled(&client).await;
    client.close().await.expect("a clean close");
    let ended = node.terminate().await.expect("it stops");
    assert!(ended.success(), "promise 11: a clean stop exits with 0, not {ended}");

    ledger.check()
}

/// Waits until every channel has seen every confirmed message, as long as there is progress: how
/// much is left depends on how fast the producers were.
async fn drain(ledger: &Ledger) {
    loop {
        let before = ledger.left();
        if timeout(DEADLINE, ledger.drained()).await.is_ok() {
            return;
        }
        let after = ledger.left();
        assert!(after < before, "promises 1 and 2: {after} deliveries are missing, and none comes");
    }
}

async fn connect(server: &str) -> Client {
    within("connecting", Client::connect(server)).await.expect("a connection")
}

/// Waits until both channels have nothing left to do, and checks that their figures add up.
async fn settled(client: &Client) {
    within("all channels are settled", async {
        loop {
            let stats = client.admin().show_topic(TOPIC).await.expect("the topic's figures");
            let mut left = 0;
            for channel in &stats.channels {
                let states = channel.waiting
                    + channel.delayed
                    + channel.in_flight
                    + channel.acked
                    + channel.damaged
                    + channel.dropped;
                let sum = stats.end.since(channel.start);
                assert_eq!(states, sum, "promise 13: {channel:?} of {stats:?}");
                left += channel.waiting + channel.delayed + channel.in_flight;
            }
            if left == 0 {
                return;
            }
        }
    })
    .await;
}
