//! `type.matcher.v3` and the matchers of routes.

use pymesh_model::matcher::{full_match, HeaderMatch, HeaderTest, QueryMatch, StringMatch, StringPattern};
use pymesh_model::metadata::{MetadataMatch, ValueMatch};
use regex::bytes::Regex;

use crate::diagnostic::At;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::envoy::config::route::v3 as route;
use crate::proto::envoy::r#type::matcher::v3 as matcher;

/// A pattern that must match the whole input.
pub(super) fn whole(pattern: &matcher::RegexMatcher, at: &At<'_>) -> Option<Regex> {
    at.field("regex").ok(full_match(&pattern.regex))
}

/// A pattern whose every match is replaced, and what replaces it.
pub(super) fn substitution(rewrite: &matcher::RegexMatchAndSubstitute, at: &At<'_>) -> Option<(Regex, Box<str>)> {
    let Some(pattern) = &rewrite.pattern else {
        at.field("pattern").refuse("this must be set");
        return None;
    };
    let pattern_at = at.field("pattern");
    let regex_at = pattern_at.field("regex");
    let regex = regex_at.ok(regex::bytes::RegexBuilder::new(&pattern.regex).size_limit(1 << 20).build())?;
    if let Some(group) = missing_group(&rewrite.substitution, regex.captures_len()) {
        at.field("substitution").refuse(match group {
            Some(group) => format!("`\\{group}` refers to a group that the pattern does not have"),
            None => "a backslash must be followed by a digit or a backslash".to_owned(),
        });
        return None;
    }
    Some((regex, rewrite.substitution.as_str().into()))
}

/// The first reference to a group that is not there; `Some(None)` is a stray backslash.
fn missing_group(substitution: &str, groups: usize) -> Option<Option<u32>> {
    let mut characters = substitution.chars();
    while let Some(c) = characters.next() {
        if c != '\\' {
            continue;
        }
        match characters.next() {
            Some('\\') => {}
            Some(digit) => match digit.to_digit(10) {
                Some(group) if usize::try_from(group).is_ok_and(|group| group < groups) => {}
                other => return Some(other),
            },
            None => return Some(None),
        }
    }
    None
}

pub(super) fn string(matcher: &matcher::StringMatcher, at: &At<'_>) -> Option<StringMatch> {
    use matcher::string_matcher::MatchPattern;
    let fold = |text: &str| -> Box<[u8]> {
        if matcher.ignore_case { text.to_ascii_lowercase().into_bytes() } else { text.as_bytes().to_vec() }.into()
    };
    let pattern = match &matcher.match_pattern {
        None => {
            at.refuse("one of `exact`, `prefix`, `suffix`, `contains`, `safe_regex` must be set");
            return None;
        }
        Some(MatchPattern::Exact(text)) => StringPattern::Exact(fold(text)),
        Some(MatchPattern::Prefix(text)) => StringPattern::Prefix(fold(text)),
        Some(MatchPattern::Suffix(text)) => StringPattern::Suffix(fold(text)),
        Some(MatchPattern::Contains(text)) => StringPattern::Contains(fold(text)),
        Some(MatchPattern::SafeRegex(pattern)) => {
            if matcher.ignore_case {
                at.field("ignore_case")
                    .refuse_with_hint("it has no effect on `safe_regex`", "begin the pattern with `(?i)`");
            }
            StringPattern::Regex(whole(pattern, &at.field("safe_regex"))?)
        }
    };
    Some(StringMatch { pattern, ignore_case: matcher.ignore_case })
}

pub(super) fn header(matcher: &route::HeaderMatcher, at: &At<'_>) -> Option<HeaderMatch> {
    use route::header_matcher::HeaderMatchSpecifier;
    let test = match &matcher.header_match_specifier {
        None => HeaderTest::Present(true),
        Some(HeaderMatchSpecifier::PresentMatch(present)) => HeaderTest::Present(*present),
        Some(HeaderMatchSpecifier::RangeMatch(range)) => {
            if range.start >= range.end {
                at.field("range_match").refuse("`start` must be below `end`");
            }
            HeaderTest::Range(range.start, range.end)
        }
        Some(HeaderMatchSpecifier::StringMatch(value)) => HeaderTest::Value(string(value, &at.field("string_match"))?),
    };
    Some(HeaderMatch {
        name: matcher.name.to_ascii_lowercase().into(),
        test,
        invert: matcher.invert_match,
        missing_as_empty: matcher.treat_missing_header_as_empty,
    })
}

pub(super) fn query(matcher: &route::QueryParameterMatcher, at: &At<'_>) -> Option<QueryMatch> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier;
    let name = matcher.name.as_str().into();
    Some(match &matcher.query_parameter_match_specifier {
        None => QueryMatch { name, value: None, present: true },
        Some(QueryParameterMatchSpecifier::PresentMatch(present)) => {
            QueryMatch { name, value: None, present: *present }
        }
        Some(QueryParameterMatchSpecifier::StringMatch(value)) => {
            QueryMatch { name, value: Some(string(value, &at.field("string_match"))?), present: true }
        }
    })
}

