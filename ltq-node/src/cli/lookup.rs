//! What `ltq` finds nodes by: registries, or an etcd or DNS names in their place.

use std::sync::Arc;

use ltq_discovery::{Discovery, registry::Registries};
use ltq_transport::{Tcp, Transports, Unix};

use super::{CliError, args::ServerArgs};
use crate::lookup::Place;

/// What these addresses name. Nobody is asked yet; each question is waited for as long as the command may take.
///
/// # Errors
/// [`CliError::Usage`].
pub(super) fn discovery(
    server: &ServerArgs,
    addresses: &[String],
) -> Result<Arc<dyn Discovery>, CliError> {
    match Place::of(addresses).map_err(usage)? {
        Place::Registries => registries(server, addresses),
        Place::Names(names) => {
            // Whom to trust there is asked before anybody is connected to.
            #[cfg(any(feature = "tls", feature = "quic"))]
            server.tls.transports(names.addresses())?;
            Ok(Arc::new(names.discovery().map_err(usage)?))
        }
        #[cfg(feature = "etcd")]
        Place::Etcd(place) => {
            let user = server.etcd_user.as_deref();
            let password = server.etcd_password.as_ref().map(|password| &*password.0);
            let transports = etcd_transports(server, &place)?;
            let builder = crate::lookup::etcd_at(&place, transports, user.zip(password));
            Ok(Arc::new(builder.patience(server.timeout).build().map_err(usage)?))
        }
        #[cfg(not(feature = "etcd"))]
        Place::Etcd(place) => Err(usage(crate::lookup::PlaceError::NotBuilt(place.to_string()))),
    }
}

fn registries(server: &ServerArgs, addresses: &[String]) -> Result<Arc<dyn Discovery>, CliError> {
    let addresses = || addresses.iter().map(|address| address.trim());
    #[cfg(any(feature = "tls", feature = "quic"))]
    let transports = server.tls.transports(addresses())?;
    #[cfg(not(any(feature = "tls", feature = "quic")))]
    let transports: Option<Transports> = None;
    let mut registries = Registries::builder(transports.unwrap_or_else(plain))
        .connect_timeout(server.timeout)
        .patience(server.timeout);
    for address in addresses() {
        registries = registries.registry(address);
    }
    if let Some(token) = &server.token {
        registries = registries.token(&*token.0);
    }
    Ok(Arc::new(registries.build().map_err(usage)?))
}

fn plain() -> Transports {
    Transports::new().with(Tcp::default()).with(Unix::default())
}

#[cfg(feature = "etcd")]
fn etcd_transports(
    server: &ServerArgs,
    place: &crate::lookup::EtcdPlace,
) -> Result<Transports, CliError> {
    #[cfg(feature = "tls")]
    if place.is_secure() {
        return server.tls.foreign(&place.to_string());
    }
    // Without TLS no such place is named.
    let _ = (server, place);
    Ok(plain())
}

#[allow(clippy::needless_pass_by_value, reason = "it is for `map_err`")]
fn usage(error: impl ToString) -> CliError {
    CliError::Usage(error.to_string())
}
