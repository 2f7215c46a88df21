//! What serves after each step: `name` for what is live, `name?` for what still warms up.

use std::time::Duration;

use super::*;
use crate::testing::{
    catalog, catalog_that_asks, cluster, endpoints, filtered_listener, identity, listener, packed, relaying_listener,
    root_pem, roots, routes, secured_cluster, secured_listener,
};
use ResourceKind::{Cluster, Endpoints, Listener, Routes, Secret};

const NOW: Duration = Duration::ZERO;

impl Catalog {
    /// Resources of the delta protocol, settled; the problems as a refusal says them.
    fn hears<const N: usize>(&mut self, kind: ResourceKind, resources: [prost_types::Any; N]) -> Vec<String> {
        self.hears_with(kind, resources, Removal::Names(Vec::new()))
    }

    fn hears_with<const N: usize>(
        &mut self,
        kind: ResourceKind,
        resources: [prost_types::Any; N],
        removal: Removal,
    ) -> Vec<String> {
        let incoming = resources.map(|raw| Incoming { name: String::new(), version: "1".to_owned(), raw });
        let rejected = self.update(kind, incoming.into(), removal);
        self.settle(NOW);
        rejected.iter().flat_map(|one| one.problems.iter().map(|problem| format!("{}: {problem}", one.name))).collect()
    }

    fn loses(&mut self, kind: ResourceKind, name: &str) {
        self.hears_with(kind, [], Removal::Names(vec![name.to_owned()]));
    }

    fn shows(&self) -> String {
        let clusters = self.clusters.iter().map(|(name, slot)| shown(name, slot));
        let listeners = self.listeners.iter().map(|(name, slot)| shown(name, slot));
        clusters.chain(listeners).collect::<Vec<_>>().join(" ")
    }

    fn port_of(&self, cluster: &str) -> Option<u16> {
        let cluster = self.snapshot().clusters.get(cluster)?;
        cluster.endpoints.iter().next().map(|(_, endpoint)| endpoint.address.port())
    }
}

fn shown<T>(name: &str, slot: &Slot<T>) -> String {
    match (&slot.active, &slot.warming) {
        (Some(_), None) => name.to_owned(),
        (None, Some(_)) => format!("{name}?"),
        (Some(_), Some(_)) => format!("{name} {name}?"),
        (None, None) => unreachable!("an empty slot"),
    }
}

#[test]
fn a_cluster_waits_for_its_endpoints() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    assert_eq!(catalog.shows(), "cart?");
    assert!(catalog.is_warming());
    assert!(catalog.snapshot().clusters.is_empty());
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    assert_eq!(catalog.shows(), "cart");
    assert_eq!(catalog.port_of("cart"), Some(1));
}

#[test]
fn a_cluster_that_changes_serves_as_it_was_until_the_new_one_is_ready() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    let other = "{name: cart, type: EDS, eds_cluster_config: {service_name: other, eds_config: {ads: {}}}}";
    catalog.hears(Cluster, [packed(Cluster, other)]);
    assert_eq!(catalog.shows(), "cart cart?");
    assert_eq!(catalog.port_of("cart"), Some(1));
    // Both are asked for while both are in use.
    assert_eq!(catalog.wanted(Endpoints), BTreeSet::from(["cart".to_owned(), "other".to_owned()]));
    catalog.hears(Endpoints, [endpoints("other", 2)]);
    assert_eq!(catalog.shows(), "cart");
    assert_eq!(catalog.port_of("cart"), Some(2));
    assert_eq!(catalog.wanted(Endpoints), BTreeSet::from(["other".to_owned()]));
    assert!(!catalog.endpoints().contains_key("cart"), "nobody needs them any more");
}

/// A cluster whose hosts are asked how they are.
fn checked(name: &str, connect_timeout: &str) -> prost_types::Any {
    let mut any = cluster(name, connect_timeout);
    let check = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}";
    // Merging what follows is what protobuf says of concatenated messages.
    any.value.extend(packed(Cluster, &format!("{{health_checks: [{check}]}}")).value);
    any
}

/// A catalog, and the clusters that are warm by now, by name and port of their first endpoint.
type Warm = Arc<std::sync::Mutex<BTreeSet<(String, u16)>>>;

fn asking(statics: Statics) -> (Catalog, Warm) {
    let warm = Warm::default();
    let said = warm.clone();
    let is_warm = Box::new(move |cluster: &Arc<pymesh_model::cluster::Cluster>| {
        let ports = cluster.endpoints.iter().map(|(_, endpoint)| endpoint.address.port());
        said.lock().unwrap().contains(&(cluster.name.to_string(), ports.min().unwrap_or_default()))
    });
    (catalog_that_asks(statics, is_warm), warm)
}

