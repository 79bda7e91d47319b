//! What a stream's peer may do, and how much it asked for that brings nothing.

use std::{
    mem,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    door,
    in_vain::{Vain, VainMax},
    places::Open,
    producers::Producers,
    shared::Shared,
    surveys::Rank,
    together::Together,
};
use crate::{
    Action, Address, AdminRequest, AdminResponse, Grant, Origin, Peer, Refusal, RefusalCode, Seat,
    TopicName,
    model::{Claim, Reply, Topic},
    permissions::{Need, needed_for},
};

/// How a peer stands with the broker.
pub(super) struct Standing {
    shared: Arc<Shared>,
    peer: Address,
    /// None before the hello.
    grant: Option<Grant>,
    futile: Futile,
    /// It asked for a list of topics.
    listed: bool,
}

impl Standing {
    /// Of one stream of those that share `together`.
    pub(super) fn new(shared: Arc<Shared>, together: Arc<Together>, peer: &Peer) -> Self {
        let futile = Futile::new(together);
        Self { shared, peer: peer.address.clone(), grant: None, futile, listed: false }
    }

    /// Its hello was accepted.
    pub(super) fn admitted(&mut self, grant: Grant) {
        self.grant = Some(grant);
    }

    pub(super) const fn is_admitted(&self) -> bool {
        self.grant.is_some()
    }

    /// Whether a stream may begin on its connection now.
    ///
    /// # Errors
    /// [`RefusalCode::Flooding`] when those before, here or on connections of the same address that are
    /// gone, did too much that brings nothing.
    pub(super) fn may_begin(&self) -> Result<(), Refusal> {
        let Together { in_vain, origin, .. } = &*self.futile.together;
        let over = in_vain.over().map(|vain| (vain, "streams of this connection did that before"));
        let over = over.or_else(|| {
            let ends = self.shared.leavings.are_over(*origin).then_some(Vain::End)?;
            Some((ends, "connections of this address did that before"))
        });
        let Some((vain, before)) = over else { return Ok(()) };
        self.shared.counters.sessions_flooding.fetch_add(1, Ordering::Relaxed);
        Err(refusal(in_vain.max(), vain, before))
    }

