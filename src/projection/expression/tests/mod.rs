//! What expressions give, refuse and say they read.

mod properties;

use serde_json::{Value, json};

use super::*;

const EVENT: Scope =
    Scope { roots: &[Root::Data, Root::Event, Root::Subject, Root::Row, Root::Key], fold: false, bare: false };
const FOLD: Scope = Scope { roots: &[Root::Data, Root::Event, Root::Row], fold: true, bare: false };
const BARE: Scope = Scope { roots: &[], fold: false, bare: true };

fn compiled(source: &str, scope: Scope) -> Expression {
    Expression::compile(source, scope).unwrap_or_else(|error| panic!("{source}: {error}"))
}

fn evaluate(expression: &Expression, data: &Value) -> Result<Option<Value>, EvalError> {
    let event = json!({"id": "e1", "type": "t", "revision": 3});
    let subject = json!({"contact": "ds_1"});
    let key = json!({"account": "a1"});
    expression.evaluate(&Inputs { data, event: &event, subject: &subject, row: data, key: &key })
}

fn run(source: &str, data: &Value) -> Result<Option<Value>, EvalError> {
    evaluate(&compiled(source, EVENT), data)
}

fn value(source: &str, data: &Value) -> Value {
    run(source, data).unwrap_or_else(|error| panic!("{source}: {error}")).unwrap_or_else(|| panic!("{source}: nothing"))
}

fn reads(source: &str, scope: Scope) -> String {
    let name = |reference: &Reference| {
        std::iter::once(names::called(reference.root, scope).to_owned())
            .chain(reference.path.iter().cloned())
            .collect::<Vec<_>>()
            .join("/")
    };
    compiled(source, scope).reads().iter().map(name).collect::<Vec<_>>().join(" ")
}

