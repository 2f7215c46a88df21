//! Dates in the two formats of the field, from nanoseconds since the epoch.

/// Calendar date and time, UTC.
struct Civil {
    year: u64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    weekday: u64,
}

fn civil(unix_seconds: u64) -> Civil {
    let (days, rest) = (unix_seconds / 86_400, unix_seconds % 86_400);
    // Years are counted from March, so that the leap day is the last of a year.
    let z = days + 719_468;
    let era = z / 146_097;
    let day_of_era = z % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    Civil {
        year: year_of_era + era * 400 + u64::from(month <= 2),
        month,
        day: day_of_year - (153 * shifted + 2) / 5 + 1,
        hour: rest / 3600,
        minute: rest / 60 % 60,
        second: rest % 60,
        weekday: (days + 4) % 7,
    }
}

fn digits(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let start = out.len();
    out.resize(start + width, b'0');
    for byte in out.iter_mut().skip(start).rev() {
        *byte = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `2026-11-24T15:04:05Z`
pub fn utc(unix_seconds: u64) -> String {
    let c = civil(unix_seconds);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", c.year, c.month, c.day, c.hour, c.minute, c.second)
}

/// `2026-11-24T15:04:05.678Z`
pub(crate) fn rfc3339(unix_nanos: u64, out: &mut Vec<u8>) {
    let c = civil(unix_nanos / 1_000_000_000);
    for (value, width, end) in [
        (c.year, 4, b'-'),
        (c.month, 2, b'-'),
        (c.day, 2, b'T'),
        (c.hour, 2, b':'),
        (c.minute, 2, b':'),
        (c.second, 2, b'.'),
    ] {
        digits(out, value, width);
        out.push(end);
    }
    digits(out, unix_nanos / 1_000_000 % 1000, 3);
    out.push(b'Z');
}

const DAYS: [&str; 7] = ["Sun, ", "Mon, ", "Tue, ", "Wed, ", "Thu, ", "Fri, ", "Sat, "];
const MONTHS: [&str; 12] =
    [" Jan ", " Feb ", " Mar ", " Apr ", " May ", " Jun ", " Jul ", " Aug ", " Sep ", " Oct ", " Nov ", " Dec "];

/// The `date` field (RFC 9110 section 5.6.7), made once a second.
#[derive(Default)]
pub(crate) struct Dates {
    second: Option<u64>,
    text: Vec<u8>,
}

impl Dates {
    pub(crate) fn http_date(&mut self, unix_nanos: u64) -> &[u8] {
        let second = unix_nanos / 1_000_000_000;
        if self.second != Some(second) {
            self.second = Some(second);
            self.text.clear();
            let c = civil(second);
            let day = DAYS.get(c.weekday as usize).copied().unwrap_or_default();
            let month = MONTHS.get((c.month as usize).wrapping_sub(1)).copied().unwrap_or_default();
            self.text.extend(day.bytes());
            digits(&mut self.text, c.day, 2);
            self.text.extend(month.bytes());
            digits(&mut self.text, c.year, 4);
            for (value, before) in [(c.hour, b' '), (c.minute, b':'), (c.second, b':')] {
                self.text.push(before);
                digits(&mut self.text, value, 2);
            }
            self.text.extend(b" GMT");
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(unix_nanos: u64) -> (String, String) {
        let mut out = Vec::new();
        rfc3339(unix_nanos, &mut out);
        let http = Dates::default().http_date(unix_nanos).to_vec();
        (String::from_utf8(out).unwrap(), String::from_utf8(http).unwrap())
    }

    #[test]
    fn known_dates() {
        let (log, http) = both(784_111_777_000_000_000);
        assert_eq!(log, "1994-11-06T08:49:37.000Z");
        assert_eq!(http, "Sun, 06 Nov 1994 08:49:37 GMT");
        let (log, http) = both(1_709_210_096_789_000_000);
        assert_eq!(log, "2024-02-29T12:34:56.789Z");
        assert_eq!(http, "Thu, 29 Feb 2024 12:34:56 GMT");
        assert_eq!(both(0).0, "1970-01-01T00:00:00.000Z");
    }
}
