//! What hostile sources and data cannot do: end the process, hang it, or see values in errors.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;
use super::{BARE, EVENT, FOLD, compiled, evaluate, run};

/// Runs on a stack as small as those of the runtime's threads.
fn on_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(work).unwrap();
    thread.join().unwrap();
}

/// Parts of which hostile sources are made.
const UNITS: &[&str] = &[
    "(",
    "[",
    "{",
    "!",
    "-",
    "- ",
    "! ",
    "1+",
    "1-",
    "a?b:",
    "a?",
    "data.",
    "data.a.",
    "data[",
    "a[0]",
    "'(",
    "\"'",
    "'''",
    "r'",
    "has(",
    "lower(",
    "[1].map(x,",
    ".map(x,x)",
    "x in ",
    "1<",
    "true&&",
    "true||",
    "{'a':",
    "data.?a.",
    "[?",
    "()",
    "[[]]",
    "in ",
    "1.",
    "..",
    "\\",
    "`",
    "//",
    "\n",
    "é",
    "\0",
    "b'\\",
    "0x",
    "1e",
    "1u",
    "?:",
    "a.b(",
    "math.greatest(",
    "'\\q((",
    "'\\'(",
    "@",
];

fn hostile() -> Vec<String> {
    let mut sources: Vec<String> = UNITS.iter().map(|unit| unit.repeat(2_000 / unit.len())).collect();
    for (open, middle, close) in
        [("(", "1", ")"), ("[", "1", "]"), ("{'a':", "1", "}"), ("!(", "true", ")"), ("-(", "1", ")")]
    {
        for depth in [10, 20, 24, 25, 200] {
            sources.push(format!("{}{middle}{}", open.repeat(depth), close.repeat(depth)));
        }
    }
    for count in [10, 38, 40, 200, 390] {
        sources.push(format!("{}1", "1+".repeat(count)));
        sources.push(format!("{}1", "1<".repeat(count)));
        sources.push(format!("{}true", "true&&".repeat(count)));
        sources.push(format!("{}1", "true?1:".repeat(count)));
        sources.push(format!("{}1{}", "true?(".repeat(count), "):1".repeat(count)));
        sources.push(format!("data{}", ".a".repeat(count)));
        sources.push(format!("data{}", "[0]".repeat(count)));
        sources.push(format!("data{}", ".?a".repeat(count)));
        sources.push(format!("[1]{}", ".map(x,x)".repeat(count)));
        sources.push(format!("'a'{}", ".trim()".repeat(count)));
        sources.push(format!("{}1{}", "lower(".repeat(count), ")".repeat(count)));
        sources.push(format!("{}true", "!".repeat(count)));
    }
    sources
}

