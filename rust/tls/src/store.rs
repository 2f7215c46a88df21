//! All secrets of a process, by name.
//!
//! Readers (handshakes, on every worker) take no lock: they load one pointer.
//! Writers (SDS, the certificate client) prepare a secret completely, then
//! publish it together with all the others; a refused one changes nothing.
//!
//! Handshakes see a change at once. Connections that stand do not: whoever has
//! some looks at [`SecretStore::removals`], and asks [`crate::Session::is_trusted`]
//! again when a root has been removed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use pymesh_model::tls::SecretName;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;
use webpki::KeyUsage;

use crate::certificate::unix_time;
use crate::secret::{CertificateDescription, Identity, PrivateKey, SecretError, SecretProblem, TrustBundle, Validity};
use crate::verify::leads_to;
use crate::TimeProvider;

/// Secrets by name, swapped atomically.
pub struct SecretStore {
    current: ArcSwap<Secrets>,
    clock: Arc<dyn TimeProvider>,
    provider: Arc<CryptoProvider>,
    /// `None`: the system gave no randomness for a ticket key.
    tickets: Option<Arc<dyn ProducesTickets>>,
}

#[derive(Clone, Default)]
struct Secrets {
    generation: u64,
    removals: u64,
    moves: u64,
    moved: Option<SecretName>,
    identities: BTreeMap<SecretName, Arc<Identity>>,
    trust: BTreeMap<SecretName, Arc<TrustBundle>>,
}

/// What may be shown of one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretDescription {
    /// Its name.
    pub name: SecretName,
    /// True for trust bundles, false for identities.
    pub is_trust: bool,
    /// The leaf and then its issuers, or the roots.
    pub certificates: Vec<CertificateDescription>,
}

impl SecretStore {
    /// An empty store. Every certificate is judged by this clock.
    pub fn new(clock: Arc<dyn TimeProvider>) -> Self {
        SecretStore {
            current: ArcSwap::default(),
            clock,
            provider: Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
            tickets: Ticketer::new().ok(),
        }
    }

    /// Seals session tickets (RFC 8446 section 4.6.1), for all workers alike, by keys that never leave the process and
    /// are replaced every six hours.
    pub(crate) fn tickets(&self) -> Option<&Arc<dyn ProducesTickets>> {
        self.tickets.as_ref()
    }

    /// Adds or replaces an identity: a PEM chain, leaf first, and a PEM key.
    ///
    /// # Errors
    /// Which secret, and what is wrong with it. The old one stays.
    pub fn put_identity(&self, name: &SecretName, chain_pem: &[u8], key_pem: &[u8]) -> Result<Validity, SecretError> {
        let key = PrivateKey::from_pem(key_pem).map_err(|problem| refused(name, problem))?;
        self.put_identity_with_key(name, chain_pem, key)
    }

    /// Adds or replaces an identity whose key was made here (see [`crate::csr`]).
    ///
    /// # Errors
    /// Which secret, and what is wrong with it. The old one stays.
    pub fn put_identity_with_key(
        &self,
        name: &SecretName,
        chain_pem: &[u8],
        key: PrivateKey,
    ) -> Result<Validity, SecretError> {
        let identity =
            Identity::new(chain_pem, key, self.now(), &self.provider).map_err(|problem| refused(name, problem))?;
        let validity = identity.validity();
        let identity = Arc::new(identity);
        self.publish(|secrets| {
            secrets.trust.remove(name);
            secrets.identities.insert(name.clone(), identity.clone());
        });
        Ok(validity)
    }

    /// Adds or replaces a trust bundle: one or more PEM certificates.
    ///
    /// # Errors
    /// Which secret, and what is wrong with it. The old one stays.
    pub fn put_trust(&self, name: &SecretName, roots_pem: &[u8]) -> Result<(), SecretError> {
        let bundle = Arc::new(TrustBundle::new(roots_pem).map_err(|problem| refused(name, problem))?);
        self.publish(|secrets| {
            secrets.identities.remove(name);
            let before = secrets.trust.insert(name.clone(), bundle.clone());
            if before.is_some_and(|before| !before.is_part_of(&bundle)) {
                secrets.removals = secrets.removals.saturating_add(1);
            }
        });
        Ok(())
    }

