//! The configurations that the input can choose from.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pymesh_model::cluster::*;
use pymesh_model::format::{AccessLog, LogFormat, LogOutput, LogSink, Template, ISTIO_TEXT_FORMAT};
use pymesh_model::http::*;
use pymesh_model::listener::*;
use pymesh_model::route::*;
use pymesh_model::testing::{self, address};
use pymesh_model::Snapshot;

use crate::input::Input;

/// The name of the field that carries the secret.
pub(super) const MARKER: &str = "x-marker";

pub(super) struct Config {
    pub secret: String,
    flags: u32,
    pub buffer_limit: usize,
    pub window: u32,
    pub retries: u32,
    small: bool,
}

impl Config {
    pub(super) fn new(input: &mut Input<'_>, secret: String) -> Config {
        let flags = input.long();
        let small = flags & 1 == 1;
        let buffer_limit = if small { 2048 } else { 64 * 1024 };
        let window = if small { 1000 } else { 256 * 1024 };
        Config { secret, flags, buffer_limit, window, retries: flags >> 1 & 3, small }
    }

    fn has(&self, bit: u32) -> bool {
        self.flags >> bit & 1 == 1
    }

    /// Octets that one buffer may hold beside its limit: a head, and what one read brings.
    pub(super) fn most_buffered(&self) -> usize {
        self.buffer_limit.max(self.window as usize * 2).max(65_535) + 80 * 1024
    }

    pub(super) fn web() -> SocketAddr {
        address(1, 80)
    }

    pub(super) fn raw() -> SocketAddr {
        address(1, 9000)
    }

    /// Where the endpoint of the relay listens, which speaks no HTTP.
    pub(super) fn raw_endpoint() -> SocketAddr {
        address(4, 9000)
    }

    /// The first snapshot and those that replace it, round and round.
    pub(super) fn snapshot(&self, version: usize) -> Arc<Snapshot> {
        let web = Listener {
            listener_filters: self.listener_filters(),
            listener_filters_timeout: Duration::from_secs(u64::from(self.has(3))),
            continue_on_listener_filters_timeout: self.has(5),
            buffer_limit: self.buffer_limit + version % 3,
            ..testing::listener(
                "web",
                Config::web(),
                testing::filter_chain(NetworkFilter::Http(Arc::new(self.manager()))),
            )
        };
        let tcp = TcpProxy { max_connect_attempts: 2, ..testing::tcp("raw", "raw") };
        let raw = Listener {
            buffer_limit: self.buffer_limit,
            ..testing::listener("raw", Config::raw(), testing::filter_chain(NetworkFilter::Tcp(Arc::new(tcp))))
        };
        let endpoints = [address(2, 8080), address(3, 8080), address(2, 8081)];
        let listed = endpoints.into_iter().enumerate().filter(|(at, _)| version % 4 != at + 1).map(|(_, one)| one);
        let http = UpstreamHttp {
            protocol: [
                UpstreamProtocol::Http1,
                UpstreamProtocol::Http2,
                UpstreamProtocol::Downstream,
                UpstreamProtocol::Http1,
            ][self.flags as usize >> 6 & 3],
            requests_per_connection: if self.has(8) { 2 } else { 0 },
            concurrent_streams: if self.has(9) { 2 } else { 1024 },
            stream_window: self.window,
            stream_window_most: self.window,
            connection_window: self.window,
            idle_timeout: Duration::from_secs(60 + (version as u64 % 2)),
            ..UpstreamHttp::default()
        };
        let thresholds = match self.has(10) {
            true => {
                Thresholds { connections: 2, pending_requests: 2, requests: 3, retries: 1, ..Thresholds::default() }
            }
            false => Thresholds::default(),
        };
        let cluster = Cluster {
            http,
            circuit_breakers: thresholds.into(),
            buffer_limit: self.buffer_limit,
            ..testing::cluster("web", listed)
        };
        let raw_cluster =
            Cluster { buffer_limit: self.buffer_limit, ..testing::cluster("raw", [Config::raw_endpoint()]) };
        let mut snapshot = testing::snapshot([web, raw], [cluster, raw_cluster]);
        snapshot.version = version as u64 + 1;
        Arc::new(snapshot)
    }

    fn listener_filters(&self) -> Vec<ListenerFilter> {
        let kinds = [(3, ListenerFilterKind::TlsInspector), (4, ListenerFilterKind::HttpInspector)];
        let chosen = kinds.into_iter().filter(|(bit, _)| self.has(*bit));
        chosen.map(|(_, kind)| ListenerFilter { kind, disabled: None }).collect()
    }

