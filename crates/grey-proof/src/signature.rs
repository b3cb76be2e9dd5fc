use ed25519_dalek::{Signature, Signer, VerifyingKey};

pub use ed25519_dalek::SigningKey;

/// Ed25519 as check 10 of §5 demands: S < L, A and R canonical and neither of small order, and
/// encode(\[S\]B − \[k\]A) equal to R's bytes, without cofactor.
///
/// `ed25519_dalek`'s `verify_strict` does all of it but one: it takes keys A whose y-coordinate is
/// not reduced. R needs no such test, since its bytes are compared with a canonical encoding.
pub fn verify_strict(public_key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> bool {
    is_reduced(public_key)
        && VerifyingKey::from_bytes(public_key)
            .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok())
}

pub(crate) fn sign(key: &SigningKey, message: &[u8]) -> [u8; 64] {
    key.sign(message).to_bytes()
}

/// Whether the y-coordinate (255 bits, little-endian) is below p = 2^255 − 19. A sign bit on x = 0,
/// the other form that is not canonical, is of small order and refused as such.
fn is_reduced(point: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = point;
    !(high & 0x7f == 0x7f && middle.iter().all(|b| *b == 0xff) && *low >= 0xed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[3; 32])
    }

    /// L, the order of the base point, little-endian (RFC 8032 §5.1).
    const L: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];

    #[test]
    fn verifies_what_was_signed_and_nothing_else() {
        let public = key().verifying_key().to_bytes();
        let s = sign(&key(), b"message");
        assert!(verify_strict(&public, b"message", &s));
        assert!(!verify_strict(&public, b"messagf", &s));
        for bit in 0..512 {
            let mut changed = s;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify_strict(&public, b"message", &changed), "bit {bit} of the signature");
        }
        for bit in 0..256 {
            let mut changed = public;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(!verify_strict(&changed, b"message", &s), "bit {bit} of the key");
        }
    }

    /// RFC 8032 §7.1, test 2.
    #[test]
    fn known_answer() {
        let secret = [
            0x4c, 0xcd, 0x08, 0x9b, 0x28, 0xff, 0x96, 0xda, 0x9d, 0xb6, 0xc3, 0x46, 0xec, 0x11, 0x4e, 0x0f, 0x5b, 0x8a,
            0x31, 0x9f, 0x35, 0xab, 0xa6, 0x24, 0xda, 0x8c, 0xf6, 0xed, 0x4f, 0xb8, 0xa6, 0xfb,
        ];
        let s = sign(&SigningKey::from_bytes(&secret), &[0x72]);
        assert_eq!(s[..8], [0x92, 0xa0, 0x09, 0xa9, 0xf0, 0xd4, 0xca, 0xb8]);
    }

    /// S + L is the same scalar in another form.
    #[test]
    fn refuses_s_not_below_l() {
        let public = key().verifying_key().to_bytes();
        let mut s = sign(&key(), b"m");
        let mut carry = 0u16;
        for (byte, l) in s[32..].iter_mut().zip(L) {
            let sum = u16::from(*byte) + u16::from(l) + carry;
            (*byte, carry) = (sum as u8, sum >> 8);
        }
        assert_eq!(carry, 0);
        assert!(!verify_strict(&public, b"m", &s));
    }

    /// With A of small order and R = [S]B some equation without these rules holds for any message.
    #[test]
    fn refuses_small_order_points() {
        let identity = {
            let mut p = [0; 32];
            p[0] = 1;
            p
        };
        let order_2 = {
            let mut p = [0xff; 32];
            p[0] = 0xec;
            p[31] = 0x7f;
            p
        };
        let order_4 = [0; 32];
        let order_8 = [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ];
        for point in [identity, order_2, order_4, order_8] {
            for sign_bit in [0, 0x80] {
                let mut a = point;
                a[31] |= sign_bit;
                for n in 0..32u8 {
                    // R = A or the identity, S = 0: true in one of a few messages without the rule.
                    for r in [a, identity] {
                        let mut s = [0; 64];
                        s[..32].copy_from_slice(&r);
                        assert!(!verify_strict(&a, &[n], &s));
                    }
                }
                let mut s = sign(&key(), b"m");
                s[..32].copy_from_slice(&a);
                assert!(!verify_strict(&key().verifying_key().to_bytes(), b"m", &s));
            }
        }
    }

    #[test]
    fn refuses_keys_that_are_not_reduced() {
        for low in 0xed..=0xffu8 {
            for high in [0x7f, 0xff] {
                let mut a = [0xff; 32];
                (a[0], a[31]) = (low, high);
                assert!(!is_reduced(&a));
                assert!(!verify_strict(&a, b"m", &sign(&key(), b"m")));
            }
        }
        let mut largest = [0xff; 32];
        (largest[0], largest[31]) = (0xec, 0x7f);
        assert!(is_reduced(&largest));
    }
}
