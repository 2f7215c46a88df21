//! When to ask for a certificate, and what to do with the answer.
//!
//! ```text
//! Due --begin--> Asking --complete--> Valid --half of its life, or hastened--> Due
//!                  |  fail, time out
//!                  v
//!               Resting --back-off--> Due
//! ```
//! [`Rotation`] has no clock, no network and no source of chance: a driver asks
//! [`Rotation::poll`] what to do, speaks to the certificate authority, and
//! reports. Whatever fails, the certificate that is in the store stays there.
//!
//! Instants are durations since the Unix epoch; `random` is in `0.0..1.0`.

use std::time::Duration;

use pymesh_model::tls::SecretName;

use crate::{PrivateKey, SecretError, SecretStore};

/// How long an authority may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Rest after the first failure; it doubles with each further one.
pub const FIRST_REST: Duration = Duration::from_secs(1);
/// Longest rest.
pub const LONGEST_REST: Duration = Duration::from_secs(60);

/// Over how long a mesh spreads its requests when all certificates are to be replaced.
pub const SPREAD: Duration = Duration::from_secs(10);

/// Keeps one identity of a [`SecretStore`] alive.
#[derive(Debug)]
pub struct Rotation {
    name: SecretName,
    phase: Phase,
    failures: u32,
    expires: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    Due,
    Asking {
        key: PrivateKey,
        deadline: Duration,
    },
    /// With a valid certificate, or after a failure.
    Waiting {
        until: Duration,
    },
}

/// What a driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Make a [`crate::csr::signing_request`], call [`Rotation::begin`] and send it.
    Ask,
    /// Poll again at this instant, or after something was reported.
    Wait(Duration),
}

impl Rotation {
    /// Without a certificate: the first [`Action`] is to ask for one.
    pub fn new(name: SecretName) -> Self {
        Rotation { name, phase: Phase::Due, failures: 0, expires: None }
    }

    /// What to do now. An answer that is overdue counts as a failure.
    pub fn poll(&mut self, now: Duration, random: f64) -> Action {
        match self.phase {
            Phase::Asking { deadline, .. } if now >= deadline => self.fail(now, random),
            Phase::Waiting { until } if now >= until => self.phase = Phase::Due,
            _ => {}
        }
        match self.phase {
            Phase::Due => Action::Ask,
            Phase::Asking { deadline, .. } => Action::Wait(deadline),
            Phase::Waiting { until } => Action::Wait(until),
        }
    }

    /// A request for a certificate of this key is on its way.
    pub fn begin(&mut self, now: Duration, key: PrivateKey) {
        self.phase = Phase::Asking { key, deadline: now.saturating_add(ANSWER_TIMEOUT) };
    }

    /// The authority answered with a PEM chain, leaf first; it is put into the
    /// store. Without a request under way (it timed out) nothing happens.
    ///
    /// # Errors
    /// The chain cannot be used; that counts as a failure.
    pub fn complete(
        &mut self,
        now: Duration,
        random: f64,
        chain_pem: &[u8],
        store: &SecretStore,
    ) -> Result<(), SecretError> {
        let key = match &self.phase {
            Phase::Asking { key, .. } => key.clone(),
            Phase::Due | Phase::Waiting { .. } => return Ok(()),
        };
        let validity = match store.put_identity_with_key(&self.name, chain_pem, key) {
            Ok(validity) => validity,
            Err(error) => {
                self.fail(now, random);
                return Err(error);
            }
        };
        self.failures = 0;
        self.expires = Some(validity.not_after);
        let until = renewal(now, validity.not_before, validity.not_after, random);
        self.phase = Phase::Waiting { until };
        Ok(())
    }

    /// The request could not be made, sent or answered. The next one waits
    /// longer each time; by chance, lest a whole mesh asks at the same moment.
    pub fn fail(&mut self, now: Duration, random: f64) {
        let doubled = 1u32.checked_shl(self.failures).map_or(LONGEST_REST, |factor| FIRST_REST.saturating_mul(factor));
        let longest = doubled.min(LONGEST_REST);
        let rest = longest.mul_f64(0.5 + 0.5 * chance(random));
        self.failures = self.failures.saturating_add(1);
        self.phase = Phase::Waiting { until: now.saturating_add(rest) };
    }

    /// Another authority signs now: the certificate is replaced soon, whatever is left of its life. When, is left to
    /// chance within [`SPREAD`], or half of what is left: a whole mesh does this at once. A request that is under way
    /// goes on.
    pub fn hasten(&mut self, now: Duration, random: f64) {
        let Phase::Waiting { until } = self.phase else { return };
        if self.failures > 0 {
            return; // it is about to ask, as soon as it may
        }
        let left = self.expires.map_or(Duration::ZERO, |expires| expires.saturating_sub(now)) / 2;
        let soon = now.saturating_add(left.min(SPREAD).mul_f64(chance(random)));
        self.phase = Phase::Waiting { until: until.min(soon) };
    }

    /// True while the last certificate is valid.
    pub fn is_certified(&self, now: Duration) -> bool {
        self.expires.is_some_and(|expires| now < expires)
    }

    /// When the certificate that is in use ends.
    pub fn expires(&self) -> Option<Duration> {
        self.expires
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// When to replace a certificate that was received at `now`: when half of what
/// is left of its life has passed, less up to a tenth of that by chance.
///
/// What is left counts from `now`, not from `not_before`: authorities backdate
/// that, and for short lives half of the whole may be in the past already.
pub fn renewal(now: Duration, not_before: Duration, not_after: Duration, random: f64) -> Duration {
    let start = now.max(not_before);
    let half = not_after.saturating_sub(start) / 2;
    let wait = half.saturating_sub(half.mul_f64(0.1 * chance(random)));
    // An authority that hands out spent certificates is not asked in a busy loop.
    start.saturating_add(wait).max(now.saturating_add(FIRST_REST))
}

fn chance(random: f64) -> f64 {
    if random.is_finite() {
        random.clamp(0.0, 1.0)
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests;
