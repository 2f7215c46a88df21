//! Who may do what with HTTP (`envoy.filters.http.rbac`).

use std::sync::Arc;

use pymesh_model::filter::rbac::{Policy, Rbac, RulesAction};
use pymesh_model::filter::{FilterId, RouteFilterConfig};
use pymesh_model::metadata::Value;

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
    /// Where others read what it has found out.
    namespace: Arc<str>,
}

impl RbacFilter {
    pub fn new(config: &Arc<Rbac>, prefix: &Arc<str>, options: &Options) -> RbacFilter {
        let named = |own: &str| -> Arc<str> { format!("http.{prefix}.rbac.{own}").into() };
        RbacFilter {
            config: config.clone(),
            stats: options.hub.rbac(options.worker, &named(&config.rules_stat_prefix)),
            shadow: options.hub.rbac_shadow(options.worker, &named(&config.shadow_stat_prefix)),
            namespace: "envoy.filters.http.rbac".into(),
        }
    }
}

pub(super) fn on_request(
    engine: &mut Engine,
    exchange: &mut Exchange,
    (id, name): (FilterId, &str),
    filter: &RbacFilter,
) -> Step {
    let said = exchange.routed.as_ref().and_then(|routed| routed.filters().get(id)?.config.as_ref());
    let config = match said {
        Some(RouteFilterConfig::Rbac(own)) => own,
        _ => &filter.config,
    };
    let (Some(facts), Some(http)) = (&exchange.facts, &exchange.http) else {
        // Every client's request has them. Of whom nothing is known is not let in.
        return Step::Reply(denied(Policy::refusal_by("none")));
    };
    let wanted = exchange.down.and_then(|down| engine.conns.get(down)).and_then(|conn| conn.original_dst());
    let subject = Subject {
        facts,
        request: Some(&exchange.request),
        forwarding: Some(&http.config.forwarding),
        destination: wanted.unwrap_or(facts.local),
        metadata: &exchange.metadata,
    };
    // As in Envoy, what this filter itself finds out is for those behind it, not for its own rules.
    let shadow = config.shadow.as_ref().map(|rules| judge(rules, &subject));
    let enforced = config.rules.as_ref().map(|rules| {
        let verdict = judge(rules, &subject);
        engine.decisions.tell(|| verdict.decision(name, true));
        let refusal = (!verdict.allowed).then(|| verdict.refusal(rules, &subject));
        let hint = (rules.action == RulesAction::Log).then_some(verdict.policy.is_some());
        (refusal, hint)
    });
    if let Some(verdict) = shadow {
        engine.decisions.tell(|| verdict.decision(name, false));
        match verdict.allowed {
            true => filter.shadow.shadow_allowed.inc(),
            false => filter.shadow.shadow_denied.inc(),
        }
        let said = verdict.metadata(&config.shadow_stat_prefix);
        exchange.metadata.add(&filter.namespace, &said);
    }
    let Some((refusal, hint)) = enforced else { return Step::Continue };
    if let Some(hint) = hint {
        let hint = [("access_log_hint".into(), Value::Bool(hint))];
        exchange.metadata.add(&"envoy.common".into(), &hint.into_iter().collect());
    }
    let Some(refusal) = refusal else {
        filter.stats.allowed.inc();
        return Step::Continue;
    };
    filter.stats.denied.inc();
    Step::Reply(denied(refusal))
}

fn denied(refusal: Arc<str>) -> LocalReply {
    LocalReply::new(403, Details::Made(refusal)).with_body(b"RBAC: access denied")
}
