//! Decoding of HTTP/1.1 replies, byte by byte as they arrive.
//!
//! Owns: the state machine of one reply (status line, headers, body by length, by chunks or until the end of the
//! connection). Must not know: sockets, requests, what a body means. Keeps: however the bytes are split between reads,
//! the decoded reply is the same, and never more is consumed than belongs to it.

/// Bytes of the longest accepted line of a head or of a chunk size.
const LINE_LIMIT: usize = 16 * 1024;
/// Header and trailer lines of one reply.
const HEADER_LIMIT: u32 = 128;

/// The peer's bytes are not an HTTP/1.1 reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The first line is not `HTTP/1.x NNN …`.
    #[error("the status line is malformed")]
    StatusLine,
    /// A header line has no colon, or a length that is no number, or there are too many lines.
    #[error("a header line is malformed")]
    Header,
    /// A chunk size is no hexadecimal number, or a chunk does not end in a line break.
    #[error("the chunked body is malformed")]
    Chunk,
    /// A line is longer than the limit.
    #[error("a line of the reply is too long")]
    Line,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    StatusLine,
    Headers,
    Sized { left: u64 },
    UntilClose,
    ChunkSize,
    Chunk { left: u64 },
    ChunkEnd,
    Trailers,
    Complete,
}

/// Decodes one reply after another; its buffers are reused.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    line: Vec<u8>,
    headers: u32,
    status: u16,
    length: Option<u64>,
    chunked: bool,
    close: bool,
    location: String,
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            state: State::StatusLine,
            line: Vec::with_capacity(256),
            headers: 0,
            status: 0,
            length: None,
            chunked: false,
            close: false,
            location: String::new(),
        }
    }
}

impl Decoder {
    /// Prepares for the next reply on the same connection.
    pub fn reset(&mut self) {
        self.state = State::StatusLine;
        self.line.clear();
        self.headers = 0;
        self.status = 0;
        self.length = None;
        self.chunked = false;
        self.close = false;
        self.location.clear();
    }

    /// Takes bytes as they arrived, hands the body's bytes to `sink`, and says how many bytes belonged to this reply.
    ///
    /// # Errors
    /// [`Malformed`]: the connection is of no further use.
    pub fn feed(&mut self, input: &[u8], sink: &mut impl FnMut(&[u8])) -> Result<usize, Malformed> {
        let mut at = 0;
        while at < input.len() && self.state != State::Complete {
            let rest = &input[at..];
            at += match self.state {
                State::Sized { left } => {
                    let (took, left) = pass(rest, left, sink);
                    self.state = if left == 0 { State::Complete } else { State::Sized { left } };
                    took
                }
                State::Chunk { left } => {
                    let (took, left) = pass(rest, left, sink);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk { left } };
                    took
                }
                State::UntilClose => {
                    sink(rest);
                    rest.len()
                }
                _ => self.feed_line(rest)?,
            };
        }
        Ok(at)
    }

    /// Whether the reply has ended.
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// The peer closed the connection. Whether the reply is whole nevertheless, because its body had no announced end.
    pub fn finish(&mut self) -> bool {
        if self.state == State::UntilClose {
            self.state = State::Complete;
        }
        self.is_complete()
    }

    /// The status code; 0 until the status line is there.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Whether the peer will close the connection after this reply.
    pub fn closes(&self) -> bool {
        self.close
    }

    /// The `Location` header, empty if there was none.
    pub fn location(&self) -> &str {
        &self.location
    }

    fn feed_line(&mut self, input: &[u8]) -> Result<usize, Malformed> {
        let end = input.iter().position(|&byte| byte == b'\n');
        let took = end.map_or(input.len(), |end| end + 1);
        if self.line.len() + took > LINE_LIMIT {
            return Err(Malformed::Line);
        }
        // Nearly always the whole line has arrived at once; only a split line is copied.
        if end.is_some() && self.line.is_empty() {
            self.line(&input[..took])?;
        } else {
            self.line.extend_from_slice(&input[..took]);
            if end.is_some() {
                let mut line = std::mem::take(&mut self.line);
                self.line(&line)?;
                line.clear();
                self.line = line;
            }
        }
        Ok(took)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.state {
            State::StatusLine => {
                self.status = status(line).ok_or(Malformed::StatusLine)?;
                self.state = State::Headers;
            }
            State::Headers if line.is_empty() => self.end_of_head(),
            State::Headers => self.header(line)?,
            State::ChunkSize => {
                self.state = match chunk_size(line).ok_or(Malformed::Chunk)? {
                    0 => State::Trailers,
                    left => State::Chunk { left },
                };
            }
            State::ChunkEnd if line.is_empty() => self.state = State::ChunkSize,
            State::ChunkEnd => return Err(Malformed::Chunk),
            State::Trailers if line.is_empty() => self.state = State::Complete,
            State::Trailers => self.count_header()?,
            // Bodies are never read by line, and `feed` stops at the end.
            State::Sized { .. } | State::Chunk { .. } | State::UntilClose | State::Complete => {}
        }
        Ok(())
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Malformed> {
        self.count_header()?;
        let colon = line.iter().position(|&byte| byte == b':').ok_or(Malformed::Header)?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            self.length = Some(decimal(value).ok_or(Malformed::Header)?);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked = value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"connection") {
            self.close = value.eq_ignore_ascii_case(b"close");
        } else if name.eq_ignore_ascii_case(b"location") {
            self.location.push_str(std::str::from_utf8(value).map_err(|_| Malformed::Header)?);
        }
        Ok(())
    }

    fn count_header(&mut self) -> Result<(), Malformed> {
        self.headers += 1;
        if self.headers > HEADER_LIMIT { Err(Malformed::Header) } else { Ok(()) }
    }

    fn end_of_head(&mut self) {
        self.state = match (self.status, self.chunked, self.length) {
            // An interim reply: the real one follows.
            (100..=199, _, _) => State::StatusLine,
            (204 | 304, _, _) | (_, false, Some(0)) => State::Complete,
            (_, true, _) => State::ChunkSize,
            (_, false, Some(left)) => State::Sized { left },
            (_, false, None) => {
                self.close = true;
                State::UntilClose
            }
        };
    }
}

