//! The engine in a simulated world.
//!
//! Scripted clients, a client-side sidecar, a server-side sidecar and an app
//! exchange octets over a network that delays, cuts, refuses and resets, under
//! a virtual clock, with every decision taken from one seed. HTTP/1.1, HTTP/2,
//! TCP and upgraded connections, plain and mutual TLS, drains, changes of
//! configuration, retries and aborts are drawn by the seed as well.
//!
//! Each seed runs twice and must give the same transcript: every readiness,
//! read, write and action with its time and size, a digest of all octets that
//! are not ciphertext, what each client got, and the engines' counters. Of
//! ciphertext only the sizes are compared: its octets come from the operating
//! system's randomness, its sizes do not (see `identity.rs`).
//!
//! Each run must also keep the promises of `ledger.rs` (one outcome for each
//! request, whole and unmixed bodies, no attempt that the retry policy does not
//! allow), of `audit.rs` (bounded buffers, nothing left at the end) and of
//! `world.rs` (nothing hangs, nothing spins).
//!
//! `PYMESH_SEEDS` says how many seeds are run (200), `PYMESH_SEED` runs one.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod simulation {
    pub mod app;
    pub mod app_http1;
    pub mod app_http2;
    pub mod app_tcp;
    pub mod audit;
    pub mod chance;
    pub mod config;
    pub mod coverage;
    pub mod environment;
    pub mod http1;
    pub mod http1_client;
    pub mod http2_client;
    pub mod identity;
    pub mod ledger;
    pub mod network;
    pub mod payload;
    pub mod plan;
    pub mod python;
    pub mod sidecar;
    pub mod socket;
    pub mod tcp_client;
    pub mod tunnel;
    pub mod wire;
    pub mod world;
}

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::PathBuf;

use simulation::coverage::Coverage;
use simulation::payload::digest;
use simulation::plan::Plan;
use simulation::world::World;

/// One run of a seed; on failure the message, the plan and the transcript's end.
fn run(seed: u64) -> Result<World, String> {
    let plan = Plan::new(seed);
    let mut world = World::new(&plan);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        world.run();
        world.check();
    }));
    match outcome {
        Ok(()) => Ok(world),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            let place = keep(seed, "failure", world.env.transcript());
            let lines: Vec<&str> = world.env.transcript().lines().collect();
            let tail = lines[lines.len().saturating_sub(40)..].join("\n");
            let text = text.unwrap_or_default();
            Err(format!("seed {seed}: {text}\n{plan:#?}\n{tail}\nwhole transcript: {}", place.display()))
        }
    }
}

fn keep(seed: u64, what: &str, transcript: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("simulation-{seed}-{what}.txt"));
    std::fs::write(&path, transcript).unwrap();
    path
}

/// Runs a seed twice; both runs keep their promises and are the same.
fn check(seed: u64) -> Result<World, String> {
    let first = run(seed)?;
    let second = run(seed)?;
    let (one, two) = (first.record(), second.record());
    if one == two {
        return Ok(first);
    }
    let differs = one.lines().zip(two.lines()).position(|(a, b)| a != b).unwrap_or_default();
    let line = |text: &str| text.lines().nth(differs).unwrap_or_default().to_owned();
    let places = [keep(seed, "first", &one), keep(seed, "second", &two)];
    Err(format!("seed {seed} gave two transcripts, from line {differs}:\n{}\n{}\n{places:?}", line(&one), line(&two)))
}

/// So many seeds come to every place of `coverage.rs`.
const ENOUGH: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn same_seed_same_transcript_and_every_promise_is_kept() {
    if let Some(seed) = number("PYMESH_SEED") {
        check(seed).unwrap_or_else(|failure| panic!("{failure}"));
        return;
    }
    let first = number("PYMESH_FIRST_SEED").unwrap_or(0);
    let seeds = number("PYMESH_SEEDS").unwrap_or(200);
    let (mut coverage, mut transcripts) = (Coverage::default(), 0_u64);
    let mut failures = Vec::new();
    for seed in first..first + seeds {
        match check(seed) {
            Ok(world) => {
                coverage.add(&Plan::new(seed), &world);
                transcripts = transcripts.rotate_left(1) ^ digest(world.record().as_bytes());
            }
            Err(failure) => failures.push(failure),
        }
    }
    // Equal on every machine and in every process.
    println!("{coverage}transcripts {transcripts:x}");
    for failure in &failures {
        eprintln!("{}", failure.lines().next().unwrap_or_default());
    }
    assert!(failures.is_empty(), "{} of {seeds} seeds fail; the first:\n{}", failures.len(), failures[0]);
    assert!(seeds < ENOUGH || coverage.missing().is_empty(), "no seed has come to {:?}", coverage.missing());
}
