//! Transcripts: what a server says, and what it hears.
//!
//! A request is shown as its type, then only what is set: `node`, the names
//! (`+` and `-` in the delta protocol, a list in the other), `has` for versions
//! that are known from an earlier stream, `version`, `nonce`, `error`.

use std::time::Duration;

use super::*;
use crate::testing::{self, cluster, endpoints, listener, packed, routes};
use ResourceKind::{Cluster, Endpoints, Listener, Routes};

const LATER: Duration = Duration::from_secs(60);

/// The proxy's side, driven as [`crate::Client`] drives it.
struct Proxy {
    catalog: Catalog,
    session: Session,
    now: Duration,
}

impl Proxy {
    fn new(variant: Variant) -> Self {
        let session = Session::new(variant, node(), [Cluster, Listener], BTreeMap::new());
        let mut catalog = testing::catalog();
        catalog.settle(Duration::ZERO);
        Proxy { catalog, session, now: Duration::ZERO }
    }

    fn delta() -> Self {
        Proxy::new(Variant::Delta)
    }

    fn state_of_the_world() -> Self {
        Proxy::new(Variant::StateOfTheWorld)
    }

    /// What the proxy says without having heard anything.
    fn speaks(&mut self) -> Vec<String> {
        self.catalog.settle(self.now);
        self.session.refresh(&self.catalog).iter().map(shown).collect()
    }

    /// The answers to resources, each of the version of its response.
    fn hears<const N: usize>(
        &mut self,
        kind: ResourceKind,
        (version, nonce): (&str, &str),
        resources: [prost_types::Any; N],
    ) -> Vec<String> {
        self.hears_also(kind, (version, nonce), resources, &[])
    }

    /// The same with names that the delta protocol takes away.
    fn hears_also<const N: usize>(
        &mut self,
        kind: ResourceKind,
        (version, nonce): (&str, &str),
        resources: [prost_types::Any; N],
        removed: &[&str],
    ) -> Vec<String> {
        let (type_url, nonce) = (kind.type_url().to_owned(), nonce.to_owned());
        let mut requests = match self.session.variant {
            Variant::Delta => {
                let resources = resources.into_iter().map(|raw| discovery::Resource {
                    name: name_of(kind, &raw),
                    version: version.to_owned(),
                    resource: Some(raw),
                    ..Default::default()
                });
                let response = discovery::DeltaDiscoveryResponse {
                    type_url,
                    nonce,
                    resources: resources.collect(),
                    removed_resources: removed.iter().map(|name| (*name).to_owned()).collect(),
                    ..Default::default()
                };
                self.session.on_delta(response, &mut self.catalog)
            }
            Variant::StateOfTheWorld => {
                let response = discovery::DiscoveryResponse {
                    type_url,
                    nonce,
                    version_info: version.to_owned(),
                    resources: resources.into(),
                    ..Default::default()
                };
                self.session.on_state_of_the_world(response, &mut self.catalog)
            }
        };
        self.catalog.settle(self.now);
        requests.extend(self.session.refresh(&self.catalog));
        requests.iter().map(shown).collect()
    }

    /// The stream broke and another is open.
    fn reconnects(&mut self) -> Vec<String> {
        let versions = self.session.accepted_versions();
        self.session = Session::new(self.session.variant, node(), [Cluster, Listener], versions);
        self.speaks()
    }

    /// Clusters that serve.
    fn clusters(&self) -> Vec<String> {
        let mut names: Vec<String> = self.catalog.snapshot().clusters.keys().map(ToString::to_string).collect();
        names.sort();
        names
    }

    fn connect_timeout(&self, cluster: &str) -> Duration {
        self.catalog.snapshot().clusters[cluster].connect_timeout
    }
}

fn node() -> core::Node {
    core::Node { id: "proxy".to_owned(), ..Default::default() }
}

