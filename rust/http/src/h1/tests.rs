mod refused;

use super::*;
use crate::{Headers, Known, Limits, Method, RequestHead, ResponseHead, Scheme, Version};

fn request(bytes: &[u8]) -> (Result<Option<RequestInfo>, Refusal>, RequestHead) {
    let mut head = RequestHead::default();
    let result = parse_request(bytes, Scheme::Http, &Limits::default(), &mut head);
    (result, head)
}

#[test]
fn a_plain_request() {
    let bytes = b"GET /a?b HTTP/1.1\r\nHost: Example:80\r\nX-One: 1\r\nConnection: close, x-drop\r\nX-Drop: y\r\nTE: trailers\r\n\r\nrest";
    let (info, head) = request(bytes);
    let info = info.unwrap().unwrap();
    assert_eq!(info.consumed, bytes.len() - 4);
    assert_eq!(info.framing, Framing::None);
    assert!(!info.keep_alive && !info.upgrade && !info.expect_continue);
    assert_eq!((head.authority(), head.path()), (&b"Example:80"[..], &b"/a?b"[..]));
    assert_eq!(head.method, Method::Get);
    let names: Vec<&[u8]> = head.headers.iter().map(|h| h.name).collect();
    assert_eq!(names, [&b"x-one"[..], b"te"]);
}

#[test]
fn targets() {
    for (line, authority, path) in [
        ("GET http://h:1/x?y HTTP/1.1\r\nHost: h:1", "h:1", "/x?y"),
        ("GET http://h HTTP/1.1\r\nHost: H", "h", "/"),
        ("GET http://h?q HTTP/1.1\r\nHost: h", "h", "/?q"),
        ("OPTIONS * HTTP/1.1\r\nHost: h", "h", "*"),
        ("CONNECT h:443 HTTP/1.1\r\nHost: h:443", "h:443", ""),
        ("GET / HTTP/1.0", "", "/"),
        ("OPTIONS http://h HTTP/1.1\r\nHost: h", "h", "*"),
        ("GET / HTTP/1.1\r\nHost: [::1]:80", "[::1]:80", "/"),
        ("GET / HTTP/1.1\r\nHost:", "", "/"),
        ("\r\nGET / HTTP/1.1\r\nHost: h", "h", "/"),
    ] {
        let (info, head) = request(format!("{line}\r\n\r\n").as_bytes());
        assert!(info.unwrap().is_some(), "{line}");
        assert_eq!((head.authority(), head.path()), (authority.as_bytes(), path.as_bytes()), "{line}");
        assert_eq!(head.scheme, Scheme::Http, "{line}");
    }
    // The connection is not a secure one, whatever the target says.
    let (info, _) = request(b"GET HTTPS://h/x HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(info.unwrap_err().reason, "http1.https_url_on_plaintext_connection");
}

#[test]
fn upgrades_are_seen_but_never_h2c() {
    let (info, head) = request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(info.unwrap().unwrap().upgrade);
    assert_eq!(head.headers.get_known(Known::Upgrade), Some(&b"websocket"[..]));
    let (info, head) = request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n\r\n",
    );
    assert!(!info.unwrap().unwrap().upgrade);
    assert!(head.headers.is_empty(), "{:?}", head.headers);
    let (info, head) =
        request(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c, websocket\r\nUpgrade: H2C\r\n\r\n");
    assert!(info.unwrap().unwrap().upgrade);
    assert_eq!(head.headers.get_all_known(Known::Upgrade).collect::<Vec<_>>(), [b"websocket"]);
    // Without its connection option it is not an upgrade.
    let (info, head) = request(b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n");
    assert!(!info.unwrap().unwrap().upgrade);
    assert!(head.headers.is_empty());
}

#[test]
fn old_clients_ask_for_nothing_that_came_later() {
    let (info, head) = request(
        b"POST / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\nExpect: 100-continue\r\n\r\n",
    );
    let info = info.unwrap().unwrap();
    assert!(!info.upgrade && !info.expect_continue);
    assert!(head.headers.is_empty(), "{:?}", head.headers);
}

#[test]
fn what_is_for_this_connection_only_goes() {
    let (info, head) = request(
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: X-One,te, keep-alive\r\nconnection: x-two\r\nX-One: 1\r\nx-two: 2\r\n\
          X-ONE: 3\r\nKeep-Alive: 5\r\nProxy-Connection: keep-alive\r\nTE: gzip, trailers\r\nX-Three: 4\r\n\r\n",
    );
    assert!(info.unwrap().unwrap().keep_alive);
    let left: Vec<(&[u8], &[u8])> = head.headers.iter().map(|field| (field.name, field.value)).collect();
    assert_eq!(left, [(&b"x-three"[..], &b"4"[..]), (b"te", b"trailers")]);
}

#[test]
fn a_switch_of_protocols_must_have_been_asked_for() {
    let bytes = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n\x81";
    let parse = |asked| parse_response(bytes, Method::Get, asked, &Limits::default(), &mut ResponseHead::default());
    assert_eq!(parse(true).unwrap().unwrap().consumed, bytes.len() - 1);
    assert_eq!(parse(false).unwrap_err().reason, "http1.unexpected_upgrade");
    let h2c = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n";
    let refusal = parse_response(h2c, Method::Get, true, &Limits::default(), &mut ResponseHead::default()).unwrap_err();
    assert_eq!(refusal.reason, "http1.unexpected_upgrade");
}

#[test]
fn limits_apply_to_unfinished_heads() {
    let long = [b"GET /".to_vec(), vec![b'a'; 20_000]].concat();
    assert_eq!(request(&long).0.unwrap_err().status, 414);
    let mut many = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for _ in 0..5000 {
        many.extend(b"x-long-enough-name: some value of the header\r\n");
    }
    assert_eq!(request(&many).0.unwrap_err().status, 431);
    let mut few = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    few.extend(b"x: y\r\n".repeat(101));
    few.extend(b"\r\n");
    assert_eq!(request(&few).0.unwrap_err().status, 431);
}

fn response(bytes: &str, method: Method) -> Result<Option<ResponseInfo>, Refusal> {
    parse_response(bytes.as_bytes(), method, false, &Limits::default(), &mut ResponseHead::default())
}

#[test]
fn response_framing_table() {
    for (bytes, method, framing, keep_alive) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, Framing::Length(3), true),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Head, Framing::None, true),
        ("HTTP/1.1 304 X\r\nContent-Length: 3\r\n\r\n", Method::Get, Framing::None, true),
        ("HTTP/1.1 204 X\r\n\r\n", Method::Get, Framing::None, true),
        ("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Get, Framing::Chunked, true),
        ("HTTP/1.1 200 OK\r\n\r\n", Method::Get, Framing::UntilClose, false),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Method::Get, Framing::Length(3), false),
        ("HTTP/1.1 103 Early\r\n\r\n", Method::Get, Framing::None, true),
    ] {
        let info = response(bytes, method).unwrap().unwrap();
        assert_eq!((info.framing, info.keep_alive), (framing, keep_alive), "{bytes:?}");
    }
}

