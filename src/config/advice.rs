//! What is unsafe about a configuration.
//!
//! Owns: the list of settings that weaken a promise, and the sentences that say so. Must not know: who reads them.
//! Nothing here is fatal: whoever tries things out on a laptop has all three stores on one disk, and is told.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::places::resolved;
use super::{Config, LeakGuard, SchemaPolicy};

/// The name of a setting and what is unsafe about it, worst first.
pub(super) fn unsafe_settings(config: &Config) -> Vec<(&'static str, String)> {
    let mut found = Vec::new();
    settings(config, &mut found);
    places(config, &mut found);
    modes(config, &mut found);
    found
}

fn settings(config: &Config, found: &mut Vec<(&'static str, String)>) {
    let open_net = !config.listen.ip().is_loopback();
    if config.dev && open_net {
        let text = "dev mode with an address that others can reach: the key `dev` is public and may do everything";
        found.push(("dev", text.to_owned()));
    } else if config.dev {
        let text = "dev mode: the key `dev` is public and may do everything; never use it with real data";
        found.push(("dev", text.to_owned()));
    }
    if open_net {
        let text = "the server speaks plain HTTP on an address that others can reach: put a proxy with TLS in front of \
                    it, or listen on 127.0.0.1";
        found.push(("listen", text.to_owned()));
    }
    if config.leak_guard == LeakGuard::Off {
        let text = "the leak guard is off: personal data that nobody marked is stored in clear and cannot be forgotten";
        found.push(("leak_guard", text.to_owned()));
    }
    if config.schema_policy == SchemaPolicy::Open {
        let text = "events need no schema: only what each event marks in line is sealed";
        found.push(("schema_policy", text.to_owned()));
    }
}

/// Keys must be able to die while the log lives on: whoever copies the log must not copy the keys with it.
fn places(config: &Config, found: &mut Vec<(&'static str, String)>) {
    if config.one_database {
        let text =
            "event log and keystore may share one database: whoever backs up the one keeps the keys of the other";
        found.push(("one_database", text.to_owned()));
    }
    let events = ("the event log", &config.events_dir);
    let keys = ("the keystore", &config.keys_dir);
    let served = |what: &str| match what {
        "the event log" => config.events_dsn.text().is_some(),
        "the keystore" => config.keys_dsn.text().is_some(),
        _ => false,
    };
    let pairs = [
        ("keys_dir", keys, events),
        ("keyring_dir", ("the keyring", &config.keyring_dir), events),
        ("keyring_dir", ("the keyring", &config.keyring_dir), keys),
    ];
    // What a database server holds is on none of our file systems.
    for (setting, (what, path), (other_what, other)) in
        pairs.into_iter().filter(|(_, (one, _), (other, _))| !served(one) && !served(other))
    {
        let (path, other) = (resolved(path), resolved(other));
        if path.starts_with(&other) || other.starts_with(&path) {
            let text = format!("{what} lies in one directory with {other_what}: a backup of one takes both");
            found.push((setting, text));
        } else if let (Some(a), Some(b)) = (existing(&path), existing(&other))
            && a.dev() == b.dev()
        {
            let text = format!(
                "{what} is on the same file system as {other_what}: a snapshot of the volume takes both; in production \
                 give it a volume of its own with short-lived backups"
            );
            found.push((setting, text));
        }
    }
}

fn modes(config: &Config, found: &mut Vec<(&'static str, String)>) {
    for (setting, path, private) in [
        ("events_dir", &config.events_dir, false),
        ("keys_dir", &config.keys_dir, true),
        ("keyring_dir", &config.keyring_dir, true),
    ] {
        let Ok(metadata) = std::fs::metadata(path) else { continue };
        let (who, mask) = if private { ("its group or everybody", 0o077) } else { ("everybody", 0o007) };
        if metadata.mode() & mask != 0 {
            let mode = metadata.mode() & 0o777;
            found.push((setting, format!("{} is open to {who} (mode {mode:03o}): chmod 700", path.display())));
        }
    }
}

/// What is known of the nearest directory that exists: a store yet to be made will be on its file system.
fn existing(path: &Path) -> Option<Metadata> {
    path.ancestors().find_map(|ancestor| std::fs::metadata(ancestor).ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn about(config: &Config) -> Vec<&'static str> {
        unsafe_settings(config).into_iter().map(|(setting, _)| setting).collect()
    }

    #[test]
    fn defaults_on_one_disk_are_only_advised_about_the_disk() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(about(&Config::in_dir(dir.path())), ["keys_dir", "keyring_dir", "keyring_dir"]);
    }

    #[test]
    fn each_unsafe_setting_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::in_dir(dir.path());
        config.dev = true;
        config.listen = "0.0.0.0:7017".parse().unwrap();
        config.leak_guard = LeakGuard::Off;
        config.schema_policy = SchemaPolicy::Open;
        config.keys_dir = config.events_dir.join("k");
        let found = config.advice();
        assert_eq!(
            found.iter().take(4).map(|f| f.0).collect::<Vec<_>>(),
            ["dev", "listen", "leak_guard", "schema_policy"]
        );
        assert!(found[0].1.contains("others can reach"));
        assert!(found.iter().any(|f| f.0 == "keys_dir" && f.1.contains("in one directory with the event log")));
        assert_eq!(config.unsafe_settings().len(), found.len());
    }

    #[test]
    fn open_directories_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::in_dir(dir.path());
        for (path, mode) in [(&config.events_dir, 0o750), (&config.keys_dir, 0o750), (&config.keyring_dir, 0o700)] {
            std::fs::create_dir(path).unwrap();
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        }
        let modes: Vec<_> = config.advice().into_iter().filter(|(_, text)| text.contains("chmod")).collect();
        assert_eq!(modes.len(), 1);
        assert!(modes[0].0 == "keys_dir" && modes[0].1.contains("mode 750"));
    }
}
