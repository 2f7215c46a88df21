//! The configuration feed of a running proxy: one task that owns the catalog
//! and hears from the ADS stream, the resolvers and the certificate.
//!
//! Whatever happens, the order is the same: take it in, settle, publish if the
//! snapshot has changed, bring the subscriptions in line.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pymesh_model::tls::SecretName;
use pymesh_model::Snapshot;
use pymesh_tls::SecretStore;
use tokio::sync::{mpsc, Notify};
use tokio::task::JoinHandle;

use crate::bootstrap::{Bootstrap, Discovery, WorkloadIdentity};
use crate::catalog::{check_material, Catalog, CountFilter, IsWarm, LoadFilter};
use crate::chance::Chance;
use crate::dump;
use crate::identity;
use crate::kind::ResourceKind;
use crate::resolve;
use crate::session::{Request, Session};
use crate::stream::{self, Event, Server};
use crate::taken;
use crate::translate::DnsSettings;
use crate::transport::Target;
use crate::Diagnostic;

/// See the module.
pub struct Client {
    catalog: Catalog,
    discovery: Option<Discovery>,
    identity: Option<WorkloadIdentity>,
    store: Arc<SecretStore>,
    /// The bootstrap without keys.
    shown: serde_json::Value,
    pages: Pages,
}

/// What admin pages show of the feed.
#[derive(Clone, Default)]
pub struct Pages {
    /// Envoy's `ConfigDump` as JSON: what was accepted and refused.
    pub dump: Latest<String>,
    /// For each type of resources the answer of the server that was taken in last and what of it is not in force. It
    /// is put here after the snapshot with it was published.
    pub taken: Latest<serde_json::Value>,
}

/// What an admin page shows of the feed, as it stands now.
#[derive(Clone, Default)]
pub struct Latest<T>(Arc<Mutex<T>>);

impl<T: Clone> Latest<T> {
    /// The newest there is.
    pub fn value(&self) -> T {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, value: T) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = value;
    }
}

impl Client {
    /// A feed for this bootstrap. Keys go into `store`; `is_warm` says how clusters stand that were published as warming.
    ///
    /// # Errors
    /// Keys and certificates of the bootstrap that cannot be used.
    pub fn new(bootstrap: Bootstrap, store: Arc<SecretStore>, is_warm: IsWarm) -> Result<Client, Vec<Diagnostic>> {
        let Bootstrap { node, environment, statics, discovery, identity, shown, .. } = bootstrap;
        let of_clusters = statics.clusters.iter().flat_map(|one| &one.needs.materials);
        let of_listeners = statics.listeners.iter().flat_map(|one| &one.needs.materials);
        let materials = statics.secrets.iter().chain(of_clusters).chain(of_listeners);
        let problems: Vec<Diagnostic> =
            materials.filter_map(|material| check_material(material, &store).err()).collect();
        if !problems.is_empty() {
            return Err(problems);
        }
        let catalog = Catalog::new(environment, node, statics, store.clone(), is_warm);
        Ok(Client { catalog, discovery, identity, store, shown, pages: Pages::default() })
    }

    /// Loads Python filters by this, so that one that cannot be loaded is refused while the earlier one serves.
    #[must_use]
    pub fn with_filters(mut self, load_filter: LoadFilter, count_filter: CountFilter) -> Client {
        self.catalog.load_filters_by(load_filter, count_filter);
        self
    }

    /// A handle on what the admin server shows.
    pub fn pages(&self) -> Pages {
        self.pages.clone()
    }

    /// Feeds `publish` until the runtime ends; it answers what could not be put
    /// in force. `live` is called once, when the first configuration is complete.
    ///
    /// # Errors
    /// A static listener cannot be opened at the start.
    pub async fn run(
        mut self,
        mut publish: impl FnMut(Arc<Snapshot>) -> Vec<String>,
        live: impl FnOnce(),
    ) -> Result<(), String> {
        let started = Instant::now();
        let (certified_sender, mut certified) = mpsc::channel(1);
        let changed = Arc::new(Notify::new());
        let (event_sender, mut events) = mpsc::channel(16);
        let (answer_sender, mut answers) = mpsc::channel(16);
        self.catalog.settle(started.elapsed());
        // A first look, so that what does not wait for anybody serves at once.
        let errors = publish(self.catalog.snapshot().clone());
        if !errors.is_empty() {
            return Err(errors.join("\n"));
        }
        self.start_identity(identity::Link { certified: certified_sender, changed: changed.clone() });
        self.start_stream(event_sender)?;
        let mut feed = Feed::default();
        let mut live = Some(live);
        let mut published = self.catalog.snapshot().clone();
        let roots = SecretName::from(identity::ROOTS);
        let (mut heard, mut bundle) = ((self.store.removals(), self.store.moves()), None);
        loop {
            feed.resolve(&self.catalog, &answer_sender);
            self.pages.dump.set(dump::json(&self.shown, &self.catalog));
            self.pages.taken.set(taken::json(feed.session.as_ref(), &self.catalog));
            let is_complete =
                self.discovery.as_ref().is_none_or(|discovery| feed.answered.is_superset(&discovery.kinds));
            if is_complete && !self.catalog.is_warming() {
                if let Some(live) = live.take() {
                    live();
                }
            }
            let deadline = self.catalog.next_deadline();
            tokio::select! {
                Some(event) = events.recv() => feed.on_event(event, &mut self.catalog, self.discovery.as_ref()).await,
                Some((settings, endpoints)) = answers.recv() => self.catalog.resolved(&settings, endpoints),
                Some(found) = certified.recv() => {
                    self.catalog.roots_of_authority(&found.roots);
                    if found.has_moved {
                        self.store.note_move(&roots);
                    }
                }
                () = sleep_until(started, deadline) => {}
            }
            let is_start = !self.catalog.is_open();
            self.catalog.settle(started.elapsed());
            let snapshot = self.catalog.snapshot().clone();
            let digest = self.store.trust_digest(&roots);
            if digest != bundle {
                bundle = digest;
                changed.notify_one();
            }
            // Workers look at the connections that stand whenever they are told of a snapshot, be it the same.
            let before = std::mem::replace(&mut heard, (self.store.removals(), self.store.moves()));
            if heard != before || !Arc::ptr_eq(&snapshot, &published) {
                let errors = publish(snapshot.clone());
                if is_start && !errors.is_empty() {
                    return Err(errors.join("\n"));
                }
                for error in errors {
                    eprintln!("configuration: {error}");
                }
                published = snapshot;
            }
            feed.refresh(&self.catalog).await;
        }
    }