#[test]
fn offers_of_an_endpoint_stay_with_the_proxy() {
    let bytes = b"HTTP/1.1 200 OK\r\nConnection: Upgrade, keep-alive\r\nUpgrade: h2, h2c\r\nKeep-Alive: timeout=5\r\nX: y\r\n\r\n";
    let mut head = ResponseHead::default();
    parse_response(bytes, Method::Get, true, &Limits::default(), &mut head).unwrap().unwrap();
    let left: Vec<&[u8]> = head.headers.iter().map(|field| field.name).collect();
    assert_eq!(left, [b"x"]);
}

/// Feeds `input` in pieces; payload and trailers, or the refusal.
fn decode(
    framing: Framing,
    input: &[u8],
    mut piece: impl FnMut() -> usize,
) -> Result<(Vec<u8>, Headers, bool), Refusal> {
    let mut decoder = BodyDecoder::new(framing, &Limits::default());
    let (mut data, mut trailers, mut waiting, mut ended) = (Vec::new(), Headers::new(), Vec::new(), false);
    let mut rest = input;
    while !ended {
        let n = piece().clamp(1, rest.len().max(1)).min(rest.len());
        waiting.extend(&rest[..n]);
        rest = &rest[n..];
        loop {
            let step = decoder.decode(&waiting, &mut trailers)?;
            data.extend(&waiting[step.data.clone()]);
            waiting.drain(..step.consumed);
            ended = step.ended;
            if step.consumed == 0 || ended {
                break;
            }
        }
        if n == 0 {
            break;
        }
    }
    Ok((data, trailers, ended))
}

