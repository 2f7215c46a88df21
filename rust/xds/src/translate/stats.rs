//! Istio's stats filter (`stats.PluginConfig`): what becomes of each metric.

use std::collections::BTreeMap;

use pymesh_model::format::{Address, HostSource, Operator, Shape};
use pymesh_model::stats::{LabelOverride, LabelValue, Metric, MetricGroup, Metrics, Stats};

use crate::diagnostic::At;
use crate::proto::stats::PluginConfig;

/// What a label says of what is not there.
const UNKNOWN: &str = "unknown";

pub(super) fn stats(config: &PluginConfig, at: &At<'_>) -> Stats {
    let metrics_at = at.field("metrics");
    let mut dropped = Metrics::default();
    let mut labels: BTreeMap<Metric, BTreeMap<&str, Option<LabelValue>>> = BTreeMap::new();
    for (index, one) in config.metrics.iter().enumerate() {
        let at = metrics_at.index(index);
        let meant: Vec<Metric> =
            Metric::ALL.into_iter().filter(|metric| one.name.is_empty() || one.name == metric.name()).collect();
        if meant.is_empty() {
            let known: Vec<&str> = Metric::ALL.into_iter().map(Metric::name).collect();
            at.field("name").refuse_with_hint(
                format!("`{}` is not counted", one.name.escape_debug()),
                format!("known: {}", known.join(", ")),
            );
        }
        let values: Vec<(&str, Option<LabelValue>)> = one
            .dimensions
            .iter()
            .filter_map(|(name, text)| {
                let dimensions = at.field("dimensions");
                let at = dimensions.key(name);
                label(name, &at);
                Some((name.as_str(), Some(at.ok(value(text))?)))
            })
            .chain(one.tags_to_remove.iter().map(|name| (name.as_str(), None)))
            .collect();
        for metric in meant {
            if one.drop {
                dropped = dropped.with(metric);
            }
            labels.entry(metric).or_default().extend(values.iter().cloned());
        }
    }
    let mut groups: Vec<MetricGroup> = Vec::new();
    for metric in Metric::ALL.into_iter().filter(|metric| !dropped.has(*metric)) {
        let own = labels.remove(&metric).unwrap_or_default();
        let own: Vec<LabelOverride> =
            own.into_iter().map(|(name, value)| LabelOverride { name: name.into(), value }).collect();
        match groups.iter_mut().find(|group| group.labels == own) {
            Some(group) => group.metrics = group.metrics.with(metric),
            None => groups.push(MetricGroup { metrics: Metrics::default().with(metric), labels: own }),
        }
    }
    Stats { groups }
}

/// A label must be one of Prometheus, and not that of the buckets.
fn label(name: &str, at: &At<'_>) {
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let fits = name.starts_with(is_first) && name.chars().all(|c| is_first(c) || c.is_ascii_digit());
    if !fits || name == "le" {
        at.refuse_with_hint(
            format!("`{}` is not the name of a label", name.escape_debug()),
            "letters, digits and `_`; `le` is that of the buckets",
        );
    }
}

/// A text, an attribute, or `has(A) ? A : VALUE` (the part of CEL that needs no interpreter).
fn value(text: &str) -> Result<LabelValue, String> {
    let mut sources = Vec::new();
    let mut rest = text.trim();
    loop {
        if rest.starts_with(['"', '\'']) {
            return Ok(LabelValue { sources, otherwise: literal(rest)?.into() });
        }
        let Some(asked) = rest.strip_prefix("has(") else {
            let inner = rest.strip_prefix("string(").and_then(|inner| inner.strip_suffix(')'));
            sources.push(attribute(inner.unwrap_or(rest).trim())?);
            return Ok(LabelValue { sources, otherwise: UNKNOWN.into() });
        };
        let wanted = || format!("`{rest}` is not understood: write `has(ATTRIBUTE) ? ATTRIBUTE : VALUE`");
        let (asked, behind) = asked.split_once(')').ok_or_else(wanted)?;
        let (named, otherwise) =
            behind.trim_start().strip_prefix('?').and_then(|behind| behind.split_once(':')).ok_or_else(wanted)?;
        if named.trim() != asked.trim() {
            return Err(wanted());
        }
        sources.push(attribute(asked.trim())?);
        rest = otherwise.trim();
    }
}

