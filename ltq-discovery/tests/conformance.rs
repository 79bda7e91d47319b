//! Every scheme of this crate passes the suite.

#![allow(clippy::unwrap_used, reason = "a test fails by it")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::{Address, SystemEntropy, Transport};
use ltq_discovery::{
    DnsNames, StaticList,
    conformance::{Backend, Harness},
    registry::{Registries, RegistryServer, RegistryServerSettings, RegistrySettings},
};
use ltq_transport::InProcess;
use tokio::{sync::Mutex, task::JoinHandle};

mod static_list {
    use super::*;

    async fn harness() -> Harness {
        let list: StaticList = "tcp://10.0.0.1:7440, tcp://10.0.0.2:7440".parse().unwrap();
        Harness::new(list)
    }

    ltq_discovery::discovery_conformance_tests!(harness());
}

mod dns_names {
    use super::*;

    async fn harness() -> Harness {
        Harness::new(DnsNames::new(["tcp://localhost:7440"]).unwrap())
    }

    ltq_discovery::discovery_conformance_tests!(harness());
}

/// Registries that can be stopped, all of them, and started again with no memory of what was.
#[derive(Clone)]
struct Served {
    network: InProcess,
    names: &'static [&'static str],
    running: Arc<Mutex<Vec<Running>>>,
}

/// A registry and its tasks.
type Running = (RegistryServer, Vec<JoinHandle<()>>);

#[async_trait]
impl Backend for Served {
    async fn sever(&self) {
        for (server, tasks) in self.running.lock().await.drain(..) {
            server.stop();
            for task in tasks {
                task.await.unwrap();
            }
        }
    }

    async fn restore(&self) {
        let mut running = self.running.lock().await;
        for name in self.names {
            let heartbeat = Duration::from_millis(100);
            let registry = RegistrySettings { heartbeat, ..RegistrySettings::default() };
            let settings = RegistryServerSettings { registry, ..Default::default() };
            let server = RegistryServer::new(settings, &SystemEntropy).unwrap();
            let address = Address::new("in-process", *name);
            let listener = self.network.listen(&address).await.unwrap();
            let (runs, serves) = (server.clone(), server.clone());
            let runs = tokio::spawn(async move { runs.run().await });
            let serves = tokio::spawn(async move { serves.serve(listener).await.unwrap() });
            running.push((server, vec![runs, serves]));
        }
    }
}

async fn served(names: &'static [&'static str]) -> Harness {
    let network = InProcess::new();
    let served = Served { network: network.clone(), names, running: Arc::default() };
    served.restore().await;
    let retry = (Duration::from_millis(10), Duration::from_millis(100));
    let builder = Registries::builder(network).retry(retry.0, retry.1);
    let builder = names
        .iter()
        .fold(builder, |builder, name| builder.registry(format!("in-process://{name}")));
    Harness::new(builder.build().unwrap()).backend(served).patience(Duration::from_secs(30))
}

mod one_registry {
    ltq_discovery::discovery_conformance_tests!(super::served(&["one"]));
}

mod three_registries {
    ltq_discovery::discovery_conformance_tests!(super::served(&["one", "two", "three"]));
}
