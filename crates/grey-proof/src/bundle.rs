use crate::FormatError;
use crate::cbor::{Key, MapWriter, Reader, Writer, required};
use crate::cose::Proof;
use crate::session::{Manifest, Platform, capped};
use crate::software::SoftwareEvidence;

/// Longest encoded bundle, in bytes (§ Encoding).
pub const BUNDLE_BYTES_MAX: usize = 4 * 1024 * 1024;

type Result<T> = std::result::Result<T, FormatError>;

/// Certificates and lists that make evidence verifiable offline (§4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collateral {
    /// For SEV-SNP: DER certificates (at least one) and revocation lists.
    Snp {
        /// DER certificates, in any order.
        certificates: Vec<Vec<u8>>,
        /// DER revocation lists; empty if none travel along.
        revocation_lists: Vec<Vec<u8>>,
    },
    /// For SGX and TDX: JSON in the field names of `dcap-qvl`.
    Dcap(Vec<u8>),
}

impl Collateral {
    fn read(r: &mut Reader<'_>, platform: Platform) -> Result<Collateral> {
        let (mut certificates, mut lists, mut dcap) = (None, None, None);
        let items = |r: &mut Reader<'_>| r.list(1, BUNDLE_BYTES_MAX, |r| Ok(r.bytes()?.to_vec()));
        r.map(|key, r| {
            match (platform, key) {
                (Platform::SevSnp, Key::Int(1)) => certificates = Some(items(r)?),
                (Platform::SevSnp, Key::Int(2)) => lists = Some(items(r)?),
                (Platform::Sgx | Platform::Tdx, Key::Int(3)) => dcap = Some(r.bytes()?.to_vec()),
                (_, other) => return other.unknown(),
            }
            Ok(())
        })?;
        match platform {
            Platform::SevSnp => Ok(Collateral::Snp {
                certificates: required(certificates, 1)?,
                revocation_lists: lists.unwrap_or_default(),
            }),
            Platform::Sgx | Platform::Tdx => Ok(Collateral::Dcap(required(dcap, 3)?)),
            Platform::Software => Err(FormatError::new("no collateral for SOFTWARE", "some")),
        }
    }

    fn write(&self, m: &mut MapWriter) {
        match self {
            Collateral::Snp { certificates, revocation_lists } => {
                m.int(1, |w| w.list(certificates.iter(), |w, c| w.bytes(c)));
                if !revocation_lists.is_empty() {
                    m.int(2, |w| w.list(revocation_lists.iter(), |w, c| w.bytes(c)));
                }
            }
            Collateral::Dcap(json) => m.int(3, |w| w.bytes(json)),
        }
    }
}

/// Member 3 of a bundle: the evidence over a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionEvidence {
    /// What the evidence is of; it decides which rules apply.
    pub platform: Platform,
    /// The raw bytes, which are what gets verified.
    pub evidence: Vec<u8>,
    /// SHA-256 of a client's nonce, or random.
    pub nonce32: [u8; 32],
}

/// A session with its evidence: what `GET /grey/v1/sessions/<digest>` gives, and all of a bundle but
/// the proof (§4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionBundle {
    /// The encoded manifest (member 2), whose hash names the session.
    pub manifest: Vec<u8>,
    /// Member 3.
    pub evidence: SessionEvidence,
    /// Member 4, of the platform's kind.
    pub collateral: Option<Collateral>,
    /// Member 5: RFC 3161 token.
    pub timestamp: Option<Vec<u8>>,
    /// Member 6.
    pub model_signature: Option<Vec<u8>>,
    /// Member 7.
    pub gpu_evidence: Option<Vec<u8>>,
    /// Member 8.
    pub event_log: Option<Vec<u8>>,
    /// Member 9: evidence over the executed batch.
    pub batch_evidence: Option<Vec<u8>>,
}

/// A proof with all that its verification needs: the content of a `.proof` file (§4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    /// The encoded proof (member 1).
    pub proof: Vec<u8>,
    /// The other members.
    pub session: SessionBundle,
}

impl SessionBundle {
    /// A session and its evidence, with nothing optional.
    pub fn new(manifest: Vec<u8>, evidence: SessionEvidence) -> SessionBundle {
        SessionBundle {
            manifest,
            evidence,
            collateral: None,
            timestamp: None,
            model_signature: None,
            gpu_evidence: None,
            event_log: None,
            batch_evidence: None,
        }
    }

    /// Reads a bundle without member 1, and what is encoded in it.
    ///
    /// # Errors
    /// Anything but the one encoding, a member 1, or a member that is not well formed itself.
    pub fn parse(bytes: &[u8]) -> Result<(SessionBundle, Manifest)> {
        let (proof, session, manifest) = read_bundle(bytes)?;
        match proof {
            None => Ok((session, manifest)),
            Some(_) => Err(FormatError::new("no proof in a session's bundle", "one").within(1).within("bundle")),
        }
    }

