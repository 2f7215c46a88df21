//! Python filters, with a script in Python's place: which hooks are called with what, and what comes of it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::filter::log::LogRecord;
use pymesh_engine::filter::{Change, FilterCall, Gate, Heads, Hook, Outcome};
use pymesh_engine::testing::numbers;
use pymesh_engine::ConnKey;
use pymesh_model::filter::{FailurePolicy, FilterId, FilterKind, HttpFilter, PythonFilter};
use pymesh_model::matcher::{HeaderMatch, HeaderTest};
use pymesh_model::route::{Mirror, MirrorCluster, MirrorHost, RetryOn, RetryPolicy};

use super::super::GET;
use super::rig::{address, upgrade, Rig, Setup};

const POST: &[u8] = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello";
const CHUNKED: &[u8] = b"POST /a HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";

fn python(name: &str, failure_policy: FailurePolicy) -> Arc<PythonFilter> {
    Arc::new(PythonFilter {
        class: name.into(),
        source: "".into(),
        config_json: "{}".into(),
        failure_policy,
        timeout: Duration::ZERO,
    })
}

fn in_chain(python: &Arc<PythonFilter>) -> Arc<HttpFilter> {
    let (name, id) = (python.class.clone(), FilterId::of(&python.class));
    Arc::new(HttpFilter { name, id, disabled: false, kind: FilterKind::Python(python.clone()) })
}

fn gate(hooks: &[Hook]) -> Gate {
    Gate { hooks: hooks.iter().copied().collect(), max_body: 100, ..Gate::default() }
}

/// What hooks were called with: `a.on_request_chunk hello end`.
type Seen = Rc<RefCell<Vec<String>>>;

/// An engine whose chain is these filters; each is known by its name.
fn rig(filters: &[(&str, Gate)], policy: FailurePolicy, setup: Setup) -> (Rig, Seen) {
    let known: Vec<_> = filters.iter().map(|(name, gate)| (python(name, policy), gate.clone())).collect();
    let mut rig = Rig::new(&Setup { filters: known.iter().map(|(python, _)| in_chain(python)).collect(), ..setup });
    rig.engine.set_filter_gates(known.into_iter().map(|(python, gate)| (python, Ok(gate))).collect());
    (rig, Seen::default())
}

fn script(rig: &mut Rig, seen: &Seen, mut does: impl FnMut(&FilterCall, &mut Heads) -> Outcome + 'static) {
    let seen = seen.clone();
    rig.script = Some(Box::new(move |call, heads| {
        let mut line = format!("{}.{}", call.filter.class, call.hook.name());
        if !heads.body.is_empty() {
            line += &format!(" {}", String::from_utf8_lossy(heads.body.as_slice()));
        }
        if heads.end {
            line += " end";
        }
        seen.borrow_mut().push(line);
        does(call, heads)
    }));
}

fn seen(seen: &Seen) -> Vec<String> {
    std::mem::take(&mut seen.borrow_mut())
}

fn made(body: impl Into<Vec<u8>>) -> Outcome {
    Outcome::Continue { changed: Change::Nothing, body: Some(body.into()) }
}

/// In capitals, with the name of the filter behind.
fn shout(call: &FilterCall, heads: &Heads) -> Outcome {
    if heads.body.is_empty() {
        return Outcome::PASS;
    }
    made([&heads.body.as_slice().to_ascii_uppercase(), call.filter.class.as_bytes()].concat())
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or("none")
}

fn retry() -> RetryPolicy {
    let on = RetryOn { server_error: true, ..RetryOn::default() };
    RetryPolicy { on, num_retries: 1, ..RetryPolicy::default() }
}

fn retried() -> Setup {
    Setup { retry: Some(retry()), ..Setup::default() }
}

