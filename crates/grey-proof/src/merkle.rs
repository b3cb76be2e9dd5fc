use sha2::{Digest, Sha256};

/// Longest inclusion path (§ Encoding).
pub const PATH_HASHES_MAX: usize = 32;

/// Leaf hash of encoded claims (§3; RFC 9162 §2.1.1).
pub fn leaf_hash(claims: &[u8]) -> [u8; 32] {
    Sha256::new().chain_update([0]).chain_update(claims).finalize().into()
}

fn node_hash(left: &[u8; 32], right: &[u8; 32]) -> [u8; 32] {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// A Merkle tree over a power of two of leaf hashes, in the shape of RFC 9162 §2.1.1. Whoever makes
/// a batch fills its leaves up with random hashes and shuffles them all before (§3).
#[derive(Clone, Debug)]
pub struct Tree {
    // Leaves first, the root last; each level is half of the one before.
    levels: Vec<Vec<[u8; 32]>>,
}

impl Tree {
    /// The tree; `None` unless the number of leaves is a power of two of at most 2^32.
    pub fn new(leaves: Vec<[u8; 32]>) -> Option<Tree> {
        if !leaves.len().is_power_of_two() || usize::try_from(leaves.len().trailing_zeros()).ok()? > PATH_HASHES_MAX {
            return None;
        }
        let mut levels = vec![leaves];
        while let Some(below) = levels.last().filter(|l| l.len() > 1) {
            let above = below.as_chunks::<2>().0.iter().map(|[l, r]| node_hash(l, r)).collect();
            levels.push(above);
        }
        Some(Tree { levels })
    }

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.levels.first().and_then(|l| u64::try_from(l.len()).ok()).unwrap_or(0)
    }

    /// The leaf with this index.
    pub fn leaf(&self, leaf_index: u64) -> Option<&[u8; 32]> {
        self.levels.first()?.get(usize::try_from(leaf_index).ok()?)
    }

    /// The root hash.
    pub fn root(&self) -> [u8; 32] {
        self.levels.last().and_then(|l| l.first()).copied().unwrap_or_default()
    }

    /// The inclusion path of a leaf, its sibling first (RFC 9162 §2.1.3.1); `None` if there is no
    /// such leaf.
    pub fn path(&self, leaf_index: u64) -> Option<Vec<[u8; 32]>> {
        let index = usize::try_from(leaf_index).ok().filter(|_| leaf_index < self.size())?;
        let (_, below_root) = self.levels.split_last()?;
        (0u32..).zip(below_root).map(|(height, level)| level.get((index >> height) ^ 1).copied()).collect()
    }
}

/// Whether `leaf` stands at `leaf_index` in the tree of `size` leaves with this `root`: the
/// algorithm of RFC 9162 §2.1.3.2, for any size.
pub(crate) fn verify_inclusion(
    leaf: &[u8; 32],
    leaf_index: u64,
    size: u64,
    path: &[[u8; 32]],
    root: &[u8; 32],
) -> bool {
    if leaf_index >= size {
        return false;
    }
    let (mut fn_, mut sn, mut r) = (leaf_index, size.saturating_sub(1), *leaf);
    for p in path {
        if sn == 0 {
            return false;
        }
        if fn_ & 1 == 1 || fn_ == sn {
            r = node_hash(p, &r);
            while fn_ & 1 == 0 && fn_ != 0 {
                fn_ >>= 1;
                sn >>= 1;
            }
        } else {
            r = node_hash(&r, p);
        }
        fn_ >>= 1;
        sn >>= 1;
    }
    sn == 0 && r == *root
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 9162 §2.1.1, for any number of leaves, as it is written there.
    fn mth(leaves: &[[u8; 32]]) -> [u8; 32] {
        match leaves {
            [one] => *one,
            _ => {
                let k = leaves.len().next_power_of_two() / 2;
                node_hash(&mth(&leaves[..k]), &mth(&leaves[k..]))
            }
        }
    }

    #[test]
    fn known_answers() {
        let l = leaf_hash(b"abc");
        assert_eq!(l[..], Sha256::digest(b"\0abc")[..]);
        let t = Tree::new(vec![l, [9; 32]]).unwrap();
        assert_eq!(t.root()[..], Sha256::digest([&[1][..], &l, &[9; 32]].concat())[..]);
        assert_eq!((t.size(), t.path(0), t.path(2)), (2, Some(vec![[9; 32]]), None));
        let one = Tree::new(vec![l]).unwrap();
        assert_eq!((one.root(), one.path(0)), (l, Some(vec![])));
        assert!(verify_inclusion(&l, 0, 1, &[], &l));
        for n in [0, 3, 5, 6, 7] {
            assert!(Tree::new(vec![l; n]).is_none(), "{n} leaves");
        }
    }

    proptest! {
        /// Every leaf verifies at its place, and with any part changed it does not.
        #[test]
        fn inclusion(height in 0u32..7, seed in any::<u64>(), at in any::<prop::sample::Index>(),
                     other in any::<u64>(), bit in 0usize..256) {
            let leaves: Vec<_> = (0..1u64 << height).map(|i| leaf_hash(&[seed, i].map(u64::to_le_bytes).concat())).collect();
            let tree = Tree::new(leaves.clone()).unwrap();
            let (root, size) = (tree.root(), tree.size());
            prop_assert_eq!(root, mth(&leaves));
            let index = at.index(leaves.len());
            let (leaf, path) = (leaves[index], tree.path(index as u64).unwrap());
            let index = index as u64;
            prop_assert_eq!(path.len(), height as usize);
            prop_assert!(verify_inclusion(&leaf, index, size, &path, &root));
            let flipped = |h: &[u8; 32]| { let mut h = *h; h[bit / 8] ^= 1 << (bit % 8); h };
            prop_assert!(!verify_inclusion(&flipped(&leaf), index, size, &path, &root));
            prop_assert!(!verify_inclusion(&leaf, index, size, &path, &flipped(&root)));
            for wrong in [other, other % size, index ^ 1, index + size] {
                prop_assert!(wrong == index || !verify_inclusion(&leaf, wrong, size, &path, &root));
            }
            for i in 0..path.len() {
                let mut changed = path.clone();
                changed[i] = flipped(&changed[i]);
                prop_assert!(!verify_inclusion(&leaf, index, size, &changed, &root));
                prop_assert!(!verify_inclusion(&leaf, index, size, &path[..i], &root));
            }
            prop_assert!(!verify_inclusion(&leaf, index, size, &[path, vec![root]].concat(), &root));
        }
    }
}
