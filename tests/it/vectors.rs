//! The formats of `docs/formats.md`, against an independent implementation in another language.
//!
//! `vectors/envelope_vectors.py` wrote `vectors.json` and `defects/`. Here: our bytes are its bytes, what it calls
//! defective we refuse, and what we seal it opens.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use hmac::{Hmac, Mac};
use oubliette::audit::checkpoint::{self, CheckpointKey};
use oubliette::clock::Millis;
use oubliette::domain;
use oubliette::event::{EventId, NaturalKey, Position, Revision, StoreId, StreamId, SubjectRef};
use oubliette::keystore::Dek;
use oubliette::merkle::{self, Frontier, Hash};
use oubliette::sealing::commit::{LeafFields, commit, leaf};
use oubliette::sealing::envelope::{self, OpenError, SealedBlob, SlotContext};
use oubliette::secret::{Entropy, Secret32};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

mod wycheproof;

const PYTHON: &str = "tests/it/vectors/envelope_vectors.py";

/// A slot as a vector names it.
struct Slot {
    store: StoreId,
    event: EventId,
    event_type: String,
    schema_version: u32,
    owners: Vec<SubjectRef>,
    purpose: String,
    slot: u16,
    pointers: Vec<String>,
    key: Dek,
}

impl Slot {
    fn read(vector: &Value) -> Self {
        let deks: Vec<Dek> = list(&vector["deks"]).iter().map(dek).collect();
        Self {
            store: StoreId(bytes(&vector["store"])),
            event: EventId(bytes(&vector["event"])),
            event_type: text(&vector["type"]).into(),
            schema_version: vector["schema"].as_u64().unwrap() as u32,
            owners: list(&vector["owners"]).iter().map(|owner| SubjectRef(bytes(owner))).collect(),
            purpose: text(&vector["purpose"]).into(),
            slot: vector["slot"].as_u64().unwrap() as u16,
            pointers: list(&vector["pointers"]).iter().map(|pointer| text(pointer).into()).collect(),
            key: slot_key(deks),
        }
    }

    fn context(&self) -> SlotContext<'_> {
        SlotContext {
            store: &self.store,
            event: &self.event,
            event_type: &self.event_type,
            schema_version: self.schema_version,
            owners: &self.owners,
            purpose: &self.purpose,
            slot: self.slot,
            paths_sha256: envelope::paths_digest(&self.pointers),
        }
    }
}

fn slot_key(mut deks: Vec<Dek>) -> Dek {
    match deks.len() {
        1 => deks.remove(0),
        _ => envelope::joint_key(&deks.iter().collect::<Vec<_>>()),
    }
}

#[test]
fn every_envelope_is_reproduced_byte_for_byte() {
    for vector in list(&vectors()["slots"]) {
        let (slot, name) = (Slot::read(vector), text(&vector["name"]));
        let (salt, clear) = (bytes(&vector["salt"]), text(&vector["json"]).as_bytes());
        assert_eq!(hex::encode(slot.key.secret().expose()), text(&vector["slot_key"]), "{name}");
        assert_eq!(hex::encode(slot.key.kid().0), text(&vector["kid"]), "{name}");
        assert_eq!(hex::encode(slot.context().paths_sha256), text(&vector["paths_sha256"]), "{name}");
        let sealed = envelope::seal(&slot.key, &slot.context(), &salt, clear, &bytes(&vector["nonce"]));
        assert_eq!(hex::encode(&sealed), text(&vector["envelope"]), "{name}");
        let opened = envelope::open(&slot.key, &slot.context(), &sealed).unwrap();
        assert_eq!((opened.salt(), opened.json()), (&salt, clear), "{name}");
        assert_eq!(hex::encode(commit(&salt, clear)), text(&vector["commitment"]), "{name}");
        assert_eq!(envelope::kid_of(&sealed), Some(slot.key.kid()));
    }
}

#[test]
fn every_flipped_bit_and_every_cut_is_refused() {
    for vector in &list(&vectors()["slots"])[..3] {
        let (slot, good) = (Slot::read(vector), unhex(&vector["envelope"]));
        let refused = |bytes: &[u8]| envelope::open(&slot.key, &slot.context(), bytes).is_err();
        assert!(!refused(&good));
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                assert!(refused(&bad), "bit {bit} of byte {at}");
            }
            assert!(refused(&good[..at]) && refused(&good[at + 1..]), "cut at {at}");
        }
        for tail in 0..=255 {
            assert!(refused(&[&good[..], &[tail]].concat()));
        }
    }
}

