//! Which member of a cluster serves which hash: a [`HashTable`], made of a [`Plan`] and of nothing else.
//!
//! Tables are large and all workers of a process have the same ones, so they are made once and shared
//! ([`Commons::tables`](crate::shared::Commons)). A table says which member by its index in the plan; each worker
//! knows which of its hosts that is.

use std::hash::{Hash, Hasher};

use pymesh_model::balance::{ConsistentHashing, LbPolicy, Maglev as MaglevSettings, RingHash as RingSettings};
use pymesh_model::endpoint::Endpoint;

use super::maglev::Maglev;
use super::ring_hash::Ring;

/// All that a table is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Plan {
    pub kind: Kind,
    pub members: Vec<Member>,
}

/// How a table is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Ring(RingSettings),
    Maglev(MaglevSettings),
}

/// A host as a table sees it.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub key: Box<str>,
    /// Its part of the whole, above 0.
    pub weight: f64,
}

impl Kind {
    /// `None` for policies that do not hash.
    pub fn of(policy: LbPolicy) -> Option<Kind> {
        match policy {
            LbPolicy::RingHash(settings) => Some(Kind::Ring(settings)),
            LbPolicy::Maglev(settings) => Some(Kind::Maglev(settings)),
            LbPolicy::RoundRobin | LbPolicy::LeastRequest { .. } | LbPolicy::Random => None,
        }
    }

    pub fn hashing(self) -> ConsistentHashing {
        match self {
            Kind::Ring(settings) => settings.hashing,
            Kind::Maglev(settings) => settings.hashing,
        }
    }
}

impl Member {
    pub fn new(endpoint: &Endpoint, hashing: ConsistentHashing, weight: f64) -> Member {
        Member { key: key(endpoint, hashing), weight }
    }
}

/// What stands for an endpoint: what its metadata say, or its name, or its address.
fn key(endpoint: &Endpoint, hashing: ConsistentHashing) -> Box<str> {
    match (&*endpoint.hash_key, hashing.use_hostname) {
        ("", true) => (&*endpoint.hostname).into(),
        ("", false) => endpoint.address.to_string().into(),
        (key, _) => key.into(),
    }
}

impl PartialEq for Member {
    fn eq(&self, other: &Member) -> bool {
        (&self.key, self.weight.to_bits()) == (&other.key, other.weight.to_bits())
    }
}

impl Eq for Member {}

impl Hash for Member {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (&self.key, self.weight.to_bits()).hash(state);
    }
}

/// A table of either kind.
#[derive(Debug)]
pub(crate) enum HashTable {
    Ring(Ring),
    Maglev(Maglev),
}

impl HashTable {
    pub fn new(plan: &Plan) -> HashTable {
        match &plan.kind {
            Kind::Ring(settings) => HashTable::Ring(Ring::new(settings, &plan.members)),
            Kind::Maglev(settings) => HashTable::Maglev(Maglev::new(settings, &plan.members)),
        }
    }

    /// The index of the member that serves a hash; `attempt` counts from 0 those that did not suit.
    pub fn owner(&self, hash: u64, attempt: u32) -> Option<u32> {
        match self {
            HashTable::Ring(ring) => ring.owner(hash, attempt),
            HashTable::Maglev(maglev) => maglev.owner(hash, attempt),
        }
    }
}

#[cfg(test)]
mod tests;
