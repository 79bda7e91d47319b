//! One direction of a simulated stream: bytes under way, each piece with the moment it arrives.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use ltq_core::{RecvStream, SendStream};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{Roads, Weather};

/// A direction, for those at its ends.
#[derive(Clone)]
struct Pipe(Arc<Mutex<State>>);

/// A direction, for the network, which cuts it. It lives as long as its ends: they know the network.
pub(super) struct Cuttable(Weak<Mutex<State>>);

struct State {
    roads: Arc<Roads>,
    /// From whom to whom.
    hosts: [Arc<str>; 2],
    /// What is under way, in order of arrival.
    pieces: VecDeque<(Instant, Bytes)>,
    /// Bytes of it.
    bytes: usize,
    /// Nothing arrives before what was sent before it.
    last_arrival: Instant,
    end: End,
    /// From when on nothing gets through any more, and nobody is told.
    silent: bool,
    receiver_gone: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The sender will send no more; known there at this moment.
    Finished(Instant),
    /// The stream is broken; known there at this moment.
    Cut(Instant),
}

impl Pipe {
    fn new(roads: Arc<Roads>, hosts: [Arc<str>; 2]) -> Self {
        let state = State {
            roads,
            hosts,
            pieces: VecDeque::new(),
            bytes: 0,
            last_arrival: Instant::now(),
            end: End::Open,
            silent: false,
            receiver_gone: false,
            receiver: None,
            sender: None,
        };
        Self(Arc::new(Mutex::new(state)))
    }
}

/// A direction of a new stream.
pub(super) fn direction(roads: Arc<Roads>, hosts: [Arc<str>; 2]) -> (Cuttable, PipeSend, PipeRecv) {
    let pipe = Pipe::new(roads, hosts);
    let cuttable = Cuttable(Arc::downgrade(&pipe.0));
    (cuttable, PipeSend(pipe.clone()), PipeRecv { pipe, sleep: None })
}

impl Cuttable {
    /// Breaks it: of what is under way some first part still arrives, at once. Both ends are told; nobody
    /// is if it is `silent`.
    pub(super) fn cut(&self, silent: bool) {
        let Some(state) = self.0.upgrade() else { return };
        let mut state = state.lock();
        if silent {
            state.silent = true;
        } else if !matches!(state.end, End::Cut(_)) {
            let kept = state.roads.below(state.pieces.len() as u64 + 1) as usize;
            state.pieces.truncate(kept);
            state.bytes = state.pieces.iter().map(|(_, piece)| piece.len()).sum();
            let now = Instant::now();
            state.pieces.iter_mut().for_each(|(at, _)| *at = now);
            state.end = End::Cut(now);
        }
        state.wake();
    }

    /// Ends it behind what is under way, as if its sender had finished it.
    pub(super) fn finish(&self) {
        let Some(state) = self.0.upgrade() else { return };
        let mut state = state.lock();
        if state.end == End::Open {
            state.end = End::Finished(state.last_arrival.max(Instant::now()));
            state.wake();
        }
    }

    /// Both of its ends are to look again.
    pub(super) fn wake(&self) {
        if let Some(state) = self.0.upgrade() {
            state.lock().wake();
        }
    }

