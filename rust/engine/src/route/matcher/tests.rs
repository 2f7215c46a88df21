use pymesh_model::matcher::{full_match, StringMatch, StringPattern};
use pymesh_model::metadata::Metadata;
use pymesh_model::route::{Action, DirectResponse, RouteMatch, VirtualHost};
use pymesh_model::testing::rule;

use super::*;

fn request(authority: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut request = RequestHead::default();
    request.set_authority(authority.as_bytes());
    request.set_path(path.as_bytes());
    for (name, value) in headers {
        request.headers.append(name.as_bytes(), value.as_bytes());
    }
    request
}

fn route(matches: RouteMatch) -> Arc<Route> {
    let action = Action::Direct(Arc::new(DirectResponse { status: 200, body: Arc::from(*b"") }));
    Arc::new(Route {
        name: "".into(),
        matches,
        action,
        headers: Default::default(),
        filters: Default::default(),
        decorator: None,
        tracing: None,
    })
}

fn table(hosts: &[&[&str]], routes: Vec<RouteMatch>) -> RouteTable {
    let routes: Vec<Arc<Route>> = routes.into_iter().map(route).collect();
    let virtual_hosts = hosts
        .iter()
        .map(|domains| VirtualHost {
            domains: domains.iter().map(|d| (*d).into()).collect(),
            routes: routes.clone(),
            ..Default::default()
        })
        .collect();
    RouteTable { virtual_hosts, ..Default::default() }
}

fn everything() -> RouteMatch {
    rule(PathMatch::Prefix("/".into()))
}

#[test]
fn virtual_hosts_by_specificity() {
    let table = table(
        &[&["*"], &["*.example.com"], &["*.a.example.com"], &["www.*"], &["b.a.example.com", "other"]],
        vec![everything()],
    );
    for (host, wanted) in [
        ("b.a.example.com", 4),
        ("B.A.Example.COM", 4),
        ("c.a.example.com", 2),
        ("c.example.com", 1),
        ("example.com", 0),
        ("www.test", 3),
        ("www.example.com", 1),
        ("www.", 0),
        (".a.example.com", 1),
        ("c.example.com:80", 0),
        ("nothing", 0),
    ] {
        let found = find(&table, &request(host, "/", &[]), &Metadata::default(), 0).unwrap();
        assert_eq!(found.virtual_host, wanted, "{host}");
    }
}

#[test]
fn ports_count_unless_ignored() {
    let mut table = table(&[&["a"]], vec![everything()]);
    assert!(find(&table, &request("a:80", "/", &[]), &Metadata::default(), 0).is_err());
    table.ignore_port = true;
    assert!(find(&table, &request("a:80", "/", &[]), &Metadata::default(), 0).is_ok());
}

#[test]
fn paths() {
    let regex = full_match("/v[0-9]+/.*").unwrap();
    let mut folded = rule(PathMatch::Exact("/Case".into()));
    folded.case_sensitive = false;
    let table = table(
        &[&["*"]],
        vec![
            rule(PathMatch::Exact("/exact".into())),
            rule(PathMatch::SeparatedPrefix("/sep".into())),
            rule(PathMatch::Regex(regex)),
            folded,
            rule(PathMatch::Prefix("/pre".into())),
        ],
    );
    for (path, wanted) in [
        ("/exact?q=1", Some(0)),
        ("/exact/", None),
        ("/sep", Some(1)),
        ("/sep/x", Some(1)),
        ("/separate", None),
        ("/v12/x", Some(2)),
        ("/v/x", None),
        ("/cASE", Some(3)),
        ("/prefix", Some(4)),
        ("/", None),
    ] {
        assert_eq!(
            find(&table, &request("h", path, &[]), &Metadata::default(), 0).ok().map(|f| f.route),
            wanted,
            "{path}"
        );
    }
}

fn header(name: &str, test: HeaderTest, invert: bool) -> HeaderMatch {
    HeaderMatch { name: name.into(), test, invert, missing_as_empty: false }
}

