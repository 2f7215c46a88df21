//! Tokens that were good, so that nobody has to verify them again (`jwt_cache_config`).
//!
//! A token is known together with the keys that have verified it: when those change, it has to be verified again. (In
//! Envoy it is good until it expires, although its key may have been taken back.) When it was issued and for whom is
//! judged each time.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use pymesh_jwt::{Jwks, Token};
use pymesh_model::filter::JwtCache;

/// One worker's tokens of a provider. Of too many, that which nobody has brought for longest goes.
pub(super) struct Cache {
    config: JwtCache,
    // Each worker has its own: nobody waits.
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<Arc<[u8]>, Entry>,
    by_use: BTreeMap<u64, Arc<[u8]>>,
    uses: u64,
}

struct Entry {
    token: Arc<Token>,
    keys: Arc<Jwks>,
    used: u64,
}

impl Cache {
    pub fn new(config: JwtCache) -> Cache {
        Cache { config, known: Mutex::default() }
    }

    /// A token that these keys have verified.
    pub fn find(&self, text: &[u8], keys: Option<&Arc<Jwks>>) -> Option<Arc<Token>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        let entry = known.tokens.get_mut(text)?;
        known.uses += 1;
        let name = known.by_use.remove(&entry.used)?;
        if keys.is_none_or(|keys| !Arc::ptr_eq(keys, &entry.keys)) {
            known.tokens.remove(text);
            return None;
        }
        entry.used = known.uses;
        known.by_use.insert(known.uses, name);
        Some(entry.token.clone())
    }

    /// It expires, or is no longer good.
    pub fn forget(&self, text: &[u8]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = known.tokens.remove(text) {
            known.by_use.remove(&entry.used);
        }
    }

    pub fn keep(&self, text: &[u8], token: &Arc<Token>, keys: &Arc<Jwks>) {
        if text.len() > self.config.longest {
            return;
        }
        self.forget(text);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = &mut *known;
        if known.tokens.len() >= self.config.tokens {
            if let Some((_, oldest)) = known.by_use.pop_first() {
                known.tokens.remove(&oldest);
            }
        }
        known.uses += 1;
        let name: Arc<[u8]> = text.into();
        known.by_use.insert(known.uses, name.clone());
        known.tokens.insert(name, Entry { token: token.clone(), keys: keys.clone(), used: known.uses });
    }
}

#[cfg(test)]
mod tests {
    use pymesh_jwt::testing::Signer;
    use pymesh_jwt::Algorithm;

    use super::*;

    #[test]
    fn the_oldest_goes_and_new_keys_count() {
        let signer = Signer::new(Algorithm::Hs256);
        let keys = |text: &str| Arc::new(Jwks::parse(text.as_bytes()).unwrap());
        let (old, new) = (keys(&signer.jwks("")), keys(&signer.jwks("")));
        let token = Arc::new(Token::parse(signer.token("", "{}").as_bytes()).unwrap());
        let cache = Cache::new(JwtCache { tokens: 2, longest: 3 });
        for text in [b"one", b"two"] {
            cache.keep(text, &token, &old);
        }
        assert!(cache.find(b"one", Some(&old)).is_some());
        cache.keep(b"six", &token, &old);
        cache.keep(b"seven", &token, &old);
        let known = |text: &[u8], keys| cache.find(text, Some(keys)).is_some();
        assert_eq!([known(b"one", &old), known(b"two", &old), known(b"six", &old)], [true, false, true]);
        assert!(!known(b"seven", &old), "too long");
        assert!(!known(b"one", &new), "other keys may not have verified it");
        assert!(!known(b"one", &old), "and it is forgotten");
        cache.forget(b"six");
        assert!(!known(b"six", &old));
        let left = cache.known.lock().unwrap();
        assert!(left.tokens.is_empty() && left.by_use.is_empty());
    }
}
