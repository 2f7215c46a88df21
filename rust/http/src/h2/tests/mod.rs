//! Both ends against each other and against hand-made frames.

mod abuse;
mod exchange;
mod robustness;

use super::frame::{FrameHeader, PREFACE};
use super::*;

/// Frames as a peer would write them.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut octets = FrameHeader { length: payload.len() as u32, kind, flags, stream }.encode().to_vec();
    octets.extend_from_slice(payload);
    octets
}

/// A server that has seen the client's preface and settings.
pub(super) fn server() -> (Connection, Scratch) {
    let (mut connection, mut scratch) = (Connection::new(Config::new(Role::Server)), Scratch::default());
    let hello = [PREFACE.as_slice(), &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat();
    assert_eq!(connection.receive(&mut &hello[..], &mut scratch), Ok(Some(Event::SettingsChanged)));
    feed(&mut connection, &frame(4, 1, 0, &[])).unwrap();
    drain(&mut connection);
    (connection, scratch)
}

/// `:method: GET, :scheme: http, :path: /`.
pub(super) const GET: &[u8] = &[0x82, 0x86, 0x84];
/// The same with POST.
pub(super) const POST: &[u8] = &[0x83, 0x86, 0x84];

/// Feeds everything and prints each event.
pub(super) fn feed(connection: &mut Connection, octets: &[u8]) -> Result<Vec<String>, ConnectionError> {
    let (mut input, mut scratch, mut events) = (octets, Scratch::default(), Vec::new());
    while let Some(event) = connection.receive(&mut input, &mut scratch)? {
        events.push(format!("{event:?}"));
    }
    assert!(input.is_empty());
    Ok(events)
}

pub(super) fn drain(connection: &mut Connection) -> Vec<u8> {
    let octets = connection.output().to_vec();
    connection.advance_output(octets.len());
    octets
}
