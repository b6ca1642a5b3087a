//! Directories that must be apart.
//!
//! Owns: the comparison of places, links and `..` resolved, and the refusal of backups that would lie together: a backup of
//! the keys lives for days, one of the events for years, and whoever keeps the one must not keep the other with it.

use std::path::{Component, Path, PathBuf};

use super::Config;
use super::value::Rule;

/// The first setting that puts a backup where it must not be.
pub(super) fn together(config: &Config) -> Option<(&'static str, Rule)> {
    let Config { backup_events_dir: events, backup_keys_dir: keys, backup_record_dir: record, .. } = config;
    let pairs: [(&str, &PathBuf, &'static str, &PathBuf); 8] = [
        ("backup_keys_dir", keys, "backup_events_dir", events),
        ("backup_record_dir", record, "backup_keys_dir", keys),
        ("backup_record_dir", record, "backup_events_dir", events),
        ("backup_keys_dir", keys, "events_dir", &config.events_dir),
        ("backup_keys_dir", keys, "keyring_dir", &config.keyring_dir),
        ("backup_events_dir", events, "keys_dir", &config.keys_dir),
        ("backup_events_dir", events, "keyring_dir", &config.keyring_dir),
        ("backup_record_dir", record, "keyring_dir", &config.keyring_dir),
    ];
    pairs.into_iter().find_map(|(key, one, other, path)| {
        let (one, path) = (resolved(one), resolved(path));
        (one.starts_with(&path) || path.starts_with(&one)).then_some((key, Rule::Together { other }))
    })
}

/// The path without `.`, `..` and links, as far as it exists.
pub(super) fn resolved(path: &Path) -> PathBuf {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for ancestor in absolute.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            let rest = absolute.strip_prefix(ancestor).unwrap_or(Path::new(""));
            return rest.components().fold(real, |mut path, part| {
                match part {
                    Component::ParentDir => drop(path.pop()),
                    part => path.push(part),
                }
                path
            });
        }
    }
    absolute
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_directory_for_both_is_refused_whatever_it_is_called() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::in_dir(dir.path());
        assert_eq!(together(&config), None);
        let link = dir.path().join("link");
        std::fs::create_dir(dir.path().join("backup-events")).unwrap();
        std::os::unix::fs::symlink(dir.path().join("backup-events"), &link).unwrap();
        for keys in [
            dir.path().join("backup-events"),
            dir.path().join("backup-events/keys"),
            dir.path().join("x/../backup-events"),
            link,
            dir.path().to_owned(),
        ] {
            let config = Config { backup_keys_dir: keys, ..config.clone() };
            assert_eq!(together(&config), Some(("backup_keys_dir", Rule::Together { other: "backup_events_dir" })));
        }
    }
}
