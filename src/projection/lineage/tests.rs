//! Lineage over registered schemas.

use serde_json::{Value, json};

use super::*;
use crate::projection::definition::{Format, documents};
use crate::schema::{CategorySettings, Options, RegistryRecord, SchemaPolicy};

fn register(registry: &Registry, event_type: &str, version: u32, schema: Value) {
    let record = RegistryRecord::SchemaRegistered { event_type: event_type.into(), version, schema };
    registry.apply(&record).unwrap_or_else(|problems| panic!("{problems:#?}"));
}

fn mark(subject: &str, category: &str, purposes: &[&str]) -> Value {
    json!({"subject": subject, "category": category, "purposes": purposes})
}

fn text(mark: Option<Value>) -> Value {
    match mark {
        Some(mark) => json!({"type": ["string", "null"], "x-personal-data": mark}),
        None => json!({"type": "string"}),
    }
}

/// Two versions of `made`, one of `paid`, none of `other`; in-line marks are refused.
fn registry() -> Registry {
    let registry = Registry::new(Options { default_policy: SchemaPolicy::Sealed, ..Options::default() });
    let mut properties = json!({
        "who": {"type": "string"}, "account": {"type": "string"}, "at": {"type": "string"},
        "name": text(Some(mark("person", "name", &["crm", "mail"]))),
        "born": text(Some(mark("person", "birthdate", &["crm"]))),
        "taste": text(Some(mark("person", "taste", &["marketing"]))),
        "home": {"type": ["object", "null"], "x-personal-data": mark("person", "address", &["crm"])},
        "guests": {"type": "array", "items": {"type": "object", "properties": {
            "id": {"type": "string"}, "seat": {"type": "string"}, "diet": text(Some(mark("guest", "health.diet", &["crm"])))}}},
    });
    let schema = |properties: &Value| {
        json!({"type": "object", "x-data-subjects": {"person": {"id": "/who"}, "guest": {"id": "/guests/*/id"}},
            "properties": properties})
    };
    register(&registry, "made", 1, schema(&properties));
    properties["nick"] = text(Some(mark("person", "name", &["crm"])));
    properties["account"] = json!({"type": "string"});
    register(&registry, "made", 2, schema(&properties));
    let pay =
        |purpose: &str| json!({"type": ["integer", "null"], "x-personal-data": mark("person", "pay", &[purpose])});
    let paid = json!({"type": "object", "x-data-subjects": {"person": {"id": "/who"}},
        "properties": {"who": {"type": "string"}, "cents": {"type": "integer"},
            "net": pay("crm"), "bonus": pay("marketing")},
        "additionalProperties": text(Some(mark("person", "note", &["crm"])))});
    register(&registry, "paid", 1, paid);
    registry
}

fn of(registry: &Registry, definition: &str) -> Lineage {
    let definition = Definition::parse(definition, Format::Yaml).unwrap_or_else(|problems| panic!("{problems:#?}"));
    lineage(&definition, registry, &|_, _| None)
}

/// A projection of `made` and `paid`; `rest` may exchange parts of it.
fn projection(rest: &str) -> String {
    let parts = [
        "projection: p",
        "version: 1",
        "from: {types: [made, paid, other]}",
        "key: {who: subject.person}",
        "columns: {name: string, a: json, b: json, tags: list<string>, m: 'map<string,int>', n: int, at: timestamp}",
        "handle: {made: {set: {a: data.account}}}",
    ];
    let head = |part: &str| part.split(':').next().map(str::to_owned);
    let given: Vec<_> = rest.lines().map(head).collect();
    let others = parts.into_iter().filter(|part| !given.contains(&head(part)));
    others.chain(rest.lines()).collect::<Vec<_>>().join("\n")
}

/// Codes and pointers of everything refused.
fn refused(rest: &str) -> Vec<String> {
    let lineage = of(&registry(), &projection(rest));
    lineage.violations.iter().map(|violation| format!("{} {}", violation.code, violation.pointer)).collect()
}

fn column(rest: &str, name: &str) -> ColumnLineage {
    let lineage = of(&registry(), &projection(rest));
    assert!(lineage.violations.is_empty(), "{:#?}", lineage.violations);
    lineage.columns.into_iter().find(|column| column.name == name).unwrap()
}

fn pointers(column: &ColumnLineage) -> Vec<String> {
    column.sources.iter().map(|source| format!("{}{}", source.event_type, source.pointer)).collect()
}

