//! Checkpoints: signed tree heads, as C2SP `tlog-checkpoint` in a C2SP `signed-note` with Ed25519.
//!
//! Owns: the signing key, the text of a checkpoint, and its strict verification. Must not know: where trees and keys are
//! kept, HTTP. A checkpoint holds the log's name, its size and its root, so nothing personal (invariant 11).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

use crate::domain::lp;
use crate::merkle::Hash;
use crate::secret::Secret32;

/// Signature type Ed25519 of `signed-note`.
const ED25519: u8 = 1;
/// Begins a signature line: an em dash and a space.
const SIGNATURE: &str = "\u{2014} ";
/// More signature lines than a log and its witnesses need are refused, as `signed-note` allows.
const MAX_SIGNATURES: usize = 32;
/// A checkpoint with all its signatures is far shorter.
const MAX_NOTE: usize = 16 * 1024;

/// The key that signs the checkpoints of one log.
pub struct CheckpointKey {
    // Boxed so that moving the owner leaves no copy; the key zeroises itself on drop.
    key: Box<SigningKey>,
    origin: String,
    id: [u8; 4],
}

impl std::fmt::Debug for CheckpointKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CheckpointKey({})", self.verifier_key())
    }
}

impl CheckpointKey {
    /// The key of the log named `origin`, which is also the name of the key: a host and path without scheme, for
    /// example `events.example.org/0193…`.
    ///
    /// # Errors
    /// [`OriginError`] when the name cannot stand in a note.
    pub fn from_seed(seed: &Secret32, origin: &str) -> Result<Self, OriginError> {
        if !is_key_name(origin) {
            return Err(OriginError);
        }
        let key = Box::new(SigningKey::from_bytes(seed.expose()));
        let id = key_id(origin, key.verifying_key().as_bytes());
        Ok(Self { key, origin: origin.to_owned(), id })
    }

    /// The name of the log.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// The signed note for a tree of this size and root.
    pub fn sign(&self, size: u64, root: &Hash) -> String {
        let text = format!("{}\n{size}\n{}\n", self.origin, BASE64.encode(root));
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        let blob = BASE64.encode([&self.id[..], &signature].concat());
        format!("{text}\n{SIGNATURE}{} {blob}\n", self.origin)
    }

    /// Signs something of ours that is no checkpoint. `label` keeps it from being taken for anything else: what is signed
    /// begins with its length, and no checkpoint begins with a zero byte.
    pub fn sign_labelled(&self, label: &[u8], bytes: &[u8]) -> [u8; 64] {
        self.key.sign(&lp(&[label, bytes])).to_bytes()
    }

    /// The public key as a `vkey`: `<name>+<key id in hexadecimal>+<base64(0x01 || public key)>`.
    pub fn verifier_key(&self) -> String {
        let public = [&[ED25519], &self.key.verifying_key().as_bytes()[..]].concat();
        format!("{}+{}+{}", self.origin, hex::encode(self.id), BASE64.encode(public))
    }
}

/// A name that cannot be the origin of a log: empty, longer than 255 bytes, or with a space, control character or `+`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log's origin is not a valid key name")]
pub struct OriginError;

/// What a verified checkpoint says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Name of the log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// Root of the tree.
    pub root: Hash,
}

/// Why a text is not a checkpoint of the log whose key was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointError {
    /// The verifier key itself is malformed, or its key id does not belong to it.
    #[error("the verifier key is malformed")]
    Key,
    /// Not a signed note.
    #[error("the text is not a signed note")]
    Note,
    /// A note, but its text is not a checkpoint.
    #[error("the note's text is not a checkpoint")]
    Body,
    /// The checkpoint of another log.
    #[error("the checkpoint is of another log")]
    Origin,
    /// No signature by the given key.
    #[error("the note has no signature by the given key")]
    Unsigned,
    /// A signature claims to be by the given key and is not.
    #[error("the signature is wrong")]
    Signature,
}

/// Checks a signed checkpoint against the verifier key of its log. Signatures by other keys (witnesses) are ignored.
///
/// # Errors
/// [`CheckpointError`] when anything is not exactly as the format says.
pub fn verify(note: &str, vkey: &str) -> Result<Checkpoint, CheckpointError> {
    let verifier = Verifier::parse(vkey).ok_or(CheckpointError::Key)?;
    if note.len() > MAX_NOTE || note.chars().any(|c| c.is_control() && c != '\n') {
        return Err(CheckpointError::Note);
    }
    let blank = note.rfind("\n\n").ok_or(CheckpointError::Note)?;
    let (text, signatures) = (&note[..=blank], &note[blank + 2..]);
    verifier.check(text, signatures)?;
    let checkpoint = parse_body(text).ok_or(CheckpointError::Body)?;
    if checkpoint.origin != verifier.name {
        return Err(CheckpointError::Origin);
    }
    Ok(checkpoint)
}

