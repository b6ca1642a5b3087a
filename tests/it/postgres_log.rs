//! What the server writes into its own log, and what a role without rights can do.

use std::sync::Arc;

use oubliette::clock::{Clock, Millis};
use oubliette::db::postgres::{Deviation, Target};
use oubliette::event::StoreId;
use oubliette::eventlog::postgres::{PostgresEventLog, SCHEMA as EVENTS};
use oubliette::eventlog::{Batch, EventLog, Idempotency, Job};
use oubliette::keystore::Keystore;
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::postgres::{PostgresKeystore, SCHEMA as KEYS};
use oubliette::secret::Entropy;

use crate::conformance::eventlog::records::access;
use crate::conformance::eventlog::{ANY, Maker, commit, effects, everything, fence, job, person, read};
use crate::conformance::keystore::{granted, order, want};
use crate::postgres::{Cluster, execute};

const STORE: StoreId = StoreId([7; 16]);

/// A cluster whose log says everything it can be made to say.
fn talkative() -> Option<Cluster> {
    let cluster = Cluster::start(false)?;
    let dsn = cluster.dsn("postgres");
    for setting in [
        "log_statement = 'all'",
        "log_min_duration_statement = 0",
        "log_parameter_max_length = -1",
        "log_parameter_max_length_on_error = -1",
        "log_error_verbosity = 'verbose'",
        "log_min_error_statement = 'debug5'",
        "log_min_messages = 'debug1'",
    ] {
        execute(&dsn, &format!("alter system set {setting}")).unwrap();
    }
    execute(&dsn, "select pg_reload_conf()").unwrap();
    Some(cluster)
}

async fn stores(cluster: &Cluster, role: &str, dir: &std::path::Path) -> (PostgresEventLog, PostgresKeystore) {
    let entropy = Arc::new(Entropy::system());
    let target = |schema| {
        let name = if schema == EVENTS { "events" } else { "keys" };
        Target::parse(&cluster.dsn_as(name, role), schema).unwrap()
    };
    let log = PostgresEventLog::create(target(EVENTS), STORE, Millis(0), 2, Arc::clone(&entropy)).await.unwrap();
    let keyring = Arc::new(Keyring::create(&dir.join("keyring"), STORE).unwrap());
    let clock = Clock::manual(Millis(1));
    let keys = PostgresKeystore::create(target(KEYS), STORE, keyring, &clock, entropy, 2).await.unwrap();
    (log, keys)
}

/// Everything that both stores write, and errors on top of it.
async fn use_all(log: &PostgresEventLog, keys: &PostgresKeystore) {
    let make = Maker::new();
    let idempotency =
        Some(Idempotency { key: *b"canary-idempotency-key-32-bytes!", request: [1; 32], expires: Millis(9) });
    let about = make.about("canary-type", &[(person(1), Some(("canary-purpose", 0)))]);
    commit(log, Job { idempotency, ..job("canary-stream", ANY, vec![about, make.with_id(9, "t")]) }).await;
    commit(log, effects(vec![fence(person(1), &[], "canary-request")])).await;
    log.commit(Batch { jobs: vec![], access: vec![access(person(1), 1, "canary-principal")] }).await.unwrap();
    read(log, everything()).await;
    let (ada, _) = granted(keys, want("canary-external-id", &["general"])).await;
    keys.external_ids(vec![ada]).await.unwrap();
    keys.destroy(order(ada, &[], 1)).await.unwrap();
}

fn canaries(log: &str) -> Vec<String> {
    // As text, and as bytes are written in hexadecimal; and the note of every event the suite makes.
    let found = |canary: &str| {
        let hex = hex::encode(canary);
        log.lines()
            .filter(|line| line.contains(canary) || line.to_lowercase().contains(&hex))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    ["canary", &"x".repeat(20)].into_iter().flat_map(found).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_value_reaches_a_server_log_that_says_everything() {
    let Some(cluster) = talkative() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["events", "keys"] {
        execute(&cluster.dsn("postgres"), &format!("create database {name}")).unwrap();
    }
    let (log, keys) = stores(&cluster, "postgres", dir.path()).await;
    use_all(&log, &keys).await;
    assert!(log.deviations().iter().all(|one| one.setting == "fsync" || one.setting == "full_page_writes"));
    // The scan sees what is there: a session that does not have our settings tells everything.
    assert_eq!(canaries(&cluster.log()), Vec::<String>::new());
    execute(&cluster.dsn("events"), "select 'canary'").unwrap();
    assert!(!canaries(&cluster.log()).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_rights_works_and_says_what_it_lacks() {
    let Some(cluster) = talkative() else { return };
    let dir = tempfile::tempdir().unwrap();
    execute(&cluster.dsn("postgres"), "create role plain login").unwrap();
    for name in ["events", "keys"] {
        execute(&cluster.dsn("postgres"), &format!("create database {name} owner plain")).unwrap();
    }
    let (log, keys) = stores(&cluster, "plain", dir.path()).await;
    use_all(&log, &keys).await;
    let named = |deviations: &[Deviation]| deviations.iter().map(|one| one.setting.clone()).collect::<Vec<_>>();
    for setting in
        ["log_statement", "log_min_duration_statement", "log_parameter_max_length", "log_error_verbosity", "fsync"]
    {
        assert!(named(log.deviations()).contains(&setting.to_owned()), "{setting}: {:?}", log.deviations());
        assert!(named(keys.deviations()).contains(&setting.to_owned()), "{setting}");
    }
    // Its own to set, and set.
    assert!(!named(log.deviations()).contains(&"log_parameter_max_length_on_error".to_owned()));
    let washed = keys.wash().await.unwrap();
    assert!(washed.incomplete && washed.bytes > 0, "the tables are rewritten, the checkpoint is refused: {washed:?}");
    // With the rights named in the documentation nothing is missing.
    for grant in ["grant pg_checkpoint to plain", "grant execute on function pg_switch_wal() to plain"] {
        execute(&cluster.dsn("keys"), grant).unwrap();
    }
    keys.destroy(order(person(9), &[], 2)).await.unwrap();
    assert!(!keys.wash().await.unwrap().incomplete);
}