fn literal(quoted: &str) -> Result<String, String> {
    let mut text = String::new();
    let mut chars = quoted.chars();
    let quote = chars.next();
    let not_closed = || format!("`{quoted}` is not a text in quotes");
    loop {
        let next = chars.next().ok_or_else(not_closed)?;
        match next {
            '\\' => text.push(chars.next().filter(|c| matches!(c, '\\' | '"' | '\'')).ok_or_else(not_closed)?),
            _ if Some(next) == quote => break,
            _ => text.push(next),
        }
    }
    if !chars.as_str().trim().is_empty() {
        return Err(not_closed());
    }
    Ok(text)
}

const LOCAL_PORT: Operator = Operator::Address(Address::DownstreamLocal, Shape::Port);

const ATTRIBUTES: [(&str, &str); 16] = [
    ("request.method", ":method"),
    ("request.path", ":path"),
    ("request.host", ":authority"),
    ("request.scheme", ":scheme"),
    ("request.useragent", "user-agent"),
    ("request.referer", "referer"),
    ("request.id", "x-request-id"),
    ("request.protocol", ""),
    ("response.code", ""),
    ("response.code_details", ""),
    ("destination.port", ""),
    ("connection.requested_server_name", ""),
    ("xds.cluster_name", ""),
    ("xds.route_name", ""),
    ("upstream.address", ""),
    ("request.headers['NAME']", ""),
];

fn attribute(name: &str) -> Result<Operator, String> {
    let header = |map: &str| -> Option<Box<str>> {
        let key = name.strip_prefix(map)?.strip_prefix('[')?.strip_suffix(']')?.trim();
        literal(key).ok().filter(|key| !key.is_empty()).map(|key| key.to_ascii_lowercase().into())
    };
    if let Some(header) = header("request.headers") {
        return Ok(Operator::Request(header, None, None));
    }
    if let Some(header) = header("response.headers") {
        return Ok(Operator::Response(header, None, None));
    }
    Ok(match name {
        "request.protocol" => Operator::Protocol,
        "response.code" => Operator::ResponseCode,
        "response.code_details" => Operator::ResponseCodeDetails,
        "destination.port" => LOCAL_PORT,
        "connection.requested_server_name" => Operator::RequestedServerName(HostSource::ServerName),
        "xds.cluster_name" => Operator::UpstreamCluster,
        "xds.route_name" => Operator::RouteName,
        "upstream.address" => Operator::UpstreamHost,
        _ => match ATTRIBUTES.iter().find(|(known, header)| *known == name && !header.is_empty()) {
            Some((_, header)) => Operator::Request((*header).into(), None, None),
            None => {
                let known: Vec<&str> = ATTRIBUTES.iter().map(|(known, _)| *known).collect();
                return Err(format!(
                    "`{name}` is not understood: write a text in quotes, or one of {}",
                    known.join(", ")
                ));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_texts_attributes_and_fallbacks() {
        let header = |name: &str| Operator::Request(name.into(), None, None);
        for (text, sources, otherwise) in [
            ("'a \\' b'", vec![], "a ' b"),
            ("request.method", vec![header(":method")], "unknown"),
            (" string(destination.port) ", vec![LOCAL_PORT], "unknown"),
            ("request.headers['X-User']", vec![header("x-user")], "unknown"),
            (
                "has(request.headers[\"x-user\"]) ? request.headers[\"x-user\"] : 'nobody'",
                vec![header("x-user")],
                "nobody",
            ),
            (
                "has(request.host) ? request.host : has(request.id) ? request.id : ''",
                vec![header(":authority"), header("x-request-id")],
                "",
            ),
        ] {
            let otherwise = otherwise.into();
            assert_eq!(value(text), Ok(LabelValue { sources, otherwise }), "{text}");
        }
        for text in [
            "",
            "'open",
            "'a' 'b'",
            "'\\n'",
            "request.nothing",
            "has(request.host) ? request.id : 'a'",
            "has(request.host ? request.host : 'a'",
            "request.headers['']",
            "request.size + 1",
        ] {
            assert!(value(text).is_err(), "{text}");
        }
    }
}
