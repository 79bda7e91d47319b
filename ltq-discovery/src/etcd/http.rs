//! HTTP/1.1 over a stream of any transport.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Request, StatusCode,
    body::{Body as _, Incoming},
    client::conn::http1,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue},
    rt,
};
use ltq_core::{Address, Stream, Transport, TransportError};
use thiserror::Error;
use tokio::task::JoinSet;

/// Why a request got no answer.
#[derive(Debug, Error)]
pub(super) enum HttpError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("the request could not be made: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the connection was lost: {0}")]
    Lost(#[from] hyper::Error),
    #[error("the answer has more than {0} bytes")]
    TooLong(usize),
}

/// A connection to an HTTP server, for one request after another.
pub(super) struct Http {
    sender: http1::SendRequest<Full<Bytes>>,
    host: HeaderValue,
    /// Drives the connection; dropping it closes that.
    driver: JoinSet<()>,
}

impl Http {
    /// Connects. The caller sets a deadline.
    pub(super) async fn connect(
        transport: &dyn Transport,
        address: &Address,
    ) -> Result<Self, HttpError> {
        let host = HeaderValue::from_str(address.rest()).map_err(hyper::http::Error::from)?;
        let connection = transport.connect(address).await?;
        let stream = connection.open_stream().await?;
        let io = Io { stream, received: BytesMut::new() };
        let (sender, driven) =
            http1::Builder::new().max_buf_size(BUFFER_BYTES).handshake(io).await?;
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // What it fails by is told to whoever waits for an answer.
            let _ended = driven.await;
            drop(connection);
        });
        Ok(Self { sender, host, driver })
    }

    /// Posts JSON. The answer's body has not been read then.
    async fn post(
        &mut self,
        path: &str,
        token: Option<&HeaderValue>,
        json: Vec<u8>,
    ) -> Result<(StatusCode, Incoming), HttpError> {
        let mut request = Request::post(path)
            .header(HOST, &self.host)
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = token {
            request = request.header(AUTHORIZATION, token);
        }
        let request = request.body(Full::from(json))?;
        self.sender.ready().await?;
        let (head, body) = self.sender.send_request(request).await?.into_parts();
        Ok((head.status, body))
    }

    /// Posts JSON, and waits for the whole answer, which is no longer than this.
    pub(super) async fn ask(
        &mut self,
        path: &str,
        token: Option<&HeaderValue>,
        json: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(StatusCode, Bytes), HttpError> {
        let (status, mut body) = self.post(path, token, json).await?;
        if body.size_hint().lower() > bytes_max as u64 {
            return Err(HttpError::TooLong(bytes_max));
        }
        let mut answer = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let Ok(data) = frame?.into_data() else { continue };
            if answer.len() + data.len() > bytes_max {
                return Err(HttpError::TooLong(bytes_max));
            }
            answer.extend_from_slice(&data);
        }
        Ok((status, answer.freeze()))
    }

    /// Posts JSON, and gives the lines of an answer that goes on and on.
    pub(super) async fn listen(
        mut self,
        path: &str,
        token: Option<&HeaderValue>,
        json: Vec<u8>,
        bytes_max: usize,
    ) -> Result<(StatusCode, Lines), HttpError> {
        let (status, body) = self.post(path, token, json).await?;
        Ok((
            status,
            Lines {
                body,
                received: BytesMut::new(),
                looked: 0,
                ended: false,
                bytes_max,
                _driver: self.driver,
            },
        ))
    }
}

/// The lines of an answer, each of them bounded.
pub(super) struct Lines {
    body: Incoming,
    received: BytesMut,
    /// So much of it holds no end of a line.
    looked: usize,
    ended: bool,
    bytes_max: usize,
    _driver: JoinSet<()>,
}

impl Lines {
    /// The next line that is not empty; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let unseen = self.received.get(self.looked..).unwrap_or_default();
            if let Some(end) = unseen.iter().position(|byte| *byte == b'\n') {
                let mut line = self.received.split_to(self.looked + end + 1);
                self.looked = 0;
                line.truncate(line.len() - 1);
                if !line.is_empty() {
                    return Ok(Some(line.freeze()));
                }
                continue;
            }
            self.looked = self.received.len();
            if self.looked > self.bytes_max {
                return Err(HttpError::TooLong(self.bytes_max));
            }
            if self.ended {
                let rest = std::mem::take(&mut self.received);
                self.looked = 0;
                return Ok((!rest.is_empty()).then(|| rest.freeze()));
            }
            match self.body.frame().await {
                None => self.ended = true,
                Some(frame) => {
                    // Anything else is a trailer.
                    if let Ok(data) = frame?.into_data() {
                        self.received.extend_from_slice(&data);
                    }
                }
            }
        }
    }
}

/// A stream as hyper wants it.
struct Io {
    stream: Stream,
    received: BytesMut,
}

impl rt::Read for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut room: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, received } = self.get_mut();
        if room.remaining() > 0 {
            ready!(stream.recv.poll_recv(context, received, room.remaining()))?;
            room.put_slice(received);
            received.clear();
        }
        Poll::Ready(Ok(()))
    }
}

impl rt::Write for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What a stream took is on its way.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().stream.send.poll_finish(context)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().stream.send.poll_send(context, slices)
    }
}

/// What a connection reads ahead, and the most that the head of an answer has.
const BUFFER_BYTES: usize = 64 << 10;
