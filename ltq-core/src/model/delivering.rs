//! How channels come to deliver: one look at each that has a reason.

use super::{Gate, Topic, channel::Planning, topic::Stage};

impl Topic {
    /// Looks after every channel that was touched: deliveries, states to store, deadlines.
    pub(super) fn deliver(&mut self, gate: &mut dyn Gate) {
        let open = !self.paused && !self.stopping && self.stage == Stage::Live;
        while let Some(index) = self.channels.next_touched() {
            let Some(channel) = self.channels.get_mut(index) else { continue };
            channel.relax();
            if open {
                let planned = channel.plan(&mut Planning {
                    window: &mut self.window,
                    out: &mut self.out,
                    gate: &mut *gate,
                    end: self.bounds.end,
                    now: self.now.monotonic,
                    settings: &self.limits,
                });
                if planned.hungry {
                    self.channels.mark_hungry(index);
                }
                if planned.want.is_some() {
                    self.channels.mark_starved(index);
                }
                for want in planned.want.into_iter().chain(planned.soon) {
                    self.out.extend(self.window.ask(want, &self.limits));
                }
            }
            self.list_state(index);
            self.channels.set_timer(index);
        }
        let channels = &self.channels;
        self.window.trim(self.limits.window_bytes, || channels.lowest_cursor());
    }
}
