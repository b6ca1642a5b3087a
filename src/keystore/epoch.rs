//! Epochs of root keys: what there is, and what is to be done next.
//!
//! Owns: the states of epochs and the pure decision of the next step. Must not know: engines, files, the log. An epoch begins
//! with a root of its own; shard keys move under it, those of shards in which somebody was forgotten are replaced; when
//! nothing is left under earlier roots the epoch is finished, and after the horizon of backups those roots are destroyed. From
//! then on no copy of the keystore from before the epoch opens anything.

use std::time::Duration;

use crate::clock::Millis;

/// One epoch, as the keystore has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Its number, that of its root.
    pub epoch: u32,
    /// When it began.
    pub began: Millis,
    /// When everything was under its root.
    pub finished: Option<Millis>,
    /// When its root is to be destroyed; known once a later epoch has finished.
    pub destroy_due: Option<Millis>,
    /// When its root was destroyed.
    pub destroyed: Option<Millis>,
    /// The last erasure carried out before it began: copies from before it lack all of them once earlier roots are gone.
    pub erasure: u64,
    /// Shard keys that were replaced, because somebody was forgotten in their shard.
    pub shards_rekeyed: u64,
    /// Shard keys that were wrapped under the new root as they were.
    pub shards_rewrapped: u64,
    /// Keys of data subjects wrapped under new shard keys.
    pub keys_rewrapped: u64,
    /// Keys of data subjects that did not open and were left as they lay.
    pub keys_unreadable: u64,
    /// Whether what lay under earlier roots was removed from the database's files.
    pub files_rewritten: bool,
}

/// What a root is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochState {
    /// Wraps what is in use.
    Current,
    /// Opens backups from before, nothing else.
    RestoreOnly,
    /// Gone.
    Destroyed,
}

impl EpochState {
    /// The word used in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::RestoreOnly => "restore-only",
            Self::Destroyed => "destroyed",
        }
    }
}

/// All epochs, and how far the newest one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EpochStatus {
    /// Ascending. The first is the one in which the store was made.
    pub epochs: Vec<Epoch>,
    /// The latest root in the keyring.
    pub newest_root: u32,
    /// Shard keys.
    pub shards: u64,
    /// Shard keys still under an earlier root.
    pub shards_left: u64,
    /// Keys that belong to nobody still under an earlier root.
    pub secrets_left: u64,
    /// Shards in which somebody was forgotten since their key was made.
    pub dirty_shards: u64,
    /// The last erasure carried out.
    pub applied_erasure: u64,
}

impl EpochStatus {
    /// The newest epoch.
    pub fn newest(&self) -> Option<&Epoch> {
        self.epochs.last()
    }

    /// The epoch of this number.
    pub fn get(&self, epoch: u32) -> Option<&Epoch> {
        self.epochs.iter().find(|one| one.epoch == epoch)
    }

    /// Whether the newest epoch is still at work.
    pub fn is_running(&self) -> bool {
        self.newest().is_some_and(|newest| newest.finished.is_none())
    }

    /// What the root of an epoch is good for. While an epoch is at work, its own root and the one before wrap what is in use.
    pub fn state(&self, epoch: &Epoch) -> EpochState {
        let finished_later = self.epochs.iter().any(|other| other.epoch > epoch.epoch && other.finished.is_some());
        match epoch.destroyed {
            Some(_) => EpochState::Destroyed,
            None if finished_later => EpochState::RestoreOnly,
            None => EpochState::Current,
        }
    }

    /// The epoch that replaced this one.
    pub fn following(&self, epoch: u32) -> Option<&Epoch> {
        self.epochs.iter().find(|other| other.epoch > epoch)
    }

    /// The last erasure that no copy of the keystore opens any more: every root from before the epoch that covers it is gone.
    pub fn effective_erasure(&self) -> u64 {
        let gone = self.epochs.iter().take_while(|epoch| epoch.destroyed.is_some()).last();
        gone.and_then(|last| self.following(last.epoch)).map_or(0, |following| following.erasure)
    }

    /// Whether somebody was forgotten whom the newest epoch does not cover.
    pub fn is_due_for_another(&self) -> bool {
        self.newest().is_some_and(|newest| self.applied_erasure > newest.erasure) || self.dirty_shards > 0
    }

    /// What is left to be done before the newest epoch can finish.
    pub fn left(&self) -> u64 {
        self.shards_left + self.secrets_left
    }
}

