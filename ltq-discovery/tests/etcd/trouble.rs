//! An etcd that is killed, stands still, forgets, refuses, or holds what is none of ours.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ltq_core::TopicName;
use ltq_discovery::{
    Discovery as _, DiscoveryError, Interest, NodeSet, NodeState, conformance::Backend as _,
    etcd::Etcd,
};
use ltq_transport::{ClientTrust, Pem, Tls, self_signed};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Line, Server, announce, etcd, ids, node, until, with_etcd, within};

#[test]
fn an_etcd_that_is_killed_takes_no_node_away() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = etcd(&[server.address()], "/ltq").build().unwrap();
        let _one = announce(&ours, node(1, "one", &["orders"])).await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        let mut two = None;
        for round in 0..2 {
            server.kill();
            let lost = within("the loss is told", watch.changed()).await;
            assert!(matches!(lost, Err(DiscoveryError::Unreachable { .. })), "{lost:?}");
            // Once.
            assert!(timeout(Duration::from_millis(500), watch.changed()).await.is_err());
            server.run().await;
            two = Some(announce(&ours, node(1, &format!("two-{round}"), &[])).await);
            let seen = async {
                loop {
                    let nodes = watch.changed().await.unwrap();
                    assert_eq!(ids(&nodes).first(), Some(&"one"), "the first one was gone");
                    if ids(&nodes).contains(&&*format!("two-{round}")) {
                        return;
                    }
                }
            };
            within("another one is told", seen).await;
        }
        drop(two);
    });
}

#[test]
fn an_etcd_that_comes_back_without_its_data_takes_no_node_away() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let line = Line::to(server.address()).await;
        let nodes = etcd(&[server.address()], "/ltq").build().unwrap();
        // Of a program of its own, which does not get to etcd before the watcher does.
        let late = etcd(&[line.address()], "/ltq").build().unwrap();
        let one = announce(&nodes, node(1, "one", &["orders"])).await;
        let _two = announce(&late, node(1, "two", &["mail"])).await;
        let mut watch = nodes.watch(&Interest::Everything).await.unwrap();
        let both = until("both", &mut watch, |nodes| nodes.len() == 2).await;
        line.sever().await;
        server.kill();
        server.wipe();
        server.run().await;
        let mut is_back = false;
        let back = async {
            loop {
                let Ok(nodes) = watch.changed().await else { continue };
                assert_eq!(ids(&nodes), ["one", "two"], "taken away");
                let is_suspected = nodes.get(&"two".parse().unwrap()).unwrap().is_suspected();
                if is_suspected && !is_back {
                    is_back = true;
                    line.restore().await;
                }
                if is_back && nodes == both {
                    return;
                }
            }
        };
        within("both are back, as they were", back).await;
        one.withdraw().await.unwrap();
        until("it is gone", &mut watch, |nodes| ids(nodes) == ["two"]).await;
    });
}

#[test]
fn an_etcd_that_stands_still_is_noticed_and_what_was_to_be_told_is_told_later() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = etcd(&[server.address()], "/ltq").timeout(Duration::from_millis(500));
        let ours = ours.build().unwrap();
        let mut one = announce(&ours, node(1, "one", &[])).await;
        let mut watch = ours.watch(&Interest::Nodes).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        server.pause(true);
        let lost = within("the loss is told", watch.changed()).await;
        assert!(matches!(lost, Err(DiscoveryError::Unreachable { .. })), "{lost:?}");
        let drains = node(1, "one", &[]).with_state(NodeState::Draining);
        within("an update waits for nobody", one.update(drains)).await.unwrap();
        let began = tokio::time::Instant::now();
        assert!(within("nor a new watch", ours.watch(&Interest::Nodes)).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
        server.pause(false);
        let drains = |nodes: &NodeSet| {
            nodes.iter().any(|node| node.state() == NodeState::Draining && !node.is_suspected())
        };
        until("it drains", &mut watch, drains).await;
        one.withdraw().await.unwrap();
        until("it is gone", &mut watch, |nodes| nodes.is_empty()).await;
    });
}

#[test]
fn what_is_compacted_while_nobody_looks_is_missed_by_nobody() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let line = Line::to(server.address()).await;
        let theirs = etcd(&[server.address()], "/ltq").build().unwrap();
        let ours = etcd(&[line.address()], "/ltq").build().unwrap();
        let one = announce(&theirs, node(1, "one", &[])).await;
        let mut two = announce(&theirs, node(1, "two", &["mail"])).await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one", "two"]);
        line.sever().await;
        one.withdraw().await.unwrap();
        two.update(node(1, "two", &["mail", "orders"])).await.unwrap();
        let _three = announce(&theirs, node(1, "three", &[])).await;
        server.compact().await;
        line.restore().await;
        let all = |nodes: &NodeSet| {
            let orders: TopicName = "orders".parse().unwrap();
            let has = |node: &ltq_discovery::NodeInfo| node.topics().unwrap().contains_key(&orders);
            ids(nodes) == ["three", "two"] && nodes.iter().any(has)
        };
        until("all is told that changed", &mut watch, all).await;
        // And while somebody does.
        server.compact().await;
        let _four = announce(&theirs, node(1, "four", &[])).await;
        until("another one", &mut watch, |nodes| nodes.len() == 3).await;
    });
}

