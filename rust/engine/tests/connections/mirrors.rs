//! A request goes to its mirrors as well, and whatever they do, the client does not notice.

use std::time::Duration;

use pymesh_engine::testing::numbers;
use pymesh_engine::{Action, ConnKey};
use pymesh_model::filter::{FilterId, FilterKind, HttpFilter};
use pymesh_model::format::Template;
use pymesh_model::matcher::{StringMatch, StringPattern};
use pymesh_model::route::*;

use super::rig::{upgrade, Rig, Setup};

const POST: &[u8] = b"POST /a HTTP/1.1\r\nhost: shop:80\r\ntransfer-encoding: chunked\r\n\r\n";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const UNAVAILABLE: &[u8] = b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n";

fn mirror() -> Mirror {
    Mirror {
        cluster: MirrorCluster::One("shadow".into()),
        fraction: 1_000_000,
        host: MirrorHost::Suffixed,
        headers: vec![],
    }
}

fn mirrored() -> Setup {
    Setup { mirrors: vec![mirror()], ..Setup::default() }
}

/// The connections that are to be opened: to the endpoint and to its shadow.
fn connecting(rig: &mut Rig) -> (Option<ConnKey>, Option<ConnKey>) {
    let (mut endpoint, mut shadow) = (None, None);
    for action in rig.take_actions() {
        match action {
            Action::Connect(key, address) if address == super::rig::address(4, 8080) => shadow = Some(key),
            Action::Connect(key, _) => endpoint = Some(key),
            _ => {}
        }
    }
    (endpoint, shadow)
}

/// A client, and both connections when they are open.
fn ask(rig: &mut Rig, request: &[u8]) -> (ConnKey, ConnKey, ConnKey) {
    let client = rig.accept();
    rig.receive(client, request);
    let (Some(endpoint), Some(shadow)) = connecting(rig) else { panic!("both are asked") };
    for key in [endpoint, shadow] {
        rig.engine.connected(key, super::rig::address(1, 40_000));
    }
    rig.work();
    (client, endpoint, shadow)
}

fn count(rig: &Rig, name: &str) -> u64 {
    numbers(&rig.hub).into_iter().find(|(known, ..)| known == name).map_or(0, |(.., value)| value)
}

#[test]
fn head_body_and_trailers_go_to_both_and_one_answer_to_the_client() {
    let mut rig = Rig::new(&mirrored());
    let (client, endpoint, shadow) = ask(&mut rig, &[POST, b"5\r\nhello\r\n"].concat());
    rig.receive(client, b"3\r\n...\r\n0\r\nx-sum: 1\r\n\r\n");
    let (asked, copied) = (rig.text(endpoint), rig.text(shadow));
    assert!(asked.contains("\r\nhost: shop:80\r\n"), "{asked}");
    for told in ["POST /a ", "host: shop-shadow:80\r\n", "x-envoy-internal: true\r\n", "x-forwarded-for: 10.0.0.1\r\n"]
    {
        assert!(copied.contains(told), "{told} is not in {copied}");
    }
    for body in [&asked, &copied] {
        assert!(body.ends_with("\r\n\r\n5\r\nhello\r\n3\r\n...\r\n0\r\nx-sum: 1\r\n\r\n"), "{body}");
    }
    rig.receive(shadow, UNAVAILABLE);
    assert_eq!(rig.text(client), "");
    rig.receive(endpoint, OK);
    assert!(rig.text(client).ends_with("ok"));
    assert_eq!((count(&rig, "cluster.shadow.upstream_rq_5xx"), count(&rig, "cluster.origin.upstream_rq_2xx")), (1, 1));
    assert_eq!(rig.engine.census().exchanges, 0);
    assert_eq!(rig.engine.census().pooled, 2, "both connections are used again");
}

