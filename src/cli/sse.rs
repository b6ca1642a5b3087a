//! Server-sent events: lines to frames, by the rules of the WHATWG.
//!
//! Owns: the parser. Must not know: what a frame means. A frame that the connection's end cut off is never given out.

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The event's name, `message` where none was given.
    pub event: String,
    /// The data, its lines joined by line ends.
    pub data: String,
}

/// A parser, fed line by line.
#[derive(Debug, Default)]
pub struct Parser {
    event: String,
    data: Option<String>,
    id: Option<String>,
    /// The id of the last complete frame: where to go on after a reconnect.
    pub last_id: Option<String>,
    /// The pause before a reconnect that the server wants, in milliseconds.
    pub retry: Option<u64>,
}

impl Parser {
    /// Takes a line without its end; an empty one may complete a frame.
    pub fn line(&mut self, line: &[u8]) -> Option<Frame> {
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            if let Some(id) = self.id.take() {
                self.last_id = Some(id);
            }
            let data = self.data.take()?;
            return Some(Frame { event: if event.is_empty() { "message".to_owned() } else { event }, data });
        }
        let line = String::from_utf8_lossy(line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => match &mut self.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => self.data = Some(value.to_owned()),
            },
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "retry" => self.retry = value.parse().ok().or(self.retry),
            _ => {}
        }
        None
    }

    /// Forgets a frame that was begun; the next line comes from a new connection.
    pub fn reconnected(&mut self) {
        self.event.clear();
        self.data = None;
        self.id = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(parser: &mut Parser, text: &str) -> Vec<Frame> {
        text.lines().filter_map(|line| parser.line(line.as_bytes())).collect()
    }

    #[test]
    fn frames_ids_and_retries() {
        let mut parser = Parser::default();
        let text =
            "retry: 2000\n\n: heartbeat\n\nid: 41\nevent: event\ndata: {\"a\":\ndata:1}\n\nid: 42\ndata:x\n\nid: 43\nd";
        let frames = feed(&mut parser, text);
        assert_eq!(frames[0], Frame { event: "event".to_owned(), data: "{\"a\":\n1}".to_owned() });
        assert_eq!(frames[1], Frame { event: "message".to_owned(), data: "x".to_owned() });
        assert_eq!((frames.len(), parser.retry), (2, Some(2000)));
        assert_eq!(parser.last_id.as_deref(), Some("42"));
    }

    #[test]
    fn a_cut_frame_is_forgotten() {
        let mut parser = Parser::default();
        assert!(feed(&mut parser, "id: 7\nevent: erasure\ndata: {").is_empty());
        parser.reconnected();
        assert_eq!(feed(&mut parser, "data: y\n\n")[0].event, "message");
        assert_eq!(parser.last_id, None);
    }
}
