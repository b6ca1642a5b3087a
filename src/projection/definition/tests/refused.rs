//! A table of what is refused, and where the problem is said to be.

use super::*;

/// A projection in which one part is exchanged or added.
fn projection(part: &str) -> String {
    let name = part.split(':').next().unwrap();
    let parts = [
        "projection: p",
        "version: 1",
        "from: {types: [made, gone]}",
        "key: {account: data.a, contact: subject.c}",
        "columns: {name: string, n: {type: int, default: 0}, f: float, at: timestamp, tags: list<string>, \
         m: 'map<string,int>', look: {type: string, lookup: q.name}, up: {type: string, derive: upper(row.name)}}",
        "handle: {made: {upsert: {name: data.name}}}",
    ];
    let others: Vec<&str> = parts.into_iter().filter(|other| other.split(':').next() != Some(name)).collect();
    format!("{}\n{part}", others.join("\n"))
}

fn fold(part: &str) -> String {
    let name = part.split(':').next().unwrap();
    let parts =
        ["fold: f", "version: 1", "from: {category: c}", "state: {n: int, s: string}", "handle: {made: {set: {n: 1}}}"];
    let others: Vec<&str> = parts.into_iter().filter(|other| other.split(':').next() != Some(name)).collect();
    format!("{}\n{part}", others.join("\n"))
}

fn grouped(part: &str) -> String {
    let name = part.split(':').next().unwrap();
    let parts = [
        "projection: p",
        "version: 1",
        "from: {types: [made]}",
        "key: {region: data.region}",
        "window: {by: event.time, size: PT5M}",
        "aggregate: {n: count()}",
    ];
    let others: Vec<&str> = parts.into_iter().filter(|other| other.split(':').next() != Some(name)).collect();
    format!("{}\n{part}", others.join("\n"))
}

/// Each text has exactly this one problem, at exactly this place.
fn check(make: impl Fn(&str) -> String, table: &[(&str, &str)]) {
    for (part, expected) in table {
        let text = make(part);
        let found = problems(&text);
        let at: Vec<&str> = found.iter().map(|violation| violation.pointer.as_str()).collect();
        assert_eq!(at, [*expected], "{part}\n{found:#?}");
    }
}

fn coded(part: &str) -> String {
    let name = part.split(':').next().unwrap();
    let parts = [
        "projection: p",
        "version: 1",
        "from: {types: [made]}",
        "key: {region: data.region}",
        "columns: {n: {type: int, public: true}, m: {type: int, derive: row.n + 1}, name: string}",
        "code: regions",
    ];
    let others: Vec<&str> = parts.into_iter().filter(|other| other.split(':').next() != Some(name)).collect();
    format!("{}\n{part}", others.join("\n"))
}

#[test]
fn code() {
    let definition = parse(&coded("on_error: park"));
    assert_eq!((definition.code.as_deref(), definition.handlers.len()), (Some("regions"), 0));
    let undecided = definition.columns.iter().enumerate().filter(|(at, _)| definition.code_decides(*at));
    assert_eq!(undecided.map(|(_, column)| column.name.as_str()).collect::<Vec<_>>(), ["name"]);
    check(
        coded,
        &[
            ("code: 1", "/code"),
            ("code: Regions", "/code"),
            ("handle: {made: {set: {n: 1}}}", "/handle"),
            ("columns: {n: {type: int, public: maybe}}", "/columns/n/public"),
            ("columns: {n: {type: int, derive: '1', public: true}}", "/columns/n/public"),
            ("columns: {n: {type: int, lookup: q.n, public: true}}", "/columns/n/public"),
        ],
    );
    check(projection, &[("columns: {name: {type: string, public: true}}", "/columns/name/public")]);
    check(fold, &[("state: {n: {type: int, public: true}}", "/state/n/public"), ("code: regions", "/code")]);
    check(grouped, &[("code: regions", "/code")]);
}

#[test]
fn the_bases_are_good() {
    for text in [projection("on_error: stop"), fold("on_error: stop"), grouped("on_error: stop")] {
        assert_eq!(pointers(&text), [""; 0], "{text}");
    }
}

