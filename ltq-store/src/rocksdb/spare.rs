//! Descriptors that the store keeps so that RocksDB can open files when others have all that the
//! process may have open; and how it finds out that they have.
//!
//! A file that RocksDB cannot make while it writes ends it: it takes that for an error of the write
//! and refuses all that follow, whatever the reason was, and nothing but opening it anew takes that
//! back. So nothing is given to it to write while no file can be opened; and what it does at that
//! moment by itself has the descriptors that were kept.

use std::{
    fs::File,
    io,
    path::PathBuf,
    time::{Duration, Instant},
};

use ltq_core::StoreError;
use parking_lot::Mutex;

use crate::file::is_want;

/// Open files that are kept to be closed when there can be no others.
#[derive(Debug)]
pub(super) struct Spare {
    /// Of what those are handles: it is always there.
    at: PathBuf,
    most: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Vec<File>,
    short: Option<Shortage>,
    shortages: u64,
    /// When that was said last, and whether it is still to be said that it is over.
    said: Option<(Instant, bool)>,
}

/// That there were too few when somebody last looked.
#[derive(Debug)]
struct Shortage {
    looked: Instant,
    next: Instant,
    cause: String,
}

/// What is kept, how often that was found to be missing, and whether it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SpareFigures {
    pub(super) kept: u64,
    pub(super) shortages: u64,
    pub(super) is_short: bool,
}

impl Spare {
    pub(super) fn new(at: PathBuf, most: usize) -> Self {
        Self { at, most, state: Mutex::default() }
    }

    /// Sees to it that all are kept, and that there is another one. Where there is none, those that
    /// are kept are given up, to whatever RocksDB is at. It is not looked again at once then, and
    /// later where it `is_writing`: what is free is RocksDB's to open.
    pub(super) fn check(&self, is_writing: impl FnOnce() -> bool) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        let now = Instant::now();
        if let Some(short) = &mut state.short {
            if now < short.next {
                return Err(short.error());
            }
            if now.duration_since(short.looked) < SHORT_AGAIN_WRITING && is_writing() {
                short.next = now + SHORT_AGAIN;
                return Err(short.error());
            }
        }
        while state.kept.len() <= self.most {
            match File::open(&self.at) {
                Ok(file) => state.kept.push(file),
                Err(error) if is_want(&error) => {
                    state.kept.clear();
                    return Err(state.note_short(&error));
                }
                // Whatever that is, it is no want of descriptors.
                Err(_) => break,
            }
        }
        state.kept.truncate(self.most);
        state.note_enough();
        Ok(())
    }

    /// When it is to be looked again, whether or not somebody writes.
    pub(super) fn looks_again(&self) -> Option<Instant> {
        self.state.lock().short.as_ref().map(|short| short.next)
    }

    /// Gives all up, for what is done last.
    pub(super) fn clear(&self) {
        self.state.lock().kept.clear();
    }

    pub(super) fn figures(&self) -> SpareFigures {
        let state = self.state.lock();
        SpareFigures {
            kept: state.kept.len() as u64,
            shortages: state.shortages,
            is_short: state.short.is_some(),
        }
    }
}

impl State {
    fn note_short(&mut self, error: &io::Error) -> StoreError {
        let now = Instant::now();
        if self.short.is_none() {
            self.shortages += 1;
            if self.said.is_none_or(|(at, _)| now.duration_since(at) >= SAID_PAUSE) {
                self.said = Some((now, true));
                tracing::warn!(%error, "no file can be opened; the store takes no commits until one can");
            }
        }
        let short = Shortage { looked: now, next: now + SHORT_AGAIN, cause: error.to_string() };
        let refusal = short.error();
        self.short = Some(short);
        refusal
    }

    fn note_enough(&mut self) {
        if self.short.take().is_some()
            && let Some((_, over)) = &mut self.said
            && std::mem::take(over)
        {
            let shortages = self.shortages;
            tracing::info!(shortages, "files can be opened again");
        }
    }
}

impl Shortage {
    fn error(&self) -> StoreError {
        let doing = "opening what RocksDB may need".to_owned();
        StoreError::Short { doing, cause: self.cause.clone() }
    }
}

/// After this it is looked again whether there are enough.
const SHORT_AGAIN: Duration = Duration::from_secs(1);
/// After this, while RocksDB writes files, which looking might take the last descriptors from.
const SHORT_AGAIN_WRITING: Duration = Duration::from_secs(10);
/// That there are none is said so often at most: whoever takes the descriptors must not fill the
/// disk with it.
const SAID_PAUSE: Duration = Duration::from_secs(10);
