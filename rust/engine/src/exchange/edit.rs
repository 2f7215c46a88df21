//! Header operations of routes.
//!
//! In Envoy's order: the chosen weighted cluster, the route, the virtual host,
//! the table; turned around if the most specific is to win. Within each level
//! removals come first. Then every addition is looked at as the headers are
//! now (its value, and whether its name is there), and only after the last of
//! them headers change: what is overwritten, then what is added.

use pymesh_http::Headers;
use pymesh_model::route::{AppendAction, HeaderAdd, HeaderEdit, HeaderOps};

use super::{Exchange, ExchangeKey, Routed};
use crate::engine::Engine;

/// The two sides on which headers are edited.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Response,
}

impl Engine {
    pub(super) fn edit_request_headers(&mut self, exchange: &mut Exchange) {
        self.edit(exchange, Side::Request);
    }

    /// Header operations of the route on the response.
    pub(super) fn edit_response_headers(&mut self, key: ExchangeKey) {
        let Some(mut exchange) = self.exchanges.lend(key) else { return };
        self.edit(&mut exchange, Side::Response);
        self.exchanges.give_back(key, exchange);
    }

    fn edit(&mut self, exchange: &mut Exchange, side: Side) {
        // A handle of its own, while the exchange changes; most routes have nothing to say.
        let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.edits(side)).cloned() else { return };
        let mut levels = routed.levels();
        // As Envoy: what the less specific levels say of the host is about this one, and the route's own rewrite
        // comes later and wins; only that one tells the old host.
        let share = routed.share();
        let host = share.and_then(|cluster| cluster.host_rewrite.as_deref()).filter(|_| side == Side::Request);
        if let Some(host) = host.filter(|_| !routed.table.most_specific_wins) {
            if let Some(ops) = levels.first_mut().and_then(Option::take) {
                self.apply_edit(exchange, &ops.request, side);
            }
            exchange.request.set_authority(host.as_bytes());
        }
        if routed.table.most_specific_wins {
            levels.reverse();
        }
        for ops in levels.into_iter().flatten() {
            let edit = on(ops, side);
            if !edit.is_empty() {
                self.apply_edit(exchange, edit, side);
            }
        }
        if let Some(host) = host.filter(|_| routed.table.most_specific_wins) {
            exchange.request.set_authority(host.as_bytes());
        }
    }

    /// What a filter says of a request's headers.
    pub(crate) fn edit_request(&mut self, exchange: &mut Exchange, edit: &HeaderEdit) {
        self.apply_edit(exchange, edit, Side::Request);
    }

    /// What a filter says of a response's headers.
    pub(crate) fn edit_response(&mut self, exchange: &mut Exchange, edit: &HeaderEdit) {
        self.apply_edit(exchange, edit, Side::Response);
    }

    fn apply_edit(&mut self, exchange: &mut Exchange, edit: &HeaderEdit, side: Side) {
        for name in &edit.remove {
            headers_of(exchange, side).remove(name.as_bytes());
        }
        let mut values = std::mem::take(&mut self.text);
        let mut due = std::mem::take(&mut self.edits);
        values.clear();
        due.clear();
        for (index, add) in edit.add.iter().enumerate() {
            let begin = values.len();
            self.render_value(exchange, add, &mut values);
            let exists = headers_of(exchange, side).get(add.name.as_bytes()).is_some();
            if (values.len() > begin || add.keep_empty) && !is_void(add.action, exists) {
                due.push(Due { index, begin, end: values.len() });
            }
        }
        for overwriting in [true, false] {
            for one in &due {
                let (Some(add), Some(value)) = (edit.add.get(one.index), values.get(one.begin..one.end)) else {
                    continue;
                };
                if overwrites(add.action) != overwriting
                    || side == Side::Request && set_pseudo(exchange, &add.name, value)
                {
                    continue;
                }
                let headers = headers_of(exchange, side);
                match overwriting {
                    true => headers.set(add.name.as_bytes(), value),
                    false => headers.append(add.name.as_bytes(), value),
                }
            }
        }
        self.text = values;
        self.edits = due;
    }

    /// The headers that are to be added, with their values; those that are empty are left out.
    pub(crate) fn rendered(&self, exchange: &Exchange, edit: &HeaderEdit) -> Vec<(Vec<u8>, Vec<u8>)> {
        let render = |add: &HeaderAdd| {
            let mut value = Vec::new();
            self.render_value(exchange, add, &mut value);
            (!value.is_empty() || add.keep_empty).then(|| (add.name.as_bytes().to_vec(), value))
        };
        edit.add.iter().filter_map(render).collect()
    }

    /// Puts what is to be added behind `values`.
    pub(super) fn render_value(&self, exchange: &Exchange, add: &HeaderAdd, values: &mut Vec<u8>) {
        let begin = values.len();
        match add.value.as_literal() {
            Some(text) => values.extend_from_slice(text.as_bytes()),
            None => {
                if let Some(facts) = &exchange.facts {
                    self.telemetry.view(exchange, facts, self.now).render(&add.value, "", values);
                }
                // A client's value must not start a field of its own.
                let mut at = 0;
                values.retain(|byte| {
                    at += 1;
                    at <= begin || !matches!(byte, b'\r' | b'\n' | 0)
                });
            }
        }
    }
}

