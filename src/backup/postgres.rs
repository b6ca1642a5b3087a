//! Dumps of a PostgreSQL schema by the server's own programs, and putting them back.
//!
//! Owns: running `pg_dump` and `pg_restore` (custom format) as child processes, and the snapshot that a dump and its
//! manifest share. Must not know: where backups are kept. A restore is one transaction. Base backups and archives of the
//! write-ahead log are the operator's.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::time::sleep;

use super::manifest::{Contents, Domain};
use super::sqlite::Replaced;
use super::{BackupError, Manifest};
use crate::crash;
use crate::db::OpenError;
use crate::db::postgres::{Connection, Connector, PgError, Target};
use crate::durable::Draft;
use crate::event::StoreId;
use crate::keystore::keyring::ErasureRecord;

const DUMP: &str = "pg_dump";
const RESTORE: &str = "pg_restore";
const BEGIN: &str = "begin isolation level repeatable read read only; set local statement_timeout = 0;
    set local idle_in_transaction_session_timeout = 0";

/// Where a schema is, and the file that its server's certificate is checked with.
#[derive(Clone, Debug)]
pub struct Source {
    /// The schema.
    pub target: Target,
    /// The authorities.
    pub authorities: Option<PathBuf>,
}

impl Source {
    /// Dumps the schema into a file. What is said of it was read in the very snapshot that was dumped.
    ///
    /// # Errors
    /// [`BackupError`].
    pub async fn dump(&self, domain: Domain, into: File) -> Result<Contents, BackupError> {
        let connection = Connector::new(self.target.clone()).connect_patiently().await.map_err(OpenError::from)?;
        self.program_fits(&connection, DUMP).await?;
        connection.batch(BEGIN).await.map_err(OpenError::from)?;
        let contents = match domain {
            Domain::Events => log_contents(&connection).await,
            Domain::Keys => keys_contents(&connection).await,
        };
        let contents = contents.map_err(OpenError::from)?;
        let snapshot = text(&connection, "select pg_export_snapshot()").await.map_err(OpenError::from)?;
        let arguments = [
            "--format=custom".to_owned(),
            format!("--schema={}", self.target.schema()),
            format!("--snapshot={snapshot}"),
            "--no-owner".to_owned(),
            "--no-privileges".to_owned(),
            "--lock-wait-timeout=60000".to_owned(),
            "--no-password".to_owned(),
        ];
        // The transaction stays open until the program has ended: the snapshot lives as long as it does.
        self.run(DUMP, &arguments, into.into()).await?;
        connection.batch("commit").await.map_err(OpenError::from)?;
        crash::point("backup.copied");
        Ok(contents)
    }

    /// Puts a checked dump in the place of the schema. Gives the name under which the old one is kept, if it is.
    ///
    /// # Errors
    /// [`BackupError::Occupied`] when the schema has content and may not be replaced.
    pub async fn put_back(
        &self,
        domain: Domain,
        backup: &Path,
        replaced: Replaced,
        aside: &str,
    ) -> Result<Option<String>, BackupError> {
        let connection = Connector::new(self.target.clone()).connect_patiently().await.map_err(OpenError::from)?;
        self.program_fits(&connection, RESTORE).await?;
        if !alone(&connection).await.map_err(OpenError::from)? {
            return Err(BackupError::InUse);
        }
        let schema = self.target.schema();
        let (there, full) = occupancy(&connection, schema).await.map_err(OpenError::from)?;
        if full && replaced == Replaced::Refuse {
            return Err(BackupError::Occupied { what: format!("schema {schema} of its database") });
        }
        crash::point("restore.before-aside");
        let mut kept = None;
        if full && replaced == Replaced::Aside {
            let name = format!("{schema}_{aside}");
            let sql = format!("alter schema {schema} rename to {name}");
            connection.batch(&sql).await.map_err(OpenError::from)?;
            kept = Some(name);
        } else if full {
            destroy(&connection, domain, schema).await.map_err(OpenError::from)?;
        }
        crash::point("restore.aside");
        // A schema that an administrator made, and that is empty, is taken as it is.
        let empty = there && !full;
        let list = if empty { Some(self.list_without_schema(backup).await?) } else { None };
        let mut arguments = vec![
            "--single-transaction".to_owned(),
            "--exit-on-error".to_owned(),
            "--no-owner".to_owned(),
            "--no-privileges".to_owned(),
            "--no-password".to_owned(),
            format!("--dbname=dbname='{}'", self.target.database().replace('\\', "\\\\").replace('\'', "\\'")),
        ];
        arguments.extend(list.as_ref().map(|list| format!("--use-list={}", list.path().display())));
        arguments.push(backup.display().to_string());
        let restored = self.run(RESTORE, &arguments, Stdio::null()).await;
        if let Some(list) = list {
            list.discard().map_err(|error| BackupError::io(backup, &error))?;
        }
        restored?;
        Ok(kept)
    }

