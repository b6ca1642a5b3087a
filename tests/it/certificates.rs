//! Erasure certificates: what they state, that they hold without the server, and that nothing else passes for one. Two
//! verifiers look at each: the product's, and a second one in Python that was written from `docs/formats.md`.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use oubliette::erasure::certificate;
use oubliette::event::SubjectRef;
use serde_json::{Value, json};

use crate::api;
use crate::child::{Child, oubliette};
use crate::erasure::{approve, contact, open, pay, register};
use crate::harness::{Server, send};
use crate::vectors::python;

const SECOND_VERIFIER: &str = "tests/it/vectors/verify_certificate.py";

async fn vkey(server: &Server) -> String {
    server.get("/.well-known/oubliette-audit-keys").await.expect(200).text().trim().to_owned()
}

async fn certificate_of(server: &Server, request: &Value) -> String {
    let path = format!("/v1/forget-requests/{}/certificate", request.as_str().unwrap());
    let reply = server.get(&path).await.expect(200);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.text()
}

/// The pseudonym of a person who is still known.
async fn pseudonym(server: &Server, person: &str) -> SubjectRef {
    let found = server.post("/v1/data-subjects/lookups", &json!({"data_subject": person})).await.expect(200).json();
    SubjectRef::parse(found["data_subject"].as_str().unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_states_what_was_done_and_names_nobody() {
    let server = api::start().await;
    register(&server).await;
    pay(&server, "account-1", "ada", "ben").await;
    pay(&server, "account-1", "ada", "cleo").await;
    let subject = pseudonym(&server, "ada").await;
    let other = pseudonym(&server, "ben").await;
    let request = open(&server, "ada").await;
    let early = server.get(&format!("/v1/forget-requests/{}/certificate", request["id"].as_str().unwrap())).await;
    assert_eq!(
        (early.code(), early.json()["status_now"].as_str()),
        ("certificate-not-ready".into(), Some("previewed"))
    );
    let done = approve(&server, &request["id"], &request["preview"]["digest"]).await.expect(200).json();
    let text = certificate_of(&server, &request["id"]).await;
    let (certificate, checkpoint) = certificate::verify(&text, &vkey(&server).await).unwrap();
    let statement = &certificate.statement;
    assert_eq!(json!(statement.keys), done["destroyed"]["keys"]);
    assert_eq!(json!(statement.verification), done["verification"]);
    assert_eq!((statement.verification.opened, statement.purposes.as_ref(), statement.erasure), (0, None, 1));
    assert_eq!(Some(certificate.completed_at()), done["history"].as_array().unwrap().last().unwrap()["at"].as_str());
    assert!(statement.backups_effective_due > statement.fenced_at && statement.external_id_removed);
    assert!(certificate.is_about(subject) && !certificate.is_about(other));
    for name in ["ada", "ben", "Payer", &subject.to_string(), &hex::encode(subject.0), &other.to_string()] {
        assert!(!text.contains(name), "{name}");
    }
    assert!(checkpoint.size > 0);
    // The same statement later, under a newer checkpoint.
    contact(&server, "dora", "Dora").await.expect(201);
    let later = certificate_of(&server, &request["id"]).await;
    let (again, newer) = certificate::verify(&later, &vkey(&server).await).unwrap();
    assert!(again.statement == certificate.statement && newer.size > checkpoint.size);
    let missing = format!("fr_{}", "0".repeat(32));
    server.get(&format!("/v1/forget-requests/{missing}/certificate")).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partial_erasure_says_so() {
    let server = api::start().await;
    register(&server).await;
    pay(&server, "account-1", "ada", "ben").await;
    let wish = json!({"data_subject": "ada", "scope": {"purposes": ["marketing"]}});
    let request = server.post("/v1/forget-requests", &wish).await.expect(201).json();
    approve(&server, &request["id"], &request["preview"]["digest"]).await.expect(200);
    let server = api::restart(server).await;
    let text = certificate_of(&server, &request["id"]).await;
    let (certificate, _) = certificate::verify(&text, &vkey(&server).await).unwrap();
    assert_eq!(certificate.statement.purposes, Some(vec!["marketing".to_owned()]));
    let stated: Value = serde_json::from_str(&text).unwrap();
    assert!(stated["statement"]["residuals"].as_array().unwrap().contains(&json!("other-purposes")));
    assert!(!certificate.statement.external_id_removed);
}

/// Every place of a certificate changed in turn, parts of others put in, and two certificates mixed: neither verifier takes
/// any of five thousand.
#[tokio::test(flavor = "multi_thread")]
async fn no_forged_certificate_is_accepted() {
    let server = api::start().await;
    register(&server).await;
    for person in ["ada", "ben", "cleo"] {
        pay(&server, "account-1", person, "shop").await;
    }
    let mut good = Vec::new();
    for person in ["ada", "ben"] {
        let request = open(&server, person).await;
        approve(&server, &request["id"], &request["preview"]["digest"]).await.expect(200);
        good.push(certificate_of(&server, &request["id"]).await);
    }
    let key = vkey(&server).await;
    let forged = forgeries(&good);
    assert!(forged.len() >= 5000, "{}", forged.len());
    for text in &good {
        certificate::verify(text, &key).unwrap();
        certificate::verify(&format!("{text}\n"), &key).unwrap();
    }
    for text in &forged {
        assert!(certificate::verify(text, &key).is_err(), "{text}");
    }
    let other = api::start().await;
    assert!(certificate::verify(&good[0], &vkey(&other).await).is_err(), "another log's key");
    let verdicts = second_verifier(&key, good.iter().chain(&forged));
    if let Some(verdicts) = verdicts {
        assert_eq!(verdicts[..2], [true, true]);
        assert!(verdicts[2..].iter().all(|accepted| !accepted));
    }
}

fn forgeries(good: &[String]) -> Vec<String> {
    let mut forged = Vec::new();
    for (text, place) in good.iter().flat_map(|text| (0..text.len()).map(move |place| (text, place))) {
        let bytes = text.as_bytes();
        for change in [bytes[place] ^ 1, bytes[place].wrapping_add(1) & 0x7f] {
            let mut changed = bytes.to_vec();
            changed[place] = change;
            forged.extend(String::from_utf8(changed).ok());
        }
        let shorter = [&bytes[..place], &bytes[place + 1..]].concat();
        forged.extend(String::from_utf8(shorter).ok());
    }
    let parsed: Vec<Value> = good.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    for member in ["statement", "entry", "proof", "signature", "format"] {
        let mut mixed = parsed[0].clone();
        mixed[member] = parsed[1][member].clone();
        let mut without = parsed[0].clone();
        without.as_object_mut().unwrap().remove(member);
        let mut more = parsed[0].clone();
        more[format!("{member}2")] = json!(1);
        let all = [mixed, without, more].into_iter().map(|value| value.to_string());
        forged.extend(all.filter(|text| !good.contains(text)));
    }
    forged.push(serde_json::to_string_pretty(&parsed[0]).unwrap());
    forged.extend(["", "{}", "[]", "null"].map(str::to_owned));
    forged
}

/// What the second implementation says of each certificate; `None` where there is no Python for it.
fn second_verifier<'t>(key: &str, texts: impl Iterator<Item = &'t String>) -> Option<Vec<bool>> {
    let python = python()?;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("certificates.json");
    std::fs::write(&file, json!({"key": key, "certificates": texts.collect::<Vec<_>>()}).to_string()).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(SECOND_VERIFIER);
    let output = Command::new(python).arg(script).arg("--many").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn run(dir: &Path, server: Option<&Child>, arguments: &[&str]) -> Output {
    let mut command = oubliette(dir, arguments);
    if let Some(server) = server {
        command.env("OUBLIETTE_SERVER", format!("http://{}", server.address)).env("OUBLIETTE_API_KEY", "dev");
    }
    command.stdin(Stdio::null()).output().expect("the binary runs")
}

/// One request to a process of its own.
fn ask(child: &Child, method: &str, path: &str, body: &str) -> String {
    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json"), ("prefer", "wait=30")];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reply = runtime.block_on(send(child.address, method, path, &headers, body.to_owned().into()));
    assert!(reply.status.is_success(), "{}", reply.text());
    reply.text()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// As an auditor types it: certificate and proofs with files only, the store while nothing runs.
#[test]
fn an_auditor_needs_files_and_no_server() {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path();
    let child = Child::dev(at);
    let file = |name: &str, text: &[u8]| {
        std::fs::write(at.join(name), text).unwrap();
        at.join(name).display().to_string()
    };
    let fetch = |path: &str| ask(&child, "GET", path, "");
    let event = json!({"type": "note", "data": {"by": {"$personal": "Ada King", "subject": "person:41"}}});
    ask(&child, "POST", "/v1/streams/note-1/events", &event.to_string());
    let kept = file("kept.note", fetch("/v1/audit/checkpoint").as_bytes());
    let done = ask(&child, "POST", "/v1/forget", &json!({"data_subject": "person:41"}).to_string());
    let done: Value = serde_json::from_str(&done).unwrap();
    let request = done["id"].as_str().unwrap().to_owned();
    let keys = file("audit.keys", fetch("/.well-known/oubliette-audit-keys").as_bytes());
    let size = fetch("/v1/audit/checkpoint").lines().nth(1).unwrap().to_owned();
    let from = std::fs::read_to_string(&kept).unwrap().lines().nth(1).unwrap().to_owned();
    let proof = file("grown.json", fetch(&format!("/v1/audit/proofs/consistency?from={from}&to={size}")).as_bytes());
    let issued = run(at, Some(&child), &["certificate", &request]);
    assert!(issued.status.success(), "{}", said(&issued));
    let certificate = file("certificate.json", &issued.stdout);
    child.stop();

    let verified = run(at, None, &["verify", "certificate", &certificate, "--keys", &keys]);
    assert_eq!(verified.status.code(), Some(0), "{}", said(&verified));
    let verdict: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((&verdict["verified"], &verdict["slots_opened"]), (&json!(true), &json!(0)));
    let grown = run(at, None, &["verify", "consistency", &proof, "--since", &kept, "--keys", &keys]);
    assert_eq!(grown.status.code(), Some(0), "{}", said(&grown));
    let text = String::from_utf8(issued.stdout).unwrap();
    let changed = file("changed.json", text.replace("\"opened\":0", "\"opened\":1").as_bytes());
    let refused = run(at, None, &["verify", "certificate", &changed, "--keys", &keys]);
    assert_eq!(refused.status.code(), Some(7), "{}", said(&refused));
    assert!(said(&refused).contains("signature"), "{}", said(&refused));
    let somebody = format!("ds_{}", "0".repeat(32));
    let arguments = ["verify", "certificate", &certificate, "--keys", &keys, "--data-subject", &somebody];
    assert_eq!(run(at, None, &arguments).status.code(), Some(7));
    let swapped = run(at, None, &["verify", "consistency", &proof, "--since", &proof, "--keys", &keys]);
    assert_eq!(swapped.status.code(), Some(7), "{}", said(&swapped));

    let data = at.join("data").display().to_string();
    let store = run(at, None, &["verify", "--data-dir", &data]);
    assert_eq!(store.status.code(), Some(0), "{}", said(&store));
    let report: Value = serde_json::from_slice(&store.stdout).unwrap();
    assert_eq!((&report["verified"], &report["erased"]), (&json!(true), &json!(1)));
    let since = run(at, None, &["verify", "--data-dir", &data, "--since", &kept, "--keys", &keys]);
    assert_eq!(since.status.code(), Some(0), "{}", said(&since));
    let connection = rusqlite::Connection::open(at.join("data/events/events.db")).unwrap();
    connection
        .execute_batch("drop trigger events_keep; update events set recorded_ms = recorded_ms + 1 where position = 1")
        .unwrap();
    connection.close().unwrap();
    let tampered = run(at, None, &["verify", "--data-dir", &data]);
    assert_eq!(tampered.status.code(), Some(7), "{}", said(&tampered));
    assert!(said(&tampered).contains("event 1: the leaf is not that of the event"), "{}", said(&tampered));
}
