//! What a broker may be told before it starts.

mod delivery;
mod usual;

use std::{fmt, sync::Arc, time::Duration};

use thiserror::Error;

use super::entrance::EntranceSettings;
use crate::{Access, Everybody, TopicSettings, model::ModelSettings, protocol::FRAME_BYTES_MIN};

/// Settings of a [`Broker`](super::Broker). Made with [`Default`] and changed field by field.
#[derive(Clone)]
pub struct BrokerSettings {
    /// The node's name, told to clients. Default: `ltq`.
    pub node: String,
    /// Who may come in, and what they may do. Default: [`Everybody`], everything.
    /// [`SharedToken`](crate::SharedToken) asks for one secret; your own [`Access`] for what you
    /// like. The program that embeds the broker needs no leave.
    pub access: Arc<dyn Access>,
    /// Settings of topics made on first use.
    pub topic: TopicSettings,
    /// Whether publishing or subscribing makes a topic that is not there. Default: true.
    pub auto_create_topics: bool,
    /// Whether subscribing makes a channel that is not there. Default: true.
    pub auto_create_channels: bool,
    /// The most topics. Default: 100,000.
    pub topics_max: usize,
    /// The most connections at a time; further ones are refused. Default: 20,000.
    pub connections_max: usize,
    /// The most connections at a time from one [`Origin`](crate::Origin): an address (an IP address without
    /// its port; of IPv6 the first 64 bits), or over a Unix socket a user; further ones are refused.
    /// Other peers of this machine are not counted here. A whole [site](crate::Origin::site) may have four times as many,
    /// but no more than three quarters of all. Default: 1,000.
    pub connections_per_address_max: usize,
    /// How connections come in.
    pub entrance: EntranceSettings,
    /// The most streams of one connection at a time, where the transport carries several.
    /// Default: 256.
    pub streams_max: usize,
    /// The most streams without an accepted hello of a connection on which none was accepted so far, where
    /// the transport carries several; further ones wait to be accepted. When twice as many have failed, the
    /// connection is ended. Default: 4.
    pub unknown_streams_max: usize,
    /// The same of a connection on which one was accepted: a client that is there again opens all of its
    /// streams at once. At least `unknown_streams_max`. Default: 64.
    pub opening_streams_max: usize,
    /// The largest encoded message, in bytes. Default: 1 MiB.
    pub message_bytes_max: u32,
    /// The longest frame, in bytes. Default: 8 MiB.
    pub frame_bytes_max: u32,
    /// The most subscriptions of one connection, on all of its streams. Default: 4,096.
    pub subscriptions_max: u32,
    /// The most open producers of one connection, on all of its streams. Default: 4,096.
    pub producers_max: u32,
    /// The most subscriptions and open producers of all connections together. At most 10,000,000. Default:
    /// 1,000,000.
    pub handles_total_max: usize,
    /// The most of them from one [`Origin`](crate::Origin), where there is one. `None`, the default: a
    /// quarter.
    pub handles_per_address_max: Option<usize>,
    /// The most frames of one connection within a second that cost work and bring nothing: pings,
    /// requests that are refused, numbers that name nothing, credit that was given before or is taken
    /// back, and publishes of what cannot be stored. Counted apart, and up to `subscriptions_max` and
    /// `producers_max` together where that is more: ends of subscriptions that were given nothing, and of
    /// producers of which nothing was stored; those of connections that are gone within their first second
    /// for their [`Origin`](crate::Origin), where there is one.
    /// Beyond it the stream that sent the last is ended, and those that say hello. Default: 10,000.
    pub futile_frames_max: u32,
    /// The most topics that peers of one address make by using them, at once and in each minute;
    /// beyond it such use is refused. Peers of this machine are not counted, but for users of Unix sockets.
    /// Default: 1,000.
    pub topics_per_minute_max: u32,
    /// The same for channels, those that end with their last consumer among them. A client that is
    /// there again makes all of the latter anew. Default: 10,000.
    pub channels_per_minute_max: u32,
    /// Wrong tokens in a row, each counted once, after which an address is turned away unasked: for a
    /// second, and after each further one for twice as long, up to [`lockout_max`](Self::lockout_max).
    /// Default: 10.
    pub wrong_tokens_max: u32,
    /// The longest that an address is turned away for wrong tokens. At least a second, at most a day.
    /// Default: 60 s.
    pub lockout_max: Duration,
    /// The most addresses of which it is remembered which brought wrong tokens, and the same for those
    /// which made topics by use, and channels, and those whose connections closed much without use, some
    /// 120 bytes for each; the one seen longest ago is forgotten for a further one. 1 to 10,000,000.
    /// Default: 4,096.
    pub addresses_known_max: usize,
    /// The most requests of operators that one connection has unanswered, on all of its streams.
    /// Default: 16.
    pub requests_max: u32,
    /// How many requests that look at all topics or all channels of one are carried out at a time, for those who may
    /// administer, and for metrics; more wait, and metrics go first. Default: 2.
    pub surveys_max: usize,
    /// The same of lists of topics, which everybody may ask for: those who may administer the node go first, others
    /// by turns of their addresses and connections. Default: 1.
    pub topic_lists_max: usize,
    /// The most entries in what one topic has still to hear; beyond it streams that use the topic are
    /// not read from. An entry is what one frame asks for, or eight settlements of one. Default: 8,192.
    pub inbox_entries_max: usize,
    /// Bytes that one stream has been answered or delivered and that are encoded and not sent; beyond
    /// it the broker reads no more from that stream, and encodes no more for it. 4 KiB to 1 GiB. Default:
    /// 256 KiB.
    pub answer_bytes_max: usize,
    /// The same of answers alone, encoded or not, for all streams of a connection: beyond it the broker
    /// reads from none of them whose peer has any to read, and beyond twice as much from none. At least `answer_bytes_max`. `None`, the default: four times as much.
    pub answer_bytes_per_connection_max: Option<usize>,
    /// The same for all connections of one [`Origin`](crate::Origin), where there is one. At least
    /// `answer_bytes_max`. `None`, the default: a quarter of `answer_bytes_total_max`, or
    /// `answer_bytes_per_connection_max` where that is more.
    pub answer_bytes_per_address_max: Option<usize>,
    /// The same for all streams together. At least `answer_bytes_max`. Default: 256 MiB.
    pub answer_bytes_total_max: usize,
    /// Bytes that one stream may have published and not yet confirmed, each publish counting 256
    /// bytes more than its records; beyond it the next publish of that stream waits, and what is said
    /// behind it. Default: 16 MiB.
    pub publish_bytes_max: u64,
    /// The same for all streams of a connection, those that are gone included; beyond it the next
    /// publish waits of any of them that has publishes unconfirmed, and beyond twice as much of all. At least `publish_bytes_max`. `None`, the default: twice that.
    pub publish_bytes_per_connection_max: Option<u64>,
    /// The same for all connections of one [`Origin`](crate::Origin), where there is one. At least
    /// `publish_bytes_max`. `None`, the default: a quarter of `publish_bytes_total_max`, or
    /// `publish_bytes_max` where that is more.
    pub publish_bytes_per_address_max: Option<u64>,
    /// The same for all streams together. Default: 256 MiB.
    pub publish_bytes_total_max: usize,
    /// Bytes of half-read frames longer than a quarter of [`partial_bytes_free`](Self::partial_bytes_free),
    /// and of shorter ones as far as one connection has more than that of them, over all streams; beyond it streams that
    /// are in the middle of such a frame go on one after another, and others do not notice.
    /// Default: 128 MiB.
    pub partial_bytes_total_max: usize,
    /// Bytes of half-read short frames that each connection has for itself, beside
    /// `partial_bytes_total_max`. 16 KiB to 1 GiB. Default: 256 KiB.
    pub partial_bytes_free: usize,
    /// Bytes of deliveries that wait to be read by the peer of one stream, above which it is given no
    /// more: it has at most this and a run waiting. 4 KiB to 1 GiB. Default: 1 MiB.
    pub delivery_bytes_max: usize,
    /// Bytes of deliveries that wait to be read by the peers of all connections of one [`Origin`](crate::Origin), where
    /// there is one. Beyond it a connection from there that has read everything gets one run, and the next when it
    /// has read that; beyond twice as much none gets anything. At least `delivery_bytes_max`. `None`, the default: a
    /// quarter of `delivery_bytes_total_max`, or `delivery_bytes_max` where that is more.
    pub delivery_bytes_per_address_max: Option<usize>,
    /// Bytes of deliveries that wait to be read by the peers of all streams, and by the program's own
    /// consumers, a message counting once for each of them. Beyond it a connection that has read
    /// everything gets one run, and the next when it has read that; others get nothing more. However
    /// much this allows, no stream has more than `delivery_bytes_max` and a run waiting. Runs of 16 KiB and more, and
    /// the first that waits, may keep the whole block in memory that they were read in. Default: 512 MiB.
    pub delivery_bytes_total_max: usize,
    /// How long a peer may take to say hello, and a connection to open a stream. 100 ms to a day,
    /// as all times here. Default: 5 s.
    pub hello_timeout: Duration,
    /// How often either side of a stream says something at least; after three times as long
    /// without a byte the peer is given up. A client may ask for less. Default: 15 s.
    pub heartbeat: Duration,
    /// How long a peer may take over the rest of a frame that it began, or read nothing of what waits
    /// for it. Default: 30 s.
    pub stall_timeout: Duration,
    /// How many times [`stall_timeout`](Self::stall_timeout) a peer may take, reading a few bytes at a time, for the
    /// next [`answer_bytes_max`](Self::answer_bytes_max) of what waits for it on a stream, answers and deliveries, or for
    /// all of it where that is less. By default that is a line of 7 kbit/s, however long messages are. 1 to 10,000.
    /// Default: 10.
    pub slow_read_stalls: u32,
    /// The limits of delivery.
    pub model: ModelSettings,
}

