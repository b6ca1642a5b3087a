//! Both engines have the same tables under the same numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::postgres::{cluster, execute, query};

/// Columns by table.
type Tables = BTreeMap<String, BTreeSet<String>>;

fn steps(domain: &str, engine: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(domain).join(engine);
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn names(steps: &[PathBuf]) -> Vec<String> {
    steps.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn on_sqlite(steps: &[PathBuf]) -> Tables {
    let connection = rusqlite::Connection::open_in_memory().unwrap();
    for step in steps {
        connection.execute_batch(&std::fs::read_to_string(step).unwrap()).unwrap();
    }
    let sql = "select m.name, c.name from sqlite_schema m, pragma_table_info(m.name) c where m.type = 'table'";
    let mut statement = connection.prepare(sql).unwrap();
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).unwrap();
    let mut tables = Tables::new();
    for (table, column) in rows.map(Result::unwrap) {
        tables.entry(table).or_default().insert(column);
    }
    tables
}

fn on_postgres(dsn: &str, steps: &[PathBuf]) -> Tables {
    for step in steps {
        execute(dsn, &std::fs::read_to_string(step).unwrap()).unwrap();
    }
    let sql =
        "select table_name::text, column_name::text from information_schema.columns where table_schema = 'public'";
    let mut tables = Tables::new();
    for row in query(dsn, sql) {
        tables.entry(row.get(0)).or_default().insert(row.get(1));
    }
    tables
}

#[test]
fn numbers_names_tables_and_columns_are_the_same_on_both_engines() {
    for domain in ["events", "keys", "projections"] {
        let (sqlite, postgres) = (steps(domain, "sqlite"), steps(domain, "postgres"));
        assert_eq!(names(&sqlite), names(&postgres), "{domain}");
        for (at, name) in names(&sqlite).iter().enumerate() {
            assert!(name.starts_with(&format!("{:04}_", at + 1)), "{name}");
        }
        let Some(cluster) = cluster() else { return };
        // After every step, not only at the end: a number means the same on both.
        for until in 1..=sqlite.len() {
            let (one, other) = (on_sqlite(&sqlite[..until]), on_postgres(&cluster.database(), &postgres[..until]));
            assert!(!one.is_empty());
            assert_eq!(one, other, "{domain} after step {until}");
        }
    }
}
