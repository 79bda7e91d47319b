//! The same broker and the same client over TCP, TLS and QUIC: one line on each side says which.
//!
//! ```text
//! cargo run -p ltq-examples --example secure
//! ```

use std::error::Error;

use ltq_client::{Client, ClientTrust, Message};
use ltq_core::{
    Address, Broker, BrokerSettings, Durability, Environment, TopicSettings, Transport,
};
use ltq_store::MemoryStore;
use ltq_transport::{Pem, Quic, ServerTrust, Tcp, Tls, Transports, self_signed};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A certificate that clients know by its fingerprint. One of an authority is the same but for
    // these three lines: `Pem::file` and `ClientTrust::authorities`.
    let made = self_signed(&["localhost"])?;
    let prove = ServerTrust::new(Pem::text(made.certificate), Pem::text(made.key))?;
    let trust = ClientTrust::fingerprint(made.fingerprint)?;

    let settings = BrokerSettings {
        topic: TopicSettings { durability: Durability::Memory, ..TopicSettings::default() },
        ..BrokerSettings::default()
    };
    let store = MemoryStore::new(64 << 20);
    let broker = Broker::start(store, settings, Environment::system()).await?;
    let quic = Quic::default().serving(prove.clone());
    let transports = Transports::new()
        .with(Tcp::default())
        .with(Tls::default().serving(prove))
        .with(quic.clone());

    for scheme in ["tcp", "tls", "quic"] {
        let listener = transports.listen(&Address::new(scheme, "127.0.0.1:0")).await?;
        let server = listener.local_address().to_string();
        let serving = broker.clone();
        tokio::spawn(async move { serving.serve(listener).await });

        let client = Client::builder().server(&server).trust(trust.clone()).connect().await?;
        client.producer("greetings").await?.send(Message::new(format!("over {scheme}"))).await?;
        let mut consumer = client.consumer("greetings", "printer").await?;
        let delivery = consumer.next().await.ok_or("the consumer ended")??;
        assert_eq!(delivery.message.body, format!("over {scheme}"));
        println!("got {:?}", String::from_utf8_lossy(&delivery.message.body));
        delivery.ack()?;
        drop(consumer);
        client.close().await?;
    }

    broker.stop(std::time::Duration::from_secs(5)).await?;
    // So that QUIC's peers hear of it before this process is gone.
    let _late = tokio::time::timeout(std::time::Duration::from_secs(1), quic.settled()).await;
    Ok(())
}
