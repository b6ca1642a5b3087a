//! Processes over one keystore: registration, revocations, duties.
//!
//! Owns: their statements, and a connection of its own, so that whoever waits behind other work does not lose what it
//! holds. Must not know: what is in anybody's memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::Mutex;
use tokio::time::sleep;
use tokio_postgres::Row;

use super::Shared;
use super::facts::{array, get};
use crate::clock::Millis;
use crate::db::postgres::connection::Parameters;
use crate::db::postgres::{Connection, Connector, PgError};
use crate::event::{Purpose, SubjectRef};
use crate::keystore::nodes::{Duty, NodeId, NodeRow, Nodes, Place, Renewal, Revocation, Revoked, TERM};
use crate::keystore::{KeystoreError, Scope};

/// How often it is written when this process was last seen.
const SEEN_EVERY: i64 = 10_000;
/// Subject of a revocation that is about shard keys.
const SHARD_KEYS: [u8; 16] = [0; 16];
const CORRUPT: KeystoreError = KeystoreError::Corrupt { table: "revocations", column: "purposes" };

/// The process's place among the others.
pub struct PgNodes {
    node: NodeId,
    connector: Arc<Connector>,
    shared: Arc<Shared>,
    /// Listens; every question is one statement, so that several may be on their way.
    connection: Mutex<Option<Arc<Connection>>>,
    /// When `seen_ms` was last written.
    seen: AtomicI64,
}

impl PgNodes {
    /// Of a new process.
    pub fn new(connector: Arc<Connector>, shared: Arc<Shared>) -> Self {
        Self { node: shared.tools.node, connector, shared, connection: Mutex::default(), seen: AtomicI64::new(0) }
    }

    async fn connected(&self) -> Result<Arc<Connection>, PgError> {
        let mut place = self.connection.lock().await;
        if let Some(connection) = place.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(Arc::clone(connection));
        }
        let connection = Arc::new(self.connector.connect_patiently().await?);
        connection.batch("listen oubliette_keys").await?;
        *place = Some(Arc::clone(&connection));
        Ok(connection)
    }

    /// Asks one statement. A connection on which no answer came is not used again: what was asked may still be under way.
    async fn ask(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, KeystoreError> {
        let asked = async { self.connected().await?.query(sql, parameters).await };
        let answer = asked.await;
        if answer.is_err() {
            *self.connection.lock().await = None;
        }
        Ok(answer?)
    }
}

/// A number as the database has it.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn millis(length: Duration) -> i64 {
    i64::try_from(length.as_millis()).unwrap_or(i64::MAX)
}

fn node_row(row: &Row) -> Result<NodeRow, PgError> {
    Ok(NodeRow {
        node: NodeId(array(row, 0)?),
        name: get(row, 1)?,
        lease: Duration::from_millis(get::<i64>(row, 2)?.unsigned_abs()),
        registered: Millis(get(row, 3)?),
        seen: Millis(get(row, 4)?),
        acknowledged: get::<i64>(row, 5)?.unsigned_abs(),
        expelled: get::<Option<i64>>(row, 6)?.map(i64::unsigned_abs),
    })
}

fn revocation(row: &Row) -> Result<Revocation, KeystoreError> {
    let (number, subject) = (get::<i64>(row, 1)?.unsigned_abs(), array::<16>(row, 2)?);
    let purposes: Option<&str> = get(row, 3)?;
    if subject == SHARD_KEYS {
        return Ok(Revocation { number, what: Revoked::ShardKeys });
    }
    let scope = match purposes {
        None => Scope::Person,
        Some(text) => {
            let names: Vec<String> = serde_json::from_str(text).map_err(|_| CORRUPT)?;
            let parsed = names.iter().map(|name| Purpose::parse_any(name).map_err(|_| CORRUPT));
            Scope::Purposes(parsed.collect::<Result<_, _>>()?)
        }
    };
    Ok(Revocation { number, what: Revoked::Person(SubjectRef(subject), scope) })
}

