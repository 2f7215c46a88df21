//! Requests in traces: what the next one is told, and what a collector is sent, whatever becomes of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::base::protobuf::{Fields, Value};
use pymesh_engine::telemetry::stats::sum;
use pymesh_engine::ConnKey;
use pymesh_model::cluster::{UpstreamHttp, UpstreamProtocol};
use pymesh_model::otlp::{Collector, Exporter, Signal};
use pymesh_model::route::{RetryOn, RetryPolicy};
use pymesh_model::tracing::{Sampling, Tag, TagValue, Tracing};

use super::super::{GET, OK};
use super::rig::{Rig, Setup};

const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
const TAKEN: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

fn tracing(queue: usize, sampling: Sampling) -> Tracing {
    let collector = Collector {
        cluster: "asked".into(),
        authority: "collector".into(),
        path: Some("/v1/traces".into()),
        timeout: Duration::from_secs(10),
        headers: vec![("x-key".into(), "secret".into())],
    };
    Tracing {
        exporter: Arc::new(Exporter {
            signal: Signal::Traces,
            collector,
            resource: vec![("service.name".into(), "shop".into())],
            queue,
        }),
        sampling,
        attempts: true,
        longest_path: 256,
        tags: vec![
            Tag { name: "cell".into(), value: TagValue::Literal("a".into()) },
            Tag { name: "user".into(), value: TagValue::Header { name: "x-user".into(), default: "".into() } },
        ],
    }
}

fn setup(tracing: Tracing) -> Setup {
    let asked = UpstreamHttp { protocol: UpstreamProtocol::Http1, ..UpstreamHttp::default() };
    Setup { tracing: Some(tracing), asked: Some(asked), ..Setup::default() }
}

fn everything() -> Sampling {
    Sampling::default()
}

fn nothing_by_chance() -> Sampling {
    Sampling { random: 0, ..Sampling::default() }
}

fn get(fields: &str) -> Vec<u8> {
    format!("GET /cart?x=1 HTTP/1.1\r\nhost: shop\r\n{fields}\r\n").into_bytes()
}

/// The value of a header in what an endpoint was sent.
fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    request.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// One request and its answer; returns what the endpoint was sent.
fn ask(rig: &mut Rig, client: ConnKey, request: &[u8]) -> String {
    rig.receive(client, request);
    let upstream = rig.open_or_reuse();
    let sent = rig.text(upstream);
    rig.receive(upstream, OK);
    assert!(rig.text(client).ends_with("hello"));
    rig.take_actions();
    sent
}

#[derive(Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    kind: u64,
    attributes: BTreeMap<String, String>,
    is_error: bool,
}

fn octets(message: &[u8], number: u32) -> impl Iterator<Item = &[u8]> {
    Fields(message).map(Result::unwrap).filter(move |(n, _)| *n == number).filter_map(|(_, value)| value.octets())
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}

fn pair(pair: &[u8]) -> (String, String) {
    let text = |octets: &[u8]| String::from_utf8(octets.to_vec()).unwrap();
    let value = octets(pair, 2).next().unwrap();
    (text(octets(pair, 1).next().unwrap()), text(octets(value, 1).next().unwrap()))
}

fn span(message: &[u8]) -> Span {
    let first = |number| octets(message, number).next().unwrap_or_default();
    let number = |wanted| Fields(message).map(Result::unwrap).find(|(n, _)| *n == wanted).and_then(|(_, v)| v.number());
    let status = octets(message, 15).next().map(|status| Fields(status).next().unwrap().unwrap());
    Span {
        trace: hex(first(1)),
        id: hex(first(2)),
        parent: hex(first(4)),
        name: String::from_utf8(first(5).to_vec()).unwrap(),
        kind: number(6).unwrap(),
        attributes: octets(message, 9).map(pair).collect(),
        is_error: status == Some((3, Value::Number(2))),
    }
}

/// The spans that are sent now, and the connection on which the collector has to answer.
fn exported(rig: &mut Rig, collector: Option<ConnKey>) -> (ConnKey, Vec<Span>) {
    let collector = collector.unwrap_or_else(|| rig.open());
    let sent = rig.written(collector);
    let end = sent.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let head = std::str::from_utf8(&sent[..end]).unwrap();
    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\nhost: collector\r\n"), "{head}");
    assert_eq!(header(head, "content-type"), Some("application/x-protobuf"));
    assert_eq!(header(head, "x-key"), Some("secret"));
    assert_eq!(header(head, "traceparent"), None, "its own way is not traced");
    let of_resource = octets(&sent[end..], 1).next().unwrap();
    let resource = octets(of_resource, 1).next().unwrap();
    assert!(octets(resource, 1).map(pair).any(|pair| pair == ("service.name".to_owned(), "shop".to_owned())));
    let scope = octets(of_resource, 2).next().unwrap();
    (collector, octets(scope, 2).map(span).collect())
}

fn spans(rig: &Rig, name: &str) -> u64 {
    sum(&rig.hub.lock().tracing[""]).into_iter().find(|(known, ..)| *known == name).unwrap().2
}

