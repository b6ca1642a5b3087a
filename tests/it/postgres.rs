//! Throw-away PostgreSQL clusters.
//!
//! Owns: finding the server's programs, one cluster for all tests of this process and one database per test. A shell holds
//! the cluster: it waits on a pipe from this process, so that whatever way this process ends, the server ends and its
//! directory goes. Unix sockets only. As root everything runs as the user `postgres`, as the server insists.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// A running cluster.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    /// Its standard input is what keeps it alive.
    holder: Mutex<Child>,
}

static MADE: AtomicU32 = AtomicU32::new(0);

/// The cluster of this process, without durability; `None`, said loudly, where there is no PostgreSQL.
pub fn cluster() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(false)).as_ref()
}

impl Cluster {
    /// A cluster of its own; `durable` leaves fsync as PostgreSQL has it.
    pub fn start(durable: bool) -> Option<Self> {
        let Some(bin) = programs() else {
            let message = "SKIPPED: no PostgreSQL programs (initdb, postgres) of version 15 or newer were found\n";
            assert!(std::env::var_os("TESTS_NO_SKIP").is_none_or(|set| set != "1"), "{message}");
            // Past the capture of the test harness, so that nobody takes the silence for a success.
            std::io::stderr().write_all(message.as_bytes()).unwrap();
            return None;
        };
        let quick =
            "-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0";
        let script = SCRIPT.replace("QUICK", if durable { "" } else { quick });
        let mut holder = shell(&bin, &script);
        holder.env("TEMPLATE", template_parent());
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a shell");
        let mut line = String::new();
        BufReader::new(holder.stdout.take().expect("it is piped")).read_line(&mut line).unwrap();
        let dir = PathBuf::from(line.trim());
        let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(dir.join(".s.PGSQL.5432").exists(), "PostgreSQL did not start: {log}");
        Some(Self { dir, bin, holder: Mutex::new(holder) })
    }

    /// An empty database: its connection string.
    pub fn database(&self) -> String {
        let name = format!("t{}", MADE.fetch_add(1, Ordering::Relaxed));
        execute(&self.dsn("postgres"), &format!("create database {name} strategy file_copy")).unwrap();
        self.dsn(&name)
    }

    /// Connection string of a database, as the superuser.
    pub fn dsn(&self, database: &str) -> String {
        self.dsn_as(database, "postgres")
    }

    /// Connection string of a database for a role.
    pub fn dsn_as(&self, database: &str, role: &str) -> String {
        format!("host={} user={role} dbname={database}", self.dir.display())
    }

    /// The directory with the socket, the log and `data`.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the server wrote into its log.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// Kills the server's processes where they stand and starts it again.
    pub fn crash(&self) {
        self.control("stop -m immediate");
        self.control("start");
    }

    /// Sends away everybody who is connected and starts anew.
    pub fn restart(&self) {
        self.control("stop -m fast");
        self.control("start");
    }

    /// Lets the server listen on a loopback address, encrypted: the port, and its authority's certificate. `None`, said
    /// loudly, where no certificate can be made.
    pub fn encrypt(&self) -> Option<(u16, Vec<u8>)> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let script = format!("cd '{}' && {CERTIFICATES}", self.dir.display());
        let made = shell(&self.bin, &script).output().unwrap();
        if !made.status.success() {
            let message = "SKIPPED: no program `openssl` to make a certificate with\n";
            assert!(std::env::var_os("TESTS_NO_SKIP").is_none_or(|set| set != "1"), "{message}");
            std::io::stderr().write_all(message.as_bytes()).unwrap();
            return None;
        }
        let dir = self.dir.display();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {port}\nssl = on\nssl_cert_file = '{dir}/server.crt'\n\
             ssl_key_file = '{dir}/server.key'\n"
        );
        let file = std::fs::OpenOptions::new().append(true).open(self.dir.join("data/postgresql.conf"));
        file.unwrap().write_all(settings.as_bytes()).unwrap();
        self.restart();
        Some((port, std::fs::read(self.dir.join("ca.crt")).unwrap()))
    }

    fn control(&self, what: &str) {
        let dir = self.dir.display();
        let status = shell(&self.bin, &format!("./pg_ctl -w -s -D {dir}/data -l {dir}/log {what}")).status().unwrap();
        assert!(status.success(), "{what}: {}", self.log());
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut holder = self.holder.lock().unwrap();
        drop(holder.stdin.take());
        let _ = holder.wait();
    }
}

