use rand::{RngExt, rngs::SmallRng};

use super::{Assault, Failed};

/// The ways in which a peer is hostile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It connects and says nothing.
    Silence,
    /// It says bytes by chance.
    Noise,
    /// It speaks another protocol: TLS where there is none, none where there is TLS, HTTP.
    OtherProtocol,
    /// Its hello is cut.
    CutHello,
    /// Its hello comes byte by byte, and never whole.
    DrippedHello,
    /// Its hello says odd things.
    OddHello,
    /// Its hello says that it is longer than a hello may be.
    LongHello,
    /// It says hello twice.
    TwoHellos,
    /// It has no token, or a wrong one.
    WrongToken,
    /// It says something else before its hello.
    NoHello,
    /// It asks for anything at all.
    AnyFrames,
    /// What it says stands at a limit, or beyond.
    Limits,
    /// What it says is cut at any byte.
    Truncated,
    /// What it says is nearly right.
    Mutated,
    /// It says that which brings nothing, again and again.
    Futile,
    /// It opens producers and subscriptions without end.
    Openings,
    /// It takes messages, and does not read.
    DeafSubscriber,
    /// It publishes, and does not read its confirms.
    DeafPublisher,
    /// It finishes at once, and reads.
    HalfClose,
    /// It goes in the middle of something long.
    Reset,
    /// It begins a long frame and does not go on.
    HalfFrame,
    /// It wants what is others'.
    OthersThings,
    /// It settles what it was given, and what it was not.
    Settlements,
    /// Its sequences and epochs go backwards, repeat and leave gaps.
    Sequences,
    /// It asks for what costs the node most.
    Operator,
    /// It opens streams of a QUIC connection by the dozen.
    ManyStreams,
    /// It opens and ends streams as fast as it can.
    StreamChurn,
    /// It resets streams, and stops the node's.
    ResetStreams,
    /// It sends QUIC what LTQ does not use: streams of one direction, datagrams.
    OneWay,
    /// It sends datagrams that are no QUIC to where QUIC is spoken.
    Datagrams,
    /// It repeats and changes the first words of a handshake.
    Handshakes,
    /// It is gone without a word.
    Abandoned,
    /// It opens as many connections as its user may have, and more.
    Flood,
    /// By HTTP: a request that is cut.
    HalfRequest,
    /// A request that comes byte by byte.
    SlowRequest,
    /// A head that is too long.
    LongHead,
    /// What is no HTTP.
    Garbage,
    /// Many requests in one piece.
    Pipelined,
    /// A body that is too long, or says impossible things of itself.
    OddBody,
    /// A request without a token, or with a wrong one.
    DeniedRequest,
    /// Paths and methods that there are not.
    OddPath,
    /// More connections than there may be.
    ManyConnections,
    /// Gone in the middle of a request.
    ResetRequest,
}

/// By which door attackers come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arms {
    /// TCP, TLS and QUIC.
    Network,
    /// A Unix socket, as the user that the honest ones there are.
    Unix,
    /// HTTP.
    Http,
}

impl Arms {
    /// The ways to be hostile there, each with how often it is chosen.
    #[must_use]
    pub const fn kinds(self) -> &'static [(Kind, u32)] {
        match self {
            Self::Network => &Kind::NETWORK,
            Self::Unix => &Kind::UNIX,
            Self::Http => &Kind::HTTP,
        }
    }
}

impl Kind {
    const NETWORK: [(Self, u32); 32] = [
        (Self::Silence, 4),
        (Self::Noise, 6),
        (Self::OtherProtocol, 4),
        (Self::CutHello, 6),
        (Self::DrippedHello, 1),
        (Self::OddHello, 6),
        (Self::LongHello, 4),
        (Self::TwoHellos, 3),
        (Self::WrongToken, 6),
        (Self::NoHello, 6),
        (Self::AnyFrames, 10),
        (Self::Limits, 4),
        (Self::Truncated, 6),
        (Self::Mutated, 10),
        (Self::Futile, 2),
        (Self::Openings, 1),
        (Self::DeafSubscriber, 1),
        (Self::DeafPublisher, 1),
        (Self::HalfClose, 4),
        (Self::Reset, 3),
        (Self::HalfFrame, 1),
        (Self::OthersThings, 4),
        (Self::Settlements, 4),
        (Self::Sequences, 4),
        (Self::Operator, 2),
        (Self::ManyStreams, 2),
        (Self::StreamChurn, 1),
        (Self::ResetStreams, 3),
        (Self::OneWay, 2),
        (Self::Datagrams, 2),
        (Self::Handshakes, 1),
        (Self::Abandoned, 1),
    ];

