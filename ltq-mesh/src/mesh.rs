//! A program's part in a mesh.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use ltq_core::{
    Address, BrokerError, DirectError, Effect, Message, Publisher, RecordsBuilder, SubscribeOptions,
};
use tokio::{
    runtime,
    sync::{Mutex as Turnstile, mpsc},
    time::{Instant, timeout, timeout_at},
};
use tracing::warn;

use crate::{
    CloseReport, Inbox, InboxError, MeshBuilder, MeshName, MeshStates, SendError, StateWatch,
    Undelivered,
    peer::Peer,
    shared::{INBOX, READERS, Shared},
};

/// A program's part in a mesh: its inbox, and its connections to the others. Cheap to clone; all clones are
/// one. When the last one is dropped the mesh is left and the inbox is over; [`close`](Self::close) waits for
/// what is under way, and for that.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use ltq_mesh::Mesh;
/// use ltq_store::MemoryStore;
/// use ltq_transport::{InProcess, Transports};
///
/// // Between programs it is `Transports::new().with(Tcp::default())`, and `tcp://HOST:PORT`.
/// let links = Transports::new().with(InProcess::new());
/// let one = Mesh::builder("name1")
///     .transports(links.clone())
///     .listen("in-process://one")
///     .token("secret")
///     .start(MemoryStore::new(64 << 20))
///     .await?;
/// let two = Mesh::builder("name2")
///     .transports(links)
///     .peer("name1", ["in-process://one"])
///     .token("secret")
///     .start(MemoryStore::new(64 << 20))
///     .await?;
///
/// two.connected("name1").await?;
/// two.send("name1", "hello").await?; // stored in name1's inbox when it returns
///
/// let mut inbox = one.inbox().await?;
/// if let Some(message) = inbox.next().await {
///     let message = message?;
///     assert_eq!((message.from().as_str(), &message.body()[..]), ("name2", &b"hello"[..]));
///     message.ack()?;
/// }
/// two.close().await?;
/// one.close().await?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Mesh(Arc<Handle>);

struct Handle {
    shared: Arc<Shared>,
    /// The way into the own inbox.
    own: Turnstile<Publisher>,
    /// Whoever closes it; one at a time.
    closing: Turnstile<Closing>,
}

/// How far closing has come.
struct Closing {
    /// Ends when all tasks have.
    gone: mpsc::Receiver<()>,
    /// Of whom something is to be said, and until when they are waited for.
    peers: Option<(Vec<Arc<Peer>>, Instant)>,
    /// What was left, once all tasks have ended.
    report: Option<CloseReport>,
}

impl Mesh {
    /// Describes the part of a program of this name.
    #[must_use]
    pub fn builder(name: &str) -> MeshBuilder {
        MeshBuilder::new(name)
    }

    pub(crate) fn new(shared: Arc<Shared>, own: Publisher, gone: mpsc::Receiver<()>) -> Self {
        let closing = Turnstile::new(Closing { gone, peers: None, report: None });
        Self(Arc::new(Handle { shared, own: Turnstile::new(own), closing }))
    }

    #[cfg(test)]
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// This program's name.
    #[must_use]
    pub fn name(&self) -> &MeshName {
        &self.0.shared.name
    }

    /// Puts a message into the inbox of `to`, and waits until it is stored there, as durable as its owner's
    /// settings ask. One's own name puts it into one's own inbox, without asking the handler.
    ///
    /// Messages to one peer are stored in the order in which these calls were first polled, over
    /// reconnections too. While there is no connection a call fails at once; one that has been taken is sent
    /// again when the connection comes back within its acknowledgement timeout, and is stored once.
    ///
    /// A call that is given up before the message was sent has done nothing; given up later, the message
    /// may be stored.
    ///
    /// # Errors
    /// [`SendError`], whose [`effect`](SendError::effect) says whether the message may be there.
    pub async fn send(&self, to: &str, body: impl Into<Bytes>) -> Result<(), SendError> {
        let (shared, body) = (&self.0.shared, body.into());
        if shared.is_closed() {
            return Err(SendError::Closed { effect: Effect::Nothing });
        }
        let max = shared.settings.message_bytes_max;
        if body.len() > max {
            return Err(SendError::TooLarge { bytes: body.len(), max });
        }
        if shared.name == *to {
            return self.send_to_self(body).await;
        }
        let Some(peer) = shared.peer(to) else {
            let peer = to.chars().take(NAME_CHARS_MAX).collect();
            return Err(SendError::NoSuchPeer { peer });
        };
        peer.send(body, shared.settings.acknowledgement_timeout).await
    }

