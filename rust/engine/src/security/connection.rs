//! Who may connect (`envoy.filters.network.rbac`, `envoy.filters.network.ext_authz`).
//!
//! Asked once, when the transport is ready and before anything is connected to: whoever is refused has reached nobody, and
//! has heard nothing. (Envoy connects first, and asks a service when the client has sent something: until then a client
//! that may not pass hears what the server says.)

use std::sync::Arc;

use pymesh_model::filter::rbac::Rbac;
use pymesh_model::filter::ConnectionAuthz;
use pymesh_model::listener as configured;
use pymesh_model::metadata::Struct;

use super::ext_authz::{Decision, Verdict};
use super::rbac::{judge, Subject};
use crate::decisions::Decisions;
use crate::engine::Options;
use crate::telemetry::stats::{ConnectionExtAuthzStats, RbacShadowStats, RbacStats};
use crate::telemetry::{details, Facts};

const NAME: &str = "envoy.filters.network.rbac";

/// What decides whether a connection may pass.
pub(crate) enum ConnectionFilter {
    Policy(ConnectionPolicy),
    Service(Arc<ServiceFilter>),
}

impl ConnectionFilter {
    pub fn new(config: &configured::ConnectionPolicy, options: &Options) -> ConnectionFilter {
        match config {
            configured::ConnectionPolicy::Rbac(config) => {
                ConnectionFilter::Policy(ConnectionPolicy::new(config, options))
            }
            configured::ConnectionPolicy::ExtAuthz(config) => {
                ConnectionFilter::Service(Arc::new(ServiceFilter::new(config, options)))
            }
        }
    }
}

/// Why a connection is refused.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// By which policy.
    Policy(Arc<str>),
    /// What a service says, or that it says nothing.
    Service(&'static str),
}

/// `envoy.filters.network.ext_authz` with a worker's counters. How it asks is in `conn/ext_authz.rs`.
pub(crate) struct ServiceFilter {
    pub config: Arc<ConnectionAuthz>,
    pub stats: Arc<ConnectionExtAuthzStats>,
}

impl ServiceFilter {
    fn new(config: &Arc<ConnectionAuthz>, options: &Options) -> ServiceFilter {
        let stats = options.hub.connection_ext_authz(options.worker, &config.stat_prefix);
        ServiceFilter { config: config.clone(), stats }
    }

    /// Whether it asks about this connection.
    pub fn concerns(&self, facts: &Facts) -> bool {
        let concerns = self.config.enabled_metadata.as_ref().is_none_or(|wanted| wanted.matches(&facts.metadata));
        if !concerns {
            self.stats.disabled.inc();
        }
        concerns
    }

    /// Why the connection is refused; `None` if it is not.
    pub fn refusal(&self, decision: &Decision) -> Option<Refusal> {
        let why = match decision.verdict {
            Verdict::Allowed(_) => {
                self.stats.ok.inc();
                return None;
            }
            Verdict::Denied(_) => {
                self.stats.denied.inc();
                details::EXT_AUTHZ_DENIED
            }
            Verdict::Failed(_) => {
                self.stats.error.inc();
                if self.config.allows_on_failure {
                    self.stats.failure_mode_allowed.inc();
                    return None;
                }
                details::EXT_AUTHZ_ERROR
            }
        };
        self.stats.cx_closed.inc();
        Some(Refusal::Service(why))
    }
}

/// `envoy.filters.network.rbac` with a worker's counters.
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
