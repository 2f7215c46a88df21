//! Closed and open loops: when requests begin, and where latencies begin.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use pymesh_load::{Arrivals, End, Kind, Pace, Plan, Tally};

use crate::world::{ms, plan, World, KEPT, OK};

fn open(rate: f64, connections: usize, duration: Duration) -> Plan {
    let pace = Pace::Open { rate, arrivals: Arrivals::Constant };
    Plan { pace, connections, end: End::After(duration), ..plan(KEPT, 0) }
}

/// A target that answers its n-th request `delay(n, now)` after it has come; runs the plan to its end.
fn serve(plan: Plan, mut delay: impl FnMut(u64, Duration) -> Duration) -> World {
    let mut world = World::new(plan);
    let mut due = BinaryHeap::new();
    let mut asked = 0;
    loop {
        for at in 0..world.wires.len() {
            let heard = world.heard(at);
            if heard.ends_with(b"\r\n\r\n") {
                due.push(Reverse((world.now + delay(asked, world.now), at, world.wires[&at].opened)));
                asked += 1;
            }
        }
        if world.client.is_done() {
            return world;
        }
        let answer = due.peek().map(|Reverse((when, ..))| *when);
        let timer = world.next_timeout().unwrap();
        match answer.filter(|answer| *answer <= timer) {
            Some(when) => {
                let Some(Reverse((_, at, opened))) = due.pop() else { unreachable!() };
                world.wait(when.saturating_sub(world.now));
                // The client may have given it up.
                if world.wires[&at].opened == opened && world.wires[&at].is_open {
                    world.say(at, OK);
                }
            }
            None => world.wait(timer.saturating_sub(world.now)),
        }
    }
}

fn near(found: u64, wanted: Duration) {
    let (found, wanted) = (found as f64, wanted.as_nanos() as f64);
    assert!((found - wanted).abs() <= wanted * 0.002, "{found} is not {wanted}");
}

#[test]
fn percentiles_of_known_delays() {
    // 1 to 1,000 ms in a fixed disorder: 7 has no factor in common with 1,000.
    let spread = |number: u64| ms(1 + number * 7 % 1_000);
    let world = serve(open(500.0, 600, ms(10_000)), |number, _| spread(number));
    let latency = &world.tally().latency;
    assert_eq!((latency.len(), world.tally().answered()), (5_000, 5_000));
    for (quantile, wanted) in [(0.5, 500), (0.9, 900), (0.99, 990), (0.999, 999), (1.0, 1_000)] {
        near(latency.value_at_quantile(quantile), ms(wanted));
    }
    near(latency.mean() as u64, Duration::from_micros(500_500));
    assert_eq!(world.tally().waiting_most, 0);
    assert_eq!(world.tally().lag.max(), 0, "the generator was never late");
}

#[test]
fn a_stall_is_charged_to_all_that_it_held_up_by_an_open_loop_and_hidden_by_a_closed_one() {
    // It answers at once, but for the second from 2 to 3 s, in which it answers nothing.
    let stall = |_: u64, now: Duration| match (ms(2_000)..ms(3_000)).contains(&now) {
        true => ms(3_000) - now,
        false => ms(1),
    };
    let above = |tally: &Tally| tally.latency.len() - tally.latency.count_between(0, 10_000_000);
    let world = serve(open(100.0, 4, ms(10_000)), stall);
    let tally = world.tally();
    assert_eq!(tally.answered(), 1_000);
    // 100 should have started in that second; those of its last 10 ms waited less, and a few queued up behind them.
    assert!((98..=102).contains(&above(tally)), "{}", above(tally));
    let p99 = Duration::from_nanos(tally.latency.value_at_quantile(0.99));
    assert!((ms(895)..ms(910)).contains(&p99), "900 ms, and its turn after it: {p99:?}");
    near(tally.latency.max(), ms(1_000));
    assert!(tally.waiting_most >= 90);
    // From when they were sent only those four look slow that were on the way.
    assert!(tally.service.len() - tally.service.count_between(0, 10_000_000) <= 4);
    assert!(tally.service.value_at_quantile(0.99) < 10_000_000);

    let closed = Plan { pace: Pace::Closed, ..open(1.0, 4, ms(10_000)) };
    let world = serve(closed, stall);
    assert_eq!(above(world.tally()), 4, "one for each connection");
    assert!(world.tally().answered() > 35_000);
    near(world.tally().latency.value_at_quantile(0.999), ms(1));
    // What a picture over time shows.
    let bins = world.tally().series.bins();
    assert_eq!(bins.len(), 100);
    assert_eq!(bins[25].answered, 0);
}

#[test]
fn the_end_of_a_run_gives_what_has_begun_its_time() {
    // Two at a time, half a second each: of ten per second it can do four.
    let world = serve(open(10.0, 2, ms(2_000)), |_, _| ms(500));
    let tally = world.tally();
    assert_eq!((tally.begun, tally.answered(), tally.unfinished), (20, 20, 0));
    assert_eq!((tally.answered_in_time, tally.window), (6, ms(2_000)));
    near(tally.latency.max(), ms(3_200));
    near(tally.service.max(), ms(500));
}

#[test]
fn who_waits_too_long_for_room_is_given_up() {
    let plan = Plan { timeout: ms(1_000), ..open(100.0, 1, ms(1_000)) };
    let world = serve(plan, |_, _| ms(400));
    let tally = world.tally();
    assert_eq!(tally.begun, 100);
    assert_eq!(tally.answered() + world.failures(Kind::Timeout), 100);
    assert_eq!(tally.latency.len(), 100, "those that timed out are among the latencies");
    assert!(world.failures(Kind::Timeout) >= 90);
    assert!(tally.latency.max() <= 1_060_000_000, "looked for often enough: {}", tally.latency.max());
    assert!(tally.failures(Kind::Timeout).examples.iter().any(|why| why == "no connection had room for it in time"));
}

