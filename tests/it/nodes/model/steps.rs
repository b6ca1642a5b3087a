//! What can happen next.
//!
//! Owns: the protocol as the server runs it, step by step, and the ways in which it can be broken. A process may stop anywhere,
//! for any time, by not stepping: that is a pause, a partition, and a keystore that cannot be reached. What is together in
//! one step here is so because apart it would be less dangerous: asking and the snapshot (a lease counts from the asking), beginning
//! an answer's lease and reading the fence.

use super::state::{Answer, At, L, LEASE, LOSES_ONE_IN, NO_ANSWER, Node, OLD, PEOPLE, Row, Rules, State, TWO, Wait};

/// What must never be, or always come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Invariant {
    /// No clear value is emitted after forget returned.
    A,
    /// No event sealed under the key is committed after the fence.
    B,
    /// No process runs while the keystore has a key that the erasure record says is gone.
    C,
    /// After forget returned no process has a key it may use, or clear values it may emit.
    D,
    /// The intent is durable before a key is destroyed.
    E,
    /// Erased is said of the fenced only.
    H,
    /// Whatever processes fail to do: whoever is fenced is forgotten in the end.
    J,
}

/// Ways to break the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    FenceNotRead,
    LeaseAfterFence,
    NoWait,
    NoDrift,
    CoordinatorsOwnLease,
    HorizonFromReceipt,
    HorizonBeforeRevocations,
    CacheBeyondHorizon,
    NoResponseDeadline,
    NoTicket,
    AcknowledgedBeforeDrained,
    RegistrationNotLookedFor,
    ExpelledForgottenAtOnce,
    ExpelledForgottenAfterOneLease,
    ExpelledKeepsItsCache,
    ExpelledKeepsItsAnswers,
    RegisteringAcknowledges,
    LetsGoTooEarly,
    TakeOverDoesNotWait,
    AppendWithoutFence,
    StartWithoutReplay,
    KeyBeforeIntent,
    OutageIsErasure,
    WaitsForAcknowledgementsOnly,
}

/// One step.
pub struct Step {
    pub label: &'static str,
    pub to: State,
    /// What this step breaks by being made.
    pub breaks: Option<Invariant>,
    /// Happens by itself, whatever processes fail to do.
    pub certain: bool,
}

/// The protocol, and how much of the world there is.
pub struct Protocol {
    pub rules: Rules,
    pub broken: Option<Broken>,
    pub nodes: usize,
    pub people: usize,
    pub coordinators: usize,
    pub revocations: u8,
    pub appends: bool,
    /// Of processes that answer.
    pub crashes: bool,
    /// Of coordinators.
    pub deaths: bool,
    pub restore: bool,
    pub drift: bool,
}

impl Protocol {
    /// The same, broken.
    pub fn break_it(mut self, broken: Broken) -> Self {
        self.broken = Some(broken);
        match broken {
            Broken::NoDrift => self.rules = self.rules.without_drift(),
            Broken::CoordinatorsOwnLease => self.rules = Rules::new(LEASE / 2),
            Broken::NoWait => self.rules.waited = [[true; OLD as usize + 1]; 1 << TWO],
            Broken::WaitsForAcknowledgementsOnly => self.rules.waited[1..].fill([false; OLD as usize + 1]),
            Broken::ExpelledForgottenAfterOneLease => self.rules.over = self.rules.waited[1],
            Broken::HorizonFromReceipt => self.rules.horizon = [L; OLD as usize + 1],
            Broken::CacheBeyondHorizon => self.rules.usable = [true; L as usize + 1],
            _ => {}
        }
        self
    }

    pub(super) fn is(&self, broken: Broken) -> bool {
        self.broken == Some(broken)
    }

    /// Everything that can happen.
    pub fn steps(&self, state: &State, out: &mut Vec<Step>) {
        self.time(state, out);
        self.requests(state, out);
        for at in 0..self.coordinators {
            self.coordinator(state, at, out);
        }
        for at in 0..self.nodes {
            let node = state.nodes[at];
            if node.up {
                self.membership(state, at, out);
                for person in 0..self.people {
                    self.answer(state, at, person, out);
                }
                self.append(state, at, out);
                self.crash(state, at, out);
            } else {
                self.start(state, at, out);
            }
        }
    }

