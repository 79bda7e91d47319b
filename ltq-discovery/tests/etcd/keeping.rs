//! What stands in etcd, and for how long.

use std::{collections::BTreeSet, time::Duration};

use ltq_core::TopicName;
use ltq_discovery::{
    Discovery as _, DiscoveryError, Interest, Load, NodeInfo, conformance::Backend as _,
};
use tokio::time::Instant;

use super::{
    FORGOTTEN_AFTER, Line, SUSPECTED_AFTER, Server, announce, etcd, ids, node, quick, until,
    with_etcd, within,
};

#[test]
fn a_node_that_is_not_heard_is_suspected_then_gone_and_there_again_when_it_is_heard() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let line = Line::to(server.address()).await;
        let theirs = quick(etcd(&[line.address()], "/ltq")).build().unwrap();
        let one = announce(&theirs, node(1, "one", &["orders"])).await;
        let ours = etcd(&[server.address()], "/ltq").build().unwrap();
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        let well = |nodes: &ltq_discovery::NodeSet| {
            nodes.len() == 1 && nodes.iter().all(|node| !node.is_suspected())
        };
        until("it is there", &mut watch, well).await;
        // Kept for longer than either lease lasts.
        let longer = FORGOTTEN_AFTER + Duration::from_secs(2);
        let kept = tokio::time::timeout(longer, watch.changed()).await;
        assert!(kept.is_err(), "nothing changed, and it gave {kept:?}");
        line.sever().await;
        let began = Instant::now();
        let nodes = within("it is suspected", watch.changed()).await.unwrap();
        assert!(nodes.len() == 1 && nodes.iter().all(NodeInfo::is_suspected), "{nodes:?}");
        assert_eq!(nodes.iter().next().unwrap().topics().unwrap().len(), 1);
        let nodes = within("it is gone", watch.changed()).await.unwrap();
        assert!(nodes.is_empty(), "{nodes:?}");
        // It may have been a third of that since it was heard.
        assert!(began.elapsed() >= FORGOTTEN_AFTER / 2, "{:?}", began.elapsed());
        assert!(!theirs.is_announced());
        line.restore().await;
        until("it is back", &mut watch, well).await;
        drop(one);
        until("it is withdrawn", &mut watch, |nodes| nodes.is_empty()).await;
    });
}

#[test]
fn who_is_withdrawn_is_no_lost_one_and_whose_lease_ends_is() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let line = Line::to(server.address()).await;
        let theirs = quick(etcd(&[line.address()], "/ltq")).build().unwrap();
        let cut_off = announce(&theirs, node(1, "one", &[])).await;
        let ours = etcd(&[server.address()], "/ltq").build().unwrap();
        let stops = announce(&ours, node(1, "two", &[])).await;
        let mut watch = ours.watch(&Interest::Nodes).await.unwrap();
        until("both are there", &mut watch, |nodes| nodes.len() == 2).await;
        within("it is withdrawn", stops.withdraw()).await.unwrap();
        let nodes = until("it is gone", &mut watch, |nodes| ids(nodes) == ["one"]).await;
        assert!(!nodes.has_lost(&node(1, "two", &[])) && nodes.has_lost(&node(2, "two", &[])));
        line.sever().await;
        let nodes = until("its lease ends", &mut watch, |nodes| nodes.is_empty()).await;
        assert!(nodes.has_lost(&node(1, "one", &[])) && !nodes.has_lost(&node(1, "two", &[])));
        // Who comes later is told the same.
        let mut late = ours.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(within("all that there is", late.changed()).await.unwrap(), nodes);
        // What is back is withdrawn no more, and may be lost.
        line.restore().await;
        let back = announce(&theirs, node(1, "two", &[])).await;
        until("both are back", &mut watch, |nodes| ids(nodes) == ["one", "two"]).await;
        line.sever().await;
        let nodes = until("their leases end", &mut watch, |nodes| nodes.is_empty()).await;
        assert!(["one", "two"].iter().all(|id| nodes.has_lost(&node(1, id, &[]))));
        drop((cut_off, back));
    });
}

#[test]
fn of_two_nodes_of_one_id_the_later_one_is_there_and_the_other_comes_back_after_it() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = || etcd(&[server.address()], "/ltq").build().unwrap();
        let (first, second) = (quick(etcd(&[server.address()], "/ltq")).build().unwrap(), ours());
        let mut older = announce(&first, node(1, "one", &["old"])).await;
        let mut watch = ours().watch(&Interest::Everything).await.unwrap();
        until("the first is there", &mut watch, |nodes| nodes.len() == 1).await;
        let newer = announce(&second, node(2, "one", &["new"])).await;
        let is = |run: u64, topic: &'static str| {
            let topic: TopicName = topic.parse().unwrap();
            move |nodes: &ltq_discovery::NodeSet| {
                nodes.len() == 1
                    && nodes.iter().all(|node| {
                        let topics = node.topics().unwrap();
                        node.epoch().started == run
                            && topics.contains_key(&topic)
                            && topics.len() == 1
                    })
            }
        };
        until("the second is there", &mut watch, is(2, "new")).await;
        // What the first says now is told nobody, and its end harms nobody.
        older.update(node(1, "one", &["older"])).await.unwrap();
        let third = match ours().announce(node(1, "one", &["third"])).await {
            Err(DiscoveryError::Refused { why, .. }) => why,
            other => panic!("{other:?}"),
        };
        assert!(third.contains("started after it"), "{third}");
        let lost = async {
            while first.is_announced() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("the first learns of it", lost).await;
        assert!(second.is_announced());
        let again = ours().watch(&Interest::Everything).await.unwrap().changed().await.unwrap();
        assert!(is(2, "new")(&again), "{again:?}");
        newer.withdraw().await.unwrap();
        until("the first is back", &mut watch, is(1, "older")).await;
        older.withdraw().await.unwrap();
        assert_eq!(server.left("/ltq/").await, [""; 0]);
        assert_eq!(server.count("/ltq/").await, 1, "the word that it is withdrawn");
    });
}

