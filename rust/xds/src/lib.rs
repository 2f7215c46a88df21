//! Envoy's configuration protocol: bootstrap files and xDS in, a `Snapshot` out.
//!
//! [`load_bootstrap`] reads and judges a file; [`Client`] runs it: ADS in both
//! variants, certificates, DNS. Translation (`translate`) and the catalog of
//! what was accepted (`catalog`) are pure; `stream`, `transport`, `resolve` and
//! `identity` are the drivers around them.
#![forbid(unsafe_code)]

mod bootstrap;
mod catalog;
mod chance;
mod check;
mod client;
mod diagnostic;
mod document;
mod dump;
mod identity;
mod json;
mod kind;
pub mod offline;
mod optional;
pub mod proto;
mod resolve;
mod rules;
mod session;
mod stream;
mod suggest;
mod taken;
#[cfg(test)]
mod testing;
mod translate;
mod transport;
mod unsupported;
pub use bootstrap::{load_bootstrap, Bootstrap};
pub use catalog::{CountFilter, LoadFilter, Loaded};
pub use client::{Client, Latest, Pages};
pub use diagnostic::{Diagnostic, Place};
pub use kind::ResourceKind;
