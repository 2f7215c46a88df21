use super::*;

fn addresses(source: &str, destination: &str) -> Addresses {
    Addresses { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
}

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend_from_slice(&[command, family]);
    header.extend_from_slice(&(body.len() as u16).to_be_bytes());
    header.extend_from_slice(body);
    header
}

const INET: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x9c, 0x40, 0x01, 0xbb];

fn header(version: Version, addresses: Option<Addresses>, length: usize) -> Parsed {
    Parsed::Header(Header { version, addresses, length })
}

#[test]
fn version_1_as_the_specification_shows_it() {
    let longest: &[u8] =
        b"PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe 65535 65535\r\n";
    for (line, ends) in [
        (
            &b"PROXY TCP4 255.255.255.254 255.255.255.253 65535 65535\r\n"[..],
            Some(("255.255.255.254:65535", "255.255.255.253:65535")),
        ),
        (b"PROXY TCP6 2001:db8::1 ::1 1 0\r\n", Some(("[2001:db8::1]:1", "[::1]:0"))),
        (b"PROXY UNKNOWN\r\n", None),
        (b"PROXY UNKNOWN ffff::1 whatever 70000\r\n", None),
        (b"PROXY UNKNOWN \xff\r\n", None),
    ] {
        let ends = ends.map(|(source, destination)| addresses(source, destination));
        assert_eq!(parse(line), header(Version::V1, ends, line.len()), "{:?}", line.escape_ascii().to_string());
    }
    // Multicast, as every address of all ones is in IPv6.
    assert_eq!(parse(longest), Parsed::Malformed(Version::V1));
}

#[test]
fn version_1_is_refused_if_it_is_not_exact() {
    for line in [
        &b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"[..],
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        b"PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 +2\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 1 \r\n",
        b"PROXY TCP4 ::1 ::1 1 2\r\n",
        b"PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 0.0.0.0 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 224.0.0.1 5.6.7.8 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 255.255.255.255 1 2\r\n",
        b"PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        b"PROXY unknown\r\n",
        b"PROXY \r\n",
        b"PROXY \xff\r\n",
    ] {
        assert_eq!(parse(line), Parsed::Malformed(Version::V1), "{:?}", line.escape_ascii().to_string());
    }
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(V1_MAX - 1, b'x');
    assert_eq!(parse(&endless), Parsed::NeedMore);
    endless.push(b'x');
    assert_eq!(parse(&endless), Parsed::Malformed(Version::V1));
    // The line fits, to the last octet.
    endless.truncate(V1_MAX - 2);
    endless.extend_from_slice(b"\r\nbehind");
    assert_eq!(parse(&endless), header(Version::V1, None, V1_MAX));
}

#[test]
fn version_2_with_addresses_tlvs_and_without() {
    let ends = addresses("192.0.2.1:40000", "198.51.100.2:443");
    assert_eq!(parse(&v2(0x21, 0x11, INET)), header(Version::V2, Some(ends), 28));
    assert_eq!(parse(&v2(0x21, 0x12, INET)), header(Version::V2, Some(ends), 28), "datagrams, as Envoy");
    let mut tlvs = INET.to_vec();
    tlvs.extend_from_slice(b"\x02\x00\x04test\x04\x00\x00");
    assert_eq!(parse(&v2(0x21, 0x11, &tlvs)), header(Version::V2, Some(ends), 16 + tlvs.len()));
    let mut inet6 = vec![0; 36];
    inet6[15] = 1;
    inet6[31] = 2;
    inet6[33] = 7;
    assert_eq!(parse(&v2(0x21, 0x21, &inet6)), header(Version::V2, Some(addresses("[::1]:7", "[::2]:0")), 52));
    assert_eq!(parse(&v2(0x20, 0, b"")), header(Version::V2, None, 16));
    assert_eq!(parse(&v2(0x20, 0x11, INET)), header(Version::V2, None, 28), "LOCAL, whatever it says");
    let longest = vec![9; usize::from(u16::MAX)];
    assert_eq!(parse(&v2(0x20, 0, &longest)), header(Version::V2, None, 16 + longest.len()));
}

