//! Matchers of strings, headers and query parameters (Envoy `type.matcher.v3`).

use regex::bytes::Regex;

/// `StringMatcher`. Patterns are lower case where `ignore_case` is set.
#[derive(Clone, Debug)]
pub struct StringMatch {
    /// What is compared.
    pub pattern: StringPattern,
    /// ASCII case is ignored (not for regular expressions).
    pub ignore_case: bool,
}

/// The pattern of a [`StringMatch`].
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum StringPattern {
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Suffix(Box<[u8]>),
    Contains(Box<[u8]>),
    /// Must match the whole value; see [`full_match`].
    Regex(Regex),
}

/// Compiles a pattern with RE2 semantics that must match the whole input.
///
/// # Errors
/// The pattern's own error text, or a refusal of patterns over 1,024 octets.
pub fn full_match(pattern: &str) -> Result<Regex, String> {
    if pattern.len() > 1024 {
        return Err("the pattern is longer than 1,024 characters".into());
    }
    let compile = |pattern: &str| regex::bytes::RegexBuilder::new(pattern).size_limit(1 << 20).build();
    // Alone first: its parentheses must not close those around it.
    compile(pattern).and_then(|_| compile(&format!("^(?:{pattern})$"))).map_err(|error| error.to_string())
}

impl StringMatch {
    /// An exact, case-sensitive match.
    pub fn exact(value: impl AsRef<[u8]>) -> Self {
        StringMatch { pattern: StringPattern::Exact(value.as_ref().into()), ignore_case: false }
    }

    /// True if `value` matches.
    pub fn matches(&self, value: &[u8]) -> bool {
        match (&self.pattern, self.ignore_case) {
            (StringPattern::Exact(p), false) => value == &**p,
            (StringPattern::Exact(p), true) => value.eq_ignore_ascii_case(p),
            (StringPattern::Prefix(p), false) => value.starts_with(p),
            (StringPattern::Prefix(p), true) => value.get(..p.len()).is_some_and(|head| head.eq_ignore_ascii_case(p)),
            (StringPattern::Suffix(p), false) => value.ends_with(p),
            (StringPattern::Suffix(p), true) => value
                .len()
                .checked_sub(p.len())
                .and_then(|at| value.get(at..))
                .is_some_and(|tail| tail.eq_ignore_ascii_case(p)),
            (StringPattern::Contains(p), fold) => {
                p.is_empty()
                    || value.windows(p.len()).any(
                        |window| {
                            if fold {
                                window.eq_ignore_ascii_case(p)
                            } else {
                                window == &**p
                            }
                        },
                    )
            }
            (StringPattern::Regex(regex), _) => regex.is_match(value),
        }
    }
}

/// `HeaderMatcher`. Several values of one name are joined by `,` first.
#[derive(Clone, Debug)]
pub struct HeaderMatch {
    /// Lower-case field name, or a pseudo-header (`:method`, `:path`, `:authority`, `:scheme`).
    pub name: Box<str>,
    /// What is asked of it.
    pub test: HeaderTest,
    /// The result is turned around.
    pub invert: bool,
    /// A missing header counts as an empty value.
    pub missing_as_empty: bool,
}

/// What a [`HeaderMatch`] asks.
#[derive(Clone, Debug)]
pub enum HeaderTest {
    /// The value matches.
    Value(StringMatch),
    /// The value is an integer in `start..end`.
    Range(i64, i64),
    /// The header is there (or, for false, is not).
    Present(bool),
}

/// `QueryParameterMatcher`.
#[derive(Clone, Debug)]
pub struct QueryMatch {
    /// Name, as written in the URL.
    pub name: Box<str>,
    /// `None`: the parameter is there.
    pub value: Option<StringMatch>,
    /// With `value` `None`: whether it must be there.
    pub present: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(pattern: StringPattern, ignore_case: bool) -> StringMatch {
        StringMatch { pattern, ignore_case }
    }

    #[test]
    fn string_patterns() {
        let b = |s: &str| -> Box<[u8]> { s.as_bytes().into() };
        assert!(string(StringPattern::Prefix(b("/a")), true).matches(b"/Abc"));
        assert!(!string(StringPattern::Prefix(b("/a")), false).matches(b"/Abc"));
        assert!(!string(StringPattern::Prefix(b("/long")), true).matches(b"/l"));
        assert!(string(StringPattern::Suffix(b(".com")), true).matches(b"a.COM"));
        assert!(!string(StringPattern::Suffix(b(".com")), true).matches(b"om"));
        assert!(string(StringPattern::Contains(b("ell")), false).matches(b"hello"));
        assert!(string(StringPattern::Contains(b("")), false).matches(b""));
        let regex = full_match("a+|b").unwrap();
        assert!(string(StringPattern::Regex(regex.clone()), false).matches(b"aa"));
        assert!(!string(StringPattern::Regex(regex), false).matches(b"aab"));
        assert!(full_match("(").is_err());
        assert!(full_match("a)|(?:b").is_err(), "one that is none alone would match a part of the value");
    }
}
