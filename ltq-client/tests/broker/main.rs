//! The client and a real broker on a memory store, over in-process links and TCP.

#[cfg(test)]
mod board;
#[cfg(test)]
mod cluster;
#[cfg(test)]
mod lanes;
mod limits;
#[cfg(test)]
mod node;
#[cfg(test)]
mod watched;

/// What holds over connections of one stream.
#[cfg(test)]
#[path = "."]
mod one_stream {
    use ltq_transport::InProcess;

    mod credit;
    mod cuts;
    mod restarts;
    mod round_trips;

    fn namespace() -> InProcess {
        InProcess::new()
    }
}

/// The same over connections of many.
#[cfg(test)]
#[expect(clippy::duplicate_mod, reason = "the same tests, over another transport")]
#[path = "."]
mod many_streams {
    use ltq_transport::InProcess;

    mod credit;
    mod cuts;
    mod restarts;
    mod round_trips;

    fn namespace() -> InProcess {
        InProcess::multiplexed()
    }
}
