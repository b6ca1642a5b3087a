//! Leak hunt: definitions that try to launder a personal value. Each is refused, or whatever it makes is sealed.
//!
//! Owns: the proof, by non-interference. Two worlds are alike but for Ada's values: other text, other lengths, other truth,
//! other types, values for which an expression fails beside values for which it does not. Whoever may see nothing
//! personal gets the same answers in both, to the letter; once Ada is forgotten, so does everyone. What differs is a leak,
//! however it was derived. Beside that no value stands in any file, in any encoding.

mod definitions;
mod world;

use std::collections::BTreeMap;

use serde_json::{Value, json};

use definitions::{Attempt, Fate, LOOSE, REFUSED, SEALED, accepted, all};
use world::{ADA, World};

/// Answers by what was asked.
type Answers = BTreeMap<String, Vec<String>>;

/// What one world showed.
struct Seen {
    refusals: Answers,
    reader: Answers,
    before: Answers,
    forgotten: Answers,
    rebuilt: Answers,
}

#[test]
fn the_list_is_long_and_without_repetition() {
    let mut names: Vec<&str> = all().map(|attempt| attempt.name).collect();
    assert!(names.len() >= 100 && REFUSED.len() >= 40 && SEALED.len() >= 60 && LOOSE.len() >= 20);
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_laundered() {
    let (one, two) = tokio::join!(live_through(0), live_through(1));
    let mut leaks = Vec::new();
    let parts = [
        ("refusals", &one.refusals, &two.refusals),
        ("without purposes", &one.reader, &two.reader),
        ("after forgetting", &one.forgotten, &two.forgotten),
        ("after a rebuild", &one.rebuilt, &two.rebuilt),
        ("forgotten, rebuilt", &one.forgotten, &one.rebuilt),
    ];
    for (when, one, two) in parts {
        assert_eq!(one.keys().collect::<Vec<_>>(), two.keys().collect::<Vec<_>>());
        for (asked, answer) in one {
            leaks.extend(differing(answer, &two[asked]).map(|how| format!("{when}: {asked}: {how}")));
        }
    }
    assert!(leaks.is_empty(), "{} differ:\n{}", leaks.len(), leaks.join("\n"));
    // The values were there to be leaked.
    let mut idle = Vec::new();
    for attempt in SEALED.iter().chain(LOOSE).filter(|attempt| !attempt.is_fold()) {
        if !matches!(attempt.fate, Fate::Sealed(_)) || ["joint_all", "natural_key"].contains(&attempt.name) {
            continue;
        }
        // Too few people are in these to show anything.
        let grouped = attempt.name.starts_with("group_") || attempt.name == "loose_declassified";
        // Members of the event that are there in both worlds, ids that are the same.
        let alike = ["presence", "mapped_ids", "patched_presence"].contains(&attempt.name);
        let same = one.before[attempt.name] == two.before[attempt.name];
        if same != (grouped || alike) {
            idle.push(attempt.name);
        }
    }
    assert!(idle.is_empty(), "do these derive anything? {idle:?}");
}

fn differing(one: &[String], two: &[String]) -> Option<String> {
    let only =
        |a: &[String], b: &[String]| -> Vec<String> { a.iter().filter(|part| !b.contains(part)).cloned().collect() };
    (one != two).then(|| format!("{:?} / {:?}", only(one, two), only(two, one)).chars().take(600).collect())
}

async fn live_through(number: usize) -> Seen {
    let mut world = World::new(number).await;
    world.public_events().await;
    world.events(0).await;
    world.learn().await;
    let mut refusals = Answers::new();
    let mut wrong = Vec::new();
    for attempt in all() {
        let reply = world.define(attempt, 1).await;
        wrong.extend(check_defined(attempt, reply.status.as_u16(), &reply.text()));
        if reply.status != 201 {
            refusals.insert(attempt.name.to_owned(), world.normal(&reply.text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    world.events(1).await;
    world.events(2).await;
    world.settled().await;
    let reader = without_purposes(&world).await;
    let before = with_purposes(&world).await;
    assert_eq!(world.on_disk(), [""; 0], "while it runs");
    let forgotten = json!({"data_subject": ADA, "basis": "gdpr:A17-1-b"}).to_string();
    let done = world.dev("POST", "/v1/forget", forgotten).await.expect(200).json();
    assert_eq!(done["status"], "completed", "{done}");
    world.settled().await;
    let forgotten = everything(&world).await;
    for attempt in accepted().filter(|attempt| !attempt.is_fold()) {
        world.dev("POST", &format!("/v1/projections/{}/rebuilds", attempt.name), String::new()).await.expect(202);
    }
    world.settled().await;
    let rebuilt = everything(&world).await;
    world.process.terminate();
    assert_eq!(world.on_disk(), [""; 0], "after it stopped");
    Seen { refusals, reader, before, forgotten, rebuilt }
}

/// What is wrong with the answer to a definition.
fn check_defined(attempt: &Attempt, status: u16, text: &str) -> Option<String> {
    let Fate::Refused(code) = attempt.fate else {
        return (status != 201).then(|| format!("{}: {status} {text}", attempt.name));
    };
    let problem: Value = serde_json::from_str(text).unwrap();
    let codes: Vec<&str> =
        problem["errors"].as_array().into_iter().flatten().filter_map(|e| e["code"].as_str()).collect();
    let right = status == 422 && problem["code"] == "projection-invalid" && (code.is_empty() || codes.contains(&code));
    (!right).then(|| format!("{}: {status} {text}", attempt.name))
}

/// Everything that somebody without purposes gets, and that each derived column is withheld.
async fn without_purposes(world: &World) -> Answers {
    let canaries = world.canaries(None);
    let mut seen = Answers::new();
    let mut wrong = Vec::new();
    for attempt in accepted() {
        let name = attempt.name;
        if attempt.is_fold() {
            continue;
        }
        let rows = world.reader("GET", &format!("/v1/projections/{name}/rows?limit=100"), String::new()).await;
        let headers = format!("{:?}", rows.headers);
        let rows = rows.expect(200);
        wrong.extend(not_withheld(attempt, &rows.json()));
        let status = world.status(name).await;
        let right = match attempt.fate {
            Fate::Stalls(code) => status["cause"]["code"] == code,
            Fate::Parks => status["parked"].as_u64() > Some(0),
            _ => status["state"] == "running",
        };
        if !right {
            wrong.push(format!("{name}: {status}"));
        }
        let parked = world.reader("GET", &format!("/v1/projections/{name}/parked"), String::new()).await.expect(200);
        let mut answers = vec![rows.text(), status.to_string(), parked.text(), headers];
        if let Fate::Sealed(columns) = attempt.fate {
            answers.extend(asked_about(world, name, columns, &mut wrong).await);
        }
        let preview = json!({"definition": attempt.definition(1)}).to_string();
        let preview = world.reader("POST", "/v1/projections/previews", preview).await;
        if preview.status != 200 && preview.status != 403 {
            wrong.push(format!("{name}: preview {}", preview.text()));
        }
        answers.push(preview.text());
        let first = world.reader("GET", &format!("/v1/projections/{name}/rows?limit=1"), String::new()).await.text();
        for answer in answers.iter().chain([&first]) {
            let found: Vec<&String> = canaries.iter().filter(|canary| answer.contains(*canary)).collect();
            if !found.is_empty() {
                wrong.push(format!("{name}: {found:?} in {answer}"));
            }
        }
        answers.remove(3);
        seen.insert(name.to_owned(), answers.iter().flat_map(|answer| world.normal(answer)).collect());
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    seen
}

/// Derived columns of which not every cell with something in it is withheld.
fn not_withheld(attempt: &Attempt, page: &Value) -> Vec<String> {
    let Fate::Sealed(columns) = attempt.fate else { return Vec::new() };
    let items = page["items"].as_array().unwrap();
    let states = |column: &str| -> Vec<Value> {
        let all = items.iter().filter_map(|row| row["_redactions"].as_object()).flatten();
        let of = all.filter(|(path, _)| path.split('/').next() == Some(column));
        of.map(|(_, state)| state.clone()).collect()
    };
    let open = columns.iter().filter(|column| {
        let states = states(column);
        states.is_empty() || states.iter().any(|state| state != "withheld")
    });
    open.map(|column| format!("{}: {column} is not withheld: {page}", attempt.name)).collect()
}

/// Filters and orders by sealed columns, which decide nothing for this viewer.
async fn asked_about(world: &World, name: &str, columns: &[&str], wrong: &mut Vec<String>) -> Vec<String> {
    let mut answers = Vec::new();
    for column in columns {
        let mut orders = Vec::new();
        for sort in [(*column).to_owned(), format!("-{column}")] {
            let path = format!("/v1/projections/{name}/rows?limit=100&sort={sort}");
            let reply = world.reader("GET", &path, String::new()).await;
            answers.push(reply.text());
            orders.push(reply.json()["items"].clone());
        }
        if orders[0] != orders[1] {
            wrong.push(format!("{name}: the order by {column} tells something: {orders:?}"));
        }
        for filter in
            [format!("{column} == {column}"), format!("!({column} == null)"), format!("{column} == null || true")]
        {
            let body = json!({"filter": filter, "limit": 100}).to_string();
            answers.push(world.reader("POST", &format!("/v1/projections/{name}/queries"), body).await.text());
        }
        for filter in [format!("{column}+%3D%3D+%22a%22"), format!("size({column})+%3E+3")] {
            let path = format!("/v1/projections/{name}/rows?filter={filter}");
            let reply = world.reader("GET", &path, String::new()).await;
            let grouped = name.starts_with("group_") || name == "loose_declassified";
            if reply.status != 400 && !grouped {
                wrong.push(format!("{name}: a filter over {column} in the URL: {}", reply.text()));
            }
            answers.push(reply.text());
        }
    }
    answers
}

async fn with_purposes(world: &World) -> Answers {
    let mut seen = Answers::new();
    for attempt in accepted().filter(|attempt| !attempt.is_fold()) {
        let rows = world.dev("GET", &format!("/v1/projections/{}/rows?limit=100", attempt.name), String::new()).await;
        seen.insert(attempt.name.to_owned(), world.normal(&rows.expect(200).text()));
    }
    seen
}

/// Everything that somebody who may see everything gets, in every format.
async fn everything(world: &World) -> Answers {
    let canaries = world.canaries(Some(ADA));
    let mut seen = Answers::new();
    let mut wrong = Vec::new();
    let mut keep = |asked: String, text: &str| {
        let found: Vec<&String> = canaries.iter().filter(|canary| text.contains(*canary)).collect();
        if !found.is_empty() {
            wrong.push(format!("{asked}: {found:?} in {text}"));
        }
        seen.insert(asked, world.normal(text));
    };
    for attempt in accepted().filter(|attempt| !attempt.is_fold()) {
        let name = attempt.name;
        for accept in ["application/json", "application/x-ndjson", "text/csv"] {
            keep(format!("{name} {accept}"), &world.rows_as(name, accept).await.expect(200).text());
        }
        let body = json!({"sort": "_position", "limit": 100}).to_string();
        keep(
            format!("{name} query"),
            &world.dev("POST", &format!("/v1/projections/{name}/queries"), body).await.text(),
        );
        keep(format!("{name} live"), &world.live(name).await);
        let parked = world.dev("GET", &format!("/v1/projections/{name}/parked"), String::new()).await.text();
        // What a timer could not emit is put aside when the clock says so, and the row may have changed by then.
        let emits = name.starts_with("loose_due");
        keep(format!("{name} parked"), if emits { "" } else { &parked });
        let preview = json!({"definition": attempt.definition(1)}).to_string();
        keep(
            format!("{name} preview"),
            &world.dev("POST", "/v1/projections/previews", preview).await.expect(200).text(),
        );
        let mut status = world.status(name).await;
        if let Some(members) = status.as_object_mut() {
            members.retain(|member, _| !["last_rebuild", "rebuild"].contains(&member.as_str()));
            if emits {
                members.remove("parked");
            }
        }
        keep(format!("{name} status"), &status.to_string());
    }
    let metrics = world.dev("GET", "/metrics", String::new()).await.text();
    let found: Vec<&String> = canaries.iter().filter(|canary| metrics.contains(*canary)).collect();
    assert!(found.is_empty(), "{found:?} in the metrics");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    seen
}