/// Only so that a test need not say every name twice.
fn name_of(kind: ResourceKind, raw: &prost_types::Any) -> String {
    let descriptor = crate::proto::descriptor(kind.type_url()).unwrap();
    let message = prost_reflect::DynamicMessage::decode(descriptor, raw.value.as_slice()).unwrap();
    let field = if kind == Endpoints { "cluster_name" } else { "name" };
    message.get_field_by_name(field).unwrap().as_str().unwrap().to_owned()
}

fn shown(request: &Request) -> String {
    let mut words = Vec::new();
    let (type_url, node, nonce, error) = match request {
        Request::Delta(of) => (&of.type_url, &of.node, &of.response_nonce, &of.error_detail),
        Request::StateOfTheWorld(of) => (&of.type_url, &of.node, &of.response_nonce, &of.error_detail),
    };
    words.push(format!("{:?}", ResourceKind::of(type_url).unwrap()));
    words.extend(node.iter().map(|node| format!("node {}", node.id)));
    match request {
        Request::Delta(of) => {
            words.extend(of.resource_names_subscribe.iter().map(|name| format!("+{name}")));
            words.extend(of.resource_names_unsubscribe.iter().map(|name| format!("-{name}")));
            let known: BTreeMap<_, _> = of.initial_resource_versions.iter().collect();
            words.extend(known.iter().map(|(name, version)| format!("has {name}@{version}")));
        }
        Request::StateOfTheWorld(of) => {
            words.push(format!("[{}]", of.resource_names.join(" ")));
            words.extend((!of.version_info.is_empty()).then(|| format!("version {}", of.version_info)));
        }
    }
    words.extend((!nonce.is_empty()).then(|| format!("nonce {nonce}")));
    words.extend(error.iter().map(|error| format!("error {}", error.message)));
    words.join(" ")
}

#[test]
fn delta_from_the_first_request_to_the_last_endpoint() {
    let mut proxy = Proxy::delta();
    // The node once, clusters before listeners, and nothing by name yet.
    assert_eq!(proxy.speaks(), ["Cluster node proxy"]);
    let said = proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s"), cluster("shop", "1s")]);
    // The answer carries the nonce; the change of names answers nothing and carries none.
    assert_eq!(said, ["Cluster nonce a", "Endpoints +cart +shop"]);
    assert_eq!(proxy.clusters(), [""; 0]);
    assert_eq!(proxy.hears(Endpoints, ("1", "b"), [endpoints("cart", 1)]), ["Endpoints nonce b"]);
    assert_eq!(proxy.clusters(), ["cart"]);
    // Listeners are asked for when every cluster can serve them.
    assert_eq!(proxy.hears(Endpoints, ("1", "c"), [endpoints("shop", 2)]), ["Endpoints nonce c", "Listener"]);
    let said = proxy.hears(Listener, ("1", "d"), [listener("http", 80, "table")]);
    assert_eq!(said, ["Listener nonce d", "Routes +table"]);
    assert_eq!(proxy.catalog.snapshot().listeners.len(), 0);
    assert_eq!(proxy.hears(Routes, ("1", "e"), [routes("table", "cart")]), ["Routes nonce e"]);
    assert_eq!(proxy.catalog.snapshot().listeners.len(), 1);
    assert_eq!(proxy.speaks(), [""; 0]);
}

#[test]
fn state_of_the_world_names_everything_each_time() {
    let mut proxy = Proxy::state_of_the_world();
    assert_eq!(proxy.speaks(), ["Cluster node proxy []"]);
    let said = proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    assert_eq!(said, ["Cluster [] version 1 nonce a", "Endpoints [cart]"]);
    let said = proxy.hears(Endpoints, ("7", "b"), [endpoints("cart", 1)]);
    assert_eq!(said, ["Endpoints [cart] version 7 nonce b", "Listener []"]);
    // More names at the version and with the nonce that are the latest of their type.
    let said = proxy.hears(Cluster, ("2", "c"), [cluster("cart", "1s"), cluster("shop", "1s")]);
    assert_eq!(said, ["Cluster [] version 2 nonce c", "Endpoints [cart shop] version 7 nonce b"]);
    // Without a cluster there is no interest in endpoints: the list is empty, which is no wildcard any more.
    assert_eq!(
        proxy.hears(Cluster, ("3", "d"), []),
        ["Cluster [] version 3 nonce d", "Endpoints [] version 7 nonce b"]
    );
    assert_eq!(proxy.clusters(), [""; 0]);
}

