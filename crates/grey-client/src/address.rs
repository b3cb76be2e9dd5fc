use std::fmt;

use http::{HeaderValue, Uri, uri::Scheme};

use crate::{Error, Result, text::shown};

/// Port of `http` where the address names none (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;
/// What every refusal ends with.
const EXAMPLE: &str = "an address looks like http://127.0.0.1:8000";

/// Where a node listens, e.g. `http://127.0.0.1:8000`, possibly below a path.
///
/// # Invariants
/// - the scheme is `http`, and there is neither user nor query nor fragment;
/// - `prefix` is empty or begins with a slash, and does not end with one.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: String,
    port: u16,
    authority: String,
    prefix: String,
}

impl Address {
    /// Reads an address.
    ///
    /// # Errors
    /// [`Error::Argument`] that says what is wrong with it and what one looks like.
    pub fn parse(text: &str) -> Result<Address> {
        let refused = |why: &str| Err(Error::Argument(format!("'{}' is no address of a node: {why}", shown(text))));
        if !text.contains("://") {
            return refused(&format!("it has no scheme; did you mean http://{}?", shown(text)));
        }
        if text.contains('#') {
            return refused(&format!("it has a fragment; {EXAMPLE}"));
        }
        let uri: Uri = match text.parse() {
            Ok(uri) => uri,
            Err(e) => return refused(&format!("{e}; {EXAMPLE}")),
        };
        match uri.scheme() {
            Some(s) if *s == Scheme::HTTP => {}
            Some(s) if *s == Scheme::HTTPS => {
                return refused(
                    "TLS is not supported yet; use http:// to this machine, or through a tunnel or proxy that speaks TLS",
                );
            }
            other => {
                let found = other.map_or("no scheme", Scheme::as_str);
                return refused(&format!("its scheme is '{}', expected http; {EXAMPLE}", shown(found)));
            }
        }
        let Some(authority) = uri.authority().filter(|a| !a.host().is_empty()) else {
            return refused(&format!("it names no host; {EXAMPLE}"));
        };
        if authority.as_str().contains('@') {
            return Err(Error::Argument(format!(
                "an address of a node names no user (found one before '{}'); {EXAMPLE}",
                shown(authority.host())
            )));
        }
        if uri.query().is_some() {
            return refused(&format!("it has a query; {EXAMPLE}"));
        }
        let digits = authority.as_str().rsplit_once(':').map(|(_, p)| p).filter(|p| !p.ends_with(']'));
        let port = match (authority.port_u16(), digits) {
            (Some(0), _) => return refused("its port is 0"),
            (Some(port), _) => port,
            (None, None) => HTTP_PORT,
            (None, Some(found)) => {
                return refused(&format!("its port is '{}', expected 1 to 65535", shown(found)));
            }
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let prefix = uri.path().trim_end_matches('/').to_owned();
        // What does not fit into the header Host would fail with every request.
        if HeaderValue::from_str(authority.as_str()).is_err() {
            return refused(EXAMPLE);
        }
        Ok(Address { host, port, authority: authority.as_str().to_owned(), prefix })
    }

    /// The host's name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port as the address has them: the header `Host`.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// What stands before every path.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses() {
        for (text, host, port, shown) in [
            ("http://127.0.0.1:8000", "127.0.0.1", 8000, "http://127.0.0.1:8000"),
            ("http://localhost/", "localhost", 80, "http://localhost"),
            ("HTTP://[::1]:9/a/b/", "::1", 9, "http://[::1]:9/a/b"),
            ("http://[::1]", "::1", 80, "http://[::1]"),
        ] {
            let a = Address::parse(text).unwrap();
            assert_eq!((a.host(), a.port(), a.to_string().as_str()), (host, port, shown));
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        for (text, says) in [
            ("", "it has no scheme"),
            ("127.0.0.1:8000", "did you mean http://127.0.0.1:8000?"),
            ("https://node:8000", "TLS is not supported yet"),
            ("ftp://node", "its scheme is 'ftp', expected http"),
            ("http://", "an address looks like"),
            ("http://:80", "names no host"),
            ("http://node:port", "its port is 'port', expected 1 to 65535"),
            ("http://node:", "its port is '', expected 1 to 65535"),
            ("http://node:99999", "expected 1 to 65535"),
            ("http://node:0", "its port is 0"),
            ("http://user:secret@node", "names no user"),
            ("http://node/?a=b", "it has a query"),
            ("http://node/#a", "it has a fragment"),
            ("http://no de", "an address looks like"),
        ] {
            let e = Address::parse(text).unwrap_err().to_string();
            assert!(e.contains(says), "{text}: {e}");
            assert!(!e.contains("secret"), "{e}");
        }
    }
}