#[test]
fn headers() {
    let exact = |value: &str| HeaderTest::Value(StringMatch::exact(value));
    let there = request("h", "/", &[("x-a", "1"), ("x-b", "one"), ("x-b", "two")]);
    for (rule, wanted) in [
        (header("x-a", exact("1"), false), true),
        (header("x-a", exact("1"), true), false),
        (header("x-b", exact("one,two"), false), false),
        (header("x-b", exact("two"), false), true),
        (header("x-b", exact("two"), true), false),
        (header("x-b", exact("three"), true), true),
        (header("x-c", exact("1"), false), false),
        (header("x-c", exact("1"), true), false),
        (header("x-c", HeaderTest::Range(0, 9), true), false),
        (header("x-c", HeaderTest::Present(true), true), true),
        (header("x-a", HeaderTest::Range(1, 2), false), true),
        (header("x-a", HeaderTest::Range(2, 9), false), false),
        (header("x-b", HeaderTest::Range(0, 9), false), false),
        (header("x-a", HeaderTest::Present(true), false), true),
        (header("x-a", HeaderTest::Present(true), true), false),
        (header("x-c", HeaderTest::Present(false), false), true),
        (header(":method", exact("GET"), false), true),
        (header(":authority", exact("h"), false), true),
    ] {
        assert_eq!(header_matches(&rule, &there), wanted, "{rule:?}");
    }
    let as_empty = |test, invert| HeaderMatch { missing_as_empty: true, ..header("x-c", test, invert) };
    for (rule, wanted) in [
        (as_empty(exact(""), false), true),
        (as_empty(exact("1"), false), false),
        (as_empty(exact("1"), true), true),
        (as_empty(HeaderTest::Range(0, 9), false), false),
        (as_empty(HeaderTest::Range(0, 9), true), true),
        (as_empty(HeaderTest::Present(true), false), true),
        (as_empty(HeaderTest::Present(false), false), false),
    ] {
        assert_eq!(header_matches(&rule, &there), wanted, "{rule:?}");
    }
}

#[test]
fn query_parameters() {
    let rule = |name: &str, value: Option<&str>, present| QueryMatch {
        name: name.into(),
        value: value.map(StringMatch::exact),
        present,
    };
    let prefix = StringMatch { pattern: StringPattern::Prefix(b"x"[..].into()), ignore_case: false };
    for (rule, wanted) in [
        (rule("a", Some("1"), true), true),
        (rule("a", Some("2"), true), false),
        (rule("b", None, true), true),
        (rule("c", None, true), false),
        (rule("c", None, false), true),
        (rule("a", None, false), false),
        (rule("b", Some(""), true), true),
        (rule("A", None, true), false),
        (rule("e", Some("1"), true), true),
        (rule("e", Some("2"), true), false),
        (QueryMatch { name: "d".into(), value: Some(prefix), present: true }, true),
    ] {
        assert_eq!(query_matches(&rule, b"/p?a=1&b&d=xyz&e=1&e=2"), wanted, "{rule:?}");
    }
}

#[test]
fn grpc_and_fraction() {
    let mut grpc = everything();
    grpc.grpc = true;
    let table_grpc = table(&[&["*"]], vec![grpc]);
    for (content_type, wanted) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;x", false),
        ("application/grpc-web", false),
        ("text/x", false),
    ] {
        let request = request("h", "/", &[("content-type", content_type)]);
        assert_eq!(find(&table_grpc, &request, &Metadata::default(), 0).is_ok(), wanted, "{content_type}");
    }
    let mut half = everything();
    half.fraction = Some(500_000);
    let table = table(&[&["*"]], vec![half]);
    assert!(find(&table, &request("h", "/", &[]), &Metadata::default(), 499_999).is_ok());
    assert!(find(&table, &request("h", "/", &[]), &Metadata::default(), 500_000).is_err());
}