    /// What a dump holds, once it is put back.
    ///
    /// # Errors
    /// [`BackupError::Database`].
    pub async fn contents(&self, domain: Domain) -> Result<Contents, BackupError> {
        let connection = Connector::new(self.target.clone()).connect_patiently().await.map_err(OpenError::from)?;
        let contents = match domain {
            Domain::Events => log_contents(&connection).await,
            Domain::Keys => keys_contents(&connection).await,
        };
        Ok(contents.map_err(OpenError::from)?)
    }

    /// The dump's list of contents without the making of the schema.
    async fn list_without_schema(&self, backup: &Path) -> Result<Draft, BackupError> {
        let io = |error: std::io::Error| BackupError::io(backup, &error);
        let mut draft = Draft::new(&Manifest::beside(backup).with_extension("list")).map_err(io)?;
        let into = draft.file().try_clone().map_err(io)?;
        self.run(RESTORE, &["--list".to_owned(), backup.display().to_string()], into.into()).await?;
        let list = std::fs::read_to_string(draft.path()).map_err(io)?;
        let kept: String =
            list.lines().filter(|line| !line.contains(" SCHEMA - ")).flat_map(|line| [line, "\n"]).collect();
        draft.file().set_len(0).map_err(io)?;
        std::io::Seek::rewind(draft.file()).map_err(io)?;
        draft.file().write_all(kept.as_bytes()).map_err(io)?;
        Ok(draft)
    }

    async fn program_fits(&self, connection: &Connection, program: &'static str) -> Result<(), BackupError> {
        let found = text(connection, "select current_setting('server_version_num')").await.map_err(OpenError::from)?;
        let needed = found.parse::<u32>().unwrap_or(0) / 10_000;
        let said = blocking(move || Command::new(program).arg("--version").stdin(Stdio::null()).output()).await;
        let said = match said {
            Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).into_owned(),
            _ => return Err(BackupError::NoProgram { program, needed }),
        };
        let number = said.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()));
        let major: String = number.unwrap_or_default().chars().take_while(char::is_ascii_digit).collect();
        let found = major.parse().unwrap_or(0);
        if found < needed { Err(BackupError::OldProgram { program, found, needed }) } else { Ok(()) }
    }

    async fn run(&self, program: &'static str, arguments: &[String], out: Stdio) -> Result<(), BackupError> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(out).stderr(Stdio::null()).env_clear();
        // No settings of the user's: no password files, no other defaults.
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("LC_ALL", "C");
        command.envs(self.target.variables(self.authorities.as_deref()));
        match blocking(move || command.status()).await {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(BackupError::Program { program, code: status.code().unwrap_or(-1) }),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(BackupError::NoProgram { program, needed: 15 }),
            Err(error) => Err(BackupError::io(Path::new(program), &error)),
        }
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(std::io::Error::other(error)))
}

async fn text(connection: &Connection, sql: &str) -> Result<String, PgError> {
    let row = connection.row(sql, &[]).await?.ok_or(PgError::Type)?;
    Ok(row.try_get::<_, String>(0)?)
}