/// All of it but what may hold secrets: settings end up in logs and in the output of tests that fail.
impl fmt::Debug for BrokerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart, so that no field can be forgotten.
        let Self {
            node,
            access: _,
            topic,
            auto_create_topics,
            auto_create_channels,
            topics_max,
            connections_max,
            connections_per_address_max,
            entrance,
            streams_max,
            unknown_streams_max,
            opening_streams_max,
            message_bytes_max,
            frame_bytes_max,
            subscriptions_max,
            producers_max,
            handles_total_max,
            handles_per_address_max,
            futile_frames_max,
            topics_per_minute_max,
            channels_per_minute_max,
            wrong_tokens_max,
            lockout_max,
            addresses_known_max,
            requests_max,
            surveys_max,
            topic_lists_max,
            inbox_entries_max,
            answer_bytes_max,
            answer_bytes_per_connection_max,
            answer_bytes_per_address_max,
            answer_bytes_total_max,
            publish_bytes_max,
            publish_bytes_per_connection_max,
            publish_bytes_per_address_max,
            publish_bytes_total_max,
            partial_bytes_total_max,
            partial_bytes_free,
            delivery_bytes_max,
            delivery_bytes_per_address_max,
            delivery_bytes_total_max,
            hello_timeout,
            heartbeat,
            stall_timeout,
            slow_read_stalls,
            model,
        } = self;
        f.debug_struct("BrokerSettings")
            .field("node", node)
            .field("topic", topic)
            .field("auto_create_topics", auto_create_topics)
            .field("auto_create_channels", auto_create_channels)
            .field("topics_max", topics_max)
            .field("connections_max", connections_max)
            .field("connections_per_address_max", connections_per_address_max)
            .field("entrance", entrance)
            .field("streams_max", streams_max)
            .field("unknown_streams_max", unknown_streams_max)
            .field("opening_streams_max", opening_streams_max)
            .field("message_bytes_max", message_bytes_max)
            .field("frame_bytes_max", frame_bytes_max)
            .field("subscriptions_max", subscriptions_max)
            .field("producers_max", producers_max)
            .field("handles_total_max", handles_total_max)
            .field("handles_per_address_max", handles_per_address_max)
            .field("futile_frames_max", futile_frames_max)
            .field("topics_per_minute_max", topics_per_minute_max)
            .field("channels_per_minute_max", channels_per_minute_max)
            .field("wrong_tokens_max", wrong_tokens_max)
            .field("lockout_max", lockout_max)
            .field("addresses_known_max", addresses_known_max)
            .field("requests_max", requests_max)
            .field("surveys_max", surveys_max)
            .field("topic_lists_max", topic_lists_max)
            .field("inbox_entries_max", inbox_entries_max)
            .field("answer_bytes_max", answer_bytes_max)
            .field("answer_bytes_per_connection_max", answer_bytes_per_connection_max)
            .field("answer_bytes_per_address_max", answer_bytes_per_address_max)
            .field("answer_bytes_total_max", answer_bytes_total_max)
            .field("publish_bytes_max", publish_bytes_max)
            .field("publish_bytes_per_connection_max", publish_bytes_per_connection_max)
            .field("publish_bytes_per_address_max", publish_bytes_per_address_max)
            .field("publish_bytes_total_max", publish_bytes_total_max)
            .field("partial_bytes_total_max", partial_bytes_total_max)
            .field("partial_bytes_free", partial_bytes_free)
            .field("delivery_bytes_max", delivery_bytes_max)
            .field("delivery_bytes_per_address_max", delivery_bytes_per_address_max)
            .field("delivery_bytes_total_max", delivery_bytes_total_max)
            .field("hello_timeout", hello_timeout)
            .field("heartbeat", heartbeat)
            .field("stall_timeout", stall_timeout)
            .field("slow_read_stalls", slow_read_stalls)
            .field("model", model)
            .finish_non_exhaustive()
    }
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            node: "ltq".to_owned(),
            access: Arc::new(Everybody),
            topic: TopicSettings::default(),
            auto_create_topics: true,
            auto_create_channels: true,
            topics_max: 100_000,
            connections_max: 20_000,
            connections_per_address_max: 1_000,
            entrance: EntranceSettings::default(),
            streams_max: 256,
            unknown_streams_max: 4,
            opening_streams_max: 64,
            message_bytes_max: 1 << 20,
            frame_bytes_max: 8 << 20,
            subscriptions_max: 4096,
            producers_max: 4096,
            handles_total_max: 1_000_000,
            handles_per_address_max: None,
            futile_frames_max: 10_000,
            topics_per_minute_max: 1_000,
            channels_per_minute_max: 10_000,
            wrong_tokens_max: 10,
            lockout_max: Duration::from_secs(60),
            addresses_known_max: 4096,
            requests_max: 16,
            surveys_max: 2,
            topic_lists_max: 1,
            inbox_entries_max: 8192,
            answer_bytes_max: 256 << 10,
            answer_bytes_per_connection_max: None,
            answer_bytes_per_address_max: None,
            answer_bytes_total_max: 256 << 20,
            publish_bytes_max: 16 << 20,
            publish_bytes_per_connection_max: None,
            publish_bytes_per_address_max: None,
            publish_bytes_total_max: 256 << 20,
            partial_bytes_total_max: 128 << 20,
            partial_bytes_free: 256 << 10,
            delivery_bytes_max: 1 << 20,
            delivery_bytes_per_address_max: None,
            delivery_bytes_total_max: 512 << 20,
            hello_timeout: Duration::from_secs(5),
            heartbeat: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            slow_read_stalls: 10,
            model: ModelSettings::default(),
        }
    }
}

