//! A world: one server, the real binary at log level trace, in which Ada has other values than in the other world.
//!
//! Owns: schemas, events, requests, and what of an answer may differ between worlds (pseudonyms, row keys, today's times).

use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::harness::{Reply, open, scan, send, try_send};
use crate::laundering::definitions::{Attempt, Fate, accepted};
use crate::leaks::Process;

/// Whose values differ between worlds.
pub const ADA: &str = "ada";
const PEOPLE: [&str; 3] = [ADA, "bob", "cleo"];

pub struct World {
    pub process: Process,
    /// Ada's values differ between 0 and 1: in text, length, type, truth and size.
    pub number: usize,
    reader: String,
    people: Vec<(String, String)>,
    today: String,
    /// Events appended.
    pub head: u64,
}

impl World {
    pub async fn new(number: usize) -> Self {
        let process = Process::start();
        let mut world = Self { process, number, reader: String::new(), people: vec![], today: String::new(), head: 0 };
        let issued = world.dev("POST", "/v1/api-keys", json!({"name": "r", "role": "reader"}).to_string()).await;
        world.reader = format!("Bearer {}", issued.expect(201).json()["secret"].as_str().unwrap());
        for (name, schema) in [("made", made()), ("paid", paid()), ("met", met())] {
            world.dev("POST", &format!("/v1/schemas/{name}/versions"), schema.to_string()).await.expect(201);
        }
        world
    }

    async fn send(&self, authorization: &str, method: &str, path: &str, accept: &str, body: String) -> Reply {
        let media = if body.starts_with('{') { "application/json" } else { "application/yaml" };
        let headers =
            [("authorization", authorization), ("content-type", media), ("accept", accept), ("prefer", "wait=30")];
        let body = Bytes::from(body);
        let asks = method == "GET" || path.ends_with("/queries") || path.ends_with("/previews");
        // An answer whose lease ran out is cut off, and a slow machine is slow enough for that now and then.
        for _ in 0..if asks { 5 } else { 0 } {
            if let Ok(reply) = try_send(self.process.address, method, path, &headers, body.clone()).await {
                return reply;
            }
        }
        send(self.process.address, method, path, &headers, body).await
    }

    /// A request of somebody who may see everything.
    pub async fn dev(&self, method: &str, path: &str, body: String) -> Reply {
        self.send("Bearer dev", method, path, "application/json", body).await
    }

    /// A request of somebody who may see nothing personal.
    pub async fn reader(&self, method: &str, path: &str, body: String) -> Reply {
        self.send(&self.reader, method, path, "application/json", body).await
    }

    /// All rows in another format.
    pub async fn rows_as(&self, name: &str, accept: &str) -> Reply {
        self.send("Bearer dev", "GET", &format!("/v1/projections/{name}/rows"), accept, String::new()).await
    }

    /// All rows as they are told to somebody who connects now.
    pub async fn live(&self, name: &str) -> String {
        let headers = [("authorization", "Bearer dev"), ("accept", "text/event-stream")];
        let path = format!("/v1/projections/{name}/rows");
        let response = open(self.process.address, "GET", &path, &headers, Bytes::new()).await.unwrap();
        let mut body = response.into_body();
        let mut text = String::new();
        while !text.contains("event: caught-up") {
            let frame = tokio::time::timeout(Duration::from_secs(30), body.frame()).await.unwrap().unwrap().unwrap();
            text.push_str(&String::from_utf8_lossy(frame.data_ref().unwrap()));
        }
        text
    }

    pub async fn append(&mut self, stream: &str, event: Value) {
        let reply = self.dev("POST", &format!("/v1/streams/{stream}/events"), event.to_string()).await.expect(201);
        let at = reply.json()["events"][0]["position"].as_u64();
        self.head = at.or_else(|| reply.json()["position"].as_u64()).unwrap_or_else(|| panic!("{}", reply.text()));
    }

