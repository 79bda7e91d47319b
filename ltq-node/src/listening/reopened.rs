//! A listener that opens itself again.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use ltq_core::{Address, Connection, Listener, Transport, TransportError};
use rustix::io::Errno;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::ListenFigures;

/// Something that can be listened on, and again.
#[async_trait]
pub(crate) trait Opens: Send + Sync + 'static {
    /// It, listened on.
    type Open: Send;
    /// Who comes in there.
    type Taken: Send;

    /// Listens.
    async fn open(&self, address: &Address) -> Result<Self::Open, TransportError>;

    /// Where that really is, with its port.
    fn address(open: &Self::Open) -> Address;

    /// The next who comes in. Cancel safe. [`TransportError::Closed`] when nobody can any more.
    async fn accept(open: &mut Self::Open) -> Result<Self::Taken, TransportError>;
}

/// Listens at one address for as long as the node runs. When the listener below says that nothing
/// can come any more, or fails [`FAILURES_MAX`] times in a row, it is dropped and opened again, at
/// the same port, after `retry` and then each `retry` until that works. A shortage of descriptors
/// or memory is none of the listener's, and opening it again would cure nothing: those errors are
/// passed on, and whoever accepts pauses.
pub(crate) struct Reopened<O: Opens = ByTransport> {
    opens: O,
    address: Address,
    /// `None` while it is gone.
    listener: Option<O::Open>,
    retry: Duration,
    /// When it is opened again at the earliest.
    again_at: Instant,
    /// In a row.
    failures: u32,
    figures: Arc<ListenFigures>,
}

impl<O: Opens> Reopened<O> {
    /// Listens. That it cannot at first is the caller's to know.
    pub(crate) async fn open(
        opens: O,
        address: &Address,
        retry: Duration,
        figures: Arc<ListenFigures>,
    ) -> Result<Self, TransportError> {
        let listener = opens.open(address).await?;
        // The port that it really got.
        let address = O::address(&listener);
        let (listener, again_at) = (Some(listener), Instant::now());
        Ok(Self { opens, address, listener, retry, again_at, failures: 0, figures })
    }

    /// Where it listens, or will again.
    pub(crate) const fn address(&self) -> &Address {
        &self.address
    }

    /// The next who comes in. Cancel safe. An error is passed on for the caller to pause before it asks again.
    pub(crate) async fn take(&mut self) -> Result<O::Taken, TransportError> {
        loop {
            self.reopen().await;
            let Some(listener) = &mut self.listener else { continue };
            match O::accept(listener).await {
                Ok(taken) => {
                    self.failures = 0;
                    return Ok(taken);
                }
                Err(closed @ TransportError::Closed) => self.give_up(&closed),
                Err(error) if is_shortage(&error) => return Err(error),
                Err(error) if self.failures + 1 >= FAILURES_MAX => self.give_up(&error),
                Err(error) => {
                    self.failures += 1;
                    return Err(error);
                }
            }
        }
    }

    fn give_up(&mut self, why: &TransportError) {
        let retry = self.retry;
        error!(address = %self.address, error = %why, ?retry, "no longer listening; it is tried again");
        self.listener = None;
        self.failures = 0;
        self.again_at = Instant::now() + retry;
    }

    /// Listens again once it may. Cancel safe: the time to wait until stands in `self`, and a
    /// listener that was dropped half opened is as good as none.
    async fn reopen(&mut self) {
        while self.listener.is_none() {
            sleep_until(self.again_at).await;
            self.again_at = Instant::now() + self.retry;
            match self.opens.open(&self.address).await {
                Ok(listener) => {
                    self.listener = Some(listener);
                    self.figures.count_reopened();
                    info!(address = %self.address, "listening again");
                }
                Err(error) => error!(address = %self.address, %error, "still not listening"),
            }
        }
    }
}

/// Listeners of a transport.
pub(crate) struct ByTransport(pub(crate) Arc<dyn Transport>);

#[async_trait]
impl Opens for ByTransport {
    type Open = Box<dyn Listener>;
    type Taken = Box<dyn Connection>;

    async fn open(&self, address: &Address) -> Result<Self::Open, TransportError> {
        self.0.listen(address).await
    }

    fn address(open: &Self::Open) -> Address {
        open.local_address()
    }

    async fn accept(open: &mut Self::Open) -> Result<Self::Taken, TransportError> {
        open.accept().await
    }
}

#[async_trait]
impl Listener for Reopened {
    async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
        let connection = self.take().await?;
        self.figures.count(self.address.scheme(), 1);
        Ok(connection)
    }

    fn local_address(&self) -> Address {
        self.address.clone()
    }
}

/// Of the process or the machine, which lasts as long as it lasts.
fn is_shortage(error: &TransportError) -> bool {
    let TransportError::Io { source, .. } = error else { return false };
    source.raw_os_error().is_some_and(|code| SHORTAGES.iter().any(|it| it.raw_os_error() == code))
        || source.kind() == io::ErrorKind::OutOfMemory
}

