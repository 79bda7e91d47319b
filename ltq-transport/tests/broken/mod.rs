//! In-process links with one fault each.

pub(crate) mod streams;

use std::{
    future::pending,
    io::{self, IoSlice},
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use async_trait::async_trait;
use bytes::BytesMut;
use ltq_core::{
    Address, Connection, Listener, Peer, RecvStream, SendStream, Stream, Transport, TransportError,
};
use ltq_transport::InProcess;
use tokio::{sync::mpsc, task::yield_now};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    LosesAByte,
    SwapsBytes,
    TakesMoreThanOffered,
    SaysMoreThanItTook,
    SeesOnlyTheFirstSlice,
    DropsSlicesBeyondALimit,
    ReadsOnlyWhileItCanSend,
    IgnoresMax,
    ReservesWhilePending,
    SwallowsFinish,
    FinishesBothWays,
    BuffersWithoutBound,
    WakesNobody,
    WakesTheFirst,
    LeaksWhatIsDropped,
    MakesBytesUpAfterACut,
    ForgetsTheCut,
    LosesAccepted,
    LosesOpened,
    LocksWhileConnecting,
    AcceptsAHundred,
    CutsWithItsListener,
    HangsOnASecondStream,
    ClaimsToMultiplex,
    NamesAnotherAddress,
    MeetsNobody,
    TakesForeignSchemes,
    MisnamesItsPeer,
    Panics,
}

pub(crate) struct Broken {
    inner: InProcess,
    fault: Fault,
    connecting: AtomicBool,
}

impl Broken {
    pub(crate) fn new(fault: Fault) -> Self {
        Self { inner: InProcess::new(), fault, connecting: AtomicBool::new(false) }
    }

    fn meant(&self, address: &Address) -> Address {
        match self.fault {
            Fault::TakesForeignSchemes => Address::new("in-process", address.rest()),
            _ => address.clone(),
        }
    }
}

#[async_trait]
impl Transport for Broken {
    fn scheme(&self) -> &str {
        self.inner.scheme()
    }

    async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
        let inner = self.inner.listen(&self.meant(address)).await?;
        let (accepted, gone) = (0, Arc::default());
        Ok(Box::new(BrokenListener { inner: Some(inner), fault: self.fault, accepted, gone }))
    }

    async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
        if self.fault == Fault::LocksWhileConnecting {
            while self.connecting.swap(true, Ordering::SeqCst) {
                yield_now().await;
            }
            yield_now().await;
        }
        let connected = self.inner.connect(&self.meant(address)).await;
        self.connecting.store(false, Ordering::SeqCst);
        let inner = match connected {
            Err(TransportError::Io { .. }) if self.fault == Fault::MeetsNobody => {
                let _alone = self.inner.listen(address).await?;
                self.inner.connect(address).await?
            }
            connected => connected?,
        };
        Ok(BrokenConnection::boxed(inner, self.fault, Arc::default()))
    }
}

struct BrokenListener {
    inner: Option<Box<dyn Listener>>,
    fault: Fault,
    accepted: usize,
    gone: Arc<AtomicBool>,
}

impl Drop for BrokenListener {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        if self.fault == Fault::LeaksWhatIsDropped {
            mem::forget(self.inner.take());
        }
    }
}

#[async_trait]
impl Listener for BrokenListener {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        if self.fault == Fault::AcceptsAHundred && self.accepted == 100 {
            return pending().await;
        }
        let inner = self.inner.as_mut().unwrap().accept().await?;
        self.accepted += 1;
        if self.fault == Fault::LosesAccepted {
            yield_now().await;
        }
        Ok(BrokenConnection::boxed(inner, self.fault, Arc::clone(&self.gone)))
    }

    fn local_address(&self) -> Address {
        match self.fault {
            Fault::NamesAnotherAddress => Address::new("in-process", "elsewhere"),
            _ => self.inner.as_ref().unwrap().local_address(),
        }
    }
}

