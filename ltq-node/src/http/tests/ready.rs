//! What is said of a node that is not ready, and to whom.

use ltq_core::Store as _;

use super::{ask_with, node};
use crate::config::{ByteSize, TokenHash, TokenSettings};

/// What the store says names files and the machine's errors.
#[tokio::test]
async fn promise_10_why_a_node_is_not_ready_is_told_to_who_administers_alone() {
    let token = |name: &str, administer: &[&str]| TokenSettings {
        name: name.to_owned(),
        sha256: TokenHash::of(name),
        publish: vec!["*".parse().unwrap()],
        consume: Vec::new(),
        administer: administer.iter().map(|it| it.parse().unwrap()).collect(),
    };
    let node = node(|config| {
        config.memory_store.bytes_max = ByteSize(1 << 20);
        config.tokens = vec![token("root", &["*"]), token("half", &["t"]), token("none", &[])];
    })
    .await;
    let bearer = |token: &str| format!("authorization: Bearer {token}\r\n");
    let body = vec![b'x'; 2_000_000];
    for step in ["store_full", "store_failed"] {
        let words = if step == "store_full" {
            let full =
                ask_with(&node, "POST /pub?topic=t", &bearer("root"), &body[..1_000_000]).await;
            assert_eq!(full.status, 200);
            let full =
                ask_with(&node, "POST /pub?topic=t", &bearer("root"), &body[..500_000]).await;
            assert_eq!(full.refusal(), (507, "store_full".to_owned()));
            "bytes more would exceed"
        } else {
            node.broker().store().close().await.unwrap();
            "the store is closed"
        };
        for (headers, knows) in [
            (String::new(), false),
            (bearer("wrong"), false),
            (bearer("none"), false),
            (bearer("half"), false),
            (bearer("root"), true),
        ] {
            let answer = ask_with(&node, "GET /readyz", &headers, "").await;
            assert_eq!(answer.refusal(), (503, step.to_owned()), "{headers}");
            assert_eq!(answer.body.contains(words), knows, "{headers}: {}", answer.body);
        }
    }
    // Probes that bring no token do not try to get in.
    let denied = node.broker().counters().hellos_denied;
    assert_eq!(denied, 2, "one for each wrong token");
    let _ = node.stop().await;
}
