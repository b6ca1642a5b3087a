//! What a caller sees of a row.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use oubliette::keystore::LeaseLost;
use oubliette::projection::definition::{ColumnSource, ProjectionName};

use super::*;

const CANARY: &str = "Ada-Canary-Lovelace";

fn everything() -> Viewer {
    viewer(Purposes::All)
}

/// Ada for two purposes, one note of hers and one of nobody's.
async fn scene() -> (Scene, Definition, GenerationId, SubjectRef) {
    let mut scene = Scene::new().await;
    let ada = scene.person("person:ada", &["general", "marketing"]).await;
    let contacts = contacts();
    let general = || vec![way("general", &[ada])];
    let mut row = contact(&contacts, "a1", 1, owned(CANARY, &[way("general", &[ada]), way("marketing", &[ada])]));
    row.columns[1] = Content::Single(owned(36, &general()));
    row.columns[2] = Content::List(vec![owned("likes tea", &general()), Cell::public(json!("public note"))]);
    row.columns[3] = Content::Single(owned("engaged", &general()));
    let generation = scene.put(&contacts, &[row]).await;
    (scene, contacts, generation, ada)
}

async fn one(scene: &Scene, definition: &Definition, generation: GenerationId, viewer: &Viewer) -> Value {
    let reader = scene.reader(QueryOptions::default());
    let page = reader.rows(&live(definition, generation), &RowQuery::default(), viewer).await.unwrap();
    items(&page).remove(0)
}

#[tokio::test]
async fn whoever_may_see_it_does_and_is_recorded() {
    let (scene, contacts, generation, ada) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let page = reader.rows(&live(&contacts, generation), &RowQuery::default(), &everything()).await.unwrap();
    let item = &items(&page)[0];
    let key = RowKey::of("contacts", &parts(json!({"account": "a1", "n": 1})));
    let expected = json!({"_key": key.to_string(), "_position": 1, "account": "a1", "n": 1, "name": CANARY, "age": 36,
        "notes": ["likes tea", "public note"], "stage": "engaged"});
    assert_eq!(*item, expected);
    assert!(page.items[0].json.starts_with(b"{\"_key\":\"k_"), "the members come in their order");
    assert_eq!((page.opened, page.redacted.len(), page.position, page.unavailable), (4, 0, 100, false));
    assert_eq!(page.lease.check(), Ok(()));
    let mut access = scene.access().await;
    access.sort();
    assert_eq!(access, [(ada, "general".to_owned(), 4), (ada, "marketing".to_owned(), 1)]);
    drop(scene.leases.revoke(ada));
    assert_eq!(page.lease.check(), Err(LeaseLost::Revoked));
}

#[tokio::test]
async fn only_what_is_shown_is_recorded() {
    let (scene, contacts, generation, ada) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let fields = |names: &[&str]| RowQuery {
        fields: Some(names.iter().map(|name| (*name).to_owned()).collect()),
        ..RowQuery::default()
    };
    let live = live(&contacts, generation);
    let public = reader.rows(&live, &fields(&["account"]), &everything()).await.unwrap();
    assert!(scene.access().await.is_empty());
    drop(scene.leases.revoke(ada));
    assert_eq!(public.lease.check(), Ok(()), "nobody is on the page");
    let age = reader.rows(&live, &fields(&["age", "n"]), &everything()).await.unwrap();
    assert_eq!(items(&age)[0], json!({"_key": age.items[0].key.to_string(), "_position": 1, "age": 36, "n": 1}));
    assert_eq!(scene.access().await, [(ada, "general".to_owned(), 1)]);
    let unknown = reader.rows(&live, &fields(&["nme"]), &everything()).await;
    assert!(matches!(unknown, Err(QueryError::UnknownName { name }) if name == "nme"));
}

#[tokio::test]
async fn without_a_purpose_everything_is_withheld_and_nothing_is_opened() {
    let (scene, contacts, generation, ada) = scene().await;
    scene.destroy(ada).await;
    let item = one(&scene, &contacts, generation, &viewer(Purposes::None)).await;
    assert_eq!(item["name"], "[withheld]");
    assert_eq!(item["age"], Value::Null);
    assert_eq!(item["notes"], json!(["[withheld]", "public note"]));
    assert_eq!(item["stage"], "gone");
    let redactions = json!({"name": "withheld", "age": "withheld", "notes/0": "withheld", "stage": "withheld"});
    assert_eq!(item["_redactions"], redactions);
    assert!(scene.access().await.is_empty());
}

#[tokio::test]
async fn a_fence_erases_with_the_keys_still_there() {
    let (scene, contacts, generation, ada) = scene().await;
    scene.fence(ada, &[]).await;
    for viewer in [everything(), viewer(Purposes::None)] {
        let item = one(&scene, &contacts, generation, &viewer).await;
        assert_eq!(item["name"], "[erased]");
        assert_eq!(item["_redactions"]["notes/0"], "erased");
    }
    let page = scene.reader(QueryOptions::default());
    let page = page.rows(&live(&contacts, generation), &RowQuery::default(), &everything()).await.unwrap();
    assert_eq!((page.epoch, page.opened, page.redacted.clone()), (1, 0, vec![("erased", 4)]));
    assert!(scene.access().await.is_empty());
}

