//! Who plays which role in a stored event.
//!
//! Pure. Owns: bringing together the two places where a stored event names its people: pseudonyms in the public part,
//! at the ids that its schema declares, and pseudonyms in the metadata, for people found by natural key. Must not know:
//! who these people are, whether they are still known.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::event::SubjectRef;
use crate::schema::SchemaVersion;
use crate::sealing::meta::Meta;

/// The pseudonyms of every role of an event's schema: several in document order where the id stands in an array, none
/// where the event does not name one. An event without a schema has no roles. `public` is the public part, parsed.
pub fn roles(schema: Option<&SchemaVersion>, meta: &Meta<'_>, public: &Value) -> BTreeMap<String, Vec<SubjectRef>> {
    let mut out: BTreeMap<String, Vec<SubjectRef>> = BTreeMap::new();
    for (role, id) in schema.into_iter().flat_map(SchemaVersion::roles) {
        let people = match id {
            Some(id) => id
                .expand(public)
                .into_iter()
                .filter_map(|(_, value)| value.as_str().and_then(SubjectRef::parse))
                .collect(),
            None => meta.roles.get(role).and_then(|text| SubjectRef::parse(text)).into_iter().collect(),
        };
        out.insert(role.to_owned(), people);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Options, Registry, RegistryRecord};
    use serde_json::json;

    #[test]
    fn both_kinds_of_roles() {
        let registry = Registry::new(Options::default());
        let schema = json!({"type": "object",
            "x-data-subjects": {"guest": {"id": "/guests/*/id"}, "host": {"id": "/host"}, "contact": {"resolve": ["/name"]}},
            "properties": {"name": {"type": "string"}, "host": {"type": "string"}, "guests": {"type": "array", "items": {
                "type": "object", "properties": {"id": {"type": "string"}}}}}});
        let record = RegistryRecord::SchemaRegistered { event_type: "met".into(), version: 1, schema };
        registry.apply(&record).unwrap();
        let version = registry.version("met", Some(1)).unwrap();
        let [a, b, c] = [1, 2, 3].map(|n| SubjectRef([n; 16]));
        let text = json!({"roles": {"contact": c.to_string()}}).to_string();
        let meta = Meta::parse(&text).unwrap();
        let public = json!({"name": null, "guests": [{"id": b.to_string()}, {}, {"id": a.to_string()}]});
        let found = roles(Some(&version), &meta, &public);
        let expected = [("contact", vec![c]), ("guest", vec![b, a]), ("host", vec![])];
        assert_eq!(found, expected.map(|(role, people)| (role.to_owned(), people)).into());
        assert!(roles(None, &meta, &public).is_empty());
    }
}