#[test]
fn heads() {
    check(str::to_owned, &[("[]", ""), ("text", ""), ("{}", ""), ("{projection: p, fold: f}", "/fold")]);
    check(
        projection,
        &[
            ("projection: P", "/projection"),
            ("projection: _p", "/projection"),
            ("projection: 7", "/projection"),
            ("version: 0", "/version"),
            ("version: 1.5", "/version"),
            ("version: '1'", "/version"),
            ("version: 4294967296", "/version"),
            ("colums: {}", "/colums"),
            ("state: {}", "/state"),
            ("from: []", "/from"),
            ("from: {}", "/from"),
            ("from: {types: []}", "/from/types"),
            ("from: {types: [made, made]}", "/from/types/1"),
            ("from: {types: [made, $sys]}", "/from/types/1"),
            ("from: {types: [made, 'a b']}", "/from/types/1"),
            ("from: {category: a-b}", "/from/category"),
            ("from: {category: c, type: x}", "/from/type"),
            ("on_erasure: delete", "/on_erasure"),
            ("on_erasure: {keep: ''}", "/on_erasure/keep"),
            ("on_erasure: {keep: x, why: y}", "/on_erasure/why"),
            ("on_error: skip", "/on_error"),
            ("snapshot: {every: 5}", "/snapshot"),
            ("invariant: 'true'", "/invariant"),
        ],
    );
    check(
        fold,
        &[
            ("key: {a: data.a}", "/key"),
            ("snapshot: {every: 0}", "/snapshot/every"),
            ("snapshot: {}", "/snapshot/every"),
            ("snapshot: 5", "/snapshot"),
            ("invariant: data.x > 0", "/invariant"),
            ("invariant: state.x > 0", "/invariant"),
            ("invariant: row.n > 0", "/invariant"),
            ("on_erasure: delete_row", "/on_erasure"),
            ("columns: {}", "/columns"),
            ("due: {}", "/due"),
        ],
    );
}

#[test]
fn keys_and_columns() {
    check(
        projection,
        &[
            ("key: {}", "/key"),
            ("key: data.a", "/key"),
            ("key: {a: data.a, k1: 1, k2: 1, k3: 1, k4: 1, k5: 1, k6: 1, k7: 1, k8: 1}", "/key"),
            ("key: {_a: data.a}", "/key/_a"),
            ("key: {in: data.a}", "/key/in"),
            ("key: {a: row.name}", "/key/a"),
            ("key: {a: key.b}", "/key/a"),
            ("key: {a: event.strem}", "/key/a"),
            ("key: {a: 'data.('}", "/key/a"),
            ("key: {a: null}", "/key/a"),
            ("key: {a: [1]}", "/key/a"),
            ("key: {name: data.a}", "/columns/name"),
            ("columns: {name: text}", "/columns/name"),
            ("columns: {name: 5}", "/columns/name"),
            ("columns: {name: string, N: string}", "/columns/N"),
            ("columns: {name: string, x: {type: 'map<int,int>'}}", "/columns/x/type"),
            ("columns: {name: string, x: {default: 1}}", "/columns/x/type"),
            ("columns: {name: string, x: {type: int, default: 'a'}}", "/columns/x/default"),
            ("columns: {name: string, x: {type: int, default: 1.5}}", "/columns/x/default"),
            ("columns: {name: string, x: {type: date, default: 2026-02-30}}", "/columns/x/default"),
            ("columns: {name: string, x: {type: list<int>, default: null}}", "/columns/x/default"),
            ("columns: {name: string, x: {type: int, placeholder: gone}}", "/columns/x/placeholder"),
            ("columns: {name: string, x: {type: int, sortable: yes}}", "/columns/x/sortable"),
            ("columns: {name: string, x: {type: json, sortable: true}}", "/columns/x/sortable"),
            ("columns: {name: string, x: {type: int, personal: true}}", "/columns/x/personal"),
            ("columns: {name: string, x: {type: int, lookup: q}}", "/columns/x/lookup"),
            ("columns: {name: string, x: {type: int, lookup: p.name}}", "/columns/x/lookup"),
            ("columns: {name: string, x: {type: int, lookup: q.y, derive: '1'}}", "/columns/x/lookup"),
            ("columns: {name: string, x: {type: int, derive: '1', default: 1}}", "/columns/x/default"),
            ("columns: {name: string, x: {type: int, derive: data.a}}", "/columns/x/derive"),
            ("columns: {name: string, x: {type: int, derive: row.nam}}", "/columns/x/derive"),
            ("columns: {name: string, x: {type: int, derive: key.nam}}", "/columns/x/derive"),
            ("columns: {name: string, x: {type: int, derive: row.x}}", "/columns/x/derive"),
            ("columns: {name: string, x: {type: json, derive: row}}", "/columns/x/derive"),
            (
                "columns: {name: string, l: {type: int, lookup: q.y}, x: {type: int, derive: row.l}}",
                "/columns/x/derive",
            ),
            ("indexes: {}", "/indexes"),
            ("indexes: [[]]", "/indexes/0"),
            ("indexes: [name]", "/indexes/0"),
            ("indexes: [[nam]]", "/indexes/0/0"),
            ("indexes: [[name, -name]]", "/indexes/0/1"),
            ("indexes: [[look]]", "/indexes/0/0"),
            ("indexes: [[account], [tags]]", "/indexes/1"),
            ("indexes: [[n],[n],[n],[n],[n],[n],[n],[n],[n]]", "/indexes"),
        ],
    );
    check(fold, &[("state: {n: int, l: {type: string, lookup: q.name}}", "/state/l/lookup")]);
    let cycle = "columns: {name: string, a: {type: int, derive: row.b}, b: {type: int, derive: row.a}}";
    assert_eq!(pointers(&projection(cycle)), ["/columns/a/derive", "/columns/b/derive"]);
    let many = (0..101).map(|n| format!("c{n}: int")).collect::<Vec<_>>().join(", ");
    assert!(pointers(&projection(&format!("columns: {{{many}}}"))).contains(&"/columns".to_owned()));
}

