//! Making and opening the keystore's schema.
//!
//! Owns: the tables' steps, the keys that belong to nobody, and the checks between database, store and keyring. Must not
//! know: requests. Keeps invariant 8: opening never creates, creating never replaces, and a keystore that the keyring
//! does not open is refused before it serves anything.

use crate::clock::Millis;
use crate::db::postgres::{Connection, PgError, migrate};
use crate::db::{Migration, OpenError};
use crate::event::StoreId;
use crate::keystore::keyring::{Keyring, root_id};
use crate::keystore::records::NOBODY;
use crate::keystore::wrap::{WrapContext, unwrap, wrap, wrapped_by};
use crate::keystore::{Dek, KeystoreOpenError, Kid, ServiceKeys};
use crate::secret::Entropy;

/// The schema of a database that holds a keystore.
pub const SCHEMA: &str = "oubliette_keys";

/// The tables, step by step; the numbers are those of formats.
pub const MIGRATIONS: &[Migration] = &[
    Migration { version: 1, sql: include_str!("../../../migrations/keys/postgres/0001_keystore.sql") },
    Migration { version: 2, sql: include_str!("../../../migrations/keys/postgres/0002_natural_keys.sql") },
    Migration { version: 3, sql: include_str!("../../../migrations/keys/postgres/0003_epochs.sql") },
    Migration { version: 4, sql: include_str!("../../../migrations/keys/postgres/0004_nodes.sql") },
];
const FORMAT: i64 = 4;
const SECRETS: [&str; 4] = ["subject-map", "cursor", "idempotency", "natural-key"];

/// Keys that belong to nobody.
pub struct Secrets {
    pub subject_map: Dek,
    pub natural_key: Dek,
    pub service: ServiceKeys,
}

/// Whether there is a keystore: what an interrupted creation left has no row in `meta` and holds nothing.
pub async fn exists(connection: &Connection, schema: &str) -> Result<bool, PgError> {
    if migrate::format(connection, schema).await?.is_none() {
        return Ok(false);
    }
    Ok(connection.row("select 1 from meta", &[]).await?.is_some())
}

/// Makes the keystore.
pub async fn create(
    connection: &Connection,
    schema: &str,
    store: StoreId,
    keyring: &Keyring,
    now: Millis,
    entropy: &Entropy,
) -> Result<(), KeystoreOpenError> {
    if keyring.store_id() != store {
        return Err(KeystoreOpenError::KeyringMismatch);
    }
    if exists(connection, schema).await? {
        return Err(KeystoreOpenError::Exists);
    }
    migrate::migrate(connection, schema, MIGRATIONS).await?;
    connection.batch("begin").await?;
    let sql = "insert into meta (id, store, format, created_ms) values (1, $1, $2, $3) on conflict do nothing";
    if connection.execute(sql, &[&store.0.as_slice(), &FORMAT, &now.0]).await? == 0 {
        connection.batch("rollback").await?;
        return Err(KeystoreOpenError::Exists);
    }
    let epoch = keyring.epoch();
    let root = keyring.root(epoch).ok_or(KeystoreOpenError::KeyringMismatch)?;
    for name in SECRETS {
        let key = Dek::generate().map_err(|_| KeystoreOpenError::Entropy)?;
        let nonce = entropy.draw().map_err(|_| KeystoreOpenError::Entropy)?;
        let (purpose, kek_id) = (format!("${name}"), root_id(&root));
        let wrapped = wrap(&root, &context(&kek_id, epoch, &store, &purpose), &key, nonce);
        let sql = "insert into secrets (name, epoch, kid, wrapped) values ($1, $2, $3, $4)";
        let kid = key.kid();
        connection.execute(sql, &[&name, &i64::from(epoch), &kid.0.as_slice(), &wrapped.as_slice()]).await?;
    }
    let first = "insert into epochs (epoch, began_ms, finished_ms, erasure) values ($1, $2, $2, 0)
                 on conflict (epoch) do nothing";
    connection.execute(first, &[&i64::from(epoch), &now.0]).await?;
    Ok(connection.batch("commit").await?)
}

