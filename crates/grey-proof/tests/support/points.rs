//! Signatures and keys at the edges of Ed25519, where verifiers disagree.

use ed25519_dalek::{Signature, SigningKey, Verifier as _, VerifyingKey};
use sha2::{Digest as _, Sha512};

/// The neutral element, canonical.
pub const IDENTITY: [u8; 32] = low(1);
/// A point of order 8, canonical.
pub const ORDER_8: [u8; 32] = [
    0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20, 0x53,
    0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
];
/// The neutral element with y = p + 1 instead of 1.
pub const IDENTITY_UNREDUCED: [u8; 32] = {
    let mut y = [0xff; 32];
    (y[0], y[31]) = (0xee, 0x7f);
    y
};
/// The order of the base point, little-endian.
const L: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

const fn low(n: u8) -> [u8; 32] {
    let mut y = [0; 32];
    y[0] = n;
    y
}

/// S + L in place of S: the same scalar.
pub fn s_not_below_l(signature: [u8; 64]) -> [u8; 64] {
    let mut out = signature;
    let mut carry = 0u16;
    for (byte, l) in out[32..].iter_mut().zip(L) {
        let sum = u16::from(*byte) + u16::from(l) + carry;
        (*byte, carry) = (sum as u8, sum >> 8);
    }
    assert_eq!(carry, 0);
    out
}

/// R = \[S\]B: right for a key A with \[k\]A = 0, whatever the message.
pub fn of_nothing() -> [u8; 64] {
    let r = SigningKey::from_bytes(&[0x5a; 32]);
    join(r.verifying_key().to_bytes(), r.to_scalar().to_bytes())
}

/// R is the neutral element, and S = k·a.
pub fn with_small_order_r(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let k = hash(key, &IDENTITY, message);
    let s = scalar_of(key, &k, false);
    join(IDENTITY, s)
}

/// R has a component of order 8: the equation holds times 8, and not without.
pub fn with_mixed_order_r(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let nonce = SigningKey::from_bytes(&[0x5a; 32]);
    let r = (nonce.verifying_key().to_edwards() + torsion().to_edwards()).compress().to_bytes();
    join(r, scalar_of(key, &hash(key, &r, message), true))
}

/// The key A + T with T of order 8.
pub fn mixed_order_key(key: &SigningKey) -> [u8; 32] {
    (key.verifying_key().to_edwards() + torsion().to_edwards()).compress().to_bytes()
}

/// A signature under the key A + T: true where k is a multiple of 8, which is one message in eight.
pub fn under_mixed_order_key(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    let nonce = SigningKey::from_bytes(&[0x5a; 32]);
    let r = nonce.verifying_key().to_bytes();
    let k = Sha512::new().chain_update(r).chain_update(mixed_order_key(key)).chain_update(message).finalize();
    join(r, scalar_of(key, &k.into(), true))
}

/// Whether a verifier without cofactor takes it that does not look at the order of points.
pub fn lax(public: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(public).is_ok_and(|k| k.verify(message, &Signature::from_bytes(signature)).is_ok())
}

fn torsion() -> VerifyingKey {
    VerifyingKey::from_bytes(&ORDER_8).unwrap()
}

fn hash(key: &SigningKey, r: &[u8; 32], message: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(r).chain_update(key.verifying_key().as_bytes()).chain_update(message).finalize().into()
}

/// k·a, plus the nonce's scalar if `nonce`, with k of 64 little-endian bytes taken modulo L.
fn scalar_of(key: &SigningKey, k: &[u8; 64], nonce: bool) -> [u8; 32] {
    let a = key.to_scalar();
    let zero = number_like(&a, 0);
    let (digits, _) = k.as_chunks::<4>();
    let base = number_like(&zero, 1 << 32);
    let k = digits.iter().rev().fold(zero, |sum, d| sum * base + number_like(&zero, u64::from(u32::from_le_bytes(*d))));
    let start = if nonce { SigningKey::from_bytes(&[0x5a; 32]).to_scalar() } else { zero };
    (start + k * a).to_bytes()
}

/// A number as a scalar, whose type this crate has no name for.
fn number_like<S: From<u64>>(_scalar: &S, n: u64) -> S {
    n.into()
}

fn join(r: [u8; 32], s: [u8; 32]) -> [u8; 64] {
    [r, s].concat().try_into().unwrap()
}