#[test]
fn handlers() {
    check(
        projection,
        &[
            ("handle: {}", "/handle"),
            ("handle: []", "/handle"),
            ("handle: {maid: {delete: true}}", "/handle/maid"),
            ("handle: {made: {}}", "/handle/made"),
            ("handle: {made: []}", "/handle/made"),
            ("handle: {made: delete}", "/handle/made"),
            ("handle: {made: {upsert: {}}}", "/handle/made/upsert"),
            ("handle: {made: {upsert: [name]}}", "/handle/made/upsert"),
            ("handle: {made: {upset: {name: data.n}, set: {n: 1}}}", "/handle/made/upset"),
            ("handle: {made: {set: {nam: data.n}}}", "/handle/made/set/nam"),
            ("handle: {made: {set: {name: data.n +}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: row.nam}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: row.look}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: key.nam}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: state.name}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: }}}", "/handle/made/set/name"),
            ("handle: {made: {set: {name: 5}}}", "/handle/made/set/name"),
            ("handle: {made: {set: {n: \"'x'\"}}}", "/handle/made/set/n"),
            ("handle: {made: {set: {up: data.x}}}", "/handle/made/set/up"),
            ("handle: {made: {set: {look: data.x}}}", "/handle/made/set/look"),
            ("handle: {made: {set: {account: data.x}}}", "/handle/made/set/account"),
            ("handle: {made: {set: {name: data.x}, patch: {n: 1}}}", "/handle/made/patch"),
            ("handle: {made: {upsert: {name: data.x}, update: {n: 1}}}", "/handle/made/update"),
        ],
    );
}