#[test]
fn every_defect_is_refused() {
    let mut seen = 0;
    for file in std::fs::read_dir(root().join("tests/it/vectors/defects")).unwrap() {
        let path = file.unwrap().path();
        let defect: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        if let Some(blob) = defect.get("blob") {
            let read: Result<Vec<_>, _> = envelope::slots(&unhex(blob)).map(|slot| slot.map(drop)).collect();
            assert!(read.is_err(), "{}", path.display());
        } else {
            let slot = Slot::read(&defect);
            let outcome = envelope::open(&slot.key, &slot.context(), &unhex(&defect["envelope"]));
            assert_eq!(outcome.err(), Some(OpenError), "{}", path.display());
        }
        seen += 1;
    }
    assert!(seen >= 40, "only {seen} defects found");
}

#[test]
fn a_ciphertext_for_two_keys_opens_under_one() {
    let vector = &vectors()["two_keys"];
    let envelope = unhex(&vector["envelope"]);
    let nonce: [u8; 12] = envelope[40..52].try_into().unwrap();
    for key in list(&vector["content_keys"]) {
        let (mut clear, tag) = (envelope[56..184].to_vec(), envelope[184..].try_into().unwrap());
        let buffer = InOutBuf::from(clear.as_mut_slice());
        let cipher = Aes256Gcm::new(&bytes::<32>(key).into());
        let raw = cipher.decrypt_inout_detached(&nonce.into(), &unhex(&vector["aad"]), buffer, tag);
        assert!(raw.is_ok(), "AES-GCM alone does not commit to its key");
    }
    let mut slot = Slot::read(vector);
    let [first, second] = [0, 1].map(|at| dek(&vector["deks"][at]));
    let (first_kid, second_kid) = (first.kid(), second.kid());
    slot.key = first;
    let opened = envelope::open(&slot.key, &slot.context(), &envelope).unwrap();
    assert_eq!(opened.json(), text(&vector["json"]).as_bytes());
    slot.key = second;
    assert!(envelope::open(&slot.key, &slot.context(), &envelope).is_err());
    let renamed = [&envelope[..8], &second_kid.0, &envelope[40..]].concat();
    assert!(envelope::open(&slot.key, &slot.context(), &renamed).is_err());
    assert_eq!(envelope::kid_of(&envelope), Some(first_kid));
}

#[test]
fn leaves_and_the_erasure_record() {
    for vector in list(&vectors()["leaves"]) {
        let c_slots: Vec<Hash> = list(&vector["c_slots"]).iter().map(bytes).collect();
        let fields = LeafFields {
            store: &StoreId(bytes(&vector["store"])),
            position: Position(vector["position"].as_u64().unwrap()),
            event: &EventId(bytes(&vector["event"])),
            stream: &StreamId(bytes(&vector["stream"])),
            revision: Revision(vector["revision"].as_u64().unwrap()),
            event_type: text(&vector["type"]),
            recorded: Millis(vector["recorded_ms"].as_i64().unwrap()),
            c_meta: &bytes(&vector["c_meta"]),
            c_public: &bytes(&vector["c_public"]),
            c_slots: &c_slots,
        };
        assert_eq!(hex::encode(leaf(&fields)), text(&vector["leaf"]));
    }
    let mut digest = [0; 32];
    for (number, entry) in (1u64..).zip(list(&vectors()["erasure_record"])) {
        let (number, subject) = (number.to_be_bytes(), unhex(&entry["subject"]));
        let scope = text(&entry["scope"]).as_bytes();
        digest = Sha256::digest(domain::lp(&[domain::ERASURE_RECORD, &digest, &number, &subject, scope])).into();
        assert_eq!(hex::encode(digest), text(&entry["digest"]));
    }
}

