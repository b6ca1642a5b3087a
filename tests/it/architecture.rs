//! What the shape of the sources must keep, checked on their text. Every violation is reported at once.
//!
//! Owns: the order of modules, sizes, banned calls and words. Comments and the contents of texts are blanked before
//! anything is looked for, so that prose may speak of what code may not do; in-file tests are left out of sizes and of
//! most rules.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
/// Modules that speak HTTP, and those above which no HTTP type may appear.
const HTTP: [&str; 5] = ["telemetry", "app", "http", "console", "cli"];
/// Modules that must not speak SQL.
const WITHOUT_SQL: [&str; 3] = ["http", "console", "cli"];

/// One source file.
struct Source {
    /// Path below `src`, with `/`.
    path: String,
    /// Top-level module.
    module: String,
    text: String,
    /// The text with comments and the contents of strings blanked, line by line as long as the original.
    code: String,
    /// Number of the line at which in-file tests begin, counted from 0; the number of lines without any.
    tests_from: usize,
}

impl Source {
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.code.lines().enumerate().take(self.tests_from).map(|(at, line)| (at + 1, line))
    }

    /// What stands in string literals outside tests, by line.
    fn texts(&self) -> impl Iterator<Item = (usize, String)> {
        let pairs = self.text.lines().zip(self.code.lines()).enumerate().take(self.tests_from);
        pairs.filter_map(|(at, (text, code))| {
            let differing: String = text.chars().zip(code.chars()).map(|(t, c)| if t == c { ' ' } else { t }).collect();
            let comment = code.trim().is_empty() && text.trim_start().starts_with("//");
            (!comment && !differing.trim().is_empty()).then_some((at + 1, differing))
        })
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    collect(&root, &mut paths);
    paths.sort();
    assert!(paths.len() > 30, "the sources are not where they should be");
    paths.iter().map(|path| source(&root, path)).collect()
}

fn collect(dir: &Path, paths: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, paths);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
}

