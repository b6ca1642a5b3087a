//! All printing of the command line: data to standard output, messages to standard error.
//!
//! Owns: the formats (a table for people, NDJSON for pipes, JSON and CSV for whoever asks), and the rule that text from a
//! server or an event cannot steer the terminal. Must not know: what it prints.

use std::io::{self, BufWriter, IsTerminal, Write};

use clap::ValueEnum;
use serde_json::Value;

use super::failure::Failure;

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people.
    Table,
    /// One JSON text: an array for a list.
    Json,
    /// One JSON text per line.
    Ndjson,
    /// Comma-separated values, with a line of names first.
    Csv,
}

/// Where a command writes.
pub struct Output {
    format: Format,
    quiet: bool,
    data_is: Sink,
    messages_are: Sink,
    data: Box<dyn Write>,
    messages: Box<dyn Write>,
}

/// What stands at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sink {
    /// A file or another program.
    Plain,
    /// A terminal that shall not be coloured.
    Terminal,
    /// A terminal.
    Coloured,
}

impl Sink {
    fn of(stream: &impl IsTerminal, colour: bool) -> Self {
        match (stream.is_terminal(), colour) {
            (false, _) => Self::Plain,
            (true, false) => Self::Terminal,
            (true, true) => Self::Coloured,
        }
    }

    fn is_terminal(self) -> bool {
        self != Self::Plain
    }
}

/// A column of a table: its title, and the JSON Pointer of its cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    title: String,
    pointer: String,
}

impl Column {
    /// A column.
    pub fn new(title: &str, pointer: &str) -> Self {
        Self { title: title.to_owned(), pointer: pointer.to_owned() }
    }

    /// The name of the column where names are for programs.
    fn name(&self) -> String {
        self.title.to_lowercase().replace(' ', "_")
    }
}

impl Output {
    /// Standard output and standard error of this process.
    pub fn new(format: Option<Format>, quiet: bool) -> Self {
        let (out, err) = (io::stdout(), io::stderr());
        let colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let default = if out.is_terminal() { Format::Table } else { Format::Ndjson };
        Self {
            format: format.unwrap_or(default),
            quiet,
            data_is: Sink::of(&out, colour),
            messages_are: Sink::of(&err, colour),
            data: Box::new(BufWriter::with_capacity(64 * 1024, out)),
            messages: Box::new(err),
        }
    }

    /// The format.
    pub fn format(&self) -> Format {
        self.format
    }

    /// One object: its members as lines of a table, or as JSON.
    pub fn record(&mut self, value: &Value) -> io::Result<()> {
        match self.format {
            Format::Table => self.data.write_all(members(value).as_bytes())?,
            Format::Json => writeln!(self.data, "{value:#}")?,
            Format::Ndjson => writeln!(self.data, "{value}")?,
            Format::Csv => {
                let mut flat = Vec::new();
                flatten("", value, &mut flat);
                let (names, cells): (Vec<_>, Vec<_>) = flat.into_iter().map(|(name, cell)| (name, plain(cell))).unzip();
                self.csv(&csv_line(&names)?)?;
                self.csv(&csv_line(&cells)?)?;
            }
        }
        self.data.flush()
    }

    /// Lines of CSV with their ends. What goes to a terminal may not steer it; what goes elsewhere stays as it is.
    pub fn csv(&mut self, text: &str) -> io::Result<()> {
        if !self.data_is.is_terminal() {
            return self.data.write_all(text.as_bytes());
        }
        text.lines().try_for_each(|line| writeln!(self.data, "{}", printable(line)))
    }

    /// A line about work that goes on: on a terminal it takes the place of the one before. `false` where there is no
    /// terminal, and nothing was written.
    pub fn progress(&mut self, text: &str) -> bool {
        if self.messages_are.is_terminal() && !self.quiet {
            self.question(&format!("\r\x1b[K{}", printable(text)));
        }
        self.messages_are.is_terminal()
    }

    /// The end of a line of progress.
    pub fn progress_done(&mut self) {
        if self.messages_are.is_terminal() && !self.quiet {
            self.question("\n");
        }
    }

    /// A list, with the columns that its first item suggests.
    pub fn items(&mut self, items: Vec<Value>) -> io::Result<()> {
        let columns = suggested(items.first());
        let mut rows = self.rows(columns);
        for item in items {
            rows.push(item)?;
        }
        rows.finish()
    }

