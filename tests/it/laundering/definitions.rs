//! The list: definitions that try to launder a personal value, and what becomes of each.
//!
//! Owns: the attempts. `made` and `paid` are events with a schema, `loose` ones have none and carry marks of their own, so
//! that nothing is known of them before they come; `met` names its person by natural key.

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The definition is refused, with this code among its errors.
    Refused(&'static str),
    /// It runs, and these columns are shown to nobody without the purpose.
    Sealed(&'static [&'static str]),
    /// It runs, and there is nothing personal in its rows.
    Open,
    /// It stops at an event, with this code.
    Stalls(&'static str),
    /// It runs, and puts events aside.
    Parks,
}
use Fate::{Open, Parks, Refused, Sealed, Stalls};

/// One attempt. The text lacks its head: see [`Attempt::definition`].
pub struct Attempt {
    pub name: &'static str,
    pub fate: Fate,
    text: &'static str,
}

impl Attempt {
    /// The whole definition. Without `from` and `key` it is about people in `made` and `paid`.
    pub fn definition(&self, version: u32) -> String {
        let kind = if self.text.contains("state:") { "fold" } else { "projection" };
        let mut text = format!("{kind}: {}\nversion: {version}\n{}\n", self.name, self.text);
        let has = |member: &str| text.lines().any(|line| line.starts_with(member));
        let (from, key) = (has("from:"), has("key:") || kind == "fold");
        if !from {
            text.push_str("from: {types: [made, paid]}\n");
        }
        if !key {
            text.push_str("key: {who: subject.person}\n");
        }
        text
    }

    pub fn is_fold(&self) -> bool {
        self.text.contains("state:")
    }
}

const fn a(name: &'static str, fate: Fate, text: &'static str) -> Attempt {
    Attempt { name, fate, text }
}

const KEY: Fate = Refused("personal-data-in-key");
const GUARD: Fate = Refused("personal-data-in-guard");
const ENTRY: Fate = Refused("personal-data-in-entry");
const REMOVE: Fate = Refused("personal-data-in-remove");
const TIMER: Fate = Refused("personal-data-in-timer");
const WINDOW: Fate = Refused("personal-data-in-window");
const AGGREGATE: Fate = Refused("personal-data-in-aggregate");
const PURPOSE: Fate = Refused("no-common-purpose");
/// Refused for another reason than where the data goes.
const INVALID: Fate = Refused("");
const CLEAR: Fate = Stalls("personal-data-in-the-clear");
const X: Fate = Sealed(&["x"]);

