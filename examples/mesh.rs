//! Three programs, each with a queue of its own and no broker between them. This one starts itself twice
//! more; each of the three sends to both others by name, and has heard from both when it ends.
//!
//! ```text
//! cargo run -p ltq-examples --example mesh
//! ```
//!
//! Or one by one, on one machine or several:
//!
//! ```text
//! cargo run -p ltq-examples --example mesh -- ann ann=tcp://127.0.0.1:7461 bob=tcp://127.0.0.1:7462
//! cargo run -p ltq-examples --example mesh -- bob ann=tcp://127.0.0.1:7461 bob=tcp://127.0.0.1:7462
//! ```

use std::{
    collections::BTreeSet,
    env,
    error::Error,
    process::{Child, Command},
    time::Duration,
};

use ltq_mesh::{Mesh, MeshSettings};
use ltq_store::MemoryStore;
use ltq_transport::{Tcp, Transports, Unix};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    if let Some(name) = arguments.next() {
        return take_part(&name, &arguments.collect::<Vec<_>>()).await;
    }
    let folder = tempfile::tempdir()?;
    let places: Vec<_> = ["ann", "bob", "cem"]
        .into_iter()
        .map(|name| format!("{name}=unix://{}/{name}.socket", folder.path().display()))
        .collect();
    let mut others = Vec::new();
    for name in ["bob", "cem"] {
        others.push(Other(Command::new(env::current_exe()?).arg(name).args(&places).spawn()?));
    }
    take_part("ann", &places).await?;
    for Other(child) in &mut others {
        let status = child.wait()?;
        if !status.success() {
            return Err(format!("another of the three failed: {status}").into());
        }
    }
    println!("all three have heard from both others");
    Ok(())
}

/// Sends to all others, and hears from all of them.
async fn take_part(name: &str, places: &[String]) -> Result<(), Box<dyn Error>> {
    let settings =
        MeshSettings { reconnect_interval: Duration::from_millis(100), ..MeshSettings::default() };
    let mut builder = Mesh::builder(name)
        .transports(Transports::new().with(Tcp::default()).with(Unix::default()))
        .token("a secret that the three share")
        .settings(settings);
    let mut others = BTreeSet::new();
    for place in places {
        let (peer, address) = place.split_once('=').ok_or("a place looks like NAME=ADDRESS")?;
        builder = match peer == name {
            true => builder.listen(address),
            false => {
                others.insert(peer.to_owned());
                builder.peer(peer, [address])
            }
        };
    }
    let mesh = builder.start(MemoryStore::new(16 << 20)).await?;

    for other in &others {
        timeout(Duration::from_secs(60), mesh.connected(other)).await??;
        mesh.send(other, format!("hello {other}")).await?;
        println!("{name}: {other} has it");
    }

    let mut inbox = mesh.inbox().await?;
    while !others.is_empty() {
        let next = timeout(Duration::from_secs(60), inbox.next()).await?;
        let message = next.ok_or("the inbox is over")??;
        println!("{name}: {} says {:?}", message.from(), String::from_utf8_lossy(message.body()));
        if message.body() != &format!("hello {name}") {
            return Err("it is not what was sent".into());
        }
        others.remove(message.from().as_str());
        message.ack()?;
    }
    mesh.close().await?;
    Ok(())
}

/// Another process, which does not outlive this one.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
    }
}
