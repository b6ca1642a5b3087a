//! Making and opening the keystore's file.
//!
//! Owns: the connection's settings, the migrations, and the checks between file, store and keyring. Must not
//! know: requests. Keeps invariant 8: opening never creates, creating never replaces, and a keystore that the keyring
//! does not open is refused before it serves anything.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};

use crate::clock::Millis;
use crate::durable;
use crate::event::StoreId;
use crate::keystore::keyring::{Keyring, root_id};
use crate::keystore::records::NOBODY;
use crate::keystore::wrap::{WrapContext, unwrap, wrap, wrapped_by};
use crate::keystore::{Dek, Kid};
use crate::secret::Entropy;

use crate::keystore::{KeystoreOpenError, ServiceKeys};

const MIGRATION: &str = include_str!("../../../migrations/keys/sqlite/0001_keystore.sql");
/// From format 1 to 2; also sets the format.
const NATURAL_KEYS: &str = include_str!("../../../migrations/keys/sqlite/0002_natural_keys.sql");
/// From format 2 to 3; also sets the format.
const EPOCHS: &str = include_str!("../../../migrations/keys/sqlite/0003_epochs.sql");
/// From format 3 to 4; also sets the format.
const NODES: &str = include_str!("../../../migrations/keys/sqlite/0004_nodes.sql");
/// `OUK1`, so that `file(1)` and we ourselves know what this is.
const APPLICATION_ID: i64 = 0x4F55_4B31;
const FIRST_FORMAT: i64 = 1;
const FORMAT: i64 = 4;
const SECRETS: [&str; 3] = ["subject-map", "cursor", "idempotency"];
/// The secret that format 2 added.
const NATURAL_KEY: &str = "natural-key";

/// An open file: the connection, and the keys that belong to nobody.
pub(super) struct Opened {
    pub(super) conn: Connection,
    pub(super) subject_map: Dek,
    pub(super) natural_key: Dek,
    pub(super) service: ServiceKeys,
}

/// Makes the keystore. A file in which nothing was ever committed (a crash during an earlier attempt) is taken over.
pub(super) fn create(
    path: &Path,
    store: StoreId,
    keyring: &Keyring,
    now: Millis,
    entropy: &Entropy,
) -> Result<Opened, KeystoreOpenError> {
    if keyring.store_id() != store {
        return Err(KeystoreOpenError::KeyringMismatch);
    }
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
    let file = options.open(path).map_err(|error| KeystoreOpenError::Io(error.kind()))?;
    file.sync_all().map_err(|error| KeystoreOpenError::Io(error.kind()))?;
    drop(file);
    let conn = connect(path)?;
    if conn.query_row("select count(*) from sqlite_schema", [], |row| row.get::<_, i64>(0))? > 0 {
        return Err(KeystoreOpenError::Exists);
    }
    conn.execute_batch("begin immediate")?;
    conn.execute_batch(MIGRATION)?;
    conn.pragma_update(None, "application_id", APPLICATION_ID)?;
    conn.execute(
        "insert into meta (id, store, format, created_ms) values (1, ?1, ?2, ?3)",
        params![store.0, FIRST_FORMAT, now.0],
    )?;
    for name in SECRETS {
        make_secret(&conn, store, keyring, entropy, name)?;
    }
    upgrade(&conn, store, keyring, entropy, FIRST_FORMAT)?;
    conn.execute_batch("commit")?;
    durable::sync_parent(path).map_err(|error| KeystoreOpenError::Io(error.kind()))?;
    verify(conn, store, keyring, entropy)
}

/// Opens an existing keystore.
pub(super) fn open(
    path: &Path,
    store: StoreId,
    keyring: &Keyring,
    entropy: &Entropy,
) -> Result<Opened, KeystoreOpenError> {
    match std::fs::metadata(path) {
        Ok(_) => verify(connect(path)?, store, keyring, entropy),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(KeystoreOpenError::Missing),
        Err(error) => Err(KeystoreOpenError::Io(error.kind())),
    }
}

/// Connects and applies every setting; the ones that erasure rests on are read back.
fn connect(path: &Path) -> Result<Connection, KeystoreOpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(std::time::Duration::ZERO)?;
    conn.set_prepared_statement_cache_capacity(64);
    // Closing the last connection would otherwise checkpoint and unlink the log, with what it still holds.
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, true)?;
    let settings: [(&str, &str, Option<&str>); 11] = [
        // The wash counts in pages of this size.
        ("page_size", "4096", Some("4096")),
        ("locking_mode", "exclusive", Some("exclusive")),
        // Before the first read: in this order the write-ahead index lives in memory and no second process gets in.
        ("journal_mode", "wal", Some("wal")),
        ("synchronous", "full", Some("2")),
        ("secure_delete", "on", Some("1")),
        ("temp_store", "memory", Some("2")),
        ("journal_size_limit", "-1", Some("-1")),
        ("wal_autocheckpoint", "64", Some("64")),
        ("trusted_schema", "off", Some("0")),
        ("foreign_keys", "on", Some("1")),
        ("cell_size_check", "on", None),
    ];
    for (name, value, expected) in settings {
        // Some pragmas answer when set and some do not, so the answer is always asked for separately.
        conn.execute_batch(&format!("pragma {name}={value}"))?;
        let found = conn.pragma_query_value(None, name, |row| {
            Ok(match row.get_ref(0)? {
                rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                rusqlite::types::ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                _ => String::new(),
            })
        })?;
        if expected.is_some_and(|expected| expected != found) {
            return Err(KeystoreOpenError::Setting(name));
        }
    }
    Ok(conn)
}

