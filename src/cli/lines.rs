//! A response's body, line by line.
//!
//! Owns: cutting a stream of bytes into lines, with a limit of length and of silence. Must not know: what a line means.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::failure::Failure;

/// Bytes of the longest line taken.
const LIMIT: usize = 16 * 1024 * 1024;

/// A body that is read line by line.
pub struct Lines {
    body: Incoming,
    silence: Duration,
    buffer: Buffer,
}

impl Lines {
    /// Lines of `body`; `silence` is how long nothing may arrive.
    pub fn new(body: Incoming, silence: Duration) -> Self {
        Self { body, silence, buffer: Buffer::default() }
    }

    /// The next line without its end; `None` at the end of the body. A last line without an end is dropped: it was cut.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        loop {
            if let Some(line) = self.buffer.line() {
                return Ok(Some(line));
            }
            if self.buffer.bytes.len() > LIMIT {
                return Err(Failure::failed("the server sent a line that is too long"));
            }
            let frame = tokio::time::timeout(self.silence, self.body.frame()).await;
            match frame.map_err(|_| Failure::unavailable("the server fell silent"))? {
                None => return Ok(None),
                Some(Err(_)) => return Err(Failure::unavailable("the connection broke")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.add(&data);
                    }
                }
            }
        }
    }
}

#[derive(Default)]
struct Buffer {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no line end.
    searched: usize,
}

impl Buffer {
    fn add(&mut self, data: &Bytes) {
        self.bytes.drain(..self.start);
        self.searched -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(data);
    }

    fn line(&mut self) -> Option<Vec<u8>> {
        let Some(length) = self.bytes[self.searched..].iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return None;
        };
        let end = self.searched + length;
        let line = &self.bytes[self.start..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
        self.start = end + 1;
        self.searched = self.start;
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_wherever_the_frames_are() {
        let text = b"one\r\n\ntwo\nthree";
        for size in 1..text.len() {
            let (mut buffer, mut lines) = (Buffer::default(), Vec::new());
            for chunk in text.chunks(size) {
                buffer.add(&Bytes::copy_from_slice(chunk));
                while let Some(line) = buffer.line() {
                    lines.push(String::from_utf8(line).unwrap());
                }
            }
            assert_eq!(lines, ["one", "", "two"], "frames of {size}");
        }
    }
}
