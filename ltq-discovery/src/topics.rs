//! The topics of a node, as many as it has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, slice,
    sync::Arc,
};

use ltq_core::{ChannelName, TopicName};

/// The topics of a node and their channels, in the order of their names.
///
/// Cheap to clone, and clones share what they have in common: a change costs the same whether or not somebody holds
/// what was before it, and what two have in common is not looked at when they are compared.
#[derive(Clone, Default)]
pub struct Topics {
    /// In order, and none of them empty.
    chunks: Arc<Vec<Arc<Chunk>>>,
    len: usize,
}

/// Some topics that follow one another.
type Chunk = Vec<(TopicName, Arc<BTreeSet<ChannelName>>)>;

impl Topics {
    /// No topics.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// How many there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The channels of a topic, if it is among them.
    #[must_use]
    pub fn get(&self, topic: &TopicName) -> Option<&BTreeSet<ChannelName>> {
        let chunk = self.chunks.get(self.chunk_of(topic))?;
        let at = chunk.binary_search_by(|(name, _)| name.cmp(topic)).ok()?;
        chunk.get(at).map(|(_, channels)| &**channels)
    }

    /// Whether a topic is among them.
    #[must_use]
    pub fn contains_key(&self, topic: &TopicName) -> bool {
        self.get(topic).is_some()
    }

    /// Topics and their channels, in the order of their names.
    #[must_use]
    pub fn iter(&self) -> TopicsIter<'_> {
        TopicsIter { chunks: self.chunks.iter(), chunk: [].iter(), left: self.len }
    }

    /// The names of the topics, in order.
    pub fn keys(&self) -> impl Iterator<Item = &TopicName> {
        self.iter().map(|(name, _)| name)
    }

    /// Adds a topic with these channels, in the place of one of this name.
    pub fn insert(&mut self, topic: TopicName, channels: impl Into<Arc<BTreeSet<ChannelName>>>) {
        let (index, channels) = (self.chunk_of(&topic), channels.into());
        let chunks = Arc::make_mut(&mut self.chunks);
        let Some(chunk) = chunks.get_mut(index) else {
            chunks.push(Arc::new(vec![(topic, channels)]));
            self.len += 1;
            return;
        };
        let chunk = Arc::make_mut(chunk);
        match chunk.binary_search_by(|(name, _)| name.cmp(&topic)) {
            Ok(at) => {
                if let Some((_, known)) = chunk.get_mut(at) {
                    *known = channels;
                }
            }
            Err(at) => {
                chunk.insert(at, (topic, channels));
                self.len += 1;
            }
        }
        if chunk.len() > CHUNK_MAX {
            let second = chunk.split_off(chunk.len() / 2);
            chunks.insert(index + 1, Arc::new(second));
        }
    }

    /// Takes a topic away. Returns whether it was among them.
    pub fn remove(&mut self, topic: &TopicName) -> bool {
        let index = self.chunk_of(topic);
        let place = |chunk: &Arc<Chunk>| chunk.binary_search_by(|(name, _)| name.cmp(topic)).ok();
        let Some(at) = self.chunks.get(index).and_then(place) else { return false };
        let chunks = Arc::make_mut(&mut self.chunks);
        if let Some(chunk) = chunks.get_mut(index) {
            Arc::make_mut(chunk).remove(at);
            self.len -= 1;
        }
        // What becomes small joins its neighbour, so that there are not many chunks of few.
        let len = |at: usize| chunks.get(at).map_or(0, |chunk| chunk.len());
        let first = if index > 0 { index - 1 } else { index };
        let others = [(first, first + 1), (index, index + 1)];
        let small = others
            .into_iter()
            .find(|(one, other)| *other < chunks.len() && len(*one) + len(*other) <= CHUNK_MAX / 2);
        if let Some((one, other)) = small {
            let other = Arc::unwrap_or_clone(chunks.remove(other));
            if let Some(chunk) = chunks.get_mut(one) {
                Arc::make_mut(chunk).extend(other);
            }
        } else if len(index) == 0 {
            chunks.remove(index);
        }
        true
    }

    /// Whether both are one and the same, which is told at once; those that are not may be equal.
    #[must_use]
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.chunks, &other.chunks)
    }

    /// What is different from an earlier one, in order: each topic that came or has other channels, with them, and
    /// each that went. Parts that both share are passed over.
    pub(crate) fn since<'a>(&'a self, before: &'a Self) -> Differences<'a> {
        Differences { before: Cursor::new(before), after: Cursor::new(self) }
    }

    /// What tells the parts from others that are equal.
    #[cfg(test)]
    pub(crate) fn parts(&self) -> impl Iterator<Item = *const ()> {
        self.chunks.iter().map(|chunk| Arc::as_ptr(chunk).cast())
    }

    /// In which chunk a topic is or would be: 0 where there is none.
    fn chunk_of(&self, topic: &TopicName) -> usize {
        let begins_behind =
            |chunk: &Arc<Chunk>| chunk.first().is_some_and(|(name, _)| name <= topic);
        self.chunks.partition_point(begins_behind).saturating_sub(1)
    }

    fn of_sorted(topics: impl Iterator<Item = (TopicName, Arc<BTreeSet<ChannelName>>)>) -> Self {
        let (mut chunks, mut len) = (Vec::new(), 0);
        // Room for more, so that the first ones that come do not split each.
        let mut topics = topics.peekable();
        while topics.peek().is_some() {
            let chunk: Chunk = topics.by_ref().take(CHUNK_MAX * 3 / 4).collect();
            len += chunk.len();
            chunks.push(Arc::new(chunk));
        }
        Self { chunks: Arc::new(chunks), len }
    }
}

