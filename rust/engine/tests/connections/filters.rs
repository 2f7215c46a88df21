//! Built-in HTTP filters: which of them a request passes, and what those make of it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::filter::Gate;
use pymesh_engine::telemetry::stats::{sum, Stats};
use pymesh_model::filter::*;
use pymesh_model::listener::{FilterChains, NetworkFilter};
use pymesh_model::matcher::{StringMatch, StringPattern};

use super::rig::{Rig, Setup};

const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\norigin: https://shop.test\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const ALL: Percentage = Percentage { numerator: 100, denominator: 100 };

fn filter(name: &str, kind: FilterKind) -> Arc<HttpFilter> {
    Arc::new(HttpFilter { name: name.into(), id: FilterId::of(name), disabled: false, kind })
}

fn delay(seconds: u64) -> Fault {
    let duration = FaultDuration::Fixed(Duration::from_secs(seconds));
    Fault { delay: Some(FaultDelay { duration, percentage: ALL }), ..Fault::default() }
}

fn abort(status: AbortStatus, percentage: Percentage) -> Fault {
    Fault { abort: Some(FaultAbort { status, percentage }), ..Fault::default() }
}

fn fault(fault: Fault) -> Setup {
    Setup { filters: vec![filter("fault", FilterKind::Fault(Arc::new(fault)))], ..Setup::default() }
}

fn said(name: &str, enabled: bool, config: Option<RouteFilterConfig>) -> RouteFilters {
    let entry = RouteFilter { filter: FilterId::of(name), enabled: Some(enabled), config };
    RouteFilters::within(vec![entry], &RouteFilters::default())
}

fn count<T: Stats>(stats: &[Arc<T>], name: &str) -> u64 {
    sum(stats).into_iter().find(|(known, ..)| *known == name).unwrap().2
}

fn faults(rig: &Rig, name: &str) -> u64 {
    count(&rig.hub.lock().fault["in"], name)
}

#[test]
fn a_delayed_request_goes_on_when_its_time_has_come() {
    // Longer than the route's timeout of 15 seconds, which is the upstream's.
    let mut rig = Rig::new(&fault(delay(20)));
    let client = rig.accept();
    rig.receive(client, GET);
    rig.pass(Duration::from_millis(19_999));
    assert!(rig.take_actions().is_empty(), "nobody is connected to");
    assert_eq!((faults(&rig, "delays_injected"), faults(&rig, "active_faults")), (1, 1));
    rig.pass(Duration::from_millis(1));
    let upstream = rig.open();
    assert_eq!(faults(&rig, "active_faults"), 0, "it is an upstream's request now");
    rig.pass(Duration::from_secs(14));
    rig.receive(upstream, OK);
    assert!(rig.text(client).starts_with("HTTP/1.1 200 "));
}

#[test]
fn the_upstream_has_its_whole_time_after_a_delay() {
    let mut rig = Rig::new(&fault(delay(20)));
    let client = rig.accept();
    rig.receive(client, GET);
    rig.pass(Duration::from_secs(20));
    rig.open();
    rig.pass(Duration::from_millis(14_999));
    assert_eq!(rig.text(client), "");
    rig.pass(Duration::from_millis(1));
    assert!(rig.text(client).starts_with("HTTP/1.1 504 "));
}

#[test]
fn a_delayed_request_goes_where_it_was_to_go_although_nobody_else_does_any_more() {
    let setup = fault(delay(20));
    let snapshot = super::rig::snapshot(&setup);
    let mut rig = Rig::with(snapshot.clone());
    let (client, leaving) = (rig.accept(), rig.accept());
    rig.receive(client, GET);
    rig.receive(leaving, GET);
    let without = pymesh_model::Snapshot { version: 2, clusters: HashMap::new(), ..(*snapshot).clone() };
    rig.engine.apply(Arc::new(without));
    let late = rig.accept();
    rig.receive(late, GET);
    rig.engine.failed(leaving, "reset");
    rig.pass(Duration::from_secs(20));
    let upstream = rig.open();
    rig.receive(upstream, OK);
    assert!(rig.text(client).starts_with("HTTP/1.1 200 "));
    assert!(rig.text(late).starts_with("HTTP/1.1 503 "), "it came when the cluster was gone");
    rig.engine.failed(upstream, "closed");
    rig.work();
    assert_eq!(rig.engine.census().retired_clusters, 0);
}

