//! HPACK against `fluke-hpack`, in both directions.

use fluke_hpack::decoder::DecoderError;
use fluke_hpack::huffman::HuffmanDecoder;
use pymesh_http::hpack::{Decoder, Encoder, Error, DEFAULT_TABLE_SIZE};
use pymesh_http::Known;

use crate::input::Input;
use crate::strict::show;

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Fields, Error> {
    let mut fields = Fields::new();
    decoder.decode(block, |field| fields.push((field.name.to_vec(), field.value.to_vec())))?;
    Ok(fields)
}

fn judge() -> fluke_hpack::Decoder<'static> {
    let mut judge = fluke_hpack::Decoder::new();
    judge.set_max_allowed_table_size(DEFAULT_TABLE_SIZE as usize);
    judge
}

/// Blocks of one connection: a length octet before each, 255 gives memory back.
pub fn decode(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut decoder, mut judge) = (Decoder::new(), judge());
    while !input.is_empty() {
        let count = input.octet();
        if count == 255 {
            decoder.shrink();
            continue;
        }
        let block = input.octets(count.into());
        let ours = read(&mut decoder, block);
        // The judge minds no size updates between fields, and dies of some that are cut off.
        if matches!(ours, Err(Error::BadSizeUpdate | Error::Truncated | Error::IntegerOverflow)) {
            return;
        }
        match (ours, judge.decode(block)) {
            (Ok(ours), Ok(theirs)) => assert_eq!(ours, theirs, "{}", show(block)),
            // A block may consist of size updates alone (RFC 7541 section 4.2 says nothing else).
            (Ok(ours), Err(DecoderError::SizeUpdateAtEnd)) if ours.is_empty() => {}
            (Err(_), Err(_)) => return,
            (ours, theirs) => panic!("{}: we say {ours:?}, they say {theirs:?}", show(block)),
        }
    }
}

/// Fields of one connection are written by us and read by both.
pub fn round_trip(data: &[u8]) {
    let mut input = Input::new(data);
    let (mut encoder, mut decoder, mut judge) = (Encoder::new(), Decoder::new(), judge());
    while !input.is_empty() {
        match input.octet() % 8 {
            0 => encoder.set_allowed_size(input.word().into()),
            1 => encoder.shrink(),
            2 => decoder.shrink(),
            _ => {}
        }
        let mut block = Vec::new();
        let mut wanted = Fields::new();
        encoder.begin_block(&mut block);
        for _ in 0..=input.below(4) {
            let (kind, sensitive) = (input.octet(), input.flag());
            // Few names and values, so that they come again.
            let letters = [b'a' + kind % 16; 3];
            let value = [&b"v"[..], &letters, &[b'x'; 90], input.string()][input.below(4)];
            if kind % 2 == 0 {
                let known = *input.pick(Known::ALL);
                encoder.known(known, value, sensitive, &mut block);
                wanted.push((known.name().into(), value.to_vec()));
            } else {
                let name = [&b"x-a"[..], &b"x-b"[..], &[b'n'; 40], input.string()][input.below(4)];
                encoder.other(name, value, sensitive, &mut block);
                wanted.push((name.to_vec(), value.to_vec()));
            }
        }
        assert_eq!(read(&mut decoder, &block).as_ref(), Ok(&wanted), "{}", show(&block));
        match judge.decode(&block) {
            Ok(theirs) => assert_eq!(theirs, wanted, "{}", show(&block)),
            Err(error) => panic!("{error:?}: {}", show(&block)),
        }
    }
}

/// The octets as a Huffman string, and as a text that becomes one.
pub fn huffman(data: &[u8]) {
    let mut block = vec![0x10, 1, b'x'];
    let mut length = data.len();
    // RFC 7541 section 5.1, prefix of seven bits, with the Huffman flag above it.
    if length < 127 {
        block.push(0x80 | length as u8);
    } else {
        block.push(0xff);
        length -= 127;
        while length >= 128 {
            block.push(length as u8 | 0x80);
            length >>= 7;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(data);
    match (read(&mut Decoder::new(), &block), HuffmanDecoder::new().decode(data)) {
        (Ok(ours), Ok(theirs)) => assert_eq!(ours, [(b"x".to_vec(), theirs)]),
        (Err(Error::BadHuffman), Err(_)) => {}
        (ours, theirs) => panic!("{}: we say {ours:?}, they say {theirs:?}", show(data)),
    }
    let mut written = Vec::new();
    Encoder::new().other(b"x", data, true, &mut written);
    assert_eq!(judge().decode(&written).ok(), Some(vec![(b"x".to_vec(), data.to_vec())]), "{}", show(&written));
}
