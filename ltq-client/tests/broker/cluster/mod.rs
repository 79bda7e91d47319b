//! Producers and consumers over several brokers.

mod consuming;
mod credit;
mod net;
mod ordered;
mod producing;
mod veiled;

use std::{collections::BTreeMap, time::Duration};

use futures::future::join_all;
use ltq_client::{Backoff, Client, Cluster, ID_HEADER};
use ltq_transport::Transports;

use crate::{
    board::{Board, node},
    node::{Node, within},
};
use net::Net;

/// Brokers, what tells of them, and the network between.
pub(crate) struct Field {
    net: Net,
    board: Board,
    brokers: BTreeMap<String, Node>,
    cluster: Cluster,
}

/// The body of messages that are sent so that nodes are in use, and not looked at.
const WARM: &str = "warm";

/// A message as it was found on a broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Found {
    body: String,
    key: Option<String>,
    id: Option<String>,
}

impl Field {
    async fn with(names: &[&str]) -> Self {
        let net = Net::default();
        let board = Board::new(names.iter().map(|name| node(name)));
        let transports = Transports::new().with(net.clone());
        let client = Client::builder()
            .transports(transports)
            .backoff(Backoff::new(Duration::from_millis(1), Duration::from_millis(5)));
        let builder = Cluster::builder().discovery(board.clone()).client(client);
        let cluster = within(builder.connect()).await.unwrap();
        let mut field = Self { net, board, brokers: BTreeMap::new(), cluster };
        for name in names {
            field.start(name).await;
        }
        field
    }

    /// Starts a broker of which the board does not tell yet.
    async fn start(&mut self, name: &str) {
        let broker = Node::at(self.net.steady(), &format!("in-process://{name}")).await;
        self.brokers.insert(name.to_owned(), broker);
    }

    /// How many messages a broker has of the topic.
    async fn count(&self, name: &str) -> usize {
        let client = self.brokers[name].client().await;
        let topics = within(client.admin().list_topics()).await.unwrap();
        if topics.iter().all(|topic| topic.as_str() != "orders") {
            return 0;
        }
        within(client.admin().show_topic("orders")).await.unwrap().end.0 as usize
    }

    /// What a broker has of the topic, in its order. It can be looked at once.
    async fn found(&self, name: &str) -> Vec<Found> {
        let client = self.brokers[name].client().await;
        let count = self.count(name).await;
        let mut consumer = within(client.consumer("orders", "check")).await.unwrap();
        let mut found = Vec::new();
        let mut seen = 0;
        while seen < count {
            let batch = within(consumer.next_batch(1_000)).await.unwrap().unwrap();
            for received in batch.iter() {
                let message = received.unwrap().message;
                let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
                found.push(Found {
                    body: text(&message.body),
                    key: message.key.as_ref().map(|key| text(key)),
                    id: message.headers.get(ID_HEADER).map(text),
                });
            }
            seen += batch.len();
            batch.ack_all().unwrap();
        }
        found.retain(|one| one.body != WARM);
        found
    }

    /// What all of them have.
    async fn all_found(&self) -> BTreeMap<String, Vec<Found>> {
        let names: Vec<_> = self.brokers.keys().cloned().collect();
        let found = join_all(names.iter().map(|name| self.found(name))).await;
        names.into_iter().zip(found).collect()
    }
}
