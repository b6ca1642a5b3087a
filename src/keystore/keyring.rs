//! The keyring: root keys, the signing seed and the erasure counter, in a directory of their own.
//!
//! Owns: the files `store`, `root-<epoch>.key` and `audit-signing.key`, their permissions and their durability. Must
//! not know: what the keys wrap or sign. Keeps its part of invariant 8: the erasure record here is the witness outside
//! both databases that tells a restored backup from the present, so it is replaced atomically and never goes back.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::crash;
use crate::event::StoreId;
use crate::keystore::commitment;
use crate::secret::Secret32;

const STORE_FILE: &str = "store";
const SIGNING_FILE: &str = "audit-signing.key";
const FORMAT_LINE: &str = "oubliette-keyring 1";
/// Bits that would let anyone but the owner in.
const OTHERS: u32 = 0o077;

/// How far erasures have been witnessed: the number of the last one, and the digest of the chain up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasureRecord {
    /// Number of the last erasure; 0 before the first.
    pub number: u64,
    /// [`crate::domain::erasure_digest`] of that erasure; zeros before the first.
    pub digest: [u8; 32],
}

/// The keyring cannot be used. Nothing was changed unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    /// There is a keyring, or something else, where one was to be made.
    #[error("{} exists already and is not empty", path.display())]
    Exists {
        /// The directory.
        path: PathBuf,
    },
    /// A file or the directory is not there.
    #[error("{} is missing", path.display())]
    Missing {
        /// Which.
        path: PathBuf,
    },
    /// Others than the owner may reach the file or directory.
    #[error("{} has mode {mode:04o}: others than its owner may reach it", path.display())]
    Permissions {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file is not 32 bytes long.
    #[error("{} has {actual} bytes instead of 32", path.display())]
    Size {
        /// Which.
        path: PathBuf,
        /// Its length.
        actual: u64,
    },
    /// The file `store` does not follow its format, or there is no root key.
    #[error("{} is malformed", path.display())]
    Malformed {
        /// Which.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why.
        kind: ErrorKind,
    },
    /// No random bytes for new keys.
    #[error("the operating system's random generator failed")]
    Entropy,
    /// The record to be written is not a continuation of the one that is there.
    #[error("the keyring has witnessed erasure {witnessed}; {given} does not continue it")]
    NotMonotone {
        /// Number in the keyring.
        witnessed: u64,
        /// Number given.
        given: u64,
    },
}

/// An open keyring. The keys are read once and stay in zeroised memory.
#[derive(Debug)]
pub struct Keyring {
    dir: PathBuf,
    store: StoreId,
    roots: BTreeMap<u32, Secret32>,
    signing: Secret32,
    record: Mutex<ErasureRecord>,
}

