//! `overload_manager` and `layered_runtime`: what the process as a whole may take.

use std::time::Duration;

use prost::Name as _;
use prost_types::value::Kind;
use pymesh_model::overload::{Monitor, OverloadAction, OverloadManager, Trigger};

use super::common::{duration_or, open};
use crate::diagnostic::At;
use crate::proto::envoy::config::bootstrap::v3 as bootstrap;
use crate::proto::envoy::config::overload::v3 as overload;
use crate::proto::envoy::extensions::resource_monitors::cgroup_memory::v3::CgroupMemoryConfig;
use crate::proto::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;
use crate::proto::envoy::extensions::resource_monitors::fixed_heap::v3::FixedHeapConfig;

const CGROUP_MEMORY: &str = "envoy.resource_monitors.cgroup_memory";
/// Envoy's advice for proxies at the edge, which we take for every one that has a memory limit.
const STOP_KEEPALIVE: f64 = 0.92;
const STOP_WORK: f64 = 0.95;

/// Both parts of the bootstrap.
pub(crate) fn overload(config: &bootstrap::Bootstrap, at: &At<'_>) -> OverloadManager {
    let mut settings = match &config.overload_manager {
        Some(manager) => overload_manager(manager, &at.field("overload_manager")),
        None => unless_told(),
    };
    let layers = config.layered_runtime.as_ref().map(|runtime| runtime.layers.as_slice()).unwrap_or_default();
    let runtime_at = at.field("layered_runtime");
    let layers_at = runtime_at.field("layers");
    for (index, layer) in layers.iter().enumerate() {
        let at = layers_at.index(index);
        match &layer.layer_specifier {
            Some(bootstrap::runtime_layer::LayerSpecifier::StaticLayer(values)) => {
                runtime(values, "", &mut settings, &at.field("static_layer"));
            }
            None => at.refuse("`static_layer` must be set"),
        }
    }
    settings
}

/// Without an `overload_manager`, a proxy in a control group with a memory limit sheds load before the kernel kills it.
fn unless_told() -> OverloadManager {
    let trigger = |action, threshold| Trigger { action, monitor: CGROUP_MEMORY.into(), threshold };
    OverloadManager {
        monitors: vec![Monitor { name: CGROUP_MEMORY.into(), limit: None }],
        triggers: vec![
            trigger(OverloadAction::DisableHttpKeepalive, STOP_KEEPALIVE),
            trigger(OverloadAction::StopAcceptingRequests, STOP_WORK),
            trigger(OverloadAction::RejectIncomingConnections, STOP_WORK),
        ],
        ..OverloadManager::default()
    }
}

fn overload_manager(config: &overload::OverloadManager, at: &At<'_>) -> OverloadManager {
    let mut settings = OverloadManager::default();
    let interval =
        duration_or(config.refresh_interval.as_ref(), settings.refresh_interval, &at.field("refresh_interval"));
    settings.refresh_interval = interval.max(Duration::from_millis(1));
    let monitors_at = at.field("resource_monitors");
    for (index, monitor) in config.resource_monitors.iter().enumerate() {
        resource_monitor(monitor, &mut settings, &monitors_at.index(index));
    }
    let actions_at = at.field("actions");
    for (index, action) in config.actions.iter().enumerate() {
        let at = actions_at.index(index);
        let Some(known) = OverloadAction::ALL.into_iter().find(|known| known.name() == action.name) else {
            let names = OverloadAction::ALL.map(OverloadAction::name);
            at.field("name").refuse_with_hint(
                format!("the action `{}` is not supported", action.name),
                format!("supported here: {}", names.join(", ")),
            );
            continue;
        };
        let triggers_at = at.field("triggers");
        for (index, trigger) in action.triggers.iter().enumerate() {
            let at = triggers_at.index(index);
            if !settings.monitors.iter().any(|monitor| *monitor.name == *trigger.name) {
                at.field("name").refuse_with_hint(
                    format!("there is no resource monitor `{}` that could trigger an action", trigger.name),
                    "name one of `resource_monitors` that measures memory",
                );
            }
            let Some(overload::trigger::TriggerOneof::Threshold(threshold)) = &trigger.trigger_oneof else { continue };
            settings.triggers.push(Trigger {
                action: known,
                monitor: trigger.name.as_str().into(),
                threshold: threshold.value,
            });
        }
    }
    settings
}

fn resource_monitor(monitor: &overload::ResourceMonitor, settings: &mut OverloadManager, at: &At<'_>) {
    if settings.monitors.iter().any(|other| *other.name == *monitor.name) {
        at.field("name").refuse(format!("another resource monitor is called `{}`", monitor.name));
    }
    let config = monitor.config_type.as_ref().map(|overload::resource_monitor::ConfigType::TypedConfig(any)| any);
    let at = &at.field("typed_config");
    let Some(opened) = open(config, at) else { return };
    let limit = if opened.is::<FixedHeapConfig>() {
        opened.decode(at).map(|config: FixedHeapConfig| Some(config.max_heap_size_bytes))
    } else if opened.is::<CgroupMemoryConfig>() {
        // Zero: what the control group says.
        opened.decode(at).map(|config: CgroupMemoryConfig| Some(config.max_memory_bytes).filter(|most| *most > 0))
    } else if opened.is::<DownstreamConnectionsConfig>() {
        let config: Option<DownstreamConnectionsConfig> = opened.decode(at);
        settings.downstream_connections =
            config.and_then(|config| u64::try_from(config.max_active_downstream_connections).ok());
        None
    } else {
        let supported =
            [FixedHeapConfig::full_name(), CgroupMemoryConfig::full_name(), DownstreamConnectionsConfig::full_name()];
        opened.refuse(&supported, at);
        None
    };
    settings.monitors.extend(limit.map(|limit| Monitor { name: monitor.name.as_str().into(), limit }));
}

