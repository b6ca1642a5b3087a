//! Events of the field, as their systems write them.

use super::*;

fn store() -> Registry {
    registry(&CategorySettings::default())
}

#[test]
fn a_contact_in_draft_04() {
    let store = store();
    assert_eq!(register(&store, "contact-created", &contact()), 1);
    let data =
        json!({"contact_id": "c-41", "name": "Ada", "description": "", "contact_method": {"email": "ada@example.org"}});
    let prepared = prepare(&store, "contact-created", data).unwrap();
    assert_eq!(prepared.schema_version, Some(1));
    let ada = || vec!["c-41".to_owned()];
    assert_eq!(
        owned(&prepared),
        [("/contact_method/email".into(), ada()), ("/description".into(), ada()), ("/name".into(), ada())]
    );
    assert_eq!(prepared.subjects[0].subject, external("c-41"));
    assert_eq!(prepared.subjects[0].path, Some(Pointer::parse("/contact_id").unwrap()));
    assert!(prepared.findings.is_empty(), "what is sealed is no leak");

    let wrong = wrong(prepare(&store, "contact-created", json!({"name": "Ada", "description": 7, "emial": "x"})));
    for expected in [
        ("schema-violation", "/data/contact_method"),
        ("schema-violation", "/data/description"),
        ("schema-violation", "/data"),
        ("data-subject-missing", "/data/contact_id"),
    ] {
        assert!(wrong.contains(&(expected.0, expected.1.to_owned())), "{expected:?} {wrong:?}");
    }
    let mark =
        store.placeholder("contact-created", Some(1), &Pointer::parse("/contact_method/email").unwrap()).unwrap();
    assert_eq!(
        mark.placeholder.render(&PlaceholderFacts { state: "erased", ..PlaceholderFacts::default() }),
        "\"erased@redacted.invalid\""
    );
    assert_eq!(mark.category.as_deref(), Some("contact.email"));
    assert!(store.placeholder("contact-created", None, &Pointer::parse("/contact_id").unwrap()).is_none());
}

#[test]
fn what_is_refused_is_not_repeated() {
    let store = store();
    register(&store, "contact-created", &contact());
    let data = json!({"contact_id": 1.5, "name": "", "description": ["Grace"], "Hopper": "Murray", "contact_method":
        {"email": "not an address", "Lovelace": 1}});
    let text = format!("{:?}", prepare(&store, "contact-created", data).unwrap_err());
    for value in ["Grace", "Hopper", "Murray", "not an address", "Lovelace", "1.5"] {
        assert!(!text.contains(value), "{value} in {text}");
    }
    assert!(text.contains("the schema allows: contact_id, contact_method, description, name"));
}

#[test]
fn carts_without_a_schema() {
    let store = store();
    for (name, data) in [
        ("product-added-to-cart", json!({"product_id": "p-1", "user_id": "u-1", "timestamp": "2026-11-20T08:00:00Z"})),
        (
            "product-removed-from-cart",
            json!({"product_id": "p-1", "user_id": "u-1", "timestamp": 1_763_625_600_000_i64}),
        ),
        (
            "order-placed",
            json!({"order_id": "1763625600000", "user_id": "u-1", "timestamp": "2026-11-20T08:00:00+01:00"}),
        ),
    ] {
        let mut event = new_event(name, data);
        event.marks = vec![mark("/user_id", "u-1")];
        let prepared = store.prepare(&StreamName::parse("cart-1").unwrap(), Cow::Owned(event)).unwrap();
        assert_eq!(owned(&prepared), [("/user_id".to_owned(), vec!["u-1".to_owned()])]);
        assert_eq!((prepared.schema_version, prepared.subjects.len()), (None, 1));
        assert!(prepared.subjects[0].path.is_none() && prepared.findings.is_empty());
    }
}

#[test]
fn carts_with_a_schema() {
    let store = store();
    let schema = json!({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object",
        "required": ["order_id", "user_id", "timestamp"],
        "x-data-subjects": {"user": {"id": "/user_id"}},
        "properties": {"order_id": {"type": "string"}, "user_id": {"type": ["string", "integer"]},
            "timestamp": {"type": "string", "format": "date-time"}}});
    register(&store, "order-placed", &schema);
    let data = json!({"order_id": "o", "user_id": 41, "timestamp": "2026-11-20T08:00:00Z"});
    let prepared = prepare(&store, "order-placed", data).unwrap();
    assert_eq!(prepared.subjects[0].subject, external("41"));
    assert!(prepared.fields.is_empty(), "an id is replaced, not sealed");
}