impl Keyring {
    /// Makes a keyring with a fresh root for epoch 1 and a fresh signing seed. It is built beside `dir` and renamed, so
    /// after a crash there is a whole keyring or none; what a crash leaves behind was never used and is made anew.
    ///
    /// # Errors
    /// [`KeyringError::Exists`] when `dir` holds anything; otherwise what the operating system refused.
    pub fn create(dir: &Path, store: StoreId) -> Result<Self, KeyringError> {
        match std::fs::read_dir(dir).map(|mut entries| entries.next().is_some()) {
            Ok(false) => {}
            Ok(true) => return Err(KeyringError::Exists { path: dir.to_owned() }),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(io(dir, &error)),
        }
        let new = beside(dir);
        match std::fs::remove_dir_all(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&new, &error)),
            _ => {}
        }
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&new).map_err(|error| io(&new, &error))?;
        for name in [root_file(1).as_str(), SIGNING_FILE] {
            let key = Secret32::generate().map_err(|_| KeyringError::Entropy)?;
            write_new(&new.join(name), key.expose())?;
        }
        write_new(&new.join(STORE_FILE), store_text(store, ErasureRecord::default()).as_bytes())?;
        sync_dir(&new)?;
        std::fs::rename(&new, dir).map_err(|error| io(dir, &error))?;
        sync_parent(dir)?;
        Self::open(dir)
    }

    /// Opens a keyring.
    ///
    /// # Errors
    /// [`KeyringError`] names the file and what is wrong with it. Nothing is repaired.
    pub fn open(dir: &Path) -> Result<Self, KeyringError> {
        let handle = File::open(dir).map_err(|error| io(dir, &error))?;
        check_private(dir, &handle)?;
        let mut roots = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(|error| io(dir, &error))? {
            let entry = entry.map_err(|error| io(dir, &error))?;
            if let Some(epoch) = entry.file_name().to_str().and_then(root_epoch) {
                roots.insert(epoch, read_key(&entry.path())?);
            }
        }
        if roots.is_empty() {
            return Err(KeyringError::Missing { path: dir.join(root_file(1)) });
        }
        let signing = read_key(&dir.join(SIGNING_FILE))?;
        let path = dir.join(STORE_FILE);
        let file = open_private(&path)?;
        let mut text = String::new();
        file.take(4096).read_to_string(&mut text).map_err(|error| io(&path, &error))?;
        let (store, record) = parse_store(&text).ok_or(KeyringError::Malformed { path })?;
        Ok(Self { dir: dir.to_owned(), store, roots, signing, record: Mutex::new(record) })
    }

    /// The store this keyring belongs to.
    pub fn store_id(&self) -> StoreId {
        self.store
    }

    /// The root key of an epoch, if it is (still) here.
    pub fn root(&self, epoch: u32) -> Option<&Secret32> {
        self.roots.get(&epoch)
    }

    /// The epoch new keys are wrapped in: the latest.
    pub fn epoch(&self) -> u32 {
        self.roots.last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// Seed of the Ed25519 key that signs tree heads and certificates.
    pub fn signing_seed(&self) -> &Secret32 {
        &self.signing
    }

    /// The last erasure witnessed here.
    pub fn erasure_record(&self) -> ErasureRecord {
        *self.lock()
    }

    /// Witnesses an erasure durably. Repeating the last one changes nothing.
    ///
    /// # Errors
    /// [`KeyringError::NotMonotone`] for a number below the last, or the last with another digest.
    pub fn record_erasure(&self, number: u64, digest: [u8; 32]) -> Result<(), KeyringError> {
        let mut record = self.lock();
        let next = ErasureRecord { number, digest };
        if *record == next {
            return Ok(());
        }
        if number <= record.number {
            return Err(KeyringError::NotMonotone { witnessed: record.number, given: number });
        }
        crash::point("keyring.before-record");
        let (path, temporary) = (self.dir.join(STORE_FILE), self.dir.join("store.new"));
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(io(&temporary, &error)),
            _ => {}
        }
        write_new(&temporary, store_text(self.store, next).as_bytes())?;
        std::fs::rename(&temporary, &path).map_err(|error| io(&path, &error))?;
        sync_dir(&self.dir)?;
        crash::point("keyring.after-record");
        *record = next;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, ErasureRecord> {
        // The value is replaced in one assignment after the file is durable, so a poisoned lock guards a whole value.
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Identity of a root key in the records it wraps: the first half of its commitment.
pub fn root_id(root: &Secret32) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&commitment(root).0[..16]);
    id
}

fn root_file(epoch: u32) -> String {
    format!("root-{epoch:08}.key")
}

fn root_epoch(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("root-")?.strip_suffix(".key")?;
    if digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn store_text(store: StoreId, record: ErasureRecord) -> String {
    format!("{FORMAT_LINE}\nstore {}\nerasure {} {}\n", hex::encode(store.0), record.number, hex::encode(record.digest))
}

fn parse_store(text: &str) -> Option<(StoreId, ErasureRecord)> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != FORMAT_LINE {
        return None;
    }
    let mut store = [0; 16];
    hex::decode_to_slice(lines.next()?.strip_prefix("store ")?, &mut store).ok()?;
    let (number, digits) = lines.next()?.strip_prefix("erasure ")?.split_once(' ')?;
    let mut digest = [0; 32];
    hex::decode_to_slice(digits, &mut digest).ok()?;
    let record = ErasureRecord { number: number.parse().ok()?, digest };
    lines.next().is_none().then_some((StoreId(store), record))
}

/// The name under which a keyring is built before it is renamed into place.
fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    dir.with_file_name(name)
}

fn read_key(path: &Path) -> Result<Secret32, KeyringError> {
    let mut file = open_private(path)?;
    let actual = file.metadata().map_err(|error| io(path, &error))?.len();
    if actual != 32 {
        return Err(KeyringError::Size { path: path.to_owned(), actual });
    }
    Secret32::init_with(|bytes| file.read_exact(bytes).map_err(|error| io(path, &error)))
}

fn open_private(path: &Path) -> Result<File, KeyringError> {
    let file = File::open(path).map_err(|error| io(path, &error))?;
    check_private(path, &file)?;
    Ok(file)
}