#[test]
fn a_cluster_waits_until_its_hosts_have_been_asked() {
    let (mut catalog, warm) = asking(Statics::default());
    catalog.hears(Cluster, [checked("cart", "1s")]);
    assert!(catalog.snapshot().warming.is_empty(), "whom to ask is not known yet");
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    assert_eq!((catalog.shows().as_str(), catalog.port_of("cart")), ("cart?", None));
    let asked = catalog.snapshot().warming.get("cart").unwrap().clone();
    assert_eq!(catalog.next_deadline(), Some(LOOK), "nobody tells that they have answered");
    // Others come meanwhile.
    catalog.hears(Endpoints, [endpoints("cart", 2)]);
    let again = catalog.snapshot().warming.get("cart").unwrap().clone();
    assert!(!Arc::ptr_eq(&asked, &again));
    assert!(!catalog.settle(LOOK));
    warm.lock().unwrap().insert(("cart".to_owned(), 2));
    assert!(catalog.settle(LOOK * 2));
    assert_eq!((catalog.shows().as_str(), catalog.port_of("cart")), ("cart", Some(2)));
    let snapshot = catalog.snapshot();
    assert!(snapshot.warming.is_empty() && Arc::ptr_eq(&again, snapshot.clusters.get("cart").unwrap()));
    assert_eq!(catalog.next_deadline(), None);
    // Who takes its place knows its hosts.
    catalog.hears(Cluster, [checked("cart", "2s")]);
    assert_eq!(catalog.shows(), "cart");
}

#[test]
fn nobody_is_let_in_before_the_bootstraps_clusters_are_warm() {
    let text = |name: &str| {
        let address = "{address: 127.0.0.1, port_value: 7}";
        let check = "{timeout: 1s, interval: 1s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}";
        let endpoints = format!("[{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {address}}}}}}}]}}]");
        format!(
            "static_resources:\n  clusters: [{{name: {name}, load_assignment: {{cluster_name: {name}, \
             endpoints: {endpoints}}}, health_checks: [{check}]}}]\n  listeners: [{{name: in, address: \
             {{socket_address: {address}}}, filter_chains: [{{filters: [{{name: tcp, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: in, \
             cluster: {name}}}}}]}}]}}]\n"
        )
    };
    let bootstrap = crate::load_bootstrap("bootstrap.yaml", &text("cart")).unwrap();
    let (mut catalog, warm) = asking(bootstrap.statics);
    catalog.settle(NOW);
    assert_eq!((catalog.snapshot().listeners.len(), catalog.snapshot().warming.len()), (0, 1));
    warm.lock().unwrap().insert(("cart".to_owned(), 7));
    catalog.settle(LOOK);
    assert_eq!((catalog.snapshot().listeners.len(), catalog.snapshot().clusters.len()), (1, 1));
    // Later ones keep nobody out.
    catalog.hears(Cluster, [checked("other", "1s")]);
    catalog.hears(Endpoints, [endpoints("other", 1)]);
    assert_eq!((catalog.snapshot().listeners.len(), catalog.snapshot().warming.len()), (1, 1));
}

#[test]
fn one_that_nobody_looked_after_serves_until_the_hosts_of_the_new_one_have_been_asked() {
    let (mut catalog, warm) = asking(Statics::default());
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    catalog.hears(Cluster, [checked("cart", "1s")]);
    assert_eq!(catalog.shows(), "cart cart?");
    let snapshot = catalog.snapshot();
    assert!(snapshot.clusters.get("cart").unwrap().health_check.is_none());
    assert!(snapshot.warming.get("cart").unwrap().health_check.is_some());
    warm.lock().unwrap().insert(("cart".to_owned(), 1));
    catalog.settle(LOOK);
    assert_eq!(catalog.shows(), "cart");
    assert!(catalog.snapshot().clusters.get("cart").unwrap().health_check.is_some());
    catalog.hears(Cluster, [checked("other", "1s")]);
    catalog.hears(Endpoints, [endpoints("other", 3)]);
    assert_eq!(catalog.shows(), "cart other?");
    catalog.loses(Cluster, "other");
    assert!(catalog.snapshot().warming.is_empty());
}

