use prost_reflect::ReflectMessage as _;

use super::*;
use crate::diagnostic::Problems;
use crate::document;

fn read_as(name: &str, text: &str) -> Result<DynamicMessage, Vec<String>> {
    let problems = Problems::default();
    let places = Places::default();
    let descriptor = proto::pool().get_message_by_name(name).unwrap();
    let node = document::parse(text).unwrap();
    let message = read(&node, &descriptor, &At::root("", &problems), &places);
    let mut found = problems.into_vec();
    places.locate(&"f.yaml".into(), &mut found);
    match found.is_empty() {
        true => Ok(message),
        false => Err(found.iter().map(ToString::to_string).collect()),
    }
}

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

#[test]
fn camel_case_and_snake_case_are_the_same() {
    let snake = read_as(
        CLUSTER,
        "name: a\nconnect_timeout: 0.25s\nper_connection_buffer_limit_bytes: 1024\nlb_policy: RANDOM\n",
    )
    .unwrap();
    let camel = read_as(
        CLUSTER,
        "{\"name\": \"a\", \"connectTimeout\": \"0.25s\", \"perConnectionBufferLimitBytes\": 1024, \"lbPolicy\": 3}",
    )
    .unwrap();
    assert_eq!(snake, camel);
    assert_eq!(snake.descriptor().full_name(), CLUSTER);
}

#[test]
fn any_and_typed_struct_are_packed() {
    let filter = "envoy.config.listener.v3.Filter";
    let direct = "{name: t, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: s, cluster: c}}";
    let wrapped = "{name: t, typed_config: {'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, value: {stat_prefix: s, cluster: c}}}";
    assert_eq!(read_as(filter, direct).unwrap(), read_as(filter, wrapped).unwrap());
}

#[test]
fn structs_keep_their_types() {
    let node = read_as("envoy.config.core.v3.Node", "metadata: {A: 1, B: [true, null, '2'], C: {D: x}}").unwrap();
    let node: proto::envoy::config::core::v3::Node = node.transcode_to().unwrap();
    let back = from_struct(node.metadata.as_ref().unwrap());
    let again = to_struct_value(&back).unwrap();
    assert_eq!(again.kind, Some(prost_types::value::Kind::StructValue(node.metadata.unwrap())));
}

#[test]
fn every_problem_is_reported_with_its_place() {
    let text = "\
name: a
conect_timeout: 1s
respectDnsTtl: true
lb_policy: ROUND_ROBBIN
per_connection_buffer_limit_bytes: many
load_assignment:
  endpoints:
  - lb_endpoints:
    - endpoint: {address: {socket_address: {address: 1, port_value: -1}}}
    - 7
  - [x]
transport_socket:
  name: tls
  typed_config: {'@type': envoy.extensions.transport_sockets.alts.v3.Alts}
dns_refresh_rate: 5
";
    let expected = [
        "f.yaml:2:1: conect_timeout: envoy.config.cluster.v3.Cluster has no field `conect_timeout` (hint: did you mean `connect_timeout`?)",
        "f.yaml:3:1: respectDnsTtl: field `respectDnsTtl` of envoy.config.cluster.v3.Cluster is not supported (hint: use `dns_refresh_rate`)",
        "f.yaml:4:12: lb_policy: envoy.config.cluster.v3.Cluster.LbPolicy has no value `ROUND_ROBBIN` (hint: did you mean `ROUND_ROBIN`?)",
        "f.yaml:5:36: per_connection_buffer_limit_bytes: an integer that is not negative belongs here, not `many`",
        "f.yaml:9:54: load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.address: a string belongs here, not `1` (hint: write \"1\")",
        "f.yaml:9:69: load_assignment.endpoints[0].lb_endpoints[0].endpoint.address.socket_address.port_value: an integer that is not negative belongs here, not `-1`",
        "f.yaml:10:7: load_assignment.endpoints[0].lb_endpoints[1]: a mapping (envoy.config.endpoint.v3.LbEndpoint) belongs here, not a number",
        "f.yaml:11:5: load_assignment.endpoints[1]: a mapping (envoy.config.endpoint.v3.LocalityLbEndpoints) belongs here, not a list",
        "f.yaml:14:27: transport_socket.typed_config.@type: type `envoy.extensions.transport_sockets.alts.v3.Alts` is not supported (hint: supported here: envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer, envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext)",
        "f.yaml:15:19: dns_refresh_rate: a duration such as `1.5s` belongs here, not `5` (hint: write `5s`)",
    ];
    assert_eq!(read_as(CLUSTER, text).unwrap_err(), expected);
}

#[test]
fn one_member_of_a_oneof() {
    let action = "envoy.config.route.v3.RouteAction";
    assert_eq!(
        read_as(action, "cluster: a\ncluster_header: b\n").unwrap_err(),
        ["f.yaml:2:1: cluster_header: only one of `cluster` and `cluster_header` may be set"]
    );
    assert!(read_as(action, "cluster: a\ncluster_header: null\n").is_ok());
}
