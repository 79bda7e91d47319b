//! A cluster in trouble: registries, nodes and clients, each on a host of its own, which are cut from one
//! another, slowed down, killed, paused, drained and started again, while producers and consumers of every mode
//! go on; and an account of what became of every message.
//!
//! What happens when follows from a seed; how the programs fall into it does not.

mod account;
mod fault;
mod field;
pub mod worker;

pub use account::{Account, Unsound};
pub use fault::Fault;
pub use field::Field;

use std::{
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use thiserror::Error;
use tokio::time::sleep;

use crate::bad_network::Unavailable;

/// What is to happen.
#[derive(Clone, Debug)]
pub struct Plan {
    /// From which all chance follows.
    pub seed: u64,
    /// How long there is trouble.
    pub lasts: Duration,
    /// The program that is started as `PROGRAM worker ...` on the clients' hosts.
    pub worker: PathBuf,
    /// How many publishes a second each client tries of each mode.
    pub rate: u32,
    /// Whether each fault is printed as it comes.
    pub tells: bool,
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
/// A [`TormentError`]; a broken promise is [`Unsound`].
pub async fn run(plan: &Plan) -> Result<Account, TormentError> {
    let mut field = Field::new(plan).await?;
    let mut chance = SmallRng::seed_from_u64(plan.seed);
    let began = Instant::now();
    let mut faults = 0;
    // All is well at first, so that each mode has something stored.
    sleep(CALM).await;
    while began.elapsed() < plan.lasts {
        let (fault, lasts) = (Fault::draw(&mut chance), draw(&mut chance, TROUBLE));
        // Sometimes a second one comes before the first is over.
        let second = chance.random_bool(0.3).then(|| Fault::draw(&mut chance));
        let second = second.filter(|second| !second.touches_what(&fault));
        if plan.tells {
            let and = second.as_ref().map_or_else(String::new, |it| format!(" and {it}"));
            println!("{:6.1} s: {fault}{and}, for {lasts:.1?}", began.elapsed().as_secs_f64());
        }
        for fault in [Some(&fault), second.as_ref()].into_iter().flatten() {
            fault.begin(&mut field).await?;
            faults += 1;
        }
        sleep(lasts).await;
        for fault in [Some(&fault), second.as_ref()].into_iter().flatten() {
            fault.end(&mut field).await?;
        }
        sleep(draw(&mut chance, PEACE)).await;
    }
    field.mend().await?;
    let mut account = field.settle().await?;
    account.faults = faults;
    account.check()?;
    Ok(account)
}

fn draw(chance: &mut SmallRng, (least, most): (u64, u64)) -> Duration {
    Duration::from_millis(chance.random_range(least..=most))
}

/// How long all is well at first.
const CALM: Duration = Duration::from_secs(2);
/// How long trouble lasts, in milliseconds, and how long it is quiet after it.
const TROUBLE: (u64, u64) = (300, 6_000);
const PEACE: (u64, u64) = (200, 3_000);
