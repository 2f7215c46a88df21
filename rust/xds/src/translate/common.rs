//! Values that many resources have: durations, addresses, packed messages.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use pymesh_model::chain_match::Cidr;
use pymesh_model::snapshot::WorkloadLabels;

use super::{Context, Patience};
use crate::check;
use crate::diagnostic::At;
use crate::json::{self, Places};
use crate::proto::envoy::config::core::v3 as core;
use crate::proto::{self, is_typed_struct};

/// Envoy's default for `initial_fetch_timeout`.
const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);

/// A duration that must not be negative.
pub(super) fn duration(value: Option<&prost_types::Duration>, at: &At<'_>) -> Option<Duration> {
    let value = value?;
    match Duration::try_from(*value) {
        Ok(duration) => Some(duration),
        Err(_) => {
            at.refuse(format!("a duration here must not be negative, as {value} is"));
            None
        }
    }
}

/// A duration with a default.
pub(super) fn duration_or(value: Option<&prost_types::Duration>, default: Duration, at: &At<'_>) -> Duration {
    duration(value, at).unwrap_or(default)
}

/// A message in an `Any`, of which a `TypedStruct` has been taken off.
pub(super) struct Opened<'a> {
    pub(super) name: Cow<'a, str>,
    octets: Cow<'a, [u8]>,
}

impl Opened<'_> {
    /// The message, once its name is known to be that of `T`.
    pub(super) fn decode<T: prost::Message + Default>(&self, at: &At<'_>) -> Option<T> {
        at.ok(T::decode(&*self.octets))
    }

    pub(super) fn is<T: prost::Name>(&self) -> bool {
        self.name == T::full_name()
    }

    /// Says that a message of this type does nothing in this place.
    pub(super) fn refuse(&self, supported: &[String], at: &At<'_>) {
        at.field("@type").refuse_with_hint(
            format!("`{}` cannot be used here", self.name),
            format!("supported here: {}", supported.join(", ")),
        );
    }
}

/// Opens an `Any` that [`check`] has passed.
pub(super) fn open<'a>(any: Option<&'a prost_types::Any>, at: &At<'_>) -> Option<Opened<'a>> {
    let Some(any) = any else {
        at.refuse("this must be set");
        return None;
    };
    let name = proto::type_name(&any.type_url);
    if !is_typed_struct(name) {
        return Some(Opened { name: name.into(), octets: any.value.as_slice().into() });
    }
    // Both TypedStructs have the same fields.
    let wrapped = at.ok(proto::xds::r#type::v3::TypedStruct::decode(any.value.as_slice()))?;
    let descriptor = match proto::descriptor(&wrapped.type_url) {
        Ok(descriptor) => descriptor,
        Err(error) => {
            at.field("type_url").refuse_with_hint(error.message, error.hint);
            return None;
        }
    };
    let node = json::from_struct(&wrapped.value.unwrap_or_default());
    let before = at.problems().len();
    let message = json::read(&node, &descriptor, at, &Places::default());
    check::message(&message, at);
    (at.problems().len() == before)
        .then(|| Opened { name: descriptor.full_name().to_owned().into(), octets: message.encode_to_vec().into() })
}

/// Ranges of addresses.
pub(super) fn prefixes(ranges: &[core::CidrRange], at: &At<'_>) -> Vec<Cidr> {
    let mut prefixes = Vec::with_capacity(ranges.len());
    for (index, range) in ranges.iter().enumerate() {
        let at = at.index(index);
        let Some(address) = ip(&range.address_prefix, &at.field("address_prefix")) else { continue };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = range.prefix_len.unwrap_or(0);
        match u8::try_from(bits) {
            Ok(bits) if bits <= most => prefixes.push(Cidr { address, bits }),
            _ => at.field("prefix_len").refuse(format!("{bits} is more than the {most} bits of {address}")),
        }
    }
    prefixes
}

/// Host and port of a TCP address.
pub(super) fn host_and_port<'a>(address: Option<&'a core::Address>, at: &At<'_>) -> Option<(&'a str, u16)> {
    let Some(core::Address { address: Some(core::address::Address::SocketAddress(socket)) }) = address else {
        at.refuse("`socket_address` must be set");
        return None;
    };
    let at = &at.field("socket_address");
    if socket.protocol != core::socket_address::Protocol::Tcp as i32 {
        at.field("protocol").refuse_with_hint("only TCP is supported", "leave `protocol` out");
    }
    if socket.ipv4_compat {
        at.field("ipv4_compat").refuse("this belongs to the IPv6 address of a listener");
    }
    let Some(core::socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        at.refuse("`port_value` must be set");
        return None;
    };
    let port = u16::try_from(port).map_err(|_| at.field("port_value").refuse(format!("{port} is not a port"))).ok()?;
    Some((&socket.address, port))
}

/// An IP address, as text.
pub(super) fn ip(text: &str, at: &At<'_>) -> Option<IpAddr> {
    text.parse().map_err(|_| at.refuse(format!("`{text}` is not an IP address"))).ok()
}

