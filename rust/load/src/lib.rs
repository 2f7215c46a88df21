//! The load generator of `pymesh bench`.
//!
//! A [`Plan`] says what is sent where, how fast and for how long. Each worker thread has one [`Client`]: the state of
//! its connections, its part of the schedule and what it has counted. Like the proxy's engine the client is sans-io:
//! octets and the time come in, octets and actions go out, and the same input gives the same tally. [`run`] puts
//! sockets and a clock around it.
//!
//! # What is measured
//! *Closed loop*: each place of each connection sends its next request when the last one is answered; a latency begins
//! when the request is sent. *Open loop*: requests have intended starts, evenly spaced or as a Poisson process, that no
//! answer moves. A request whose time has come and that no connection has room for waits; its latency runs from the
//! intended start all the same. So a target that stalls is charged for each request that its stall held up, not for the
//! one that happened to be on the way (Tene's "coordinated omission").
//!
//! # Invariants
//! * Each request that has begun ends once: answered, failed for one [`Kind`], or unfinished when the run was cut short.
//! * A request that timed out counts in the latencies with the time that it has had: no percentile looks better for it.
//! * How late the generator itself was is counted apart ([`Tally::lag`]): what it says of the target is worth as much.
#![forbid(unsafe_code)]

mod client;
mod connection;
mod h1;
mod h2;
mod plan;
mod request;
mod run;
mod schedule;
mod series;
mod tally;
mod worker;

pub use client::{Action, Client, Seen};
pub use plan::{End, Pace, Plan, Protocol, Share, Tls};
pub use request::Request;
pub use run::{run, Progress, RunError};
pub use schedule::Arrivals;
pub use series::{Bin, Series};
pub use tally::{recorded, Connections, Failures, Kind, Tally};
