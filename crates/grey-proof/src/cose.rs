use crate::cbor::{Key, Kind, Reader, Writer, required};
use crate::merkle::{PATH_HASHES_MAX, leaf_hash, verify_inclusion};
use crate::session::capped;
use crate::signature::{SigningKey, sign, verify_strict};
use crate::{Claims, FormatError, Leaf, Tree};

/// Longest encoded proof, in bytes (§ Encoding).
pub const PROOF_BYTES_MAX: usize = 16 * 1024;
const ROOT_WORD: &str = "grey.batch.v1";
/// Ed25519 in COSE (RFC 9864).
const ALG_ED25519: i64 = -19;
/// `application/cwt`, the content type of claims (RFC 8392 §9).
const CONTENT_CWT: i64 = 61;

type Result<T> = std::result::Result<T, FormatError>;

/// What is signed; it decides the external AAD and the protected header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signed {
    Claims,
    Root,
}

impl Signed {
    const fn aad(self) -> &'static [u8] {
        match self {
            Signed::Claims => b"grey.inference.v1",
            Signed::Root => b"grey.batch.v1",
        }
    }

    fn protected(self, kid: &[u8; 8]) -> Vec<u8> {
        Writer::encode(|w| {
            w.map(|m| {
                m.int(1, |w| w.int(ALG_ED25519));
                if self == Signed::Claims {
                    m.int(3, |w| w.int(CONTENT_CWT));
                }
                m.int(4, |w| w.bytes(kid));
            });
        })
    }

    fn read_kid(self, protected: &[u8]) -> Result<[u8; 8]> {
        let (mut alg, mut content, mut kid) = (None, None, None);
        Reader::all(protected, |r| {
            r.map(|key, r| {
                match (self, key) {
                    (_, Key::Int(1)) => alg = Some(r.exactly(ALG_ED25519)?),
                    (Signed::Claims, Key::Int(3)) => content = Some(r.exactly(CONTENT_CWT)?),
                    (_, Key::Int(4)) => kid = Some(r.bytes_of()?),
                    (_, other) => return other.unknown(),
                }
                Ok(())
            })?;
            required(alg, 1)?;
            if self == Signed::Claims {
                required(content, 3)?;
            }
            required(kid, 4)
        })
        .map_err(|e| e.within("protected"))
    }
}

/// COSE_Sign1 (RFC 9052 §4.2), with the bytes as received.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sign1 {
    protected: Vec<u8>,
    kid: [u8; 8],
    payload: Vec<u8>,
    signature: [u8; 64],
}

impl Sign1 {
    fn read(r: &mut Reader<'_>, signed: Signed) -> Result<Sign1> {
        r.sign1(|r| {
            r.array(4, |r| {
                let protected = r.bytes()?.to_vec();
                let kid = signed.read_kid(&protected)?;
                r.map(|key, _| key.unknown()).map_err(|e| e.within("unprotected"))?;
                let payload = r.bytes()?.to_vec();
                let signature = r.bytes_of().map_err(|e| e.within("signature"))?;
                Ok(Sign1 { protected, kid, payload, signature })
            })
        })
    }

    fn write(&self, w: &mut Writer) {
        w.sign1();
        w.array(4);
        w.bytes(&self.protected);
        w.map(|_| {});
        w.bytes(&self.payload);
        w.bytes(&self.signature);
    }

    fn sign(payload: Vec<u8>, session_digest: &[u8; 32], signed: Signed, key: &SigningKey) -> Sign1 {
        let mut kid = [0; 8];
        kid.iter_mut().zip(session_digest).for_each(|(k, d)| *k = *d);
        let protected = signed.protected(&kid);
        let signature = sign(key, &to_be_signed(&protected, signed.aad(), &payload));
        Sign1 { protected, kid, payload, signature }
    }

    fn verify(&self, signed: Signed, public_key: &[u8; 32]) -> bool {
        verify_strict(public_key, &to_be_signed(&self.protected, signed.aad(), &self.payload), &self.signature)
    }
}

/// The encoded Sig_structure (RFC 9052 §4.4).
fn to_be_signed(protected: &[u8], external_aad: &[u8], payload: &[u8]) -> Vec<u8> {
    Writer::encode(|w| {
        w.array(4);
        w.text("Signature1");
        w.bytes(protected);
        w.bytes(external_aad);
        w.bytes(payload);
    })
}

/// What the signature of an executed batch covers (§3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRoot {
    /// Root of the Merkle tree.
    pub root: [u8; 32],
    /// Its leaves, fillers included: a power of two.
    pub size: u64,
    /// Names the session.
    pub session_digest: [u8; 32],
}

impl BatchRoot {
    fn parse(bytes: &[u8]) -> Result<BatchRoot> {
        Reader::all(bytes, |r| {
            let (mut word, mut root, mut size, mut session) = (None, None, None, None);
            r.map(|key, r| {
                match key {
                    Key::Int(1) => word = Some(r.word(ROOT_WORD)?),
                    Key::Int(2) => root = Some(r.bytes_of()?),
                    Key::Int(3) => size = Some(r.uint()?),
                    Key::Int(4) => session = Some(r.bytes_of()?),
                    other => return other.unknown(),
                }
                Ok(())
            })?;
            required(word, 1)?;
            let size: u64 = required(size, 3)?;
            if !size.is_power_of_two() {
                return Err(FormatError::new("a power of two", format!("{size}")).within(3));
            }
            Ok(BatchRoot { root: required(root, 2)?, size, session_digest: required(session, 4)? })
        })
        .map_err(|e| e.within("root"))
    }

