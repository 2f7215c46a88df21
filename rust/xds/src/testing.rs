//! Resources written as YAML, and a catalog to put them into.

use std::sync::Arc;

use pymesh_model::cluster::Cluster;
use pymesh_model::route::RouteTable;
use pymesh_model::Node;
use pymesh_tls::SecretStore;
use tokio_rustls::rustls::time_provider::DefaultTimeProvider;

use crate::catalog::{Catalog, IsWarm, Statics};
use crate::check;
use crate::diagnostic::{At, Problems};
use crate::document;
use crate::json::{self, Places};
use crate::kind::ResourceKind;
use crate::proto;
use crate::translate::{self, Context, Environment, Machine};
use crate::transport::Target;

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const MANAGER: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "envoy.extensions.filters.http.router.v3.Router";
const TLS: &str = "envoy.extensions.transport_sockets.tls.v3";

/// An empty catalog of a proxy that has an ADS server.
pub(crate) fn catalog() -> Catalog {
    catalog_of(Statics::default())
}

/// The same with resources of a bootstrap file.
pub(crate) fn catalog_of(statics: Statics) -> Catalog {
    catalog_that_asks(statics, Box::new(|_| true))
}

/// The same with something to say of clusters whose hosts are asked.
pub(crate) fn catalog_that_asks(statics: Statics, is_warm: IsWarm) -> Catalog {
    let store = Arc::new(SecretStore::new(Arc::new(DefaultTimeProvider)));
    Catalog::new(environment(), Arc::new(Node::default()), statics, store, is_warm)
}

/// A cluster of one endpoint, as a bootstrap names its servers.
pub(crate) fn server(kind: &str, host: &str, port: u16) -> Target {
    let endpoints = format!(
        "[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: \
         {{address: {host}, port_value: {port}}}}}}}}}]}}]"
    );
    let raw = packed(
        ResourceKind::Cluster,
        &format!("{{name: ads, type: {kind}, load_assignment: {{cluster_name: ads, endpoints: {endpoints}}}}}"),
    );
    let (environment, problems) = (environment(), Problems::default());
    let mut cx = Context::new(&environment);
    let config = prost::Message::decode(raw.value.as_slice()).unwrap();
    Target::of(&translate::cluster(&config, &At::root("", &problems), &mut cx))
}

pub(crate) fn environment() -> Environment {
    Environment { ads: true, own_secrets: Vec::new(), workload: Default::default(), sources: Box::new(Machine) }
}

/// A resource as a server packs it.
pub(crate) fn packed(kind: ResourceKind, yaml: &str) -> prost_types::Any {
    let problems = Problems::default();
    let descriptor = proto::descriptor(kind.type_url()).unwrap();
    let tree = document::parse(yaml).unwrap();
    let message = json::read(&tree, &descriptor, &At::root("", &problems), &Places::default());
    assert_eq!(problems.into_vec(), [], "{yaml}");
    prost_types::Any { type_url: kind.type_url().to_owned(), value: prost::Message::encode_to_vec(&message) }
}

/// What becomes of a cluster, and `path: message` of everything that is wrong with it.
pub(crate) fn translated(yaml: &str) -> (Cluster, Vec<String>) {
    let raw = packed(ResourceKind::Cluster, yaml);
    let (environment, problems) = (environment(), Problems::default());
    let mut cx = Context::new(&environment);
    let config = prost::Message::decode(raw.value.as_slice()).unwrap();
    let cluster = translate::cluster(&config, &At::root("", &problems), &mut cx).cluster;
    let said = problems.into_vec().into_iter().map(|one| format!("{}: {}", one.path, one.message));
    (cluster, said.collect())
}

/// The clusters that a table names, each with its place.
pub(crate) type Needed = Vec<(String, Arc<str>)>;

/// A route table and the clusters that it names with their places, or `path: message` of everything that is wrong.
pub(crate) fn route_table(yaml: &str) -> Result<(RouteTable, Needed), Vec<String>> {
    let raw = packed(ResourceKind::Routes, yaml);
    let (environment, problems) = (environment(), Problems::default());
    let (at, mut cx) = (At::root("", &problems), Context::new(&environment));
    let table = check::decode(&raw.value, &at).map(|config| translate::route_table(&config, true, &at, &mut cx));
    let needed = std::mem::take(&mut cx.needs.clusters);
    let said: Vec<String> =
        problems.into_vec().into_iter().map(|one| format!("{}: {}", one.path, one.message)).collect();
    table.filter(|_| said.is_empty()).map(|table| (table, needed)).ok_or(said)
}

/// Everything that is wrong with a cluster: `path: message (hint: remedy)`, by whichever step finds it first.
pub(crate) fn refused(yaml: &str) -> Vec<String> {
    let problems = Problems::default();
    let descriptor = proto::descriptor(ResourceKind::Cluster.type_url()).unwrap();
    let message =
        json::read(&document::parse(yaml).unwrap(), &descriptor, &At::root("", &problems), &Places::default());
    let said = |problems: Problems| problems.into_vec().iter().map(ToString::to_string).collect::<Vec<_>>();
    if problems.len() > 0 {
        return said(problems);
    }
    let octets = prost::Message::encode_to_vec(&message);
    let Some(config) = crate::check::decode(&octets, &At::root("", &problems)) else { return said(problems) };
    let environment = environment();
    translate::cluster(&config, &At::root("", &problems), &mut Context::new(&environment));
    said(problems)
}

