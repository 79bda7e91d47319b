//! The threads that carry packets between devices.

use std::{
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::SyncDevice;

use super::{Figures, Pipe, Shape, Unavailable};

/// Carries all ways until it is dropped.
pub(super) struct Carrier {
    /// By the device that packets come from, and the one that they go to.
    ways: Vec<Vec<Arc<Mutex<Pipe>>>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Which device a packet goes to that came from this one; `None` for nobody.
pub(super) type Route = fn(from: usize, packet: &[u8]) -> Option<usize>;

impl Carrier {
    pub(super) fn start(
        devices: Vec<SyncDevice>,
        shape: Shape,
        seed: u64,
        route: Route,
    ) -> Result<Self, Unavailable> {
        let devices: Arc<[SyncDevice]> = devices.into();
        let count = devices.len();
        let mut seeds = SmallRng::seed_from_u64(seed);
        let mut pipe = || Arc::new(Mutex::new(Pipe::new(shape, seeds.random())));
        let ways: Vec<Vec<_>> = (0..count).map(|_| (0..count).map(|_| pipe()).collect()).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let mut carrier = Self { ways, is_over, threads: Vec::new() };
        for (from, ways) in carrier.ways.iter().enumerate() {
            let ends = From { from, devices: devices.clone(), ways: ways.clone(), route };
            let is_over = carrier.is_over.clone();
            let carries = move || ends.carry(&is_over);
            let thread = thread::Builder::new().name("bad network".to_owned()).spawn(carries);
            let failed = |source| Unavailable::new("starting a thread", source);
            carrier.threads.push(thread.map_err(failed)?);
        }
        Ok(carrier)
    }

    /// All ways are so from now on.
    pub(super) fn reshape(&self, shape: Shape) {
        self.ways.iter().flatten().for_each(|way| way.lock().reshape(shape));
    }

    /// One way is so from now on.
    pub(super) fn reshape_way(&self, from: usize, to: usize, shape: Shape) {
        if let Some(way) = self.ways.get(from).and_then(|ways| ways.get(to)) {
            way.lock().reshape(shape);
        }
    }

    pub(super) fn figures(&self, from: usize, to: usize) -> Figures {
        let way = self.ways.get(from).and_then(|ways| ways.get(to));
        way.map(|way| way.lock().figures()).unwrap_or_default()
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            // One that panicked has said so.
            let _ = thread.join();
        }
    }
}

/// One device, and the ways from there.
struct From {
    from: usize,
    devices: Arc<[SyncDevice]>,
    ways: Vec<Arc<Mutex<Pipe>>>,
    route: Route,
}

impl From {
    fn carry(&self, is_over: &AtomicBool) {
        let Some(device) = self.devices.get(self.from) else { return };
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while !is_over.load(Relaxed) {
            let until = self.ways.iter().filter_map(|way| way.lock().next_due()).min();
            let wait = until.map(|at| at.saturating_duration_since(Instant::now()));
            wait_for(device, wait.unwrap_or(LOOK).min(LOOK));
            let now = Instant::now();
            for _ in 0..PACKETS_AT_ONCE {
                match device.recv(&mut packet) {
                    Ok(bytes) => {
                        let to = (self.route)(self.from, &packet[..bytes]);
                        if let Some(way) = to.and_then(|to| self.ways.get(to)) {
                            way.lock().send(&packet[..bytes], now);
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // There is no more; or the device went with its host, whose end is near too.
                    Err(_) => break,
                }
            }
            for (way, to) in self.ways.iter().zip(&*self.devices) {
                let mut pipe = way.lock();
                while let Some(packet) = pipe.receive(now) {
                    // A host that has no room for it has lost it, as ever.
                    let _lost: io::Result<usize> = to.send(&packet);
                }
            }
        }
    }
}

/// Waits until there is something to read, or for so long.
fn wait_for(device: &SyncDevice, at_most: Duration) {
    let timeout =
        Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
    let mut wanted = [PollFd::new(device, PollFlags::IN)];
    if poll(&mut wanted, Some(&timeout)).is_err() {
        // Interrupted, mostly; in any case it is asked again.
        thread::yield_now();
    }
}

/// More than the devices' MTU.
const PACKET_BYTES_MAX: usize = 4096;
/// So many are read before those that are due go on.
const PACKETS_AT_ONCE: usize = 64;
/// However quiet it is, it is looked this often whether it is over.
const LOOK: Duration = Duration::from_millis(50);