/// With the broker's pause of 100 ms after each, a second. A peer that goes while it is accepted
/// fails one at most, and the next that comes sets the count back.
const FAILURES_MAX: u32 = 10;
const SHORTAGES: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM];

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use ltq_transport::InProcess;
    use parking_lot::Mutex;

    use super::*;

    /// Listeners that do what a script says and then go on as in-process ones; how often it was
    /// listened, and with what result, is the script's too.
    struct Scripted {
        below: InProcess,
        listens: Mutex<VecDeque<Option<Vec<TransportError>>>>,
    }

    struct Failing(Box<dyn Listener>, VecDeque<TransportError>);

    fn refused() -> TransportError {
        failed(io::ErrorKind::ConnectionAborted.into())
    }

    fn failed(source: io::Error) -> TransportError {
        TransportError::Io { doing: "accepting".to_owned(), source }
    }

    #[async_trait]
    impl Transport for Scripted {
        fn scheme(&self) -> &str {
            self.below.scheme()
        }
        async fn listen(&self, address: &Address) -> Result<Box<dyn Listener>, TransportError> {
            let script = self.listens.lock().pop_front().unwrap_or_else(|| Some(Vec::new()));
            let script = script.ok_or_else(refused)?;
            Ok(Box::new(Failing(self.below.listen(address).await?, script.into())))
        }
        async fn connect(&self, address: &Address) -> Result<Box<dyn Connection>, TransportError> {
            self.below.connect(address).await
        }
    }

    #[async_trait]
    impl Listener for Failing {
        async fn accept(&mut self) -> Result<Box<dyn Connection>, TransportError> {
            match self.1.pop_front() {
                Some(error) => Err(error),
                None => self.0.accept().await,
            }
        }
        fn local_address(&self) -> Address {
            self.0.local_address()
        }
    }

    async fn open(
        listens: Vec<Option<Vec<TransportError>>>,
    ) -> (Reopened, Arc<Scripted>, Arc<ListenFigures>) {
        let below = InProcess::new();
        let transport = Arc::new(Scripted { below, listens: Mutex::new(listens.into()) });
        let figures = Arc::new(ListenFigures::default());
        let address = Address::new("in-process", "here");
        let opens = ByTransport(transport.clone());
        let opened = Reopened::open(opens, &address, RETRY, figures.clone()).await.unwrap();
        (opened, transport, figures)
    }

    const RETRY: Duration = Duration::from_secs(7);

    #[tokio::test(start_paused = true)]
    async fn a_listener_that_dies_is_opened_again_each_retry_until_that_works() {
        let script = vec![Some(vec![TransportError::Closed]), None, None];
        let (mut listener, transport, figures) = open(script).await;
        let start = Instant::now();
        let accepting = tokio::spawn(async move {
            let accepted = listener.accept().await;
            accepted.map(|_| listener)
        });
        let address = Address::new("in-process", "here");
        // So that it is gone when somebody connects.
        tokio::task::yield_now().await;
        let _near = loop {
            match transport.connect(&address).await {
                Ok(near) => break near,
                Err(_) => tokio::time::advance(Duration::from_secs(1)).await,
            }
            assert!(start.elapsed() < 10 * RETRY, "it does not come back");
            tokio::task::yield_now().await;
        };
        assert!(start.elapsed() >= 3 * RETRY, "{:?}", start.elapsed());
        let listener = accepting.await.unwrap().unwrap();
        assert_eq!(listener.local_address(), address);
        assert_eq!((figures.reopened(), figures.by_scheme()), (1, vec![("in-process".into(), 1)]));
    }

    #[tokio::test(start_paused = true)]
    async fn errors_in_a_row_open_it_again_and_few_or_a_shortage_do_not() {
        let many = || (0..FAILURES_MAX).map(|_| refused()).collect::<Vec<_>>();
        let shortage = || failed(io::Error::from(Errno::MFILE));
        let mut script: Vec<_> = (0..5 * FAILURES_MAX).map(|_| shortage()).collect();
        script.extend(many());
        let (mut listener, _transport, figures) = open(vec![Some(script)]).await;
        for _ in 0..5 * FAILURES_MAX {
            assert!(listener.accept().await.is_err());
        }
        for _ in 1..FAILURES_MAX {
            assert!(listener.accept().await.is_err());
            assert_eq!(figures.reopened(), 0);
        }
        let start = Instant::now();
        // The last one is not passed on: it is opened again, and nobody comes.
        assert!(tokio::time::timeout(2 * RETRY, listener.accept()).await.is_err());
        assert_eq!(figures.reopened(), 1);
        assert_eq!(start.elapsed(), 2 * RETRY);
    }

    #[tokio::test(start_paused = true)]
    async fn an_accept_that_is_dropped_while_it_waits_to_open_again_loses_nothing() {
        let (mut listener, _transport, figures) =
            open(vec![Some(vec![TransportError::Closed])]).await;
        let start = Instant::now();
        while figures.reopened() == 0 {
            assert!(start.elapsed() < 2 * RETRY);
            let soon = tokio::time::timeout(Duration::from_secs(1), listener.accept()).await;
            assert!(soon.is_err(), "nobody comes");
        }
        assert!(start.elapsed() <= RETRY + Duration::from_secs(1));
    }
}
