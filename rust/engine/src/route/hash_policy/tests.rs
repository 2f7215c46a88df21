use std::time::Duration;

use pymesh_model::testing::address;

use super::*;

fn request(path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut request = RequestHead::default();
    request.set_authority(b"shop.test");
    request.set_path(path.as_bytes());
    for (name, value) in headers {
        request.headers.append(name.as_bytes(), value.as_bytes());
    }
    request
}

fn on(of: HashOf) -> HashPolicy {
    HashPolicy { of, terminal: false }
}

fn header_policy(name: &str) -> HashPolicy {
    on(HashOf::Header(name.into(), None))
}

fn cookie(ttl: Option<u64>) -> HashCookie {
    HashCookie { name: "user".into(), ttl: ttl.map(Duration::from_secs), path: "".into(), attributes: vec![] }
}

/// The hash, and the cookies that the client is given.
fn hash(request: &RequestHead, policies: &[HashPolicy]) -> (Option<u64>, Vec<String>) {
    let mut set_cookies = Vec::new();
    let mut hashed = Hashed {
        request,
        client: || Some("10.0.0.9".parse().unwrap()),
        ends: Some((address(9, 4000), address(1, 80))),
        set_cookies: &mut set_cookies,
        text: &mut Vec::new(),
    };
    let hash = hashed.by(policies);
    (hash, set_cookies.into_iter().map(|value| String::from_utf8(value).unwrap()).collect())
}

fn xx(text: &str) -> Option<u64> {
    Some(xx_hash64(text.as_bytes()))
}

#[test]
fn what_is_hashed() {
    let regex = |pattern: &str| Some((Regex::new(pattern).unwrap(), "\\1".into()));
    let by_cookie = || HashOf::Cookie(cookie(None));
    for (of, request, expected) in [
        (HashOf::Header("x-user".into(), None), request("/", &[("x-user", "ann")]), xx("ann")),
        (HashOf::Header("x-user".into(), None), request("/", &[]), None),
        (HashOf::Header(":path".into(), None), request("/a?b", &[]), xx("/a?b")),
        (HashOf::Header("x".into(), regex("id=([0-9]+).*")), request("/", &[("x", "id=7;rest")]), xx("7")),
        (HashOf::Header("x".into(), regex("id=([0-9]+).*")), request("/", &[("x", "none")]), xx("none")),
        (by_cookie(), request("/", &[("cookie", "a=b; user=ann; user=bob")]), xx("ann")),
        (by_cookie(), request("/", &[("cookie", "a=b"), ("cookie", "user=\"ann\"")]), xx("ann")),
        (by_cookie(), request("/", &[("cookie", "auser=x; users=y; user")]), None),
        (by_cookie(), request("/", &[("cookie", "user=")]), None),
        (HashOf::SourceIp, request("/", &[]), xx("10.0.0.9")),
        (HashOf::QueryParameter("user".into()), request("/?a=b&user=ann&user=bob", &[]), xx("ann")),
        (HashOf::QueryParameter("user".into()), request("/?user", &[]), xx("")),
        (HashOf::QueryParameter("user".into()), request("/?xuser=ann", &[]), None),
    ] {
        let policy = on(of);
        assert_eq!(hash(&request, std::slice::from_ref(&policy)), (expected, vec![]), "{policy:?}");
    }
}

#[test]
fn the_order_of_values_does_not_matter() {
    let one = request("/", &[("x", "foo"), ("x", "bar")]);
    let other = request("/", &[("x", "bar"), ("x", "foo")]);
    let chained = Some(xx_hash64_seeded(b"foo", xx_hash64(b"bar")));
    assert_eq!(hash(&one, &[header_policy("x")]).0, chained);
    assert_eq!(hash(&other, &[header_policy("x")]).0, chained);
}

#[test]
fn policies_add_up_until_a_terminal_one() {
    let request = request("/", &[("a", "1"), ("b", "2")]);
    let (a, b) = (xx_hash64(b"1"), xx_hash64(b"2"));
    let both = [header_policy("a"), header_policy("none"), header_policy("b")];
    assert_eq!(hash(&request, &both).0, Some(a.rotate_left(1) ^ b));
    let twice = [header_policy("a"), header_policy("a")];
    assert_eq!(hash(&request, &twice).0, Some(a.rotate_left(1) ^ a), "equal policies leave something");
    let terminal = |name: &str| HashPolicy { terminal: true, ..header_policy(name) };
    assert_eq!(hash(&request, &[terminal("a"), header_policy("b")]).0, Some(a));
    assert_eq!(hash(&request, &[terminal("none"), header_policy("b")]).0, Some(b), "nothing was found, so it goes on");
}

#[test]
fn a_client_without_the_cookie_is_given_one() {
    let value = format!("{:016x}", xx_hash64(b"10.0.0.9:400010.0.0.1:80"));
    let full = HashCookie {
        path: "/shop".into(),
        attributes: vec![("SameSite".into(), "Lax".into()), ("Secure".into(), "".into())],
        ..cookie(Some(60))
    };
    for (cookie, rest) in [
        (cookie(Some(0)), "; HttpOnly"),
        (cookie(Some(60)), "; Max-Age=60; HttpOnly"),
        (full, "; Max-Age=60; Path=/shop; SameSite=Lax; Secure; HttpOnly"),
    ] {
        let policy = on(HashOf::Cookie(cookie));
        let given = vec![format!("user=\"{value}\"{rest}")];
        assert_eq!(hash(&request("/", &[]), std::slice::from_ref(&policy)), (xx(&value), given.clone()));
        // What it will send from now on has the same hash.
        let next = request("/", &[("cookie", &format!("user=\"{value}\""))]);
        assert_eq!(hash(&next, std::slice::from_ref(&policy)), (xx(&value), vec![]));
        assert_eq!(hash(&request("/", &[]), &[policy.clone(), policy]).1, given, "once");
    }
}

#[test]
fn whom_nobody_sent_has_no_address_and_gets_no_cookie() {
    let mut hashed = Hashed {
        request: &request("/", &[]),
        client: || None,
        ends: None,
        set_cookies: &mut Vec::new(),
        text: &mut Vec::new(),
    };
    assert_eq!(hashed.by(&[on(HashOf::SourceIp), on(HashOf::Cookie(cookie(Some(1))))]), None);
}

#[test]
fn addresses_are_hashed_in_one_form() {
    let mut text = Vec::new();
    assert_eq!(source_ip("::ffff:10.0.0.9".parse().unwrap(), &mut text), xx_hash64(b"10.0.0.9"));
    assert_eq!(source_ip("2001:DB8::1".parse().unwrap(), &mut text), xx_hash64(b"2001:db8::1"));
}