/// Brings the tables to their newest format and opens the keys that belong to nobody.
pub async fn open(
    connection: &Connection,
    schema: &str,
    store: StoreId,
    keyring: &Keyring,
) -> Result<Secrets, KeystoreOpenError> {
    if !exists(connection, schema).await? {
        return Err(KeystoreOpenError::Missing);
    }
    let meta = connection.row("select store, format from meta where id = 1", &[]).await?;
    let meta = meta.ok_or(KeystoreOpenError::Corrupt)?;
    let (found, format): (&[u8], i64) =
        (meta.try_get(0).map_err(PgError::from)?, meta.try_get(1).map_err(PgError::from)?);
    if !(1..=FORMAT).contains(&format) {
        return Err(KeystoreOpenError::Format(format));
    }
    if found != store.0 {
        return Err(KeystoreOpenError::StoreMismatch);
    }
    if keyring.store_id() != store {
        return Err(KeystoreOpenError::KeyringMismatch);
    }
    let [subject_map, cursor, idempotency, natural_key] = SECRETS;
    let subject_map = secret(connection, store, keyring, subject_map).await?;
    let cursor = secret(connection, store, keyring, cursor).await?.into_secret();
    let idempotency = secret(connection, store, keyring, idempotency).await?.into_secret();
    // After a secret has opened: nothing is changed in a keystore that is not ours.
    migrate::migrate(connection, schema, MIGRATIONS).await?;
    let natural_key = secret(connection, store, keyring, natural_key).await?;
    Ok(Secrets { subject_map, natural_key, service: ServiceKeys { cursor, idempotency } })
}

async fn secret(
    connection: &Connection,
    store: StoreId,
    keyring: &Keyring,
    name: &str,
) -> Result<Dek, KeystoreOpenError> {
    let row = connection.row("select epoch, kid, wrapped from secrets where name = $1", &[&name]).await?;
    let row = row.ok_or(KeystoreOpenError::Corrupt)?;
    let epoch: i64 = row.try_get(0).map_err(PgError::from)?;
    let kid: &[u8] = row.try_get(1).map_err(PgError::from)?;
    let wrapped: &[u8] = row.try_get(2).map_err(PgError::from)?;
    let epoch = u32::try_from(epoch).map_err(|_| KeystoreOpenError::Corrupt)?;
    // Another node may have begun an epoch since the keyring was read.
    let found = keyring.root(epoch).or_else(|| keyring.refresh().ok().and_then(|()| keyring.root(epoch)));
    let root = found.ok_or_else(|| KeystoreOpenError::without_root(keyring, epoch))?;
    let kek_id = root_id(&root);
    // Which root made the record is written in it: another keyring and damaged rows are told apart.
    match wrapped_by(wrapped) {
        Some((found, _)) if found == kek_id => {}
        Some(_) => return Err(KeystoreOpenError::KeyringMismatch),
        None => return Err(KeystoreOpenError::Corrupt),
    }
    let kid = Kid(kid.try_into().map_err(|_| KeystoreOpenError::Corrupt)?);
    let purpose = format!("${name}");
    unwrap(&root, &context(&kek_id, epoch, &store, &purpose), wrapped, &kid).map_err(|_| KeystoreOpenError::Corrupt)
}

fn context<'a>(kek_id: &'a [u8; 16], epoch: u32, store: &'a StoreId, purpose: &'a str) -> WrapContext<'a> {
    WrapContext { kek_id, epoch, store, subject: &NOBODY, purpose, generation: 0 }
}

impl From<PgError> for KeystoreOpenError {
    fn from(error: PgError) -> Self {
        match error {
            PgError::Type => Self::Corrupt,
            other => Self::Database(other.reason()),
        }
    }
}

impl From<OpenError> for KeystoreOpenError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Newer { found, .. } => Self::Format(i64::from(found)),
            OpenError::Unusable { reason } => Self::Database(reason),
            OpenError::Missing => Self::Missing,
            OpenError::Exists => Self::Exists,
            OpenError::Locked => Self::Locked,
            OpenError::Setting { pragma } => Self::Setting(pragma),
        }
    }
}
