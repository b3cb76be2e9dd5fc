//! Files with proofs: the JSON view, or the bundle itself.

use std::{fmt, path::Path};

use grey_proof::{Bundle, Known, Manifest, Proof};
use serde_json::{Map, Value, value::RawValue};

use crate::{encoding::Base64, failure::Failure, files};

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
            // No bundle begins so: it is a map in CBOR.
            Some(b'{') => {
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
            Some(_) => Ok(ProofFile { bundle: bytes.to_vec(), view: None }),
        }
    }

    /// Reads the bundle, where that alone is to be used.
    pub(crate) fn open(&self, path: &Path) -> Result<(Bundle, Proof, Manifest), Failure> {
        Bundle::parse(&self.bundle).map_err(|e| not_a_proof(path, e))
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
        ] {
            let e = of(bytes).unwrap_err();
            assert!(e.contains(says), "{e} should say {says}");
        }
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
