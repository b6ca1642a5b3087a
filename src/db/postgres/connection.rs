//! One connection: settings applied, statements prepared once, every wait bounded.
//!
//! Owns: the client and its background task. Must not know: what is in the tables.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt, try_join, try_join_all};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OnceCell};
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::types::ToSql;
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, Row, Statement};

use super::error::{NO_ANSWER, PgError};
use super::settings::{Deviation, Session, Timeouts, examine};
use super::tls::Tls;
use crate::db::OpenError;

/// Statements kept prepared; more are forgotten together. There are about a hundred.
const PREPARED: usize = 512;
/// A question on its way.
type Sent<'a> = BoxFuture<'a, Result<Vec<Row>, tokio_postgres::Error>>;
/// Parameters of one statement.
pub type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where a database is, and which schema in it.
#[derive(Clone)]
pub struct Target {
    pub(super) config: Config,
    tls: Option<Tls>,
    schema: &'static str,
    /// How long things may take.
    pub timeouts: Timeouts,
}

impl Target {
    /// From `postgres://…` or `host=… dbname=…`.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] when it is no such text, or when it leads to another machine and nothing is said of whom
    /// to trust: connections would not be encrypted.
    pub fn parse(dsn: &str, schema: &'static str) -> Result<Self, OpenError> {
        Self::parse_with(dsn, schema, None)
    }

    /// The same, encrypted: the server's certificate must come from these authorities.
    ///
    /// # Errors
    /// [`OpenError::Unusable`] when it is no such text, or leads to a socket, which has no name to have a certificate for.
    pub fn parse_with(dsn: &str, schema: &'static str, tls: Option<Tls>) -> Result<Self, OpenError> {
        let unusable = |reason| OpenError::Unusable { reason };
        let mut config: Config = dsn.parse().map_err(|_| unusable("the connection string is not understood"))?;
        let near = config.get_hosts().iter().all(|host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        });
        let sockets = config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_)));
        match &tls {
            None if config.get_hosts().is_empty() || !near => {
                return Err(unusable("a database on another machine needs a file of authorities to trust (…_tls_ca)"));
            }
            Some(_) if config.get_hosts().is_empty() || sockets => {
                return Err(unusable("a connection by a socket is not encrypted: take the file of authorities away"));
            }
            // Nothing else will do, whatever the connection string says.
            Some(_) => drop(config.ssl_mode(SslMode::Require)),
            None => {}
        }
        config.application_name("oubliette");
        config.connect_timeout(Duration::from_secs(5)).tcp_user_timeout(Duration::from_secs(20));
        config.keepalives_idle(Duration::from_secs(10));
        Ok(Self { config, tls, schema, timeouts: Timeouts::default() })
    }

    /// Whether a connection string has a password in it; `None` when it is no connection string.
    pub fn has_password(dsn: &str) -> Option<bool> {
        dsn.parse::<Config>().ok().map(|config| config.get_password().is_some())
    }

    /// The same with a password.
    #[must_use]
    pub fn with_password(mut self, password: &[u8]) -> Self {
        self.config.password(password);
        self
    }

    /// The same database, another schema.
    #[must_use]
    pub fn in_schema(mut self, schema: &'static str) -> Self {
        self.schema = schema;
        self
    }

    /// Which cluster and database this is, whatever names lead there.
    ///
    /// # Errors
    /// [`OpenError`] when the database cannot be asked.
    pub async fn identity(&self) -> Result<(String, String), OpenError> {
        let connection = Connector::new(self.clone()).connect_patiently().await?;
        let sql = "select system_identifier::text, current_database()::text from pg_control_system()";
        let row = connection.row(sql, &[]).await?.ok_or(PgError::Type)?;
        let text = |at| row.try_get::<_, String>(at).map_err(PgError::from);
        Ok((text(0)?, text(1)?))
    }

    /// The schema.
    pub fn schema(&self) -> &'static str {
        self.schema
    }
}

impl std::fmt::Debug for Target {
    /// Without the password, which the configuration holds.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("schema", &self.schema).finish_non_exhaustive()
    }
}

/// Makes connections to one database.
pub struct Connector {
    target: Target,
    session: OnceCell<Session>,
}

impl Connector {
    /// To this database.
    pub fn new(target: Target) -> Arc<Self> {
        Arc::new(Self { target, session: OnceCell::new() })
    }