struct BrokenConnection {
    inner: Box<dyn Connection>,
    fault: Fault,
    peer: Peer,
    opened: AtomicBool,
    listener_gone: Arc<AtomicBool>,
}

impl BrokenConnection {
    fn boxed(
        inner: Box<dyn Connection>,
        fault: Fault,
        listener_gone: Arc<AtomicBool>,
    ) -> Box<dyn Connection> {
        let mut peer = inner.peer().clone();
        if fault == Fault::MisnamesItsPeer {
            peer.address = Address::new("tcp", "somebody");
        }
        Box::new(Self { inner, fault, peer, opened: AtomicBool::new(false), listener_gone })
    }

    fn stream(&self, inner: Stream) -> Stream {
        let ended = Arc::new(AtomicBool::new(false));
        let stuck = Arc::new(AtomicBool::new(false));
        let send = match self.fault {
            Fault::BuffersWithoutBound => Hoard::boxed(inner.send),
            fault => Box::new(BrokenSend {
                inner: Some(inner.send),
                fault,
                sent: 0,
                ended: Arc::clone(&ended),
                stuck: Arc::clone(&stuck),
                first_waker: None,
            }),
        };
        let recv = BrokenRecv {
            inner: Some(inner.recv),
            fault: self.fault,
            ended,
            stuck,
            first_waker: None,
            cut: false,
        };
        Stream { send, recv: Box::new(recv) }
    }
}

#[async_trait]
impl Connection for BrokenConnection {
    fn multiplexed(&self) -> bool {
        self.fault == Fault::ClaimsToMultiplex
    }

    fn peer(&self) -> &Peer {
        &self.peer
    }

    async fn open_stream(&self) -> Result<Stream, TransportError> {
        let again = self.opened.swap(true, Ordering::SeqCst);
        if again && self.fault == Fault::HangsOnASecondStream {
            return pending().await;
        }
        let stream = self.inner.open_stream().await?;
        if self.fault == Fault::LosesOpened {
            yield_now().await;
        }
        Ok(self.stream(stream))
    }

    async fn accept_stream(&self) -> Result<Option<Stream>, TransportError> {
        let gone = self.listener_gone.load(Ordering::SeqCst);
        if gone && self.fault == Fault::CutsWithItsListener {
            let source = io::ErrorKind::ConnectionReset.into();
            return Err(TransportError::Io { doing: "accepting a stream".to_owned(), source });
        }
        Ok(self.inner.accept_stream().await?.map(|stream| self.stream(stream)))
    }
}

/// Polls with the waker that the fault has come by.
fn poll_with<T>(
    fault: Fault,
    first: &mut Option<Waker>,
    context: &mut Context<'_>,
    poll: impl FnOnce(&mut Context<'_>) -> Poll<T>,
) -> Poll<T> {
    match fault {
        Fault::WakesNobody => poll(&mut Context::from_waker(Waker::noop())),
        Fault::WakesTheFirst => {
            let waker = first.get_or_insert_with(|| context.waker().clone()).clone();
            let outcome = poll(&mut Context::from_waker(&waker));
            if outcome.is_ready() {
                *first = None;
            }
            outcome
        }
        _ => poll(context),
    }
}

struct BrokenSend {
    inner: Option<Box<dyn SendStream>>,
    fault: Fault,
    sent: usize,
    ended: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    first_waker: Option<Waker>,
}

impl SendStream for BrokenSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { inner: Some(inner), fault, sent, first_waker, stuck, .. } = self else {
            panic!()
        };
        let mut send = |slices: &[IoSlice<'_>]| {
            let poll = |context: &mut Context<'_>| inner.poll_send(context, slices);
            let done = poll_with(*fault, first_waker, context, poll);
            stuck.store(done.is_pending(), Ordering::SeqCst);
            done
        };
        let mut flat: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let late = *sent > 5000 && flat.len() > 1;
        let taken = match fault {
            Fault::LosesAByte if late => {
                *sent = 0;
                ready!(send(&[IoSlice::new(&flat[1..])]))? + 1
            }
            Fault::SwapsBytes if late => {
                *sent = 0;
                flat.swap(0, 1);
                ready!(send(&[IoSlice::new(&flat)]))?
            }
            Fault::SaysMoreThanItTook if flat.len() > 1 => {
                let half = flat.len() / 2;
                ready!(send(&[IoSlice::new(&flat[..half])]))? + 1
            }
            Fault::DropsSlicesBeyondALimit if slices.len() > 1024 => {
                let behind: usize = slices[1024..].iter().map(|slice| slice.len()).sum();
                ready!(send(&slices[..1024]))? + behind
            }
            Fault::SeesOnlyTheFirstSlice => ready!(send(slices.get(..1).unwrap_or_default()))?,
            Fault::TakesMoreThanOffered => ready!(send(slices))? + 1,
            Fault::Panics => panic!("a broken transport"),
            _ => ready!(send(slices))?,
        };
        *sent += taken;
        Poll::Ready(Ok(taken))
    }

    fn poll_finish(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fault == Fault::SwallowsFinish {
            return Poll::Ready(Ok(()));
        }
        if self.fault == Fault::FinishesBothWays {
            self.ended.store(true, Ordering::SeqCst);
        }
        self.inner.as_mut().unwrap().poll_finish(context)
    }
}