fn verify(conn: Connection, store: StoreId, keyring: &Keyring, entropy: &Entropy) -> Result<Opened, KeystoreOpenError> {
    let application: i64 = conn.pragma_query_value(None, "application_id", |row| row.get(0))?;
    if application != APPLICATION_ID {
        return Err(KeystoreOpenError::NotAKeystore);
    }
    let meta = conn
        .query_row("select store, format from meta where id = 1", [], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, i64>(1)?))
        })
        .optional()?;
    let (found, format) = meta.ok_or(KeystoreOpenError::Corrupt)?;
    if !(FIRST_FORMAT..=FORMAT).contains(&format) {
        return Err(KeystoreOpenError::Format(format));
    }
    if found != store.0 {
        return Err(KeystoreOpenError::StoreMismatch);
    }
    if keyring.store_id() != store {
        return Err(KeystoreOpenError::KeyringMismatch);
    }
    let secret = |name| secret(&conn, store, keyring, name);
    let subject_map = secret(SECRETS[0])?;
    let service =
        ServiceKeys { cursor: secret(SECRETS[1])?.into_secret(), idempotency: secret(SECRETS[2])?.into_secret() };
    if format < FORMAT {
        // After the secrets have opened: nothing is changed in a keystore that is not ours.
        conn.execute_batch("begin immediate")?;
        upgrade(&conn, store, keyring, entropy, format)?;
        conn.execute_batch("commit")?;
    }
    let natural_key = secret(NATURAL_KEY)?;
    Ok(Opened { conn, subject_map, natural_key, service })
}

/// From an older format to the present one, within the caller's transaction.
fn upgrade(
    conn: &Connection,
    store: StoreId,
    keyring: &Keyring,
    entropy: &Entropy,
    from: i64,
) -> Result<(), KeystoreOpenError> {
    if from < 2 {
        conn.execute_batch(NATURAL_KEYS)?;
        make_secret(conn, store, keyring, entropy, NATURAL_KEY)?;
    }
    if from < 3 {
        conn.execute_batch(EPOCHS)?;
    }
    Ok(conn.execute_batch(NODES)?)
}

fn make_secret(
    conn: &Connection,
    store: StoreId,
    keyring: &Keyring,
    entropy: &Entropy,
    name: &str,
) -> Result<(), KeystoreOpenError> {
    let epoch = keyring.epoch();
    let root = keyring.root(epoch).ok_or(KeystoreOpenError::KeyringMismatch)?;
    let key = Dek::generate().map_err(|_| KeystoreOpenError::Entropy)?;
    let nonce = entropy.draw().map_err(|_| KeystoreOpenError::Entropy)?;
    let (purpose, kek_id) = (format!("${name}"), root_id(&root));
    let context =
        WrapContext { kek_id: &kek_id, epoch, store: &store, subject: &NOBODY, purpose: &purpose, generation: 0 };
    conn.execute(
        "insert into secrets (name, epoch, kid, wrapped) values (?1, ?2, ?3, ?4)",
        params![name, epoch, key.kid().0, wrap(&root, &context, &key, nonce)],
    )?;
    Ok(())
}

fn secret(conn: &Connection, store: StoreId, keyring: &Keyring, name: &str) -> Result<Dek, KeystoreOpenError> {
    let row = conn
        .query_row("select epoch, kid, wrapped from secrets where name = ?1", [name], |row| {
            Ok((row.get::<_, u32>(0)?, row.get::<_, [u8; 32]>(1)?, row.get::<_, Vec<u8>>(2)?))
        })
        .optional()?;
    let (epoch, kid, wrapped) = row.ok_or(KeystoreOpenError::Corrupt)?;
    let root = keyring.root(epoch).ok_or_else(|| KeystoreOpenError::without_root(keyring, epoch))?;
    let kek_id = root_id(&root);
    // Which root made the record is written in it: another keyring and a damaged file are told apart.
    match wrapped_by(&wrapped) {
        Some((found, _)) if found == kek_id => {}
        Some(_) => return Err(KeystoreOpenError::KeyringMismatch),
        None => return Err(KeystoreOpenError::Corrupt),
    }
    let purpose = format!("${name}");
    let context =
        WrapContext { kek_id: &kek_id, epoch, store: &store, subject: &NOBODY, purpose: &purpose, generation: 0 };
    unwrap(&root, &context, &wrapped, &Kid(kid)).map_err(|_| KeystoreOpenError::Corrupt)
}

impl From<rusqlite::Error> for KeystoreOpenError {
    fn from(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Locked,
            Some(ErrorCode::NotADatabase) => Self::NotAKeystore,
            Some(ErrorCode::CannotOpen) => Self::Io(ErrorKind::PermissionDenied),
            Some(ErrorCode::SystemIoFailure | ErrorCode::DiskFull | ErrorCode::ReadOnly) => Self::Io(ErrorKind::Other),
            _ => Self::Corrupt,
        }
    }
}