    /// The database.
    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Settings of the server that the role may not change; known after the first connection.
    pub fn deviations(&self) -> &[Deviation] {
        self.session.get().map_or(&[], |session| &session.deviations)
    }

    /// Warns of every deviation, once per database that is opened.
    pub fn warn(&self) {
        for Deviation { setting, found, wanted, risk } in self.deviations() {
            let schema = self.target.schema;
            tracing::warn!(schema, setting, found, wanted, risk, "a setting of PostgreSQL is not safe");
        }
    }

    /// One attempt.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn connect(&self) -> Result<Connection, PgError> {
        let within = self.target.timeouts.connect;
        let config = &self.target.config;
        let told = Arc::new(Told::default());
        let client = if let Some(tls) = self.target.tls.clone() {
            let (client, connection) = timeout(within, config.connect(tls)).await.map_err(|_| NO_ANSWER)??;
            tokio::spawn(carry(connection, Arc::clone(&told)));
            client
        } else {
            let (client, connection) = timeout(within, config.connect(NoTls)).await.map_err(|_| NO_ANSWER)??;
            tokio::spawn(carry(connection, Arc::clone(&told)));
            client
        };
        let examine = || examine(&client, self.target.schema, &self.target.timeouts);
        let apply = async {
            let session = self.session.get_or_try_init(examine).await?;
            client.batch_execute(&session.statements).await.map_err(PgError::from)
        };
        timeout(within, apply).await.map_err(|_| NO_ANSWER)??;
        let Timeouts { answer: within, statement, .. } = self.target.timeouts;
        Ok(Connection { client, prepared: Mutex::default(), within, statement, told })
    }

    /// Attempts with growing pauses, until one succeeds or the time for connecting is over.
    ///
    /// # Errors
    /// [`PgError`] of the last attempt.
    pub async fn connect_patiently(&self) -> Result<Connection, PgError> {
        let end = Instant::now() + self.target.timeouts.connect;
        let mut pause = Duration::from_millis(20);
        loop {
            match self.connect().await {
                Err(PgError::Lost { .. }) if Instant::now() + pause < end => sleep(pause).await,
                other => return other,
            }
            pause = (pause * 2).min(Duration::from_secs(1));
        }
    }
}

/// Carries messages until the connection ends. Notices are dropped unread: they may quote values.
async fn carry<S, T>(mut connection: tokio_postgres::Connection<S, T>, told: Arc<Told>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
        if let AsyncMessage::Notification(message) = message {
            told.number.fetch_max(message.payload().parse().unwrap_or(0), Ordering::SeqCst);
            told.something.notify_one();
        }
    }
    told.something.notify_one();
}

/// What the server said of its own accord.
#[derive(Default)]
struct Told {
    something: Notify,
    /// The largest number that a notification carried.
    number: AtomicU64,
}

/// A connection. Not returned to a pool unless what was done with it is complete.
pub struct Connection {
    client: Client,
    prepared: Mutex<HashMap<String, Statement>>,
    within: Duration,
    statement: Duration,
    told: Arc<Told>,
}

