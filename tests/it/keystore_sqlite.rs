//! The embedded keystore: the conformance suite on it, and what only a file can get wrong.

use std::path::PathBuf;
use std::sync::Arc;

use oubliette::clock::{Clock, Millis};
use oubliette::event::{StoreId, SubjectKey, SubjectRef};
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::sqlite::{KeystoreOpenError, SqliteKeystore};
use oubliette::keystore::{Keystore, Resolved};
use oubliette::secret::Entropy;
use rusqlite::config::DbConfig;

use crate::conformance::keystore::{
    Copy, Rig, contact, granted, keystore_suite, order, rotate, settle, times, want, want_as,
};

const STORE: StoreId = StoreId([7; 16]);

/// A directory with a keyring and a keystore.
pub struct SqliteRig {
    dir: tempfile::TempDir,
    keyring: Arc<Keyring>,
}

impl SqliteRig {
    fn path(&self) -> PathBuf {
        self.dir.path().join("keys.db")
    }

    fn keyring_of(&self, name: &str, store: StoreId) -> Arc<Keyring> {
        Arc::new(Keyring::create(&self.dir.path().join(name), store).unwrap())
    }

    fn create(&self) -> Result<SqliteKeystore, KeystoreOpenError> {
        let clock = Clock::manual(Millis(1));
        SqliteKeystore::create(&self.path(), STORE, Arc::clone(&self.keyring), &clock, Arc::new(Entropy::system()))
    }

    fn open_as(&self, store: StoreId, keyring: &Arc<Keyring>) -> Result<SqliteKeystore, KeystoreOpenError> {
        SqliteKeystore::open(&self.path(), store, Arc::clone(keyring), Arc::new(Entropy::system()))
    }

    /// A connection that leaves the write-ahead log as it is.
    fn raw(&self) -> rusqlite::Connection {
        let conn = rusqlite::Connection::open(self.path()).unwrap();
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
        conn
    }
}

impl Rig for SqliteRig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::create(&dir.path().join("keyring"), STORE).unwrap());
        Self { dir, keyring }
    }

    fn open(&self) -> Arc<dyn Keystore> {
        Arc::new(if self.path().exists() { self.open_as(STORE, &self.keyring) } else { self.create() }.unwrap())
    }

    fn secrets(&self) -> Vec<(SubjectRef, Vec<u8>)> {
        let conn = self.raw();
        // From byte 28: what stands before is the same in all records of a shard.
        let mut rows = conn
            .prepare(
                "select subject, substr(wrapped, 29) from deks join key_slots using (slot)
                 union all select subject, sealed from subjects join id_slots using (slot)
                 union all select subject, entry from natural_people join natural_slots using (slot)",
            )
            .unwrap();
        let rows = rows.query_map([], |row| Ok((SubjectRef(row.get(0)?), row.get(1)?))).unwrap();
        rows.collect::<Result<_, _>>().unwrap()
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap().map(Result::unwrap);
        let files = entries.filter(|entry| entry.file_type().unwrap().is_file());
        files.map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())).collect()
    }

    /// The file is locked: what is read is a copy of it, as a thief's would be.
    fn copy(&self) -> Copy {
        let dir = tempfile::tempdir().unwrap();
        for (name, bytes) in self.files().into_iter().filter(|(name, _)| name.starts_with("keys.db")) {
            std::fs::write(dir.path().join(name), bytes).unwrap();
        }
        let conn = rusqlite::Connection::open(dir.path().join("keys.db")).unwrap();
        let mut copy = Copy::default();
        let sql = "select shard, kek_id, epoch, root, kid, wrapped from keks join kek_slots using (slot)";
        let mut rows = conn.prepare(sql).unwrap();
        let keks = rows
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)));
        copy.keks.extend(keks.unwrap().map(Result::unwrap));
        let sql = "select subject, purpose, generation, kid, wrapped from deks join key_slots using (slot)";
        let mut rows = conn.prepare(sql).unwrap();
        let deks = rows.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)));
        copy.deks.extend(deks.unwrap().map(Result::unwrap));
        copy
    }

    fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    fn store(&self) -> StoreId {
        STORE
    }
}

keystore_suite!(SqliteRig);

#[tokio::test]
async fn opening_never_creates_and_creating_never_replaces() {
    let rig = SqliteRig::new();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::Missing));
    assert!(!rig.path().exists());
    drop(rig.create().unwrap());
    assert_eq!(rig.create().err(), Some(KeystoreOpenError::Exists));
    // A crash before the first commit leaves an empty file: no keystore yet, and free to become one.
    std::fs::remove_file(rig.path()).unwrap();
    std::fs::write(rig.path(), b"").unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::NotAKeystore));
    drop(rig.create().unwrap());
    rig.open_as(STORE, &rig.keyring).unwrap();
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let rig = SqliteRig::new();
    let keys = rig.create().unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::Locked));
    keys.close().await;
    rig.open_as(STORE, &rig.keyring).unwrap();
}

