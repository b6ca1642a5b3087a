//! The keystore on PostgreSQL: the conformance suite on it, and what only a server can get wrong.

use std::sync::Arc;
use std::time::Duration;

use oubliette::clock::{Clock, Millis};
use oubliette::db::postgres::Target;
use oubliette::event::{StoreId, SubjectRef};
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::nodes::{Duty, Place, Renewal, Revocation, Revoked};
use oubliette::keystore::postgres::{PostgresKeystore, SCHEMA};
use oubliette::keystore::{Fetched, Keystore, KeystoreOpenError, Scope};
use oubliette::secret::Entropy;

use crate::conformance::keystore::{
    Copy, Rig, all_open, granted, keystore_suite, opened_by, order, populate, rotate, want,
};
use crate::postgres::{cluster, execute, files, query, wait};

const STORE: StoreId = StoreId([7; 16]);

/// A database for a keystore, and a directory with its keyring.
pub struct PostgresRig {
    dsn: String,
    dir: tempfile::TempDir,
    keyring: Arc<Keyring>,
}

impl PostgresRig {
    fn target(&self) -> Target {
        Target::parse(&self.dsn, SCHEMA).unwrap()
    }

    fn keyring_of(&self, name: &str, store: StoreId) -> Arc<Keyring> {
        Arc::new(Keyring::create(&self.dir.path().join(name), store).unwrap())
    }

    async fn create(&self) -> Result<PostgresKeystore, KeystoreOpenError> {
        let (clock, entropy) = (Clock::manual(Millis(1)), Arc::new(Entropy::system()));
        PostgresKeystore::create(self.target(), STORE, Arc::clone(&self.keyring), &clock, entropy, 4).await
    }

    async fn open_as(&self, store: StoreId, keyring: &Arc<Keyring>) -> Result<PostgresKeystore, KeystoreOpenError> {
        PostgresKeystore::open(self.target(), store, Arc::clone(keyring), Arc::new(Entropy::system()), 4).await
    }

    fn dsn_in_schema(&self) -> String {
        format!("{} options='-c search_path={SCHEMA}'", self.dsn)
    }
}

impl Rig for PostgresRig {
    fn new() -> Self {
        Self::place().expect("checked by whoever calls this")
    }

    fn place() -> Option<Self> {
        let dsn = cluster()?.database();
        let dir = tempfile::tempdir().unwrap();
        let keyring = Arc::new(Keyring::create(&dir.path().join("keyring"), STORE).unwrap());
        Some(Self { dsn, dir, keyring })
    }

    fn open(&self) -> Arc<dyn Keystore> {
        let open = async {
            let there = PostgresKeystore::exists(&self.target()).await.unwrap();
            if there { self.open_as(STORE, &self.keyring).await } else { self.create().await }
        };
        Arc::new(wait(open).unwrap())
    }

    fn secrets(&self) -> Vec<(SubjectRef, Vec<u8>)> {
        // From byte 28: what stands before is the same in all records of a shard.
        let sql = "select subject, substr(wrapped, 29) from deks join key_slots using (slot)
                   union all select subject, sealed from subjects join id_slots using (slot)
                   union all select subject, entry from natural_people join natural_slots using (slot)";
        let subject = |row: &tokio_postgres::Row| SubjectRef(row.get::<_, &[u8]>(0).try_into().unwrap());
        query(&self.dsn_in_schema(), sql).iter().map(|row| (subject(row), row.get(1))).collect()
    }