#[test]
fn a_request_may_be_delayed_and_aborted() {
    let both = Fault { abort: abort(AbortStatus::Http(418), ALL).abort, ..delay(3) };
    let mut rig = Rig::new(&fault(both));
    let client = rig.accept();
    rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello");
    rig.pass(Duration::from_millis(2999));
    assert_eq!(rig.text(client), "");
    rig.pass(Duration::from_millis(1));
    let answer = rig.text(client);
    assert!(answer.starts_with("HTTP/1.1 418 ") && answer.ends_with("\r\n\r\nfault filter abort"), "{answer}");
    assert!(rig.take_actions().is_empty());
    let counted = ["delays_injected", "aborts_injected", "active_faults"].map(|name| faults(&rig, name));
    assert_eq!(counted, [1, 1, 0]);
}

#[test]
fn who_leaves_while_it_is_delayed_leaves_nothing_behind() {
    let mut rig = Rig::new(&fault(delay(3)));
    let client = rig.accept();
    rig.receive(client, GET);
    rig.engine.failed(client, "reset");
    rig.work();
    assert_eq!((faults(&rig, "delays_injected"), faults(&rig, "active_faults")), (1, 0));
    rig.pass(Duration::from_secs(10));
    assert_eq!(rig.engine.in_use().1, 0);
}

#[test]
fn a_share_of_requests_is_aborted_and_a_header_may_lower_it() {
    for (share, asked, expected) in [(30, "", 300.0), (30, "90", 300.0), (30, "10", 100.0), (30, "none", 300.0)] {
        let percentage = Percentage { numerator: share, denominator: 100 };
        let mut rig = Rig::new(&fault(abort(AbortStatus::Header, percentage)));
        let client = rig.accept();
        let lower = match asked {
            "" => String::new(),
            asked => format!("x-envoy-fault-abort-request-percentage: {asked}\r\n"),
        };
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\nx-envoy-fault-abort-request: 503\r\n{lower}\r\n");
        let mut aborted = 0;
        for _ in 0..1000 {
            rig.receive(client, head.as_bytes());
            let answer = rig.text(client);
            if answer.is_empty() {
                let upstream = rig.open_or_reuse();
                rig.receive(upstream, OK);
                rig.written(client);
            } else {
                assert!(answer.starts_with("HTTP/1.1 503 "));
                aborted += 1;
            }
        }
        assert!((f64::from(aborted) - expected).abs() < 60.0, "{aborted} of 1000 at {share}%, asked {asked:?}");
    }
}

#[test]
fn no_more_suffer_than_allowed_in_all_workers_together() {
    let setup = fault(Fault { max_active: Some(2), ..delay(5) });
    let mut one = Rig::new(&setup);
    let mut other = Rig::beside(&one, &setup);
    for (is_one, delayed) in [(true, true), (false, true), (true, false), (false, false)] {
        let rig = if is_one { &mut one } else { &mut other };
        let client = rig.accept();
        rig.take_actions();
        rig.receive(client, GET);
        assert_eq!(rig.take_actions().is_empty(), delayed);
    }
    assert_eq!((faults(&one, "delays_injected"), faults(&one, "faults_overflow")), (2, 2));
    one.pass(Duration::from_secs(5));
    let client = other.accept();
    other.receive(client, GET);
    assert_eq!(faults(&one, "delays_injected"), 3);
}

#[test]
fn a_route_says_which_filters_its_requests_pass() {
    let teapot = |status| RouteFilterConfig::Fault(Arc::new(abort(AbortStatus::Http(status), ALL)));
    let status = |is_disabled: bool, said: RouteFilters| {
        let kind = FilterKind::Fault(Arc::new(abort(AbortStatus::Http(418), ALL)));
        let disabled = HttpFilter { disabled: is_disabled, ..(*filter("fault", kind)).clone() };
        let mut rig = Rig::new(&Setup { filters: vec![Arc::new(disabled)], said, ..Setup::default() });
        let client = rig.accept();
        rig.receive(client, GET);
        match rig.text(client).get(9..12) {
            Some(status) => status.to_owned(),
            None => "passed".to_owned(),
        }
    };
    assert_eq!(status(false, RouteFilters::default()), "418");
    assert_eq!(status(true, RouteFilters::default()), "passed");
    assert_eq!(status(false, said("fault", false, None)), "passed");
    assert_eq!(status(true, said("fault", true, None)), "418");
    assert_eq!(status(false, said("fault", true, Some(teapot(500)))), "500");
    assert_eq!(status(true, said("fault", true, Some(teapot(500)))), "500");
    assert_eq!(status(false, said("other", false, None)), "418");
}