    async fn send_to_self(&self, body: Bytes) -> Result<(), SendError> {
        let peer = self.name().clone();
        let after = self.0.shared.settings.acknowledgement_timeout;
        let deadline = Instant::now() + after;
        let too_late = |effect| SendError::TimedOut { peer: peer.clone(), after, effect };
        let own = timeout_at(deadline, self.0.own.lock()).await;
        let mut own = own.map_err(|_| too_late(Effect::Nothing))?;
        let mut records = RecordsBuilder::new();
        let key = Bytes::copy_from_slice(peer.as_str().as_bytes());
        records.push(&Message::new(body).with_key(key));
        // What a call that was given up has left behind is not this one's. Whoever waited for it in vain has
        // published nothing.
        let left_behind = timeout_at(deadline, own.flush()).await;
        drop(left_behind.map_err(|_| too_late(Effect::Nothing))?);
        match timeout_at(deadline, own.publish_records(records.finish())).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(DirectError::Refused(refusal))) => Err(SendError::of_refusal(peer, &refusal)),
            Ok(Err(error)) => {
                let (detail, effect) = (error.to_string(), error.effect());
                Err(SendError::Refused { peer, detail, effect })
            }
            Err(_) => Err(too_late(Effect::Unknown)),
        }
    }

    /// Reads the inbox, with acks. Several readers share the messages.
    ///
    /// # Errors
    /// [`InboxError::Broker`].
    pub async fn inbox(&self) -> Result<Inbox, InboxError> {
        let options = SubscribeOptions::default();
        Ok(Inbox::new(self.0.shared.broker.subscribe(INBOX, READERS, options).await?))
    }

    /// Watches what connections and listeners are doing.
    #[must_use]
    pub fn watch(&self) -> StateWatch {
        self.0.shared.states.watch()
    }

    /// What connections and listeners are doing now.
    #[must_use]
    pub fn states(&self) -> MeshStates {
        self.watch().now()
    }

    /// Waits until messages go to and from a peer, which need not be known yet. Ends with whatever
    /// deadline the caller sets. Cancel safe.
    ///
    /// # Errors
    /// [`SendError::Closed`] when the mesh is closed before.
    pub async fn connected(&self, peer: &str) -> Result<(), SendError> {
        let connected = self.watch().until(|states| states.is_connected(peer)).await.is_some();
        if connected { Ok(()) } else { Err(SendError::Closed { effect: Effect::Nothing }) }
    }

    /// Where it listens now, ports that were asked for as 0 filled in.
    #[must_use]
    pub fn local_addresses(&self) -> Vec<Address> {
        self.states().local_addresses().cloned().collect()
    }

    /// Leaves the mesh: takes nothing more to be sent, waits for what is under way, at most for the
    /// acknowledgement timeout, tells the peers, and stops the embedded broker, which makes everything that
    /// it confirmed durable. Says what was left: calls of [`send`](Self::send) that wait for room end at once,
    /// and nobody waits for messages whose calls have timed out or were dropped. Closing twice, or
    /// several times at once, is harmless: each call returns when the mesh is closed, and says the same. Given up,
    /// the mesh is on its way out, and another call goes on with it.
    ///
    /// # Errors
    /// [`BrokerError`], when the broker could not stop within 5 s or not make everything durable.
    pub async fn close(&self) -> Result<CloseReport, BrokerError> {
        let shared = &self.0.shared;
        // Before anybody is waited for.
        shared.refuse();
        let mut closing = self.0.closing.lock().await;
        let Closing { gone, peers, report } = &mut *closing;
        let (peers, until) = peers.get_or_insert_with(|| {
            (shared.close(), Instant::now() + shared.settings.acknowledgement_timeout)
        });
        let report = match report {
            Some(report) => report.clone(),
            None => {
                let idle = async {
                    for peer in &*peers {
                        peer.idle().await;
                    }
                };
                let _late = timeout_at(*until, idle).await;
                shared.stop();
                let _late = timeout(TASKS, gone.recv()).await;
                let mut left = BTreeMap::new();
                for peer in &*peers {
                    // Where its task has not ended in time.
                    peer.end();
                    left.extend(peer.left().map(|left| (peer.name().clone(), left)));
                }
                for (peer, Undelivered { not_sent, unanswered }) in &left {
                    warn!(%peer, not_sent, unanswered, "closed before all was answered");
                }
                report.insert(CloseReport::new(left)).clone()
            }
        };
        // Under the same lock: who comes second returns when all has come to rest, too.
        shared.broker.stop(BROKER).await?;
        Ok(report)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
        // Without a runtime there is nobody who could go on.
        if let Ok(runtime) = runtime::Handle::try_current() {
            let broker = self.shared.broker.clone();
            runtime.spawn(async move { broker.stop(BROKER).await });
        }
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("name", self.name()).finish_non_exhaustive()
    }
}

/// What an error repeats of a name that nobody has.
const NAME_CHARS_MAX: usize = 80;
/// How long the tasks may take over their last words.
const TASKS: Duration = Duration::from_secs(3);
/// How long the broker may take to come to rest.
const BROKER: Duration = Duration::from_secs(5);