#[test]
fn a_warm_up_is_sent_and_not_counted() {
    let slow_at_first = |_: u64, now: Duration| if now < ms(1_000) { ms(300) } else { ms(2) };
    let plan = Plan { warm_up: ms(1_500), ..open(100.0, 50, ms(1_000)) };
    let world = serve(plan, slow_at_first);
    assert_eq!((world.tally().begun, world.tally().answered()), (100, 100));
    near(world.tally().latency.max(), ms(2));
    assert_eq!(world.client.seen().answered, 250);
    let closed = Plan { warm_up: ms(1_500), ..plan_of(10) };
    let world = serve(closed, slow_at_first);
    assert_eq!((world.tally().begun, world.tally().answered()), (10, 10));
    assert_eq!(world.tally().window, ms(20));
}

fn plan_of(count: u64) -> Plan {
    plan(KEPT, count)
}

#[test]
fn poisson_arrivals_are_repeatable_and_no_two_seeds_alike() {
    let run = |seed| {
        let pace = Pace::Open { rate: 200.0, arrivals: Arrivals::Poisson { seed } };
        let world = serve(Plan { pace, ..open(1.0, 3, ms(5_000)) }, |number, _| ms(1 + number % 20));
        let tally = world.tally();
        (tally.begun, pymesh_load::recorded(&tally.latency))
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
    assert!((900..1_100).contains(&run(7).0), "a thousand are expected");
}

#[test]
fn connections_take_turns() {
    let world = serve(open(100.0, 10, ms(1_000)), |_, _| ms(1));
    assert_eq!(world.tally().connections.opened, 10);
    let mut world = World::new(open(100.0, 3, ms(1_000)));
    let mut order = Vec::new();
    for _ in 0..6 {
        let at = (0..3).find(|at| !world.heard(*at).is_empty()).unwrap();
        order.push(at);
        world.say(at, OK);
        world.wait(ms(10));
    }
    assert_eq!(order[..3], order[3..]);
    order[..3].sort_unstable();
    assert_eq!(order[..3], [0, 1, 2]);
}

#[test]
fn a_target_that_is_gone_fails_requests_and_is_tried_again_ever_less_often() {
    let mut world = World::new(Plan { connections: 2, ..plan_of(20) });
    world.refuse = Some("connection refused");
    for at in 0..2 {
        world.client.failed(at, "connection reset by peer", world.time());
    }
    world.work();
    assert_eq!(world.failures(Kind::Reset), 2);
    world.wait(ms(300_000));
    assert!(world.client.is_done(), "a number of requests ends also where none is answered");
    assert_eq!((world.failures(Kind::Reset), world.failures(Kind::Connect)), (2, 18));
    assert_eq!(world.tally().begun, 20);
    assert!(world.tally().window > ms(2_000), "not as fast as it can: {:?}", world.tally().window);
}

#[test]
fn an_open_loop_fails_what_is_due_while_no_connection_is_there_and_recovers() {
    let mut world = World::new(open(100.0, 2, ms(3_000)));
    world.refuse = Some("connection refused");
    for at in 0..2 {
        world.client.failed(at, "connection reset by peer", world.time());
    }
    world.wait(ms(1_000));
    let refused = world.failures(Kind::Connect);
    assert!((90..=101).contains(&refused), "{refused}");
    world.refuse = None;
    world.wait(ms(1_000));
    assert_eq!(world.client.ready(), 2);
    let before = world.tally().failed();
    for _ in 0..50 {
        (0..2).for_each(|at| {
            if !world.heard(at).is_empty() {
                world.say(at, OK);
            }
        });
        world.wait(ms(10));
    }
    assert!(world.tally().answered() >= 50);
    assert_eq!(world.tally().failed(), before);
}

#[test]
fn a_connection_that_never_comes_up_is_given_up() {
    let mut world = World::connecting(plan_of(1));
    world.refuse = Some("connection refused");
    let connecting = pymesh_load::Client::new(plan_of(1), pymesh_load::Share { worker: 0, of: 1 }, world.time());
    world.client = connecting;
    assert!(!world.client.is_settled());
    // Nobody answers the attempt.
    while world.client.next_action().is_some() {}
    while !world.client.is_settled() {
        world.now = world.next_timeout().unwrap();
        world.client.advance(world.time());
    }
    assert!((ms(10_000)..ms(10_200)).contains(&world.now));
    assert_eq!(world.client.trouble(), Some("the connection could not be used in time"));
}

#[test]
fn an_interrupted_run_says_what_it_left() {
    let mut world = World::new(Plan { connections: 3, ..open(100.0, 3, ms(10_000)) });
    world.wait(ms(95));
    world.say(0, OK);
    world.client.interrupt(world.time());
    let tally = world.tally();
    assert!(world.client.is_done());
    assert_eq!((tally.begun, tally.answered(), tally.unfinished), (10, 1, 9));
    assert_eq!(tally.window, ms(95));
}

#[test]
fn how_late_the_generator_was_is_told() {
    let mut world = World::new(open(1_000.0, 10, ms(1_000)));
    // The driver is held up for 5 ms.
    world.now += ms(5);
    world.work();
    near(world.tally().lag.max(), ms(4));
    assert_eq!(world.tally().lag.len(), 6);
}