#[test]
fn verbs_and_rules() {
    check(
        projection,
        &[
            ("handle: {made: {set: {n: 1}, increment: {n: 1}}}", "/handle/made/increment/n"),
            ("handle: {made: {increment: {m: 1}}}", "/handle/made/increment/m"),
            ("handle: {made: {increment: {name: 1}}}", "/handle/made/increment/name"),
            ("handle: {made: {increment: {n: true}}}", "/handle/made/increment/n"),
            ("handle: {made: {increment: {n: 1.5}}}", "/handle/made/increment/n"),
            ("handle: {made: {increment: {'n[data.x]': 1}}}", "/handle/made/increment/n[data.x]"),
            ("handle: {made: {increment: {'m[data.x': 1}}}", "/handle/made/increment/m[data.x"),
            ("handle: {made: {increment: {'m[data/x + ]': 1}}}", "/handle/made/increment/m[data~1x + ]"),
            ("handle: {made: {increment: {'m[data.x]': 1}, set: {m: {}}}}", "/handle/made/increment/m[data.x]"),
            (
                "handle: {made: {increment: {'m[data.x]': 1}, decrement: {'m[data.x]': 1}}}",
                "/handle/made/decrement/m[data.x]",
            ),
            ("handle: {made: {increment: {n: 1}, floor: 0}}", "/handle/made/floor"),
            ("handle: {made: {decrement: {n: 1}, floor: x}}", "/handle/made/floor"),
            ("handle: {made: {decrement: {n: 1}, floor: 0.5}}", "/handle/made/decrement/n"),
            ("handle: {made: {append: {name: data.x}}}", "/handle/made/append/name"),
            ("handle: {made: {append: {tags: 5}}}", "/handle/made/append/tags"),
            ("handle: {made: {append: {'m[data.x]': 1}}}", "/handle/made/append/m[data.x]"),
            ("handle: {made: {remove: {n: 1}}}", "/handle/made/remove/n"),
            ("handle: {made: {remove: {'m[data.x]': 1}}}", "/handle/made/remove/m[data.x]"),
            ("handle: {made: {delete: false}}", "/handle/made/delete"),
            ("handle: {made: {delete: true, set: {n: 1}}}", "/handle/made/set"),
            ("handle: {made: {when: 'data.', delete: true}}", "/handle/made/when"),
            ("handle: {made: {when: row.nam == 1, delete: true}}", "/handle/made/when"),
            ("handle: {made: {key: {account: data.a}, delete: true}}", "/handle/made/key/contact"),
            (
                "handle: {made: {key: {account: data.a, contact: data.b, x: data.c}, delete: true}}",
                "/handle/made/key/x",
            ),
            ("handle: {made: {key: {account: row.name, contact: data.b}, delete: true}}", "/handle/made/key/account"),
            ("handle: {made: {all: []}}", "/handle/made/all"),
            ("handle: {made: {all: [{delete: true}], set: {n: 1}}}", "/handle/made/set"),
            ("handle: {made: {all: [{delete: true}, {when: data.x, delete: true}]}}", "/handle/made/all/1/when"),
            ("handle: {made: {all: [{all: [], delete: true}]}}", "/handle/made/all/0/all"),
            ("handle: {made: [{delete: true}, {set: {n: 1}}]}", "/handle/made/1"),
            ("handle: {made: [{when: data.x, delete: true}, []]}", "/handle/made/1"),
        ],
    );
    check(
        fold,
        &[
            ("handle: {made: {all: [{set: {n: 1}}]}}", "/handle/made/all"),
            ("handle: {made: {key: {a: data.a}, set: {n: 1}}}", "/handle/made/key"),
            ("handle: {made: {set: {x: 1}}}", "/handle/made/set/x"),
            ("handle: {made: {set: {n: row.n}}}", "/handle/made/set/n"),
            ("handle: {made: {set: {n: key.n}}}", "/handle/made/set/n"),
            ("handle: {made: {set: {n: state.m}}}", "/handle/made/set/n"),
            ("handle: {$made: {set: {n: 1}}}", "/handle/$made"),
        ],
    );
    let rules = ["{when: data.x, delete: true}"; 21].join(", ");
    assert_eq!(pointers(&projection(&format!("handle: {{made: [{rules}]}}"))), ["/handle/made"]);
    let actions = ["{delete: true}"; 9].join(", ");
    assert!(
        pointers(&projection(&format!("handle: {{made: {{all: [{actions}]}}}}"))).contains(&"/handle/made/all".into())
    );
}

#[test]
fn expressions_are_counted() {
    let entries = |from: usize| {
        (from..from + 300).map(|n| format!("'m[key.account + \"{n}\"]': 1")).collect::<Vec<_>>().join(", ")
    };
    let actions = (0..6).map(|n| format!("{{increment: {{{}}}}}", entries(n * 300))).collect::<Vec<_>>().join(", ");
    assert_eq!(pointers(&projection(&format!("handle: {{made: {{all: [{actions}]}}}}"))), [""]);
}

#[test]
fn timers() {
    let good = "due: {at: at, emit: {type: due, stream: key.account, data: {a: row.name}}}";
    assert_eq!(pointers(&projection(good)), [""; 0]);
    check(
        projection,
        &[
            ("due: {emit: {type: due}}", "/due/at"),
            ("due: {at: at}", "/due/emit"),
            ("due: {at: att, emit: {type: due}}", "/due/at"),
            ("due: {at: name, emit: {type: due}}", "/due/at"),
            ("due: {at: at, emit: {}}", "/due/emit/type"),
            ("due: {at: at, emit: {type: $due}}", "/due/emit/type"),
            ("due: {at: at, emit: {type: due, stream: data.x}}", "/due/emit/stream"),
            ("due: {at: at, emit: {type: due, data: {x: row.look}}}", "/due/emit/data/x"),
            ("due: {at: at, emit: {type: due, to: x}}", "/due/emit/to"),
        ],
    );
}