    /// Those that take no handshake and no datagrams.
    const UNIX: [(Self, u32); 24] = [
        (Self::Silence, 4),
        (Self::Noise, 10),
        (Self::CutHello, 6),
        (Self::DrippedHello, 1),
        (Self::OddHello, 6),
        (Self::LongHello, 4),
        (Self::TwoHellos, 3),
        (Self::WrongToken, 6),
        (Self::NoHello, 6),
        (Self::AnyFrames, 10),
        (Self::Limits, 4),
        (Self::Truncated, 8),
        (Self::Mutated, 10),
        (Self::Futile, 2),
        (Self::Openings, 1),
        (Self::DeafSubscriber, 1),
        (Self::DeafPublisher, 1),
        (Self::HalfClose, 4),
        (Self::Reset, 4),
        (Self::HalfFrame, 3),
        (Self::OthersThings, 4),
        (Self::Settlements, 4),
        (Self::Sequences, 4),
        (Self::Flood, 3),
    ];

    const HTTP: [(Self, u32); 10] = [
        (Self::HalfRequest, 8),
        (Self::SlowRequest, 3),
        (Self::LongHead, 6),
        (Self::Garbage, 10),
        (Self::Pipelined, 4),
        (Self::OddBody, 10),
        (Self::DeniedRequest, 8),
        (Self::OddPath, 12),
        (Self::ManyConnections, 3),
        (Self::ResetRequest, 6),
    ];

    pub(super) fn by_chance(arms: Arms, chance: &mut SmallRng) -> Self {
        let kinds = arms.kinds();
        let all: u32 = kinds.iter().map(|(_, weight)| weight).sum();
        let mut at = chance.random_range(0..all);
        for (kind, weight) in kinds {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *kind,
            }
        }
        unreachable!("it is less than all weights together")
    }

    pub(super) async fn carry_out(self, assault: &mut Assault<'_>) -> Result<(), Failed> {
        match self {
            Self::Silence => assault.silence().await,
            Self::Noise => assault.noise().await,
            Self::OtherProtocol => assault.other_protocol().await,
            Self::CutHello => assault.cut_hello().await,
            Self::DrippedHello => assault.dripped_hello().await,
            Self::OddHello => assault.odd_hello().await,
            Self::LongHello => assault.long_hello().await,
            Self::TwoHellos => assault.two_hellos().await,
            Self::WrongToken => assault.wrong_token().await,
            Self::NoHello => assault.no_hello().await,
            Self::AnyFrames => assault.any_frames().await,
            Self::Limits => assault.limits().await,
            Self::Truncated => assault.truncated().await,
            Self::Mutated => assault.mutated().await,
            Self::Futile => assault.futile().await,
            Self::Openings => assault.openings().await,
            Self::DeafSubscriber => assault.deaf_subscriber().await,
            Self::DeafPublisher => assault.deaf_publisher().await,
            Self::HalfClose => assault.half_close().await,
            Self::Reset => assault.reset().await,
            Self::HalfFrame => assault.half_frame().await,
            Self::OthersThings => assault.others_things().await,
            Self::Settlements => assault.settlements().await,
            Self::Sequences => assault.sequences().await,
            Self::Operator => assault.operator().await,
            Self::ManyStreams => assault.many_streams().await,
            Self::StreamChurn => assault.stream_churn().await,
            Self::ResetStreams => assault.reset_streams().await,
            Self::OneWay => assault.one_way().await,
            Self::Datagrams => assault.datagrams().await,
            Self::Handshakes => assault.handshakes().await,
            Self::Abandoned => assault.abandoned().await,
            Self::Flood => assault.flood().await,
            Self::HalfRequest => assault.half_request().await,
            Self::SlowRequest => assault.slow_request().await,
            Self::LongHead => assault.long_head().await,
            Self::Garbage => assault.garbage().await,
            Self::Pipelined => assault.pipelined().await,
            Self::OddBody => assault.odd_body().await,
            Self::DeniedRequest => assault.denied_request().await,
            Self::OddPath => assault.odd_path().await,
            Self::ManyConnections => assault.many_connections().await,
            Self::ResetRequest => assault.reset_request().await,
        }
    }
}