#[test]
fn wrapped_keys_and_external_ids() {
    for vector in list(&vectors()["wrapped"]) {
        let (record, dek) = (unhex(&vector["wrapped"]), dek(&vector["dek"]));
        assert_eq!((record.len(), hex::encode(dek.kid().0).as_str()), (88, text(&vector["kid"])));
        let generation = (vector["generation"].as_u64().unwrap() as u32).to_be_bytes();
        let (store, subject) = (unhex(&vector["store"]), unhex(&vector["subject"]));
        let purpose = text(&vector["purpose"]).as_bytes();
        let aad = domain::lp(&[domain::WRAP, &record[..40], &store, &subject, purpose, &generation, &dek.kid().0]);
        let mut key = record[40..72].to_vec();
        let (nonce, tag) = (record[28..40].try_into().unwrap(), record[72..].try_into().unwrap());
        let cipher = Aes256Gcm::new(&bytes::<32>(&vector["kek"]).into());
        cipher.decrypt_inout_detached(nonce, &aad, InOutBuf::from(key.as_mut_slice()), tag).unwrap();
        assert_eq!(key, dek.secret().expose());
    }
    let vector = &vectors()["external_id"];
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&unhex(&vector["key"])).unwrap();
    mac.update(&domain::lp(&[domain::SUBJECT_MAP, text(&vector["id"]).as_bytes()]));
    assert_eq!(hex::encode(mac.finalize().into_bytes()), text(&vector["tag"]));
    let vector = &vectors()["natural_key"];
    let natural = NaturalKey::new(text(&vector["role"]), &list(&vector["values"]).iter().collect::<Vec<_>>()).unwrap();
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&unhex(&vector["key"])).unwrap();
    mac.update(&domain::lp(&[domain::NATURAL_KEY, natural.role().as_bytes(), natural.expose().as_bytes()]));
    assert_eq!(hex::encode(mac.finalize().into_bytes()), text(&vector["tag"]));
}

#[test]
fn the_tree_and_its_proofs() {
    let vector = &vectors()["merkle"];
    let hashes = |value: &Value| -> Vec<Hash> { list(value).iter().map(bytes).collect() };
    let (leaves, roots) = (hashes(&vector["leaves"]), hashes(&vector["roots"]));
    let mut frontier = Frontier::default();
    for (size, root) in roots.iter().enumerate() {
        assert_eq!(frontier.root(), *root);
        assert_eq!(hex::encode(frontier.to_bytes()), text(&vector["frontiers"][size]));
        if let Some(leaf) = leaves.get(size) {
            frontier.push(*leaf);
        }
    }
    let (size, root) = (leaves.len() as u64, roots.last().unwrap());
    let root_of = |range: Range<u64>| merkle::root_of(&leaves[range.start as usize..range.end as usize]);
    let proven = |ranges: Option<Vec<Range<u64>>>| ranges.unwrap().into_iter().map(root_of).collect::<Vec<_>>();
    for index in 0..size {
        let proof = hashes(&vector["inclusion"][index as usize]);
        assert_eq!(proven(merkle::inclusion_ranges(index, size)), proof);
        merkle::verify_inclusion(&leaves[index as usize], index, size, &proof, root).unwrap();
        let proof = hashes(&vector["consistency"][index as usize]);
        let first = index + 1;
        assert_eq!(proven(merkle::consistency_ranges(first, size)), proof);
        merkle::verify_consistency((first, &roots[first as usize]), (size, root), &proof).unwrap();
    }
}

#[test]
fn checkpoints_are_reproduced_byte_for_byte() {
    let vector = &vectors()["checkpoint"];
    let key = CheckpointKey::from_seed(&secret(bytes(&vector["seed"])), text(&vector["origin"])).unwrap();
    let (size, root) = (vector["size"].as_u64().unwrap(), bytes(&vector["root"]));
    assert_eq!(key.sign(size, &root), text(&vector["note"]));
    assert_eq!(key.verifier_key(), text(&vector["vkey"]));
    let said = checkpoint::verify(text(&vector["note"]), text(&vector["vkey"])).unwrap();
    assert_eq!((said.origin.as_str(), said.size, said.root), (text(&vector["origin"]), size, root));
}

#[test]
fn the_specification_shows_these_vectors() {
    let vectors = vectors();
    let shown: String = std::fs::read_to_string(root().join("docs/formats.md")).unwrap();
    // Examples are broken into fields and lines: join everything that is whole bytes in hexadecimal.
    let is_hex = |word: &&str| word.len().is_multiple_of(2) && word.bytes().all(|b| b.is_ascii_hexdigit());
    let digits: String = shown.split_whitespace().filter(is_hex).collect();
    for place in [
        "/slots/0/deks/0",
        "/slots/0/envelope",
        "/slots/0/commitment",
        "/slots/0/content_key",
        "/slots/0/paths_sha256",
        "/slots/1/kid",
        "/wrapped/0/kid",
        "/merkle/frontiers/5",
        "/merkle/roots/5",
        "/leaves/1/leaf",
        "/checkpoint/vkey",
        "/erasure_record/2/digest",
        "/external_id/tag",
        "/natural_key/tag",
        "/slots/0/salt",
        "/slots/1/slot_key",
        "/wrapped/0/wrapped",
        "/leaves/1/c_meta",
    ] {
        let value = text(vectors.pointer(place).unwrap());
        assert!(digits.contains(value) || shown.contains(value), "{place} is not in docs/formats.md");
    }
    assert!(shown.contains(text(&vectors["checkpoint"]["note"])));
}

