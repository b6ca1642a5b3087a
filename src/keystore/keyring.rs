//! The keyring: root keys, the signing seed and the erasure counter, in a directory of their own.
//!
//! Owns: which roots there are, in memory and in the directory, and the erasure record (`files` has their bytes). Must not
//! know: what the keys wrap or sign. Keeps its part of invariant 8: the erasure record here is the witness outside both
//! databases that tells a restored backup from the present, so it is replaced atomically and never goes back. Several nodes
//! may share one directory: whatever is changed is changed under a lock of it, after it was read again.

mod files;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::crash;
use crate::event::StoreId;
use crate::keystore::commitment;
use crate::keystore::epoch::Epoch;
use crate::secret::Secret32;

use files::{
    SIGNING_FILE, STORE_FILE, beside, check_private, io, overwrite_and_remove, read_key, read_store, remove_if_there,
    root_file, roots_in, store_text, sync_dir, sync_parent, write_new,
};

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
    /// The latest root wraps what is in use; it is never destroyed.
    #[error("the root of epoch {epoch} is the latest and in use")]
    InUse {
        /// Its epoch.
        epoch: u32,
    },
}

/// An open keyring. The signing seed is read once; roots come and go. All stay in zeroised memory.
#[derive(Debug)]
pub struct Keyring {
    dir: PathBuf,
    store: StoreId,
    /// Whoever computes with a root holds it; its memory is zeroised when the last of them is done.
    roots: RwLock<BTreeMap<u32, Arc<Secret32>>>,
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

    /// Opens a keyring. Epochs may be missing: their roots were destroyed.
    ///
    /// # Errors
    /// [`KeyringError`] names the file and what is wrong with it. Nothing is repaired.
    pub fn open(dir: &Path) -> Result<Self, KeyringError> {
        let handle = File::open(dir).map_err(|error| io(dir, &error))?;
        check_private(dir, &handle)?;
        let mut roots = BTreeMap::new();
        for (epoch, path) in roots_in(dir)? {
            match read_key(&path) {
                Ok(root) => drop(roots.insert(epoch, Arc::new(root))),
                // Another node destroyed it between listing and reading.
                Err(KeyringError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        if roots.is_empty() {
            return Err(KeyringError::Missing { path: dir.join(root_file(1)) });
        }
        let signing = read_key(&dir.join(SIGNING_FILE))?;
        let (store, record) = read_store(dir)?;
        Ok(Self { dir: dir.to_owned(), store, roots: RwLock::new(roots), signing, record: Mutex::new(record) })
    }

    /// The store this keyring belongs to.
    pub fn store_id(&self) -> StoreId {
        self.store
    }

    /// The root key of an epoch, if it is (still) here. To be held for one computation.
    pub fn root(&self, epoch: u32) -> Option<Arc<Secret32>> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).get(&epoch).map(Arc::clone)
    }

    /// The epoch new keys are wrapped in: the latest.
    pub fn epoch(&self) -> u32 {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).last_key_value().map_or(0, |(epoch, _)| *epoch)
    }

    /// The epochs whose roots are here, ascending.
    pub fn epochs(&self) -> Vec<u32> {
        self.roots.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }

    /// Makes a root after all there are, durably, and then lets it be used. One that was there before may have been used, by
    /// a keystore that was lost or replaced since. Whoever calls this sees to it that nobody else does for the same epoch.
    ///
    /// # Errors
    /// [`KeyringError`]; what a crash leaves behind was never a root.
    pub fn begin_epoch(&self) -> Result<u32, KeyringError> {
        let _lock = self.exclusive()?;
        self.read_roots()?;
        let latest = self.epoch();
        let epoch = latest.checked_add(1).ok_or(KeyringError::InUse { epoch: latest })?;
        crash::point("epoch.before-root");
        let path = self.dir.join(root_file(epoch));
        let temporary = path.with_extension("new");
        remove_if_there(&temporary)?;
        let root = Secret32::generate().map_err(|_| KeyringError::Entropy)?;
        write_new(&temporary, root.expose())?;
        // Under the lock nobody else made it, and a root is never replaced: a link is refused where there is a file.
        std::fs::hard_link(&temporary, &path).map_err(|error| io(&path, &error))?;
        remove_if_there(&temporary)?;
        sync_dir(&self.dir)?;
        crash::point("epoch.root-stored");
        self.write_roots(|roots| drop(roots.insert(epoch, Arc::new(root))));
        Ok(epoch)
    }

