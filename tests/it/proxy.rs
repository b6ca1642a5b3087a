//! A man in the middle of a PostgreSQL connection, who can cut it at the commit.
//!
//! Owns: a socket beside the server's. Bytes pass unchanged until one direction has a commit in it and a fault is armed.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

/// What happens to the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The connection breaks before the server hears of it.
    Before,
    /// The connection breaks after the server has done it; the answer is lost.
    After,
    /// Nothing breaks, but the server never hears of it: the client waits in vain.
    Silence,
}

/// The proxy; its socket goes away with it.
pub struct Proxy {
    dir: tempfile::TempDir,
    armed: Arc<Mutex<Option<Cut>>>,
}

impl Proxy {
    /// In front of the socket in this directory.
    pub fn new(server: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let armed = Arc::new(Mutex::new(None));
        let (server, faults) = (server.join(".s.PGSQL.5432"), Arc::clone(&armed));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), Arc::clone(&faults)));
            }
        });
        Self { dir, armed }
    }

    /// The same database, through here.
    pub fn through(&self, dsn: &str) -> String {
        let rest = dsn.split_once(' ').unwrap().1;
        format!("host={} {rest}", self.dir.path().display())
    }

    /// Something happens to the next commit.
    pub fn arm(&self, cut: Cut) {
        *self.armed.lock().unwrap() = Some(cut);
    }

    /// Whether what was armed has happened.
    pub fn is_spent(&self) -> bool {
        self.armed.lock().unwrap().is_none()
    }
}

async fn pass(client: UnixStream, server: PathBuf, armed: Arc<Mutex<Option<Cut>>>) {
    let Ok(server) = UnixStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let lose = Arc::new(Mutex::new(false));
    tokio::select! {
        () = up(from_client, to_server, &armed, &lose) => {}
        () = down(from_server, to_client, &lose) => {}
    }
}

/// From the client to the server. Returning breaks the connection.
async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, armed: &Mutex<Option<Cut>>, lose: &Mutex<bool>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let bytes = &buffer[..count];
        let commits = bytes.windows(7).any(|window| window == b"commit\0");
        let cut = if commits { armed.lock().unwrap().take() } else { None };
        match cut {
            None => {}
            Some(Cut::Before) => return,
            Some(Cut::After) => *lose.lock().unwrap() = true,
            Some(Cut::Silence) => std::future::pending().await,
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// From the server to the client: what comes after a lost commit breaks the connection instead.
async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lose: &Mutex<bool>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        if *lose.lock().unwrap() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