#[test]
fn two_people_and_their_guests() {
    let store = store();
    register(&store, "transfer-made", &transfer());
    let data = json!({"payer_id": "p1", "payee_id": pseudonym(), "payer_name": "", "payee_iban": "DE02", "birth": null,
        "note": "thanks", "memo": "m", "guests": [{"person_id": "g0", "diet": "vegan"}, {}, {"person_id": "p1", "diet": "none"}]});
    let prepared = prepare(&store, "transfer-made", data).unwrap();
    let people = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let both = people(&["p1", &pseudonym()]);
    let mut found = owned(&prepared);
    for (_, owners) in &mut found {
        owners.sort_by_key(|owner| owner.starts_with("ds_"));
    }
    for expected in [
        ("/payer_name", people(&["p1"])),
        ("/payee_iban", people(&[&pseudonym()])),
        ("/birth", people(&["p1"])),
        ("/note", both.clone()),
        ("/memo", both),
        ("/guests/0/diet", people(&["g0"])),
        ("/guests/2/diet", people(&["p1"])),
    ] {
        assert!(found.contains(&(expected.0.to_owned(), expected.1.clone())), "{expected:?} {found:?}");
    }
    assert_eq!(found.len(), 7);
    let field = |path: &str| prepared.fields.iter().find(|f| f.path.to_string() == path).unwrap();
    assert!(field("/note").joint && !field("/memo").joint && !field("/birth").joint);
    assert_eq!(
        field("/payer_name").purposes.iter().map(Purpose::as_str).collect::<Vec<_>>(),
        ["marketing", "payments"]
    );
    // Every place of an id is a site, also when one person stands in two.
    assert_eq!(prepared.subjects.iter().filter(|s| s.subject == external("p1")).count(), 2);
}

#[test]
fn an_element_without_an_id_is_refused() {
    let store = store();
    register(&store, "transfer-made", &transfer());
    let data = json!({"guests": [{"person_id": "g0", "diet": "a"}, {"diet": "b"}, {"person_id": null, "diet": ""}]});
    assert_eq!(
        wrong(prepare(&store, "transfer-made", data)),
        [
            ("schema-violation", "/data/guests/2/person_id".to_owned()),
            ("data-subject-missing", "/data/guests/1/person_id".to_owned()),
            ("data-subject-missing", "/data/guests/2/person_id".to_owned()),
        ]
    );
    let data = json!({"payer_id": "ds_short", "payer_name": "x"});
    assert_eq!(wrong(prepare(&store, "transfer-made", data)), [("subject-id-invalid", "/data/payer_id".to_owned())]);
}

#[test]
fn falsy_values_are_values() {
    let store = store();
    let schema = json!({"x-data-subjects": {"p": {"id": "/id"}}, "properties": {"id": {"type": "string"},
        "v": {"x-personal-data": {"subject": "p"}}}});
    register(&store, "thing-noted", &schema);
    for value in [json!(null), json!(false), json!(0), json!(""), json!([]), json!({})] {
        let prepared = prepare(&store, "thing-noted", json!({"id": "a", "v": value})).unwrap();
        assert_eq!(prepared.fields.len(), 1, "{value}");
    }
    assert!(prepare(&store, "thing-noted", json!({"id": "a"})).unwrap().fields.is_empty());
}

#[test]
fn both_sources_of_marks_are_united() {
    let store = store();
    register(&store, "transfer-made", &transfer());
    let stream = StreamName::parse("account-9").unwrap();
    let with = |marks: Vec<InlineMark>| {
        let mut event = new_event("transfer-made", json!({"payer_id": "p1", "payer_name": "Ada", "amount_cents": 1}));
        event.marks = marks;
        store.prepare(&stream, Cow::Owned(event))
    };
    assert_eq!(with(vec![mark("/payer_name", "p1")]).unwrap().fields.len(), 1, "the same twice is one");
    assert_eq!(wrong(with(vec![mark("/payer_name", "p2")]))[0].0, "personal-mark-conflict");
    assert_eq!(wrong(with(vec![mark("/nothing", "p1")]))[0], ("personal-mark-invalid", "/personal_data/0/path".into()));
    assert_eq!(wrong(with(vec![mark("/payer_id", "p1")]))[0].0, "subject-id-sealed");
    assert_eq!(wrong(with(vec![mark("", "p1")]))[0].0, "personal-mark-root");
    // The type default of a number is null, which this schema refuses.
    assert_eq!(wrong(with(vec![mark("/amount_cents", "p2")])), [("placeholder-invalid", "/data/amount_cents".into())]);
    let zero = InlineMark { placeholder: Some(json!(0)), ..mark("/amount_cents", "p2") };
    let prepared = with(vec![zero]).unwrap();
    assert_eq!(prepared.subjects.len(), 2);
    assert_eq!(prepared.fields[1].inline_placeholder, Some(json!(0)));
    assert!(prepared.fields[1].inline && !prepared.fields[0].inline);
}