    /// Whether both ends have let go of it.
    pub(super) fn is_over(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl State {
    fn wake(&mut self) {
        let wakers = [self.receiver.take(), self.sender.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    /// Whether nothing arrives now.
    fn is_cut_off(&self) -> bool {
        let [from, to] = &self.hosts;
        self.silent || self.roads.routes.is_cut(from, to)
    }

    /// Whether the sender knows that nobody receives any more.
    fn is_refused(&self) -> bool {
        let [from, to] = &self.hosts;
        self.receiver_gone && !self.roads.routes.is_cut(to, from)
    }

    fn arrival(&mut self, weather: &Weather) -> Instant {
        let mut delay = self.roads.between(weather.delay_min, weather.delay_max);
        if self.roads.one_in(weather.stall_one_in) {
            delay += self.roads.between(weather.delay_max, weather.stall_max);
        }
        let [from, to] = &self.hosts;
        delay += self.roads.routes.of(from, to).delay;
        self.last_arrival = self.last_arrival.max(Instant::now() + delay);
        self.last_arrival
    }
}

pub(super) struct PipeSend(Pipe);

impl SendStream for PipeSend {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.0.0.lock();
        match state.end {
            End::Finished(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            End::Cut(_) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            End::Open if state.is_refused() => {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            End::Open => (),
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        if offered == 0 {
            return Poll::Ready(Ok(0));
        }
        let weather = state.roads.weather();
        let room = weather.window.max(1).saturating_sub(state.bytes);
        if room == 0 {
            state.sender = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut taken = offered.min(room);
        if weather.pieces && state.roads.one_in(3) {
            taken = 1 + state.roads.below(taken as u64) as usize;
        }
        let mut piece = BytesMut::with_capacity(taken);
        for slice in slices {
            let left = taken - piece.len();
            piece.extend_from_slice(slice.get(..left).unwrap_or(slice));
        }
        state.bytes += taken;
        let at = state.arrival(&weather);
        state.pieces.push_back((at, piece.freeze()));
        let receiver = state.receiver.take();
        let roads = Arc::clone(&state.roads);
        drop(state);
        receiver.into_iter().for_each(Waker::wake);
        roads.passed();
        Poll::Ready(Ok(taken))
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.0.0.lock();
        match state.end {
            End::Cut(_) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            End::Finished(_) => Poll::Ready(Ok(())),
            End::Open if state.is_refused() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            End::Open => {
                let weather = state.roads.weather();
                state.end = End::Finished(state.arrival(&weather));
                state.wake();
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl Drop for PipeSend {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        if state.end == End::Open {
            let weather = state.roads.weather();
            state.end = End::Cut(state.arrival(&weather));
        }
        state.sender = None;
        state.wake();
    }
}

pub(super) struct PipeRecv {
    pipe: Pipe,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl RecvStream for PipeRecv {
    fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        buffer: &mut BytesMut,
        max: usize,
    ) -> Poll<io::Result<usize>> {
        if max == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidInput.into()));
        }
        let Self { pipe, sleep } = self;
        loop {
            let mut state = pipe.0.lock();
            let now = Instant::now();
            let next = match (state.pieces.front(), state.end) {
                _ if state.is_cut_off() => None,
                (Some(&(at, _)), _) if at <= now => {
                    let received = receive(&mut state, buffer, max, now);
                    let sender = state.sender.take();
                    drop(state);
                    sender.into_iter().for_each(Waker::wake);
                    return Poll::Ready(Ok(received));
                }
                (Some(&(at, _)), _) => Some(at),
                (None, End::Finished(at)) if at <= now => return Poll::Ready(Ok(0)),
                (None, End::Cut(at)) if at <= now => {
                    return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
                }
                (None, End::Finished(at) | End::Cut(at)) => Some(at),
                (None, End::Open) => None,
            };
            state.receiver = Some(context.waker().clone());
            drop(state);
            let Some(next) = next else { return Poll::Pending };
            match sleep {
                Some(sleep) => sleep.as_mut().reset(next),
                None => *sleep = Some(Box::pin(sleep_until(next))),
            }
            let Some(sleep) = sleep else { return Poll::Pending };
            if sleep.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Takes what has arrived, or a part of it.
fn receive(state: &mut State, buffer: &mut BytesMut, max: usize, now: Instant) -> usize {
    let mut most = max;
    if state.roads.weather().pieces && state.roads.one_in(3) {
        most = 1 + state.roads.below(max.min(state.bytes) as u64) as usize;
    }
    let mut received = 0;
    while let Some((at, piece)) = state.pieces.front_mut() {
        if *at > now || received == most {
            break;
        }
        let part = piece.len().min(most - received);
        buffer.extend_from_slice(piece.get(..part).unwrap_or_default());
        piece.advance(part);
        received += part;
        if piece.is_empty() {
            state.pieces.pop_front();
        }
    }
    state.bytes -= received;
    received
}

impl Drop for PipeRecv {
    fn drop(&mut self) {
        let mut state = self.pipe.0.lock();
        state.receiver_gone = true;
        state.receiver = None;
        state.wake();
    }
}
