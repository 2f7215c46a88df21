//! A blocking HTTP/2 server over cleartext, for conformance suites and by hand:
//! `cargo run --example h2_server -- PORT`. It answers every request with a
//! small body, `/size/N` with N octets, once the request is complete.
#![allow(clippy::print_stdout)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use pymesh_http::h2::{Config, Connection, ErrorCode, Event, Role, Scratch, StreamId};
use pymesh_http::{Known, ResponseHead};

fn main() -> std::io::Result<()> {
    let port = std::env::args().nth(1).and_then(|port| port.parse().ok()).unwrap_or(0);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("listening on {}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        std::thread::spawn(move || serve(socket));
    }
    Ok(())
}

/// One response: what is still to be sent once its request has ended.
struct Exchange {
    size: usize,
    request_ended: bool,
    head_sent: bool,
}

fn serve(mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let mut connection = Connection::new(Config::new(Role::Server));
    let (mut scratch, mut exchanges) = (Scratch::default(), HashMap::new());
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let unsent = connection.output().len();
        socket.write_all(connection.output())?;
        connection.advance_output(unsent);
        let n = socket.read(&mut buffer)?;
        let mut input = buffer.get(..n).unwrap_or_default();
        if n == 0 {
            return Ok(());
        }
        loop {
            match connection.receive(&mut input, &mut scratch) {
                Ok(Some(event)) => handle(&mut connection, event, &scratch, &mut exchanges),
                Ok(None) => break,
                Err(_) => {
                    socket.write_all(connection.output())?;
                    return socket.shutdown(std::net::Shutdown::Write);
                }
            }
        }
        advance(&mut connection, &mut exchanges);
    }
}

fn handle(
    connection: &mut Connection,
    event: Event<'_>,
    scratch: &Scratch,
    exchanges: &mut HashMap<StreamId, Exchange>,
) {
    match event {
        Event::Request { stream, end_stream } => {
            let path = scratch.request.path();
            let size = path.strip_prefix(b"/size/").and_then(|size| std::str::from_utf8(size).ok()?.parse().ok());
            let size = size.unwrap_or(6);
            exchanges.insert(stream, Exchange { size, request_ended: end_stream, head_sent: false });
        }
        Event::HeadTooLarge { stream } => {
            let head = ResponseHead { status: 431, ..ResponseHead::default() };
            let _ = connection.send_response(stream, &head, true);
            connection.reset(stream, ErrorCode::NO_ERROR);
        }
        Event::Data { stream, data, end_stream, .. } => {
            connection.release(stream, data.len());
            if let Some(exchange) = exchanges.get_mut(&stream) {
                exchange.request_ended = end_stream;
            }
        }
        Event::Trailers { stream, .. } => {
            if let Some(exchange) = exchanges.get_mut(&stream) {
                exchange.request_ended = true;
            }
        }
        Event::Reset { stream, .. } => {
            exchanges.remove(&stream);
        }
        _ => {}
    }
}

/// Sends what the windows allow.
fn advance(connection: &mut Connection, exchanges: &mut HashMap<StreamId, Exchange>) {
    const BODY: [u8; 16_384] = [b'x'; 16_384];
    exchanges.retain(|&stream, exchange| {
        if !exchange.request_ended {
            return true;
        }
        if !exchange.head_sent {
            let mut head = ResponseHead { status: 200, ..ResponseHead::default() };
            head.headers.append_known(Known::ContentType, b"text/plain");
            head.headers.append_known(Known::ContentLength, exchange.size.to_string().as_bytes());
            if connection.send_response(stream, &head, false).is_err() {
                return false;
            }
            exchange.head_sent = true;
        }
        loop {
            let n = exchange.size.min(BODY.len());
            match connection.send_data(stream, BODY.get(..n).unwrap_or_default(), n == exchange.size) {
                Ok(sent) if sent == exchange.size => return false,
                Ok(0) => return true,
                Ok(sent) => exchange.size -= sent,
                Err(_) => return false,
            }
        }
    });
}
