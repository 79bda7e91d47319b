//! The threads that carry packets from one device to the other.

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
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tun_rs::SyncDevice;

use super::{Figures, Pipe, Shape, Unavailable};

/// Carries both ways until it is dropped.
pub(super) struct Carrier {
    ways: [Arc<Mutex<Pipe>>; 2],
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Carrier {
    pub(super) fn start(
        devices: [SyncDevice; 2],
        shape: Shape,
        seed: u64,
    ) -> Result<Self, Unavailable> {
        let [near, far] = devices.map(Arc::new);
        let ways = [seed, !seed].map(|seed| Arc::new(Mutex::new(Pipe::new(shape, seed))));
        let is_over = Arc::new(AtomicBool::new(false));
        let mut carrier = Self { ways, is_over, threads: Vec::new() };
        let ends = [(near.clone(), far.clone()), (far, near)];
        for (way, (from, to)) in carrier.ways.iter().zip(ends) {
            let (way, is_over) = (way.clone(), carrier.is_over.clone());
            let carries = move || carry(&from, &to, &way, &is_over);
            let thread = thread::Builder::new().name("bad network".to_owned()).spawn(carries);
            let failed = |source| Unavailable::new("starting a thread", source);
            carrier.threads.push(thread.map_err(failed)?);
        }
        Ok(carrier)
    }

    pub(super) fn reshape(&self, shape: Shape) {
        self.ways.iter().for_each(|way| way.lock().reshape(shape));
    }

    pub(super) fn figures(&self) -> [Figures; 2] {
        self.ways.each_ref().map(|way| way.lock().figures())
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

fn carry(from: &SyncDevice, to: &SyncDevice, way: &Mutex<Pipe>, is_over: &AtomicBool) {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    while !is_over.load(Relaxed) {
        let until = way.lock().next_due();
        let wait = until.map(|at| at.saturating_duration_since(Instant::now()));
        wait_for(from, wait.unwrap_or(LOOK).min(LOOK));
        let mut pipe = way.lock();
        let now = Instant::now();
        for _ in 0..PACKETS_AT_ONCE {
            match from.recv(&mut packet) {
                Ok(bytes) => pipe.send(&packet[..bytes], now),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // There is no more; or the device went with its host, whose end is near too.
                Err(_) => break,
            }
        }
        while let Some(packet) = pipe.receive(now) {
            // A host that has no room for it has lost it, as ever.
            let _lost: io::Result<usize> = to.send(&packet);
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