#[test]
fn no_source_overflows_a_stack_or_hangs() {
    on_small_stack(|| {
        let data = json!({"a": [[1], {"a": 1}]});
        for source in hostile() {
            for scope in [EVENT, FOLD, BARE] {
                if let Ok(expression) = Expression::compile(&source, scope) {
                    let _ = evaluate(&expression, &data);
                }
            }
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn compiles_on_a_thread_of_the_runtime() {
    let compiled = tokio::spawn(async {
        let deepest = format!("{}data.a{}", "(-".repeat(24), ")".repeat(24));
        Expression::compile(&deepest, EVENT).map(|expression| evaluate(&expression, &json!({"a": 1})))
    });
    assert_eq!(compiled.await.unwrap().unwrap(), Ok(Some(json!(1))));
}

#[test]
fn the_deepest_evaluations_fit_on_a_small_stack() {
    on_small_stack(|| {
        let mut data = json!(1);
        for _ in 0..120 {
            data = json!([data]);
        }
        let data = json!({"a": data, "l": [1, 2]});
        let mut evaluated = 0;
        for count in 1..45 {
            for source in [
                format!("data.a{}", ".map(x, [x])".repeat(count)),
                format!("data.a{}", ".map(x, x)".repeat(count)),
                format!("'a'{}", " + 'a'".repeat(count)),
                format!("data.a == data.a{}", "[0]".repeat(count)),
                format!("{}data.a{}", "[".repeat(count), "]".repeat(count)),
                format!("[data.a]{}", ".filter(x, data.l.exists(y, data.a == data.a))".repeat(count)),
                format!("{}data.a", "true ? data.a : ".repeat(count)),
                format!("'a'{}", ".trim()".repeat(count)),
            ] {
                if let Ok(expression) = Expression::compile(&source, EVENT) {
                    evaluated += usize::from(evaluate(&expression, &data).is_ok());
                }
            }
        }
        assert!(evaluated > 50, "{evaluated}");
    });
}

#[test]
fn work_and_memory_are_limited() {
    let list: Vec<Value> = (0..9_000).map(|n| json!(n)).collect();
    let data = json!({"l": list, "s": "x".repeat(200_000), "t": "y".repeat(50_000), "one": [1]});
    let doubled = format!("data.one{}.size()", ".map(x, [x, x, x, x])".repeat(18));
    let text = format!("['aaaaaaaaaaaaaaaa']{}[0].size()", ".map(x, x + x + x + x)".repeat(18));
    let joined = format!("data.l.map(x, data.t).join(data.s).size() + {}", "data.s.size()");
    let replaced = format!("'aaaaaaaaaa'{}.size()", ".replace('a', 'aaaaaaaaaaaaaaaa')".repeat(15));
    for source in [
        "data.l.map(x, data.l.map(y, x * y)).size()",
        "data.l.map(x, data.l.map(y, 1).size()).size()",
        "data.l.exists(x, data.l.exists(y, x + y < 0))",
        "data.l.map(x, data).size()",
        "data.l.filter(x, data.s.contains('zz')).size()",
        "data.l.all(x, !(-1 in data.l))",
        "data.l.map(x, data.s + 'x').size()",
        "data.s.replace('', data.t).size()",
        "data.s.replace('x', data.t).size()",
        "lists.range(1000000).map(x, lists.range(1000000)).size()",
        &doubled,
        &text,
        &joined,
        &replaced,
    ] {
        let expression = compiled(source, EVENT);
        assert_eq!(evaluate(&expression, &data), Err(EvalError::TooLarge { what: "work" }), "{source}");
    }
    for source in ["data.l.map(x, x * 2).filter(x, x % 3 == 0).size()", "data.l.sort().distinct().size()"] {
        assert!(run(source, &data).is_ok(), "{source}: {:?}", run(source, &data));
    }
}

const CANARY: &str = "Zaphod.Beeblebrox@example.org";

/// Failures of one kind each.
const FAILING: &[&str] = &[
    "data.m[data.c + '!']",
    "data.m[data.c].x + 1",
    "timestamp(data.c)",
    "duration(data.c)",
    "int(data.c)",
    "double(data.c)",
    "bool(data.c)",
    "data.c.substring(99)",
    "data.c.charAt(99)",
    "'%d'.format([data.c])",
    "data.c.format([1])",
    "data.n / data.z",
    "data.n % data.z",
    "data.n * data.n * data.n",
    "local(data.c, data.c, data.c)",
    "local('2026-01-01', '07:00', data.c)",
    "timestamp('2026-01-01T00:00:00Z').getHours(data.c)",
    "data.l[99]",
    "data.l.slice(0, 99)",
    "[data.c, 1].sort()",
    "uint(-data.n)",
    "{data.c: 1, data.c: 2}",
    "{1: data.c}",
    "data.c.matches('x') + 1",
    "math.greatest(data.c, 1)",
    "bytes(data.c)",
    "string(b'\\xff')",
    "[1, data.c].join()",
    "optional.none().value()",
    "data.c.orValue(1)",
];

/// Every operator and function over every type of operand.
fn failing() -> Vec<String> {
    let operands =
        ["data.c", "data.l", "data.m", "data.n", "data.f", "data.none", "true", "[data.m]", "data.m[data.c]"];
    let mut sources = Vec::new();
    for a in operands {
        for name in names::FUNCTIONS {
            let (name, style, least, _) = name;
            let args = vec![a; *least].join(", ");
            sources.push(match (style, *name) {
                (_, "matches") => format!("{a}.matches('x')"),
                (names::Style::Global, name) => format!("{name}({args})"),
                (names::Style::Member, name) => format!("{a}.{name}({args})"),
            });
        }
        for b in operands {
            for operator in ["+", "-", "*", "/", "%", "<", "in", "&&", "||"] {
                sources.push(format!("{a} {operator} {b}"));
            }
            sources.push(format!("{a}[{b}]"));
            sources.push(format!("{a}[?{b}].x"));
            sources.push(format!("{{{a}: {b}}}"));
            sources.push(format!("{a} ? {b} : {b}"));
            sources.push(format!("{{{a}: 1, {b}: 2}}"));
        }
        for source in
            ["-{}", "!{}", "{}.x", "{}.x.y + 1", "{}.map(x, x.y)", "{}.all(x, x)", "{}.sortBy(x, x)", "has({}.x.y)"]
        {
            sources.push(source.replace("{}", a));
        }
    }
    sources.extend(FAILING.iter().map(|source| (*source).to_owned()));
    sources
}

#[test]
fn errors_hold_no_values() {
    let data = json!({"c": CANARY, "l": [CANARY], "m": {CANARY: CANARY}, "n": 4_815_162_342_i64, "f": 0.5, "z": 0, "none": null});
    let mut failures = 0;
    for source in failing() {
        // Some are refused, because the text alone shows that they cannot work.
        let Ok(expression) = Expression::compile(&source, EVENT) else { continue };
        let Err(error) = evaluate(&expression, &data) else { continue };
        failures += 1;
        let text = format!("{error} {error:?}");
        for part in [CANARY, "Zaphod", "eeblebrox", "4815162342"] {
            assert!(!text.contains(part), "{source}: {text}");
        }
        assert_ne!(error, EvalError::Other, "{source}");
    }
    assert!(failures > 500, "{failures}");
}

#[test]
fn names_in_errors_come_from_the_source() {
    let no_key = |name: &str| Err(EvalError::NoSuchKey { name: name.to_owned() });
    let data = json!({"m": {}, "secret": "foo", "l": []});
    assert_eq!(run("data.m.foo + 1", &data), no_key("foo"));
    assert_eq!(run("data.absent + 1", &data), no_key("absent"));
    assert_eq!(run("data.m[data.secret] + 1", &data), no_key("?"));
    assert_eq!(run("data.m[data.secret] + data.m.foo", &data), no_key("?"), "even if the source also spells it");
    assert_eq!(run("data.l[0] + 1", &data), no_key("?"));
    let overload = EvalError::Type { operation: "+".into(), operands: "string, int".into() };
    assert_eq!(run("data.secret + 1", &data), Err(overload));
    let condition = EvalError::Type { operation: "condition".into(), operands: "string".into() };
    assert_eq!(run("data.secret ? 1 : 2", &data), Err(condition));
}

/// Sources made of the language's parts, most of them valid.
fn grammar() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("data.a"),
        Just("data.l"),
        Just("data.m"),
        Just("data.s"),
        Just("row.x"),
        Just("event.id"),
        Just("data"),
        Just("1"),
        Just("-2"),
        Just("2.5"),
        Just("'t'"),
        Just("null"),
        Just("true"),
        Just("[]"),
        Just("{}"),
        Just("data.?a"),
        Just("x"),
        Just("7u"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(5, 40, 3, |inner| {
        let operator = proptest::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", ">=", "in", "&&", "||"]);
        let function = proptest::sample::select(vec![
            "lower",
            "size",
            "date",
            "string",
            "int",
            "timestamp",
            "markdown",
            "-",
            "!",
            "type",
        ]);
        let member = proptest::sample::select(vec![
            "size()",
            "trim()",
            "a",
            "?b",
            "reverse()",
            "sort()",
            "join()",
            "orValue(1)",
            "flatten()",
        ]);
        let macros = proptest::sample::select(vec!["map", "filter", "all", "exists", "exists_one", "sortBy", "optMap"]);
        prop_oneof![
            (inner.clone(), operator, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            (function, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (inner.clone(), member).prop_map(|(a, m)| format!("({a}).{m}")),
            (inner.clone(), macros, inner.clone()).prop_map(|(a, m, b)| format!("({a}).{m}(x, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), inner.clone(), inner.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("[{a}, ?{b}]")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("{{'k': {a}, 'l': {b}}}")),
        ]
    })
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "[a-z\"'é]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map("[ab]", inner, 0..3)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// A result that two ways of evaluating must share: nothing at a path is an error to the interpreter.
fn comparable(result: Result<Option<Value>, EvalError>) -> Option<Value> {
    result.ok().flatten()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn sources_never_panic(source in grammar(), data in any_json()) {
        let members = json!({"a": data, "l": [1, 2, "x"], "m": {"b": 1}, "s": CANARY});
        if let Ok(expression) = Expression::compile(&source, EVENT) {
            let first = evaluate(&expression, &members);
            prop_assert_eq!(&first, &evaluate(&expression, &members), "{}", source);
            if let Err(error) = first {
                prop_assert!(!format!("{error} {error:?}").contains("Zaphod"), "{}", source);
            }
        }
    }

    #[test]
    fn only_what_is_said_to_be_read_is_read(source in grammar(), data in any_json()) {
        if let Ok(expression) = Expression::compile(&source, EVENT) {
            let whole = json!({"a": data.clone(), "l": [1, 2, "x"], "m": {"b": 1}, "s": "t", "other": 1});
            let mut less = whole.clone();
            let read = |name: &str| expression.reads().iter().any(|read| {
                read.root == Root::Data && read.path.first().is_none_or(|first| first == name)
            });
            for name in ["a", "l", "m", "s", "other"] {
                if !read(name) {
                    less.as_object_mut().unwrap().remove(name);
                }
            }
            let row = json!({"x": 1});
            let none = json!({});
            let of = |data| expression.evaluate(&Inputs { data, event: &none, subject: &none, row: &row, key: &none });
            prop_assert_eq!(of(&whole), of(&less), "{}", source);
        }
    }

    #[test]
    fn random_texts_never_panic(source in "[ -~é\n]{0,60}", tokens in proptest::collection::vec("[a-z]{1,3}|[0-9]|[-+*/%!<>=&|?:.,(){}'\" ]|\\[|\\]", 0..40)) {
        for source in [source, tokens.concat()] {
            for scope in [EVENT, BARE] {
                if let Ok(expression) = Expression::compile(&source, scope) {
                    let _ = evaluate(&expression, &json!({"a": 1}));
                }
            }
        }
    }

    #[test]
    fn paths_and_literals_are_what_the_interpreter_says(data in any_json(), steps in proptest::collection::vec(prop_oneof![
        Just(".a"), Just(".b"), Just("['a']"), Just("[0]"), Just("[1]"), Just("[-1]"),
    ], 0..5)) {
        let expression = compiled(&format!("data{}", steps.concat()), EVENT);
        let inputs = Inputs { data: &data, event: &Value::Null, subject: &Value::Null, row: &data, key: &Value::Null };
        prop_assert!(expression.path().is_some());
        let slow = expression.0.program.run(&inputs).map(Some);
        prop_assert_eq!(comparable(expression.evaluate(&inputs)), comparable(slow));

        let literal = data.to_string();
        if let Ok(expression) = Expression::compile(&literal, EVENT) {
            let slow = expression.0.program.run(&inputs);
            prop_assert_eq!(expression.literal().cloned(), slow.ok(), "{}", literal);
        }
    }
}