fn source(root: &Path, path: &Path) -> Source {
    let text = std::fs::read_to_string(path).unwrap();
    source_of(path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"), text)
}

fn source_of(path: String, text: String) -> Source {
    let module = path.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
    let code = blank(&text);
    // A file that is all tests (`mod tests;` elsewhere) has no line outside them.
    let own_file = path.ends_with("/tests.rs") || path.contains("/tests/");
    let tests_from = if own_file { 0 } else { tests_begin(&code) };
    Source { path, module, text, code, tests_from }
}

/// The line of `#[cfg(test)]` before an in-line `mod`; house rules put tests last.
fn tests_begin(code: &str) -> usize {
    let lines: Vec<&str> = code.lines().collect();
    let opens = |at: usize| {
        lines.get(at + 1).is_some_and(|next| next.split_whitespace().any(|word| word == "mod") && next.ends_with('{'))
    };
    (0..lines.len()).find(|at| lines[*at] == "#[cfg(test)]" && opens(*at)).unwrap_or(lines.len())
}

/// Blanks comments and the contents of string and character literals, keeping every line and column.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    let keep = |c: char| if c == '\n' { '\n' } else { ' ' };
    while at < chars.len() {
        let rest = &chars[at..];
        let word_before = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
        let len = if rest.starts_with(&['/', '/']) {
            rest.iter().position(|c| *c == '\n').unwrap_or(rest.len())
        } else if rest.starts_with(&['/', '*']) {
            block_comment(rest)
        } else if let Some(len) = raw_string(rest).filter(|_| !word_before) {
            len
        } else if rest[0] == '"' {
            quoted(rest, '"')
        } else if rest[0] == '\'' {
            character(rest)
        } else {
            0
        };
        if len == 0 {
            out.push(rest[0]);
            at += 1;
            continue;
        }
        let literal = rest[0] != '/';
        for (offset, c) in rest[..len].iter().enumerate() {
            let edge = literal && (offset == 0 || offset + 1 == len);
            out.push(if edge { *c } else { keep(*c) });
        }
        at += len;
    }
    out
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with(&['/', '*']) {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(&['*', '/']) {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let skip = if rest.starts_with(&['b', 'r']) { 2 } else { 1 };
    if rest[skip - 1] != 'r' {
        return None;
    }
    let hashes = rest[skip..].iter().take_while(|c| **c == '#').count();
    if rest.get(skip + hashes) != Some(&'"') {
        return None;
    }
    let end: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let from = skip + hashes + 1;
    let found = rest[from..].windows(end.len()).position(|window| window == end)?;
    Some(from + found + end.len())
}

fn quoted(rest: &[char], quote: char) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// Length of a character literal; 0 for a lifetime.
fn character(rest: &[char]) -> usize {
    match rest {
        ['\'', '\\', ..] => quoted(rest, '\''),
        ['\'', _, '\'', ..] => 3,
        _ => 0,
    }
}

/// Modules in the order of `lib.rs`.
fn order() -> Vec<String> {
    let lib = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let name = |line: &str| {
        let line = line.trim_start_matches("pub ").trim_start_matches("pub(crate) ");
        line.strip_prefix("mod ").and_then(|rest| rest.strip_suffix(';')).map(str::to_owned)
    };
    lib.lines().filter_map(name).collect()
}

/// Names that follow `crate::`, also in groups over several lines: `crate::{a, b::c}`.
fn uses(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices("crate::") {
        let before = code[..at].chars().next_back();
        // `$crate::` in a macro speaks of the caller's side; `xcrate::` is another word.
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_heads(group).into_iter().map(|name| (line, name))),
            None => found.push((line, identifier(rest))),
        }
    }
    found
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut start) = (0, Vec::new(), 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(identifier(&group[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    heads.retain(|name| !name.is_empty());
    heads
}

/// Functions that are too long: name, first line, lines.
fn long_functions(code: &str) -> Vec<(String, usize, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let words: Vec<&str> = line.split_whitespace().take_while(|word| !word.contains('(')).collect();
        let header = line.trim_start().split('(').next().unwrap_or_default();
        let is_function = words.contains(&"fn") || header.starts_with("fn ") || header.contains(" fn ");
        if !is_function || line.trim_end().ends_with(';') {
            continue;
        }
        // Formatted code: the body begins after the first line that ends with a brace, and ends at the first closing
        // brace that stands where the function began.
        let closing = format!("{}}}", " ".repeat(indent));
        let begin = lines[at..].iter().position(|line| line.trim_end().ends_with('{')).unwrap_or(0);
        let end = lines[at..].iter().position(|line| *line == closing).unwrap_or(0);
        let body = end.saturating_sub(begin + 1);
        if body >= FUNCTION_LINES {
            let name = header.split("fn ").nth(1).unwrap_or_default().to_owned();
            found.push((name, at + 1, body));
        }
    }
    found
}

fn report(rule: &str, violations: Vec<String>, all: &mut String) {
    for violation in violations {
        writeln!(all, "{rule}: {violation}").unwrap();
    }
}

#[test]
fn the_sources_keep_their_shape() {
    let sources = sources();
    let mut all = String::new();
    report("module order", module_order(&sources), &mut all);
    report("file size", file_sizes(&sources), &mut all);
    report("function size", function_sizes(&sources), &mut all);
    report("file header", headers(&sources), &mut all);
    report("SQL above storage", sql(&sources), &mut all);
    report("HTTP below http", http_types(&sources), &mut all);
    report("reserved calls", reserved_calls(&sources), &mut all);
    report("banned calls", banned_calls(&sources), &mut all);
    report("unwrap", unwraps(&sources), &mut all);
    report("tests last", tests_last(&sources), &mut all);
    assert!(all.is_empty(), "{} violations\n{all}", all.lines().count());
}

/// Each module uses only what `lib.rs` names above it.
fn module_order(sources: &[Source]) -> Vec<String> {
    let order = order();
    let rank: HashMap<&str, usize> = order.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| !matches!(source.module.as_str(), "lib" | "main")) {
        let Some(own) = rank.get(source.module.as_str()) else {
            found.push(format!("src/{}: `{}` is not a module of lib.rs", source.path, source.module));
            continue;
        };
        for (line, name) in uses(&source.code) {
            // Tests may look sideways within the library: they pin what modules must agree on.
            let is_test = line > source.tests_from;
            if !is_test && rank.get(name.as_str()).is_some_and(|used| used > own) {
                found.push(format!("src/{}:{line} uses `{name}`, which stands below it", source.path));
            }
        }
    }
    found
}

fn file_sizes(sources: &[Source]) -> Vec<String> {
    let long = sources.iter().filter(|source| source.tests_from > FILE_LINES);
    long.map(|source| format!("src/{} has {} lines, {FILE_LINES} are allowed", source.path, source.tests_from))
        .collect()
}

fn function_sizes(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (name, line, lines) in long_functions(&source.code) {
            found.push(format!("src/{}:{line} `{name}` has {lines} lines, {FUNCTION_LINES} are too many", source.path));
        }
    }
    found
}