#[test]
fn a_whole_request_is_seen_before_its_head_goes() {
    let filters = [("f", gate(&[Hook::RequestHeaders, Hook::RequestBody]))];
    let (mut rig, log) = rig(&filters, FailurePolicy::Closed, retried());
    script(&mut rig, &log, |call, heads| match call.hook {
        Hook::RequestBody => {
            heads.request.set_path(b"/b");
            heads.request.headers.set(b"x-seen", b"yes");
            Outcome::Continue { changed: Change::Target, body: Some(b"good bye".to_vec()) }
        }
        _ => Outcome::PASS,
    });
    let client = rig.accept();
    rig.receive(client, &POST[..POST.len() - 3]);
    assert!(rig.take_actions().is_empty(), "nobody is connected to before the body is there");
    rig.receive(client, &POST[POST.len() - 3..]);
    let upstream = rig.open();
    let sent = rig.text(upstream);
    assert!(sent.starts_with("POST /b HTTP/1.1\r\n") && sent.contains("x-seen: yes\r\n"), "{sent}");
    assert!(sent.contains("content-length: 8\r\n") && sent.ends_with("\r\n\r\ngood bye"), "{sent}");
    assert_eq!(seen(&log), ["f.on_request_headers", "f.on_request_body hello"]);
    // What it has made of the body is what is sent again, and it is not asked again.
    rig.receive(upstream, UNAVAILABLE);
    rig.pass(Duration::from_secs(1));
    assert!(rig.text(upstream).ends_with("\r\n\r\ngood bye"));
    rig.receive(upstream, OK);
    assert!(rig.text(client).ends_with("hello"));
    assert_eq!(seen(&log), Vec::<String>::new());
}

#[test]
fn a_request_without_a_body_has_an_empty_one() {
    for (makes, framing) in [(None, None), (Some("hi"), Some("content-length: 2\r\n"))] {
        let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestBody]))], FailurePolicy::Closed, Setup::default());
        script(&mut rig, &log, move |_, _| Outcome::Continue {
            changed: Change::Nothing,
            body: makes.map(|made| made.into()),
        });
        let client = rig.accept();
        rig.receive(client, GET);
        let upstream = rig.open();
        let sent = rig.text(upstream);
        assert_eq!(sent.contains("content-length"), framing.is_some(), "{sent}");
        assert!(sent.contains(framing.unwrap_or_default()) && sent.ends_with(makes.unwrap_or("\r\n\r\n")), "{sent}");
        assert_eq!(seen(&log), ["f.on_request_body"]);
    }
}

#[test]
fn a_body_that_a_filter_has_added_is_sent_again() {
    let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestBody]))], FailurePolicy::Closed, retried());
    script(&mut rig, &log, |_, _| made("made"));
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    assert!(rig.text(upstream).ends_with("\r\n\r\nmade"));
    rig.receive(upstream, UNAVAILABLE);
    rig.pass(Duration::from_secs(1));
    assert!(rig.text(upstream).ends_with("\r\n\r\nmade"));
}

#[test]
fn bodies_have_a_limit() {
    let hooks = [Hook::RequestBody, Hook::ResponseBody];
    for (octets, is_chunked) in [(100, false), (101, false), (100, true), (101, true)] {
        let (mut rig, log) = rig(&[("f", gate(&hooks))], FailurePolicy::Closed, Setup::default());
        script(&mut rig, &log, |_, _| Outcome::PASS);
        let client = rig.accept();
        let body = "x".repeat(octets);
        let framed = match is_chunked {
            true => format!("transfer-encoding: chunked\r\n\r\n{octets:x}\r\n{body}\r\n0\r\n\r\n"),
            false => format!("content-length: {octets}\r\n\r\n{body}"),
        };
        rig.receive(client, format!("POST / HTTP/1.1\r\nhost: a\r\n{framed}").as_bytes());
        if octets > 100 {
            let answer = rig.text(client);
            assert_eq!(status(&answer), "413", "{answer}");
            assert_eq!(seen(&log), Vec::<String>::new());
            continue;
        }
        let upstream = rig.open();
        assert!(rig.text(upstream).ends_with(&framed));
        rig.receive(upstream, format!("HTTP/1.1 200 OK\r\n{framed}").as_bytes());
        assert!(rig.text(client).ends_with(&framed));
        // And the other way a longer one.
        rig.receive(client, GET);
        let framed = framed.replace(&body, &format!("{body}x")).replace("64\r\n", "65\r\n").replace("100", "101");
        rig.receive(upstream, format!("HTTP/1.1 200 OK\r\n{framed}").as_bytes());
        let answer = rig.text(client);
        assert_eq!(status(&answer), "500", "{answer}");
    }
}