/// Asks the open handle, not the path, so that the file judged is the file read.
fn check_private(path: &Path, file: &File) -> Result<(), KeyringError> {
    let mode = file.metadata().map_err(|error| io(path, &error))?.mode() & 0o7777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(KeyringError::Permissions { path: path.to_owned(), mode }) }
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| io(path, &error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| io(path, &error))
}

fn sync_dir(dir: &Path) -> Result<(), KeyringError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(|error| io(dir, &error))
}

fn sync_parent(dir: &Path) -> Result<(), KeyringError> {
    match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
        _ => sync_dir(Path::new(".")),
    }
}

fn io(path: &Path, error: &std::io::Error) -> KeyringError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound => KeyringError::Missing { path },
        kind => KeyringError::Io { path, kind },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const STORE: StoreId = StoreId([7; 16]);

    fn made() -> (tempfile::TempDir, PathBuf) {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("keyring");
        Keyring::create(&dir, STORE).unwrap();
        (temp, dir)
    }

    fn chmod(path: &Path, mode: u32) {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn what_was_made_opens_with_the_same_keys() {
        let (_temp, dir) = made();
        let (one, two) = (Keyring::open(&dir).unwrap(), Keyring::open(&dir).unwrap());
        assert_eq!(one.store_id(), STORE);
        assert_eq!(one.epoch(), 1);
        assert_eq!(one.root(1).unwrap().expose(), two.root(1).unwrap().expose());
        assert_ne!(one.root(1).unwrap().expose(), one.signing_seed().expose());
        assert!(one.root(2).is_none());
        assert_eq!(one.erasure_record(), ErasureRecord::default());
        assert!(matches!(Keyring::create(&dir, STORE), Err(KeyringError::Exists { .. })));
    }

    #[test]
    fn what_a_crash_left_half_made_is_made_anew() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("keyring");
        std::fs::create_dir(temp.path().join("keyring.new")).unwrap();
        std::fs::write(temp.path().join("keyring.new/root-00000001.key"), b"half").unwrap();
        Keyring::create(&dir, STORE).unwrap();
        assert!(!temp.path().join("keyring.new").exists());
    }

    #[test]
    fn files_that_others_may_reach_are_refused_by_name() {
        for name in ["", "store", "root-00000001.key", "audit-signing.key"] {
            let (_temp, dir) = made();
            let path = if name.is_empty() { dir.clone() } else { dir.join(name) };
            chmod(&path, 0o740);
            let error = Keyring::open(&dir).unwrap_err();
            assert_eq!(error, KeyringError::Permissions { path: path.clone(), mode: 0o740 });
            assert!(error.to_string().contains("0740"));
            chmod(&path, 0o700);
            Keyring::open(&dir).unwrap();
        }
    }

    #[test]
    fn missing_short_and_malformed_files_are_refused() {
        for name in ["store", "root-00000001.key", "audit-signing.key"] {
            let (_temp, dir) = made();
            std::fs::remove_file(dir.join(name)).unwrap();
            assert_eq!(Keyring::open(&dir).unwrap_err(), KeyringError::Missing { path: dir.join(name) });
        }
        let (_temp, dir) = made();
        let key = dir.join("root-00000001.key");
        File::options().write(true).open(&key).unwrap().set_len(31).unwrap();
        assert_eq!(Keyring::open(&dir).unwrap_err(), KeyringError::Size { path: key, actual: 31 });
        let (_temp, dir) = made();
        File::options().append(true).open(dir.join("store")).unwrap().write_all(b"more\n").unwrap();
        assert_eq!(Keyring::open(&dir).unwrap_err(), KeyringError::Malformed { path: dir.join("store") });
    }

    #[test]
    fn the_erasure_record_only_grows() {
        let (_temp, dir) = made();
        let keyring = Keyring::open(&dir).unwrap();
        keyring.record_erasure(1, [1; 32]).unwrap();
        keyring.record_erasure(1, [1; 32]).unwrap();
        keyring.record_erasure(3, [3; 32]).unwrap();
        for (number, digest) in [(3, [4; 32]), (2, [2; 32])] {
            assert_eq!(
                keyring.record_erasure(number, digest).unwrap_err(),
                KeyringError::NotMonotone { witnessed: 3, given: number }
            );
        }
        let reopened = Keyring::open(&dir).unwrap();
        assert_eq!(reopened.erasure_record(), ErasureRecord { number: 3, digest: [3; 32] });
        assert_eq!(reopened.root(1).unwrap().expose(), keyring.root(1).unwrap().expose());
    }
}
