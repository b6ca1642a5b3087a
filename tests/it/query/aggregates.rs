//! Aggregates: merged, finished, and never of too few.

use oubliette::projection::aggregate::Partial;
use oubliette::projection::definition::{Aggregate, AggregateFunction, Declassify, Window};

use super::*;

const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;

pub fn aggregate(name: &str, function: AggregateFunction, min_group: Option<u32>) -> Aggregate {
    let declassify = min_group.map(|min_group| Declassify { reason: "statistics".into(), min_group });
    Aggregate { name: name.into(), function, value: None, declassify }
}

pub fn state(function: AggregateFunction, values: &[Value]) -> Value {
    let mut state = Partial::new(&function);
    for value in values {
        state.add(Some(value)).unwrap();
    }
    state.to_json()
}

/// The definition of `aggregates`, with windows of five minutes and of an hour if asked for.
pub fn grouped(name: &str, parts: &[&str], list: Vec<Aggregate>, windowed: bool) -> Definition {
    let columns = list.iter().map(|aggregate| column_of(&aggregate.name, ColumnType::Json)).collect();
    let mut made = definition(name, parts, columns, &[&["region"]]);
    let scope = Scope { roots: &[Root::Data], fold: false, bare: false };
    let by = Expression::compile("data.at", scope).unwrap();
    let kept = Window { by, size: 5 * MINUTE, late: None, keep: None, rollup: vec![HOUR] };
    if let Kind::Rows { aggregates, window, .. } = &mut made.kind {
        *aggregates = list;
        *window = windowed.then_some(kept);
    }
    made
}

/// Speeds of two lines in the north and one in the south: three windows of five minutes, and their hours.
pub async fn speeds() -> (Scene, Definition, GenerationId) {
    use AggregateFunction::{Avg, Count};
    let scene = Scene::new().await;
    let list = vec![aggregate("speed", Avg, None), aggregate("n", Count, None)];
    let speeds = grouped("speeds", &["line", "region"], list, true);
    let mut rows = Vec::new();
    for (region, line, speed) in [("north", "1", 10), ("north", "2", 30), ("south", "3", 50)] {
        for (start, window, events) in [
            ("08:00", "PT5M", 1),
            ("08:05", "PT5M", 2),
            ("09:00", "PT5M", 1),
            ("08:00", "PT1H", 3),
            ("09:00", "PT1H", 1),
        ] {
            let start = format!("2026-11-21T{start}:00.000Z");
            let key = json!({"region": region, "line": line, "window_start": start, "window": window});
            let mut row = Row::new(&speeds.columns, parts(key));
            row.columns[0] = Content::Single(Cell::public(state(Avg, &vec![json!(speed); events])));
            row.columns[1] = Content::Single(Cell::public(state(Count, &vec![json!(true); events])));
            row.position = events as u64;
            rows.push(row);
        }
    }
    let generation = scene.put(&speeds, &rows).await;
    (scene, speeds, generation)
}

fn without_key(rows: &RenderedRows) -> Vec<Value> {
    let mut all = items(rows);
    for item in &mut all {
        item.as_object_mut().unwrap().retain(|name, _| !name.starts_with("_key") && name != "_position");
    }
    all
}

#[tokio::test]
async fn the_smallest_windows_are_listed() {
    let (scene, speeds, generation) = speeds().await;
    let reader = scene.reader(QueryOptions { chunk: 2, ..QueryOptions::default() });
    let query = |after| RowQuery { limit: 2, after, ..RowQuery::default() };
    let live = live(&speeds, generation);
    let (keys, _) = all_pages(&reader, &live, query, &viewer(Purposes::None)).await.unwrap();
    assert_eq!(keys.len(), 9);
    let by_key = RowQuery { key: Some(keys[0]), ..RowQuery::default() };
    let page = reader.rows(&live, &by_key, &viewer(Purposes::None)).await.unwrap();
    assert_eq!(items(&page)[0]["window"], "PT5M");
    let sorted = RowQuery { sort: sort(&["-speed", "window_start"]), limit: 4, ..RowQuery::default() };
    let page = reader.rows(&live, &sorted, &viewer(Purposes::None)).await.unwrap();
    assert_eq!(column(&page, "speed"), [json!(50.0), json!(50.0), json!(50.0), json!(30.0)]);
    let query = |after| RowQuery { after, ..RowQuery { sort: sort(&["-speed"]), limit: 2, ..RowQuery::default() } };
    assert_eq!(all_pages(&reader, &live, query, &viewer(Purposes::None)).await.unwrap().0.len(), 9);
}

