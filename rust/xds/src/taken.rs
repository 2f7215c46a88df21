//! How far the feed is with what the server sends: for operators who ask
//! whether a change is in force (`/config_sync`).

use serde_json::{json, Map, Value};

use crate::catalog::{Catalog, Slot};
use crate::kind::ResourceKind;
use crate::session::Session;

/// Type URL -> nonce of the last answer, names of what waits, and what was refused.
pub(crate) fn json(session: Option<&Session>, catalog: &Catalog) -> Value {
    let mut types = Map::new();
    for kind in ResourceKind::ALL {
        let rejected: Vec<Value> = catalog
            .rejected()
            .iter()
            .filter(|((of, _), _)| *of == kind)
            .map(|((_, name), one)| {
                let problems: Vec<String> = one.problems.iter().map(ToString::to_string).collect();
                json!({ "name": name, "version": one.version, "problems": problems })
            })
            .collect();
        let state = json!({
            "nonce": session.and_then(|session| session.nonce(kind)),
            "warming": warming(catalog, kind),
            "rejected": rejected,
        });
        types.insert(kind.type_url().to_owned(), state);
    }
    Value::Object(types)
}

/// What was accepted and does not serve yet.
fn warming(catalog: &Catalog, kind: ResourceKind) -> Vec<String> {
    fn of<'a, T: 'a>(slots: impl Iterator<Item = (&'a std::sync::Arc<str>, &'a Slot<T>)>) -> Vec<String> {
        slots.filter(|(_, slot)| slot.warming.is_some()).map(|(name, _)| name.to_string()).collect()
    }
    match kind {
        ResourceKind::Cluster => of(catalog.clusters().iter()),
        ResourceKind::Listener => of(catalog.listeners().iter()),
        ResourceKind::Endpoints | ResourceKind::Routes | ResourceKind::Secret => Vec::new(),
    }
}
