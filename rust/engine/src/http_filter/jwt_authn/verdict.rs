//! Whether a request has the tokens that are required of it.

use std::sync::Arc;

use pymesh_http::RequestHead;
use pymesh_jwt::{Failure, Token};
use pymesh_model::filter::{Audiences, JwtRequirement};
use pymesh_model::metadata::{Struct, Value};

use super::changes::Changes;
use super::locations::Located;
use super::provider::Provider;
use super::{Awaited, JwtFilter};
use crate::base::time::Time;
use crate::jwks::RemoteKeys;

/// What a requirement comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Good,
    Failed(Failure),
    /// Keys are needed first.
    Pending,
}

/// One judgement of a request, with everything that follows from it.
pub(super) struct Judge<'a> {
    filter: &'a JwtFilter,
    awaited: &'a Awaited,
    now: Time,
    /// In seconds since 1970.
    unix: u64,
    pub changes: Changes<'a>,
    /// What filters behind are told.
    pub found: Vec<(Box<str>, Struct)>,
    /// Keys that are missing.
    pub wanted: Vec<Arc<RemoteKeys>>,
    pub cache_hits: u64,
    pub cache_misses: u64,
}

/// Which tokens a requirement means.
#[derive(Clone, Copy)]
enum Meant<'a> {
    /// This provider's, for these or its own audiences.
    Of(usize, &'a Audiences),
    /// Whosever.
    Any { may_fail: bool },
}

