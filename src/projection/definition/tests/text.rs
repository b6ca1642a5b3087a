//! Texts: YAML and JSON before anything means anything.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::projection::definition::parse_text::read;

fn yaml(text: &str) -> Result<Value, String> {
    read(text, Format::Yaml).map_err(|violation| format!("{} {}", violation.pointer, violation.message))
}

fn refused(text: &str) -> String {
    yaml(text).expect_err(text)
}

#[test]
fn yaml_is_read_as_yaml_1_2() {
    let value =
        yaml("a: yes\nb: no\nc: on\nd: off\ne: true\nf: 0x10\ng: 010\nh: 1.50\ni: ~\non: y\n1: one\ntrue: t").unwrap();
    let expected = json!({"a": "yes", "b": "no", "c": "on", "d": "off", "e": true, "f": 16, "g": "010", "h": 1.5,
        "i": null, "on": "y", "1": "one", "true": "t"});
    assert_eq!(value, expected);
    assert_eq!(yaml("{\"a\": [1, {\"b\": \"c\\u00e9\"}]}").unwrap(), json!({"a": [1, {"b": "cé"}]}));
    assert_eq!(
        yaml("a: 2026-11-21\nb: \"1\"\nc: |\n  x\n  y\n").unwrap(),
        json!({"a": "2026-11-21", "b": "1", "c": "x\ny\n"})
    );
}

#[test]
fn json_is_strict() {
    let at = |text| read(text, Format::Json).unwrap_err();
    assert_eq!(at("{\"a\":1,\"a\":2}").code, "malformed-json");
    assert_eq!(at("{a: 1}").code, "malformed-json");
    assert_eq!(at(&" ".repeat(MOST_BYTES + 1)).code, "definition-too-large");
    assert_eq!(read("{\"a\":1}", Format::Json), Ok(json!({"a": 1})));
}

#[test]
fn what_yaml_we_do_not_take() {
    assert_eq!(refused("a:\n  b: 1\n  b: 2"), "/a/b the same key twice");
    assert_eq!(refused("a: {\"x/y\": 1, 'x/y': 2}"), "/a/x~1y the same key twice");
    assert_eq!(refused("a: !secret b"), "/a tags (`!name`) are not taken");
    assert_eq!(refused("a: 9007199254740993"), "/a an integer is outside ±(2^53 - 1)");
    assert_eq!(refused("a: 99999999999999999999999"), "/a an integer is outside ±(2^53 - 1)");
    assert_eq!(refused("a: .inf"), "/a not a finite number");
    assert_eq!(refused("a: 1\n---\nb: 2"), " the text holds 2 documents; send one");
    assert_eq!(refused(""), " the text is empty");
    assert_eq!(refused("a: &x 1\nb: &x 2\nc: *x"), " the anchor `&x` is defined twice");
    for bad in ["a: *x", "a: [1", "a: b: c", "\tx: 1", "a: \"\\z\"", "%", "a: 'x", "? [a]\n: b", "a: \0", "- &a [*a]"] {
        assert!(yaml(bad).is_err(), "{bad}");
    }
}

#[test]
fn several_documents() {
    let found = documents("---\na: 1\n---\n# nothing\n---\nb: 2\n...\n").unwrap();
    assert_eq!(found, [json!({"a": 1}), json!({"b": 2})]);
    assert_eq!(documents("").unwrap(), [] as [Value; 0]);
    assert!(documents("a: 1\n---\nb: [").is_err());
    assert!(documents(&"---\na: 1\n".repeat(101)).is_err());
    assert!(documents(&"#".repeat(1024 * 1024 + 1)).is_err());
}

#[test]
fn aliases_are_expanded_within_limits() {
    assert_eq!(yaml("a: &x [1]\nb: *x").unwrap(), json!({"a": [1], "b": [1]}));
    let level = |level: usize| format!("a{level}: &a{level} [{}]", vec![format!("*a{}", level - 1); 10].join(", "));
    let bomb =
        "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned() + &(1..9).map(level).collect::<Vec<_>>().join("\n");
    assert!(refused(&bomb).ends_with("too many values"));
    let long = format!("a: &a {}\nb: [{}]", "x".repeat(40_000), vec!["*a"; 5000].join(", "));
    assert!(refused(&long).ends_with("too large with its aliases"));
    assert!(refused("a: &a [*a]").starts_with("/a/0/0"));
}

#[test]
fn hostile_shapes_end_soon() {
    let shapes = [
        "[".repeat(MOST_BYTES),
        "{".repeat(MOST_BYTES),
        "[".repeat(200),
        "{a: ".repeat(200),
        "- ".repeat(MOST_BYTES / 2),
        "? ".repeat(MOST_BYTES / 2),
        "a: ".repeat(MOST_BYTES / 3),
        "&a ".repeat(MOST_BYTES / 3),
        "!a ".repeat(MOST_BYTES / 3),
        "[],".repeat(MOST_BYTES / 3),
        format!("[{}]", "a,".repeat(MOST_BYTES / 2 - 1)),
        format!("[{}]", "a: b,".repeat(MOST_BYTES / 5 - 1)),
        (0..6000).map(|n| format!("k{n}: 1")).collect::<Vec<_>>().join("\n"),
        "\n".repeat(MOST_BYTES),
        "---\n".repeat(MOST_BYTES / 4),
        (0..200).map(|n| " ".repeat(n) + "a:").collect::<Vec<_>>().join(
            "
",
        ),
        format!("a: \"{}", "\\n".repeat(MOST_BYTES / 2 - 3)),
        format!("a: {}", "'".repeat(MOST_BYTES - 3)),
    ];
    for shape in shapes {
        let begun = Instant::now();
        let shown: String = shape.chars().take(20).collect();
        assert!(yaml(&shape).is_err() || shown.starts_with('\n'), "{shown}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{shown} took {:?}", begun.elapsed());
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[-a-c:{}\\[\\],&*!?|>'\"#%@ \n\t0-9.~]{0,80}") {
        let _ = read(&text, Format::Yaml);
        let _ = read(&text, Format::Json);
    }

    #[test]
    fn json_texts_are_yaml_too(value in crate::projection::definition::tests::good::any_value()) {
        let text = value.to_string();
        prop_assert_eq!(read(&text, Format::Yaml).ok(), (!value.is_null()).then_some(value));
    }
}
