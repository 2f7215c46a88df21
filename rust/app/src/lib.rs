//! Composition: from a bootstrap file to running workers, and to an orderly end.
//!
//! Threads and what they own:
//!
//! | thread | runs |
//! |---|---|
//! | `worker-N` | one epoll loop, one engine, its sockets |
//! | `access-log` | writes log lines |
//! | the caller's | side runtime (tokio, one thread): xDS client, certificates, DNS, admin, signals |
//!
//! Nothing on the side runtime can hold up a worker: they meet at
//! [`pymesh_net::Shared`], which a worker looks at once per turn.
#![forbid(unsafe_code)]

mod admin;
mod gauge;
mod lifecycle;
mod pressure;
pub mod simulated;
mod state;
mod supervisor;
mod upgrade;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use pymesh_engine::base::time::WallClock;
use pymesh_engine::overload::Overload;
use pymesh_engine::shared::Commons;
use pymesh_engine::telemetry::istio::Shard;
use pymesh_engine::telemetry::stats::Hub;
use pymesh_model::cluster::Cluster;
use pymesh_model::filter::PythonFilter;
use pymesh_net::{FilterHost, LogWriter, Shared, Worker, WorkerOptions};
use pymesh_tls::SecretStore;
use pymesh_xds::CountFilter;
pub use pymesh_xds::Loaded;

use lifecycle::Lifecycle;
use pressure::Pressure;
use state::State;

/// How the proxy is run, beside its bootstrap.
#[derive(Clone, Debug)]
pub struct Options {
    /// Envoy v3 bootstrap, YAML or JSON.
    pub config: PathBuf,
    /// Workers; `None`: as many as the process may use cores.
    pub concurrency: Option<usize>,
    /// How long connections may take to end after SIGTERM.
    pub drain_time: Duration,
    /// How long of that time new connections are still taken.
    pub drain_accept_time: Duration,
    /// How long the connections of a relieved predecessor may take to end.
    pub parent_shutdown_time: Duration,
    /// Where the running process is asked for its sockets, and where we are asked for ours.
    pub upgrade_socket: Option<PathBuf>,
    /// Where the process id is written once we serve.
    pub pid_file: Option<PathBuf>,
    /// What is found of hooks that do not return.
    pub filter_watch: Arc<FilterWatch>,
}

/// Hooks of filters that do not return, as whoever watches them has found it.
#[derive(Debug, Default)]
pub struct FilterWatch {
    /// Those that do not now.
    pub blocked: AtomicU64,
    /// All that have not.
    pub incidents: AtomicU64,
}

/// Octets of a body that wait in the engine for one side of a stream.
const STREAM_BUFFER: usize = 256 * 1024;

/// Reads and checks a bootstrap without running it.
///
/// # Errors
/// Everything that is wrong with it, one line each.
pub fn validate(config: &std::path::Path) -> Result<(), Vec<String>> {
    client(load(config)?, &secret_store(), &Arc::default()).map(|_| ())
}

fn secret_store() -> Arc<SecretStore> {
    Arc::new(SecretStore::new(Arc::new(rustls::time_provider::DefaultTimeProvider)))
}

fn client(
    bootstrap: pymesh_xds::Bootstrap,
    secrets: &Arc<SecretStore>,
    commons: &Arc<Commons>,
) -> Result<pymesh_xds::Client, Vec<String>> {
    let commons = commons.clone();
    let is_warm = Box::new(move |cluster: &Arc<Cluster>| commons.is_warm(cluster));
    pymesh_xds::Client::new(bootstrap, secrets.clone(), is_warm).map_err(|found| lines(&found))
}

fn load(config: &std::path::Path) -> Result<pymesh_xds::Bootstrap, Vec<String>> {
    let name = config.display().to_string();
    let text = std::fs::read_to_string(config).map_err(|error| vec![format!("{name}: {error}")])?;
    pymesh_xds::load_bootstrap(&name, &text).map_err(|found| lines(&found))
}

fn lines(found: &[pymesh_xds::Diagnostic]) -> Vec<String> {
    found.iter().map(ToString::to_string).collect()
}

/// Runs the proxy until it is told to stop. `make_host` makes the filter host
/// of each worker, on the worker's own thread; before that `load_filter` loads
/// a filter that a configuration brings, for so many workers.
///
/// # Errors
/// What is wrong with the bootstrap, or what the system refuses.
pub fn run<H, F, L>(options: &Options, make_host: F, load_filter: L) -> Result<(), Vec<String>>
where
    H: FilterHost,
    F: Fn(usize) -> H + Send + Sync + 'static,
    L: Fn(&Arc<PythonFilter>, usize) -> Result<Loaded, String> + Send + 'static,
{
    pymesh_net::keep_buffers_mapped();
    let bootstrap = load(&options.config)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| vec![format!("cannot start the side runtime: {error}")])?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, serve(options, bootstrap, Arc::new(make_host), load_filter))
}