impl<'a> Judge<'a> {
    pub fn new(
        filter: &'a JwtFilter,
        request: &'a RequestHead,
        awaited: &'a Awaited,
        now: Time,
        unix: u64,
    ) -> Judge<'a> {
        Judge {
            filter,
            awaited,
            now,
            unix,
            changes: Changes::of(request),
            found: Vec::new(),
            wanted: Vec::new(),
            cache_hits: 0,
            cache_misses: 0,
        }
    }

    pub fn judge(&mut self, requirement: &'a JwtRequirement) -> Verdict {
        match requirement {
            JwtRequirement::Nothing => Verdict::Good,
            JwtRequirement::Provider(provider, audiences) => self.tokens(Meant::Of(*provider, audiences)),
            JwtRequirement::AllowMissing => self.tokens(Meant::Any { may_fail: false }),
            JwtRequirement::AllowMissingOrFailed => self.tokens(Meant::Any { may_fail: true }),
            JwtRequirement::Any(some) => self.any(some),
            JwtRequirement::All(all) => self.all(all),
        }
    }

    /// The first that is good is enough. What may be missing, or may fail, is no requirement of its own here: it says
    /// what becomes of the failures of the others.
    fn any(&mut self, some: &'a [JwtRequirement]) -> Verdict {
        let is_lax =
            |one: &&JwtRequirement| matches!(one, JwtRequirement::AllowMissing | JwtRequirement::AllowMissingOrFailed);
        let may_fail = some.iter().any(|one| matches!(one, JwtRequirement::AllowMissingOrFailed));
        let may_miss = some.iter().any(|one| matches!(one, JwtRequirement::AllowMissing));
        if some.iter().all(|one| is_lax(&one)) {
            return self.tokens(Meant::Any { may_fail });
        }
        let (mut failure, mut is_pending) = (Failure::Missing, false);
        for one in some.iter().filter(|one| !is_lax(one)) {
            match self.judge(one) {
                Verdict::Good => return Verdict::Good,
                Verdict::Pending => is_pending = true,
                // A token that is not there, or somebody else's, says least.
                Verdict::Failed(found) => {
                    let says_little = matches!(found, Failure::Missing | Failure::UnknownIssuer);
                    if !says_little || failure == Failure::Missing {
                        failure = found;
                    }
                }
            }
        }
        match failure {
            _ if is_pending => Verdict::Pending,
            _ if may_fail => Verdict::Good,
            Failure::Missing if may_miss => Verdict::Good,
            failure => Verdict::Failed(failure),
        }
    }

    fn all(&mut self, all: &'a [JwtRequirement]) -> Verdict {
        let mut verdict = Verdict::Good;
        for one in all {
            match self.judge(one) {
                Verdict::Good => {}
                Verdict::Pending => verdict = Verdict::Pending,
                failed => return failed,
            }
        }
        verdict
    }

    fn tokens(&mut self, meant: Meant<'a>) -> Verdict {
        let filter = self.filter;
        let locations = match meant {
            Meant::Of(provider, _) => match filter.providers.get(provider) {
                Some(provider) => &provider.locations,
                None => return Verdict::Failed(Failure::UnknownIssuer),
            },
            Meant::Any { .. } => &filter.anywhere,
        };
        for name in locations.promised() {
            self.changes.remove(name.as_bytes());
        }
        let mut tokens = locations.find(&self.changes);
        if tokens.is_empty() {
            return match meant {
                Meant::Of(..) => Verdict::Failed(Failure::Missing),
                Meant::Any { .. } => Verdict::Good,
            };
        }
        // Whose the last one was.
        let mut provider = match (meant, filter.providers.as_slice()) {
            (Meant::Of(provider, _), providers) => providers.get(provider),
            (Meant::Any { .. }, [only]) => Some(only),
            _ => None,
        };
        // As in Envoy, last first.
        while let Some(token) = tokens.pop() {
            match self.token(&token, meant, &mut provider) {
                Ok(true) => {}
                Ok(false) => return Verdict::Pending,
                Err(failure) => {
                    self.tell_failure(provider, failure);
                    if !matches!(meant, Meant::Any { may_fail: true }) {
                        return Verdict::Failed(failure);
                    }
                }
            }
        }
        Verdict::Good
    }

    fn tell_failure(&mut self, provider: Option<&Provider>, failure: Failure) {
        let Some(provider) = provider.filter(|provider| !provider.config.failure_in_metadata.is_empty()) else {
            return;
        };
        let fields =
            [("code".into(), Value::Number(failure.code().into())), ("message".into(), Value::from(failure.text()))];
        self.found.push((provider.config.failure_in_metadata.clone(), fields.into_iter().collect()));
    }

    /// True if it is good, false if keys are needed to say so. `judge` is its provider, once that is known.
    fn token(
        &mut self,
        located: &Located<'_>,
        meant: Meant<'a>,
        judge: &mut Option<&'a Provider>,
    ) -> Result<bool, Failure> {
        let filter = self.filter;
        let named = match meant {
            Meant::Of(provider, _) => filter.providers.get(provider),
            Meant::Any { .. } => None,
        };
        let cached = named.and_then(|provider| self.cached(provider, &located.text));
        let is_cached = cached.is_some();
        if named.is_some() {
            match is_cached {
                true => self.cache_hits += 1,
                false => self.cache_misses += 1,
            }
        }
        let token = match cached {
            Some(token) => token,
            None => Arc::new(Token::parse(&located.text)?),
        };
        if !located.allows(token.issuer()) {
            return Err(Failure::UnknownIssuer);
        }
        let provider = named.or_else(|| issued_by(filter, token.issuer())).ok_or(Failure::UnknownIssuer)?;
        *judge = Some(provider);
        token.check_time(self.unix, provider.config.clock_skew)?;
        let audiences = match meant {
            Meant::Of(_, audiences) if !audiences.is_empty() => audiences,
            _ => &provider.config.audiences,
        };
        if !audiences.allow(token.audiences()) {
            return Err(Failure::AudienceNotAllowed);
        }
        provider.check_claims(&token, self.unix)?;
        if !is_cached {
            let Some(keys) = provider.keys(self.now) else {
                let Some(remote) = provider.remote() else { return Err(Failure::JwksNoValidKeys) };
                return self.want(remote);
            };
            keys.verify(&token)?;
            if let (Some(_), Some(cache)) = (named, &provider.cache) {
                cache.keep(&located.text, &token, &keys);
            }
        }
        provider.tell(&token, &mut self.changes, &mut self.found);
        if !provider.config.forward {
            located.take(&mut self.changes);
        }
        Ok(true)
    }

    /// A token that was good and has not expired.
    fn cached(&self, provider: &Provider, text: &[u8]) -> Option<Arc<Token>> {
        let cache = provider.cache.as_ref()?;
        let token = cache.find(text, provider.keys(self.now).as_ref())?;
        if token.check_time(self.unix, provider.config.clock_skew) == Err(Failure::Expired) {
            cache.forget(text);
            return None;
        }
        Some(token)
    }

    /// Keys that are not there: who has waited for them in vain is refused.
    fn want(&mut self, keys: &Arc<RemoteKeys>) -> Result<bool, Failure> {
        let awaited = self.awaited.0.iter().find(|(known, _)| Arc::ptr_eq(known, keys));
        if awaited.is_some_and(|(keys, number)| keys.has_ended(*number, self.now)) {
            return Err(Failure::JwksFetchFails);
        }
        if !self.wanted.iter().any(|known| Arc::ptr_eq(known, keys)) {
            self.wanted.push(keys.clone());
        }
        Ok(false)
    }
}

/// Whose token it is: the first provider of its issuer, or else of any.
fn issued_by<'a>(filter: &'a JwtFilter, issuer: &str) -> Option<&'a Provider> {
    let of = |issuer: &str| filter.providers.iter().find(|provider| *provider.config.issuer == *issuer);
    of(issuer).or_else(|| of(""))
}