/// A setting that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{setting} cannot be {value}: {rule}")]
pub struct SettingsError {
    /// The field's name.
    pub setting: &'static str,
    /// Its value.
    pub value: String,
    /// The rule that it breaks.
    pub rule: String,
}

impl BrokerSettings {
    /// The bytes that a frame needs beside the message or run that it carries.
    pub(super) const FRAME_OVERHEAD: u32 = FRAME_BYTES_MIN;

    /// Checks that the settings can be, each and together.
    ///
    /// # Errors
    /// The first [`SettingsError`] found.
    pub fn check(&self) -> Result<(), SettingsError> {
        let at_least_one = "it must be at least 1";
        rule(
            !self.node.is_empty() && self.node.len() <= 256,
            "node",
            &self.node,
            "1 to 256 bytes",
        )?;
        self.topic.retention.check().map_err(|error| SettingsError {
            setting: error.limit,
            value: error.value,
            rule: error.rule.to_owned(),
        })?;
        rule(self.topics_max > 0, "topics_max", &self.topics_max, at_least_one)?;
        rule(self.connections_max > 0, "connections_max", &self.connections_max, at_least_one)?;
        let max = self.connections_per_address_max;
        rule(max > 0, "connections_per_address_max", &max, at_least_one)?;
        if let Some(setting) = self.entrance.zero() {
            rule(false, setting, &0, at_least_one)?;
        }
        let max = self.futile_frames_max;
        rule(max > 0, "futile_frames_max", &max, at_least_one)?;
        let max = self.topics_per_minute_max;
        rule(max > 0, "topics_per_minute_max", &max, at_least_one)?;
        let max = self.channels_per_minute_max;
        rule(max > 0, "channels_per_minute_max", &max, at_least_one)?;
        rule(self.streams_max > 0, "streams_max", &self.streams_max, at_least_one)?;
        rule(
            self.subscriptions_max > 0,
            "subscriptions_max",
            &self.subscriptions_max,
            at_least_one,
        )?;
        rule(self.producers_max > 0, "producers_max", &self.producers_max, at_least_one)?;
        rule(
            (1..=MESSAGE_BYTES_CEILING).contains(&self.message_bytes_max),
            "message_bytes_max",
            &self.message_bytes_max,
            format!("1 to {MESSAGE_BYTES_CEILING} bytes"),
        )?;
        let room = self.message_bytes_max.saturating_add(Self::FRAME_OVERHEAD);
        rule(
            self.frame_bytes_max >= room,
            "frame_bytes_max",
            &self.frame_bytes_max,
            format!("it must hold the largest message: at least {room} bytes"),
        )?;
        rule(
            self.frame_bytes_max <= FRAME_BYTES_CEILING,
            "frame_bytes_max",
            &self.frame_bytes_max,
            format!("at most {FRAME_BYTES_CEILING} bytes"),
        )?;
        let least = u64::from(self.frame_bytes_max);
        rule(
            self.publish_bytes_max >= least,
            "publish_bytes_max",
            &self.publish_bytes_max,
            format!("it must hold the longest frame: at least {least} bytes"),
        )?;
        for (setting, bytes) in [
            ("publish_bytes_per_connection_max", self.publish_bytes_per_connection()),
            ("publish_bytes_per_address_max", self.publish_bytes_per_address()),
        ] {
            rule(
                bytes as u64 >= self.publish_bytes_max,
                setting,
                &bytes,
                format!("at least what a stream may have: {} bytes", self.publish_bytes_max),
            )?;
        }
        for (setting, bytes) in [
            ("publish_bytes_total_max", self.publish_bytes_total_max),
            ("partial_bytes_total_max", self.partial_bytes_total_max),
        ] {
            rule(
                bytes as u64 >= least,
                setting,
                &bytes,
                format!("it must hold the longest frame: at least {least} bytes"),
            )?;
        }
        let lasting = |duration| (DURATION_MIN..=DURATION_MAX).contains(&duration);
        for (setting, duration) in [
            ("hello_timeout", self.hello_timeout),
            ("heartbeat", self.heartbeat),
            ("stall_timeout", self.stall_timeout),
        ] {
            rule(lasting(duration), setting, &format!("{duration:?}"), "100 ms to a day")?;
        }
        self.check_peers()?;
        self.check_model()
    }