#[test]
fn chunks_in_any_pieces() {
    let input = b"4;ext=1\r\nwiki\r\n005\r\npedia\r\n0\r\nX-T: v\r\n\r\n";
    for size in 1..input.len() {
        let (data, trailers, ended) = decode(Framing::Chunked, input, || size).unwrap();
        assert_eq!(data, b"wikipedia");
        assert_eq!(trailers.get(b"x-t"), Some(&b"v"[..]));
        assert!(ended);
    }
}

#[test]
fn what_others_rely_on_is_not_for_this_connection_only() {
    for name in ["Host", "content-length", "x-forwarded-for", "X-Forwarded-Proto", "x-forwarded-client-cert"] {
        let head =
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n");
        let (info, _) = request(head.as_bytes());
        assert_eq!(info.unwrap_err().reason, "http1.connection_header_rejected", "{name}");
    }
}

#[test]
fn the_limits_of_chunks_do_not_depend_on_where_the_input_is_cut() {
    let limits = Limits { chunk_line_size: 3, header_list_size: 48, ..Limits::default() };
    let is_refused = |wire: &[u8], piece: usize| {
        let mut decoder = BodyDecoder::new(Framing::Chunked, &limits);
        let (mut used, mut trailers) = (0, Headers::new());
        for known in (0..=wire.len()).filter(|known| known % piece == 0 || *known == wire.len()) {
            while let Some(rest) = wire.get(used..known) {
                match decoder.decode(rest, &mut trailers) {
                    Err(_) => return true,
                    Ok(step) if step.consumed == 0 || step.ended => break,
                    Ok(step) => used += step.consumed,
                }
            }
        }
        false
    };
    let padded = format!("0\r\nx:{}y\r\n\r\n", " ".repeat(60));
    for (wire, refused) in
        [("5;a\r\nhello\r\n0\r\n\r\n", false), ("5;ab\r\nhello\r\n0\r\n\r\n", true), (padded.as_str(), true)]
    {
        for piece in [1, 4, 1000] {
            assert_eq!(is_refused(wire.as_bytes(), piece), refused, "{wire:?} in pieces of {piece}");
        }
    }
}

#[test]
fn malformed_chunks_are_refused() {
    for input in [
        "4\nwiki\r\n0\r\n\r\n",
        "4\r\nwikiX",
        "0x4\r\nwiki\r\n",
        "-1\r\n",
        "+4\r\nwiki\r\n",
        " 4\r\nwiki\r\n",
        "4 x\r\nwiki\r\n",
        "4\rX\r\n",
        "4;a\0\r\n",
        "11111111111111111\r\n",
        "g\r\n",
        "\r\n",
        "0\r\nTransfer-Encoding: x\r\n\r\n",
        "0\r\nContent-Length: 1\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nUpgrade: h2c\r\n\r\n",
        "0\r\nKeep-Alive: 1\r\n\r\n",
        "0\r\na: b\r\n c\r\n\r\n",
        "0\r\na : b\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "4;a\n\r\nwiki\r\n",
        "4;\rb\r\nwiki\r\n",
        "4 \r\nwiki\r\n",
        "4,4\r\nwiki\r\n",
        "4\r\nwik\r\n0\r\n\r\n",
        "3\r\nwiki\r\n0\r\n\r\n",
        "0\r\na: b\n\r\n",
    ] {
        assert!(decode(Framing::Chunked, input.as_bytes(), || 1).is_err(), "{input:?}");
        assert!(decode(Framing::Chunked, input.as_bytes(), || 1000).is_err(), "{input:?}");
    }
    let long = format!("4;{}\r\n", "e".repeat(2000));
    assert!(decode(Framing::Chunked, long.as_bytes(), || 7).is_err());
}

#[test]
fn lengths_and_truncation() {
    for (length, is_one) in
        [("9223372036854775807", true), ("9223372036854775808", false), ("00000000000000000007", true)]
    {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        assert_eq!(request(head.as_bytes()).0.is_ok(), is_one, "{length}");
    }
    let (data, _, ended) = decode(Framing::Length(5), b"hello world", || 3).unwrap();
    assert_eq!((&data[..], ended), (&b"hello"[..], true));
    let mut decoder = BodyDecoder::new(Framing::Length(5), &Limits::default());
    decoder.decode(b"he", &mut Headers::new()).unwrap();
    assert!(decoder.finish_at_eof().is_err());
    let mut decoder = BodyDecoder::new(Framing::UntilClose, &Limits::default());
    assert_eq!(decoder.decode(b"he", &mut Headers::new()).unwrap().data, 0..2);
    assert!(decoder.finish_at_eof().is_ok());
}

