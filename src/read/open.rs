//! What of a page may be opened, and opening it.
//!
//! Pure but for the cipher: decides per slot from the fences and the viewer, names the keys, opens. What many events of a
//! page have in common (a key, a purpose, a list of pointers) is worked out once for the page.

use std::ops::Range;
use std::sync::Arc;

use super::access::Viewing;
use super::{Opened, ReadFailed, State, Viewer};
use crate::event::{ExternalId, Purpose, StoreId, SubjectMap, SubjectRef};
use crate::eventlog::{Page, ReadError, StoredEvent};
use crate::keystore::{Dek, DekId, Fetched};
use crate::sealing::envelope;
use crate::sealing::meta::{Meta, Site, SlotMeta};
use crate::sealing::{self, OpenedSlot};

/// The metadata of every event of the page.
pub fn metas(page: &Page) -> Result<Vec<Meta<'_>>, ReadFailed> {
    page.events
        .iter()
        .map(|event| {
            let corrupt = ReadError::Corrupt { table: "events", column: "meta", row: event.position.0 };
            Meta::parse(&event.meta).map_err(|_| ReadFailed::Log(corrupt))
        })
        .collect()
}

/// The person whose pseudonym stands at each id in the public parts, in page order; `None` where none does, which
/// contradicts the format.
pub fn named(page: &Page, metas: &[Meta<'_>]) -> Vec<Option<SubjectRef>> {
    let each = page.events.iter().zip(metas);
    each.flat_map(|(event, meta)| meta.ids.iter().map(move |site| pseudonym(&event.public, site.1))).collect()
}

/// The pseudonym whose opening quote stands at `at` in a public part.
fn pseudonym(public: &str, at: usize) -> Option<SubjectRef> {
    public.get(at + 1..at + 1 + SubjectRef::TEXT_LEN).and_then(SubjectRef::parse)
}

/// Why a slot is not opened, and whose data that concerns.
type Closed = (State, SubjectRef);

/// Whom a slot concerns when that cannot be told.
const NOBODY: SubjectRef = SubjectRef([0; 16]);

/// What is to be done with each slot of each event.
#[derive(Default)]
pub struct Plan {
    /// Every key of the page, once.
    pub wanted: Vec<DekId>,
    /// Slot after slot in page order: where its owners are, or why it stays closed.
    slots: Vec<Result<Range<usize>, Closed>>,
    /// The owners of every slot to be opened, one slot after the other.
    owners: Vec<SubjectRef>,
    /// For each of these owners the place of the key in `wanted`.
    keys: Vec<usize>,
}

/// Decides every slot of the page.
pub fn plan(page: &Page, metas: &[Meta<'_>], viewer: &Viewer) -> Plan {
    let mut planner =
        Planner { page, viewer, purposes: Vec::new(), places: SubjectMap::default(), plan: Plan::default() };
    for slot in metas.iter().flat_map(|meta| &meta.slots) {
        let decision = planner.decide(slot);
        if decision.is_err() {
            planner.plan.owners.truncate(planner.plan.keys.len());
        }
        planner.plan.slots.push(decision);
    }
    planner.plan
}

struct Planner<'a> {
    page: &'a Page,
    viewer: &'a Viewer,
    /// The purposes of the page, and whether the viewer may see them; there are few.
    purposes: Vec<(Purpose, bool)>,
    /// Where a key stands in `wanted`, by person, place of the purpose and generation.
    places: SubjectMap<(SubjectRef, usize, u32), usize>,
    plan: Plan,
}

impl Planner<'_> {
    fn decide(&mut self, slot: &SlotMeta<'_>) -> Result<Range<usize>, Closed> {
        let purpose = self.purpose(&slot.purpose).ok_or((State::Unavailable, NOBODY))?;
        let from = self.plan.owners.len();
        for owner in &slot.owners {
            let subject = SubjectRef::parse(&owner.0).ok_or((State::Unavailable, NOBODY))?;
            if let Some(fence) = self.page.fences.covering(&subject, &slot.purpose, owner.1) {
                return Err((State::Fenced(Arc::new(fence.clone())), subject));
            }
            self.plan.owners.push(subject);
        }
        let first = *self.plan.owners.get(from).ok_or((State::Unavailable, NOBODY))?;
        let (name, allowed) = &self.purposes[purpose];
        if !allowed {
            return Err((State::Withheld, first));
        }
        let Plan { wanted, owners, keys, .. } = &mut self.plan;
        for (subject, owner) in owners[from..].iter().zip(&slot.owners) {
            let place = self.places.entry((*subject, purpose, owner.1)).or_insert_with(|| {
                wanted.push(DekId { subject: *subject, purpose: name.clone(), generation: owner.1 });
                wanted.len() - 1
            });
            keys.push(*place);
        }
        Ok(from..owners.len())
    }

    /// Place of a purpose.
    fn purpose(&mut self, name: &str) -> Option<usize> {
        self.purposes.iter().position(|(known, _)| known.as_str() == name).or_else(|| {
            self.purposes.push((Purpose::parse_any(name).ok()?, self.viewer.purposes.allow(name)));
            Some(self.purposes.len() - 1)
        })
    }
}

/// The slots of a page, opened.
pub struct OpenedPage {
    /// Slot after slot in page order: what was opened, or why not.
    slots: Vec<Result<OpenedSlot, Closed>>,
    /// Whether a key that no fence explains was destroyed or unknown, or an envelope did not open.
    pub missing: bool,
}

