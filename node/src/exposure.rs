//! Where a node without keys may listen.
//!
//! Without keys everybody who reaches a socket is let in, so a socket is bound to a loopback
//! address only, unless the operator says that the network around it is trusted. It looks at the
//! address as written: a host name other than `localhost` counts as reachable.

// The types of addresses; the sockets of `std::net` are not for us.
use core::net::{IpAddr, Ipv6Addr};

use crate::network::Exposure;

/// An address at which a node must not listen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "listening at {address} without keys lets in everybody who reaches it: listen on a loopback \
     address, or allow it with --insecure (node.insecure = true)"
)]
pub struct Exposed {
    /// The address.
    pub address: String,
}

/// Checks an address (`tcp://HOST:PORT`) before it is bound.
///
/// # Errors
/// [`Exposed`] where other machines reach it and nobody allowed that.
pub fn check(exposure: Exposure, address: &str) -> Result<(), Exposed> {
    if exposure == Exposure::Insecure || is_loopback(address) {
        return Ok(());
    }
    Err(Exposed { address: address.to_owned() })
}

fn is_loopback(address: &str) -> bool {
    if address.starts_with("inproc://") || address.starts_with("ipc://") {
        return true;
    }
    let Some((host, _)) = address.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':'))
    else {
        return false;
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match bare {
        Some(host) => {
            host.parse::<Ipv6Addr>().is_ok_and(|ip| IpAddr::from(ip).to_canonical().is_loopback())
        }
        None => host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_unless_allowed() {
        let inside = [
            "tcp://127.0.0.1:7000",
            "tcp://127.8.9.1:0",
            "tcp://localhost:7000",
            "tcp://[::1]:7000",
            "tcp://[::ffff:127.0.0.1]:7000",
            "inproc://x",
        ];
        let outside = [
            "tcp://0.0.0.0:7000",
            "tcp://*:7000",
            "tcp://10.0.0.1:7000",
            "tcp://[::]:7000",
            "tcp://[::1%eth0]:7000",
            "tcp://127.0.0.1.example.org:7000",
            "tcp://localhost.example.org:7000",
            "tcp://eth0:7000",
            "tcp://[127.0.0.1]:7000",
            "127.0.0.1:7000",
            "",
        ];
        for address in inside {
            assert_eq!(check(Exposure::Loopback, address), Ok(()), "{address}");
        }
        for address in outside {
            assert!(check(Exposure::Loopback, address).is_err(), "{address}");
            assert_eq!(check(Exposure::Insecure, address), Ok(()), "{address}");
        }
    }
}
