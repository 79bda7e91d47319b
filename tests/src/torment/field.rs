use std::{collections::BTreeMap, fs::OpenOptions, io, path::PathBuf, process, time::Duration};

use ltq_core::Address;
use ltq_transport::SelfSigned;
use tempfile::TempDir;
use tokio::process::Command;

use super::{
    Plan, Setting, TormentError,
    account::Loss,
    clock::{self, Clock, Clocks},
    device::Device,
    disk::Disk,
    fault::Can,
    role::{Role, Roles},
    running::{Running, Worker},
    worker::{Over, TOKEN, topics, uptime_ms},
};
use crate::{
    BridgeProcess, NodeProcess, RegistryProcess,
    bad_network::{Shape, Switch},
    binary,
};

/// All hosts, and what runs on them.
pub(super) struct Field {
    /// Dropped first, as what runs there has files open on devices.
    pub(super) hosts: Vec<OnHost>,
    /// Of the nodes, by their hosts, where they have one. Unmounted before the folder goes.
    devices: BTreeMap<usize, Device>,
    pub(super) folder: TempDir,
    plan: Plan,
    roles: Roles,
    switch: Switch,
    clocks: Option<Clocks>,
    certificate: SelfSigned,
    ends: Ends,
    /// What devices that refused writes may have lost; the last one goes on until its node is started again.
    losses: Vec<Loss>,
}

/// How programs ended, by their names.
pub(super) type Ends = BTreeMap<String, Vec<End>>;

/// How a program ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    /// For how many milliseconds the machine had run.
    pub(super) at: u64,
    pub(super) is_kill: bool,
}

/// What there is of one host.
pub(super) struct OnHost {
    clock: Clock,
    pub(super) running: Option<Running>,
    /// The processes that its program was so far.
    pids: Vec<u32>,
}

impl Drop for OnHost {
    fn drop(&mut self) {
        self.pids.iter().copied().for_each(clock::forget);
    }
}

impl Field {
    /// The hosts. Nothing runs on them yet.
    pub(super) fn new(plan: &Plan) -> Result<Self, TormentError> {
        let roles = match plan.setting {
            Setting::Cluster => Roles::CLUSTER,
            Setting::Mesh => Roles::MESH,
        };
        let switch = Switch::new(roles.count(), Shape::default(), plan.seed)?;
        let folder = tempfile::tempdir().map_err(TormentError::io("making a folder"))?;
        let addresses: Vec<_> =
            (0..roles.count()).map(|host| switch.host(host).address().to_string()).collect();
        let names: Vec<_> = addresses.iter().map(String::as_str).collect();
        let certificate = ltq_transport::self_signed(&names).map_err(io::Error::other);
        let certificate = certificate.map_err(TormentError::io("making a certificate"))?;
        for (name, text) in [
            ("ltq.toml", CONFIG),
            ("registry.toml", &registry_config(plan.forgotten_after)),
            ("certificate.pem", &certificate.certificate),
            ("key.pem", &certificate.key),
        ] {
            let written = std::fs::write(folder.path().join(name), text);
            written.map_err(TormentError::io(format!("writing {name}")))?;
        }
        let clocks = Clocks::find();
        let hosts = (0..roles.count())
            .map(|host| {
                let file = folder.path().join(format!("{}.clock", roles.name(host)));
                let clock = Clock::new(clocks.clone(), file)?;
                Ok(OnHost { clock, running: None, pids: Vec::new() })
            })
            .collect::<io::Result<_>>()
            .map_err(TormentError::io("setting a clock"))?;
        let mut devices = BTreeMap::new();
        for host in [Role::Node, Role::Destination].into_iter().flat_map(|role| roles.hosts(role)) {
            if super::has_devices() {
                let at = folder.path().join(format!("{}.device", roles.name(host)));
                let on_disk = roles.with_disk() == Some(host) && super::has_disks();
                let device = if on_disk { Device::on_disk(&at) } else { Device::new(at) };
                let device = device.map_err(TormentError::io("making a device"))?;
                devices.insert(host, device);
            }
        }
        let plan = plan.clone();
        let (ends, losses) = (Ends::new(), Vec::new());
        Ok(Self { devices, folder, plan, roles, switch, clocks, certificate, hosts, ends, losses })
    }