    /// One round of events about everyone.
    pub async fn events(&mut self, round: usize) {
        for (n, who) in PEOPLE.iter().enumerate() {
            let partner = PEOPLE[(n + 1) % 3];
            let event = self.made(who, partner, round);
            self.append(&format!("person-{who}"), event).await;
            if round > 0 {
                let data = json!({"id": who, "cents": 5, "tag": "paid", "tip": self.number_of(who, round)});
                self.append(&format!("person-{who}"), json!({"type": "paid", "data": data})).await;
            }
        }
        for who in if round == 0 { &[][..] } else { &PEOPLE[..] } {
            let (text, number) = (self.text(who, "loose", round), self.number_of(who, round));
            let mark = |path: &str| json!({"path": path, "subject": who});
            let data = json!({"k": format!("k-{who}"), "at": "2001-01-01T00:00:00Z", "v": text, "i": number,
                "w": self.instant(who)});
            let event = json!({"type": "loose", "data": data, "personal_data": [mark("/v"), mark("/i"), mark("/w")]});
            self.append("loose-1", event).await;
            let data = json!({"account": "a1", "contact_name": format!("Zq{round}Natural{who}Vex")});
            self.append("met-1", json!({"type": "met", "data": data})).await;
        }
    }

    /// Nothing personal yet, under the keys that later bring it.
    pub async fn public_events(&mut self) {
        for who in PEOPLE {
            let data = json!({"k": format!("k-{who}"), "v": "plain", "i": 7, "w": "2090-01-01T00:00:00Z"});
            self.append("loose-1", json!({"type": "loose", "data": data})).await;
        }
    }

    fn made(&self, who: &str, partner: &str, round: usize) -> Value {
        let different = who == ADA && self.number == 1;
        let text = |what: &str| self.text(who, what, round);
        let diet = |guest: &str| self.text(guest, "diet", round);
        let guests: Vec<Value> = PEOPLE
            .iter()
            .filter(|guest| **guest != who)
            .map(|guest| json!({"gid": guest, "seat": 4, "diet": diet(guest)}))
            .collect();
        let mut home = json!({"street": text("street")});
        if !different {
            home["geo"] = json!({"lat": text("geo")});
        }
        let tags = if different { vec![text("tag")] } else { vec![text("tag"), "vegan".into(), text("more")] };
        let data = json!({"id": who, "partner_id": partner, "tag": "a", "n": round, "at": "2099-05-05T00:00:00Z",
            "name": text("name"), "nick": text("nick"), "pay": self.number_of(who, round), "pay_note": text("note"),
            "vip": if different { Value::Null } else { json!(true) },
            "born": self.born(who),
            "met": self.instant(who), "home": home, "guests": guests, "tags": tags, "taste": text("taste"),
            "words": [text("word"), if different { "ok" } else { "much longer" }],
            "essay": if different { "x".to_owned() } else { text("essay").repeat(1500) },
            // What two people own may be Ada's or not, and differs only where forgetting her must hide it.
            "both": text("both"), "either": format!("Zq{round}Either{who}Vex")});
        json!({"type": "made", "time": "2026-01-02T03:04:05Z", "actor": "clerk", "data": data})
    }

    /// A canary; in the other world Ada's are numbers in text, much shorter.
    fn text(&self, who: &str, what: &str, round: usize) -> String {
        match (who, self.number) {
            (ADA, 1) => format!("4{}", what.len() + round),
            _ => format!("Zq{round}{what}{who}Vex"),
        }
    }

    fn number_of(&self, who: &str, round: usize) -> i64 {
        match (who, self.number) {
            (ADA, 0) => 73_155_209_431 + round as i64,
            (ADA, _) => 12,
            (other, _) => 61_155_209_430 + other.len() as i64 + round as i64,
        }
    }

