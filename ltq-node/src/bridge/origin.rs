//! Where a message has been: the headers by which bridges let no message go round in circles, and by which
//! consumers tell repeats.

use std::{
    fmt::{self, Write as _},
    str::FromStr,
    sync::Arc,
};

use bytes::Bytes;
use ltq_core::{Headers, Message, NAME_BYTES_MAX, Offset, Timestamp, TopicName};
use ltq_discovery::NodeId;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use thiserror::Error;

/// The header that names the sites which a message has left by bridges, the first one first, with commas
/// between them.
pub const ORIGIN_HEADER: &str = "ltq-origin";

/// The header that says where a message was published first: `SITE/NODE/TOPIC/OFFSET/TIME`, the node as
/// [`Names`](super::Names) has it, the time in milliseconds since 1970 as that node has it. It stays the same however often and by whatever way the
/// message is forwarded, and no two messages have the same one, unless a node's store and its clock are set
/// back.
pub const ORIGIN_ID_HEADER: &str = "ltq-origin-id";

/// The most sites that a message can be let pass: what [`Sites`] takes for its bound.
pub const HOPS_LIMIT: usize = 64;

/// The name of a site: 1 to 64 of `[A-Za-z0-9._-]`. Everything that one bridge takes from, or brings to, is
/// one site; bridges in both directions, or in a ring, must call it the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site(Arc<str>);

/// A text that is no site's name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name of a site; write 1 to {NAME_BYTES_MAX} letters, digits, '.', '_' and '-'"
)]
pub struct SiteError(pub String);

impl Site {
    /// Checks a name.
    ///
    /// # Errors
    /// [`SiteError`] for a text that is none.
    pub fn new(text: &str) -> Result<Self, SiteError> {
        match is_site(text) {
            true => Ok(Self(text.into())),
            false => Err(SiteError(text.chars().take(NAME_BYTES_MAX * 2).collect())),
        }
    }

    /// The name of a site that has none of its own: that of an address, with what is no letter or digit made
    /// a `-`, and cut to its last 64 characters.
    #[must_use]
    pub fn of_address(address: &str) -> Self {
        let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
        let kept = |c: char| if is_site_char(c) { c } else { '-' };
        let name: Vec<char> = rest.trim().chars().map(kept).collect();
        let from = name.len().saturating_sub(NAME_BYTES_MAX);
        let name: String = name.iter().skip(from).collect();
        Self(if name.is_empty() { "site".into() } else { name.into() })
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Site {
    type Err = SiteError;
    fn from_str(text: &str) -> Result<Self, SiteError> {
        Self::new(text)
    }
}

impl Serialize for Site {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Site {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// Between which sites messages are forwarded, and how far they may have come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sites {
    /// The site that messages come from.
    pub from: Site,
    /// The site that they go to.
    pub to: Site,
    /// How many sites a message may have left by bridges, this one included: 1 to [`HOPS_LIMIT`].
    pub hops_max: usize,
}

/// Where a message stood before it was forwarded.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// On which node, by the name that [`Names`](super::Names) has for it.
    pub node: &'a NodeId,
    /// In which topic.
    pub topic: &'a TopicName,
    /// At which offset of it.
    pub offset: Offset,
    /// When the node took it in.
    pub time: Timestamp,
}

/// What becomes of a message by where it has been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passage {
    /// It is forwarded, with this on it.
    On {
        /// What it is to carry.
        stamp: Stamp,
        /// Why the origin that it came with was not used, if it was not.
        garbled: Option<Garbled>,
    },
    /// It has been at the destination: it would go round in a circle.
    Back,
    /// It has left as many sites as it may.
    TooFar,
}

/// What a bridge writes on a message: where it has been, and where it was published first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    origin: Bytes,
    /// `None` where the message has one already.
    id: Option<Bytes>,
}