#[tokio::test]
async fn steps_and_groups_are_merged() {
    let (scene, speeds, generation) = speeds().await;
    let reader = scene.reader(QueryOptions { chunk: 2, ..QueryOptions::default() });
    let live = live(&speeds, generation);
    let ask = async |query: RowQuery| reader.rows(&live, &query, &viewer(Purposes::None)).await;
    let north = json!({"region": "north", "window_start": "2026-11-21T08:00:00.000Z", "speed": 20.0, "n": 8});
    let south = json!({"region": "south", "window_start": "2026-11-21T08:00:00.000Z", "speed": 50.0, "n": 4});
    let by_region = || RowQuery { group_by: vec!["region".into()], ..RowQuery::default() };
    let page = ask(RowQuery { step: Some(2 * HOUR), ..by_region() }).await.unwrap();
    assert_eq!(without_key(&page), [north, south]);
    let page = ask(RowQuery { step: Some(HOUR), ..by_region() }).await.unwrap();
    assert_eq!(column(&page, "n"), [6, 2, 3, 1]);
    let page = ask(RowQuery { step: Some(10 * MINUTE), ..RowQuery::default() }).await.unwrap();
    assert_eq!(column(&page, "n"), [3, 1, 3, 1, 3, 1]);
    assert_eq!(column(&page, "line"), ["1", "1", "2", "2", "3", "3"]);
    let page = ask(RowQuery { sort: sort(&["-n"]), ..by_region() }).await.unwrap();
    assert_eq!(without_key(&page)[0], json!({"region": "north", "speed": 20.0, "n": 8}));
    let refused = ask(RowQuery { step: Some(7 * MINUTE), ..RowQuery::default() }).await.err().unwrap();
    assert!(matches!(refused, QueryError::StepNotKept { kept } if kept == [5 * MINUTE, HOUR]));
    let refused = ask(RowQuery { group_by: vec!["town".into()], ..RowQuery::default() }).await.err().unwrap();
    assert!(matches!(refused, QueryError::UnknownName { .. }));
    let few = scene.reader(QueryOptions { max_groups: 1, ..QueryOptions::default() });
    let refused = few.rows(&live, &by_region(), &viewer(Purposes::None)).await.err().unwrap();
    assert!(matches!(refused, QueryError::TooBroad { .. }));
}

/// Salaries: four people in the north over two offices (Dan in both), two in the south.
async fn salaries() -> (Scene, Definition, GenerationId, Vec<SubjectRef>) {
    let mut scene = Scene::new().await;
    let list = vec![aggregate("total", AggregateFunction::Sum, Some(3))];
    let salaries = grouped("salaries", &["office", "region"], list, false);
    let mut people = Vec::new();
    for name in ["ada", "bob", "cleo", "dan", "eve", "fay"] {
        people.push(scene.person(name, &["payroll"]).await);
    }
    let row = |region: &str, office: &str, who: &[usize]| {
        let mut row = Row::new(&salaries.columns, parts(json!({"region": region, "office": office})));
        let share = |n: &usize| {
            let cell = owned(state(AggregateFunction::Sum, &[json!(1000 + n)]), &[way("payroll", &[people[*n]])]);
            (people[*n].to_string(), cell)
        };
        row.columns[0] = Content::Map(who.iter().map(share).collect());
        row
    };
    let rows = [row("north", "x", &[0, 1, 3]), row("north", "y", &[2, 3]), row("south", "z", &[4, 5])];
    let generation = scene.put(&salaries, &rows).await;
    (scene, salaries, generation, people)
}