impl Drop for BrokenSend {
    fn drop(&mut self) {
        if self.fault == Fault::LeaksWhatIsDropped {
            mem::forget(self.inner.take());
        }
    }
}

struct BrokenRecv {
    inner: Option<Box<dyn RecvStream>>,
    fault: Fault,
    ended: Arc<AtomicBool>,
    stuck: Arc<AtomicBool>,
    first_waker: Option<Waker>,
    cut: bool,
}

impl RecvStream for BrokenRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        let Self { inner: Some(inner), fault, first_waker, .. } = self else { panic!() };
        let max = match fault {
            Fault::IgnoresMax if max > 0 => usize::MAX,
            _ => max,
        };
        if *fault == Fault::ReadsOnlyWhileItCanSend && self.stuck.load(Ordering::SeqCst) {
            return Poll::Pending;
        }
        if *fault == Fault::ReservesWhilePending {
            buffer.reserve(64 << 10);
        }
        if self.ended.load(Ordering::SeqCst) || (self.cut && *fault == Fault::ForgetsTheCut) {
            return Poll::Ready(Ok(0));
        }
        let received = ready!(poll_with(*fault, first_waker, context, |context| {
            inner.poll_recv(context, buffer, max)
        }));
        if received.is_err() {
            if *fault == Fault::MakesBytesUpAfterACut && !self.cut {
                self.cut = true;
                buffer.extend_from_slice(&[0; 16]);
                return Poll::Ready(Ok(16));
            }
            self.cut = true;
        }
        Poll::Ready(received)
    }
}

impl Drop for BrokenRecv {
    fn drop(&mut self) {
        if self.fault == Fault::LeaksWhatIsDropped {
            mem::forget(self.inner.take());
        }
    }
}

/// Takes all that it is given, and lets a task send it.
struct Hoard(Option<mpsc::UnboundedSender<Vec<u8>>>);

impl Hoard {
    fn boxed(mut inner: Box<dyn SendStream>) -> Box<dyn SendStream> {
        let (hoard, mut hoarded) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(bytes) = hoarded.recv().await {
                let mut left = &*bytes;
                while !left.is_empty() {
                    let slice = [IoSlice::new(left)];
                    let sent = std::future::poll_fn(|cx| inner.poll_send(cx, &slice)).await?;
                    left = &left[sent..];
                }
            }
            std::future::poll_fn(|cx| inner.poll_finish(cx)).await
        });
        Box::new(Self(Some(hoard)))
    }
}

impl SendStream for Hoard {
    fn poll_send(
        &mut self,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Some(hoard) = &self.0 else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let flat: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let bytes = flat.len();
        hoard.send(flat).map_err(|_| io::ErrorKind::ConnectionReset)?;
        Poll::Ready(Ok(bytes))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = None;
        Poll::Ready(Ok(()))
    }
}