#[test]
fn a_whole_response_is_seen_before_its_head_goes() {
    let filters = [("a", gate(&[Hook::ResponseBody])), ("b", gate(&[Hook::ResponseHeaders, Hook::ResponseBody]))];
    let (mut rig, log) = rig(&filters, FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |call, heads| {
        heads.response.headers.append(b"x-by", call.filter.class.as_bytes());
        shout(call, heads)
    });
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    rig.receive(upstream, &OK[..OK.len() - 2]);
    assert_eq!(rig.text(client), "");
    rig.receive(upstream, &OK[OK.len() - 2..]);
    let answer = rig.text(client);
    assert!(answer.contains("content-length: 7\r\n") && answer.ends_with("\r\n\r\nHELLOBa"), "{answer}");
    assert!(answer.contains("x-by: b\r\nx-by: b\r\nx-by: a\r\n"), "{answer}");
    assert_eq!(seen(&log), ["b.on_response_headers", "b.on_response_body hello", "a.on_response_body HELLOb"]);
    // The connection serves the next request.
    rig.receive(client, GET);
    assert!(rig.text(upstream).starts_with("GET "));
}

#[test]
fn an_upstream_may_wait_for_the_request_while_a_filter_waits_for_its_answer() {
    let (mut rig, log) = rig(&[("f", gate(&[Hook::ResponseBody]))], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |_, _| Outcome::PASS);
    let client = rig.accept();
    rig.receive(client, CHUNKED);
    let upstream = rig.open();
    rig.written(upstream);
    rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhe");
    rig.receive(client, b"4\r\nmore\r\n0\r\n\r\n");
    assert_eq!(rig.text(upstream), "4\r\nmore\r\n0\r\n\r\n");
    rig.receive(upstream, b"llo");
    assert!(rig.text(client).ends_with("\r\n\r\nhello"));
}

#[test]
fn pieces_pass_the_filters_on_their_way() {
    let both = [Hook::RequestChunk, Hook::ResponseChunk];
    let (mut rig, log) = rig(&[("a", gate(&both)), ("b", gate(&both))], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |call, heads| shout(call, heads));
    let client = rig.accept();
    rig.receive(client, &POST[..POST.len() - 3]);
    let upstream = rig.open();
    let sent = rig.text(upstream);
    assert!(sent.contains("transfer-encoding: chunked\r\n") && !sent.contains("content-length"), "{sent}");
    assert!(sent.ends_with("\r\n\r\n4\r\nHEAb\r\n"), "{sent}");
    rig.receive(client, &POST[POST.len() - 3..]);
    assert_eq!(rig.text(upstream), "5\r\nLLOAb\r\n0\r\n\r\n");
    assert_eq!(
        seen(&log),
        [
            "a.on_request_chunk he",
            "b.on_request_chunk HEa",
            "a.on_request_chunk llo end",
            "b.on_request_chunk LLOa end",
        ]
    );
    rig.receive(upstream, &OK[..OK.len() - 3]);
    let answer = rig.text(client);
    assert!(answer.contains("transfer-encoding: chunked\r\n") && answer.ends_with("\r\n\r\n4\r\nHEBa\r\n"), "{answer}");
    rig.receive(upstream, &OK[OK.len() - 3..]);
    assert_eq!(rig.text(client), "5\r\nLLOBa\r\n0\r\n\r\n");
    rig.receive(client, GET);
    assert!(rig.text(upstream).starts_with("GET / HTTP/1.1\r\n"), "both connections go on");
}

#[test]
fn a_message_without_a_body_ends_once_and_is_framed_as_before() {
    let both = [Hook::RequestChunk, Hook::ResponseChunk];
    let (mut rig, log) = rig(&[("a", gate(&both)), ("b", gate(&both))], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |_, _| Outcome::PASS);
    let client = rig.accept();
    rig.receive(client, GET);
    let upstream = rig.open();
    let sent = rig.text(upstream);
    assert!(!sent.contains("transfer-encoding") && !sent.contains("content-length"), "{sent}");
    assert_eq!(seen(&log), ["a.on_request_chunk end", "b.on_request_chunk end"]);
    rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert!(rig.text(client).contains("content-length: 0\r\n"));
    assert_eq!(seen(&log), ["b.on_response_chunk end", "a.on_response_chunk end"]);
}

