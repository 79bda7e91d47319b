//! Promises 1, 2, 4, 6, 11, 12 and 13 on a real node that is killed again and again under load.

use std::time::Duration;

use ltq_tests::kill::{self, Torment};

async fn fifty_kills(store: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let torment = Torment {
        store: store.to_owned(),
        kills: 50,
        producers: 4,
        life_max: Duration::from_millis(800),
        seed: 1,
    };
    let summary = kill::run(folder.path(), torment).await;
    assert_eq!(summary.kills, 50);
    assert!(summary.confirmed > 0 && summary.deliveries > 0, "nothing happened: {summary:?}");
    println!("{summary:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_4_6_11_12_13_hold_over_fifty_kills() {
    fifty_kills("file").await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread")]
async fn promises_1_2_4_6_11_12_13_hold_over_fifty_kills_on_rocksdb() {
    fifty_kills("rocksdb").await;
}