    fn encode(&self) -> Vec<u8> {
        Writer::encode(|w| {
            w.map(|m| {
                m.int(1, |w| w.text(ROOT_WORD));
                m.int(2, |w| w.bytes(&self.root));
                m.int(3, |w| w.uint(self.size));
                m.int(4, |w| w.bytes(&self.session_digest));
            });
        })
    }
}

/// Signs claims alone: the single form. `key` is the session's, whose digest the claims state.
///
/// # Errors
/// Whatever [`Claims::parse`] would refuse.
pub fn sign_single(claims: &Claims, key: &SigningKey) -> Result<Vec<u8>> {
    let sign1 = Sign1::sign(claims.encode()?, &claims.session_digest, Signed::Claims, key);
    let bytes = Writer::encode(|w| sign1.write(w));
    capped("proof", &bytes, PROOF_BYTES_MAX)?;
    Ok(bytes)
}

/// One signature over an executed batch, from which the proof of each request is cut.
#[derive(Clone, Debug)]
pub struct SignedBatchRoot {
    tree: Tree,
    sign1: Sign1,
}

impl SignedBatchRoot {
    /// Signs the root of `tree` for a session.
    pub fn sign(tree: Tree, session_digest: [u8; 32], key: &SigningKey) -> SignedBatchRoot {
        let root = BatchRoot { root: tree.root(), size: tree.size(), session_digest };
        let sign1 = Sign1::sign(root.encode(), &session_digest, Signed::Root, key);
        SignedBatchRoot { tree, sign1 }
    }

    /// The signed payload, for [`batch_report`](crate::batch_report).
    pub fn payload(&self) -> &[u8] {
        &self.sign1.payload
    }

    /// The batch form for this leaf, which stands at `leaf_index`.
    ///
    /// # Errors
    /// No such leaf, or another one.
    pub fn proof(&self, leaf: &Leaf, leaf_index: u64) -> Result<Vec<u8>> {
        let path = self.tree.path(leaf_index).ok_or_else(|| {
            FormatError::new(format!("a leaf below {}", self.tree.size()), format!("{leaf_index}")).within("leaf_index")
        })?;
        if self.tree.leaf(leaf_index) != Some(leaf.hash()) {
            return Err(FormatError::new("the claims of the leaf", "others").within("claims"));
        }
        let bytes = Writer::encode(|w| {
            w.array(4);
            w.bytes(leaf.claims());
            w.uint(leaf_index);
            w.list(path.iter(), |w, p| w.bytes(p));
            self.sign1.write(w);
        });
        capped("proof", &bytes, PROOF_BYTES_MAX)?;
        Ok(bytes)
    }
}

/// A proof that was read (§3): well formed, its signature not yet checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    claims: Claims,
    sign1: Sign1,
    batch: Option<Inclusion>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inclusion {
    leaf: [u8; 32],
    leaf_index: u64,
    path: Vec<[u8; 32]>,
    root: BatchRoot,
}

impl Proof {
    /// Reads a proof of either form.
    ///
    /// # Errors
    /// Anything but the one encoding; the place is below `proof` or `claims`.
    pub fn parse(bytes: &[u8]) -> Result<Proof> {
        capped("proof", bytes, PROOF_BYTES_MAX)?;
        let (sign1, batch) = Reader::all(bytes, |r| match r.peek()? {
            Kind::Sign1 => Ok((Sign1::read(r, Signed::Claims)?, None)),
            _ => r.array(4, |r| {
                let claims = r.bytes()?;
                let leaf_index = r.uint()?;
                let path = r.list(0, PATH_HASHES_MAX, |r| r.bytes_of()).map_err(|e| e.within("path"))?;
                Ok((Sign1::read(r, Signed::Root)?, Some((claims, leaf_index, path))))
            }),
        })
        .map_err(|e| e.within("proof"))?;
        match batch {
            None => Ok(Proof { claims: Claims::parse(&sign1.payload)?, sign1, batch: None }),
            Some((claims, leaf_index, path)) => {
                let root = BatchRoot::parse(&sign1.payload)?;
                let batch = Some(Inclusion { leaf: leaf_hash(claims), leaf_index, path, root });
                Ok(Proof { claims: Claims::parse(claims)?, sign1, batch })
            }
        }
    }

    /// What is claimed.
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The root, in the batch form.
    pub fn batch_root(&self) -> Option<&BatchRoot> {
        self.batch.as_ref().map(|b| &b.root)
    }

    /// First bytes of the session's digest, as the protected header names them.
    pub fn kid(&self) -> &[u8; 8] {
        &self.sign1.kid
    }

    /// The signature: over the claims, or over the batch's root.
    pub fn signature(&self) -> &[u8; 64] {
        &self.sign1.signature
    }

    /// The bytes that the signature covers, as received.
    pub fn payload(&self) -> &[u8] {
        &self.sign1.payload
    }

    /// Check 10: the signature over the received bytes, and inclusion in the batch form. The error
    /// says which of the two does not hold.
    pub fn verify_signature(&self, public_key: &[u8; 32]) -> std::result::Result<(), &'static str> {
        let signed = if self.batch.is_some() { Signed::Root } else { Signed::Claims };
        if !self.sign1.verify(signed, public_key) {
            return Err("a signature that does not verify under the session's key");
        }
        match &self.batch {
            Some(b) if !verify_inclusion(&b.leaf, b.leaf_index, b.root.size, &b.path, &b.root.root) => {
                Err("claims that are not in the signed batch")
            }
            _ => Ok(()),
        }
    }
}
