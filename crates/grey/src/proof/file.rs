//! Files with proofs: the JSON view, or the bundle itself.

use std::{fmt, path::Path};

use grey_proof::{BUNDLE_BYTES_MAX, Bundle, Known, Manifest, Proof};
use serde_json::{Map, Value, value::RawValue};

use crate::{encoding::Base64, failure::Failure, files};

/// Longest JSON proof that is read, in bytes: a bundle in base64, and 1 MiB of other members.
const JSON_BYTES_MAX: usize = BUNDLE_BYTES_MAX.div_ceil(3) * 4 + (1 << 20);
/// The major type of a map in CBOR, in the upper bits of its first byte.
const CBOR_MAP: u8 = 0b101;

/// A file with a proof. Nothing of it is verified, nor even read.
pub(crate) struct ProofFile {
    /// The bundle as it came.
    pub(crate) bundle: Vec<u8>,
    /// The view around it, if the file is JSON.
    pub(crate) view: Option<Map<String, Value>>,
}

impl ProofFile {
    /// Reads a file of either kind; which it is shows in its content.
    pub(crate) fn read(path: &Path) -> Result<ProofFile, Failure> {
        ProofFile::parse(&files::read(path)?).map_err(|why| not_a_proof(path, why))
    }

    fn parse(bytes: &[u8]) -> Result<ProofFile, String> {
        match bytes.trim_ascii_start().first() {
            None => Err("it is empty".to_owned()),
            // The file's first byte: only in texts may spaces come before what they hold.
            Some(_) if bytes.first().is_some_and(|b| b >> 5 == CBOR_MAP) => {
                Ok(ProofFile { bundle: bytes.to_vec(), view: None })
            }
            Some(b'{') => {
                if bytes.len() > JSON_BYTES_MAX {
                    return Err(format!("expected JSON of at most {JSON_BYTES_MAX} bytes, found {}", bytes.len()));
                }
                let text = std::str::from_utf8(bytes).map_err(|e| format!("not UTF-8 at byte {}", e.valid_up_to()))?;
                // One value and no more, or what follows would become known values as well.
                let one: &RawValue = serde_json::from_str(text).map_err(|e| format!("expected JSON: {e}"))?;
                let text = one.get();
                // Read as strictly as the verifier reads: no member twice.
                let known = Known::from_json(&format!("{{\"view\":{text}}}")).map_err(|e| {
                    let place = e.place().trim_start_matches("known").trim_start_matches("/view").trim_matches('/');
                    let place = if place.is_empty() { String::new() } else { format!("{place}: ") };
                    format!("{place}expected {}, found {}", e.expected(), e.found())
                })?;
                let view = known.view.unwrap_or_default();
                let Some(Value::String(proof)) = view.get("proof") else {
                    return Err("it has no member 'proof', expected the bundle in base64".to_owned());
                };
                let Base64(bundle) = proof.parse().map_err(|e| format!("member 'proof': {e}"))?;
                Ok(ProofFile { bundle, view: Some(view) })
            }
            Some(_) => Err(format!("expected an object in JSON, or a bundle, found {}", stranger(bytes))),
        }
    }

    /// Reads the bundle, where that alone is to be used.
    pub(crate) fn open(&self, path: &Path) -> Result<(Bundle, Proof, Manifest), Failure> {
        Bundle::parse(&self.bundle).map_err(|e| not_a_proof(path, e))
    }
}

/// What a file is that is neither JSON with a proof nor a bundle.
fn stranger(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"\xef\xbb\xbf") {
        return "a byte order mark at its start";
    }
    match (std::str::from_utf8(bytes), bytes.trim_ascii_start().first()) {
        (Ok(_), Some(b'[')) => "a list in JSON",
        (Ok(text), _) if text.trim().parse().is_ok_and(|Base64(bytes)| Bundle::parse(&bytes).is_ok()) => {
            "a bundle in base64"
        }
        (Ok(_), _) => "another text",
        (Err(_), _) => "neither text nor a map in CBOR",
    }
}

fn not_a_proof(path: &Path, why: impl fmt::Display) -> Failure {
    Failure::refused(format!("{} is no proof: {why}", path.display()))
        .hint("a proof is what `grey infer --prove FILE` writes: JSON with the member 'proof', or a bundle")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_says_what_it_is() {
        let of = |bytes: &[u8]| ProofFile::parse(bytes).map(|p| (p.bundle, p.view.map(|v| v.len())));
        assert_eq!(of(&[0xa3, 1]), Ok((vec![0xa3, 1], None)));
        assert_eq!(of(b"\n {\"proof\":\"owE=\",\"a\":1}"), Ok((vec![0xa3, 1], Some(2))));
        for (bytes, says) in [
            (&b" \n"[..], "it is empty"),
            (b"{\"a\":1}", "it has no member 'proof'"),
            (b"{\"proof\":7}", "it has no member 'proof'"),
            (b"{\"proof\":\"owE\"}", "member 'proof': expected base64"),
            (b"{\"proof\":\"owE=\",\"proof\":\"owE=\"}", "proof: expected each member once, found it twice"),
            (b"{\"a\":", "expected JSON"),
            (b"{}, \"seen\": [", "expected JSON"),
            (b" [{\"proof\":\"owE=\"}]", "found a list in JSON"),
            (b"\xef\xbb\xbf{\"proof\":\"owE=\"}", "found a byte order mark at its start"),
            (b"owE=\n", "found another text"),
            (b"\xff\xfe{\0", "found neither text nor a map in CBOR"),
        ] {
            let e = of(bytes).unwrap_err();
            assert!(e.contains(says), "{e} should say {says}");
        }
        let large = format!("{{\"proof\":\"{}", "A".repeat(JSON_BYTES_MAX));
        let e = of(large.as_bytes()).unwrap_err();
        assert_eq!(e, format!("expected JSON of at most {JSON_BYTES_MAX} bytes, found {}", large.len()));
    }

    #[test]
    fn a_view_does_not_reach_beyond_itself() {
        // The text is put into an object: it may not close it and go on.
        let e = ProofFile::parse(b"{\"proof\":\"owE=\"},\"seen\":[],\"view\":{}").map(|_| ()).unwrap_err();
        assert!(e.contains("expected"), "{e}");
        let e = ProofFile::parse(b"{\"proof\":\"owE=\"},\"seen\":[]").map(|_| ()).unwrap_err();
        assert!(e.contains("expected"), "{e}");
    }
}
