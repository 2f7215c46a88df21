//! Filters in Python's place that see every body as it streams, and cut it anew: each piece keeps its last octets for
//! the next. Some calls are answered at once, others after the engine has gone on. What arrives must be what was sent.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use pymesh_engine::filter::{Change, FilterCall, Gate, Heads, Hook, Kept, Outcome};
use pymesh_engine::Engine;
use pymesh_model::filter::{FailurePolicy, FilterId, FilterKind, HttpFilter, PythonFilter};

use super::chance::Chance;

const NAMES: [&str; 2] = ["one", "two"];
const HOOKS: [Hook; 7] = [
    Hook::RequestHeaders,
    Hook::RequestChunk,
    Hook::RequestTrailers,
    Hook::ResponseHeaders,
    Hook::ResponseChunk,
    Hook::ResponseTrailers,
    Hook::Log,
];

/// What a filter keeps back of a body, and whether it was told the end.
type Rest = (Vec<u8>, bool);

/// Of each filter, of the request and of the response.
#[derive(Default)]
struct Rests(Mutex<[[Rest; 2]; NAMES.len()]>);

/// The filters of a connection manager.
pub fn chain() -> Vec<Arc<HttpFilter>> {
    let filter = |name: &str| PythonFilter {
        class: name.into(),
        source: "".into(),
        config_json: "{}".into(),
        failure_policy: FailurePolicy::Closed,
        timeout: Duration::ZERO,
    };
    let link = |name: &&str| HttpFilter {
        name: (*name).into(),
        id: FilterId::of(name),
        disabled: false,
        kind: FilterKind::Python(Arc::new(filter(name))),
    };
    NAMES.iter().map(link).map(Arc::new).collect()
}

/// Who calls them.
#[derive(Default)]
pub struct Host {
    away: Vec<(FilterCall, Heads)>,
    pub logged: usize,
}

impl Host {
    pub fn load(engine: &mut Engine) {
        let gate = Gate { hooks: HOOKS.into_iter().collect(), ..Gate::default() };
        let gates = engine.python_filters().into_iter().map(|filter| (filter, Ok(gate.clone()))).collect();
        engine.set_filter_gates(gates);
    }

    /// Makes the calls of a turn. True if there were some, or some are to be answered yet.
    pub fn call(&mut self, engine: &mut Engine, chance: &mut Chance) -> bool {
        let mut logs = Vec::new();
        engine.take_log_calls(&mut logs);
        self.logged += logs.len();
        let before = std::mem::take(&mut self.away);
        let mut calls = Vec::new();
        engine.take_filter_calls(&mut calls);
        let has_some = !before.is_empty() || !calls.is_empty();
        for (call, heads) in before {
            answer(engine, &call, heads);
        }
        for call in calls {
            let Some(heads) = engine.lend_heads(&call) else { continue };
            // Heads that are lent are missing to everybody else, as they are not to a host that answers later.
            match call.hook.is_stream() && chance.one_in(3) {
                true => self.away.push((call, heads)),
                false => answer(engine, &call, heads),
            }
        }
        has_some
    }
}

fn answer(engine: &mut Engine, call: &FilterCall, mut heads: Heads) {
    let rests = match heads.kept.0.clone().and_then(|kept| kept.downcast::<Rests>().ok()) {
        Some(rests) => rests,
        None => {
            let rests = Arc::new(Rests::default());
            heads.kept = Kept(Some(rests.clone()));
            rests
        }
    };
    let outcome = match call.hook {
        Hook::RequestChunk | Hook::ResponseChunk => {
            let at = NAMES.iter().position(|name| **name == *call.filter.class).unwrap();
            let (rest, ended) = &mut rests.0.lock().unwrap()[at][usize::from(!call.hook.is_request())];
            assert!(!*ended, "the end was told");
            *ended = heads.end;
            rest.extend_from_slice(heads.body.as_slice());
            let passes = if heads.end { rest.len() } else { rest.len().saturating_sub(7) };
            let piece: Vec<u8> = rest.drain(..passes).collect();
            Outcome::Continue { changed: Change::Nothing, body: Some(piece) }
        }
        _ => Outcome::PASS,
    };
    engine.finish_filter(call, heads, outcome);
}
