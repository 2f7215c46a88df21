//! What part of its weight a host has while it is new (`slow_start_config`).

use std::time::Duration;

use pymesh_model::balance::SlowStart;

/// Envoy counts time in milliseconds, and a host has been there for at least one.
const LEAST: Duration = Duration::from_millis(1);

/// The part of its weight that a host has when it has been healthy for so long.
pub(super) fn factor(settings: &SlowStart, healthy_for: Duration) -> f64 {
    if healthy_for >= settings.window {
        return 1.0;
    }
    let time = healthy_for.max(LEAST).as_secs_f64() / settings.window.as_secs_f64();
    let grown = if settings.aggression == 1.0 { time } else { time.powf(1.0 / settings.aggression) };
    grown.max(settings.min_weight).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_grows_as_envoy_documents() {
        let at = |aggression, percent: u64| {
            let settings = SlowStart { window: Duration::from_secs(10), aggression, min_weight: 0.1 };
            (factor(&settings, Duration::from_millis(100 * percent)) * 1000.0).round() / 1000.0
        };
        assert_eq!([at(1.0, 0), at(1.0, 5), at(1.0, 25), at(1.0, 99), at(1.0, 100)], [0.1, 0.1, 0.25, 0.99, 1.0]);
        // Faster at first, and slower.
        assert_eq!([at(2.0, 1), at(2.0, 25), at(2.0, 81)], [0.1, 0.5, 0.9]);
        assert_eq!([at(0.5, 10), at(0.5, 50)], [0.1, 0.25]);
    }
}
