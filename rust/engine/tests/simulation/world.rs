//! One run: sets everything up, chooses who goes next, and looks at the end
//! whether every promise was kept.

use std::time::Duration;

use pymesh_engine::base::time::Time;
use pymesh_engine::telemetry::stats::Kind;

use super::app::App;
use super::chance::Chance;
use super::config;
use super::environment::Environment;
use super::http1_client::Http1Client;
use super::http2_client::Http2Client;
use super::ledger::Ledger;
use super::network::Network;
use super::plan::{ClientKind, ClientPlan, Plan};
use super::sidecar::{Order, Sidecar};
use super::tcp_client::TcpClient;

/// All timeouts together are shorter.
const LATEST: Duration = Duration::from_secs(3600);
/// Turns in which nothing moves before a run counts as spinning.
const SPINNING: u32 = 2000;

/// A script that asks.
pub trait Client {
    /// When it has something to do without being told.
    fn wake_at(&self) -> Option<Time>;

    fn turn(&mut self, env: &mut Environment);
}

pub struct World {
    pub env: Environment,
    chance: Chance,
    sidecars: [Sidecar; 2],
    app: App,
    clients: Vec<Box<dyn Client>>,
}

impl World {
    pub fn new(plan: &Plan) -> World {
        let mut chance = Chance::new(plan.seed ^ 0x5eed);
        let network = Network::new(chance.fork(), plan.weather);
        let ledger = Ledger::new(plan.specs.clone(), plan.most_attempts(), plan.faultless);
        let mut env = Environment::new(network, ledger);
        let orders = |side: usize| {
            let due = std::iter::once(Time::default()).chain(plan.changes[side].iter().copied());
            let snapshots = config::snapshots(plan, side).into_iter().map(Order::Apply);
            let mut orders: Vec<(Time, Order)> = due.zip(snapshots).collect();
            orders.extend(plan.drains[side].map(|due| (due, Order::Drain)));
            orders.sort_by_key(|(due, _)| *due);
            orders
        };
        let sidecars = [
            Sidecar::new("A", 0, plan, chance.fork(), orders(0)),
            Sidecar::new("B", 1, plan, chance.fork(), orders(1)),
        ];
        let app = App::new(2, plan, chance.fork(), &mut env);
        let client = |(at, client): (usize, &ClientPlan)| -> Box<dyn Client> {
            let (name, actor, client) = (format!("client{at}"), 3 + at, client.clone());
            match client.kind {
                ClientKind::Http1 { pipelines } => Box::new(Http1Client::new(name, actor, client, pipelines)),
                ClientKind::Http2 { streams } => {
                    Box::new(Http2Client::new(name, actor, client, chance.fork(), streams))
                }
                ClientKind::Tcp => Box::new(TcpClient::new(name, actor, client)),
            }
        };
        let clients = plan.clients.iter().enumerate().map(client).collect();
        let mut world = World { env, chance, sidecars, app, clients };
        // Listeners are there before the first client.
        world.turn(0);
        world.turn(1);
        world
    }

    fn wake_at(&self, actor: usize) -> Option<Time> {
        match actor {
            0 | 1 => self.sidecars[actor].wake_at(),
            2 => self.app.wake_at(),
            _ => self.clients[actor - 3].wake_at(),
        }
    }

    fn turn(&mut self, actor: usize) {
        let env = &mut self.env;
        match actor {
            0 | 1 => self.sidecars[actor].turn(env),
            2 => self.app.turn(env),
            _ => self.clients[actor - 3].turn(env),
        }
    }

    /// Runs until nothing can happen any more.
    pub fn run(&mut self) {
        let actors = 3 + self.clients.len();
        let (mut idle_turns, mut last_activity) = (0, 0);
        loop {
            self.env.network.deliver(self.env.now);
            let wakes: Vec<Option<Time>> = (0..actors).map(|actor| self.wake_at(actor)).collect();
            let now = self.env.now;
            let edges = self.env.network.ready();
            let is_ready = |actor: &usize| edges >> *actor & 1 == 1 || wakes[*actor].is_some_and(|due| due <= now);
            let ready: Vec<usize> = (0..actors).filter(is_ready).collect();
            if ready.is_empty() {
                let next = wakes.iter().flatten().copied().chain(self.env.network.next_arrival()).min();
                let Some(next) = next else { return };
                assert!(next <= Time::default() + LATEST, "something is left at {next:?}:\n{}", self.dump());
                self.env.now = next;
                idle_turns = 0;
                continue;
            }
            let actor = *self.chance.pick(&ready);
            self.turn(actor);
            // Work takes time, and so does whatever else runs on the machine.
            self.env.now = self.env.now + Duration::from_nanos(self.chance.below(20_000));
            idle_turns = if self.env.network.activity == last_activity { idle_turns + 1 } else { 0 };
            last_activity = self.env.network.activity;
            assert!(idle_turns < SPINNING, "actor {actor} spins:\n{}", self.dump());
        }
    }

    /// What must hold once everything has gone quiet.
    pub fn check(&self) {
        assert!(self.env.ledger.open().is_empty(), "requests without an outcome:\n{}", self.dump());
        for sidecar in &self.sidecars {
            sidecar.check_empty();
        }
    }

    pub fn dump(&self) -> String {
        let censuses = self.sidecars.iter().map(|sidecar| format!("{:?}", sidecar.engine.census()));
        let requests = self.env.ledger.open().into_iter().map(|entry| format!("{entry:?}"));
        let lines: Vec<String> = censuses.chain(requests).chain(self.env.network.open()).collect();
        lines.join("\n")
    }

    /// The transcript and all numbers at the end.
    pub fn record(&self) -> String {
        let mut record = self.env.transcript().to_owned();
        for (name, _, value) in self.stats() {
            record.push_str(&format!("{name} {value}\n"));
        }
        record
    }

    pub fn stats(&self) -> impl Iterator<Item = (String, Kind, u64)> + '_ {
        self.sidecars.iter().flat_map(Sidecar::stats)
    }
}
