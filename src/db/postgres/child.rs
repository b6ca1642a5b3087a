//! Settings of a connection for the server's own client programs.
//!
//! Owns: the translation into the environment that `libpq` reads. Nothing of it goes onto a command line, which everybody
//! on the machine can read; the environment of a process is its user's alone.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use tokio_postgres::config::Host;

use super::Target;

impl Target {
    /// Variables for a child process. `authorities`: the file with which the server's certificate is checked.
    pub fn variables(&self, authorities: Option<&Path>) -> Vec<(&'static str, OsString)> {
        let config = &self.config;
        let hosts: Vec<String> = config
            .get_hosts()
            .iter()
            .map(|host| match host {
                Host::Tcp(name) => name.clone(),
                Host::Unix(path) => path.display().to_string(),
            })
            .collect();
        let ports: Vec<String> = config.get_ports().iter().map(u16::to_string).collect();
        let mut all: Vec<(&'static str, OsString)> = vec![
            ("PGAPPNAME", "oubliette".into()),
            ("PGCONNECT_TIMEOUT", "10".into()),
            ("PGCLIENTENCODING", "UTF8".into()),
        ];
        let mut put = |name, value: Option<OsString>| all.extend(value.map(|value| (name, value)));
        put("PGHOST", (!hosts.is_empty()).then(|| hosts.join(",").into()));
        put("PGPORT", (!ports.is_empty()).then(|| ports.join(",").into()));
        put("PGUSER", config.get_user().map(Into::into));
        put("PGDATABASE", config.get_dbname().or(config.get_user()).map(Into::into));
        put("PGPASSWORD", config.get_password().map(|password| OsString::from_vec(password.to_vec())));
        match authorities {
            Some(path) => {
                put("PGSSLMODE", Some("verify-full".into()));
                put("PGSSLROOTCERT", Some(path.into()));
            }
            None => put("PGSSLMODE", Some("disable".into())),
        }
        all
    }

    /// The database's name, which alone `pg_restore` insists on reading from its command line.
    pub fn database(&self) -> &str {
        self.config.get_dbname().or(self.config.get_user()).unwrap_or("postgres")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_goes_through_the_environment() {
        let target = Target::parse("host=/run/pg,/run/pg2 port=5433 user=u dbname=events", "s").unwrap();
        let variables = target.with_password(b"hunter2").variables(None);
        let value = |name: &str| variables.iter().find(|(n, _)| *n == name).unwrap().1.to_str().unwrap().to_owned();
        assert_eq!(value("PGHOST"), "/run/pg,/run/pg2");
        assert_eq!(
            (value("PGPORT"), value("PGUSER"), value("PGDATABASE")),
            ("5433".into(), "u".into(), "events".into())
        );
        assert_eq!((value("PGPASSWORD"), value("PGSSLMODE")), ("hunter2".into(), "disable".into()));
    }
}
