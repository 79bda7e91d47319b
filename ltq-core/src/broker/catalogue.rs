//! Which topics and channels there are, for whoever tells others of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::{ChannelName, TopicName};

/// The topics with their channels, kept from when somebody watches for the first time.
#[derive(Debug, Default)]
pub(super) struct Catalogue {
    is_kept: AtomicBool,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    topics: BTreeMap<TopicName, Arc<BTreeSet<ChannelName>>>,
    /// Topics that were asked for their channels and have not said them.
    asked: BTreeSet<TopicName>,
    readers: Vec<Arc<Reader>>,
}

/// Topics that one who watches has not been told of.
#[derive(Debug, Default)]
struct Reader {
    changed: Mutex<BTreeSet<TopicName>>,
    news: Notify,
}

impl Catalogue {
    /// Whether anybody wants to know.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Acquire)
    }

    /// A topic is there, and these are its channels.
    pub(super) fn put(&self, topic: &TopicName, channels: BTreeSet<ChannelName>) {
        if !self.is_kept() {
            return;
        }
        let mut kept = self.kept.lock();
        let was_asked = kept.asked.remove(topic);
        let is_same = kept.topics.get(topic).is_some_and(|known| **known == channels);
        if !is_same {
            kept.topics.insert(topic.clone(), Arc::new(channels));
        }
        if was_asked || !is_same {
            kept.tell(topic);
        }
    }

    /// A topic is gone.
    pub(super) fn remove(&self, topic: &TopicName) {
        if !self.is_kept() {
            return;
        }
        let mut kept = self.kept.lock();
        let was_asked = kept.asked.remove(topic);
        if kept.topics.remove(topic).is_some() || was_asked {
            kept.tell(topic);
        }
    }

    /// Somebody watches. Those of `topics` are to be asked for their channels, which the caller does with
    /// the names that it is given back: none if they are known.
    pub(super) fn watch(
        self: &Arc<Self>,
        topics: impl FnOnce() -> Vec<TopicName>,
    ) -> (CatalogueWatch, Vec<TopicName>) {
        let reader = Arc::new(Reader::default());
        let was_kept = self.is_kept.swap(true, Ordering::AcqRel);
        // After the flag is set, so that a topic that is missed here says itself that it is there.
        let ask = if was_kept { Vec::new() } else { topics() };
        let mut kept = self.kept.lock();
        for topic in &ask {
            if !kept.topics.contains_key(topic) {
                kept.asked.insert(topic.clone());
            }
        }
        reader.changed.lock().extend(kept.topics.keys().cloned());
        kept.readers.push(reader.clone());
        (CatalogueWatch { catalogue: self.clone(), reader, has_told: false }, ask)
    }
}

impl Kept {
    fn tell(&self, topic: &TopicName) {
        for reader in &self.readers {
            reader.changed.lock().insert(topic.clone());
            reader.news.notify_one();
        }
    }
}

/// What became of the topics of which a [`CatalogueWatch`] tells: the channels of each, or `None` of one
/// that is gone.
pub type CatalogueChanges = BTreeMap<TopicName, Option<Arc<BTreeSet<ChannelName>>>>;

/// Which topics and channels a broker has, now and whenever that changes:
/// [`Broker::catalogue`](super::Broker::catalogue). Costs nothing where nothing changes, and keeps one name
/// for each topic that has changed and was not told of yet.
pub struct CatalogueWatch {
    catalogue: Arc<Catalogue>,
    reader: Arc<Reader>,
    has_told: bool,
}

impl CatalogueWatch {
    /// Waits until there is something that the calls before did not give. The first call gives all
    /// topics there are, at once even if there is none.
    ///
    /// A topic is given as it is when the call returns: what came and went between is not told, and a topic
    /// may be given though nothing is different in the end. Channels are told of when somebody can subscribe
    /// to them, which may be before they would survive the broker.
    ///
    /// # Cancellation
    /// A dropped call loses nothing.
    pub async fn changed(&mut self) -> CatalogueChanges {
        loop {
            let news = self.reader.news.notified();
            {
                let kept = self.catalogue.kept.lock();
                let is_first = !self.has_told && kept.asked.is_empty();
                let changed = match self.has_told || is_first {
                    true => mem::take(&mut *self.reader.changed.lock()),
                    false => BTreeSet::new(),
                };
                if is_first || !changed.is_empty() {
                    self.has_told = true;
                    let now = |topic: TopicName| {
                        let channels = kept.topics.get(&topic).cloned();
                        (topic, channels)
                    };
                    return changed.into_iter().map(now).collect();
                }
            }
            news.await;
        }
    }
}

