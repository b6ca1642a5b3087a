//! What a text must be before the parser of CEL sees it.
//!
//! Owns: the limits on the text. The parser recurses, and a stack that overflows ends the process: whatever passes here
//! is shallow enough. To know what is a bracket and what is text in quotes, this splits the source exactly as the parser
//! does, and refuses whatever the parser would have to guess at. Must not know: names, syntax trees.

use super::CompileError;

/// Bytes of source.
const MOST_BYTES: usize = 2_000;
/// Brackets within brackets.
const MOST_BRACKETS: usize = 24;
/// `?` of conditionals and optionals: conditionals nest to the right without brackets.
const MOST_QUESTIONS: usize = 40;
/// Operators and dots: `1+1+1` and `a.b.c` nest to the left.
const MOST_OPERATORS: usize = 400;

/// Checks a source.
pub(super) fn check(source: &str) -> Result<(), CompileError> {
    if source.len() > MOST_BYTES {
        return Err(CompileError { column: 1, message: format!("an expression has at most {MOST_BYTES} bytes") });
    }
    if source.trim().is_empty() {
        return Err(CompileError { column: 1, message: "an expression is missing".to_owned() });
    }
    let mut scanner = Scanner { chars: source.chars().collect(), at: 0, open: Vec::new(), questions: 0, operators: 0 };
    while scanner.at < scanner.chars.len() {
        scanner.token()?;
    }
    match scanner.open.pop() {
        Some((at, bracket)) => Err(refuse(at, format!("`{bracket}` is not closed"))),
        None => Ok(()),
    }
}

struct Scanner {
    chars: Vec<char>,
    at: usize,
    open: Vec<(usize, char)>,
    questions: usize,
    operators: usize,
}

fn refuse(at: usize, message: impl Into<String>) -> CompileError {
    CompileError { column: at + 1, message: message.into() }
}