#[rustfmt::skip]
pub const REFUSED: &[Attempt] = &[
    a("key_name", KEY, "key: {who: data.name}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_length", KEY, "key: {who: subject.person, l: size(data.name)}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_initial", KEY, "key: {who: \"data.name.substring(0, 1)\"}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_presence", KEY, "key: {who: \"has(data.nick) ? 'y' : 'n'\"}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_subtree", KEY, "key: {who: data.home.street}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_of_guest", KEY, "key: {who: 'data.guests[0].diet'}\ncolumns: {n: int}\nhandle: {made: {upsert: {n: 1}}}"),
    a("key_of_action", KEY, "columns: {n: int}\nhandle: {made: {key: {who: string(data.pay)}, upsert: {n: 1}}}"),
    a("key_of_one_of_all", KEY, "columns: {n: int}\nhandle: {made: {all: [{upsert: {n: 1}}, {key: {who: data.name}, upsert: {n: 2}}]}}"),
    a("group_key", KEY, "key: {vip: data.vip}\naggregate: {x: count()}"),
    a("group_key_bucket", KEY, "key: {rich: 'data.pay > 1000'}\naggregate: {x: count()}"),
    a("guard_flag", GUARD, "columns: {n: int}\nhandle: {made: {when: data.vip == true, upsert: {n: 1}}}"),
    a("guard_length", GUARD, "columns: {n: int}\nhandle: {made: {when: 'size(data.name) > 5', upsert: {n: 1}}}"),
    a("guard_or_public", GUARD, "columns: {n: int}\nhandle: {made: {when: \"data.tag == 'a' || data.vip == true\", delete: true}}"),
    a("guard_column", GUARD, "columns: {x: string}\nhandle: {made: [{when: row.x != null, delete: true}, {upsert: {x: data.name}}]}"),
    a("guard_exists", GUARD, "columns: {n: int}\nhandle: {made: {when: \"data.guests.exists(g, g.diet == 'vegan')\", upsert: {n: 1}}}"),
    a("guard_derived", GUARD, "columns: {x: string, y: {type: int, derive: size(row.x)}}\nhandle: {made: {upsert: {x: data.name}}, paid: {when: row.y > 3, delete: true}}"),
    a("entry_name", ENTRY, "columns: {m: 'map<string,int>'}\nhandle: {made: {increment: {'m[data.name]': 1}}}"),
    a("entry_size", ENTRY, "columns: {m: 'map<string,int>'}\nhandle: {made: {set: {'m[string(size(data.tags))]': 1}}}"),
    a("entry_column", ENTRY, "columns: {x: string, m: 'map<string,int>'}\nhandle: {made: {upsert: {x: data.name}}, paid: {increment: {'m[row.x]': 1}}}"),
    a("entry_removed", ENTRY, "columns: {m: 'map<string,int>'}\nhandle: {made: {remove: {'m[data.nick]': true}}}"),
    a("remove_equal", REMOVE, "columns: {l: list<string>}\nhandle: {made: {remove: {l: data.name}}}"),
    a("remove_from_sealed", REMOVE, "columns: {l: list<string>}\nhandle: {made: {append: {l: data.name}}, paid: {remove: {l: data.tag}}}"),
    a("due_at", TIMER, "columns: {x: timestamp}\nhandle: {made: {upsert: {x: data.met}}}\ndue: {at: x, emit: {type: due}}"),
    a("due_at_moved", TIMER, "columns: {x: timestamp}\nhandle: {made: {upsert: {x: \"data.vip == true ? '2099-01-01T00:00:00Z' : '2098-01-01T00:00:00Z'\"}}}\ndue: {at: x, emit: {type: due}}"),
    a("due_data", TIMER, "columns: {x: string, at: timestamp}\nhandle: {made: {upsert: {x: data.name, at: data.at}}}\ndue: {at: at, emit: {type: due, data: {x: row.x}}}"),
    a("due_stream", Refused(""), "columns: {x: string, at: timestamp}\nhandle: {made: {upsert: {x: data.name, at: data.at}}}\ndue: {at: at, emit: {type: due, stream: \"'s-' + row.x\"}}"),
    a("window_by", WINDOW, "window: {by: data.met, size: P1D}\naggregate: {x: count()}"),
    a("window_by_birth", WINDOW, "window: {by: \"timestamp(data.born + 'T00:00:00Z')\", size: P1D}\naggregate: {x: count()}"),
    a("sum_pay", AGGREGATE, "key: {tag: data.tag}\naggregate: {x: sum(data.pay)}"),
    a("max_name", AGGREGATE, "key: {tag: data.tag}\naggregate: {x: max(data.name)}"),
    a("distinct_name", AGGREGATE, "key: {tag: data.tag}\naggregate: {x: distinct(data.name)}"),
    a("count_vip", AGGREGATE, "key: {tag: data.tag}\naggregate: {x: count(data.vip == true)}"),
    a("quantile_pay", AGGREGATE, "key: {tag: data.tag}\naggregate: {x: 'quantile(data.pay, 0.5)'}"),
    a("max_of_one", INVALID, "key: {tag: data.tag}\naggregate: {x: {value: max(data.pay), declassify: why, min_group: 1}}"),
    a("max_of_none", INVALID, "key: {tag: data.tag}\naggregate: {x: {value: max(data.pay), declassify: why}}"),
    a("two_purposes", PURPOSE, "columns: {x: string}\nhandle: {made: {upsert: {x: data.pay_note + data.taste}}}"),
    a("two_purposes_counted", PURPOSE, "columns: {x: float}\nhandle: {made: {increment: {x: data.pay}}, paid: {increment: {x: data.tip}}}"),
    a("whole_event", PURPOSE, "columns: {x: json}\nhandle: {made: {upsert: {x: data}}}"),
    a("kept", Refused("personal-data-kept"), "columns: {x: string}\nhandle: {made: {upsert: {x: data.name}}}\non_erasure: {keep: why}"),
    a("invariant", Refused("personal-data-in-invariant"), "from: {category: person}\nstate: {x: int}\nhandle: {made: {set: {x: data.pay}}}\ninvariant: state.x > 1000"),
    a("whole_row", INVALID, "columns: {x: string, y: {type: json, derive: row}}\nhandle: {made: {upsert: {x: data.name}}}"),
    a("derived_from_lookup", INVALID, "columns: {x: {type: string, lookup: concat.x}, y: {type: string, derive: row.x}}\nhandle: {made: {upsert: {}}}"),
    a("member_of_event", INVALID, "columns: {x: string}\nhandle: {made: {upsert: {x: event.data.name}}}"),
];

