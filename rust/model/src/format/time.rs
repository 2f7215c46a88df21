//! How a time is written: `strftime` as far as it needs no language and no zone but UTC, and Envoy's own specifiers for
//! seconds since the epoch and for parts of a second.

/// A format, in parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    /// In order.
    pub parts: Vec<TimePart>,
}

/// A piece of a [`TimeFormat`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TimePart {
    /// Taken as it is.
    Text(Box<str>),
    /// Filled in.
    Field(TimeField),
}

/// What can be said of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum TimeField {
    Year,
    YearOfCentury,
    Century,
    Month,
    MonthShort,
    MonthLong,
    Day,
    /// Filled up with a space.
    DaySpaced,
    DayOfYear,
    /// 1 is Monday.
    WeekdayFromMonday,
    /// 0 is Sunday.
    WeekdayFromSunday,
    WeekdayShort,
    WeekdayLong,
    Hour,
    HourOfTwelve,
    AmPm,
    Minute,
    Second,
    /// How many digits behind the point.
    Fraction(u8),
    /// Seconds since the epoch.
    Epoch,
    Offset,
    Zone,
}

const FIELDS: &[(char, TimeField)] = &[
    ('Y', TimeField::Year),
    ('y', TimeField::YearOfCentury),
    ('C', TimeField::Century),
    ('m', TimeField::Month),
    ('b', TimeField::MonthShort),
    ('h', TimeField::MonthShort),
    ('B', TimeField::MonthLong),
    ('d', TimeField::Day),
    ('e', TimeField::DaySpaced),
    ('j', TimeField::DayOfYear),
    ('u', TimeField::WeekdayFromMonday),
    ('w', TimeField::WeekdayFromSunday),
    ('a', TimeField::WeekdayShort),
    ('A', TimeField::WeekdayLong),
    ('H', TimeField::Hour),
    ('I', TimeField::HourOfTwelve),
    ('p', TimeField::AmPm),
    ('M', TimeField::Minute),
    ('S', TimeField::Second),
    ('f', TimeField::Fraction(9)),
    ('s', TimeField::Epoch),
    ('z', TimeField::Offset),
    ('Z', TimeField::Zone),
];

/// Those that stand for several.
const COMPOSED: &[(char, &str)] = &[('F', "%Y-%m-%d"), ('T', "%H:%M:%S"), ('R', "%H:%M"), ('D', "%m/%d/%y")];

impl TimeFormat {
    /// Parses a format.
    ///
    /// # Errors
    /// One message that names the specifier and says what is known instead.
    pub fn parse(format: &str) -> Result<TimeFormat, String> {
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                text.push(c);
                continue;
            }
            let specifier = chars.next().ok_or("a time format ends with `%`; write `%%` for a percent sign")?;
            let composed = COMPOSED.iter().find(|(known, _)| *known == specifier);
            let found = match specifier {
                '%' => {
                    text.push('%');
                    continue;
                }
                '1'..='9' if chars.as_str().starts_with('f') => {
                    chars.next();
                    vec![TimePart::Field(TimeField::Fraction(specifier as u8 - b'0'))]
                }
                _ if composed.is_some() => {
                    composed.map_or(Ok(vec![]), |(_, all)| Self::parse(all).map(|all| all.parts))?
                }
                _ => match FIELDS.iter().find(|(known, _)| *known == specifier) {
                    Some((_, field)) => vec![TimePart::Field(*field)],
                    None => return Err(unknown(specifier, chars.as_str())),
                },
            };
            if !text.is_empty() {
                parts.push(TimePart::Text(std::mem::take(&mut text).into()));
            }
            parts.extend(found);
        }
        if !text.is_empty() {
            parts.push(TimePart::Text(text.into()));
        }
        Ok(TimeFormat { parts })
    }
}

fn unknown(specifier: char, rest: &str) -> String {
    let digits = if specifier.is_ascii_digit() { rest.get(..1).unwrap_or_default() } else { "" };
    let known: Vec<String> = FIELDS
        .iter()
        .map(|(known, _)| *known)
        .chain(COMPOSED.iter().map(|(known, _)| *known))
        .map(|known| format!("%{known}"))
        .collect();
    format!("`%{specifier}{digits}` in a time format is not supported; supported: {}, %1f to %9f", known.join(" "))
}