impl Routed {
    /// What its levels say of headers, the most specific first.
    fn levels(&self) -> [Option<&HeaderOps>; 4] {
        let virtual_host = self.table.virtual_hosts.get(self.virtual_host);
        [
            self.share().map(|share| &share.headers),
            Some(&self.route.headers),
            virtual_host.map(|host| &host.headers),
            Some(&self.table.headers),
        ]
    }

    /// Whether any of them has something to say.
    fn edits(&self, side: Side) -> bool {
        self.share().is_some_and(|share| share.host_rewrite.is_some())
            || self.levels().into_iter().flatten().any(|ops| !on(ops, side).is_empty())
    }
}

fn on(ops: &HeaderOps, side: Side) -> &HeaderEdit {
    match side {
        Side::Request => &ops.request,
        Side::Response => &ops.response,
    }
}

/// An addition that is to be carried out, and where its value stands.
#[derive(Debug)]
pub(crate) struct Due {
    index: usize,
    begin: usize,
    end: usize,
}

/// Carries out one addition.
pub(crate) fn add_field(headers: &mut Headers, action: AppendAction, name: &[u8], value: &[u8]) {
    match overwrites(action) {
        _ if is_void(action, headers.get(name).is_some()) => {}
        true => headers.set(name, value),
        false => headers.append(name, value),
    }
}

fn overwrites(action: AppendAction) -> bool {
    matches!(action, AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists)
}

/// Nothing comes of it where the name is there, or is not.
fn is_void(action: AppendAction, exists: bool) -> bool {
    matches!((action, exists), (AppendAction::AddIfAbsent, true) | (AppendAction::OverwriteIfExists, false))
}

fn headers_of(exchange: &mut Exchange, side: Side) -> &mut Headers {
    match side {
        Side::Request => &mut exchange.request.headers,
        Side::Response => &mut exchange.response.headers,
    }
}

fn set_pseudo(exchange: &mut Exchange, name: &str, value: &[u8]) -> bool {
    match name {
        ":authority" | "host" => exchange.request.set_authority(value),
        ":path" if value.first() == Some(&b'/') => exchange.request.set_path(value),
        ":path" => {}
        _ => return false,
    }
    true
}

/// Carries out one addition at once.
pub(super) fn add(headers: &mut Headers, add: &HeaderAdd, value: &[u8]) {
    let name = add.name.as_bytes();
    match overwrites(add.action) {
        _ if is_void(add.action, headers.get(name).is_some()) => {}
        true => headers.set(name, value),
        false => headers.append(name, value),
    }
}
