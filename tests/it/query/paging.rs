//! Orders and pages.

use std::collections::BTreeSet;

use super::*;

fn number(rows: &RenderedRows) -> Vec<u64> {
    column(rows, "n").iter().map(|n| n.as_u64().unwrap()).collect()
}

/// Ada, Bob and Cleo, each their own, then two without a name.
async fn people() -> (Scene, Definition, GenerationId, [SubjectRef; 3]) {
    let mut scene = Scene::new().await;
    let contacts = contacts();
    let mut subjects = [SubjectRef([0; 16]); 3];
    let mut rows = vec![
        contact(&contacts, "a1", 4, Cell::public(json!("Bea"))),
        contact(&contacts, "a1", 5, Cell::public(Value::Null)),
    ];
    for (at, name) in ["Cleo", "Ada", "Bob"].into_iter().enumerate() {
        subjects[at] = scene.person(name, &["general"]).await;
        rows.push(contact(&contacts, "a1", at as u64 + 1, owned(name, &[way("general", &subjects[at..=at])])));
    }
    let generation = scene.put(&contacts, &rows).await;
    (scene, contacts, generation, subjects)
}

#[tokio::test]
async fn what_cannot_be_read_comes_last_in_both_directions() {
    let (scene, contacts, generation, subjects) = people().await;
    let reader = scene.reader(QueryOptions::default());
    let by = async |names: &[&str], purposes: Purposes| {
        let query = RowQuery { sort: sort(names), ..RowQuery::default() };
        number(&reader.rows(&live(&contacts, generation), &query, &viewer(purposes)).await.unwrap())
    };
    assert_eq!(by(&["name"], Purposes::All).await, [5, 2, 4, 3, 1]);
    assert_eq!(by(&["-name"], Purposes::All).await, [1, 3, 4, 2, 5]);
    assert_eq!(by(&["name", "-n"], Purposes::None).await, [5, 4, 3, 2, 1]);
    assert_eq!(by(&["-name", "n"], Purposes::None).await, [4, 5, 1, 2, 3]);
    assert_eq!(by(&["-_position"], Purposes::None).await, [5, 4, 3, 2, 1]);
    scene.fence(subjects[1], &[]).await;
    assert_eq!(by(&["name"], Purposes::All).await, [5, 4, 3, 1, 2]);
    assert_eq!(by(&["-name"], Purposes::All).await, [1, 3, 4, 5, 2]);
    // Whoever may read nothing learns nothing of the order either.
    let unreadable = by(&["name"], Purposes::None).await;
    let mut by_key: Vec<(RowKey, u64)> =
        (1..4).map(|n| (RowKey::of("contacts", &parts(json!({"account": "a1", "n": n}))), n)).collect();
    by_key.sort_unstable();
    assert_eq!(unreadable[2..], by_key.iter().map(|(_, n)| *n).collect::<Vec<_>>());
}

#[tokio::test]
async fn times_sort_as_instants() {
    let scene = Scene::new().await;
    let visits = definition("visits", &["n"], vec![column_of("at", ColumnType::Timestamp)], &[]);
    let row = |n: u64, at: &str| {
        let mut row = Row::new(&visits.columns, parts(json!({"n": n})));
        row.columns[0] = Content::Single(Cell::public(json!(at)));
        row
    };
    let rows = [row(1, "2026-01-01T12:00:00Z"), row(2, "2026-01-01T12:30:00+01:00"), row(3, "2026-01-01T11:45:00Z")];
    let generation = scene.put(&visits, &rows).await;
    let reader = scene.reader(QueryOptions::default());
    let query = RowQuery { sort: sort(&["at"]), ..RowQuery::default() };
    let page = reader.rows(&live(&visits, generation), &query, &viewer(Purposes::None)).await.unwrap();
    assert_eq!(number(&page), [2, 3, 1]);
}

