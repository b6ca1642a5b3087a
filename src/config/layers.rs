//! The layers of the configuration: flags over environment over file over defaults.
//!
//! Owns: reading the file and the variables, and the refusal of whatever is unknown. Must not know: what a setting
//! means. All mistakes are collected and reported together.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::table::{self, SETTINGS};
use super::value::{Rule, Value, did_you_mean, nearest};
use super::{Config, Flags, SchemaPolicy, Source};

/// Environment variables, as `std::env::vars_os` gives them.
pub type Env = Vec<(OsString, OsString)>;

/// Variables of ours that are not settings of the server.
const OTHER_VARIABLES: &[&str] =
    &["OUBLIETTE_CONFIG", "OUBLIETTE_SERVER", "OUBLIETTE_API_KEY", "OUBLIETTE_API_KEY_FILE", "OUBLIETTE_CRASH_AT"];

/// The file read when it exists and no other is named.
const DEFAULT_FILE: &str = "./oubliette.toml";

/// One mistake in the configuration. Values are not repeated: a variable may hold anything.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A file that was named cannot be read.
    #[error("{}: cannot be read ({kind})", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// The file is not TOML.
    #[error("{}: line {line}: {message}", .path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// The parser's words.
        message: String,
    },
    /// A name that is no setting.
    #[error("{place}: {name} is not a setting{}", did_you_mean(.nearest.as_ref()))]
    Unknown {
        /// Where it stands.
        place: Place,
        /// The name.
        name: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// A setting with a value that is not allowed.
    #[error("{place}: {name} {rule}")]
    Value {
        /// Where it stands.
        place: Place,
        /// The name.
        name: String,
        /// What is wrong.
        rule: Rule,
    },
}

/// Where a mistake stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// In this file.
    File(PathBuf),
    /// In the environment.
    Environment,
    /// On the command line.
    CommandLine,
    /// In settings that do not fit together.
    Together,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment => f.write_str("environment"),
            Self::CommandLine => f.write_str("command line"),
            Self::Together => f.write_str("settings"),
        }
    }
}