/// One step of an epoch: one transaction, bounded, harmless to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochStep {
    /// Makes a root and begins its epoch, unless there is an epoch after this one already.
    Begin {
        /// The epoch that is the newest now.
        after: u32,
        /// Now.
        at: Millis,
    },
    /// Moves one shard, or the keys that belong to nobody, under the newest root.
    Rewrap,
    /// Removes what was replaced from the database's files and marks the newest epoch as finished, if nothing is left.
    Finish {
        /// Now.
        at: Millis,
        /// How long earlier roots open backups.
        keep: Duration,
    },
    /// Destroys the root of an epoch, if it is due and nothing lies under it.
    DestroyRoot {
        /// Which.
        epoch: u32,
        /// Now.
        at: Millis,
    },
}

/// How often, and how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochTimes {
    /// Time from the begin of one epoch to that of the next (E).
    pub every: Duration,
    /// How long the root of an earlier epoch opens backups (K).
    pub keep: Duration,
}

/// What is to be done now; `None` when there is nothing. Pure.
pub fn next_step(status: &EpochStatus, now: Millis, times: &EpochTimes) -> Option<EpochStep> {
    let newest = status.newest()?;
    let begin = EpochStep::Begin { after: newest.epoch, at: now };
    if status.newest_root > newest.epoch {
        // A root was stored and then the process died, or this keystore is older than the keyring.
        return Some(begin);
    }
    if newest.finished.is_none() {
        let finish = EpochStep::Finish { at: now, keep: times.keep };
        return Some(if status.left() > 0 { EpochStep::Rewrap } else { finish });
    }
    // In their order: what a destroyed root says of erasures holds only if all earlier ones are gone.
    let oldest = status.epochs.iter().find(|epoch| epoch.destroyed.is_none());
    if let Some(Epoch { epoch, destroy_due: Some(due), .. }) = oldest
        && *due <= now
    {
        return Some(EpochStep::DestroyRoot { epoch: *epoch, at: now });
    }
    let age = now.0.saturating_sub(newest.began.0);
    let every = i64::try_from(times.every.as_millis()).unwrap_or(i64::MAX);
    // A root that replaces nobody's keys would end the use of backups for nothing.
    (age >= every && status.is_due_for_another()).then_some(begin)
}

