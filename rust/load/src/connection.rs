//! One connection: TLS, if any, around a codec.

use std::borrow::Cow;

use pymesh_engine::base::time::Time;
use pymesh_tls::{Session, TlsError};

use crate::h1::H1;
use crate::h2::H2;
use crate::plan::{Plan, Protocol};
use crate::tally::Kind;

/// Plaintext handed to TLS at once.
const PIECE: usize = 64 * 1024;
/// Some servers end the handshake, some say nothing and go on.
const NO_AGREEMENT: &str = "the target does not agree to the HTTP version that was asked for by ALPN";

/// A request that has been sent, or is about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Begun {
    /// When it should have started.
    pub intended: Time,
    /// When it did.
    pub sent: Time,
    /// Which of the plan's requests it is.
    pub request: usize,
}

/// What became of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answered {
        begun: Begun,
        status: u16,
        octets: u64,
    },
    Failed {
        begun: Begun,
        failure: Failure,
    },
    /// It was not processed and goes to another connection.
    Resend(Begun),
}

/// Why a request, or all requests of a connection, failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub kind: Kind,
    pub why: Cow<'static, str>,
}

impl Failure {
    pub(crate) fn new(kind: Kind, why: impl Into<Cow<'static, str>>) -> Failure {
        Failure { kind, why: why.into() }
    }

    pub(crate) fn protocol(why: impl Into<Cow<'static, str>>) -> Failure {
        Failure::new(Kind::Protocol, why)
    }

    pub(crate) fn timeout() -> Failure {
        Failure::new(Kind::Timeout, "no answer in time")
    }
}

pub(crate) struct Connection {
    tls: Option<Session>,
    plaintext: Vec<u8>,
    codec: Codec,
}

enum Codec {
    H1(Box<H1>),
    H2(Box<H2>),
}

impl Connection {
    /// For a socket that has connected.
    pub(crate) fn new(plan: &Plan) -> Result<Connection, Failure> {
        let tls = match &plan.tls {
            None => None,
            Some(tls) => {
                let session = Session::client(tls.config.clone(), tls.server_name.as_deref(), plan.address.ip());
                Some(session.map_err(|error| Failure::new(Kind::Tls, error.to_string()))?)
            }
        };
        let codec = match plan.protocol {
            Protocol::Http1 { keep_alive } => Codec::H1(Box::new(H1::new(plan.requests.clone(), keep_alive))),
            Protocol::Http2 => Codec::H2(Box::new(H2::new(plan.requests.clone(), plan.streams))),
        };
        Ok(Connection { tls, plaintext: Vec::new(), codec })
    }

    /// Requests may be sent.
    pub(crate) fn is_ready(&self) -> bool {
        let is_secure = self.tls.as_ref().is_none_or(|session| !session.is_handshaking());
        is_secure
            && match &self.codec {
                Codec::H1(_) => true,
                Codec::H2(codec) => codec.is_ready(),
            }
    }

    /// Requests that may be started now.
    pub(crate) fn room(&self) -> usize {
        match &self.codec {
            _ if !self.is_ready() => 0,
            Codec::H1(codec) => codec.room(),
            Codec::H2(codec) => codec.room(),
        }
    }

    /// Nothing is under way, and nothing more can be started.
    pub(crate) fn is_over(&self) -> bool {
        match &self.codec {
            Codec::H1(codec) => codec.is_over(),
            Codec::H2(codec) => codec.is_over(),
        }
    }

    /// False if there was no room.
    pub(crate) fn start(&mut self, begun: Begun) -> bool {
        match &mut self.codec {
            Codec::H1(codec) => {
                codec.start(begun);
                true
            }
            Codec::H2(codec) => codec.start(begun),
        }
    }

    pub(crate) fn receive(&mut self, octets: &[u8], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        let Some(session) = &mut self.tls else { return self.codec.receive(octets, outcomes) };
        let was_handshaking = session.is_handshaking();
        self.plaintext.clear();
        let result = session.receive(octets, &mut self.plaintext);
        let is_closed = session.peer_closed();
        if was_handshaking && !session.is_handshaking() && matches!(self.codec, Codec::H2(_)) {
            // In HTTP/1.1 a server that knows no ALPN is as good as one that agrees.
            if session.alpn() != Some(b"h2") {
                return Err(Failure::new(Kind::Tls, NO_AGREEMENT));
            }
        }
        self.codec.receive(&self.plaintext, outcomes)?;
        result.map_err(|error| match error {
            TlsError::Alert(alert) if was_handshaking && alert == "NoApplicationProtocol" => {
                Failure::new(Kind::Tls, NO_AGREEMENT)
            }
            error if was_handshaking => Failure::new(Kind::Tls, error.to_string()),
            error => Failure::protocol(error.to_string()),
        })?;
        match is_closed {
            true => self.codec.end_of_input(true, outcomes),
            false => Ok(()),
        }
    }

    pub(crate) fn end_of_input(&mut self, outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        let whole = match &self.tls {
            Some(session) if session.is_handshaking() => {
                return Err(Failure::new(Kind::Tls, "the connection was closed within the TLS handshake"));
            }
            Some(session) => session.peer_closed(),
            None => true,
        };
        self.codec.end_of_input(whole, outcomes)
    }

    /// Octets for the socket.
    pub(crate) fn output(&mut self) -> &[u8] {
        let Some(session) = &mut self.tls else { return self.codec.output() };
        if session.output().is_empty() && !session.is_handshaking() {
            let output = self.codec.output();
            let piece = output.get(..PIECE).unwrap_or(output);
            let taken = piece.len();
            if taken > 0 {
                session.send(piece);
                self.codec.advance_output(taken);
            }
        }
        session.output()
    }

    pub(crate) fn advance_output(&mut self, n: usize) {
        match &mut self.tls {
            Some(session) => session.advance_output(n),
            None => self.codec.advance_output(n),
        }
    }

    /// Gives up what was to start by `limit`.
    pub(crate) fn expire(&mut self, limit: Time, outcomes: &mut Vec<Outcome>) {
        match &mut self.codec {
            Codec::H1(codec) => codec.expire(limit, outcomes),
            Codec::H2(codec) => codec.expire(limit, outcomes),
        }
    }

    /// Everything that is under way, which then is not any more.
    pub(crate) fn take_all(&mut self, mut each: impl FnMut(Begun)) {
        match &mut self.codec {
            Codec::H1(codec) => codec.take_all(&mut each),
            Codec::H2(codec) => codec.take_all(&mut each),
        }
    }
}

impl Codec {
    fn receive(&mut self, octets: &[u8], outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        match self {
            Codec::H1(codec) => codec.receive(octets, outcomes),
            Codec::H2(codec) => codec.receive(octets, outcomes),
        }
    }

    fn end_of_input(&mut self, whole: bool, outcomes: &mut Vec<Outcome>) -> Result<(), Failure> {
        match self {
            Codec::H1(codec) => codec.end_of_input(whole, outcomes),
            Codec::H2(codec) => codec.end_of_input(),
        }
    }

    fn output(&self) -> &[u8] {
        match self {
            Codec::H1(codec) => codec.output(),
            Codec::H2(codec) => codec.output(),
        }
    }

    fn advance_output(&mut self, n: usize) {
        match self {
            Codec::H1(codec) => codec.advance_output(n),
            Codec::H2(codec) => codec.advance_output(n),
        }
    }
}
