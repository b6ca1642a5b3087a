//! The Merkle tree of RFC 6962 and RFC 9162, as pure functions over SHA-256 hashes.
//!
//! Owns: leaf and node hashing, the frontier that grows with the event log, inclusion and consistency proofs and their
//! verification. Must not know: what a leaf means, where hashes are kept, who signs a root. Part of invariant 9: the
//! tree is a function of the leaves alone, so whatever changes no leaf changes no proof.

use std::ops::Range;

use sha2::{Digest, Sha256};

/// Levels of a tile (C2SP tlog-tiles): a full one has 256 hashes.
pub const TILE_HEIGHT: u8 = 8;

/// A SHA-256 hash: of a leaf, an inner node or a whole tree.
pub type Hash = [u8; 32];

/// Hash of a leaf: `SHA-256(0x00 || data)` (RFC 6962, 2.1).
pub fn leaf_hash(data: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(data).finalize().into()
}

/// Hash of an inner node: `SHA-256(0x01 || left || right)` (RFC 6962, 2.1).
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root of the tree without leaves: SHA-256 of nothing.
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// Root of the tree over these leaf hashes.
pub fn root_of(leaves: &[Hash]) -> Hash {
    let mut frontier = Frontier::default();
    for leaf in leaves {
        frontier.push(*leaf);
    }
    frontier.root()
}

/// All that is needed to grow a tree and name its root: one hash for each perfect subtree, largest and leftmost first.
/// Its length is the number of ones in the binary form of the size, at most 64.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    hashes: Vec<Hash>,
}

impl Frontier {
    /// Version byte of [`Frontier::to_bytes`].
    const VERSION: u8 = 1;

    /// Number of leaves.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Roots of the perfect subtrees, largest first.
    pub fn hashes(&self) -> &[Hash] {
        &self.hashes
    }

    /// Appends one leaf hash.
    pub fn push(&mut self, leaf: Hash) {
        self.push_noting(leaf, |_, _, _| {});
    }

    /// Appends one leaf hash and reports every node that is complete from now on, the leaf first: its level (0 for
    /// leaves), its index within the level, and its hash. A node reported once never changes.
    pub fn push_noting(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, &Hash)) {
        let mut hash = leaf;
        completed(0, self.size, &hash);
        for level in 0..self.size.trailing_ones() as u8 {
            let left = self.hashes.pop().expect("one hash for each one in the size");
            hash = node_hash(&left, &hash);
            completed(level + 1, self.size >> (level + 1), &hash);
        }
        self.hashes.push(hash);
        self.size += 1;
    }

    /// Root of the tree.
    pub fn root(&self) -> Hash {
        fold_subtrees(&self.hashes).unwrap_or_else(empty_root)
    }

    /// The stored form: version, size as big-endian `u64`, then the hashes, largest subtree first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9 + 32 * self.hashes.len());
        out.push(Self::VERSION);
        out.extend_from_slice(&self.size.to_be_bytes());
        out.extend(self.hashes.iter().flatten());
        out
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`FrontierError`] for an unknown version or a length that does not belong to the size.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrontierError> {
        let (&[version], rest) = bytes.split_first_chunk::<1>().ok_or(FrontierError)?;
        let (size, rest) = rest.split_first_chunk::<8>().ok_or(FrontierError)?;
        let size = u64::from_be_bytes(*size);
        let (hashes, []) = rest.as_chunks::<32>() else { return Err(FrontierError) };
        if version != Self::VERSION || hashes.len() != size.count_ones() as usize {
            return Err(FrontierError);
        }
        Ok(Self { size, hashes: hashes.to_vec() })
    }
}

/// The bytes are not a stored frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored edge of the Merkle tree is corrupt")]
pub struct FrontierError;

/// Root over neighbouring perfect subtrees, largest and leftmost first, the way RFC 6962 splits a tree. `None` of none.
pub fn fold_subtrees(hashes: &[Hash]) -> Option<Hash> {
    let (last, rest) = hashes.split_last()?;
    Some(rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
}

/// The perfect subtrees that make up a range of leaves which is itself a subtree of some RFC 6962 tree, as `(level,
/// index within the level)`, largest first. Their hashes, given to [`fold_subtrees`], are the root of the range.
pub fn perfect_subtrees(range: Range<u64>) -> Vec<(u8, u64)> {
    let mut found = Vec::new();
    let mut start = range.start;
    while start < range.end {
        let level = (range.end - start).ilog2() as u8;
        found.push((level, start >> level));
        start += 1 << level;
    }
    found
}

/// The ranges of leaves whose roots, in this order, are the inclusion proof of leaf `index` in the tree of `size` leaves
/// (RFC 6962, 2.1.1), leaf end first. Each is a subtree of the tree. `None` when there is no such leaf.
pub fn inclusion_ranges(index: u64, size: u64) -> Option<Vec<Range<u64>>> {
    if index >= size {
        return None;
    }
    let (mut start, mut end) = (0, size);
    let mut siblings = Vec::new();
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push(middle..end);
            end = middle;
        } else {
            siblings.push(start..middle);
            start = middle;
        }
    }
    siblings.reverse();
    Some(siblings)
}

