//! Requests as they are answered, for whoever looks at the moment.
//!
//! A tap is one more access log, which workers write only while somebody
//! watches: each looks at one flag per turn. Lines take the way of all lines,
//! to the log's thread, and from there to the watchers; who does not keep up
//! loses lines, which he counts himself, and holds up nobody.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pymesh_model::format::{AccessLog, LogFormat, LogOutput, LogSink, Template};

/// Who may watch at once.
const MOST_WATCHERS: usize = 16;

/// What is told of a request: names of JSON, and operators of access logs.
const FIELDS: [(&str, &str); 21] = [
    ("start_time", "%START_TIME%"),
    ("method", "%REQ(:METHOD)%"),
    ("authority", "%REQ(:AUTHORITY)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("grpc_status", "%TRAILER(GRPC-STATUS)%"),
    ("duration", "%DURATION%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    ("route_name", "%ROUTE_NAME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_peer", "%DOWNSTREAM_PEER_URI_SAN%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
];

/// Somebody who looks.
pub trait Watcher: Send {
    /// Takes lines, each a JSON object; never waits.
    fn tell(&mut self, lines: &[u8]);

    /// True if he does not look any more.
    fn is_gone(&self) -> bool;
}

/// See the module. One for a process.
pub struct Tap {
    log: Arc<AccessLog>,
    /// There are watchers.
    is_on: AtomicBool,
    watchers: Mutex<Vec<Box<dyn Watcher>>>,
}

impl Default for Tap {
    fn default() -> Self {
        let parsed = FIELDS.iter().filter_map(|(name, text)| Some(((*name).into(), Template::parse(text).ok()?)));
        let log = AccessLog { output: LogOutput::Lines(LogSink::Tap, LogFormat::Json(parsed.collect())), filter: None };
        Tap { log: Arc::new(log), is_on: AtomicBool::new(false), watchers: Mutex::default() }
    }
}

impl Tap {
    /// Tells one more watcher from now on, unless there are too many.
    #[must_use]
    pub(crate) fn add(&self, watcher: Box<dyn Watcher>) -> bool {
        let mut watchers = self.watchers();
        watchers.retain(|one| !one.is_gone());
        let is_free = watchers.len() < MOST_WATCHERS;
        if is_free {
            watchers.push(watcher);
            self.is_on.store(true, Ordering::Release);
        }
        is_free
    }

    /// What workers write, while somebody watches.
    pub(crate) fn log(&self) -> Option<&Arc<AccessLog>> {
        self.is_on.load(Ordering::Acquire).then_some(&self.log)
    }

    /// Hands lines to the watchers. Without any the tap closes.
    pub(crate) fn tell(&self, lines: &[u8]) {
        let mut watchers = self.watchers();
        watchers.retain(|one| !one.is_gone());
        watchers.iter_mut().for_each(|one| one.tell(lines));
        if watchers.is_empty() {
            self.is_on.store(false, Ordering::Release);
        }
    }

    fn watchers(&self) -> MutexGuard<'_, Vec<Box<dyn Watcher>>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Kept(Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>);

    impl Watcher for Kept {
        fn tell(&mut self, lines: &[u8]) {
            self.0.lock().unwrap().extend_from_slice(lines);
        }

        fn is_gone(&self) -> bool {
            self.1.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn is_open_for_as_long_as_somebody_watches() {
        let tap = Tap::default();
        assert!(tap.log().is_none());
        let (heard, gone): (Arc<Mutex<Vec<u8>>>, Arc<AtomicBool>) = Default::default();
        assert!(tap.add(Box::new(Kept(heard.clone(), gone.clone()))));
        assert!(tap.log().is_some());
        tap.tell(b"a");
        gone.store(true, Ordering::Relaxed);
        tap.tell(b"b");
        assert_eq!(*heard.lock().unwrap(), b"a");
        assert!(tap.log().is_none());
    }

    #[test]
    fn the_number_of_watchers_is_bounded_and_those_that_are_gone_make_room() {
        let tap = Tap::default();
        let gone: Arc<AtomicBool> = Arc::default();
        for _ in 0..MOST_WATCHERS {
            assert!(tap.add(Box::new(Kept(Arc::default(), gone.clone()))));
        }
        assert!(!tap.add(Box::new(Kept(Arc::default(), Arc::default()))));
        gone.store(true, Ordering::Relaxed);
        assert!(tap.add(Box::new(Kept(Arc::default(), Arc::default()))));
    }

    #[test]
    fn every_field_is_an_operator() {
        let tap = Tap::default();
        let LogOutput::Lines(_, LogFormat::Json(fields)) = &tap.log.output else { panic!("no JSON") };
        assert_eq!(fields.len(), FIELDS.len());
    }
}
