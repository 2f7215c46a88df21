//! What of a listener's filter chains goes on when a new form of the listener comes.
//!
//! * A chain that has not changed stays the same `Arc`, by which the engine knows that its connections may go on (Envoy's
//!   in-place update of filter chains).
//! * One that differs in its Python filters alone is of the same lineage: its connections go on as well, with the new
//!   filters from their next request on. What else it consists of stays the same `Arc`s, with their state.
//! * A Python filter is loaded before it comes into force. If that fails, the rest of the listener is taken
//!   nevertheless, or a slip in a filter would hold up what the listener has to learn about security. The filter's
//!   earlier generation stays in force; the first one fails its requests by its failure policy.

use std::collections::HashMap;
use std::sync::Arc;

use prost::{Message as _, Name as _};
use pymesh_model::filter::{FilterKind, HttpFilter, PythonFilter};
use pymesh_model::http::HttpConnectionManager;
use pymesh_model::listener::{FilterChain, FilterChains, Listener, NetworkFilter};

use super::{Catalog, Loaded, Slot};
use crate::diagnostic::Diagnostic;
use crate::proto::envoy::config::listener::v3 as listener;
use crate::proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::proto::{pymesh::filters::v1 as python, type_name};

impl Catalog {
    /// See the module. The listener's own chains are those that were translated from `config`, in order.
    pub(super) fn keep_chains(&self, name: &str, config: &listener::Listener, listener: &mut Listener) {
        let Some(known) = self.listeners.get(name).and_then(Slot::newest) else { return };
        let Ok(old) = listener::Listener::decode(known.raw.value.as_slice()) else { return };
        let without_chains = |config: &listener::Listener| listener::Listener {
            filter_chains: Vec::new(),
            default_filter_chain: None,
            ..config.clone()
        };
        if without_chains(config) != without_chains(&old) {
            return;
        }
        let mut chains: Vec<Arc<FilterChain>> = listener.filter_chains.iter().cloned().collect();
        let earlier: Vec<Earlier<'_>> = old.filter_chains.iter().zip(known.value.filter_chains.iter()).collect();
        for (chain, config) in chains.iter_mut().zip(&config.filter_chains) {
            go_on(chain, config, &earlier);
        }
        // They match the same connections as before, and so can be told apart as before.
        if let Ok(chains) = FilterChains::new(chains) {
            listener.filter_chains = chains;
        }
        let defaults = (&mut listener.default_filter_chain, &config.default_filter_chain);
        if let (Some(chain), Some(config)) = defaults {
            let earlier = old.default_filter_chain.as_ref().zip(known.value.default_filter_chain.as_ref());
            go_on(chain, config, earlier.as_slice());
        }
    }

    /// Loads the Python filters of a listener, or puts their earlier generations in their places. Returns why.
    pub(super) fn load_filters(&self, name: &str, listener: &mut Listener) -> Vec<Diagnostic> {
        let mut loading = Loading { catalog: self, listener: name, judged: Vec::new(), remarks: Vec::new() };
        let mut chains: Vec<Arc<FilterChain>> = listener.filter_chains.iter().cloned().collect();
        for chain in chains.iter_mut().chain(&mut listener.default_filter_chain) {
            loading.load_chain(chain);
        }
        if let Ok(chains) = FilterChains::new(chains) {
            listener.filter_chains = chains;
        }
        loading.remarks
    }
}

/// A chain of the listener's last form, as it came and as it was translated.
type Earlier<'a> = (&'a listener::FilterChain, &'a Arc<FilterChain>);

fn go_on(chain: &mut Arc<FilterChain>, config: &listener::FilterChain, earlier: &[Earlier<'_>]) {
    // The same configuration may name files with other contents by now, which get another name.
    let mut candidates = earlier.iter().filter(|(_, kept)| kept.tls == chain.tls);
    let same = candidates.clone().find(|(old, kept)| *old == config && has_same_filters(chain, kept));
    if let Some((_, kept)) = same {
        *chain = (*kept).clone();
        return;
    }
    let bare = without_python(config);
    if let Some((_, kept)) = candidates.find(|(old, _)| without_python(old) == bare) {
        if let Some(heir) = next_generation(kept, chain) {
            *chain = Arc::new(heir);
        }
    }
}

/// The same configuration may have been loaded by now, or have come with another filter that was in force instead.
fn has_same_filters(chain: &FilterChain, kept: &FilterChain) -> bool {
    let (ours, theirs) = (python_filters(chain), python_filters(kept));
    ours.map(|(_, python)| Arc::as_ptr(python)).eq(theirs.map(|(_, python)| Arc::as_ptr(python)))
}

/// `kept` with the Python filters of `chain`, which is the same in everything else.
fn next_generation(kept: &FilterChain, chain: &FilterChain) -> Option<FilterChain> {
    let (NetworkFilter::Http(old), NetworkFilter::Http(new)) = (&kept.network, &chain.network) else { return None };
    let mut others = old.filters.iter().filter(|filter| !is_python(filter));
    let filters = new.filters.iter().filter_map(|filter| if is_python(filter) { Some(filter) } else { others.next() });
    let manager = HttpConnectionManager { filters: filters.cloned().collect(), ..(**old).clone() };
    Some(FilterChain { network: NetworkFilter::Http(Arc::new(manager)), ..kept.clone() })
}

/// The message without its Python filters.
fn without_python(config: &listener::FilterChain) -> listener::FilterChain {
    use hcm::http_filter::ConfigType;
    use listener::filter::ConfigType as NetworkConfig;
    let mut bare = config.clone();
    for filter in &mut bare.filters {
        let Some(NetworkConfig::TypedConfig(any)) = &mut filter.config_type else { continue };
        if type_name(&any.type_url) != hcm::HttpConnectionManager::full_name() {
            continue;
        }
        let Ok(mut manager) = hcm::HttpConnectionManager::decode(any.value.as_slice()) else { continue };
        manager.http_filters.retain(|filter| {
            let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { return true };
            type_name(&any.type_url) != python::PythonFilter::full_name()
        });
        any.value = manager.encode_to_vec();
    }
    bare
}

fn python_filters(chain: &FilterChain) -> impl Iterator<Item = (&Arc<HttpFilter>, &Arc<PythonFilter>)> {
    let filters = match &chain.network {
        NetworkFilter::Http(manager) => manager.filters.as_slice(),
        NetworkFilter::Tcp(_) => &[],
    };
    filters.iter().filter_map(|filter| match &filter.kind {
        FilterKind::Python(python) => Some((filter, python)),
        _ => None,
    })
}

fn is_python(filter: &HttpFilter) -> bool {
    matches!(filter.kind, FilterKind::Python(_))
}

/// One listener's filters while they are loaded.
struct Loading<'a> {
    catalog: &'a Catalog,
    listener: &'a str,
    /// What came of each filter: a listener has the same one in many chains.
    judged: Vec<(Arc<HttpFilter>, Arc<HttpFilter>)>,
    remarks: Vec<Diagnostic>,
}

