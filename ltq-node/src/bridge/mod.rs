//! `ltq-node bridge`: forwarding topics from one node or cluster to another.
//!
//! The engine is [`Forwarder`]: one topic of one node, brought to a [`Destination`], each message at least once.

mod budget;
mod figures;
mod forwarder;
mod ledger;
mod origin;
mod outlet;
mod route;

pub use budget::{Budget, Share};
pub use figures::{Board, RouteCounts, RouteFigures, Status, TopicFigures, TopicOnNode};
pub use forwarder::{Ended, Forwarder, REFUSED_HEADER, Rules, Source};
pub use origin::{
    Garbled, HOPS_LIMIT, ORIGIN_HEADER, ORIGIN_ID_HEADER, Passage, Place, Site, SiteError, Sites,
};
pub use outlet::{Destination, Failure, Order};
pub use route::{HeaderFilter, HeaderFilterError, Refused, Route, Target, check_prefix};