    /// Starts everything, and waits until all of it works.
    pub(super) async fn start_all(&mut self) -> Result<(), TormentError> {
        for role in [Role::Registry, Role::Node, Role::Destination, Role::Program] {
            for host in self.roles.hosts(role) {
                self.start(host).await?;
            }
        }
        if !self.roles.hosts(Role::Bridge).is_empty() {
            // What was consumed before the bridge has a place there would be gone.
            self.make_channels().await?;
        }
        for role in [Role::Bridge, Role::Client] {
            for host in self.roles.hosts(role) {
                self.start(host).await?;
            }
        }
        for host in 0..self.roles.count() {
            self.ready(host).await?;
        }
        Ok(())
    }

    pub(super) const fn roles(&self) -> &Roles {
        &self.roles
    }

    /// How long there is trouble.
    pub(super) const fn lasts(&self) -> Duration {
        self.plan.lasts
    }

    /// What can be made to go wrong here.
    pub(super) fn can(&self) -> Can {
        Can {
            step_clocks: self.clocks.is_some(),
            fill: !self.devices.is_empty(),
            refuse_writes: self.devices.values().any(|device| device.disk().is_ok()),
        }
    }

    /// Logs, journals and what nodes have stay where they are.
    pub(super) fn keep(&mut self) -> io::Result<()> {
        self.folder.disable_cleanup(true);
        for (host, device) in &self.devices {
            device.keep(&self.folder.path().join(self.roles.name(*host)))?;
        }
        Ok(())
    }

    pub(super) fn at(&self, host: usize, scheme: &str) -> Address {
        let port = match (self.roles.of(host), scheme) {
            (Role::Registry, _) => 7450,
            (Role::Program, "tls") => 7461,
            (Role::Program, "quic") => 7462,
            (Role::Program, _) => 7460,
            (_, "tls") => 7442,
            (_, "quic") => 7443,
            _ => 7440,
        };
        Address::new(scheme, format!("{}:{port}", self.switch.host(host).address()))
    }

    fn registry_flags(&self, flag: &str) -> Vec<String> {
        let at = self.roles.hosts(Role::Registry).map(|host| self.at(host, "tcp").to_string());
        at.flat_map(|address| [flag.to_owned(), address]).collect()
    }

    pub(super) fn file(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    pub(super) fn journal(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("{}.journal", self.roles.name(host)))
    }

    pub(super) fn log(&self, host: usize) -> PathBuf {
        self.folder.path().join(format!("{}.log", self.roles.name(host)))
    }

    /// Starts what belongs on a host, if it does not run.
    pub(super) async fn start(&mut self, host: usize) -> Result<(), TormentError> {
        if self.hosts[host].running.is_some() {
            return Ok(());
        }
        let doing = format!("starting {}", self.roles.name(host));
        let running = self.started(host).await.map_err(TormentError::io(doing))?;
        let of = &mut self.hosts[host];
        of.pids.extend(running.pid());
        of.running = Some(running);
        Ok(())
    }