#[test]
fn a_change_back_ends_the_warming() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    let other = "{name: cart, type: EDS, eds_cluster_config: {service_name: other, eds_config: {ads: {}}}}";
    catalog.hears(Cluster, [packed(Cluster, other)]);
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    assert_eq!(catalog.shows(), "cart");
    assert_eq!(catalog.wanted(Endpoints), BTreeSet::from(["cart".to_owned()]));
}

#[test]
fn a_cluster_waits_for_its_secrets_too() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [secured_cluster("cart", "roots")]);
    assert_eq!(catalog.wanted(Secret), BTreeSet::from(["roots".to_owned()]));
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    assert_eq!(catalog.shows(), "cart?");
    catalog.hears(Secret, [roots("roots")]);
    assert_eq!(catalog.shows(), "cart");
    // What the cluster does not need any more is forgotten, the store included.
    catalog.loses(Cluster, "cart");
    assert!(!catalog.store.contains(&SecretName::from("roots")));
}

#[test]
fn a_listener_waits_for_its_routes_and_secrets() {
    let mut catalog = catalog();
    catalog.hears(Listener, [secured_listener("http", 80, "table", "roots")]);
    assert_eq!(catalog.shows(), "http?");
    catalog.hears(Routes, [routes("table", "cart")]);
    assert_eq!(catalog.shows(), "http?");
    catalog.hears(Secret, [roots("roots")]);
    assert_eq!(catalog.shows(), "http?");
    assert!(catalog.snapshot().listeners.is_empty());
    catalog.hears(Secret, [identity("identity")]);
    assert_eq!(catalog.shows(), "http");
    assert_eq!(catalog.snapshot().listeners.len(), 1);
    assert!(catalog.snapshot().routes.contains_key("table"));
}

#[test]
fn filter_chains_that_do_not_change_stay_the_same() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("a", "1s")]);
    let mut chains = |listener: prost_types::Any| {
        assert_eq!(catalog.hears(Listener, [listener]), Vec::<String>::new());
        let listener = catalog.listeners()["l"].newest().unwrap().value.clone();
        (listener.filter_chains.iter().next().unwrap().clone(), listener.default_filter_chain.clone())
    };
    let (http, none) = chains(listener("l", 80, "r"));
    assert!(none.is_none());
    let (same, relay) = chains(relaying_listener("l", 80, "r", "a"));
    assert!(Arc::ptr_eq(&http, &same) && relay.is_some());
    let (changed, same) = chains(relaying_listener("l", 80, "other", "a"));
    assert!(!Arc::ptr_eq(&http, &changed) && Arc::ptr_eq(&relay.unwrap(), same.as_ref().unwrap()));
    let (moved, _) = chains(relaying_listener("l", 81, "other", "a"));
    assert!(!Arc::ptr_eq(&changed, &moved), "more than chains has changed");
}

type Told<T> = Arc<std::sync::Mutex<Vec<T>>>;

/// A catalog in which filters that say `bad` cannot be loaded; what was asked to be loaded; and what was counted.
fn loading() -> (Catalog, Told<String>, Told<(String, bool)>) {
    let (mut catalog, asked, counted) = (catalog(), Told::default(), Told::default());
    let said: Told<String> = asked.clone();
    let load: LoadFilter = Box::new(move |filter| {
        said.lock().unwrap().push(filter.source.to_string());
        if filter.source.contains("bad") {
            Err("it is bad\nhint: write good".to_owned())
        } else {
            let is_first = said.lock().unwrap().iter().filter(|source| **source == *filter.source).count() == 1;
            Ok(if is_first { Loaded::Now } else { Loaded::Before })
        }
    });
    let told = counted.clone();
    let count = move |name: &Arc<str>, is_loaded| told.lock().unwrap().push((name.to_string(), is_loaded));
    catalog.load_filters_by(load, Box::new(count));
    (catalog, asked, counted)
}

fn only_chain(catalog: &Catalog) -> Arc<pymesh_model::listener::FilterChain> {
    let listener = &catalog.listeners()["l"].newest().unwrap().value;
    listener.filter_chains.iter().next().unwrap().clone()
}

fn only_filter(catalog: &Catalog) -> String {
    let mut filters = catalog.python_filters();
    let (_, python) = filters.next().unwrap();
    python.source.to_string()
}

