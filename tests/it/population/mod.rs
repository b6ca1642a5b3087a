//! A realistic population and what happens to it: the same for the same seed.
//!
//! Owns: what people do: contacts, carts, payments and bookings, in an order that could have happened. Must not know: HTTP, the server. Keeps: exactly the wanted number of
//! events; nobody acts before their contact was created; external ids look like `p17`, and no unmarked value is
//! personal. Used by `examples/population.rs` and by tests.
#![allow(dead_code, reason = "each of the programs that include this file uses a part of it")]

mod people;
mod schemas;

use fake::rand::rngs::StdRng;
use fake::rand::{Rng, SeedableRng};
use oubliette::clock::Millis;
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use people::Person;
use people::person;
pub use schemas::schemas;

/// 2026-01-01T00:00:00Z: when the first thing happens.
const BEGIN: Millis = Millis(1_767_225_600_000);

/// How many, and which.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// People, each with a contact; fewer if there are not as many events.
    pub people: u64,
    /// Events in all.
    pub events: u64,
    /// The same seed gives the same events.
    pub seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { people: 20_000, events: 200_000, seed: 7 }
    }
}

/// Events that are appended together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Append {
    /// Stream name.
    pub stream: String,
    /// At least one event.
    pub events: Vec<Event>,
}

/// An event as the API takes it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Event {
    /// Event type.
    #[serde(rename = "type")]
    pub event_type: &'static str,
    /// Payload.
    pub data: Value,
}

/// Yields the appends in the order in which they happen.
pub struct Population {
    options: Options,
    rng: StdRng,
    people: Vec<Person>,
    made: u64,
    carts: u64,
    payments: u64,
    bookings: u64,
    now: Millis,
}

impl Population {
    /// A population in which nothing has happened yet.
    pub fn new(options: Options) -> Self {
        let rng = StdRng::seed_from_u64(options.seed);
        let people = Vec::with_capacity(options.people as usize);
        Self { options, rng, people, made: 0, carts: 0, payments: 0, bookings: 0, now: BEGIN }
    }

    /// The people whose contacts were created so far.
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    fn create(&mut self) -> Append {
        let number = self.people.len() as u64;
        let person = person(number, &mut self.rng);
        let data = json!({
            "account_id": account(number), "contact_id": person.id(), "name": person.name, "email": person.email,
            "phone": person.phone, "address": person.address,
        });
        self.people.push(person);
        one(format!("contact-{number}"), "contact-created", data)
    }

    fn edit(&mut self) -> Append {
        let number = self.someone();
        // A new person's values under the old number: people move, marry and change their provider.
        let new = person(number, &mut self.rng);
        let old = &mut self.people[number as usize];
        let mut data = Map::from_iter([
            ("account_id".to_owned(), json!(account(number))),
            ("contact_id".to_owned(), json!(old.id())),
        ]);
        let (field, value) = match self.rng.random_range(0..4) {
            0 => ("name", json!(new.name)),
            1 => ("email", json!(new.email)),
            2 => ("phone", json!(new.phone)),
            _ => ("address", new.address.clone()),
        };
        match field {
            "name" => old.name = new.name,
            "email" => old.email = new.email,
            "phone" => old.phone = new.phone,
            _ => old.address = new.address,
        }
        data.insert(field.to_owned(), value);
        one(format!("contact-{number}"), "contact-edited", Value::Object(data))
    }

    /// A visit to the shop of at most `room` events.
    fn shop(&mut self, room: u64) -> Append {
        let order = self.carts;
        self.carts += 1;
        let user = self.someone();
        let user_id = self.people[user as usize].id();
        let order_id = format!("o{order}");
        let length = self.rng.random_range(1..=6).min(room);
        let mut basket: Vec<String> = Vec::new();
        let mut events = Vec::new();
        for n in 0..length {
            let timestamp = self.tick();
            let last = n + 1 == length;
            if last && n > 0 && !basket.is_empty() && self.rng.random_bool(0.6) {
                let data =
                    json!({"order_id": order_id, "user_id": user_id, "product_ids": basket, "timestamp": timestamp});
                events.push(Event { event_type: "order-placed", data });
                break;
            }
            let removes = !basket.is_empty() && self.rng.random_bool(0.2);
            let (event_type, product_id) = if removes {
                let at = self.rng.random_range(0..basket.len());
                ("product-removed-from-cart", basket.swap_remove(at))
            } else {
                let product = format!("product-{}", self.rng.random_range(1..=500));
                basket.push(product.clone());
                ("product-added-to-cart", product)
            };
            let data =
                json!({"product_id": product_id, "order_id": order_id, "user_id": user_id, "timestamp": timestamp});
            events.push(Event { event_type, data });
        }
        Append { stream: format!("cart-{order}"), events }
    }

    fn pay(&mut self) -> Append {
        let number = self.payments;
        self.payments += 1;
        let payer = self.someone();
        let payee = self.someone_but(&[payer]).unwrap_or(payer);
        let timestamp = self.tick();
        let amount = self.rng.random_range(100..500_000);
        let (payer, payee) = (&self.people[payer as usize], &self.people[payee as usize]);
        let data = json!({
            "payment_id": format!("t{number}"), "payer_id": payer.id(), "payer_name": payer.name,
            "payer_iban": payer.iban, "payee_id": payee.id(), "payee_name": payee.name, "payee_iban": payee.iban,
            "reference": format!("{} to {}", payer.name, payee.name), "amount_cents": amount, "currency": "EUR",
            "timestamp": timestamp,
        });
        one(format!("account-{}", payer.number), "payment-made", data)
    }