pub(super) fn metadata(matcher: &matcher::MetadataMatcher, at: &At<'_>) -> Option<MetadataMatch> {
    use matcher::metadata_matcher::path_segment::Segment;
    let mut path = Vec::with_capacity(matcher.path.len());
    for (index, segment) in matcher.path.iter().enumerate() {
        match &segment.segment {
            Some(Segment::Key(key)) => path.push(key.as_str().into()),
            None => at.field("path").index(index).refuse("`key` must be set"),
        }
    }
    let value = match &matcher.value {
        Some(wanted) => value(wanted, &at.field("value"))?,
        None => {
            at.field("value").refuse("this must be set");
            return None;
        }
    };
    (path.len() == matcher.path.len()).then(|| MetadataMatch {
        filter: matcher.filter.as_str().into(),
        path,
        value,
        invert: matcher.invert,
    })
}

fn value(wanted: &matcher::ValueMatcher, at: &At<'_>) -> Option<ValueMatch> {
    use matcher::{double_matcher, list_matcher, value_matcher::MatchPattern};
    let unset = |at: &At<'_>, what: &str| {
        at.refuse(format!("one of {what} must be set"));
        None
    };
    Some(match &wanted.match_pattern {
        None => {
            let all =
                "`null_match`, `double_match`, `string_match`, `bool_match`, `present_match`, `list_match`, `or_match`";
            unset(at, all)?
        }
        Some(MatchPattern::NullMatch(_)) => ValueMatch::Null,
        Some(MatchPattern::BoolMatch(truth)) => ValueMatch::Bool(*truth),
        Some(MatchPattern::PresentMatch(present)) => ValueMatch::Present(*present),
        Some(MatchPattern::StringMatch(text)) => ValueMatch::String(string(text, &at.field("string_match"))?),
        Some(MatchPattern::DoubleMatch(number)) => match &number.match_pattern {
            None => unset(&at.field("double_match"), "`range`, `exact`")?,
            Some(double_matcher::MatchPattern::Exact(number)) => ValueMatch::Exactly(*number),
            Some(double_matcher::MatchPattern::Range(range)) => ValueMatch::Range(range.start, range.end),
        },
        Some(MatchPattern::ListMatch(list)) => {
            let at = at.field("list_match");
            match &list.match_pattern {
                None => unset(&at, "`one_of`")?,
                Some(list_matcher::MatchPattern::OneOf(one)) => {
                    ValueMatch::OneOf(Box::new(value(one, &at.field("one_of"))?))
                }
            }
        }
        Some(MatchPattern::OrMatch(or)) => {
            let at = at.field("or_match");
            let at = at.field("value_matchers");
            let some = or.value_matchers.iter().enumerate();
            let read: Vec<ValueMatch> = some.filter_map(|(index, one)| value(one, &at.index(index))).collect();
            (read.len() == or.value_matchers.len()).then_some(ValueMatch::Or(read))?
        }
    })
}

/// A fraction in millionths.
pub(super) fn millionths(fraction: &crate::proto::envoy::r#type::v3::FractionalPercent, at: &At<'_>) -> u32 {
    let millionths = fraction.numerator.saturating_mul(millionths_per_part(fraction));
    if millionths > 1_000_000 {
        at.field("numerator").refuse(format!("{} is more than the whole", fraction.numerator));
    }
    millionths.min(1_000_000)
}

/// What one of the numerator is worth.
pub(super) fn millionths_per_part(fraction: &crate::proto::envoy::r#type::v3::FractionalPercent) -> u32 {
    use crate::proto::envoy::r#type::v3::fractional_percent::DenominatorType;
    match super::common::enumerator(fraction.denominator) {
        DenominatorType::Hundred => 10_000,
        DenominatorType::TenThousand => 100,
        DenominatorType::Million => 1,
    }
}

/// A share of requests that is a runtime value in Envoy, in millionths.
pub(super) fn share(config: Option<&core::RuntimeFractionalPercent>, default: u32, at: &At<'_>) -> u32 {
    let Some(config) = config else { return default };
    config.default_value.as_ref().map_or(0, |value| millionths(value, &at.field("default_value")))
}

#[cfg(test)]
mod tests {
    use super::missing_group;

    #[test]
    fn references_to_groups() {
        for (text, groups, expected) in [
            (r"a\1b", 2, None),
            (r"\0", 1, None),
            (r"\\2", 1, None),
            (r"\2", 2, Some(Some(2))),
            (r"\x", 9, Some(None)),
            (r"end\", 9, Some(None)),
        ] {
            assert_eq!(missing_group(text, groups), expected, "{text}");
        }
    }
}
