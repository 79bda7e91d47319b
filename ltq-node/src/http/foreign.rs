//! Requests that web pages make.
//!
//! Where nobody is asked for a token, who may do what is decided by who reaches the node. A browser of this machine
//! reaches it, and would carry out what any page tells it to. What it sends across sites carries an `Origin`, and what a
//! page sends to a name of its own, that it lets lead here, carries that name as its `Host`.

use std::net::IpAddr;

use axum::{
    extract::Request,
    http::{header, uri::Authority},
};
use ltq_core::RefusalCode;

use super::error::ApiError;

/// Refuses what a page of elsewhere may have had sent. `at_loopback`: only programs of this machine get here, and know
/// it by its own names.
pub(super) fn check(request: &Request, at_loopback: bool) -> Result<(), ApiError> {
    if request.headers().contains_key(header::ORIGIN) {
        return Err(refused("a web page sent it (it has an Origin)"));
    }
    let hosts = request.headers().get_all(header::HOST).iter();
    let named = hosts.map(|host| host.to_str().unwrap_or_default());
    let mut all = request.uri().authority().map(Authority::as_str).into_iter().chain(named);
    if at_loopback && !all.all(is_this_machine) {
        return Err(refused("it is for another Host than localhost and the loopback addresses"));
    }
    Ok(())
}

fn refused(why: &str) -> ApiError {
    let detail = format!("{why}, and this node asks nobody for a token: set up one for such a use");
    ApiError::refused(RefusalCode::Forbidden, detail)
}

/// Whether a host, with a port or without one, can only be this machine: a name that others may let lead here is none.
fn is_this_machine(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_known_by_names_that_nobody_else_can_have() {
        for host in ["localhost", "LocalHost:7441", "127.0.0.1:80", "127.1.2.3", "[::1]:7441"] {
            assert!(is_this_machine(host), "{host}");
        }
        for host in
            ["", "evil.example", "localhost.evil.example", "192.0.2.1:7441", "[2001:db8::1]", "a b"]
        {
            assert!(!is_this_machine(host), "{host}");
        }
    }
}
