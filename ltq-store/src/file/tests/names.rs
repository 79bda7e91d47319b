//! What logs are called is nobody's business but the store's: no name becomes the name of a file.

use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

use ltq_core::{Durability, LogOptions, Message, Records};

use super::super::*;

/// The names of all files, below that.
fn files(dir: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        match entry.file_type().unwrap().is_dir() {
            true => names.extend(files(&entry.path())),
            false => names.push(entry.file_name().into_string().unwrap()),
        }
    }
    names
}

#[tokio::test]
async fn logs_whose_names_differ_in_case_alone_have_files_that_no_file_system_takes_for_one() {
    let dir = tempfile::tempdir().unwrap();
    let options = FileStoreOptions::new(dir.path()).tail_bytes(64 << 10).segment_bytes(64 << 10);
    let store = FileStore::open(options).await.unwrap();
    let names = ["Orders", "orders", "ORDERS"].map(LogName::new);
    for (number, name) in names.iter().enumerate() {
        let mut batch = WriteBatch::new();
        batch.create_log(name.clone(), LogOptions::default());
        let messages: Vec<_> = (0..40).map(|_| Message::new(vec![number as u8; 8 << 10])).collect();
        batch.append(name.clone(), Offset(0), Timestamp(0), Records::encode(&messages));
        store.commit(batch, Durability::Disk).await.unwrap();
    }
    // Each has files of its own, sooner or later.
    let segments = |files: &[String]| {
        let of = files.iter().filter(|name| name.ends_with(".segment"));
        of.filter_map(|name| name.split('-').next().map(str::to_owned)).collect::<BTreeSet<_>>()
    };
    let began = Instant::now();
    while segments(&files(dir.path())).len() < names.len() {
        assert!(began.elapsed() < Duration::from_secs(60), "{:?}", files(dir.path()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let names = files(dir.path());
    let folded: BTreeSet<_> = names.iter().map(|name| name.to_lowercase()).collect();
    assert!(!folded.iter().any(|name| name.contains("orders")), "{names:?}");
    assert_eq!(folded.len(), names.len(), "{names:?}");
    store.close().await.unwrap();
}