#[tokio::test]
async fn pages_are_complete_and_say_nothing_twice() {
    let mut scene = Scene::new().await;
    let contacts = contacts();
    let ada = scene.person("Ada", &["general"]).await;
    // Ties everywhere, and every third one sealed.
    let name = |n: u64| match n % 3 {
        0 => owned(format!("name {}", n % 5), &[way("general", &[ada])]),
        _ => Cell::public(json!(format!("name {}", n % 5))),
    };
    let rows: Vec<Row> = (0..57).map(|n| contact(&contacts, "a1", n, name(n))).collect();
    let generation = scene.put(&contacts, &rows).await;
    let expected: BTreeSet<RowKey> = rows.iter().map(|row| RowKey::of("contacts", &row.parts)).collect();
    let live = live(&contacts, generation);
    for (chunk, max_bytes) in [(3, usize::MAX), (1000, usize::MAX), (10, 600)] {
        let reader = scene.reader(QueryOptions { chunk, max_bytes, ..QueryOptions::default() });
        for order in [&[][..], &["name"], &["-name", "account"], &["n"]] {
            for purposes in [Purposes::All, Purposes::None] {
                let query = |after| RowQuery { sort: sort(order), limit: 4, after, ..RowQuery::default() };
                let (keys, pages) = all_pages(&reader, &live, query, &viewer(purposes)).await.unwrap();
                assert_eq!(keys.len(), 57, "{order:?}");
                assert_eq!(keys.iter().copied().collect::<BTreeSet<_>>(), expected);
                assert!(if max_bytes == usize::MAX { pages == 15 } else { pages > 15 }, "{pages}");
                assert!(!order.is_empty() || keys.is_sorted());
            }
        }
    }
}

#[tokio::test]
async fn one_row_by_its_key() {
    let (scene, contacts, generation, _) = people().await;
    let reader = scene.reader(QueryOptions::default());
    let key = |n: u64| Some(RowKey::of("contacts", &parts(json!({"account": "a1", "n": n}))));
    for (n, found) in [(2, 1), (9, 0)] {
        let query = RowQuery { key: key(n), ..RowQuery::default() };
        let page = reader.rows(&live(&contacts, generation), &query, &viewer(Purposes::All)).await.unwrap();
        assert_eq!((page.items.len(), page.next.is_none()), (found, true));
    }
}

#[tokio::test]
async fn a_query_looks_at_so_many_rows_and_no_more() {
    let (scene, contacts, generation, _) = people().await;
    let live = live(&contacts, generation);
    let sorted = RowQuery { sort: sort(&["name"]), ..RowQuery::default() };
    for (max_scan, chunk, allowed) in [(5, 1000, true), (4, 1000, false), (4, 2, false), (5, 1, true)] {
        let reader = scene.reader(QueryOptions { max_scan, chunk, ..QueryOptions::default() });
        let answer = reader.rows(&live, &sorted, &viewer(Purposes::None)).await;
        match answer {
            Ok(page) => assert!(allowed && page.items.len() == 5),
            Err(QueryError::TooBroad { examined }) => assert!(!allowed && examined > max_scan),
            Err(other) => panic!("{other}"),
        }
        // Without an order a page ends by itself.
        let plain = RowQuery { limit: 5, ..RowQuery::default() };
        assert_eq!(reader.rows(&live, &plain, &viewer(Purposes::None)).await.unwrap().items.len(), 5);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let (scene, contacts, generation, _) = people().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&contacts, generation);
    let refused = async |query: RowQuery| reader.rows(&live, &query, &viewer(Purposes::None)).await.err().unwrap();
    let sorted = refused(RowQuery { sort: sort(&["nme"]), ..RowQuery::default() }).await;
    assert!(matches!(sorted, QueryError::UnknownName { name } if name == "nme"));
    let many = refused(RowQuery { sort: sort(&["n"; 9]), ..RowQuery::default() }).await;
    assert!(matches!(many, QueryError::TooManySorts { limit: 8 }));
    let grouped = refused(RowQuery { group_by: vec!["account".into()], ..RowQuery::default() }).await;
    assert!(matches!(grouped, QueryError::NotAggregated));
    let stepped = refused(RowQuery { step: Some(60_000), ..RowQuery::default() }).await;
    assert!(matches!(stepped, QueryError::NotAggregated));
    let after =
        After { generation: GenerationId(99), key: RowKey([0; 16]), entry: Some(vec![]), offset: 0, before: None };
    let rebuilt = refused(RowQuery { after: Some(after), ..RowQuery::default() }).await;
    assert!(matches!(rebuilt, QueryError::Rebuilt));
}

