//! Route tables (Envoy `config.route.v3`).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use regex::bytes::Regex;

use crate::circuit_breaker::RoutingPriority;
use crate::filter::{RateLimit, RouteFilters};
use crate::format::Template;
use crate::matcher::{HeaderMatch, QueryMatch, StringMatch};
use crate::metadata::MetadataMatch;
pub use crate::retry::{RetryOn, RetryPolicy};
use crate::route_index::TableIndex;
use crate::tracing::{Decorator, RouteTracing};

/// `RouteConfiguration`.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    /// Unique name.
    pub name: Arc<str>,
    /// Virtual hosts; a domain stands in one of them only.
    pub virtual_hosts: Vec<VirtualHost>,
    /// Applied last (or first, see `most_specific_wins`).
    pub headers: HeaderOps,
    /// `most_specific_header_mutations_wins`.
    pub most_specific_wins: bool,
    /// `ignore_port_in_host_matching`.
    pub ignore_port: bool,
    /// Made when the first request asks; see [`RouteTable::index`].
    pub index: OnceLock<TableIndex>,
}

impl RouteTable {
    /// The index over `virtual_hosts`, which do not change after the first call.
    pub fn index(&self) -> &TableIndex {
        self.index.get_or_init(|| TableIndex::new(&self.virtual_hosts))
    }
}

/// `VirtualHost`.
#[derive(Clone, Debug, Default)]
pub struct VirtualHost {
    /// Unique name in its table.
    pub name: Arc<str>,
    /// Exact names, `*.suffix`, `prefix.*` or `*`, in lower case, with port if it was written.
    pub domains: Vec<Box<str>>,
    /// The first that matches is taken.
    pub routes: Vec<Arc<Route>>,
    /// Header operations for all routes.
    pub headers: HeaderOps,
    /// Policies for filters that limit rates.
    pub rate_limits: Vec<RateLimit>,
    /// For routes that have no policy of their own.
    pub retry: Option<Arc<RetryPolicy>>,
    /// `require_tls`: redirect requests with scheme http to https.
    pub require_tls: bool,
    /// `include_request_attempt_count`: send `x-envoy-attempt-count` upstream.
    pub attempt_count_in_request: bool,
    /// `include_attempt_count_in_response`.
    pub attempt_count_in_response: bool,
}

/// `Route`.
#[derive(Clone, Debug)]
pub struct Route {
    /// Name for logs; may be empty.
    pub name: Arc<str>,
    /// When it is taken.
    pub matches: RouteMatch,
    /// What it does.
    pub action: Action,
    /// Header operations.
    pub headers: HeaderOps,
    /// What it, its virtual host and its table say of HTTP filters.
    pub filters: RouteFilters,
    /// What its requests are called in traces.
    pub decorator: Option<Decorator>,
    /// What it says of their traces.
    pub tracing: Option<RouteTracing>,
}

/// `RouteMatch`.
#[derive(Clone, Debug)]
pub struct RouteMatch {
    /// The path, without query.
    pub path: PathMatch,
    /// ASCII case of the path counts.
    pub case_sensitive: bool,
    /// All must match.
    pub headers: Vec<HeaderMatch>,
    /// All must match.
    pub query: Vec<QueryMatch>,
    /// `dynamic_metadata`: what filters have found out; all must match. Before any filter nothing does.
    pub metadata: Vec<MetadataMatch>,
    /// Only requests whose `content-type` is gRPC.
    pub grpc: bool,
    /// `runtime_fraction`: the share of requests, in millionths; `None` for all.
    pub fraction: Option<u32>,
}

/// `path_specifier`.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum PathMatch {
    Prefix(Box<str>),
    Exact(Box<str>),
    Regex(Regex),
    /// `/a` matches `/a` and `/a/b`, not `/ab`.
    SeparatedPrefix(Box<str>),
    /// CONNECT requests.
    Connect,
}

/// What a route does.
#[derive(Clone, Debug)]
pub enum Action {
    /// `RouteAction`: send it upstream.
    Forward(Arc<Forward>),
    /// `RedirectAction`.
    Redirect(Arc<Redirect>),
    /// `DirectResponseAction`.
    Direct(Arc<DirectResponse>),
}

