//! A bootstrap and one ADS stream without a network, for the simulated proxy and for fuzz targets: what a server says
//! goes in as octets, the snapshot and the answers come out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use pymesh_model::{Node, Snapshot};
use pymesh_tls::SecretStore;

use crate::bootstrap::{self, Bootstrap};
use crate::catalog::{Catalog, CountFilter, LoadFilter, Statics};
use crate::diagnostic::Diagnostic;
use crate::dump;
use crate::kind::ResourceKind;
use crate::proto::envoy::service::discovery::v3 as discovery;
use crate::session::{Request, Session, Variant};
use crate::translate::{Environment, Sources};

/// A machine without files and variables.
struct Nothing;

impl Sources for Nothing {
    fn file(&self, path: &str) -> Result<Vec<u8>, String> {
        Err(format!("there is no file `{path}`"))
    }

    fn variable(&self, name: &str) -> Result<String, String> {
        Err(format!("there is no variable `{name}`"))
    }
}

/// [`crate::load_bootstrap`] on a machine without files.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load_bootstrap(text: &str) -> Result<Bootstrap, Vec<Diagnostic>> {
    bootstrap::load("bootstrap.yaml", text, Box::new(Nothing))
}

/// A proxy's view of one ADS stream.
pub struct Offline {
    catalog: Catalog,
    session: Session,
    now: Duration,
}

impl Offline {
    /// With nothing but what a server will say, in either variant of the protocol.
    pub fn new(delta: bool, store: Arc<SecretStore>) -> Offline {
        let environment = Environment {
            ads: true,
            own_secrets: Vec::new(),
            workload: Default::default(),
            sources: Box::new(Nothing),
        };
        let catalog =
            Catalog::new(environment, Arc::new(Node::default()), Statics::default(), store, Box::new(|_| true));
        Offline::of(catalog, delta)
    }

    /// With the static resources of a bootstrap.
    pub fn with_statics(bootstrap: Bootstrap, store: Arc<SecretStore>) -> Offline {
        Offline::of(
            Catalog::new(bootstrap.environment, bootstrap.node, bootstrap.statics, store, Box::new(|_| true)),
            true,
        )
    }

    fn of(catalog: Catalog, delta: bool) -> Offline {
        let variant = if delta { Variant::Delta } else { Variant::StateOfTheWorld };
        let kinds = [ResourceKind::Cluster, ResourceKind::Listener];
        let session = Session::new(variant, Default::default(), kinds, BTreeMap::new());
        let mut offline = Offline { catalog, session, now: Duration::ZERO };
        offline.pass(Duration::ZERO);
        offline
    }

    /// As [`crate::Client::with_filters`].
    #[must_use]
    pub fn with_filters(mut self, load_filter: LoadFilter, count_filter: CountFilter) -> Offline {
        self.catalog.load_filters_by(load_filter, count_filter);
        self
    }

    /// Takes in one response. `None` if it is not even one; else what was refused of it, in the words of a NACK.
    pub fn hear(&mut self, delta: bool, response: &[u8]) -> Option<Vec<String>> {
        let answers = match delta {
            true => self.session.on_delta(discovery::DeltaDiscoveryResponse::decode(response).ok()?, &mut self.catalog),
            false => self
                .session
                .on_state_of_the_world(discovery::DiscoveryResponse::decode(response).ok()?, &mut self.catalog),
        };
        self.pass(Duration::ZERO);
        let refused = answers.into_iter().filter_map(|answer| match answer {
            Request::Delta(request) => request.error_detail,
            Request::StateOfTheWorld(request) => request.error_detail,
        });
        Some(refused.map(|status| status.message).collect())
    }

    /// Lets time pass, and what was waited for long enough.
    pub fn pass(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
        self.catalog.settle(self.now);
        self.session.refresh(&self.catalog);
    }

    /// What serves now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.catalog.snapshot().clone()
    }

    /// The page `/config_dump`.
    pub fn dump(&self) -> String {
        dump::json(&serde_json::Value::Null, &self.catalog)
    }
}
