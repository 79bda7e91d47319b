//! What one run does, worked out from what was asked.

use std::time::Duration;

use ltq_client::{ChannelName, TopicName};
use ltq_core::{Durability, NameError};

use super::args::{BenchArgs, Mode};
use crate::cli::CliError;

/// What one run does.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) mode: Mode,
    pub(super) topics: Vec<TopicName>,
    /// The same in each topic.
    pub(super) channels: Vec<ChannelName>,
    /// Whether the topics are the run's own, to be made and deleted.
    pub(super) own_topics: bool,
    pub(super) durability: Option<Durability>,
    /// Connections that publish.
    pub(super) producers: usize,
    /// Of each channel.
    pub(super) consumers: usize,
    /// Whether they all share one.
    pub(super) one_connection: bool,
    /// Channels whose consumers take nothing, one of each topic in turn.
    pub(super) stalled: Vec<ChannelName>,
    pub(super) size: usize,
    pub(super) batch: usize,
    pub(super) in_flight: usize,
    pub(super) rate: Option<u32>,
    /// For each node, in place of that.
    pub(super) rate_per_node: Option<u32>,
    /// How many keys there are, of which each has its node.
    pub(super) keys: Option<usize>,
    pub(super) wait_each: bool,
    pub(super) spin: bool,
    pub(super) limit: Limit,
    /// Whether what `sub` drains is there already.
    pub(super) prefilled: bool,
}

/// When producers stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// After so many messages in all.
    Messages(u64),
    After(Duration),
}

impl Plan {
    pub(super) fn new(mode: Mode, args: &BenchArgs) -> Result<Self, CliError> {
        if args.prefilled && mode != Mode::Sub {
            let words = "--prefilled is for \"ltq bench sub\": the others publish".to_owned();
            return Err(CliError::Usage(words));
        }
        if args.prefilled && args.ordered {
            let words = "--ordered is for what is published, and --prefilled has been: whatever keys its messages have are \
                         taken";
            return Err(CliError::Usage(words.to_owned()));
        }
        if mode == Mode::Fanout && args.topics != 1 {
            let words = "\"ltq bench fanout\" is about one topic; leave --topics out".to_owned();
            return Err(CliError::Usage(words));
        }
        let channels = match (mode, args.channels) {
            (Mode::Pub, _) => 0,
            (Mode::Fanout, None) => FANOUT_CHANNELS,
            (_, channels) => channels.unwrap_or(1),
        };
        let rate = match (mode, args.rate, args.rate_per_node) {
            (Mode::Latency, None, None) => Some(LATENCY_RATE),
            (_, rate, _) => rate,
        };
        let limit = match (mode, args.count) {
            (_, Some(count)) => Limit::Messages(count),
            (Mode::Sub, None) => Limit::Messages(BACKLOG),
            _ => Limit::After(args.duration),
        };
        let mut plan = Self {
            mode,
            topics: Vec::new(),
            channels: Vec::new(),
            own_topics: args.topic.is_none(),
            durability: args.durability,
            producers: args.producers,
            consumers: args.consumers,
            one_connection: args.one_connection,
            stalled: Vec::new(),
            size: args.size,
            batch: args.batch,
            in_flight: args.in_flight,
            rate,
            rate_per_node: args.rate_per_node,
            keys: args.ordered.then_some(args.keys),
            wait_each: args.wait_each,
            spin: args.spin,
            limit,
            prefilled: args.prefilled,
        };
        if mode == Mode::Pub && args.stalled.is_some() {
            let words = "--stalled is for what consumes; \"ltq bench pub\" does not".to_owned();
            return Err(CliError::Usage(words));
        }
        let counts = (args.topics, channels, args.stalled.unwrap_or(0));
        plan.name(args.topic.as_ref(), counts)
            .map_err(|error| CliError::Usage(format!("the topics cannot be named: {error}")))?;
        Ok(plan)
    }

