use grey_proof::{Collateral, Measurement, Platform, SoftwareEvidence};

use crate::{AttestError, NodeKey};

/// What vouches for a session: it turns the 64 bytes of a binding into evidence that anyone can check.
///
/// Calls may take as long as the hardware does and come from several threads.
pub trait Attester: Send + Sync {
    /// What it attests; that of its measurement.
    fn platform(&self) -> Platform {
        self.measurement().platform()
    }

    /// What runs here, as the platform measures it. It does not change while the node runs.
    fn measurement(&self) -> &Measurement;

    /// SHA-256 of the file that holds Grey's code: manifest member 9.
    fn code_sha256(&self) -> [u8; 32];

    /// Evidence whose report data is `binding`.
    ///
    /// # Errors
    /// [`AttestError::Evidence`], saying what the platform did not do.
    fn evidence(&self, binding: [u8; 64]) -> Result<Vec<u8>, AttestError>;

    /// Certificates and lists that go with evidence made now; none by default.
    ///
    /// # Errors
    /// [`AttestError::Evidence`], where there should be some and there are none.
    fn collateral(&self) -> Result<Option<Collateral>, AttestError> {
        Ok(None)
    }

    /// Whether this very attester has made `evidence` over `binding`, so that a session found on the
    /// disk is known to be its own and may get new evidence.
    ///
    /// The default is that it cannot tell, which is the safe answer: whoever can write to the disk
    /// could otherwise have a session of his own keys attested. Hardware's keys are not on the disk,
    /// so hardware that does not seal what it stores must leave it at that.
    fn recognises(&self, binding: &[u8; 64], evidence: &[u8]) -> bool {
        let _ = (binding, evidence);
        false
    }
}

/// Vouches with the node's key, for nodes without a TEE; the measurement is the hash of the code.
#[derive(Debug)]
pub struct SoftwareAttester {
    node_key: NodeKey,
    code_sha256: [u8; 32],
    measurement: Measurement,
}

impl SoftwareAttester {
    /// With the node's key and [`code_sha256`](crate::code_sha256).
    pub fn new(node_key: NodeKey, code_sha256: [u8; 32]) -> SoftwareAttester {
        SoftwareAttester { node_key, code_sha256, measurement: Measurement::software(code_sha256) }
    }

    /// The node's public key.
    pub fn node_key(&self) -> [u8; 32] {
        self.node_key.public()
    }
}

impl Attester for SoftwareAttester {
    fn measurement(&self) -> &Measurement {
        &self.measurement
    }

    fn code_sha256(&self) -> [u8; 32] {
        self.code_sha256
    }

    fn evidence(&self, binding: [u8; 64]) -> Result<Vec<u8>, AttestError> {
        Ok(SoftwareEvidence::sign(binding, self.node_key.signing_key()).encode())
    }

    /// Those who can write to the disk of such a node can read its key as well, so nothing is lost
    /// by believing a session that the key has signed.
    fn recognises(&self, binding: &[u8; 64], evidence: &[u8]) -> bool {
        SoftwareEvidence::parse(evidence)
            .is_ok_and(|e| e.node_key == self.node_key.public() && e.binding == *binding && e.verify())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    /// What every attester must do. `report_data` gives what evidence is over, if it verifies.
    fn conforms(attester: &dyn Attester, report_data: &(dyn Fn(&[u8]) -> Option<[u8; 64]> + Sync)) {
        let platform = attester.platform();
        assert_eq!(attester.measurement().platform(), platform);
        assert_eq!(attester.measurement().bytes().len(), platform.measurement_bytes());
        assert_eq!(attester.measurement(), attester.measurement(), "it does not change");
        assert_eq!(attester.code_sha256(), attester.code_sha256());
        if platform == Platform::Software {
            assert_eq!(attester.measurement().bytes(), attester.code_sha256());
        }
        let bindings: Vec<[u8; 64]> = vec![[0; 64], [0xff; 64], std::array::from_fn(|i| i as u8)];
        for binding in &bindings {
            let evidence = attester.evidence(*binding).unwrap();
            assert_eq!(report_data(&evidence), Some(*binding));
            for other in bindings.iter().filter(|b| *b != binding) {
                assert_ne!(attester.evidence(*other).unwrap(), evidence);
                assert!(!attester.recognises(other, &evidence), "over another binding");
            }
            let mut cut = evidence.clone();
            cut.pop();
            assert!(report_data(&cut).is_none_or(|_| platform != Platform::Software), "cut evidence");
            // Collateral and evidence fit the platform where a reader of bundles looks.
            let session = grey_proof::SessionEvidence { platform, evidence, nonce32: [1; 32] };
            let manifest = grey_proof::Manifest {
                id: [2; 16],
                signing_key: [3; 32],
                sealing_keys: Vec::new(),
                measurement: attester.measurement().clone(),
                not_before: 1,
                not_after: 2,
                code_sha256: attester.code_sha256(),
            };
            let mut bundle = grey_proof::SessionBundle::new(manifest.encode().unwrap(), session);
            bundle.collateral = attester.collateral().unwrap();
            bundle.encode().unwrap();
        }
        for nothing in [&b""[..], &[0; 4096]] {
            assert!(!attester.recognises(&bindings[0], nothing));
        }
        std::thread::scope(|s| {
            let threads: Vec<_> = (0..4u8)
                .map(|i| s.spawn(move || assert_eq!(report_data(&attester.evidence([i; 64]).unwrap()), Some([i; 64]))))
                .collect();
            threads.into_iter().for_each(|t| t.join().unwrap());
        });
    }

    fn software_report_data(evidence: &[u8]) -> Option<[u8; 64]> {
        SoftwareEvidence::parse(evidence).ok().filter(SoftwareEvidence::verify).map(|e| e.binding)
    }

    #[test]
    fn the_software_attester_conforms() {
        let dir = tempfile::tempdir().unwrap();
        let attester = SoftwareAttester::new(NodeKey::open(dir.path(), &OsRandom).unwrap(), [9; 32]);
        conforms(&attester, &software_report_data);
    }

    #[test]
    fn it_recognises_only_its_own() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let open = |d: &tempfile::TempDir| SoftwareAttester::new(NodeKey::open(d.path(), &OsRandom).unwrap(), [9; 32]);
        let (ours, theirs) = (open(&dir), open(&other));
        let evidence = ours.evidence([1; 64]).unwrap();
        assert!(ours.recognises(&[1; 64], &evidence));
        assert!(!theirs.recognises(&[1; 64], &evidence));
        let parsed = SoftwareEvidence::parse(&evidence).unwrap();
        assert_eq!(parsed.node_key, ours.node_key());
        let mut forged = parsed;
        forged.signature[0] ^= 1;
        assert!(!ours.recognises(&[1; 64], &forged.encode()));
    }
}
