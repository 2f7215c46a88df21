//! A client of the TCP proxies: says its number and its octets, closes its
//! half, and reads until the other half is closed.

use std::collections::VecDeque;

use pymesh_engine::base::time::Time;

use super::config;
use super::environment::{note, Environment};
use super::ledger::Outcome;
use super::plan::ClientPlan;
use super::socket::Input;
use super::tunnel::Tunnel;
use super::wire::Wire;
use super::world::Client;

pub struct TcpClient {
    name: String,
    actor: usize,
    plan: ClientPlan,
    queue: VecDeque<u32>,
    link: Option<(u32, Wire, Tunnel)>,
    wake: Option<Time>,
}

impl TcpClient {
    pub fn new(name: String, actor: usize, plan: ClientPlan) -> TcpClient {
        let (queue, wake) = (plan.requests.iter().copied().collect(), Some(plan.start));
        TcpClient { name, actor, plan, queue, link: None, wake }
    }
}

impl Client for TcpClient {
    fn wake_at(&self) -> Option<Time> {
        match &self.link {
            Some((_, wire, _)) if wire.may_have_more => Some(Time::default()),
            _ => self.wake,
        }
    }

    fn turn(&mut self, env: &mut Environment) {
        if self.wake.is_some_and(|due| due <= env.now) {
            self.wake = None;
        }
        for id in env.network.edges(self.actor) {
            env.network.take_edge(id);
        }
        if self.link.is_none() && self.wake.is_none() {
            let Some(id) = self.queue.pop_front() else { return };
            let socket = env.network.connect(env.now, self.actor, config::entrance()[1]);
            note!(env, &self.name, "begins {id} on {socket:?}");
            env.ledger.begin(id);
            let mut wire = Wire::new(socket, self.plan.read_size);
            wire.out.extend(id.to_be_bytes());
            self.link = Some((id, wire, Tunnel::client(id, env.ledger.spec(id))));
        }
        let Some((id, mut wire, mut tunnel)) = self.link.take() else { return };
        let outcome = match env.network.is_connected(wire.id) {
            None => None,
            Some(false) => Some(Outcome::Broken("refused")),
            Some(true) => {
                if !tunnel.is_open {
                    tunnel.open(&mut wire);
                }
                self.run(env, id, &mut wire, &mut tunnel)
            }
        };
        match outcome {
            None => self.link = Some((id, wire, tunnel)),
            Some(outcome) => {
                note!(env, &self.name, "has {outcome:?} for {id}");
                env.ledger.conclude(id, outcome);
                match outcome {
                    Outcome::Aborted => env.network.abort(env.now, wire.id),
                    _ => env.network.close(env.now, wire.id),
                }
                self.wake = Some(env.now);
            }
        }
    }
}

impl TcpClient {
    fn run(&mut self, env: &mut Environment, id: u32, wire: &mut Wire, tunnel: &mut Tunnel) -> Option<Outcome> {
        if !wire.flush(env, &self.name) {
            return Some(Outcome::Broken("write"));
        }
        if wire.is_flushed() {
            env.ledger.sent(id);
        }
        if env.ledger.spec(id).abort.is_some_and(|most| wire.written > most) {
            return Some(Outcome::Aborted);
        }
        match wire.read(env, &self.name) {
            Input::Octets(octets) => {
                tunnel.take(&octets);
                None
            }
            Input::Nothing => None,
            Input::End if !tunnel.is_complete() => Some(Outcome::Broken("cut")),
            // It may still want to read what is not sent yet.
            Input::End => wire.is_flushed().then_some(Outcome::Answered(200)),
            Input::Reset => Some(Outcome::Broken("reset")),
        }
    }
}
