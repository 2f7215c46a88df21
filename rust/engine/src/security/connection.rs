//! Who may connect (`envoy.filters.network.rbac`).
//!
//! Asked once, when the transport is ready and before anything is connected to: whoever is refused has reached nobody.

use std::sync::Arc;

use pymesh_model::filter::rbac::Rbac;
use pymesh_model::metadata::Struct;

use super::rbac::{judge, Subject};
use crate::decisions::Decisions;
use crate::engine::Options;
use crate::telemetry::stats::{RbacShadowStats, RbacStats};

const NAME: &str = "envoy.filters.network.rbac";

/// A network filter with a worker's counters.
pub(crate) struct ConnectionPolicy {
    config: Arc<Rbac>,
    stats: Arc<RbacStats>,
    shadow: Arc<RbacShadowStats>,
}

impl ConnectionPolicy {
    pub fn new(config: &Arc<Rbac>, options: &Options) -> ConnectionPolicy {
        let named = |own: &str| -> Arc<str> { format!("{}rbac.{own}", config.stat_prefix).into() };
        ConnectionPolicy {
            config: config.clone(),
            stats: options.hub.rbac(options.worker, &named("")),
            shadow: options.hub.rbac_shadow(options.worker, &named(&config.shadow_stat_prefix)),
        }
    }

    /// What rules that are not enforced say of it.
    pub fn shadow(&self, subject: &Subject<'_>, decisions: &mut Decisions) -> Option<Struct> {
        let verdict = judge(self.config.shadow.as_ref()?, subject);
        decisions.tell(|| verdict.decision(NAME, false));
        match verdict.allowed {
            true => self.shadow.shadow_allowed.inc(),
            false => self.shadow.shadow_denied.inc(),
        }
        Some(verdict.metadata(&self.config.shadow_stat_prefix))
    }

    /// Why the connection is refused; `None` if it is not.
    pub fn refusal(&self, subject: &Subject<'_>, decisions: &mut Decisions) -> Option<Arc<str>> {
        let rules = self.config.rules.as_ref()?;
        let verdict = judge(rules, subject);
        decisions.tell(|| verdict.decision(NAME, true));
        if verdict.allowed {
            self.stats.allowed.inc();
            return None;
        }
        self.stats.denied.inc();
        Some(verdict.refusal(rules, subject))
    }
}