fn refused(source: &str, scope: Scope) -> String {
    match Expression::compile(source, scope) {
        Ok(_) => panic!("{source} was taken"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn values() {
    let data = json!({"qty": 3, "price": 2.5, "name": "Ada", "tags": ["b", "a"], "none": null, "big": 18_446_744_073_709_551_615_u64,
        "m": {"z": 1, "a": 2}, "items": [{"n": 1, "q": 2}, {"n": 2, "q": 5}], "at": "2026-11-21T10:00:00.120Z"});
    for (source, expected) in [
        ("data.qty * 2", json!(6)),
        ("data.price * 2.0", json!(5.0)),
        ("data.big", json!(u64::MAX)),
        ("type(data.qty) == int && type(data.big) == uint", json!(true)),
        ("'Hi ' + data.name", json!("Hi Ada")),
        ("data.items.map(i, i.n * i.q)", json!([2, 10])),
        ("data.items.filter(i, i.q > 2).map(i, i.n)", json!([2])),
        ("data.items.exists(i, i.q == 5) && !data.items.all(i, i.q == 5)", json!(true)),
        ("data.items.exists_one(i, i.q == 5)", json!(true)),
        ("data.items.sortBy(i, -i.q).map(i, i.n)", json!([2, 1])),
        ("data.tags.sort().join('-')", json!("a-b")),
        ("data.m.map(k, k)", json!(["a", "z"])),
        ("data.m.map(k, data.m[k])", json!([2, 1])),
        ("math.greatest(data.qty, 7)", json!(7)),
        ("math.ceil(data.price)", json!(3.0)),
        ("'%s has %d'.format([data.name, data.qty])", json!("Ada has 3")),
        ("data.name.replace('A', 'aa', 1)", json!("aada")),
        ("data.name.matches('^A.a$') && matches(data.name, 'd')", json!(true)),
        ("data.?none.orValue(1) == null", json!(true)),
        ("data.?absent.orValue(1)", json!(1)),
        ("data.?absent", json!(null)),
        ("data.?name.optMap(n, n + '!')", json!("Ada!")),
        ("has(data.absent) ? 1 : 2", json!(2)),
        ("{'b': data.qty, 'a': [data.name]}", json!({"a": ["Ada"], "b": 3})),
        ("{?'x': data.?absent, 'y': 1}", json!({"y": 1})),
        ("timestamp(data.at)", json!("2026-11-21T10:00:00.120Z")),
        ("timestamp('2026-11-21T12:00:00+02:00')", json!("2026-11-21T10:00:00Z")),
        ("duration('90m')", json!("PT5400S")),
        ("timestamp(data.at) + duration('1h') > timestamp(data.at)", json!(true)),
        ("timestamp(data.at).getFullYear('Europe/Madrid')", json!(2026)),
        ("event.id + subject.contact + key.account", json!("e1ds_1a1")),
        ("row.qty + data.qty", json!(6)),
        ("lists.range(3)", json!([0, 1, 2])),
        ("type(data.qty)", json!("int")),
    ] {
        assert_eq!(value(source, &data), expected, "{source}");
    }
    assert!(value("data.qty / 2.0 > 1.0 || 4.0 / 2.0 == 2.0", &json!({"qty": 4.5})).is_boolean());
    assert_eq!(value("4.0 / 2.0", &data).to_string(), "2.0", "a float stays one");
}

#[test]
fn own_functions() {
    let data = json!({"s": " Ünï ", "none": null, "d": "2026-11-21", "t": "2026-11-20T23:30:00-05:00"});
    for (source, expected) in [
        ("lower(data.s)", json!(" ünï ")),
        ("upper(trim(data.s))", json!("ÜNÏ")),
        (
            "[lower(data.none), upper(data.none), trim(data.none), date(data.none), markdown(data.none)]",
            json!([null, null, null, null, null]),
        ),
        ("date(data.t)", json!("2026-11-21")),
        ("date(timestamp(data.t))", json!("2026-11-21")),
        ("date(data.d)", json!("2026-11-21")),
        ("latest(data.d, data.t)", json!("2026-11-20T23:30:00-05:00")),
        ("earliest(data.d, data.t)", json!("2026-11-21")),
        ("latest(data.none, data.d)", json!("2026-11-21")),
        ("latest(data.d, data.none)", json!("2026-11-21")),
        ("latest(data.none, data.none)", json!(null)),
        ("latest(timestamp(data.t), data.d)", json!("2026-11-21T04:30:00Z")),
        ("local(date(data.d), '07:00', 'Europe/Madrid')", json!("2026-11-21T06:00:00Z")),
        ("local(data.none, '07:00', 'Europe/Madrid')", json!(null)),
        ("coalesce(data.none, data.?absent, data.d)", json!("2026-11-21")),
        ("coalesce(null, null)", json!(null)),
        ("coalesce(data.?d, 'x')", json!("2026-11-21")),
        ("markdown('*a*')", json!("<p><em>a</em></p>\n")),
    ] {
        assert_eq!(value(source, &data), expected, "{source}");
    }
    for source in [
        "local(data.d, '07:00', 'Mars/Olympus')",
        "local(data.d, '7', 'UTC')",
        "date(data.s)",
        "latest(data.s, data.d)",
    ] {
        assert!(matches!(run(source, &data), Err(EvalError::Arithmetic { .. })), "{source}");
    }
    for source in ["lower(1)", "date(1)", "latest(1, 2)", "local(data.d, 7, 'UTC')", "markdown([])"] {
        assert!(matches!(run(source, &data), Err(EvalError::Type { .. })), "{source}");
    }
}

#[test]
fn every_listed_function_is_there() {
    for (name, style, least, most) in names::FUNCTIONS {
        for count in *least..=*most {
            let args = vec!["data.x"; count].join(", ");
            let source = match (style, *name) {
                (_, "matches") => continue,
                (names::Style::Global, name) => format!("{name}({args})"),
                (names::Style::Member, name) => format!("data.x.{name}({args})"),
            };
            // Some take nothing that is a bool; none is undeclared, which would be `Other`.
            let result = run(&source, &json!({"x": true}));
            assert_ne!(result, Err(EvalError::Other), "{source}");
        }
    }
}

#[test]
fn reads_are_complete() {
    for (source, expected) in [
        ("data.a", "data/a"),
        ("1 + 2", ""),
        ("data", "data"),
        ("size(data)", "data"),
        ("data.map(k, k)", "data"),
        ("data.map(k, event.id)", "data event/id"),
        ("'x' in data", "data"),
        ("data.x in [data.y, row.z]", "data/x data/y row/z"),
        ("data.items[data.product_id]", "data/items data/product_id"),
        ("data.items[data.product_id].qty", "data/items data/product_id"),
        ("data[event.id]", "data event/id"),
        ("data[data['k']]", "data data/k"),
        ("data['a b'].c", "data/a b/c"),
        ("data.guests[0].name", "data/guests/0/name"),
        ("data.guests[-1]", "data/guests/-1"),
        ("data.guests[0u].name", "data/guests"),
        ("data.guests.map(g, g.name)", "data/guests"),
        ("data.guests.map(g, g.name + data.suffix)", "data/guests data/suffix"),
        ("data.guests.filter(g, g.a == row.a).map(g, key.b)", "data/guests row/a key/b"),
        ("data.a.exists(x, x.all(y, y == data.c[x]))", "data/a data/c"),
        ("has(data.x)", "data/x"),
        ("has(data.x.y) && has(event.actor)", "data/x/y event/actor"),
        ("data.?a", "data/a"),
        ("data.?a.?b.c", "data/a/b/c"),
        ("data.?a[?0].orValue(row.b)", "data/a/0 row/b"),
        ("data[?'a'].hasValue()", "data/a"),
        ("data[?data.k]", "data data/k"),
        ("data.?a.optMap(v, v + data.b)", "data/a data/b"),
        ("data.?a.optFlatMap(v, v.?x)", "data/a"),
        ("data.c ? data.a : event.b", "data/a data/c event/b"),
        ("true || data.a", "data/a"),
        ("true ? 1 : data.a", "data/a"),
        ("false && has(data.b)", "data/b"),
        ("{'k': data.a, data.b: [data.c, ?data.?d]}", "data/a data/b data/c data/d"),
        ("{?'k': data.?a}", "data/a"),
        ("{'k': data.a}.k", "data/a"),
        ("{'k': data}.k.a", "data"),
        ("[data][0].a", "data"),
        ("(data).a", "data/a"),
        ("(data.c ? data : event).a", "data data/c event"),
        ("lower(trim(data.a)) + upper(data.b)", "data/a data/b"),
        ("latest(row.a, coalesce(data.b, data.c))", "data/b data/c row/a"),
        ("data.a.matches('x')", "data/a"),
        ("matches(data.a, 'x')", "data/a"),
        ("data.a.replace(data.b, data.c)", "data/a data/b data/c"),
        ("data.l.join(data.s)", "data/l data/s"),
        ("data.l.sortBy(x, data.m[x])", "data/l data/m"),
        ("math.greatest(data.a, data.b, data.c)", "data/a data/b data/c"),
        ("math.ceil(data.a)", "data/a"),
        ("optional.of(data.a).value()", "data/a"),
        ("'%s'.format([data.a])", "data/a"),
        ("-data.a", "data/a"),
        ("!data.a", "data/a"),
        ("timestamp(data.at).getHours(data.tz)", "data/at data/tz"),
        ("[1].map(math, math.ceil(data.a))", "data/a"),
        ("[1].map(x, [2].map(x, x + data.a))", "data/a"),
        ("data.x.optional.of(data.y)", "refused"),
    ] {
        if expected == "refused" {
            refused(source, EVENT);
        } else {
            assert_eq!(reads(source, EVENT), expected, "{source}");
        }
    }
    assert_eq!(reads("state.balance >= data.x", FOLD), "data/x state/balance");
}

#[test]
fn bare_names_are_columns() {
    for (source, expected) in [
        ("account == 'a1'", "row/account"),
        ("type == 'call' && data.x > 1", "row/data/x row/type"),
        ("tags.exists(t, t == owner)", "row/owner row/tags"),
        ("math.ceil(math) > 1.0", "row/math"),
        ("list[0] in map", "row/list/0 row/map"),
        ("int(int) == 1", "row/int"),
    ] {
        assert_eq!(reads(source, BARE), expected, "{source}");
    }
    let row = json!({"account": "a1", "int": "1", "tags": ["x"], "owner": "x"});
    let holds = |source: &str| evaluate(&compiled(source, BARE), &row).unwrap();
    assert_eq!(holds("account == 'a1' && int(int) == 1 && tags.exists(t, t == owner)"), Some(json!(true)));
    assert_eq!(holds("account"), Some(json!("a1")));
    assert_eq!(holds("missing"), None);
    assert_eq!(evaluate(&compiled("missing == 1", BARE), &row), Err(EvalError::NoSuchKey { name: "missing".into() }));
}

#[test]
fn equalities_are_conditions_that_must_hold() {
    for (source, expected) in [
        ("account == 'a1'", json!([["account", "a1"]])),
        ("'a1' == account", json!([["account", "a1"]])),
        ("((account == 'a1') && (n == -2 && 1.5 == m)) && x > 1", json!([["account", "a1"], ["n", -2], ["m", 1.5]])),
        ("account == 'a1' || n == 2", json!([])),
        ("!(account == 'a1')", json!([])),
        ("(a == 1 || b == 2) && c == null", json!([["c", null]])),
        ("a.b == 1 && a['b'] == 1 && a == b && 1 == 1", json!([])),
        ("a == 1 ? b == 2 : c == 3", json!([])),
        ("a != 1 && b == true", json!([["b", true]])),
    ] {
        let found = compiled(source, BARE).equalities();
        assert_eq!(json!(found), expected, "{source}");
    }
    assert!(compiled("data.a == 1", EVENT).equalities().is_empty());
}

#[test]
fn refusals_say_what_is_wrong() {
    for (source, scope, part) in [
        ("dat.x", EVENT, "unknown name `dat`; did you mean `data`? (column 1)"),
        ("1 + foo", EVENT, "unknown name `foo`; there is `data`, `event`, `subject`, `row`, `key` (column 5)"),
        ("row.x", FOLD, "the row of a fold is called `state`"),
        ("state.x", EVENT, "`state` is for folds"),
        ("subject.x", FOLD, "`subject` cannot be used here; there is `data`, `event`, `state`"),
        ("lwer(data.x)", EVENT, "unknown function `lwer`; did you mean `lower`?"),
        ("data.x.lower()", EVENT, "`lower` is called as `lower(…)`"),
        ("contains(data.x, 'a')", EVENT, "`contains` is called as `x.contains(…)`"),
        ("math.foo(1)", EVENT, "unknown function `math.foo`"),
        ("_x(1)", EVENT, "unknown function `_x`"),
        ("lower", EVENT, "`lower` is a function"),
        ("lower(1, 2)", EVENT, "`lower` takes 1 arguments, not 2"),
        ("coalesce(1)", EVENT, "`coalesce` takes 2 to 4 arguments, not 1"),
        ("data.list.map(data, data)", EVENT, "`data` cannot be the name of a variable"),
        ("data.list.map(state, 1)", EVENT, "`state` cannot be the name of a variable"),
        ("data.?a.optMap(row, row)", EVENT, "`row` cannot be the name of a variable"),
        ("data.l.sortBy(key, 1)", EVENT, "`key` cannot be the name of a variable"),
        ("tags.map(row, row)", BARE, "`row` cannot be the name of a variable"),
        (".data.x", EVENT, "a name begins with a letter"),
        ("data.l.map(.x, 1)", EVENT, ""),
        ("has(data)", EVENT, "invalid argument to has()"),
        ("data.l.map(x)", EVENT, "`map` does not take such arguments"),
        ("data.x.matches(data.y)", EVENT, "`matches` takes a literal text"),
        ("data.x.matches('(')", EVENT, "not a regular expression"),
        ("data.x.matches('(a{1000}){1000}')", EVENT, "too large"),
        ("data.x +", EVENT, ""),
        ("Foo{a: 1}", EVENT, "messages cannot be made"),
        ("[1].map(a, [1].map(b, [1].map(c, 1)))", EVENT, "iterations nest at most 2 deep"),
        ("data.a.b\n  + nope", EVENT, "(column 14)"),
        ("'é' + nope", EVENT, "(column 7)"),
        ("'éé' + )", EVENT, "(column 8)"),
        ("'é' +\n'é' 1", EVENT, "(column 11)"),
        ("data.`a`", EVENT, ""),
    ] {
        let message = refused(source, scope);
        assert!(message.contains(part), "{source}: {message}");
    }
    assert!(refused(&format!("'{}'", "a".repeat(2_000)), EVENT).contains("2000 bytes"));
    assert!(refused(&format!("[{}1]", "1,".repeat(600)), EVENT).contains("500 parts"));
}

#[test]
fn paths_and_literals() {
    let data = json!({"a": {"b": [10, {"c": null}]}, "n": null, "t": "[erased]"});
    for (source, expected) in [
        ("data.a.b[0]", Some(json!(10))),
        ("data.a.b[1].c", Some(json!(null))),
        ("data['a'].b[1]", Some(json!({"c": null}))),
        ("data.a.b[2]", None),
        ("data.a.b[-1]", None),
        ("data.a['0']", None),
        ("data.a.b['0']", None),
        ("data.n.x", None),
        ("data.t.x", None),
        ("(data.n)", Some(json!(null))),
    ] {
        let expression = compiled(source, EVENT);
        assert!(expression.path().is_some() && expression.literal().is_none(), "{source}");
        assert_eq!(evaluate(&expression, &data), Ok(expected), "{source}");
    }
    for source in ["data.?a", "has(data.a)", "data.a[data.n]", "data.a + 1", "[data.a]", "data.a[0u]"] {
        assert!(compiled(source, EVENT).path().is_none(), "{source}");
    }
    for (source, expected) in [
        ("1", json!(1)),
        ("-1", json!(-1)),
        ("-1.5", json!(-1.5)),
        ("1.0", json!(1.0)),
        ("7u", json!(7)),
        ("'é\\n'", json!("é\n")),
        ("true", json!(true)),
        ("null", json!(null)),
        ("{}", json!({})),
        ("[]", json!([])),
        ("{'a': [1, {'b': null}]}", json!({"a": [1, {"b": null}]})),
    ] {
        let expression = compiled(source, EVENT);
        assert_eq!(expression.literal(), Some(&expected), "{source}");
        assert_eq!(evaluate(&expression, &data), Ok(Some(expected)), "{source}");
    }
    for source in ["{1: 2}", "{'a': 1, 'a': 2}", "b'x'", "1 + 1"] {
        assert_eq!(compiled(source, EVENT).literal(), None, "{source}");
    }
}

#[test]
fn conversions_and_sizes() {
    for source in ["b'x'", "{1: 2}", "{true: 2}", "bytes('x')", "[b'x']"] {
        assert!(matches!(run(source, &json!({})), Err(EvalError::Type { .. })), "{source}");
    }
    assert_eq!(run("0.0 / 0.0", &json!({})), Err(EvalError::Arithmetic { operation: "result".into() }));
    assert_eq!(run("1 / 0", &json!({})), Err(EvalError::Arithmetic { operation: "/".into() }));
    assert!(matches!(run("9223372036854775807 + 1", &json!({})), Err(EvalError::Arithmetic { .. })));
    assert!(matches!(run("data.a * 2.0", &json!({"a": 1})), Err(EvalError::Type { .. })), "int * double");
    let input = Err(EvalError::TooLarge { what: "input" });
    let result = Err(EvalError::TooLarge { what: "result" });
    let list = json!({"l": vec![1; 10_001], "s": "x".repeat(300_000), "r": "x".repeat(70_000), "ok": 1});
    assert_eq!(run("size(data.l)", &list), input);
    assert_eq!(run("size(data.s)", &list), input);
    assert_eq!(run("size(data)", &list), input);
    assert_eq!(run("data.s", &list), input);
    assert_eq!(run("data.l", &list), input);
    assert_eq!(run("data.ok + 1", &list), Ok(Some(json!(2))), "what is not read is not counted");
    assert_eq!(run("data.r", &list), result);
    assert_eq!(run("data.r + ''", &list), result);
    assert_eq!(run("size(data.r)", &list), Ok(Some(json!(70_000))));
    let mut deep = json!(1);
    for _ in 0..1_000 {
        deep = json!([deep]);
    }
    assert_eq!(run("size(data.d)", &json!({"d": deep})), input);
}

#[test]
fn shared_and_repeatable() {
    let expression = std::sync::Arc::new(compiled("data.m.map(k, k + string(data.m[k])).join(',')", EVENT));
    let members: serde_json::Map<String, Value> = (0..200).map(|n| (format!("k{n}"), json!(n))).collect();
    let data = json!({"m": members});
    let first = evaluate(&expression, &data);
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (expression, data) = (expression.clone(), data.clone());
            std::thread::spawn(move || (0..20).map(|_| evaluate(&expression, &data)).collect::<Vec<_>>())
        })
        .collect();
    for result in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
        assert_eq!(result, first);
    }
    assert_eq!(format!("{expression:?}"), expression.source());
}