impl PartialEq for Topics {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.since(other).next().is_none()
    }
}

impl Eq for Topics {}

impl fmt::Debug for Topics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self).finish()
    }
}

impl From<BTreeMap<TopicName, BTreeSet<ChannelName>>> for Topics {
    fn from(topics: BTreeMap<TopicName, BTreeSet<ChannelName>>) -> Self {
        Self::of_sorted(topics.into_iter().map(|(name, channels)| (name, channels.into())))
    }
}

impl<const N: usize> From<[(TopicName, BTreeSet<ChannelName>); N]> for Topics {
    fn from(topics: [(TopicName, BTreeSet<ChannelName>); N]) -> Self {
        topics.into_iter().collect()
    }
}

impl FromIterator<(TopicName, BTreeSet<ChannelName>)> for Topics {
    /// Of several topics of one name the last one counts.
    fn from_iter<I: IntoIterator<Item = (TopicName, BTreeSet<ChannelName>)>>(topics: I) -> Self {
        topics.into_iter().collect::<BTreeMap<_, _>>().into()
    }
}

impl Extend<(TopicName, BTreeSet<ChannelName>)> for Topics {
    fn extend<I: IntoIterator<Item = (TopicName, BTreeSet<ChannelName>)>>(&mut self, topics: I) {
        topics.into_iter().for_each(|(name, channels)| self.insert(name, channels));
    }
}

impl<'a> IntoIterator for &'a Topics {
    type Item = (&'a TopicName, &'a BTreeSet<ChannelName>);
    type IntoIter = TopicsIter<'a>;

    fn into_iter(self) -> TopicsIter<'a> {
        self.iter()
    }
}

/// The [`Topics`] of a node and their channels, in the order of their names.
#[derive(Clone, Debug)]
pub struct TopicsIter<'a> {
    chunks: slice::Iter<'a, Arc<Chunk>>,
    chunk: slice::Iter<'a, (TopicName, Arc<BTreeSet<ChannelName>>)>,
    left: usize,
}

impl<'a> Iterator for TopicsIter<'a> {
    type Item = (&'a TopicName, &'a BTreeSet<ChannelName>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((name, channels)) = self.chunk.next() {
                self.left -= 1;
                return Some((name, channels));
            }
            self.chunk = self.chunks.next()?.iter();
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for TopicsIter<'_> {}

/// What is different between two [`Topics`].
#[derive(Debug)]
pub(crate) struct Differences<'a> {
    before: Cursor<'a>,
    after: Cursor<'a>,
}

/// A place among topics.
#[derive(Clone, Copy, Debug)]
struct Cursor<'a> {
    chunks: &'a [Arc<Chunk>],
    /// In the first of those.
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(topics: &'a Topics) -> Self {
        Self { chunks: &topics.chunks, at: 0 }
    }

    fn peek(&self) -> Option<&'a (TopicName, Arc<BTreeSet<ChannelName>>)> {
        self.chunks.first()?.get(self.at)
    }

    fn advance(&mut self) {
        self.at += 1;
        if self.chunks.first().is_none_or(|chunk| self.at >= chunk.len()) {
            self.skip();
        }
    }

    /// The chunk that begins here.
    fn whole(&self) -> Option<&'a Arc<Chunk>> {
        self.chunks.first().filter(|_| self.at == 0)
    }

    fn skip(&mut self) {
        self.chunks = self.chunks.get(1..).unwrap_or_default();
        self.at = 0;
    }
}

impl<'a> Iterator for Differences<'a> {
    type Item = (&'a TopicName, Option<&'a BTreeSet<ChannelName>>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let whole = self.before.whole().zip(self.after.whole());
            if whole.is_some_and(|(before, after)| Arc::ptr_eq(before, after)) {
                self.before.skip();
                self.after.skip();
                continue;
            }
            match (self.before.peek(), self.after.peek()) {
                (None, None) => return None,
                (Some((gone, _)), later) if later.is_none_or(|(name, _)| gone < name) => {
                    self.before.advance();
                    return Some((gone, None));
                }
                (Some((known, old)), Some((name, new))) if known == name => {
                    self.before.advance();
                    self.after.advance();
                    if old != new {
                        return Some((name, Some(new)));
                    }
                }
                (_, Some((name, new))) => {
                    self.after.advance();
                    return Some((name, Some(new)));
                }
                // Its guard above holds where nothing comes later.
                (Some(_), None) => return None,
            }
        }
    }
}

/// What a change copies at most, beside one pointer for each so many topics.
const CHUNK_MAX: usize = 256;

#[cfg(test)]
mod tests;
