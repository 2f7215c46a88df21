//! What a hostile peer does, and the stable reason it is told off with.

use super::*;

fn reason(connection: &mut Connection, octets: &[u8]) -> &'static str {
    let failure = feed(connection, octets).unwrap_err();
    assert_eq!(connection.receive(&mut &[][..], &mut Scratch::default()), Err(failure));
    assert_eq!(connection.output()[3 + connection.output().len() - 17], 7, "GOAWAY is last");
    failure.reason
}

fn id(n: u32) -> u32 {
    2 * n + 1
}

/// So many streams, each opened and ended at once by `end`.
fn storm(streams: u32, end: impl Fn(u32) -> Vec<u8>) -> Vec<u8> {
    (0..streams).flat_map(|n| [frame(1, 5, id(n), GET), end(id(n))].concat()).collect()
}

fn reset(id: u32) -> Vec<u8> {
    frame(3, 0, id, &[0, 0, 0, 8])
}

#[test]
fn rapid_reset_ends_the_connection() {
    let (mut connection, _) = server();
    assert_eq!(reason(&mut connection, &storm(251, reset)), "too_many_premature_resets");
    assert_eq!(connection.take_tally(), Tally { rx_reset: 251, goaway_sent: 1, ..Tally::default() });
}

#[test]
fn made_you_reset_ends_the_connection() {
    let (mut connection, _) = server();
    let storm = storm(251, |id| frame(8, 0, id, &[0; 4]));
    assert_eq!(reason(&mut connection, &storm), "too_many_premature_resets");
    assert_eq!(connection.take_tally(), Tally { tx_reset: 251, goaway_sent: 1, ..Tally::default() });
}

/// Who cancels what has been running for long, or was answered, may do so without end.
#[test]
fn resets_that_are_forgiven_do_not_count() {
    let (mut connection, mut scratch) = server();
    let octets = storm(2000, reset);
    let mut input = &octets[..];
    while let Some(event) = connection.receive(&mut input, &mut scratch).unwrap() {
        if matches!(event, Event::Reset { .. }) {
            connection.forgive_reset();
        }
    }
    assert_eq!(connection.active_streams(), 0);
}

/// What an upstream resets costs the proxy nothing, and others share the connection.
#[test]
fn a_server_may_reset_what_it_likes() {
    let mut client = Connection::new(Config::new(Role::Client));
    feed(&mut client, &frame(4, 0, 0, &[])).unwrap();
    let mut head = RequestHead::default();
    head.set_path(b"/");
    for tag in 0..1000 {
        let stream = client.open(&head, true, tag).unwrap();
        assert_eq!(feed(&mut client, &reset(stream.value())).unwrap().len(), 1);
    }
    assert!(!client.is_closing());
}

#[test]
fn floods_end_the_connection() {
    let floods: [(&str, Vec<u8>); 6] = [
        ("http2.inbound_continuation_frames_flood", [frame(1, 0, 1, GET), frame(9, 0, 1, b"\x0f").repeat(17)].concat()),
        ("http2.inbound_empty_frames_flood", [frame(1, 4, 1, POST), frame(0, 0, 1, &[]).repeat(2)].concat()),
        ("http2.inbound_empty_frames_flood", [frame(1, 0, 1, GET), frame(9, 0, 1, &[]).repeat(2)].concat()),
        // Nothing but padding.
        ("http2.inbound_empty_frames_flood", [frame(1, 4, 1, POST), frame(0, 8, 1, &[1, 0]).repeat(2)].concat()),
        ("http2.outbound_control_frames_flood", frame(6, 0, 0, &[0; 8]).repeat(1001)),
        ("http2.outbound_control_frames_flood", frame(4, 0, 0, &[]).repeat(1001)),
    ];
    for (expected, octets) in floods {
        let (mut connection, _) = server();
        assert_eq!(reason(&mut connection, &octets), expected);
    }
}

#[test]
fn frames_that_say_nothing_are_counted_as_envoy_counts_them() {
    let opening = frame(1, 4, 1, POST);
    let priority = frame(2, 0, 1, &[0, 0, 0, 3, 1]);
    let update = frame(8, 0, 1, &[0, 0, 0, 1]);
    // 100 x (1 + 1 stream), and 5 + 2 x (1 stream + 10 x 0 DATA frames).
    for (frame, most, expected) in [
        (priority, 200, "http2.inbound_priority_frames_flood"),
        (update, 7, "http2.inbound_window_update_frames_flood"),
    ] {
        let (mut connection, _) = server();
        feed(&mut connection, &[&opening[..], &frame.repeat(most)].concat()).unwrap();
        assert_eq!(reason(&mut connection, &frame), expected);
    }
}

/// The buffer may never be empty on a busy connection; only what is unsent counts.
#[test]
fn answers_that_were_written_do_not_count_although_others_wait() {
    let (mut connection, _) = server();
    for _ in 0..5000 {
        feed(&mut connection, &frame(6, 0, 0, &[7; 8]).repeat(3)).unwrap();
        let unsent = connection.output().len();
        connection.advance_output(unsent - 20);
    }
    assert_eq!(connection.queued_frames(), 2);
}

#[test]
fn request_heads_hold_a_bounded_amount_of_memory() {
    let (mut connection, _) = server();
    // One field of 3,000 octets enters the table; each request then repeats it with one octet each.
    let first = [GET, &[0x40, 1, b'x', 0x7f, 0xb9, 0x16], &[b'v'; 3000]].concat();
    let bomb = [GET, &[0xbe; 18]].concat();
    feed(&mut connection, &frame(1, 4, 1, &first)).unwrap();
    for n in 1..60 {
        feed(&mut connection, &frame(1, 4, id(n), &bomb)).unwrap();
        assert!(connection.header_memory <= 1024 * 1024);
    }
    assert!(connection.take_tally().header_memory_overflow > 30);
    for n in 0..60 {
        connection.reset(StreamId(id(n)), ErrorCode::CANCEL);
    }
    assert_eq!(connection.header_memory, 0);
}

#[test]
fn interim_responses_end() {
    let mut client = Connection::new(Config::new(Role::Client));
    feed(&mut client, &frame(4, 0, 0, &[])).unwrap();
    let mut head = RequestHead::default();
    head.set_path(b"/");
    client.open(&head, true, 7).unwrap();
    let early_hints = frame(1, 4, 1, &[0x08, 3, b'1', b'0', b'3']);
    let events = feed(&mut client, &early_hints.repeat(17)).unwrap();
    assert!(events[16].contains("code: ENHANCE_YOUR_CALM (0xb), fault: Some("), "{events:?}");
    assert_eq!(client.take_tally().too_many_header_frames, 1);
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