    fn book(&mut self) -> Append {
        let number = self.bookings;
        self.bookings += 1;
        let mut guests = vec![self.someone()];
        for _ in 1..self.rng.random_range(1..=4) {
            guests.extend(self.someone_but(&guests));
        }
        let guest = |number: &u64| {
            let person = &self.people[*number as usize];
            json!({"person_id": person.id(), "name": person.name, "diet": person.diet})
        };
        let guests: Vec<Value> = guests.iter().map(guest).collect();
        let nights = self.rng.random_range(1..=14);
        let data = json!({
            "booking_id": format!("b{number}"), "nights": nights, "guests": guests, "timestamp": self.tick(),
        });
        one(format!("booking-{number}"), "booking-made", data)
    }

    /// Anyone; a few people do much, and most do little.
    fn someone(&mut self) -> u64 {
        let share: f64 = self.rng.random();
        ((share * share * self.people.len() as f64) as u64).min(self.people.len() as u64 - 1)
    }

    /// Anyone else, if there is anybody.
    fn someone_but(&mut self, taken: &[u64]) -> Option<u64> {
        let first = self.someone();
        let count = self.people.len() as u64;
        (0..count).map(|step| (first + step) % count).find(|number| !taken.contains(number))
    }

    fn tick(&mut self) -> String {
        self.now.0 += self.rng.random_range(1..=60_000);
        self.now.rfc3339()
    }
}

impl Iterator for Population {
    type Item = Append;

    fn next(&mut self) -> Option<Append> {
        let events = self.options.events - self.made;
        let people = (self.options.people - self.people.len() as u64).min(events);
        if events == 0 || self.options.people == 0 {
            return None;
        }
        // People arrive spread over the whole history; whatever is not needed to create the rest of them is activity.
        let room = events - people;
        let create = self.people.is_empty() || room == 0 || self.rng.random_range(0..events) < people;
        let append = if create {
            self.create()
        } else {
            match self.rng.random_range(0..100) {
                0..20 => self.edit(),
                20..55 => self.shop(room),
                55..80 => self.pay(),
                _ => self.book(),
            }
        };
        self.made += append.events.len() as u64;
        Some(append)
    }
}

fn one(stream: String, event_type: &'static str, data: Value) -> Append {
    Append { stream, events: vec![Event { event_type, data }] }
}

/// Several contacts belong to one account, as in a customer database.
fn account(person: u64) -> String {
    format!("a{}", person / 5)
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn all(people: u64, events: u64, seed: u64) -> Vec<Append> {
        Population::new(Options { people, events, seed }).collect()
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        assert_eq!(all(50, 500, 7), all(50, 500, 7));
        assert_ne!(all(50, 500, 7), all(50, 500, 8));
    }

    #[test]
    fn exactly_the_wanted_numbers() {
        for (people, events) in [(1, 1), (1, 300), (100, 100), (100, 40), (100, 1000), (0, 10), (10, 0)] {
            let appends = all(people, events, 7);
            let count: usize = appends.iter().map(|append| append.events.len()).sum();
            assert_eq!(count as u64, if people == 0 { 0 } else { events });
            let created = appends.iter().filter(|append| append.events[0].event_type == "contact-created").count();
            assert_eq!(created as u64, people.min(events));
        }
    }

    #[test]
    fn every_event_is_valid_under_its_schema() {
        let validators: HashMap<_, _> = schemas()
            .into_iter()
            .map(|(name, schema)| {
                let validator = jsonschema::options().should_validate_formats(true).build(&schema).unwrap();
                (name, validator)
            })
            .collect();
        let mut seen = HashSet::new();
        for event in all(200, 4000, 7).iter().flat_map(|append| &append.events) {
            assert!(validators[event.event_type].is_valid(&event.data), "{}", event.event_type);
            seen.insert(event.event_type);
        }
        assert_eq!(seen.len(), validators.len(), "every type occurs");
    }

    #[test]
    fn people_act_after_they_were_created_and_ids_are_opaque() {
        let mut known = HashSet::new();
        for append in all(200, 4000, 7) {
            assert!(oubliette::event::StreamName::parse(&append.stream).is_ok());
            for Event { event_type, data } in append.events {
                if event_type == "contact-created" {
                    known.insert(data["contact_id"].clone());
                }
                let guests = data["guests"].as_array().into_iter().flatten().map(|guest| &guest["person_id"]);
                let roles = ["contact_id", "user_id", "payer_id", "payee_id"].map(|role| &data[role]);
                for id in roles.into_iter().chain(guests).filter(|id| !id.is_null()) {
                    assert!(known.contains(id));
                    let number = id.as_str().unwrap().strip_prefix('p').unwrap();
                    assert!(number.bytes().all(|byte| byte.is_ascii_digit()));
                }
            }
        }
    }
}