    /// The same, against so many nodes.
    pub(super) fn against(self, nodes: usize) -> Self {
        let nodes = u32::try_from(nodes).unwrap_or(u32::MAX).max(1);
        let all = self.rate_per_node.map(|rate| rate.saturating_mul(nodes));
        Self { rate: all.or(self.rate), ..self }
    }

    /// The same for a while beforehand, on other topics; `None` where that means nothing.
    pub(super) fn warmup(&self, args: &BenchArgs) -> Option<Self> {
        if args.warmup.is_zero() || self.prefilled {
            return None;
        }
        let limit = match self.mode {
            // A backlog of as much as is published meanwhile.
            Mode::Sub => Limit::Messages(BACKLOG / 10),
            _ => Limit::After(args.warmup),
        };
        let mut plan = Self { own_topics: true, limit, ..self.clone() };
        plan.name(None, (self.topics.len(), self.channels.len(), self.stalled.len())).ok()?;
        Some(plan)
    }

    fn name(
        &mut self,
        topic: Option<&TopicName>,
        (topics, channels, stalled): (usize, usize, usize),
    ) -> Result<(), NameError> {
        let run = format!("bench-{:08x}", rand::random::<u32>());
        let base = topic.map_or(run.as_str(), TopicName::as_str);
        self.topics = match topics {
            1 => vec![TopicName::new(base)?],
            _ => (0..topics)
                .map(|at| TopicName::new(&format!("{base}-{at}")))
                .collect::<Result<_, _>>()?,
        };
        self.channels = (0..channels)
            .map(|at| ChannelName::new(&format!("{run}-{at}")))
            .collect::<Result<_, _>>()?;
        self.stalled = (0..stalled)
            .map(|at| ChannelName::new(&format!("{run}-stalled-{at}")))
            .collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Those whose consumers take nothing, and their topics.
    pub(super) fn stalled(&self) -> impl Iterator<Item = (&TopicName, &ChannelName)> {
        self.topics.iter().cycle().zip(&self.stalled)
    }

    /// How many producers there are in all: at least one for each topic.
    pub(super) fn publishers(&self) -> usize {
        self.producers.max(self.topics.len())
    }

    /// How many messages this producer publishes, where that is fixed.
    pub(super) fn share(&self, producer: usize) -> Option<u64> {
        let Limit::Messages(count) = self.limit else { return None };
        let producers = self.publishers() as u64;
        Some(count / producers + u64::from((producer as u64) < count % producers))
    }

    /// How many deliveries there are in all, where that is fixed.
    pub(super) fn deliveries(&self) -> Option<u64> {
        match self.limit {
            Limit::Messages(count) => Some(count * self.channels.len().max(1) as u64),
            Limit::After(_) => None,
        }
    }
}

const FANOUT_CHANNELS: usize = 4;
const LATENCY_RATE: u32 = 1000;
/// Enough for some seconds.
const BACKLOG: u64 = 1_000_000;

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchArgs,
    }

    fn args(line: &str) -> BenchArgs {
        let words = ["bench"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).unwrap().args
    }

    fn plan(line: &str) -> Plan {
        let args = args(line);
        Plan::new(args.mode.unwrap(), &args).unwrap()
    }

    #[test]
    fn modes_have_their_own_defaults() {
        assert_eq!(plan("pub").channels.len(), 0);
        assert_eq!(plan("e2e").channels.len(), 1);
        assert_eq!(plan("fanout").channels.len(), 4);
        assert_eq!(plan("latency").rate, Some(1000));
        assert_eq!(plan("latency --rate 7").rate, Some(7));
        assert_eq!(plan("pub").rate, None);
        assert_eq!(plan("pub").limit, Limit::After(Duration::from_secs(10)));
        assert_eq!(plan("sub").limit, Limit::Messages(1_000_000));
        assert_eq!(plan("e2e --count 5").limit, Limit::Messages(5));
    }

    #[test]
    fn every_option_counts() {
        let default = format!("{:?}", without_names(plan("fanout")));
        for option in [
            "--size 4KiB",
            "--batch 7",
            "--producers 7",
            "--consumers 7",
            "--one-connection",
            "--stalled 7",
            "--channels 7",
            "--in-flight 7",
            "--rate 7",
            "--count 7",
            "--duration 7s",
            "--durability os",
            "--wait-each",
            "--topic t",
            "--registry r --rate-per-node 7",
            "--registry r --ordered",
        ] {
            let changed = format!("{:?}", without_names(plan(&format!("fanout {option}"))));
            assert_ne!(changed, default, "{option} is ignored");
        }
        assert_eq!(plan("fanout --registry r --ordered --keys 7").keys, Some(7));
        assert_eq!(plan("e2e --topics 7").topics.len(), 7);
        assert_eq!(
            plan("e2e --topic t --topics 2").topics,
            ["t-0", "t-1"].map(|t| t.parse().unwrap())
        );
        assert_eq!(plan("pub --topic t").topics, ["t".parse().unwrap()]);
    }

    #[test]
    fn a_rate_for_each_node_is_that_of_all_nodes_together() {
        let plan = |line: &str| plan(line).against(3).rate;
        assert_eq!(plan("latency --registry r --rate-per-node 7"), Some(21));
        assert_eq!(plan("latency --registry r --rate 7"), Some(7));
        assert_eq!(plan("latency --registry r"), Some(1000));
        assert_eq!(plan("pub --registry r"), None);
    }

    fn without_names(mut plan: Plan) -> Plan {
        plan.topics.fill(TopicName::new("t").unwrap());
        plan.channels.fill(ChannelName::new("c").unwrap());
        plan.stalled.fill(ChannelName::new("c").unwrap());
        plan
    }

    #[test]
    fn runs_do_not_disturb_each_other() {
        let (a, b) = (plan("fanout"), plan("fanout"));
        assert_ne!(a.topics, b.topics);
        let same = (plan("e2e --topic t"), plan("e2e --topic t"));
        assert_eq!(same.0.topics, same.1.topics);
        assert_ne!(same.0.channels, same.1.channels);
        let args = args("e2e --topic t");
        let warmup = same.0.warmup(&args).unwrap();
        assert!(warmup.own_topics && warmup.topics != same.0.topics);
        assert_eq!(warmup.limit, Limit::After(Duration::from_secs(1)));
        let args = self::args("e2e --topic t --warmup 3s");
        let longer = same.0.warmup(&args).unwrap().limit;
        assert_eq!(longer, Limit::After(Duration::from_secs(3)));
        assert!(same.0.warmup(&self::args("e2e --warmup 0s")).is_none());
    }

    #[test]
    fn producers_share_the_count() {
        let plan = plan("pub --count 11 --producers 4");
        let shares: Vec<_> = (0..4).map(|producer| plan.share(producer).unwrap()).collect();
        assert_eq!(shares, [3, 3, 3, 2]);
        let plan = self::plan("pub --count 11 --producers 2 --topics 3");
        assert_eq!((plan.publishers(), plan.share(0), plan.share(2)), (3, Some(4), Some(3)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "",
            "nonsense",
            "pub --size 5",
            "pub --size 1GiB",
            "pub --batch 0",
            "pub --count 5 --duration 1s",
            "pub --wait-each --rate 5",
            "pub --data-dir x",
            "pub --in-process --server-pid 1",
            "device",
            "--idle-connections 5",
            "pub --idle-connections 5 --server-pid 1",
            "--idle-connections 5 --server-pid 1 --registry r",
            "pub --registry r --in-process",
            "pub --rate-per-node 5",
            "pub --registry r --rate-per-node 5 --rate 5",
            "pub --ordered",
            "pub --registry r --keys 5",
        ] {
            let words = ["bench"].into_iter().chain(line.split_whitespace());
            assert!(Line::try_parse_from(words).is_err(), "{line:?} is taken");
        }
        for line in [
            "pub --prefilled --topic t",
            "sub --prefilled --topic t --registry r --ordered",
            "fanout --topics 2",
            "pub --stalled 1",
        ] {
            let args = args(line);
            assert!(Plan::new(args.mode.unwrap(), &args).is_err(), "{line:?} is taken");
        }
    }
}