fn pass(input: &[u8], left: u64, sink: &mut impl FnMut(&[u8])) -> (usize, u64) {
    let took = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
    sink(&input[..took]);
    (took, left - took as u64)
}

fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(1..)?.strip_prefix(b" ")?;
    let code = u16::try_from(decimal(rest.get(..3)?)?).ok()?;
    (100..=999).contains(&code).then_some(code)
}

fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Type: application/json\r\ncontent-length: 11\r\nLocation: /v1/x\r\n\r\nhello world";
    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n6\r\n world\r\n0\r\nx-trailer: 1\r\n\r\n";

    /// Feeds `bytes` in pieces of `step` and gives status, body and the bytes consumed.
    fn decode(bytes: &[u8], step: usize) -> (u16, Vec<u8>, usize) {
        let mut decoder = Decoder::default();
        let (mut body, mut used) = (Vec::new(), 0);
        for piece in bytes.chunks(step) {
            used += decoder.feed(piece, &mut |part| body.extend_from_slice(part)).unwrap();
        }
        assert!(decoder.is_complete());
        (decoder.status(), body, used)
    }

    #[test]
    fn any_split_gives_the_same_reply() {
        for step in 1..=SIZED.len() {
            assert_eq!(decode(SIZED, step), (201, b"hello world".to_vec(), SIZED.len()));
        }
        for step in 1..=CHUNKED.len() {
            assert_eq!(decode(CHUNKED, step), (200, b"hello world".to_vec(), CHUNKED.len()));
        }
    }

    #[test]
    fn bytes_of_the_next_reply_stay() {
        let mut two = SIZED.to_vec();
        two.extend_from_slice(CHUNKED);
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(&two, &mut |_| ()), Ok(SIZED.len()));
        assert_eq!(decoder.location(), "/v1/x");
        decoder.reset();
        assert_eq!(decoder.feed(&two[SIZED.len()..], &mut |_| ()), Ok(CHUNKED.len()));
        assert_eq!(decoder.location(), "");
    }

    #[test]
    fn interim_and_empty_replies() {
        let bytes = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(bytes, &mut |_| ()), Ok(bytes.len()));
        assert!(decoder.is_complete() && decoder.closes());
        assert_eq!(decoder.status(), 204);
    }

    #[test]
    fn a_body_without_length_ends_with_the_connection() {
        let mut decoder = Decoder::default();
        let mut body = Vec::new();
        decoder.feed(b"HTTP/1.1 200 OK\r\n\r\nabc", &mut |part| body.extend_from_slice(part)).unwrap();
        assert!(!decoder.is_complete());
        assert!(decoder.finish() && decoder.closes());
        assert_eq!(body, b"abc");
        decoder.reset();
        decoder.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", &mut |_| ()).unwrap();
        assert!(!decoder.finish(), "a cut reply is not whole");
    }

    #[test]
    fn what_is_not_http_is_refused() {
        let refuse = |bytes: &[u8]| Decoder::default().feed(bytes, &mut |_| ()).unwrap_err();
        assert_eq!(refuse(b"SSH-2.0-x\r\n"), Malformed::StatusLine);
        assert_eq!(refuse(b"HTTP/1.1 2x0 OK\r\n"), Malformed::StatusLine);
        assert_eq!(refuse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n"), Malformed::Header);
        assert_eq!(refuse(b"HTTP/1.1 200 OK\r\nno colon\r\n"), Malformed::Header);
        assert_eq!(refuse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), Malformed::Chunk);
        assert_eq!(refuse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n"), Malformed::Chunk);
        assert_eq!(refuse(&vec![b'x'; LINE_LIMIT + 1]), Malformed::Line);
    }
}