#[test]
fn a_request_begins_a_trace_and_each_attempt_is_a_span() {
    let retry = RetryPolicy {
        on: RetryOn { server_error: true, ..RetryOn::default() },
        num_retries: 1,
        ..RetryPolicy::default()
    };
    let mut rig = Rig::new(&Setup { retry: Some(retry), ..setup(tracing(100, everything())) });
    let client = rig.accept();
    rig.receive(client, &get("x-user: ann\r\nuser-agent: curl\r\n"));
    let upstream = rig.open();
    let first = header(&rig.text(upstream), "traceparent").unwrap().to_owned();
    rig.receive(upstream, UNAVAILABLE);
    rig.pass(Duration::from_millis(500));
    let second = header(&rig.text(upstream), "traceparent").unwrap().to_owned();
    rig.receive(upstream, OK);
    assert!(rig.text(client).ends_with("hello"));
    rig.take_actions();
    rig.pass(Duration::from_secs(1));
    let (collector, spans_sent) = exported(&mut rig, None);
    let [one, two, whole] = &spans_sent[..] else { panic!("{spans_sent:?}") };
    assert_eq!(first, format!("00-{}-{}-01", whole.trace, one.id));
    assert_eq!(second, format!("00-{}-{}-01", whole.trace, two.id));
    assert_eq!((&one.parent, &two.parent), (&whole.id, &whole.id));
    assert_eq!((&*whole.parent, &*whole.name, &*two.name), ("", "ingress", "router origin egress"));
    assert_eq!((whole.kind, one.kind), (2, 3), "server, client");
    assert_eq!((one.is_error, two.is_error, whole.is_error), (true, false, false));
    assert_eq!(one.attributes.get("canceled").map(String::as_str), Some("true"));
    assert_eq!((&*one.attributes["http.status_code"], &*two.attributes["http.status_code"]), ("503", "200"));
    assert_eq!((one.attributes.get("retry.count"), &*two.attributes["retry.count"]), (None, "1"));
    for (name, value) in [
        ("http.url", "http://shop/cart?x=1"),
        ("http.method", "GET"),
        ("user_agent", "curl"),
        ("cell", "a"),
        ("user", "ann"),
        ("upstream_cluster", "origin"),
        ("response_flags", "-"),
    ] {
        assert_eq!(whole.attributes[name], value, "{name}");
    }
    rig.receive(collector, TAKEN);
    assert_eq!((spans(&rig, "spans_sent"), spans(&rig, "spans_dropped")), (3, 0));
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn whoever_began_the_trace_has_decided() {
    let mut rig = Rig::new(&setup(tracing(100, nothing_by_chance())));
    let client = rig.accept();
    let sampled = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=1\r\n");
    let sent = ask(&mut rig, client, &get(&sampled));
    let told = header(&sent, "traceparent").unwrap();
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-01") && !told.contains(PARENT), "{told}");
    assert_eq!(header(&sent, "tracestate"), Some("a=1"));
    rig.pass(Duration::from_secs(1));
    let (collector, sent) = exported(&mut rig, None);
    assert_eq!((&*sent[1].trace, &*sent[1].parent), (TRACE, PARENT));
    rig.receive(collector, TAKEN);

    // Those that are not kept are told as well, and cost the collector nothing.
    for fields in [format!("traceparent: 00-{TRACE}-{PARENT}-00\r\n"), format!("b3: {TRACE}-{PARENT}-0\r\n")] {
        let sent = ask(&mut rig, client, &get(&fields));
        let told = header(&sent, "traceparent").unwrap();
        assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
        assert_eq!(header(&sent, "b3").is_some(), fields.starts_with("b3"), "in the form in which it came");
    }
    // A trace that cannot be read is none: another begins, without its state.
    let sent = ask(&mut rig, client, &get("traceparent: 00-nonsense\r\ntracestate: a=1\r\n"));
    assert!(header(&sent, "traceparent").unwrap().ends_with("-00") && header(&sent, "tracestate").is_none());
    rig.pass(Duration::from_secs(5));
    assert!(rig.written(collector).is_empty());
    let group = sum(&rig.hub.lock().http_tracing["in"]);
    let counted = |name| group.iter().find(|(known, ..)| *known == name).unwrap().2;
    assert_eq!((counted("random_sampling"), counted("not_traceable")), (0, 1));
}

#[test]
fn without_a_tracer_headers_pass_as_they_are() {
    let mut rig = Rig::new(&Setup::default());
    let client = rig.accept();
    let fields = format!("traceparent: 00-{TRACE}-{PARENT}-01\r\ntracestate: a=1\r\nb3: 0\r\n");
    let sent = ask(&mut rig, client, &get(&fields));
    assert!(sent.contains(&fields), "{sent}");
}

#[test]
fn a_collector_that_is_slow_costs_spans_and_nothing_else() {
    let mut rig = Rig::new(&setup(Tracing { attempts: false, ..tracing(10, everything()) }));
    let client = rig.accept();
    ask(&mut rig, client, GET);
    rig.pass(Duration::from_secs(1));
    let (collector, first) = exported(&mut rig, None);
    assert_eq!(first.len(), 1);
    // It takes its time: what comes meanwhile waits, up to the limit.
    for _ in 0..50 {
        ask(&mut rig, client, GET);
    }
    rig.pass(Duration::from_secs(5));
    assert!(rig.written(collector).is_empty(), "one export at a time");
    assert_eq!(spans(&rig, "spans_dropped"), 40);
    rig.receive(collector, TAKEN);
    rig.pass(Duration::from_secs(1));
    let (_, second) = exported(&mut rig, Some(collector));
    assert_eq!(second.len(), 10);
    // Too late is lost, and counted; requests go on.
    rig.pass(Duration::from_secs(11));
    assert_eq!((spans(&rig, "spans_sent"), spans(&rig, "spans_dropped")), (1, 50));
    rig.take_actions();
    ask(&mut rig, client, GET);
    rig.pass(Duration::from_secs(1));
    let refused = rig.connecting();
    rig.engine.failed(refused, "refused");
    rig.work();
    assert_eq!((spans(&rig, "spans_sent"), spans(&rig, "spans_dropped")), (1, 51));
    rig.pass(Duration::from_secs(60));
    assert_eq!(rig.engine.census().exchanges, 0);
}