#[tokio::test]
async fn the_wrong_store_and_the_wrong_keyring_are_told_apart() {
    let rig = SqliteRig::new();
    drop(rig.create().unwrap());
    let other = StoreId([8; 16]);
    assert_eq!(rig.open_as(other, &rig.keyring).err(), Some(KeystoreOpenError::StoreMismatch));
    for (name, store) in [("same-store", STORE), ("other-store", other)] {
        let keyring = rig.keyring_of(name, store);
        assert_eq!(rig.open_as(STORE, &keyring).err(), Some(KeystoreOpenError::KeyringMismatch));
    }
    let clock = Clock::manual(Millis(1));
    let path = rig.dir.path().join("second.db");
    let made = SqliteKeystore::create(&path, other, Arc::clone(&rig.keyring), &clock, Arc::new(Entropy::system()));
    assert_eq!(made.err(), Some(KeystoreOpenError::KeyringMismatch));
}

#[tokio::test]
async fn foreign_and_damaged_files_are_refused() {
    let rig = SqliteRig::new();
    std::fs::write(rig.path(), vec![0x5a; 8192]).unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::NotAKeystore));
    std::fs::remove_file(rig.path()).unwrap();
    rig.raw().execute_batch("create table t (x)").unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::NotAKeystore));
    assert_eq!(rig.create().err(), Some(KeystoreOpenError::Exists));
    for (damage, error) in [
        ("update meta set format = 5", KeystoreOpenError::Format(5)),
        ("update meta set format = 0", KeystoreOpenError::Format(0)),
        ("delete from secrets where name = 'natural-key'", KeystoreOpenError::Corrupt),
        ("delete from meta", KeystoreOpenError::Corrupt),
        ("delete from secrets where name = 'cursor'", KeystoreOpenError::Corrupt),
        ("update secrets set wrapped = zeroblob(88)", KeystoreOpenError::Corrupt),
        ("update secrets set kid = zeroblob(32)", KeystoreOpenError::Corrupt),
    ] {
        let rig = SqliteRig::new();
        rig.create().unwrap().close().await;
        rig.raw().execute_batch(damage).unwrap();
        assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(error), "{damage}");
    }
}

#[tokio::test]
async fn a_damaged_key_is_corrupt_and_never_erased_and_its_neighbours_live() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    let (ada, deks) = granted(&*keys, want("ada", &["general"])).await;
    let (_, bens) = granted(&*keys, want("ben", &["general"])).await;
    keys.close().await;
    rig.raw()
        .execute(
            "update key_slots set wrapped = zeroblob(88)
             where slot in (select slot from deks where subject = ?1 and purpose <> '$identity')",
            [ada.0],
        )
        .unwrap();
    let keys = rig.open();
    let (bad, good) = tokio::join!(keys.fetch(vec![deks[0].0.clone()]), keys.fetch(vec![bens[0].0.clone()]));
    assert!(matches!(bad, Err(oubliette::keystore::KeystoreError::Corrupt { table: "key_slots", .. })));
    assert!(good.is_ok());
    // And it can still be forgotten.
    assert_eq!(keys.destroy(order(ada, &[], 1)).await.unwrap().keys.len(), 2);
}

/// Takes epochs out of a keystore: what format 2 left.
const WITHOUT_EPOCHS: &str =
    "drop table nodes; drop table revocations; drop table leaders; alter table meta drop column revocation;
     drop table epochs;
    create table before as select shard, kek_id, epoch, kid, wrapped from keks join kek_slots using (slot);
    drop table keks; drop table kek_slots; alter table before rename to keks; update meta set format = 2;";

/// A keystore as format 1 left it is brought to the present one where it lies, once, and everything in it stays.
#[tokio::test]
async fn a_keystore_of_format_1_is_upgraded_in_place() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    let before = granted(&*keys, want("ada", &["general"])).await;
    keys.close().await;
    let back = format!(
        "begin; {WITHOUT_EPOCHS} drop table natural_people; drop table blind_index; drop table natural_slots;
        delete from secrets where name = 'natural-key'; update meta set format = 1; commit"
    );
    rig.raw().execute_batch(&back).unwrap();
    // Another store's keyring changes nothing.
    let other = rig.keyring_of("other", STORE);
    assert_eq!(rig.open_as(STORE, &other).err(), Some(KeystoreOpenError::KeyringMismatch));
    let format =
        |rig: &SqliteRig| -> i64 { rig.raw().query_row("select format from meta", [], |row| row.get(0)).unwrap() };
    assert_eq!(format(&rig), 1);
    let keys = rig.open();
    assert_eq!(granted(&*keys, want("ada", &["general"])).await, before);
    let by_name = want_as(SubjectKey::Natural(contact("Ada King")), &["general"]);
    let by_name = granted(&*keys, by_name).await.0;
    keys.close().await;
    assert_eq!(format(&rig), 4);
    let keys = rig.open();
    assert_eq!(keys.resolve_natural(vec![contact("Ada King")]).await.unwrap(), [Resolved::Known(by_name)]);
    assert_eq!(granted(&*keys, want("ada", &["general"])).await, before);
}