/// The ranges whose roots, in this order, are the consistency proof between the trees of `first` and `second` leaves
/// (RFC 6962, 2.1.2). None when the trees are the same or the first is empty. `None` when `first` is larger than `second`.
pub fn consistency_ranges(first: u64, second: u64) -> Option<Vec<Range<u64>>> {
    if first > second {
        return None;
    }
    let mut ranges = Vec::new();
    if first == 0 || first == second {
        return Some(ranges);
    }
    let (mut start, mut end) = (0, second);
    while end != first {
        let middle = start + split(end - start);
        if first <= middle {
            ranges.push(middle..end);
            end = middle;
        } else {
            ranges.push(start..middle);
            start = middle;
        }
    }
    // When the old tree is a perfect subtree at the left edge, the verifier already has its root.
    if start > 0 {
        ranges.push(start..end);
    }
    ranges.reverse();
    Some(ranges)
}

/// A proof does not prove what it is said to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// The leaf lies outside the tree, or the old tree is larger than the new one.
    #[error("the proof is about sizes that contradict each other")]
    Sizes,
    /// Too many or too few hashes for these sizes.
    #[error("the proof has a wrong number of hashes")]
    Length,
    /// The hashes lead to another root.
    #[error("the proof leads to another root")]
    Root,
}

/// Checks that `leaf` is leaf number `index` of the tree with this size and root (RFC 9162, 2.1.3.2).
///
/// # Errors
/// [`ProofError`] when it is not proven.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), ProofError> {
    if index >= size {
        return Err(ProofError::Sizes);
    }
    let (mut at, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in proof {
        if last == 0 {
            return Err(ProofError::Length);
        }
        if at & 1 == 1 || at == last {
            hash = node_hash(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    match (last, hash == *root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Checks that the tree `second` begins with all leaves of the tree `first`; each is given as size and root
/// (RFC 9162, 2.1.4.2). The empty tree is the beginning of every tree.
///
/// # Errors
/// [`ProofError`] when it is not proven.
pub fn verify_consistency(first: (u64, &Hash), second: (u64, &Hash), proof: &[Hash]) -> Result<(), ProofError> {
    let ((first_size, first_root), (second_size, second_root)) = (first, second);
    if first_size > second_size {
        return Err(ProofError::Sizes);
    }
    if first_size == 0 || first_size == second_size {
        let expected = if first_size == 0 { &empty_root() } else { second_root };
        let second_fits = second_size > 0 || *second_root == empty_root();
        return match (proof.is_empty(), first_root == expected && second_fits) {
            (false, _) => Err(ProofError::Length),
            (true, false) => Err(ProofError::Root),
            (true, true) => Ok(()),
        };
    }
    let (&start, rest) = if first_size.is_power_of_two() {
        (first_root, proof)
    } else {
        proof.split_first().ok_or(ProofError::Length)?
    };
    let shared = (first_size - 1).trailing_ones();
    let (mut old, mut new) = ((first_size - 1) >> shared, (second_size - 1) >> shared);
    let (mut old_hash, mut new_hash) = (start, start);
    for sibling in rest {
        if new == 0 {
            return Err(ProofError::Length);
        }
        if old & 1 == 1 || old == new {
            old_hash = node_hash(sibling, &old_hash);
            new_hash = node_hash(sibling, &new_hash);
            while old & 1 == 0 && old != 0 {
                old >>= 1;
                new >>= 1;
            }
        } else {
            new_hash = node_hash(&new_hash, sibling);
        }
        old >>= 1;
        new >>= 1;
    }
    match (new, old_hash == *first_root && new_hash == *second_root) {
        (0, true) => Ok(()),
        (0, false) => Err(ProofError::Root),
        _ => Err(ProofError::Length),
    }
}

/// Size of the left half of a tree of at least two leaves: the largest power of two below its size.
fn split(size: u64) -> u64 {
    1 << (size - 1).ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ct_merkle::mem_backed_tree::MemoryBackedTree;
    use proptest::prelude::*;

    /// The leaves of the test tree that certificate-transparency implementations share, and its root at every size.
    const KNOWN: [(&str, &str); 8] = [
        ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
        ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
        ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
        ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
        ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
        ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
        ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
    ];

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn proven(leaves: &[Hash], ranges: Option<Vec<Range<u64>>>) -> Vec<Hash> {
        ranges.unwrap().into_iter().map(|range| root_of(&leaves[range.start as usize..range.end as usize])).collect()
    }

    fn reference(count: u64) -> MemoryBackedTree<Sha256, [u8; 8]> {
        let mut tree = MemoryBackedTree::new();
        (0..count).for_each(|n| tree.push(n.to_be_bytes()));
        tree
    }

    #[test]
    fn the_known_tree() {
        let mut frontier = Frontier::default();
        assert_eq!(hex::encode(frontier.root()), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        for (leaf, root) in KNOWN {
            frontier.push(leaf_hash(&hex::decode(leaf).unwrap()));
            assert_eq!(hex::encode(frontier.root()), root);
        }
    }

    #[test]
    fn every_small_proof_verifies_and_no_changed_one_does() {
        let all = leaves(33);
        let roots: Vec<Hash> = (0..=33).map(|n| root_of(&all[..n])).collect();
        for size in 1..=33u64 {
            let root = &roots[size as usize];
            for index in 0..size {
                let proof = proven(&all, inclusion_ranges(index, size));
                let verify = |at, proof: &[Hash]| verify_inclusion(&all[index as usize], at, size, proof, root);
                assert_eq!(verify(index, &proof), Ok(()));
                assert!((0..size + 2).filter(|&at| at != index).all(|at| verify(at, &proof).is_err()));
                assert!(mutations(&proof).iter().all(|changed| verify(index, changed).is_err()));
            }
            for first in 0..=size {
                let proof = proven(&all, consistency_ranges(first, size));
                let old = (first, &roots[first as usize]);
                assert_eq!(verify_consistency(old, (size, root), &proof), Ok(()));
                assert!(mutations(&proof).iter().all(|p| verify_consistency(old, (size, root), p).is_err()));
                let forged = [0xff; 32];
                assert!(verify_consistency((first, &forged), (size, root), &proof).is_err());
                assert!(first == 0 || verify_consistency(old, (size, &forged), &proof).is_err());
            }
        }
        assert_eq!((inclusion_ranges(33, 33), consistency_ranges(34, 33)), (None, None));
    }

    fn mutations(proof: &[Hash]) -> Vec<Vec<Hash>> {
        let mut changed = vec![[proof, &[[0; 32]]].concat()];
        for at in 0..proof.len() {
            changed.push([&proof[..at], &proof[at + 1..]].concat());
            let mut flipped = proof.to_vec();
            flipped[at][at % 32] ^= 1;
            changed.push(flipped);
        }
        changed
    }

    #[test]
    fn completed_nodes_answer_every_range() {
        let all = leaves(21);
        let mut nodes = std::collections::HashMap::new();
        let mut frontier = Frontier::default();
        for leaf in &all {
            frontier.push_noting(*leaf, |level, index, hash| assert!(nodes.insert((level, index), *hash).is_none()));
        }
        let from_nodes = |range: Range<u64>| {
            let hashes: Vec<Hash> = perfect_subtrees(range).iter().map(|at| nodes[at]).collect();
            fold_subtrees(&hashes).unwrap()
        };
        for index in 0..21 {
            for ranges in [inclusion_ranges(index, 21), consistency_ranges(index, 21)] {
                let stored: Vec<Hash> = ranges.iter().flatten().cloned().map(from_nodes).collect();
                assert_eq!(stored, proven(&all, ranges));
            }
        }
    }

    #[test]
    fn stored_frontiers_are_read_strictly() {
        let mut frontier = Frontier::default();
        for leaf in leaves(100) {
            let bytes = frontier.to_bytes();
            assert_eq!(Frontier::from_bytes(&bytes).as_ref(), Ok(&frontier));
            assert!((0..bytes.len()).all(|cut| Frontier::from_bytes(&bytes[..cut]).is_err()));
            assert_eq!(Frontier::from_bytes(&[&bytes[..], &[0]].concat()), Err(FrontierError));
            assert_eq!(Frontier::from_bytes(&[&[2], &bytes[1..]].concat()), Err(FrontierError));
            frontier.push(leaf);
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_reference_crate(size in 1u64..200, a in any::<prop::sample::Index>()) {
            let (all, tree) = (leaves(size), reference(size));
            let at = a.index(size as usize);
            let root = root_of(&all);
            let theirs = tree.root();
            prop_assert_eq!(root.as_slice(), theirs.as_bytes().as_slice());
            let proof = proven(&all, inclusion_ranges(at as u64, size));
            let theirs = tree.prove_inclusion(at);
            prop_assert_eq!(proof.as_flattened(), theirs.as_bytes());
            let first = at as u64 + 1;
            let proof = proven(&all, consistency_ranges(first, size));
            let theirs = tree.prove_consistency((size - first) as usize);
            prop_assert_eq!(proof.as_flattened(), theirs.as_bytes());
            let old = root_of(&all[..first as usize]);
            prop_assert_eq!(verify_consistency((first, &old), (size, &root), &proof), Ok(()));
        }
    }
}