/// An authority, and a certificate of it for the loopback address.
const CERTIFICATES: &str = r"
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout ca.key -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=keyCertSign &&
openssl req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr &&
echo subjectAltName=IP:127.0.0.1,DNS:localhost > names &&
openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt &&
chmod 600 server.key
";

/// Runs in the directory of the programs. The options stand in a file, so that a restart has them too.
const SCRIPT: &str = r#"
set -e
template=$TEMPLATE/pg-$(./postgres --version | tr -cd 0-9)
if ! test -d "$template"; then
  fresh=$(mktemp -d "$TEMPLATE/pg-new.XXXXXX")
  ./initdb -D "$fresh/data" -U postgres -A trust -E UTF8 --no-locale --no-sync --no-instructions --wal-segsize=1 >&2
  mv -T "$fresh/data" "$template" 2>/dev/null || true
  rm -rf "$fresh"
fi
base=/dev/shm; test -w $base || base=${TMPDIR:-/tmp}
dir=$(mktemp -d $base/oubliette-pg.XXXXXX)
cp -a "$template" "$dir/data"
stop() { ./pg_ctl -s -m immediate -D "$dir/data" stop >/dev/null 2>&1 || true; rm -rf "$dir"; }
trap stop EXIT
for option in listen_addresses= unix_socket_directories="$dir" autovacuum=off jit=off shared_buffers=32MB \
  max_connections=200 min_wal_size=4MB max_wal_size=64MB; do
  echo "${option%%=*} = '${option#*=}'" >> "$dir/data/postgresql.conf"
done
set -- QUICK
while test $# -gt 0; do test "$1" = -c || echo "${1%%=*} = '${1#*=}'" >> "$dir/data/postgresql.conf"; shift; done
./pg_ctl -w -s -D "$dir/data" -l "$dir/log" start
echo "$dir"
read -r _ || true
"#;

fn shell(bin: &Path, script: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", script]).current_dir(bin).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C");
    command.env("TZ", "UTC").stdin(Stdio::null()).process_group(0);
    if let Some((user, group)) = server_user() {
        command.uid(user).gid(group);
    }
    command
}

/// Whom the server runs as, when we are root.
fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap();
    let fields = users.lines().find(|line| line.starts_with("postgres:")).expect("root needs a user postgres");
    let number = |at| fields.split(':').nth(at).unwrap().parse().unwrap();
    Some((number(2), number(3)))
}

/// Where initialised clusters are kept between runs: beside what cargo built, if the server's user gets there.
fn template_parent() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("postgres");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).unwrap();
    if let Some((user, group)) = server_user() {
        chown(&dir, Some(user), Some(group)).unwrap();
    }
    let script = format!("test -w '{}'", dir.display());
    if shell(Path::new("/"), &script).status().unwrap().success() { dir } else { std::env::temp_dir() }
}

/// The directory with `initdb` and `postgres`: what `pg_config` names, what is in the path, or the newest of the usual places.
fn programs() -> Option<PathBuf> {
    let named = Command::new("pg_config").arg("--bindir").output().ok().filter(|output| output.status.success());
    let named = named.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut usual: Vec<PathBuf> = Vec::new();
    for parent in ["/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr"] {
        let entries = std::fs::read_dir(parent).into_iter().flatten().flatten();
        usual.extend(entries.map(|entry| entry.path().join("bin")));
    }
    usual.sort();
    let all = named.into_iter().chain(std::env::split_paths(&path)).chain(usual.into_iter().rev());
    let new_enough = |bin: &PathBuf| {
        let said = Command::new(bin.join("postgres")).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let major: String = said
            .split_whitespace()
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?
            .chars()
            .take_while(char::is_ascii_digit)
            .collect();
        (major.parse::<u32>().ok()? >= 15).then_some(())
    };
    all.into_iter().find(|bin| bin.join("initdb").exists() && new_enough(bin).is_some())
}

