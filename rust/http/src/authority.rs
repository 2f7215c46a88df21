//! Host and port, as both protocols accept them.

/// Octets of a `reg-name` (RFC 3986 section 3.2.2).
#[allow(clippy::indexing_slicing)] // evaluated by the compiler, which would refuse a wrong index
const REG_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let allowed = b"-._~%!$&'()*+,;=";
    let mut at = 0;
    while at < allowed.len() {
        table[allowed[at] as usize] = true;
        at += 1;
    }
    let mut octet = 0;
    while octet < 256 {
        table[octet] |= (octet as u8).is_ascii_alphanumeric();
        octet += 1;
    }
    table
};

fn is_reg_name(octet: u8) -> bool {
    REG_NAME.get(usize::from(octet)).is_some_and(|allowed| *allowed)
}

/// `uri-host [ ":" port ]` (RFC 9110 section 7.2), and not empty.
///
/// User information is not part of it: RFC 9110 section 4.2.4 forbids it, and a
/// host that one reader finds before an `@` and another behind it is a trap.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    let after_host = match value {
        [b'[', literal @ ..] => {
            let end = literal.iter().position(|octet| *octet == b']').unwrap_or(0);
            let (address, rest) = literal.split_at(end);
            let is_address = address.iter().all(|octet| octet.is_ascii_hexdigit() || matches!(octet, b':' | b'.'));
            if address.is_empty() || !is_address {
                return false;
            }
            rest.strip_prefix(b"]").unwrap_or_default()
        }
        name => {
            let end = name.iter().position(|octet| *octet == b':').unwrap_or(name.len());
            let (name, rest) = name.split_at(end);
            if name.is_empty() || !name.iter().all(|octet| is_reg_name(*octet)) {
                return false;
            }
            rest
        }
    };
    match after_host {
        [] | [b':'] => true,
        [b':', port @ ..] => is_port(port),
        _ => false,
    }
}

fn is_port(digits: &[u8]) -> bool {
    let value = digits.iter().try_fold(0_u32, |value, octet| {
        let digit = octet.is_ascii_digit().then(|| u32::from(octet - b'0'))?;
        value.checked_mul(10)?.checked_add(digit)
    });
    value.is_some_and(|port| port <= u32::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for good in
            ["a", "a.example", "A-b_c.d:80", "127.0.0.1:65535", "[::1]", "[::ffff:1.2.3.4]:443", "a:", "a,b", "%61"]
        {
            assert!(is_authority(good.as_bytes()), "{good}");
        }
        for bad in [
            "",
            ":80",
            "a b",
            "a/b",
            "a?b",
            "a#b",
            "a\\b",
            "u@a",
            "u:p@a",
            "a:b",
            "a:65536",
            "a:99999999999999999999",
            "a:1:2",
            "::1",
            "[::1",
            "[]",
            "[::1]x",
            "[::1]:x",
            "[g]",
            "a]",
            "a[0]",
            "a|b",
            "a<b",
            "a\0",
            "a\u{e9}",
        ] {
            assert!(!is_authority(bad.as_bytes()), "{bad}");
        }
    }
}
