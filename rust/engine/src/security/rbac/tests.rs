use pymesh_model::filter::rbac::{Permission as May, Principal as Who, *};
use pymesh_model::listener::Cidr;
use pymesh_model::matcher::{full_match, HeaderMatch, HeaderTest, StringMatch, StringPattern};
use pymesh_model::metadata::{MetadataMatch, ValueMatch};
use pymesh_tls::{PeerIdentity, SubjectAltNames};

use super::*;

fn text(exact: &str) -> StringMatch {
    StringMatch::exact(exact)
}

fn pattern(pattern: &str) -> StringMatch {
    StringMatch { pattern: StringPattern::Regex(full_match(pattern).unwrap()), ignore_case: false }
}

fn header(name: &str, value: &str) -> HeaderMatch {
    HeaderMatch { name: name.into(), test: HeaderTest::Value(text(value)), invert: false, missing_as_empty: false }
}

fn network(address: &str, bits: u8) -> Cidr {
    Cidr { address: address.parse().unwrap(), bits }
}

fn facts(uri: Option<&str>) -> Facts {
    Facts {
        remote: "10.0.0.7:1".parse().unwrap(),
        direct_remote: "127.0.0.1:1".parse().unwrap(),
        local: "10.0.0.9:8080".parse().unwrap(),
        server_name: Some("shop.example".into()),
        peer: uri.map(|uri| PeerIdentity {
            subject: "CN=web".into(),
            issuer: String::new(),
            serial: String::new(),
            sans: SubjectAltNames { uri: vec![uri.into()], ..SubjectAltNames::default() },
            sha256: [0; 32],
            not_before: 0,
            not_after: 0,
        }),
        own_uris: vec![],
        tls_version: None,
        tls_cipher: None,
        peer_id: 0,
        id: 1,
        chain: "".into(),
        metadata: Metadata::default(),
    }
}

fn get(path: &str) -> RequestHead {
    let mut request = RequestHead::default();
    request.set_authority(b"shop.example");
    request.set_path(path.as_bytes());
    request
}

fn rules(action: RulesAction, permission: May, principal: Who) -> Rules {
    let policy = Policy {
        name: "p".into(),
        refusal: Policy::refusal_by("ns[shop] policy"),
        permissions: vec![permission],
        principals: vec![principal],
    };
    Rules { action, policies: vec![policy] }
}

fn allowed(permission: May, principal: Who, facts: &Facts, request: Option<&RequestHead>) -> bool {
    let subject = Subject { request, ..Subject::connection(facts, facts.local) };
    judge(&rules(RulesAction::Allow, permission, principal), &subject).allowed
}

#[test]
fn permissions() {
    let facts = facts(None);
    let request = get("/a/b?q=/c");
    for (permission, wanted) in [
        (May::Any, true),
        (May::UrlPath(text("/a/b")), true),
        (May::UrlPath(text("/a/b?q=/c")), false),
        (May::UrlPath(pattern("/a/.*")), true),
        (May::Header(header(":method", "GET")), true),
        (May::Header(header(":method", "POST")), false),
        (May::Header(header("x-none", "")), false),
        (May::DestinationPort(8080), true),
        (May::DestinationPort(80), false),
        (May::DestinationPorts(8000, 8080), false),
        (May::DestinationPorts(8000, 8081), true),
        (May::DestinationIp(network("10.0.0.0", 8)), true),
        (May::RequestedServerName(text("shop.example")), true),
        (May::Not(Box::new(May::Any)), false),
        (May::All(vec![May::Any, May::DestinationPort(80)]), false),
        (May::OneOf(vec![May::DestinationPort(80), May::Any]), true),
        (May::OneOf(vec![]), false),
        (May::All(vec![]), true),
    ] {
        let shown = format!("{permission:?}");
        assert_eq!(allowed(permission, Who::Any, &facts, Some(&request)), wanted, "{shown}");
    }
}