    async fn started(&self, host: usize) -> io::Result<Running> {
        let (name, role) = (self.roles.name(host), self.roles.of(host));
        let program = match role {
            Role::Client | Role::Program => self.plan.worker.clone(),
            _ => binary("ltq-node"),
        };
        let mut command = self.hosts[host].clock.command(self.switch.host(host), program);
        command.stderr(OpenOptions::new().create(true).append(true).open(self.log(host))?);
        let listen = self.at(host, "tcp");
        Ok(match role {
            Role::Registry => {
                let more = ["--config", &self.file("registry.toml")];
                Running::Registry(RegistryProcess::start_by(command, &listen, &more).await?)
            }
            Role::Node | Role::Destination => {
                let mut more = vec!["--node".to_owned(), name.clone()];
                more.extend(["--config".to_owned(), self.file("ltq.toml")]);
                if role == Role::Node {
                    let (certificate, key) = (self.file("certificate.pem"), self.file("key.pem"));
                    more.extend(["--tls-certificate".to_owned(), certificate]);
                    more.extend(["--tls-key".to_owned(), key]);
                    for scheme in ["tls", "quic"] {
                        more.extend(["--listen".to_owned(), self.at(host, scheme).to_string()]);
                    }
                    more.extend(self.registry_flags("--registry"));
                }
                let mut more: Vec<_> = more.iter().map(String::as_str).collect();
                more.extend(["--token", TOKEN]);
                let data = self.devices.get(&host).map(Device::data);
                let data = data.unwrap_or_else(|| self.folder.path().join(&name));
                Running::Node(NodeProcess::start_by(command, &data, &listen, &more).await?)
            }
            Role::Bridge => {
                let to = self.at(self.roles.hosts(Role::Destination).start, "tcp").to_string();
                let mut more = self.registry_flags("--from-registry");
                more.extend(["--to", &to, "--topic", "*", "--exclude"].map(str::to_owned));
                more.push(format!("{PROBE}*"));
                more.extend(["--from-site", "here", "--to-site", "there"].map(str::to_owned));
                let more: Vec<_> = more.iter().map(String::as_str).collect();
                let variables = [
                    ("LTQ_BRIDGE_REFRESH", "500ms"),
                    ("LTQ_BRIDGE_FROM_TOKEN", TOKEN),
                    ("LTQ_BRIDGE_TO_TOKEN", TOKEN),
                ];
                Running::Bridge(BridgeProcess::start_by(command, &more, &variables).await?)
            }
            Role::Client => {
                let lives = self.hosts[host].pids.len();
                // Others each time, and for both ways.
                let turn = lives + host - self.roles.hosts(role).start;
                command.args(["worker", "--name", &name, "--life", &lives.to_string()]);
                let ways = turn + self.plan.seed as usize;
                command.args(["--turn", &ways.to_string()]);
                command.args(["--rate", &self.plan.rate.to_string(), "--journal"]);
                command.arg(self.journal(host)).args(self.registry_flags("--registry"));
                command.args(["--fingerprint", &self.certificate.fingerprint.to_string()]);
                command.args(["--publish-over", Over::nth(turn)]);
                command.args(["--consume-over", Over::nth(turn + 1)]);
                Running::Worker(Worker::start(command)?)
            }
            Role::Program => {
                let lives = self.hosts[host].pids.len();
                // Another each time, and for each of them.
                let turn = lives + host - self.roles.hosts(role).start;
                let over = self.plan.over.map_or_else(|| Over::nth(turn), Over::scheme);
                let life = lives.to_string();
                command.args(["program", "--name", &name, "--life", &life, "--rate"]);
                command.arg(self.plan.rate.to_string());
                for scheme in ["tcp", "tls", "quic"] {
                    command.args(["--listen", &self.at(host, scheme).to_string()]);
                }
                command.args(["--certificate", &self.file("certificate.pem")]);
                command.args(["--key", &self.file("key.pem")]);
                command.args(["--fingerprint", &self.certificate.fingerprint.to_string()]);
                for other in self.roles.hosts(Role::Program).filter(|other| *other != host) {
                    let peer = format!("{}={}", self.roles.name(other), self.at(other, over));
                    command.args(["--peer", &peer]);
                }
                command.arg("--data").arg(self.folder.path().join(&name));
                command.arg("--journal").arg(self.journal(host));
                Running::Worker(Worker::start(command)?)
            }
        })
    }

    /// Waits until a worker has opened everything.
    pub(super) async fn ready(&mut self, host: usize) -> Result<(), TormentError> {
        let doing = format!("waiting for {}", self.roles.name(host));
        match self.hosts[host].running.as_mut().and_then(Running::worker) {
            Some(worker) => worker.ready().await.map_err(TormentError::io(doing)),
            None => Ok(()),
        }
    }