/// Where a resource comes from: only ADS. Says how long to wait for it.
pub(super) fn config_source(source: Option<&core::ConfigSource>, at: &At<'_>, cx: &Context<'_>) -> Patience {
    let source = source.cloned().unwrap_or_default();
    if source.resource_api_version == core::ApiVersion::V2 as i32 {
        at.field("resource_api_version").refuse_with_hint("version 2 of the API is gone", "write V3");
    }
    match source.config_source_specifier {
        None => at.refuse_with_hint("it does not say where the resource comes from", "write `ads: {}`"),
        Some(core::config_source::ConfigSourceSpecifier::Ads(_)) if !cx.environment.ads => {
            at.field("ads").refuse_with_hint(
                "there is no ADS server to get this from",
                "name one in `dynamic_resources.ads_config` of the bootstrap",
            );
        }
        Some(core::config_source::ConfigSourceSpecifier::Ads(_)) => {}
    }
    let patience =
        duration_or(source.initial_fetch_timeout.as_ref(), INITIAL_FETCH_TIMEOUT, &at.field("initial_fetch_timeout"));
    Patience::Ads((!patience.is_zero()).then_some(patience))
}

/// The octets that a `DataSource` stands for.
pub(super) fn data_source(source: Option<&core::DataSource>, at: &At<'_>, cx: &Context<'_>) -> Option<Vec<u8>> {
    use core::data_source::Specifier;
    match source.and_then(|source| source.specifier.as_ref()) {
        None => {
            at.refuse("one of `filename`, `inline_bytes`, `inline_string`, `environment_variable` must be set");
            None
        }
        Some(Specifier::InlineBytes(octets)) => Some(octets.clone()),
        Some(Specifier::InlineString(text)) => Some(text.clone().into_bytes()),
        Some(Specifier::Filename(path)) => at.field("filename").ok(cx.environment.sources.file(path)),
        Some(Specifier::EnvironmentVariable(name)) => {
            at.field("environment_variable").ok(cx.environment.sources.variable(name)).map(String::into_bytes)
        }
    }
}

/// Who is asked over gRPC: a cluster, and by which name.
pub(super) fn envoy_grpc(service: &core::GrpcService, at: &At<'_>) -> Option<(Box<str>, Box<str>)> {
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(target)) = &service.target_specifier else {
        at.refuse("`envoy_grpc` must be set");
        return None;
    };
    let authority = if target.authority.is_empty() { &target.cluster_name } else { &target.authority };
    Some((target.cluster_name.as_str().into(), authority.as_str().into()))
}

/// Who is asked over HTTP: a cluster, by which name, and for which path.
pub(super) fn http_uri(uri: &core::HttpUri, at: &At<'_>) -> Option<(Box<str>, Box<str>, Box<str>)> {
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        at.refuse("`cluster` must be set");
        return None;
    };
    let parsed = uri.uri.parse::<http::Uri>().ok();
    let Some((parsed, authority)) = parsed.as_ref().and_then(|parsed| Some((parsed, parsed.authority()?))) else {
        at.field("uri").refuse_with_hint(
            format!("`{}` is not a URI with a host", uri.uri.escape_debug()),
            "write `https://host/path`",
        );
        return None;
    };
    let path = parsed.path_and_query().map_or("/", |path| path.as_str());
    Some((cluster.as_str().into(), authority.as_str().into(), path.into()))
}

/// A member of `filter_metadata`.
pub(super) fn metadata<'m>(metadata: Option<&'m core::Metadata>, filter: &str) -> Option<&'m prost_types::Struct> {
    metadata?.filter_metadata.get(filter)
}

/// A string field of a `Struct`; empty if it is not there.
pub(super) fn struct_text<'m>(value: &'m prost_types::Struct, key: &str) -> &'m str {
    match value.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(prost_types::value::Kind::StringValue(text)) => text,
        _ => "",
    }
}

/// The workload that a node's metadata describes, by Istio's keys.
pub(crate) fn workload_from_node(node: &core::Node) -> WorkloadLabels {
    let Some(metadata) = &node.metadata else { return WorkloadLabels::default() };
    let labels = match metadata.fields.get("LABELS").and_then(|value| value.kind.as_ref()) {
        Some(prost_types::value::Kind::StructValue(labels)) => Some(labels),
        _ => None,
    };
    let label = |names: [&str; 2]| -> Arc<str> {
        let texts = labels.map(|labels| names.map(|name| struct_text(labels, name)));
        texts.and_then(|texts| texts.into_iter().find(|text| !text.is_empty())).unwrap_or_default().into()
    };
    WorkloadLabels {
        name: struct_text(metadata, "WORKLOAD_NAME").into(),
        namespace: struct_text(metadata, "NAMESPACE").into(),
        app: label(["service.istio.io/canonical-name", "app"]),
        version: label(["service.istio.io/canonical-revision", "version"]),
        cluster: struct_text(metadata, "CLUSTER_ID").into(),
    }
}

/// A value of an enum that [`check`] has passed.
pub(super) fn enumerator<T: TryFrom<i32> + Default>(value: i32) -> T {
    T::try_from(value).unwrap_or_default()
}