#[test]
fn version_2_ends_where_its_last_tlv_ends() {
    for (behind, why) in [
        (&b"\x02"[..], "no length"),
        (b"\x02\0", "half a length"),
        (b"\x02\0\x05test", "an octet short"),
        (b"\x04\0\0\x02\xff\xfftest", "the second one"),
        (b"\x04\0\0\0", "an octet too many"),
    ] {
        let with = |ends: &[u8]| [ends, behind].concat();
        assert_eq!(parse(&v2(0x21, 0x11, &with(INET))), Parsed::Malformed(Version::V2), "{why}");
        let mut inet6 = [1; 36];
        inet6[0] = 0x20;
        inet6[16] = 0x20;
        assert_eq!(parse(&v2(0x21, 0x21, &with(&inet6))), Parsed::Malformed(Version::V2), "{why}");
        // What comes behind the header cannot complete it.
        let mut more = v2(0x21, 0x11, &with(INET));
        more.extend_from_slice(b"and more, as much as it could want");
        assert_eq!(parse(&more), Parsed::Malformed(Version::V2), "{why}");
        // Its own affairs are skipped.
        let skipped = v2(0x20, 0x11, &with(INET));
        assert_eq!(parse(&skipped), header(Version::V2, None, skipped.len()), "{why}");
    }
}

#[test]
fn version_2_is_refused_as_soon_as_it_is_wrong() {
    let unspecified = [0; 12];
    for (wrong, why) in [
        (v2(0x11, 0x11, INET), "version"),
        (v2(0x22, 0x11, INET), "command"),
        (v2(0x21, 0x00, b""), "family unspecified"),
        (v2(0x21, 0x31, &[0; 216]), "UNIX"),
        (v2(0x21, 0x10, INET), "transport unspecified"),
        (v2(0x21, 0x11, &INET[..11]), "shorter than its addresses"),
        (v2(0x21, 0x21, INET), "IPv6 in 12 octets"),
        (v2(0x21, 0x11, &unspecified), "no unicast address"),
    ] {
        assert_eq!(parse(&wrong), Parsed::Malformed(Version::V2), "{why}");
    }
    assert_eq!(parse(&v2(0x31, 0x11, INET)[..13]), Parsed::Malformed(Version::V2));
}

#[test]
fn every_prefix_needs_more_and_what_follows_is_not_touched() {
    for whole in [v2(0x21, 0x11, INET), b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n".to_vec(), b"PROXY UNKNOWN\r\n".to_vec()] {
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Parsed::NeedMore, "{length}");
        }
        let mut more = whole.clone();
        more.extend_from_slice(b"PROXY TCP4 \r\n\r\n\0\r\nQUIT\n");
        let Parsed::Header(found) = parse(&more) else { panic!("{:?}", parse(&more)) };
        assert_eq!(found.length, whole.len());
    }
}

#[test]
fn what_is_no_header_is_known_by_its_first_octets() {
    for other in [&b"G"[..], b"PRI * HTTP/2.0", b"PROXX", b"PROXY\t", b"\r\n\r\nG", b"\x16\x03\x01", b"proxy "] {
        assert_eq!(parse(other), Parsed::Absent, "{other:?}");
        assert!(!may_begin(other, Version::V1) && !may_begin(other, Version::V2), "{other:?}");
    }
}

#[test]
fn either_version_can_be_looked_for_alone() {
    assert!(may_begin(b"", Version::V1) && may_begin(b"", Version::V2));
    assert!(may_begin(b"PRO", Version::V1) && !may_begin(b"PRO", Version::V2));
    assert!(!may_begin(b"\r\n", Version::V1) && may_begin(b"\r\n", Version::V2));
}

#[test]
fn what_is_written_is_read_again() {
    for (ends, v1, v2) in [
        (Some(addresses("192.0.2.1:40000", "198.51.100.2:443")), 45, 28),
        (Some(addresses("[2001:db8::1]:1", "[::1]:2")), 32, 52),
        (None, 15, 16),
    ] {
        for (version, length) in [(Version::V1, v1), (Version::V2, v2)] {
            let mut out = b"before".to_vec();
            write(version, ends.as_ref(), &mut out);
            assert_eq!(parse(&out[6..]), header(version, ends, length));
            assert_eq!(out.len(), 6 + length);
        }
    }
}

#[test]
fn one_header_has_one_family() {
    let mut out = Vec::new();
    write(Version::V1, Some(&addresses("[::ffff:192.0.2.1]:1", "198.51.100.2:2")), &mut out);
    write(Version::V1, Some(&addresses("192.0.2.1:1", "[2001:db8::1]:2")), &mut out);
    let text = "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\nPROXY TCP6 ::ffff:192.0.2.1 2001:db8::1 1 2\r\n";
    assert_eq!(String::from_utf8(out).unwrap(), text);
}