#[test]
fn principals() {
    let web = facts(Some("spiffe://mesh/ns/shop/sa/web"));
    let nobody = facts(None);
    for (principal, of_web, of_nobody) in [
        (Who::Authenticated(None), true, false),
        (Who::Authenticated(Some(text("spiffe://mesh/ns/shop/sa/web"))), true, false),
        (Who::Authenticated(Some(pattern(".*/ns/shop/.*"))), true, false),
        (Who::Authenticated(Some(text("spiffe://mesh/ns/shop/sa/we"))), false, false),
        (Who::Authenticated(Some(text("CN=web"))), true, false),
        (Who::Not(Box::new(Who::Authenticated(None))), false, true),
        (Who::DirectRemoteIp(network("127.0.0.1", 32)), true, true),
        (Who::RemoteIp(network("10.0.0.7", 32)), true, true),
        (Who::RemoteIp(network("10.0.0.8", 32)), false, false),
    ] {
        let shown = format!("{principal:?}");
        let request = get("/");
        assert_eq!(allowed(May::Any, principal.clone(), &web, Some(&request)), of_web, "{shown}");
        assert_eq!(allowed(May::Any, principal, &nobody, Some(&request)), of_nobody, "{shown}");
    }
}

#[test]
fn a_connection_has_no_headers_and_no_path() {
    let facts = facts(None);
    assert!(!allowed(May::Header(header(":method", "GET")), Who::Any, &facts, None));
    assert!(!allowed(May::UrlPath(pattern(".*")), Who::Any, &facts, None));
    assert!(allowed(May::DestinationPort(8080), Who::Any, &facts, None));
}

#[test]
fn actions_and_what_they_say() {
    let facts = facts(None);
    let request = get("/");
    let subject = Subject { request: Some(&request), ..Subject::connection(&facts, facts.local) };
    let said = |action, permission| {
        let rules = rules(action, permission, Who::Any);
        let verdict = judge(&rules, &subject);
        (verdict.allowed, (!verdict.allowed).then(|| verdict.refusal(&rules, &subject).to_string()))
    };
    let miss = || May::DestinationPort(1);
    assert_eq!(said(RulesAction::Allow, May::Any), (true, None));
    let none = Some("rbac_access_denied_matched_policy[none]{p:destination_port}".to_owned());
    assert_eq!(said(RulesAction::Allow, miss()), (false, none));
    let named = Some("rbac_access_denied_matched_policy[ns[shop]_policy]".to_owned());
    assert_eq!(said(RulesAction::Deny, May::Any), (false, named));
    assert_eq!(said(RulesAction::Deny, miss()), (true, None));
    assert_eq!(said(RulesAction::Log, May::Any), (true, None));
    assert_eq!(said(RulesAction::Log, miss()), (true, None));
}

fn policy(name: &str, permissions: Vec<May>, principals: Vec<Who>) -> Policy {
    Policy { name: name.into(), refusal: Policy::refusal_by(name), permissions, principals }
}

/// What is said of a request that none of the policies allows.
fn closest(policies: Vec<Policy>, uri: Option<&str>, request: Option<&RequestHead>) -> String {
    let facts = facts(uri);
    let subject = Subject { request, ..Subject::connection(&facts, facts.local) };
    let rules = Rules { action: RulesAction::Allow, policies };
    let verdict = judge(&rules, &subject);
    assert!(!verdict.allowed);
    let detail = verdict.refusal(&rules, &subject);
    detail.strip_prefix("rbac_access_denied_matched_policy[none]").unwrap().to_owned()
}

