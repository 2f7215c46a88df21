//! How often the log says the same thing.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::time::Time;

/// One line for each reason in this time: whoever attacks must not fill the disk too.
const INTERVAL: Duration = Duration::from_secs(1);

/// When each reason was told last, and how often it came up since.
#[derive(Default)]
pub(super) struct Notices {
    told: HashMap<&'static str, (Time, u64)>,
}

impl Notices {
    /// How many were not told since the last line; `None` if this one is not to be told either.
    pub fn admit(&mut self, now: Time, why: &'static str) -> Option<u64> {
        let Some((last, unsaid)) = self.told.get_mut(why) else {
            self.told.insert(why, (now, 0));
            return Some(0);
        };
        if now < *last + INTERVAL {
            *unsaid += 1;
            return None;
        }
        *last = now;
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_second_for_each_reason() {
        let (mut notices, start) = (Notices::default(), Time::default());
        assert_eq!(notices.admit(start, "flood"), Some(0));
        assert_eq!(notices.admit(start, "storm"), Some(0));
        assert_eq!(notices.admit(start + INTERVAL / 2, "flood"), None);
        assert_eq!(notices.admit(start + INTERVAL / 2, "flood"), None);
        assert_eq!(notices.admit(start + INTERVAL, "flood"), Some(2));
    }
}
