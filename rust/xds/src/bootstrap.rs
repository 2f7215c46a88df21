//! The bootstrap file: Envoy's `Bootstrap` as YAML or JSON.
//!
//! Reading, checking and translating go through the whole file, so that every
//! problem is reported at once, with its line and column.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::cluster::UpstreamBind;
use pymesh_model::overload::OverloadManager;
use pymesh_model::tls::SecretName;
use pymesh_model::Node;

use crate::catalog::{refuse_keepalive, Resource, Statics};
use crate::check;
use crate::diagnostic::{At, Diagnostic, Place, Problems};
use crate::document;
use crate::dump;
use crate::identity;
use crate::json::{self, Places};
use crate::kind::ResourceKind;
use crate::proto;
use crate::proto::envoy::config::bootstrap::v3 as bootstrap;
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::pymesh::identity::v1 as own;
use crate::session::Variant;
use crate::translate::{self, Context, Environment, Machine, Sources};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
/// How we introduce ourselves to control planes.
const USER_AGENT: &str = "pymesh";

/// A bootstrap that can be run.
pub struct Bootstrap {
    /// Where the admin pages are served.
    pub admin: Option<SocketAddr>,
    /// What the process may take.
    pub overload: OverloadManager,
    pub(crate) node: Arc<Node>,
    pub(crate) environment: Environment,
    pub(crate) statics: Statics,
    pub(crate) discovery: Option<Discovery>,
    pub(crate) identity: Option<WorkloadIdentity>,
    /// The file as people may see it, without keys.
    pub(crate) shown: serde_json::Value,
}

/// `dynamic_resources`.
#[derive(Clone, Debug)]
pub(crate) struct Discovery {
    pub(crate) cluster: String,
    pub(crate) variant: Variant,
    pub(crate) metadata: Vec<(String, String)>,
    pub(crate) node: core::Node,
    /// Wildcard types that come over ADS.
    pub(crate) kinds: BTreeSet<ResourceKind>,
}

/// `pymesh.identity.v1.WorkloadIdentity`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkloadIdentity {
    pub(crate) ca_cluster: String,
    pub(crate) spiffe_id: String,
    pub(crate) token_path: String,
    /// `None` leaves it to the authority.
    pub(crate) lifetime: Option<Duration>,
}

/// Reads a bootstrap. `file` is its name for messages.
///
/// # Errors
/// Everything that is wrong with it, in the order of the file.
pub fn load_bootstrap(file: &str, text: &str) -> Result<Bootstrap, Vec<Diagnostic>> {
    load(file, text, Box::new(Machine))
}

pub(crate) fn load(file: &str, text: &str, sources: Box<dyn Sources + Send>) -> Result<Bootstrap, Vec<Diagnostic>> {
    let file: Arc<str> = file.into();
    let tree = document::parse(text).map_err(|error| {
        let place = Place { file: file.clone(), line: error.mark.line, column: error.mark.column };
        vec![Diagnostic { place: Some(place), path: String::new(), message: error.message, hint: None }]
    })?;
    let problems = Problems::default();
    let places = Places::default();
    let at = At::root("", &problems);
    let descriptor = proto::descriptor(BOOTSTRAP).map_err(|error| {
        vec![Diagnostic { place: None, path: String::new(), message: error.message, hint: Some(error.hint) }]
    })?;
    let message = json::read(&tree, &descriptor, &at, &places);
    check::message(&message, &at);
    let loaded = match message.transcode_to::<bootstrap::Bootstrap>() {
        Ok(config) => translate(&config, &at, sources, dump::shown(message)),
        Err(error) => {
            at.refuse(error.to_string());
            None
        }
    };
    let mut problems = problems.into_vec();
    match loaded {
        Some(bootstrap) if problems.is_empty() => Ok(bootstrap),
        _ => {
            places.locate(&file, &mut problems);
            problems.sort_by_key(|problem| problem.place.as_ref().map(|place| (place.line, place.column)));
            problems.dedup();
            Err(problems)
        }
    }
}

