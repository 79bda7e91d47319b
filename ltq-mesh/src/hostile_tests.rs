//! Peers that speak the protocol as they please.

mod holding;
mod lying;

use std::{future::poll_fn, io::IoSlice, time::Duration};

use bytes::{BufMut as _, Bytes, BytesMut};
use ltq_core::{Address, Connection, Listener, Stream, Transport as _};
use ltq_store::MemoryStore;
use ltq_transport::{InProcess, Transports};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    DownCause, Mesh, MeshSettings, MeshStates, PeerState, SendError,
    rules::ConnectionId,
    wire::{Farewell, Link, LinkError, MAGIC, NotStored, PROTOCOL, Say},
};

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen"))
}

fn settings() -> MeshSettings {
    MeshSettings {
        reconnect_interval: Duration::from_millis(50),
        message_bytes_max: 10_000,
        unacknowledged_bytes_max: 20_000,
        unacknowledged_messages_max: 4,
        ..MeshSettings::default()
    }
}

async fn mesh(links: &InProcess, settings: MeshSettings) -> Mesh {
    Mesh::builder("ours")
        .transports(Transports::new().with(links.clone()))
        .listen("in-process://ours")
        .peer("them", ["in-process://them"])
        .settings(settings)
        .start(MemoryStore::new(64 << 20))
        .await
        .expect("a mesh")
}

/// Somebody at the other end of a link.
struct Raw(Link);

fn ours() -> Address {
    Address::new("in-process", "ours")
}

impl Raw {
    async fn connect(links: &InProcess) -> Self {
        let connection = loop {
            match links.connect(&ours()).await {
                Ok(connection) => break connection,
                Err(_) => sleep(Duration::from_millis(1)).await,
            }
        };
        Self::over(connection, true).await
    }

    async fn accept(listener: &mut dyn Listener) -> Self {
        Self::over(within("a call", listener.accept()).await.expect("a call"), false).await
    }

    async fn over(connection: Box<dyn Connection>, opens: bool) -> Self {
        let stream = match opens {
            true => connection.open_stream().await.expect("a stream"),
            false => connection.accept_stream().await.expect("a stream").expect("a stream"),
        };
        Self(Link::new(connection, stream))
    }

    async fn say(&mut self, say: &Say) {
        self.0.mouth.say(say).expect("a frame");
        self.flush().await;
    }

    async fn message(&mut self, number: u64, body: impl Into<Bytes>) {
        self.0.mouth.message(number, body.into()).expect("a frame");
        self.flush().await;
    }

    async fn flush(&mut self) {
        // Who is cut off notices when it listens.
        while self.0.mouth.unsent() > 0 {
            if within("it is taken", self.0.mouth.send_some()).await.is_err() {
                return;
            }
        }
    }

    /// The next words that are no sign of life.
    async fn hear(&mut self) -> Result<(Say, Bytes), LinkError> {
        loop {
            match within("words", self.0.ear.hear_some(Some(1 << 20))).await? {
                Some((Say::Ping, _)) => self.say(&Say::Pong).await,
                Some(heard) => return Ok(heard),
                None => {}
            }
        }
    }

    async fn goodbye(&mut self) -> (Farewell, String) {
        let goodbye = async {
            loop {
                match self.hear().await.expect("a goodbye") {
                    (Say::Goodbye { why, detail }, _) => return (why, detail),
                    (Say::Resume { .. } | Say::Stored { .. }, _) => {}
                    (say, _) => panic!("{say:?} is no goodbye"),
                }
            }
        };
        within("a goodbye", goodbye).await
    }

    /// Which it is that comes: no farewell is a welcome.
    async fn goodbye_or_welcome(&mut self) -> (Option<Farewell>, String) {
        match self.hear().await.expect("an answer").0 {
            Say::Welcome { .. } => (None, String::new()),
            Say::Goodbye { why, detail } => (Some(why), detail),
            say => panic!("{say:?} is no answer to a hello"),
        }
    }

    /// Comes in under a name, and hears the welcome and the inbox's state: what is stored.
    async fn join(links: &InProcess, from: &str, dialer: u64) -> (Self, u64) {
        let mut raw = Self::connect(links).await;
        raw.say(&hello(from, dialer, 1, None)).await;
        let welcome = raw.hear().await.expect("a welcome").0;
        assert!(matches!(welcome, Say::Welcome { .. }), "{welcome:?}");
        let Say::Resume { stored, .. } = raw.hear().await.expect("a state").0 else {
            panic!("no state of the inbox");
        };
        (raw, stored)
    }
}