    /// Destroys a root: overwrites its file where it lies, removes it, and lets go of it in memory. Doing so again, or after
    /// another node has, changes nothing.
    ///
    /// # Errors
    /// [`KeyringError::InUse`] for the latest root; otherwise what the operating system refused, and it may be repeated.
    pub fn destroy_root(&self, epoch: u32) -> Result<(), KeyringError> {
        let _lock = self.exclusive()?;
        self.read_roots()?;
        if epoch >= self.epoch() {
            return Err(KeyringError::InUse { epoch });
        }
        self.write_roots(|roots| drop(roots.remove(&epoch)));
        let path = self.dir.join(root_file(epoch));
        overwrite_and_remove(&path)?;
        // A crash while it was made may have left a second name for the same bytes.
        remove_if_there(&path.with_extension("new"))?;
        sync_dir(&self.dir)?;
        crash::point("epoch.root-removed");
        Ok(())
    }

    /// Destroys again what an epoch destroyed: a copy of the directory from before may have been put in its place.
    pub fn keep_destroyed<'e>(&self, epochs: impl IntoIterator<Item = &'e Epoch>) {
        for Epoch { epoch, .. } in epochs.into_iter().filter(|epoch| epoch.destroyed.is_some()) {
            if self.root(*epoch).is_some() {
                match self.destroy_root(*epoch) {
                    Ok(()) => {
                        tracing::warn!(epoch, "a root key that was destroyed had come back; it is destroyed again");
                    }
                    Err(error) => tracing::error!(epoch, error = %error, "a root key that was destroyed has come back"),
                }
            }
        }
    }

    /// Reads the directory again: another node may have begun an epoch, destroyed a root or witnessed an erasure.
    ///
    /// # Errors
    /// [`KeyringError`]; then memory stays as it was.
    pub fn refresh(&self) -> Result<(), KeyringError> {
        // Memory before the directory, as whoever writes the record does.
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = File::open(&self.dir).map_err(|error| io(&self.dir, &error))?;
        handle.lock_shared().map_err(|error| io(&self.dir, &error))?;
        self.read_roots()?;
        self.read_record(&mut record)
    }

    /// Seed of the Ed25519 key that signs tree heads and certificates.
    pub fn signing_seed(&self) -> &Secret32 {
        &self.signing
    }

    /// The last erasure witnessed here.
    pub fn erasure_record(&self) -> ErasureRecord {
        // The value is replaced in one assignment after the file is durable, so a poisoned lock guards a whole value.
        *self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Witnesses an erasure durably. Repeating the last one changes nothing.
    ///
    /// # Errors
    /// [`KeyringError::NotMonotone`] for a number below the last, or the last with another digest; another node may have
    /// witnessed it.
    pub fn record_erasure(&self, number: u64, digest: [u8; 32]) -> Result<(), KeyringError> {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        let next = ErasureRecord { number, digest };
        if *record == next {
            return Ok(());
        }
        let _lock = self.exclusive()?;
        self.read_record(&mut record)?;
        if *record == next {
            return Ok(());
        }
        if number <= record.number {
            return Err(KeyringError::NotMonotone { witnessed: record.number, given: number });
        }
        crash::point("keyring.before-record");
        let (path, temporary) = (self.dir.join(STORE_FILE), self.dir.join("store.new"));
        remove_if_there(&temporary)?;
        write_new(&temporary, store_text(self.store, next).as_bytes())?;
        std::fs::rename(&temporary, &path).map_err(|error| io(&path, &error))?;
        sync_dir(&self.dir)?;
        crash::point("keyring.after-record");
        *record = next;
        Ok(())
    }

    /// The lock of whoever changes the directory, held as long as the handle lives. On the directory itself, so that there
    /// is no further file to be lost or copied.
    fn exclusive(&self) -> Result<File, KeyringError> {
        let handle = File::open(&self.dir).map_err(|error| io(&self.dir, &error))?;
        handle.lock().map_err(|error| io(&self.dir, &error))?;
        Ok(handle)
    }

    /// Roots in memory become those of the directory. A directory that has neither the latest one nor a later one is not this
    /// keyring (a volume that is not mounted, say) and changes nothing.
    fn read_roots(&self) -> Result<(), KeyringError> {
        let there = roots_in(&self.dir)?;
        let latest = self.epoch();
        if there.last_key_value().is_none_or(|(newest, _)| *newest < latest) {
            return Err(KeyringError::Missing { path: self.dir.join(root_file(latest)) });
        }
        let mut new = Vec::new();
        for (epoch, path) in there.iter().filter(|(epoch, _)| self.root(**epoch).is_none()) {
            match read_key(path) {
                Ok(root) => new.push((*epoch, Arc::new(root))),
                Err(KeyringError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.write_roots(|roots| {
            roots.retain(|epoch, _| there.contains_key(epoch));
            roots.extend(new);
        });
        Ok(())
    }

    fn read_record(&self, record: &mut ErasureRecord) -> Result<(), KeyringError> {
        let (store, found) = read_store(&self.dir)?;
        if store != self.store {
            return Err(KeyringError::Malformed { path: self.dir.join(STORE_FILE) });
        }
        // Never back: an older file is somebody's copy put in place of ours.
        if found.number >= record.number {
            *record = found;
        }
        Ok(())
    }

    fn write_roots(&self, change: impl FnOnce(&mut BTreeMap<u32, Arc<Secret32>>)) {
        change(&mut self.roots.write().unwrap_or_else(PoisonError::into_inner));
    }
}

/// Identity of a root key in the records it wraps: the first half of its commitment.
pub fn root_id(root: &Secret32) -> [u8; 16] {
    let mut id = [0; 16];
    id.copy_from_slice(&commitment(root).0[..16]);
    id
}

#[cfg(test)]
mod tests {
    use std::io::Write;
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

    #[test]
    fn an_epoch_begins_with_a_root_that_nobody_had() {
        let (_temp, dir) = made();
        let (one, other) = (Keyring::open(&dir).unwrap(), Keyring::open(&dir).unwrap());
        std::fs::write(dir.join("root-00000002.new"), b"left by a crash").unwrap();
        assert_eq!((one.begin_epoch().unwrap(), other.epoch()), (2, 1));
        assert_eq!(other.begin_epoch().unwrap(), 3, "another process has used the second");
        assert_eq!(one.root(2).unwrap().expose(), other.root(2).unwrap().expose());
        assert_ne!(one.root(1).unwrap().expose(), one.root(2).unwrap().expose());
        assert!(!dir.join("root-00000002.new").exists());
        assert_eq!(std::fs::metadata(dir.join("root-00000002.key")).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_destroyed_root_is_gone_everywhere_and_the_latest_stays() {
        let (_temp, dir) = made();
        let (one, other) = (Keyring::open(&dir).unwrap(), Keyring::open(&dir).unwrap());
        assert_eq!(one.destroy_root(1), Err(KeyringError::InUse { epoch: 1 }));
        one.begin_epoch().unwrap();
        one.begin_epoch().unwrap();
        // Whoever looks at the file's bytes through a second name sees them go.
        let witness = dir.join("witness");
        std::fs::hard_link(dir.join("root-00000002.key"), &witness).unwrap();
        for _ in 0..2 {
            one.destroy_root(2).unwrap();
        }
        assert_eq!(std::fs::read(&witness).unwrap(), [0; 32]);
        assert!(one.root(2).is_none() && one.root(1).is_some());
        assert_eq!(one.destroy_root(3), Err(KeyringError::InUse { epoch: 3 }));
        other.refresh().unwrap();
        assert_eq!((other.epoch(), other.root(2).is_some()), (3, false));
        // Whoever has not looked for long finds even the root gone that was its latest.
        let late = Keyring::open(&dir).unwrap();
        one.begin_epoch().unwrap();
        one.destroy_root(3).unwrap();
        late.refresh().unwrap();
        assert_eq!(late.epochs(), [1, 4]);
        let reopened = Keyring::open(&dir).unwrap();
        assert_eq!((reopened.epoch(), reopened.epochs()), (4, vec![1, 4]));
        assert_eq!(reopened.begin_epoch().unwrap(), 5);
    }

    #[test]
    fn a_directory_that_lost_its_latest_root_changes_nothing_in_memory() {
        let (_temp, dir) = made();
        let keyring = Keyring::open(&dir).unwrap();
        std::fs::remove_file(dir.join("root-00000001.key")).unwrap();
        let missing = KeyringError::Missing { path: dir.join("root-00000001.key") };
        assert_eq!(keyring.refresh(), Err(missing.clone()));
        assert_eq!(keyring.begin_epoch(), Err(missing));
        assert!(keyring.root(1).is_some());
    }

    #[test]
    fn two_nodes_never_set_the_erasure_record_back() {
        let (_temp, dir) = made();
        let (one, other) = (Keyring::open(&dir).unwrap(), Keyring::open(&dir).unwrap());
        one.record_erasure(5, [5; 32]).unwrap();
        assert_eq!(other.record_erasure(3, [3; 32]).unwrap_err(), KeyringError::NotMonotone { witnessed: 5, given: 3 });
        other.record_erasure(5, [5; 32]).unwrap();
        other.record_erasure(6, [6; 32]).unwrap();
        one.refresh().unwrap();
        assert_eq!(one.erasure_record(), ErasureRecord { number: 6, digest: [6; 32] });
        std::thread::scope(|scope| {
            for keyring in [&one, &other] {
                scope.spawn(|| (7..60).for_each(|n| drop(keyring.record_erasure(n, [n as u8; 32]))));
            }
        });
        assert_eq!(Keyring::open(&dir).unwrap().erasure_record().number, 59);
    }
}
