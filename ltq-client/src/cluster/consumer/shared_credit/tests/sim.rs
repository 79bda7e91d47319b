//! Nodes, their subscriptions' windows, and the frames between, one step at a time.

use std::collections::VecDeque;

use super::*;
use crate::consumer::CreditWindow;

/// No message here is larger.
pub(super) const BYTES_MAX: u64 = 500;

#[derive(Clone, Copy, Debug)]
pub(super) enum Op {
    /// So many more wait at the node.
    Publish(usize, u64),
    /// The node sends up to so many.
    Deliver(usize, u64),
    /// A frame of the node comes in.
    Receive(usize),
    /// A frame reaches the node.
    Hear(usize),
    Settle(usize, u64),
    /// The connection's task asks the window what to say.
    Speak(usize),
    /// The task that moves the credit looks at one subscription.
    See(usize),
    /// It moves the credit, by what it has seen.
    Move,
    Join,
    Cut(usize),
    Back(usize),
    Leaving(usize, bool),
    /// So many milliseconds.
    Pass(u64),
    /// The total grows by so many.
    More(u64),
}

#[derive(Debug)]
enum Say {
    Deliver(u64, u64),
    Credited(Credit),
}

#[derive(Debug)]
struct Node {
    window: CreditWindow,
    allowed: Credit,
    /// The connection that is up, and the one that the task has seen.
    connection: Option<u64>,
    seen: Option<u64>,
    /// What the broker knows of the credit, and has used of it.
    granted: Credit,
    sent: Credit,
    backlog: u64,
    is_leaving: bool,
    delivered: u64,
    to_broker: VecDeque<Credit>,
    to_client: VecDeque<Say>,
    /// The sizes of what came and is not settled.
    held: VecDeque<u64>,
}

#[derive(Debug)]
pub(super) struct Sim {
    pub(super) credit: SharedCredit,
    nodes: Vec<Node>,
    pub(super) now: Instant,
    connections: u64,
    sizes: u64,
    /// How often a size changed.
    pub(super) moved: u64,
}

impl Sim {
    pub(super) fn new(total: Credit, nodes: usize) -> Self {
        let now = Instant::now();
        let credit = SharedCredit::new(total);
        let mut sim = Self { credit, nodes: Vec::new(), now, connections: 0, sizes: 0, moved: 0 };
        for _ in 0..nodes {
            sim.join();
        }
        sim
    }

    pub(super) fn join(&mut self) -> usize {
        self.join_allowed(Credit { messages: u64::MAX, bytes: u64::MAX })
    }

    pub(super) fn join_allowed(&mut self, allowed: Credit) -> usize {
        self.nodes.push(Node {
            window: CreditWindow::lent(),
            allowed,
            connection: None,
            seen: None,
            granted: Credit::default(),
            sent: Credit::default(),
            backlog: 0,
            is_leaving: false,
            delivered: 0,
            to_broker: VecDeque::new(),
            to_client: VecDeque::new(),
            held: VecDeque::new(),
        });
        let node = self.nodes.len() - 1;
        self.connect(node);
        node
    }

    fn connect(&mut self, node: usize) {
        self.connections += 1;
        let node = &mut self.nodes[node];
        if node.connection.is_none() {
            let credit = node.window.start(node.allowed);
            assert_eq!(credit, Credit::default(), "a new subscription has nothing");
            (node.granted, node.sent) = (credit, credit);
            node.connection = Some(self.connections);
        }
    }

    pub(super) fn cut(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        node.window.stop();
        node.connection = None;
        node.backlog += node.held.len() as u64;
        let lost = node.to_client.drain(..).map(|said| match said {
            Say::Deliver(count, _) => count,
            Say::Credited(_) => 0,
        });
        node.backlog += lost.sum::<u64>();
        node.to_broker.clear();
        node.held.clear();
    }

    pub(super) fn publish(&mut self, node: usize, count: u64) {
        self.nodes[node].backlog += count;
    }

    fn deliver(&mut self, node: usize, max: u64) {
        let node = &mut self.nodes[node];
        for _ in 0..max {
            let open = node.granted.minus(node.sent);
            if node.connection.is_none()
                || node.backlog == 0
                || open.messages == 0
                || open.bytes == 0
            {
                return;
            }
            self.sizes = (self.sizes * 7 + 13) % BYTES_MAX;
            let bytes = self.sizes + 1;
            node.backlog -= 1;
            node.sent = node.sent.plus(Credit { messages: 1, bytes });
            node.to_client.push_back(Say::Deliver(1, bytes));
        }
    }

    fn receive(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        match node.to_client.pop_front() {
            None => {}
            Some(Say::Deliver(count, bytes)) => {
                node.window.receive(count, bytes, bytes).unwrap();
                node.held.push_back(bytes);
                node.delivered += 1;
            }
            Some(Say::Credited(total)) => node.window.handle_credited(total).unwrap(),
        }
    }