#[test]
fn a_filter_that_cannot_be_loaded_leaves_its_earlier_generation_in_force() {
    let (mut catalog, asked, counted) = loading();
    assert_eq!(catalog.hears(Listener, [filtered_listener("l", 80, "r", "good1")]), Vec::<String>::new());
    let refused = catalog.hears(Listener, [filtered_listener("l", 80, "other", "bad")]);
    let said = "l: filter shop/greet: cannot be loaded, its earlier generation goes on serving: it is bad \
                (hint: write good)";
    assert_eq!(refused, [said]);
    assert_eq!(only_filter(&catalog), "good1");
    assert_eq!(catalog.wanted(Routes).into_iter().collect::<Vec<_>>(), ["other"], "the rest of it was taken");
    assert_eq!(catalog.rejected().len(), 1);
    // The server says it again to a new stream, and hears it again.
    assert_eq!(catalog.hears(Listener, [filtered_listener("l", 80, "other", "bad")]), [said]);
    assert_eq!(catalog.hears(Listener, [filtered_listener("l", 80, "other", "good2")]), Vec::<String>::new());
    assert_eq!((only_filter(&catalog).as_str(), catalog.rejected().len()), ("good2", 0));
    assert_eq!(asked.lock().unwrap().iter().filter(|source| *source == "good2").count(), 1);
    let counted: Vec<bool> = counted.lock().unwrap().iter().map(|(_, is_loaded)| *is_loaded).collect();
    assert_eq!(counted, [true, false, false, true], "each generation once, and each time that it was refused");
}

#[test]
fn a_first_generation_that_cannot_be_loaded_is_judged_by_its_failure_policy() {
    let (mut catalog, _, counted) = loading();
    let said = "l: filter shop/greet: cannot be loaded, its requests are judged by its failure policy: it is bad \
                (hint: write good)";
    assert_eq!(catalog.hears(Listener, [filtered_listener("l", 80, "r", "bad1")]), [said]);
    assert_eq!(catalog.hears(Listener, [filtered_listener("l", 80, "r", "bad2")]), [said]);
    assert_eq!(only_filter(&catalog), "bad2", "one that never served is no refuge");
    let name = counted.lock().unwrap().first().map(|(name, _)| name.clone());
    assert_eq!((counted.lock().unwrap().len(), name.as_deref()), (2, Some("shop/greet")));
}

#[test]
fn generations_of_a_chain_are_of_one_lineage() {
    let (mut catalog, ..) = loading();
    let mut chain = |resource: prost_types::Any| {
        assert_eq!(catalog.hears(Listener, [resource]), Vec::<String>::new());
        only_chain(&catalog)
    };
    let first = chain(filtered_listener("l", 80, "r", "good1"));
    let second = chain(filtered_listener("l", 80, "r", "good2"));
    let without = chain(listener("l", 80, "r"));
    let another = chain(filtered_listener("l", 80, "other", "good2"));
    assert!(!Arc::ptr_eq(&first, &second) && first.lineage.is(&second.lineage));
    assert!(first.lineage.is(&without.lineage));
    assert!(!first.lineage.is(&another.lineage), "its routes are others");
}

#[test]
fn waiting_ends_after_the_fetch_timeout() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Listener, [listener("http", 80, "table")]);
    // Envoy's default for `initial_fetch_timeout`.
    assert_eq!(catalog.next_deadline(), Some(Duration::from_secs(15)));
    catalog.settle(Duration::from_secs(14));
    assert_eq!(catalog.shows(), "cart? http?");
    catalog.settle(Duration::from_secs(15));
    assert_eq!(catalog.shows(), "cart http");
    assert_eq!(catalog.port_of("cart"), None);
    assert_eq!(catalog.snapshot().routes["table"].virtual_hosts.len(), 0);
    // Late is better than never.
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    assert_eq!(catalog.port_of("cart"), Some(1));
}

#[test]
fn who_hears_that_there_is_none_stops_waiting() {
    // xDS, "Knowing When a Requested Resource Does Not Exist" (incremental).
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.loses(Endpoints, "cart");
    assert_eq!(catalog.shows(), "cart");
    assert_eq!(catalog.port_of("cart"), None);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    assert_eq!(catalog.port_of("cart"), Some(1));
}

#[test]
fn endpoints_and_routes_that_are_withdrawn_serve_as_long_as_they_are_needed() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    catalog.hears(Listener, [listener("http", 80, "table")]);
    catalog.hears(Routes, [routes("table", "cart")]);
    let before = catalog.snapshot().clone();
    catalog.loses(Endpoints, "cart");
    catalog.loses(Routes, "table");
    catalog.hears_with(Endpoints, [], Removal::Rest);
    catalog.hears_with(Routes, [], Removal::Rest);
    assert!(Arc::ptr_eq(&before, catalog.snapshot()));
    catalog.loses(Listener, "http");
    assert!(catalog.routes().is_empty());
    catalog.loses(Cluster, "cart");
    assert!(catalog.endpoints().is_empty());
}