    /// The one encoding.
    ///
    /// # Errors
    /// Whatever [`SessionBundle::parse`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = Writer::encode(|w| w.map(|m| self.write(m)));
        SessionBundle::parse(&bytes)?;
        Ok(bytes)
    }

    fn write(&self, m: &mut MapWriter) {
        m.int(2, |w| w.bytes(&self.manifest));
        m.int(3, |w| {
            w.map(|m| {
                m.int(1, |w| w.text(self.evidence.platform.name()));
                m.int(2, |w| w.bytes(&self.evidence.evidence));
                m.int(3, |w| w.bytes(&self.evidence.nonce32));
            });
        });
        if let Some(c) = &self.collateral {
            m.int(4, |w| w.map(|m| c.write(m)));
        }
        let rest = [&self.timestamp, &self.model_signature, &self.gpu_evidence, &self.event_log, &self.batch_evidence];
        for (key, value) in (5..).zip(rest) {
            if let Some(value) = value {
                m.int(key, |w| w.bytes(value));
            }
        }
    }
}

impl Bundle {
    /// A proof with its session: what a client puts together from an answer and from what the node
    /// gives for the session.
    pub fn new(proof: Vec<u8>, session: SessionBundle) -> Bundle {
        Bundle { proof, session }
    }

    /// The same session with another proof.
    #[must_use]
    pub fn with_proof(self, proof: Vec<u8>) -> Bundle {
        Bundle { proof, ..self }
    }

    /// Reads a bundle and what is encoded in it.
    ///
    /// # Errors
    /// Anything but the one encoding, no member 1, or a member that is not well formed itself.
    pub fn parse(bytes: &[u8]) -> Result<(Bundle, Proof, Manifest)> {
        let (proof, session, manifest) = read_bundle(bytes)?;
        let proof_bytes = required(proof, 1).map_err(|e| e.within("bundle"))?;
        let proof = Proof::parse(proof_bytes)?;
        Ok((Bundle { proof: proof_bytes.to_vec(), session }, proof, manifest))
    }

    /// The one encoding.
    ///
    /// # Errors
    /// Whatever [`Bundle::parse`] would refuse.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = Writer::encode(|w| {
            w.map(|m| {
                m.int(1, |w| w.bytes(&self.proof));
                self.session.write(m);
            });
        });
        Bundle::parse(&bytes)?;
        Ok(bytes)
    }
}

fn read_bundle(bytes: &[u8]) -> Result<(Option<&[u8]>, SessionBundle, Manifest)> {
    capped("bundle", bytes, BUNDLE_BYTES_MAX)?;
    let (mut proof, mut manifest, mut evidence, mut collateral) = (None, None, None, None);
    let mut rest: [Option<Vec<u8>>; 5] = Default::default();
    let session = Reader::all(bytes, |r| {
        r.map(|key, r| {
            match key {
                Key::Int(1) => proof = Some(r.bytes()?),
                Key::Int(2) => manifest = Some(r.bytes()?.to_vec()),
                Key::Int(3) => evidence = Some(read_evidence(r)?),
                Key::Int(4) => {
                    // Keys ascend, so member 3 has been read if it is there.
                    let evidence: &SessionEvidence =
                        evidence.as_ref().ok_or_else(|| FormatError::new("member 3 before it", "none"))?;
                    collateral = Some(Collateral::read(r, evidence.platform)?);
                }
                Key::Int(n) => {
                    let index = n.checked_sub(5).and_then(|i| usize::try_from(i).ok());
                    let Some(member) = index.and_then(|i| rest.get_mut(i)) else { return key.unknown() };
                    *member = Some(r.bytes()?.to_vec());
                }
                Key::Text(_) => return key.unknown(),
            }
            Ok(())
        })?;
        let [timestamp, model_signature, gpu_evidence, event_log, batch_evidence] = rest;
        Ok(SessionBundle {
            manifest: required(manifest, 2)?,
            evidence: required(evidence, 3)?,
            collateral,
            timestamp,
            model_signature,
            gpu_evidence,
            event_log,
            batch_evidence,
        })
    })
    .map_err(|e| e.within("bundle"))?;
    let manifest = Manifest::parse(&session.manifest)?;
    Ok((proof, session, manifest))
}

fn read_evidence(r: &mut Reader<'_>) -> Result<SessionEvidence> {
    let (mut platform, mut evidence, mut nonce32) = (None, None, None);
    r.map(|key, r| {
        match key {
            Key::Int(1) => platform = Some(Platform::read(r)?),
            Key::Int(2) => evidence = Some(r.bytes()?.to_vec()),
            Key::Int(3) => nonce32 = Some(r.bytes_of()?),
            other => return other.unknown(),
        }
        Ok(())
    })?;
    let (platform, evidence): (Platform, Vec<u8>) = (required(platform, 1)?, required(evidence, 2)?);
    let least = platform.evidence_bytes_min();
    if evidence.len() < least {
        let expected = format!("at least {least} bytes for {}", platform.name());
        return Err(FormatError::new(expected, format!("{}", evidence.len())).within(2));
    }
    if platform == Platform::Software {
        SoftwareEvidence::parse(&evidence).map_err(|e| e.within(2))?;
    }
    Ok(SessionEvidence { platform, evidence, nonce32: required(nonce32, 3)? })
}
