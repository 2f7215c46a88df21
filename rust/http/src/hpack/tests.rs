//! RFC 7541 appendix C, and both halves against each other.

use super::encoder::Indexing;
use super::{huffman, integer, Decoder, Encoder, Error};
use crate::headers::Known;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let value = |digit: u8| (digit as char).to_digit(16).unwrap() as u8;
    digits.chunks(2).map(|pair| value(pair[0]) << 4 | value(pair[1])).collect()
}

fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Error> {
    let mut fields = Fields::new();
    decoder.decode(block, |field| fields.push((field.name.to_vec(), field.value.to_vec())))?;
    Ok(fields)
}

fn expect(decoder: &mut Decoder, block: &str, fields: &[(&str, &str)]) {
    let expected: Fields = fields.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
    assert_eq!(decode(decoder, &hex(block)), Ok(expected));
}

#[test]
fn appendix_c1_integers() {
    let mut out = Vec::new();
    integer::encode(10, 5, 0, &mut out);
    integer::encode(1337, 5, 0, &mut out);
    integer::encode(42, 8, 0, &mut out);
    assert_eq!(out, [0x0a, 0x1f, 0x9a, 0x0a, 0x2a]);
    assert_eq!(integer::decode(0x1f, 5, &mut &[0x9a, 0x0a][..]), Ok(1337));
    assert_eq!(integer::decode(0x1f, 5, &mut &[0xff; 9][..]), Err(Error::IntegerOverflow));
    assert_eq!(integer::decode(0x1f, 5, &mut &[0x9a][..]), Err(Error::Truncated));
}

#[test]
fn appendix_c3_requests() {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let mut decoder = Decoder::new();
    expect(&mut decoder, "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &get);
    let mut second = get.to_vec();
    second.push(("cache-control", "no-cache"));
    expect(&mut decoder, "8286 84be 5808 6e6f 2d63 6163 6865", &second);
}

#[test]
fn appendix_c4_requests_with_huffman() {
    let get = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
    let mut decoder = Decoder::new();
    expect(&mut decoder, "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &get);
    let mut second = get.to_vec();
    second.push(("cache-control", "no-cache"));
    expect(&mut decoder, "8286 84be 5886 a8eb 1064 9cbf", &second);
}

#[test]
fn huffman_is_its_own_inverse_for_every_octet() {
    let all: Vec<u8> = (0..=255).chain((0..=255).rev()).collect();
    for start in 0..all.len() {
        let (mut wire, mut back) = (Vec::new(), Vec::new());
        huffman::encode(&all[start..], &mut wire);
        assert_eq!(wire.len(), huffman::encoded_len(&all[start..]));
        assert_eq!(huffman::decode(&wire, &mut back), Ok(()));
        assert_eq!(back, &all[start..]);
    }
}

#[test]
fn huffman_refuses_eos_and_bad_padding() {
    for bad in ["ff", "ffffffff", "fffffffc", "00", "1fff"] {
        assert_eq!(huffman::decode(&hex(bad), &mut Vec::new()), Err(Error::BadHuffman), "{bad}");
    }
}

#[test]
fn what_is_encoded_is_decoded_through_many_evictions() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for round in 0..3000_u32 {
        let mut out = Vec::new();
        if round % 500 == 99 {
            encoder.shrink();
        }
        encoder.begin_block(&mut out);
        let (unique, repeated) = (format!("v{round}"), format!("r{}", round / 3));
        encoder.field(b"x-always", unique.as_bytes(), None, Indexing::Always, &mut out);
        encoder.other(b"x-second", repeated.as_bytes(), false, &mut out);
        encoder.known(Known::UserAgent, b"a proxy", false, &mut out);
        encoder.known(Known::Authorization, b"secret", false, &mut out);
        let fields = decode(&mut decoder, &out).unwrap();
        let pair = |n: &str, v: &str| (n.as_bytes().to_vec(), v.as_bytes().to_vec());
        let expected = [
            pair("x-always", &unique),
            pair("x-second", &repeated),
            pair("user-agent", "a proxy"),
            pair("authorization", "secret"),
        ];
        assert_eq!(fields, expected, "round {round}");
    }
}

#[test]
fn a_repeated_field_costs_one_octet() {
    let mut encoder = Encoder::new();
    let mut out = Vec::new();
    encoder.known(Known::UserAgent, b"curl/8", false, &mut out);
    out.clear();
    encoder.known(Known::UserAgent, b"curl/8", false, &mut out);
    assert_eq!(out, [0xbe]);
}

#[test]
fn size_updates_obey_the_settings() {
    let mut decoder = Decoder::new();
    assert_eq!(decode(&mut decoder, &hex("3fe21f")), Err(Error::BadSizeUpdate));
    decoder.set_allowed_size(0);
    assert_eq!(decode(&mut decoder, &hex("82")), Err(Error::BadSizeUpdate));
    assert_eq!(decode(&mut decoder, &hex("2082")).map(|fields| fields.len()), Ok(1));
}