async fn serve<H, F, L>(
    options: &Options,
    bootstrap: pymesh_xds::Bootstrap,
    make_host: Arc<F>,
    load_filter: L,
) -> Result<(), Vec<String>>
where
    H: FilterHost,
    F: Fn(usize) -> H + Send + Sync + 'static,
    L: Fn(&Arc<PythonFilter>, usize) -> Result<Loaded, String> + Send + 'static,
{
    let one = |error: std::io::Error| vec![error.to_string()];
    let workers = options.concurrency.unwrap_or_else(cores).max(1);
    let secrets = secret_store();
    let hub = Arc::new(Hub::default());
    let shards: Vec<Arc<Shard>> = (0..workers).map(|_| Arc::default()).collect();
    let descriptors = pymesh_net::raise_descriptor_limit();
    let overload = Arc::new(Overload::new(bootstrap.overload.clone(), pymesh_net::connections_for(descriptors)));
    let pressure = Arc::new(Pressure::new(overload));
    tokio::task::spawn_local(pressure.clone().watch());
    let (lifecycle, inherited) = Lifecycle::begin(options, bootstrap.admin)?;
    let shared = Arc::new(match inherited {
        Some(inherited) => Shared::succeeding(workers, inherited),
        None => Shared::new(workers),
    });
    let commons = Arc::new(Commons::default());
    let client = client(bootstrap, &secrets, &commons)?;
    let client = client.with_filters(Box::new(move |filter| load_filter(filter, workers)), count_filters(&hub));
    let pages = client.pages();
    let state =
        Arc::new(State::new(hub.clone(), shards.clone(), secrets.clone(), shared.clone(), pressure, commons, pages));
    let _first = state.filter_watch.set(options.filter_watch.clone());

    let log = LogWriter::start(shared.tap().clone(), &hub, workers).map_err(one)?;
    let threads = start_workers(options, &state, &log, make_host)?;

    let publish = {
        let state = state.clone();
        move |snapshot| state.publish(snapshot)
    };
    let live = {
        let (state, ready) = (state.clone(), lifecycle.ready());
        move || {
            state.set_live();
            ready.notify_one();
        }
    };
    let feed = tokio::task::spawn_local(client.run(publish, live));
    let result = lifecycle.run(&state, feed, &threads).await;
    state.shared.stop();
    for thread in threads {
        if thread.join().is_err() {
            return Err(vec!["a worker has panicked".to_owned()]);
        }
    }
    drop(log);
    result
}

fn start_workers<H, F>(
    options: &Options,
    state: &State,
    log: &LogWriter,
    make_host: Arc<F>,
) -> Result<Vec<JoinHandle<()>>, Vec<String>>
where
    H: FilterHost,
    F: Fn(usize) -> H + Send + Sync + 'static,
{
    let origin = Instant::now();
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let clock = WallClock { origin_unix_nanos: u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX) };
    let mut threads = Vec::new();
    for (worker, shard) in state.shards.iter().enumerate() {
        let engine = pymesh_engine::Options {
            worker,
            // Workers must not choose alike; nothing secret hangs on it.
            seed: clock.origin_unix_nanos ^ (u64::from(std::process::id()) << 32) ^ worker as u64,
            clock,
            stream_buffer: STREAM_BUFFER,
            drain_time: options.drain_time,
            hub: state.hub.clone(),
            shard: shard.clone(),
            secrets: state.secrets.clone(),
            overload: state.pressure.overload().clone(),
            commons: state.commons.clone(),
        };
        let parts = WorkerOptions { worker, engine, origin, log: log.handle() };
        let (shared, make_host) = (state.shared.clone(), make_host.clone());
        let thread = std::thread::Builder::new()
            .name(format!("worker-{worker}"))
            .spawn(move || {
                let result = Worker::new(parts, shared, make_host(worker)).and_then(|mut worker| worker.run());
                if let Err(error) = result {
                    eprintln!("worker {worker} has failed: {error}");
                }
            })
            .map_err(|error| vec![format!("cannot start a worker: {error}")])?;
        threads.push(thread);
    }
    Ok(threads)
}

/// Counts what configurations bring of Python filters.
fn count_filters(hub: &Arc<Hub>) -> CountFilter {
    let hub = hub.clone();
    Box::new(move |name, is_loaded| {
        let counters = hub.python_filter_config(name);
        if is_loaded {
            counters.config_reload.inc();
        } else {
            counters.config_fail.inc();
        }
    })
}

/// Cores that this process may use, cgroup quotas included.
fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
