use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    os::fd::AsFd as _,
    path::Path,
    process::{Command, Stdio},
    thread::{self, JoinHandle},
};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tun_rs::{DeviceBuilder, SyncDevice};

use super::Unavailable;

/// A host: a network namespace. Dropped, it is there no longer than what runs on it.
pub struct Host {
    name: String,
    device: String,
    address: Ipv4Addr,
    congestion: Option<String>,
}

impl Host {
    pub(super) fn new(name: &str, device: &str, address: Ipv4Addr) -> Result<Self, Unavailable> {
        ip(&["netns", "add", name])?;
        // From here on it is deleted whatever fails.
        let (name, device) = (name.to_owned(), device.to_owned());
        Ok(Self { name, device, address, congestion: None })
    }

    /// Its device, which is its only way out. Whoever holds it is the network.
    pub(super) fn device(&self) -> Result<SyncDevice, Unavailable> {
        let (name, device) = (self.name.as_str(), self.device.as_str());
        let made = DeviceBuilder::new().name(device).enable(false).build_sync();
        let made = made.map_err(|source| Unavailable::new("making a TUN device", source))?;
        made.set_nonblocking(true)
            .map_err(|source| Unavailable::new("setting up a TUN device", source))?;
        ip(&["link", "set", "dev", device, "mtu", MTU, "netns", name])?;
        ip(&["-n", name, "link", "set", "dev", "lo", "up"])?;
        ip(&["-n", name, "address", "add", &on_network(self.address), "dev", device])?;
        ip(&["-n", name, "link", "set", "dev", device, "up"])?;
        Ok(made)
    }

    /// Its address.
    #[must_use]
    pub const fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// A program that runs there, with its arguments to be added.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program);
        command
    }

    /// Runs something on a thread of its own on this host: what sockets it makes, and those of the threads and
    /// programs that it starts, are the host's.
    ///
    /// # Errors
    /// There is no thread for it; joined, that the host cannot be entered.
    pub fn run<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<Result<T, Unavailable>>, Unavailable> {
        let entering = |source: io::Error| Unavailable::new("entering a network namespace", source);
        let namespace = File::open(Path::new(NAMESPACES).join(&self.name)).map_err(entering)?;
        let on_host = move || {
            let network = Some(LinkNameSpaceType::Network);
            let entered = move_into_link_name_space(namespace.as_fd(), network);
            entered.map_err(|errno| entering(errno.into()))?;
            Ok(run())
        };
        let thread = thread::Builder::new().name("on a host".to_owned());
        thread.spawn(on_host).map_err(|source| Unavailable::new("starting a thread", source))
    }

    /// Every address of this network, `10.80.0.0/18` say, is its own from now on: whoever binds to one has it.
    pub(super) fn own(&self, network: &str) -> Result<(), Unavailable> {
        ip(&["-n", &self.name, "route", "add", "local", network, "dev", "lo"])
    }

    /// What goes to this network goes out by its device from now on.
    pub(super) fn send_out(&self, network: &str) -> Result<(), Unavailable> {
        ip(&["-n", &self.name, "route", "add", network, "dev", &self.device])
    }

    /// By what TCP judges from now on how fast it may send: `cubic`, say, or `bbr`.
    pub(super) fn set_tcp_congestion(&mut self, control: &str) -> Result<(), Unavailable> {
        self.congestion = Some(control.to_owned());
        self.route()
    }

    fn route(&self) -> Result<(), Unavailable> {
        let Some(control) = &self.congestion else { return Ok(()) };
        let (name, device) = (self.name.as_str(), self.device.as_str());
        let [a, b, c, _] = self.address.octets();
        let network = on_network(Ipv4Addr::new(a, b, c, 0));
        // A namespace takes only what the whole machine allows; its routes take any that is there.
        let route = ["-n", name, "route", "replace", &network, "dev", device, "proto", "kernel"];
        let from = ["scope", "link", "src", &self.address.to_string(), "congctl", control];
        ip(&[&route[..], &from].concat())
    }

    pub(super) fn readdress(&mut self, to: Ipv4Addr) -> Result<(), Unavailable> {
        let (name, device) = (self.name.as_str(), self.device.as_str());
        ip(&["-n", name, "address", "add", &on_network(to), "dev", device])?;
        ip(&["-n", name, "address", "delete", &on_network(self.address), "dev", device])?;
        // With the old address went the addresses that came second, and the route.
        ip(&["-n", name, "address", "replace", &on_network(to), "dev", device])?;
        self.address = to;
        self.route()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Left behind it does no harm but to be seen.
        let _ = ip(&["netns", "delete", &self.name]);
    }
}

fn on_network(address: Ipv4Addr) -> String {
    format!("{address}/24")
}

fn ip(arguments: &[&str]) -> Result<(), Unavailable> {
    let doing = || format!("ip {}", arguments.join(" "));
    let output = Command::new("ip").args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|source| Unavailable::new(doing(), source))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Unavailable::new(doing(), io::Error::other(said)))
}

/// Where `ip` keeps them, by name.
const NAMESPACES: &str = "/var/run/netns";
/// That of Ethernet.
const MTU: &str = "1500";
