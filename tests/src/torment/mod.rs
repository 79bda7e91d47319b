//! A cluster in trouble: registries, nodes, clients, and a bridge to another node, each on a host of its own, which
//! are cut from one another, slowed down, killed, paused, drained and started again, and whose wall clocks step, while
//! producers and consumers of every mode go on; and an account of what became of every message. Or three programs of
//! a mesh in the same trouble.
//!
//! What happens when follows from a seed; how the programs fall into it does not.

mod account;
mod clock;
mod device;
mod disk;
pub mod errand;
mod fault;
mod field;
pub mod program;
mod role;
mod running;
mod settling;
mod trouble;
pub mod worker;

pub use account::{Account, Unsound};
pub use worker::Over;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use thiserror::Error;
use tokio::time::sleep;

use self::{fault::Deck, field::Field, trouble::Trouble};
use crate::bad_network::Unavailable;

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// To whom.
    pub setting: Setting,
    /// Over what programs of a mesh call each other; `None` is over another for each of them and each of its
    /// lives, as clients of a cluster do.
    pub over: Option<Over>,
    /// From which all chance follows.
    pub seed: u64,
    /// How long there is trouble.
    pub lasts: Duration,
    /// How long one fault lasts at most; peace between two of them lasts half of that at most.
    pub fault_max: Duration,
    /// After how many missed beats of 300 ms registries forget a node; at least 3.
    pub forgotten_after: u32,
    /// The program that is started as `PROGRAM worker ...` on the clients' hosts.
    pub worker: PathBuf,
    /// How many publishes a second each client tries of each mode, or each program to each other one.
    pub rate: u32,
    /// Whether each fault is printed as it comes.
    pub tells: bool,
    /// Whether logs and journals are kept even where all is well.
    pub keeps: bool,
}

/// Who is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Two registries, three nodes, two clients, and a bridge to a fourth node.
    Cluster,
    /// Three programs of a mesh.
    Mesh,
}

/// Whether wall clocks can be stepped on this machine, which takes Debian's `faketime`. Where they cannot there are
/// all other faults.
#[must_use]
pub fn has_clocks() -> bool {
    clock::Clocks::find().is_some()
}

/// Whether devices can be made full on this machine, which takes the right to mount.
#[must_use]
pub fn has_devices() -> bool {
    device::Device::is_permitted()
}

/// Whether a device can refuse writes on this machine, which takes the right to make one of zram, and ext4's tools.
#[must_use]
pub fn has_disks() -> bool {
    device::Device::may_fail()
}

/// All ways in which messages are published and taken, as [`Account::ways`] calls them.
pub fn ways() -> impl Iterator<Item = String> {
    worker::ways::all()
}

/// Why there is no account, or a bad one.
#[derive(Debug, Error)]
pub enum TormentError {
    /// There is no network of one's own here.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
    /// A program did not do as it was told.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A promise is broken.
    #[error(transparent)]
    Unsound(#[from] Unsound),
}

impl TormentError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// Carries a plan out, and says what became of every message.
///
/// # Errors
/// A [`TormentError`], of which a broken promise is [`Unsound`]. Logs and journals are kept then.
pub async fn run(plan: &Plan) -> Result<Account, TormentError> {
    let mut field = Field::new(plan)?;
    let result = torment(plan, &mut field).await;
    if result.is_err() || plan.keeps {
        if let Err(error) = field.keep() {
            println!("what nodes have is not kept: {error}");
        }
        println!("logs and journals are in {}", field.folder.path().display());
    }
    result
}

async fn torment(plan: &Plan, field: &mut Field) -> Result<Account, TormentError> {
    let mut chance = SmallRng::seed_from_u64(plan.seed);
    let mut deck = Deck::new(field.roles(), field.can());
    let roles = field.roles().clone();
    let mut counts = std::collections::BTreeMap::new();
    let mut troubles = Vec::new();
    field.start_all().await?;
    // All is well at first, so that each mode has something stored.
    sleep(CALM).await;
    let began = Instant::now();
    while began.elapsed() < plan.lasts {
        let fault = deck.draw(&mut chance);
        let lasts = draw(&mut chance, FAULT_MIN, plan.fault_max);
        // Sometimes a second one comes before the first is over.
        let second = chance.random_bool(0.3).then(|| deck.draw_beside(&fault, &mut chance));
        let faults: Vec<_> = [Some(fault), second.flatten()].into_iter().flatten().collect();
        if plan.tells {
            let told: Vec<_> = faults.iter().map(|fault| fault.told(&roles)).collect();
            let (at, told) = (began.elapsed().as_secs_f64(), told.join(" and "));
            println!("{at:6.1} s: {told}, for {lasts:.1?}");
        }
        let mut begun = Vec::new();
        for fault in &faults {
            begun.push(now()?);
            fault.begin(field).await?;
            *counts.entry(fault.kind(&roles)).or_insert(0) += 1;
        }
        sleep(lasts).await;
        for (fault, from) in faults.into_iter().zip(begun) {
            fault.end(field).await?;
            troubles.push(Trouble { fault, from, to: now()? });
        }
        sleep(draw(&mut chance, PEACE_MIN, plan.fault_max / 2)).await;
    }
    field.mend().await?;
    field.confirms_again(now()?).await?;
    let mut account = field.settle().await?;
    account.faults = counts;
    account.ends = field.ends().clone();
    account.excuses = trouble::excuses(&troubles, &roles);
    account.check()?;
    Ok(account)
}

fn now() -> Result<u64, TormentError> {
    worker::uptime_ms().map_err(TormentError::io("asking for the time"))
}

fn draw(chance: &mut SmallRng, least: Duration, most: Duration) -> Duration {
    chance.random_range(least..=most.max(least))
}

/// How long all is well at first.
const CALM: Duration = Duration::from_secs(2);
/// How long trouble lasts at least, and how long it is quiet after it.
const FAULT_MIN: Duration = Duration::from_millis(300);
const PEACE_MIN: Duration = Duration::from_millis(200);
/// How often something is looked at that is waited for.
const LOOK_PAUSE: Duration = Duration::from_millis(200);
