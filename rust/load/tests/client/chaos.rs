//! Whatever a target does: each request that begins ends once, and nothing is counted twice.

use std::time::Duration;

use pymesh_engine::base::rng::Rng;
use pymesh_load::{Arrivals, End, Pace, Plan, Protocol};

use crate::world::{ms, plan, World, OK};

fn random_plan(rng: &mut Rng) -> Plan {
    let pace = match rng.below(3) {
        0 => Pace::Closed,
        1 => Pace::Open { rate: 1_000.0, arrivals: Arrivals::Constant },
        _ => Pace::Open { rate: 1_000.0, arrivals: Arrivals::Poisson { seed: rng.bits() } },
    };
    let end = if rng.below(2) == 0 { End::Requests(1 + rng.below(300)) } else { End::After(ms(1 + rng.below(300))) };
    Plan {
        pace,
        end,
        connections: 1 + rng.below(8) as usize,
        warm_up: ms(rng.below(3) * 20),
        timeout: ms(50 + rng.below(200)),
        ..plan(Protocol::Http1 { keep_alive: rng.below(4) > 0 }, 0)
    }
}

fn disturb(world: &mut World, rng: &mut Rng) {
    world.refuse = (rng.below(8) == 0).then_some("connection refused");
    let at = rng.below(world.wires.len() as u64) as usize;
    if !world.wires[&at].is_open {
        return;
    }
    let now = world.time();
    match rng.below(20) {
        0 => world.close(at),
        1 => {
            world.client.failed(at, "connection reset by peer", now);
            world.work();
        }
        2 => world.say(at, "nonsense\r\n\r\n"),
        3 => world.say(at, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 3\r\n\r\nabc"),
        4 => world.say(at, "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"),
        5 => world.say(at, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n"),
        6 => world.say(at, "HTTP/1.1 100 Continue\r\n\r\n"),
        _ => world.say(at, OK),
    }
}

#[test]
fn every_request_ends_once() {
    for seed in 0..100 {
        let mut rng = Rng::new(seed);
        let plan = random_plan(&mut rng);
        let mut world = World::new(plan);
        let interrupted_after = if rng.below(5) == 0 { rng.below(500) } else { u64::MAX };
        let mut turns = 0;
        while !world.client.is_done() {
            if turns == interrupted_after {
                world.client.interrupt(world.time());
                break;
            }
            disturb(&mut world, &mut rng);
            world.wait(Duration::from_micros(rng.below(3_000)));
            turns += 1;
            assert!(turns < 200_000, "seed {seed}: no end");
        }
        let tally = world.tally();
        let ended = tally.answered() + tally.failed() + tally.unfinished;
        assert_eq!(tally.begun, ended, "seed {seed}");
        let timeouts = world.failures(pymesh_load::Kind::Timeout);
        assert_eq!(tally.latency.len(), tally.answered() + timeouts, "seed {seed}");
        assert!(tally.service.len() <= tally.latency.len(), "seed {seed}");
        let bins = tally.series.bins();
        assert_eq!(bins.iter().map(|bin| bin.failed).sum::<u64>(), tally.failed(), "seed {seed}");
        let in_bins = bins.iter().filter_map(|bin| Some(bin.latency.as_ref()?.len())).sum::<u64>();
        assert_eq!(in_bins, tally.latency.len(), "seed {seed}");
    }
}