    /// Forgets a secret; handshakes that need it fail from now on.
    pub fn remove(&self, name: &SecretName) {
        self.publish(|secrets| {
            secrets.identities.remove(name);
            secrets.trust.remove(name);
        });
    }

    /// True if a secret of this name is there.
    pub fn contains(&self, name: &SecretName) -> bool {
        let secrets = self.current.load();
        secrets.identities.contains_key(name) || secrets.trust.contains_key(name)
    }

    /// Grows with each change.
    pub fn generation(&self) -> u64 {
        self.current.load().generation
    }

    /// Grows whenever a trust bundle loses a root.
    pub fn removals(&self) -> u64 {
        self.current.load().removals
    }

    /// Says that our own certificate is of another root of this bundle than before, since another one signs.
    pub fn note_move(&self, trust: &SecretName) {
        self.publish(|secrets| {
            secrets.moves = secrets.moves.saturating_add(1);
            secrets.moved = Some(trust.clone());
        });
    }

    /// How often that has happened, and last to whom this bundle judges.
    pub fn moves(&self) -> (u64, Option<SecretName>) {
        let secrets = self.current.load();
        (secrets.moves, secrets.moved.clone())
    }

    /// Tells one form of a trust bundle from another; `None` if there is none.
    pub fn trust_digest(&self, trust: &SecretName) -> Option<[u8; 32]> {
        Some(self.trust(trust)?.digest)
    }

    /// Whether an identity leads to the first root of a bundle: with the mesh's authority the one that signs now. `None`
    /// if either is not there.
    pub fn is_of_first_root(&self, identity: &SecretName, trust: &SecretName) -> Option<bool> {
        let (identity, trust) = (self.identity(identity)?, self.trust(trust)?);
        let first = trust.anchors.get(..1).unwrap_or_default();
        let now = unix_time(self.now());
        Some(leads_to(&self.provider, first, &identity.certified.cert, KeyUsage::client_auth(), now))
    }

    /// What the admin page `/certs` shows, in order of name.
    pub fn describe(&self) -> Vec<SecretDescription> {
        let secrets = self.current.load();
        let identities = secrets.identities.iter().map(|(name, identity)| SecretDescription {
            name: name.clone(),
            is_trust: false,
            certificates: identity.chain.clone(),
        });
        let trust = secrets.trust.iter().map(|(name, bundle)| SecretDescription {
            name: name.clone(),
            is_trust: true,
            certificates: bundle.roots.clone(),
        });
        let mut all: Vec<_> = identities.chain(trust).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Seconds since the Unix epoch. A clock that fails counts as the end of
    /// time: then nothing is valid.
    pub fn now(&self) -> i64 {
        let now = self.clock.current_time().map(|now| now.as_secs());
        now.and_then(|now| i64::try_from(now).ok()).unwrap_or(i64::MAX)
    }

    pub(crate) fn clock(&self) -> &Arc<dyn TimeProvider> {
        &self.clock
    }

    pub(crate) fn provider(&self) -> &Arc<CryptoProvider> {
        &self.provider
    }

    pub(crate) fn identity(&self, name: &SecretName) -> Option<Arc<Identity>> {
        self.current.load().identities.get(name).cloned()
    }

    pub(crate) fn trust(&self, name: &SecretName) -> Option<Arc<TrustBundle>> {
        self.current.load().trust.get(name).cloned()
    }

    fn publish(&self, change: impl Fn(&mut Secrets)) {
        self.current.rcu(|current| {
            let mut next = Secrets::clone(current);
            change(&mut next);
            next.generation = next.generation.saturating_add(1);
            next
        });
    }
}

impl fmt::Debug for SecretStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secrets = self.current.load();
        f.debug_struct("SecretStore")
            .field("generation", &secrets.generation)
            .field("identities", &secrets.identities.keys())
            .field("trust", &secrets.trust.keys())
            .finish()
    }
}

fn refused(name: &SecretName, problem: SecretProblem) -> SecretError {
    SecretError { name: name.clone(), problem }
}

#[cfg(test)]
mod tests;
