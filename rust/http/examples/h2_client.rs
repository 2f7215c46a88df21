//! A blocking HTTP/2 client over cleartext, for conformance suites and by hand:
//! `cargo run --example h2_client -- HOST:PORT` (or its URL). It sends a GET and a POST,
//! prints what comes back and ends when both are answered.
#![allow(clippy::print_stdout)]

use std::io::{Read, Write};
use std::net::TcpStream;

use pymesh_http::h2::{Config, Connection, Event, Role, Scratch, StreamId};
use pymesh_http::RequestHead;

fn request(method: &[u8], authority: &[u8]) -> RequestHead {
    let mut head = RequestHead::default();
    head.set_method(method);
    head.set_path(b"/");
    head.set_authority(authority);
    head.headers.append(b"user-agent", b"pymesh-h2-client");
    head
}

fn main() -> std::io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let address = address.strip_prefix("http://").unwrap_or(&address);
    let address = address.split('/').next().unwrap_or(address);
    let mut socket = TcpStream::connect(address)?;
    let mut connection = Connection::new(Config::new(Role::Client));
    let mut scratch = Scratch::default();
    let mut upload: &[u8] = &[b'u'; 1000];
    let mut posting: Option<StreamId> = None;
    let mut open = 0;
    if connection.open(&request(b"GET", address.as_bytes()), true, 1).is_ok() {
        open += 1;
    }
    if let Ok(stream) = connection.open(&request(b"POST", address.as_bytes()), false, 2) {
        posting = Some(stream);
        open += 1;
    }
    let mut buffer = vec![0; 64 * 1024];
    while open > 0 {
        if let Some(stream) = posting {
            match connection.send_data(stream, upload, true) {
                Ok(sent) => upload = upload.get(sent..).unwrap_or_default(),
                Err(_) => posting = None,
            }
            if upload.is_empty() {
                posting = None;
            }
        }
        let unsent = connection.output().len();
        socket.write_all(connection.output())?;
        connection.advance_output(unsent);
        let n = socket.read(&mut buffer)?;
        if n == 0 {
            break;
        }
        let mut input = buffer.get(..n).unwrap_or_default();
        loop {
            match connection.receive(&mut input, &mut scratch) {
                Ok(Some(event)) => open -= handle(&mut connection, event, &scratch),
                Ok(None) => break,
                Err(failure) => {
                    println!("{failure}");
                    socket.write_all(connection.output())?;
                    socket.shutdown(std::net::Shutdown::Write)?;
                    // Closing with octets unread would take the GOAWAY back.
                    while socket.read(&mut buffer)? > 0 {}
                    return Ok(());
                }
            }
        }
    }
    connection.go_away(pymesh_http::h2::ErrorCode::NO_ERROR);
    socket.write_all(connection.output())
}

/// How many exchanges have ended by this event.
fn handle(connection: &mut Connection, event: Event<'_>, scratch: &Scratch) -> usize {
    match event {
        Event::Response { tag, end_stream, .. } => {
            println!("{tag}: {} {:?}", scratch.response.status, scratch.response.headers);
            usize::from(end_stream)
        }
        Event::Data { stream, tag, data, end_stream } => {
            println!("{tag}: {} octets", data.len());
            connection.release(stream, data.len());
            usize::from(end_stream)
        }
        Event::Trailers { .. } => 1,
        Event::Reset { tag, code, .. } => {
            println!("{tag}: reset, {code}");
            1
        }
        _ => 0,
    }
}
