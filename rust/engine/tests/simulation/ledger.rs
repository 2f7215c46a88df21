//! The ledger: what was asked, what came of it, and what the app saw.
//!
//! Its rules are the promises that hold for single requests; they are checked
//! when something is entered, so that a failure points at its cause.

use super::plan::Spec;

/// What a client knows about a request in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The app's answer, whole and right.
    Answered(u16),
    /// An answer that a proxy gave.
    Local(u16),
    /// The stream or connection failed where the client could see it.
    Broken(&'static str),
    /// The client gave up.
    Aborted,
}

/// One request.
#[derive(Debug)]
pub struct Entry {
    pub spec: Spec,
    /// The client has written its first octet, its last.
    pub begun: bool,
    pub sent: bool,
    pub outcome: Option<Outcome>,
    /// How often its head, and the whole of it, reached the app.
    pub attempts: u32,
    pub completed: u32,
    refused: bool,
    /// A copy of it has reached the app.
    pub copied: bool,
}

pub struct Ledger {
    entries: Vec<Entry>,
    /// The most attempts that the retry policies on the way allow.
    most_attempts: u32,
    faultless: bool,
}

impl Ledger {
    pub fn new(specs: Vec<Spec>, most_attempts: u32, faultless: bool) -> Ledger {
        let entry = |spec| Entry {
            spec,
            begun: false,
            sent: false,
            outcome: None,
            attempts: 0,
            completed: 0,
            refused: false,
            copied: false,
        };
        Ledger { entries: specs.into_iter().map(entry).collect(), most_attempts, faultless }
    }

    pub fn spec(&self, id: u32) -> &Spec {
        &self.entries[id as usize].spec
    }

    pub fn begin(&mut self, id: u32) {
        assert!(!self.entries[id as usize].begun, "request {id} begins twice");
        self.entries[id as usize].begun = true;
    }

    pub fn sent(&mut self, id: u32) {
        self.entries[id as usize].sent = true;
    }

    /// Each request has one outcome.
    pub fn conclude(&mut self, id: u32, outcome: Outcome) {
        let entry = &mut self.entries[id as usize];
        assert!(entry.outcome.is_none(), "request {id} has a second outcome {outcome:?}: {entry:?}");
        entry.outcome = Some(outcome);
        if let Outcome::Answered(_) = outcome {
            assert!(entry.attempts > 0, "request {id} was answered, and the app knows nothing: {entry:?}");
        }
        if self.faultless {
            assert_eq!(outcome, Outcome::Answered(200), "nothing went wrong, and yet: {entry:?}");
        }
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The head of a request has reached the app; says the how-manieth time.
    pub fn attempt(&mut self, id: u32) -> u32 {
        let most = self.most_attempts;
        let entry = &mut self.entries[id as usize];
        entry.attempts += 1;
        assert!(entry.begun, "request {id} reaches the app before it was sent");
        assert!(entry.attempts <= most, "the app sees request {id} more often than {most} times: {entry:?}");
        entry.attempts
    }

    /// A copy of a request has reached the app: there is one, whatever is retried.
    pub fn copy(&mut self, id: u32) -> u32 {
        let entry = &mut self.entries[id as usize];
        assert!(entry.begun, "request {id} is copied before it was sent");
        assert!(!std::mem::replace(&mut entry.copied, true), "request {id} is copied twice: {entry:?}");
        1
    }

    /// True the first time: the app does not look at the request.
    pub fn refuse(&mut self, id: u32) -> bool {
        !std::mem::replace(&mut self.entries[id as usize].refused, true)
    }

    pub fn complete(&mut self, id: u32) {
        self.entries[id as usize].completed += 1;
        assert!(self.entries[id as usize].sent, "request {id} is complete at the app before it was sent");
    }

    /// Requests that were begun and have no outcome.
    pub fn open(&self) -> Vec<&Entry> {
        self.entries.iter().filter(|entry| entry.begun && entry.outcome.is_none()).collect()
    }
}
