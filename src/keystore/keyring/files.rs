//! The keyring's files.
//!
//! Owns: their names, their bytes, their permissions, and how they are made durable and overwritten. Must not know: which
//! roots are in use.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{ErasureRecord, KeyringError};
use crate::crash;
use crate::durable;
use crate::event::StoreId;
use crate::secret::Secret32;

pub(super) const STORE_FILE: &str = "store";
pub(super) const SIGNING_FILE: &str = "audit-signing.key";
const FORMAT_LINE: &str = "oubliette-keyring 1";
/// Bits that would let anyone but the owner in.
const OTHERS: u32 = 0o077;

/// The root keys in a directory, by epoch.
pub(super) fn roots_in(dir: &Path) -> Result<BTreeMap<u32, PathBuf>, KeyringError> {
    let mut roots = BTreeMap::new();
    for entry in std::fs::read_dir(dir).map_err(|error| io(dir, &error))? {
        let entry = entry.map_err(|error| io(dir, &error))?;
        if let Some(epoch) = entry.file_name().to_str().and_then(root_epoch) {
            roots.insert(epoch, entry.path());
        }
    }
    Ok(roots)
}

/// Overwrites a key file where it lies, with noise and then with zeros, each on the medium before the next, and removes it.
/// That it is gone is no error. Whether the medium writes in place is the operator's to see to (`docs/formats.md`).
pub(super) fn overwrite_and_remove(path: &Path) -> Result<(), KeyringError> {
    let file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io(path, &error)),
    };
    crash::point("epoch.before-destroy");
    let noise = Secret32::generate().map_err(|_| KeyringError::Entropy)?;
    for bytes in [noise.expose(), &[0; 32]] {
        file.write_all_at(bytes, 0).and_then(|()| file.sync_data()).map_err(|error| io(path, &error))?;
    }
    crash::point("epoch.root-overwritten");
    remove_if_there(path)
}

/// What the file `store` says.
pub(super) fn read_store(dir: &Path) -> Result<(StoreId, ErasureRecord), KeyringError> {
    let path = dir.join(STORE_FILE);
    let file = open_private(&path)?;
    let mut text = String::new();
    file.take(4096).read_to_string(&mut text).map_err(|error| io(&path, &error))?;
    parse_store(&text).ok_or(KeyringError::Malformed { path })
}

/// Removes a file; that it is gone is no error.
pub(super) fn remove_if_there(path: &Path) -> Result<(), KeyringError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(io(path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn root_file(epoch: u32) -> String {
    format!("root-{epoch:08}.key")
}

fn root_epoch(name: &str) -> Option<u32> {
    let digits = name.strip_prefix("root-")?.strip_suffix(".key")?;
    if digits.len() != 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

pub(super) fn store_text(store: StoreId, record: ErasureRecord) -> String {
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
pub(super) fn beside(dir: &Path) -> PathBuf {
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    dir.with_file_name(name)
}

pub(super) fn read_key(path: &Path) -> Result<Secret32, KeyringError> {
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
pub(super) fn check_private(path: &Path, file: &File) -> Result<(), KeyringError> {
    let mode = file.metadata().map_err(|error| io(path, &error))?.mode() & 0o7777;
    if mode & OTHERS == 0 { Ok(()) } else { Err(KeyringError::Permissions { path: path.to_owned(), mode }) }
}

pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), KeyringError> {
    let mut file =
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| io(path, &error))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|error| io(path, &error))
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), KeyringError> {
    File::open(dir).and_then(|handle| handle.sync_all()).map_err(|error| io(dir, &error))
}

pub(super) fn sync_parent(dir: &Path) -> Result<(), KeyringError> {
    durable::sync_parent(dir).map_err(|error| io(dir, &error))
}

pub(super) fn io(path: &Path, error: &std::io::Error) -> KeyringError {
    let path = path.to_owned();
    match error.kind() {
        ErrorKind::NotFound => KeyringError::Missing { path },
        kind => KeyringError::Io { path, kind },
    }
}