#[test]
fn while_one_member_answers_nothing_is_lost() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let lines = [Line::to(server.address()).await, Line::to(server.address()).await];
        let at = [lines[0].address(), lines[1].address()];
        let ours = etcd(&at, "/ltq").build().unwrap();
        let _one = announce(&ours, node(1, "one", &[])).await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        for (round, line) in [&lines[0], &lines[1], &lines[0]].into_iter().enumerate() {
            line.sever().await;
            let id = format!("other-{round}");
            let other = announce(&ours, node(1, &id, &[])).await;
            let told = within("another one is told", watch.changed()).await.unwrap();
            assert_eq!(ids(&told), ["one", &id]);
            other.withdraw().await.unwrap();
            let told = within("it is gone", watch.changed()).await.unwrap();
            assert_eq!(ids(&told), ["one"]);
            line.restore().await;
        }
    });
}

#[test]
fn what_others_write_below_the_prefix_harms_no_node() {
    with_etcd(async {
        let server = Server::start(&["--max-request-bytes", "20000000"]).await;
        let long = Duration::from_secs(20);
        let ours = etcd(&[server.address()], "/ltq").timeout(long).patience(long).build().unwrap();
        let _one = announce(&ours, node(1, "one", &["orders"])).await;
        // Pages of these are longer than any answer may be, and one of them is too long alone.
        for n in 0..8 {
            server.put(&format!("/ltq/topics/00/big-{n}/1"), &vec![b'x'; 3 << 20]).await;
        }
        server.put("/ltq/topics/00/bigger/1", &vec![b'x'; 13 << 20]).await;
        for key in ["/ltq/nodes/two", "/ltq/nodes/a/b/c", "/ltq/nodes/%", "/ltq/topics/7/a/b"] {
            server.put(key, b"{\"format\":1}").await;
        }
        server.put("/ltq/nodes/later", b"{\"format\":2,\"all\":\"new\"}").await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        let skipped = ours.skipped();
        assert_eq!(skipped, 14);
        // The same while it is watched: of the one that is too long, all is read anew.
        server.put("/ltq/nodes/three", b"\xff\x00").await;
        server.put("/ltq/nodes/one/heard", b"what").await;
        server.put("/ltq/topics/01/bigger/1", &vec![b'x'; 13 << 20]).await;
        let _two = announce(&ours, node(1, "two", &["mail"])).await;
        let both = |nodes: &NodeSet| {
            ids(nodes) == ["one", "two"]
                && nodes.iter().all(|node| node.topics().unwrap().len() == 1)
        };
        until("the other one, in the place of what was no node", &mut watch, both).await;
        assert!(ours.skipped() > skipped);
    });
}

#[test]
fn a_node_whose_key_is_overwritten_writes_itself_again() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let ours = super::quick(etcd(&[server.address()], "/ltq")).build().unwrap();
        let _one = announce(&ours, node(1, "one", &["orders"])).await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        let first = watch.changed().await.unwrap();
        assert_eq!(ids(&first), ["one"]);
        server.put("/ltq/nodes/one", b"garbage").await;
        let key = STANDARD.encode("/ltq/nodes/one");
        let is_mended = async {
            loop {
                let there = server.ask("/v3/kv/range", &json!({ "key": key }), None).await;
                if there["kvs"][0]["value"] != STANDARD.encode("garbage") {
                    return there;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        within("it is written again", is_mended).await;
        let kept = timeout(Duration::from_millis(200), watch.changed()).await;
        assert!(kept.is_err(), "who watched kept it, and was told {kept:?}");
        // All of its keys are taken away.
        server.delete("/ltq/").await;
        until("it is gone", &mut watch, |nodes| nodes.is_empty()).await;
        until("it is there, with its topics", &mut watch, |nodes| *nodes == first).await;
    });
}