    /// A list that is printed while it arrives.
    pub fn rows(&mut self, columns: Vec<Column>) -> Rows<'_> {
        Rows { out: self, columns, widths: None, held: Vec::new(), printed: 0 }
    }

    /// One line of data that is text in every format.
    pub fn line(&mut self, text: &str) -> io::Result<()> {
        writeln!(self.data, "{text}")?;
        self.data.flush()
    }

    /// Everything printed so far leaves this process.
    pub fn flush(&mut self) -> io::Result<()> {
        self.data.flush()
    }

    /// A message to the person at the terminal. Lost messages are nobody's failure.
    pub fn message(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(self.messages, "{text}");
        }
    }

    /// A question: printed even when messages are not wanted, without the end of the line.
    pub fn question(&mut self, text: &str) {
        let _ = write!(self.messages, "{text}");
        let _ = self.messages.flush();
    }

    /// The members of an object as a message, whatever the format of the data.
    pub fn record_as_message(&mut self, value: &Value) {
        self.question(&members(value));
    }

    /// Why the command failed.
    pub fn failure(&mut self, failure: &Failure) {
        let _ = self.data.flush();
        let (start, end) = if self.messages_are == Sink::Coloured { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
        let _ = writeln!(self.messages, "{start}error:{end} {failure}");
    }
}

/// A list being printed.
pub struct Rows<'a> {
    out: &'a mut Output,
    columns: Vec<Column>,
    widths: Option<Vec<usize>>,
    held: Vec<Value>,
    printed: u64,
}

/// Rows that a table looks at before it fixes the widths of its columns.
const LOOK_AHEAD: usize = 200;

impl Rows<'_> {
    /// Columns for a list whose columns only its first row tells.
    pub fn columns(&mut self, columns: Vec<Column>) {
        self.columns = columns;
    }

    /// The next row.
    pub fn push(&mut self, row: Value) -> io::Result<()> {
        let text = if self.out.format == Format::Table { String::new() } else { row.to_string() };
        self.push_text(row, &text)
    }

    /// The next row with its own JSON text, which is printed as it is: the order of members and the form of numbers are
    /// those of whoever wrote them.
    pub fn push_text(&mut self, row: Value, text: &str) -> io::Result<()> {
        match self.out.format {
            Format::Table => {
                self.held.push(row);
                if self.held.len() >= LOOK_AHEAD { self.print_held() } else { Ok(()) }
            }
            Format::Json => {
                let before = if self.printed == 0 { "[" } else { "," };
                self.printed += 1;
                write!(self.out.data, "{before}\n{text}")
            }
            Format::Ndjson => {
                self.printed += 1;
                // A line end between two members is the only one a JSON text can have, and means nothing there.
                writeln!(self.out.data, "{}", text.replace(['\n', '\r'], " "))
            }
            Format::Csv => {
                if self.printed == 0 {
                    let titles: Vec<String> = self.columns.iter().map(Column::name).collect();
                    self.out.csv(&csv_line(&titles)?)?;
                }
                self.printed += 1;
                let cells = self.columns.iter().map(|column| row.pointer(&column.pointer).unwrap_or(&Value::Null));
                let cells: Vec<String> = cells.map(plain).collect();
                self.out.csv(&csv_line(&cells)?)
            }
        }
    }

    /// A row that is not of the list's kind. A table leaves it out: it has no column for it, and a message told it.
    pub fn push_control(&mut self, row: Value) -> io::Result<()> {
        if self.out.format != Format::Table {
            self.push(row)?;
        }
        self.flush()
    }

    /// Prints what is held, so that a live reader sees it now.
    pub fn flush(&mut self) -> io::Result<()> {
        self.print_held()?;
        self.out.data.flush()
    }

    /// A message between rows.
    pub fn message(&mut self, text: &str) {
        self.out.message(text);
    }

    /// The end of the list.
    pub fn finish(mut self) -> io::Result<()> {
        self.print_held()?;
        match (self.out.format, self.printed) {
            (Format::Json, 0) => writeln!(self.out.data, "[]")?,
            (Format::Json, _) => writeln!(self.out.data, "\n]")?,
            (Format::Table, 0) => self.out.message("nothing found"),
            _ => {}
        }
        self.out.data.flush()
    }

    fn print_held(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let rows: Vec<Vec<String>> = self.held.drain(..).map(|row| cells(&row, &self.columns)).collect();
        if self.widths.is_none() {
            let width = |index: usize, title: &str| {
                let longest = rows.iter().map(|row| row[index].chars().count()).max().unwrap_or(0);
                longest.max(title.chars().count())
            };
            let widths: Vec<usize> = self.columns.iter().enumerate().map(|(i, c)| width(i, &c.title)).collect();
            let titles: Vec<String> = self.columns.iter().map(|column| column.title.clone()).collect();
            let (start, end) = if self.out.data_is == Sink::Coloured { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
            writeln!(self.out.data, "{start}{}{end}", aligned(&titles, &widths))?;
            self.widths = Some(widths);
        }
        let widths = self.widths.as_deref().unwrap_or_default();
        for row in rows {
            writeln!(self.out.data, "{}", aligned(&row, widths))?;
            self.printed += 1;
        }
        Ok(())
    }
}

