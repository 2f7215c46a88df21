//! The app's end of a tunnel: reads until the other half closes, then answers
//! and closes its own.

use super::app::Fate;
use super::environment::{note, Environment};
use super::payload::{body, Expected, Way};
use super::plan::Behaviour;
use super::wire::Wire;

#[derive(Default)]
pub struct AppTcp {
    /// The number that raw connections begin with.
    prefix: Vec<u8>,
    session: Option<(u32, Expected)>,
    answered: bool,
    ended: bool,
}

impl AppTcp {
    /// A tunnel whose request has named it.
    pub fn upgraded(env: &Environment, id: u32) -> AppTcp {
        let expected = Expected::new(id, Way::Request, env.ledger.spec(id).request.length);
        AppTcp { prefix: Vec::new(), session: Some((id, expected)), answered: false, ended: false }
    }

    /// Both halves are closed, once what is on its way out is out.
    pub fn is_over(&self) -> bool {
        self.ended && self.answered
    }

    /// Says all it has to say and closes its half.
    fn answer(&mut self, env: &Environment, wire: &mut Wire, id: u32) {
        if !std::mem::replace(&mut self.answered, true) {
            wire.out.extend(body(id, Way::Response, env.ledger.spec(id).response.length));
            wire.ends = true;
        }
    }

    pub fn receive(&mut self, env: &mut Environment, wire: &mut Wire, octets: &[u8]) {
        let mut rest = octets;
        if self.session.is_none() {
            let missing = 4 - self.prefix.len();
            let (head, tail) = rest.split_at(missing.min(rest.len()));
            self.prefix.extend_from_slice(head);
            rest = tail;
            let Ok(prefix) = <[u8; 4]>::try_from(self.prefix.as_slice()) else { return };
            let id = u32::from_be_bytes(prefix);
            note!(env, "app", "serves {id} on {:?}", wire.id);
            env.ledger.attempt(id);
            self.session = Some((id, Expected::new(id, Way::Request, env.ledger.spec(id).request.length)));
        }
        if let Some((_, expected)) = &mut self.session {
            expected.take(rest);
        }
    }

    pub fn advance(&mut self, env: &mut Environment, wire: &mut Wire, ended: bool) -> Fate {
        let Some((id, expected)) = &self.session else {
            return if ended { Fate::Close } else { Fate::Goes };
        };
        let (id, is_complete) = (*id, expected.is_complete());
        if env.ledger.spec(id).behaviour(1) == Behaviour::AnswerEarly {
            self.answer(env, wire, id);
        }
        if ended && !std::mem::replace(&mut self.ended, true) {
            if !is_complete {
                // The other side was cut off, and says so by closing.
                return Fate::Abort;
            }
            env.ledger.complete(id);
            self.answer(env, wire, id);
        }
        Fate::Goes
    }
}
