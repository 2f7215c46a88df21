//! The grammar of SPIFFE IDs (SPIFFE-ID, section 2), compared byte for byte.

/// A SPIFFE ID of a workload: `spiffe://trust-domain/path`, borrowed from its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpiffeId<'a> {
    text: &'a str,
    trust_domain: &'a str,
}

/// SPIFFE-ID, section 2.3.
const MAX_LENGTH: usize = 2048;
const MAX_TRUST_DOMAIN_LENGTH: usize = 255;

impl<'a> SpiffeId<'a> {
    /// Parses the ID of a workload. One without a path names a trust domain,
    /// which no leaf certificate may claim (X509-SVID, section 2).
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn parse(text: &'a str) -> Result<Self, &'static str> {
        if text.len() > MAX_LENGTH {
            return Err("it is longer than 2,048 octets");
        }
        let rest = text.strip_prefix("spiffe://").ok_or("its scheme is not `spiffe://`")?;
        let Some((trust_domain, path)) = rest.split_once('/') else {
            return Err("it has no path, so it names no workload");
        };
        if !is_trust_domain(trust_domain) {
            return Err("its trust domain is not 1 to 255 octets of [a-z0-9._-]");
        }
        if !path.split('/').all(is_segment) {
            return Err("its path is not made of segments of [a-zA-Z0-9._-] other than `.` and `..`");
        }
        Ok(SpiffeId { text, trust_domain })
    }

    /// The whole ID.
    pub fn as_str(&self) -> &'a str {
        self.text
    }

    /// The part that names who vouches for it.
    pub fn trust_domain(&self) -> &'a str {
        self.trust_domain
    }
}

fn is_trust_domain(name: &str) -> bool {
    (1..=MAX_TRUST_DOMAIN_LENGTH).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || is_digit_or_mark(b))
}

fn is_segment(segment: &str) -> bool {
    !matches!(segment, "" | "." | "..") && segment.bytes().all(|b| b.is_ascii_alphabetic() || is_digit_or_mark(b))
}

fn is_digit_or_mark(octet: u8) -> bool {
    octet.is_ascii_digit() || matches!(octet, b'.' | b'-' | b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workloads() {
        for (text, domain) in [
            ("spiffe://cluster.local/ns/shop/sa/reviews", "cluster.local"),
            ("spiffe://a_b-c.1/x", "a_b-c.1"),
            ("spiffe://td/..a/.b-_", "td"),
        ] {
            let id = SpiffeId::parse(text).unwrap();
            assert_eq!((id.as_str(), id.trust_domain()), (text, domain));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let long_domain = format!("spiffe://{}/a", "d".repeat(256));
        let long = format!("spiffe://d/{}", "a".repeat(2048));
        for text in [
            "",
            "spiffe://",
            "spiffe:///a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://td/a/",
            "spiffe://td//a",
            "spiffe://td/./a",
            "spiffe://td/../a",
            "SPIFFE://td/a",
            "spiffe://TD/a",
            "spiffe://td:80/a",
            "spiffe://user@td/a",
            "spiffe://td/a?q",
            "spiffe://td/a#f",
            "spiffe://td/%61",
            "spiffe://td/a\0b",
            "spiffe://td\0.evil/a",
            "spiffe://td/é",
            " spiffe://td/a",
            "https://td/a",
            &long_domain,
            &long,
        ] {
            assert!(SpiffeId::parse(text).is_err(), "{text}");
        }
    }
}
