//! Mutated traffic in random pieces: no panic, bounded memory, and the cuts do not matter.

use super::*;

struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn traffic() -> Vec<u8> {
    let mut octets = [PREFACE.as_slice(), &frame(4, 0, 0, &[0, 4, 0, 1, 0, 0])].concat();
    for n in 0..8 {
        let id = 2 * n + 1;
        octets.extend(frame(1, 0, id, POST));
        octets.extend(frame(9, 4, id, &[0x40, 1, b'x', 0x83, 0xf2, 0xb4, 0xff, 0xbe]));
        octets.extend(frame(0, 8, id, &[3, b'd', b'a', b't', b'a', 0, 0, 0]));
        octets.extend(frame(0, 0, id, &[b'm'; 40]));
        octets.extend(frame(8, 0, id, &[0, 0, 1, 0]));
        octets.extend(frame(6, 0, 0, &[n as u8; 8]));
        octets.extend(frame(1, 5, id, &[0xbe]));
    }
    octets
}

/// Events with the pieces of each body joined, and how it ended.
fn run(octets: &[u8], mut cut: impl FnMut() -> usize) -> (Vec<String>, String) {
    let (mut connection, mut scratch) = (Connection::new(Config::new(Role::Server)), Scratch::default());
    let (mut rest, mut log) = (octets, Vec::<String>::new());
    let mut body = Vec::new();
    let mut ending = "open".to_owned();
    'all: while !rest.is_empty() {
        let (mut piece, tail) = rest.split_at(cut().clamp(1, rest.len()));
        rest = tail;
        loop {
            match connection.receive(&mut piece, &mut scratch) {
                Ok(Some(Event::Data { stream, data, end_stream, .. })) => {
                    body.extend_from_slice(data);
                    connection.release(stream, data.len());
                    if end_stream {
                        log.push(format!("end of {stream:?}"));
                    }
                }
                Ok(Some(event)) => {
                    log.push(format!("{} octets, {event:?} {:?}", body.len(), scratch.request.headers));
                    body.clear();
                }
                Ok(None) => break,
                Err(failure) => {
                    ending = failure.to_string();
                    break 'all;
                }
            }
        }
        assert!(connection.output().len() < 64 * 1024);
    }
    (log, ending)
}

#[test]
fn cuts_do_not_change_the_events() {
    let octets = traffic();
    let (whole, ending) = run(&octets, || usize::MAX);
    assert_eq!((whole.len(), ending.as_str()), (1 + 8 * 3, "open"), "{whole:#?}");
    let mut random = Xorshift(7);
    for most in [1, 2, 3, 10, 100] {
        assert_eq!(run(&octets, || 1 + random.below(most)), (whole.clone(), ending.clone()));
    }
}

#[test]
fn mutated_traffic_neither_panics_nor_depends_on_the_cuts() {
    let mut random = Xorshift(0x5eed);
    for _ in 0..3000 {
        let mut octets = traffic();
        for _ in 0..=random.below(6) {
            let at = random.below(octets.len());
            match random.below(3) {
                0 => octets[at] ^= 1 << random.below(8),
                1 => octets[at] = random.below(256) as u8,
                _ => drop(octets.remove(at)),
            }
        }
        let whole = run(&octets, || usize::MAX);
        assert_eq!(run(&octets, || 1 + random.below(12)), whole);
    }
}

#[test]
fn answers_to_streams_that_were_reset_long_ago_are_dropped() {
    let mut client = Connection::new(Config::new(Role::Client));
    feed(&mut client, &frame(4, 0, 0, &[])).unwrap();
    let mut head = RequestHead::default();
    head.set_path(b"/");
    let streams: Vec<StreamId> = (0..100).map(|tag| client.open(&head, true, tag).unwrap()).collect();
    for stream in &streams {
        client.reset(*stream, ErrorCode::CANCEL);
    }
    let late: Vec<u8> = streams
        .iter()
        .flat_map(|stream| [frame(1, 4, stream.value(), &[0x88]), frame(0, 1, stream.value(), b"late")].concat())
        .collect();
    assert_eq!(feed(&mut client, &late).unwrap(), Vec::<String>::new());
    assert!(!client.is_closing());
}