    /// What must hold in every state.
    pub fn violated(&self, state: &State) -> Option<Invariant> {
        for person in 0..self.people {
            if !state.key[person] && !state.fence[person] {
                return Some(Invariant::E);
            }
            if !state.done[person] {
                continue;
            }
            for node in state.nodes[..self.nodes].iter().filter(|node| node.up) {
                if state.key[person] {
                    return Some(Invariant::C);
                }
                let usable = node.cache[person] && self.rules.usable[node.horizon as usize];
                if usable || self.sendable(node.answers[person]) {
                    return Some(Invariant::D);
                }
            }
        }
        None
    }

    fn sendable(&self, answer: Answer) -> bool {
        let in_time = answer.left > 0 || self.is(Broken::NoResponseDeadline);
        match answer.at {
            At::Open => in_time && !answer.lost,
            At::Writing => true,
            At::Nowhere | At::Looked | At::Asked => false,
        }
    }

    /// A tick. Clocks of processes may lose it. Nothing passes while a write is being made: that it is made within the
    /// tick is what the guard before the socket relies on.
    fn time(&self, state: &State, out: &mut Vec<Step>) {
        let writing = |node: &Node| node.answers.iter().any(|answer| answer.at == At::Writing);
        if state.nodes.iter().any(writing) {
            return;
        }
        for losing in 0..1_usize << self.nodes {
            let loses = |at: usize| losing >> at & 1 == 1;
            if (0..self.nodes).any(|at| loses(at) && (!self.drift || state.nodes[at].sound > 0)) {
                continue;
            }
            let mut to = *state;
            for wait in to.waits.iter_mut().flatten() {
                wait.age = (wait.age + 1).min(OLD);
            }
            for at in 0..self.nodes {
                let node = &mut to.nodes[at];
                if let Row::Out(age, _) = &mut node.row {
                    *age = (*age + 1).min(OLD);
                }
                node.sound = node.sound.saturating_sub(1);
                if loses(at) { node.sound = LOSES_ONE_IN - 1 } else { self.tick(node) }
            }
            out.push(certain("tick", to));
        }
    }

    /// A tick by the process's own clock.
    fn tick(&self, node: &mut Node) {
        node.horizon = node.horizon.saturating_sub(1);
        if let Some((age, _)) = &mut node.renewal {
            *age = (*age + 1).min(L);
        }
        for answer in &mut node.answers {
            let begun = answer.at != At::Looked || !self.is(Broken::LeaseAfterFence);
            if begun {
                answer.left = answer.left.saturating_sub(1);
            }
        }
    }

    /// Fences, and an old keystore put back: all processes have been stopped for that.
    fn requests(&self, state: &State, out: &mut Vec<Step>) {
        // The first person first: they are alike.
        let awaited = |person: usize| state.waits.iter().flatten().any(|wait| wait.whom[person]);
        let left = (0..self.people).filter(|person| state.fence[*person] && !state.done[*person] && !awaited(*person));
        let fits = state.count + (left.count() as u8) < self.revocations;
        if let Some(person) = (0..self.people).find(|person| !state.fence[*person]).filter(|_| fits) {
            let mut to = *state;
            to.fence[person] = true;
            out.push(step("fence (F1)", to));
        }
        let open = (0..self.people).filter(|person| state.fence[*person] && !state.done[*person]).count() as u8;
        let forgotten = (0..self.people).any(|person| state.done[person]);
        if self.restore && !state.restored && forgotten && state.count + open <= self.revocations {
            let mut to = *state;
            (to.key, to.restored, to.waits) = ([true; PEOPLE], true, [None; TWO]);
            for node in &mut to.nodes[..self.nodes] {
                *node = stopped(Row::None, node.sound);
            }
            out.push(step("an old keystore is put back", to));
        }
    }

    fn coordinator(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let open = std::array::from_fn(|person| state.fence[person] && !state.done[person]);
        let count = open.iter().filter(|open| **open).count() as u8;
        match state.waits[at] {
            None => self.destroy(state, at, open, out),
            Some(wait) => {
                let behind = |node: &Node| match node.row {
                    Row::None => false,
                    Row::In(acknowledged) | Row::Out(_, acknowledged) => acknowledged < wait.number,
                };
                let mask =
                    (0..self.nodes).filter(|node| behind(&state.nodes[*node])).fold(0, |mask, node| mask | 1 << node);
                if self.rules.waited[mask][wait.age as usize] {
                    out.push(certain("release, complete (F4-F7)", self.released(state, at, wait, mask)));
                }
                if self.deaths && state.count + count <= self.revocations {
                    let mut to = *state;
                    to.waits[at] = None;
                    out.push(step("a coordinator dies", to));
                }
            }
        }
        for node in 0..self.nodes {
            let Row::Out(age, _) = state.nodes[node].row else { continue };
            if self.rules.over[age as usize] {
                let mut to = *state;
                to.nodes[node].row = Row::None;
                out.push(certain("dismiss", to));
            }
        }
    }