    fn start_identity(&self, link: identity::Link) {
        let Some(identity) = self.identity.clone() else { return };
        let Some(target) = self.static_cluster(&identity.ca_cluster) else { return };
        let node = self.catalog.snapshot().node.id.clone();
        let asking = identity::Asking { identity, target, node };
        tokio::task::spawn_local(identity::run(asking, self.store.clone(), Chance::from_system(), link));
    }

    fn start_stream(&self, events: mpsc::Sender<Event>) -> Result<(), String> {
        let Some(discovery) = &self.discovery else { return Ok(()) };
        let target = self
            .static_cluster(&discovery.cluster)
            .ok_or_else(|| format!("the ADS cluster {} is not a static cluster", discovery.cluster))?;
        let metadata = discovery.metadata.clone();
        // The workload's token is for its control plane, and for nobody else that a bootstrap may name.
        let is_told = metadata.iter().any(|(key, _)| key == identity::AUTHORIZATION);
        let own = self.identity.as_ref().filter(|own| own.ca_cluster == discovery.cluster && !is_told);
        let token_path = own.map(|own| own.token_path.clone());
        let server = Server { target, variant: discovery.variant, metadata, token_path };
        tokio::task::spawn_local(stream::run(server, self.store.clone(), Chance::from_system(), events));
        Ok(())
    }

    fn static_cluster(&self, name: &str) -> Option<Target> {
        Some(Target::of(&self.catalog.clusters().get(name)?.newest()?.value))
    }
}

/// What the task keeps beside the catalog.
#[derive(Default)]
struct Feed {
    session: Option<Session>,
    /// What the last stream left in use.
    versions: BTreeMap<ResourceKind, String>,
    requests: Option<mpsc::Sender<Request>>,
    resolvers: Vec<(Arc<DnsSettings>, JoinHandle<()>)>,
    /// Wildcard types that have been answered at least once.
    answered: BTreeSet<ResourceKind>,
}

impl Feed {
    async fn on_event(&mut self, event: Event, catalog: &mut Catalog, discovery: Option<&Discovery>) {
        match event {
            Event::Open(requests) => {
                let Some(discovery) = discovery else { return };
                let kinds = discovery.kinds.iter().copied();
                let versions = std::mem::take(&mut self.versions);
                self.session = Some(Session::new(discovery.variant, discovery.node.clone(), kinds, versions));
                self.requests = Some(requests);
            }
            Event::Closed(reason) => {
                if self.requests.take().is_some() || self.answered.is_empty() {
                    eprintln!("xds: {reason}; trying again, the last configuration stays in force");
                }
                if let Some(session) = self.session.take() {
                    self.versions = session.accepted_versions();
                }
            }
            Event::Delta(response) => {
                self.answered.extend(ResourceKind::of(&response.type_url));
                if let Some(session) = &mut self.session {
                    let requests = session.on_delta(*response, catalog);
                    self.send(requests).await;
                }
            }
            Event::StateOfTheWorld(response) => {
                self.answered.extend(ResourceKind::of(&response.type_url));
                if let Some(session) = &mut self.session {
                    let requests = session.on_state_of_the_world(*response, catalog);
                    self.send(requests).await;
                }
            }
        }
    }

    async fn refresh(&mut self, catalog: &Catalog) {
        if let Some(session) = &mut self.session {
            let requests = session.refresh(catalog);
            self.send(requests).await;
        }
    }

    async fn send(&mut self, requests: Vec<Request>) {
        for request in requests {
            if let Some(reason) = request.refusal() {
                eprintln!("xds: refused: {reason}");
            }
            let Some(sender) = &self.requests else { return };
            if sender.send(request).await.is_err() {
                // The stream has ended; its event says so.
                self.requests = None;
            }
        }
    }

    /// One resolver for each cluster that wants one.
    fn resolve(&mut self, catalog: &Catalog, answers: &mpsc::Sender<resolve::Answer>) {
        let wanted = catalog.names_to_resolve();
        self.resolvers.retain(|(settings, task)| {
            let keep = wanted.iter().any(|(_, wanted)| Arc::ptr_eq(wanted, settings));
            if !keep {
                task.abort();
            }
            keep
        });
        for (_, settings) in wanted {
            if !self.resolvers.iter().any(|(known, _)| Arc::ptr_eq(known, &settings)) {
                let task = tokio::task::spawn_local(resolve::run(settings.clone(), answers.clone()));
                self.resolvers.push((settings, task));
            }
        }
    }
}

async fn sleep_until(started: Instant, deadline: Option<Duration>) {
    match deadline {
        Some(deadline) => tokio::time::sleep(deadline.saturating_sub(started.elapsed())).await,
        None => std::future::pending().await,
    }
}
