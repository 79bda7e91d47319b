//! Over a Unix socket what is limited by address is limited by user.
#![cfg(target_os = "linux")]

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use ltq_core::{Address, Broker, BrokerSettings, Environment, RefusalCode, Transport as _};
use ltq_store::MemoryStore;
use ltq_tests::{RawPeer, Served, binary, within};
use ltq_transport::{Unix, UnixOptions};
use rustix::io::Errno;
use tokio::process::Command;

/// A user that has nothing, and that every system has.
const NOBODY: u32 = 65_534;

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

#[tokio::test]
async fn promise_10_over_a_unix_socket_a_user_has_so_many_connections_and_others_have_theirs() {
    let folder = tempfile::tempdir().expect("a folder");
    permit(folder.path(), 0o755);
    let settings = BrokerSettings { connections_per_address_max: 2, ..Served::settings() };
    let store = MemoryStore::new(64 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await.expect("a broker");
    let unix = Unix::new(UnixOptions { mode: 0o666, ..UnixOptions::default() });
    let path = folder.path().join("ltq.sock").display().to_string();
    let address = Address::new("unix", path);
    let listener = unix.listen(&address).await.expect("a listener");
    let serving = broker.clone();
    tokio::spawn(async move { serving.serve(listener).await });

    let mut held = Vec::new();
    for _ in 0..2 {
        let mut peer = RawPeer::connect_over(&unix, &address).await;
        peer.greet(RawPeer::hello()).await;
        held.push(peer);
    }
    let mut third = RawPeer::connect_over(&unix, &address).await;
    let said = third.expect_goodbye(RefusalCode::LimitReached).await;
    assert!(said.contains("connections_per_address_max"), "{said}");
    assert_eq!(broker.counters().connections_refused_by_address, 1);

    if !rustix::process::geteuid().is_root() {
        eprintln!("only root can try this as a second user");
        return;
    }
    let ltq = folder.path().join("ltq");
    fs::copy(binary("ltq"), &ltq).expect("a copy that anybody may run");
    permit(&ltq, 0o755);
    let mut publish = Command::new(&ltq);
    publish.args(["--server", &address.to_string(), "pub", "t", "x"]);
    publish.uid(NOBODY).gid(NOBODY).current_dir(folder.path()).kill_on_drop(true);
    let output = match within("another user's publish", publish.output()).await {
        Ok(output) => output,
        // Not every root may become somebody else: one in a container may know no other user.
        Err(error)
            if matches!(
                Errno::from_io_error(&error),
                Some(Errno::PERM | Errno::INVAL | Errno::ACCESS)
            ) =>
        {
            eprintln!("a second user cannot be tried here: {error}");
            return;
        }
        Err(error) => panic!("ltq does not run: {error}"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(broker.counters().connections_refused_by_address, 1, "the other was not refused");
}
