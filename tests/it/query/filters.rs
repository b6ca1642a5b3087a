//! Filters: what they find, and what they must not tell.

use oubliette::projection::definition::AggregateFunction;
use oubliette::projection::query::FILTER;

use super::aggregates::{aggregate, grouped, speeds};
use super::*;

fn filter(text: &str) -> RowQuery {
    let filter = Some(Expression::compile(text, FILTER).unwrap());
    RowQuery { filter, by_body: true, ..RowQuery::default() }
}

/// Twenty contacts of two accounts; every even one's name is Ada's.
async fn scene() -> (Scene, Definition, GenerationId, SubjectRef) {
    let mut scene = Scene::new().await;
    let contacts = contacts();
    let ada = scene.person("Ada", &["general"]).await;
    let rows: Vec<Row> = (0..20)
        .map(|n| {
            let name = if n % 2 == 0 {
                owned(format!("name {}", n % 4), &[way("general", &[ada])])
            } else {
                Cell::public(json!(format!("name {}", n % 4)))
            };
            let mut row = contact(&contacts, if n < 10 { "a1" } else { "a2" }, n, name);
            row.columns[3] = Content::Single(Cell::public(json!(if n % 5 == 0 { "lead" } else { "won" })));
            row
        })
        .collect();
    let generation = scene.put(&contacts, &rows).await;
    (scene, contacts, generation, ada)
}

fn numbers(rows: &RenderedRows) -> Vec<u64> {
    let mut found: Vec<u64> = column(rows, "n").iter().map(|n| n.as_u64().unwrap()).collect();
    found.sort_unstable();
    found
}

#[tokio::test]
async fn an_index_and_a_scan_find_the_same() {
    let (scene, contacts, generation, _) = scene().await;
    let reader = scene.reader(QueryOptions { chunk: 3, ..QueryOptions::default() });
    let live = live(&contacts, generation);
    let found = async |text: &str, purposes: Purposes| {
        numbers(&reader.rows(&live, &filter(text), &viewer(purposes)).await.unwrap())
    };
    for (text, expected) in [
        ("account == 'a1' && name == 'name 2'", vec![2, 6]),
        ("account == 'a1' && name == 'name 1'", vec![1, 5, 9]),
        ("name == 'name 2'", vec![2, 6, 10, 14, 18]),
        ("stage == 'lead'", vec![0, 5, 10, 15]),
        ("stage == 'lead' && n == 15", vec![15]),
        ("stage == 'lead' && n > 5.5", vec![10, 15]),
        ("account == 'a3'", vec![]),
    ] {
        assert_eq!(found(text, Purposes::All).await, expected, "{text}");
    }
    // What a caller may not read, a filter does not find either.
    assert_eq!(found("account == 'a1' && name == 'name 2'", Purposes::None).await, Vec::<u64>::new());
    assert_eq!(found("name != 'name 1'", Purposes::None).await, [3, 7, 11, 15, 19]);
    assert_eq!(found("account == 'a1' || name == 'x'", Purposes::None).await, [1, 3, 5, 7, 9]);
}

#[tokio::test]
async fn pages_of_an_index_are_complete() {
    let (scene, contacts, generation, _) = scene().await;
    let live = live(&contacts, generation);
    for chunk in [1, 2, 1000] {
        let reader = scene.reader(QueryOptions { chunk, ..QueryOptions::default() });
        for (text, count) in [("account == 'a1'", 10), ("account == 'a1' && name == 'name 2'", 2), ("n >= 3", 17)] {
            let query = |after| RowQuery { after, limit: 2, ..filter(text) };
            let (mut keys, _) = all_pages(&reader, &live, query, &viewer(Purposes::All)).await.unwrap();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{text}");
        }
    }
}

#[tokio::test]
async fn an_erased_value_is_found_no_more_and_the_epoch_says_so() {
    let (scene, contacts, generation, ada) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    let query = || filter("account == 'a1' && (name == 'name 2' || n == 1)");
    let before = reader.rows(&live, &query(), &viewer(Purposes::All)).await.unwrap();
    assert_eq!((numbers(&before), before.epoch), (vec![1, 2, 6], 0));
    assert_eq!(scene.access().await, [(ada, "general".to_owned(), 5)]);
    scene.fence(ada, &[]).await;
    let after = reader.rows(&live, &query(), &viewer(Purposes::All)).await.unwrap();
    assert_eq!((numbers(&after), after.epoch), (vec![1], 1), "nobody erased is on the page, but its tag must change");
}

#[tokio::test]
async fn what_decided_is_recorded_though_it_is_not_shown() {
    let (scene, contacts, generation, ada) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let query = RowQuery { fields: Some(vec!["n".into()]), ..filter("account == 'a1' && name == 'name 2'") };
    let page = reader.rows(&live(&contacts, generation), &query, &viewer(Purposes::All)).await.unwrap();
    assert_eq!(numbers(&page), [2, 6]);
    // All five of the account were looked at, and of three it is known now that they are something else.
    assert_eq!(scene.access().await, [(ada, "general".to_owned(), 5)]);
}