/// Checks what [`CheckpointKey::sign_labelled`] signed.
///
/// # Errors
/// [`CheckpointError::Key`] or [`CheckpointError::Signature`].
pub fn verify_labelled(label: &[u8], bytes: &[u8], signature: &[u8; 64], vkey: &str) -> Result<(), CheckpointError> {
    let verifier = Verifier::parse(vkey).ok_or(CheckpointError::Key)?;
    let signature = Signature::from_bytes(signature);
    verifier.key.verify_strict(&lp(&[label, bytes]), &signature).map_err(|_| CheckpointError::Signature)
}

struct Verifier<'a> {
    name: &'a str,
    id: [u8; 4],
    key: VerifyingKey,
}

impl<'a> Verifier<'a> {
    fn parse(vkey: &'a str) -> Option<Self> {
        // The name has no `+`; base64 may.
        let mut parts = vkey.splitn(3, '+');
        let (name, id, encoded) = (parts.next()?, parts.next()?, parts.next()?);
        let public = BASE64.decode(encoded).ok()?;
        let public: &[u8; 32] = public.strip_prefix(&[ED25519])?.try_into().ok()?;
        let expected = key_id(name, public);
        if !is_key_name(name) || id != hex::encode(expected) {
            return None;
        }
        Some(Self { name, id: expected, key: VerifyingKey::from_bytes(public).ok()? })
    }

    /// Every signature under our name and id must hold, and there must be exactly one.
    fn check(&self, text: &str, signatures: &str) -> Result<(), CheckpointError> {
        let lines = signatures.strip_suffix('\n').ok_or(CheckpointError::Note)?;
        let mut ours = None;
        for (at, line) in lines.split('\n').enumerate() {
            let (name, blob) = parse_signature(line).ok_or(CheckpointError::Note)?;
            let (id, signature) = blob.split_first_chunk::<4>().ok_or(CheckpointError::Note)?;
            if at >= MAX_SIGNATURES {
                return Err(CheckpointError::Note);
            }
            if name == self.name && *id == self.id && ours.replace(signature.to_vec()).is_some() {
                return Err(CheckpointError::Note);
            }
        }
        let ours = ours.ok_or(CheckpointError::Unsigned)?;
        let signature = Signature::from_slice(&ours).map_err(|_| CheckpointError::Signature)?;
        self.key.verify_strict(text.as_bytes(), &signature).map_err(|_| CheckpointError::Signature)
    }
}

fn parse_signature(line: &str) -> Option<(&str, Vec<u8>)> {
    let (name, blob) = line.strip_prefix(SIGNATURE)?.split_once(' ')?;
    let blob = BASE64.decode(blob).ok()?;
    (is_key_name(name) && blob.len() > 4).then_some((name, blob))
}

/// Exactly three lines: origin, size in decimal without leading zeros, root. Extension lines are refused; we write none.
fn parse_body(text: &str) -> Option<Checkpoint> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
    let number: u64 = size.parse().ok()?;
    let root = BASE64.decode(root).ok()?.try_into().ok()?;
    // Writing the number again refuses signs and leading zeros, which `parse` takes.
    let strict = lines.next().is_none() && number.to_string() == size;
    strict.then(|| Checkpoint { origin: origin.to_owned(), size: number, root })
}

/// `SHA-256(name || 0x0A || 0x01 || public key)[..4]`.
fn key_id(name: &str, public: &[u8; 32]) -> [u8; 4] {
    let hash = Sha256::new().chain_update(name).chain_update([b'\n', ED25519]).chain_update(public).finalize();
    [hash[0], hash[1], hash[2], hash[3]]
}