#[test]
fn a_refusal_says_resource_and_field_and_keeps_the_last_good_one() {
    let bad = || packed(Cluster, "{name: cart, type: EDS, connect_timeout: -1s}");
    let reason = "error cart: connect_timeout: this must be longer than 0s";

    let mut proxy = Proxy::delta();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    proxy.hears(Endpoints, ("1", "b"), [endpoints("cart", 1)]);
    let said = proxy.hears(Cluster, ("2", "c"), [bad(), cluster("shop", "3s")]);
    // The good half of the response is in use.
    assert_eq!(said, [format!("Cluster nonce c {reason}"), "Endpoints +shop".to_owned()]);
    assert_eq!(proxy.connect_timeout("cart"), Duration::from_secs(1));
    // The refused version is not claimed on the next stream, the good one is.
    proxy.hears(Endpoints, ("2", "d"), [endpoints("shop", 2)]);
    assert_eq!(proxy.reconnects()[0], "Cluster node proxy has cart@1 has shop@2");

    let mut proxy = Proxy::state_of_the_world();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    proxy.hears(Endpoints, ("1", "b"), [endpoints("cart", 1)]);
    let said = proxy.hears(Cluster, ("2", "c"), [bad()]);
    assert_eq!(said[0], format!("Cluster [] version 1 nonce c {reason}"));
    assert_eq!(proxy.connect_timeout("cart"), Duration::from_secs(1));
    let said = proxy.hears(Cluster, ("3", "d"), [cluster("cart", "3s")]);
    assert_eq!(said, ["Cluster [] version 3 nonce d"]);
    assert_eq!(proxy.connect_timeout("cart"), Duration::from_secs(3));
}

#[test]
fn a_new_stream_says_what_is_known_and_nothing_of_the_old_one() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s"), cluster("shop", "1s")]);
    proxy.hears(Endpoints, ("5", "b"), [endpoints("cart", 1), endpoints("shop", 2)]);
    proxy.hears(Listener, ("2", "c"), [listener("http", 80, "table")]);
    proxy.hears(Routes, ("3", "d"), [routes("table", "cart")]);
    assert_eq!(
        proxy.reconnects(),
        [
            "Cluster node proxy has cart@1 has shop@1",
            "Endpoints +cart +shop has cart@5 has shop@5",
            "Listener has http@2",
            "Routes +table has table@3",
        ]
    );

    let mut proxy = Proxy::state_of_the_world();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    proxy.hears(Endpoints, ("5", "b"), [endpoints("cart", 1)]);
    proxy.hears(Listener, ("2", "c"), [listener("http", 80, "table")]);
    proxy.hears(Routes, ("3", "d"), [routes("table", "cart")]);
    assert_eq!(
        proxy.reconnects(),
        [
            "Cluster node proxy [] version 1",
            "Endpoints [cart] version 5",
            "Listener [] version 2",
            "Routes [table] version 3",
        ]
    );
    // The first answer on the new stream brings the first nonce.
    let said = proxy.hears(Cluster, ("1", "z"), [cluster("cart", "1s")]);
    assert_eq!(said, ["Cluster [] version 1 nonce z"]);
}

#[test]
fn a_stream_that_broke_early_starts_over() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    assert_eq!(proxy.reconnects(), ["Cluster node proxy"]);
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    // Endpoints were asked for and never came.
    assert_eq!(proxy.reconnects(), ["Cluster node proxy has cart@1", "Endpoints +cart"]);
}

