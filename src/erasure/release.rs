//! Waiting until no process holds a forgotten person any more (F3 and F4, R5).
//!
//! Owns: who is waited for, how long, and when a process that does not answer needs no waiting for any more. Must not know:
//! how a process lets go. Whoever takes over from a coordinator that died destroys again, which changes nothing, and waits
//! from the beginning on its own clock (R8).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{NodeRelease, Release};
use crate::clock::Boottime;
use crate::keystore::KeystoreError;
use crate::keystore::nodes::{NodeId, NodeRow, Nodes, has_expired, is_over};

/// Between two looks at who has let go.
const BETWEEN: Duration = Duration::from_millis(10);

/// Who has to be expelled when nobody is waited for any more; `None` while somebody is. `behind`: registered processes that
/// have not acknowledged. Pure, and shared with the model of the protocol.
pub fn verdict(behind: &[NodeRow], destroyed: Boottime, now: Boottime) -> Option<Vec<NodeId>> {
    let expired = behind.iter().all(|row| has_expired(row.lease, destroyed, now));
    expired.then(|| behind.iter().map(|row| row.node).collect())
}

/// Waits until every registered process has acknowledged the revocation, or whatever it holds has expired; the latter
/// are expelled, and remembered in `departing`. `destroyed` must lie after the destruction was durable.
///
/// # Errors
/// [`KeystoreError`]: then nobody knows, and the wait begins anew.
pub async fn everywhere(
    nodes: &dyn Nodes,
    revocation: u64,
    destroyed: Boottime,
    departing: &mut Departing,
) -> Result<Vec<NodeRelease>, KeystoreError> {
    let (mut asked, mut silent) = (BTreeSet::new(), BTreeSet::new());
    loop {
        let now = Boottime::now();
        let behind = nodes.behind(revocation).await?;
        asked.extend(behind.iter().map(|row| row.node));
        silent.extend(behind.iter().filter(|row| row.expelled.is_some()).map(|row| row.node));
        if let Some(expired) = verdict(&behind, destroyed, now) {
            if !expired.is_empty() {
                tracing::warn!(nodes = expired.len(), "processes that do not answer are expelled");
                nodes.expel(expired.clone(), revocation).await?;
                departing.note(&behind, revocation, Boottime::now());
            }
            // Those that let go before they were first looked at are registered still.
            let listed: BTreeSet<NodeId> = nodes.list().await?.into_iter().map(|row| row.node).collect();
            // Who was expelled before and is not there any more was dismissed, not heard.
            let unheard = |node| expired.contains(node) || silent.contains(node) && !listed.contains(node);
            let how = |node| if unheard(node) { Release::LeaseExpired } else { Release::Acknowledged };
            let all = asked.union(&listed);
            return Ok(all.map(|node| NodeRelease { node: node.to_string(), how: how(node) }).collect());
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

/// Processes that were expelled here and may still show somebody. A process that forgets them, because it ends, does no
/// harm: they stay in the list, the next forget waits for them once more, and somebody remembers them again.
#[derive(Default)]
pub struct Departing(Vec<Departure>);

struct Departure {
    node: NodeId,
    /// Over which revocation it was expelled.
    number: u64,
    lease: Duration,
    /// After that was durable.
    expelled: Boottime,
}

impl Departing {
    /// Remembers those who have just been expelled; of those that were expelled before, by whomever, what they were
    /// expelled over counts.
    fn note(&mut self, rows: &[NodeRow], revocation: u64, now: Boottime) {
        for row in rows {
            let number = row.expelled.unwrap_or(revocation);
            if !self.0.iter().any(|known| (known.node, known.number) == (row.node, number)) {
                self.0.push(Departure { node: row.node, number, lease: row.lease, expelled: now });
            }
        }
    }

    /// Removes those of whom nothing is left: nobody waits for them any more.
    pub async fn dismiss(&mut self, nodes: &dyn Nodes) {
        let now = Boottime::now();
        let (over, rest) =
            std::mem::take(&mut self.0).into_iter().partition(|one| is_over(one.lease, one.expelled, now));
        self.0 = rest;
        for departure in over {
            let Departure { node, number, .. } = departure;
            if let Err(error) = nodes.dismiss(node, number).await {
                tracing::warn!(error = %error, "a process that is gone cannot be removed yet");
                self.0.push(departure);
            }
        }
    }
}