/// An etcd that asks who is there: "node" may read and write below the prefix.
async fn with_users() -> Server {
    let server = Server::start(&[]).await;
    for (path, asked) in [
        ("/v3/auth/user/add", json!({ "name": "root", "password": "r" })),
        ("/v3/auth/role/add", json!({ "name": "root" })),
        ("/v3/auth/user/grant", json!({ "user": "root", "role": "root" })),
        ("/v3/auth/role/add", json!({ "name": "ltq" })),
        (
            "/v3/auth/role/grant",
            json!({ "name": "ltq", "perm": { "permType": "READWRITE",
                "key": STANDARD.encode("/ltq/"), "range_end": STANDARD.encode("/ltq0") } }),
        ),
        ("/v3/auth/user/add", json!({ "name": "node", "password": "n" })),
        ("/v3/auth/user/grant", json!({ "user": "node", "role": "ltq" })),
        ("/v3/auth/enable", json!({})),
    ] {
        let answer = server.ask(path, &asked, None).await;
        assert!(answer.get("header").is_some(), "{path}: {answer}");
    }
    server
}

#[test]
fn a_user_that_is_none_is_refused_and_one_who_may_is_not() {
    with_etcd(async {
        let server = with_users().await;
        let asked = || etcd(&[server.address()], "/ltq");
        for (who, why) in [
            (asked(), "user name is empty"),
            (asked().user("node", "wrong"), "authentication failed"),
            (asked().user("node", "n").prefix("/other"), "permission denied"),
        ] {
            let who = who.build().unwrap();
            for result in [
                who.announce(node(1, "one", &[])).await.map(|_| ()),
                who.watch(&Interest::Nodes).await.map(|_| ()),
            ] {
                let refused = matches!(&result, Err(DiscoveryError::Refused { why: it, .. }) if it.contains(why));
                assert!(refused, "{result:?} is not {why}");
            }
        }
        let ours = asked().user("node", "n").build().unwrap();
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        let one = announce(&ours, node(1, "one", &["orders"])).await;
        until("it is there", &mut watch, |nodes| nodes.len() == 1).await;
        one.withdraw().await.unwrap();
        until("it is gone", &mut watch, |nodes| nodes.is_empty()).await;
    });
}