#[test]
fn what_has_come_before_the_connection_is_open_is_copied_too() {
    let mut rig = Rig::new(&mirrored());
    let client = rig.accept();
    rig.receive(client, &[POST, b"2\r\nab\r\n0\r\n\r\n"].concat());
    let (_, Some(shadow)) = connecting(&mut rig) else { panic!("the shadow is asked") };
    rig.engine.connected(shadow, super::rig::address(1, 40_000));
    rig.work();
    assert!(rig.text(shadow).ends_with("2\r\nab\r\n0\r\n\r\n"));
}

#[test]
fn a_shadow_that_fails_is_not_noticed() {
    type Case = (&'static str, fn(&mut Rig, ConnKey));
    let cases: [Case; 4] = [
        ("refuses", |rig, shadow| rig.engine.failed(shadow, "refused")),
        ("resets", |rig, shadow| {
            rig.engine.connected(shadow, super::rig::address(1, 40_000));
            rig.work();
            rig.engine.failed(shadow, "reset");
        }),
        ("talks nonsense", |rig, shadow| {
            rig.engine.connected(shadow, super::rig::address(1, 40_000));
            rig.receive(shadow, b"nonsense\r\n\r\n");
        }),
        ("is silent", |_, _| {}),
    ];
    for (name, fail) in cases {
        let mut rig = Rig::new(&mirrored());
        let client = rig.accept();
        rig.receive(client, &[POST, b"1\r\na\r\n"].concat());
        let (Some(endpoint), Some(shadow)) = connecting(&mut rig) else { panic!("both are asked") };
        fail(&mut rig, shadow);
        rig.engine.connected(endpoint, super::rig::address(1, 40_000));
        rig.receive(client, b"1\r\nb\r\n0\r\n\r\n");
        assert!(rig.text(endpoint).ends_with("1\r\na\r\n1\r\nb\r\n0\r\n\r\n"), "{name}");
        rig.receive(endpoint, OK);
        assert!(rig.text(client).starts_with("HTTP/1.1 200"), "{name}");
        rig.pass(Duration::from_secs(60));
        assert_eq!(rig.engine.census().exchanges, 0, "{name}");
        assert_eq!(count(&rig, "cluster.shadow.upstream_rq_active"), 0, "{name}");
    }
}

#[test]
fn a_slow_shadow_is_cut_off_and_holds_no_more_than_its_buffer() {
    let mut rig = Rig::new(&Setup { buffer_limit: 64 * 1024, ..mirrored() });
    let (client, endpoint, shadow) = ask(&mut rig, POST);
    rig.blocked.push(shadow);
    let piece = [b"4000\r\n".as_slice(), &[b'x'; 0x4000], b"\r\n"].concat();
    let mut sent = 0;
    for _ in 0..128 {
        rig.receive(client, &piece);
        sent += rig.written(endpoint).len();
        assert!(rig.engine.census().largest_body <= (1 << 20) + 2 * 0x4000);
    }
    assert!(sent > 128 * 0x4000, "all of it has gone on at once");
    assert_eq!(count(&rig, "cluster.origin.retry_or_shadow_abandoned"), 1);
    assert_eq!(rig.engine.census().exchanges, 1);
    assert!(rig.take_actions().contains(&Action::Close(shadow)));
    rig.receive(client, b"0\r\n\r\n");
    rig.receive(endpoint, OK);
    assert!(rig.text(client).ends_with("ok"));
}

#[test]
fn a_retry_is_not_mirrored_again() {
    let on = RetryOn { server_error: true, ..RetryOn::default() };
    let policy = RetryPolicy { base_interval: Duration::ZERO, ..pymesh_model::testing::retry(on, 1) };
    let mut rig = Rig::new(&Setup { retry: Some(policy), ..mirrored() });
    let (client, endpoint, _) = ask(&mut rig, &[POST, b"1\r\na\r\n0\r\n\r\n"].concat());
    rig.receive(endpoint, UNAVAILABLE);
    rig.pass(Duration::from_secs(1));
    rig.receive(endpoint, OK);
    assert!(rig.text(client).ends_with("ok"));
    assert_eq!(count(&rig, "cluster.origin.upstream_rq_total"), 2);
    assert_eq!(count(&rig, "cluster.shadow.upstream_rq_total"), 1);
}

#[test]
fn the_copy_goes_on_alone_once_it_is_complete_and_is_cut_off_otherwise() {
    for (rest, left) in [(b"".as_slice(), 0), (b"0\r\n\r\n", 1)] {
        let mut rig = Rig::new(&mirrored());
        let (client, _, shadow) = ask(&mut rig, &[POST, b"1\r\na\r\n", rest].concat());
        rig.engine.failed(client, "reset");
        rig.work();
        assert_eq!(rig.engine.census().exchanges, left);
        rig.receive(shadow, OK);
        assert_eq!(rig.engine.census().exchanges, 0);
        assert_eq!(count(&rig, "cluster.shadow.upstream_rq_2xx"), left as u64);
    }
}

#[test]
fn a_request_that_is_answered_here_in_the_end_is_no_whole_copy() {
    let mut rig = Rig::new(&mirrored());
    let head = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\n";
    let (client, endpoint, shadow) = ask(&mut rig, &[head.as_slice(), b"ab"].concat());
    assert!(rig.text(shadow).ends_with("ab"));
    rig.blocked.push(client);
    rig.engine.failed(endpoint, "reset");
    rig.receive(client, b"cd");
    rig.unblock(client);
    assert!(rig.text(client).starts_with("HTTP/1.1 503"));
    assert_eq!(rig.text(shadow), "", "its length was promised");
    assert!(rig.take_actions().contains(&Action::Close(shadow)));
}

/// Sends a request and answers it, and its copy if there is one.
fn serve(rig: &mut Rig, client: ConnKey, head: &str, known: &mut (Option<ConnKey>, Option<ConnKey>)) {
    rig.receive(client, head.as_bytes());
    let (endpoint, shadow) = connecting(rig);
    for key in endpoint.into_iter().chain(shadow) {
        rig.engine.connected(key, super::rig::address(1, 40_000));
    }
    rig.work();
    *known = (endpoint.or(known.0), shadow.or(known.1));
    for key in known.0.into_iter().chain(known.1) {
        if !rig.written(key).is_empty() {
            rig.receive(key, OK);
        }
    }
}

#[test]
fn a_share_of_the_requests_is_mirrored() {
    let mut rig = Rig::new(&Setup { mirrors: vec![Mirror { fraction: 300_000, ..mirror() }], ..Setup::default() });
    let (client, mut known) = (rig.accept(), (None, None));
    for _ in 0..1000 {
        serve(&mut rig, client, "GET / HTTP/1.1\r\nhost: a\r\n\r\n", &mut known);
    }
    // Give or take four standard deviations.
    assert!((242..=358).contains(&count(&rig, "cluster.shadow.upstream_rq_2xx")));
    assert_eq!(count(&rig, "cluster.origin.upstream_rq_2xx"), 1000);
}

#[test]
fn a_header_may_name_the_cluster_and_one_that_is_not_known_is_left_out() {
    let named = Mirror { cluster: MirrorCluster::Header("x-shadow".into()), ..mirror() };
    let unknown = Mirror { cluster: MirrorCluster::One("nobody".into()), ..mirror() };
    let mut rig = Rig::new(&Setup { mirrors: vec![named, unknown], ..Setup::default() });
    let (client, mut known) = (rig.accept(), (None, None));
    for field in ["", "x-shadow: nobody\r\n", "x-shadow: shadow\r\n"] {
        serve(&mut rig, client, &format!("GET / HTTP/1.1\r\nhost: a\r\n{field}\r\n"), &mut known);
    }
    assert_eq!(count(&rig, "cluster.shadow.upstream_rq_2xx"), 1);
    assert_eq!(rig.text(client).matches("HTTP/1.1 200").count(), 3);
}

#[test]
fn several_mirrors_are_sent_a_copy_each() {
    let mut rig = Rig::new(&Setup { mirrors: vec![mirror(), mirror()], ..Setup::default() });
    let client = rig.accept();
    rig.receive(client, &[POST, b"1\r\na\r\n"].concat());
    let connects: Vec<ConnKey> = rig
        .take_actions()
        .into_iter()
        .filter_map(|action| match action {
            Action::Connect(key, _) => Some(key),
            _ => None,
        })
        .collect();
    connects.iter().for_each(|key| rig.engine.connected(*key, super::rig::address(1, 40_000)));
    rig.receive(client, b"0\r\n\r\n");
    assert_eq!(connects.len(), 3);
    for key in connects {
        assert!(rig.text(key).ends_with("1\r\na\r\n0\r\n\r\n"));
    }
}

#[test]
fn the_head_is_changed_for_the_shadow_alone() {
    let add = |name: &str, value: &str| {
        let (value, action) = (Template::parse(value).unwrap(), AppendAction::AppendIfExistsOrAdd);
        HeaderMutation::Append(HeaderAdd { name: name.into(), value, action, keep_empty: false })
    };
    let starts = StringMatch { pattern: StringPattern::Prefix(b"x-secret-".as_slice().into()), ignore_case: false };
    let headers = vec![
        add("x-a", "1"),
        HeaderMutation::Remove("x-a".into()),
        add("x-path", "%REQ(:path)%"),
        HeaderMutation::RemoveMatching(starts),
    ];
    let changed = Mirror { headers, host: MirrorHost::Literal("other".into()), ..mirror() };
    let mut rig = Rig::new(&Setup { mirrors: vec![changed], ..Setup::default() });
    let head = b"GET /p HTTP/1.1\r\nhost: a\r\nx-secret-key: 1\r\nx-a: 0\r\n\r\n";
    let (_, endpoint, shadow) = ask(&mut rig, head);
    let (asked, copied) = (rig.text(endpoint), rig.text(shadow));
    assert!(asked.contains("x-secret-key: 1") && asked.contains("x-a: 0") && !asked.contains("x-path"), "{asked}");
    assert!(copied.contains("host: other\r\n") && copied.contains("x-path: /p\r\n"), "{copied}");
    assert!(!copied.contains("x-secret") && !copied.contains("x-a:"), "{copied}");
}

#[test]
fn who_is_not_sent_on_is_not_mirrored() {
    let mut rig = Rig::new(&Setup { upgrades: vec![upgrade("websocket")], ..mirrored() });
    let client = rig.accept();
    rig.receive(client, b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n");
    let (endpoint, shadow) = connecting(&mut rig);
    assert!(endpoint.is_some() && shadow.is_none(), "a tunnel has one other end");
    let mut snapshot = (*super::rig::snapshot(&mirrored())).clone();
    snapshot.clusters.insert("origin".into(), pymesh_model::testing::cluster("origin", []).into());
    let mut rig = Rig::with(snapshot.into());
    let client = rig.accept();
    rig.receive(client, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    assert!(rig.text(client).starts_with("HTTP/1.1 503"));
    assert_eq!(connecting(&mut rig), (None, None));
}

#[test]
fn grpc_web_is_mirrored_as_grpc() {
    let filter = HttpFilter { id: FilterId::of("web"), name: "web".into(), disabled: false, kind: FilterKind::GrpcWeb };
    let mut rig = Rig::new(&Setup { filters: vec![filter.into()], ..mirrored() });
    let head =
        b"POST /s/m HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc-web-text\r\ncontent-length: 16\r\n\r\n";
    let (client, endpoint, shadow) = ask(&mut rig, &[head.as_slice(), b"AAAAAAV"].concat());
    rig.receive(client, b"oZWxsbw==");
    for key in [endpoint, shadow] {
        let asked = rig.text(key);
        assert!(asked.contains("content-type: application/grpc\r\n"), "{asked}");
        let octets: String = asked.split("\r\n\r\n").nth(1).unwrap().split("\r\n").skip(1).step_by(2).collect();
        assert!(octets.starts_with("\0\0\0\0\u{5}hello"), "{octets:?}");
    }
}