    /// Heaps and indexes of the database, as they are on the disk. Not the write-ahead log: of what was written into it the
    /// end of the epoch takes care.
    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let entries = std::fs::read_dir(files(&self.dsn)).unwrap().map(Result::unwrap);
        // A file that went away between listing and reading holds nothing any more.
        entries
            .filter_map(|entry| Some((entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).ok()?)))
            .collect()
    }

    fn copy(&self) -> Copy {
        let (dsn, mut copy) = (self.dsn_in_schema(), Copy::default());
        let array = |bytes: &[u8]| bytes.try_into().unwrap();
        for row in query(&dsn, "select shard, kek_id, epoch, root, kid, wrapped from keks join kek_slots using (slot)")
        {
            let number = |at| row.get::<_, i64>(at) as u32;
            copy.keks.push((
                number(0) as u8,
                array(row.get(1)),
                number(2),
                number(3),
                row.get::<_, &[u8]>(4).try_into().unwrap(),
                row.get(5),
            ));
        }
        let sql = "select subject, purpose, generation, kid, wrapped from deks join key_slots using (slot)";
        for row in query(&dsn, sql) {
            let kid = row.get::<_, &[u8]>(3).try_into().unwrap();
            copy.deks.push((array(row.get(0)), row.get(1), row.get::<_, i64>(2) as u32, kid, row.get(4)));
        }
        copy
    }

    fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    fn store(&self) -> StoreId {
        STORE
    }
}

keystore_suite!(PostgresRig);

