//! What was made of PEM files, made again when they change.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::{
    Pem, TrustError,
    pem::{Loaded, Stamp},
};

type Make<T> = Box<dyn Fn(&[Loaded]) -> Result<T, TrustError> + Send + Sync>;

/// The newest of what could be made of some files.
///
/// It looks at the files when it is asked, at most once per interval. What cannot be used leaves
/// what was there before, and is told once for each change.
pub(super) struct Reloaded<T> {
    sources: Vec<Pem>,
    make: Make<T>,
    interval: Duration,
    state: Mutex<State<T>>,
}

/// How often files had changed and were read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// What they hold now is in use.
    pub done: u64,
    /// What they held could not be used, and what was there before stayed.
    pub failed: u64,
}

struct State<T> {
    newest: Arc<T>,
    /// What the files looked like when they were last read, usable or not.
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    reloads: Reloads,
}

impl<T> Reloaded<T> {
    pub(super) fn new(sources: Vec<Pem>, make: Make<T>) -> Result<Self, TrustError> {
        // Before they are read: a change while that goes on shows at the next look.
        let stamps = stamps(&sources);
        let newest = Arc::new(read(&sources, &make)?);
        let (looked, reloads) = (Instant::now(), Reloads::default());
        let state = Mutex::new(State { newest, stamps, looked, reloads });
        Ok(Self { sources, make, interval: INTERVAL, state })
    }

    /// The newest. It may read small files, at most once a second.
    pub(super) fn newest(&self) -> Arc<T> {
        let mut state = self.state.lock();
        if state.looked.elapsed() >= self.interval {
            state.looked = Instant::now();
            let stamps = stamps(&self.sources);
            if stamps != state.stamps {
                state.stamps = stamps;
                let files = || self.sources.iter().filter(|source| matches!(source, Pem::File(_)));
                match read(&self.sources, &self.make) {
                    Ok(made) => {
                        state.newest = Arc::new(made);
                        state.reloads.done += 1;
                        tracing::info!(files = ?files().collect::<Vec<_>>(), "certificates reloaded");
                    }
                    Err(error) => {
                        state.reloads.failed += 1;
                        tracing::warn!(
                            %error,
                            "certificates have changed and cannot be used; those before stay in use"
                        );
                    }
                }
            }
        }
        Arc::clone(&state.newest)
    }

    pub(super) fn reloads(&self) -> Reloads {
        self.state.lock().reloads
    }
}

fn stamps(sources: &[Pem]) -> Vec<Option<Stamp>> {
    sources.iter().map(Pem::stamp).collect()
}

fn read<T>(sources: &[Pem], make: &Make<T>) -> Result<T, TrustError> {
    let loaded: Result<Vec<_>, _> = sources.iter().map(Pem::read).collect();
    make(&loaded?)
}

/// Certificates change every few weeks; a connection a second costs nothing by a look at files.
const INTERVAL: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(file: &std::path::Path) -> Reloaded<String> {
        let make: Make<String> = Box::new(|loaded| {
            let [only] = loaded else { panic!() };
            only.key().map(|key| format!("{key:?}"))
        });
        let mut made = Reloaded::new(vec![Pem::file(file)], make).unwrap();
        made.interval = Duration::ZERO;
        made
    }

    fn key(byte: u8) -> String {
        let letters = ["AAAA", "BBBB", "CCCC"][usize::from(byte)];
        format!("-----BEGIN PRIVATE KEY-----\n{letters}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn what_cannot_be_used_leaves_what_was_there_and_what_can_replaces_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        std::fs::write(&file, key(0)).unwrap();
        let made = lengths(&file);
        let first = made.newest();
        assert!(Arc::ptr_eq(&first, &made.newest()), "nothing has changed");

        std::fs::write(&file, "broken").unwrap();
        assert!(Arc::ptr_eq(&first, &made.newest()));
        std::fs::remove_file(&file).unwrap();
        assert!(Arc::ptr_eq(&first, &made.newest()));

        std::fs::write(folder.path().join("new.pem"), key(1)).unwrap();
        std::fs::rename(folder.path().join("new.pem"), &file).unwrap();
        assert!(!Arc::ptr_eq(&first, &made.newest()));
        assert_eq!(made.reloads(), Reloads { done: 1, failed: 2 });
    }

    #[test]
    fn files_are_looked_at_once_in_an_interval() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key.pem");
        std::fs::write(&file, key(0)).unwrap();
        let mut made = lengths(&file);
        made.interval = Duration::from_secs(1000);
        let first = made.newest();
        std::fs::write(&file, key(2)).unwrap();
        assert!(Arc::ptr_eq(&first, &made.newest()));
        made.interval = Duration::ZERO;
        assert!(!Arc::ptr_eq(&first, &made.newest()));
    }
}