#[test]
fn in_line_marks_of_two_people_seal_jointly() {
    let store = store();
    let stream = StreamName::parse("account-9").unwrap();
    let with = |marks: Vec<InlineMark>| {
        let mut event = new_event("said", json!({"text": {"a": "hello"}, "n": 1}));
        event.marks = marks;
        store.prepare(&stream, Cow::Owned(event))
    };
    let prepared = with(vec![mark("/text", "a"), mark("/text", "b")]).unwrap();
    assert_eq!((prepared.fields.len(), prepared.fields[0].joint), (1, true));
    assert_eq!(prepared.fields[0].owners, [0, 1]);
    assert_eq!(wrong(with(vec![mark("/text", "a"), mark("/text/a", "a")]))[0].0, "personal-mark-nested");
    let other = InlineMark { purposes: vec![Purpose::parse("x").unwrap()], ..mark("/text", "a") };
    assert_eq!(wrong(with(vec![mark("/text", "a"), other]))[0].0, "personal-mark-conflict");
}

#[test]
fn policies_of_categories() {
    let placeholders = [("contact.email".to_owned(), json!("gone@redacted.invalid"))].into();
    let settings = |policy, guard| CategorySettings { schema_policy: policy, leak_guard: guard, ..Default::default() };
    let wrapped =
        || json!({"email": {"$personal": "ada@example.org", "subject": "person:41", "category": "contact.email"}});

    let open = registry(&CategorySettings { placeholders, ..settings(SchemaPolicy::Open, LeakGuard::Reject) });
    let prepared = prepare(&open, "signup", wrapped()).unwrap();
    assert_eq!(prepared.event.data, json!({"email": "ada@example.org"}));
    assert_eq!(prepared.fields[0].inline_placeholder, Some(json!("gone@redacted.invalid")));
    assert_eq!(
        wrong(prepare(&open, "signup", json!({"to": "ada@example.org"}))),
        [("unmarked-personal-data", "/data/to".to_owned())]
    );
    let named =
        open.prepare(&StreamName::parse("contact-219-09-9999").unwrap(), Cow::Owned(new_event("signup", json!({}))));
    assert_eq!(wrong(named), [("identifier-looks-personal", "stream".to_owned())]);
    let mut acted = new_event("signup", json!({}));
    acted.actor = Some("user:ada@example.org".into());
    let acted = open.prepare(&StreamName::parse("contact-1").unwrap(), Cow::Owned(acted));
    assert_eq!(wrong(acted), [("unmarked-personal-data", "/actor".to_owned())]);

    let registered = registry(&settings(SchemaPolicy::Registered, LeakGuard::Warn));
    assert_eq!(wrong(prepare(&registered, "signup", json!({})))[0].0, "schema-required");
    register(&registered, "signup", &json!({"type": "object"}));
    let prepared = prepare(&registered, "signup", json!({"to": "ada@example.org"})).unwrap();
    assert_eq!(prepared.findings, [Finding { pointer: "/data/to".into(), shape: "email" }]);
    assert!(prepare(&registered, "signup", wrapped()).is_ok());

    let sealed = registry(&settings(SchemaPolicy::Sealed, LeakGuard::Off));
    register(&sealed, "signup", &json!({"type": "object"}));
    assert_eq!(wrong(prepare(&sealed, "signup", wrapped())), [("in-line-marks-refused", "/data/email".to_owned())]);
    assert!(prepare(&sealed, "signup", json!({"to": "ada@example.org"})).unwrap().findings.is_empty());
}

