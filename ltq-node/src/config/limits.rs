//! What peers may ask for: `[limits]`.

use std::time::Duration;

use ltq_core::BrokerSettings;
use serde::{Deserialize, Serialize};

use super::{
    exempt::ExemptAddresses,
    units::{ByteSize, Period},
};

/// What peers may ask for: the table `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// The largest message, encoded. Default: 1 MiB.
    pub message_bytes_max: ByteSize,
    /// The longest frame, and the longest body of a request that publishes many messages.
    /// Default: 8 MiB.
    pub frame_bytes_max: ByteSize,
    /// The most topics. Default: 100,000.
    pub topics_max: usize,
    /// The most channels of a topic. Default: 10,000.
    pub channels_max: usize,
    /// The most consumers of a channel. Default: 100,000.
    pub consumers_max: usize,
    /// The most connections at a time. Default: 20,000.
    pub connections_max: usize,
    /// The most connections at a time from one address, or over a Unix socket of one user; others of this
    /// machine are not counted.
    /// Default: 1,000.
    pub connections_per_address_max: usize,
    /// The most connections at a time without an accepted hello; then the oldest gives way after a second. Default: a
    /// quarter of `connections_max`, and 16 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting_connections_max: Option<usize>,
    /// The most of them from one address, by the same rule. Default: a quarter, and 4 at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting_connections_per_address_max: Option<usize>,
    /// The most connections that begin in a second from one address, and TLS and QUIC handshakes; ten times as many may
    /// at once. Default: 200.
    pub connections_per_second_max: u32,
    /// Addresses and networks that no limit by address counts, nor the one of wrong tokens. Default: none.
    pub exempt_addresses: ExemptAddresses,
    /// The most streams of a connection. Default: 256.
    pub streams_max: usize,
    /// The most streams without an accepted hello, of a connection on which none was accepted so far; when twice as
    /// many have failed, it is ended. Default: 4.
    pub unknown_streams_max: usize,
    /// The same of a connection on which one was accepted. Default: 64.
    pub opening_streams_max: usize,
    /// The most subscriptions of a connection, on all of its streams. Default: 4,096.
    pub subscriptions_max: u32,
    /// The most open producers of a connection, on all of its streams. Default: 4,096.
    pub producers_max: u32,
    /// The most subscriptions and open producers of all connections. Default: 1,000,000.
    pub handles_total_max: usize,
    /// The most of them from one address; those of this machine are not counted. Default: a quarter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handles_per_address_max: Option<usize>,
    /// The most frames of one connection within a second that bring nothing: pings, requests that are
    /// refused, numbers that name nothing; and of ends of what was opened and not used, unless
    /// `subscriptions_max` and `producers_max` are more. Beyond it the stream is ended. Default: 10,000.
    pub futile_frames_max: u32,
    /// The most topics that peers of one address make by use, at once and in each minute; those of
    /// this machine are not counted. Default: 1,000.
    pub topics_per_minute_max: u32,
    /// The same for channels. Default: 10,000.
    pub channels_per_minute_max: u32,
    /// Wrong tokens in a row after which an address is turned away for a while. Default: 10.
    pub wrong_tokens_max: u32,
    /// The longest that it is turned away. Default: 1 min.
    pub lockout_max: Period,
    /// The most addresses of which is remembered what they did wrong. Default: 4,096.
    pub addresses_known_max: usize,
    /// The most requests of operators that a connection has unanswered, on all of its streams. Default: 16.
    pub requests_max: u32,
    /// How many requests that look at all topics or all channels of one are carried out at a time. Default: 2.
    pub surveys_max: usize,
    /// How many lists of topics are made at a time. Default: 1.
    pub topic_lists_max: usize,
    /// The most entries in what a topic has still to hear. Default: 8,192.
    pub inbox_entries_max: usize,
    /// Bytes for a stream that are encoded and not sent. Default: 256 KiB.
    pub answer_bytes_max: ByteSize,
    /// The same of answers alone, for all streams of a connection. Default: four times as much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_bytes_per_connection_max: Option<ByteSize>,
    /// The same for all connections of one address; those of this machine are not counted. Default: a
    /// quarter of `answer_bytes_total_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_bytes_per_address_max: Option<ByteSize>,
    /// The same for all streams together. Default: 256 MiB.
    pub answer_bytes_total_max: ByteSize,
    /// The most named producers that a topic remembers. Default: 10,000.
    pub producers_known_max: usize,
    /// Bytes that a stream may have published and not yet confirmed. Default: 16 MiB.
    pub publish_bytes_max: ByteSize,
    /// The same for all streams of a connection. Default: twice as much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_bytes_per_connection_max: Option<ByteSize>,
    /// The same for all connections of one address; those of this machine are not counted. Default: a
    /// quarter of `publish_bytes_total_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publish_bytes_per_address_max: Option<ByteSize>,
    /// The same for all streams together. Default: 256 MiB.
    pub publish_bytes_total_max: ByteSize,
    /// Bytes of half-read long frames over all streams. Default: 128 MiB.
    pub partial_bytes_total_max: ByteSize,
    /// Bytes of half-read short frames that each connection has beside that. Default: 256 KiB.
    pub partial_bytes_free: ByteSize,
    /// Bytes of deliveries that wait for one stream's peer to read them. Default: 1 MiB.
    pub delivery_bytes_max: ByteSize,
    /// The same for all connections of one address; those of this machine are not counted. Default: a
    /// quarter of `delivery_bytes_total_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivery_bytes_per_address_max: Option<ByteSize>,
    /// Bytes of deliveries that wait for all peers to read them. Default: 512 MiB.
    pub delivery_bytes_total_max: ByteSize,
    /// How long a peer may take to say hello. Default: 5 s.
    pub hello_timeout: Period,
    /// How often either side of a stream says something at least. Default: 15 s.
    pub heartbeat: Period,
    /// How long a peer may take over the rest of a frame, or read nothing of what waits for it. Default:
    /// 30 s.
    pub stall_timeout: Period,
    /// How many times that a peer may take for the next `answer_bytes_max` of what waits for it, or for all of it, if
    /// it reads a few bytes at a time. Default: 10.
    pub slow_read_stalls: u32,
    /// The most HTTP connections at a time. A further one takes the place of the one that has had
    /// no request for longest. Default: 512.
    pub http_connections_max: usize,
    /// The most of them from one address; those of this machine are not counted. Default: three quarters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_connections_per_address_max: Option<usize>,
    /// How long an HTTP request may take, from its first byte to its answer. Default: 30 s.
    pub http_request_timeout: Period,
    /// Bytes of HTTP request bodies held at one time. Default: 64 MiB.
    pub http_body_bytes_total_max: ByteSize,
    /// The same for all requests of one address; those of this machine are not counted. Default: a quarter of
    /// `http_body_bytes_total_max`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_body_bytes_per_address_max: Option<ByteSize>,
    /// The most topics, and the most channels, whose own figures `GET /metrics` shows; the first
    /// ones by name are shown, and how many are not. Default: 2,000.
    pub metrics_series_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        let broker = BrokerSettings::default();
        Self {
            message_bytes_max: ByteSize(broker.message_bytes_max.into()),
            frame_bytes_max: ByteSize(broker.frame_bytes_max.into()),
            topics_max: broker.topics_max,
            channels_max: broker.model.channels_max,
            consumers_max: broker.model.consumers_max,
            connections_max: broker.connections_max,
            connections_per_address_max: broker.connections_per_address_max,
            greeting_connections_max: None,
            greeting_connections_per_address_max: None,
            connections_per_second_max: broker.entrance.connections_per_second_max,
            exempt_addresses: ExemptAddresses::default(),
            streams_max: broker.streams_max,
            unknown_streams_max: broker.unknown_streams_max,
            opening_streams_max: broker.opening_streams_max,
            subscriptions_max: broker.subscriptions_max,
            producers_max: broker.producers_max,
            handles_total_max: broker.handles_total_max,
            handles_per_address_max: None,
            futile_frames_max: broker.futile_frames_max,
            topics_per_minute_max: broker.topics_per_minute_max,
            channels_per_minute_max: broker.channels_per_minute_max,
            wrong_tokens_max: broker.wrong_tokens_max,
            lockout_max: Period(broker.lockout_max),
            addresses_known_max: broker.addresses_known_max,
            requests_max: broker.requests_max,
            surveys_max: broker.surveys_max,
            topic_lists_max: broker.topic_lists_max,
            inbox_entries_max: broker.inbox_entries_max,
            answer_bytes_max: ByteSize(broker.answer_bytes_max as u64),
            answer_bytes_per_connection_max: None,
            answer_bytes_per_address_max: None,
            answer_bytes_total_max: ByteSize(broker.answer_bytes_total_max as u64),
            producers_known_max: broker.model.producers_known_max,
            publish_bytes_max: ByteSize(broker.publish_bytes_max),
            publish_bytes_per_connection_max: None,
            publish_bytes_per_address_max: None,
            publish_bytes_total_max: ByteSize(broker.publish_bytes_total_max as u64),
            partial_bytes_total_max: ByteSize(broker.partial_bytes_total_max as u64),
            partial_bytes_free: ByteSize(broker.partial_bytes_free as u64),
            delivery_bytes_max: ByteSize(broker.delivery_bytes_max as u64),
            delivery_bytes_per_address_max: None,
            delivery_bytes_total_max: ByteSize(broker.delivery_bytes_total_max as u64),
            hello_timeout: Period(broker.hello_timeout),
            heartbeat: Period(broker.heartbeat),
            stall_timeout: Period(broker.stall_timeout),
            slow_read_stalls: broker.slow_read_stalls,
            http_connections_max: 512,
            http_connections_per_address_max: None,
            http_request_timeout: Period(Duration::from_secs(30)),
            http_body_bytes_total_max: ByteSize(64 << 20),
            http_body_bytes_per_address_max: None,
            metrics_series_max: 2_000,
        }
    }
}