/// The text with every control character replaced: an event's text must not move the cursor, hide lines or reach the
/// clipboard. The characters that reorder text are control characters for this purpose.
pub fn printable(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if steers(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

fn aligned(cells: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, width) in cells.iter().zip(widths) {
        line.push_str(cell);
        let gap = width.saturating_sub(cell.chars().count()) + 2;
        line.extend(std::iter::repeat_n(' ', gap));
    }
    line.truncate(line.trim_end().len());
    line
}

fn cells(row: &Value, columns: &[Column]) -> Vec<String> {
    columns.iter().map(|column| cell(row.pointer(&column.pointer).unwrap_or(&Value::Null))).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(items) if items.iter().all(|item| !item.is_array() && !item.is_object()) => {
            if items.is_empty() {
                "-".to_owned()
            } else {
                items.iter().map(cell).collect::<Vec<_>>().join(", ")
            }
        }
        other => printable(&other.to_string()),
    }
}

/// A value as CSV holds it: nothing for `null`, other than for a table.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn csv_line(cells: &[String]) -> io::Result<String> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(cells)?;
    let bytes = writer.into_inner().map_err(|error| io::Error::other(error.to_string()))?;
    String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// Members of an object that hold no others, with dotted names.
fn flatten<'v>(prefix: &str, value: &'v Value, into: &mut Vec<(String, &'v Value)>) {
    match value {
        Value::Object(members) if !members.is_empty() => {
            for (name, value) in members {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{}", printable(name)), value, into);
            }
        }
        other => into.push((prefix.to_owned(), other)),
    }
}

/// Every member of an object, nested ones with dotted names, one per line.
fn members(value: &Value) -> String {
    let mut flat = Vec::new();
    flatten("", value, &mut flat);
    let lines: Vec<(String, String)> = flat.into_iter().map(|(name, value)| (name, cell(value))).collect();
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    lines.into_iter().map(|(name, text)| aligned(&[name, text], &[width, 0]) + "\n").collect()
}

/// A column per member of the first item that is not an object itself.
fn suggested(first: Option<&Value>) -> Vec<Column> {
    let Some(Value::Object(members)) = first else {
        return vec![Column::new("VALUE", "")];
    };
    let plain = members.iter().filter(|(_, value)| !value.is_object());
    plain
        .map(|(name, _)| {
            let title = printable(name).to_uppercase().replace('_', " ");
            Column { title, pointer: format!("/{}", name.replace('~', "~0").replace('/', "~1")) }
        })
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::json;

    use super::*;

    /// A writer whose text a test can look at.
    #[derive(Clone, Default)]
    pub struct Seen(Arc<Mutex<Vec<u8>>>);

    impl Seen {
        pub fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// An output with its data and messages.
    pub fn output(format: Format) -> (Output, Seen, Seen) {
        let (data, messages) = (Seen::default(), Seen::default());
        let (a, b) = (Box::new(data.clone()), Box::new(messages.clone()));
        let out =
            Output { format, quiet: false, data_is: Sink::Plain, messages_are: Sink::Plain, data: a, messages: b };
        (out, data, messages)
    }

    #[test]
    fn a_list_in_each_format() {
        let items = || vec![json!({"id": "a", "n": 1, "o": {}}), json!({"id": "long", "n": null})];
        for (format, text) in [
            (Format::Table, "ID    N\na     1\nlong  -\n"),
            (Format::Json, "[\n{\"id\":\"a\",\"n\":1,\"o\":{}},\n{\"id\":\"long\",\"n\":null}\n]\n"),
            (Format::Ndjson, "{\"id\":\"a\",\"n\":1,\"o\":{}}\n{\"id\":\"long\",\"n\":null}\n"),
            (Format::Csv, "id,n\na,1\nlong,\n"),
        ] {
            let (mut out, data, _) = output(format);
            out.items(items()).unwrap();
            assert_eq!(data.text(), text);
        }
    }

    #[test]
    fn an_empty_list_is_still_json() {
        for (format, text, message) in
            [(Format::Table, "", "nothing found\n"), (Format::Json, "[]\n", ""), (Format::Ndjson, "", "")]
        {
            let (mut out, data, messages) = output(format);
            out.items(Vec::new()).unwrap();
            assert_eq!((data.text().as_str(), messages.text().as_str()), (text, message));
        }
    }

    #[test]
    fn a_record_names_nested_members() {
        let (mut out, data, _) = output(Format::Table);
        out.record(&json!({"id": "fr_1", "preview": {"erase": {"events": 3}}, "to": ["a", "b"]})).unwrap();
        assert_eq!(data.text(), "id                    fr_1\npreview.erase.events  3\nto                    a, b\n");
    }

    #[test]
    fn text_cannot_steer_the_terminal() {
        let (mut out, data, _) = output(Format::Table);
        out.record(&json!({"a": "x\u{1b}]52;c;AAAA\u{7}\r\u{9b}2J\u{202e}y"})).unwrap();
        let text = data.text();
        assert!(!text.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
}
