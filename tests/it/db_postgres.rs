//! Portable SQL on PostgreSQL: what `src/db/sqlite.rs` promises in its own tests.

use oubliette::db::postgres::tls::Tls;
use oubliette::db::postgres::{PostgresDb, Target};
use oubliette::db::statement::{DbError, Statement, Value};
use oubliette::db::{Db, Migration, OpenError};

use crate::postgres::{Cluster, cluster, query};

const STEPS: &[Migration] = &[Migration { version: 1, sql: "create table t(id bigint primary key, x text, y bytea)" }];

#[tokio::test]
async fn a_transaction_is_a_value_and_lands_whole_or_not_at_all() {
    let Some(cluster) = cluster() else { return };
    let target = Target::parse(&cluster.database(), "things").unwrap();
    let db = Db::Postgres(PostgresDb::open(target.clone(), STEPS, 2).await.unwrap());
    let insert = "insert into t(id, x, y) values ($1, $2, $3)";
    let sets = vec![vec![1i64.into(), "a".into(), Value::Null], vec![2i64.into(), Value::Null, vec![7u8].into()]];
    db.transact(vec![Statement::each(insert, sets.clone()).changing(2)]).await.unwrap();
    let all = db.query("select id, x, y from t order by id", vec![]).await.unwrap();
    assert_eq!(all, sets);
    let more = vec![
        Statement::once(insert, vec![3i64.into(), "c".into(), Value::Null]),
        Statement::once("update t set x = $2 where id = $1", vec![9i64.into(), "z".into()]).changing(1),
    ];
    assert_eq!(db.transact(more).await, Err(DbError::Unmet));
    let same = vec![
        Statement::once(insert, vec![4i64.into(), "d".into(), Value::Null]),
        Statement::once(insert, vec![1i64.into(), "e".into(), Value::Null]),
    ];
    assert!(matches!(db.transact(same).await, Err(DbError::Unavailable { .. })));
    let renamed = "update t set x = $3 where id = $1 and x = $2 and id = $1";
    let set = vec![1i64.into(), "a".into(), "b".into()];
    db.transact(vec![Statement::once(renamed, set).changing(1)]).await.unwrap();
    let by_id = "select x from t where id = $1";
    let found = db.query_each(by_id, vec![vec![1i64.into()], vec![3i64.into()], vec![4i64.into()]]).await.unwrap();
    assert_eq!(found, vec![vec![vec!["b".into()]], vec![], vec![]]);
    db.close().await;
    assert!(matches!(db.query(by_id, vec![1i64.into()]).await, Err(DbError::Unavailable { .. })));
    // Opening again changes nothing, a newer format is refused, and removing removes.
    let again = PostgresDb::open(target.clone(), STEPS, 2).await.unwrap();
    assert_eq!(Db::Postgres(again).query("select count(*) from t", vec![]).await.unwrap(), vec![vec![2i64.into()]]);
    assert_eq!(PostgresDb::open(target.clone(), &[], 1).await.err(), None, "no steps, nothing to do");
    PostgresDb::remove(target.clone()).await.unwrap();
    let anew = PostgresDb::open(target, STEPS, 2).await.unwrap();
    assert_eq!(Db::Postgres(anew).query("select count(*) from t", vec![]).await.unwrap(), vec![vec![0i64.into()]]);
}

#[tokio::test]
async fn without_authorities_only_databases_of_this_machine_are_taken() {
    for (dsn, fine) in [
        ("host=/run/postgresql dbname=x", true),
        ("postgres://user@127.0.0.1:5432/x", true),
        ("postgres://user@[::1]/x", true),
        ("host=localhost", true),
        ("dbname=x", false),
        ("host=db.example.org", false),
        ("host=/run/postgresql,10.0.0.7", false),
        ("nonsense", false),
    ] {
        let parsed = Target::parse(dsn, "x");
        assert_eq!(parsed.is_ok(), fine, "{dsn}");
        assert!(fine || matches!(parsed.unwrap_err(), OpenError::Unusable { .. }));
    }
    let secret = Target::parse("postgres://user:hunter2@localhost/x", "x").unwrap();
    assert!(!format!("{secret:?}").contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_machine_is_spoken_to_encrypted_or_not_at_all() {
    let Some(own) = Cluster::start(false) else { return };
    let Some((port, authority)) = own.encrypt() else { return };
    let remote = "host=db.example.org dbname=x";
    assert!(Target::parse(remote, "x").is_err());
    assert!(Target::parse_with(remote, "x", Some(Tls::trusting(&authority).unwrap())).is_ok());
    assert!(Target::parse_with("host=/run/postgresql", "x", Some(Tls::trusting(&authority).unwrap())).is_err());
    assert!(Tls::trusting(b"").is_err() && Tls::trusting(b"-----BEGIN CERTIFICATE-----").is_err());
    let dsn = format!("host=127.0.0.1 port={port} user=postgres dbname=postgres sslmode=disable");
    let target = |pem: &[u8]| Target::parse_with(&dsn, "things", Some(Tls::trusting(pem).unwrap())).unwrap();
    let db = PostgresDb::open(target(&authority), STEPS, 2).await.unwrap();
    let encrypted =
        "select s.ssl from pg_stat_ssl s join pg_stat_activity a using (pid) where application_name = 'oubliette'";
    let rows = query(&format!("host={} port={port} user=postgres dbname=postgres", own.dir().display()), encrypted);
    assert!(!rows.is_empty() && rows.iter().all(|row| row.get::<_, bool>(0)), "whatever the connection string says");
    Db::Postgres(db).close().await;
    // Somebody else's authority: not one byte of ours is sent.
    let Some(other) = Cluster::start(false) else { return };
    let Some((_, stranger)) = other.encrypt() else { return };
    let refused = PostgresDb::open(target(&stranger), STEPS, 2).await;
    assert!(matches!(refused.err(), Some(OpenError::Unusable { .. })));
    // The name must be the certificate's.
    let by_name = dsn.replace("127.0.0.1", "localhost");
    let target = Target::parse_with(&by_name, "things", Some(Tls::trusting(&authority).unwrap())).unwrap();
    assert!(PostgresDb::open(target, STEPS, 1).await.is_ok());
}
