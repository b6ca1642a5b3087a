//! The commands on projections, through the real binary: what they print, how they end, what they leave behind.

use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::{Child, oubliette};

/// A server and a directory with a small CRM.
struct Shop {
    child: Child,
    dir: TempDir,
}

const CONTACTS: &str = "projection: contacts
version: 1
from: {types: [contact-created]}
key: {contact: subject.contact}
columns: {name: string, city: string}
handle: {contact-created: {upsert: {name: data.name, city: data.city}}}
indexes: [[city, name]]
";

fn write(dir: &Path, name: &str, text: &str) {
    let path = dir.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn system(dir: &Path) {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {"contact_id": {"type": "string"}, "city": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    write(dir, "crm/schemas/contact-created.json", &schema.to_string());
    write(dir, "crm/projections.yaml", CONTACTS);
    write(dir, "crm/events.ndjson", "{}\n");
    write(dir, "crm/expected/contacts.yaml", "- {}\n");
}

impl Shop {
    fn open() -> Self {
        let dir = tempfile::tempdir().unwrap();
        system(dir.path());
        Self { child: Child::dev(dir.path()), dir }
    }

    fn output(&self, arguments: &[&str]) -> Output {
        let mut command = oubliette(self.dir.path(), arguments);
        let server = format!("http://{}", self.child.address);
        command.env("OUBLIETTE_SERVER", server).env("OUBLIETTE_API_KEY", "dev").output().unwrap()
    }

    /// What a command that succeeds prints.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", told(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// What a command that ends with this code complains about.
    #[track_caller]
    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", told(&output));
        told(&output)
    }

    fn append(&self, person: &str, name: &str, city: &str) -> u64 {
        let data = json!({"contact_id": person, "name": name, "city": city}).to_string();
        let stream = format!("contact-{person}");
        let answer = self.run(&["append", &stream, "--type", "contact-created", "--data", &data]);
        lines(&answer)[0]["position"].as_u64().unwrap()
    }
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

fn plans(text: &str) -> Vec<String> {
    lines(text).iter().map(|row| format!("{} {} {}", row["kind"], row["name"], row["plan"]).replace('"', "")).collect()
}

#[test]
fn a_directory_is_planned_then_applied_then_left_alone() {
    let shop = Shop::open();
    let wanted = ["schema contact-created create", "projection contacts create"];
    assert_eq!(plans(&shop.run(&["apply", "-f", "crm", "--dry-run"])), wanted);
    assert_eq!(shop.run(&["projection", "ls"]), "", "a dry run changes nothing");
    assert_eq!(plans(&shop.run(&["apply", "-f", "crm"])), wanted);
    let again = ["schema contact-created unchanged", "projection contacts unchanged"];
    assert_eq!(plans(&shop.run(&["apply", "-f", "crm"])), again);
    // A change without a greater version is a conflict, and nothing of the plan is done.
    let dir = shop.dir.path();
    write(dir, "crm/schemas/other-made.json", r#"{"type":"object"}"#);
    write(dir, "crm/projections.yaml", &CONTACTS.replace("city: data.city", "city: upper(data.city)"));
    let said = shop.fails(4, &["apply", "-f", "crm"]);
    assert!(said.contains("set `version: 2`") && said.contains("nothing was changed"), "{said}");
    shop.fails(3, &["schema", "show", "other-made"]);
    let changed = CONTACTS.replace("city: data.city", "city: upper(data.city)").replace("version: 1", "version: 2");
    write(dir, "crm/projections.yaml", &changed);
    let wanted = ["schema contact-created unchanged", "schema other-made create", "projection contacts change"];
    assert_eq!(plans(&shop.run(&["apply", "-f", "crm"])), wanted);
    // An incompatible schema is told before anything is done.
    write(dir, "crm/schemas/contact-created.json", r#"{"type":"string"}"#);
    assert!(shop.fails(4, &["apply", "-f", "crm"]).contains("schema contact-created"));
    let explained = shop.run(&["apply", "-f", "crm", "--explain"]);
    assert!(explained.contains("-X PUT") && explained.contains("$OUBLIETTE_API_KEY"), "{explained}");
}

#[test]
fn definitions_are_applied_looked_at_and_removed() {
    let shop = Shop::open();
    shop.run(&["apply", "-f", "crm/schemas"]);
    let cities = "projection: cities\nversion: 1\nfrom: {types: [contact-created]}\nkey: {city: data.city}\naggregate: \
                  {people: count()}\n";
    write(shop.dir.path(), "two.yaml", &format!("{CONTACTS}---\n{cities}"));
    let done = lines(&shop.run(&["projection", "apply", "two.yaml"]));
    assert_eq!(done[0]["action"], "created");
    assert_eq!(lines(&shop.run(&["projection", "apply", "two.yaml"]))[1]["action"], "unchanged");
    assert_eq!(lines(&shop.run(&["projection", "ls"])).len(), 2);
    let shown = shop.run(&["projection", "show", "contacts", "-o", "table"]);
    assert!(shown.contains("projection: contacts") && shown.contains("contact-created#/name"), "{shown}");
    let name = shown.lines().find(|line| line.starts_with("name ")).unwrap();
    assert!(name.contains("yes") && name.contains("contact") && name.contains("general"), "{name}");
    // Refused, with every reason.
    write(shop.dir.path(), "bad.yaml", &CONTACTS.replace("subject.contact", "data.name").replace("contacts", "bad"));
    let said = shop.fails(1, &["projection", "apply", "bad.yaml"]);
    assert!(said.contains("projection-invalid") && said.contains("/key/contact"), "{said}");
    let said = shop.fails(1, &["projection", "preview", "bad.yaml", "-o", "table"]);
    assert!(said.contains("personal-data-in-key"), "{said}");
    assert!(shop.fails(2, &["projection", "apply", "crm/events.ndjson"]).contains("document 1"));
    shop.fails(2, &["projection", "apply", "nowhere.yaml"]);
    shop.run(&["projection", "rm", "cities"]);
    shop.fails(3, &["projection", "show", "cities"]);
    shop.fails(3, &["projection", "rm", "cities"]);
}

#[test]
fn rows_are_queried_in_every_format_and_forgotten() {
    let shop = Shop::open();
    shop.run(&["apply", "-f", "crm"]);
    shop.append("p7", "Ada King", "London");
    let last = shop.append("p8", "Bob \"B\" Ray", "Oslo").to_string();
    let query = |more: &[&str]| shop.run(&[&["projection", "query", "contacts", "--at-least", &last], more].concat());
    assert_eq!(lines(&query(&["--sort", "-name"]))[0]["name"], "Bob \"B\" Ray");
    // A filter over a personal column goes in the body.
    assert_eq!(lines(&query(&["--filter", "name == 'Ada King'"])).len(), 1);
    assert_eq!(lines(&query(&["--limit", "1", "--fields", "city"])).len(), 1);
    let json: Value = serde_json::from_str(&query(&["-o", "json"])).unwrap();
    assert_eq!(json.as_array().unwrap().len(), 2);
    let table = query(&["-o", "table", "--sort", "city"]);
    assert!(table.lines().count() == 3 && table.contains("London") && !table.contains("_position"), "{table}");
    let csv = query(&["-o", "csv", "--sort", "city"]);
    assert!(csv.lines().next().unwrap().contains("name__redacted"), "{csv}");
    assert!(csv.contains("\"Bob \"\"B\"\" Ray\""), "{csv}");
    let preview = shop.run(&["projection", "preview", "crm/projections.yaml", "-o", "table", "--limit", "50"]);
    assert!(preview.contains("contact-created#/name") && preview.contains("Ada King"), "{preview}");
    shop.run(&["forget", "p7", "--dry-run"]);
    let request = lines(&shop.run(&["forget", "p7", "--dry-run"]))[0].clone();
    let (id, digest) = (request["id"].as_str().unwrap(), request["preview"]["digest"].as_str().unwrap());
    shop.run(&["forget", "--request", id, "--approve", digest]);
    let rows = query(&["--sort", "city"]);
    assert!(lines(&rows)[0]["name"] == "[erased]" && !rows.contains("Ada"), "{rows}");
    // What cannot be answered says so, and how.
    assert!(shop.fails(1, &["projection", "query", "contacts", "--filter", "name =="]).contains("invalid-filter"));
    let far = ["projection", "query", "contacts", "--at-least", "9999", "--wait", "0"];
    assert!(shop.fails(6, &far).contains("projection-behind"));
    shop.fails(3, &["projection", "query", "nobody"]);
}

#[test]
fn rebuilds_pauses_and_status() {
    let shop = Shop::open();
    shop.run(&["apply", "-f", "crm"]);
    let last = shop.append("p7", "Ada King", "London").to_string();
    shop.run(&["projection", "query", "contacts", "--at-least", &last]);
    let diff = lines(&shop.run(&["projection", "rebuild", "contacts"]));
    assert_eq!((&diff[0]["compared"], &diff[0]["changed"]), (&json!(1), &json!(0)));
    let shown = shop.run(&["projection", "diff", "contacts", "-o", "table"]);
    assert_eq!(shown, "1 rows compared: 0 added, 0 removed, 0 changed\n");
    assert_eq!(lines(&shop.run(&["projection", "status", "contacts"]))[0]["rows"], 1);
    assert_eq!(lines(&shop.run(&["projection", "status"])).len(), 1);
    shop.run(&["projection", "pause", "contacts"]);
    let said = shop.output(&["projection", "rebuild", "contacts", "--detach"]);
    assert!(said.status.success() && told(&said).contains("projection diff contacts"), "{}", told(&said));
    assert!(shop.fails(4, &["projection", "rebuild", "contacts"]).contains("rebuild-in-progress"));
    assert!(shop.run(&["projection", "diff", "contacts", "-o", "table"]).starts_with("rebuild contacts  ["));
    shop.run(&["projection", "resume", "contacts"]);
    assert_eq!(shop.run(&["projection", "parked", "contacts"]), "");
    shop.fails(3, &["projection", "rebuild", "nobody"]);
}

#[test]
fn events_that_stop_a_projection_are_named() {
    let shop = Shop::open();
    shop.run(&["apply", "-f", "crm/schemas"]);
    let picky = CONTACTS.replace("city: data.city", "city: \"data.city + '!'\"");
    write(shop.dir.path(), "stop.yaml", &picky);
    write(shop.dir.path(), "park.yaml", &format!("{}on_error: park\n", picky.replace("contacts", "parked")));
    shop.run(&["projection", "apply", "stop.yaml"]);
    shop.run(&["projection", "apply", "park.yaml"]);
    let data = r#"{"contact_id":"p1","name":"Ada"}"#;
    let answer = shop.run(&["append", "contact-1", "--type", "contact-created", "--data", data]);
    let position = lines(&answer)[0]["position"].to_string();
    let said = shop.fails(6, &["projection", "query", "contacts", "--at-least", &position]);
    assert!(said.contains("projection-stalled") && said.contains(&format!("stopped at position {position}")), "{said}");
    shop.run(&["projection", "query", "parked", "--at-least", &position]);
    let parked = lines(&shop.run(&["projection", "parked", "parked"]));
    assert_eq!(parked[0]["position"].to_string(), position);
}

const TESTS: &str = "test: a forgotten contact has no name
schemas: crm/schemas
projections: crm/projections.yaml
given:
  - {stream: contact-7, type: contact-created, data: {contact_id: p7, name: Ada King, city: London}}
  - {stream: contact-8, type: contact-created, data: {contact_id: p8, name: Bob Ray}}
  - {forget: p7}
  - {stream: contact-7, type: contact-created, data: {contact_id: p7, name: Ada King}, refused: data-subject-erased}
then:
  - {projection: contacts, rows: [{name: Bob Ray}, {name: '[erased]', city: London}]}
  - {projection: contacts, filter: city == 'London', includes: [{name: '[erased]'}]}
---
test: names are no keys
schemas: crm/schemas
projections: bad.yaml
then:
  - {projection: bad, refused: personal-data-in-key}
---
test: an event without a city stops it
schemas: crm/schemas
projections: picky.yaml
given:
  - {stream: contact-7, type: contact-created, data: {contact_id: p7, name: Ada King}}
then:
  - {projection: contacts, stopped: cel-error}
";

#[test]
fn tests_run_on_servers_that_are_gone_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = dir.path().join("temporary");
    std::fs::create_dir(&temporary).unwrap();
    system(dir.path());
    write(dir.path(), "bad.yaml", &CONTACTS.replace("subject.contact", "data.name").replace("contacts", "bad"));
    write(dir.path(), "picky.yaml", &CONTACTS.replace("city: data.city", "city: \"data.city + '!'\""));
    write(dir.path(), "crm.test.yaml", TESTS);
    let run = |arguments: &[&str]| oubliette(dir.path(), arguments).env("TMPDIR", &temporary).output().unwrap();
    let output = run(&["test"]);
    assert!(output.status.success(), "{}", told(&output));
    let results = lines(&String::from_utf8(output.stdout).unwrap());
    assert!(results.len() == 3 && results.iter().all(|result| result["passed"] == true), "{results:?}");
    // A test that fails says what is different, and nothing stays either way.
    write(dir.path(), "fails.test.yaml", &TESTS.replace("name: Bob Ray}, {", "name: Bob Roy}, {"));
    let output = run(&["test", "fails.test.yaml", "-o", "table"]);
    assert_eq!(output.status.code(), Some(1), "{}", told(&output));
    let said = told(&output);
    assert!(said.contains("FAIL  a forgotten contact has no name  (fails.test.yaml)"), "{said}");
    assert!(said.contains(r#"name: expected "Bob Roy", found "Bob Ray""#), "{said}");
    assert!(said.contains("1 of 3 tests failed"), "{said}");
    write(dir.path(), "typo.test.yaml", "then: [{projection: contacts, row: []}]");
    assert_eq!(run(&["test", "typo.test.yaml"]).status.code(), Some(2));
    assert_eq!(run(&["test", "temporary"]).status.code(), Some(2));
    let left: Vec<_> = std::fs::read_dir(&temporary).unwrap().flatten().map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn every_example_system_is_applied_to_one_server() {
    let shop = Shop::open();
    let systems = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systems");
    let mut found: Vec<_> = std::fs::read_dir(systems).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.is_dir());
    found.sort();
    assert!(found.len() >= 5);
    for path in found {
        let path = path.to_str().unwrap();
        let first = plans(&shop.run(&["apply", "-f", path]));
        assert!(first.iter().any(|plan| plan.starts_with("projection") && plan.ends_with("create")), "{first:?}");
        let again = plans(&shop.run(&["apply", "-f", path]));
        assert!(again.iter().all(|plan| plan.ends_with("unchanged")), "{again:?}");
    }
}
