//! The proxy as a deterministic state machine.
//!
//! Bytes, time and randomness go in; bytes, timers and records come out.
//! Sockets, threads and the clock stay outside, so the same engine serves
//! production (`rust/net`), the simulator (`pymesh.testing`) and replay.
//!
//! Start at [`Engine`] for the interface of a driver, at
//! `LIFE_OF_A_REQUEST.md` for what happens to a request.
#![forbid(unsafe_code)]

pub mod base;
mod capture;
mod census;
mod check;
mod cluster;
mod conn;
mod deadlines;
mod decisions;
mod engine;
mod exchange;
pub mod filter;
mod generations;
pub mod health;
mod http_filter;
mod jwks;
mod listener;
mod otlp;
pub mod overload;
mod route;
mod security;
pub mod shared;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod tracing;

pub use census::Census;
pub use conn::{Conn, ConnKey};
pub use decisions::{Decision, FilterStep};
pub use engine::{Action, Engine, Options};
pub use exchange::{Asker, CallAnswer, CallQuestion, Exchange, ExchangeKey, NoAnswer};
pub use listener::{ListenerKey, ListenerRuntime};
