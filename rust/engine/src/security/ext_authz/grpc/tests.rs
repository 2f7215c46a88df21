use pymesh_http::{Headers, ResponseHead};

use super::*;
use crate::base::grpc::frame;
use crate::base::protobuf::Message;

/// What came of a `CheckResponse`.
fn decided(write: impl FnOnce(&mut Message)) -> Decision {
    let mut message = Message::default();
    write(&mut message);
    decision(&told(&frame(&message.into_octets())))
}

fn told(body: &[u8]) -> Told {
    let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
    head.headers.append(b"content-type", b"application/grpc");
    let mut trailers = Headers::new();
    trailers.append(b"grpc-status", b"0");
    Told { head, body: body.to_vec(), is_cut: false, trailers }
}

fn status(message: &mut Message, code: u64) {
    message.message(1, |status| status.number(1, code));
}

fn option(part: &mut Message, field: u32, name: &str, value: &str, more: impl FnOnce(&mut Message)) {
    part.message(field, |option| {
        option.message(1, |header| header.entry_of(name, value));
        more(option);
    });
}

impl Message {
    fn entry_of(&mut self, key: &str, value: &str) {
        self.octets(1, key.as_bytes());
        self.octets(2, value.as_bytes());
    }
}

fn append(option: &mut Message, append: bool) {
    option.message(2, |flag| flag.number(1, append.into()));
}

