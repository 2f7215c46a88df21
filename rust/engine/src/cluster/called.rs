//! Which cluster a filter means that asks one (`ctx.call` of Python's).
//!
//! It may say a cluster's name, or `host:port` of a service as an application would. A host is looked for as a resolver
//! of Kubernetes does: as it is, in the proxy's own namespace (`reviews`), in the namespace that it names
//! (`reviews.shop`). Clusters of services are called as Istio calls them, `outbound|PORT|SUBSET|HOST`.

use std::sync::Arc;

use pymesh_model::Snapshot;

use crate::engine::Engine;

/// Names that an error lists.
const LISTED: usize = 12;

impl Engine {
    /// # Errors
    /// There is none that can be asked now, and which there are.
    pub(crate) fn called(&self, asked: &str) -> Result<Arc<str>, String> {
        let snapshot = &self.snapshot;
        let candidates = candidates(asked, &snapshot.node.workload.namespace);
        let known = |name: &String| self.cluster_names.get_key_value(name.as_str()).map(|(name, _)| name.clone());
        if let Some(found) = candidates.iter().find_map(known) {
            return Ok(found);
        }
        // Its default domain need not be the usual one.
        if let Some(found) = self.cluster_names.keys().find(|name| is_of_service(name, &candidates)) {
            return Ok(found.clone());
        }
        Err(why_not(asked, &candidates, snapshot))
    }
}

/// The names that it may have, the last one without the domain of the mesh.
fn candidates(asked: &str, namespace: &str) -> Vec<String> {
    let mut names = vec![asked.to_owned()];
    let Some((host, port)) = asked.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
        return names;
    };
    names.push(format!("outbound|{port}||{host}"));
    match host.matches('.').count() {
        0 if !namespace.is_empty() => names.push(format!("outbound|{port}||{host}.{namespace}.svc.")),
        1 => names.push(format!("outbound|{port}||{host}.svc.")),
        _ => {}
    }
    names
}

fn is_of_service(name: &str, candidates: &[String]) -> bool {
    candidates.last().is_some_and(|last| last.ends_with(".svc.") && name.starts_with(last.as_str()))
}

fn why_not(asked: &str, candidates: &[String], snapshot: &Snapshot) -> String {
    let is_meant = |name: &str| candidates.iter().any(|one| one == name) || is_of_service(name, candidates);
    if snapshot.warming.keys().any(|name| is_meant(name)) {
        return format!("cluster `{asked}` is warming up: its hosts are being asked how they are");
    }
    let mut known: Vec<&str> = snapshot.clusters.keys().map(|name| &**name).collect();
    known.sort_unstable();
    let more = known.len().saturating_sub(LISTED);
    known.truncate(LISTED);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    let list = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    format!("there is no cluster `{asked}`; known are {list}{rest}")
}

#[cfg(test)]
mod tests {
    use pymesh_model::testing;

    use super::*;

    #[test]
    fn a_service_is_looked_for_as_a_resolver_does() {
        assert_eq!(candidates("origin", "shop"), ["origin"]);
        assert_eq!(
            candidates("reviews:9080", "shop"),
            ["reviews:9080", "outbound|9080||reviews", "outbound|9080||reviews.shop.svc."]
        );
        assert_eq!(candidates("reviews.books:80", "shop")[2], "outbound|80||reviews.books.svc.");
        assert_eq!(candidates("reviews.books.svc.cluster.local:80", "shop").len(), 2);
        assert_eq!(candidates("reviews:http", "shop"), ["reviews:http"]);
        let found = is_of_service("outbound|9080||reviews.shop.svc.mesh.test", &candidates("reviews:9080", "shop"));
        assert!(found);
        assert!(!is_of_service("outbound|9080||reviews.shopping.svc.mesh.test", &candidates("reviews:9080", "shop")));
    }

    #[test]
    fn what_cannot_be_asked_is_told_with_what_can() {
        let mut snapshot = testing::snapshot([], [testing::cluster("b", []), testing::cluster("a", [])]);
        assert_eq!(why_not("c:80", &candidates("c:80", ""), &snapshot), "there is no cluster `c:80`; known are a, b");
        snapshot.warming.insert("outbound|80||c".into(), Arc::new(testing::cluster("outbound|80||c", [])));
        assert!(why_not("c:80", &candidates("c:80", ""), &snapshot).contains("warming up"));
        snapshot.clusters.clear();
        assert!(why_not("d", &candidates("d", ""), &snapshot).ends_with("known are none"));
    }
}