/// Whether no server of ours is connected. Connections that were just closed take a moment to go.
async fn alone(connection: &Connection) -> Result<bool, PgError> {
    let sql = "select not exists (select 1 from pg_stat_activity where datname = current_database()
                 and application_name = 'oubliette' and pid <> pg_backend_pid())";
    for _ in 0..40 {
        let row = connection.row(sql, &[]).await?.ok_or(PgError::Type)?;
        if row.try_get(0)? {
            return Ok(true);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(false)
}

/// Whether a schema is there, and whether anything is in it.
async fn occupancy(connection: &Connection, schema: &str) -> Result<(bool, bool), PgError> {
    let sql = "select to_regnamespace($1) is not null,
                 exists (select 1 from pg_class where relnamespace = to_regnamespace($1)::oid)";
    let row = connection.row(sql, &[&schema]).await?.ok_or(PgError::Type)?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Zeros over every key, then away with the schema. What the write-ahead log and its archive hold ends with their roots.
async fn destroy(connection: &Connection, domain: Domain, schema: &str) -> Result<(), PgError> {
    if domain == Domain::Events {
        return connection.batch(&format!("drop schema {schema} cascade")).await;
    }
    let zero = "do $$
                  declare place record;
                  begin
                    for place in select * from (values ('key_slots', 'wrapped'), ('id_slots', 'sealed'), ('subject_slots', 'subject'),
                        ('natural_slots', 'entry'), ('kek_slots', 'wrapped'), ('secrets', 'wrapped')) w(name, bytes)
                        where to_regclass(name) is not null loop
                      execute format('update %1$I set %2$I = decode(repeat(''00'', octet_length(%2$I)), ''hex'')', place.name, place.bytes);
                    end loop;
                  end $$";
    connection.batch(zero).await?;
    connection.batch("checkpoint").await.ok();
    connection.batch(&format!("drop schema {schema} cascade")).await?;
    connection.batch("select pg_switch_wal()").await.ok();
    connection.batch("checkpoint").await.ok();
    Ok(())
}

async fn log_contents(connection: &Connection) -> Result<Contents, PgError> {
    let head = connection.row("select store, next_position from head", &[]).await?.ok_or(PgError::Type)?;
    let last = connection.row("select number, digest from erasures order by number desc limit 1", &[]).await?;
    let erasure = match last {
        None => ErasureRecord::default(),
        Some(row) => ErasureRecord { number: row.try_get::<_, i64>(0)? as u64, digest: array(row.try_get(1)?)? },
    };
    Ok(Contents {
        store: StoreId(array(head.try_get(0)?)?),
        format: format(connection).await?,
        next_position: Some(head.try_get::<_, i64>(1)? as u64),
        erasure,
        epochs: Vec::new(),
    })
}

async fn keys_contents(connection: &Connection) -> Result<Contents, PgError> {
    let meta = connection.row("select store, applied_erasure from meta", &[]).await?.ok_or(PgError::Type)?;
    let epochs = connection.query("select epoch from secrets union select root from keks order by 1", &[]).await?;
    let epochs = epochs.iter().map(|row| Ok(row.try_get::<_, i64>(0)? as u32)).collect::<Result<_, PgError>>()?;
    Ok(Contents {
        store: StoreId(array(meta.try_get(0)?)?),
        format: format(connection).await?,
        next_position: None,
        erasure: ErasureRecord { number: meta.try_get::<_, i64>(1)? as u64, digest: [0; 32] },
        epochs,
    })
}

async fn format(connection: &Connection) -> Result<u32, PgError> {
    let row = connection.row("select max(version) from migrations", &[]).await?.ok_or(PgError::Type)?;
    Ok(row.try_get::<_, Option<i64>>(0)?.unwrap_or(0) as u32)
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], PgError> {
    bytes.try_into().map_err(|_| PgError::Type)
}
