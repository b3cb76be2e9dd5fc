//! Who may change the node's state while nobody has to authenticate: callers on this machine.
//! A web page must not reach a node of its visitor, neither across origins (`Origin`) nor by
//! making its own name resolve to this machine (`Host`).
//!
//! Guarded is what an operator changes: registering, loading, unloading, removing. Inference is not,
//! though it may load a registered model on demand: a foreign page can send one without preflight
//! but, without CORS headers, never reads the answer; what it spends is bounded as for any caller.
//!
//! The console and what it shows are guarded whatever the method: they tell of processes and memory, and
//! a page whose name resolves to this machine could read them. This node's own page may change something
//! only where the configuration says so (`console: write`).

use std::net::IpAddr;

use grey_core::{Error, ErrorKind, Result};
use http::{HeaderMap, header, uri::Authority};

use super::error::shown;

/// What an operator changes.
pub(crate) const CHANGES: &str = "routes that change state are";
/// What an operator looks at, and what the page asks for.
pub(crate) const CONSOLE: &str = "the console and what it shows are";

/// Whether a web page sends this, be it this node's or another: browsers say so with whatever is no GET.
pub(crate) fn is_from_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-site")
}

/// The names under which state may be changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// Lower-case names besides the loopback ones; empty unless insecure.
    names: Vec<String>,
    /// Whether every IP literal will do: the node listens on all addresses, and a literal cannot
    /// be made to resolve to something else.
    any_address: bool,
}

impl Guard {
    /// For a node that listens on `bound` and was told to under `names`.
    pub fn new(insecure: bool, bound: IpAddr, names: &[String]) -> Guard {
        if !insecure {
            return Guard::default();
        }
        let names = names.iter().map(|n| n.to_ascii_lowercase()).chain([bound.to_string()]).collect();
        Guard { names, any_address: bound.is_unspecified() }
    }

    /// Refuses a request for `what` ("routes that … are") that comes by a foreign name or from a foreign page.
    pub fn check(&self, what: &str, headers: &HeaderMap) -> Result<()> {
        let denied = |from: &str, found: &str| {
            let names = if self.any_address { "an IP address" } else { "a loopback address" };
            Err(Error::new(
                ErrorKind::PermissionDenied,
                format!(
                    "{what} not open to {from} '{}': use {names}, localhost{}",
                    shown(found),
                    self.names.iter().map(|n| format!(", {n}")).collect::<String>()
                ),
            ))
        };
        let mut hosts = headers.get_all(header::HOST).iter();
        let host = hosts.next().and_then(|h| h.to_str().ok()).unwrap_or("");
        let authority = host.parse::<Authority>().ok().filter(|a| !a.as_str().contains('@'));
        let Some(authority) = authority.filter(|_| hosts.next().is_none()) else {
            return denied("host", host);
        };
        if !self.allows(authority.host()) {
            return denied("host", host);
        }
        for origin in headers.get_all(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or("?");
            let same = origin.split_once("://").is_some_and(|(scheme, rest)| {
                matches!(scheme, "http" | "https") && rest.eq_ignore_ascii_case(authority.as_str())
            });
            if !same {
                return denied("origin", origin);
            }
        }
        Ok(())
    }

    fn allows(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let address = host.parse::<IpAddr>().ok();
        host == "localhost"
            || address.is_some_and(|a| a.is_loopback() || self.any_address)
            || self.names.contains(&host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ok(guard: &Guard, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, host.parse().unwrap());
        if let Some(o) = origin {
            headers.insert(header::ORIGIN, o.parse().unwrap());
        }
        guard.check(CHANGES, &headers).is_ok()
    }

    #[test]
    fn only_own_names_and_pages() {
        let local = Guard::new(false, "127.0.0.1".parse().unwrap(), &["grey.example".into()]);
        for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:8000"] {
            assert!(ok(&local, host, None), "{host}");
        }
        for host in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "grey.example", "", "a@localhost", "localhost/x"]
        {
            assert!(!ok(&local, host, None), "{host}");
        }
        assert!(ok(&local, "localhost:8000", Some("http://localhost:8000")));
        for origin in ["http://localhost:9000", "http://evil.example", "null", "http://localhost:8000.evil.example"] {
            assert!(!ok(&local, "localhost:8000", Some(origin)), "{origin}");
        }
        assert!(local.check(CHANGES, &HeaderMap::new()).is_err());
        let open = Guard::new(true, "0.0.0.0".parse().unwrap(), &["Grey.example".into()]);
        assert!(ok(&open, "10.0.0.1:8000", None) && ok(&open, "grey.example", None));
        assert!(!ok(&open, "evil.example", None));
        let one = Guard::new(true, "10.0.0.1".parse().unwrap(), &[]);
        assert!(ok(&one, "10.0.0.1", None) && !ok(&one, "10.0.0.2", None));
    }
}