/// Runs statements on a connection of their own, from wherever: the first statement's changed rows, or the server's refusal.
pub fn execute(dsn: &str, sql: &str) -> Result<usize, String> {
    on_a_thread(dsn, sql, |client, sql| {
        Box::pin(async move {
            // One prepared statement says how many rows it changed; several run as they are.
            if sql.trim_end_matches(';').contains(';') {
                client.batch_execute(sql).await.map(|()| 0)
            } else {
                client.execute(sql, &[]).await.map(|rows| rows as usize)
            }
        })
    })
}

/// Runs a query on a connection of its own.
pub fn query(dsn: &str, sql: &str) -> Vec<tokio_postgres::Row> {
    on_a_thread(dsn, sql, |client, sql| Box::pin(client.query(sql, &[]))).unwrap()
}

type Work<'a, T> = std::pin::Pin<Box<dyn Future<Output = Result<T, tokio_postgres::Error>> + 'a>>;

fn on_a_thread<T: Send>(
    dsn: &str,
    sql: &str,
    work: impl for<'a> FnOnce(&'a tokio_postgres::Client, &'a str) -> Work<'a, T> + Send,
) -> Result<T, String> {
    let run = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(dsn, tokio_postgres::NoTls).await.unwrap();
            let background = tokio::spawn(connection);
            let result = work(&client, sql).await;
            drop(client);
            let _ = background.await;
            result.map_err(|error| error.as_db_error().map_or_else(|| error.to_string(), |e| e.message().to_owned()))
        })
    };
    std::thread::scope(|scope| scope.spawn(run).join().unwrap())
}

/// Waits for something asynchronous in a synchronous function of an asynchronous test.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(work))
}

/// Two databases of the shared cluster for the stores of this directory: new ones, or those it used before. Their connection
/// strings are kept in it.
pub fn place_dir(dir: &Path) -> [String; 2] {
    ["events.dsn", "keys.dsn"].map(|name| {
        let known = dir.join(name);
        std::fs::read_to_string(&known).unwrap_or_else(|_| {
            let dsn = cluster().expect("PostgreSQL, for tests on it").database();
            std::fs::write(&known, &dsn).unwrap();
            dsn
        })
    })
}

/// Lets a server in this directory use two databases of the shared cluster: new ones, or those it used before.
pub fn place(config: &mut oubliette::config::Config, dir: &Path) {
    let [events, keys] = place_dir(dir);
    config.events_dsn = oubliette::config::Dsn::new(&events).unwrap();
    config.keys_dsn = oubliette::config::Dsn::new(&keys).unwrap();
}

/// Whether every server of the suite uses PostgreSQL: `TESTS_ON_POSTGRES=1`.
pub fn on_postgres() -> bool {
    std::env::var_os("TESTS_ON_POSTGRES").is_some_and(|set| set == "1")
}

/// A copy of a database of the shared cluster, as it stands: its connection string. Nobody may be connected to it.
pub fn copy_of(dsn: &str) -> String {
    let cluster = cluster().expect("the database is in it");
    let name = format!("t{}", MADE.fetch_add(1, Ordering::Relaxed));
    let from = dsn.rsplit_once("dbname=").expect("a connection string of ours").1;
    // Whoever has just left may still be seen for a moment.
    let sql = format!("create database {name} template {from} strategy file_copy");
    let mut tries = 100;
    while let Err(error) = execute(&cluster.dsn("postgres"), &sql) {
        assert!(tries > 0, "{error}");
        tries -= 1;
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    cluster.dsn(&name)
}

/// Gives one directory a copy of the database that the `part` of a store in another one lies in; `false` where it lies in files.
pub fn copy_place(part: &str, from: &Path, to: &Path) -> bool {
    let name = format!("{part}.dsn");
    let Ok(dsn) = std::fs::read_to_string(from.join(&name)) else { return false };
    std::fs::write(to.join(&name), copy_of(&dsn)).unwrap();
    true
}

/// The directory with the files of a database, as they are on the disk.
pub fn files(dsn: &str) -> PathBuf {
    execute(dsn, "checkpoint").unwrap();
    let sql = "select current_setting('data_directory') || '/base/' || oid from pg_database where datname = current_database()";
    PathBuf::from(query(dsn, sql)[0].get::<_, String>(0))
}
