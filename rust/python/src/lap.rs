//! How long hooks take.
//!
//! A hook cannot be stopped from outside; one that has taken too long is found out afterwards. The clock is read once for a
//! hook: where one ends the next begins. What the engine does between the two is microseconds.
//!
//! To read the time to the nanosecond costs as much as a small hook in C. The kernel's count of its ticks costs a tenth of
//! that, and tells as well that a hook has not taken 100 ms. So the exact clock is read only where a limit is a few ticks;
//! elsewhere a hook is given two ticks more than it may have, in which it cannot be told that it has taken too long.

use std::sync::OnceLock;
use std::time::Duration;

/// Ticks in a limit that they are good enough for.
const ENOUGH: u32 = 4;

/// By which the hooks of a worker are measured.
#[derive(Clone, Copy, Default)]
pub(crate) enum Clock {
    /// Not at all: in a simulated proxy a hook that computes takes no time, however long it takes here.
    #[default]
    None,
    Ticks,
    Exact,
}

impl Clock {
    /// The cheapest that knows whether these limits are kept; no limit is zero.
    pub fn for_limits(mut limits: impl Iterator<Item = Duration>) -> Clock {
        let least = tick().saturating_mul(ENOUGH);
        match limits.any(|limit| !limit.is_zero() && limit < least) {
            true => Clock::Exact,
            false => Clock::Ticks,
        }
    }

    /// The time from which the next hook is measured.
    pub fn lap(self) -> Lap {
        Lap { clock: self, begun: self.now() }
    }

    fn now(self) -> Duration {
        match self {
            Clock::None => Duration::ZERO,
            Clock::Ticks => read(libc::CLOCK_MONOTONIC_COARSE),
            Clock::Exact => read(libc::CLOCK_MONOTONIC),
        }
    }
}

/// A hook, or several after each other.
pub(crate) struct Lap {
    clock: Clock,
    begun: Duration,
}

impl Lap {
    /// What was until now was nobody's hook.
    pub fn begin(&mut self) {
        self.begun = self.clock.now();
    }

    /// A hook has returned; true if it has taken longer than this. Zero is no limit.
    pub fn is_over(&mut self, limit: Duration) -> bool {
        let now = self.clock.now();
        let took = now.saturating_sub(std::mem::replace(&mut self.begun, now));
        // Between two equal counts is at most a tick, and between two that differ by one anything from none to two.
        let uncertain = if matches!(self.clock, Clock::Ticks) { tick() } else { Duration::ZERO };
        !limit.is_zero() && took > limit + uncertain
    }
}

/// What the kernel counts in: 1 to 10 ms.
fn tick() -> Duration {
    static TICK: OnceLock<Duration> = OnceLock::new();
    *TICK.get_or_init(|| {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: it writes to `time` and nowhere else.
        match unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut time) } {
            0 => duration(time),
            // No such clock: then no limit is long enough for it.
            _ => Duration::MAX,
        }
    })
}

fn read(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` and nowhere else. Of a clock that is not there it would write nothing.
    let _done = unsafe { libc::clock_gettime(clock, &raw mut time) };
    duration(time)
}

fn duration(time: libc::timespec) -> Duration {
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanos.unwrap_or_default())
}