#[test]
fn the_other_implementation_opens_what_we_seal() {
    let Some(python) = python() else { return };
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sealed-{}.json", std::process::id()));
    std::fs::write(&file, ours().to_string()).unwrap();
    let output = Command::new(&python).arg(root().join(PYTHON)).arg("check").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "opened 200 envelopes and 8 checkpoints");
    std::fs::remove_file(&file).unwrap();
}

/// Envelopes and checkpoints under fresh random keys, salts and nonces, with all that is needed to check them.
fn ours() -> Value {
    let entropy = Entropy::system();
    let mut blob = SealedBlob::default();
    let mut slots = Vec::new();
    for number in 0..200u16 {
        let mut owners: Vec<[u8; 16]> = (0..=number % 3).map(|_| entropy.draw().unwrap()).collect();
        owners.sort_unstable();
        let deks: Vec<[u8; 32]> = owners.iter().map(|_| entropy.draw().unwrap()).collect();
        let clear = json!({"/name": "ä".repeat(usize::from(number) * 13)}).to_string();
        let (salt, nonce) = (entropy.draw::<32>().unwrap(), entropy.draw::<12>().unwrap());
        let mut vector = json!({
            "store": hex::encode(entropy.draw::<16>().unwrap()), "event": hex::encode(entropy.draw::<16>().unwrap()),
            "type": format!("type-{number}"), "schema": number, "slot": number, "purpose": "payments",
            "owners": owners.iter().map(hex::encode).collect::<Vec<_>>(), "pointers": ["/name"],
            "deks": deks.iter().map(hex::encode).collect::<Vec<_>>(), "salt": hex::encode(salt), "json": clear,
            "commitment": hex::encode(commit(&salt, clear.as_bytes())),
        });
        let slot = Slot::read(&vector);
        let envelope = envelope::seal(&slot.key, &slot.context(), &salt, clear.as_bytes(), &nonce);
        vector["envelope"] = hex::encode(&envelope).into();
        blob.seal(&slot.key, &slot.context(), &salt, clear.as_bytes(), &nonce);
        slots.push(vector);
    }
    let checkpoints: Vec<Value> = (0..8).map(|number| our_checkpoint(&entropy, number)).collect();
    json!({"slots": slots, "blob": hex::encode(blob.into_bytes()), "checkpoints": checkpoints})
}

fn our_checkpoint(entropy: &Entropy, number: u32) -> Value {
    let (root, size) = (entropy.draw::<32>().unwrap(), u64::MAX >> (number * 9));
    let key = CheckpointKey::from_seed(&Secret32::generate().unwrap(), &format!("log-{number}.example.org/x")).unwrap();
    json!({
        "origin": key.origin(), "size": size, "root": hex::encode(root),
        "note": key.sign(size, &root), "vkey": key.verifier_key(),
    })
}

/// A Python that has `cryptography`. Where there is none, it is said past the capture of the test harness, so that nobody
/// takes the silence for a success; and it is a failure where nothing may be skipped.
pub fn python() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(find_python).clone();
    if found.is_none() {
        let message =
            "NOT CHECKED: no Python with the package `cryptography` (a virtual environment could not be made)\n";
        assert!(std::env::var_os("TESTS_NO_SKIP").is_none_or(|set| set != "1"), "{message}");
        std::io::Write::write_all(&mut std::io::stderr(), message.as_bytes()).unwrap();
    }
    found
}

/// The system's, or one in a virtual environment that is made once under `target/`.
fn find_python() -> Option<PathBuf> {
    let works = |python: &Path| {
        let found = Command::new(python).args(["-c", "import cryptography"]).output();
        found.is_ok_and(|output| output.status.success())
    };
    let system = PathBuf::from("python3");
    if works(&system) {
        return Some(system);
    }
    let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
    let local = home.join("bin/python3");
    if !works(&local) {
        Command::new("python3").args(["-m", "venv"]).arg(&home).output().ok()?;
        Command::new(&local).args(["-m", "pip", "install", "--quiet", "cryptography"]).output().ok()?;
    }
    works(&local).then_some(local)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn vectors() -> Value {
    serde_json::from_slice(&std::fs::read(root().join("tests/it/vectors/vectors.json")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    unhex(value).try_into().unwrap()
}

fn secret(bytes: [u8; 32]) -> Secret32 {
    let copy = |out: &mut [u8; 32]| {
        *out = bytes;
        Ok::<_, ()>(())
    };
    Secret32::init_with(copy).unwrap()
}

fn dek(value: &Value) -> Dek {
    Dek::from_secret(secret(bytes(value)))
}