fn headers(sources: &[Source]) -> Vec<String> {
    let bare = sources.iter().filter(|source| !source.text.starts_with("//! "));
    bare.map(|source| format!("src/{} does not open with `//!`", source.path)).collect()
}

fn sql(sources: &[Source]) -> Vec<String> {
    let speaks = |text: &str| {
        let text = text.to_ascii_lowercase();
        let pairs = [
            ("select ", " from "),
            ("insert ", "into "),
            ("update ", " set "),
            ("delete ", "from "),
            ("create ", "table "),
        ];
        pairs.iter().any(|(verb, noun)| text.contains(verb) && text.contains(noun)) || text.contains("pragma ")
    };
    let mut found = Vec::new();
    for source in sources.iter().filter(|source| WITHOUT_SQL.contains(&source.module.as_str())) {
        for (line, _) in source.texts().filter(|(_, text)| speaks(text)) {
            found.push(format!("src/{}:{line} looks like SQL", source.path));
        }
        for (line, _) in source.lines().filter(|(_, line)| line.contains("rusqlite") || line.contains("sqlx")) {
            found.push(format!("src/{}:{line} names a database driver", source.path));
        }
    }
    found
}

fn http_types(sources: &[Source]) -> Vec<String> {
    let above = |source: &&Source| !HTTP.contains(&source.module.as_str()) && source.module != "main";
    let words = ["axum::", "hyper::", "hyper_util::", "http_body_util::", "tower::", "utoipa::", "utoipa_axum::"];
    calls(sources.iter().filter(above), &words)
}

/// Calls and constructions that belong to one place (invariant 10).
fn reserved_calls(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let path = source.path.as_str();
        let appends =
            matches!(path, "append/writer.rs") || path.starts_with("eventlog/") || path.starts_with("keystore/");
        let destroys = matches!(path, "erasure/worker.rs" | "erasure/recovery.rs") || path.starts_with("keystore/");
        for (line, code) in source.lines() {
            let has = |what: &str| code.contains(what);
            if !appends && (has("log.commit(") || has("log().commit(") || has("EventLog::commit") || has("Batch {")) {
                found.push(format!("src/{path}:{line} commits to the event log; only append/writer.rs may"));
            }
            if !destroys && (has(".destroy(") || has("Keystore::destroy") || has("DestroyOrder {")) {
                found.push(format!("src/{path}:{line} destroys keys; only the erasure worker and recovery may"));
            }
            let removes = path == "erasure/deep.rs" || path.starts_with("eventlog/");
            if !removes && has("RemoveSlots {") {
                found.push(format!("src/{path}:{line} removes ciphertext; only the deep erase may"));
            }
            let makes = code.match_indices("SealedEvent {").any(|(at, _)| {
                let before = code[..at].trim_end();
                !["struct", "impl", "for", "->", "&"].iter().any(|word| before.ends_with(word))
            });
            if makes && source.module != "sealing" {
                found.push(format!("src/{path}:{line} makes a SealedEvent; only sealing may"));
            }
        }
    }
    found
}