#[tokio::test]
async fn looking_for_rows_that_did_not_stand_yet_is_limited() {
    let (scene, mut contacts, generation, _) = people().await;
    contacts.history = Some(1000);
    let live = live(&contacts, generation);
    // All rows are of later positions than this.
    let query = || RowQuery { before: Some(0), ..RowQuery::default() };
    for (max_scan, chunk, allowed) in [(100, 1000, true), (100, 1, true), (4, 2, false), (4, 1, false)] {
        let reader = scene.reader(QueryOptions { max_scan, chunk, ..QueryOptions::default() });
        match reader.rows(&live, &query(), &viewer(Purposes::None)).await {
            Ok(page) => assert!(allowed && page.items.is_empty()),
            Err(QueryError::TooBroad { examined }) => assert!(!allowed && examined >= max_scan),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn an_order_that_an_index_has_is_not_made_again() {
    let mut scene = Scene::new().await;
    let named = |name| {
        let columns = vec![column_of("at", ColumnType::Timestamp), column_of("stage", ColumnType::String)];
        definition(name, &["n"], columns, &[&["stage", "-at", "n"], &["-at"]])
    };
    let visits = named("visits");
    let offsets = ["Z", "+01:00", "-09:30"];
    let row = |n: u64| {
        let mut row = Row::new(&visits.columns, parts(json!({"n": n})));
        let at = format!("2026-01-01T{:02}:00:00{}", n % 7 + 10, offsets[n as usize % 3]);
        row.columns[0] = Content::Single(Cell::public(json!(at)));
        row.columns[1] = Content::Single(Cell::public(json!(format!("s{}", n % 2))));
        row
    };
    let mut rows: Vec<Row> = (0..60).map(row).collect();
    let generation = scene.put(&visits, &rows).await;
    let few = QueryOptions { max_scan: 12, chunk: 6, ..QueryOptions::default() };
    let filter = |text: &str| Some(Expression::compile(text, FILTER).unwrap());
    let cases = [(&["-at"][..], None), (&["-at"], Some("stage == 's1'")), (&["-at", "n"], Some("stage == 's1'"))];
    for (order, text) in cases {
        let query = |after| RowQuery {
            filter: text.and_then(filter),
            sort: sort(order),
            limit: 7,
            after,
            ..RowQuery::default()
        };
        let ask = async |options, generation| {
            all_pages(&scene.reader(options), &live(&visits, generation), query, &viewer(Purposes::All)).await
        };
        let (streamed, pages) = ask(few, generation).await.unwrap();
        assert_eq!(pages, if text.is_some() { 5 } else { 9 });
        let instants: Vec<Millis> = streamed
            .iter()
            .map(|key| rows.iter().find(|row| RowKey::of("visits", &row.parts) == *key).unwrap())
            .map(|row| Millis::parse_rfc3339(row.clear(&visits.columns)["at"].as_str().unwrap()).unwrap())
            .collect();
        assert!(instants.is_sorted_by(|one, next| one >= next), "{order:?} {instants:?}");
        assert_eq!(streamed.iter().collect::<BTreeSet<_>>().len(), if text.is_some() { 30 } else { 60 });
    }
    // Of a sealed value the index does not know the place.
    let ada = scene.person("Ada", &["general"]).await;
    rows[1].columns[0] = Content::Single(owned("2026-01-01T12:00:00Z", &[way("general", &[ada])]));
    let visits = named("other_visits");
    let generation = scene.put(&visits, &rows).await;
    let query = || RowQuery { filter: filter("stage == 's1'"), sort: sort(&["-at"]), ..RowQuery::default() };
    let live = live(&visits, generation);
    let broad = scene.reader(few).rows(&live, &query(), &viewer(Purposes::All)).await.err().unwrap();
    assert!(matches!(broad, QueryError::TooBroad { .. }));
    let page = scene.reader(QueryOptions::default()).rows(&live, &query(), &viewer(Purposes::All)).await.unwrap();
    assert_eq!(page.items.len(), 30);
    assert!(number(&page).iter().position(|n| *n == 1).unwrap() < 29, "it stands among the others");
}