/// Everything that is wrong with the configuration, at least one mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl std::fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the configuration is not valid")?;
        self.0.iter().try_for_each(|error| write!(f, "\n  {error}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// See [`Config::load`].
pub(super) fn load(flags: &Flags, env: Env) -> Result<Config, ConfigErrors> {
    let mut load = Load { config: Config::default(), errors: Vec::new() };
    let variables = load.variables(env);
    let named = flags.config.clone().or_else(|| variables.get("OUBLIETTE_CONFIG").map(PathBuf::from));
    load.file(named.as_deref());
    load.environment(&variables);
    load.flags(flags);
    load.derived();
    if load.errors.is_empty()
        && let Some((key, rule)) = table::misfit(&load.config)
    {
        load.errors.push(ConfigError::Value { place: Place::Together, name: key.to_owned(), rule });
    }
    if load.errors.is_empty() { Ok(load.config) } else { Err(ConfigErrors(load.errors)) }
}

struct Load {
    config: Config,
    errors: Vec<ConfigError>,
}

impl Load {
    /// Our variables as text. One that is not UTF-8 is refused here.
    fn variables(&mut self, env: Env) -> BTreeMap<String, String> {
        let mut ours = BTreeMap::new();
        for (name, value) in env {
            let Some(name) = name.to_str().filter(|name| name.starts_with("OUBLIETTE_")) else { continue };
            match value.into_string() {
                Ok(value) => drop(ours.insert(name.to_owned(), value)),
                Err(_) => self.errors.push(ConfigError::Value {
                    place: Place::Environment,
                    name: name.to_owned(),
                    rule: Rule::Kind { kind: "UTF-8 text" },
                }),
            }
        }
        ours
    }

    fn file(&mut self, named: Option<&Path>) {
        let path = named.unwrap_or(Path::new(DEFAULT_FILE));
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => return,
            Err(error) => {
                return self.errors.push(ConfigError::Unreadable { path: path.to_owned(), kind: error.kind() });
            }
        };
        match text.parse::<toml::Table>() {
            Ok(table) => self.table(path, "", table),
            Err(error) => {
                let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                let line = before.matches('\n').count() + 1;
                let message = error.message().to_owned();
                self.errors.push(ConfigError::Syntax { path: path.to_owned(), line, message });
            }
        }
    }

    /// Sets what a table of the file says; `prefix` is the table's name with a dot, or nothing.
    fn table(&mut self, path: &Path, prefix: &str, table: toml::Table) {
        let place = Place::File(path.to_owned());
        for (name, value) in table {
            let key = format!("{prefix}{name}");
            let text = match value {
                toml::Value::Table(inner) if prefix.is_empty() && key == "limits" => {
                    self.table(path, "limits.", inner);
                    continue;
                }
                toml::Value::String(text) => Some(text),
                toml::Value::Integer(number) => Some(number.to_string()),
                toml::Value::Boolean(flag) => Some(flag.to_string()),
                _ => None,
            };
            match (table::find(&key), text) {
                (Some(_), Some(text)) => self.set(&key, &text, &place, &key, Source::File(path.to_owned())),
                (Some(_), None) => {
                    let rule = Rule::Kind { kind: "a string, a number, true or false" };
                    self.errors.push(ConfigError::Value { place: place.clone(), name: key, rule });
                }
                (None, _) => {
                    let nearest = nearest(&key, SETTINGS.iter().map(|setting| setting.key));
                    self.errors.push(ConfigError::Unknown { place: place.clone(), name: key, nearest });
                }
            }
        }
    }

    fn environment(&mut self, variables: &BTreeMap<String, String>) {
        let known: Vec<(String, &str)> = SETTINGS.iter().map(|s| (s.variable(), s.key)).collect();
        for (name, value) in variables {
            if let Some((_, key)) = known.iter().find(|(variable, _)| variable == name) {
                self.set(key, value, &Place::Environment, name, Source::Env(name.clone()));
            } else if !OTHER_VARIABLES.contains(&name.as_str()) {
                let names = known.iter().map(|(variable, _)| variable.as_str()).chain(OTHER_VARIABLES.iter().copied());
                let nearest = nearest(name, names);
                self.errors.push(ConfigError::Unknown { place: Place::Environment, name: name.clone(), nearest });
            }
        }
    }

    fn flags(&mut self, flags: &Flags) {
        let given = [
            ("listen", "--listen", flags.listen.as_ref().map(Value::show)),
            ("data_dir", "--data-dir", flags.data_dir.as_ref().map(Value::show)),
            ("dev", "--dev", flags.dev.then(|| true.show())),
            ("schema_policy", "--schema-policy", flags.schema_policy.as_ref().map(Value::show)),
            ("leak_guard", "--leak-guard", flags.leak_guard.as_ref().map(Value::show)),
            ("log_format", "--log-format", flags.log_format.as_ref().map(Value::show)),
            ("log_level", "--log-level", flags.log_level.as_ref().map(Value::show)),
        ];
        for (key, flag, text) in given {
            if let Some(text) = text {
                self.set(key, &text, &Place::CommandLine, flag, Source::Flag(flag));
            }
        }
    }

    fn set(&mut self, key: &str, text: &str, place: &Place, name: &str, source: Source) {
        let Some(setting) = table::find(key) else { return };
        match (setting.set)(&mut self.config, text) {
            Ok(()) => drop(self.config.sources.insert(setting.key, source)),
            Err(rule) => {
                self.errors.push(ConfigError::Value { place: place.clone(), name: name.to_owned(), rule });
            }
        }
    }

    /// Defaults that follow from other settings.
    fn derived(&mut self) {
        let derived = Config::in_dir(&self.config.data_dir);
        let config = &mut self.config;
        let unset = |key| !config.sources.contains_key(key);
        let (events, keys, keyring) = (unset("events_dir"), unset("keys_dir"), unset("keyring_dir"));
        let policy = unset("schema_policy");
        let backups = (unset("backup_events_dir"), unset("backup_keys_dir"), unset("backup_record_dir"));
        if events {
            config.events_dir = derived.events_dir;
        }
        if keys {
            config.keys_dir = derived.keys_dir;
        }
        if keyring {
            config.keyring_dir = derived.keyring_dir;
        }
        if backups.0 {
            config.backup_events_dir = derived.backup_events_dir;
        }
        if backups.1 {
            config.backup_keys_dir = derived.backup_keys_dir;
        }
        if backups.2 {
            config.backup_record_dir = derived.backup_record_dir;
        }
        if policy && config.dev {
            config.schema_policy = SchemaPolicy::Open;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Env {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    /// Loads with a file of that text.
    fn load_file(text: &str, vars: &[(&str, &str)], mut flags: Flags) -> Result<Config, ConfigErrors> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("o.toml");
        std::fs::write(&path, text).unwrap();
        flags.config = Some(path);
        Config::load(&flags, env(vars))
    }

    fn messages(result: Result<Config, ConfigErrors>) -> Vec<String> {
        let strip = |text: String| text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned());
        result.unwrap_err().0.into_iter().map(|error| strip(error.to_string())).collect()
    }

    #[test]
    fn later_layers_win_and_are_named() {
        let file = "listen = \"127.0.0.1:1\"\nlease = \"PT3S\"\nkey_cache = 500\n[limits]\nbody_bytes = 2097152\n";
        let flags = Flags { listen: Some("127.0.0.1:3".parse().unwrap()), ..Flags::default() };
        let vars = [("OUBLIETTE_LISTEN", "127.0.0.1:2"), ("OUBLIETTE_LEASE", "PT4S"), ("HOME", "/")];
        let config = load_file(file, &vars, flags).unwrap();
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.lease, Duration::from_secs(4));
        assert_eq!((config.key_cache, config.limits.body_bytes), (500, 2 * 1024 * 1024));
        let effective = config.effective();
        let source = |key: &str| effective.iter().find(|row| row.0 == key).unwrap().2.clone();
        assert_eq!(source("listen"), Source::Flag("--listen"));
        assert_eq!(source("lease"), Source::Env("OUBLIETTE_LEASE".to_owned()));
        assert!(matches!(source("key_cache"), Source::File(_)));
        assert!(matches!(source("limits.body_bytes"), Source::File(_)));
        assert_eq!(source("readers"), Source::Default);
    }

    #[test]
    fn directories_and_policy_follow_unless_set() {
        let vars = [("OUBLIETTE_DATA_DIR", "/d"), ("OUBLIETTE_KEYS_DIR", "/k"), ("OUBLIETTE_DEV", "true")];
        let config = load_file("", &vars, Flags::default()).unwrap();
        assert_eq!(config.events_db(), Path::new("/d/events/events.db"));
        assert_eq!(config.keys_db(), Path::new("/k/keys.db"));
        assert_eq!(config.keyring_dir, Path::new("/d/keyring"));
        assert_eq!(config.schema_policy, SchemaPolicy::Open);
        let flags = Flags { schema_policy: Some(SchemaPolicy::Sealed), ..Flags::default() };
        assert_eq!(load_file("dev = true", &[], flags).unwrap().schema_policy, SchemaPolicy::Sealed);
    }

    #[test]
    fn unknown_names_are_refused_with_a_suggestion() {
        let vars = [("OUBLIETTE_LIMIT_BODY_BYTES", "1"), ("OUBLIETTE_API_KEY", "x")];
        assert_eq!(
            messages(load_file("lissten = \"x\"\n[limits]\nbodybytes = 1\n[tls]\na = 1\n", &vars, Flags::default())),
            [
                "limits.bodybytes is not a setting; did you mean \"limits.body_bytes\"?",
                "lissten is not a setting; did you mean \"listen\"?",
                "tls is not a setting",
                "OUBLIETTE_LIMIT_BODY_BYTES is not a setting; did you mean \"OUBLIETTE_LIMITS_BODY_BYTES\"?",
            ]
        );
    }

    #[test]
    fn values_out_of_range_or_kind_are_refused() {
        let vars = [("OUBLIETTE_LEASE", "PT31S"), ("OUBLIETTE_LEAK_GUARD", "rejct"), ("OUBLIETTE_DEV", "")];
        assert_eq!(
            messages(load_file("readers = 0\nlisten = 7017\nkey_cache = 1.5\n", &vars, Flags::default())),
            [
                "key_cache is not a string, a number, true or false",
                "listen is not an address with a port such as 127.0.0.1:7017",
                "readers is outside 1 to 64; the nearest allowed value is 1",
                "OUBLIETTE_DEV is not true or false",
                "OUBLIETTE_LEAK_GUARD is not one of off, warn, reject; did you mean \"reject\"?",
                "OUBLIETTE_LEASE is outside PT1S to PT30S; the nearest allowed value is PT30S",
            ]
        );
        let misfit = load_file("[limits]\nevent_bytes = 2097152\n", &[], Flags::default());
        assert!(messages(misfit)[0].contains("limits.body_bytes"));
        let bound = load_file("epoch = \"P10D\"\nbackup_horizon = \"P21D\"\n", &[], Flags::default());
        assert_eq!(
            messages(bound),
            [
                "backup_horizon makes P31D with epoch, and P30D is the most: so long a backup could open what was forgotten"
            ]
        );
        let strict = load_file("epoch = \"PT1H\"\nbackup_horizon = \"PT0S\"\n", &[], Flags::default()).unwrap();
        assert_eq!(strict.backup_bound_text(), ["PT1H", "PT1H", "PT0S"]);
    }

    #[test]
    fn a_named_file_must_exist_and_be_toml() {
        let flags = Flags { config: Some("/nowhere/o.toml".into()), ..Flags::default() };
        let errors = Config::load(&flags, Env::new()).unwrap_err();
        assert!(matches!(errors.0[0], ConfigError::Unreadable { .. }));
        let errors = load_file("dev = true\nlisten =\n", &[], Flags::default()).unwrap_err();
        assert!(matches!(errors.0[0], ConfigError::Syntax { line: 2, .. }), "{errors}");
    }
}