fn banned_calls(sources: &[Source]) -> Vec<String> {
    let everywhere = [
        "println!",
        "print!",
        "eprintln!",
        "eprint!",
        "dbg!",
        "todo!",
        "unimplemented!",
        "unsafe ",
        "thread_rng",
        "rand::rng(",
    ];
    let mut found = calls(sources.iter(), &everywhere);
    let clocks = ["Utc::now", "Local::now", "SystemTime::now"];
    found.extend(calls(sources.iter().filter(|source| source.path != "clock.rs"), &clocks));
    let below_cli = sources.iter().filter(|source| !matches!(source.module.as_str(), "cli" | "main"));
    found.extend(calls(below_cli, &["anyhow::", "std::process::exit"]));
    found
}

fn unwraps(sources: &[Source]) -> Vec<String> {
    let mut found = calls(sources.iter(), &[".unwrap()", ".unwrap_err()", ".unwrap_unchecked()"]);
    for source in sources {
        for (line, code) in source.lines() {
            // The blanked message keeps its quotes and its length.
            let silent = code.match_indices(".expect(\"").any(|(at, _)| {
                let message = &code[at + ".expect(\"".len()..];
                message.find('"').is_some_and(|length| length < 5)
            });
            if silent {
                found.push(format!("src/{}:{line} expects without saying why", source.path));
            }
        }
    }
    found
}

/// In-file tests stand at the end, so that what is left out of the rules above is tests and nothing else.
fn tests_last(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let tests: Vec<&str> = source.code.lines().skip(source.tests_from).collect();
        let end = tests.iter().position(|line| *line == "}").map_or(tests.len(), |at| at + 1);
        let own_file = source.tests_from == 0;
        if !own_file && tests[end..].iter().any(|line| !line.trim().is_empty()) {
            found.push(format!("src/{} has code after its tests", source.path));
        }
    }
    found
}

/// Places outside tests where one of `words` stands as a word of its own.
fn calls<'a>(sources: impl Iterator<Item = &'a Source>, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (line, code) in source.lines() {
            for word in words {
                let alone = code.match_indices(word).any(|(at, _)| {
                    let before = code[..at].chars().next_back();
                    word.starts_with('.') || !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                });
                if alone {
                    found.push(format!("src/{}:{line} `{}`", source.path, word.trim()));
                }
            }
        }
    }
    found
}

