//! The app behind the second sidecar: answers what its scripts say, in the
//! HTTP version that it is spoken to in.

use std::collections::BTreeMap;
use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_http::h2::PREFACE;

use super::app_http1::AppHttp1;
use super::app_http2::AppHttp2;
use super::app_tcp::AppTcp;
use super::chance::Chance;
use super::config;
use super::environment::{note, Environment};
use super::plan::Plan;
use super::socket::{Input, SocketId};
use super::wire::Wire;

pub const NAME: &str = "app";

/// What became of a connection in a turn.
#[derive(PartialEq, Eq)]
pub enum Fate {
    Goes,
    Close,
    Abort,
}

enum Speech {
    Unknown(Vec<u8>),
    Http1(Box<AppHttp1>),
    Http2(Box<AppHttp2>),
    Tcp(AppTcp),
}

struct Served {
    wire: Wire,
    speech: Speech,
    wake: Option<Time>,
}

pub struct App {
    actor: usize,
    chance: Chance,
    /// Closes connections whenever it likes.
    is_moody: bool,
    window: u32,
    streams: u32,
    open: BTreeMap<SocketId, Served>,
}

impl App {
    pub fn new(actor: usize, plan: &Plan, mut chance: Chance, env: &mut Environment) -> App {
        let (web, raw) = config::app();
        for address in web.into_iter().chain([raw]) {
            env.network.listen(address, actor);
        }
        let is_moody = !plan.faultless && chance.one_in(2);
        let window = *chance.pick(&[100, 10_000, 1_000_000]);
        App { actor, chance, is_moody, window, streams: plan.streams[1], open: BTreeMap::new() }
    }

    pub fn wake_at(&self) -> Option<Time> {
        let due = |served: &Served| if served.wire.may_have_more { Some(Time::default()) } else { served.wake };
        self.open.values().filter_map(due).min()
    }

    pub fn turn(&mut self, env: &mut Environment) {
        self.accept(env);
        let mut ready = env.network.edges(self.actor);
        for id in &ready {
            env.network.take_edge(*id);
        }
        let is_due = |served: &Served| served.wire.may_have_more || served.wake.is_some_and(|due| due <= env.now);
        ready.extend(self.open.iter().filter(|(_, served)| is_due(served)).map(|(id, _)| *id));
        ready.sort();
        ready.dedup();
        self.chance.shuffle(&mut ready);
        for id in ready {
            let Some(mut served) = self.open.remove(&id) else { continue };
            if served.wake.is_some_and(|due| due <= env.now) {
                served.wake = None;
            }
            match self.serve(env, &mut served) {
                Fate::Goes => {
                    self.open.insert(id, served);
                }
                Fate::Close => {
                    note!(env, NAME, "closes {id:?}");
                    env.network.close(env.now, id);
                }
                Fate::Abort => {
                    note!(env, NAME, "aborts {id:?}");
                    env.network.abort(env.now, id);
                }
            }
        }
    }

    fn accept(&mut self, env: &mut Environment) {
        let (web, raw) = config::app();
        for address in web.into_iter().chain([raw]) {
            while let Some((id, remote)) = env.network.accept(address) {
                note!(env, NAME, "accepts {id:?} from {remote}");
                let speech = if address == raw { Speech::Tcp(AppTcp::default()) } else { Speech::Unknown(Vec::new()) };
                let wire = Wire::new(id, self.chance.size(64 * 1024).max(200));
                self.open.insert(id, Served { wire, speech, wake: None });
            }
        }
    }

    fn serve(&mut self, env: &mut Environment, served: &mut Served) -> Fate {
        let Served { wire, speech, wake } = served;
        let wants = match speech {
            Speech::Http1(http1) => http1.wants_read(),
            _ => true,
        };
        let input = if wants { wire.read(env, NAME) } else { Input::Nothing };
        let (octets, ended) = match input {
            Input::Octets(octets) => (octets, false),
            Input::Nothing => (Vec::new(), false),
            Input::End => (Vec::new(), true),
            Input::Reset => return Fate::Close,
        };
        if let Speech::Unknown(seen) = speech {
            seen.extend_from_slice(&octets);
            let known = seen.len().min(PREFACE.len());
            if seen[..known] != PREFACE[..known] {
                *speech = Speech::Http1(Box::new(AppHttp1::new(std::mem::take(seen), self.is_moody)));
            } else if known == PREFACE.len() {
                let seen = std::mem::take(seen);
                let mut http2 = Box::new(AppHttp2::new(self.window, self.streams, self.is_moody, self.chance.fork()));
                http2.receive(env, &seen);
                *speech = Speech::Http2(http2);
            } else {
                return if ended { Fate::Close } else { Fate::Goes };
            }
        } else {
            match speech {
                Speech::Http1(http1) => http1.input.extend(octets),
                Speech::Http2(http2) => http2.receive(env, &octets),
                Speech::Tcp(tcp) => tcp.receive(env, wire, &octets),
                Speech::Unknown(_) => {}
            }
        }
        let (fate, next) = match speech {
            Speech::Http1(http1) => http1.advance(env, wire, ended),
            Speech::Http2(http2) => http2.advance(env, wire, ended),
            Speech::Tcp(tcp) => (tcp.advance(env, wire, ended), None),
            Speech::Unknown(_) => (Fate::Goes, None),
        };
        *wake = wake.iter().copied().chain(next).min();
        if fate == Fate::Goes && !wire.flush(env, NAME) {
            return Fate::Close;
        }
        if let (Speech::Http1(http1), Fate::Goes) = (speech, &fate) {
            return http1.after_flush(wire);
        }
        if fate == Fate::Goes && wire.ends && wire.is_flushed() && ended {
            return Fate::Close;
        }
        fate
    }
}

/// A little later, for those that must look again.
pub fn soon(env: &Environment) -> Option<Time> {
    Some(env.now + Duration::from_micros(50))
}
