//! Who may do what with HTTP (`envoy.filters.http.rbac`).

use std::sync::Arc;

use pymesh_model::filter::rbac::Rbac;
use pymesh_model::filter::{FilterId, RouteFilterConfig};

use super::Step;
use crate::engine::{Engine, Options};
use crate::exchange::{Exchange, LocalReply};
use crate::security::rbac::{judge, Subject};
use crate::telemetry::stats::{RbacShadowStats, RbacStats};
use crate::telemetry::Details;

/// The filter in a chain.
pub(super) struct RbacFilter {
    config: Arc<Rbac>,
    stats: Arc<RbacStats>,
    shadow: Arc<RbacShadowStats>,
}

impl RbacFilter {
    pub fn new(config: &Arc<Rbac>, prefix: &Arc<str>, options: &Options) -> RbacFilter {
        let named = |own: &str| -> Arc<str> { format!("http.{prefix}.rbac.{own}").into() };
        RbacFilter {
            config: config.clone(),
            stats: options.hub.rbac(options.worker, &named(&config.rules_stat_prefix)),
            shadow: options.hub.rbac_shadow(options.worker, &named(&config.shadow_stat_prefix)),
        }
    }
}

pub(super) fn on_request(engine: &Engine, exchange: &Exchange, id: FilterId, filter: &RbacFilter) -> Step {
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let config = match said {
        Some(RouteFilterConfig::Rbac(own)) => own,
        _ => &filter.config,
    };
    let (Some(facts), Some(http)) = (&exchange.facts, &exchange.http) else { return Step::Continue };
    let wanted = exchange.down.and_then(|down| engine.conns.get(down)).and_then(|conn| conn.original_dst());
    let subject = Subject {
        facts,
        request: Some(&exchange.request),
        forwarding: Some(&http.config.forwarding),
        destination: wanted.unwrap_or(facts.local),
    };
    if let Some(rules) = &config.shadow {
        match judge(rules, &subject).allowed {
            true => filter.shadow.shadow_allowed.inc(),
            false => filter.shadow.shadow_denied.inc(),
        }
    }
    let Some(rules) = &config.rules else { return Step::Continue };
    let verdict = judge(rules, &subject);
    if verdict.allowed {
        filter.stats.allowed.inc();
        return Step::Continue;
    }
    filter.stats.denied.inc();
    let details = Details::Made(verdict.refusal(rules, &subject));
    Step::Reply(LocalReply::new(403, details).with_body(b"RBAC: access denied"))
}