    /// When programs ended so far.
    pub(super) const fn ends(&self) -> &Ends {
        &self.ends
    }

    /// What devices may have lost so far.
    pub(super) fn losses(&self) -> &[Loss] {
        &self.losses
    }

    fn ends_now(&mut self, host: usize, is_kill: bool) -> Result<(), TormentError> {
        let at = uptime_ms().map_err(TormentError::io("asking for the time"))?;
        self.ends.entry(self.roles.name(host)).or_default().push(End { at, is_kill });
        Ok(())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, host: usize) -> Result<(), TormentError> {
        self.ends_now(host, true)?;
        let doing = format!("killing {}", self.roles.name(host));
        match self.hosts[host].running.take() {
            Some(running) => running.kill().await.map_err(TormentError::io(doing)),
            None => Ok(()),
        }
    }

    /// SIGSTOP, or SIGCONT.
    pub(super) fn pause(&self, host: usize, paused: bool) -> Result<(), TormentError> {
        let doing = format!("pausing {}", self.roles.name(host));
        match &self.hosts[host].running {
            Some(running) => running.pause(paused).map_err(TormentError::io(doing)),
            None => Ok(()),
        }
    }

    /// SIGTERM, which drains a node; whatever is left after a while is kept.
    pub(super) async fn drain(&mut self, host: usize) -> Result<(), TormentError> {
        self.ends_now(host, false)?;
        let doing = format!("draining {}", self.roles.name(host));
        match self.hosts[host].running.take() {
            Some(running) => running.terminate().await.map_err(TormentError::io(doing)),
            None => Ok(()),
        }
    }

    /// SIGTERM, and SIGKILL when it has begun to drain.
    pub(super) async fn drain_and_kill(&mut self, host: usize) -> Result<(), TormentError> {
        let doing = format!("stopping {}", self.roles.name(host));
        if let Some(running) = &self.hosts[host].running {
            running.ask_to_end().map_err(TormentError::io(doing))?;
        }
        tokio::time::sleep(DRAINED_FOR).await;
        self.kill(host).await
    }

    /// Takes all room from the device of a node, or gives it back.
    pub(super) fn fill(&self, host: usize, is_full: bool) -> Result<(), TormentError> {
        let doing = format!("filling the device of {}", self.roles.name(host));
        self.device(host).and_then(|device| device.fill(is_full)).map_err(TormentError::io(doing))
    }

    fn device(&self, host: usize) -> io::Result<&Device> {
        self.devices.get(&host).ok_or_else(|| io::Error::other("it has no device"))
    }

    /// The device of a node takes no writes from now on.
    pub(super) fn refuse_writes(&mut self, host: usize) -> Result<(), TormentError> {
        let node = self.roles.name(host);
        let doing = format!("having the device of {node} refuse writes");
        let from = uptime_ms().map_err(TormentError::io("asking for the time"))?;
        self.losses.push(Loss { node, from, to: u64::MAX });
        let disk = self.device(host).and_then(Device::disk);
        disk.and_then(Disk::refuse_writes).map_err(TormentError::io(doing))
    }

    /// Does as an operator does about a device that refuses writes, once the node has said that its own does: the
    /// node is killed, and started again when the device is well.
    pub(super) async fn replace_device(&mut self, host: usize) -> Result<(), TormentError> {
        let name = self.roles.name(host);
        let said = self.says_store_failed(host).await;
        let why =
            said.map_err(TormentError::io(format!("waiting for {name} to say what it has")))?;
        println!("         {name} says: {why}");
        self.kill(host).await?;
        let healed = self.device(host).and_then(Device::disk).and_then(Disk::heal);
        healed.map_err(TormentError::io(format!("mending the device of {name}")))?;
        self.start(host).await?;
        let to = uptime_ms().map_err(TormentError::io("asking for the time"))?;
        self.losses
            .iter_mut()
            .filter(|loss| loss.node == name)
            .for_each(|it| it.to = it.to.min(to));
        Ok(())
    }

