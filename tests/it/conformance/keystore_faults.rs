//! The keystore when answers get lost, and behind its cache.

use std::sync::Arc;

use oubliette::clock::Boottime;
use oubliette::keystore::{CachedKeystore, Fetched, Granted, KeyCache, Keystore, Resolved, Scope};

use crate::conformance::keystore::{Rig, fetch, granted, id, names, order, want};
use crate::faulty::{Fault, Faulty, Method, Rate};

pub async fn a_lost_answer_is_repeated_without_harm(rig: &impl Rig) {
    let keys = Faulty::new(rig.open(), 7);
    for (method, fault) in [(Method::Ensure, Fault::Before), (Method::Ensure, Fault::After)] {
        keys.fail(method, fault, Rate::Next(1));
        assert!(keys.ensure(vec![want("ada", &["general"])]).await.is_err());
    }
    let (ada, deks) = granted(&keys, want("ada", &["general"])).await;
    assert_eq!(keys.stats().await.unwrap().active, 2);
    for fault in [Fault::Before, Fault::After] {
        keys.fail(Method::Destroy, fault, Rate::Next(1));
        assert!(keys.destroy(order(ada, &[], 1)).await.is_err());
        assert_eq!(matches!(fetch(&keys, &deks[0].0).await, Fetched::Destroyed { .. }), fault == Fault::After);
    }
    let done = keys.destroy(order(ada, &[], 1)).await.unwrap();
    assert_eq!((names(&done).len(), done.external_id_removed), (2, true));
    keys.fail(Method::Fetch, Fault::Before, Rate::OneIn(3));
    let mut failures = 0;
    for _ in 0..100 {
        failures += u64::from(keys.fetch(vec![deks[0].0.clone()]).await.is_err());
    }
    assert!((15..60).contains(&failures), "{failures}");
    assert_eq!(keys.failed(), 4 + failures);
    keys.heal();
    fetch(&keys, &deks[0].0).await;
}

pub async fn the_cache_answers_as_the_keystore_does(rig: &impl Rig) {
    let faulty = Arc::new(Faulty::new(rig.open(), 1));
    let cached = CachedKeystore::new(faulty.clone(), KeyCache::new(1000).unwrap());
    // As somebody does who renews it, where there may be other processes.
    cached.horizon().set(Boottime::NEVER);
    let (ada, deks) = granted(&*faulty, want("ada", &["general"])).await;
    cached.ensure(vec![want("ada", &["general"])]).await.unwrap();
    cached.external_ids(vec![ada]).await.unwrap();
    // With the keystore gone the cache still serves what it has, and only that.
    for method in [Method::Ensure, Method::Fetch, Method::Resolve, Method::ExternalIds] {
        faulty.fail(method, Fault::Before, Rate::OneIn(1));
    }
    let answer = cached.ensure(vec![want("ada", &["general"]), want("ada", &[])]).await.unwrap();
    assert!(matches!(&answer[0], Granted::Keys { subject, keys } if *subject == ada && keys[0].1.kid() == deks[0].1));
    assert!(
        matches!(&cached.fetch(vec![deks[0].0.clone()]).await.unwrap()[0], Fetched::Key(key) if key.kid() == deks[0].1)
    );
    assert_eq!(cached.resolve(vec![id("ada")]).await.unwrap(), [Resolved::Known(ada)]);
    assert_eq!(cached.external_ids(vec![ada]).await.unwrap(), [Some(id("ada"))]);
    assert!(cached.ensure(vec![want("ada", &["general"]), want("ada", &["other"])]).await.is_err());
    assert!(cached.resolve(vec![id("ada"), id("ben")]).await.is_err());
    faulty.heal();
    // Hits and misses in one question come back in order.
    let both = cached.resolve(vec![id("ben"), id("ada"), id("eve")]).await.unwrap();
    assert_eq!(both, [Resolved::Unknown, Resolved::Known(ada), Resolved::Unknown]);
    cached.keystore().destroy(order(ada, &[], 1)).await.unwrap();
    cached.evict(ada, &Scope::Person);
    assert!(cached.cache().is_empty());
    assert!(matches!(cached.ensure(vec![want("ada", &["general"])]).await.unwrap()[0], Granted::Erased { .. }));
    assert!(matches!(cached.fetch(vec![deks[0].0.clone()]).await.unwrap()[0], Fetched::Destroyed { .. }));
    assert_eq!(cached.resolve(vec![id("ada")]).await.unwrap(), [Resolved::Erased]);
    assert_eq!(cached.external_ids(vec![ada]).await.unwrap(), [None]);
}