/// `RouteAction`.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Which cluster.
    pub cluster: ClusterChoice,
    /// Whose circuit breakers and connections it uses.
    pub priority: RoutingPriority,
    /// Whole request including retries (default 15 s); zero means no limit.
    pub timeout: Duration,
    /// Stream without progress; `None`: as the connection manager says; zero means no limit.
    pub idle_timeout: Option<Duration>,
    /// How long a stream may last, whatever comes of it.
    pub stream: StreamDuration,
    /// Deprecated `max_grpc_timeout`: the route's timeout is what `grpc-timeout` says, up to this.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// `None`: as the virtual host says.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How the path is rewritten.
    pub path_rewrite: Option<PathRewrite>,
    /// How the host is rewritten.
    pub host_rewrite: Option<HostRewrite>,
    /// Put the old host into `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// Status when the cluster is not known (503, or 404 / 500 as configured).
    pub cluster_not_found_status: u16,
    /// Policies for filters that limit rates.
    pub rate_limits: Vec<RateLimit>,
    /// Upgrades for which this route says otherwise than the connection manager.
    pub upgrades: Vec<Upgrade>,
    /// Who else is sent the request: as the route says, else its virtual host, else its table.
    pub mirrors: Arc<[Mirror]>,
    /// What the hash of a request is made of, for consistent hashing and sticky shares.
    pub hash_policy: Vec<HashPolicy>,
}

/// `RequestMirrorPolicy`: the request goes there too, and nobody waits for the answer.
#[derive(Clone, Debug)]
pub struct Mirror {
    /// Where it goes.
    pub cluster: MirrorCluster,
    /// `runtime_fraction`: the share of requests, in millionths.
    pub fraction: u32,
    /// What it calls the host.
    pub host: MirrorHost,
    /// `request_headers_mutations`, in order; they do not touch pseudo-headers.
    pub headers: Vec<HeaderMutation>,
}

/// Which cluster a mirrored request goes to. One that is not known is not sent.
#[derive(Clone, Debug)]
pub enum MirrorCluster {
    /// Always this one.
    One(Arc<str>),
    /// `cluster_header`: named by this request header (lower case), if it is there.
    Header(Box<str>),
}

/// The authority of a mirrored request.
#[derive(Clone, Debug)]
pub enum MirrorHost {
    /// The request's with `-shadow` behind the name, so that logs can tell.
    Suffixed,
    /// `disable_shadow_host_suffix_append`: the request's.
    Same,
    /// `host_rewrite_literal`.
    Literal(Box<str>),
}

/// `HashPolicy` of a route.
#[derive(Clone, Debug)]
pub struct HashPolicy {
    /// What is hashed.
    pub of: HashOf,
    /// Once there is a hash, those behind this one are not looked at.
    pub terminal: bool,
}

/// `policy_specifier`.
#[derive(Clone, Debug)]
pub enum HashOf {
    /// All values of a request header (lower case), each after its rewrite.
    Header(Box<str>, Option<(Regex, Box<str>)>),
    /// A cookie.
    Cookie(HashCookie),
    /// The address of the client.
    SourceIp,
    /// The first value of a query parameter.
    QueryParameter(Box<str>),
}

/// A cookie by which a client stays where it is.
#[derive(Clone, Debug)]
pub struct HashCookie {
    /// Its name.
    pub name: Box<str>,
    /// A client without the cookie is given one that lasts so long; zero: for as long as the browser runs.
    /// `None`: it is given none.
    pub ttl: Option<Duration>,
    /// `Path` of such a cookie; may be empty.
    pub path: Box<str>,
    /// Further attributes; an empty value is none.
    pub attributes: Vec<(Box<str>, Box<str>)>,
}

/// `UpgradeConfig`: whether a request may ask its connection to become this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// Lower case: a name of `Upgrade`, or `connect` for the method.
    pub protocol: Box<str>,
    /// It may.
    pub enabled: bool,
    /// `connect_config`: the tunnel ends here, and goes on as TCP; else CONNECT is passed on.
    pub terminates: bool,
}

/// `MaxStreamDuration`, from the first octet of the request to the last of the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamDuration {
    /// `None`: as the connection manager says; zero means no limit.
    pub max: Option<Duration>,
    /// How far `grpc-timeout` is honoured in its place.
    pub grpc: Option<GrpcTimeout>,
}