    fn born(&self, who: &str) -> &'static str {
        match (who, self.number) {
            (ADA, 0) => "1923-04-12",
            (ADA, _) => "1987-06-05",
            _ => "1949-11-03",
        }
    }

    fn instant(&self, who: &str) -> &'static str {
        match (who, self.number) {
            (ADA, 0) => "1931-07-08T09:10:11Z",
            (ADA, _) => "2077-12-31T23:00:00Z",
            _ => "1955-02-03T04:05:06Z",
        }
    }

    /// Values that must be in no file; of whom alone, if so asked.
    pub fn canaries(&self, of: Option<&str>) -> Vec<String> {
        let mut found = Vec::new();
        let what =
            ["name", "nick", "note", "street", "geo", "tag", "more", "taste", "word", "essay", "both", "diet", "loose"];
        for who in PEOPLE.into_iter().filter(|who| of.is_none_or(|of| of == *who)) {
            for round in 0..3 {
                for what in what {
                    let text = self.text(who, what, round);
                    found.extend([text.to_uppercase(), text.to_lowercase(), format!("a{text}"), text]);
                }
                found.push(self.number_of(who, round).to_string());
                found.push((self.number_of(who, round) * 2 + 5).to_string());
                if of.is_none() {
                    found.extend([format!("Zq{round}Either{who}Vex"), format!("Zq{round}Natural{who}Vex")]);
                }
            }
            found.extend([self.instant(who), &self.instant(who)[..10], self.born(who)].map(str::to_owned));
        }
        found.retain(|value| value.len() >= 6);
        found.sort();
        found.dedup();
        found
    }

    /// Everything on disk in which a value stands, numbers also as eight bytes.
    pub fn on_disk(&self) -> Vec<String> {
        let mut found = scan(self.process.dir.path(), &self.canaries(None));
        let numbers = PEOPLE.iter().flat_map(|who| (0..3).map(|round| self.number_of(who, round)));
        let bytes = |n: i64| [n.to_be_bytes(), n.to_le_bytes(), (n as f64).to_be_bytes(), (n as f64).to_le_bytes()];
        let needles: Vec<[u8; 8]> = numbers.filter(|n| *n > 1000).flat_map(bytes).collect();
        for file in crate::harness::files(self.process.dir.path()) {
            let Ok(content) = std::fs::read(&file) else { continue };
            let first: std::collections::HashSet<&[u8]> = needles.iter().map(|needle| &needle[..]).collect();
            if content.windows(8).any(|window| first.contains(window)) {
                found.push(format!("a number in {}", file.display()));
            }
        }
        found
    }

    /// Learns who is who, to compare answers with those of the other world.
    pub async fn learn(&mut self) {
        for who in PEOPLE {
            let page = self.reader("GET", &format!("/v1/streams/person-{who}/events"), String::new()).await.expect(200);
            let first = page.json()["items"][0].clone();
            self.people.push((first["data"]["id"].as_str().unwrap().to_owned(), format!("@{who}")));
            self.today = first["recorded_at"].as_str().unwrap()[..10].to_owned();
        }
    }

    /// What of an answer must be the same in both worlds: sorted, for rows come in the order of their keys, which depend
    /// on pseudonyms.
    pub fn normal(&self, text: &str) -> Vec<String> {
        let mut text = text.to_owned();
        for (pseudonym, name) in &self.people {
            text = text.replace(pseudonym, name);
        }
        let cut = |pattern: &str, text: &str, with: &str| {
            regex::Regex::new(pattern).unwrap().replace_all(text, with).into_owned()
        };
        text = cut("k_[0-9a-f]{32}", &text, "k");
        text = cut("ds_[0-9a-f]{32}", &text, "ds");
        text = cut(&format!("{}T[0-9:.]+Z", self.today), &text, "now");
        text = cut(r#""(rate|lag_seconds|last_tick|request_id)":[^,}]*"#, &text, "");
        // Entries of maps and lists of pseudonyms are in the order of these.
        let mut parts: Vec<String> = text.split(['\n', '{', '}', ',', '[', ']', '\r']).map(str::to_owned).collect();
        parts.sort();
        parts
    }

    pub async fn define(&self, attempt: &Attempt, version: u32) -> Reply {
        let path = format!("/v1/projections/{}", attempt.name);
        self.dev("PUT", &path, attempt.definition(version)).await
    }

    /// Waits until every projection has come to the end or has stopped, for good.
    pub async fn settled(&self) {
        let began = Instant::now();
        for attempt in accepted().filter(|attempt| !attempt.is_fold()) {
            loop {
                let status = self.status(attempt.name).await;
                let at_end = status["lag_events"] == 0 && status["state"] == "running";
                let stopped = status["state"] == "stalled" && status["cause"]["code"] != "unavailable";
                let wanted = matches!(attempt.fate, Fate::Stalls(_));
                let rebuilding = !(status["rebuild"].is_null() || wanted && status["rebuild"]["state"] == "stalled");
                if (at_end || stopped) && !rebuilding && (!wanted || stopped) {
                    break;
                }
                assert!(began.elapsed() < Duration::from_mins(3), "{}: {status}", attempt.name);
                tokio::time::sleep(Duration::from_millis(30)).await;
            }
        }
    }

    pub async fn status(&self, name: &str) -> Value {
        let reply = self.reader("GET", &format!("/v1/projections/{name}/status"), String::new()).await;
        if reply.status == 404 { Value::Null } else { reply.expect(200).json() }
    }
}

