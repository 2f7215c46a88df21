//! What every actor of a run shares: the time, the network, the transcript and
//! the ledger of requests.

use std::fmt::Write as _;

use pymesh_engine::base::time::Time;

use super::ledger::Ledger;
use super::network::Network;

pub struct Environment {
    pub now: Time,
    pub network: Network,
    pub ledger: Ledger,
    transcript: String,
}

impl Environment {
    pub fn new(network: Network, ledger: Ledger) -> Environment {
        Environment { now: Time::default(), network, ledger, transcript: String::new() }
    }

    /// Adds a line to the transcript.
    pub fn note(&mut self, who: &str, what: std::fmt::Arguments<'_>) {
        let _infallible = writeln!(self.transcript, "{:>12} {who} {what}", self.now.as_nanos() / 1000);
    }

    pub fn transcript(&self) -> &str {
        &self.transcript
    }
}

/// `note!(env, "A", "reads {n}")`
macro_rules! note {
    ($env:expr, $who:expr, $($what:tt)*) => { $env.note($who, format_args!($($what)*)) };
}
pub(crate) use note;
