//! How sessions learn that they have something to tell.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::registry::watchers::WatcherId;

/// What a session is woken by: the watches of it that are owed something, by the numbers that its client gave
/// them, so that it looks at no other.
#[derive(Debug, Default)]
pub(super) struct News {
    notify: Notify,
    watches: Mutex<BTreeSet<u32>>,
}

impl News {
    /// Waits for some. Cancel safe.
    pub(super) async fn come(&self) {
        self.notify.notified().await;
    }

    /// Takes all that have come.
    pub(super) fn take(&self, into: &mut BTreeSet<u32>) {
        into.append(&mut self.watches.lock());
    }
}

/// Whom to wake for a watcher.
#[derive(Debug, Default)]
pub(super) struct Wake(Mutex<HashMap<WatcherId, (u32, Arc<News>)>>);

impl Wake {
    /// This watcher is that watch of a session.
    pub(super) fn add(&self, id: WatcherId, watch: u32, news: &Arc<News>) {
        self.0.lock().insert(id, (watch, Arc::clone(news)));
    }

    pub(super) fn remove<'w>(&self, those: impl IntoIterator<Item = &'w WatcherId>) {
        let mut all = self.0.lock();
        for id in those {
            all.remove(id);
        }
    }

    /// They are owed something.
    pub(super) fn wake(&self, those: &BTreeSet<WatcherId>) {
        if those.is_empty() {
            return;
        }
        let all = self.0.lock();
        for (watch, news) in those.iter().filter_map(|id| all.get(id)) {
            // It is woken once for all that it has not looked at.
            if news.watches.lock().insert(*watch) {
                news.notify.notify_one();
            }
        }
    }
}
