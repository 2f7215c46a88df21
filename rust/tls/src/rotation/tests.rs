use std::sync::Arc;
use std::time::Duration;

use super::{renewal, Action, Rotation, ANSWER_TIMEOUT, FIRST_REST, LONGEST_REST, SPREAD};
use crate::csr::signing_request;
use crate::testing::*;
use crate::SecretStore;

const ID: &str = "spiffe://cluster.local/ns/shop/sa/ui";
const HOUR: u64 = 3600;

fn at(seconds: u64) -> Duration {
    Duration::from_secs(NOW + seconds)
}

/// A certificate client and its authority on a virtual clock.
struct World {
    clock: Arc<Clock>,
    store: SecretStore,
    authority: Authority,
    rotation: Rotation,
}

impl World {
    fn new() -> Self {
        let clock = Clock::new();
        let store = SecretStore::new(clock.clone());
        World { clock, store, authority: Authority::new("root"), rotation: Rotation::new(name("default")) }
    }

    fn poll(&mut self, seconds: u64) -> Action {
        self.clock.set(NOW + seconds);
        self.rotation.poll(at(seconds), 0.0)
    }

    /// Asks at `seconds`; returns the CSR.
    fn begin(&mut self, seconds: u64) -> String {
        assert_eq!(self.poll(seconds), Action::Ask);
        let request = signing_request(ID).unwrap();
        self.rotation.begin(at(seconds), request.key);
        request.csr_pem
    }

    fn complete(&mut self, seconds: u64, chain: &str) -> Result<(), crate::SecretError> {
        self.clock.set(NOW + seconds);
        self.rotation.complete(at(seconds), 0.0, chain.as_bytes(), &self.store)
    }
}

#[test]
fn a_day_of_rotation() {
    let mut world = World::new();
    let mut now = 0;
    for round in 1..=24 {
        let csr = world.begin(now);
        assert_eq!(world.poll(now), Action::Wait(at(now) + ANSWER_TIMEOUT));
        let chain = world.authority.sign(&csr, NOW + now, 2 * HOUR);
        world.complete(now, &chain).unwrap();
        assert_eq!(world.store.generation(), round);
        assert!(world.rotation.is_certified(at(now)));
        assert_eq!(world.rotation.expires(), Some(at(now + 2 * HOUR)));
        assert_eq!(world.poll(now + HOUR - 1), Action::Wait(at(now + HOUR)));
        now += HOUR;
    }
    let shown = &world.store.describe()[0].certificates[0];
    assert_eq!(shown.sans.uri, [ID]);
    assert!(!world.rotation.is_certified(at(now + HOUR)), "unless it is renewed it ends");
}

#[test]
fn failures_rest_longer_and_keep_the_old_certificate() {
    let mut world = World::new();
    let csr = world.begin(0);
    let chain = world.authority.sign(&csr, NOW, 2 * HOUR);
    world.complete(0, &chain).unwrap();

    let mut now = HOUR;
    let mut rests = Vec::new();
    for _ in 0..9 {
        world.begin(now);
        world.rotation.fail(at(now), 1.0);
        let Action::Wait(until) = world.poll(now) else { panic!("must rest") };
        rests.push((until - at(now)).as_secs());
        now = until.as_secs() - NOW;
        assert!(world.store.contains(&name("default")));
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(world.rotation.failures(), 9);
    assert!(world.rotation.is_certified(at(now)));

    let csr = world.begin(now);
    let chain = world.authority.sign(&csr, NOW + now, 2 * HOUR);
    world.complete(now, &chain).unwrap();
    assert_eq!(world.rotation.failures(), 0);
}

#[test]
fn chance_spreads_the_rests() {
    for (random, rest) in [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0), (f64::NAN, 0.5), (-3.0, 0.5), (9.0, 1.0)] {
        let mut rotation = Rotation::new(name("default"));
        rotation.fail(at(0), random);
        assert_eq!(rotation.poll(at(0), random), Action::Wait(at(0) + FIRST_REST.mul_f64(rest)));
    }
    let mut rotation = Rotation::new(name("default"));
    for _ in 0..1000 {
        rotation.fail(at(0), 1.0);
    }
    assert_eq!(rotation.poll(at(0), 1.0), Action::Wait(at(0) + LONGEST_REST));
}

