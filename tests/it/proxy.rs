//! A man in the middle of a PostgreSQL connection, who can cut it at the commit, or altogether.
//!
//! Owns: a socket beside the server's. Bytes pass unchanged until one direction has a commit in it and a fault is armed, or
//! until the line is cut.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

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

/// Whether anything passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Everything.
    Whole,
    /// Connections break, and new ones are not made.
    Broken,
    /// Nothing breaks, but nothing arrives: what is sent waits until the line is whole again.
    Silent,
}

/// The proxy; its socket goes away with it.
pub struct Proxy {
    dir: tempfile::TempDir,
    armed: Arc<Mutex<Option<Cut>>>,
    line: watch::Sender<Line>,
}

impl Proxy {
    /// In front of the socket in this directory.
    pub fn new(server: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join(".s.PGSQL.5432")).unwrap();
        let armed = Arc::new(Mutex::new(None));
        let (server, faults) = (server.join(".s.PGSQL.5432"), Arc::clone(&armed));
        let (line, state) = watch::channel(Line::Whole);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server.clone(), Arc::clone(&faults), state.clone()));
            }
        });
        Self { dir, armed, line }
    }

    /// What passes from now on.
    pub fn line(&self, line: Line) {
        self.line.send_replace(line);
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

async fn pass(client: UnixStream, server: PathBuf, armed: Arc<Mutex<Option<Cut>>>, mut line: watch::Receiver<Line>) {
    if *line.borrow() == Line::Broken {
        return;
    }
    let Ok(server) = UnixStream::connect(server).await else { return };
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let lose = Arc::new(Mutex::new(false));
    tokio::select! {
        () = up(from_client, to_server, &armed, &lose, line.clone()) => {}
        () = down(from_server, to_client, &lose, line.clone()) => {}
        _ = line.wait_for(|line| *line == Line::Broken) => {}
    }
}

/// Waits while nothing passes.
async fn whole(line: &mut watch::Receiver<Line>) {
    let _ = line.wait_for(|line| *line != Line::Silent).await;
}

/// From the client to the server. Returning breaks the connection.
async fn up(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    armed: &Mutex<Option<Cut>>,
    lose: &Mutex<bool>,
    mut line: watch::Receiver<Line>,
) {
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
        whole(&mut line).await;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// From the server to the client: once a commit is to be lost nothing gets through any more, and when the server has said that
/// it is done the connection breaks.
async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lose: &Mutex<bool>, mut line: watch::Receiver<Line>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        whole(&mut line).await;
        if *lose.lock().unwrap() {
            if buffer[..count].windows(7).any(|window| window == b"COMMIT\0") {
                return;
            }
        } else if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