    fn hear(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        let Some(total) = node.to_broker.pop_front() else { return };
        let before = std::mem::replace(&mut node.granted, total);
        if !before.is_within(total) {
            node.to_client.push_back(Say::Credited(total.at_least(node.sent)));
        }
    }

    pub(super) fn settle(&mut self, node: usize, count: u64) {
        let node = &mut self.nodes[node];
        for _ in 0..count {
            let Some(bytes) = node.held.pop_front() else { return };
            node.window.settle(1, bytes);
        }
    }

    pub(super) fn drain(&mut self, node: usize) {
        self.settle(node, u64::MAX);
    }

    /// Nothing waits there any more, and all that came is settled.
    pub(super) fn end(&mut self, node: usize) {
        self.drain(node);
        self.nodes[node].backlog = 0;
    }

    fn speak(&mut self, node: usize) {
        let node = &mut self.nodes[node];
        if node.connection.is_some()
            && let Some(total) = node.window.poll(node.held.is_empty())
        {
            node.to_broker.push_back(total);
        }
    }

    fn see(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let number = index as u64;
        if node.seen != node.connection {
            node.seen = node.connection;
            self.credit.leave(number);
            if node.connection.is_some() {
                self.credit.join(number, node.allowed, self.now);
                self.credit.set_leaving(number, node.is_leaving);
            }
        }
        self.credit.see(number, node.window.usage(), node.window.take_marks(), self.now);
    }

    fn move_credit(&mut self) {
        for (number, size) in self.credit.rebalance(self.now) {
            let node = &mut self.nodes[number as usize];
            self.moved += 1;
            if node.connection == node.seen {
                node.window.lend(size);
                self.credit.lent(number, node.window.usage());
            }
        }
    }

    pub(super) fn apply(&mut self, op: Op) {
        let count = self.nodes.len();
        match op {
            Op::Publish(node, more) => self.publish(node % count, more),
            Op::Deliver(node, max) => self.deliver(node % count, max),
            Op::Receive(node) => self.receive(node % count),
            Op::Hear(node) => self.hear(node % count),
            Op::Settle(node, max) => self.settle(node % count, max),
            Op::Speak(node) => self.speak(node % count),
            Op::See(node) => self.see(node % count),
            Op::Move => self.move_credit(),
            Op::Join if count < NODES_MAX => drop(self.join()),
            Op::Join => {}
            Op::Cut(node) => self.cut(node % count),
            Op::Back(node) => self.connect(node % count),
            Op::Leaving(node, is_leaving) => {
                self.nodes[node % count].is_leaving = is_leaving;
                self.credit.set_leaving((node % count) as u64, is_leaving);
            }
            Op::Pass(millis) => self.pass(MILLI * millis as u32),
            Op::More(more) => self.credit.set_total(self.total().plus(credit(more))),
        }
    }

    /// Lets everything happen once that is due, so often: a frame takes one of them each way.
    pub(super) fn run(&mut self, rounds: usize) {
        for _ in 0..rounds {
            let all = 0..self.nodes.len();
            for node in all.clone() {
                for _ in 0..self.nodes[node].to_client.len() {
                    self.receive(node);
                }
            }
            all.clone().for_each(|node| self.see(node));
            self.move_credit();
            for node in all {
                self.speak(node);
                while !self.nodes[node].to_broker.is_empty() {
                    self.hear(node);
                }
                self.deliver(node, u64::MAX);
            }
        }
    }

    /// All are connected and wanted again.
    pub(super) fn mend(&mut self) {
        for node in 0..self.nodes.len() {
            self.connect(node);
            self.apply(Op::Leaving(node, false));
        }
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
    }

    pub(super) fn next_timeout(&self) -> Option<Instant> {
        self.credit.next_timeout(self.now)
    }

    pub(super) const fn total(&self) -> Credit {
        self.credit.total
    }

    pub(super) const fn count(&self) -> usize {
        self.nodes.len()
    }

    /// All that is open and unsettled.
    pub(super) fn out(&self) -> Credit {
        let out = self.nodes.iter().map(|node| {
            let CreditUse { open, unsettled, .. } = node.window.usage();
            open.plus(unsettled)
        });
        out.fold(Credit::default(), Credit::plus)
    }

    pub(super) fn sizes(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.window.usage().size.messages).collect()
    }

    pub(super) fn unsettled(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.window.usage().unsettled.messages).collect()
    }

    pub(super) fn delivered(&self, node: usize) -> u64 {
        self.nodes[node].delivered
    }

    pub(super) fn is_drained(&self) -> bool {
        self.nodes
            .iter()
            .all(|node| node.backlog == 0 && node.to_client.is_empty() && node.held.is_empty())
    }
}