impl Connection {
    /// Whether it is known to be of no use any more.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Rows of a query.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn query(&self, sql: &str, parameters: Parameters<'_>) -> Result<Vec<Row>, PgError> {
        let statement = self.prepare(sql).await?;
        self.bounded(self.client.query(&statement, parameters)).await
    }

    /// The only row of a query, or none.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn row(&self, sql: &str, parameters: Parameters<'_>) -> Result<Option<Row>, PgError> {
        Ok(self.query(sql, parameters).await?.into_iter().next())
    }

    /// Runs a statement; how many rows it changed.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn execute(&self, sql: &str, parameters: Parameters<'_>) -> Result<u64, PgError> {
        let statement = self.prepare(sql).await?;
        self.bounded(self.client.execute(&statement, parameters)).await
    }

    /// Runs statements without parameters.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn batch(&self, sql: &str) -> Result<(), PgError> {
        self.bounded(self.client.batch_execute(sql)).await
    }

    /// Runs statements that may take longer than others.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn batch_within(&self, sql: &str, within: Duration) -> Result<(), PgError> {
        let unbounded = async {
            self.client.batch_execute("set statement_timeout = 0").await?;
            // Not in one text: that would be one transaction, and some statements refuse to run in one.
            let done = self.client.batch_execute(sql).await;
            let millis = self.statement.as_millis();
            self.client.batch_execute(&format!("set statement_timeout = {millis}")).await?;
            done
        };
        timeout(within, unbounded).await.map_err(|_| NO_ANSWER)?.map_err(PgError::from)
    }

    /// Runs many statements without waiting for one before sending the next; they arrive in order. How many rows each
    /// changed.
    ///
    /// # Errors
    /// The first [`PgError`]: the server skips what follows an error in a transaction.
    pub async fn execute_all(&self, steps: &[(&str, Vec<&(dyn ToSql + Sync)>)]) -> Result<Vec<u64>, PgError> {
        let mut prepared = Vec::with_capacity(steps.len());
        for (sql, _) in steps {
            prepared.push(self.prepare(sql).await?);
        }
        let sent = prepared.iter().zip(steps).map(|(statement, (_, set))| self.client.execute(statement, set));
        self.bounded(try_join_all(sent)).await
    }

    /// Runs many queries in the same way, after `first`, which needs no preparation and gives nothing.
    ///
    /// # Errors
    /// The first [`PgError`].
    pub async fn query_all(
        &self,
        first: &'static str,
        steps: &[(&str, Vec<&(dyn ToSql + Sync)>)],
    ) -> Result<Vec<Vec<Row>>, PgError> {
        let mut prepared = Vec::with_capacity(steps.len());
        for (sql, _) in steps {
            prepared.push(self.prepare(sql).await?);
        }
        let begin: Sent<'_> = async { self.client.batch_execute(first).await.map(|()| Vec::new()) }.boxed();
        let sent = prepared
            .iter()
            .zip(steps)
            .map(|(statement, (_, set))| -> Sent<'_> { self.client.query(statement, set).boxed() });
        let mut answers = self.bounded(try_join_all(std::iter::once(begin).chain(sent))).await?;
        answers.remove(0);
        Ok(answers)
    }

    /// Runs many statements as [`Connection::execute_all`] does and commits, all in one flight.
    ///
    /// # Errors
    /// The first [`PgError`]. Unless it is [`PgError::Lost`] nothing was committed: the server undoes a transaction in which a
    /// statement failed, and nothing is committed without a statement that could not be sent.
    pub async fn commit_all(&self, steps: &[(&str, Vec<&(dyn ToSql + Sync)>)]) -> Result<(), PgError> {
        let mut prepared = Vec::with_capacity(steps.len());
        for (sql, _) in steps {
            prepared.push(self.prepare(sql).await?);
        }
        let sent = prepared.iter().zip(steps).map(|(statement, (_, set))| self.client.execute(statement, set));
        let flight = async {
            let mut sent = pin!(try_join_all(sent));
            // Polled once, every statement is on its way or has failed to be.
            let early = poll_fn(|context| Poll::Ready(sent.as_mut().poll(context))).await;
            let commit = self.client.batch_execute("commit");
            match early {
                Poll::Ready(done) => {
                    done?;
                    commit.await
                }
                Poll::Pending => try_join(sent, commit).await.map(drop),
            }
        };
        self.bounded(flight).await
    }

    /// Sends a statement that gives nothing, and does not wait for it: whatever is sent next comes after it. If it fails
    /// the connection is broken, and that shows next time.
    pub fn send(&self, sql: &'static str) {
        let _ = self.client.batch_execute(sql).now_or_never();
    }

    /// Returns when the server has said something of its own accord, or the connection has ended: the largest number it has
    /// ever said, 0 for none.
    pub async fn told(&self) -> u64 {
        self.told.something.notified().await;
        self.told.number.load(Ordering::SeqCst)
    }

    /// Prepares a statement unless it is.
    ///
    /// # Errors
    /// [`PgError`].
    pub async fn prepare(&self, sql: &str) -> Result<Statement, PgError> {
        if let Some(statement) = self.known(sql) {
            return Ok(statement);
        }
        let statement = self.bounded(self.client.prepare(sql)).await?;
        let mut prepared = self.prepared.lock().unwrap_or_else(PoisonError::into_inner);
        if prepared.len() >= PREPARED {
            prepared.clear();
        }
        prepared.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    fn known(&self, sql: &str) -> Option<Statement> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner).get(sql).cloned()
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, PgError> {
        timeout(self.within, work).await.map_err(|_| NO_ANSWER)?.map_err(PgError::from)
    }
}
