//! Dates in the two formats of the field, from nanoseconds since the epoch.

use pymesh_model::format::{TimeField, TimeFormat, TimePart};

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

const WEEKDAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTH_NAMES: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// In any format.
pub(crate) fn formatted(unix_nanos: u64, format: &TimeFormat, out: &mut Vec<u8>) {
    let (seconds, nanos) = (unix_nanos / 1_000_000_000, unix_nanos % 1_000_000_000);
    let c = civil(seconds);
    let weekday = WEEKDAYS.get(c.weekday as usize).copied().unwrap_or_default();
    let month = MONTH_NAMES.get((c.month as usize).wrapping_sub(1)).copied().unwrap_or_default();
    let short = |name: &'static str| name.get(..3).unwrap_or_default();
    for part in &format.parts {
        let field = match part {
            TimePart::Text(text) => {
                out.extend(text.bytes());
                continue;
            }
            TimePart::Field(field) => *field,
        };
        let text = match field {
            TimeField::MonthShort => short(month),
            TimeField::MonthLong => month,
            TimeField::WeekdayShort => short(weekday),
            TimeField::WeekdayLong => weekday,
            TimeField::AmPm if c.hour < 12 => "AM",
            TimeField::AmPm => "PM",
            TimeField::Offset => "+0000",
            TimeField::Zone => "UTC",
            TimeField::DaySpaced if c.day < 10 => " ",
            _ => "",
        };
        out.extend(text.bytes());
        let (value, width) = match field {
            TimeField::Year => (c.year, 4),
            TimeField::YearOfCentury => (c.year % 100, 2),
            TimeField::Century => (c.year / 100, 2),
            TimeField::Month => (c.month, 2),
            TimeField::Day => (c.day, 2),
            TimeField::DaySpaced => (c.day, if c.day < 10 { 1 } else { 2 }),
            TimeField::DayOfYear => (seconds / 86_400 - first_day(c.year) + 1, 3),
            TimeField::WeekdayFromMonday => ((c.weekday + 6) % 7 + 1, 1),
            TimeField::WeekdayFromSunday => (c.weekday, 1),
            TimeField::Hour => (c.hour, 2),
            TimeField::HourOfTwelve => ((c.hour + 11) % 12 + 1, 2),
            TimeField::Minute => (c.minute, 2),
            TimeField::Second => (c.second, 2),
            TimeField::Fraction(digits) => (nanos / 10u64.pow(9u32.saturating_sub(digits.into())), digits.into()),
            TimeField::Epoch => (seconds, seconds.max(1).ilog10() as usize + 1),
            _ => continue,
        };
        digits(out, value, width);
    }
}

/// Of a year, in days since the epoch.
fn first_day(year: u64) -> u64 {
    let before = year - 1;
    (before * 365 + before / 4 - before / 100 + before / 400).saturating_sub(719_162)
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
    fn any_format() {
        let text = |nanos, format: &str| {
            let mut out = Vec::new();
            formatted(nanos, &TimeFormat::parse(format).unwrap(), &mut out);
            String::from_utf8(out).unwrap()
        };
        let leap = 1_709_210_096_789_012_345;
        for (format, expected) in [
            ("%Y/%m/%dT%H:%M:%S%z %s", "2024/02/29T12:34:56+0000 1709210096"),
            ("%s.%3f %s.%6f %9f %f", "1709210096.789 1709210096.789012 789012345 789012345"),
            ("%F %T %R %D %y %C", "2024-02-29 12:34:56 12:34 02/29/24 24 20"),
            ("%a %A %b %B %e %j %u %w", "Thu Thursday Feb February 29 060 4 4"),
            ("%I %p %Z 100%%", "12 PM UTC 100%"),
        ] {
            assert_eq!(text(leap, format), expected);
        }
        assert_eq!(text(0, "%s %j %e %I%p %f"), "0 001  1 12AM 000000000");
        assert_eq!(text(1_735_603_200_000_000_000, "%F %j"), "2024-12-31 366");
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