fn object(roles: &Value, required: &[&str], properties: &Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "x-data-subjects": roles, "required": required,
        "properties": properties})
}

fn personal(kind: &Value, subject: &str, purposes: &[&str], placeholder: &Value) -> Value {
    let mut schema = json!({"type": kind, "x-personal-data": {"subject": subject, "purposes": purposes}});
    if !placeholder.is_null() {
        schema["x-personal-data"]["placeholder"] = placeholder.clone();
    }
    schema
}

fn made() -> Value {
    let none = Value::Null;
    let text = |purposes: &[&str]| personal(&json!("string"), "person", purposes, &none);
    let maybe = |kind: &str| personal(&json!([kind, "null"]), "person", &["crm"], &none);
    let two = |when: &str| json!({"type": "string", "x-personal-data": {"subjects": ["person", "partner"], "erase_when": when, "purposes": ["crm"]}});
    let guest = json!({"type": "object", "required": ["gid"], "properties": {"gid": {"type": "string"},
        "seat": {"type": "integer"}, "diet": personal(&json!("string"), "guest", &["crm"], &none)}});
    let roles = json!({"person": {"id": "/id"}, "partner": {"id": "/partner_id"}, "guest": {"id": "/guests/*/gid"}});
    object(
        &roles,
        &["id", "tag", "n"],
        &json!({"id": {"type": "string"}, "partner_id": {"type": "string"}, "tag": {"type": "string"},
            "n": {"type": "integer"}, "at": {"type": "string"}, "name": text(&["crm", "mail"]), "nick": text(&["crm"]),
            "pay": maybe("integer"), "pay_note": text(&["crm"]), "vip": maybe("boolean"), "born": maybe("string"),
            "met": maybe("string"), "taste": text(&["marketing"]), "essay": text(&["crm"]),
            "home": personal(&json!("object"), "person", &["crm"], &json!({})),
            "guests": {"type": "array", "items": guest},
            "tags": personal(&json!("array"), "person", &["crm"], &none),
            "words": {"type": "array", "items": text(&["crm"])},
            "both": two("any"), "either": two("all")}),
    )
}

fn paid() -> Value {
    let tip = personal(&json!(["integer", "null"]), "person", &["marketing"], &Value::Null);
    object(
        &json!({"person": {"id": "/id"}}),
        &["id", "cents"],
        &json!({"id": {"type": "string"}, "cents": {"type": "integer"}, "tag": {"type": "string"}, "tip": tip}),
    )
}

fn met() -> Value {
    object(
        &json!({"contact": {"resolve": ["/account", "/contact_name"]}}),
        &["account", "contact_name"],
        &json!({"account": {"type": "string"}, "contact_name": personal(&json!("string"), "contact", &["crm"], &Value::Null)}),
    )
}