impl Stamp {
    /// The message as it goes on. Key and body are shared with the one that came.
    #[must_use]
    pub fn on(&self, message: &Message) -> Message {
        // An id without an origin is no bridge's.
        let is_kept =
            |name: &str| name != ORIGIN_HEADER && !(self.id.is_some() && name == ORIGIN_ID_HEADER);
        let mut headers: Headers =
            message.headers.iter().filter(|(name, _)| is_kept(name)).collect();
        headers.push(ORIGIN_HEADER, &self.origin);
        headers.extend(self.id.iter().map(|id| (ORIGIN_ID_HEADER, id)));
        Message { key: message.key.clone(), headers, body: message.body.clone() }
    }

    /// The bytes that it is held with.
    pub(super) fn byte_len(&self) -> usize {
        self.origin.len() + self.id.as_ref().map_or(0, Bytes::len)
    }
}

/// Why a header [`ORIGIN_HEADER`] is not used. The message is forwarded as one that comes from nowhere else,
/// so that nothing is lost by it; the header is written anew, so that it ends what circle it may be in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Garbled {
    /// It is longer than any that a bridge writes.
    #[error("the origin of a message is longer than {ORIGIN_BYTES_MAX} bytes")]
    TooLong,
    /// There are several of it.
    #[error("a message has several origins")]
    Several,
    /// It holds what is no name of a site.
    #[error("the origin of a message holds what is no name of a site")]
    NoSite,
}

impl Sites {
    /// Looks at where a message has been, and says what it is to carry on.
    #[must_use]
    pub fn pass(&self, message: &Message, place: Place<'_>) -> Passage {
        let (been, garbled) = match been(message) {
            Ok(been) => (been, None),
            Err(garbled) => (None, Some(garbled)),
        };
        let sites = || been.iter().flat_map(|been| been.split(','));
        if sites().any(|site| site == self.to.as_str()) {
            return Passage::Back;
        }
        if sites().count() >= self.hops_max.min(HOPS_LIMIT) {
            return Passage::TooFar;
        }
        let has_id = been.is_some() && message.headers.get(ORIGIN_ID_HEADER).is_some();
        let Place { node, topic, offset, time } = place;
        // Both stand in one piece of memory.
        let mut text = String::with_capacity(STAMP_BYTES_USUAL);
        let from = self.from.as_str();
        for part in been.iter().flat_map(|been| [been, ","]).chain([from]) {
            text.push_str(part);
        }
        let origin_len = text.len();
        if !has_id {
            // Writing to a string cannot fail.
            let _ = write!(text, "{from}/{node}/{topic}/{}/{}", offset.0, time.0);
        }
        let mut origin = Bytes::from(text);
        let id = origin.split_off(origin_len);
        Passage::On { stamp: Stamp { origin, id: (!has_id).then_some(id) }, garbled }
    }
}

/// The sites that a message has left, as its header says them; `None` when it has left none.
fn been(message: &Message) -> Result<Option<&str>, Garbled> {
    let mut found = message.headers.iter().filter(|(name, _)| *name == ORIGIN_HEADER);
    let Some((_, value)) = found.next() else { return Ok(None) };
    if found.next().is_some() {
        return Err(Garbled::Several);
    }
    if value.len() > ORIGIN_BYTES_MAX {
        return Err(Garbled::TooLong);
    }
    let text = std::str::from_utf8(value).map_err(|_| Garbled::NoSite)?;
    match text.split(',').all(is_site) {
        true => Ok(Some(text)),
        false => Err(Garbled::NoSite),
    }
}

fn is_site(text: &str) -> bool {
    (1..=NAME_BYTES_MAX).contains(&text.len()) && text.chars().all(is_site_char)
}

const fn is_site_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// As many sites as there can be, with commas between them.
const ORIGIN_BYTES_MAX: usize = HOPS_LIMIT * (NAME_BYTES_MAX + 1);
/// Room for what is written on most messages.
const STAMP_BYTES_USUAL: usize = 128;

#[cfg(test)]
#[path = "origin_tests.rs"]
mod tests;