/// When a root that is kept for so long from now on is due.
pub fn due(at: Millis, keep: Duration) -> Millis {
    Millis(at.0.saturating_add(i64::try_from(keep.as_millis()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const SHARDS: usize = 4;
    const HOUR: i64 = 60 * 60 * 1000;
    const TIMES: EpochTimes = EpochTimes { every: Duration::from_hours(24), keep: Duration::from_hours(48) };

    /// A keystore of which a copy is taken at every moment. Keys are numbers; a thief has every wrapping that ever stood.
    struct Model {
        /// Key of each shard, the root over it, and whether somebody was forgotten in it.
        shards: [(u32, u32, bool); SHARDS],
        keys: u32,
        seen: BTreeSet<(u32, u32)>,
        roots: BTreeSet<u32>,
        epochs: Vec<Epoch>,
        /// When, and under which shard key.
        forgotten: Vec<(Millis, u32)>,
        now: Millis,
    }

    impl Model {
        fn new() -> Self {
            let shards = [1, 2, 3, 4].map(|key| (key, 1, false));
            let seen = shards.iter().map(|(key, root, _)| (*key, *root)).collect();
            let first = Self {
                shards,
                keys: 4,
                seen,
                roots: BTreeSet::from([1]),
                epochs: vec![],
                forgotten: vec![],
                now: Millis(0),
            };
            Self { epochs: vec![first.row(1, Some(Millis(0)))], ..first }
        }

        fn row(&self, epoch: u32, finished: Option<Millis>) -> Epoch {
            Epoch {
                epoch,
                began: self.now,
                finished,
                destroy_due: None,
                destroyed: None,
                erasure: self.forgotten.len() as u64,
                shards_rekeyed: 0,
                shards_rewrapped: 0,
                keys_rewrapped: 0,
                keys_unreadable: 0,
                files_rewritten: true,
            }
        }

        fn status(&self) -> EpochStatus {
            let newest = self.epochs.last().map_or(0, |epoch| epoch.epoch);
            let count =
                |which: &dyn Fn(&(u32, u32, bool)) -> bool| self.shards.iter().filter(|s| which(s)).count() as u64;
            EpochStatus {
                epochs: self.epochs.clone(),
                newest_root: *self.roots.last().unwrap(),
                shards: SHARDS as u64,
                shards_left: count(&|shard| shard.1 < newest),
                secrets_left: 0,
                dirty_shards: count(&|shard| shard.2),
                applied_erasure: self.forgotten.len() as u64,
            }
        }

        fn take(&mut self, step: EpochStep) {
            let newest = self.epochs.last().unwrap().epoch;
            match step {
                EpochStep::Begin { after, .. } => {
                    assert_eq!(after, newest);
                    self.roots.insert(newest + 1);
                    self.epochs.push(self.row(newest + 1, None));
                }
                EpochStep::Rewrap => {
                    let next = self.shards.iter_mut().find(|shard| shard.1 < newest).expect("something is left");
                    if next.2 {
                        self.keys += 1;
                        next.0 = self.keys;
                    }
                    (next.1, next.2) = (newest, false);
                    self.seen.insert((next.0, next.1));
                }
                EpochStep::Finish { at, keep } => {
                    assert!(self.shards.iter().all(|shard| shard.1 == newest), "finished while something is left");
                    for epoch in &mut self.epochs {
                        if epoch.epoch == newest {
                            epoch.finished = Some(at);
                        } else {
                            epoch.destroy_due.get_or_insert(due(at, keep));
                        }
                    }
                }
                EpochStep::DestroyRoot { epoch, at } => {
                    assert!(self.shards.iter().all(|shard| shard.1 != epoch), "a root in use is destroyed");
                    assert!(self.roots.remove(&epoch) && !self.roots.is_empty());
                    self.epochs.iter_mut().find(|one| one.epoch == epoch).unwrap().destroyed = Some(at);
                }
            }
        }

        /// At most so many steps.
        fn work(&mut self, most: usize) {
            for _ in 0..most {
                match next_step(&self.status(), self.now, &TIMES) {
                    Some(step) => self.take(step),
                    None => return,
                }
                self.claims_hold();
            }
        }

        fn forget(&mut self, shard: usize) {
            self.forgotten.push((self.now, self.shards[shard].0));
            self.shards[shard].2 = true;
        }

        /// Whether some copy opens the shard key under which this person's keys were.
        fn opens(&self, key: u32) -> bool {
            self.seen.iter().any(|(one, root)| *one == key && self.roots.contains(root))
        }

        fn claims_hold(&self) {
            let effective = self.status().effective_erasure() as usize;
            for (at, (_, key)) in self.forgotten.iter().take(effective).enumerate() {
                assert!(!self.opens(*key), "erasure {} is called effective and a copy opens it", at + 1);
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Forget(usize),
        Pass(i64),
        Work(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            3 => (0..SHARDS).prop_map(Op::Forget),
            3 => (1..40i64).prop_map(Op::Pass),
            4 => (0..9usize).prop_map(Op::Work),
        ];
        prop::collection::vec(op, 0..120)
    }

    proptest! {
        /// However forgets, time, work and pauses of the work come together: no root in use is destroyed, and what is called
        /// effective is.
        #[test]
        fn what_is_called_effective_is(ops in ops()) {
            let mut model = Model::new();
            for op in ops {
                match op {
                    Op::Forget(shard) => model.forget(shard),
                    Op::Pass(hours) => model.now = Millis(model.now.0 + hours * HOUR),
                    Op::Work(most) => model.work(most),
                }
                model.claims_hold();
            }
        }

        /// Work that is not held up keeps the bound: after E + K, and the hour in which somebody looks twice, no copy opens
        /// anything of whoever was forgotten.
        #[test]
        fn backups_forget_within_the_bound(ops in ops()) {
            let mut model = Model::new();
            let bound = 2 * HOUR + due(due(Millis(0), TIMES.every), TIMES.keep).0;
            for op in ops {
                let hours = match op {
                    Op::Forget(shard) => { model.forget(shard); 0 }
                    Op::Pass(hours) => hours,
                    Op::Work(_) => 1,
                };
                for _ in 0..hours {
                    model.now = Millis(model.now.0 + HOUR);
                    model.work(usize::MAX);
                }
                let effective = model.status().effective_erasure() as usize;
                for (number, (at, key)) in model.forgotten.iter().enumerate() {
                    if model.now.0 - at.0 > bound {
                        prop_assert!(effective > number && !model.opens(*key), "erasure {}", number + 1);
                    }
                }
            }
        }
    }

    #[test]
    fn states_of_roots() {
        let mut model = Model::new();
        model.forget(0);
        model.now = Millis(30 * HOUR);
        model.work(1);
        let states = |model: &Model| {
            let status = model.status();
            status.epochs.iter().map(|epoch| status.state(epoch).as_str()).collect::<Vec<_>>()
        };
        assert_eq!(states(&model), ["current", "current"], "both wrap what is in use");
        model.work(100);
        assert_eq!(states(&model), ["restore-only", "current"]);
        model.now = Millis(100 * HOUR);
        model.work(100);
        assert_eq!(states(&model), ["destroyed", "current"]);
    }

    #[test]
    fn a_root_without_a_row_is_taken_up_first() {
        let mut status = Model::new().status();
        status.newest_root = 2;
        let begin = EpochStep::Begin { after: 1, at: Millis(5) };
        assert_eq!(next_step(&status, Millis(5), &TIMES), Some(begin));
        status.epochs.clear();
        assert_eq!(next_step(&status, Millis(5), &TIMES), None);
    }
}