#[test]
fn an_overdue_answer_is_a_failure_and_comes_too_late() {
    let mut world = World::new();
    let csr = world.begin(0);
    let overdue = ANSWER_TIMEOUT.as_secs();
    assert!(matches!(world.poll(overdue), Action::Wait(_)));
    assert_eq!(world.rotation.failures(), 1);
    let chain = world.authority.sign(&csr, NOW, HOUR);
    world.complete(overdue, &chain).unwrap();
    assert!(!world.store.contains(&name("default")), "its key is gone");
    assert_eq!(world.poll(overdue + 1), Action::Ask);
}

#[test]
fn a_chain_for_another_key_is_refused() {
    let mut world = World::new();
    world.begin(0);
    let foreign = signing_request(ID).unwrap().csr_pem;
    let chain = world.authority.sign(&foreign, NOW, HOUR);
    let error = world.complete(0, &chain).unwrap_err();
    assert_eq!(error.problem.code(), "key_does_not_match");
    assert_eq!(world.rotation.failures(), 1);
    assert!(!world.rotation.is_certified(at(0)));
    assert!(matches!(world.poll(0), Action::Wait(_)));

    world.begin(1);
    assert_eq!(world.complete(1, "<html>").unwrap_err().problem.code(), "no_certificate");
}

#[test]
fn half_of_what_is_left() {
    let (now, hour) = (at(0), Duration::from_secs(HOUR));
    assert_eq!(renewal(now, now, now + 2 * hour, 0.0), now + hour);
    assert_eq!(renewal(now, now, now + 2 * hour, 1.0), now + hour.mul_f64(0.9));
    let backdated = now - Duration::from_secs(120);
    assert_eq!(renewal(now, backdated, now + Duration::from_secs(60), 0.0), now + Duration::from_secs(30));
    assert_eq!(renewal(now, backdated, now - Duration::from_secs(1), 0.5), now + FIRST_REST);
    assert_eq!(renewal(now, now + hour, now + 3 * hour, 0.0), now + 2 * hour, "our clock is behind");
}

#[test]
fn requests_ask_for_one_workload() {
    for bad in ["", "spiffe://td", "https://td/a", "spiffe://td/a b"] {
        let error = signing_request(bad).unwrap_err();
        assert!(error.to_string().contains("use `spiffe://"), "{error}");
    }
    let (a, b) = (signing_request(ID).unwrap(), signing_request(ID).unwrap());
    assert_ne!(a.csr_pem, b.csr_pem, "each request has a key of its own");
    assert!(a.csr_pem.starts_with("-----BEGIN CERTIFICATE REQUEST-----"));
}

#[test]
fn another_authority_signs() {
    let mut world = World::new();
    world.rotation.hasten(at(0), 0.5);
    let csr = world.begin(0);
    world.rotation.hasten(at(0), 0.0);
    assert_eq!(world.poll(0), Action::Wait(at(0) + ANSWER_TIMEOUT), "what is under way goes on");
    let chain = world.authority.sign(&csr, NOW, 2 * HOUR);
    world.complete(0, &chain).unwrap();
    assert_eq!(world.poll(60), Action::Wait(at(HOUR)));
    world.rotation.hasten(at(60), 0.5);
    assert_eq!(world.poll(60), Action::Wait(at(60) + SPREAD / 2));
    world.rotation.hasten(at(60), 1.0);
    assert_eq!(world.poll(60), Action::Wait(at(60) + SPREAD / 2), "it is not put off by another word");
    assert_eq!(world.poll(60 + SPREAD.as_secs()), Action::Ask);

    // Little is left of a short life: in half of that.
    let request = signing_request(ID).unwrap();
    world.rotation.begin(at(100), request.key);
    let chain = world.authority.sign(&request.csr_pem, NOW + 100, 10);
    world.complete(100, &chain).unwrap();
    world.rotation.hasten(at(104), 1.0);
    assert_eq!(world.poll(104), Action::Wait(at(105)), "half of its life comes first");

    // Who was refused waits as long as he would without.
    world.rotation.fail(at(105), 1.0);
    world.rotation.hasten(at(105), 0.0);
    assert_eq!(world.poll(105), Action::Wait(at(105) + FIRST_REST));
}