/// Words that say that something is not finished, and traces of the machine it was written on.
#[test]
fn words_that_must_not_appear() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Spelt apart, so that this file is not its own finding.
    let words: Vec<String> = [
        ("TO", "DO"),
        ("FIX", "ME"),
        ("XX", "X:"),
        ("HA", "CK"),
        ("lorem", " ipsum"),
        ("black", "list"),
        ("white", "list"),
        ("simpl", "y put"),
        ("/ho", "me/"),
        ("/wo", "rk/"),
        ("/Use", "rs/"),
        ("BEGIN PRI", "VATE KEY"),
    ]
    .map(|(a, b)| format!("{a}{b}"))
    .to_vec();
    let mut files = Vec::new();
    for dir in ["src", "tests", "docs", "migrations"] {
        texts(&root.join(dir), &mut files);
    }
    assert!(files.len() > 40);
    let mut found = Vec::new();
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (at, line) in text.lines().enumerate() {
            for word in words.iter().filter(|word| line.contains(word.as_str())) {
                found.push(format!("{}:{} {word}", path.strip_prefix(root).unwrap().display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn texts(dir: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if path.is_dir() {
            texts(&path, files);
        } else if ["rs", "md", "sql", "toml", "json", "py", "yaml"].contains(&name) {
            files.push(path);
        }
    }
}

/// The checker itself: what it must see, and what it must not take for code.
#[test]
fn the_checker_reads_rust() {
    let text = "let a = \"x.unwrap()\"; // .unwrap()\nlet b = r#\"dbg!(\"q\")\"#; let c = '\"'; /* todo! /* */ */ d.unwrap();\nfn f<'a>(x: &'a str) {}\n";
    let code = blank(text);
    assert_eq!(code.matches(".unwrap()").count(), 1);
    assert!(!code.contains("dbg!") && !code.contains("todo!") && code.contains("fn f<'a>(x: &'a str) {}"));
    assert_eq!(code.lines().map(str::len).collect::<Vec<_>>(), text.lines().map(str::len).collect::<Vec<_>>());
    let names: Vec<String> = uses("use crate::{a, b::{c, d},\n e};\nlet x = crate::f::g(); $crate::h::i")
        .into_iter()
        .map(|one| one.1)
        .collect();
    assert_eq!(names, ["a", "b", "e", "f"]);
    let long = format!("    fn long() {{\n{}    }}\n    fn short(&self);\n", "        x;\n".repeat(FUNCTION_LINES));
    assert_eq!(long_functions(&long), [("long".to_owned(), 1, FUNCTION_LINES)]);
    assert_eq!(tests_begin("a\n#[cfg(test)]\nmod tests;\n#[cfg(test)]\nmod tests {\n"), 3);
}

/// Every rule has teeth: for each, a file that breaks it and one that does not.
#[test]
fn every_rule_finds_what_it_forbids() {
    type Rule = fn(&[Source]) -> Vec<String>;
    let long_body = format!("fn f() {{\n{}}}\n", "    x;\n".repeat(FUNCTION_LINES));
    let long_file = "//! a\n".repeat(FILE_LINES + 1);
    let tests = |body: &str| format!("//! a\n#[cfg(test)]\nmod tests {{\n    {body}\n}}\n");
    let cases: Vec<(Rule, &str, String, bool)> = vec![
        (module_order, "clock.rs", "use crate::eventlog::Head;".into(), true),
        (module_order, "clock.rs", tests("use crate::eventlog::Head;"), false),
        (module_order, "verify/mod.rs", "use crate::eventlog::Head;".into(), false),
        (module_order, "nowhere.rs", String::new(), true),
        (file_sizes, "clock.rs", long_file.clone(), true),
        (file_sizes, "clock.rs", format!("//! a\n#[cfg(test)]\nmod tests {{\n{long_file}}}\n"), false),
        (function_sizes, "clock.rs", long_body, true),
        (headers, "clock.rs", "use a;".into(), true),
        (headers, "clock.rs", "//! a".into(), false),
        (sql, "http/mod.rs", "f(\"select 1 from events\");".into(), true),
        (sql, "http/mod.rs", "// select 1 from events".into(), false),
        (sql, "db.rs", "f(\"select 1 from events\");".into(), false),
        (http_types, "read/mod.rs", "use axum::Json;".into(), true),
        (http_types, "http/mod.rs", "use axum::Json;".into(), false),
        (reserved_calls, "read/mod.rs", "self.log.commit(batch)".into(), true),
        (reserved_calls, "append/writer.rs", "log.commit(batch)".into(), false),
        (reserved_calls, "http/mod.rs", "keystore.destroy(order)".into(), true),
        (reserved_calls, "erasure/worker.rs", "keystore.destroy(order)".into(), false),
        (reserved_calls, "append/mod.rs", "Ok(SealedEvent { id })".into(), true),
        (reserved_calls, "eventlog/plan.rs", "fn f(e: &SealedEvent) -> &SealedEvent {".into(), false),
        (banned_calls, "read/mod.rs", "dbg!(x)".into(), true),
        (banned_calls, "read/mod.rs", "\"dbg!(x)\"".into(), false),
        (banned_calls, "read/mod.rs", "Utc::now()".into(), true),
        (banned_calls, "clock.rs", "Utc::now()".into(), false),
        (banned_calls, "read/mod.rs", "use anyhow::Result;".into(), true),
        (unwraps, "read/mod.rs", "x.unwrap()".into(), true),
        (unwraps, "read/mod.rs", "x.unwrap_or(1).expect(\"it was checked above\")".into(), false),
        (unwraps, "read/mod.rs", "x.expect(\"\")".into(), true),
        (unwraps, "read/mod.rs", tests("x.unwrap();"), false),
        (tests_last, "read/mod.rs", tests("x") + "fn after() {}\n", true),
        (tests_last, "read/mod.rs", tests("x"), false),
    ];
    for (at, (rule, path, text, broken)) in cases.into_iter().enumerate() {
        let found = rule(&[source_of(path.into(), text)]);
        assert_eq!(!found.is_empty(), broken, "case {at}: {path} {found:?}");
    }
}
