//! A real node on real file systems: one that fills up, one that is read-only, and directories
//! that are not to be opened. The first two need the right to mount, and say so where they have
//! none; where `REQUIRE_MOUNTS` is set they fail then.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, SystemTime},
};

use ltq_client::{
    Client, Consumer, Delivery, Durability, Message, Producer, PublishError, RefusalCode,
};
use ltq_tests::{DEADLINE, NodeProcess, binary, require, skipped, within};

/// Something mounted, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None`, and a word on it, when mounting is not allowed here.
    fn new(test: &str, at: &Path, ways: &[&[&str]]) -> Option<Self> {
        fs::create_dir_all(at).expect("a directory");
        let mut mounted = None;
        for way in ways {
            let mut mount = Command::new("mount");
            let done = mount.args(*way).arg(at).stdout(Stdio::null()).stderr(Stdio::null());
            if !done.status().is_ok_and(|status| status.success()) {
                let why = format!("mount {} is not allowed here", way.join(" "));
                skipped(require::MOUNTS, test, &why);
                return None;
            }
            mounted.get_or_insert_with(|| Self(at.to_owned()));
        }
        mounted
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// Runs a node that is not to start.
fn refused(data_dir: &Path) -> String {
    let mut node = Command::new(binary("ltq-node"));
    node.arg("--data-dir").arg(data_dir).args(["--listen", "tcp://127.0.0.1:0", "--http", "off"]);
    let child = node.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("ltq-node runs");
    let (pid, (send, receive)) = (child.id(), std::sync::mpsc::channel());
    std::thread::spawn(move || send.send(child.wait_with_output()));
    let Ok(output) = receive.recv_timeout(DEADLINE) else {
        let _ = Command::new("kill").arg(pid.to_string()).status();
        panic!("the node started");
    };
    let Output { status, stderr, .. } = output.expect("its output");
    assert_eq!(status.code(), Some(1), "{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stderr).into_owned()
}

/// Everything in a directory, to be compared.
fn content(dir: &Path) -> BTreeMap<PathBuf, (SystemTime, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let changed = fs::metadata(&path).expect("it").modified().expect("a time");
        if path.is_dir() {
            found.extend(content(&path));
            found.insert(path, (changed, Vec::new()));
        } else {
            let bytes = fs::read(&path).expect("it can be read");
            found.insert(path, (changed, bytes));
        }
    }
    found
}

async fn publish(producer: &Producer, body: &[u8]) -> Result<(), PublishError> {
    producer.send(Message::new(body.to_vec())).await.map(|_| ())
}

/// A node that has stored a message.
async fn used(dir: &Path) -> NodeProcess {
    let node = NodeProcess::start(dir, 0, &[]).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    publish(&client.producer("t").await.expect("a producer"), b"kept").await.expect("stored");
    client.close().await.expect("closed");
    node
}

/// A file system of so many MiB that goes with its folder.
fn small_device(test: &str, mib: u32) -> Option<(tempfile::TempDir, PathBuf, Mounted)> {
    let folder = tempfile::tempdir().expect("a folder");
    let device = folder.path().join("device");
    let size = format!("size={mib}m");
    let mounted = Mounted::new(test, &device, &[&["-t", "tmpfs", "-o", &size, "tmpfs"]])?;
    Some((folder, device, mounted))
}

/// Fills a device with what nobody acks, empties it, and fills it again. `least` messages of a
/// quarter of a MiB have to fit.
async fn a_full_device(store: &str, mib: u32, least: u64) {
    let Some((_folder, device, _mounted)) = small_device("a full device", mib) else { return };
    let data = device.join("data");
    let flags = ["--store", store];
    let node = NodeProcess::start(&data, 0, &flags).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let producer = client.producer("t").await.expect("a producer");
    let body = vec![7; 256 << 10];
    let mut stored = 0;
    let refusal = within("the device's end", async {
        loop {
            match publish(&producer, &body).await {
                Ok(()) => stored += 1,
                Err(error) => return error,
            }
        }
    })
    .await;
    let refusal = refusal.refusal().expect("it is refused").clone();
    assert_eq!(refusal.code, RefusalCode::StoreFull, "{refusal}");
    assert!(refusal.detail.contains("device"), "{refusal}");
    // A good part of it was used before that.
    assert!(stored >= least, "{stored} quarters of {mib} MiB");
    // What is stored is delivered, and acked, while nothing can be published.
    within("the deliveries", async {
        for at in 0..stored {
            let delivery = consumer.next().await.expect("one more").expect("a delivery");
            assert!(delivery.offset().0 == at && delivery.message.body.len() == body.len());
            delivery.ack_confirmed().await.expect("acked");
        }
    })
    .await;
    // Which makes room.
    within("publishing again", async {
        while let Err(error) = publish(&producer, &body).await {
            let code = error.refusal().map(|refusal| refusal.code);
            assert_eq!(code, Some(RefusalCode::StoreFull), "{error}");
            tokio::task::yield_now().await;
        }
    })
    .await;
    let delivery = within("the next", consumer.next()).await.expect("one").expect("a delivery");
    assert_eq!(delivery.offset().0, stored);
    drop((delivery, consumer, producer));
    client.close().await.expect("closed");
    // And a kill then loses nothing.
    node.kill().await.expect("killed");
    let node = NodeProcess::start(&data, 0, &flags).await.expect("a node again");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    // Acks newer than their last commit may repeat; the message that nobody acked is there.
    within("it again", async {
        loop {
            let delivery = consumer.next().await.expect("one more").expect("a delivery");
            assert!(delivery.offset().0 <= stored);
            if delivery.offset().0 == stored {
                return;
            }
            delivery.ack().expect("acked");
        }
    })
    .await;
    drop(consumer);
    client.close().await.expect("closed");
    node.terminate().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_device_refuses_publishes_serves_consumers_and_takes_publishes_again() {
    a_full_device("file", 96, 60).await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_filled_by_rocksdb_refuses_publishes_serves_consumers_and_takes_publishes_again() {
    a_full_device("rocksdb", 192, 200).await;
}

/// The messages of `t` from its first one on, in order.
async fn all_of_them(
    consumer: &mut Consumer,
    count: u64,
    body: impl Fn(u64) -> Vec<u8>,
) -> Vec<Delivery> {
    within("the deliveries", async {
        let mut deliveries = Vec::new();
        for at in 0..count {
            let delivery = consumer.next().await.expect("one more").expect("a delivery");
            assert_eq!(delivery.offset().0, at);
            assert!(delivery.message.body == body(at), "promise 8: wrong bytes at {at}");
            deliveries.push(delivery);
        }
        deliveries
    })
    .await
}

/// Others take the last page of a device under a running node, and give it back. What is confirmed
/// meanwhile is there after a kill, and what is refused is not.
async fn others_fill_the_device(store: &str) {
    let test = "a device filled under a node";
    let Some((_folder, device, _mounted)) = small_device(test, 128) else { return };
    let data = device.join("data");
    let flags = ["--store", store];
    let node = NodeProcess::start(&data, 0, &flags).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let producer = client.producer("t").await.expect("a producer");
    let body = |at: u64| vec![at as u8; 64 << 10];
    let mut confirmed = 0;
    for _ in 0..20 {
        publish(&producer, &body(confirmed)).await.expect("stored");
        confirmed += 1;
    }
    let mut others = fs::File::create(device.join("others")).expect("a file");
    while std::io::Write::write(&mut others, &[1; 4096]).is_ok_and(|written| written > 0) {}
    // What the store has made ahead may still take some.
    let refusal = within("the device's end", async {
        loop {
            match publish(&producer, &body(confirmed)).await {
                Ok(()) => confirmed += 1,
                Err(error) => return error,
            }
        }
    })
    .await;
    let code = refusal.refusal().map(|refusal| refusal.code);
    assert_eq!(code, Some(RefusalCode::StoreFull), "{refusal}");
    // They stay in flight: what is dropped would come again.
    let held = all_of_them(&mut consumer, confirmed, body).await;
    drop(others);
    fs::remove_file(device.join("others")).expect("removed");
    within("publishing again", async {
        while let Err(error) = publish(&producer, &body(confirmed)).await {
            let code = error.refusal().map(|refusal| refusal.code);
            assert_eq!(code, Some(RefusalCode::StoreFull), "{error}");
            tokio::task::yield_now().await;
        }
        confirmed += 1;
    })
    .await;
    node.kill().await.expect("killed");
    drop((held, consumer, producer, client));
    let node = NodeProcess::start(&data, 0, &flags).await.expect("a node again");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let end = client.admin().show_topic("t").await.expect("the topic").end;
    assert_eq!(end.0, confirmed, "promise 1: what was confirmed, and nothing else");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let held = all_of_them(&mut consumer, confirmed, body).await;
    drop((held, consumer));
    client.close().await.expect("closed");
    node.terminate().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_a_device_filled_under_a_file_store_refuses_and_loses_nothing() {
    others_fill_the_device("file").await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_1_a_device_filled_under_rocksdb_refuses_and_loses_nothing() {
    others_fill_the_device("rocksdb").await;
}

/// Waits until a new store has made its second journal file ahead. Killed before that, it leaves it unfinished, which
/// is room to start with.
async fn is_made_ahead(data: &Path) {
    let ahead = data.join("journal/0000000000000002.journal");
    within("the next journal file", async {
        while !ahead.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// What a node finds that is started on a device without a free page.
enum Room {
    /// What others give back.
    OfOthers,
    /// A journal file that it was making when it was killed.
    Unfinished,
}

async fn on_a_device_that_others_filled(room: Room) {
    let test = "a device filled by others";
    let Some((_folder, device, _mounted)) = small_device(test, 64) else { return };
    let data = device.join("data");
    let node = used(&data).await;
    is_made_ahead(&data).await;
    node.kill().await.expect("killed");
    // To the last page.
    let mut others = fs::File::create(device.join("others")).expect("a file");
    while std::io::Write::write(&mut others, &[1; 4096]).is_ok_and(|written| written > 0) {}
    let error = refused(&data);
    assert!(error.contains("its device is full"), "{error}");
    // With a little room it starts, serves what there is and refuses what is new.
    let little = 256 << 10;
    others.set_len(others.metadata().expect("it").len() - little).expect("cut");
    if let Room::Unfinished = room {
        fs::write(data.join("journal/new"), vec![0; little as usize]).expect("written");
        let one_more = fs::write(device.join("more"), [1]).expect_err("a page is free");
        assert_eq!(one_more.kind(), std::io::ErrorKind::StorageFull);
    }
    let node = NodeProcess::start(&data, 0, &[]).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let mut consumer = client.consumer("t", "c").await.expect("a consumer");
    let delivery = within("it", consumer.next()).await.expect("one").expect("a delivery");
    assert_eq!(delivery.message.body, "kept");
    delivery.ack_confirmed().await.expect("acked");
    let producer = client.producer("t").await.expect("a producer");
    let body = vec![7; 256 << 10];
    let error = publish(&producer, &body).await.expect_err("there is no room");
    let code = error.refusal().map(|refusal| refusal.code);
    assert_eq!(code, Some(RefusalCode::StoreFull), "{error}");
    drop(others);
    fs::remove_file(device.join("others")).expect("removed");
    within("publishing again", async {
        while publish(&producer, &body).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.close().await.expect("closed");
    node.terminate().await.expect("it stops");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_killed_and_started_on_a_device_that_others_filled_serves_and_recovers() {
    on_a_device_that_others_filled(Room::OfOthers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_kill_left_unfinished_is_room_for_a_node_on_a_device_that_others_filled() {
    on_a_device_that_others_filled(Room::Unfinished).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_data_directory_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let (data, view) = (folder.path().join("data"), folder.path().join("view"));
    used(&data).await.terminate().await.expect("it stops");
    let source = data.to_str().expect("a path");
    let ways: [&[&str]; 2] = [&["--bind", source], &["-o", "remount,bind,ro"]];
    let Some(_mounted) = Mounted::new("a read-only directory", &view, &ways) else { return };
    let before = content(&data);
    let error = refused(&view);
    assert!(error.contains("view") && error.contains("Read-only file system"), "{error}");
    assert_eq!(before, content(&data));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_newer_or_not_ours_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("data");
    let node = NodeProcess::start(&data, 0, &["--durability", "disk"]).await.expect("a node");
    let client = Client::connect(&node.address().to_string()).await.expect("connected");
    let receipt = client.producer("t").await.expect("a producer").send(Message::new("x")).await;
    assert_eq!(receipt.expect("stored").durability, Durability::Disk);
    client.close().await.expect("closed");
    let error = refused(&data);
    assert!(error.contains("another process has it open"), "{error}");
    node.terminate().await.expect("it stops");

    // Bytes 8 and 9 of a header are the format's version; its checksum is known to be looked at.
    let identity = fs::read(data.join("identity")).expect("it");
    let mut newer = identity.clone();
    for at in [0, 512] {
        newer[at + 8] += 1;
        let crc = crc32c(&newer[at..at + 60]);
        newer[at + 60..at + 64].copy_from_slice(&crc.to_le_bytes());
    }
    fs::write(data.join("identity"), newer).expect("written");
    let before = content(&data);
    let error = refused(&data);
    assert!(error.contains("use a newer one"), "{error}");
    assert_eq!(before, content(&data));

    let other = folder.path().join("photos");
    fs::create_dir(&other).expect("made");
    fs::write(other.join("holiday.jpg"), "sunny").expect("written");
    let before = content(&other);
    let error = refused(&other);
    assert!(error.contains("holiday.jpg"), "{error}");
    assert_eq!(before, content(&other));
}

/// CRC-32C, bit by bit: the tests should not trust the code that they test.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}