#[tokio::test]
async fn that_nothing_is_found_is_recorded() {
    let (scene, contacts, generation, ada) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    for (purposes, recorded) in [(Purposes::None, 0), (Purposes::All, 1)] {
        let query = filter("account == 'a1' && n == 4 && name == 'somebody else'");
        let page = reader.rows(&live, &query, &viewer(purposes)).await.unwrap();
        assert!(page.items.is_empty());
        let seen = scene.access().await;
        assert_eq!(seen.len(), recorded);
        assert!(seen.iter().all(|entry| entry.0 == ada));
    }
}

#[tokio::test]
async fn a_url_names_no_personal_value() {
    let (scene, contacts, generation, _) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    for purposes in [Purposes::All, Purposes::None] {
        let url = |text: &str| RowQuery { by_body: false, ..filter(text) };
        let refused = reader.rows(&live, &url("name == 'name 2'"), &viewer(purposes.clone())).await;
        assert!(matches!(refused, Err(QueryError::PersonalFilterInUrl { column }) if column == "name"));
        let public = reader.rows(&live, &url("stage == 'lead'"), &viewer(purposes.clone())).await.unwrap();
        assert_eq!(numbers(&public), [0, 5, 10, 15]);
        // Nobody's name is personal among these.
        let public = reader.rows(&live, &url("stage == 'lead' && n == 5 && name == 'name 1'"), &viewer(purposes)).await;
        assert_eq!(numbers(&public.unwrap()), [5]);
    }
}

#[tokio::test]
async fn a_filter_that_fails_or_names_nothing() {
    let (scene, contacts, generation, _) = scene().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    // Ages are all null: the comparison fails on every row.
    let page = reader.rows(&live, &filter("age > 3"), &viewer(Purposes::All)).await.unwrap();
    assert!(page.items.is_empty() && page.next.is_none());
    let unknown = reader.rows(&live, &filter("nme == 'x'"), &viewer(Purposes::All)).await;
    assert!(matches!(unknown, Err(QueryError::UnknownName { name }) if name == "nme"));
}

#[tokio::test]
async fn a_filter_looks_at_so_many_rows_and_no_more() {
    let (scene, contacts, generation, _) = scene().await;
    let live = live(&contacts, generation);
    let reader = scene.reader(QueryOptions { max_scan: 10, chunk: 5, ..QueryOptions::default() });
    let broad = reader.rows(&live, &filter("n == 99"), &viewer(Purposes::None)).await;
    assert!(matches!(broad, Err(QueryError::TooBroad { examined: 10 })));
    // An index looks at fewer, and a full page is a page.
    let page = reader.rows(&live, &filter("stage == 'lead'"), &viewer(Purposes::None)).await.unwrap();
    assert_eq!(page.items.len(), 4);
    let page = reader.rows(&live, &RowQuery { limit: 3, ..filter("n >= 0") }, &viewer(Purposes::None)).await.unwrap();
    assert!(page.items.len() == 3 && page.next.is_some());
}

#[tokio::test]
async fn aggregates_are_filtered_by_key_before_and_by_result_after_they_are_merged() {
    let (scene, speeds, generation) = speeds().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&speeds, generation);
    let ask = async |query: RowQuery| reader.rows(&live, &query, &viewer(Purposes::None)).await;
    let by_region = |text: &str| RowQuery { group_by: vec!["region".into()], by_body: false, ..filter(text) };
    let page = ask(by_region("line in ['1', '3']")).await.unwrap();
    assert_eq!(column(&page, "n"), [4, 4]);
    let page = ask(by_region("region == 'north'")).await.unwrap();
    assert_eq!(column(&page, "n"), [8]);
    let page = ask(by_region("speed > 30.0")).await.unwrap();
    assert_eq!(column(&page, "region"), ["south"]);
    let page = ask(filter("window == 'PT1H' && region == 'south'")).await.unwrap();
    assert_eq!(page.items.len(), 2);
    let refused = ask(by_region("speed > 30.0 && line == '1'")).await.err().unwrap();
    assert!(matches!(refused, QueryError::UnknownName { name } if name == "line"));
}

#[tokio::test]
async fn a_result_that_is_not_shown_is_not_found() {
    let mut scene = Scene::new().await;
    let list = vec![aggregate("people", AggregateFunction::Count, Some(2))];
    let counts = grouped("counts", &["region"], list, false);
    let ada = scene.person("ada", &["general"]).await;
    let mut row = Row::new(&counts.columns, parts(json!({"region": "north"})));
    let share = owned(super::aggregates::state(AggregateFunction::Count, &[json!(true)]), &[way("general", &[ada])]);
    row.columns[0] = Content::Map([(ada.to_string(), share)].into());
    let generation = scene.put(&counts, &[row]).await;
    let reader = scene.reader(QueryOptions::default());
    for text in ["people == 1", "people != 1", "people == null"] {
        let page = reader.rows(&live(&counts, generation), &filter(text), &viewer(Purposes::All)).await.unwrap();
        assert!(page.items.is_empty(), "{text}");
    }
}