#[test]
fn own_answers_of_later_filters_pass_the_response_side_of_earlier_ones() {
    let exact = |text: &str| StringMatch { pattern: StringPattern::Exact(text.as_bytes().into()), ignore_case: false };
    let policy = CorsPolicy { allow_origins: vec![exact("https://shop.test")], ..CorsPolicy::default() };
    let cors = filter("cors", FilterKind::Cors);
    let fault = filter("fault", FilterKind::Fault(Arc::new(abort(AbortStatus::Http(503), ALL))));
    let said = said("cors", true, Some(RouteFilterConfig::Cors(Arc::new(policy))));
    for (filters, is_marked) in [(vec![cors.clone(), fault.clone()], true), (vec![fault, cors], false)] {
        let mut rig = Rig::new(&Setup { filters, said: said.clone(), ..Setup::default() });
        let client = rig.accept();
        rig.receive(client, GET);
        let answer = rig.text(client);
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        assert_eq!(answer.contains("\r\naccess-control-allow-origin: https://shop.test\r\n"), is_marked, "{answer}");
    }
}

/// Nothing is limited, but everything that could be is looked at.
fn limit(bucket: Option<TokenBucket>) -> LocalRateLimit {
    LocalRateLimit {
        stat_prefix: "limit".into(),
        status: 429,
        resource_exhausted: false,
        bucket,
        descriptors: vec![],
        always_consume_default: true,
        max_dynamic_descriptors: 2,
        per_connection: false,
        enabled: 1_000_000,
        enforced: 1_000_000,
        request_headers: Default::default(),
        response_headers: Default::default(),
        tells_clients: false,
        stage: 0,
        virtual_host: VirtualHostLimits::Override,
        policies: vec![],
    }
}

fn bucket(max_tokens: u32, seconds: u64) -> TokenBucket {
    TokenBucket { max_tokens, tokens_per_fill: 1, fill_interval: Duration::from_secs(seconds) }
}

fn limited(limit: LocalRateLimit) -> Setup {
    Setup { filters: vec![filter("limit", FilterKind::LocalRateLimit(Arc::new(limit)))], ..Setup::default() }
}

/// Whether a request got through; the answer if not.
fn passes(rig: &mut Rig, user: &str) -> Result<(), String> {
    let client = rig.accept();
    asks(rig, client, user)
}

fn asks(rig: &mut Rig, client: pymesh_engine::ConnKey, user: &str) -> Result<(), String> {
    rig.receive(client, format!("GET / HTTP/1.1\r\nhost: a\r\nx-user: {user}\r\n\r\n").as_bytes());
    let answer = rig.text(client);
    if !answer.is_empty() {
        return Err(answer);
    }
    let upstream = rig.open_or_reuse();
    rig.receive(upstream, OK);
    rig.written(client);
    Ok(())
}

#[test]
fn all_workers_draw_from_one_bucket_that_fills_with_time() {
    let snapshot = super::rig::snapshot(&limited(limit(Some(bucket(3, 10)))));
    let mut one = Rig::with(snapshot.clone());
    let mut other = Rig::sharing(&one, snapshot);
    assert!(passes(&mut one, "a").is_ok() && passes(&mut other, "a").is_ok() && passes(&mut one, "a").is_ok());
    let refused = passes(&mut other, "a").unwrap_err();
    assert!(refused.starts_with("HTTP/1.1 429 ") && refused.ends_with("\r\n\r\nlocal_rate_limited"), "{refused}");
    assert!(passes(&mut one, "a").is_err());
    one.pass(Duration::from_millis(9_999));
    assert!(passes(&mut one, "a").is_err());
    one.pass(Duration::from_millis(1));
    assert!(passes(&mut one, "a").is_ok() && passes(&mut one, "a").is_err());
    let counted = ["enabled", "ok", "rate_limited", "enforced"];
    let counted = counted.map(|name| count(&one.hub.lock().local_rate_limits["limit"], name));
    assert_eq!(counted, [8, 4, 4, 4]);
}

#[test]
fn a_bucket_lasts_as_long_as_its_configuration() {
    let setup = limited(limit(Some(bucket(1, 3600))));
    let snapshot = super::rig::snapshot(&setup);
    let mut rig = Rig::with(snapshot.clone());
    assert!(passes(&mut rig, "a").is_ok() && passes(&mut rig, "a").is_err());
    rig.engine.apply(Arc::new(pymesh_model::Snapshot { version: 2, ..(*snapshot).clone() }));
    assert!(passes(&mut rig, "a").is_err(), "it is the same configuration");
}

