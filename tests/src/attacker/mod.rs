//! Hostile peers of a node, and honest ones beside them.
//!
//! An [`Attacker`] speaks the protocol wrong in every way that it can make up from a seed, over TCP,
//! TLS and QUIC, before its hello and after one that was let in; [`Kind`] lists the ways. [`Siege`]
//! starts a real node, has [honest clients](honest) publish and consume on it all the while, lets
//! the attackers at it, and then looks for what they may have left behind or taken away.

mod by_address;
mod datagrams;
mod elsewhere;
pub mod honest;
mod kinds;
mod line;
mod node;
mod siege;
mod speaking;
mod streams;
mod words;

pub use by_address::{Answered, Greeting, OverQuic, Stranger};
pub use kinds::Kind;
pub use node::{Besieged, Held};
pub use siege::{Bound, Report, Siege};

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ltq_core::{Address, Transport};
use ltq_transport::{ClientTrust, Quic, QuicOptions, SelfSigned, Tcp, Tls, Transports};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

use self::line::Line;

/// Where a node listens, and what it proves itself with.
#[derive(Clone, Debug)]
pub struct Target {
    /// Over TCP.
    pub tcp: Address,
    /// Over TLS.
    pub tls: Address,
    /// Over QUIC.
    pub quic: Address,
    /// Over a Unix socket.
    pub unix: Address,
    /// By HTTP.
    pub http: SocketAddr,
    /// Its certificate.
    pub certificate: SelfSigned,
}

/// Peers that mean no good, from a seed.
pub struct Attacker {
    target: Target,
    transports: Transports,
    quic: streams::Endpoint,
    /// What a QUIC client says first, to be changed and said again.
    initial: Vec<u8>,
    seed: u64,
    /// Attacks that met no node: it was busy with others.
    unmet: AtomicU64,
    faults: Mutex<Vec<String>>,
}

/// What became of the attacks.
#[derive(Clone, Debug)]
pub struct Tally {
    /// How many there were of each kind.
    pub by_kind: BTreeMap<Kind, u64>,
    /// When the last of them began.
    pub last_began: Instant,
    /// How many came to no connection or stream.
    pub unmet: u64,
    /// What the node did and should not have; the first of them.
    pub faults: Vec<String>,
}

impl Attacker {
    /// One for this node. All that it does follows from the seed, but for what the node answers.
    ///
    /// # Errors
    /// No sockets, or a certificate that cannot be used.
    pub async fn new(target: Target, seed: u64) -> io::Result<Self> {
        let trust =
            ClientTrust::fingerprint(target.certificate.fingerprint).map_err(io::Error::other)?;
        let options = QuicOptions { idle_timeout: IDLE, ..Default::default() };
        let transports = Transports::new()
            .with(Tcp::default())
            .with(Tls::default().trusting(trust.clone()))
            .with(Quic::new(options).trusting(trust));
        let quic =
            streams::Endpoint::new(&target.certificate.certificate, Ipv4Addr::LOCALHOST, IDLE)?;
        let initial = datagrams::first_words(&quic).await?;
        Ok(Self {
            target,
            transports,
            quic,
            initial,
            seed,
            unmet: AtomicU64::new(0),
            faults: Mutex::default(),
        })
    }

    /// Carries out `count` attacks, so many at a time.
    pub async fn run(
        self: &Arc<Self>,
        count: u64,
        at_once: usize,
        per_second: Option<u32>,
    ) -> Tally {
        let mut by_kind = BTreeMap::new();
        let mut under_way = JoinSet::new();
        let mut pace = per_second.map(|many| interval(Duration::from_secs(1) / many.max(1)));
        if let Some(pace) = &mut pace {
            // After a wait they are not made up for: a burst is no even pace.
            pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        for number in 0..count {
            if let Some(pace) = &mut pace {
                pace.tick().await;
            }
            if under_way.len() >= at_once {
                under_way.join_next().await;
            }
            let mut chance =
                SmallRng::seed_from_u64(self.seed.wrapping_mul(1_000_003).wrapping_add(number));
            let kind = Kind::by_chance(&mut chance);
            *by_kind.entry(kind).or_default() += 1;
            let attacker = Arc::clone(self);
            under_way.spawn(async move { attacker.attack(kind, number, chance).await });
        }
        let last_began = Instant::now();
        while let Some(ended) = under_way.join_next().await {
            if let Err(error) = ended {
                self.fault(format!("an attack failed by itself: {error}"));
            }
        }
        let faults = self.faults.lock().clone();
        Tally { by_kind, last_began, unmet: self.unmet.load(Relaxed), faults }
    }

    async fn attack(&self, kind: Kind, number: u64, chance: SmallRng) {
        let mut assault = Assault { attacker: self, chance };
        match timeout(ATTACK, kind.carry_out(&mut assault)).await {
            Ok(Ok(())) => {}
            Ok(Err(Failed::Unmet)) => {
                self.unmet.fetch_add(1, Relaxed);
            }
            Ok(Err(Failed::Fault(fault))) => {
                self.fault(format!("attack {number}, {kind:?}: {fault}"));
            }
            Err(_) => self.fault(format!("attack {number}, {kind:?}, did not end in {ATTACK:?}")),
        }
    }

    fn fault(&self, fault: String) {
        let mut faults = self.faults.lock();
        if faults.len() < FAULTS_KEPT {
            faults.push(fault);
        }
    }
}

/// How an attack can go wrong.
pub(crate) enum Failed {
    /// It met no node.
    Unmet,
    /// The node did what it must not.
    Fault(String),
}

/// One attack.
struct Assault<'a> {
    attacker: &'a Attacker,
    chance: SmallRng,
}

impl Assault<'_> {
    /// A stream over whatever transport.
    async fn line(&mut self) -> Result<Line, Failed> {
        let target = &self.attacker.target;
        let address = match self.chance.random_range(0..4) {
            0..=1 => &target.tcp,
            2 => &target.tls,
            _ => &target.quic,
        };
        self.line_to(address).await
    }

    async fn line_to(&self, address: &Address) -> Result<Line, Failed> {
        let connected = timeout(MEETING, self.attacker.transports.connect(address)).await;
        let connection = connected.map_err(|_| Failed::Unmet)?.map_err(|_| Failed::Unmet)?;
        timeout(MEETING, Line::over(connection)).await.ok().flatten().ok_or(Failed::Unmet)
    }
}

fn socket_address(address: &Address) -> SocketAddr {
    address.rest().parse().expect("a node says where it listens in numbers")
}

/// What the attackers may use is called `attack.N`, for each N below this.
const ATTACK_TOPICS: u32 = 16;
/// The attackers' own token, which permits them `attack.*`.
pub const TOKEN: &str = "of the attackers";
/// The largest message that the node takes.
const MESSAGE_BYTES_MAX: u32 = 128 << 10;
/// The longest frame that the node takes.
const FRAME_BYTES_MAX: u32 = 512 << 10;
const FAULTS_KEPT: usize = 20;
/// Who goes without a word is to be missed soon.
const IDLE: Duration = Duration::from_secs(2);
/// A node that is alive takes a connection in within this.
const MEETING: Duration = Duration::from_secs(20);
/// No attack takes longer, or the node holds on to something.
const ATTACK: Duration = Duration::from_secs(180);