impl Drop for CatalogueWatch {
    fn drop(&mut self) {
        self.catalogue.kept.lock().readers.retain(|reader| !Arc::ptr_eq(reader, &self.reader));
    }
}

impl fmt::Debug for CatalogueWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogueWatch").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::{
        AdminRequest, StartAt, TopicOptions,
        broker::{admin::perform, shared::Shared, testing},
    };

    async fn told(watch: &mut CatalogueWatch) -> Vec<(String, Option<Vec<String>>)> {
        let changes = timeout(Duration::from_secs(10), watch.changed()).await.expect("a change");
        let names = |set: Arc<BTreeSet<ChannelName>>| set.iter().map(ToString::to_string).collect();
        changes.into_iter().map(|(topic, it)| (topic.to_string(), it.map(names))).collect()
    }

    /// Until it is told that a topic is so.
    async fn until(watch: &mut CatalogueWatch, topic: &str, channels: Option<&[&str]>) {
        let wanted = channels.map(|names| names.iter().map(|name| (*name).to_owned()).collect());
        while !told(watch).await.contains(&(topic.to_owned(), wanted.clone())) {}
    }

    async fn make_topic(shared: &Arc<Shared>, topic: &str) {
        let options = TopicOptions::default();
        let request = AdminRequest::CreateTopic { topic: testing::topic(topic), options };
        perform(shared, request).await.unwrap();
    }

    async fn make_channel(shared: &Arc<Shared>, topic: &str, channel: &str) {
        let (topic, channel) = (testing::topic(topic), channel.parse().unwrap());
        let request = AdminRequest::CreateChannel { topic, channel, start: StartAt::Earliest };
        perform(shared, request).await.unwrap();
    }

    #[tokio::test]
    async fn topics_and_channels_are_told_as_they_come_and_go() {
        let (shared, _gate) = testing::shared(true);
        make_topic(&shared, "old").await;
        make_channel(&shared, "older", "kept").await;
        let mut watch = shared.watch_catalogue();
        let kept = Some(vec!["kept".to_owned()]);
        let all = [("old".to_owned(), Some(Vec::new())), ("older".to_owned(), kept)];
        assert_eq!(told(&mut watch).await, all);
        make_topic(&shared, "new").await;
        until(&mut watch, "new", Some(&[])).await;
        make_channel(&shared, "new", "one").await;
        until(&mut watch, "new", Some(&["one"])).await;
        // A second one is told all, and the first nothing again.
        let mut second = shared.watch_catalogue();
        assert_eq!(told(&mut second).await.len(), 3);
        let (topic, channel) = (testing::topic("new"), "one".parse().unwrap());
        let delete = AdminRequest::DeleteChannel { topic: topic.clone(), channel };
        perform(&shared, delete).await.unwrap();
        assert_eq!(told(&mut watch).await, [("new".to_owned(), Some(Vec::new()))]);
        perform(&shared, AdminRequest::DeleteTopic { topic }).await.unwrap();
        until(&mut watch, "new", None).await;
        until(&mut second, "new", None).await;
        drop(second);
        assert_eq!(shared.catalogue.kept.lock().readers.len(), 1);
    }

    #[tokio::test]
    async fn a_broker_without_topics_says_so_at_once() {
        let (shared, _gate) = testing::shared(true);
        let mut watch = shared.watch_catalogue();
        assert!(told(&mut watch).await.is_empty());
        make_topic(&shared, "new").await;
        until(&mut watch, "new", Some(&[])).await;
        // Nothing is told where nothing differs.
        shared.catalogue.put(&testing::topic("new"), BTreeSet::new());
        assert!(watch.reader.changed.lock().is_empty());
    }

    #[tokio::test]
    async fn a_topic_that_ends_while_it_is_asked_is_not_waited_for() {
        let catalogue = Arc::new(Catalogue::default());
        let (mut watch, asked) = catalogue.watch(|| vec![testing::topic("a"), testing::topic("b")]);
        assert_eq!(asked.len(), 2);
        catalogue.put(&testing::topic("a"), BTreeSet::new());
        catalogue.remove(&testing::topic("b"));
        let first = told(&mut watch).await;
        assert_eq!(first, [("a".to_owned(), Some(Vec::new())), ("b".to_owned(), None)]);
    }
}