    fn manager(&self) -> HttpConnectionManager {
        use EscapedSlashes::*;
        let log = AccessLog {
            output: LogOutput::Lines(LogSink::Stdout, LogFormat::Text(Template::parse(ISTIO_TEXT_FORMAT).unwrap())),
            filter: None,
        };
        HttpConnectionManager {
            timeouts: HttpTimeouts {
                stream_idle: Duration::from_secs(40),
                max_connection_duration: Duration::from_secs(if self.has(11) { 20 } else { 0 }),
                ..HttpTimeouts::default()
            },
            limits: HttpLimits {
                stream_window: self.window,
                connection_window: self.window,
                concurrent_streams: if self.has(12) { 2 } else { 100 },
                requests_per_connection: if self.has(13) { 2 } else { 0 },
                accept_http_10: self.has(14),
                underscores: [Underscores::Allow, Underscores::Reject, Underscores::Drop, Underscores::Allow]
                    [self.flags as usize >> 15 & 3],
                header_list_size: if self.small { 2048 } else { 60 * 1024 },
                ..HttpLimits::default()
            },
            path: PathPolicy {
                normalize: self.has(17),
                merge_slashes: self.has(18),
                escaped_slashes: [Keep, Reject, Redirect, Unescape][self.flags as usize >> 19 & 3],
                strip_port: if self.has(21) { StripPort::Any } else { StripPort::Keep },
                strip_trailing_dot: self.has(21),
            },
            forwarding: Forwarding { use_remote_address: self.has(22), ..Forwarding::default() },
            upgrades: ["websocket", "connect"]
                .map(|protocol| Upgrade { protocol: protocol.into(), enabled: self.has(23), terminates: false })
                .into(),
            allow_connect: self.has(23),
            via: self.has(24).then(|| "1.1 pymesh".into()),
            access_logs: vec![Arc::new(log)],
            ..testing::http("web", self.routes())
        }
    }

    fn routes(&self) -> RouteTable {
        let on = RetryOn {
            server_error: true,
            reset: true,
            connect_failure: true,
            refused_stream: true,
            ..RetryOn::default()
        };
        let retry = (self.retries > 0).then(|| {
            let per_try_timeout = Duration::from_secs(u64::from(self.has(25)) * 2);
            Arc::new(RetryPolicy { per_try_timeout, ..testing::retry(on, self.retries) })
        });
        let path_rewrite = match self.flags >> 26 & 3 {
            0 => Some(PathRewrite::Prefix("/new".into())),
            1 => Some(PathRewrite::Regex(regex::bytes::Regex::new("/([a-z]+)").unwrap(), "\\1".into())),
            _ => None,
        };
        let forward = Forward {
            retry,
            path_rewrite,
            host_rewrite: self.has(28).then(|| HostRewrite::Header("x-host".into())),
            append_x_forwarded_host: self.has(28),
            ..testing::forward("web")
        };
        let add = |name: &str, value: &str| HeaderAdd {
            name: name.into(),
            value: Template::parse(value).unwrap(),
            action: AppendAction::OverwriteIfExistsOrAdd,
            keep_empty: false,
        };
        let mut request = HeaderEdit { remove: vec!["x-removed".into()], add: vec![add(MARKER, &self.secret)] };
        if self.has(29) {
            request.add.push(add(":path", "%REQ(X-PATH)%"));
            request.add.push(add(":authority", "%REQ(X-AUTHORITY)%"));
            request.add.push(add("x-copy", "%REQ(X-COPY)% %DOWNSTREAM_REMOTE_ADDRESS%"));
        }
        let response = HeaderEdit { remove: vec![], add: vec![add("x-copy", "%REQ(X-COPY)%")] };
        let headers = HeaderOps { request, response };
        let redirect = Redirect { scheme: Some("https".into()), status: 301, ..Redirect::default() };
        let direct = DirectResponse { status: 200, body: b"direct"[..].into() };
        let table = testing::routes([
            testing::route("/redirect", Action::Redirect(Arc::new(redirect))),
            testing::route("/direct", Action::Direct(Arc::new(direct))),
            testing::route("/nowhere", Action::Forward(Arc::new(testing::forward("nowhere")))),
            Route { headers, ..testing::route("/", Action::Forward(Arc::new(forward))) },
        ]);
        RouteTable { ignore_port: self.has(30), ..table }
    }
}