#[tokio::test]
async fn service_keys_are_stable_and_distinct() {
    let rig = SqliteRig::new();
    let first = rig.create().unwrap().service_keys();
    let second = rig.open_as(STORE, &rig.keyring).unwrap().service_keys();
    assert_eq!(first.cursor.expose(), second.cursor.expose());
    assert_eq!(first.idempotency.expose(), second.idempotency.expose());
    assert_ne!(first.cursor.expose(), first.idempotency.expose());
}

#[tokio::test]
async fn closing_keeps_the_write_ahead_log_and_its_blocks() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    granted(&*keys, want("ada", &["general"])).await;
    let length = |rig: &SqliteRig| std::fs::metadata(rig.dir.path().join("keys.db-wal")).unwrap().len();
    let before = length(&rig);
    keys.close().await;
    assert!(length(&rig) >= before && before > 0);
}

/// Who was forgotten before there were epochs is covered by the first one: all shards count as dirty.
#[tokio::test]
async fn a_keystore_of_format_2_is_upgraded_and_its_forgotten_are_covered() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    let before = granted(&*keys, want("ada", &["general"])).await;
    let (ben, _) = granted(&*keys, want("ben", &["general"])).await;
    keys.destroy(order(ben, &[], 1)).await.unwrap();
    keys.close().await;
    rig.raw().execute_batch(&format!("begin; {WITHOUT_EPOCHS} commit")).unwrap();
    let keys = rig.open();
    let status = keys.epochs().await.unwrap();
    assert_eq!((status.shards, status.dirty_shards, status.epochs.len()), (2, 2, 1));
    assert!(status.is_due_for_another() && !status.is_running());
    let status = rotate(&*keys, 1000, 0).await;
    assert_eq!((status.newest().unwrap().shards_rekeyed, status.effective_erasure()), (2, 1));
    assert_eq!(granted(&*keys, want("ada", &["general"])).await, before);
}

/// A copy from before a root was destroyed says so, instead of looking like somebody else's.
#[tokio::test]
async fn a_copy_whose_root_is_gone_is_refused_with_the_reason() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    granted(&*keys, want("ada", &["general"])).await;
    keys.close().await;
    let copy = std::fs::read(rig.path()).unwrap();
    let log = std::fs::read(rig.dir.path().join("keys.db-wal")).unwrap();
    let keys = rig.open();
    rotate(&*keys, 1000, 0).await;
    keys.close().await;
    std::fs::write(rig.path(), copy).unwrap();
    std::fs::write(rig.dir.path().join("keys.db-wal"), log).unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).err(), Some(KeystoreOpenError::RootDestroyed(1)));
}

/// A keystore from before an epoch began, whose root is still there, is taken along by the next epoch.
#[tokio::test]
async fn an_older_keystore_is_taken_up_by_a_newer_keyring() {
    let rig = SqliteRig::new();
    let keys = rig.open();
    let before = granted(&*keys, want("ada", &["general"])).await;
    keys.close().await;
    let copies = ["keys.db", "keys.db-wal"].map(|name| (name, std::fs::read(rig.dir.path().join(name)).unwrap()));
    let keys = rig.open();
    rotate(&*keys, 1000, 7).await;
    rotate(&*keys, 2000, 7).await;
    keys.close().await;
    for (name, bytes) in copies {
        std::fs::write(rig.dir.path().join(name), bytes).unwrap();
    }
    let keys = rig.open();
    let status = settle(&*keys, oubliette::clock::Millis(3000), &times(0)).await;
    let numbers: Vec<u32> = status.epochs.iter().map(|epoch| epoch.epoch).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    // The roots of epochs that this keystore never saw are destroyed too: other copies are from then.
    assert!(status.epochs[..3].iter().all(|epoch| epoch.destroyed.is_some()));
    assert_eq!(rig.keyring.epochs(), [4]);
    assert_eq!(granted(&*keys, want("ada", &["general"])).await, before);
}
