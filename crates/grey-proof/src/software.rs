use crate::FormatError;
use crate::cbor::{Reader, Writer};
use crate::signature::{SigningKey, sign, verify_strict};

const WORD: &str = "grey.software.v1";

/// Evidence of a node without a TEE: the key kept in its data folder vouches for the session (§2).
/// A verifier can expect the key, and nobody without it can renew or swap a session; it says nothing
/// of the hardware.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SoftwareEvidence {
    /// What is vouched for: the [`binding`](crate::binding), or the
    /// [`batch_report`](crate::batch_report) of strict mode.
    pub binding: [u8; 64],
    /// Ed25519 public key of the node.
    pub node_key: [u8; 32],
    /// By the node key over [`SoftwareEvidence::binding`] and its domain.
    pub signature: [u8; 64],
}

impl SoftwareEvidence {
    /// Signs `binding` with the node's key.
    pub fn sign(binding: [u8; 64], node_key: &SigningKey) -> SoftwareEvidence {
        let signature = sign(node_key, &message(&binding));
        SoftwareEvidence { binding, node_key: node_key.verifying_key().to_bytes(), signature }
    }

    /// Whether the signature is the node key's, by the rules of check 10.
    pub fn verify(&self) -> bool {
        verify_strict(&self.node_key, &message(&self.binding), &self.signature)
    }

    /// Reads encoded evidence.
    ///
    /// # Errors
    /// Anything but the one encoding; the place is below `software-evidence`.
    pub fn parse(bytes: &[u8]) -> Result<SoftwareEvidence, FormatError> {
        Reader::all(bytes, |r| {
            r.array(4, |r| {
                r.word(WORD)?;
                Ok(SoftwareEvidence { binding: r.bytes_of()?, node_key: r.bytes_of()?, signature: r.bytes_of()? })
            })
        })
        .map_err(|e| e.within("software-evidence"))
    }

    /// The one encoding.
    pub fn encode(&self) -> Vec<u8> {
        Writer::encode(|w| {
            w.array(4);
            w.text(WORD);
            w.bytes(&self.binding);
            w.bytes(&self.node_key);
            w.bytes(&self.signature);
        })
    }
}

fn message(binding: &[u8; 64]) -> Vec<u8> {
    [WORD.as_bytes(), &[0], binding].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_key_signed_verifies() {
        let key = SigningKey::from_bytes(&[5; 32]);
        let evidence = SoftwareEvidence::sign([1; 64], &key);
        assert!(evidence.verify());
        let bytes = evidence.encode();
        assert_eq!(SoftwareEvidence::parse(&bytes), Ok(evidence));
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            assert!(!SoftwareEvidence::parse(&changed).is_ok_and(|e| e.verify()), "byte {i}");
        }
    }
}
