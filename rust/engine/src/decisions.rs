//! What an engine decides, told to whoever wants to know why (`pymesh explain`, the simulator).
//!
//! A proxy that serves tells nobody: each of these places is then a look at an option that is empty.

use std::sync::Arc;

use crate::conn::ConnKey;

/// One decision. Names are those of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Which filter chain a client's connection gets.
    Chain {
        /// The connection.
        conn: ConnKey,
        /// Of the listener that has it.
        listener: Arc<str>,
        /// Whether it speaks TLS there; `None` if no chain matches, and the connection is closed.
        tls: Option<bool>,
    },
    /// Something on a client's connection makes it useless, such as a handshake that fails.
    Failed {
        /// The connection.
        conn: ConnKey,
        /// In words.
        reason: Arc<str>,
    },
    /// What rules say of a request or a connection.
    Access {
        /// The filter.
        filter: Arc<str>,
        /// Whether they are enforced; shadow rules are only counted.
        is_enforced: bool,
        /// Whether they let it pass.
        allowed: bool,
        /// The first policy that matches.
        policy: Option<Arc<str>>,
    },
    /// A filter asks somebody about a request or a connection.
    Asks {
        /// Who is asked.
        cluster: Arc<str>,
    },
    /// What a filter makes of a request's head, or of a connection.
    Filter {
        /// The filter.
        filter: Arc<str>,
        /// What it does.
        step: FilterStep,
    },
}

/// What becomes of a request at a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterStep {
    /// It passes.
    Continues,
    /// It waits there.
    Waits,
    /// The filter answers it.
    Answers,
    /// The filter could not do its work; its failure policy says what that means.
    Fails,
}

/// Those that nobody has taken yet; `None` while nobody wants them.
#[derive(Default)]
pub(crate) struct Decisions(Option<Vec<Decision>>);

impl Decisions {
    /// For somebody who wants them.
    pub fn wanted() -> Decisions {
        Decisions(Some(Vec::new()))
    }

    pub fn tell(&mut self, decision: impl FnOnce() -> Decision) {
        if let Some(told) = &mut self.0 {
            told.push(decision());
        }
    }

    pub fn take(&mut self) -> Vec<Decision> {
        self.0.as_mut().map(std::mem::take).unwrap_or_default()
    }
}