#[test]
fn versions_come_and_are_deprecated() {
    let store = store();
    let one = json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let two = json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}}});
    assert_eq!((register(&store, "noted", &one), register(&store, "noted", &two)), (1, 2));
    let again = store.check(&event_type("noted"), &two, false).unwrap();
    assert!(again.unchanged && again.version == 2);
    assert!(again.breaks(&json!({"a": 1})).is_some() && again.breaks(&json!({"a": null})).is_none());
    assert_eq!(prepare(&store, "noted", json!({"a": null})).unwrap().schema_version, Some(2));
    store.apply(&RegistryRecord::SchemaDeprecated { event_type: "noted".into(), version: 2 }).unwrap();
    assert_eq!(prepare(&store, "noted", json!({"a": "x"})).unwrap().schema_version, Some(1));
    assert!(store.version("noted", None).unwrap().deprecated);
    let mut explicit = new_event("noted", json!({}));
    explicit.schema_version = Some(3);
    let stream = StreamName::parse("account-9").unwrap();
    assert_eq!(wrong(store.prepare(&stream, Cow::Owned(explicit)))[0].0, "schema-version-unknown");

    let replayed = RegistryRecord::SchemaRegistered { event_type: "noted".into(), version: 2, schema: two };
    store.apply(&replayed).unwrap();
    let gap = RegistryRecord::SchemaRegistered { event_type: "noted".into(), version: 9, schema: json!({}) };
    assert_eq!(store.apply(&gap).unwrap_err()[0].code, "schema-version-conflict");
    assert_eq!(store.types()[0].deprecated, [2]);
}

#[test]
fn protecting_less_needs_an_acknowledgement() {
    let store = store();
    register(&store, "transfer-made", &transfer());
    let check = |change: &dyn Fn(&mut Value), ack| {
        let mut schema = transfer();
        change(&mut schema);
        store.check(&event_type("transfer-made"), &schema, ack)
    };
    let changes: [&dyn Fn(&mut Value); 5] = [
        &|s| drop(s["properties"]["note"].as_object_mut().unwrap().remove("x-personal-data")),
        &|s| s["properties"]["note"]["x-personal-data"]["erase_when"] = json!("all"),
        &|s| s["properties"]["payer_name"]["x-personal-data"]["subject"] = json!("payee"),
        &|s| s["properties"]["payer_name"]["x-personal-data"]["purposes"] = json!(["payments"]),
        &|s| s["properties"]["guests"]["items"]["properties"]["diet"]["x-personal-data"]["special"] = json!(false),
    ];
    for change in changes {
        assert!(matches!(check(change, false), Err(RegistrationError::PrivacyAckRequired(_))));
        assert_eq!(check(change, true).unwrap().version, 2);
    }
    assert!(
        check(
            &|s| s["properties"]["amount_cents"]["x-personal-data"] = json!({"subject": "payer", "placeholder": 0}),
            false
        )
        .is_ok()
    );
    let required = |s: &mut Value| s["required"] = json!(["payer_id"]);
    let Err(RegistrationError::Incompatible(report)) = check(&required, true) else { panic!("incompatible") };
    assert_eq!((report.errors[0].rule, report.errors[0].pointer.as_str()), ("required-added", "/properties/payer_id"));
    store
        .apply(&RegistryRecord::SchemaSettingsChanged {
            event_type: "transfer-made".into(),
            compatibility: Compatibility::None,
        })
        .unwrap();
    assert!(check(&required, false).is_ok());
}

#[test]
fn the_inventory_names_every_field() {
    let store = store();
    register(&store, "transfer-made", &transfer());
    let items = store.inventory();
    let lines: Vec<(&str, &str)> = items.iter().map(|i| (i.pointer.as_str(), i.erase_when)).collect();
    assert_eq!(
        lines,
        [
            ("/birth", "any"),
            ("/guests/*/diet", "any"),
            ("/memo", "all"),
            ("/note", "any"),
            ("/payee_iban", "any"),
            ("/payer_name", "any")
        ]
    );
    let shown = serde_json::to_value(&items[1]).unwrap();
    assert_eq!(
        shown,
        json!({"event_type": "transfer-made", "version": 1, "pointer": "/guests/*/diet",
        "category": "health.diet", "special": true, "purposes": ["event"], "placeholder": "unknown",
        "roles": ["guest"], "erase_when": "any"})
    );
}

#[test]
fn settings_may_be_partial() {
    let settings: CategorySettings = serde_json::from_value(json!({"leak_guard": "reject"})).unwrap();
    assert_eq!(settings, CategorySettings { leak_guard: LeakGuard::Reject, ..Default::default() });
    assert!(serde_json::from_value::<CategorySettings>(json!({"leak_gaurd": "reject"})).is_err());
    let mode: Compatibility = serde_json::from_value(json!("FULL_TRANSITIVE")).unwrap();
    assert_eq!(mode, Compatibility::FullTransitive);
}
