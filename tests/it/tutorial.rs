//! The tutorials, run as they are printed: the README's and the one that builds a CRM.
//!
//! Every ```` ```bash ```` block between the markers is one script, run in order in one directory. A line that begins
//! with `#> ` is a regular expression (or a plain text) that the output of its block must contain. The server of the
//! text is the test's own: a block that starts it is left out, and its address is written over the one in the text (and
//! stands in the variable `L`).

use std::path::Path;
use std::process::Command;

use regex::Regex;

use crate::child::{Child, oubliette, without_settings};

const BEGIN: &str = "<!-- tutorial:begin -->";
const END: &str = "<!-- tutorial:end -->";

/// Between the outputs of two blocks.
const NEXT: &str = "@@ next step @@";

/// One block: its commands, and what their output must contain.
#[derive(Debug, PartialEq)]
struct Block {
    script: String,
    expected: Vec<String>,
}

/// The blocks of a text.
fn blocks(text: &str) -> Vec<Block> {
    let tutorial = text.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END)).map_or("", |(inside, _)| inside);
    let mut blocks = Vec::new();
    for part in tutorial.split("```bash\n").skip(1) {
        let (code, _) = part.split_once("```").expect("a block ends");
        let mut block = Block { script: String::new(), expected: Vec::new() };
        for line in code.lines() {
            if let Some(expected) = line.strip_prefix("#> ") {
                block.expected.push(expected.to_owned());
            } else {
                block.script.push_str(line);
                block.script.push('\n');
            }
        }
        blocks.push(block);
    }
    blocks
}

/// Whether the block starts the server, which the test has done already.
fn starts_the_server(block: &Block) -> bool {
    block.script.lines().any(|line| line.trim_start().starts_with("cargo run") && line.contains(" serve"))
}

/// The script as it runs here: the program is the one that was built, the server is the test's.
fn adapted(script: &str, address: &str) -> String {
    let binary = format!("\"{}\"", env!("CARGO_BIN_EXE_oubliette"));
    let mut text = script.to_owned();
    for printed in ["cargo run --release -q --", "cargo run -q --release --", "cargo run --release --"] {
        text = text.replace(printed, &binary);
    }
    for printed in ["./target/release/oubliette", "target/release/oubliette"] {
        text = text.replace(printed, &binary);
    }
    for printed in ["http://127.0.0.1:7017", "http://localhost:7017"] {
        text = text.replace(printed, address);
    }
    text
}

fn found(expected: &str, output: &str) -> bool {
    output.contains(expected) || Regex::new(expected).is_ok_and(|pattern| pattern.is_match(output))
}

#[test]
fn the_tutorial_of_the_readme_runs() {
    runs("README.md");
}

#[test]
fn the_tutorial_of_the_crm_runs() {
    runs("docs/projections/tutorial-crm.md");
}

fn runs(page: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
    let blocks = blocks(&page);
    let steps: Vec<_> = blocks.iter().filter(|block| !starts_the_server(block)).collect();
    assert!(!steps.is_empty(), "the tutorial has no steps between {BEGIN} and {END}");
    assert!(steps.iter().any(|block| !block.expected.is_empty()), "no step says what it shows");
    let dir = tempfile::tempdir().unwrap();
    for shared in ["examples", "docs"] {
        let _ = std::os::unix::fs::symlink(root.join(shared), dir.path().join(shared));
    }
    let child = Child::start(oubliette(dir.path(), &["serve", "--dev", "--listen", "127.0.0.1:0"])).expect("it starts");
    let address = format!("http://{}", child.address);
    // One shell for all, as in the reader's terminal: variables live on from block to block.
    let scripts: Vec<String> = steps.iter().map(|block| adapted(&block.script, &address)).collect();
    let whole = format!(
        "exec 2>&1\nset -eo pipefail\n{}\necho '{NEXT}'\nkill $(jobs -p) 2>/dev/null || true",
        scripts.join(&format!("\necho '{NEXT}'\n"))
    );
    let bin = Path::new(env!("CARGO_BIN_EXE_oubliette")).parent().expect("the binary is in a directory");
    let mut shell = Command::new("timeout");
    without_settings(&mut shell);
    let output = shell
        .args(["120", "bash", "-c", &whole])
        .current_dir(dir.path())
        .env("L", format!("{address}/v1"))
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap_or_default()))
        .env("A", "Authorization: Bearer dev")
        .env("J", "Content-Type: application/json")
        .env("OUBLIETTE_SERVER", &address)
        .env("OUBLIETTE_API_KEY", "dev")
        .output()
        .expect("bash runs");
    let text = String::from_utf8_lossy(&output.stdout);
    let mut shown = text.split(NEXT);
    for (block, script) in steps.iter().zip(&scripts) {
        let shown = shown.next().unwrap_or_default();
        for expected in &block.expected {
            assert!(found(expected, shown), "this does not show {expected:?}:\n{script}\n{shown}");
        }
    }
    assert!(output.status.success(), "{}: a command failed:\n{text}", output.status);
    assert!(child.stop().success());
}

#[test]
fn blocks_are_found_and_adapted() {
    let text = format!(
        "```bash\nno\n```\n{BEGIN}\n```bash\ncargo run --release -- serve --dev\n```\ntext\n```bash\n\
         L=http://127.0.0.1:7017/v1\ncurl $L/livez\n#> ok\n#> ^ok$\n```\n{END}\n```bash\nno\n```\n"
    );
    let found_blocks = blocks(&text);
    assert_eq!(found_blocks.len(), 2);
    assert!(starts_the_server(&found_blocks[0]) && !starts_the_server(&found_blocks[1]));
    assert_eq!(found_blocks[1].expected, ["ok", "^ok$"]);
    assert_eq!(adapted(&found_blocks[1].script, "http://x:1"), "L=http://x:1/v1\ncurl $L/livez\n");
    assert!(found("a.c", "xabcx") && found("[", "a[b") && !found("^b", "ab"));
    assert!(blocks("no markers").is_empty());
}