#[tokio::test]
async fn one_purpose_forgotten_leaves_the_other() {
    let (scene, contacts, generation, ada) = scene().await;
    scene.fence(ada, &["general"]).await;
    let item = one(&scene, &contacts, generation, &everything()).await;
    assert_eq!((&item["name"], &item["stage"]), (&json!(CANARY), &json!("gone")));
    assert_eq!(scene.access().await, [(ada, "marketing".to_owned(), 1)]);
    // Somewhere it still is, so it is not erased: this caller may not see it.
    let item = one(&scene, &contacts, generation, &viewer(Purposes::These(vec!["general".into()]))).await;
    assert_eq!((&item["name"], &item["_redactions"]["name"]), (&json!("[withheld]"), &json!("withheld")));
    assert_eq!(item["_redactions"]["stage"], "erased");
}

#[tokio::test]
async fn a_lost_key_is_never_an_erasure() {
    let (scene, contacts, generation, ada) = scene().await;
    scene.destroy(ada).await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    let failed = reader.rows(&live, &RowQuery::default(), &everything()).await;
    assert!(matches!(failed, Err(QueryError::KeyUnknown)));
    let partial = Viewer { partial: true, ..everything() };
    let page = reader.rows(&live, &RowQuery::default(), &partial).await.unwrap();
    assert_eq!(items(&page)[0]["name"], "[unavailable]");
    assert!(page.unavailable);
    scene.keystore.close().await;
    let failed = reader.rows(&live, &RowQuery::default(), &everything()).await;
    assert!(matches!(failed, Err(QueryError::KeysUnavailable(_))));
    let page = reader.rows(&live, &RowQuery::default(), &partial).await.unwrap();
    assert_eq!(items(&page)[0]["_redactions"]["name"], "unavailable");
    scene.fence(ada, &[]).await;
    let page = reader.rows(&live, &RowQuery::default(), &everything()).await.unwrap();
    assert_eq!(items(&page)[0]["_redactions"]["name"], "erased");
}

#[tokio::test]
async fn what_was_unreadable_when_written_is_erased_only_behind_a_fence() {
    let mut scene = Scene::new().await;
    let ada = scene.person("person:ada", &["general"]).await;
    let bob = scene.person("person:bob", &["general"]).await;
    let contacts = contacts();
    let closed = |ways: &[Alternative]| Cell { value: None, ..owned(1, ways) };
    let rows = [
        contact(&contacts, "a1", 1, closed(&[way("general", &[ada])])),
        contact(&contacts, "a1", 2, closed(&[way("general", &[ada, bob])])),
        contact(&contacts, "a1", 3, closed(&[way("general", &[ada]), way("general", &[bob])])),
    ];
    let generation = scene.put(&contacts, &rows).await;
    let reader = scene.reader(QueryOptions::default());
    let query = RowQuery { sort: sort(&["n"]), ..RowQuery::default() };
    let states = async |reader: &RowReader| {
        let page = reader.rows(&live(&contacts, generation), &query, &everything()).await.unwrap();
        (column(&page, "_redactions").iter().map(|r| r["name"].clone()).collect::<Vec<_>>(), page.unavailable)
    };
    assert_eq!(states(&reader).await, (vec![json!("unavailable"); 3], true));
    scene.fence(ada, &[]).await;
    let expected = vec![json!("erased"), json!("erased"), json!("unavailable")];
    assert_eq!(states(&reader).await, (expected, true));
    scene.fence(bob, &[]).await;
    assert_eq!(states(&reader).await, (vec![json!("erased"); 3], false));
}

#[tokio::test]
async fn a_field_keeps_its_placeholder_and_the_modes_change_it() {
    let mut scene = Scene::new().await;
    let ada = scene.person("person:ada", &["general"]).await;
    let contacts = contacts();
    let template = json!("Deleted due to {article} on {date} ({request})");
    let mut row = contact(&contacts, "a1", 1, inline(owned(CANARY, &[way("general", &[ada])]), &template));
    row.columns[2] = Content::List(vec![owned("x", &[way("general", &[ada])])]);
    let generation = scene.put(&contacts, &[row]).await;
    scene.fence(ada, &[]).await;
    let shown = async |redaction| {
        let item = one(&scene, &contacts, generation, &Viewer { redaction, ..everything() }).await;
        assert_eq!(item["_redactions"], json!({"name": "erased", "notes/0": "erased"}));
        (item.get("name").cloned(), item["notes"].clone())
    };
    let typed = Some(json!("Deleted due to 17(1)(b) on 2023-11-14 (fr_1)"));
    assert_eq!(shown(Redaction::Typed).await, (typed, json!(["[erased]"])));
    assert_eq!(shown(Redaction::Null).await, (Some(Value::Null), json!([null])));
    assert_eq!(shown(Redaction::Omit).await, (None, json!([null])));
    let marker = json!({"$redacted": {"state": "erased", "request": "fr_1"}});
    assert_eq!(shown(Redaction::Marker).await, (Some(marker.clone()), json!([marker])));
}

