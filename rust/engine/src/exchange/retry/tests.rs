use super::*;
use pymesh_model::retry::{RateLimitedBackOff, ResetHeader};
use pymesh_model::route::RetryOn;

fn response(status: u16, fields: &[(&str, &str)]) -> ResponseHead {
    let mut response = ResponseHead { status, ..ResponseHead::default() };
    for (name, value) in fields {
        response.headers.append(name.as_bytes(), value.as_bytes());
    }
    response
}

fn request(fields: &[(&str, &str)]) -> RequestHead {
    let mut request = RequestHead::default();
    for (name, value) in fields {
        request.headers.append(name.as_bytes(), value.as_bytes());
    }
    request
}

fn on(names: &str) -> RetryPolicy {
    let mut on = RetryOn::default();
    for name in names.split(',') {
        assert!(on.add(name), "{name}");
    }
    RetryPolicy { on, statuses: vec![418, 425], ..RetryPolicy::default() }
}

#[test]
fn every_condition_names_its_answers() {
    let header =
        HeaderMatch { name: "x-again".into(), test: HeaderTest::Present(true), invert: false, missing_as_empty: false };
    let none: &[(&str, &str)] = &[];
    for (names, status, fields, expected) in [
        ("5xx", 500, none, true),
        ("5xx", 499, none, false),
        ("gateway-error", 502, none, true),
        ("gateway-error", 504, none, true),
        ("gateway-error", 500, none, false),
        ("gateway-error", 505, none, false),
        ("retriable-4xx", 409, none, true),
        ("retriable-4xx", 410, none, false),
        ("retriable-status-codes", 418, none, true),
        ("retriable-status-codes", 425, none, true),
        ("5xx", 418, none, false),
        ("retriable-headers", 200, &[("x-again", "")], true),
        ("retriable-headers", 200, none, false),
        ("5xx", 200, &[("x-again", "")], false),
        ("5xx", 503, &[("x-envoy-ratelimited", "true")], false),
        ("envoy-ratelimited", 429, &[("x-envoy-ratelimited", "true")], true),
        ("envoy-ratelimited", 429, none, false),
        ("cancelled", 200, &[("grpc-status", "1")], true),
        ("deadline-exceeded", 200, &[("grpc-status", "4")], true),
        ("resource-exhausted", 200, &[("grpc-status", "8")], true),
        ("internal", 200, &[("grpc-status", "13")], true),
        ("unavailable", 200, &[("grpc-status", "14")], true),
        ("unavailable", 200, &[("grpc-status", "0")], false),
        ("unavailable", 200, &[("grpc-status", "nonsense")], false),
        ("reset,connect-failure,refused-stream,reset-before-request", 503, none, false),
    ] {
        let policy = RetryPolicy { headers: vec![header.clone()], ..on(names) };
        let found = asks_again(&policy, &RequestHead::default(), &response(status, fields));
        assert_eq!(found, expected, "{names} {status} {fields:?}");
    }
    let early = request(&[("early-data", "1")]);
    assert!(!asks_again(&on("retriable-status-codes"), &early, &response(425, none)));
    assert!(asks_again(&on("retriable-status-codes"), &early, &response(418, none)));
}

#[test]
fn every_condition_names_its_failures() {
    use Failure::{Closed, Connect, ConnectTimeout, Overflow, PerTryTimeout, Protocol, RefusedStream, Reset};
    let all = [Connect, ConnectTimeout, Closed, Reset, RefusedStream, Protocol, PerTryTimeout, Overflow];
    let but_overflow = &all[..7];
    for (names, was_sent, expected) in [
        ("connect-failure", false, &[Connect, ConnectTimeout][..]),
        ("refused-stream", true, &[RefusedStream]),
        ("reset-before-request", true, &[]),
        ("reset-before-request", false, but_overflow),
        ("reset", true, but_overflow),
        ("5xx", true, but_overflow),
        ("gateway-error", true, but_overflow),
        ("retriable-4xx,retriable-status-codes,retriable-headers,unavailable,envoy-ratelimited", false, &[]),
    ] {
        let on = on(names).on;
        let found: Vec<Failure> = all.into_iter().filter(|failure| failure.is_retried(&on, was_sent)).collect();
        assert_eq!(found, expected, "{names}");
    }
}

#[test]
fn orders_of_the_request_are_taken_out_and_merged() {
    let mut head = request(&[
        ("x-envoy-retry-on", "5xx, nonsense ,retriable-headers"),
        ("x-envoy-retry-grpc-on", "unavailable"),
        ("x-envoy-max-retries", "7"),
        ("x-envoy-retriable-status-codes", "429, x, 430"),
        ("x-envoy-retriable-header-names", "X-Again, x-more"),
        ("x-envoy-upstream-rq-per-try-timeout-ms", "250"),
        ("x-kept", "1"),
    ]);
    let mut policy = RetryPolicy { statuses: vec![418], ..RetryPolicy::default() };
    take_orders(&mut head).merge_into(&mut policy);
    let expected = RetryOn { server_error: true, headers: true, grpc_unavailable: true, ..RetryOn::default() };
    assert_eq!((policy.on, policy.num_retries), (expected, 7));
    assert_eq!(policy.statuses, [418, 429, 430]);
    assert_eq!(policy.headers.iter().map(|rule| &*rule.name).collect::<Vec<_>>(), ["x-again", "x-more"]);
    assert_eq!(policy.per_try_timeout, Duration::from_millis(250));
    assert_eq!(head.headers, request(&[("x-kept", "1")]).headers);
    assert!(take_orders(&mut head) == Orders::default());
}

#[test]
fn the_back_off_doubles_up_to_its_most() {
    let policy = RetryPolicy::default();
    let steps = [1, 2, 3, 4, 5, 6, u32::MAX].map(|attempt| backoff_step(&policy, attempt).as_millis());
    assert_eq!(steps, [25, 50, 100, 200, 250, 250, 250]);
    let mut rng = Rng::new(1);
    let waits: Vec<u128> = (0..1000).map(|_| jittered(Duration::from_millis(25), &mut rng).as_millis()).collect();
    assert!(waits.iter().all(|wait| *wait < 25));
    assert!((0..25).all(|wait| waits.contains(&wait)), "all of the interval is used");
}

#[test]
fn the_upstream_says_how_long_to_wait() {
    let limited = RateLimitedBackOff {
        reset_headers: vec![
            ResetHeader { name: "retry-after".into(), is_unix_timestamp: false },
            ResetHeader { name: "x-reset".into(), is_unix_timestamp: true },
        ],
        max_interval: Duration::from_secs(60),
    };
    let policy = RetryPolicy { rate_limited: Some(limited), ..RetryPolicy::default() };
    let now = Duration::from_millis(1_000_500);
    for (fields, seconds) in [
        (&[("retry-after", "5")][..], Some(5)),
        (&[("retry-after", "61"), ("x-reset", "1010")], Some(10)),
        (&[("retry-after", "0")], None),
        (&[("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT"), ("x-reset", "1001")], Some(1)),
        (&[("x-reset", "999")], None),
        (&[("x-reset", "99999999999999999999999")], None),
        (&[], None),
    ] {
        let told = reset_interval(&policy, &response(429, fields), now);
        assert_eq!(told, seconds.map(Duration::from_secs), "{fields:?}");
    }
    assert_eq!(reset_interval(&RetryPolicy::default(), &response(429, &[("retry-after", "5")]), now), None);
}
