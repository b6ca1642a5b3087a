//! What a process does: renewing, registering, acknowledging, and answering.

use super::state::{Answer, At, L, Node, PEOPLE, Row, State};
use super::steps::{Broken, GONE, Invariant, Protocol, Step, certain, step};

impl Protocol {
    /// Being one of several.
    pub(super) fn membership(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let node = state.nodes[at];
        let mut change = |label: &'static str, change: &dyn Fn(&mut Node)| {
            let mut to = *state;
            change(&mut to.nodes[at]);
            out.push(step(label, to));
        };
        match (node.applied, node.renewal) {
            (None, _) => self.find_place(state, at, out),
            (Some(_), None) => {
                let found = matches!(node.row, Row::In(_)).then_some(state.count);
                change("renewal asked for", &|node| node.renewal = Some((0, found)));
            }
            (Some(applied), Some((age, found))) => {
                change("renewal lost", &|node| node.renewal = None);
                match found {
                    None => change("renewal: not registered", &|node| {
                        (node.applied, node.renewal, node.horizon, node.heard) = (None, None, 0, 0);
                    }),
                    Some(number) => change("renewed", &|node| {
                        node.renewal = None;
                        node.heard = number;
                        if self.is(Broken::HorizonBeforeRevocations) {
                            node.horizon = self.rules.horizon[age as usize];
                        } else {
                            apply(node, state, applied);
                            node.horizon = self.rules.horizon[age as usize];
                            node.heard = 0;
                        }
                    }),
                }
            }
        }
        if let Some(applied) = node.applied
            && node.heard > 0
        {
            let mut to = *state;
            apply(&mut to.nodes[at], state, applied);
            to.nodes[at].heard = 0;
            out.push(step("revocations applied late", to));
        }
        self.acknowledge(state, at, out);
    }

    fn acknowledge(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let node = state.nodes[at];
        let (Some(applied), Row::In(said) | Row::Out(_, said)) = (node.applied, node.row) else { return };
        let drained = drained(&node) || self.is(Broken::AcknowledgedBeforeDrained);
        if said >= applied || !drained {
            return;
        }
        let mut to = *state;
        to.nodes[at].row = match node.row {
            Row::Out(age, _) => Row::Out(age, applied),
            Row::In(_) | Row::None => Row::In(applied),
        };
        out.push(step("acknowledged", to));
    }

    /// Finds out where it stands: registered, it goes on from there; otherwise it lets go of everything and registers.
    fn find_place(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let node = state.nodes[at];
        let mut to = *state;
        match node.row {
            Row::In(acknowledged) => {
                if self.is(Broken::RegisteringAcknowledges) {
                    to.nodes[at].row = Row::In(state.count);
                    to.nodes[at].applied = Some(state.count);
                } else {
                    to.nodes[at].applied = Some(acknowledged);
                }
                out.push(step("found registered", to));
            }
            Row::Out(..) | Row::None if !node.empty => {
                self.let_go(&mut to.nodes[at]);
                out.push(step("found unregistered, lets go", to));
            }
            Row::Out(..) | Row::None => {
                if drained(&node) || self.is(Broken::ExpelledKeepsItsAnswers) {
                    to.nodes[at].row = Row::In(state.count);
                    to.nodes[at].empty = self.is(Broken::LetsGoTooEarly);
                    out.push(step("registered", to));
                }
            }
        }
    }

    fn let_go(&self, node: &mut Node) {
        (node.empty, node.horizon) = (true, 0);
        if !self.is(Broken::ExpelledKeepsItsCache) {
            node.cache = [false; PEOPLE];
        }
        for answer in &mut node.answers {
            answer.ticket = false;
            answer.lost |= answer.at != At::Nowhere && !self.is(Broken::ExpelledKeepsItsAnswers);
        }
    }

    /// An answer about a person.
    pub(super) fn answer(&self, state: &State, at: usize, person: usize, out: &mut Vec<Step>) {
        let node = state.nodes[at];
        let answer = node.answers[person];
        let with = |answer: Answer| {
            let mut to = *state;
            to.nodes[at].answers[person] = answer;
            to
        };
        let open = Answer { at: At::Open, ticket: false, ..answer };
        match answer.at {
            At::Nowhere => {
                if !state.fence[person] || self.is(Broken::FenceNotRead) {
                    out.push(step("look", with(Answer { at: At::Looked, left: L, lost: false, ticket: false })));
                }
                return;
            }
            At::Looked => {
                if self.cached(&node, person) {
                    out.push(step("open with a cached key", with(open)));
                }
                if state.key[person] && self.given(&node) {
                    let ticket = self.rules.usable[node.horizon as usize];
                    out.push(step("key asked for", with(Answer { at: At::Asked, ticket, ..answer })));
                }
                let says_erased = self.is(Broken::OutageIsErasure) && !state.fence[person];
                let breaks = says_erased.then_some(Invariant::H);
                out.push(Step { label: "the keystore does not answer", to: with(GONE), breaks, certain: false });
                return;
            }
            At::Asked => {
                let mut to = with(open);
                to.nodes[at].cache[person] |= answer.ticket || self.is(Broken::NoTicket);
                out.push(step("open with a fetched key", to));
            }
            At::Open => {
                let in_time = answer.left > 0 || self.is(Broken::NoResponseDeadline);
                if in_time && !answer.lost {
                    out.push(step("lease checked", with(Answer { at: At::Writing, ..answer })));
                }
            }
            At::Writing => {
                let breaks = state.done[person].then_some(Invariant::A);
                let to = with(Answer { at: At::Open, ..answer });
                out.push(Step { breaks, ..certain("emit", to) });
                return;
            }
        }
        out.push(step("answer ends", with(GONE)));
    }
}

/// Applies what was revoked: keys leave the cache, keys on their way are not put there, answers are broken off.
fn apply(node: &mut Node, state: &State, applied: u8) {
    let until = node.heard;
    for number in applied..until {
        let person = state.revoked[number as usize] as usize;
        node.cache[person] = false;
        let answer = &mut node.answers[person];
        answer.ticket = false;
        answer.lost |= answer.at != At::Nowhere;
    }
    node.applied = Some(until.max(applied));
}

/// Whether every answer that was broken off has ended, or cannot be written any more.
fn drained(node: &Node) -> bool {
    node.answers.iter().all(|answer| !answer.lost || answer.left == 0 && answer.at != At::Writing)
}
