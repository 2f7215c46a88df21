//! gRPC's own header fields (gRPC over HTTP/2, "Requests").

use std::time::Duration;

use pymesh_http::{RequestHead, Version};

use crate::exchange::forward::decimal;

/// The value of `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let n: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(n * 3600),
        b'M' => Duration::from_secs(n * 60),
        b'S' => Duration::from_secs(n),
        b'm' => Duration::from_millis(n),
        b'u' => Duration::from_micros(n),
        b'n' => Duration::from_nanos(n),
        _ => return None,
    })
}

/// The time as a value of `grpc-timeout`, in the smallest unit from milliseconds on that has room for it.
pub(crate) fn timeout_value(time: Duration) -> TimeoutValue {
    const MOST: u128 = 99_999_999;
    let millis = time.as_millis();
    let units = [(b'm', 1), (b'S', 1000), (b'M', 60 * 1000), (b'H', 3600 * 1000)];
    let fits = units.into_iter().map(|(unit, of)| (millis / of, unit)).find(|(n, _)| *n <= MOST);
    let (n, unit) = fits.unwrap_or((MOST, b'H'));
    let digits = decimal(n as u64);
    let mut value = TimeoutValue { octets: [0; 9], len: 0 };
    for (place, &octet) in value.octets.iter_mut().zip(digits.as_bytes().iter().chain([&unit])) {
        *place = octet;
        value.len += 1;
    }
    value
}

/// The text of a `grpc-timeout`, without allocating.
pub(crate) struct TimeoutValue {
    octets: [u8; 9],
    len: usize,
}

impl TimeoutValue {
    pub fn as_bytes(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }
}

/// The head of a question of ours, but for metadata. A time of zero is no limit, and not told.
pub(crate) fn write_head(head: &mut RequestHead, authority: &str, path: &[u8], time: Duration) {
    head.set_method(b"POST");
    head.version = Version::Http2;
    head.set_authority(authority.as_bytes());
    head.set_path(path);
    head.headers.append(b"te", b"trailers");
    head.headers.append(b"content-type", b"application/grpc");
    if !time.is_zero() {
        head.headers.append(b"grpc-timeout", timeout_value(time).as_bytes());
    }
}

/// The HTTP status that goes with a `grpc-status`.
pub(crate) fn http_status(value: &[u8]) -> u16 {
    let code = std::str::from_utf8(value).ok().and_then(|text| text.parse::<u32>().ok());
    match code {
        Some(0) => 200,
        Some(1) => 499,
        Some(3 | 9 | 11) => 400,
        Some(4) => 504,
        Some(5) => 404,
        Some(6 | 10) => 409,
        Some(7) => 403,
        Some(8) => 429,
        Some(12) => 501,
        Some(14) => 503,
        Some(16) => 401,
        // UNKNOWN, INTERNAL, DATA_LOSS, and what is no status.
        _ => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_as_envoy_maps_them() {
        let all: Vec<u16> = (0..=17).map(|code: u32| http_status(code.to_string().as_bytes())).collect();
        let wanted = [200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401, 500];
        assert_eq!(all, wanted);
        assert_eq!(http_status(b"fine"), 500);
    }

    #[test]
    fn units_and_garbage() {
        assert_eq!(timeout(b"100m"), Some(Duration::from_millis(100)));
        assert_eq!(timeout(b"2H"), Some(Duration::from_secs(7200)));
        assert_eq!(timeout(b"123456789m"), None);
        assert_eq!(timeout(b"m"), None);
        assert_eq!(timeout(b"1x"), None);
        assert_eq!(timeout(b""), None);
        for (time, value) in [
            (Duration::ZERO, "0m"),
            (Duration::from_millis(1500), "1500m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(timeout_value(time).as_bytes(), value.as_bytes());
        }
    }
}
