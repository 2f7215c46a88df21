//! What clusters of type ORIGINAL_DST have beside the others.

use std::time::Duration;

use pymesh_model::cluster::OriginalDst;

use super::common::duration_or;
use crate::diagnostic::At;
use crate::proto::envoy::config::cluster::v3 as cluster;
use cluster::cluster::LbConfig;

/// Envoy's defaults.
const CLEANUP_INTERVAL: Duration = Duration::from_secs(5);
const HEADER: &str = "x-envoy-original-dst-host";
/// Without `max_connection_pools`. Envoy sets no limit to what clients choose.
const MAX_ADDRESSES: u32 = 8192;

pub(super) fn settings(config: &cluster::Cluster, at: &At<'_>) -> OriginalDst {
    let choice = match &config.lb_config {
        Some(LbConfig::OriginalDstLbConfig(choice)) => choice.clone(),
        _ => Default::default(),
    };
    let interval = config.cleanup_interval.as_ref();
    let cleanup_interval = duration_or(interval, CLEANUP_INTERVAL, &at.field("cleanup_interval"));
    let at = at.field("original_dst_lb_config");
    if !choice.http_header_name.is_empty() && !choice.use_http_header {
        at.field("http_header_name")
            .refuse_with_hint("this does nothing without `use_http_header`", "set that, or leave this out");
    }
    let header = match choice.http_header_name.as_str() {
        "" => HEADER.to_owned(),
        name => name.to_ascii_lowercase(),
    };
    let port = choice.upstream_port_override.and_then(|port| match u16::try_from(port) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            at.field("upstream_port_override").refuse(format!("{port} is not a port"));
            None
        }
    });
    OriginalDst {
        port,
        header: choice.use_http_header.then(|| header.into()),
        cleanup_interval,
        max_addresses: usize::try_from(max_pools(config).unwrap_or(MAX_ADDRESSES)).unwrap_or(usize::MAX),
    }
}

/// A cluster of another type must not have them.
pub(super) fn refuse_settings(config: &cluster::Cluster, at: &At<'_>) {
    let refuse = |at: &At<'_>| {
        at.refuse_with_hint("this belongs to clusters of type ORIGINAL_DST", "set that type, or leave this out");
    };
    if matches!(config.lb_config, Some(LbConfig::OriginalDstLbConfig(_))) {
        refuse(&at.field("original_dst_lb_config"));
    }
    if config.cleanup_interval.is_some() {
        refuse(&at.field("cleanup_interval"));
    }
    if max_pools(config).is_some() {
        refuse(&at.field("circuit_breakers").field("thresholds").index(0).field("max_connection_pools"));
    }
}

fn max_pools(config: &cluster::Cluster) -> Option<u32> {
    config.circuit_breakers.as_ref()?.thresholds.first()?.max_connection_pools
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::translated;
    use pymesh_model::cluster::Discovery;

    fn with(fields: &str) -> (Discovery, Vec<String>) {
        let (cluster, problems) =
            translated(&format!("{{name: any, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, {fields}}}"));
        (cluster.discovery, problems)
    }

    #[test]
    fn settings_and_their_defaults() {
        let plain = OriginalDst { port: None, header: None, cleanup_interval: CLEANUP_INTERVAL, max_addresses: 8192 };
        assert_eq!(with(""), (Discovery::OriginalDst(plain.clone()), vec![]));
        let (made, problems) = with(
            "cleanup_interval: 1s, original_dst_lb_config: {use_http_header: true, upstream_port_override: 80}, \
             circuit_breakers: {thresholds: [{max_connection_pools: 3}]}",
        );
        let expected = OriginalDst {
            port: Some(80),
            header: Some(HEADER.into()),
            cleanup_interval: Duration::from_secs(1),
            max_addresses: 3,
        };
        assert_eq!((made, problems), (Discovery::OriginalDst(expected), vec![]));
        let named = OriginalDst { header: Some("x-to".into()), ..plain };
        let (made, _) = with("original_dst_lb_config: {use_http_header: true, http_header_name: X-To}");
        assert_eq!(made, Discovery::OriginalDst(named));
    }

    #[test]
    fn what_does_nothing_is_refused() {
        assert_eq!(
            with("original_dst_lb_config: {http_header_name: x-to}").1,
            ["original_dst_lb_config.http_header_name: this does nothing without `use_http_header`"]
        );
        assert_eq!(
            with("original_dst_lb_config: {upstream_port_override: 0}").1,
            ["original_dst_lb_config.upstream_port_override: 0 is not a port"]
        );
        let (_, problems) = translated(
            "{name: fixed, type: STATIC, cleanup_interval: 1s, original_dst_lb_config: {}, \
             circuit_breakers: {thresholds: [{max_connection_pools: 3}]}}",
        );
        let belongs = "this belongs to clusters of type ORIGINAL_DST";
        assert_eq!(
            problems,
            [
                format!("original_dst_lb_config: {belongs}"),
                format!("cleanup_interval: {belongs}"),
                format!("circuit_breakers.thresholds[0].max_connection_pools: {belongs}"),
            ]
        );
    }
}
