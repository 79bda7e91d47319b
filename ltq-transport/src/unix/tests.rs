use std::{fs, io::Read, os::unix::fs::PermissionsExt, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

fn fresh() -> (TempDir, Address, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ltq.sock");
    (folder, Address::new("unix", path.display().to_string()), path)
}

async fn listen(address: &Address) -> Result<Box<dyn Listener>, TransportError> {
    Unix::default().listen(address).await
}

fn kind(result: Result<Box<dyn Listener>, TransportError>) -> io::ErrorKind {
    match result.err() {
        Some(TransportError::Io { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_file_that_nobody_listens_on_is_taken_over() {
    let (_folder, address, path) = fresh();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "std leaves the file behind");
    let mut listener = listen(&address).await.unwrap();
    let connected = Unix::default().connect(&address).await;
    assert!(connected.is_ok() && listener.accept().await.is_ok());
}

#[tokio::test]
async fn a_file_that_somebody_listens_on_or_that_is_no_socket_is_left() {
    let (_folder, address, path) = fresh();
    let mut first = listen(&address).await.unwrap();
    assert_eq!(kind(listen(&address).await), io::ErrorKind::AddrInUse);
    let connected = Unix::default().connect(&address).await;
    assert!(connected.is_ok() && first.accept().await.is_ok());
    drop(first);
    fs::write(&path, "precious").unwrap();
    assert_eq!(kind(listen(&address).await), io::ErrorKind::AddrInUse);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[tokio::test(start_paused = true)]
async fn a_listener_whose_file_is_gone_or_anothers_says_that_it_is_closed() {
    for replaced in [false, true] {
        let (_folder, address, path) = fresh();
        let mut listener = listen(&address).await.unwrap();
        let connected = Unix::default().connect(&address).await;
        assert!(connected.is_ok() && listener.accept().await.is_ok());
        let accepting = timeout(Duration::from_secs(10), listener.accept());
        let removed = async {
            tokio::task::yield_now().await;
            fs::remove_file(&path).unwrap();
            if replaced {
                fs::write(&path, "another's").unwrap();
            }
        };
        let (accepted, ()) = tokio::join!(accepting, removed);
        assert!(matches!(accepted, Ok(Err(TransportError::Closed))), "replaced: {replaced}");
        drop(listener);
        assert_eq!(path.exists(), replaced, "what is another's stays");
    }
}

#[tokio::test]
async fn the_file_goes_with_its_listener_and_nobody_elses_does() {
    let (_folder, address, path) = fresh();
    let first = listen(&address).await.unwrap();
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());

    let second = listen(&address).await.unwrap();
    fs::remove_file(&path).unwrap();
    let third = listen(&address).await.unwrap();
    drop(second);
    assert!(path.exists(), "it is another's by now");
    drop(third);
    assert!(!path.exists());
}

#[tokio::test]
async fn permissions_are_the_ones_asked_for() {
    for mode in [0o600, 0o666] {
        let (_folder, address, path) = fresh();
        let unix = Unix::new(UnixOptions { mode, ..UnixOptions::default() });
        let _listener = unix.listen(&address).await.unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode);
    }
    let (_folder, address, path) = fresh();
    let unix = Unix::new(UnixOptions { mode: 0o4777, ..UnixOptions::default() });
    assert_eq!(kind(unix.listen(&address).await), io::ErrorKind::InvalidInput);
    assert!(!path.exists());
}

#[test]
fn of_many_that_start_at_once_on_a_file_left_behind_one_listens() {
    for _ in 0..20 {
        let (_folder, address, path) = fresh();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let starting = (0..8).map(|_| {
            let address = address.clone();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.unwrap();
                // It is kept until all have tried.
                let listening = runtime.block_on(listen(&address));
                (runtime, listening)
            })
        });
        let started: Vec<_> = starting.collect();
        let ended: Vec<_> = started.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(ended.iter().filter(|(_, listening)| listening.is_ok()).count(), 1);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }
}

#[tokio::test]
async fn who_starts_waits_for_another_that_is_starting() {
    let (folder, address, path) = fresh();
    let other = fs::File::open(folder.path()).unwrap();
    other.lock().unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let mut listening = std::pin::pin!(listen(&address));
    let deadline = tokio::time::Instant::now() + Duration::from_millis(20);
    assert!(tokio::time::timeout_at(deadline, &mut listening).await.is_err());
    assert!(std::os::unix::net::UnixStream::connect(&path).is_err(), "it has not taken over");
    other.unlock().unwrap();
    timeout(Duration::from_secs(10), listening).await.unwrap().unwrap();
}

#[tokio::test]
async fn both_sides_know_the_user_at_the_other_end() {
    let (_folder, address, path) = fresh();
    let mut listener = listen(&address).await.unwrap();
    let near = Unix::default().connect(&address).await.unwrap();
    let far = listener.accept().await.unwrap();
    let user = std::os::unix::fs::MetadataExt::uid(&fs::metadata(&path).unwrap());
    for connection in [&near, &far] {
        assert_eq!(connection.peer().identity, Some(format!("uid:{user}")));
    }
    assert_eq!(near.peer().address, address);
    assert_eq!(far.peer().address.to_string(), format!("{address}#0"));
}

#[tokio::test]
async fn paths_that_no_socket_can_have_are_refused() {
    let long = format!("/{}", "x".repeat(107));
    for rest in ["relative", "/", "/folder/", "/a\0b", &long] {
        let error = listen(&Address::new("unix", rest)).await.err().unwrap();
        assert!(matches!(error, TransportError::Address { .. }), "{error}");
    }
    let (_folder, address, _) = fresh();
    let missing = Address::new("unix", format!("{}/no/such.sock", address.rest()));
    let error = listen(&missing).await.err().unwrap().to_string();
    assert!(error.starts_with(&format!("listening on {missing} failed: ")), "{error}");
}

#[tokio::test]
async fn dropping_the_sending_half_ends_what_the_peer_reads() {
    let (_folder, address, path) = fresh();
    let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
    let near = Unix::default().connect(&address).await.unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut stream = near.open_stream().await.unwrap();
    let sent = std::future::poll_fn(|cx| stream.send.poll_send(cx, &[io::IoSlice::new(b"all")]));
    assert_eq!(timeout(Duration::from_secs(10), sent).await.unwrap().unwrap(), 3);
    drop(stream.send);
    let mut all = String::new();
    far.read_to_string(&mut all).unwrap();
    assert_eq!(all, "all");
}
