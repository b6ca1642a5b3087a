//! Settings of every session: what keeps values out of the server's log, commits durable and waits short.
//!
//! Owns: the list, and the comparison with what the server has. A setting that the role may not change is reported and
//! never ignored.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::PgError;

/// A setting of the server that is not as it should be and that this role may not change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// Name.
    pub setting: String,
    /// As it is.
    pub found: String,
    /// As it should be.
    pub wanted: &'static str,
    /// What may happen.
    pub risk: &'static str,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// One statement, on the server.
    pub statement: Duration,
    /// The wait for a lock, on the server.
    pub lock: Duration,
    /// A transaction in which nothing happens, on the server: a stalled node must not hold the head of the log.
    pub idle_in_transaction: Duration,
    /// One answer, here.
    pub answer: Duration,
    /// A connection that is wanted now.
    pub connect: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            statement: seconds(30),
            lock: seconds(5),
            idle_in_transaction: seconds(5),
            answer: seconds(40),
            connect: seconds(5),
        }
    }
}

struct Wanted {
    name: &'static str,
    value: &'static str,
    risk: &'static str,
}

const IN_LOG: &str = "statements or their values may be written to the server's log";
const NOT_DURABLE: &str = "what was acknowledged may be lost";

const fn wanted(name: &'static str, value: &'static str, risk: &'static str) -> Wanted {
    Wanted { name, value, risk }
}

/// Values are always bound, never written into statements; these settings keep bound values and the rows that errors quote out of
/// the log. The last one is a parameter of the server alone.
const WANTED: [Wanted; 12] = [
    wanted("log_parameter_max_length", "0", IN_LOG),
    wanted("log_parameter_max_length_on_error", "0", IN_LOG),
    wanted("log_statement", "none", IN_LOG),
    wanted("log_min_duration_statement", "-1", IN_LOG),
    wanted("log_min_duration_sample", "-1", IN_LOG),
    wanted("log_transaction_sample_rate", "0", IN_LOG),
    wanted("log_min_error_statement", "panic", IN_LOG),
    wanted("log_error_verbosity", "terse", IN_LOG),
    wanted("auto_explain.log_min_duration", "-1", IN_LOG),
    wanted("pgaudit.log_parameter", "off", IN_LOG),
    wanted("full_page_writes", "on", NOT_DURABLE),
    wanted("fsync", "on", NOT_DURABLE),
];

/// What a session is to be told, and what it cannot be told.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Statements.
    pub statements: String,
    /// What stays as it should not be.
    pub deviations: Vec<Deviation>,
}

/// Compares the server with the list.
///
/// # Errors
/// [`PgError`]; a server older than 15 is refused.
pub async fn examine(client: &Client, schema: &str, timeouts: &Timeouts) -> Result<Session, PgError> {
    let names: Vec<&str> = WANTED.iter().map(|wanted| wanted.name).chain(["server_version_num"]).collect();
    let found = client
        .query(
            "select name, setting, context = 'user' or (context in ('superuser', 'backend', 'superuser-backend')
               and has_parameter_privilege(name, 'SET')) from pg_settings where name = any($1)
             union all select 'synchronous_commit', current_setting('synchronous_commit'), true
             union all select 'server_encoding', current_setting('server_encoding'), false",
            &[&names],
        )
        .await?;
    let mut session = Session { statements: basics(schema, timeouts), deviations: Vec::new() };
    for row in found {
        let (name, value, may): (&str, &str, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        match name {
            "server_version_num" if value.parse::<u32>().unwrap_or(0) < 150_000 => {
                return Err(PgError::Refused { reason: "PostgreSQL 15 or newer is needed", retry: false });
            }
            "server_encoding" if value != "UTF8" => {
                return Err(PgError::Refused { reason: "the database's encoding must be UTF8", retry: false });
            }
            // Stricter values (waiting for standbys) are the operator's choice and stay.
            "synchronous_commit" if value == "off" => session.statements.push_str("set synchronous_commit = on;"),
            _ => {}
        }
        let Some(wanted) = WANTED.iter().find(|wanted| wanted.name == name) else { continue };
        if value == wanted.value {
            continue;
        }
        if may {
            let Wanted { name, value, .. } = wanted;
            session.statements.extend(["set ", name, " = '", value, "';"]);
        } else {
            session.deviations.push(Deviation {
                setting: name.to_owned(),
                found: value.to_owned(),
                wanted: wanted.value,
                risk: wanted.risk,
            });
        }
    }
    Ok(session)
}

/// Every query of ours has an index that drives it and an order that the index has: plans must not depend on statistics
/// that may be a minute old while a table grows, and a plan is made once per statement and connection.
fn basics(schema: &str, timeouts: &Timeouts) -> String {
    format!(
        "set search_path = {schema}; set statement_timeout = {}; set lock_timeout = {};
         set idle_in_transaction_session_timeout = {}; set default_transaction_isolation = 'read committed';
         set client_min_messages = error; set timezone = 'UTC'; set jit = off; set plan_cache_mode = force_generic_plan;
         set enable_seqscan = off; set enable_bitmapscan = off; set enable_hashjoin = off; set enable_mergejoin = off;
         set enable_hashagg = off; set max_parallel_workers_per_gather = 0;",
        timeouts.statement.as_millis(),
        timeouts.lock.as_millis(),
        timeouts.idle_in_transaction.as_millis(),
    )
}