#[test]
fn answers_that_have_no_body_have_none_to_be_seen() {
    let hooks = [Hook::ResponseHeaders, Hook::ResponseBody, Hook::ResponseTrailers];
    let cases = [
        ("HEAD", "200 OK\r\ncontent-length: 5", ""),
        ("GET", "204 No Content", ""),
        ("GET", "304 Not Modified\r\ncontent-length: 5", "content-length: 5\r\n"),
    ];
    for (method, answer, length) in cases {
        let (mut rig, log) = rig(&[("f", gate(&hooks))], FailurePolicy::Closed, Setup::default());
        script(&mut rig, &log, |_, _| Outcome::PASS);
        let client = rig.accept();
        rig.receive(client, format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes());
        let upstream = rig.open();
        rig.receive(upstream, format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes());
        let told = rig.text(client);
        assert!(told.ends_with("\r\n\r\n") && told.contains(length), "{told}");
        assert_eq!(told.contains("content-length"), !length.is_empty(), "{told}");
        assert_eq!(seen(&log), ["f.on_response_headers"]);
    }
}

#[test]
fn trailers_come_behind_the_body() {
    let hooks = [Hook::RequestChunk, Hook::RequestTrailers, Hook::ResponseTrailers];
    let (mut rig, log) = rig(&[("a", gate(&hooks)), ("b", gate(&hooks))], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |call, heads| {
        if !heads.trailers.is_empty() {
            heads.trailers.append(b"x-by", call.filter.class.as_bytes());
        }
        Outcome::PASS
    });
    let client = rig.accept();
    rig.receive(client, CHUNKED);
    let upstream = rig.open();
    rig.written(upstream);
    rig.receive(client, b"5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n");
    assert_eq!(rig.text(upstream), "5\r\nhello\r\n0\r\nx-sum: 1\r\nx-by: a\r\nx-by: b\r\n\r\n");
    assert_eq!(
        seen(&log),
        [
            "a.on_request_chunk hello end",
            "b.on_request_chunk hello",
            "a.on_request_trailers",
            "b.on_request_chunk end",
            "b.on_request_trailers",
        ]
    );
    rig.receive(upstream, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-sum: 2\r\n\r\n");
    assert!(rig.text(client).ends_with("2\r\nok\r\n0\r\nx-sum: 2\r\nx-by: b\r\nx-by: a\r\n\r\n"));
    assert_eq!(seen(&log), ["b.on_response_trailers", "a.on_response_trailers"]);
}

#[test]
fn what_was_filtered_is_what_is_sent_again_and_mirrored() {
    let mirrors = vec![Mirror {
        cluster: MirrorCluster::One("shadow".into()),
        fraction: 1_000_000,
        host: MirrorHost::Same,
        headers: vec![],
    }];
    let setup = Setup { mirrors, ..retried() };
    let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestChunk]))], FailurePolicy::Closed, setup);
    script(&mut rig, &log, |call, heads| shout(call, heads));
    let client = rig.accept();
    rig.receive(client, &[CHUNKED, b"2\r\nhe\r\n"].concat());
    let opened = |rig: &mut Rig, wanted| {
        let connect = |action: &pymesh_engine::Action| match action {
            pymesh_engine::Action::Connect(key, to) if *to == address(wanted, 8080) => Some(*key),
            _ => None,
        };
        let key: ConnKey = rig.actions.iter().find_map(connect).unwrap();
        rig.engine.connected(key, address(1, 40_000));
        rig.work();
        key
    };
    let (upstream, shadow) = (opened(&mut rig, 3), opened(&mut rig, 4));
    rig.receive(client, b"3\r\nllo\r\n0\r\n\r\n");
    for key in [upstream, shadow] {
        assert!(rig.text(key).ends_with("\r\n\r\n3\r\nHEf\r\n4\r\nLLOf\r\n0\r\n\r\n"));
    }
    rig.receive(upstream, UNAVAILABLE);
    rig.pass(Duration::from_secs(1));
    assert!(rig.text(upstream).ends_with("\r\n\r\n7\r\nHEfLLOf\r\n0\r\n\r\n"));
    assert_eq!(seen(&log), ["f.on_request_chunk he", "f.on_request_chunk llo end"]);
}

