//! Whether a turn waits a moment for more to do, as network cards do with interrupts.
//!
//! A worker that is fast is woken by each packet and answers each with a packet. With many
//! streams on few connections most of its time then goes into system calls for one frame.
//! A pause before anything is sent lets input of many streams meet, so that their output
//! leaves together (decision 003 has the figures).
//!
//! It costs latency. So it is made only where many requests share each connection, and only
//! as long as it pays: after a pause that brought less than there was before it, ever more
//! turns go by before the next try.

use std::time::Duration;

/// How long a turn pauses; the kernel's timer slack adds some 50 µs.
pub(crate) const PAUSE: Duration = Duration::from_micros(50);

/// Fewest requests under way with which a turn may pause.
const FEWEST: usize = 32;
/// Fewest requests to a connection with which a turn may pause.
const TO_A_CONNECTION: usize = 2;
/// After pauses that did not pay at most 2 to this power turns go by without one.
const MOST_DOUBLINGS: u32 = 10;

/// One worker's experience with pauses.
#[derive(Default)]
pub(crate) struct Gather {
    turns_to_skip: u32,
    failures: u32,
}

impl Gather {
    /// Whether to pause in this turn.
    pub fn is_due(&mut self, requests: usize, connections: usize) -> bool {
        if requests < FEWEST || requests / TO_A_CONNECTION < connections {
            return false;
        }
        let is_due = self.turns_to_skip == 0;
        self.turns_to_skip = self.turns_to_skip.saturating_sub(1);
        is_due
    }

    /// So many events had come before the pause, and so many came in it.
    pub fn judge(&mut self, before: usize, after: usize) {
        if after >= before {
            self.failures = 0;
        } else {
            self.failures = (self.failures + 1).min(MOST_DOUBLINGS);
            self.turns_to_skip = 1 << self.failures;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_only_where_many_requests_share_a_connection() {
        let mut gather = Gather::default();
        for (requests, connections, due) in [(256, 9, true), (64, 128, false), (31, 2, false), (100, 51, false)] {
            assert_eq!(gather.is_due(requests, connections), due, "{requests} on {connections}");
        }
    }

    #[test]
    fn pauses_that_bring_nothing_become_rare() {
        let mut gather = Gather::default();
        let mut pauses = 0;
        for _ in 0..100_000 {
            if gather.is_due(256, 9) {
                pauses += 1;
                gather.judge(1, 0);
            }
        }
        assert!(pauses < 110, "{pauses}");
        while !gather.is_due(256, 9) {}
        gather.judge(1, 1);
        assert!(gather.is_due(256, 9), "one that pays makes them frequent again");
    }
}