impl OpenedPage {
    /// The events of the page with their slots.
    pub fn events<'p>(&'p self, page: &'p Page, metas: &'p [Meta<'p>]) -> Vec<Opened<'p>> {
        let mut rest = self.slots.as_slice();
        let opened = page.events.iter().zip(metas).map(|(event, meta)| {
            let (slots, others) = rest.split_at(meta.slots.len());
            rest = others;
            Opened { event, meta, slots }
        });
        opened.collect()
    }
}

/// Opens what the plan allows. `keys` are the answers to what the plan wants, in that order, or `None` when the keystore
/// could not be reached.
pub fn open(store: StoreId, page: &Page, metas: &[Meta<'_>], plan: &Plan, keys: Option<&[Fetched]>) -> OpenedPage {
    let mut opener = Opener { store, plan, keys, digests: Vec::new() };
    let mut opened = OpenedPage { slots: Vec::with_capacity(plan.slots.len()), missing: false };
    let mut decisions = plan.slots.iter();
    for (event, meta) in page.events.iter().zip(metas) {
        let mut envelopes = envelope::slots(event.sealed.as_deref().unwrap_or_default());
        for ((number, slot), decision) in (0..).zip(&meta.slots).zip(decisions.by_ref()) {
            let sealed = envelopes.next().and_then(Result::ok).flatten();
            opened.slots.push(match decision {
                Err(closed) => Err(closed.clone()),
                Ok(owners) => opener.open(event, number, slot, owners, sealed).ok_or_else(|| {
                    opened.missing |= keys.is_some();
                    (State::Unavailable, plan.owners[owners.start])
                }),
            });
        }
    }
    opened
}

struct Opener<'a, 'p> {
    store: StoreId,
    plan: &'a Plan,
    keys: Option<&'a [Fetched]>,
    /// Digests of the lists of pointers seen so far: events of a type mostly have the same.
    digests: Vec<(&'p [Site<'p>], [u8; 32])>,
}

/// Most digests remembered; looking for one among many costs more than computing it.
const MOST_DIGESTS: usize = 16;

impl<'p> Opener<'_, 'p> {
    fn open(
        &mut self,
        event: &StoredEvent,
        number: u16,
        slot: &'p SlotMeta<'p>,
        owners: &Range<usize>,
        sealed: Option<&[u8]>,
    ) -> Option<OpenedSlot> {
        let (sealed, fetched) = (sealed?, self.keys?);
        let key = |place: &usize| match fetched.get(*place)? {
            Fetched::Key(key) => Some(key.as_ref()),
            Fetched::Destroyed { .. } | Fetched::Unknown => None,
        };
        let paths = self.paths_digest(slot);
        let identity = event.identity(&self.store);
        let context = identity.context(&self.plan.owners[owners.clone()], number, slot, paths);
        match &self.plan.keys[owners.clone()] {
            [one] => sealing::open(&[key(one)?], &context, sealed),
            several => sealing::open(&several.iter().map(key).collect::<Option<Vec<&Dek>>>()?, &context, sealed),
        }
        .ok()
    }

    fn paths_digest(&mut self, slot: &'p SlotMeta<'p>) -> [u8; 32] {
        let same = |known: &[Site<'_>]| known.iter().map(|site| &site.0).eq(slot.fields.iter().map(|site| &site.0));
        if let Some((_, digest)) = self.digests.iter().find(|(known, _)| same(known)) {
            return *digest;
        }
        let digest = slot.paths_digest();
        if self.digests.len() < MOST_DIGESTS {
            self.digests.push((&slot.fields, digest));
        }
        digest
    }
}

/// Who is about to be seen, for which purpose, in how many values.
pub fn viewings<'a>(
    opened: &'a OpenedPage,
    metas: &'a [Meta<'_>],
    plan: &'a Plan,
    named: &'a [Option<SubjectRef>],
    people: &'a People,
) -> impl Iterator<Item = Viewing<'a>> + Clone {
    let slots = metas.iter().flat_map(|meta| &meta.slots).zip(opened.slots.iter().zip(&plan.slots));
    let values = slots.flat_map(|(meta, (slot, owners))| {
        let owners = owners.as_ref().ok().filter(|_| slot.is_ok()).cloned().unwrap_or_default();
        let viewing = |subject: &SubjectRef| Viewing {
            subject: *subject,
            purpose: &meta.purpose,
            fields: meta.fields.len() as u32,
        };
        plan.owners[owners].iter().map(viewing)
    });
    let ids = named.iter().flatten().filter(|subject| people.get(subject).is_some());
    values.chain(ids.map(|subject| Viewing { subject: *subject, purpose: "$identity", fields: 1 }))
}

/// The people whose external ids the viewer may see.
#[derive(Default)]
pub struct People(Vec<(SubjectRef, ExternalId)>);

impl People {
    /// From people in ascending order, each once, and what is known of them.
    pub fn new(subjects: Vec<SubjectRef>, ids: Vec<Option<ExternalId>>) -> Self {
        Self(subjects.into_iter().zip(ids).filter_map(|(subject, id)| Some((subject, id?))).collect())
    }

    /// The external id of a person.
    pub fn get(&self, subject: &SubjectRef) -> Option<&ExternalId> {
        self.0.binary_search_by_key(subject, |known| known.0).ok().map(|at| &self.0[at].1)
    }
}
