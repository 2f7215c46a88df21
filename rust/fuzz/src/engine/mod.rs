//! The engine as a whole: the input plays the driver, the network, the clients,
//! the endpoints, the clock and the operator.
//!
//! The driver is `rust/net/src/worker.rs`, step for step (see `world`). What must
//! hold at any time:
//! * buffers are bounded, turns come to an end, and no action names a
//!   connection that is not there;
//! * an endpoint, which minds every rule ([`crate::strict`], [`crate::frames`]),
//!   sees requests that the proxy itself has made and no others: each carries a
//!   secret that a route adds and that the input cannot know, so a request that
//!   a client has smuggled in a body or a head is found out (see `upstream`);
//! * a client gets answers to what it has asked, and none of another's (see `client`).
//!
//! And in the end, when everybody has gone: nothing is left, and every counter
//! of what has begun equals that of what has ended.

mod client;
mod config;
mod upstream;
mod world;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crate::input::Input;
use world::World;

/// What a route adds to every request, which the input cannot foresee.
fn secret(data: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    format!("secret-{:016x}", hasher.finish())
}

/// A configuration, then events until the input ends.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let config = config::Config::new(&mut input, secret(data));
    let mut world = World::new(config);
    while !input.is_empty() {
        step(&mut world, &mut input);
        world.work();
        world.check();
    }
    world.end();
}

fn step(world: &mut World, input: &mut Input<'_>) {
    let what = input.octet() % 32;
    let at = input.octet();
    match what {
        0 => world.accept(at),
        1..=6 => world.client_asks(at, input),
        7 => world.client_says(at, input.string()),
        8 => world.client_continues(at, input),
        9..=12 => world.connected(at),
        13 => world.refuse_connection(at),
        14..=18 => world.endpoint_answers(at, input),
        19 => world.endpoint_says(at, input.string()),
        20 => world.ends(at),
        21 => world.resets(at),
        22 => world.block(at, input.octet()),
        23 => world.unblock(at),
        24 => world.hold(at, input.octet()),
        25 => world.release(at),
        26 => world.pass(Duration::from_millis(at.into())),
        27 => world.pass(Duration::from_secs(at.into())),
        28 => world.apply(at),
        29 if at > 200 => world.drain(),
        30 if at > 200 => world.pass(Duration::from_secs(7200)),
        _ => {}
    }
}