    /// Whether it is to be served any longer.
    ///
    /// # Errors
    /// [`RefusalCode::Unauthorized`] when what it was granted was taken back,
    /// [`RefusalCode::Flooding`] when it asked for too much that brings nothing.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        let (count, refusal) = match (&self.grant, &self.futile.flood) {
            (Some(grant), _) if grant.is_revoked() => {
                (&self.shared.counters.sessions_revoked, door::revoked())
            }
            (_, Some(flood)) => (&self.shared.counters.sessions_flooding, flood.clone()),
            _ => return Ok(()),
        };
        // Once for each stream: it ends by this.
        count.fetch_add(1, Ordering::Relaxed);
        Err(refusal)
    }

    /// The claim to a seat, under the name by which it was let in.
    pub(super) fn claim(&self, seat: Seat) -> Option<Claim> {
        let owner = self.grant.as_ref()?.owner();
        Some(Claim { owner, seat })
    }

    /// Whether it may do this with a topic.
    pub(super) fn permit(&self, action: Action, topic: &TopicName) -> Result<(), Refusal> {
        self.permitted(action, Some(topic))
    }

    /// Whether it may ask for this.
    pub(super) fn permit_request(&self, request: &AdminRequest) -> Result<(), Refusal> {
        match needed_for(request) {
            Need::Nothing => Ok(()),
            Need::Topic(topic) => self.permitted(Action::Administer, Some(topic)),
            Need::Node => self.permitted(Action::Administer, None),
        }
    }

    /// When its requests have their turns.
    pub(super) fn rank(&self) -> Rank {
        let administers = |grant: &Grant| grant.permits(Action::Administer, None);
        match self.grant.as_ref().is_some_and(administers) {
            true => Rank::Operator,
            false => Rank::Peer,
        }
    }

    /// It asks for this: of a list of topics each one after the first brings little, and costs as much as
    /// there are.
    pub(super) fn asks(&mut self, request: &AdminRequest) {
        if matches!(request, AdminRequest::ListTopics) && mem::replace(&mut self.listed, true) {
            self.futile("a list of topics that it had asked for before");
        }
    }

    fn permitted(&self, action: Action, topic: Option<&TopicName>) -> Result<(), Refusal> {
        let Shared { door, counters, .. } = &*self.shared;
        // Nothing is asked before the hello; if it were, nobody had permitted it.
        let grant = self.grant.as_ref().ok_or_else(door::revoked)?;
        door.permit(counters, Some(&self.peer), grant, action, topic)
    }

    /// What takes from an answer what its asker may not see.
    pub(super) fn sight(&self) -> impl FnOnce(AdminResponse) -> AdminResponse + Send + 'static {
        let grant = self.grant.clone();
        move |mut response| {
            if let (AdminResponse::Topics(names), Some(grant)) = (&mut response, grant) {
                names.retain(|name| grant.permissions().see(name));
            }
            response
        }
    }

    /// Where it comes from, as far as limits count.
    pub(super) fn origin(&self) -> Option<Origin> {
        self.futile.together.origin
    }

    /// What the streams of its connection have open together.
    pub(super) fn open(&self) -> &Open {
        &self.futile.together.open
    }

    /// It asked for something that brings nothing; too much of it shows in [`check`](Self::check).
    pub(super) fn futile(&mut self, what: &str) {
        self.futile.note(what);
    }

    /// It closed something that it had opened and not used; too much of it shows in
    /// [`check`](Self::check).
    pub(super) fn useless(&mut self, what: &str) {
        self.futile.count(Vain::End, what);
    }

    /// It ends, and so much that it had open was of no use to anybody.
    pub(super) fn ended(&self, useless: usize) {
        if useless > 0 {
            let count = u32::try_from(useless).unwrap_or(u32::MAX);
            self.futile.together.in_vain.note(Vain::End, count);
        }
    }

    /// Notes what a topic's answer, before it is told in the client's numbers, says of the peer: that
    /// it asked in vain, or that frames may be on their way for what it does not know to be closed.
    pub(super) fn answered(&mut self, reply: &Reply, producers: &Producers) {
        match reply {
            Reply::SubscribeRefused { .. } => self.futile("a subscription that was refused"),
            Reply::Settled { stale, .. } if !stale.is_empty() => {
                self.futile("settlements of what is not this consumer's");
            }
            Reply::SubscriptionClosed { refusal: Some(refusal), .. } => {
                match refusal.code {
                    // Which a peer can do to itself as often as it likes.
                    RefusalCode::Fenced => self.futile.spare_once_a_second(CROSSING_FRAMES),
                    _ => self.futile.spare(CROSSING_FRAMES),
                }
            }
            Reply::ProducerRefused { handle, .. } if producers.stored(*handle).is_some() => {
                let most = self.shared.settings.publish_bytes_max / Topic::WISH_BYTES as u64;
                self.futile.spare(most);
            }
            Reply::ProducerRefused { .. } => self.futile("a producer that was refused"),
            _ => {}
        }
    }
}

/// Counts frames that cost the node work and bring nothing, over all streams of a connection.
#[derive(Debug)]
struct Futile {
    together: Arc<Together>,
    /// So many more that are not the peer's fault.
    spared: u64,
    /// When it was spared something that it may have brought about by itself.
    spared_at: Option<Instant>,
    /// There were too many.
    flood: Option<Refusal>,
}

impl Futile {
    const fn new(together: Arc<Together>) -> Self {
        Self { together, spared: 0, spared_at: None, flood: None }
    }

    fn note(&mut self, what: &str) {
        if self.spared > 0 {
            self.spared -= 1;
            return;
        }
        self.count(Vain::Frame, what);
    }

    fn count(&mut self, vain: Vain, what: &str) {
        let in_vain = &self.together.in_vain;
        if in_vain.note(vain, 1) {
            let last = format!("the last was {what}");
            self.flood = Some(refusal(in_vain.max(), vain, &last));
        }
    }

    fn spare(&mut self, frames: u64) {
        self.spared = self.spared.saturating_add(frames).min(SPARED_MAX);
    }

    fn spare_once_a_second(&mut self, frames: u64) {
        let now = Instant::now();
        if self.spared_at.is_none_or(|at| now.duration_since(at) >= SPARED_AGAIN) {
            self.spared_at = Some(now);
            self.spare(frames);
        }
    }
}

fn refusal(max: VainMax, vain: Vain, more: &str) -> Refusal {
    let (max, what) = max.told(vain);
    let detail = format!("more than {max} {what} within a second; {more}");
    Refusal::new(RefusalCode::Flooding, detail)
}