    fn destroy(&self, state: &State, at: usize, open: [bool; PEOPLE], out: &mut Vec<Step>) {
        let early = self.is(Broken::KeyBeforeIntent) && !state.fence[0];
        let whom = if early { [true, false] } else { open };
        if whom == [false; PEOPLE] {
            return;
        }
        if self.is(Broken::TakeOverDoesNotWait) && whom.iter().zip(state.key).any(|(whom, key)| *whom && !key) {
            let mut to = *state;
            (0..PEOPLE).for_each(|person| to.done[person] |= whom[person] && !to.key[person]);
            out.push(certain("take over, complete", to));
            return;
        }
        let mut to = *state;
        for person in (0..PEOPLE).filter(|person| whom[*person]) {
            if to.count == self.revocations {
                return;
            }
            to.key[person] = false;
            to.revoked[to.count as usize] = person as u8;
            to.count += 1;
        }
        to.waits[at] = Some(Wait { whom, number: to.count, age: 0 });
        out.push(certain("destroy (F2)", to));
    }

    fn released(&self, state: &State, at: usize, wait: Wait, behind: usize) -> State {
        let mut to = *state;
        to.waits[at] = None;
        for person in (0..PEOPLE).filter(|person| wait.whom[*person]) {
            // The log refuses what another coordinator was faster with.
            to.done[person] |= self.rules.completes[usize::from(state.done[person])];
        }
        for node in (0..self.nodes).filter(|node| behind >> node & 1 == 1) {
            let row = &mut to.nodes[node].row;
            if self.is(Broken::ExpelledForgottenAtOnce) {
                *row = Row::None;
            } else if let Row::In(acknowledged) = *row {
                *row = Row::Out(0, acknowledged);
            }
        }
        to
    }

    /// Sealing and committing an event of the first person.
    fn append(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let node = state.nodes[at];
        if !self.appends {
            return;
        }
        let mut to = *state;
        if node.sealed {
            to.nodes[at].sealed = false;
            if !state.fence[0] || self.is(Broken::AppendWithoutFence) {
                let breaks = state.fence[0].then_some(Invariant::B);
                out.push(Step { label: "append commits", to, breaks, certain: false });
            } else {
                out.push(step("append refused", to));
            }
        } else if self.cached(&node, 0) || state.key[0] && self.given(&node) {
            to.nodes[at].sealed = true;
            out.push(step("seal", to));
        }
    }

    pub(super) fn cached(&self, node: &Node, person: usize) -> bool {
        node.cache[person] && self.rules.usable[node.horizon as usize]
    }

    /// Whether the keystore gives it keys.
    pub(super) fn given(&self, node: &Node) -> bool {
        matches!(node.row, Row::In(_)) || self.is(Broken::RegistrationNotLookedFor)
    }

    fn crash(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        if self.crashes {
            let mut to = *state;
            to.nodes[at] = stopped(state.nodes[at].row, state.nodes[at].sound);
            out.push(step("a process dies", to));
        }
    }

    /// The row of the dead process is left out from here on: that nobody waits for it is the more dangerous case.
    fn start(&self, state: &State, at: usize, out: &mut Vec<Step>) {
        let mut to = *state;
        to.nodes[at] = Node { sound: state.nodes[at].sound, ..super::state::started(state.count) };
        if !self.is(Broken::StartWithoutReplay) {
            (0..PEOPLE).for_each(|person| to.key[person] &= !to.done[person]);
        }
        out.push(step("a process starts", to));
    }
}

fn stopped(row: Row, sound: u8) -> Node {
    Node { up: false, row, sound, ..super::state::started(0) }
}

pub(super) fn step(label: &'static str, to: State) -> Step {
    Step { label, to, breaks: None, certain: false }
}

pub(super) fn certain(label: &'static str, to: State) -> Step {
    Step { label, to, breaks: None, certain: true }
}

pub(super) const GONE: Answer = NO_ANSWER;
