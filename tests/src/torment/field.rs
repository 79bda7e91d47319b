use std::{io, ops::Range, path::Path, process::Stdio, time::Duration};

use ltq_core::Address;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::timeout,
};

use super::{Account, Plan, TormentError};
use crate::{
    NodeProcess, RegistryProcess,
    bad_network::{Shape, Switch},
    binary,
};

/// All hosts, and what runs on them: two registries, three nodes, two clients, in this order.
pub struct Field {
    switch: Switch,
    folder: TempDir,
    registries: Vec<Option<RegistryProcess>>,
    nodes: Vec<Option<NodeProcess>>,
    workers: Vec<Worker>,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Field {
    pub(super) const REGISTRIES: Range<usize> = 0..2;
    pub(super) const NODES: Range<usize> = 2..5;
    pub(super) const CLIENTS: Range<usize> = 5..7;
    pub(super) const HOSTS: usize = 7;

    pub(super) async fn new(plan: &Plan) -> Result<Self, TormentError> {
        let switch = Switch::new(Self::HOSTS, Shape::default(), plan.seed)?;
        let folder = tempfile::tempdir().map_err(TormentError::io("making a folder"))?;
        let config = folder.path().join("ltq.toml");
        std::fs::write(&config, CONFIG).map_err(TormentError::io("writing a configuration"))?;
        let config = folder.path().join("registry.toml");
        std::fs::write(&config, REGISTRY_CONFIG)
            .map_err(TormentError::io("writing a configuration"))?;
        let (registries, nodes) = (Self::REGISTRIES.len(), Self::NODES.len());
        let mut field = Self {
            switch,
            folder,
            registries: (0..registries).map(|_| None).collect(),
            nodes: (0..nodes).map(|_| None).collect(),
            workers: Vec::new(),
        };
        for host in 0..Self::CLIENTS.start {
            field.start(host).await?;
        }
        for host in Self::CLIENTS {
            field.work(host, plan).await?;
        }
        Ok(field)
    }

    pub(super) fn name(host: usize) -> String {
        for (letter, range) in [('r', Self::REGISTRIES), ('n', Self::NODES), ('c', Self::CLIENTS)] {
            if range.contains(&host) {
                return format!("{letter}{}", host - range.start + 1);
            }
        }
        format!("host {host}")
    }

    fn at(&self, host: usize, port: u16) -> Address {
        Address::new("tcp", format!("{}:{port}", self.switch.host(host).address()))
    }

    fn registry_flags(&self) -> Vec<String> {
        let at = Self::REGISTRIES.map(|host| self.at(host, REGISTRY_PORT).to_string());
        at.flat_map(|address| ["--registry".to_owned(), address]).collect()
    }

    /// Starts what belongs on a host, if it does not run.
    pub(super) async fn start(&mut self, host: usize) -> Result<(), TormentError> {
        let doing = || format!("starting {}", Self::name(host));
        let command = self.switch.host(host).command(binary("ltq-node"));
        if Self::REGISTRIES.contains(&host) {
            let listen = self.at(host, REGISTRY_PORT);
            let place = &mut self.registries[host - Self::REGISTRIES.start];
            if place.is_none() {
                let config = self.folder.path().join("registry.toml");
                let config = config.to_string_lossy().into_owned();
                let more = ["--config", &config];
                let started = RegistryProcess::start_by(command, &listen, &more).await;
                *place = Some(started.map_err(TormentError::io(doing()))?);
            }
        } else if Self::NODES.contains(&host) {
            let (listen, name) = (self.at(host, NODE_PORT), Self::name(host));
            let config = self.folder.path().join("ltq.toml").to_string_lossy().into_owned();
            let flags = self.registry_flags();
            let mut more = vec!["--node", &name, "--config", &config];
            more.extend(flags.iter().map(String::as_str));
            let data = self.folder.path().join(&name);
            let place = &mut self.nodes[host - Self::NODES.start];
            if place.is_none() {
                let started = NodeProcess::start_by(command, &data, &listen, &more).await;
                *place = Some(started.map_err(TormentError::io(doing()))?);
            }
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, host: usize) -> Result<(), TormentError> {
        let doing = format!("killing {}", Self::name(host));
        let killed = if Self::REGISTRIES.contains(&host) {
            match self.registries[host - Self::REGISTRIES.start].take() {
                Some(registry) => registry.kill().await,
                None => Ok(()),
            }
        } else {
            match self.nodes[host - Self::NODES.start].take() {
                Some(node) => node.kill().await,
                None => Ok(()),
            }
        };
        killed.map_err(TormentError::io(doing))
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn pause(&self, host: usize, paused: bool) -> Result<(), TormentError> {
        let doing = format!("pausing {}", Self::name(host));
        let done = if Self::REGISTRIES.contains(&host) {
            let registry = self.registries[host - Self::REGISTRIES.start].as_ref();
            registry.map_or(Ok(()), |registry| registry.pause(paused))
        } else {
            let node = self.nodes[host - Self::NODES.start].as_ref();
            node.map_or(Ok(()), |node| node.pause(paused))
        };
        done.map_err(TormentError::io(doing))
    }

    /// SIGTERM, which drains; whatever is left after a while is kept.
    pub(super) async fn drain(&mut self, host: usize) -> Result<(), TormentError> {
        let doing = format!("draining {}", Self::name(host));
        if let Some(node) = self.nodes[host - Self::NODES.start].take() {
            let ended = node.terminate().await.map_err(TormentError::io(doing.clone()))?;
            if !ended.success() {
                return Err(TormentError::io(doing)(io::Error::other(format!(
                    "it ended by {ended}"
                ))));
            }
        }
        Ok(())
    }

    pub(super) fn way(&self, from: usize, to: usize, shape: Shape) {
        self.switch.reshape(from, to, shape);
    }

    pub(super) fn all_ways(&self, host: usize, shape: Shape) {
        for other in 0..Self::HOSTS {
            self.way(host, other, shape);
            self.way(other, host, shape);
        }
    }

    async fn work(&mut self, host: usize, plan: &Plan) -> Result<(), TormentError> {
        let doing = || TormentError::io("starting a worker");
        let (name, flags) = (Self::name(host), self.registry_flags());
        let mut command = Command::from(self.switch.host(host).command(&plan.worker));
        command.args(["worker", "--name", &name, "--rate", &plan.rate.to_string(), "--journal"]);
        command.arg(self.journal(host)).args(flags);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().map_err(doing())?;
        let no = || io::Error::other("no pipe");
        let input = child.stdin.take().ok_or_else(no).map_err(doing())?;
        let output = child.stdout.take().ok_or_else(no).map_err(doing())?;
        let mut worker = Worker { child, input, output: BufReader::new(output).lines() };
        worker.hears("ready").await?;
        self.workers.push(worker);
        Ok(())
    }

    fn journal(&self, host: usize) -> std::path::PathBuf {
        self.folder.path().join(format!("{}.journal", Self::name(host)))
    }

    /// All is well again, and everything runs.
    pub(super) async fn mend(&mut self) -> Result<(), TormentError> {
        self.switch.heal();
        for host in 0..Self::CLIENTS.start {
            self.start(host).await?;
        }
        Ok(())
    }

    /// Lets producers come to their end, waits until consumers have what was confirmed, and reads what
    /// all of them wrote.
    pub(super) async fn settle(mut self) -> Result<Account, TormentError> {
        for worker in &mut self.workers {
            worker.tell("quiet").await?;
            worker.hears("quiet").await?;
        }
        let journals: Vec<_> = Self::CLIENTS.map(|host| self.journal(host)).collect();
        let read = || read(&journals);
        let consumed = timeout(SETTLE_MAX, async {
            loop {
                // Empty nodes have nothing more that could come: neither twice nor what nobody published.
                if read()?.missing() == 0 && self.backlog().await? == 0 {
                    return read();
                }
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        });
        let account = match consumed.await {
            Ok(account) => account?,
            // The account says what is missing.
            Err(_) => read()?,
        };
        for worker in &mut self.workers {
            worker.tell("end").await?;
            let ended = timeout(WORD_MAX, worker.child.wait()).await;
            let ended = ended.map_err(|_| io::Error::other("it does not end"));
            let ended = ended.and_then(|it| it).map_err(TormentError::io("ending a worker"))?;
            if !ended.success() {
                let why = io::Error::other(format!("it ended by {ended}"));
                return Err(TormentError::io("ending a worker")(why));
            }
        }
        if account.missing() > 0 {
            self.show_nodes();
        }
        Ok(account)
    }

    /// What all nodes have still to deliver, or are not acked for.
    async fn backlog(&self) -> Result<u64, TormentError> {
        let mut left = 0;
        for host in Self::NODES {
            let mut command = self.switch.host(Self::CLIENTS.start).command(binary("ltq"));
            command.args(["stats", "--json", "--server", &self.at(host, NODE_PORT).to_string()]);
            let doing = || TormentError::io(format!("asking {} for its figures", Self::name(host)));
            let output = Command::from(command).output().await.map_err(doing())?;
            let stats: Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| doing()(io::Error::other(error)))?;
            let topics = stats["topics"].as_array().into_iter().flatten();
            for channel in topics.filter_map(|topic| topic["channels"].as_array()).flatten() {
                let states = ["waiting", "delayed", "in_flight"];
                left += states.iter().filter_map(|state| channel[state].as_u64()).sum::<u64>();
            }
        }
        Ok(left)
    }

    /// For whoever looks for what is missing: where it still lies.
    fn show_nodes(&self) {
        for host in Self::NODES {
            println!("{} listens on {}", Self::name(host), self.at(host, NODE_PORT));
        }
    }
}

fn read(journals: &[impl AsRef<Path>]) -> Result<Account, TormentError> {
    let mut account = Account::default();
    for journal in journals {
        let text =
            std::fs::read_to_string(journal).map_err(TormentError::io("reading a journal"))?;
        account.read(&text);
    }
    Ok(account)
}

impl Worker {
    async fn tell(&mut self, word: &str) -> Result<(), TormentError> {
        let told = self.input.write_all(format!("{word}\n").as_bytes()).await;
        told.map_err(TormentError::io(format!("telling a worker to {word}")))
    }

    async fn hears(&mut self, word: &str) -> Result<(), TormentError> {
        let doing = format!("waiting until a worker is {word}");
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it says nothing");
        let line = timeout(WORD_MAX, self.output.next_line()).await.map_err(late);
        match line.and_then(|line| line).map_err(TormentError::io(doing.clone()))? {
            Some(line) if line == word => Ok(()),
            said => Err(TormentError::io(doing)(io::Error::other(format!("it said {said:?}")))),
        }
    }
}

/// Peers that are gone without a word are found out within three heartbeats.
const CONFIG: &str = "allow_unauthenticated = true\n[limits]\nheartbeat = \"500ms\"\n[drain]\non_signal = true\ntimeout = \"2s\"\n\
                      [delivery]\ntimeout = \"5s\"\n";
/// Whoever is suspected is forgotten within seconds.
const REGISTRY_CONFIG: &str = "allow_unauthenticated = true\nheartbeat = \"300ms\"\n";
const REGISTRY_PORT: u16 = 7450;
const NODE_PORT: u16 = 7440;
/// What a worker may take to say a word: longer than any publish.
const WORD_MAX: Duration = Duration::from_secs(40);
/// What consumers may take to have everything when all is well again.
const SETTLE_MAX: Duration = Duration::from_secs(60);
const LOOK_PAUSE: Duration = Duration::from_millis(200);
