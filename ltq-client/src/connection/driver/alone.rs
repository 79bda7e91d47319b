//! Sending without the task: a message that nothing else is on its way with is written by whoever
//! publishes it, and one switch between tasks, often between threads, is saved of each round trip.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::{runtime::Handle, time::Instant};

use super::{Driver, phases::Phase};
use crate::producer::ProducerShared;

/// The connection's task. It lends its [`Driver`] to those who send alone.
pub(crate) struct DriverTask {
    driver: Arc<Mutex<Driver>>,
}

/// The way to a driver for as long as its task lives.
#[derive(Debug)]
pub(in crate::connection) struct Alone {
    driver: Weak<Mutex<Driver>>,
    /// Streams may need to know it to be polled.
    runtime: Handle,
}

impl DriverTask {
    /// Makes a task of a driver, to be spawned on this runtime.
    pub(crate) fn new(driver: Driver) -> Self {
        let hub = driver.hub.clone();
        let driver = Arc::new(Mutex::new(driver));
        hub.set_alone(Alone { driver: Arc::downgrade(&driver), runtime: Handle::current() });
        Self { driver }
    }
}

impl Future for DriverTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Others have it for one write that does not wait.
        self.driver.lock().poll(context)
    }
}

impl Alone {
    /// Sends what a producer has if nothing else is on its way. Returns whether the task has
    /// nothing to do about it any more.
    pub(in crate::connection) fn send(&self, producer: &ProducerShared) -> bool {
        let Some(driver) = self.driver.upgrade() else { return false };
        let Some(mut driver) = driver.try_lock() else { return false };
        let _in_its_runtime = self.runtime.enter();
        driver.send_alone(producer)
    }
}

impl Driver {
    fn send_alone(&mut self, producer: &ProducerShared) -> bool {
        let (Phase::Up(link), Some(waker)) = (&mut self.phase, &self.waker) else { return false };
        if link.is_ending() {
            return false;
        }
        let Some(lane) = producer.place.get().and_then(|number| link.lane(number)) else {
            return false;
        };
        if !lane.is_quiet() {
            return false;
        }
        // Only the task sets its timer.
        if producer.next_timeout(&self.heard).is_some_and(|at| !self.timer.is_no_later_than(at)) {
            return false;
        }
        let now = Instant::now();
        loop {
            if !lane.has_room() {
                return false;
            }
            let Some(frame) = producer.poll_frame(now, lane.frame_limits()) else { break };
            lane.write_publish(&frame);
        }
        // What cannot be sent now wakes the task when it can; what failed it finds out for itself.
        !matches!(lane.poll_flush(&Context::from_waker(waker), now), Poll::Ready(Err(_)))
    }
}