#[test]
fn what_is_written_can_be_read() {
    let (_, head) = request(b"POST /p HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut out = Vec::new();
    let framing = request_framing(&head, false);
    write_request(&mut out, &head, framing);
    let mut encoder = BodyEncoder::new(framing);
    encoder.encode(&mut out, &[b'x'; 300]).unwrap();
    encoder.finish(&mut out, None).unwrap();
    let (info, again) = request(&out);
    let info = info.unwrap().unwrap();
    assert_eq!(info.framing, Framing::Chunked);
    assert_eq!(again.headers, head.headers);
    let (data, _, ended) = decode(info.framing, &out[info.consumed..], || 11).unwrap();
    assert_eq!((data.len(), ended), (300, true));
}

#[test]
fn responses_are_written_for_their_client() {
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    head.headers.append(b"x-a", b"1");
    let write = |head: &ResponseHead, method, version, ended| {
        let framing = response_framing(head, method, version, ended);
        let mut out = Vec::new();
        write_response(&mut out, head, framing, version, framing != Framing::UntilClose);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(
        write(&head, Method::Get, Version::Http11, false),
        "HTTP/1.1 200 OK\r\nx-a: 1\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    assert_eq!(
        write(&head, Method::Get, Version::Http10, false),
        "HTTP/1.0 200 OK\r\nx-a: 1\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(
        write(&head, Method::Get, Version::Http11, true),
        "HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 0\r\n\r\n"
    );
    assert_eq!(write(&head, Method::Head, Version::Http11, false), "HTTP/1.1 200 OK\r\nx-a: 1\r\n\r\n");
}

/// Routes and filters write among the fields; what they write cannot reframe a message.
#[test]
fn framing_is_said_by_the_codec_alone() {
    let (_, mut head) = request(b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n");
    for (name, value) in [
        ("content-length", "7"),
        ("transfer-encoding", "chunked"),
        ("connection", "close"),
        ("host", "other"),
        ("http2-settings", "AA"),
    ] {
        head.headers.append(name.as_bytes(), value.as_bytes());
    }
    for (framing, wanted) in [
        (Framing::Chunked, "transfer-encoding: chunked\r\n"),
        (Framing::Length(5), "content-length: 5\r\n"),
        (Framing::Length(u64::MAX), "content-length: 18446744073709551615\r\n"),
        (Framing::None, "content-length: 0\r\n"),
    ] {
        let mut out = Vec::new();
        write_request(&mut out, &head, framing);
        assert_eq!(String::from_utf8(out).unwrap(), format!("POST /p HTTP/1.1\r\nhost: h\r\n{wanted}\r\n"));
    }
    head.headers.set(b"content-length", b"+5");
    assert_eq!(request_framing(&head, false), Framing::Chunked);
}

#[test]
fn requests_without_a_body_say_so_where_one_could_be() {
    const NONE: &str = "content-length: 0\r\n";
    for (method, wanted) in [("GET", ""), ("DELETE", ""), ("OPTIONS", NONE), ("PURGE", NONE), ("POST", NONE)] {
        let (_, head) = request(format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
        let mut out = Vec::new();
        write_request(&mut out, &head, request_framing(&head, true));
        assert_eq!(String::from_utf8(out).unwrap(), format!("{method} / HTTP/1.1\r\nhost: h\r\n{wanted}\r\n"));
    }
}

#[test]
fn a_space_in_the_target_is_no_other_version() {
    for (line, status) in [("GET /a b HTTP/1.1", 400), ("GET / HTTP/3.0", 505), ("GET / http/1.1", 400)] {
        let refused = request(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()).0;
        assert_eq!(refused.unwrap_err().status, status, "{line}");
    }
}

#[test]
fn old_clients_close_by_proxy_connection() {
    let (info, head) = request(b"GET / HTTP/1.1\r\nHost: h\r\nProxy-Connection: close\r\n\r\n");
    assert!(!info.unwrap().unwrap().keep_alive);
    assert!(head.headers.is_empty());
}

#[test]
fn lengths_without_a_body() {
    for (status, method, wanted) in [
        (200, Method::Head, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n"),
        (304, Method::Get, "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n"),
        (204, Method::Get, "HTTP/1.1 204 No Content\r\n\r\n"),
        (103, Method::Get, "HTTP/1.1 103 Early Hints\r\n\r\n"),
    ] {
        let mut head = ResponseHead { status, ..ResponseHead::default() };
        head.headers.append(b"content-length", b"5");
        let framing = response_framing(&head, method, Version::Http11, true);
        assert_eq!(framing, Framing::None);
        let mut out = Vec::new();
        write_response(&mut out, &head, framing, Version::Http11, true);
        assert_eq!(String::from_utf8(out).unwrap(), wanted);
    }
}

#[test]
fn lengths_are_kept_on_the_way_out() {
    let mut encoder = BodyEncoder::new(Framing::Length(3));
    let mut out = Vec::new();
    encoder.encode(&mut out, b"ab").unwrap();
    assert_eq!(encoder.clone().finish(&mut out, None), Err(LengthMismatch));
    assert_eq!(encoder.encode(&mut out, b"cd"), Err(LengthMismatch));
    assert_eq!(out, b"ab");
}

/// Mutated messages never panic, and pieces never change what they mean.
#[test]
fn mutations() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    let seeds: [&[u8]; 3] = [
        b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: x\r\nX: y\r\n\r\n",
        b"POST http://h/ HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    ];
    for round in 0..30_000 {
        let mut bytes = seeds[round % seeds.len()].to_vec();
        for _ in 0..=random(4) {
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes.insert(at, b"\r\n :;,\0\t"[random(8)]),
                _ => {
                    bytes.remove(at);
                }
            }
        }
        let whole = request(&bytes).0;
        if let Ok(Some(info)) = whole {
            // The same head, arriving octet by octet, is complete at the same octet.
            for end in 0..info.consumed {
                assert_eq!(request(&bytes[..end]).0, Ok(None), "{:?}", String::from_utf8_lossy(&bytes));
            }
            let body = &bytes[info.consumed..];
            let together = decode(info.framing, body, || usize::MAX);
            let apart = decode(info.framing, body, || 1);
            assert_eq!(together.is_ok(), apart.is_ok(), "{:?}", String::from_utf8_lossy(&bytes));
        }
        let _any = response(&String::from_utf8_lossy(&bytes), Method::Get);
    }
}

#[test]
fn a_head_that_comes_octet_by_octet_is_not_parsed_for_each() {
    let field = "x-a: 0123456789\r\n";
    let head = format!("GET / HTTP/1.1\r\nhost: h\r\n{}\r\n", field.repeat(2000)).into_bytes();
    let (mut tried, mut parsed) = (0, 0);
    for end in 1..=head.len() {
        if is_worth_parsing(&head[..end], tried) {
            parsed += 1;
            tried = end;
        }
    }
    assert_eq!(tried, head.len(), "the end is noticed with its last octet");
    assert!(parsed < 30, "{parsed} times");
}

#[test]
fn the_end_of_a_head_is_noticed_wherever_it_is_cut() {
    for head in [&b"GET / HTTP/1.1\r\nhost: h\r\n\r\n"[..], b"GET / HTTP/1.1\nhost: h\n\n"] {
        for tried in 1..head.len() {
            assert!(is_worth_parsing(head, tried), "{tried}");
        }
    }
}

#[test]
fn behind_an_agreement_to_connect_stands_a_tunnel() {
    let (info, head) =
        request(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\nConnection: upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n");
    let info = info.unwrap().unwrap();
    assert!(info.framing == Framing::None && !info.upgrade && head.headers.is_empty());
    for (answer, framing) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Framing::None),
        ("HTTP/1.1 204 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Framing::None),
        ("HTTP/1.1 403 No\r\nContent-Length: 5\r\n\r\n", Framing::Length(5)),
    ] {
        let mut head = ResponseHead::default();
        let info = parse_response(answer.as_bytes(), Method::Connect, false, &Limits::default(), &mut head);
        assert_eq!(info.unwrap().unwrap().framing, framing, "{answer}");
        assert_eq!(head.headers.contains_known(Known::ContentLength), framing != Framing::None);
        assert_eq!(response_framing(&head, Method::Connect, Version::Http11, false), framing);
    }
}
