//! Configuration: bootstrap files and what a control plane sends.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::{Engine, Options};
use pymesh_model::http::RouteSource;
use pymesh_model::listener::NetworkFilter;
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;
use pymesh_xds::offline::{load_bootstrap, Offline};

use crate::input::Input;

fn store() -> Arc<SecretStore> {
    Arc::new(SecretStore::new(pymesh_tls::testing::Clock::new()))
}

fn engine(secrets: Arc<SecretStore>) -> Engine {
    Engine::new(Options {
        worker: 0,
        seed: 1,
        clock: Default::default(),
        stream_buffer: 64 * 1024,
        drain_time: Duration::from_secs(600),
        overload: Arc::default(),
        commons: Arc::default(),
        hub: Arc::default(),
        shard: Arc::default(),
        secrets,
    })
}

/// What `Snapshot` promises to the engine.
fn check(snapshot: &Snapshot) {
    let (mut names, mut addresses) = (HashSet::new(), HashSet::new());
    for listener in &snapshot.listeners {
        assert!(names.insert(&listener.name), "two listeners are called {}", listener.name);
        let takes_port = listener.bind_to_port && listener.address.port() != 0;
        assert!(!takes_port || addresses.insert(listener.address), "two listeners at {}", listener.address);
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            let NetworkFilter::Http(http) = &chain.network else { continue };
            if let RouteSource::Named(table) = &http.routes {
                assert!(snapshot.routes.contains_key(table), "{} serves without {table}", listener.name);
            }
        }
    }
    assert!(snapshot.clusters.iter().all(|(name, cluster)| *name == cluster.name));
}

/// A file: what is wrong with it is said with its place, what is right can serve.
pub fn bootstrap(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match load_bootstrap(text) {
        Ok(bootstrap) => {
            let store = store();
            let mut offline = Offline::with_statics(bootstrap, store.clone());
            offline.pass(Duration::from_secs(60));
            check(&offline.snapshot());
            let errors = engine(store).apply(offline.snapshot());
            assert_eq!(errors, Vec::<String>::new(), "was accepted, cannot serve");
            serde_json::from_str::<serde_json::Value>(&offline.dump()).unwrap();
        }
        Err(problems) => {
            assert!(!problems.is_empty(), "refused without a reason");
            // A YAML line may end with a carriage return alone, and what is never closed is missed behind the last.
            let lines = text.matches(['\n', '\r']).count() + 2;
            for problem in problems {
                assert!(!problem.message.is_empty());
                let place = problem.place.unwrap_or_else(|| panic!("no place: {}", problem.message));
                assert!((1..=lines).contains(&place.line), "line {} of {lines}: {}", place.line, problem.message);
            }
        }
    }
}

/// Responses of an ADS stream, each with a length of two octets; an engine takes what serves.
pub fn response(data: &[u8]) {
    let mut input = Input::new(data);
    let delta = input.flag();
    let store = store();
    let mut offline = Offline::new(delta, store.clone());
    let mut engine = engine(store);
    let mut last = offline.snapshot();
    while !input.is_empty() {
        let octets = input.long_string();
        if octets.is_empty() {
            offline.pass(Duration::from_secs(input.octet().into()));
        } else {
            let heard = offline.hear(delta, octets);
            assert!(
                heard.is_some() || Arc::ptr_eq(&offline.snapshot(), &last),
                "what is no response changes something"
            );
        }
        let next = offline.snapshot();
        if !Arc::ptr_eq(&next, &last) {
            assert!(next.version > last.version);
            check(&next);
            assert_eq!(engine.apply(next.clone()), Vec::<String>::new(), "was accepted, cannot serve");
            last = next;
        }
    }
    serde_json::from_str::<serde_json::Value>(&offline.dump()).unwrap();
    engine.drain();
    assert!(engine.census().is_empty(), "{:?}", engine.census());
}
