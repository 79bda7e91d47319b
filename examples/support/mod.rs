//! Where the examples find a broker: the one named on the command line, or a small one of their
//! own.

use std::error::Error;

use ltq_core::{Broker, BrokerSettings, Durability, Environment, TopicSettings, Transport};
use ltq_store::MemoryStore;
use ltq_transport::Tcp;

/// The server's address: the program's first argument, or that of a broker that lives in this
/// process, in memory, and is reached over TCP like any other.
pub(crate) async fn server() -> Result<String, Box<dyn Error>> {
    if let Some(server) = std::env::args().nth(1) {
        return Ok(server);
    }
    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let store = MemoryStore::new(64 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await?;
    let listener = Tcp::default().listen(&"tcp://127.0.0.1:0".parse()?).await?;
    let server = listener.local_address().to_string();
    tokio::spawn(async move { broker.serve(listener).await });
    Ok(server)
}