#[test]
fn values_flow_by_path_formula_and_column() {
    let direct = column("handle: {made: {set: {name: data.name}}}", "name");
    assert_eq!(pointers(&direct), ["made/name"]);
    assert_eq!(direct.owners_roles, ["person"]);
    assert!(direct.personal && !direct.unknown);
    assert_eq!(direct.purposes.iter().map(Purpose::as_str).collect::<Vec<_>>(), ["crm", "mail"]);
    let formula = column("handle: {made: {set: {name: \"data.name + ', ' + data.account + data.born\"}}}", "name");
    assert_eq!(pointers(&formula), ["made/born", "made/name"]);
    assert_eq!(formula.purposes.iter().map(Purpose::as_str).collect::<Vec<_>>(), ["crm"]);
    let public = column("handle: {made: {set: {a: data.who, b: subject.person, name: event.actor}}}", "a");
    assert!(!public.personal && public.sources.is_empty());
    // Through columns, in whatever order handlers run, and through derived columns.
    let rest = "handle: {made: {set: {b: row.a}}, paid: {set: {a: row.name, name: data.net}}}";
    assert_eq!(pointers(&column(rest, "b")), ["paid/net"]);
    let derived = "columns: {name: string, x: {type: json, derive: row.name}, y: {type: json, derive: row.x}}\n\
        handle: {made: {set: {name: data.name}}}";
    assert_eq!(pointers(&column(derived, "y")), ["made/name"]);
}

#[test]
fn a_path_touches_what_lies_in_and_around_it() {
    let touched = |path: &str| pointers(&column(&format!("handle: {{made: {{set: {{a: '{path}'}}}}}}"), "a"));
    assert_eq!(touched("data.home.street"), ["made/home"]);
    assert_eq!(touched("data.guests"), ["made/guests/*/diet"]);
    assert_eq!(touched("data.guests[0].diet"), ["made/guests/*/diet"]);
    assert_eq!(touched("data.guests[0].seat"), [""; 0]);
    assert_eq!(touched("data.guests[0].id"), [""; 0]);
    assert_eq!(touched("data.nick"), ["made/nick"], "of a later version");
    assert_eq!(touched("data.unknown"), [""; 0]);
    // Everything but what the schema names is personal in `paid`.
    let paid = |path: &str| pointers(&column(&format!("handle: {{paid: {{set: {{a: '{path}'}}}}}}"), "a"));
    assert_eq!(paid("data.cents"), [""; 0]);
    assert_eq!(paid("data.remark"), ["paid/*"]);
    let whole = refused("handle: {made: {set: {a: data}}}");
    assert_eq!(whole, ["no-common-purpose /handle/made/set/a"], "taste and the rest have no purpose in common");
}

#[test]
fn personal_data_may_not_go_there() {
    let table = [
        ("key: {who: data.name}", "personal-data-in-key /key/who"),
        ("handle: {made: {key: {who: data.name}, set: {n: 1}}}", "personal-data-in-key /handle/made/key/who"),
        ("handle: {made: {when: data.name == 'x', set: {n: 1}}}", "personal-data-in-guard /handle/made/when"),
        (
            "handle: {made: [{when: row.name == 'x', delete: true}, {set: {name: data.name}}]}",
            "personal-data-in-guard /handle/made/0/when",
        ),
        (
            "handle: {made: {all: [{increment: {'m[data.name]': 1}}]}}",
            "personal-data-in-entry /handle/made/all/0/increment/m[data.name]",
        ),
        ("handle: {made: {remove: {'m[data.name]': true}}}", "personal-data-in-entry /handle/made/remove/m[data.name]"),
        ("handle: {made: {remove: {tags: data.name}}}", "personal-data-in-remove /handle/made/remove/tags"),
        (
            "handle: {made: [{when: data.account == 'x', append: {tags: data.name}}, {remove: {tags: data.account}}]}",
            "personal-data-in-remove /handle/made/1/remove/tags",
        ),
        ("handle: {made: {set: {at: data.born}}}\ndue: {at: at, emit: {type: due}}", "personal-data-in-timer /due/at"),
        (
            "handle: {made: {set: {name: data.name}}}\ndue: {at: at, emit: {type: due, data: {x: row.name}}}",
            "personal-data-in-timer /due/emit/data/x",
        ),
        ("handle: {made: {set: {name: data.name}}}\non_erasure: {keep: why}", "personal-data-kept /on_erasure/keep"),
        ("handle: {made: {set: {name: data.born + data.taste}}}", "no-common-purpose /handle/made/set/name"),
        (
            "handle: {made: {set: {name: data.born, a: data.taste, b: row.a + row.name}}}",
            "no-common-purpose /handle/made/set/b",
        ),
        ("handle: {made: {set: {name: row.a + data.born, a: data.taste}}}", "no-common-purpose /handle/made/set/name"),
        (
            "handle: {made: {set: {n: 1}}, paid: [{when: 'data.cents > 0', increment: {n: data.net}}, {set: {n: data.bonus}}]}",
            "no-common-purpose /handle/paid/0/increment/n",
        ),
    ];
    for (rest, expected) in table {
        assert_eq!(refused(rest), [expected], "{rest}");
    }
    let derived = "columns: {a: json, b: json, c: {type: json, derive: row.a + row.b}}\nhandle: {made: {set: {a: data.born, b: data.taste}}}";
    assert_eq!(refused(derived), ["no-common-purpose /columns/c/derive"]);
    let fold = "fold: f\nversion: 1\nfrom: {types: [paid]}\nstate: {n: int}\nhandle: {paid: {increment: {n: data.net}}}\n\
        invariant: state.n >= 0";
    assert_eq!(of(&registry(), fold).violations[0].pointer, "/invariant");
    assert_eq!(refused("handle: {made: {set: {name: data.name}}}\non_erasure: delete_row"), [""; 0]);
    let message = &of(&registry(), &projection("key: {who: data.name}")).violations[0].message;
    assert!(message.ends_with("made /name"), "{message}");
}