/// Adds a revocation, in the transaction of whoever destroys; its number. The row of `meta` must be locked.
pub async fn revoke(connection: &Connection, what: &Revoked, at: Millis) -> Result<u64, PgError> {
    let (subject, purposes) = match what {
        Revoked::Person(subject, Scope::Person) => (subject.0, None),
        Revoked::Person(subject, Scope::Purposes(list)) => {
            let names: Vec<&str> = list.iter().map(Purpose::as_str).collect();
            (subject.0, Some(serde_json::to_string(&names).expect("a list of names")))
        }
        Revoked::ShardKeys => (SHARD_KEYS, None),
    };
    // What everybody has let go of needs no telling. Nobody registered: whoever registers later holds nothing.
    let prune =
        "delete from revocations where number <= (select coalesce(min(acknowledged), 9223372036854775807) from nodes)";
    connection.execute(prune, &[]).await?;
    let next = "update meta set revocation = revocation + 1 where id = 1 returning revocation";
    let number: i64 = get(&connection.row(next, &[]).await?.ok_or(PgError::Type)?, 0)?;
    let sql = "insert into revocations (number, subject, purposes, revoked_ms) values ($1, $2, $3, $4)";
    connection.execute(sql, &[&number, &subject.as_slice(), &purposes, &at.0]).await?;
    connection.query("select pg_notify('oubliette_keys', '')", &[]).await?;
    Ok(number.unsigned_abs())
}

/// Whether a process is registered, for the snapshot of whoever is about to give it keys.
pub const REGISTERED: &str = "select 1 from nodes where node = $1 and expelled is null";
/// It is not.
pub const UNREGISTERED: KeystoreError = KeystoreError::Unavailable { reason: "this process is not registered" };

const ALL: &str =
    "select node, name, lease_ms, registered_ms, seen_ms, acknowledged, expelled from nodes order by registered_ms";

impl Nodes for PgNodes {
    fn id(&self) -> NodeId {
        self.node
    }

