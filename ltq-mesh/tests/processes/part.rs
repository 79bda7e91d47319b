//! What a process does.
//!
//! It is this very program, which is asked for the one test [`part`] and told by a variable of its environment
//! what to be. It hears by its standard input, and says by lines that begin with `@`.

use std::{collections::BTreeSet, env, path::Path, thread, time::Duration};

use futures::future::join_all;
use ltq_core::Effect;
use ltq_mesh::{Mesh, MeshBuilder, MeshSettings};
use ltq_store::{FileStore, FileStoreOptions, MemoryStore};
use ltq_transport::{Transports, Unix};
use tokio::sync::mpsc;

pub(crate) const ROLE: &str = "LTQ_MESH_PART";

fn builder(name: &str, folder: &Path) -> MeshBuilder {
    Mesh::builder(name)
        .transports(Transports::new().with(Unix::default()))
        .listen(format!("unix://{}/{name}.socket", folder.display()))
        .token("shared")
        .settings(MeshSettings {
            reconnect_interval: Duration::from_millis(50),
            listen_retry_interval: Duration::from_millis(50),
            acknowledgement_timeout: Duration::from_secs(60),
            ..MeshSettings::default()
        })
}

/// A process of its own, when it is one.
#[test]
#[ignore = "it is a part in the other tests"]
fn part() {
    let Ok(role) = env::var(ROLE) else { return };
    println!();
    let (told, tells) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if told.send(line).is_err() {
                return;
            }
        }
        // Whoever started it is gone.
        std::process::exit(3);
    });
    let words: Vec<_> = role.split(' ').collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    match words[..] {
        ["inbox", folder, kept] => {
            runtime.block_on(be_inbox(Path::new(folder), kept == "kept", tells))
        }
        ["sender", name, folder, first] => {
            runtime.block_on(be_sender(name, Path::new(folder), first.parse().unwrap(), tells));
        }
        _ => panic!("{role:?} is no part"),
    }
}

/// Keeps what comes until it is told to read that: all before the last word of so many senders.
async fn be_inbox(folder: &Path, is_kept: bool, mut tells: mpsc::UnboundedReceiver<String>) {
    let builder = builder("inbox", folder);
    let mesh = match is_kept {
        true => {
            let options = FileStoreOptions::new(folder.join("store"));
            builder.start(FileStore::open(options).await.unwrap()).await.unwrap()
        }
        false => builder.start(MemoryStore::new(256 << 20)).await.unwrap(),
    };
    println!("@ up");
    let senders: usize = tells.recv().await.unwrap().parse().unwrap();
    let mut inbox = mesh.inbox().await.unwrap();
    let mut ended = BTreeSet::new();
    while ended.len() < senders {
        let message = inbox.next().await.unwrap().unwrap();
        let text = String::from_utf8_lossy(message.body()).into_owned();
        println!("@ got {} {text} {}", message.from(), message.attempt());
        if text == "end" {
            ended.insert(message.from().clone());
        }
        message.ack().unwrap();
    }
    println!("@ read");
    mesh.close().await.unwrap();
}

/// Sends numbers until it is told to stop, and says what became of each.
async fn be_sender(
    name: &str,
    folder: &Path,
    first: u64,
    mut tells: mpsc::UnboundedReceiver<String>,
) {
    let at = format!("unix://{}/inbox.socket", folder.display());
    let mesh =
        builder(name, folder).peer("inbox", [at]).start(MemoryStore::new(1 << 20)).await.unwrap();
    println!("@ up");
    let mut next = first;
    loop {
        match tells.try_recv().as_deref() {
            Ok("mark") => println!("@ mark"),
            Ok(_) => break,
            Err(_) => {}
        }
        mesh.connected("inbox").await.unwrap();
        let sending = join_all(
            (next..next + 16)
                .map(async |number| (number, mesh.send("inbox", number.to_string()).await)),
        );
        for (number, sent) in sending.await {
            match sent {
                Ok(()) => println!("@ ok {number}"),
                Err(error) if error.effect() == Effect::Unknown => println!("@ perhaps {number}"),
                Err(_) => println!("@ no {number}"),
            }
        }
        next += 16;
    }
    while mesh.send("inbox", "end").await.is_err() {
        mesh.connected("inbox").await.unwrap();
    }
    println!("@ done");
    mesh.close().await.unwrap();
}