#[test]
fn a_body_is_bounded_while_nobody_takes_it() {
    let setup = Setup { buffer_limit: 32 * 1024, ..Setup::default() };
    let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestChunk]))], FailurePolicy::Closed, setup);
    script(&mut rig, &log, |_, _| Outcome::PASS);
    let client = rig.accept();
    rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
    let upstream = rig.open();
    rig.blocked.push(upstream);
    let (mut sent, piece) = (0, [7; 10_000]);
    while rig.engine.wants_read(client) {
        rig.receive(client, &piece);
        sent += piece.len();
        assert!(sent < 300_000, "it is read on and on");
    }
    rig.unblock(upstream);
    while sent < 1_000_000 {
        assert!(rig.engine.wants_read(client), "it is not read on after {sent}");
        rig.receive(client, &piece);
        sent += piece.len();
    }
    let text = rig.written(upstream);
    assert!(text.ends_with(b"0\r\n\r\n"));
    assert_eq!(text.iter().filter(|octet| **octet == 7).count(), 1_000_000);
    assert!(seen(&log).len() > 10);
}

#[test]
fn a_filter_may_hold_back_everything_until_the_end() {
    let both = [Hook::RequestChunk, Hook::ResponseChunk];
    let (mut rig, log) = rig(&[("f", gate(&both))], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |_, heads| if heads.end { made("all") } else { made("") });
    let client = rig.accept();
    rig.receive(client, b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n");
    let upstream = rig.open();
    for _ in 0..100 {
        assert!(rig.engine.wants_read(client));
        rig.receive(client, &[7; 10_000]);
    }
    assert!(rig.text(upstream).ends_with("\r\n\r\n3\r\nall\r\n0\r\n\r\n"));
    rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n");
    for _ in 0..100 {
        assert!(rig.engine.wants_read(upstream));
        rig.receive(upstream, &[7; 10_000]);
    }
    assert!(rig.text(client).ends_with("\r\n\r\n3\r\nall\r\n0\r\n\r\n"));
}

#[test]
fn a_failure_in_a_stream_is_judged_by_the_policy() {
    let fails = |rig: &mut Rig, log: &Seen, fails: Hook| {
        script(rig, log, move |call, heads| match call.hook {
            hook if hook == fails && !heads.body.is_empty() => Outcome::Failed("raised".into()),
            _ => Outcome::PASS,
        });
    };
    for policy in [FailurePolicy::Open, FailurePolicy::Closed] {
        let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestChunk, Hook::ResponseChunk]))], policy, Setup::default());
        fails(&mut rig, &log, Hook::ResponseChunk);
        let client = rig.accept();
        rig.receive(client, GET);
        let upstream = rig.open();
        rig.receive(upstream, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n");
        assert_eq!(status(&rig.text(client)), "200");
        rig.take_actions();
        rig.receive(upstream, b"hello");
        match policy {
            FailurePolicy::Open => assert_eq!(rig.text(client), "5\r\nhello\r\n0\r\n\r\n"),
            FailurePolicy::Closed => {
                assert_eq!(rig.text(client), "");
                let closed = |action: &pymesh_engine::Action| match action {
                    pymesh_engine::Action::Close(key) | pymesh_engine::Action::ShutdownWrite(key) => *key == client,
                    pymesh_engine::Action::Connect(..) => false,
                };
                assert!(rig.take_actions().iter().any(closed), "a broken answer must not look whole");
            }
        }
        let failures = numbers(&rig.hub).into_iter().find(|(name, ..)| name == "python_filter.f.failures").unwrap().2;
        assert_eq!(failures, 1);
    }
    let (mut rig, log) = rig(&[("f", gate(&[Hook::RequestChunk]))], FailurePolicy::Closed, Setup::default());
    fails(&mut rig, &log, Hook::RequestChunk);
    let client = rig.accept();
    rig.receive(client, CHUNKED);
    let upstream = rig.open();
    rig.receive(client, b"2\r\nhe\r\n");
    assert_eq!(status(&rig.text(client)), "500");
    assert!(
        rig.take_actions().contains(&pymesh_engine::Action::Close(upstream)),
        "the rest of the request never comes"
    );
}

