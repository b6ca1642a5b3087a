//! Waiting until no process holds a forgotten person any more (F3 and F4, R5).
//!
//! Owns: who is waited for, and how long. Must not know: how a process lets go. Whoever takes over from a coordinator that
//! died destroys again, which changes nothing, and waits from the beginning on its own clock (R8).

use std::collections::BTreeSet;
use std::time::Duration;

use super::{NodeRelease, Release};
use crate::clock::Boottime;
use crate::keystore::KeystoreError;
use crate::keystore::nodes::{NodeId, Nodes, has_expired};

/// Between two looks at who has let go.
const BETWEEN: Duration = Duration::from_millis(10);

/// Waits until every registered process has acknowledged the revocation, or whatever it holds has expired; the latter
/// lose their registration. `destroyed` must lie after the destruction was durable.
///
/// # Errors
/// [`KeystoreError`]: then nobody knows, and the wait begins anew.
pub async fn everywhere(
    nodes: &dyn Nodes,
    revocation: u64,
    destroyed: Boottime,
) -> Result<Vec<NodeRelease>, KeystoreError> {
    let mut asked: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let now = Boottime::now();
        let behind = nodes.behind(revocation).await?;
        asked.extend(behind.iter().map(|row| row.node));
        if behind.iter().all(|row| has_expired(row.lease, destroyed, now)) {
            let expired: Vec<NodeId> = behind.into_iter().map(|row| row.node).collect();
            if !expired.is_empty() {
                tracing::warn!(nodes = expired.len(), "processes that do not answer lose their registration");
                nodes.expel(expired.clone(), revocation).await?;
            }
            let how = |node| if expired.contains(node) { Release::LeaseExpired } else { Release::Acknowledged };
            // Those that let go before they were first looked at are registered still.
            asked.extend(nodes.list().await?.into_iter().map(|row| row.node));
            return Ok(asked.iter().map(|node| NodeRelease { node: node.to_string(), how: how(node) }).collect());
        }
        tokio::time::sleep(BETWEEN).await;
    }
}
