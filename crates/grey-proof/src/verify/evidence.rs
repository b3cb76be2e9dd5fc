use super::finding::{Finding, holds};
use crate::error::hex;
use crate::policy::Allowed;
use crate::{Manifest, Platform, Policy, SoftwareEvidence};

/// What one platform makes of a piece of evidence. Another platform's verifier is another
/// implementation, chosen in [`read`].
pub(super) trait Evidence {
    /// What it is evidence of.
    fn platform(&self) -> Platform;
    /// Check 2.
    fn signature(&self) -> Finding;
    /// Check 3.
    fn certificate(&self) -> Finding;
    /// Check 4.
    fn attributes(&self) -> Finding;
    /// Check 5.
    fn tcb(&self) -> Finding;
    /// Check 6, but for the third party's time.
    fn time(&self) -> Finding;
    /// What check 7 asks of this platform, other than to be among those allowed.
    fn identity(&self, policy: &Policy) -> Finding;
    /// The 64 bytes that bind it, if they can be believed (checks 8 and 20).
    fn report_data(&self) -> Result<[u8; 64], Finding>;
    /// What runs there (check 9).
    fn measurement(&self) -> Result<Vec<u8>, Finding>;
    /// Who made it: the same for the session and for its batches (check 20).
    fn attester(&self) -> Result<Vec<u8>, Finding>;
}

/// Reads raw evidence of `platform` over the session of `manifest`.
pub(super) fn read(platform: Platform, evidence: &[u8], manifest: &Manifest) -> Box<dyn Evidence> {
    if platform != Platform::Software {
        return Box::new(Unread { platform, why: "this version verifies SOFTWARE evidence only".to_owned() });
    }
    match SoftwareEvidence::parse(evidence) {
        Ok(evidence) => Box::new(Software { evidence, code_sha256: manifest.code_sha256 }),
        Err(e) => Box::new(Unread { platform, why: e.to_string() }),
    }
}

/// SOFTWARE evidence: a signature by the node's own key (§2). Of hardware it says nothing, so checks
/// 2 to 6 do not apply.
struct Software {
    evidence: SoftwareEvidence,
    code_sha256: [u8; 32],
}

impl Evidence for Software {
    fn platform(&self) -> Platform {
        Platform::Software
    }

    fn signature(&self) -> Finding {
        Finding::not_applicable("SOFTWARE")
    }

    fn certificate(&self) -> Finding {
        Finding::not_applicable("SOFTWARE")
    }

    fn attributes(&self) -> Finding {
        Finding::not_applicable("SOFTWARE")
    }

    fn tcb(&self) -> Finding {
        Finding::not_applicable("SOFTWARE")
    }

    fn time(&self) -> Finding {
        Finding::not_applicable("SOFTWARE")
    }

    fn identity(&self, policy: &Policy) -> Finding {
        let software = || "SOFTWARE".to_owned();
        let asked: [(bool, &str); 7] = [
            (policy.expected_mrenclave.is_some(), "SGX: expected_mrenclave"),
            (policy.expected_mrsigner.is_some(), "SGX: expected_mrsigner"),
            (policy.expected_product.is_some(), "SGX: expected_product"),
            (policy.min_security_version.is_some(), "SGX: min_security_version"),
            (policy.expected_rtmrs.is_some(), "TDX: expected_rtmrs"),
            (policy.expected_host_data.is_some(), "SEV-SNP: expected_host_data"),
            (policy.expected_id_key.is_some(), "SEV-SNP: expected_id_key"),
        ];
        let of_hardware = asked.into_iter().map(|(given, expected)| holds(!given, expected, software));
        let node_key = &self.evidence.node_key;
        let key_allowed = match &policy.software_keys {
            None => holds(false, "hardware: no software_keys", software),
            Some(keys) => holds(keys.contains(node_key), "a node key among software_keys", || hex(node_key)),
        };
        let measured = policy.expected_measurement.map_or(Ok(()), |expected| {
            holds(expected.bytes() == self.code_sha256, hex(expected.bytes()), || hex(&self.code_sha256))
        });
        let found = || match &policy.software_keys {
            Some(Allowed::Any) => format!("SOFTWARE, any node key: {}", hex(node_key)),
            _ => format!("SOFTWARE, node key {}", hex(node_key)),
        };
        match of_hardware.chain([key_allowed, measured]).find_map(Result::err) {
            Some(failed) => failed,
            None => Finding::pass("what the policy expects", found()),
        }
    }

    fn report_data(&self) -> Result<[u8; 64], Finding> {
        let expected = "evidence signed by its node key";
        holds(self.evidence.verify(), expected, || "a signature that does not verify".to_owned())?;
        Ok(self.evidence.binding)
    }

    fn measurement(&self) -> Result<Vec<u8>, Finding> {
        Ok(self.code_sha256.to_vec())
    }

    fn attester(&self) -> Result<Vec<u8>, Finding> {
        Ok(self.evidence.node_key.to_vec())
    }
}

/// Evidence that nothing here can verify. Whatever rests on it fails.
struct Unread {
    platform: Platform,
    why: String,
}

impl Unread {
    fn fail(&self, expected: &str) -> Finding {
        Finding::fail(expected, format!("{} evidence: {}", self.platform.name(), self.why))
    }
}

impl Evidence for Unread {
    fn platform(&self) -> Platform {
        self.platform
    }

    fn signature(&self) -> Finding {
        self.fail("evidence that verifies")
    }

    fn certificate(&self) -> Finding {
        match self.platform {
            Platform::SevSnp => self.fail("a certificate that matches the report"),
            other => Finding::not_applicable(other.name()),
        }
    }

    fn attributes(&self) -> Finding {
        self.fail("no debugging, no migration")
    }

    fn tcb(&self) -> Finding {
        self.fail("a TCB that the policy allows")
    }

    fn time(&self) -> Finding {
        self.fail("evidence that is valid at the time")
    }

    fn identity(&self, _policy: &Policy) -> Finding {
        self.fail("what the policy expects")
    }

    fn report_data(&self) -> Result<[u8; 64], Finding> {
        Err(self.fail("report data that can be believed"))
    }

    fn measurement(&self) -> Result<Vec<u8>, Finding> {
        Err(self.fail("a measurement that can be believed"))
    }

    fn attester(&self) -> Result<Vec<u8>, Finding> {
        Err(self.fail("evidence of the same platform"))
    }
}