#[test]
fn each_value_of_an_open_descriptor_has_a_bucket() {
    let user = |value: &str| vec![("user".into(), value.into())];
    let action = LimitAction::RequestHeader { name: "x-user".into(), key: "user".into(), skip_if_absent: false };
    let mut rig = Rig::new(&limited(LocalRateLimit {
        descriptors: vec![
            LimitDescriptor { entries: user("root"), bucket: bucket(3, 3600) },
            LimitDescriptor { entries: user(""), bucket: bucket(1, 3600) },
        ],
        policies: vec![RateLimit { stage: 0, actions: vec![action] }],
        ..limit(None)
    }));
    let mut passed = |user: &str| passes(&mut rig, user).is_ok();
    assert_eq!([passed("ann"), passed("bob"), passed("ann"), passed("bob")], [true, true, false, false]);
    assert_eq!([passed("root"), passed("root"), passed("root"), passed("root")], [true, true, true, false]);
    // Two are remembered: who asks for longest not is forgotten.
    assert_eq!([passed("cid"), passed("bob"), passed("ann")], [true, false, true]);
}

#[test]
fn a_connection_may_have_the_limit_for_itself() {
    let mut rig = Rig::new(&limited(LocalRateLimit { per_connection: true, ..limit(Some(bucket(2, 3600))) }));
    for _ in 0..3 {
        let client = rig.accept();
        let mut asked = || asks(&mut rig, client, "a").is_ok();
        assert_eq!([asked(), asked(), asked(), asked()], [true, true, false, false]);
    }
}

#[test]
fn a_route_may_have_a_limit_of_its_own_and_tell_of_it() {
    let own = LocalRateLimit { tells_clients: true, stat_prefix: "own".into(), ..limit(Some(bucket(1, 40))) };
    let said = said("limit", true, Some(RouteFilterConfig::LocalRateLimit(Arc::new(own))));
    let mut rig = Rig::new(&Setup { said, ..limited(limit(Some(bucket(9, 3600)))) });
    assert!(passes(&mut rig, "a").is_ok());
    rig.pass(Duration::from_millis(500));
    let refused = passes(&mut rig, "a").unwrap_err();
    for told in ["x-ratelimit-limit: 1\r\n", "x-ratelimit-remaining: 0\r\n", "x-ratelimit-reset: 39\r\n"] {
        assert!(refused.contains(told), "{refused}");
    }
    assert_eq!(count(&rig.hub.lock().local_rate_limits["own"], "enforced"), 1);
    assert_eq!(count(&rig.hub.lock().local_rate_limits["limit"], "enabled"), 0);
}

/// A Python filter of this source, which nobody runs here.
fn python(source: &str) -> Arc<PythonFilter> {
    Arc::new(PythonFilter { source: source.into(), ..PythonFilter::default() })
}

/// The snapshot with another generation of its only filter.
fn next_generation(of: &pymesh_model::Snapshot, python: &Arc<PythonFilter>) -> Arc<pymesh_model::Snapshot> {
    let mut listener = (*of.listeners[0]).clone();
    let mut chain = (**listener.filter_chains.iter().next().unwrap()).clone();
    if let NetworkFilter::Http(manager) = &mut chain.network {
        Arc::make_mut(manager).filters = vec![filter("python", FilterKind::Python(python.clone()))];
    }
    listener.filter_chains = FilterChains::new(vec![Arc::new(chain)]).unwrap();
    Arc::new(pymesh_model::Snapshot { listeners: vec![Arc::new(listener)], ..of.clone() })
}

#[test]
fn a_generation_of_a_python_filter_is_in_use_until_its_last_request_has_ended() {
    let (first, second) = (python("first"), python("second"));
    let setup = Setup { filters: vec![filter("python", FilterKind::Python(first.clone()))], ..Setup::default() };
    let snapshot = super::rig::snapshot(&setup);
    let mut rig = Rig::with(snapshot.clone());
    let load = |rig: &mut Rig| {
        let gates = rig.engine.python_filters().into_iter().map(|filter| (filter, Ok(Gate::default())));
        let gates: Vec<_> = gates.collect();
        let sources: Vec<String> = gates.iter().map(|(filter, _)| filter.source.to_string()).collect();
        rig.engine.set_filter_gates(gates);
        sources
    };
    assert_eq!(load(&mut rig), ["first"]);
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.engine.apply(next_generation(&snapshot, &second));
    rig.engine.release_listeners(|_| false);
    assert_eq!(load(&mut rig), ["second", "first"], "the request that is under way began with the first");
    assert!(!rig.engine.has_lost_filters());
    rig.receive(upstream, OK);
    assert!(!rig.text(client).contains("connection: close"), "the connection goes on with the next generation");
    assert!(rig.engine.has_lost_filters());
    assert!(!rig.engine.has_lost_filters(), "it is told once");
    assert_eq!(load(&mut rig), ["second"]);
    rig.receive(client, GET);
    rig.receive(upstream, OK);
    assert!(rig.text(client).starts_with("HTTP/1.1 200 "));
}