#[test]
fn state_of_the_world_removes_clusters_and_listeners_that_do_not_come() {
    let mut catalog = catalog();
    catalog.hears_with(Cluster, [cluster("cart", "1s"), cluster("shop", "1s")], Removal::Rest);
    catalog.hears_with(Listener, [listener("a", 80, "table"), listener("b", 81, "table")], Removal::Rest);
    catalog.hears_with(Endpoints, [endpoints("cart", 1)], Removal::Rest);
    catalog.hears_with(Routes, [routes("table", "cart")], Removal::Rest);
    assert_eq!(catalog.shows(), "cart shop? a b");
    catalog.hears_with(Cluster, [cluster("cart", "1s")], Removal::Rest);
    catalog.hears_with(Listener, [listener("b", 81, "table")], Removal::Rest);
    assert_eq!(catalog.shows(), "cart b");
    catalog.hears_with(Cluster, [], Removal::Rest);
    catalog.hears_with(Listener, [], Removal::Rest);
    assert_eq!(catalog.shows(), "");
}

#[test]
fn a_refused_resource_is_not_a_missing_one() {
    let mut catalog = catalog();
    catalog.hears_with(Cluster, [cluster("cart", "1s")], Removal::Rest);
    catalog.hears_with(Endpoints, [endpoints("cart", 1)], Removal::Rest);
    let bad = packed(Cluster, "{name: cart, type: EDS, connect_timeout: -1s}");
    let problems = catalog.hears_with(Cluster, [bad], Removal::Rest);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("cart: connect_timeout: "), "{problems:?}");
    assert_eq!(catalog.shows(), "cart");
    // A resource that cannot be read may be any: nothing is removed.
    let garbage = prost_types::Any { type_url: Cluster.type_url().to_owned(), value: vec![0xff] };
    assert_eq!(catalog.hears_with(Cluster, [garbage], Removal::Rest).len(), 1);
    assert_eq!(catalog.shows(), "cart");
}

#[test]
fn all_problems_of_a_response_are_told_at_once() {
    let mut catalog = catalog();
    let problems = catalog.hears(
        Cluster,
        [
            packed(
                Cluster,
                "{name: a, connect_timeout: -1s, load_assignment: {cluster_name: a, endpoints: [{priority: 1000}]}}",
            ),
            cluster("good", "1s"),
            prost_types::Any { type_url: Listener.type_url().to_owned(), value: Vec::new() },
        ],
    );
    assert_eq!(
        problems,
        [
            format!(": a resource of type `{}` came where `{}` belongs", Listener.type_url(), Cluster.type_url()),
            "a: load_assignment.endpoints[0].priority: this must be at most 128, not 1000".to_owned(),
            "a: connect_timeout: this must be longer than 0s".to_owned(),
        ]
    );
    assert_eq!(catalog.shows(), "good?");
}

#[test]
fn what_was_refused_is_remembered_until_it_is_mended_or_gone() {
    let bad = || packed(Cluster, "{name: cart, type: EDS, connect_timeout: -1s}");
    let unreadable = || prost_types::Any { type_url: Cluster.type_url().to_owned(), value: vec![0xff] };
    let mut catalog = catalog();
    catalog.hears(Cluster, [bad(), unreadable()]);
    assert_eq!(catalog.rejected().len(), 2);
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    assert_eq!(catalog.rejected().len(), 0, "mended");
    catalog.hears(Cluster, [bad()]);
    catalog.loses(Cluster, "cart");
    assert_eq!(catalog.rejected().len(), 0, "removed");
    catalog.hears_with(Cluster, [bad()], Removal::Rest);
    catalog.hears_with(Cluster, [], Removal::Rest);
    assert_eq!(catalog.rejected().len(), 0, "left out");
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    catalog.hears(Endpoints, [packed(Endpoints, "{cluster_name: cart, endpoints: [{lb_endpoints: [{}]}]}")]);
    assert_eq!(catalog.rejected().len(), 1);
    catalog.loses(Cluster, "cart");
    assert_eq!(catalog.rejected().len(), 0, "nobody needs it");
}