#[test]
fn delta_removes_what_it_names() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s"), cluster("shop", "1s")]);
    proxy.hears(Endpoints, ("1", "b"), [endpoints("cart", 1), endpoints("shop", 2)]);
    // What is not mentioned stays.
    proxy.hears(Cluster, ("2", "c"), [cluster("cart", "2s")]);
    assert_eq!(proxy.clusters(), ["cart", "shop"]);
    let said = proxy.hears_also(Cluster, ("3", "d"), [], &["shop", "unheard-of"]);
    assert_eq!(said, ["Cluster nonce d", "Endpoints -shop"]);
    assert_eq!(proxy.clusters(), ["cart"]);
    // It may come back; its endpoints are asked for anew.
    let said = proxy.hears(Cluster, ("4", "e"), [cluster("shop", "1s")]);
    assert_eq!(said, ["Cluster nonce e", "Endpoints +shop"]);
    assert_eq!(proxy.clusters(), ["cart"]);
}

#[test]
fn every_response_of_a_known_type_is_answered_once() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    assert_eq!(proxy.hears(Cluster, ("", "a"), []), ["Cluster nonce a", "Listener"]);
    assert_eq!(proxy.hears(Cluster, ("", "b"), []), ["Cluster nonce b"]);
    // Nobody asked for routes, so there is no subscription that could be answered.
    assert_eq!(proxy.hears(Routes, ("1", "c"), [routes("table", "cart")]), [""; 0]);
    let heartbeat = discovery::DeltaDiscoveryResponse {
        type_url: Cluster.type_url().to_owned(),
        nonce: "d".to_owned(),
        resources: vec![discovery::Resource { name: "cart".to_owned(), ..Default::default() }],
        ..Default::default()
    };
    let said = proxy.session.on_delta(heartbeat, &mut proxy.catalog);
    assert_eq!(said.iter().map(shown).collect::<Vec<_>>(), ["Cluster nonce d"]);
    let foreign =
        discovery::DeltaDiscoveryResponse { type_url: "type.googleapis.com/x.Y".to_owned(), ..Default::default() };
    assert_eq!(proxy.session.on_delta(foreign, &mut proxy.catalog), []);
}

#[test]
fn what_was_not_asked_for_is_ignored() {
    let mut proxy = Proxy::state_of_the_world();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    let said = proxy.hears(Endpoints, ("1", "b"), [endpoints("cart", 1), endpoints("other", 2)]);
    assert_eq!(said[0], "Endpoints [cart] version 1 nonce b");
    assert_eq!(proxy.catalog.endpoints().len(), 1);
}

#[test]
fn a_name_that_comes_twice_is_refused() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    let said = proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s"), cluster("cart", "2s")]);
    assert_eq!(said[0], "Cluster nonce a error cart: cluster `cart` was sent twice");
}

#[test]
fn without_a_source_of_clusters_listeners_do_not_wait() {
    let mut proxy = Proxy::delta();
    proxy.session = Session::new(Variant::Delta, node(), [Listener], BTreeMap::new());
    assert_eq!(proxy.speaks(), ["Listener node proxy"]);
}

#[test]
fn listeners_are_asked_for_when_waiting_is_over() {
    let mut proxy = Proxy::delta();
    proxy.speaks();
    proxy.hears(Cluster, ("1", "a"), [cluster("cart", "1s")]);
    assert_eq!(proxy.speaks(), [""; 0]);
    proxy.now = LATER;
    assert_eq!(proxy.speaks(), ["Listener"]);
}

#[test]
fn a_reason_is_cut_at_a_character() {
    let problem = crate::Diagnostic { place: None, path: String::new(), message: "ä".repeat(9000), hint: None };
    let rejected = Rejected { name: "x".to_owned(), version: String::new(), problems: vec![problem] };
    let message = reason(&[rejected]).unwrap().message;
    assert!(message.len() <= LONGEST_REASON && message.len() > LONGEST_REASON - 4);
}