fn hello(from: &str, dialer: u64, attempt: u64, token: Option<&str>) -> Say {
    Say::Hello {
        magic: MAGIC,
        version: PROTOCOL,
        mesh: "mesh".to_owned(),
        from: from.to_owned(),
        to: "ours".to_owned(),
        id: ConnectionId { dialer, attempt },
        after: None,
        token: token.map(str::to_owned),
    }
}

fn resume(stored: u64) -> Say {
    Say::Resume {
        inbox: 7,
        stored,
        messages_max: 100,
        bytes_max: 1 << 20,
        message_bytes_max: 10_000,
        patience_ms: 1_000,
    }
}

fn down(states: &MeshStates, peer: &str) -> Option<DownCause> {
    match states.peer(peer) {
        Some(PeerState::Disconnected { cause, .. }) => Some(cause.clone()),
        _ => None,
    }
}

/// That it serves those who behave.
async fn serves(mesh: &Mesh, links: &InProcess) {
    let good = Mesh::builder("good")
        .transports(Transports::new().with(links.clone()))
        .peer("ours", ["in-process://ours"])
        .settings(settings())
        .start(MemoryStore::new(1 << 20))
        .await
        .expect("a mesh");
    within("it is connected", good.connected("ours")).await.expect("open");
    good.send("ours", "x").await.expect("sent");
    good.close().await.expect("closed");
    drop(mesh.states());
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_does_not_say_a_proper_hello_is_told_why_and_can_do_nothing() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let with = |change: fn(&mut Say)| {
        let mut say = hello("them", 1, 1, None);
        change(&mut say);
        say
    };
    for (first, farewell) in [
        (Say::Ping, Farewell::Protocol),
        (resume(0), Farewell::Protocol),
        (hello("a b", 1, 1, None), Farewell::Protocol),
        (hello("ours", 1, 1, None), Farewell::NameTaken),
        (
            with(|say| {
                if let Say::Hello { magic, .. } = say {
                    *magic = *b"HTTP"
                }
            }),
            Farewell::Protocol,
        ),
        (
            with(|say| {
                if let Say::Hello { version, .. } = say {
                    *version += 1
                }
            }),
            Farewell::Version,
        ),
        (
            with(|say| {
                if let Say::Hello { to, .. } = say {
                    "them".clone_into(to)
                }
            }),
            Farewell::WrongPlace,
        ),
        (
            with(|say| {
                if let Say::Hello { mesh, .. } = say {
                    mesh.push('2')
                }
            }),
            Farewell::WrongPlace,
        ),
    ] {
        let mut raw = Raw::connect(&links).await;
        raw.say(&first).await;
        assert_eq!(raw.goodbye().await.0, farewell, "{first:?}");
        assert!(raw.hear().await.is_err(), "it is over");
    }
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_bytes_that_are_no_hello_end_the_connection_at_once() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let mut long = BytesMut::new();
    long.put_u32_le(u32::MAX);
    let mut hello_too_long = BytesMut::new();
    hello_too_long.put_u32_le(5_000);
    hello_too_long.put_slice(&[1; 100]);
    let mut message_first = BytesMut::new();
    message_first.put_u32_le(9_000);
    message_first.put_slice(&[0; 100]);
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &long, &hello_too_long, &message_first]
    {
        let raw = Raw::connect(&links).await;
        let Link { ear, connection, .. } = raw.0;
        drop((ear, connection));
        let connection = links.connect(&ours()).await.expect("connected");
        let Stream { mut send, mut recv } = connection.open_stream().await.expect("a stream");
        let sent = poll_fn(|context| send.poll_send(context, &[IoSlice::new(bytes)])).await;
        assert_eq!(sent.expect("taken"), bytes.len());
        let began = Instant::now();
        let mut heard = BytesMut::new();
        let end = async {
            while let Ok(1..) = poll_fn(|context| recv.poll_recv(context, &mut heard, 4_096)).await
            {
            }
        };
        within("it ends", end).await;
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_who_says_nothing_is_cut_and_many_of_them_leave_room_once_their_time_is_up() {
    let links = InProcess::new();
    let mesh = mesh(&links, MeshSettings { callers_max: 4, ..settings() }).await;
    let mut silent = Vec::new();
    for _ in 0..4 {
        silent.push(Raw::connect(&links).await);
    }
    tokio::task::yield_now().await;
    let mut fifth = Raw::connect(&links).await;
    fifth.say(&hello("them", 1, 1, None)).await;
    assert!(fifth.hear().await.is_err(), "there is no room");
    let began = Instant::now();
    for raw in &mut silent {
        assert!(raw.hear().await.is_err(), "it is cut");
    }
    assert!(began.elapsed() <= settings().hello_timeout);
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_10_a_peer_that_breaks_the_protocol_is_cut_and_nothing_of_it_is_stored_or_believed()
{
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    // A body has so many bytes.
    type Says = Vec<(Say, Option<usize>)>;
    let twice = |say: fn() -> Say| vec![(say(), None), (say(), None)];
    let message = |number, bytes| (Say::Message { number }, Some(bytes));
    let cases: Vec<(&str, Says)> = vec![
        ("before the inbox was told", vec![message(1, 1)]),
        ("told twice", twice(|| resume(0))),
        ("message 2 came where 1 is next", vec![(resume(0), None), message(2, 1)]),
        ("message 0 came where 1 is next", vec![(resume(0), None), message(0, 1)]),
        ("the limit is 10000", vec![(resume(0), None), message(1, 10_001)]),
        ("message 1 was answered", vec![(resume(0), None), (Say::Stored { through: 1 }, None)]),
        (
            "message 9 was answered",
            vec![
                (resume(0), None),
                (Say::NotStored { number: 9, why: NotStored::Rejected(String::new()) }, None),
            ],
        ),
        (
            "message 5 was said to be heard",
            vec![(resume(0), None), (Say::Heard { number: 5 }, None)],
        ),
        ("a second hello", vec![(hello("them", 1, 2, None), None)]),
        ("a second welcome", vec![(Say::Welcome { instance: 1 }, None)]),
    ];
    for (nth, (why, says)) in (1..).zip(cases) {
        let (mut raw, stored) = Raw::join(&links, "them", nth).await;
        assert_eq!(stored, 0);
        for (say, body) in says {
            match (say, body) {
                (Say::Message { number }, Some(bytes)) => raw.message(number, vec![0; bytes]).await,
                (say, _) => raw.say(&say).await,
            }
        }
        let (farewell, detail) = raw.goodbye().await;
        assert_eq!(farewell, Farewell::Protocol);
        assert!(detail.contains(why), "{detail} is not {why}");
        let is_down = |states: &MeshStates| down(states, "them").is_some();
        within("it is down", mesh.watch().until(is_down)).await;
    }
    serves(&mesh, &links).await;
}

#[tokio::test(start_paused = true)]
async fn promise_9_a_peer_that_sends_more_than_it_may_without_an_answer_is_cut() {
    let links = InProcess::new();
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    struct Waiting(std::sync::Arc<tokio::sync::Semaphore>);
    #[async_trait::async_trait]
    impl crate::InboxHandler for Waiting {
        async fn accept(&self, _: &crate::MeshName, _: &Bytes) -> crate::Admission {
            let _ = self.0.acquire().await;
            crate::Admission::Accept
        }
    }
    let _mesh = Mesh::builder("ours")
        .transports(Transports::new().with(links.clone()))
        .listen("in-process://ours")
        .settings(settings())
        .handler(Waiting(gate.clone()))
        .start(MemoryStore::new(64 << 20))
        .await
        .expect("a mesh");
    for (count, bytes, why) in
        [(5, 1, "more than 4 messages"), (3, 10_000, "more than 20000 bytes")]
    {
        let (mut raw, _) = Raw::join(&links, "them", count).await;
        raw.say(&resume(0)).await;
        for number in 1..=count {
            raw.message(number, vec![0; bytes]).await;
        }
        let (farewell, detail) = raw.goodbye().await;
        assert!(farewell == Farewell::Protocol && detail.contains(why), "{detail} is not {why}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_calls_anew_replaces_its_connection_and_what_it_was_told_holds() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let (mut first, _) = Raw::join(&links, "them", 7).await;
    first.say(&resume(0)).await;
    first.message(1, "a").await;
    assert_eq!(first.hear().await.expect("an answer").0, Say::Stored { through: 1 });
    within("it is up", mesh.connected("them")).await.expect("open");
    // An earlier attempt that was late on its way, and another process.
    for (dialer, attempt, farewell) in [(7, 1, Farewell::Connected), (8, 9, Farewell::NameTaken)] {
        let mut late = Raw::connect(&links).await;
        late.say(&hello("them", dialer, attempt, None)).await;
        assert_eq!(late.goodbye().await.0, farewell);
    }
    let sending = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("them", "b").await }
    });
    assert_eq!(first.hear().await.expect("a message").0, Say::Message { number: 1 });
    let mut again = Raw::connect(&links).await;
    again.say(&hello("them", 7, 2, None)).await;
    assert!(matches!(again.hear().await.expect("a welcome").0, Say::Welcome { .. }));
    let Say::Resume { stored, .. } = again.hear().await.expect("a state").0 else { panic!() };
    assert_eq!(stored, 1);
    // What was on its way over the first goes over the second.
    again.say(&resume(0)).await;
    assert_eq!(again.hear().await.expect("a message"), (Say::Message { number: 1 }, "b".into()));
    again.say(&Say::Stored { through: 1 }).await;
    assert_eq!(within("it is sent", sending).await.expect("no panic"), Ok(()));
    let end = async { while first.hear().await.is_ok() {} };
    within("the first is cut", end).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_stored_of_two_processes_of_one_name_is_counted_apart() {
    let links = InProcess::new();
    let _mesh = mesh(&links, settings()).await;
    for (dialer, attempt, known) in [(7, 1, 0), (8, 1, 0), (8, 2, 1), (7, 2, 1), (7, 3, 2)] {
        let mut raw = Raw::connect(&links).await;
        let mut say = hello("them", dialer, attempt, None);
        // The one before may not be known to be gone yet.
        let stored = loop {
            raw.say(&say).await;
            match raw.hear().await.expect("an answer").0 {
                Say::Welcome { .. } => match raw.hear().await.expect("a state").0 {
                    Say::Resume { stored, .. } => break stored,
                    other => panic!("{other:?}"),
                },
                Say::Goodbye { why: Farewell::NameTaken, .. } => {
                    raw = Raw::connect(&links).await;
                    say = hello("them", dialer, attempt, None);
                }
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(stored, known, "{dialer} {attempt}");
        raw.say(&resume(0)).await;
        raw.message(1, "a").await;
        assert_eq!(raw.hear().await.expect("an answer").0, Say::Stored { through: 1 });
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_called_and_answers_nonsense_is_told_of_and_called_again() {
    let links = InProcess::new();
    let mesh = mesh(&links, settings()).await;
    let mut listener = links.listen(&Address::new("in-process", "them")).await.expect("a listener");
    let mut raw = Raw::accept(&mut *listener).await;
    assert!(matches!(raw.hear().await.expect("a hello").0, Say::Hello { .. }));
    raw.say(&Say::Pong).await;
    let nonsense =
        |states: &MeshStates| matches!(down(states, "them"), Some(DownCause::Protocol(_)));
    within("it is told", mesh.watch().until(nonsense)).await.expect("open");
    // It says nothing at all.
    let mut raw = Raw::accept(&mut *listener).await;
    let silent = |states: &MeshStates| matches!(down(states, "them"), Some(DownCause::NoAnswer(_)));
    within("it is told", mesh.watch().until(silent)).await.expect("open");
    assert!(matches!(raw.hear().await.expect("a hello").0, Say::Hello { .. }));
    assert!(raw.hear().await.is_err(), "it was given up");
    // It welcomes, and takes nothing.
    let mut raw = Raw::accept(&mut *listener).await;
    assert!(matches!(raw.hear().await.expect("a hello").0, Say::Hello { .. }));
    raw.say(&Say::Welcome { instance: 3 }).await;
    raw.say(&resume(0)).await;
    within("it is up", mesh.connected("them")).await.expect("open");
    mesh.send("them", vec![0; 10_001]).await.expect_err("too large");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_takes_nothing_is_cut_after_the_write_timeout() {
    let links = InProcess::new();
    let second = Duration::from_secs(1);
    let settings = MeshSettings {
        write_timeout: second,
        message_bytes_max: 1 << 20,
        unacknowledged_bytes_max: 4 << 20,
        ..settings()
    };
    let mesh = mesh(&links, settings).await;
    let mut listener = links.listen(&Address::new("in-process", "them")).await.expect("a listener");
    let mut raw = Raw::accept(&mut *listener).await;
    assert!(matches!(raw.hear().await.expect("a hello").0, Say::Hello { .. }));
    raw.say(&Say::Welcome { instance: 3 }).await;
    let Say::Resume { inbox, .. } = resume(0) else { panic!() };
    raw.say(&Say::Resume {
        inbox,
        stored: 0,
        messages_max: 100,
        bytes_max: 4 << 20,
        message_bytes_max: 1 << 20,
        patience_ms: 1_000,
    })
    .await;
    within("it is up", mesh.connected("them")).await.expect("open");
    let began = Instant::now();
    let sending = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.send("them", vec![0; 1 << 20]).await }
    });
    let stalled = |states: &MeshStates| down(states, "them") == Some(DownCause::Stalled(second));
    within("it is cut", mesh.watch().until(stalled)).await.expect("open");
    assert_eq!(began.elapsed(), second);
    drop((raw, listener));
    let error = within("it ends", sending).await.expect("no panic").expect_err("not stored");
    assert!(matches!(error, SendError::WriteFailed { .. }), "{error:?}");
}