#[test]
fn octets_of_a_tunnel_are_no_body() {
    let hooks: Vec<Hook> = Hook::ALL.into_iter().filter(|hook| *hook != Hook::Log).collect();
    let hooks: Vec<Hook> =
        hooks.into_iter().filter(|hook| !matches!(hook, Hook::RequestBody | Hook::ResponseBody)).collect();
    let setup = Setup { upgrades: vec![upgrade("websocket")], ..Setup::default() };
    let (mut rig, log) = rig(&[("f", gate(&hooks))], FailurePolicy::Closed, setup);
    script(&mut rig, &log, |_, _| Outcome::PASS);
    let client = rig.accept();
    rig.receive(client, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let upstream = rig.open();
    rig.receive(upstream, b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    assert_eq!(status(&rig.text(client)), "101");
    rig.written(upstream);
    rig.receive(client, b"ping");
    rig.receive(upstream, b"pong");
    assert_eq!((rig.text(upstream), rig.text(client)), ("ping".into(), "pong".into()));
    assert_eq!(seen(&log), ["f.on_request_headers", "f.on_response_headers"]);
}

#[test]
fn only_requests_that_have_what_is_wanted_enter() {
    let wants = vec!["x-key".into(), "authorization".into()];
    let when = vec![HeaderMatch {
        name: ":path".into(),
        test: HeaderTest::Present(true),
        invert: false,
        missing_as_empty: false,
    }];
    let hooks = [Hook::RequestHeaders, Hook::RequestChunk, Hook::ResponseHeaders, Hook::Log];
    let (mut rig, log) = rig(&[("f", Gate { wants, when, ..gate(&hooks) })], FailurePolicy::Closed, Setup::default());
    script(&mut rig, &log, |call, heads| {
        if call.hook == Hook::RequestHeaders {
            // It sees the rest although the request meets its conditions no more.
            heads.request.headers.remove(b"x-key");
        }
        Outcome::PASS
    });
    for (header, enters) in [("x-other: 1", false), ("x-key: 1", true), ("authorization: me", true)] {
        let client = rig.accept();
        rig.receive(client, format!("GET / HTTP/1.1\r\nhost: a\r\n{header}\r\n\r\n").as_bytes());
        let upstream = rig.open_or_reuse();
        rig.receive(upstream, OK);
        assert_eq!(status(&rig.text(client)), "200");
        assert_eq!(seen(&log).len(), if enters { 3 } else { 0 }, "{header}");
        assert_eq!(records(&mut rig).len(), usize::from(enters), "{header}");
    }
}

fn records(rig: &mut Rig) -> Vec<Arc<LogRecord>> {
    let mut calls = Vec::new();
    rig.engine.take_log_calls(&mut calls);
    calls.into_iter().map(|call| call.record).collect()
}

#[test]
fn what_is_over_is_told_whatever_its_end_was() {
    let (mut rig, _) = rig(&[("f", gate(&[Hook::Log]))], FailurePolicy::Closed, Setup::default());
    // One that is answered.
    let client = rig.accept();
    rig.receive(client, POST);
    let upstream = rig.open();
    assert!(records(&mut rig).is_empty());
    rig.pass(Duration::from_secs(2));
    rig.receive(upstream, OK);
    let over = records(&mut rig);
    let record = &over[0];
    assert_eq!((over.len(), record.status, &*record.flags, &*record.details), (1, 200, "-", "via_upstream"));
    assert_eq!((record.request_bytes, record.response_bytes, record.duration), (5, 5, Duration::from_secs(2)));
    assert_eq!((&*record.method, &*record.path, &*record.authority), (&b"POST"[..], &b"/a"[..], &b"a"[..]));
    assert_eq!(record.upstream, Some(address(3, 8080)));
    // One whose client leaves in the middle.
    let client = rig.accept();
    rig.receive(client, CHUNKED);
    rig.engine.failed(client, "reset");
    rig.work();
    let over = records(&mut rig);
    assert_eq!((over.len(), over[0].status, &*over[0].flags), (1, 0, "DC"));
    // One whose upstream does not answer.
    let client = rig.accept();
    rig.take_actions();
    rig.receive(client, GET);
    rig.open();
    rig.pass(Duration::from_secs(16));
    assert_eq!(status(&rig.text(client)), "504");
    let over = records(&mut rig);
    assert_eq!((over.len(), over[0].status, &*over[0].flags), (1, 504, "UT"));
    // One that was never understood was no request.
    let client = rig.accept();
    rig.receive(client, b"GET\r\n\r\n");
    assert_eq!(status(&rig.text(client)), "400");
    assert!(records(&mut rig).is_empty());
}

/// The calls that are to be made; whoever has them may answer later.
fn calls(rig: &mut Rig) -> Vec<FilterCall> {
    let mut calls = Vec::new();
    rig.engine.take_filter_calls(&mut calls);
    calls
}

#[test]
fn hooks_of_streams_may_be_answered_later_and_keep_the_order() {
    let both = [Hook::RequestChunk, Hook::ResponseChunk];
    let (mut rig, _) = rig(&[("f", gate(&both))], FailurePolicy::Closed, Setup::default());
    let client = rig.accept();
    rig.receive(client, &[CHUNKED, b"2\r\nhe\r\n"].concat());
    let upstream = rig.open();
    let first = calls(&mut rig);
    let mut heads = rig.engine.lend_heads(&first[0]).unwrap();
    rig.receive(client, b"1\r\nl\r\n");
    rig.receive(client, b"2\r\nlo\r\n0\r\n\r\n");
    assert!(calls(&mut rig).is_empty(), "one at a time");
    // The answer streams meanwhile.
    rig.receive(upstream, OK);
    let answer = calls(&mut rig);
    let of_answer = rig.engine.lend_heads(&answer[0]).unwrap();
    assert!(of_answer.end && of_answer.body.as_slice() == b"hello");
    heads.body.clear();
    rig.engine.finish_filter(&first[0], heads, made("HE"));
    rig.work();
    assert!(rig.text(upstream).ends_with("\r\n\r\n2\r\nHE\r\n"));
    let second = calls(&mut rig);
    let heads = rig.engine.lend_heads(&second[0]).unwrap();
    assert!(heads.end && heads.body.as_slice() == b"llo");
    rig.engine.finish_filter(&second[0], heads, made("LLO"));
    rig.engine.finish_filter(&answer[0], of_answer, Outcome::PASS);
    rig.work();
    assert!(rig.text(client).ends_with("5\r\nhello\r\n0\r\n\r\n"));
    // What comes when the exchange is gone changes nothing.
    rig.engine.finish_filter(&answer[0], Heads::default(), Outcome::Failed("late".into()));
    rig.work();
    assert_eq!(rig.text(client), "");
}

#[test]
fn who_leaves_in_the_middle_leaves_nothing_behind() {
    let hooks = [Hook::RequestBody, Hook::ResponseBody];
    let (mut rig, log) = rig(
        &[("a", gate(&hooks)), ("b", gate(&[Hook::RequestChunk, Hook::ResponseChunk, Hook::Log]))],
        FailurePolicy::Closed,
        Setup::default(),
    );
    script(&mut rig, &log, |_, _| Outcome::PASS);
    for cut in 1..POST.len() {
        let client = rig.accept();
        rig.receive(client, &POST[..cut]);
        rig.engine.failed(client, "reset");
        rig.work();
    }
    for cut in 1..OK.len() {
        let client = rig.accept();
        rig.receive(client, POST);
        let upstream = rig.open();
        rig.receive(upstream, &OK[..cut]);
        rig.engine.failed(client, "reset");
        rig.work();
        assert!(rig.take_actions().contains(&pymesh_engine::Action::Close(upstream)));
    }
    assert_eq!(rig.engine.in_use(), (0, 0, 0));
}