    /// What a node says of its store that takes nothing any more.
    async fn says_store_failed(&self, host: usize) -> io::Result<String> {
        let server = self.at(host, "tcp").to_string();
        let until = tokio::time::Instant::now() + crate::DEADLINE;
        loop {
            // As somebody on its host sees it.
            let stats = self.ltq(host, &["stats", "--json", "--server", &server]).await?;
            let stats: serde_json::Value = serde_json::from_slice(&stats)?;
            match stats["store_failure"].as_str() {
                Some(why) if WRITE_ERRORS.iter().any(|error| why.contains(error)) => {
                    return Ok(why.to_owned());
                }
                other if tokio::time::Instant::now() > until => {
                    return Err(io::Error::other(format!("it says {other:?} of its store")));
                }
                _ => tokio::time::sleep(super::LOOK_PAUSE).await,
            }
        }
    }

    /// Somebody on a host tries wrong tokens at every node.
    pub(super) async fn knock(&self, host: usize) -> Result<(), TormentError> {
        let mut arguments = vec!["knock".to_owned()];
        for node in self.roles.hosts(Role::Node) {
            arguments.extend(["--server".to_owned(), self.at(node, "tcp").to_string()]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let doing = format!("trying wrong tokens from {}", self.roles.name(host));
        self.errand_on(host, &arguments).await.map_err(TormentError::io(doing))
    }

    pub(super) fn way(&self, from: usize, to: usize, shape: Shape) {
        self.switch.reshape(from, to, shape);
    }

    pub(super) fn all_ways(&self, host: usize, shape: Shape) {
        for other in 0..self.roles.count() {
            self.way(host, other, shape);
            self.way(other, host, shape);
        }
    }

    /// All is well again but clocks, and everything runs.
    pub(super) async fn mend(&mut self) -> Result<(), TormentError> {
        self.switch.heal();
        for host in 0..self.roles.count() {
            self.start(host).await?;
        }
        for host in 0..self.roles.count() {
            self.ready(host).await?;
        }
        Ok(())
    }

    /// The wall clock of what runs there is wrong by so many seconds from now on; says so where it is not.
    pub(super) async fn step(&mut self, host: usize, offset: i64) -> Result<(), TormentError> {
        let doing = format!("stepping the clock of {} to {offset:+} s", self.roles.name(host));
        let stepped = self.hosts[host].clock.set(offset);
        stepped.map_err(TormentError::io(doing.clone()))?;
        self.check_clock(host).await.map_err(TormentError::io(doing))
    }

    async fn check_clock(&mut self, host: usize) -> io::Result<()> {
        let of = &mut self.hosts[host];
        let Some(running) = of.running.as_mut() else { return Ok(()) };
        let maps = format!("/proc/{}/maps", running.pid().unwrap_or_default());
        if !std::fs::read_to_string(maps)?.contains("libfaketime") {
            return Err(io::Error::other("it goes by the clock of the machine"));
        }
        if let Some(worker) = running.worker() {
            let shown = worker.ask("time").await?.parse().map_err(io::Error::other)?;
            return of.clock.check(shown, false);
        }
        match self.roles.of(host) {
            Role::Node | Role::Destination => {
                let shown = self.time_of_node(host).await?;
                self.hosts[host].clock.check(shown, false)
            }
            Role::Registry => self.check_registry(host).await,
            // Nothing that it says has a time.
            _ => Ok(()),
        }
    }

    /// When a node says that it has taken in a message.
    async fn time_of_node(&self, host: usize) -> io::Result<i64> {
        let topic = format!("{PROBE}{}", self.roles.name(host));
        let server = self.at(host, "tcp").to_string();
        self.ltq(host, &["pub", "--server", &server, &topic, "tick"]).await?;
        let take = ["sub", "--server", &server, &topic, "probe", "--count", "1"];
        let told = self.ltq(host, &[&take[..], &["--format", "json"]].concat()).await?;
        let message: serde_json::Value = serde_json::from_slice(&told)?;
        message["time"].as_i64().ok_or_else(|| io::Error::other("its message has no time"))
    }

    /// A registry logs that a session ended.
    async fn check_registry(&self, host: usize) -> io::Result<()> {
        self.ltq(host, &["nodes", "--registry", &self.at(host, "tcp").to_string()]).await?;
        let until = tokio::time::Instant::now() + crate::DEADLINE;
        loop {
            let log = std::fs::read_to_string(self.log(host))?;
            let none = || io::Error::other("its log has no time");
            let shown = clock::time_of_last_line(&log).ok_or_else(none);
            match shown.and_then(|shown| self.hosts[host].clock.check(shown, true)) {
                Err(_) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(super::LOOK_PAUSE).await;
                }
                checked => return checked,
            }
        }
    }

    /// What `ltq` says on a host, whose clock is right.
    pub(super) async fn ltq(&self, host: usize, arguments: &[&str]) -> io::Result<Vec<u8>> {
        let mut command = self.switch.host(host).command(binary("ltq"));
        command.args(arguments);
        if arguments.contains(&"--server") {
            command.args(["--token", TOKEN]);
        }
        output(command, crate::DEADLINE * 2).await
    }

    /// What our own program does on the first client's host.
    pub(super) async fn errand(&self, arguments: &[&str]) -> io::Result<()> {
        self.errand_on(self.roles.hosts(Role::Client).start, arguments).await
    }

    async fn errand_on(&self, host: usize, arguments: &[&str]) -> io::Result<()> {
        let mut command = self.switch.host(host).command(&self.plan.worker);
        command.arg("errand").args(arguments);
        // It gives up by itself where nothing comes; with much to collect it takes longer.
        output(command, crate::DEADLINE * 2 + self.lasts()).await.map(drop)
    }

    async fn make_channels(&self) -> Result<(), TormentError> {
        let names: Vec<_> =
            self.roles.hosts(Role::Client).map(|host| self.roles.name(host)).collect();
        let mut arguments: Vec<String> = vec!["channels".into()];
        arguments.extend(["--channel".into(), "bridge.bridge".into()]);
        for topic in topics(names.iter().map(String::as_str)) {
            arguments.extend(["--topic".into(), topic]);
        }
        for host in self.roles.hosts(Role::Node) {
            arguments.extend(["--server".into(), self.at(host, "tcp").to_string()]);
        }
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        self.errand(&arguments).await.map_err(TormentError::io("making channels"))
    }
}

async fn output(mut command: process::Command, within: Duration) -> io::Result<Vec<u8>> {
    command.stdin(process::Stdio::null()).stdout(process::Stdio::piped());
    command.stderr(process::Stdio::piped());
    let mut command = Command::from(command);
    command.kill_on_drop(true);
    let output = tokio::time::timeout(within, command.output()).await;
    let output = output.map_err(|_| io::Error::other("it takes too long"))??;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("it ended by {}: {said}", output.status)))
}

/// Peers that are gone without a word are found out within three heartbeats. Whoever shares an address with one that
/// tries wrong tokens waits for seconds.
const CONFIG: &str = "[limits]\nheartbeat = \"500ms\"\nlockout_max = \"2s\"\n[drain]\non_signal = true\ntimeout = \"2s\"\n\
                      [delivery]\ntimeout = \"5s\"\n";
/// Sessions that end are logged.
fn registry_config(forgotten_after: u32) -> String {
    format!(
        "allow_unauthenticated = true\nheartbeat = \"300ms\"\nforgotten_after = {forgotten_after}\n\
         log_level = \"debug\"\n"
    )
}

/// How the kernel says that a device failed, or that a file system takes nothing any more for that.
const WRITE_ERRORS: [&str; 2] = ["Input/output error", "Read-only file system"];
/// How long a node drains that is killed then: less than it may take.
const DRAINED_FOR: Duration = Duration::from_millis(300);
/// What topics are called of which nothing is asked but the time.
pub(super) const PROBE: &str = "clock-";