    fn introduce(&self, lease: Duration, name: String, at: Millis) -> BoxFuture<'_, Result<Place, KeystoreError>> {
        Box::pin(async move {
            // Registered before it knew its clock: then it is now.
            let sql = "update nodes set lease_ms = $2, name = $3, seen_ms = $4,
                         registered_ms = case registered_ms when 0 then $4 else registered_ms end
                       where node = $1 returning acknowledged, expelled";
            let found = self.ask(sql, &[&self.node.0.as_slice(), &millis(lease), &name, &at.0]).await?;
            let Some(row) = found.first() else { return Ok(Place::Unregistered(None)) };
            Ok(match get::<Option<i64>>(row, 1)? {
                Some(over) => Place::Unregistered(Some(over.unsigned_abs())),
                None => Place::Registered(get::<i64>(row, 0)?.unsigned_abs()),
            })
        })
    }

    fn register(&self, found: Option<u64>, lease: Duration, at: Millis) -> BoxFuture<'_, Result<(), KeystoreError>> {
        Box::pin(async move {
            let sql = "insert into nodes (node, name, lease_ms, registered_ms, seen_ms, acknowledged)
                       select $1::bytea, '', $2::bigint, $3::bigint, $3::bigint, revocation from meta where id = 1
                       on conflict (node) do update set expelled = null, acknowledged = excluded.acknowledged
                         where nodes.expelled = $4";
            let parameters: Parameters<'_> = &[&self.node.0.as_slice(), &millis(lease), &at.0, &found.map(signed)];
            self.ask(sql, parameters).await.map(drop)
        })
    }

    fn renew(&self, applied: u64, at: Millis) -> BoxFuture<'_, Result<Renewal, KeystoreError>> {
        Box::pin(async move {
            // One statement is one snapshot; a row without a number says only that this process is registered, or not. A
            // keystore that has not come as far as this process is an older copy, and knows nobody.
            let sql = "select n.node is not null, r.number, r.subject, r.purposes from (select 1) one
                       left join nodes n on n.node = $1 and n.expelled is null
                         and $2 <= (select revocation from meta where id = 1)
                       left join revocations r on r.number > $2 order by r.number";
            let node = self.node.0.as_slice();
            let found = self.ask(sql, &[&node, &signed(applied)]).await?;
            if at.0 - self.seen.load(Ordering::SeqCst) >= SEEN_EVERY {
                self.ask("update nodes set seen_ms = $2 where node = $1", &[&node, &at.0]).await?;
                self.seen.store(at.0, Ordering::SeqCst);
            }
            let mut revocations = Vec::new();
            for row in &found {
                if !get::<bool>(row, 0)? {
                    return Ok(Renewal::Unregistered);
                }
                if get::<Option<i64>>(row, 1)?.is_some() {
                    revocations.push(revocation(row)?);
                }
            }
            Ok(Renewal::Renewed(revocations))
        })
    }

    fn acknowledge(&self, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>> {
        Box::pin(async move {
            let sql = "update nodes set acknowledged = greatest(acknowledged, $2) where node = $1";
            self.ask(sql, &[&self.node.0.as_slice(), &signed(number)]).await?;
            self.ask("select pg_notify('oubliette_keys', '')", &[]).await.map(drop)
        })
    }

    fn behind(&self, number: u64) -> BoxFuture<'_, Result<Vec<NodeRow>, KeystoreError>> {
        Box::pin(async move {
            let all = self.list().await?;
            Ok(all.into_iter().filter(|row| row.acknowledged < number).collect())
        })
    }

    fn expel(&self, nodes: Vec<NodeId>, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>> {
        Box::pin(async move {
            let list: Vec<&[u8]> = nodes.iter().map(|node| node.0.as_slice()).collect();
            let sql = "update nodes set expelled = $2 where node = any($1) and acknowledged < $2 and expelled is null";
            self.ask(sql, &[&list, &signed(number)]).await.map(drop)
        })
    }

    fn dismiss(&self, node: NodeId, number: u64) -> BoxFuture<'_, Result<(), KeystoreError>> {
        Box::pin(async move {
            // Who came back and was expelled again was expelled over another one.
            let sql = "delete from nodes where node = $1 and expelled = $2";
            self.ask(sql, &[&node.0.as_slice(), &signed(number)]).await.map(drop)
        })
    }

    fn list(&self) -> BoxFuture<'_, Result<Vec<NodeRow>, KeystoreError>> {
        Box::pin(async move { Ok(self.ask(ALL, &[]).await?.iter().map(node_row).collect::<Result<_, _>>()?) })
    }

    fn lead(&self, duty: Duty) -> BoxFuture<'_, Result<bool, KeystoreError>> {
        Box::pin(async move {
            let sql = "insert into leaders (role, node, until_ms) values ($1, $2, $3 + (extract(epoch from clock_timestamp()) * 1000)::bigint)
                       on conflict (role) do update set node = excluded.node, until_ms = excluded.until_ms
                         where leaders.node = excluded.node or leaders.until_ms < excluded.until_ms - $3
                       returning 1";
            let mine = self.ask(sql, &[&duty.as_str(), &self.node.0.as_slice(), &millis(TERM)]).await?;
            Ok(!mine.is_empty())
        })
    }

    fn revoke_shard_keys(&self, at: Millis) -> BoxFuture<'_, Result<u64, KeystoreError>> {
        Box::pin(async move {
            // A transaction needs a connection of its own: others ask on the one that listens.
            let connection = self.connector.connect_patiently().await?;
            connection.batch("begin").await?;
            connection.query("select id from meta where id = 1 for update", &[]).await?;
            let number = revoke(&connection, &Revoked::ShardKeys, at).await?;
            connection.batch("commit").await?;
            Ok(number)
        })
    }

    fn drop_shard_keys(&self) {
        self.shared.keks.clear();
    }

    fn told(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            match self.connected().await {
                Ok(connection) => drop(connection.told().await),
                Err(_) => sleep(Duration::from_millis(100)).await,
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let node = self.node.0.as_slice();
            *self.connection.lock().await = None;
            let gone = async {
                let connection = self.connected().await?;
                connection.execute("delete from leaders where node = $1", &[&node]).await?;
                connection.execute("delete from nodes where node = $1", &[&node]).await
            };
            if let Err(error) = gone.await {
                tracing::warn!(
                    reason = error.reason(),
                    "this process stays registered; the next forget waits for it once"
                );
            }
            *self.connection.lock().await = None;
        })
    }
}