#[rustfmt::skip]
pub const SEALED: &[Attempt] = &[
    a("concat", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.tag + data.name}}}"),
    a("format", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"'%s'.format([data.name])\"}}}"),
    a("split_join", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"data.name.split('').join('-')\"}}}"),
    a("bytes", X, "columns: {x: int}\nhandle: {made: {upsert: {x: size(bytes(data.name))}}}"),
    a("ternary", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"data.vip == true ? 'yes' : 'no'\"}}}"),
    a("ternary_public", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"size(data.name) > 9 ? data.tag : 'other'\"}}}"),
    a("threshold", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: 'data.pay > 1000'}}}"),
    a("length", X, "columns: {x: int}\nhandle: {made: {upsert: {x: size(data.name)}}}"),
    a("presence", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: has(data.nick)}}}"),
    a("presence_inside", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: has(data.home.geo)}}}"),
    a("member_inside", X, "columns: {x: json}\nhandle: {made: {upsert: {x: data.home.geo}}}"),
    a("is_in", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: \"'vegan' in data.tags\"}}}"),
    a("mapped", X, "columns: {x: list<string>}\nhandle: {made: {upsert: {x: \"data.guests.map(g, g.diet)\"}}}"),
    a("mapped_ids", X, "columns: {x: json}\nhandle: {made: {upsert: {x: \"data.guests.map(g, g.gid)\"}}}"),
    a("filtered", X, "columns: {x: int}\nhandle: {made: {upsert: {x: \"data.words.filter(w, size(w) > 4).size()\"}}}"),
    a("exists_one", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: \"data.guests.exists_one(g, g.diet.size() > 4)\"}}}"),
    a("all_macro", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: \"data.words.all(w, size(w) < 4)\"}}}"),
    a("matches", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: \"data.name.matches('^Z')\"}}}"),
    a("first_letter", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"data.name.substring(0, 1)\"}}}"),
    a("lower", X, "columns: {x: string}\nhandle: {made: {upsert: {x: lower(data.name)}}}"),
    a("markdown", X, "columns: {x: string}\nhandle: {made: {upsert: {x: markdown(data.name)}}}"),
    a("type_of", X, "columns: {x: bool}\nhandle: {made: {upsert: {x: type(data.vip) == bool}}}"),
    a("chain", Sealed(&["x", "y", "z"]), "columns: {x: string, y: {type: string, derive: upper(row.x)}, z: {type: bool, derive: size(row.y) > 9}}\nhandle: {made: {upsert: {x: data.name}}}"),
    a("other_column", Sealed(&["x", "y"]), "columns: {x: string, y: string}\nhandle: {made: {upsert: {x: data.name}}, paid: {update: {y: row.x + '!'}}}"),
    a("lookup", X, "columns: {n: int, x: {type: string, lookup: concat.x}}\nhandle: {made: {upsert: {n: data.n}}}"),
    a("lookup_other_row", X, "key: {who: subject.partner}\nfrom: {types: [made]}\ncolumns: {n: int, x: {type: string, lookup: concat.x}}\nhandle: {made: {upsert: {n: data.n}}}"),
    a("list", Sealed(&["l"]), "columns: {l: list<string>}\nhandle: {made: {append: {l: data.name}}}"),
    a("list_lengths", Sealed(&["l"]), "columns: {l: list<int>}\nhandle: {made: {append: {l: size(data.name)}}, paid: {append: {l: data.cents}}}"),
    a("list_first", Sealed(&["l", "x"]), "columns: {l: list<string>, x: {type: string, derive: 'size(row.l) > 0 ? row.l[0] : null'}}\nhandle: {made: {append: {l: data.name}}}"),
    a("list_whole", Sealed(&["l"]), "columns: {l: list<string>}\nhandle: {made: {upsert: {l: data.words}}, paid: {append: {l: data.tag}}}"),
    a("map_value", Sealed(&["m", "x"]), "columns: {m: 'map<string,string>', x: {type: string, derive: \"row.m.map(k, row.m[k]).join(',')\"}}\nhandle: {made: {set: {'m[subject.person]': data.name}}}"),
    a("map_counted", Sealed(&["m"]), "key: {tag: \"'all'\"}\ncolumns: {m: 'map<string,int>'}\nhandle: {made: {increment: {'m[subject.person]': data.pay}}}"),
    a("subtree", X, "columns: {x: json}\nhandle: {made: {upsert: {x: data.home}}}"),
    a("made_json", X, "columns: {x: json}\nhandle: {made: {upsert: {x: \"{'a': data.name, 'b': [data.pay]}\"}}}"),
    a("personal_member_name", X, "columns: {x: json}\nhandle: {made: {upsert: {x: \"{data.name: 1}\"}}}"),
    a("personal_index", X, "columns: {x: json}\nhandle: {made: {upsert: {x: \"{'Zq': 1}[data.name.substring(0, 2)]\"}}}"),
    a("incremented", X, "columns: {x: int}\nhandle: {made: {increment: {x: data.pay}}}"),
    a("incremented_mixed", X, "columns: {x: int}\nhandle: {made: {increment: {x: data.pay}}, paid: {increment: {x: data.cents}}}"),
    a("decremented", X, "columns: {x: {type: int, default: 100}}\nhandle: {made: {decrement: {x: data.pay}, floor: 0}}"),
    a("counted_length", X, "columns: {x: int}\nhandle: {made: {increment: {x: size(data.name)}}}"),
    a("counted_flag", X, "columns: {x: int}\nhandle: {made: {increment: {x: 'data.vip == true ? 1 : 0'}}}"),
    a("counted_together", X, "key: {tag: data.tag}\ncolumns: {x: int}\nhandle: {made: {increment: {x: data.pay}}}"),
    a("computed_number", X, "columns: {x: float}\nhandle: {made: {upsert: {x: 'double(data.pay) / 3.0'}}}"),
    a("date_of", X, "columns: {x: date}\nhandle: {made: {upsert: {x: date(data.met)}}}"),
    a("year_of", X, "columns: {x: int}\nhandle: {made: {upsert: {x: timestamp(data.met).getFullYear()}}}"),
    a("duration_of", X, "columns: {x: json}\nhandle: {made: {upsert: {x: \"duration(string(data.pay) + 's')\"}}}"),
    a("latest_of", X, "columns: {x: date}\nhandle: {made: {upsert: {x: 'latest(row.x, data.born)'}}}"),
    a("local_of", X, "columns: {x: timestamp}\nhandle: {made: {upsert: {x: \"local(data.born, '07:00', 'Europe/Madrid')\"}}}"),
    a("patched", Sealed(&["x", "y"]), "columns: {x: string, y: string}\nhandle: {made: [{when: data.n == 1, upsert: {y: data.name}}, {patch: {x: data.nick, y: data.name}}]}"),
    a("coalesced", X, "columns: {x: string}\nhandle: {made: {upsert: {x: \"coalesce(data.?nick, 'none')\"}}}"),
    a("joint_any", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.both}}}"),
    a("joint_all", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.either}}}"),
    a("joint_and_own", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.either + data.name}}}"),
    a("purposes_apart", Sealed(&["x", "y"]), "columns: {x: string, y: string}\nhandle: {made: {upsert: {x: data.name, y: data.taste}}}"),
    a("long", Sealed(&["x", "y"]), "columns: {x: string, y: {type: int, derive: size(row.x)}}\nhandle: {made: {upsert: {x: data.essay}}}"),
    a("error_int", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: int(data.name)}, increment: {n: 1}}}"),
    a("error_date", X, "columns: {x: date}\nhandle: {made: {upsert: {x: \"date(data.vip == true ? data.name : data.born)\"}}}"),
    a("error_index", X, "columns: {x: string}\nhandle: {made: {upsert: {x: 'data.tags[2]'}}}"),
    a("error_char", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.name.charAt(9)}}}"),
    a("error_zero", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: 1 / (data.pay - 12)}, increment: {n: 1}}}"),
    a("error_zero_parked", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: 1 / (data.pay - 12)}, increment: {n: 1}}}\non_error: park"),
    a("error_derived", Sealed(&["x", "y"]), "columns: {x: int, y: {type: int, derive: 1 / (row.x - 12)}}\nhandle: {made: {upsert: {x: data.pay}}}\non_error: park"),
    a("error_type", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: \"data.pay > 1000 ? dyn('a') : dyn(1)\"}, increment: {n: 1}}}\non_error: park"),
    a("error_added", X, "columns: {n: int, x: int}\nhandle: {made: {increment: {x: \"data.pay > 1000 ? dyn('a') : dyn(1)\", n: 1}}}\non_error: park"),
    a("error_overflow", X, "columns: {n: int, x: int}\nhandle: {made: {increment: {x: data.pay * 100000000, n: 1}}}\non_error: park"),
    a("error_overflow_times", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: data.pay * 1000000000}, increment: {n: 1}}}\non_error: park"),
    a("error_work", X, "columns: {n: int, x: int}\nhandle: {made: {upsert: {x: \"size(lists.range(data.pay > 1000 ? 9000000 : 1))\"}, increment: {n: 1}}}\non_error: park"),
    a("error_result", X, "columns: {n: int, x: list<string>}\nhandle: {made: {upsert: {x: \"data.words.map(w, data.essay)\"}, increment: {n: 1}}}\non_error: park"),
    a("error_entry", Sealed(&["m"]), "columns: {n: int, m: 'map<string,int>'}\nhandle: {made: {set: {'m[subject.person]': int(data.name)}, increment: {n: 1}}}\non_error: park"),
    a("error_appended", Sealed(&["l"]), "columns: {n: int, l: list<int>}\nhandle: {made: {append: {l: int(data.name)}, increment: {n: 1}}}\non_error: park"),
    a("indexed", Sealed(&["x", "y"]), "columns: {x: {type: string, sortable: true, searchable: true}, y: int}\nhandle: {made: {upsert: {x: data.name, y: data.pay}}}\nindexes: [[x], [-y, who], [who, x]]"),
    a("deleted_row", X, "columns: {x: string}\nhandle: {made: {upsert: {x: data.name}}}\non_erasure: delete_row"),
    a("several_rows", Sealed(&["x", "y"]), "columns: {x: string, y: string}\nfrom: {types: [made]}\nhandle: {made: {all: [{key: {who: subject.partner}, upsert: {y: data.name}}, {upsert: {x: data.nick}}]}}"),
    a("default_and_placeholder", X, "columns: {x: {type: string, default: data.name, placeholder: data.name}}\nhandle: {made: {upsert: {x: data.name}}}"),
    a("natural_key", X, "from: {types: [met]}\nkey: {who: subject.contact}\ncolumns: {x: string}\nhandle: {met: {upsert: {x: data.contact_name}}}"),
    a("group_sum", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {n: count(), x: {value: sum(data.pay), declassify: why, min_group: 5}}"),
    a("group_max_name", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {x: {value: max(data.name), declassify: why, min_group: 5}}"),
    a("group_min_born", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {x: {value: min(data.born), declassify: why, min_group: 5}}"),
    a("group_distinct", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {x: {value: distinct(data.name), declassify: why, min_group: 5}}"),
    a("group_quantile", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {x: {value: 'quantile(data.pay, 0.5)', declassify: why, min_group: 5}}"),
    a("group_count", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {x: {value: count(data.vip == true), declassify: why, min_group: 5}}"),
    a("group_error", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {n: count(), x: {value: sum(1 / (data.pay - 12)), declassify: why, min_group: 5}}\non_error: park"),
    a("group_type", X, "from: {types: [made]}\nkey: {tag: data.tag}\naggregate: {n: count(), x: {value: \"sum(data.pay > 1000 ? dyn('a') : dyn(1))\", declassify: why, min_group: 5}}\non_error: park"),
    a("group_overflow", X, "from: {types: [made]}\nkey: {tag: \"'all'\"}\naggregate: {x: {value: \"sum(data.pay > 1000 ? 1.7e308 : 0.0)\", declassify: why, min_group: 5}}"),
    a("group_window", X, "key: {tag: data.tag}\nfrom: {types: [made]}\nwindow: {by: data.at, size: P1D, rollup: [P7D]}\naggregate: {x: {value: avg(data.pay), declassify: why, min_group: 5}}"),
    a("folded", Sealed(&[]), "from: {category: person}\nstate: {x: string, y: int}\nhandle: {made: {set: {x: data.name}, increment: {y: data.pay}}}\nsnapshot: {every: 1}"),
];

#[rustfmt::skip]
pub const OPEN: &[Attempt] = &[
    a("pseudonyms", Open, "from: {types: [made]}\ncolumns: {x: json, y: string, z: string}\nhandle: {made: {upsert: {x: subject.guest, y: subject.partner, z: data.id}}}"),
    a("envelope", Open, "columns: {x: string, y: string, z: string}\nhandle: {made: {upsert: {x: event.actor, y: event.stream, z: event.time}}}"),
    a("beside_guests", Open, "from: {types: [made]}\ncolumns: {x: int}\nhandle: {made: {upsert: {x: 'data.guests[0].seat'}}}"),
    a("public_timer", Open, "columns: {x: timestamp}\nhandle: {made: {upsert: {x: data.at}}}\ndue: {at: x, emit: {type: due, data: {who: key.who}}}"),
];

/// `loose` brings its marks along, and first without: what was public becomes personal.
#[rustfmt::skip]
pub const LOOSE: &[Attempt] = &[
    a("loose_column", X, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: string}\nhandle: {loose: {upsert: {x: data.v}}}\nindexes: [[x], [k, x]]"),
    a("loose_derived", Sealed(&["x", "y"]), "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: string, y: {type: bool, derive: size(row.x) > 9}}\nhandle: {loose: {upsert: {x: data.v}}}\nindexes: [[y, x]]"),
    a("loose_list", Sealed(&["l"]), "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {l: list<string>}\nhandle: {loose: {append: {l: data.v}}}"),
    a("loose_number", X, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: int}\nhandle: {loose: {increment: {x: data.i}}}\nindexes: [[-x]]"),
    a("loose_timer", X, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: timestamp}\nhandle: {loose: {upsert: {x: data.w}}}\ndue: {at: x, emit: {type: due}}"),
    a("loose_due_data", X, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: string, at: timestamp}\nhandle: {loose: {upsert: {x: data.v, at: data.at}}}\ndue: {at: at, emit: {type: due, data: {x: row.x}}}"),
    a("loose_kept", X, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: string}\nhandle: {loose: {upsert: {x: data.v}}}\non_erasure: {keep: why}"),
    a("loose_key", CLEAR, "from: {types: [loose]}\nkey: {k: data.v}\ncolumns: {n: int}\nhandle: {loose: {upsert: {n: 1}}}"),
    a("loose_key_parked", Parks, "from: {types: [loose]}\nkey: {k: data.v}\ncolumns: {n: int}\nhandle: {loose: {upsert: {n: 1}}}\non_error: park"),
    a("loose_group_key", CLEAR, "from: {types: [loose]}\nkey: {k: data.v}\naggregate: {x: count()}"),
    a("loose_guard", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {n: int}\nhandle: {loose: {when: data.v != 'x', upsert: {n: 1}}}"),
    a("loose_guard_column", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {x: string}\nhandle: {loose: [{when: row.x == 'x', delete: true}, {upsert: {x: data.v}}]}"),
    a("loose_guard_parked", Parks, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {n: int}\nhandle: {loose: {when: data.v != 'x', upsert: {n: 1}}}\non_error: park"),
    a("loose_entry", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {m: 'map<string,int>'}\nhandle: {loose: {increment: {'m[data.v]': 1}}}"),
    a("loose_entry_removed", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {m: 'map<string,int>', n: int}\nhandle: {loose: {all: [{upsert: {n: 1}}, {remove: {'m[data.v]': true}}]}}"),
    a("loose_remove", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {l: list<string>, n: int}\nhandle: {loose: {all: [{upsert: {n: 1}}, {remove: {l: data.v}}]}}"),
    a("loose_map_whole", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\ncolumns: {m: 'map<string,string>'}\nhandle: {loose: {all: [{upsert: {m: \"{'a': data.v}\"}}, {set: {'m[data.k]': data.k}}]}}"),
    a("loose_window", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\nwindow: {by: data.w, size: P1D}\naggregate: {x: count()}"),
    a("loose_aggregate", CLEAR, "from: {types: [loose]}\nkey: {k: data.k}\naggregate: {x: max(data.v)}"),
    a("loose_declassified", X, "from: {types: [loose]}\nkey: {k: data.k}\naggregate: {x: {value: sum(data.i), declassify: why, min_group: 5}}"),
];

pub fn accepted() -> impl Iterator<Item = &'static Attempt> {
    SEALED.iter().chain(OPEN).chain(LOOSE)
}

pub fn all() -> impl Iterator<Item = &'static Attempt> {
    REFUSED.iter().chain(accepted())
}
