//! What the whole process may take (Envoy's `overload_manager`, and the runtime values that bound connections).
//!
//! It comes from the bootstrap and does not change while the proxy runs.

use std::collections::HashMap;
use std::time::Duration;

/// Bounds on the process, and what is done at which pressure.
#[derive(Clone, Debug, PartialEq)]
pub struct OverloadManager {
    /// Connections of clients on all listeners; `None`: less than half of the file descriptors.
    pub downstream_connections: Option<u64>,
    /// `envoy.resource_limits.listener.<name>.connection_limit`.
    pub listener_connections: HashMap<Box<str>, u64>,
    /// `overload.premature_reset_total_stream_count`: half of these in premature resets end a connection.
    pub premature_reset_streams: u32,
    /// `overload.premature_reset_min_stream_lifetime_seconds`: a stream that lived longer was not reset prematurely.
    pub premature_reset_lifetime: Duration,
    /// How often pressure is measured.
    pub refresh_interval: Duration,
    /// What is measured.
    pub monitors: Vec<Monitor>,
    /// What is done about it.
    pub triggers: Vec<Trigger>,
}

impl Default for OverloadManager {
    fn default() -> Self {
        OverloadManager {
            downstream_connections: None,
            listener_connections: HashMap::new(),
            premature_reset_streams: 500,
            premature_reset_lifetime: Duration::from_secs(1),
            refresh_interval: Duration::from_millis(250),
            monitors: Vec::new(),
            triggers: Vec::new(),
        }
    }
}

/// Resident memory as a part of a limit (`fixed_heap`, `cgroup_memory`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Monitor {
    /// As triggers and statistics call it.
    pub name: Box<str>,
    /// The limit in octets; `None`: that of the control group.
    pub limit: Option<u64>,
}

/// An action, in force while a monitor's pressure is at least the threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Trigger {
    /// What is done.
    pub action: OverloadAction,
    /// Name of the monitor.
    pub monitor: Box<str>,
    /// 0 to 1.
    pub threshold: f64,
}

/// What the proxy can stop doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OverloadAction {
    /// Answer new requests with 503.
    StopAcceptingRequests,
    /// Close connections behind the response that is due.
    DisableHttpKeepalive,
    /// Leave new connections to the kernel.
    StopAcceptingConnections,
    /// Close new connections.
    RejectIncomingConnections,
}

impl OverloadAction {
    /// All of them; the position is the discriminant.
    pub const ALL: [OverloadAction; 4] = [
        OverloadAction::StopAcceptingRequests,
        OverloadAction::DisableHttpKeepalive,
        OverloadAction::StopAcceptingConnections,
        OverloadAction::RejectIncomingConnections,
    ];

    /// Envoy's name.
    pub const fn name(self) -> &'static str {
        match self {
            OverloadAction::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            OverloadAction::DisableHttpKeepalive => "envoy.overload_actions.disable_http_keepalive",
            OverloadAction::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            OverloadAction::RejectIncomingConnections => "envoy.overload_actions.reject_incoming_connections",
        }
    }
}