    /// Checks what bounds one peer, connection or address.
    fn check_peers(&self) -> Result<(), SettingsError> {
        let max = self.wrong_tokens_max;
        rule(max > 0, "wrong_tokens_max", &max, "it must be at least 1")?;
        rule(
            (LOCKOUT_MIN..=DURATION_MAX).contains(&self.lockout_max),
            "lockout_max",
            &format!("{:?}", self.lockout_max),
            "a second to a day",
        )?;
        for (setting, value, range) in [
            ("addresses_known_max", self.addresses_known_max, 1..=COUNT_CEILING),
            ("requests_max", self.requests_max as usize, 1..=COUNT_CEILING),
            ("slow_read_stalls", self.slow_read_stalls as usize, 1..=STALLS_CEILING),
            ("surveys_max", self.surveys_max, 1..=COUNT_CEILING),
            ("topic_lists_max", self.topic_lists_max, 1..=COUNT_CEILING),
            ("handles_total_max", self.handles_total_max, 1..=COUNT_CEILING),
            ("handles_per_address_max", self.handles_per_address(), 1..=COUNT_CEILING),
            ("inbox_entries_max", self.inbox_entries_max, 1..=COUNT_CEILING),
            ("unknown_streams_max", self.unknown_streams_max, 1..=STREAMS_CEILING),
            (
                "opening_streams_max",
                self.opening_streams_max,
                self.unknown_streams_max..=STREAMS_CEILING,
            ),
            ("answer_bytes_max", self.answer_bytes_max, WAITING_BYTES_MIN..=WAITING_BYTES_CEILING),
            (
                "delivery_bytes_max",
                self.delivery_bytes_max,
                WAITING_BYTES_MIN..=WAITING_BYTES_CEILING,
            ),
            (
                "partial_bytes_free",
                self.partial_bytes_free,
                PARTIAL_FREE_MIN..=WAITING_BYTES_CEILING,
            ),
        ] {
            let (least, most) = (range.start(), range.end());
            rule(range.contains(&value), setting, &value, format!("{least} to {most}"))?;
        }
        let one = self.answer_bytes_max;
        for (setting, all) in [
            ("answer_bytes_per_connection_max", self.answer_bytes_per_connection()),
            ("answer_bytes_per_address_max", self.answer_bytes_per_address()),
            ("answer_bytes_total_max", self.answer_bytes_total_max),
        ] {
            let least = format!("at least what a stream may have: {one} bytes");
            rule(all >= one, setting, &all, least)?;
        }
        let (one, all) = (self.delivery_bytes_max, self.delivery_bytes_per_address());
        let least = format!("at least what a stream may have: {one} bytes");
        rule(all >= one, "delivery_bytes_per_address_max", &all, least)?;
        Ok(())
    }
}