/// A cluster that is found by EDS. Another `connect_timeout` makes it another one.
pub(crate) fn cluster(name: &str, connect_timeout: &str) -> prost_types::Any {
    let eds = "{eds_config: {ads: {}, resource_api_version: V3}}";
    packed(
        ResourceKind::Cluster,
        &format!("{{name: {name}, type: EDS, connect_timeout: {connect_timeout}, eds_cluster_config: {eds}}}"),
    )
}

/// The same over TLS, with roots from SDS.
pub(crate) fn secured_cluster(name: &str, secret: &str) -> prost_types::Any {
    let eds = "{eds_config: {ads: {}, resource_api_version: V3}}";
    let common = format!("{{validation_context_sds_secret_config: {}}}", sds(secret));
    let context = format!("{{'@type': type.googleapis.com/{TLS}.UpstreamTlsContext, common_tls_context: {common}}}");
    let socket = format!("{{name: tls, typed_config: {context}}}");
    packed(
        ResourceKind::Cluster,
        &format!("{{name: {name}, type: EDS, eds_cluster_config: {eds}, transport_socket: {socket}}}"),
    )
}

pub(crate) fn endpoints(cluster: &str, port: u16) -> prost_types::Any {
    let address = format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    packed(
        ResourceKind::Endpoints,
        &format!("{{cluster_name: {cluster}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {address}}}}}]}}]}}"),
    )
}

/// An HTTP listener whose routes are found by RDS.
pub(crate) fn listener(name: &str, port: u16, routes: &str) -> prost_types::Any {
    listener_with(name, port, routes, "", "")
}

/// The same with a filter in Python.
pub(crate) fn filtered_listener(name: &str, port: u16, routes: &str, source: &str) -> prost_types::Any {
    let kind = "type.googleapis.com/pymesh.filters.v1.PythonFilter";
    let config = format!("{{'@type': {kind}, name: shop/greet, class: 'greet:Greet', source: {source}}}");
    listener_with(name, port, routes, "", &format!("{{name: python, typed_config: {config}}}, "))
}

/// The same over TLS, with roots from SDS.
pub(crate) fn secured_listener(name: &str, port: u16, routes: &str, secret: &str) -> prost_types::Any {
    let common = format!(
        "{{tls_certificate_sds_secret_configs: [{}], validation_context_sds_secret_config: {}}}",
        sds("identity"),
        sds(secret)
    );
    let context = format!("{{'@type': type.googleapis.com/{TLS}.DownstreamTlsContext, common_tls_context: {common}}}");
    listener_with(name, port, routes, &format!(", transport_socket: {{name: tls, typed_config: {context}}}"), "")
}

/// The listener with a default chain besides, which only relays to a cluster.
pub(crate) fn relaying_listener(name: &str, port: u16, routes: &str, cluster: &str) -> prost_types::Any {
    let mut any = listener(name, port, routes);
    let proxy = format!("{{'@type': type.googleapis.com/{TCP_PROXY}, stat_prefix: {name}, cluster: {cluster}}}");
    let chain = format!("{{filters: [{{name: tcp, typed_config: {proxy}}}]}}");
    // Merging what follows is what protobuf says of concatenated messages.
    any.value.extend(packed(ResourceKind::Listener, &format!("{{default_filter_chain: {chain}}}")).value);
    any
}

fn listener_with(name: &str, port: u16, routes: &str, socket: &str, filters: &str) -> prost_types::Any {
    let source = "{ads: {}, resource_api_version: V3}";
    let manager = format!(
        "{{'@type': type.googleapis.com/{MANAGER}, stat_prefix: {name}, \
         rds: {{route_config_name: {routes}, config_source: {source}}}, \
         http_filters: [{filters}{{name: router, typed_config: {{'@type': type.googleapis.com/{ROUTER}}}}}]}}"
    );
    let address = format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let chain = format!("{{filters: [{{name: http, typed_config: {manager}}}]{socket}}}");
    packed(ResourceKind::Listener, &format!("{{name: {name}, address: {address}, filter_chains: [{chain}]}}"))
}

pub(crate) fn routes(name: &str, cluster: &str) -> prost_types::Any {
    let route = format!("{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}");
    let host = format!("{{name: all, domains: ['*'], routes: [{route}]}}");
    packed(ResourceKind::Routes, &format!("{{name: {name}, virtual_hosts: [{host}]}}"))
}

/// The root of a new authority.
pub(crate) fn root_pem() -> String {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().pem()
}

/// Roots of a new authority.
pub(crate) fn roots(name: &str) -> prost_types::Any {
    let pem = serde_json::to_string(&root_pem()).unwrap();
    packed(
        ResourceKind::Secret,
        &format!("{{name: {name}, validation_context: {{trusted_ca: {{inline_string: {pem}}}}}}}"),
    )
}

/// An identity of its own making.
pub(crate) fn identity(name: &str) -> prost_types::Any {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let chain = serde_json::to_string(&made.cert.pem()).unwrap();
    let key = serde_json::to_string(&made.signing_key.serialize_pem()).unwrap();
    packed(
        ResourceKind::Secret,
        &format!(
            "{{name: {name}, tls_certificate: \
             {{certificate_chain: {{inline_string: {chain}}}, private_key: {{inline_string: {key}}}}}}}"
        ),
    )
}

fn sds(name: &str) -> String {
    format!("{{name: {name}, sds_config: {{ads: {{}}, resource_api_version: V3}}}}")
}
