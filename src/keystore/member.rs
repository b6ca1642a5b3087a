//! This process among others over one keystore.
//!
//! Owns: the loop that renews the right to use what is in memory, and applies what others revoke. Must not know: events,
//! HTTP. Keeps its part of invariant 5: the horizon is moved only after every revocation known at the moment of asking has been
//! applied, and a revocation is acknowledged only when no answer holds the person's clear values any more.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::nodes::{Nodes, Place, Renewal, Revocation, Revoked, tenure};
use super::{CachedKeystore, KeystoreError, Leases};
use crate::clock::{Boottime, Clock};

/// Renewals in the length of a lease.
const RENEWALS: u32 = 5;
/// Shortest wait for an answer.
const SHORTEST: Duration = Duration::from_millis(200);
/// How long a failed acknowledgement waits for the next attempt.
const AGAIN: Duration = Duration::from_millis(100);

/// No answer came before what is in memory expired.
const SILENT: KeystoreError = KeystoreError::Unavailable { reason: "no answer in time" };

/// Resolves when nobody here shows the person any more.
type Released = Pin<Box<dyn Future<Output = ()> + Send>>;

/// This process.
pub struct Member {
    keys: Arc<CachedKeystore>,
    leases: Arc<Leases>,
    clock: Clock,
    name: String,
    /// Revocations applied so far; `None` while not registered.
    applied: Option<u64>,
    released: mpsc::UnboundedSender<(u64, Released)>,
}

/// Takes part until the task is stopped. Ends at once where there are no other processes.
pub async fn take_part(keys: Arc<CachedKeystore>, leases: Arc<Leases>, clock: Clock, name: String) {
    let keystore = Arc::clone(keys.keystore());
    let Some(nodes) = keystore.nodes() else { return };
    let (released, acknowledging) = mpsc::unbounded_channel();
    let member = Member { keys, leases, clock, name, applied: None, released };
    tokio::join!(member.run(nodes), acknowledge(nodes, acknowledging));
}

impl Member {
    async fn run(mut self, nodes: &dyn Nodes) {
        let lease = self.leases.length();
        loop {
            let Some(applied) = self.applied else {
                self.find_place(nodes, lease).await;
                continue;
            };
            let asked = Boottime::now();
            // Beyond the horizon nothing may stay in memory, whether or not an answer comes; once nothing is there, it may
            // take its time.
            let left = asked.until(self.keys.horizon().until());
            let patience = if left.is_zero() { lease } else { left.max(SHORTEST) };
            let answer = timeout(patience, nodes.renew(applied, self.clock.now())).await;
            if self.renewed(nodes, answer.unwrap_or(Err(SILENT))) {
                self.keys.horizon().set(tenure(asked, lease));
            } else if !self.keys.horizon().allows(Boottime::now()) {
                self.keys.cache().clear();
            }
            if self.applied.is_some() {
                tokio::select! {
                    () = nodes.told() => {}
                    () = sleep(lease / RENEWALS) => {}
                }
            }
        }
    }

    /// Applies what was revoked; whether this process may go on.
    fn renewed(&mut self, nodes: &dyn Nodes, answer: Result<Renewal, KeystoreError>) -> bool {
        match answer {
            Ok(Renewal::Renewed(revocations)) => {
                for revocation in revocations {
                    self.apply(nodes, revocation);
                }
                true
            }
            Ok(Renewal::Unregistered) => {
                tracing::warn!("this process was taken for gone and is registered anew");
                self.applied = None;
                self.keys.horizon().set(Boottime::ZERO);
                self.keys.cache().clear();
                nodes.drop_shard_keys();
                false
            }
            Err(error) => {
                tracing::warn!(error = %error, "the keystore is not heard of; keys in memory expire");
                false
            }
        }
    }

    /// Finds out where this process stands; registers where it does not. In this order: only what is let go of after it was
    /// found unregistered is let go of for good, for until it registers nothing is given to it.
    async fn find_place(&mut self, nodes: &dyn Nodes, lease: Duration) {
        match nodes.introduce(lease, self.name.clone(), self.clock.now()).await {
            Ok(Place::Registered(acknowledged)) => self.applied = Some(acknowledged),
            Ok(Place::Unregistered(found)) => {
                self.let_go(nodes).await;
                if let Err(error) = nodes.register(found, lease, self.clock.now()).await {
                    tracing::warn!(error = %error, "this process cannot be registered with the keystore");
                    sleep(AGAIN).await;
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "the keystore does not say where this process stands");
                sleep(AGAIN).await;
            }
        }
    }

    /// Lets go of everything: what was revoked since this process was last heard is not known here, and a registration says
    /// that nothing of it is left, in memory or in an answer.
    async fn let_go(&self, nodes: &dyn Nodes) {
        self.keys.horizon().set(Boottime::ZERO);
        self.keys.cache().clear();
        nodes.drop_shard_keys();
        self.leases.revoke_everyone().await;
    }

    fn apply(&mut self, nodes: &dyn Nodes, Revocation { number, what }: Revocation) {
        let released: Released = match what {
            Revoked::Person(subject, scope) => {
                self.keys.evict(subject, &scope);
                Box::pin(self.leases.revoke(subject))
            }
            Revoked::ShardKeys => {
                nodes.drop_shard_keys();
                std::future::ready(()).boxed()
            }
        };
        self.applied = Some(number);
        // The receiver lives as long as this does.
        let _ = self.released.send((number, released));
    }
}

/// Says in order what nobody here shows any more. An answer that takes long holds up only those after it.
async fn acknowledge(nodes: &dyn Nodes, mut inbox: mpsc::UnboundedReceiver<(u64, Released)>) {
    while let Some((mut number, released)) = inbox.recv().await {
        released.await;
        // Whatever else has been released by now is said with it.
        while let Ok((next, released)) = inbox.try_recv() {
            released.await;
            number = next;
        }
        // A process that is not registered any more changes nothing by it, and has let go of everything anyway.
        while let Err(error) = nodes.acknowledge(number).await {
            tracing::warn!(error = %error, "a revocation cannot be acknowledged now");
            sleep(AGAIN).await;
        }
    }
}