impl StreamDuration {
    /// The route says something of it.
    pub fn is_set(&self) -> bool {
        self.max.is_some() || self.grpc.is_some()
    }
}

/// How far `grpc-timeout` is honoured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// No further than this; zero means no cap.
    pub max: Duration,
    /// So much is taken off what the client says.
    pub offset: Duration,
}

/// `cluster_specifier`.
#[derive(Clone, Debug)]
pub enum ClusterChoice {
    /// Always this one.
    One(Arc<str>),
    /// By weight.
    Weighted(WeightedClusters),
    /// Named by this request header (lower case).
    Header(Box<str>),
}

/// `weighted_clusters`.
#[derive(Clone, Debug)]
pub struct WeightedClusters {
    /// A number takes the entry on whose share it falls, all shares laid out in this order.
    pub clusters: Vec<WeightedCluster>,
    /// Where the number comes from.
    pub by: SplitBy,
}

/// `random_value_specifier` of `weighted_clusters`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SplitBy {
    /// Chance.
    #[default]
    Chance,
    /// `header_name`: this request header (lower case), if it is one decimal number; else chance.
    Header(Box<str>),
    /// `use_hash_policy`: the hash of the route's `hash_policy`; chance for a request that has none.
    HashPolicy,
}

/// One entry of `weighted_clusters`.
#[derive(Clone, Debug)]
pub struct WeightedCluster {
    /// Cluster name.
    pub name: Arc<str>,
    /// Share of the sum of weights.
    pub weight: u32,
    /// Header operations for requests that go here.
    pub headers: HeaderOps,
    /// `host_rewrite_literal`: the authority for requests that go here, unless the route rewrites it itself.
    pub host_rewrite: Option<Box<str>>,
    /// What it and its route say of HTTP filters.
    pub filters: RouteFilters,
}

/// How the path changes on its way upstream. The query is kept.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// `prefix_rewrite`: replaces what the route matched.
    Prefix(Box<str>),
    /// `regex_rewrite`: every match of the pattern; `\1` in the substitution.
    Regex(Regex, Box<str>),
}

/// How the authority changes on its way upstream.
#[derive(Clone, Debug)]
pub enum HostRewrite {
    /// `host_rewrite_literal`.
    Literal(Box<str>),
    /// `auto_host_rewrite`: the endpoint's hostname.
    Endpoint,
    /// `host_rewrite_header`: the value of this header (lower case).
    Header(Box<str>),
}

/// `RedirectAction`. `None` keeps the request's own.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct Redirect {
    /// `https_redirect` or `scheme_redirect`, lower case.
    pub scheme: Option<Box<str>>,
    pub host: Option<Box<str>>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub strip_query: bool,
}

/// `path_rewrite_specifier` of a redirect.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub enum RedirectPath {
    Full(Box<str>),
    Prefix(Box<str>),
    Regex(Regex, Box<str>),
}

/// `DirectResponseAction`.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs)]
pub struct DirectResponse {
    pub status: u16,
    pub body: Arc<[u8]>,
}

/// Header operations: removals first, then additions in order.
#[derive(Clone, Debug, Default)]
pub struct HeaderOps {
    /// On the request.
    pub request: HeaderEdit,
    /// On the response.
    pub response: HeaderEdit,
}

/// Operations on one header block.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdit {
    /// Lower-case names.
    pub remove: Vec<Box<str>>,
    /// What to add, in order.
    pub add: Vec<HeaderAdd>,
}

impl HeaderEdit {
    /// True if nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

/// `HeaderValueOption`.
#[derive(Clone, Debug)]
pub struct HeaderAdd {
    /// Lower-case name; `:path` and `:authority` may be overwritten on requests.
    pub name: Box<str>,
    /// Value with substitutions.
    pub value: Template,
    /// What happens to values that are there.
    pub action: AppendAction,
    /// An empty value is still added.
    pub keep_empty: bool,
}

/// `HeaderMutation`: one step of several that are done in order.
#[derive(Clone, Debug)]
pub enum HeaderMutation {
    /// Every field of this name (lower case).
    Remove(Box<str>),
    /// `remove_on_match`: every field whose name matches.
    RemoveMatching(StringMatch),
    /// A field more, or in place of others.
    Append(HeaderAdd),
}

/// `HeaderAppendAction`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum AppendAction {
    #[default]
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}