#[test]
fn tokens_that_count_no_more_are_asked_for_again() {
    with_etcd(async {
        let server = with_users().await;
        let ours = etcd(&[server.address()], "/ltq").user("node", "n").build().unwrap();
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        let mut one = announce(&ours, node(1, "one", &["orders"])).await;
        until("it is there", &mut watch, |nodes| nodes.len() == 1).await;
        let token = async |name: &str, password: &str| {
            let asked = json!({ "name": name, "password": password });
            let answer = server.ask("/v3/auth/authenticate", &asked, None).await;
            answer["token"].as_str().unwrap().to_owned()
        };
        let (root, other) = (token("root", "r").await, token("node", "n").await);
        let range = json!({ "key": STANDARD.encode("/ltq/a") });
        let may = server.ask("/v3/kv/range", &range, Some(&other)).await;
        assert!(may.get("header").is_some(), "{may}");
        // A password that is set, to whatever, ends all tokens of that user.
        let asked = json!({ "name": "node", "password": "n" });
        let set = server.ask("/v3/auth/user/changepw", &asked, Some(&root)).await;
        assert!(set.get("header").is_some(), "{set}");
        let ended = async {
            loop {
                let answer = server.ask("/v3/kv/range", &range, Some(&other)).await;
                if answer.to_string().contains("invalid auth token") {
                    return;
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        within("tokens count no more", ended).await;
        one.update(node(1, "one", &["orders", "mail"])).await.unwrap();
        let both = |nodes: &NodeSet| {
            let both = |of: &ltq_discovery::NodeInfo| of.topics().unwrap().len() == 2;
            nodes.len() == 1 && nodes.iter().all(both)
        };
        until("what is new is written and read", &mut watch, both).await;
        one.withdraw().await.unwrap();
        until("it is gone", &mut watch, |nodes| nodes.is_empty()).await;
    });
}

/// Of three members two stand still: what the third one knows is not what there is.
#[test]
fn a_member_that_hears_nothing_of_the_others_is_noticed() {
    with_etcd(async {
        let [one, two, three] = Server::start_three().await;
        let asked = |at: &[std::net::SocketAddr]| {
            etcd(at, "/ltq").timeout(Duration::from_secs(2)).patience(Duration::from_secs(40))
        };
        let theirs = asked(&[two.address()]).build().unwrap();
        let mut node_one = announce(&theirs, node(1, "one", &[])).await;
        let ours = asked(&[one.address()]).build().unwrap();
        let mut watch = ours.watch(&Interest::Nodes).await.unwrap();
        until("it is there", &mut watch, |nodes| ids(nodes) == ["one"]).await;
        for member in [&two, &three] {
            member.pause(true);
        }
        let lost = async {
            loop {
                match watch.changed().await {
                    Ok(nodes) => assert_eq!(ids(&nodes), ["one"], "taken away"),
                    Err(error) => return error,
                }
            }
        };
        let lost = within("the loss is told", lost).await;
        assert!(matches!(lost, DiscoveryError::Unreachable { .. }), "{lost:?}");
        let drains = node(1, "one", &[]).with_state(NodeState::Draining);
        node_one.update(drains).await.unwrap();
        for member in [&two, &three] {
            member.pause(false);
        }
        let drains = |nodes: &NodeSet| nodes.iter().any(|it| it.state() == NodeState::Draining);
        until("it is heard again, with what is new", &mut watch, drains).await;
        node_one.withdraw().await.unwrap();
    });
}

#[test]
fn to_keep_a_lease_or_to_ask_for_a_key_writes_nothing() {
    with_etcd(async {
        let server = Server::start(&[]).await;
        let revision = async || {
            let now = server.ask("/v3/kv/range", &json!({ "key": "YQ==" }), None).await;
            now["header"]["revision"].as_str().unwrap().to_owned()
        };
        let lease = json!({ "ID": "77", "TTL": "60" });
        let granted = server.ask("/v3/lease/grant", &lease, None).await;
        assert_eq!(granted["ID"], "77");
        let before = revision().await;
        // What a node's beats are.
        let asks = json!({ "success": [], "compare":
            [{ "key": "YQ==", "target": "LEASE", "result": "EQUAL", "lease": "77" }] });
        for _ in 0..10 {
            let kept = server.ask("/v3/lease/keepalive", &json!({ "ID": "77" }), None).await;
            assert_eq!(kept["result"]["TTL"], "60", "{kept}");
            let asked = server.ask("/v3/kv/txn", &asks, None).await;
            assert!(asked.get("header").is_some(), "{asked}");
        }
        assert_eq!(revision().await, before);
        server.put("/a", b"b").await;
        assert_ne!(revision().await, before);
    });
}

#[test]
fn over_tls_it_is_asked_as_over_tcp_and_a_stranger_is_not() {
    with_etcd(async {
        let made = self_signed(&["localhost"]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        std::fs::write(&certificate, &made.certificate).unwrap();
        std::fs::write(&key, &made.key).unwrap();
        let server = Server::start(&[
            "--cert-file",
            certificate.to_str().unwrap(),
            "--key-file",
            key.to_str().unwrap(),
        ])
        .await;
        let ask = |trust: ClientTrust| {
            let tls = Tls::default().trusting(trust).without_protocol();
            Etcd::builder(tls).endpoint(format!("https://{}", server.secure())).build().unwrap()
        };
        let ours = ask(ClientTrust::fingerprint(made.fingerprint).unwrap());
        let one = announce(&ours, node(1, "one", &["orders"])).await;
        let mut watch = ours.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        one.withdraw().await.unwrap();
        let gone = within("it is gone", watch.changed()).await.unwrap();
        assert!(gone.is_empty());
        let other = self_signed(&["localhost"]).unwrap().fingerprint;
        let stranger = ask(ClientTrust::fingerprint(other).unwrap()).watch(&Interest::Nodes).await;
        let why = stranger.map(|_| ()).unwrap_err().to_string();
        assert!(why.contains("certificate"), "{why}");
    });
}

#[test]
fn where_etcd_asks_for_certificates_a_node_proves_itself_by_its_own() {
    with_etcd(async {
        let [etcds, ours, strangers] = [(); 3].map(|()| self_signed(&["localhost"]).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        // The gateway is a client of etcd, too, and proves itself by etcd's own.
        let trusted = format!("{}{}", etcds.certificate, ours.certificate);
        let server = Server::start(&[
            "--client-cert-auth",
            "--trusted-ca-file",
            &write("trusted.pem", &trusted),
            "--cert-file",
            &write("etcd.pem", &etcds.certificate),
            "--key-file",
            &write("etcd-key.pem", &etcds.key),
        ])
        .await;
        let ask = |by: Option<&ltq_transport::SelfSigned>| {
            let mut trust = ClientTrust::fingerprint(etcds.fingerprint).unwrap();
            if let Some(by) = by {
                let (certificate, key) = (Pem::text(&by.certificate), Pem::text(&by.key));
                trust = trust.with_certificate(certificate, key).unwrap();
            }
            let tls = Tls::default().trusting(trust).without_protocol();
            Etcd::builder(tls).endpoint(format!("https://{}", server.secure())).build().unwrap()
        };
        let known = ask(Some(&ours));
        let one = announce(&known, node(1, "one", &["orders"])).await;
        let mut watch = known.watch(&Interest::Everything).await.unwrap();
        assert_eq!(ids(&watch.changed().await.unwrap()), ["one"]);
        for nobody in [None, Some(&strangers)] {
            let refused = ask(nobody).watch(&Interest::Nodes).await.map(|_| ());
            assert!(matches!(refused, Err(DiscoveryError::Unreachable { .. })), "{refused:?}");
        }
        one.withdraw().await.unwrap();
        let gone = within("it is gone", watch.changed()).await.unwrap();
        assert!(gone.is_empty());
    });
}