#[test]
fn the_closest_miss_is_the_policy_with_the_fewest_failed_conditions() {
    let web = || Who::Authenticated(Some(text("spiffe://mesh/ns/shop/sa/web")));
    let reads = || May::Header(header(":method", "GET"));
    let path = |path: &str| May::UrlPath(text(path));
    let request = get("/reviews?token=secret");
    let two = || {
        vec![
            policy("ns[a] policy", vec![May::All(vec![reads(), path("/other")])], vec![web()]),
            policy("b", vec![May::All(vec![reads(), path("/reviews")])], vec![Who::All(vec![web()])]),
        ]
    };
    assert_eq!(closest(two(), Some("spiffe://mesh/ns/shop/sa/web2"), Some(&request)), "{b:principal}");
    assert_eq!(closest(two(), None, Some(&get("/other"))), "{ns[a]_policy:principal}");
    // Of two that miss as much, the first.
    assert_eq!(closest(two(), Some("spiffe://mesh/ns/shop/sa/web"), Some(&get("/"))), "{ns[a]_policy:path}");
    // One of what is asked for comes before one of who asks.
    let mut others = two();
    others.push(policy("c", vec![path("/reviews")], vec![Who::All(vec![Who::Not(Box::new(web()))])]));
    others[1].permissions = vec![path("/other")];
    assert_eq!(closest(others, Some("spiffe://mesh/ns/shop/sa/web"), Some(&request)), "{c:not_principal}");
    // A connection has neither method nor path.
    assert_eq!(closest(two(), None, None), "{ns[a]_policy:principal,method,path}");
    assert_eq!(closest(vec![], None, None), "");
}

#[test]
fn what_is_lacking_is_told_by_kind() {
    let request = get("/a");
    let says = |permission: May| closest(vec![policy("p", vec![permission], vec![Who::Any])], None, Some(&request));
    let secret = || May::Header(header("x-api-key", "secret"));
    assert_eq!(says(secret()), "{p:header[x-api-key]}");
    assert_eq!(says(May::Header(header(":authority", "b"))), "{p:host}");
    assert_eq!(
        says(May::All(vec![secret(), secret(), May::DestinationPort(1)])),
        "{p:header[x-api-key],destination_port}"
    );
    // Of alternatives, the one that lacks least.
    let both = May::All(vec![May::DestinationPort(1), May::RequestedServerName(text("b"))]);
    assert_eq!(says(May::OneOf(vec![both, secret()])), "{p:header[x-api-key]}");
    let not = |one: May| May::Not(Box::new(one));
    assert_eq!(says(not(May::OneOf(vec![May::UrlPath(text("/a")), May::UrlPath(text("/b"))]))), "{p:not_path}");
    assert_eq!(says(not(May::Any)), "{p:not_any}");
    assert_eq!(says(May::OneOf(vec![])), "{p:nothing}");
    let metadata = |filter: &str, path: &[&str]| {
        let path = path.iter().map(|key| (*key).into()).collect();
        May::Metadata(MetadataMatch { filter: filter.into(), path, value: ValueMatch::Null, invert: false })
    };
    assert_eq!(
        says(metadata("envoy.filters.http.jwt_authn", &["payload", "realm", "group"])),
        "{p:claim[realm.group]}"
    );
    assert_eq!(says(metadata("istio_authn", &["x"])), "{p:metadata[istio_authn]}");
}

#[test]
fn metadata_is_asked_for_and_told() {
    let mut facts = facts(None);
    let wanted = |value: &str| MetadataMatch {
        filter: "jwt".into(),
        path: vec!["sub".into()],
        value: ValueMatch::String(text(value)),
        invert: false,
    };
    assert!(!allowed(May::Any, Who::Metadata(wanted("web")), &facts, None));
    facts.metadata.add(&"jwt".into(), &[("sub".into(), Value::from("web"))].into_iter().collect());
    assert!(allowed(May::Any, Who::Metadata(wanted("web")), &facts, None));
    assert!(allowed(May::Metadata(wanted("web")), Who::Any, &facts, None));
    assert!(!allowed(May::Any, Who::Metadata(wanted("api")), &facts, None));

    let subject = Subject::connection(&facts, facts.local);
    let told = |permission| {
        let rules = rules(RulesAction::Deny, permission, Who::Any);
        let said = judge(&rules, &subject).metadata("x_");
        said.iter().map(|(key, value)| format!("{key}={value:?}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(told(May::Any), r#"x_shadow_effective_policy_id=String("p") x_shadow_engine_result=String("denied")"#);
    assert_eq!(told(May::DestinationPort(1)), r#"x_shadow_engine_result=String("allowed")"#);
}