#[test]
fn a_secret_that_is_refused_leaves_the_old_one() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [secured_cluster("cart", "roots")]);
    catalog.hears(Endpoints, [endpoints("cart", 1)]);
    catalog.hears(Secret, [roots("roots")]);
    let generation = catalog.store.generation();
    let bad = "{name: roots, validation_context: {trusted_ca: {inline_string: no certificate}}}";
    let problems = catalog.hears(Secret, [packed(Secret, bad)]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("roots: validation_context"), "{problems:?}");
    assert_eq!(catalog.store.generation(), generation);
    // Rotation changes the store and no resource: nothing warms up again.
    let before = catalog.snapshot().clone();
    catalog.hears(Secret, [roots("roots")]);
    assert!(catalog.store.generation() > generation);
    assert!(Arc::ptr_eq(&before, catalog.snapshot()));
}

#[test]
fn what_did_not_change_is_shared() {
    let mut catalog = catalog();
    catalog.hears(Cluster, [cluster("cart", "1s"), cluster("shop", "1s")]);
    catalog.hears(Endpoints, [endpoints("cart", 1), endpoints("shop", 2)]);
    let before = catalog.snapshot().clone();
    catalog.hears(Cluster, [cluster("cart", "1s")]);
    assert!(Arc::ptr_eq(&before, catalog.snapshot()), "the same again is no change");
    catalog.hears(Endpoints, [endpoints("shop", 3)]);
    let after = catalog.snapshot();
    assert_eq!(after.version, before.version + 1);
    assert!(Arc::ptr_eq(&before.clusters["cart"], &after.clusters["cart"]));
    assert!(!Arc::ptr_eq(&before.clusters["shop"], &after.clusters["shop"]));
}

#[test]
fn two_listeners_cannot_have_one_address() {
    let mut catalog = catalog();
    let problems = catalog.hears(Listener, [listener("a", 80, "table"), listener("b", 80, "table")]);
    assert_eq!(problems, ["b: address: listener `a` has this address, 127.0.0.1:80"]);
    // Nor one that is not bound, for which connections are meant by their original destination.
    let unbound = packed(
        Listener,
        "{name: c, address: {socket_address: {address: 127.0.0.1, port_value: 80}}, bind_to_port: false, \
         default_filter_chain: {filters: [{name: t, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: t}}]}}",
    );
    let problems = catalog.hears(Listener, [unbound]);
    assert_eq!(problems, ["c: address: listener `a` has this address, 127.0.0.1:80"]);
    // The address is free again in the response that takes the other away.
    let problems = catalog.hears_with(Listener, [listener("b", 80, "table")], Removal::Names(vec!["a".to_owned()]));
    assert_eq!(problems, [""; 0]);
    assert_eq!(catalog.shows(), "b?");
}

/// A proxy that provides its own certificate, as `pymesh.identity.v1.WorkloadIdentity` says.
fn member() -> Catalog {
    let mut catalog = catalog();
    catalog.environment.own_secrets = vec![identity::CERTIFICATE.into(), identity::ROOTS.into()];
    catalog
}

#[test]
fn roots_of_the_mesh_come_with_a_certificate_and_by_ads_which_has_the_last_word() {
    let mut catalog = member();
    let digest = |catalog: &Catalog| catalog.store.trust_digest(&SecretName::from(identity::ROOTS));
    assert_eq!(catalog.wanted(Secret), BTreeSet::from(["ROOTCA".to_owned()]), "though nobody refers to it yet");
    catalog.roots_of_authority(root_pem().as_bytes());
    let first = digest(&catalog);
    assert!(first.is_some());

    // A control plane that has no such secret.
    catalog.loses(Secret, "ROOTCA");
    assert_eq!(digest(&catalog), first);
    catalog.roots_of_authority(root_pem().as_bytes());
    let second = digest(&catalog);
    assert_ne!(second, first);
    catalog.roots_of_authority(b"nothing");
    assert_eq!(digest(&catalog), second);

    assert_eq!(catalog.hears(Secret, [roots("ROOTCA")]), [""; 0]);
    let third = digest(&catalog);
    assert!(third != second && third.is_some());
    catalog.roots_of_authority(root_pem().as_bytes());
    assert_eq!(digest(&catalog), third, "an answer that is older than what the stream has said");
    catalog.loses(Secret, "ROOTCA");
    assert_eq!(digest(&catalog), third);
    assert!(catalog.store.contains(&SecretName::from(identity::ROOTS)));
}

#[test]
fn who_has_no_identity_of_its_own_asks_for_no_roots() {
    assert!(catalog().wanted(Secret).is_empty());
    let mut offline = member();
    offline.environment.ads = false;
    assert!(offline.wanted(Secret).is_empty());
}
