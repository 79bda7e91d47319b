use ltq_core::{Address, TransportError};

use crate::conformance::trial::{CaseResult, Trial, ensure, fail, skip, worked};

pub(super) async fn the_listeners_address_can_be_connected_to(trial: Trial) -> CaseResult {
    let mut listener = trial.listen().await?;
    let address = listener.local_address();
    let read_back: Address = worked("reading the address back", address.to_string().parse())?;
    ensure(read_back == address, || format!("{address} reads back as {read_back}"))?;
    for _ in 0..2 {
        let (near, far) = trial.meet(&mut listener).await?;
        let (mut near, mut far) = trial.stream_between(&*near, &*far).await?;
        far.send.send(10).await?;
        near.recv.receive_exactly(10).await?;
    }
    Ok(())
}

pub(super) async fn connecting_to_nobody_fails(trial: Trial) -> CaseResult {
    let mut met = Vec::new();
    // Somebody else may get a port as soon as it is free; that will not happen each time.
    for _ in 0..3 {
        let listener = trial.listen().await?;
        let address = listener.local_address();
        drop(listener);
        match trial.try_connect(&address).await? {
            Err(TransportError::Io { .. }) => return Ok(()),
            Err(error) => return fail(format!("the error is not Io but {error:?}")),
            Ok(_) => met.push(address.to_string()),
        }
    }
    let met = met.join(", ");
    fail(format!("connecting to {met}, where nobody listens, succeeded"))
}

pub(super) async fn an_address_of_another_kind_is_refused(trial: Trial) -> CaseResult {
    let foreign = Address::new("no-such-scheme", (trial.harness.listen_address)().rest());
    let harness = &trial.harness;
    for address in harness.malformed.iter().chain([&foreign]) {
        let connecting = trial.try_connect(address).await?.map(drop);
        let listening = trial.within("listen", harness.transport.listen(address)).await?.map(drop);
        for (doing, outcome) in [("connecting to", connecting), ("listening on", listening)] {
            match outcome {
                Err(TransportError::Address { address: named, .. }) if named == *address => {}
                other => return fail(format!("{doing} {address} gave {other:?}")),
            }
        }
    }
    Ok(())
}

pub(super) async fn an_unknown_host_is_an_error(trial: Trial) -> CaseResult {
    if trial.harness.unknown_hosts.is_empty() {
        return skip("the harness names no unknown host");
    }
    for address in &trial.harness.unknown_hosts {
        match trial.try_connect(address).await?.map(drop) {
            Err(TransportError::Io { .. } | TransportError::Address { .. }) => {}
            other => return fail(format!("connecting to {address} gave {other:?}")),
        }
    }
    Ok(())
}

pub(super) async fn peers_are_named(trial: Trial) -> CaseResult {
    let link = trial.link().await?;
    let scheme = (trial.harness.listen_address)().scheme().to_owned();
    for peer in [link.near.peer(), link.far.peer()] {
        let address = &peer.address;
        ensure(address.scheme() == scheme, || format!("the peer {address} is not of {scheme}"))?;
        let read_back: Address = worked("reading a peer back", address.to_string().parse())?;
        ensure(read_back == *address, || format!("{address} reads back as {read_back}"))?;
        ensure(peer.identity.as_deref() != Some(""), || {
            format!("{address} has an empty identity")
        })?;
    }
    Ok(())
}
