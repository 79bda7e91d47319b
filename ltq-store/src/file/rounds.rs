//! What those who work for a file store do again and again, and when next: one writes and syncs, one
//! keeps house. Whether they are threads or tasks does not matter here.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tokio::time::Instant;

use super::{engine::Engine, reserve::SHORT_AGAIN, rewrite::Rewrote};

/// Writes and syncs whenever somebody waits for it, and in time when nobody does.
#[derive(Debug, Default)]
pub(super) struct Committing {
    sync_at: Option<Instant>,
}

impl Committing {
    /// Until when to wait for the signal, if not for ever.
    pub(super) fn until(&mut self, engine: &Engine) -> Option<Instant> {
        loop {
            if engine.failure().is_none() && engine.is_unsynced() {
                let interval = engine.options.os_sync_interval;
                engine.timed.store(true, SeqCst);
                return Some(*self.sync_at.get_or_insert_with(|| Instant::now() + interval));
            }
            self.sync_at = None;
            // Whoever writes something after this raises the signal; so look once more.
            if !engine.timed.swap(false, SeqCst) {
                return None;
            }
        }
    }

    /// What is to be done after that.
    pub(super) fn step(&self, engine: &Engine) {
        let due = self.sync_at.is_some_and(|at| at <= Instant::now());
        // A failure is told to whoever waits.
        let _ = engine.commit_step(due);
    }
}

/// Keeps house whenever there is something to be done.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    rest_until: Option<Instant>,
}

impl Keeping {
    /// Does it, and says until when to wait for the signal, if not for ever.
    pub(super) fn step(&mut self, engine: &Engine) -> Option<Instant> {
        // A failure is told to whoever waits.
        let _ = engine.keep_step();
        let began = Instant::now();
        if self.rest_until.is_none_or(|until| until <= began) {
            let rewrote = engine.rewrite_step();
            let now = Instant::now();
            self.rest_until = match rewrote {
                Ok(Rewrote::More) => Some(now + (now - began) * REST),
                Ok(Rewrote::NoRoom) => Some(now + ROOM_AGAIN),
                Ok(Rewrote::Nothing) | Err(_) => None,
            };
        }
        let again = engine.reserve.is_short().then(|| Instant::now() + SHORT_AGAIN);
        self.rest_until.into_iter().chain(again).min()
    }
}

/// How many times as long as a step of writing segments anew took it rests: commits have the disk
/// for themselves for three quarters of the time.
const REST: u32 = 3;
/// When there was no room for that it looks again, as nobody tells that there is.
const ROOM_AGAIN: Duration = Duration::from_secs(5);
