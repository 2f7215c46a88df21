use super::*;

fn cidr(text: &str) -> Cidr {
    let (address, bits) = text.split_once('/').unwrap();
    Cidr { address: address.parse().unwrap(), bits: bits.parse().unwrap() }
}

fn names(names: &[&str]) -> Vec<Box<str>> {
    names.iter().map(|name| (*name).into()).collect()
}

fn connection<'a>(server_name: &'a str, protocols: &'a [String]) -> Connection<'a> {
    Connection {
        destination: "10.0.0.1:443".parse().unwrap(),
        source: "192.0.2.9:40000".parse().unwrap(),
        direct_source: "192.0.2.9".parse().unwrap(),
        server_name,
        transport: if server_name.is_empty() { TransportProtocol::RawBuffer } else { TransportProtocol::Tls },
        protocols,
    }
}

fn tree(chains: &[FilterChainMatch]) -> ChainTree {
    ChainTree::new(chains).unwrap()
}

#[test]
fn nothing_matches_without_chains_and_everything_without_criteria() {
    assert_eq!(tree(&[]).find(&connection("", &[])), None);
    assert_eq!(tree(&[FilterChainMatch::default()]).find(&connection("a.test", &[])), Some(0));
}

#[test]
fn server_names_are_stepped_through() {
    let chain = |list: &[&str]| FilterChainMatch { server_names: names(list), ..Default::default() };
    let tree = tree(&[chain(&["www.example.com"]), chain(&["*.example.com", "a.b"]), chain(&["*.com"]), chain(&[])]);
    for (name, found) in [
        ("www.example.com", 0),
        ("x.example.com", 1),
        ("x.y.example.com", 1),
        ("a.b", 1),
        ("example.com", 2),
        ("com", 3),
        // A name that begins with a dot is none; it finds the wildcard, as in Envoy.
        (".com", 2),
        ("x.com.", 3),
        ("other.test", 3),
        ("", 3),
    ] {
        assert_eq!(tree.find(&connection(name, &[])), Some(found), "{name}");
    }
}

#[test]
fn there_is_no_going_back() {
    // The name is found first; that its chain wants another protocol comes too late.
    let exact = FilterChainMatch {
        server_names: names(&["a.test"]),
        application_protocols: names(&["h2"]),
        ..Default::default()
    };
    let wide = FilterChainMatch { server_names: names(&["*.test"]), ..Default::default() };
    let tree = tree(&[exact, wide]);
    let (h2, other) = (["x".to_owned(), "h2".to_owned()], ["http/1.1".to_owned()]);
    assert_eq!(tree.find(&connection("a.test", &h2)), Some(0));
    assert_eq!(tree.find(&connection("a.test", &other)), None);
    assert_eq!(tree.find(&connection("b.test", &other)), Some(1));
}

#[test]
fn the_longest_prefix_wins_and_families_do_not_mix() {
    let chain = |list: &[&str]| FilterChainMatch {
        destination_prefixes: list.iter().map(|text| cidr(text)).collect(),
        ..Default::default()
    };
    let tree = tree(&[chain(&["10.0.0.0/8"]), chain(&["10.0.0.1/32", "fd00::/8"]), chain(&["0.0.0.0/0"]), chain(&[])]);
    for (ip, found) in
        [("10.0.0.1", 1), ("::ffff:10.0.0.1", 1), ("10.9.9.9", 0), ("11.0.0.1", 2), ("fd00::1", 1), ("fe80::1", 3)]
    {
        let destination = SocketAddr::new(ip.parse().unwrap(), 443);
        assert_eq!(tree.find(&Connection { destination, ..connection("", &[]) }), Some(found), "{ip}");
    }
}

#[test]
fn sources_by_type_prefix_and_port() {
    let local = FilterChainMatch { source_type: SourceType::Local, ..Default::default() };
    let external = FilterChainMatch {
        source_type: SourceType::External,
        source_prefixes: vec![cidr("192.0.2.0/24")],
        source_ports: vec![1, 2],
        ..Default::default()
    };
    let direct = FilterChainMatch { direct_source_prefixes: vec![cidr("172.16.0.0/12")], ..Default::default() };
    let tree = tree(&[local, external, direct]);
    let from = |source: &str, direct: &str| {
        let source = source.parse().unwrap();
        tree.find(&Connection { source, direct_source: direct.parse().unwrap(), ..connection("", &[]) })
    };
    assert_eq!(from("127.0.0.1:9", "127.0.0.1"), Some(0));
    assert_eq!(from("10.0.0.1:9", "10.0.0.1"), Some(0), "the destination's own address");
    assert_eq!(from("127.0.0.2:9", "127.0.0.2"), None, "only 127.0.0.1 is loopback, as in Envoy");
    assert_eq!(from("192.0.2.1:2", "192.0.2.1"), Some(1));
    assert_eq!(from("192.0.2.1:3", "192.0.2.1"), None);
    assert_eq!(from("192.0.2.1:2", "172.16.0.1"), Some(2));
}

#[test]
fn chains_that_cannot_be_told_apart_are_refused() {
    let chain = |list: &[&str], prefixes: &[&str]| FilterChainMatch {
        server_names: names(list),
        source_prefixes: prefixes.iter().map(|text| cidr(text)).collect(),
        ..Default::default()
    };
    let refused = |chains: &[FilterChainMatch]| ChainTree::new(chains).unwrap_err();
    let twice = [chain(&[], &[]), chain(&[], &[])];
    assert_eq!(refused(&twice), Unfit::Overlap { chain: 1, other: 0 });
    let partly = [chain(&["a", "b"], &[]), chain(&["c", "b"], &[])];
    assert_eq!(refused(&partly), Unfit::Overlap { chain: 1, other: 0 });
    // The same network, written differently.
    assert_eq!(refused(&[chain(&[], &["10.1.2.3/8", "10.0.0.0/8"])]), Unfit::Overlap { chain: 0, other: 0 });
    assert!(ChainTree::new(&[chain(&["a"], &["10.0.0.0/8"]), chain(&["a"], &["10.0.0.0/9"])]).is_ok());
    let many: Vec<Box<str>> = (0..1025).map(|n| n.to_string().into()).collect();
    let product = FilterChainMatch { server_names: many.clone(), application_protocols: many, ..Default::default() };
    assert_eq!(refused(&[FilterChainMatch::default(), product]), Unfit::TooMany { chain: 1 });
}

#[test]
fn cidr_edges() {
    let ip = |s: &str| s.parse::<IpAddr>().unwrap();
    assert!(cidr("0.0.0.0/0").contains(ip("9.9.9.9")));
    assert!(cidr("10.0.0.0/8").contains(ip("10.255.0.1")));
    assert!(!cidr("10.0.0.0/8").contains(ip("11.0.0.1")));
    assert!(cidr("10.0.0.1/32").contains(ip("::ffff:10.0.0.1")));
    assert!(cidr("::ffff:10.0.0.0/104").contains(ip("10.1.1.1")));
    assert!(cidr("::/0").contains(ip("fe80::1")));
    assert!(!cidr("::/0").contains(ip("1.2.3.4")));
}