/// A layer of runtime values; nested ones are joined by dots, as in Envoy.
fn runtime(values: &prost_types::Struct, prefix: &str, settings: &mut OverloadManager, at: &At<'_>) {
    for (key, value) in &values.fields {
        let name = format!("{prefix}{key}");
        let at = &at.key(key);
        match &value.kind {
            Some(Kind::StructValue(inner)) => runtime(inner, &format!("{name}."), settings, at),
            Some(Kind::NumberValue(number)) => runtime_value(&name, *number, settings, at),
            _ => at.refuse("a runtime value here is a number"),
        }
    }
}

fn runtime_value(name: &str, number: f64, settings: &mut OverloadManager, at: &At<'_>) {
    const LISTENER: (&str, &str) = ("envoy.resource_limits.listener.", ".connection_limit");
    // All of them are counts far below 2^32.
    if !(0.0..=f64::from(u32::MAX)).contains(&number) || number.fract() != 0.0 {
        return at.refuse(format!("{number} is not a count"));
    }
    let count = number as u64;
    match name {
        "overload.global_downstream_max_connections" => {
            // The resource monitor takes precedence, as in Envoy.
            settings.downstream_connections.get_or_insert(count);
        }
        "overload.premature_reset_total_stream_count" => settings.premature_reset_streams = number as u32,
        "overload.premature_reset_min_stream_lifetime_seconds" => {
            settings.premature_reset_lifetime = Duration::from_secs(count);
        }
        _ => match name.strip_prefix(LISTENER.0).and_then(|rest| rest.strip_suffix(LISTENER.1)) {
            Some(listener) => {
                settings.listener_connections.insert(listener.into(), count);
            }
            None => at.refuse_with_hint(
                format!("the runtime value `{name}` is not looked up"),
                "supported here: overload.global_downstream_max_connections, \
                 overload.premature_reset_total_stream_count, overload.premature_reset_min_stream_lifetime_seconds, \
                 envoy.resource_limits.listener.<name>.connection_limit",
            ),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: &str = "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\n";

    fn load(yaml: &str) -> Result<OverloadManager, Vec<String>> {
        crate::load_bootstrap("b.yaml", &format!("{ADMIN}{yaml}"))
            .map(|bootstrap| bootstrap.overload)
            .map_err(|found| found.iter().map(ToString::to_string).collect())
    }

    const MANAGER: &str = "
overload_manager:
  refresh_interval: 0.5s
  resource_monitors:
  - name: envoy.resource_monitors.fixed_heap
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig
      max_heap_size_bytes: 1000000
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config:
      \"@type\": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig
      max_active_downstream_connections: 5
  actions:
  - name: envoy.overload_actions.stop_accepting_requests
    triggers: [{name: envoy.resource_monitors.fixed_heap, threshold: {value: 0.95}}]
";

    #[test]
    fn a_manager_is_read() {
        let settings = load(MANAGER).unwrap();
        assert_eq!(settings.refresh_interval, Duration::from_millis(500));
        assert_eq!(settings.downstream_connections, Some(5));
        assert_eq!(settings.monitors.len(), 1);
        assert_eq!(settings.monitors[0].limit, Some(1_000_000));
        assert_eq!(settings.triggers[0].action, OverloadAction::StopAcceptingRequests);
    }

    #[test]
    fn runtime_values_are_read_flat_and_nested() {
        let settings = load(
            "layered_runtime: {layers: [{name: a, static_layer: {\
             overload.global_downstream_max_connections: 7, \
             overload: {premature_reset_total_stream_count: 20, premature_reset_min_stream_lifetime_seconds: 3}, \
             envoy.resource_limits.listener.in.side.connection_limit: 2}}]}",
        )
        .unwrap();
        assert_eq!(settings.downstream_connections, Some(7));
        assert_eq!(settings.premature_reset_streams, 20);
        assert_eq!(settings.premature_reset_lifetime, Duration::from_secs(3));
        assert_eq!(settings.listener_connections.get("in.side"), Some(&2));
        assert!(!settings.triggers.is_empty(), "memory is watched although nobody said so");
    }

    #[test]
    fn what_is_not_done_is_refused_by_name() {
        for (change, expected) in [
            (("stop_accepting_requests", "reset_high_memory_stream"), "reset_high_memory_stream` is not supported"),
            (("threshold: {value: 0.95}", "scaled: {scaling_threshold: 0.8, saturation_threshold: 0.9}"), "`scaled`"),
            (
                ("triggers: [{name: envoy.resource_monitors.fixed_heap", "triggers: [{name: cpu"),
                "no resource monitor `cpu`",
            ),
            (("value: 0.95", "value: 1.5"), "at most 1"),
            (("max_heap_size_bytes: 1000000", "max_heap_size_bytes: 0"), "greater than 0"),
        ] {
            assert!(MANAGER.contains(change.0));
            let found = load(&MANAGER.replace(change.0, change.1)).unwrap_err().join("\n");
            assert!(found.contains(expected), "{found}");
        }
        for (layer, expected) in [
            (
                "static_layer: {re2.max_program_size.error_level: 100}",
                "`re2.max_program_size.error_level` is not looked up",
            ),
            ("static_layer: {overload.global_downstream_max_connections: -1}", "-1 is not a count"),
            ("static_layer: {overload.global_downstream_max_connections: many}", "is a number"),
            ("admin_layer: {}", "`admin_layer`"),
        ] {
            let yaml = format!("layered_runtime: {{layers: [{{name: a, {layer}}}]}}");
            let found = load(&yaml).unwrap_err().join("\n");
            assert!(found.contains(expected), "{found}");
        }
    }
}
