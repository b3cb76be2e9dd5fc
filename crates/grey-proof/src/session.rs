use sha2::{Digest, Sha256, Sha512};

use crate::FormatError;
use crate::cbor::{Key, Reader, Writer, required};
use crate::error::shown;

/// Longest encoded manifest, in bytes (§ Encoding).
pub const MANIFEST_BYTES_MAX: usize = 8 * 1024;

type Result<T> = std::result::Result<T, FormatError>;

pub(crate) fn capped(what: &str, bytes: &[u8], most: usize) -> Result<()> {
    if bytes.len() <= most {
        return Ok(());
    }
    Err(FormatError::new(format!("at most {most} bytes"), format!("{} bytes", bytes.len())).within(what))
}

/// What the node runs in (§2). `Software` is for development and proves no hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Platform {
    /// Intel SGX: an enclave.
    Sgx,
    /// Intel TDX: a virtual machine.
    Tdx,
    /// AMD SEV-SNP: a virtual machine.
    SevSnp,
    /// No TEE; the node's own key stands for the evidence.
    Software,
}

impl Platform {
    /// Every platform.
    pub const ALL: [Platform; 4] = [Platform::Sgx, Platform::Tdx, Platform::SevSnp, Platform::Software];

    /// The name in claims, manifests and bundles.
    pub const fn name(self) -> &'static str {
        match self {
            Platform::Sgx => "SGX",
            Platform::Tdx => "TDX",
            Platform::SevSnp => "SEV-SNP",
            Platform::Software => "SOFTWARE",
        }
    }

    /// The platform of a name.
    pub fn from_name(name: &str) -> Option<Platform> {
        Platform::ALL.into_iter().find(|p| p.name() == name)
    }

    /// Bytes of a measurement: MRENCLAVE 32, MRTD 48, SNP measurement 48, SHA-256 32.
    pub const fn measurement_bytes(self) -> usize {
        match self {
            Platform::Sgx | Platform::Software => 32,
            Platform::Tdx | Platform::SevSnp => 48,
        }
    }

    /// Least bytes of evidence: the SNP report, or the quote's header (48) and report body (384 for
    /// SGX, 584 for TDX). `SOFTWARE` evidence is parsed in full instead.
    pub(crate) const fn evidence_bytes_min(self) -> usize {
        match self {
            Platform::Sgx => 432,
            Platform::Tdx => 632,
            Platform::SevSnp => 1184,
            Platform::Software => 0,
        }
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Platform> {
        let name = r.text()?;
        Platform::from_name(name).ok_or_else(|| FormatError::new("SGX, TDX, SEV-SNP or SOFTWARE", shown(name)))
    }
}

/// What runs there, as the platform measures it; its length is the platform's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Measurement {
    platform: Platform,
    bytes: Vec<u8>,
}

impl Measurement {
    /// # Errors
    /// Another length than [`Platform::measurement_bytes`].
    pub fn new(platform: Platform, bytes: impl Into<Vec<u8>>) -> Result<Measurement> {
        let (bytes, expected) = (bytes.into(), platform.measurement_bytes());
        if bytes.len() != expected {
            let expected = format!("a measurement of {expected} bytes for {}", platform.name());
            return Err(FormatError::new(expected, format!("{} bytes", bytes.len())));
        }
        Ok(Measurement { platform, bytes })
    }

    /// Of a `SOFTWARE` node: the hash of the file that holds Grey's code.
    pub fn software(code_sha256: [u8; 32]) -> Measurement {
        Measurement { platform: Platform::Software, bytes: code_sha256.to_vec() }
    }

    /// The platform.
    pub fn platform(&self) -> Platform {
        self.platform
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Key to which requests can be sealed (§7): DHKEM(X25519, HKDF-SHA256), HKDF-SHA256,
/// ChaCha20-Poly1305.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealingKey {
    /// Number by which sealed requests name it; unique in a manifest.
    pub kid: u64,
    /// X25519 public key.
    pub public_key: [u8; 32],
}

/// A session: keys born in the node, bound by one piece of evidence (§2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Random.
    pub id: [u8; 16],
    /// Ed25519 public key that signs proofs.
    pub signing_key: [u8; 32],
    /// Keys for sealed requests; may be none.
    pub sealing_keys: Vec<SealingKey>,
    /// What runs, and on what.
    pub measurement: Measurement,
    /// Start, Unix seconds of the host's clock.
    pub not_before: u64,
    /// End, Unix seconds; at most 86,400 after the start (check `session`).
    pub not_after: u64,
    /// SHA-256 of the file that holds Grey's code.
    pub code_sha256: [u8; 32],
}

const SESSION_WORD: &str = "grey.session.v1";

impl Manifest {
    /// Reads an encoded manifest.
    ///
    /// # Errors
    /// Anything but the one encoding of a manifest; the place is below `manifest`.
    pub fn parse(bytes: &[u8]) -> Result<Manifest> {
        capped("manifest", bytes, MANIFEST_BYTES_MAX)?;
        Reader::all(bytes, Self::read).map_err(|e| e.within("manifest"))
    }