#[test]
fn aggregates_over_personal_values_are_declassified_or_refused() {
    let of = |rest: &str| {
        let parts = "projection: p\nversion: 1\nfrom: {types: [paid]}\nkey: {a: event.stream}\n";
        of(&registry(), &format!("{parts}{rest}"))
    };
    let plain = of("aggregate: {n: avg(data.net), m: avg(data.cents), who: distinct(subject.person)}");
    assert_eq!(plain.violations.len(), 1);
    assert_eq!(plain.violations[0].pointer, "/aggregate/n");
    let declassified = of("aggregate: {n: {value: avg(data.net), declassify: 'published pay gap', min_group: 10}}");
    assert!(declassified.violations.is_empty());
    assert!(declassified.aggregates[0].personal);
    assert_eq!(declassified.aggregates[0].min_group, Some(10));
    let window = of("aggregate: {n: count()}\nwindow: {by: data.when, size: PT5M}");
    assert_eq!(window.violations[0].pointer, "/window/by");
    let anything =
        "projection: p\nversion: 1\nfrom: {category: c}\nkey: {a: event.stream}\naggregate: {n: max(data.name)}";
    assert_eq!(self::of(&registry(), anything).violations[0].pointer, "/aggregate/n", "of any type of the category");
}

#[test]
fn what_only_the_event_can_tell_is_unknown() {
    let unknown = |rest: &str, name: &str| column(rest, name).unknown;
    assert!(unknown("handle: {other: {set: {a: data.x}}}", "a"), "a type without a schema");
    assert!(!unknown("handle: {made: {set: {a: data.account}}}", "a"));
    assert!(!unknown("handle: {other: {set: {a: subject.x, b: event.stream}}}", "a"));
    assert!(unknown("handle: {made: {set: {b: row.a}}, other: {set: {a: data.x}}}", "b"));
    // Categories that take in-line marks.
    let registry = registry();
    let settings = CategorySettings { schema_policy: SchemaPolicy::Registered, ..CategorySettings::default() };
    registry.apply(&RegistryRecord::CategoryChanged { category: "soft".into(), settings }).unwrap();
    let text = |from: &str| projection(&format!("from: {from}\nkey: {{who: data.account}}"));
    for (from, expected) in [
        ("{types: [made]}", true),
        ("{types: [made], category: soft}", true),
        ("{types: [made], category: hard}", false),
    ] {
        let lineage = of(&registry, &text(from));
        assert_eq!(lineage.events[0].unknown, expected, "{from}");
        assert_eq!((lineage.key[0].unknown, lineage.key[0].personal), (expected, false), "{from}");
        assert!(lineage.violations.is_empty());
    }
}

#[test]
fn lookups_are_what_the_other_projection_says() {
    let text = projection("columns: {a: json, l: {type: string, lookup: q.name}}");
    let definition = Definition::parse(&text, Format::Yaml).unwrap();
    let none = lineage(&definition, &registry(), &|_, _| None);
    assert!(none.columns[1].unknown && !none.columns[1].personal);
    assert_eq!(none.columns[1].lookup.as_deref(), Some("q.name"));
    let other = column("handle: {made: {set: {name: data.name}}}", "name");
    let found = lineage(&definition, &registry(), &|name, column| {
        (name.as_str() == "q" && column == "name").then(|| other.clone())
    });
    assert_eq!((found.columns[1].name.as_str(), found.columns[1].personal), ("l", true));
}

#[test]
fn the_examples_without_schemas_are_unknown_and_taken() {
    let registry = Registry::new(Options::default());
    for value in documents(include_str!("../../../docs/projections/examples.yaml")).unwrap() {
        let definition = Definition::from_value(&value).unwrap();
        let lineage = lineage(&definition, &registry, &|_, _| None);
        assert!(lineage.violations.is_empty());
        let shown = serde_json::to_value(&lineage).unwrap();
        assert!(shown["columns"].as_array().unwrap().iter().all(|column| column["personal"] == json!(false)));
        assert!(shown["events"].as_array().unwrap().iter().all(|event| event["unknown"] == json!(true)));
    }
}

#[test]
fn lineage_is_json() {
    let lineage = of(&registry(), &projection("handle: {made: {set: {name: data.name}, when: data.name != null}}"));
    let shown = serde_json::to_value(&lineage).unwrap();
    let name = shown["columns"].as_array().unwrap().iter().find(|column| column["name"] == "name").unwrap();
    assert_eq!(
        *name,
        json!({"name": "name", "personal": true, "unknown": false, "owners_roles": ["person"], "purposes": ["crm", "mail"],
            "sources": [{"event_type": "made", "pointer": "/name", "roles": ["person"], "joint": false,
                "category": "name", "special": false, "purposes": ["crm", "mail"]}]})
    );
    assert_eq!(shown["violations"][0]["code"], "personal-data-in-guard");
    assert_eq!(shown["violations"][0]["pointer"], "/handle/made/when");
}