#[test]
fn weights_are_followed_and_zero_gets_nothing() {
    let cluster = |weight| WeightedCluster {
        name: "".into(),
        weight,
        headers: Default::default(),
        host_rewrite: None,
        filters: Default::default(),
    };
    let clusters = [cluster(0), cluster(30), cluster(70)];
    let mut rng = crate::base::rng::Rng::new(5);
    let mut seen = [0; 3];
    for _ in 0..10_000 {
        seen[pick_weighted(&clusters, rng.bits()).unwrap()] += 1;
    }
    assert_eq!(seen[0], 0);
    assert!((2800..3200).contains(&seen[1]), "{seen:?}");
    assert_eq!(pick_weighted(&[cluster(0)], 7), None);
}

/// With an index the same is found as by looking at each: random tables over a small alphabet, so that literals nest,
/// repeat and differ in case only.
#[test]
fn an_index_changes_nothing() {
    let mut rng = crate::base::rng::Rng::new(11);
    let mut text = |parts: &[&str], most: u64| -> String {
        (0..=rng.below(most)).map(|_| parts[rng.below(parts.len() as u64) as usize]).collect()
    };
    let mut found = 0;
    for round in 0..300 {
        let domains: Vec<Vec<String>> = (0..1 + round % 30)
            .map(|n| {
                let name = text(&["a", "B", ".", "ab"], 3);
                vec![match n % 4 {
                    0 => format!("*{name}"),
                    1 => format!("{name}*"),
                    2 if round % 3 == 0 => "*".into(),
                    _ => name.to_ascii_lowercase(),
                }]
            })
            .collect();
        let domains: Vec<Vec<&str>> = domains.iter().map(|d| d.iter().map(String::as_str).collect()).collect();
        let domains: Vec<&[&str]> = domains.iter().map(Vec::as_slice).collect();
        let rules = (0..1 + round % 40).map(|n| {
            let path = format!("/{}", text(&["a", "A", "b", "/", "ab/"], 4));
            let mut rule = rule(match n % 7 {
                0 | 1 => PathMatch::Exact(path.into()),
                2 | 3 => PathMatch::Prefix(path.into()),
                4 | 5 => PathMatch::SeparatedPrefix(path.into()),
                _ => PathMatch::Regex(full_match("/b[a/]+").unwrap()),
            });
            rule.case_sensitive = n % 3 != 0;
            rule.fraction = (n % 5 == 0).then_some(500_000);
            rule
        });
        let indexed = table(&domains, rules.collect());
        let plain = RouteTable { index: Default::default(), ..indexed.clone() };
        plain.index.set(Default::default()).unwrap();
        for _ in 0..50 {
            let host = text(&["a", "b", ".", "aB"], 4);
            let path = format!("/{}", text(&["a", "b", "/", "Ab/", "?a"], 5));
            let request = request(&host, &path, &[]);
            let random = round * 7919 % 1_000_000;
            let wanted = find(&plain, &request, &Metadata::default(), random);
            assert_eq!(find(&indexed, &request, &Metadata::default(), random), wanted, "{host} {path}");
            found += usize::from(wanted.is_ok());
        }
    }
    assert!(found > 3000, "{found}");
}

#[test]
fn what_filters_have_found_out_chooses() {
    use pymesh_model::metadata::{MetadataMatch, Struct, Value, ValueMatch};
    let is = |team: &str, invert| RouteMatch {
        metadata: vec![MetadataMatch {
            filter: "jwt".into(),
            path: vec!["payload".into(), "team".into()],
            value: ValueMatch::String(StringMatch::exact(team)),
            invert,
        }],
        ..everything()
    };
    let table = table(&[&["*"]], vec![is("red", false), is("blue", true), everything()]);
    let found = |team: Option<&str>| {
        let mut metadata = Metadata::default();
        if let Some(team) = team {
            let payload: Struct = [("team".into(), Value::from(team))].into_iter().collect();
            metadata.add(&"jwt".into(), &[("payload".into(), Value::Struct(payload))].into_iter().collect());
        }
        find(&table, &request("h", "/", &[]), &metadata, 0).unwrap().route
    };
    assert_eq!([found(Some("red")), found(Some("green")), found(Some("blue")), found(None)], [0, 1, 2, 1]);
}