#[tokio::test]
async fn a_lookup_brings_its_owners_along() {
    let mut scene = Scene::new().await;
    let ada = scene.person("person:ada", &["general"]).await;
    let contacts = contacts();
    let source = ColumnSource::Lookup { projection: ProjectionName::parse("contacts").unwrap(), column: "name".into() };
    let columns = vec![Column { source, ..column_of("contact_name", ColumnType::String) }];
    let mails = definition("mails", &["account", "n", "mail"], columns, &[]);
    let named = scene.put(&contacts, &[contact(&contacts, "a1", 1, owned(CANARY, &[way("general", &[ada])]))]).await;
    let row = |n: u64| Row::new(&mails.columns, parts(json!({"account": "a1", "n": n, "mail": "m"})));
    let generation = scene.put(&mails, &[row(1), row(2)]).await;
    let live = Live { lookups: vec![(&contacts, named)], ..live(&mails, generation) };
    let reader = scene.reader(QueryOptions::default());
    let query = RowQuery { sort: sort(&["n"]), ..RowQuery::default() };
    let page = reader.rows(&live, &query, &everything()).await.unwrap();
    assert_eq!(column(&page, "contact_name"), [json!(CANARY), Value::Null]);
    assert_eq!(scene.access().await, [(ada, "general".to_owned(), 1)]);
    let page = reader.rows(&live, &query, &viewer(Purposes::None)).await.unwrap();
    assert_eq!(column(&page, "contact_name"), [json!("[withheld]"), Value::Null]);
    scene.fence(ada, &[]).await;
    let page = reader.rows(&live, &query, &everything()).await.unwrap();
    assert_eq!(column(&page, "contact_name"), [json!("[erased]"), Value::Null]);
    let gone = Live { lookups: vec![], ..live };
    let page = reader.rows(&gone, &query, &everything()).await.unwrap();
    assert_eq!(column(&page, "contact_name"), [Value::Null, Value::Null]);
}

#[tokio::test]
async fn csv_has_a_companion_for_what_is_personal() {
    let mut scene = Scene::new().await;
    let ada = scene.person("person:ada", &["general"]).await;
    let contacts = contacts();
    let general = [way("general", &[ada])];
    let mut first = contact(&contacts, "a1", 1, owned("Ada, \"Countess\"", &general));
    first.columns[2] = Content::List(vec![owned("tea", &general), Cell::public(json!("=1+1"))]);
    let second = contact(&contacts, "a1", 2, Cell::public(json!("=nobody")));
    let generation = scene.put(&contacts, &[first, second]).await;
    let reader = scene.reader(QueryOptions::default());
    let query = RowQuery { sort: sort(&["n"]), ..RowQuery::default() };
    let csv = async |with_header| {
        let page = reader.rows(&live(&contacts, generation), &query, &everything()).await.unwrap();
        let keys: Vec<String> = page.items.iter().map(|row| row.key.to_string()).collect();
        let text = String::from_utf8(page.csv(with_header)).unwrap();
        text.replace(&keys[0], "k1").replace(&keys[1], "k2")
    };
    let header = "_key,account,n,name,name__redacted,age,notes,notes__redacted,stage\r\n";
    let rows = "k1,a1,1,\"Ada, \"\"Countess\"\"\",,,\"[\"\"tea\"\",\"\"=1+1\"\"]\",,\r\nk2,a1,2,=nobody,,,,,\r\n";
    assert_eq!(csv(true).await, format!("{header}{rows}"));
    assert_eq!(csv(false).await, rows);
    scene.fence(ada, &[]).await;
    let rows = "k1,a1,1,[erased],erased,,\"[\"\"[erased]\"\",\"\"=1+1\"\"]\",0:erased,\r\nk2,a1,2,=nobody,,,,,\r\n";
    assert_eq!(csv(true).await, format!("{header}{rows}"));
}

#[tokio::test]
async fn no_file_holds_a_value_and_nothing_is_served_behind_the_record() {
    let (scene, contacts, generation, _) = scene().await;
    assert_eq!(one(&scene, &contacts, generation, &everything()).await["name"], CANARY);
    let mut names = BTreeMap::new();
    for entry in std::fs::read_dir(scene.dir.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            let bytes = std::fs::read(entry.path()).unwrap();
            let held = |needle: &str| bytes.windows(needle.len()).any(|at| at == needle.as_bytes());
            assert!(!held(CANARY) && !held("likes tea") && !held("engaged"), "{:?}", entry.path());
            names.insert(entry.file_name(), held("public note"));
        }
    }
    assert!(names.values().any(|held| *held), "the scan sees what is public: {names:?}");
    scene.level.store(false, Ordering::SeqCst);
    let reader = scene.reader(QueryOptions::default());
    let failed = reader.rows(&live(&contacts, generation), &RowQuery::default(), &everything()).await;
    assert!(matches!(failed, Err(QueryError::ErasureRecordBehind)));
    one(&scene, &contacts, generation, &viewer(Purposes::None)).await;
}
