//! The events that the benchmark appends.
//!
//! Owns: the benchmark's event type, its schema and its payloads of about 350 bytes. Must not know: HTTP, workloads.
//! Keeps: the same person always has the same name, e-mail and address; no id looks like personal data.

use std::io::Write;

/// The type of every event of the benchmark.
pub const EVENT_TYPE: &str = "bench-contact-recorded";

/// The schema of [`EVENT_TYPE`]: one person, three personal values, the rest public.
pub const SCHEMA: &str = r#"{"type":"object","additionalProperties":false,
"required":["person_id","name","email","address"],
"x-data-subjects":{"person":{"id":"/person_id"}},
"properties":{
"person_id":{"type":"string"},
"name":{"type":"string","x-personal-data":{"subject":"person","category":"name"}},
"email":{"type":"string","format":"email","x-personal-data":{"subject":"person","category":"contact.email"}},
"address":{"type":"string","x-personal-data":{"subject":"person","category":"contact.address"}},
"plan":{"type":"string"},"channel":{"type":"string"},"amount_cents":{"type":"integer"},"note":{"type":"string"}}}"#;

/// Size of one event's `data` in bytes, about.
const DATA_SIZE: usize = 350;

const FIRST: [&str; 16] = [
    "Ada", "Jürgen", "Chloé", "Emeka", "Ingrid", "Mateus", "Noor", "Olga", "Priya", "Rosa", "Søren", "Tomás", "Uta",
    "Wei", "Yuki", "Zoë",
];
const LAST: [&str; 16] = [
    "Abe", "Bauer", "Costa", "Duval", "Eze", "Fischer", "Garcia", "Haddad", "Ito", "Jensen", "King", "Lopes", "Meyer",
    "Novak", "Okoro", "Petit",
];
const STREET: [&str; 8] =
    ["Harbour Street", "Lindenallee", "Rue des Lilas", "Rua Nova", "Mill Lane", "Birch Road", "Am Markt", "Quai Sud"];
const PLAN: [&str; 4] = ["free", "standard", "family", "business"];
const CHANNEL: [&str; 4] = ["web", "shop", "partner", "phone"];
const NOTE: &str = "recorded by the benchmark with public text of ordinary words that nobody needs to seal, so that \
an event has the size which the published numbers of other stores were taken with and the share of its personal \
values stays what it usually is in a contact record of a shop";

/// Pseudo-random numbers from a seed (SplitMix64, Steele et al. 2014): the same run appends the same events.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A generator; different seeds give unrelated sequences.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        ((u128::from(mix(self.0)) * u128::from(bound)) >> 64) as u64
    }
}

/// Whom an event is about.
#[derive(Clone, Copy, Debug)]
pub struct Person<'a> {
    /// Number of the person; decides name, e-mail and address.
    pub number: u64,
    /// What follows `p` and the number in the external id; empty for the population that all runs share.
    pub suffix: &'a str,
}

/// Writes one event, `{"type":…,"data":{…}}`, at the end of `out`.
pub fn write_event(out: &mut Vec<u8>, person: Person<'_>, random: &mut Random) {
    put(out, format_args!(r#"{{"type":"{EVENT_TYPE}","data":"#));
    let start = out.len();
    let Person { number, suffix } = person;
    // The number is mixed, so that neighbours do not share a street.
    let choice = mix(number);
    let first = FIRST[(choice % 16) as usize];
    let last = LAST[(choice >> 8) as usize % 16];
    let street = STREET[(choice >> 16) as usize % 8];
    let house = (choice >> 24) % 180 + 1;
    put(out, format_args!(r#"{{"person_id":"p{number}{suffix}","name":"{first} {last}","#));
    put(out, format_args!(r#""email":"{last}.{number}@example.org","address":"{street} {house}","#));
    let (plan, channel) = (PLAN[random.below(4) as usize], CHANNEL[random.below(4) as usize]);
    let amount = random.below(100_000);
    put(out, format_args!(r#""plan":"{plan}","channel":"{channel}","amount_cents":{amount},"note":""#));
    let room = DATA_SIZE.saturating_sub(out.len() - start + 2);
    out.extend_from_slice(&NOTE.as_bytes()[..room.min(NOTE.len())]);
    out.extend_from_slice(br#""}}"#);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("writing to memory cannot fail");
}

fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn events_are_valid_and_of_one_size() {
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
        let mut random = Random::new(7);
        for number in 0..2000 {
            let mut out = Vec::new();
            write_event(&mut out, Person { number, suffix: "-kwzjmq" }, &mut random);
            let event: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(event["type"], EVENT_TYPE);
            assert_eq!(event["data"]["person_id"], format!("p{number}-kwzjmq"));
            assert!(validator.is_valid(&event["data"]), "person {number}");
            let size = out.len() - br#"{"type":"bench-contact-recorded","data":}"#.len();
            assert!((345..=352).contains(&size), "{size} bytes");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_events() {
        let bytes = |seed| {
            let (mut out, mut random) = (Vec::new(), Random::new(seed));
            for number in 0..50 {
                write_event(&mut out, Person { number, suffix: "" }, &mut random);
            }
            out
        };
        assert_eq!(bytes(1), bytes(1));
        assert_ne!(bytes(1), bytes(2));
    }
}
