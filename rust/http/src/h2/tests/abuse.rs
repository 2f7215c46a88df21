//! What a hostile peer does, and the stable reason it is told off with.

use super::*;

fn reason(connection: &mut Connection, octets: &[u8]) -> &'static str {
    let failure = feed(connection, octets).unwrap_err();
    assert_eq!(connection.receive(&mut &[][..], &mut Scratch::default()), Err(failure));
    assert_eq!(connection.output()[3 + connection.output().len() - 17], 7, "GOAWAY is last");
    failure.reason
}

#[test]
fn rapid_reset_ends_the_connection() {
    let (mut connection, _) = server();
    let storm: Vec<u8> =
        (0..201).flat_map(|n| [frame(1, 5, 2 * n + 1, GET), frame(3, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()).collect();
    assert_eq!(reason(&mut connection, &storm), "premature_resets");
}

#[test]
fn made_you_reset_ends_the_connection() {
    let (mut connection, _) = server();
    let storm: Vec<u8> =
        (0..201).flat_map(|n| [frame(1, 5, 2 * n + 1, GET), frame(8, 0, 2 * n + 1, &[0; 4])].concat()).collect();
    assert_eq!(reason(&mut connection, &storm), "premature_resets");
}

#[test]
fn floods_end_the_connection() {
    let (mut connection, _) = server();
    let endless = [frame(1, 0, 1, GET), frame(9, 0, 1, &[]).repeat(17)].concat();
    assert_eq!(reason(&mut connection, &endless), "continuation_flood");
    let (mut connection, _) = server();
    assert_eq!(reason(&mut connection, &frame(6, 0, 0, &[0; 8]).repeat(1001)), "control_frame_flood");
    let (mut connection, _) = server();
    let empty = [frame(1, 4, 1, POST), frame(0, 0, 1, &[]).repeat(101)].concat();
    assert_eq!(reason(&mut connection, &empty), "empty_data_flood");
}

#[test]
fn a_head_beyond_the_limits_can_be_answered_and_hpack_stays_in_step() {
    let (mut connection, _) = server();
    // One field of 3,000 octets enters the table, then it is repeated.
    let mut block = [GET, &[0x40, 1, b'x', 0x7f, 0xb9, 0x16], &[b'v'; 3000]].concat();
    block.extend([0xbe; 40]);
    let events = feed(&mut connection, &frame(1, 5, 1, &block)).unwrap();
    assert_eq!(events, ["HeadTooLarge { stream: StreamId(1) }"]);
    let head = ResponseHead { status: 431, ..ResponseHead::default() };
    connection.send_response(StreamId(1), &head, true).unwrap();
    assert_eq!(connection.active_streams(), 0);
    let mut scratch = Scratch::default();
    let next = frame(1, 5, 3, &[GET, &[0xbe]].concat());
    assert!(matches!(connection.receive(&mut &next[..], &mut scratch), Ok(Some(Event::Request { .. }))));
    assert_eq!(scratch.request.headers.get(b"x").map(<[u8]>::len), Some(3000));
}