#[tokio::test(flavor = "multi_thread")]
async fn opening_never_creates_and_creating_never_replaces() {
    let Some(rig) = PostgresRig::place() else { return };
    assert_eq!(rig.open_as(STORE, &rig.keyring).await.err(), Some(KeystoreOpenError::Missing));
    assert!(!PostgresKeystore::exists(&rig.target()).await.unwrap());
    rig.create().await.unwrap().close().await;
    assert_eq!(rig.create().await.err(), Some(KeystoreOpenError::Exists));
    // A crash before the first commit leaves tables without a word of whose they are: no keystore yet.
    execute(&rig.dsn_in_schema(), "begin; delete from secrets; delete from meta; commit").unwrap();
    assert_eq!(rig.open_as(STORE, &rig.keyring).await.err(), Some(KeystoreOpenError::Missing));
    rig.create().await.unwrap().close().await;
    rig.open_as(STORE, &rig.keyring).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_has_the_same_keys_and_is_told_of_destructions() {
    let Some(rig) = PostgresRig::place() else { return };
    let (one, two) = (rig.create().await.unwrap(), rig.open_as(STORE, &rig.keyring).await.unwrap());
    let (ada, deks) = granted(&one, want("ada", &["general"])).await;
    assert_eq!(granted(&two, want("ada", &["general"])).await, (ada, deks.clone()));
    let (nodes, others) = (one.nodes().unwrap(), two.nodes().unwrap());
    let lease = Duration::from_secs(5);
    // Opening registers; whoever is one of several says for how long it uses what it is given.
    let Place::Registered(applied) = others.introduce(lease, "two".into(), Millis(1)).await.unwrap() else { panic!() };
    assert_eq!(others.renew(applied, Millis(2)).await.unwrap(), Renewal::Renewed(vec![]));
    let done = one.destroy(order(ada, &[], 1)).await.unwrap();
    let revocation = Revocation { number: done.revocation, what: Revoked::Person(ada, Scope::Person) };
    assert_eq!(others.renew(applied, Millis(3)).await.unwrap(), Renewal::Renewed(vec![revocation]));
    let behind =
        async || nodes.behind(done.revocation).await.unwrap().into_iter().map(|row| row.node).collect::<Vec<_>>();
    assert_eq!(behind().await.len(), 2);
    others.acknowledge(done.revocation).await.unwrap();
    assert_eq!(behind().await, [nodes.id()]);
    // Whoever loses its registration is given nothing until it registers again.
    nodes.expel(vec![nodes.id(), others.id()], done.revocation).await.unwrap();
    let expelled = nodes.list().await.unwrap();
    assert_eq!(expelled.iter().filter(|row| row.expelled == Some(done.revocation)).count(), 1, "{expelled:?}");
    assert_eq!(behind().await, [nodes.id()], "it is waited for until nothing of it can be left");
    assert_eq!(nodes.renew(done.revocation, Millis(4)).await.unwrap(), Renewal::Unregistered);
    assert!(one.fetch(vec![deks[0].0.clone()]).await.is_err());
    assert!(one.ensure(vec![want("ben", &["general"])]).await.is_err());
    assert!(one.external_ids(vec![ada]).await.is_err());
    let found = nodes.introduce(lease, "one".into(), Millis(5)).await.unwrap();
    assert_eq!(found, Place::Unregistered(Some(done.revocation)));
    nodes.register(None, lease, Millis(5)).await.unwrap();
    assert_eq!(nodes.introduce(lease, "one".into(), Millis(5)).await.unwrap(), found, "it stood otherwise");
    nodes.register(Some(done.revocation), lease, Millis(5)).await.unwrap();
    let found = nodes.introduce(lease, "one".into(), Millis(5)).await.unwrap();
    assert_eq!(found, Place::Registered(done.revocation));
    assert!(matches!(one.fetch(vec![deks[0].0.clone()]).await.unwrap()[0], Fetched::Destroyed { .. }));
    // A duty is one process's until it gives it up.
    assert!(nodes.lead(Duty::Erasure).await.unwrap() && !others.lead(Duty::Erasure).await.unwrap());
    assert!(others.lead(Duty::Projections).await.unwrap());
    one.close().await;
    assert!(others.lead(Duty::Erasure).await.unwrap());
    two.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wrong_store_and_the_wrong_keyring_are_told_apart() {
    let Some(rig) = PostgresRig::place() else { return };
    rig.create().await.unwrap().close().await;
    let other = StoreId([8; 16]);
    assert_eq!(rig.open_as(other, &rig.keyring).await.err(), Some(KeystoreOpenError::StoreMismatch));
    for (name, store) in [("same-store", STORE), ("other-store", other)] {
        let keyring = rig.keyring_of(name, store);
        assert_eq!(rig.open_as(STORE, &keyring).await.err(), Some(KeystoreOpenError::KeyringMismatch));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_newer_keystores_are_refused() {
    for (damage, error) in [
        ("update meta set format = 5", KeystoreOpenError::Format(5)),
        ("update meta set store = decode(repeat('08', 16), 'hex')", KeystoreOpenError::StoreMismatch),
        ("update secrets set wrapped = decode(repeat('00', 88), 'hex')", KeystoreOpenError::Corrupt),
        ("update secrets set kid = decode(repeat('00', 32), 'hex')", KeystoreOpenError::Corrupt),
        ("insert into migrations(version) values (5)", KeystoreOpenError::Format(5)),
    ] {
        let Some(rig) = PostgresRig::place() else { return };
        rig.create().await.unwrap().close().await;
        execute(&rig.dsn_in_schema(), damage).unwrap();
        assert_eq!(rig.open_as(STORE, &rig.keyring).await.err(), Some(error), "{damage}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_key_is_corrupt_and_never_erased_and_its_neighbours_live() {
    let Some(rig) = PostgresRig::place() else { return };
    let keys = rig.open();
    let (ada, deks) = granted(&*keys, want("ada", &["general"])).await;
    let (_, bens) = granted(&*keys, want("ben", &["general"])).await;
    let damage = format!(
        "update key_slots set wrapped = decode(repeat('00', 88), 'hex') where slot in
           (select slot from deks where subject = '\\x{}' and purpose <> '$identity')",
        hex::encode(ada.0)
    );
    execute(&rig.dsn_in_schema(), &damage).unwrap();
    let (bad, good) = tokio::join!(keys.fetch(vec![deks[0].0.clone()]), keys.fetch(vec![bens[0].0.clone()]));
    assert!(matches!(bad, Err(oubliette::keystore::KeystoreError::Corrupt { table: "key_slots", .. })));
    assert!(good.is_ok());
    // Somebody else's want in the same breath is granted all the same.
    let (bad, good) = tokio::join!(
        keys.ensure(vec![want("new", &["general"]), want("ada", &["general"])]),
        keys.ensure(vec![want("eve", &["general"])])
    );
    assert!(bad.is_err() && good.is_ok());
    assert_eq!(keys.stats().await.unwrap().subjects, 3, "of a request that failed nothing is made");
    // And it can still be forgotten.
    assert_eq!(keys.destroy(order(ada, &[], 1)).await.unwrap().keys.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_neither_moved_nor_deleted() {
    let Some(rig) = PostgresRig::place() else { return };
    let keys = rig.open();
    granted(&*keys, want("ada", &["general"])).await;
    for table in ["key_slots", "id_slots", "subject_slots"] {
        for sql in [
            format!("delete from {table}"),
            format!("truncate {table} cascade"),
            format!("update {table} set slot = slot + 10"),
        ] {
            assert!(execute(&rig.dsn_in_schema(), &sql).is_err(), "{sql}");
        }
    }
    assert!(execute(&rig.dsn_in_schema(), "update id_slots set sealed = '\\x00'").is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn service_keys_are_stable_and_distinct() {
    let Some(rig) = PostgresRig::place() else { return };
    let keys = rig.create().await.unwrap();
    let first = keys.service_keys();
    keys.close().await;
    let second = rig.open_as(STORE, &rig.keyring).await.unwrap().service_keys();
    assert_eq!(first.cursor.expose(), second.cursor.expose());
    assert_eq!(first.idempotency.expose(), second.idempotency.expose());
    assert_ne!(first.cursor.expose(), first.idempotency.expose());
}

/// Another process moved everything under another root while this one had keys and roots in memory.
#[tokio::test(flavor = "multi_thread")]
async fn another_process_may_have_replaced_shard_keys() {
    let Some(rig) = PostgresRig::place() else { return };
    let one = rig.create().await.unwrap();
    let mut people = populate(&one, 0, 100).await;
    let (victim, _) = people.pop_first().unwrap();
    let names: Vec<SubjectRef> = people.keys().copied().collect();
    one.destroy(order(victim, &[], 1)).await.unwrap();
    // Somebody else's victims, in every shard of ours: this process knows only that their keys are gone.
    for (n, subject) in names.iter().step_by(2).enumerate() {
        one.destroy(order(*subject, &["general"], n as u64 + 2)).await.unwrap();
        people.get_mut(subject).unwrap().retain(|(id, _)| id.purpose.as_str() != "general");
    }
    let elsewhere = "select pg_terminate_backend(pid) from pg_stat_activity
         where datname = current_database() and pid <> pg_backend_pid()";
    execute(&rig.dsn, elsewhere).unwrap();
    let keyring = Arc::new(Keyring::open(&rig.dir.path().join("keyring")).unwrap());
    let two = rig.open_as(STORE, &keyring).await.unwrap();
    assert!(rotate(&two, 1000, 0).await.epochs[0].destroyed.is_some());
    two.close().await;
    // Connections that broke are noticed by the first who uses them.
    while one.stats().await.is_err() {}
    assert!(rig.keyring.root(1).is_some(), "this process has not looked yet");
    all_open(&one, &people).await;
    // What is made now goes under the new root, in shards that are known and in new ones.
    let more = populate(&one, 1000, 300).await;
    assert_eq!((rig.keyring.epoch(), rig.keyring.root(1).is_some()), (2, false));
    one.nodes().unwrap().drop_shard_keys();
    all_open(&one, &people).await;
    all_open(&one, &more).await;
    let status = one.epochs().await.unwrap();
    assert_eq!((status.left(), status.is_running()), (0, false), "nothing was made under an earlier root");
    assert_eq!(opened_by(&keyring, STORE, &rig.copy()).len() as u64, one.stats().await.unwrap().active);
}
