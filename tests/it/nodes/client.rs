//! A client close to the socket: it knows of every piece of an answer whether it can have been sent before a certain moment.
//!
//! Owns: requests of HTTP/1.0, whose answers come unframed and end with the connection; the ledger of the forgotten. What
//! lies unread in a socket may be old. So a client looks who is gone, and only when it then finds its socket empty may nothing
//! of them come any more.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

/// In every personal value, on both sides of the person's number, and nowhere else.
const MARK: char = '~';

/// The caller's id of a person.
pub fn external(person: usize) -> String {
    format!("contact{MARK}{person}{MARK}of-Ruritania")
}

/// A person's name.
pub fn name(person: usize) -> String {
    format!("Quentin Zebrowski {MARK}{person}{MARK} of Ruritania")
}

/// Who is gone: their forgets have returned.
pub struct Gone(Vec<AtomicBool>);

impl Gone {
    /// Nobody, of so many.
    pub fn nobody(people: usize) -> Self {
        Self((0..people).map(|_| AtomicBool::new(false)).collect())
    }

    /// A forget has returned.
    pub fn add(&self, person: usize) {
        self.0[person].store(true, Ordering::SeqCst);
    }

    /// Whether somebody is gone.
    pub fn has(&self, person: usize) -> bool {
        self.0[person].load(Ordering::SeqCst)
    }

    /// Everybody who is, now.
    pub fn now(&self) -> BTreeSet<usize> {
        (0..self.0.len()).filter(|person| self.has(*person)).collect()
    }
}

/// What clients have seen.
#[derive(Debug, Default)]
pub struct Seen {
    pub answers: AtomicU64,
    pub broken: AtomicU64,
    pub refused: AtomicU64,
    /// Personal values in clear.
    pub values: AtomicU64,
}

/// An answer as it comes.
pub struct Incoming {
    stream: TcpStream,
    about: String,
    /// Nothing of them can have been sent any more.
    judged: BTreeSet<usize>,
    /// Whether the system keeps nothing back that it was given: where the window is small, an empty socket says nothing.
    prompt: bool,
    pub bytes: Vec<u8>,
    looked: usize,
}

/// How an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Something came.
    More,
    /// Nothing came for as long as was waited.
    Silence,
    /// It ended, in order or not.
    End,
}

impl Incoming {
    /// Asks; `None` when nobody listens. A small window keeps the server writing for long.
    pub async fn ask(address: SocketAddr, path: &str, headers: &str, gone: &Gone, window: Option<u32>) -> Option<Self> {
        let judged = gone.now();
        let socket = TcpSocket::new_v4().ok()?;
        if let Some(window) = window {
            socket.set_recv_buffer_size(window).ok()?;
        }
        let mut stream = socket.connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\nauthorization: Bearer dev\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let about = format!("{address} {path}");
        Some(Self { stream, about, judged, prompt: window.is_none(), bytes: Vec::new(), looked: 0 })
    }

    /// The sender was stopped, and everything it had given to the system has come: nothing of these may come any more.
    pub fn judge(&mut self, gone: &Gone) {
        self.judged = gone.now();
    }

    /// Takes what is there, or waits for it.
    pub async fn piece(&mut self, gone: &Gone, seen: &Seen, patience: Duration) -> Piece {
        let mut buffer = vec![0; 1 << 14];
        loop {
            let now = gone.now();
            match self.stream.try_read(&mut buffer) {
                Ok(0) => return Piece::End,
                Ok(count) => {
                    self.bytes.extend_from_slice(&buffer[..count]);
                    self.look(seen);
                    return Piece::More;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.prompt {
                        self.judged = now;
                    }
                    match tokio::time::timeout(patience, self.stream.readable()).await {
                        Ok(Ok(())) => {}
                        Ok(Err(_)) => return Piece::End,
                        Err(_) => return Piece::Silence,
                    }
                }
                Err(_) => return Piece::End,
            }
        }
    }

    /// To the end: the status, 0 where none came.
    pub async fn rest(&mut self, gone: &Gone, seen: &Seen) -> u16 {
        while self.piece(gone, seen, Duration::from_mins(1)).await == Piece::More {}
        let text = String::from_utf8_lossy(&self.bytes[..self.bytes.len().min(16)]).into_owned();
        text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// Looks at what has come since.
    fn look(&mut self, seen: &Seen) {
        loop {
            let text = std::str::from_utf8(&self.bytes[self.looked..]).expect("tests write plain letters");
            let Some((_, rest)) = text.split_once(MARK) else {
                self.looked = self.bytes.len();
                return;
            };
            // Cut by the end of what has come: looked at again with more.
            let Some((number, behind)) = rest.split_once(MARK) else { return };
            let person: usize = number.parse().expect("marks stand around numbers");
            assert!(!self.judged.contains(&person), "{}: a value of the forgotten person {person} came", self.about);
            seen.values.fetch_add(1, Ordering::Relaxed);
            self.looked = self.bytes.len() - behind.len();
        }
    }
}