impl Scanner {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.chars.get(self.at + ahead).copied()
    }

    fn token(&mut self) -> Result<(), CompileError> {
        let start = self.at;
        let Some(c) = self.peek(0) else { return Ok(()) };
        match c {
            'a'..='z' | 'A'..='Z' | '_' | '0'..='9' => return self.word(),
            '\'' | '"' => return self.text(false),
            '/' if self.peek(1) == Some('/') => {
                while self.peek(0).is_some_and(|c| c != '\n') {
                    self.at += 1;
                }
                return Ok(());
            }
            '(' | '[' | '{' => {
                self.open.push((start, c));
                if self.open.len() > MOST_BRACKETS {
                    return Err(refuse(start, format!("brackets nest at most {MOST_BRACKETS} deep")));
                }
            }
            ')' | ']' | '}' => self.close(c)?,
            '?' => self.count_question()?,
            '=' | '!' | '<' | '>' if self.peek(1) == Some('=') => {
                self.at += 1;
                self.count_operator()?;
            }
            '=' => return Err(refuse(start, "`=` is not an operator; equality is `==`")),
            '&' | '|' => {
                if self.peek(1) != Some(c) {
                    return Err(refuse(start, format!("`{c}` is not an operator; write `{c}{c}`")));
                }
                self.at += 1;
                self.count_operator()?;
            }
            '.' | '+' | '-' | '*' | '/' | '%' | '!' | '<' | '>' => self.count_operator()?,
            ',' | ':' | ' ' | '\t' | '\r' | '\n' | '\u{c}' => {}
            other => return Err(refuse(start, format!("{other:?} cannot stand here"))),
        }
        self.at += 1;
        Ok(())
    }

    fn close(&mut self, bracket: char) -> Result<(), CompileError> {
        let wanted = match bracket {
            ')' => '(',
            ']' => '[',
            _ => '{',
        };
        match self.open.pop() {
            Some((_, open)) if open == wanted => Ok(()),
            Some((_, open)) => Err(refuse(self.at, format!("`{bracket}` does not close `{open}`"))),
            None => Err(refuse(self.at, format!("`{bracket}` closes nothing"))),
        }
    }

    fn count_question(&mut self) -> Result<(), CompileError> {
        self.questions += 1;
        if self.questions > MOST_QUESTIONS {
            return Err(refuse(self.at, format!("an expression has at most {MOST_QUESTIONS} `?`")));
        }
        Ok(())
    }

    fn count_operator(&mut self) -> Result<(), CompileError> {
        self.operators += 1;
        if self.operators > MOST_OPERATORS {
            return Err(refuse(self.at, format!("an expression has at most {MOST_OPERATORS} operators")));
        }
        Ok(())
    }

    /// A name, a number, or the prefix of a text.
    fn word(&mut self) -> Result<(), CompileError> {
        let start = self.at;
        while self.peek(0).is_some_and(|c| c.is_ascii_alphanumeric() || c == '_') {
            self.at += 1;
        }
        let word: String = self.chars[start..self.at].iter().collect::<String>().to_ascii_lowercase();
        if word == "in" {
            self.count_operator()?;
        }
        match self.peek(0) {
            Some('\'' | '"') if matches!(word.as_str(), "r" | "b" | "br") => self.text(word.ends_with('r')),
            _ => Ok(()),
        }
    }

    /// A text in quotes; `at` is at the first quote.
    fn text(&mut self, raw: bool) -> Result<(), CompileError> {
        let start = self.at;
        let Some(quote) = self.peek(0) else { return Ok(()) };
        let triple = self.peek(1) == Some(quote) && self.peek(2) == Some(quote);
        self.at += if triple { 3 } else { 1 };
        loop {
            match self.peek(0) {
                None => return Err(refuse(start, "a text is not closed")),
                Some('\n' | '\r') if !triple => return Err(refuse(start, "a text is not closed on its line")),
                Some('\\') if !raw => self.escape()?,
                Some(c) if c == quote => {
                    if !triple {
                        self.at += 1;
                        return Ok(());
                    }
                    if self.peek(1) == Some(quote) && self.peek(2) == Some(quote) {
                        self.at += 3;
                        return Ok(());
                    }
                    self.at += 1;
                }
                Some(_) => self.at += 1,
            }
        }
    }

    /// An escape in a text: those of the grammar and no others.
    fn escape(&mut self) -> Result<(), CompileError> {
        let digits = |from: usize, count: usize| (from..from + count).all(|n| self.peek(n).is_some_and(is_hex));
        let octal = |n: usize, most: char| self.peek(n).is_some_and(|c| ('0'..=most).contains(&c));
        let length = match self.peek(1) {
            Some('a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '"' | '\'' | '\\' | '?' | '`') => 2,
            Some('x' | 'X') if digits(2, 2) => 4,
            Some('u') if digits(2, 4) => 6,
            Some('U') if digits(2, 8) => 10,
            Some('0'..='3') if octal(2, '7') && octal(3, '7') => 4,
            _ => return Err(refuse(self.at, "no such escape in a text")),
        };
        self.at += length;
        Ok(())
    }
}

fn is_hex(c: char) -> bool {
    c.is_ascii_hexdigit()
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn texts_hide_their_brackets() {
        for source in ["'((((' + \"]]\"", r"'it\'s ('", "r'\\' == '('", "'''a'(b''' + \"\"\"(\"\"\"", "b'(' // ((("] {
            assert_eq!(check(source), Ok(()), "{source}");
        }
        assert_eq!(check("bar'('"), Ok(()), "a name that ends like a prefix");
    }

    #[test]
    fn columns_count_characters() {
        for (source, column) in [("'é' + ü", 7), ("(1", 1), ("1 + 2)", 6), ("'abc", 1), (r"'\q'", 2), ("a = b", 3)] {
            assert_eq!(check(source).unwrap_err().column, column, "{source}");
        }
    }

    #[test]
    fn depth_and_length_are_limited() {
        for source in ["(".repeat(2_000), "[".repeat(25), "{".repeat(25), "1+".repeat(900), "a?b:".repeat(500)] {
            assert!(check(&source).is_err(), "{source}");
        }
        assert!(check(&" ".repeat(2_001)).is_err());
        assert!(check("  ").is_err());
    }
}
