//! Tokens, and the keys that they wait for.

use std::sync::Arc;
use std::time::Duration;

use pymesh_engine::telemetry::stats::sum;
use pymesh_engine::{Action, ConnKey};
use pymesh_jwt::testing::Signer;
use pymesh_jwt::Algorithm;
use pymesh_model::filter::*;
use pymesh_model::matcher::{HeaderMatch, HeaderTest, StringMatch};
use pymesh_model::route::PathMatch;

use super::rig::{snapshot, upgrade, Rig, Setup};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
const CLAIMS: &str = r#"{"iss":"i","sub":"ann"}"#;

fn signer() -> Signer {
    Signer::new(Algorithm::Hs256)
}

fn remote() -> RemoteJwks {
    RemoteJwks {
        cluster: "origin".into(),
        authority: "idp.test".into(),
        path: "/keys".into(),
        timeout: Duration::from_secs(5),
        cache_duration: Duration::from_secs(100),
        in_background: None,
        retries: 0,
        base_interval: Duration::from_secs(1),
        max_interval: Duration::from_secs(10),
    }
}

fn provider(keys: JwtKeys) -> JwtProvider {
    JwtProvider {
        name: "p".into(),
        issuer: "i".into(),
        audiences: Audiences::default(),
        subjects: None,
        require_expiration: false,
        max_lifetime: None,
        clock_skew: 60,
        keys,
        forward: false,
        from_headers: vec![JwtHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
        from_params: vec!["access_token".into()],
        from_cookies: vec![],
        payload_header: "".into(),
        pads_payload: false,
        payload_in_metadata: "".into(),
        space_delimited: vec![],
        header_in_metadata: "".into(),
        failure_in_metadata: "".into(),
        claims_to_headers: vec![("x-sub".into(), "sub".into())],
        clear_route_cache: false,
        cache: None,
    }
}

/// Everything requires a token of the provider, but what is below `/open`.
fn requiring(provider: JwtProvider) -> Setup {
    let rule = |path: &str, requirement| {
        let mut matches = pymesh_model::testing::route(
            "/",
            pymesh_model::route::Action::Forward(Arc::new(pymesh_model::testing::forward("origin"))),
        )
        .matches;
        matches.path = PathMatch::Prefix(path.into());
        JwtRule { matches, requirement }
    };
    let filter = JwtAuthn {
        providers: vec![Arc::new(provider)],
        rules: vec![rule("/open", None), rule("/", Some(JwtRequirement::Provider(0, Audiences::default())))],
        ..JwtAuthn::default()
    };
    let kind = FilterKind::JwtAuthn(Arc::new(filter));
    let filter = HttpFilter { name: "jwt".into(), id: FilterId::of("jwt"), disabled: false, kind };
    Setup { filters: vec![Arc::new(filter)], ..Setup::default() }
}

fn fetching(remote: RemoteJwks) -> Setup {
    requiring(provider(JwtKeys::Remote(Arc::new(remote))))
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n{headers}\r\n").into()
}

fn with_token() -> Vec<u8> {
    get("/", &format!("authorization: Bearer {}\r\n", signer().token("", CLAIMS)))
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into()
}

fn keys() -> Vec<u8> {
    answer(200, &signer().jwks(""))
}

fn count(rig: &Rig, name: &str) -> u64 {
    let groups = rig.hub.lock();
    let mut known = groups.jwt.values().flat_map(|workers| sum(workers));
    known.find(|(known, ..)| *known == name).unwrap().2
}

fn is_fetch(request: &str) -> bool {
    request.starts_with("GET /keys HTTP/1.1\r\nhost: idp.test\r\n")
}

/// A request, and the connection by which keys are asked for.
fn ask(rig: &mut Rig) -> (ConnKey, ConnKey) {
    let client = rig.accept();
    rig.receive(client, &with_token());
    rig.pass(Duration::ZERO);
    let upstream = rig.open();
    let asked = rig.text(upstream);
    assert!(is_fetch(&asked), "{asked}");
    (client, upstream)
}

#[test]
fn those_who_wait_are_served_by_one_fetch() {
    let mut rig = Rig::new(&fetching(remote()));
    let (one, idp) = ask(&mut rig);
    let other = rig.accept();
    rig.receive(other, &with_token());
    let bad = rig.accept();
    rig.receive(bad, &get("/", &format!("authorization: Bearer {}x\r\n", signer().token("", CLAIMS))));
    rig.pass(Duration::from_secs(4));
    assert!(rig.take_actions().is_empty() && rig.text(one).is_empty());
    rig.receive(idp, &keys());
    rig.pass(Duration::ZERO);
    // The connection is free again: one takes it, the other opens its own.
    let sent = rig.text(idp);
    assert!(sent.contains("x-sub: ann\r\n") && !sent.contains("authorization"), "{sent}");
    let second = rig.open();
    assert!(rig.text(second).contains("x-sub: ann\r\n"));
    rig.receive(idp, OK);
    rig.receive(second, OK);
    assert!(rig.text(one).starts_with("HTTP/1.1 200 ") && rig.text(other).starts_with("HTTP/1.1 200 "));
    assert!(rig.text(bad).starts_with("HTTP/1.1 401 "));
    let counted = ["jwks_fetch_success", "jwks_fetch_failed", "allowed", "denied"].map(|name| count(&rig, name));
    assert_eq!(counted, [1, 0, 2, 1]);
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn a_server_of_keys_that_fails_admits_nobody_and_is_asked_again() {
    let large = format!("{{\"keys\":[]{}}}", " ".repeat(1 << 20));
    for (said, what) in [
        (answer(500, &signer().jwks("")), "a failure"),
        (answer(404, &signer().jwks("")), "not there"),
        (answer(204, ""), "nothing"),
        (answer(200, ""), "an empty body"),
        (answer(200, "<html>"), "no JSON"),
        (answer(200, "{}"), "no keys"),
        (answer(200, r#"{"keys":[{"kty":"RSA"}]}"#), "none that can be used"),
        (answer(200, &large), "too large"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{".to_vec(), "half of it, and then the end"),
        (b"SSH-2.0\r\n\r\n".to_vec(), "no HTTP"),
        (vec![], "a reset"),
    ] {
        let mut rig = Rig::new(&fetching(remote()));
        let (client, idp) = ask(&mut rig);
        rig.receive(idp, &said);
        if said.is_empty() || said.ends_with(b"{") {
            rig.engine.failed(idp, "reset");
            rig.work();
        }
        rig.pass(Duration::ZERO);
        let refused = rig.text(client);
        assert!(
            refused.starts_with("HTTP/1.1 401 ") && refused.ends_with("Jwks remote fetch is failed"),
            "{what}: {refused}"
        );
        assert_eq!([count(&rig, "jwks_fetch_failed"), count(&rig, "denied")], [1, 1], "{what}");
        // It recovers.
        rig.take_actions();
        rig.receive(client, &with_token());
        rig.pass(Duration::ZERO);
        let idp = match rig.text(idp) {
            again if is_fetch(&again) => idp,
            _ => {
                let idp = rig.open();
                assert!(is_fetch(&rig.text(idp)), "{what}");
                idp
            }
        };
        rig.receive(idp, &keys());
        rig.pass(Duration::ZERO);
        assert!(rig.text(idp).contains("x-sub: ann\r\n"), "{what}");
    }
}

#[test]
fn nobody_waits_longer_than_the_fetch_may_take() {
    let mut rig = Rig::new(&fetching(remote()));
    let (client, idp) = ask(&mut rig);
    rig.receive(idp, b"HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{");
    rig.pass(Duration::from_millis(4_999));
    assert_eq!(rig.text(client), "");
    rig.pass(Duration::from_millis(2));
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
}

#[test]
fn a_cluster_that_nobody_knows_or_cannot_be_reached_admits_nobody() {
    let mut rig = Rig::new(&fetching(RemoteJwks { cluster: "nowhere".into(), ..remote() }));
    let client = rig.accept();
    rig.receive(client, &with_token());
    rig.pass(Duration::ZERO);
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
    let mut rig = Rig::new(&fetching(remote()));
    let client = rig.accept();
    rig.receive(client, &with_token());
    rig.pass(Duration::ZERO);
    let idp = rig.connecting();
    rig.engine.failed(idp, "refused");
    rig.work();
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
}

#[test]
fn keys_get_old_and_are_not_used_then() {
    let mut rig = Rig::new(&fetching(remote()));
    let (client, idp) = ask(&mut rig);
    rig.receive(idp, &keys());
    rig.pass(Duration::ZERO);
    rig.text(idp);
    rig.receive(idp, OK);
    rig.text(client);
    rig.pass(Duration::from_secs(99));
    rig.receive(client, &with_token());
    assert!(rig.text(idp).contains("x-sub: ann"), "nobody is asked");
    rig.receive(idp, OK);
    rig.text(client);
    rig.pass(Duration::from_secs(2));
    rig.receive(client, &with_token());
    rig.pass(Duration::ZERO);
    assert!(is_fetch(&rig.text(idp)));
    rig.receive(idp, &answer(503, ""));
    rig.pass(Duration::ZERO);
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
}

#[test]
fn in_the_background_keys_are_there_before_and_while_a_fetch_fails() {
    let setup = fetching(RemoteJwks { in_background: Some(Duration::from_secs(3)), ..remote() });
    let mut rig = Rig::new(&setup);
    rig.pass(Duration::ZERO);
    rig.work();
    let idp = rig.open();
    assert!(is_fetch(&rig.text(idp)));
    rig.receive(idp, &answer(500, ""));
    rig.pass(Duration::from_millis(2_999));
    assert_eq!(rig.text(idp), "");
    rig.pass(Duration::from_millis(2));
    assert!(is_fetch(&rig.text(idp)), "again after a while");
    rig.receive(idp, &keys());
    let client = rig.accept();
    rig.receive(client, &with_token());
    assert!(rig.text(idp).contains("x-sub: ann"), "nobody waits");
    rig.receive(idp, OK);
    rig.text(client);
    // Five seconds before they are old.
    rig.pass(Duration::from_millis(94_990));
    assert_eq!(rig.text(idp), "");
    rig.pass(Duration::from_millis(20));
    assert!(is_fetch(&rig.text(idp)));
    for _ in 0..100 {
        rig.receive(idp, &answer(500, ""));
        rig.pass(Duration::from_millis(3_001));
        assert!(is_fetch(&rig.text(idp)));
    }
    rig.receive(idp, &answer(500, ""));
    rig.receive(client, &with_token());
    assert!(rig.text(idp).contains("x-sub: ann"), "the old ones are good");
    rig.receive(idp, OK);
    // Keys that were taken back are of no use.
    rig.pass(Duration::from_millis(3_001));
    assert!(is_fetch(&rig.text(idp)));
    rig.receive(idp, &answer(200, &Signer::new(Algorithm::Es256).jwks("")));
    rig.text(client);
    rig.receive(client, &with_token());
    assert!(rig.text(client).ends_with("Jwt verification fails"));
}

#[test]
fn a_fetch_is_tried_again_as_it_says() {
    let mut rig = Rig::new(&fetching(RemoteJwks { retries: 2, ..remote() }));
    let (client, idp) = ask(&mut rig);
    for _ in 0..2 {
        rig.receive(idp, &answer(503, ""));
        assert_eq!(rig.text(client), "");
        rig.pass(Duration::from_secs(2));
        assert!(is_fetch(&rig.text(idp)));
    }
    rig.receive(idp, &answer(503, ""));
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
    assert_eq!(count(&rig, "jwks_fetch_failed"), 1);
    // What is no passing failure is not.
    rig.receive(client, &with_token());
    rig.pass(Duration::ZERO);
    rig.text(idp);
    rig.receive(idp, &answer(404, ""));
    assert!(rig.text(client).ends_with("Jwks remote fetch is failed"));
}

#[test]
fn workers_fetch_for_each_other() {
    let configured = snapshot(&fetching(remote()));
    let mut one = Rig::with(configured.clone());
    let mut other = Rig::sharing(&one, configured);
    let (_, idp) = ask(&mut one);
    let waiting = other.accept();
    other.receive(waiting, &with_token());
    other.pass(Duration::from_secs(1));
    assert!(other.take_actions().iter().all(|action| !matches!(action, Action::Connect(..))), "it asks nobody");
    one.receive(idp, &keys());
    one.pass(Duration::ZERO);
    assert!(one.text(idp).contains("x-sub: ann"));
    other.pass(Duration::from_millis(20));
    let upstream = other.open();
    assert!(other.text(upstream).contains("x-sub: ann"));
    assert_eq!(count(&one, "jwks_fetch_success"), 1);
}

#[test]
fn a_worker_that_is_gone_keeps_nobody_waiting() {
    let configured = snapshot(&fetching(remote()));
    let mut one = Rig::with(configured.clone());
    let mut other = Rig::sharing(&one, configured);
    ask(&mut one);
    let waiting = other.accept();
    other.receive(waiting, &with_token());
    drop(one);
    other.pass(Duration::from_millis(6_020));
    assert!(other.text(waiting).ends_with("Jwks remote fetch is failed"));
    other.receive(waiting, &with_token());
    other.pass(Duration::ZERO);
    let idp = other.open();
    assert!(is_fetch(&other.text(idp)), "the next asks itself");
}

#[test]
fn a_client_that_leaves_takes_no_fetch_along() {
    let mut rig = Rig::new(&fetching(remote()));
    let (client, idp) = ask(&mut rig);
    rig.engine.failed(client, "reset");
    rig.work();
    rig.receive(idp, &keys());
    rig.pass(Duration::ZERO);
    let next = rig.accept();
    rig.receive(next, &with_token());
    assert!(rig.text(idp).contains("x-sub: ann"), "the keys are there");
    rig.receive(idp, OK);
    assert_eq!(rig.engine.census().exchanges, 0);
}

#[test]
fn what_a_provider_promises_nobody_can_forge() {
    let keys = signer().jwks("").into_bytes();
    let mut rig = Rig::new(&requiring(provider(JwtKeys::Local(keys.into()))));
    let client = rig.accept();
    rig.receive(client, &get("/open", "x-sub: root\r\nx-other: 1\r\n"));
    let upstream = rig.open();
    let sent = rig.text(upstream);
    assert!(!sent.contains("x-sub") && sent.contains("x-other: 1\r\n"), "not even where nothing is required: {sent}");
    rig.receive(upstream, OK);
    rig.text(client);
    let token = signer().token("", CLAIMS);
    rig.receive(client, &get(&format!("/?a=1&access_token={token}&b=%2F"), "x-sub: root\r\nX-SUB: root\r\n"));
    let sent = rig.text(upstream);
    assert!(sent.starts_with("GET /?a=1&b=%2F HTTP/1.1\r\n"), "{sent}");
    assert_eq!(sent.matches("x-sub").count(), 1, "{sent}");
    assert!(sent.contains("x-sub: ann\r\n"), "{sent}");
}

/// The route is for those whose token says who they are, in a header.
fn routed_by_claim() -> Setup {
    let keys = signer().jwks("").into_bytes();
    let mut made = provider(JwtKeys::Local(keys.into()));
    made.clear_route_cache = true;
    let mut setup = requiring(made);
    let is_ann = HeaderMatch {
        name: "x-sub".into(),
        test: HeaderTest::Value(StringMatch::exact("ann")),
        invert: false,
        missing_as_empty: false,
    };
    setup.route_headers = vec![is_ann];
    setup
}

#[test]
fn a_forged_claim_chooses_no_route() {
    let mut rig = Rig::new(&routed_by_claim());
    let client = rig.accept();
    rig.receive(client, &get("/open", "x-sub: ann\r\n"));
    assert!(rig.text(client).starts_with("HTTP/1.1 404 "), "the route is for those who bring a token");
    rig.receive(client, &with_token());
    let upstream = rig.open();
    assert!(rig.text(upstream).contains("x-sub: ann\r\n"));
}

#[test]
fn a_forged_claim_switches_off_no_filter_behind() {
    let mut setup = routed_by_claim();
    let wall = provider(JwtKeys::Local(signer().jwks("").into_bytes().into()));
    let filter = JwtAuthn {
        rules: vec![JwtRule {
            matches: pymesh_model::testing::route(
                "/",
                pymesh_model::route::Action::Forward(Arc::new(pymesh_model::testing::forward("origin"))),
            )
            .matches,
            requirement: Some(JwtRequirement::Provider(0, Audiences::default())),
        }],
        providers: vec![Arc::new(wall)],
        ..JwtAuthn::default()
    };
    let id = FilterId::of("wall");
    let kind = FilterKind::JwtAuthn(Arc::new(filter));
    setup.filters.push(Arc::new(HttpFilter { name: "wall".into(), id, disabled: false, kind }));
    let off = RouteFilter { filter: id, enabled: Some(false), config: None };
    setup.said = RouteFilters::within(vec![off], &RouteFilters::default());
    let mut rig = Rig::new(&setup);
    let client = rig.accept();
    rig.receive(client, &get("/open", "x-sub: ann\r\n"));
    assert!(rig.text(client).starts_with("HTTP/1.1 401 "));
}

#[test]
fn several_tokens_must_all_be_good() {
    let keys = signer().jwks("").into_bytes();
    let mut rig = Rig::new(&requiring(provider(JwtKeys::Local(keys.into()))));
    let good = signer().token("", CLAIMS);
    let bad = signer().token("", r#"{"iss":"other"}"#);
    for (query, header, reason) in
        [(&good, &bad, "Jwt issuer is not configured"), (&bad, &good, "Jwt issuer is not configured")]
    {
        let client = rig.accept();
        rig.receive(client, &get(&format!("/?access_token={query}"), &format!("authorization: Bearer {header}\r\n")));
        assert!(rig.text(client).ends_with(reason));
    }
    let client = rig.accept();
    let twice = format!("authorization: Bearer {good}\r\nauthorization: Bearer {good}\r\n");
    rig.receive(client, &get("/", &twice));
    assert!(rig.text(client).contains("not in the form"), "two credentials are none");
    assert!(rig.take_actions().is_empty(), "nobody is connected to");
}

#[test]
fn a_tunnel_needs_a_token_too() {
    let keys = signer().jwks("").into_bytes();
    let setup = requiring(provider(JwtKeys::Local(keys.into())));
    let mut rig = Rig::new(&Setup { path: PathMatch::Connect, upgrades: vec![upgrade("CONNECT")], ..setup });
    let client = rig.accept();
    rig.receive(client, b"CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n");
    assert!(rig.text(client).starts_with("HTTP/1.1 401 "));
    assert!(rig.take_actions().iter().all(|action| !matches!(action, Action::Connect(..))));
    let client = rig.accept();
    let token = signer().token("", CLAIMS);
    rig.receive(
        client,
        format!("CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nauthorization: Bearer {token}\r\n\r\n").as_bytes(),
    );
    let upstream = rig.open();
    assert!(rig.text(upstream).starts_with("CONNECT a:80 HTTP/1.1\r\n"));
}