    fn read(r: &mut Reader<'_>) -> Result<Manifest> {
        let (mut word, mut id, mut signing_key, mut sealing_keys) = (None, None, None, None);
        let (mut platform, mut measurement, mut not_before, mut not_after, mut code) = (None, None, None, None, None);
        r.map(|key, r| {
            match key {
                Key::Int(1) => word = Some(r.word(SESSION_WORD)?),
                Key::Int(2) => id = Some(r.bytes_of()?),
                Key::Int(3) => signing_key = Some(read_cose_key(r)?),
                Key::Int(4) => sealing_keys = Some(r.list(0, MANIFEST_BYTES_MAX, read_sealing_key)?),
                Key::Int(5) => platform = Some(Platform::read(r)?),
                Key::Int(6) => measurement = Some(r.bytes()?),
                Key::Int(7) => not_before = Some(r.uint()?),
                Key::Int(8) => not_after = Some(r.uint()?),
                Key::Int(9) => code = Some(r.bytes_of()?),
                other => return other.unknown(),
            }
            Ok(())
        })?;
        required(word, 1)?;
        let sealing_keys: Vec<SealingKey> = required(sealing_keys, 4)?;
        let mut kids: Vec<u64> = sealing_keys.iter().map(|k| k.kid).collect();
        kids.sort_unstable();
        if let Some((kid, _)) = kids.iter().zip(kids.iter().skip(1)).find(|(a, b)| a == b) {
            return Err(FormatError::new("unique kids", format!("{kid} twice")).within(4));
        }
        Ok(Manifest {
            id: required(id, 2)?,
            signing_key: required(signing_key, 3)?,
            sealing_keys,
            measurement: Measurement::new(required(platform, 5)?, required(measurement, 6)?)
                .map_err(|e| e.within(6))?,
            not_before: required(not_before, 7)?,
            not_after: required(not_after, 8)?,
            code_sha256: required(code, 9)?,
        })
    }

    /// The one encoding.
    ///
    /// # Errors
    /// A manifest that no reader would take: a kid twice, a number above 2^63−1, too many keys.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let bytes = Writer::encode(|w| {
            w.map(|m| {
                m.int(1, |w| w.text(SESSION_WORD));
                m.int(2, |w| w.bytes(&self.id));
                m.int(3, |w| {
                    w.map(|m| {
                        m.int(1, |w| w.int(1));
                        m.int(-1, |w| w.int(6));
                        m.int(-2, |w| w.bytes(&self.signing_key));
                    });
                });
                m.int(4, |w| {
                    w.list(self.sealing_keys.iter(), |w, k| {
                        w.map(|m| {
                            m.int(1, |w| w.uint(k.kid));
                            m.int(2, |w| w.int(32));
                            m.int(3, |w| w.int(1));
                            m.int(4, |w| w.int(3));
                            m.int(5, |w| w.bytes(&k.public_key));
                        });
                    });
                });
                m.int(5, |w| w.text(self.measurement.platform.name()));
                m.int(6, |w| w.bytes(&self.measurement.bytes));
                m.int(7, |w| w.uint(self.not_before));
                m.int(8, |w| w.uint(self.not_after));
                m.int(9, |w| w.bytes(&self.code_sha256));
            });
        });
        Manifest::parse(&bytes)?;
        Ok(bytes)
    }
}

fn read_cose_key(r: &mut Reader<'_>) -> Result<[u8; 32]> {
    let (mut kty, mut curve, mut x) = (None, None, None);
    r.map(|key, r| {
        match key {
            Key::Int(1) => kty = Some(r.exactly(1)?),
            Key::Int(-1) => curve = Some(r.exactly(6)?),
            Key::Int(-2) => x = Some(r.bytes_of()?),
            other => return other.unknown(),
        }
        Ok(())
    })?;
    required(kty, 1)?;
    required(curve, -1)?;
    required(x, -2)
}

fn read_sealing_key(r: &mut Reader<'_>) -> Result<SealingKey> {
    let (mut kid, mut kem, mut kdf, mut aead, mut public_key) = (None, None, None, None, None);
    r.map(|key, r| {
        match key {
            Key::Int(1) => kid = Some(r.uint()?),
            Key::Int(2) => kem = Some(r.exactly(32)?),
            Key::Int(3) => kdf = Some(r.exactly(1)?),
            Key::Int(4) => aead = Some(r.exactly(3)?),
            Key::Int(5) => public_key = Some(r.bytes_of()?),
            other => return other.unknown(),
        }
        Ok(())
    })?;
    required(kem, 2)?;
    required(kdf, 3)?;
    required(aead, 4)?;
    Ok(SealingKey { kid: required(kid, 1)?, public_key: required(public_key, 5)? })
}

/// Name of a session: SHA-256 of its encoded manifest (§2).
pub fn session_digest(manifest: &[u8]) -> [u8; 32] {
    Sha256::digest(manifest).into()
}

/// The 32 bytes by which a client's nonce (8 to 64 bytes) enters the binding (§2).
pub fn nonce32(client_nonce: &[u8]) -> [u8; 32] {
    Sha256::digest(client_nonce).into()
}

/// Report data that binds evidence to a session and a nonce (§2).
pub fn binding(session_digest: &[u8; 32], nonce32: &[u8; 32]) -> [u8; 64] {
    let hash = Sha512::new().chain_update(b"grey.binding.v1\0").chain_update(session_digest).chain_update(nonce32);
    hash.finalize().into()
}

/// Report data of the evidence over one executed batch (§4, strict mode); `root` is the payload that
/// the batch's signature covers.
pub fn batch_report(root: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(b"grey.batch-report.v1\0").chain_update(root).finalize().into()
}