/// Settlements and credit that a client may have sent for a subscription when it hears of its end.
const CROSSING_FRAMES: u64 = 64;
const SPARED_AGAIN: Duration = Duration::from_secs(1);
/// Frames that a client may have on their way when what they are for is closed: publishes without
/// content, as many as one stream may have unconfirmed, twice.
const SPARED_MAX: u64 = 1 << 17;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Permissions, TopicPattern,
        broker::{budget::Budget, settings::BrokerSettings, testing},
    };

    fn of_at_most(max: u32) -> Futile {
        let settings = BrokerSettings { futile_frames_max: max, ..BrokerSettings::default() };
        Futile::new(Together::with(Arc::new(Budget::new(0)), &settings))
    }

    /// How many are allowed at once.
    fn until_flood(futile: &mut Futile) -> u32 {
        for count in 0.. {
            futile.note("a ping");
            if futile.flood.is_some() {
                return count;
            }
        }
        unreachable!()
    }

    #[tokio::test]
    async fn promise_10_only_who_administers_the_node_goes_before_others() {
        let (shared, _gate) = testing::shared(true);
        let peer = Peer { address: "in-process://x".parse().unwrap(), identity: None };
        let rank = |permissions: Option<Permissions>| {
            let mut standing = Standing::new(shared.clone(), shared.together(None), &peer);
            permissions.into_iter().for_each(|it| standing.admitted(Grant::new("x", it)));
            standing.rank()
        };
        let one = vec![TopicPattern::new("t").unwrap()];
        let of_one = Permissions { administer: one, ..Permissions::all() };
        let none = Permissions { administer: Vec::new(), ..Permissions::all() };
        assert_eq!(rank(Some(Permissions::all())), Rank::Operator);
        for permissions in [Some(of_one), Some(none), None] {
            assert_eq!(rank(permissions), Rank::Peer);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_of_the_lists_that_a_stream_asks_for_all_but_the_first_bring_nothing() {
        let (shared, _gate) = testing::shared(true);
        let peer = Peer { address: "in-process://x".parse().unwrap(), identity: None };
        let most = shared.settings.futile_frames_max;
        let mut standing = Standing::new(shared.clone(), shared.together(None), &peer);
        (0..=most).for_each(|_| standing.asks(&AdminRequest::ListTopics));
        // What else is asked for is not the same again.
        (0..most).for_each(|_| standing.asks(&AdminRequest::Stats));
        assert_eq!(standing.check(), Ok(()));
        standing.asks(&AdminRequest::ListTopics);
        let refusal = standing.check().unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Flooding);
        assert!(refusal.detail.contains("a list of topics"), "{refusal}");
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_a_flood_is_noticed_and_a_steady_stream_below_the_limit_is_not() {
        let mut futile = of_at_most(100);
        for _ in 0..50 {
            for _ in 0..90 {
                futile.note("a ping");
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert_eq!(futile.flood, None);
        let mut futile = of_at_most(100);
        assert_eq!(until_flood(&mut futile), 100);
        let refusal = futile.flood.unwrap();
        assert_eq!(refusal.code, RefusalCode::Flooding);
        assert!(refusal.detail.contains("100") && refusal.detail.contains("a ping"), "{refusal}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_crosses_the_news_of_an_end_is_no_flood() {
        let mut futile = of_at_most(100);
        futile.spare(1_000);
        assert_eq!(until_flood(&mut futile), 1_100);
        let mut futile = of_at_most(100);
        for _ in 0..1_000 {
            futile.spare(1 << 40);
        }
        assert_eq!(futile.spared, SPARED_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn promise_10_who_ends_its_own_subscriptions_again_and_again_is_not_spared_for_it() {
        let mut futile = of_at_most(100);
        let mut count = 0;
        while futile.flood.is_none() {
            futile.spare_once_a_second(CROSSING_FRAMES);
            (0..CROSSING_FRAMES).for_each(|_| futile.note("a ping"));
            count += CROSSING_FRAMES;
            assert!(count < 10_000, "nothing ends it");
        }
        tokio::time::advance(SPARED_AGAIN).await;
        let mut futile = of_at_most(100);
        for _ in 0..100 {
            futile.spare_once_a_second(CROSSING_FRAMES);
            (0..CROSSING_FRAMES).for_each(|_| futile.note("a ping"));
            tokio::time::advance(SPARED_AGAIN).await;
        }
        assert_eq!(futile.flood, None, "as clients do that lose their seats now and then");
    }
}