fn translate(
    config: &bootstrap::Bootstrap,
    at: &At<'_>,
    sources: Box<dyn Sources + Send>,
    shown: serde_json::Value,
) -> Option<Bootstrap> {
    let node = config.node.clone().unwrap_or_default();
    let dynamic_at = at.field("dynamic_resources");
    let discovery = config.dynamic_resources.as_ref().and_then(|dynamic| discovery(dynamic, &node, &dynamic_at));
    let identity = workload_identity(&config.bootstrap_extensions, &at.field("bootstrap_extensions"));
    let own_secrets = match &identity {
        Some(_) => vec![SecretName::from(identity::CERTIFICATE), SecretName::from(identity::ROOTS)],
        None => Vec::new(),
    };
    let workload = translate::workload_from_node(&node);
    let zone = node.locality.as_ref().map_or_else(String::new, |locality| locality.zone.clone());
    let environment = Environment { ads: discovery.is_some(), own_secrets, workload: workload.clone(), sources };
    let admin = config
        .admin
        .as_ref()
        .and_then(|admin| admin.address.as_ref())
        .and_then(|address| translate::socket_address(Some(address), &at.field("admin").field("address")));
    let overload = translate::overload(config, at);
    let statics = statics(config.static_resources.as_ref(), &environment, &at.field("static_resources"));
    if let Some(discovery) = &discovery {
        let at = dynamic_at.field("ads_config");
        require_cluster(&statics, &discovery.cluster, &at.field("grpc_services"));
    }
    if let Some(identity) = &identity {
        require_cluster(&statics, &identity.ca_cluster, &at.field("bootstrap_extensions"));
    }
    let node = Arc::new(Node { id: node.id, cluster: node.cluster, zone, workload });
    Some(Bootstrap { admin, overload, node, environment, statics, discovery, identity, shown })
}

fn require_cluster(statics: &Statics, name: &str, at: &At<'_>) {
    let found = statics.clusters.iter().map(|cluster| &cluster.value.cluster).find(|cluster| &*cluster.name == name);
    match found {
        None if !name.is_empty() => {
            at.refuse_with_hint(
                format!("there is no static cluster `{name}`"),
                "add it to `static_resources.clusters`",
            );
        }
        Some(cluster) if cluster.bind != UpstreamBind::default() => {
            at.refuse_with_hint(
                format!("`upstream_bind_config` of cluster `{name}` cannot be used for this"),
                "leave it out there",
            );
        }
        _ => {}
    }
}

fn statics(config: Option<&bootstrap::bootstrap::StaticResources>, environment: &Environment, at: &At<'_>) -> Statics {
    let mut statics = Statics::default();
    let Some(config) = config else { return statics };
    let secrets_at = at.field("secrets");
    for (index, secret) in config.secrets.iter().enumerate() {
        let cx = Context::new(environment);
        statics.secrets.extend(translate::secret(secret, &secrets_at.index(index), &cx));
    }
    let clusters_at = at.field("clusters");
    for (index, cluster) in config.clusters.iter().enumerate() {
        let at = clusters_at.index(index);
        let mut cx = Context::new(environment);
        let parts = translate::cluster(cluster, &at, &mut cx);
        refuse_keepalive(&parts, at.problems());
        if statics.clusters.iter().any(|other| other.value.cluster.name == parts.cluster.name) {
            at.field("name").refuse(format!("another cluster is called `{}`", parts.cluster.name));
        }
        let raw = prost_types::Any::from_msg(cluster).unwrap_or_default();
        let resource = Resource { value: parts, needs: cx.needs, raw, version: String::new() };
        statics.clusters.push(Arc::new(resource));
    }
    let listeners_at = at.field("listeners");
    for (index, listener) in config.listeners.iter().enumerate() {
        let at = listeners_at.index(index);
        let mut cx = Context::new(environment);
        let Some(value) = translate::listener(listener, &at, &mut cx) else { continue };
        for other in &statics.listeners {
            if other.value.name == value.name {
                at.field("name").refuse(format!("another listener is called `{}`", value.name));
            }
            // Also of those that are not bound: original destinations must mean one listener.
            let takes_port = !value.bind_to_port || value.address.port() != 0;
            if takes_port && other.value.address == value.address {
                at.field("address")
                    .refuse(format!("listener `{}` has this address, {}", other.value.name, value.address));
            }
        }
        for (path, name) in &cx.needs.clusters {
            if !statics.clusters.iter().any(|cluster| cluster.value.cluster.name == *name) {
                at.problems().push(Diagnostic {
                    place: None,
                    path: path.clone(),
                    message: format!("there is no cluster `{name}`"),
                    hint: Some("add it to `static_resources.clusters`".to_owned()),
                });
            }
        }
        for name in cx
            .needs
            .secrets
            .iter()
            .filter(|(_, patience)| **patience == translate::Patience::Local)
            .map(|(name, _)| name)
        {
            let here =
                environment.own_secrets.contains(name) || statics.secrets.iter().any(|secret| secret.name == *name);
            if !here {
                at.refuse_with_hint(
                    format!("there is no static secret `{name}`"),
                    "add it to `static_resources.secrets`",
                );
            }
        }
        let raw = prost_types::Any::from_msg(listener).unwrap_or_default();
        let resource = Resource { value: Arc::new(value), needs: cx.needs, raw, version: String::new() };
        statics.listeners.push(Arc::new(resource));
    }
    statics
}

