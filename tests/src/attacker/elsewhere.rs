use std::{io, sync::Arc};

use tokio::{runtime::Builder, task::spawn_blocking};

use super::{Arms, Attacker, Tally, Target};

/// As [`Attacker::run`], on threads that get of the processors what nobody else wants: they stand for machines
/// elsewhere, whose own work takes nothing from the node and from honest clients. What they make the node do does.
///
/// # Errors
/// No threads, no sockets, or a certificate that cannot be used.
pub(super) async fn attack(
    target: Target,
    arms: Arms,
    seed: u64,
    count: u64,
    at_once: usize,
    per_second: Option<u32>,
) -> io::Result<Tally> {
    let attack = move || {
        let threads = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(|| {
                // Anybody may lower the own one. Where it fails the attack is only harder on the honest.
                let _ = rustix::process::setpriority_process(None, LOWEST);
            })
            .build()?;
        threads.block_on(async {
            let attacker = Arc::new(Attacker::new(target, arms, seed).await?);
            Ok(attacker.run(count, at_once, per_second).await)
        })
    };
    spawn_blocking(attack).await.map_err(io::Error::other)?
}

const LOWEST: i32 = 19;
