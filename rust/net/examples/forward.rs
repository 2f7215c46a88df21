//! A proxy with one listener and one cluster, configured by its arguments:
//! `forward LISTEN UPSTREAM [h2]`. The smallest program around the engine, for
//! profiles of the data path alone.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pymesh_engine::base::time::WallClock;
use pymesh_engine::telemetry::stats::Hub;
use pymesh_engine::Options;
use pymesh_model::cluster::UpstreamProtocol;
use pymesh_model::listener::NetworkFilter;
use pymesh_model::route::Action;
use pymesh_model::{testing, Snapshot};
use pymesh_net::{LogWriter, NoFilters, Shared, Worker, WorkerOptions};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, listen, upstream, rest @ ..] = args.as_slice() else {
        return Err("usage: forward LISTEN UPSTREAM [h2]".into());
    };
    let snapshot = snapshot(listen.parse()?, upstream.parse()?, rest.iter().any(|arg| arg == "h2"));
    let shared = Arc::new(Shared::new(1));
    if let Some(error) = shared.publish(&Arc::new(snapshot)).pop() {
        return Err(error.into());
    }
    let hub = Arc::<Hub>::default();
    let log = LogWriter::start(shared.tap().clone(), &hub, 1)?;
    let engine = Options {
        worker: 0,
        seed: 1,
        clock: WallClock::default(),
        overload: Arc::default(),
        commons: Arc::default(),
        stream_buffer: 256 * 1024,
        drain_time: Duration::from_secs(30),
        hub,
        shard: Arc::default(),
        secrets: Arc::new(pymesh_tls::SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider))),
    };
    let options = WorkerOptions { worker: 0, engine, origin: Instant::now(), log: log.handle() };
    Ok(Worker::new(options, shared, NoFilters)?.run()?)
}

fn snapshot(listen: std::net::SocketAddr, upstream: std::net::SocketAddr, http2: bool) -> Snapshot {
    let route = testing::route("/", Action::Forward(Arc::new(testing::forward("origin"))));
    let manager = testing::http("ingress", testing::routes([route]));
    let chain = testing::filter_chain(NetworkFilter::Http(Arc::new(manager)));
    let mut cluster = testing::cluster("origin", [upstream]);
    if http2 {
        cluster.http.protocol = UpstreamProtocol::Http2;
    }
    testing::snapshot([testing::listener("in", listen, chain)], [cluster])
}