fn field(name: &str, value: &str) -> Field {
    (name.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn changes(decision: Decision) -> Changes {
    assert!(decision.is_sound);
    match decision.verdict {
        Verdict::Allowed(changes) => changes,
        other => panic!("{other:?}"),
    }
}

fn denial(decision: Decision) -> Denial {
    match decision.verdict {
        Verdict::Denied(denial) => denial,
        other => panic!("{other:?}"),
    }
}

#[test]
fn only_a_whole_answer_that_says_so_allows() {
    let passes = Verdict::Allowed(Changes::default());
    assert_eq!(decided(|message| status(message, 0)).verdict, passes);
    assert_eq!(decided(|message| message.message(3, |_| {})).verdict, passes, "a status may be left out");
    assert_eq!(decided(|_| {}), Decision::failed(), "it says nothing");
    let mut cut = told(&frame(b""));
    cut.is_cut = true;
    assert_eq!(decision(&cut), Decision::failed());
    for garbage in [&b""[..], &frame(b""), b"\0\0\0\0\x01", &frame(b"\xff\xff\xff"), &frame(b"\x0a\x05\x08")] {
        assert_eq!(decision(&told(garbage)), Decision::failed(), "{garbage:?}");
    }
    let mut unwell = told(&frame(b""));
    unwell.trailers.set(b"grpc-status", b"14");
    assert_eq!(decision(&unwell), Decision::failed());
    // What is of the wrong kind is no answer, whatever else is said.
    assert_eq!(decided(|message| message.number(1, 1)), Decision::failed());
    assert_eq!(decided(|message| message.number(3, 1)), Decision::failed());
}

#[test]
fn a_code_denies_and_what_is_denied_says_how() {
    assert_eq!(denial(decided(|message| status(message, 7))).status, Some(403));
    let with_ok = decided(|message| {
        status(message, 7);
        message.message(3, |_| {});
    });
    assert_eq!(denial(with_ok), Denial { status: Some(403), ..Denial::default() });
    let said = denial(decided(|message| {
        status(message, 16);
        message.message(2, |denied| {
            denied.message(1, |status| status.number(1, 401));
            option(denied, 2, "Set-Cookie", "a=1", |_| {});
            option(denied, 2, "set-cookie", "b=2", |_| {});
            option(denied, 2, "x-appended", "1", |option| append(option, true));
            option(denied, 2, "content-length", "9", |_| {});
            option(denied, 2, ":status", "200", |_| {});
            denied.octets(3, b"go");
        });
    }));
    let headers = vec![field("set-cookie", "a=1"), field("set-cookie", "b=2")];
    assert_eq!(said, Denial { status: Some(401), headers, body: b"go".to_vec() });
    // A status that ends nothing would leave the client waiting.
    for (code, expected) in [(0, 403), (100, 403), (200, 200), (599, 599), (600, 403), (70_000, 403)] {
        let said = denial(decided(|message| {
            status(message, 7);
            message.message(2, |denied| denied.message(1, |status| status.number(1, code)));
        }));
        assert_eq!(said.status, Some(expected), "{code}");
    }
}

#[test]
fn what_contradicts_itself_does_not_allow() {
    for code in [None, Some(0)] {
        let said = |part: u32| {
            decided(|message| {
                if let Some(code) = code {
                    status(message, code);
                }
                message.message(part, |_| {});
            })
        };
        assert_eq!(denial(said(2)).status, Some(403));
        assert_eq!(said(5), Decision::failed());
    }
}

#[test]
fn the_service_may_say_that_it_failed() {
    let said = decided(|message| {
        status(message, 13);
        message.message(5, |error| {
            error.message(1, |status| status.number(1, 503));
            error.octets(3, b"down");
        });
    });
    let denial = Denial { status: Some(503), headers: vec![], body: b"down".to_vec() };
    assert_eq!(said.verdict, Verdict::Failed(denial));
    let silent = decided(|message| {
        status(message, 13);
        message.message(5, |_| {});
    });
    assert_eq!(silent.verdict, Verdict::Failed(Denial::default()), "the filter's status counts");
}

#[test]
fn headers_of_a_request_are_set_or_joined() {
    let said = changes(decided(|message| {
        message.message(3, |ok| {
            option(ok, 2, "X-User", "ann", |option| option.number(3, 1));
            option(ok, 2, "x-list", "1", |option| append(option, true));
            option(ok, 2, "x-off", "2", |option| append(option, false));
            option(ok, 2, "transfer-encoding", "chunked", |_| {});
            ok.octets(5, b"X-Secret");
        });
    }));
    assert_eq!(said.set, [field("x-user", "ann"), field("x-off", "2")]);
    assert_eq!(said.join, [field("x-list", "1")]);
    assert_eq!(said.remove, [b"x-secret".to_vec()]);
    assert!(said.touches_request());
}

#[test]
fn headers_of_a_response_are_changed_in_order_of_the_kinds() {
    use AppendAction::*;
    let said = changes(decided(|message| {
        message.message(3, |ok| {
            option(ok, 6, "x-over", "1", |option| option.number(3, 3));
            option(ok, 6, "x-absent", "1", |option| option.number(3, 1));
            option(ok, 6, "x-set", "1", |option| option.number(3, 2));
            option(ok, 6, "x-add", "1", |_| {});
            option(ok, 6, "x-old-set", "1", |option| append(option, false));
            option(ok, 6, "x-old-add", "1", |option| append(option, true));
        });
    }));
    let names = |(action, (name, _)): &(AppendAction, Field)| (*action, String::from_utf8(name.clone()).unwrap());
    assert_eq!(
        said.response.iter().map(names).collect::<Vec<_>>(),
        [
            (AppendIfExistsOrAdd, "x-add".to_owned()),
            (AppendIfExistsOrAdd, "x-old-add".to_owned()),
            (OverwriteIfExistsOrAdd, "x-set".to_owned()),
            (OverwriteIfExistsOrAdd, "x-old-set".to_owned()),
            (AddIfAbsent, "x-absent".to_owned()),
            (OverwriteIfExists, "x-over".to_owned()),
        ]
    );
    assert!(!said.touches_request());
}

#[test]
fn what_no_header_can_have_makes_the_answer_unsound() {
    let sound = |name: &str, value: &str, part: u32, field: u32| {
        let said = decided(|message| {
            status(message, u64::from(part == 2) * 7);
            message.message(part, |inner| option(inner, field, name, value, |_| {}));
        });
        said.is_sound
    };
    for (part, field) in [(3, 2), (3, 6), (2, 2)] {
        assert!(sound("x-a", "b c\t\u{e9}", part, field));
        for (name, value) in [("x a", "b"), ("", "b"), (":", "b"), ("x-a", "b\nc"), ("x-a", "b\r"), ("x-a", "\0")] {
            assert!(!sound(name, value, part, field), "{name:?}: {value:?}");
        }
    }
    assert!(!decided(|message| message.message(3, |ok| option(ok, 6, "x", "y", |o| o.number(3, 9)))).is_sound);
    let query = |key: &str, value: &str| {
        let said = decided(|message| message.message(3, |ok| ok.message(7, |pair| pair.entry_of(key, value))));
        said.is_sound
    };
    assert!(query("a", "b%20c"));
    assert!(!query("a", "b c") && !query("a&b", "c") && !query("a", "b#"));
}

#[test]
fn what_filters_behind_are_told_is_read_as_it_is_written() {
    let said = decided(|message| {
        message.message(4, |fields| {
            fields.message(1, |entry| {
                entry.octets(1, b"list");
                entry.message(2, |value| {
                    value.message(6, |list| {
                        list.message(1, |one| one.double(2, 1.5));
                        list.message(1, |one| one.chosen_octets(3, b"text"));
                        list.message(1, |one| one.chosen_number(4, 1));
                        list.message(1, |one| one.chosen_number(1, 0));
                    });
                });
            });
        });
    });
    let list = Value::List([Value::Number(1.5), Value::from("text"), Value::Bool(true), Value::Null].into());
    assert_eq!(said.metadata, [("list".into(), list)].into_iter().collect());
}

#[test]
fn values_are_not_nested_without_end() {
    fn nest(message: &mut Message, depth: usize) {
        message.message(6, |list| {
            list.message(1, |one| {
                if depth > 0 {
                    nest(one, depth - 1)
                }
            })
        });
    }
    let nested = |depth: usize| {
        decided(|message| {
            status(message, 0);
            message.message(4, |fields| {
                fields.message(1, |entry| {
                    entry.octets(1, b"k");
                    entry.message(2, |value| nest(value, depth));
                });
            });
        })
    };
    assert!(matches!(nested(20).verdict, Verdict::Allowed(_)));
    assert_eq!(nested(40), Decision::failed());
}

/// Answers that do not allow, as octets: with the status in front, behind, and left out.
fn refusals() -> Vec<Vec<u8>> {
    let denied = |message: &mut Message| {
        message.message(2, |denied| {
            denied.message(1, |status| status.number(1, 401));
            option(denied, 2, "x-why", "because", |_| {});
            denied.octets(3, b"go away");
        });
    };
    let written = |parts: &[&dyn Fn(&mut Message)]| {
        let mut message = Message::default();
        parts.iter().for_each(|part| part(&mut message));
        message.into_octets()
    };
    let seven = |message: &mut Message| status(message, 7);
    vec![written(&[&seven, &denied]), written(&[&denied, &seven]), written(&[&denied]), written(&[&seven])]
}

#[test]
fn a_refusal_that_was_cut_short_does_not_allow() {
    for whole in refusals() {
        for length in 0..=whole.len() {
            let said = decision(&told(&frame(&whole[..length])));
            // Of `status: {code: 7}` what is left without its code is no message.
            assert!(!matches!(said.verdict, Verdict::Allowed(_)), "{length} of {whole:?}");
        }
    }
}

#[test]
fn whatever_octets_come_there_is_a_decision() {
    let mut state = 1_u64;
    let mut random = || {
        // Numbers of Knuth's MMIX.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    let seeds = refusals();
    let mut verdicts = [0; 3];
    for _ in 0..20_000 {
        let mut octets = seeds[random() % seeds.len()].clone();
        for _ in 0..=random() % 4 {
            let at = random() % octets.len();
            match random() % 3 {
                0 => octets[at] = random() as u8,
                1 => octets.insert(at, random() as u8),
                _ => octets.truncate(at.max(1)),
            }
        }
        match decision(&told(&frame(&octets))).verdict {
            Verdict::Allowed(_) => verdicts[0] += 1,
            Verdict::Denied(_) => verdicts[1] += 1,
            Verdict::Failed(_) => verdicts[2] += 1,
        }
    }
    assert!(verdicts[1] > 100 && verdicts[2] > 100, "{verdicts:?}");
    assert!(verdicts[0] < 2_000, "few of them happen to say OK: {verdicts:?}");
}