impl Loading<'_> {
    fn load_chain(&mut self, chain: &mut Arc<FilterChain>) {
        if python_filters(chain).next().is_none() {
            return;
        }
        let NetworkFilter::Http(manager) = &mut Arc::make_mut(chain).network else { return };
        for filter in &mut Arc::make_mut(manager).filters {
            if let FilterKind::Python(python) = &filter.kind {
                *filter = self.usable(filter, python);
            }
        }
    }

    /// The filter that takes this one's place: itself, an equal one that is loaded already, or an earlier generation.
    fn usable(&mut self, filter: &Arc<HttpFilter>, python: &Arc<PythonFilter>) -> Arc<HttpFilter> {
        let is_same = |known: &HttpFilter| match &known.kind {
            FilterKind::Python(other) => other == python && known.id == filter.id && known.disabled == filter.disabled,
            _ => false,
        };
        if let Some((_, usable)) = self.judged.iter().find(|(judged, _)| is_same(judged)) {
            return usable.clone();
        }
        let with =
            |python: Arc<PythonFilter>| Arc::new(HttpFilter { kind: FilterKind::Python(python), ..(**filter).clone() });
        let equal = self.catalog.python_filters().find(|(_, other)| *other == python);
        let shared = equal.map_or_else(|| python.clone(), |(_, other)| other.clone());
        let usable = match (self.catalog.load_filter)(&shared) {
            Ok(loaded) => {
                if loaded == Loaded::Now {
                    (self.catalog.count_filter)(&filter.name, true);
                }
                with(shared)
            }
            Err(reason) => {
                (self.catalog.count_filter)(&filter.name, false);
                let earlier = self.earlier(filter);
                self.remark(&filter.name, earlier.is_some(), &reason);
                with(earlier.unwrap_or(shared))
            }
        };
        self.judged.push((filter.clone(), usable.clone()));
        usable
    }

    /// What stood in the listener's last form under the same name.
    fn earlier(&self, filter: &HttpFilter) -> Option<Arc<PythonFilter>> {
        let known = self.catalog.listeners.get(self.listener).and_then(Slot::newest)?;
        let found: HashMap<*const PythonFilter, &Arc<PythonFilter>> = filters_of(&known.value)
            .filter(|(known, _)| known.id == filter.id)
            .map(|(_, python)| (Arc::as_ptr(python), python))
            .collect();
        // With several under one name nobody knows whose generation this one is.
        let earlier = found.values().next().filter(|_| found.len() == 1).map(|earlier| (*earlier).clone())?;
        // One that failed then does not serve as a refuge now.
        (self.catalog.load_filter)(&earlier).is_ok().then_some(earlier)
    }

    fn remark(&mut self, name: &str, has_earlier: bool, reason: &str) {
        let (what, hint) = reason.split_once("\nhint: ").map_or((reason, None), |(what, hint)| (what, Some(hint)));
        let consequence = match has_earlier {
            true => "its earlier generation goes on serving",
            false => "its requests are judged by its failure policy",
        };
        self.remarks.push(Diagnostic {
            place: None,
            path: format!("filter {name}"),
            message: format!("cannot be loaded, {consequence}: {what}"),
            hint: hint.map(str::to_owned),
        });
    }
}

impl Catalog {
    /// Of every listener, whichever form of it.
    pub(super) fn python_filters(&self) -> impl Iterator<Item = (&Arc<HttpFilter>, &Arc<PythonFilter>)> {
        self.listeners.values().flat_map(Slot::resources).flat_map(|listener| filters_of(&listener.value))
    }
}

fn filters_of(listener: &Listener) -> impl Iterator<Item = (&Arc<HttpFilter>, &Arc<PythonFilter>)> {
    let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
    chains.flat_map(|chain| python_filters(chain))
}
