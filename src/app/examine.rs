//! What a database server says of itself, before anything is started on it.
//!
//! Owns: the questions of `oubliette check` that only the server can answer. Must not know: how they are shown. Nothing is made or
//! changed.

use super::stores::databases;
use crate::config::Config;
use crate::db::postgres::connection::Connector;
use crate::db::postgres::{Connection, Deviation, PgError};

/// Rights that a complete wash needs, and what stays without them.
const RIGHTS: [(&str, &str); 2] = [
    (
        "select pg_has_role('pg_checkpoint', 'usage')",
        "the role is no member of pg_checkpoint: destroyed keys stand in the write-ahead log longer than they must",
    ),
    (
        "select has_function_privilege('pg_switch_wal()', 'execute')",
        "the role may not execute pg_switch_wal(): destroyed keys stand in the write-ahead log longer than they must",
    ),
];

/// Names of settings, and what is unsafe about the servers they lead to.
pub async fn examine(config: &Config) -> Vec<(&'static str, String)> {
    let databases = match databases(config) {
        Ok(databases) => databases,
        Err(error) => return vec![("events_dsn", error.to_string())],
    };
    let (mut found, mut identities) = (Vec::new(), Vec::new());
    for (setting, target) in databases {
        let connector = Connector::new(*target.clone());
        let connection = match connector.connect_patiently().await {
            Ok(connection) => connection,
            Err(error) => {
                found.push((setting, format!("cannot be checked now: {}", error.reason())));
                continue;
            }
        };
        for Deviation { setting: name, found: value, wanted, risk } in connector.deviations() {
            found.push((setting, format!("{name} is {value}, not {wanted}, and this role may not change it: {risk}")));
        }
        match one(&connection, setting == "keys_dsn").await {
            Ok(sentences) => found.extend(sentences.into_iter().map(|text| (setting, text))),
            Err(error) => found.push((setting, format!("cannot be checked now: {}", error.reason()))),
        }
        identities.extend(target.identity().await.ok());
    }
    if let [(events, one), (keys, other)] = identities.as_slice()
        && events == keys
    {
        let text = if one == other {
            "event log and keystore are in one database: a backup of it keeps the keys of everybody who is forgotten"
        } else {
            "event log and keystore are in one cluster: base backups and archives of the write-ahead log take both"
        };
        found.push(("keys_dsn", text.to_owned()));
    }
    found
}

async fn one(connection: &Connection, keys: bool) -> Result<Vec<String>, PgError> {
    let mut found = Vec::new();
    let asked = "select current_setting('is_superuser') = 'on', pg_is_in_recovery(),
                   current_setting('synchronous_standby_names') = '' and exists (select 1 from pg_stat_replication)";
    if let Some(row) = connection.row(asked, &[]).await? {
        let [superuser, standby, asynchronous] = [row.try_get::<_, bool>(0)?, row.try_get(1)?, row.try_get(2)?];
        if superuser {
            found.push(
                "the role is a superuser: give the server a role of its own that owns its schemas only".to_owned(),
            );
        }
        if standby {
            found.push("this server is a standby: only the primary is read and written".to_owned());
        }
        if asynchronous {
            let text = "its standbys are asynchronous: a failover may lose what was acknowledged, registrations of processes \
                        among it, on which forgetting rests";
            found.push(text.to_owned());
        }
    }
    if keys {
        for (sql, text) in RIGHTS {
            if let Some(row) = connection.row(sql, &[]).await?
                && !row.try_get::<_, bool>(0)?
            {
                found.push(text.to_owned());
            }
        }
    }
    Ok(found)
}
