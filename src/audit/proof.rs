//! Inclusion proofs as C2SP `tlog-proof` texts.
//!
//! Owns: the text and its strict reading. Must not know: where proofs come from, what the leaf means. Pure: whoever has the
//! text, the leaf and the log's verifier key needs nothing else.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::checkpoint::{self, Checkpoint, CheckpointError};
use crate::merkle::{Hash, ProofError, verify_inclusion};

/// First line of the text.
const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2^64 leaves needs no more.
const MAX_HASHES: usize = 64;

/// Why a text does not prove that a leaf is in a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InclusionError {
    /// Not a proof in this format.
    #[error("the text is not a tlog-proof")]
    Malformed,
    /// Its checkpoint is not one of the log.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
}

/// Writes a proof: the leaf's index, the hashes, the signed checkpoint.
pub fn write(index: u64, hashes: &[Hash], checkpoint: &str) -> String {
    let lines: String = hashes.iter().map(|hash| BASE64.encode(hash) + "\n").collect();
    format!("{HEADER}\nindex {index}\n{lines}\n{checkpoint}")
}

/// Checks that a leaf is in the log of this verifier key. The index it stands at, and the checkpoint.
///
/// # Errors
/// [`InclusionError`] when anything is not exactly as the format says, or does not hold.
pub fn verify(proof: &str, leaf: &Hash, vkey: &str) -> Result<(u64, Checkpoint), InclusionError> {
    let (index, hashes, note) = parse(proof).ok_or(InclusionError::Malformed)?;
    let checkpoint = checkpoint::verify(note, vkey)?;
    verify_inclusion(leaf, index, checkpoint.size, &hashes, &checkpoint.root)?;
    Ok((index, checkpoint))
}

/// No `extra` line: we write none, and an application's own data would be for it to read.
fn parse(text: &str) -> Option<(u64, Vec<Hash>, &str)> {
    let (head, note) = text.split_once("\n\n")?;
    let mut lines = head.split('\n');
    if lines.next()? != HEADER {
        return None;
    }
    let number = lines.next()?.strip_prefix("index ")?;
    let index: u64 = number.parse().ok()?;
    let hashes: Vec<Hash> = lines.map(hash).collect::<Option<_>>()?;
    // Writing the number again refuses signs and leading zeros.
    (index.to_string() == number && hashes.len() <= MAX_HASHES).then_some((index, hashes, note))
}

/// A hash in base64, in the one way to write it.
pub fn hash(text: &str) -> Option<Hash> {
    BASE64.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::super::checkpoint::CheckpointKey;
    use super::*;
    use crate::merkle::{inclusion_ranges, leaf_hash, root_of};
    use crate::secret::Secret32;

    fn key() -> CheckpointKey {
        let fill = |bytes: &mut [u8; 32]| {
            bytes.fill(7);
            Ok::<_, ()>(())
        };
        CheckpointKey::from_seed(&Secret32::init_with(fill).unwrap(), "events.example.org/log").unwrap()
    }

    fn leaves() -> Vec<Hash> {
        (0..11_u64).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    fn proof(index: u64) -> String {
        let all = leaves();
        let ranges = inclusion_ranges(index, 11).unwrap().into_iter();
        let hashes: Vec<Hash> = ranges.map(|r| root_of(&all[r.start as usize..r.end as usize])).collect();
        write(index, &hashes, &key().sign(11, &root_of(&all)))
    }

    #[test]
    fn what_is_written_proves_its_leaf_and_no_other() {
        let (all, vkey) = (leaves(), key().verifier_key());
        for index in 0..11 {
            let text = proof(index);
            let (at, checkpoint) = verify(&text, &all[index as usize], &vkey).unwrap();
            assert_eq!((at, checkpoint.size), (index, 11));
            let other = &all[(index as usize + 1) % 11];
            assert_eq!(verify(&text, other, &vkey), Err(InclusionError::Proof(ProofError::Root)));
        }
    }

    #[test]
    fn no_changed_byte_is_accepted() {
        let (all, vkey, text) = (leaves(), key().verifier_key(), proof(6));
        for at in 0..text.len() {
            for change in [b'0', b'A', b'\n', b' ', b'='] {
                let mut bytes = text.clone().into_bytes();
                if bytes[at] == change {
                    continue;
                }
                bytes[at] = change;
                let Ok(changed) = String::from_utf8(bytes) else { continue };
                assert!(verify(&changed, &all[6], &vkey).is_err(), "{change} at {at}");
            }
            assert!(!text.is_char_boundary(at) || verify(&text[..at], &all[6], &vkey).is_err(), "cut at {at}");
        }
        let with_extra = text.replace("\nindex", "\nextra YQ==\nindex");
        for wrong in [format!("{text}\n"), format!("\n{text}"), text.replace("index 6", "index 06"), with_extra] {
            assert!(verify(&wrong, &all[6], &vkey).is_err());
        }
    }
}