fn discovery(config: &bootstrap::bootstrap::DynamicResources, node: &core::Node, at: &At<'_>) -> Option<Discovery> {
    use core::api_config_source::ApiType;
    let mut kinds = BTreeSet::new();
    for (field, source, kind) in [
        ("lds_config", &config.lds_config, ResourceKind::Listener),
        ("cds_config", &config.cds_config, ResourceKind::Cluster),
    ] {
        match source.as_ref().map(|source| &source.config_source_specifier) {
            None => {}
            Some(Some(core::config_source::ConfigSourceSpecifier::Ads(_))) => {
                kinds.insert(kind);
            }
            Some(None) => {
                at.field(field).refuse_with_hint("it does not say where resources come from", "write `ads: {}`")
            }
        }
    }
    let Some(ads) = &config.ads_config else {
        if !kinds.is_empty() {
            at.refuse_with_hint("`ads_config` must be set", "name the control plane's cluster there");
        }
        return None;
    };
    let at = at.field("ads_config");
    let variant = match ApiType::try_from(ads.api_type) {
        Ok(ApiType::DeltaGrpc | ApiType::AggregatedDeltaGrpc) => Variant::Delta,
        Ok(ApiType::Grpc | ApiType::AggregatedGrpc) => Variant::StateOfTheWorld,
        _ => {
            at.field("api_type").refuse_with_hint("this type of API is not supported", "write DELTA_GRPC or GRPC");
            return None;
        }
    };
    let services_at = at.field("grpc_services");
    let [service] = ads.grpc_services.as_slice() else {
        services_at.refuse("there must be exactly one");
        return None;
    };
    let service_at = services_at.index(0);
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        service_at.refuse("`envoy_grpc` must be set");
        return None;
    };
    if service.timeout.is_some() {
        service_at.field("timeout").refuse_with_hint("the stream to the control plane has no end", "leave it out");
    }
    let metadata =
        service.initial_metadata.iter().map(|header| (header.key.to_ascii_lowercase(), header.value.clone()));
    if node.id.is_empty() {
        at.refuse_with_hint("ADS needs to know who asks", "set `node.id`");
    }
    let version = core::node::UserAgentVersionType::UserAgentVersion(env!("CARGO_PKG_VERSION").to_owned());
    let node =
        core::Node { user_agent_name: USER_AGENT.to_owned(), user_agent_version_type: Some(version), ..node.clone() };
    Some(Discovery { cluster: target.cluster_name.clone(), variant, metadata: metadata.collect(), node, kinds })
}

fn workload_identity(extensions: &[core::TypedExtensionConfig], at: &At<'_>) -> Option<WorkloadIdentity> {
    let mut found = None;
    for (index, extension) in extensions.iter().enumerate() {
        let at = at.index(index);
        let at = at.field("typed_config");
        let Some(any) = &extension.typed_config else {
            at.refuse("this must be set");
            continue;
        };
        if proto::type_name(&any.type_url) != "pymesh.identity.v1.WorkloadIdentity" {
            at.refuse_with_hint(
                format!("`{}` cannot be used here", proto::type_name(&any.type_url)),
                "supported here: pymesh.identity.v1.WorkloadIdentity",
            );
            continue;
        }
        let Some(identity) = at.ok(<own::WorkloadIdentity as prost::Message>::decode(any.value.as_slice())) else {
            continue;
        };
        for (field, value) in [
            ("ca_cluster", &identity.ca_cluster),
            ("spiffe_id", &identity.spiffe_id),
            ("token_path", &identity.token_path),
        ] {
            if value.is_empty() {
                at.field(field).refuse("this must be set");
            }
        }
        if let Err(error) = pymesh_tls::spiffe::SpiffeId::parse(&identity.spiffe_id) {
            if !identity.spiffe_id.is_empty() {
                at.field("spiffe_id").refuse(error);
            }
        }
        let lifetime = identity.certificate_lifetime.and_then(|lifetime| Duration::try_from(lifetime).ok());
        found = Some(WorkloadIdentity {
            ca_cluster: identity.ca_cluster,
            spiffe_id: identity.spiffe_id,
            token_path: identity.token_path,
            lifetime: lifetime.filter(|lifetime| !lifetime.is_zero()),
        });
    }
    found
}