fn rule(
    holds: bool,
    setting: &'static str,
    value: &dyn ToString,
    rule: impl Into<String>,
) -> Result<(), SettingsError> {
    if holds {
        return Ok(());
    }
    Err(SettingsError { setting, value: value.to_string(), rule: rule.into() })
}

/// The largest message that can be allowed: a run of it and its table stay far below 4 GiB.
const MESSAGE_BYTES_CEILING: u32 = 256 << 20;
/// The longest frame that can be allowed.
const FRAME_BYTES_CEILING: u32 = 512 << 20;
/// More than any machine serves.
const COUNT_CEILING: usize = 10_000_000;
/// More than any transport carries at a time.
const STREAMS_CEILING: usize = 1_000_000;
/// Together with the longest time this is never.
const STALLS_CEILING: usize = 10_000;
/// Less would not hold an answer.
const WAITING_BYTES_MIN: usize = FRAME_BYTES_MIN as usize;
const WAITING_BYTES_CEILING: usize = 1 << 30;
/// A quarter of it is the shortest frame that anybody has to read.
const PARTIAL_FREE_MIN: usize = 4 * WAITING_BYTES_MIN;
/// How long an address is turned away at first.
const LOCKOUT_MIN: Duration = Duration::from_secs(1);
/// What a timer can tell apart from no time at all, with some room.
const DURATION_MIN: Duration = Duration::from_millis(100);
/// Longer is never, and several of them together must not overflow.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SharedToken;

    #[test]
    fn the_secret_is_not_in_what_is_printed() {
        let access = Arc::new(SharedToken::new("s3cret").unwrap());
        let settings = BrokerSettings { access, ..Default::default() };
        assert!(!format!("{settings:?}").contains("s3cret"), "{settings:?}");
    }
}
