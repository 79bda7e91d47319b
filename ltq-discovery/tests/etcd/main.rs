//! The scheme on etcd, against a real one.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails and tells in no other way"
)]

mod keeping;
mod server;
mod trouble;

use std::{future::Future, net::SocketAddr, time::Duration};

use ltq_discovery::{
    Announced, Announcement, Discovery as _, Epoch, NodeInfo, NodeSet, Watch,
    conformance::{self, Backend as _, Harness, Outcome},
    etcd::{Etcd, EtcdBuilder},
};
use ltq_transport::Tcp;
use tokio::time::timeout;

use server::{Line, Server, is_here};

/// Runs a test that needs the program.
fn with_etcd(test: impl Future<Output = ()>) {
    if is_here() {
        let mut runtime = tokio::runtime::Builder::new_multi_thread();
        runtime.worker_threads(2).enable_all().build().unwrap().block_on(test);
    }
}

fn etcd(endpoints: &[SocketAddr], prefix: &str) -> EtcdBuilder {
    let (few, many) = (Duration::from_millis(10), Duration::from_millis(100));
    let builder = Etcd::builder(Tcp::default()).prefix(prefix).retry(few, many).probe(many * 5);
    endpoints.iter().fold(builder, |builder, at| builder.endpoint(format!("http://{at}")))
}

/// Leases that end while a test waits for it, and not because a busy machine is late with a beat.
fn quick(builder: EtcdBuilder) -> EtcdBuilder {
    builder.suspected_after(SUSPECTED_AFTER).forgotten_after(FORGOTTEN_AFTER)
}

const SUSPECTED_AFTER: Duration = Duration::from_secs(9);
const FORGOTTEN_AFTER: Duration = Duration::from_secs(12);

fn node(run: u64, id: &str, topics: &[&str]) -> NodeInfo {
    let topics =
        topics.iter().map(|name| (name.parse().unwrap(), ["c".parse().unwrap()].into())).collect();
    let node = NodeInfo::new(id.parse().unwrap(), ["tcp://a:1".parse().unwrap()]).unwrap();
    node.with_topics(topics).with_epoch(Epoch { started: run, instance: 7 })
}

async fn announce(etcd: &Etcd, node: NodeInfo) -> Box<dyn Announcement> {
    match etcd.announce(node).await.unwrap() {
        Announced::Known(announcement) => announcement,
        other @ Announced::NotTaken(_) => panic!("{other:?}"),
    }
}

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    let deadline = Duration::from_secs(60);
    timeout(deadline, future).await.unwrap_or_else(|_| panic!("{what}: not within {deadline:?}"))
}

/// Waits until a set is as wanted, over losses of sight.
async fn until(
    what: &str,
    watch: &mut Box<dyn Watch>,
    wanted: impl Fn(&NodeSet) -> bool,
) -> NodeSet {
    let waiting = async {
        loop {
            match watch.changed().await {
                Ok(nodes) if wanted(&nodes) => return nodes,
                Ok(_) | Err(_) => {}
            }
        }
    };
    within(what, waiting).await
}

fn ids(nodes: &NodeSet) -> Vec<&str> {
    nodes.iter().map(|node| node.id().as_str()).collect()
}

#[test]
fn it_passes_the_suite_of_discovery_schemes() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let mut failed = Vec::new();
        for case in conformance::cases() {
            let line = Line::to(server.address()).await;
            let etcd = etcd(&[line.address()], case.name()).build().unwrap();
            let harness =
                Harness::new(etcd).backend(line.clone()).patience(Duration::from_secs(30));
            match case.run(harness).await {
                Outcome::Passed => println!("passed {}", case.name()),
                // A scheme that does all that there is in the contract skips nothing.
                other => failed.push(format!("{}: {other:?}", case.name())),
            }
            let left = async { while !server.left(case.name()).await.is_empty() {} };
            within("nothing is left behind", left).await;
            line.sever().await;
        }
        assert!(failed.is_empty(), "{failed:#?}");
    });
}

#[test]
fn it_passes_the_cases_of_losing_sight_with_an_etcd_that_is_killed() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let mut run = 0;
        for case in conformance::cases() {
            if !case.name().contains("sight") && !case.name().contains("outage") {
                continue;
            }
            let etcd = etcd(&[server.address()], case.name()).build().unwrap();
            let harness = Harness::new(etcd).backend(server.clone());
            let outcome = case.run(harness.patience(Duration::from_secs(30))).await;
            assert!(matches!(outcome, Outcome::Passed), "{}: {outcome:?}", case.name());
            run += 1;
        }
        assert_eq!(run, 3);
    });
}
