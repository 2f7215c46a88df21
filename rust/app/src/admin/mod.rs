//! The admin server: Envoy's paths and shapes, on the side runtime.
//!
//! Nothing here runs on a worker: a page reads counters and the last
//! snapshot, so that a scrape cannot slow a request.

mod clusters;
mod istio;
pub(crate) mod pages;
mod tap;

use std::convert::Infallible;
use std::fs::File;
use std::sync::Arc;

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderValue, CONTENT_TYPE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::net::TcpListener;

use crate::state::State;

type Page = BoxBody<Bytes, Infallible>;

const TEXT: &str = "text/plain; charset=UTF-8";
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Descriptors kept for these pages: whoever has used up all others must not hide what is going on.
const RESERVED: usize = 4;

/// Serves until the runtime ends.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>) {
    let mut reserve: Vec<File> = Vec::new();
    loop {
        while reserve.len() < RESERVED {
            let Ok(file) = File::open("/dev/null") else { break };
            reserve.push(file);
        }
        let mut accepted = listener.accept().await;
        if accepted.is_err() && reserve.pop().is_some() {
            accepted = listener.accept().await;
        }
        let Ok((stream, _)) = accepted else {
            // Out of descriptors: the page can wait, spinning cannot help.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let state = state.clone();
        tokio::task::spawn_local(async move {
            let service = hyper::service::service_fn(move |request| {
                let response = answer(&request, &state);
                async move { Ok::<_, Infallible>(response) }
            });
            let io = hyper_util::rt::TokioIo::new(stream);
            // A client that goes away in the middle of a page is its own affair.
            let _gone = hyper::server::conn::http1::Builder::new().serve_connection(io, service).await;
        });
    }
}

fn answer(request: &Request<Incoming>, state: &State) -> Response<Page> {
    let query = request.uri().query().unwrap_or_default();
    let is_json = query.split('&').any(|pair| pair == "format=json");
    let changes = request.method() == Method::POST;
    let process = state.process();
    match request.uri().path() {
        "/" | "/help" => page(TEXT, HELP.to_owned()),
        "/ready" => match state.is_live() {
            true => page(TEXT, "LIVE\n".to_owned()),
            false => error(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", state.phase())),
        },
        "/stats" if query.contains("format=prometheus") => page(PROMETHEUS, prometheus(state, &process)),
        "/stats" => page(TEXT, pages::stats(&state.hub, &state.gauges(), &process)),
        "/stats/prometheus" => page(PROMETHEUS, prometheus(state, &process)),
        "/clusters" if is_json => page(JSON, clusters::json(&state.snapshot(), &state.commons)),
        "/clusters" => page(TEXT, clusters::text(&state.snapshot(), &state.commons)),
        "/listeners" if is_json => page(JSON, pages::listeners_json(&state.snapshot())),
        "/listeners" => page(TEXT, pages::listeners(&state.snapshot())),
        "/certs" => page(JSON, pages::certs(&state.secrets)),
        "/config_dump" => page(JSON, state.config_dump()),
        "/config_sync" => page(JSON, state.config_sync()),
        "/tap" => watch(state),
        "/server_info" => page(JSON, state.server_info()),
        "/drain_listeners" | "/quitquitquit" if !changes => {
            error(StatusCode::METHOD_NOT_ALLOWED, "this page changes things: use POST\n".to_owned())
        }
        "/drain_listeners" => {
            state.drain();
            state.shared.close_listeners(&[]);
            page(TEXT, "OK\n".to_owned())
        }
        "/quitquitquit" => {
            state.quit();
            page(TEXT, "OK\n".to_owned())
        }
        path => error(StatusCode::NOT_FOUND, format!("there is no admin page `{path}`\n{HELP}")),
    }
}

fn watch(state: &State) -> Response<Page> {
    let (told, lines) = tap::open();
    if !state.shared.watch(Box::new(told)) {
        return error(StatusCode::SERVICE_UNAVAILABLE, "too many look at requests already\n".to_owned());
    }
    let mut response = Response::new(lines.boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(LINES));
    response
}

fn prometheus(state: &State, process: &[(String, u64)]) -> String {
    pages::prometheus(&state.hub, &state.gauges(), &state.shards, process)
}

fn page(content_type: &'static str, body: String) -> Response<Page> {
    let mut response = Response::new(Full::new(Bytes::from(body)).boxed());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn error(status: StatusCode, body: String) -> Response<Page> {
    let mut response = page(TEXT, body);
    *response.status_mut() = status;
    response
}

const HELP: &str = "admin pages:
  /ready               200 when the first configuration is in force
  /stats               counters; /stats/prometheus for Prometheus
  /clusters            clusters and endpoints
  /listeners           listeners; ?format=json
  /certs               certificates, without keys
  /config_dump         accepted and rejected configuration
  /config_sync         what was taken from the control plane, and which workers run it
  /tap                 requests as they are answered, a line of JSON each
  /server_info         version, state, uptime
  /drain_listeners     POST: end connections in order
  /quitquitquit        POST: stop
";