#[test]
fn a_run_whose_clock_is_behind_is_taken_in_once_the_other_is_not_heard() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let line = Line::to(server.address()).await;
        let brief = |at| etcd(&[at], "/ltq").suspected_after(SUSPECTED_AFTER);
        let theirs = brief(line.address()).build().unwrap();
        let _lost = announce(&theirs, node(9, "one", &[])).await;
        let ours = brief(server.address()).build().unwrap();
        let mut watch = ours.watch(&Interest::Nodes).await.unwrap();
        let refused = ours.announce(node(1, "one", &[])).await;
        assert!(matches!(refused, Err(DiscoveryError::Refused { .. })), "{refused:?}");
        line.sever().await;
        let suspected = |nodes: &ltq_discovery::NodeSet| nodes.iter().any(NodeInfo::is_suspected);
        until("the other is suspected", &mut watch, suspected).await;
        let one = announce(&ours, node(1, "one", &[])).await;
        let is_first = |nodes: &ltq_discovery::NodeSet| {
            nodes.iter().any(|node| node.epoch().started == 1 && !node.is_suspected())
        };
        until("it is there", &mut watch, is_first).await;
        one.withdraw().await.unwrap();
    });
}

#[test]
fn of_two_announcements_of_one_run_the_later_one_stays() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = || quick(etcd(&[server.address()], "/ltq")).build().unwrap();
        let (first, second) = (ours(), ours());
        let _earlier = announce(&first, node(1, "one", &["a"])).await;
        let later = announce(&second, node(1, "one", &["b"])).await;
        let lost = async {
            while first.is_announced() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        within("the earlier one learns of it", lost).await;
        let mut watch = ours().watch(&Interest::Topic("b".parse().unwrap())).await.unwrap();
        until("the later one is there", &mut watch, |nodes| nodes.len() == 1).await;
        let kept = tokio::time::timeout(Duration::from_secs(2), watch.changed()).await;
        assert!(kept.is_err() && second.is_announced(), "{kept:?}");
        later.withdraw().await.unwrap();
    });
}

#[test]
fn many_topics_are_all_told_and_a_change_of_one_is_small() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = etcd(&[server.address()], "/ltq").build().unwrap();
        let channels: BTreeSet<_> = ["a", "b"].map(|name| name.parse().unwrap()).into();
        let name = |n: usize| format!("topic-of-a-longer-name-{n:05}").parse().unwrap();
        let many = |count| (0..count).map(|n| (name(n), channels.clone())).collect();
        // Some 2 MB: more than one request may have.
        let bare = node(1, "one", &[]);
        let mut one = announce(&ours, bare.clone().with_topics(many(50_000))).await;
        let mut all = ours.watch(&Interest::Everything).await.unwrap();
        let has = |count: usize| {
            move |nodes: &ltq_discovery::NodeSet| {
                nodes.iter().any(|node| node.topics().is_some_and(|topics| topics.len() == count))
            }
        };
        until("all are told", &mut all, has(50_000)).await;
        let mut last = ours.watch(&Interest::Topic(name(50_000))).await.unwrap();
        assert!(last.changed().await.unwrap().is_empty());
        one.update(bare.clone().with_topics(many(50_001))).await.unwrap();
        until("the next one too", &mut all, has(50_001)).await;
        until("the next one too", &mut last, has(1)).await;
        // One whose channels do not fit makes topics unknown, and the node is found by any.
        let wide = (0..200_000).map(|n| format!("c{n}").parse().unwrap()).collect();
        one.update(bare.with_topics([(name(0), wide)].into())).await.unwrap();
        let unknown =
            |nodes: &ltq_discovery::NodeSet| nodes.iter().any(|node| node.topics().is_none());
        until("its topics are unknown", &mut last, unknown).await;
        until("its topics are unknown", &mut all, unknown).await;
        assert_eq!(server.count("/ltq/topics/").await, 0);
        one.withdraw().await.unwrap();
    });
}

#[test]
fn a_load_that_matters_is_told_with_a_beat() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = quick(etcd(&[server.address()], "/ltq")).build().unwrap();
        let mut one = announce(&ours, node(1, "one", &[])).await;
        let mut watch = ours.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        one.update(node(1, "one", &[]).with_load(Load(10))).await.unwrap();
        one.update(node(1, "one", &[]).with_load(Load(1_000))).await.unwrap();
        let nodes = within("it is told", watch.changed()).await.unwrap();
        assert_eq!(nodes.iter().next().unwrap().load(), Load(1_000));
        one.withdraw().await.unwrap();
    });
}