#[test]
fn windows_and_aggregates() {
    check(
        grouped,
        &[
            ("handle: {made: {delete: true}}", "/handle"),
            ("columns: {a: int}", "/columns"),
            ("due: {at: n, emit: {type: due}}", "/due"),
            ("window: {size: PT5M}", "/window/by"),
            ("window: {by: subject.x, size: PT5M}", "/window/by"),
            ("window: {by: event.time}", "/window/size"),
            ("window: {by: event.time, size: PT0S}", "/window/size"),
            ("window: {by: event.time, size: 5m}", "/window/size"),
            ("window: {by: event.time, size: P1M}", "/window/size"),
            ("window: {by: event.time, size: PT5M, late: 2}", "/window/late"),
            ("window: {by: event.time, size: PT5M, keep: PT1M}", "/window/keep"),
            ("window: {by: event.time, size: PT5M, keep: PT30M, rollup: [PT1H]}", "/window/keep"),
            ("window: {by: event.time, size: PT5M, rollup: [PT7M]}", "/window/rollup/0"),
            ("window: {by: event.time, size: PT5M, rollup: [PT5M]}", "/window/rollup/0"),
            ("window: {by: event.time, size: PT5M, rollup: [PT1H, PT10M]}", "/window/rollup/1"),
            ("window: {by: event.time, size: PT1M, rollup: [PT2M, PT3M, PT4M, PT5M, PT6M]}", "/window/rollup"),
            ("window: {by: event.time, size: PT5M, step: PT5M}", "/window/step"),
            ("aggregate: {}", "/aggregate"),
            ("aggregate: {N: count()}", "/aggregate/N"),
            ("aggregate: {region: count()}", "/aggregate/region"),
            ("aggregate: {window_start: count()}", "/window"),
            ("aggregate: {n: data.x}", "/aggregate/n"),
            ("aggregate: {n: 5}", "/aggregate/n"),
            ("aggregate: {n: avg(data.x) + 1}", "/aggregate/n"),
            ("aggregate: {n: average(data.x)}", "/aggregate/n"),
            ("aggregate: {n: sum()}", "/aggregate/n"),
            ("aggregate: {n: 'sum(data.x, data.y)'}", "/aggregate/n"),
            ("aggregate: {n: sum(row.x)}", "/aggregate/n"),
            ("aggregate: {n: quantile(data.x)}", "/aggregate/n"),
            ("aggregate: {n: 'quantile(data.x, 95)'}", "/aggregate/n"),
            ("aggregate: {n: {value: count(, declassify: x, min_group: 5}}", "/aggregate/n/value"),
            ("aggregate: {n: {declassify: x, min_group: 5}}", "/aggregate/n/value"),
            ("aggregate: {n: {value: count(), declassify: x}}", "/aggregate/n/min_group"),
            ("aggregate: {n: {value: count(), declassify: x, min_group: 4}}", "/aggregate/n/min_group"),
            ("aggregate: {n: {value: count(), min_group: 5}}", "/aggregate/n/min_group"),
            ("aggregate: {n: {value: count(), declassify: ' ', min_group: 5}}", "/aggregate/n/declassify"),
            ("indexes: [[window_start, -m]]", "/indexes/0/1"),
        ],
    );
    let alone =
        "projection: p\nversion: 1\nfrom: {types: [made]}\nkey: {a: data.a}\nwindow: {by: event.time, size: PT5M}";
    assert_eq!(pointers(alone), ["/aggregate"]);
}

#[test]
fn everything_wrong_is_said_at_once_with_a_hint() {
    let text = "projection: p\nfrom: {types: [made]}\nkey: {a: data.a}\ncolums: {a: int}\n\
        columns: {name: strng, n: int}\nhandle: {mad: {upsrt: {n: 1}, set: {nme: 1, n: row.m}}}";
    let found = problems(text);
    let mut at: Vec<&str> = found.iter().map(|violation| violation.pointer.as_str()).collect();
    at.sort_unstable();
    assert_eq!(
        at,
        [
            "/columns/name",
            "/colums",
            "/handle/mad",
            "/handle/mad/set/n",
            "/handle/mad/set/nme",
            "/handle/mad/upsrt",
            "/version"
        ]
    );
    let hint = |pointer: &str| found.iter().find(|v| v.pointer == pointer).unwrap().hint.clone().unwrap();
    assert_eq!(hint("/colums"), "did you mean `columns`?");
    assert_eq!(hint("/handle/mad"), "did you mean `made`?");
    assert_eq!(hint("/handle/mad/set/nme"), "did you mean `name`?");
    assert_eq!(hint("/handle/mad/upsrt"), "did you mean `upsert`?");
}