#[tokio::test]
async fn a_result_over_people_is_shown_to_anybody_and_of_too_few_to_nobody() {
    let (scene, salaries, generation, people) = salaries().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&salaries, generation);
    let by_region = || RowQuery { group_by: vec!["region".into()], ..RowQuery::default() };
    for purposes in [Purposes::None, Purposes::All] {
        let page = reader.rows(&live, &by_region(), &viewer(purposes)).await.unwrap();
        let expected = [
            json!({"region": "north", "total": 5009}),
            json!({"region": "south", "total": null, "_redactions": {"total": "withheld"}}),
        ];
        assert_eq!(without_key(&page), expected);
        drop(scene.leases.revoke(people[0]));
        assert!(page.lease.check().is_err(), "whoever is in a result is on the page");
    }
    assert!(scene.access().await.is_empty());
    let by_office = RowQuery { sort: sort(&["office"]), ..RowQuery::default() };
    let page = reader.rows(&live, &by_office, &viewer(Purposes::All)).await.unwrap();
    assert_eq!(column(&page, "total"), [json!(3004), Value::Null, Value::Null]);
    let csv = reader.rows(&live, &by_region(), &viewer(Purposes::None)).await.unwrap().csv(true);
    assert!(String::from_utf8(csv).unwrap().starts_with("_key,region,total,total__redacted\r\n"));
}

#[tokio::test]
async fn the_forgotten_leave_a_result_and_are_counted() {
    let (scene, salaries, generation, people) = salaries().await;
    let reader = scene.reader(QueryOptions::default());
    let live = live(&salaries, generation);
    let by_region = || RowQuery { group_by: vec!["region".into()], ..RowQuery::default() };
    scene.fence(people[0], &[]).await;
    let page = reader.rows(&live, &by_region(), &viewer(Purposes::None)).await.unwrap();
    assert_eq!(without_key(&page)[0], json!({"region": "north", "total": 4009, "_redacted_count": {"total": 1}}));
    assert_eq!(page.epoch, 1);
    // Dan stands in two rows and is one person: with him gone, two are left.
    scene.fence(people[3], &[]).await;
    let page = reader.rows(&live, &by_region(), &viewer(Purposes::None)).await.unwrap();
    assert_eq!(without_key(&page)[0]["total"], Value::Null);
    assert_eq!(without_key(&page)[0]["_redactions"], json!({"total": "withheld"}));
}

#[tokio::test]
async fn shares_of_several_people_do_not_make_a_group_larger() {
    let mut scene = Scene::new().await;
    let list = vec![aggregate("total", AggregateFunction::Sum, Some(3))];
    let joint = grouped("joint", &["region"], list, false);
    let (ada, bob) = (scene.person("ada", &["payroll"]).await, scene.person("bob", &["payroll"]).await);
    let mut row = Row::new(&joint.columns, parts(json!({"region": "north"})));
    let share = |people: &[SubjectRef]| owned(state(AggregateFunction::Sum, &[json!(1)]), &[way("payroll", people)]);
    let key = |people: &[SubjectRef]| people.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let shares: [&[SubjectRef]; 3] = [&[ada], &[bob], &[ada, bob]];
    row.columns[0] = Content::Map(shares.iter().map(|people| (key(people), share(people))).collect());
    let generation = scene.put(&joint, &[row]).await;
    let reader = scene.reader(QueryOptions::default());
    let page = reader.rows(&live(&joint, generation), &RowQuery::default(), &viewer(Purposes::None)).await.unwrap();
    assert_eq!(items(&page)[0]["_redactions"], json!({"total": "withheld"}));
}
