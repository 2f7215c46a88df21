//! Which Python filters are in use, and since when no longer.
//!
//! A new configuration of a filter is another generation of it. Exchanges hold the chain that they began with, so that
//! each sees one generation from its first hook to its last; a generation is over when its last chain has gone, with the
//! last exchange or connection that held it. The driver is told ([`Engine::has_lost_filters`]), so that the host can let
//! go of the instances.

use std::sync::{Arc, Weak};

use pymesh_model::filter::{FilterKind, PythonFilter};

use crate::engine::Engine;
use crate::listener::{ChainRuntime, HttpRuntime, ListenerRuntime};

/// Chains with Python filters that are out of force and still held by somebody.
#[derive(Default)]
pub(crate) struct LeavingChains(Vec<Weak<HttpRuntime>>);

impl Engine {
    /// Every Python filter for the host to load: those of the configuration, and those that connections and requests
    /// from before it still pass.
    pub fn python_filters(&self) -> Vec<Arc<PythonFilter>> {
        let mut found: Vec<Arc<PythonFilter>> = Vec::new();
        let in_force = self.listeners.iter().flat_map(|listener| listener.all_chains());
        let in_force = in_force.filter_map(|chain| chain.http.clone());
        for http in in_force.chain(self.leaving_chains.0.iter().filter_map(Weak::upgrade)) {
            for filter in python_filters_of(&http) {
                if !found.iter().any(|known| Arc::ptr_eq(known, filter)) {
                    found.push(filter.clone());
                }
            }
        }
        found
    }

    /// A listener goes out of force: its chains go with their last exchange, except for those that another has taken over.
    pub(crate) fn keep_leaving_filters(&mut self, listener: &ListenerRuntime) {
        let is_in_force = |chain: &Arc<ChainRuntime>| {
            let mut kept = self.listeners_in_force().flat_map(|(_, listener)| listener.all_chains());
            kept.any(|kept| Arc::ptr_eq(kept, chain))
        };
        let leaving = listener.all_chains().filter(|chain| !is_in_force(chain)).filter_map(|chain| chain.http.as_ref());
        let leaving = leaving.filter(|http| python_filters_of(http).next().is_some());
        let leaving: Vec<_> = leaving.map(Arc::downgrade).collect();
        self.leaving_chains.0.extend(leaving);
    }

    /// True if chains with Python filters have gone since the last call: [`Engine::python_filters`] may be fewer now.
    pub fn has_lost_filters(&mut self) -> bool {
        let before = self.leaving_chains.0.len();
        self.leaving_chains.0.retain(|chain| chain.strong_count() > 0);
        self.leaving_chains.0.len() < before
    }
}

fn python_filters_of(http: &HttpRuntime) -> impl Iterator<Item = &Arc<PythonFilter>> {
    http.config.filters.iter().filter_map(|filter| match &filter.kind {
        FilterKind::Python(python) => Some(python),
        _ => None,
    })
}
