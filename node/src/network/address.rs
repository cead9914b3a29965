//! What an address to bind says about who can reach it.

/// The host of `tcp://HOST:PORT`; `None` where it is not such an address.
pub(super) fn host(address: &str) -> Option<&str> {
    let (host, port) = address.strip_prefix("tcp://")?.rsplit_once(':')?;
    let is_port = port == "*" || port.parse::<u16>().is_ok();
    (is_port && !host.is_empty()).then_some(host)
}

/// True for a host that certainly is this machine and nobody else's way to it.
pub(super) fn is_loopback(host: &str) -> bool {
    let is_ipv4 = || {
        let parts: Vec<&str> = host.split('.').collect();
        parts.len() == 4 && parts.iter().all(|it| it.parse::<u8>().is_ok())
    };
    host == "localhost" || host == "[::1]" || (host.starts_with("127.") && is_ipv4())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_loopback() {
        for (address, loopback) in [
            ("tcp://127.0.0.1:5555", true),
            ("tcp://127.9.9.9:*", true),
            ("tcp://localhost:1", true),
            ("tcp://[::1]:1", true),
            ("tcp://*:1", false),
            ("tcp://0.0.0.0:1", false),
            ("tcp://[::]:1", false),
            ("tcp://10.0.0.1:1", false),
            ("tcp://127.example.org:1", false),
            ("tcp://127.0.0.1.example.org:1", false),
            ("tcp://eth0:1", false),
        ] {
            assert_eq!(host(address).map(is_loopback), Some(loopback), "{address}");
        }
    }

    #[test]
    fn other_things_are_no_addresses() {
        for text in ["", "127.0.0.1:1", "udp://127.0.0.1:1", "tcp://127.0.0.1", "tcp://:1"] {
            assert_eq!(host(text), None, "{text}");
        }
        assert_eq!(host("tcp://localhost:65536"), None);
    }
}
