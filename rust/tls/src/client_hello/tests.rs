use super::{inspect, Inspect, MAX_HELLO, MAX_WIRE};
use crate::testing::*;

fn hello_of(sni: Option<&str>, alpn: &[&[u8]]) -> Vec<u8> {
    let (clock, root) = (Clock::new(), Authority::new("root"));
    let store = mesh_store(&clock, &root, "ui");
    let mut tls = mesh_client();
    tls.sni = sni.map(Into::into);
    tls.alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    client(&tls, &store).output().to_vec()
}

/// The handshake message of `records`, in records of at most `size` octets.
fn resplit(record: &[u8], size: usize) -> Vec<u8> {
    record[5..].chunks(size).fold(Vec::new(), |mut out, fragment| {
        out.extend_from_slice(&[22, 3, 1]);
        out.extend_from_slice(&(fragment.len() as u16).to_be_bytes());
        out.extend_from_slice(fragment);
        out
    })
}

fn shop() -> Inspect {
    Inspect::Hello { sni: Some("shop.example".into()), alpn: vec![b"istio".to_vec(), b"h2".to_vec()] }
}

#[test]
fn reads_what_rustls_writes() {
    assert_eq!(inspect(&hello_of(Some("Shop.Example"), &[b"istio", b"h2"])), shop());
    assert_eq!(inspect(&hello_of(None, &[])), Inspect::Hello { sni: None, alpn: Vec::new() });
}

#[test]
fn every_prefix_needs_more() {
    let hello = hello_of(Some("shop.example"), &[b"istio", b"h2"]);
    for length in 0..hello.len() {
        assert_eq!(inspect(&hello[..length]), Inspect::NeedMore, "{length}");
    }
    let mut more = hello.clone();
    more.extend_from_slice(b"whatever follows");
    assert_eq!(inspect(&more), shop());
}

#[test]
fn a_hello_may_come_in_many_records() {
    let hello = hello_of(Some("shop.example"), &[b"istio", b"h2"]);
    for size in [1, 3, 50, 200] {
        let split = resplit(&hello, size);
        assert_eq!(inspect(&split), shop(), "{size}");
        assert_eq!(inspect(&split[..split.len() - 1]), Inspect::NeedMore, "{size}");
    }
}

#[test]
fn what_is_not_tls_is_known_by_its_first_octets() {
    for other in [
        &b"G"[..],
        b"GET / HTTP/1.1\r\n",
        b"PRI * HTTP/2.0",
        b"\x16\x02",
        b"\x16\x03\x09\x00\x10",
        b"\x15\x03\x03",
        b"\x00",
    ] {
        assert_eq!(inspect(other), Inspect::NotTls, "{other:?}");
    }
    assert_eq!(inspect(b""), Inspect::NeedMore);
    assert_eq!(inspect(b"\x16\x03\x01\x00\x00"), Inspect::NotTls, "an empty record");
    assert_eq!(inspect(b"\x16\x03\x01\x40\x01"), Inspect::NotTls, "a record that is too long");
    assert_eq!(inspect(b"\x16\x03\x03\x00\x10\x02"), Inspect::NotTls, "a ServerHello");
    assert_eq!(inspect(b"\x16\x03\x03\x00\x04\x02\0\0\0"), Inspect::NotTls, "an empty ServerHello");
    assert_eq!(inspect(b"\x16\x03\x03\x00\x04\x01\0\0\0"), Inspect::NotTls, "an empty ClientHello");
}

#[test]
fn a_hello_without_end_is_not_waited_for() {
    let length = (MAX_HELLO as u32 + 1).to_be_bytes();
    let mut wire = vec![22, 3, 1, 0x40, 0, 1, length[1], length[2], length[3]];
    assert_eq!(inspect(&wire), Inspect::NeedMore);
    assert_eq!(inspect(&resplit(&wire, 4)), Inspect::NotTls, "announced in a record that is whole");
    wire[6..9].copy_from_slice(&(MAX_HELLO as u32).to_be_bytes()[1..]);
    assert_eq!(inspect(&wire), Inspect::NeedMore);
    let mut message = vec![1];
    message.extend_from_slice(&(MAX_HELLO as u32).to_be_bytes()[1..]);
    message.resize(MAX_HELLO, 0);
    let mut record = vec![0; 5];
    record.extend_from_slice(&message);
    let split = resplit(&record, 1);
    assert_eq!(inspect(&split[..MAX_WIRE - 1]), Inspect::NeedMore, "in records of one octet each");
    assert_eq!(inspect(&split[..MAX_WIRE]), Inspect::TooLarge);
    assert_eq!(inspect(&split), Inspect::TooLarge);
}

/// A hello with the given extensions and nothing else of interest.
fn hello_with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend_from_slice(&[7; 32]);
    body.extend_from_slice(&[0, 0, 2, 0x13, 1, 1, 0]);
    let mut list = Vec::new();
    for (kind, content) in extensions {
        list.extend_from_slice(&kind.to_be_bytes());
        list.extend_from_slice(&(content.len() as u16).to_be_bytes());
        list.extend_from_slice(content);
    }
    body.extend_from_slice(&(list.len() as u16).to_be_bytes());
    body.extend_from_slice(&list);
    let mut record = vec![22, 3, 1];
    record.extend_from_slice(&(body.len() as u16 + 4).to_be_bytes());
    record.extend_from_slice(&[1, 0]);
    record.extend_from_slice(&(body.len() as u16).to_be_bytes());
    record.extend_from_slice(&body);
    record
}

#[test]
fn a_name_is_without_the_dot_behind_it() {
    let named = |name: &[u8]| {
        let length = u8::try_from(name.len()).unwrap();
        let list = [&[0, length + 3, 0, 0, length], name].concat();
        inspect(&hello_with(&[(0, &list)]))
    };
    assert_eq!(named(b"Shop.example."), Inspect::Hello { sni: Some("shop.example".into()), alpn: Vec::new() });
    assert_eq!(named(b"."), Inspect::NotTls);
}

#[test]
fn broken_extensions_are_refused() {
    let good: &[u8] = b"\0\x04\0\0\x01a";
    assert_eq!(inspect(&hello_with(&[(0, good)])), Inspect::Hello { sni: Some("a".into()), alpn: Vec::new() });
    assert_eq!(
        inspect(&hello_with(&[(16, b"\0\x03\x02h2")])),
        Inspect::Hello { sni: None, alpn: vec![b"h2".to_vec()] }
    );
    for broken in [
        vec![(0, good), (0, good)],
        vec![(0, &b"\0\x05\0\0\x02a\0"[..])],
        vec![(0, &b"\0\x04\0\0\x02a"[..])],
        vec![(0, &b"\0\x03\0\0\0"[..])],
        vec![(0, &b"\0\x04\0\0\x01ab"[..])],
        vec![(0, &b"\0\x08\0\0\x01a\0\0\x01b"[..])],
        vec![(16, &b"\0\x01\0"[..])],
        vec![(16, &b"\0\x09\x02h2"[..])],
        vec![(16, &b"\0\x03\x02h2"[..]), (16, &b"\0\x03\x02h2"[..])],
    ] {
        assert_eq!(inspect(&hello_with(&broken)), Inspect::NotTls, "{broken:?}");
    }
}