fn is_key_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.chars().any(|c| c.is_whitespace() || c.is_control() || c == '+')
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "events.example.org/log";

    fn key(byte: u8, origin: &str) -> CheckpointKey {
        let fill = |bytes: &mut [u8; 32]| {
            bytes.fill(byte);
            Ok::<_, ()>(())
        };
        CheckpointKey::from_seed(&Secret32::init_with(fill).unwrap(), origin).unwrap()
    }

    /// A note over any text, made as `signed-note` says but without asking whether the text is a checkpoint.
    fn note_of(key: &CheckpointKey, text: &str) -> String {
        let signature = key.key.sign(text.as_bytes()).to_bytes();
        format!("{text}\n{SIGNATURE}{} {}\n", key.origin, BASE64.encode([&key.id[..], &signature].concat()))
    }

    #[test]
    fn a_checkpoint_verifies_under_its_key_only() {
        let ours = key(1, ORIGIN);
        let note = ours.sign(41, &[7; 32]);
        let expected = Checkpoint { origin: ORIGIN.into(), size: 41, root: [7; 32] };
        assert_eq!(verify(&note, &ours.verifier_key()), Ok(expected));
        assert_eq!(verify(&note, &key(2, ORIGIN).verifier_key()), Err(CheckpointError::Unsigned));
        assert_eq!(verify(&note, &key(1, "other.example").verifier_key()), Err(CheckpointError::Unsigned));
    }

    #[test]
    fn the_verifier_key_of_the_signed_note_specification() {
        // The example key of golang.org/x/mod/sumdb/note and of C2SP signed-note.
        let vkey = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let note = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n\
                    \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";
        assert!(Verifier::parse(vkey).is_some());
        assert_eq!(verify(note, vkey), Err(CheckpointError::Body), "the signature holds; the text is no checkpoint");
        assert_eq!(verify(&note.replace("answer", "anzwer"), vkey), Err(CheckpointError::Signature));
        for bad in
            ["", "PeterNeumann", &vkey.replace("c74f", "c74e"), &vkey.replace("c74f", "C74F"), &format!("{vkey}A")]
        {
            assert_eq!(verify(note, bad), Err(CheckpointError::Key), "{bad}");
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let ours = key(1, ORIGIN);
        let (note, vkey) = (ours.sign(1_234_567, &[0xa5; 32]), ours.verifier_key());
        let refused = |bytes: Vec<u8>| std::str::from_utf8(&bytes).map_or(true, |text| verify(text, &vkey).is_err());
        for at in 0..note.len() {
            for bit in 0..8 {
                let mut bytes = note.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                assert!(refused(bytes), "bit {bit} of byte {at} flipped");
            }
            assert!(refused(note.as_bytes()[..at].to_vec()), "cut at {at}");
            let mut longer = note.clone().into_bytes();
            longer.insert(at, b'\n');
            assert!(refused(longer), "line break at {at}");
        }
        assert!(refused(format!("{note}\n").into_bytes()) && refused(format!("{note}x").into_bytes()));
    }

    #[test]
    fn signed_texts_that_are_no_checkpoints_are_refused() {
        let ours = key(1, ORIGIN);
        let root = BASE64.encode([7; 32]);
        for (text, expected) in [
            (format!("{ORIGIN}\n041\n{root}\n"), CheckpointError::Body),
            (format!("{ORIGIN}\n+41\n{root}\n"), CheckpointError::Body),
            (format!("{ORIGIN}\n18446744073709551616\n{root}\n"), CheckpointError::Body),
            (format!("{ORIGIN}\n41\n{}\n", BASE64.encode([7; 31])), CheckpointError::Body),
            (format!("{ORIGIN}\n41\n{root}\nextension\n"), CheckpointError::Body),
            (format!("{ORIGIN}\n41\n"), CheckpointError::Body),
            (format!("other.example\n41\n{root}\n"), CheckpointError::Origin),
        ] {
            assert_eq!(verify(&note_of(&ours, &text), &ours.verifier_key()), Err(expected), "{text}");
        }
    }

    #[test]
    fn witnesses_are_ignored_and_copies_refused() {
        let (ours, witness) = (key(1, ORIGIN), key(2, "witness.example"));
        let (note, vkey) = (ours.sign(5, &[1; 32]), ours.verifier_key());
        let text = &note[..=note.find("\n\n").unwrap()];
        let line = |signer: &CheckpointKey| note_of(signer, text)[text.len() + 1..].to_owned();
        assert!(verify(&format!("{note}{}", line(&witness)), &vkey).is_ok());
        assert!(verify(&format!("{text}\n{}{}", line(&witness), line(&ours)), &vkey).is_ok());
        assert_eq!(verify(&note_of(&witness, text), &vkey), Err(CheckpointError::Unsigned));
        assert_eq!(verify(&format!("{note}{}", line(&ours)), &vkey), Err(CheckpointError::Note));
        let many = line(&witness).repeat(MAX_SIGNATURES);
        assert_eq!(verify(&format!("{note}{many}"), &vkey), Err(CheckpointError::Note));
    }

    #[test]
    fn origins_must_be_key_names() {
        let seed = Secret32::generate().unwrap();
        for bad in ["", "a b", "a+b", "a\nb", "a\u{a0}b"] {
            assert_eq!(CheckpointKey::from_seed(&seed, bad).unwrap_err(), OriginError);
        }
    }
}
