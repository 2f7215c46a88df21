//! From start to end of the process: who serves before, who serves after, and how connections end.
//!
//! ```text
//! starting --ready--> serving --SIGTERM, SIGINT, /quitquitquit--> draining --> over
//!    |                   \------a successor has relieved us------/
//!    +-- with a predecessor: it serves until we are ready, then we relieve it (`upgrade`)
//! ```
//!
//! A drain tells every client what its protocol has words for, goes on accepting for `drain_accept_time`, then closes the
//! listening sockets (or leaves them to the successor). It is over with the last connection, or at its deadline.

use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::signal::unix::{signal, Signal, SignalKind};
use tokio::sync::{oneshot, Notify};
use tokio::time::{sleep, sleep_until, Instant};

use crate::state::State;
use crate::supervisor::Supervisor;
use crate::upgrade::{self, Endpoint, Predecessor, Relieved};
use crate::{admin, Options};

/// How often a drain looks whether the workers are through.
const LOOK: Duration = Duration::from_millis(10);

type Inherited = HashMap<SocketAddr, Vec<TcpListener>>;
type Feed = tokio::task::JoinHandle<Result<(), String>>;

/// See the module.
pub(crate) struct Lifecycle {
    options: Options,
    /// [`Options::upgrade_socket`], as both processes write it.
    path: Option<PathBuf>,
    supervisor: Supervisor,
    signals: Signals,
    ready: Arc<Notify>,
    predecessor: Option<Predecessor>,
    admin: Option<TcpListener>,
    /// A predecessor answers at the admin socket as long as it serves.
    admin_is_lent: bool,
}

/// Why a process drains.
enum Reason {
    Told,
    Relieved(Relieved),
    Failed(Vec<String>),
}

impl Lifecycle {
    /// Asks the running process for its sockets, if there is one, and opens the admin socket. Returns the sockets of
    /// listeners that the running process has lent.
    ///
    /// # Errors
    /// It does not hand over, or the system refuses something.
    pub fn begin(options: &Options, admin: Option<SocketAddr>) -> Result<(Lifecycle, Option<Inherited>), Vec<String>> {
        let one = |error: String| vec![error];
        let signals = Signals::watch().map_err(|error| one(format!("cannot watch signals: {error}")))?;
        let path = options.upgrade_socket.as_deref().map(std::path::absolute).transpose();
        let path = path.map_err(|error| one(format!("the upgrade socket: {error}")))?;
        let found = path.as_deref().map(upgrade::ask).transpose().map_err(one)?.flatten();
        let (predecessor, sockets) = found.unzip();
        let mut inherited = sockets.map(pymesh_net::inherit).transpose().map_err(one)?;
        let lent = admin.and_then(|address| inherited.as_mut()?.remove(&address)?.pop());
        let lifecycle = Lifecycle {
            options: options.clone(),
            path,
            supervisor: Supervisor::new(options.pid_file.clone()),
            signals,
            ready: Arc::default(),
            predecessor,
            admin_is_lent: lent.is_some(),
            admin: match (lent, admin) {
                (Some(lent), _) => Some(lent),
                (None, Some(address)) => Some(open_admin(address).map_err(one)?),
                (None, None) => None,
            },
        };
        Ok((lifecycle, inherited))
    }

    /// To be notified when the first configuration is in force.
    pub fn ready(&self) -> Arc<Notify> {
        self.ready.clone()
    }

    /// Serves until there is a reason not to, then drains.
    ///
    /// # Errors
    /// What has gone wrong, one problem each.
    pub async fn run(mut self, state: &Arc<State>, feed: Feed, workers: &[JoinHandle<()>]) -> Result<(), Vec<String>> {
        let (relieved, relief) = oneshot::channel();
        let (mut admin, mut serves) = (None, false);
        if !self.admin_is_lent {
            admin = self.serve_admin(state);
        }
        let reason = match self.until_serving(state, feed).await {
            Err(reason) => reason,
            Ok((feed, endpoint)) => {
                admin = admin.or_else(|| self.serve_admin(state));
                serves = endpoint.is_some();
                self.supervisor.ready();
                match self.hear_successors(state, endpoint, relieved) {
                    Err(error) => Reason::Failed(vec![format!("cannot wait for successors: {error}")]),
                    Ok(()) => self.until_the_end(state, feed, relief).await,
                }
            }
        };
        let result = match reason {
            Reason::Relieved(relieved) => {
                // From here on the successor answers there.
                if let Some(task) = admin {
                    task.abort();
                }
                self.admin = None;
                serves = false;
                self.drain_relieved(state, workers, &relieved).await;
                Ok(())
            }
            Reason::Told => {
                self.drain(state, workers).await;
                Ok(())
            }
            Reason::Failed(problems) => {
                self.drain(state, workers).await;
                Err(problems)
            }
        };
        if let (true, Some(path)) = (serves, &self.path) {
            let _gone = std::fs::remove_file(path);
        }
        self.supervisor.ended();
        result
    }

    /// Waits for the first configuration, then relieves the predecessor. Returns where successors will ask.
    async fn until_serving(&mut self, state: &State, mut feed: Feed) -> Result<(Feed, Option<Endpoint>), Reason> {
        let ready = self.ready.clone();
        tokio::select! {
            () = self.signals.any() => return Err(Reason::Told),
            () = state.quit.notified() => return Err(Reason::Told),
            ended = &mut feed => return Err(end_of(ended)),
            () = ready.notified() => {}
        }
        let failed = |error: String| Reason::Failed(vec![error]);
        let Some(predecessor) = self.predecessor.take() else {
            let endpoint = self.path.as_deref().map(Endpoint::open).transpose().map_err(failed)?;
            return Ok((feed, endpoint));
        };
        // For a moment both accept: the queues are the same, and nobody is lost between us.
        let kept = state.shared.take_over().map_err(failed)?;
        let within = self.options.parent_shutdown_time;
        let relief = tokio::task::spawn_blocking(move || predecessor.relieve(&kept, within));
        let endpoint = relief.await.map_err(|_| failed("the takeover has panicked".to_owned()))?;
        Ok((feed, Some(endpoint)))
    }

    async fn until_the_end(&mut self, state: &State, mut feed: Feed, relief: oneshot::Receiver<Relieved>) -> Reason {
        tokio::select! {
            () = self.signals.any() => Reason::Told,
            () = state.quit.notified() => Reason::Told,
            ended = &mut feed => end_of(ended),
            Ok(relieved) = relief => Reason::Relieved(relieved),
        }
    }

    /// In a thread of its own, which ends with the process.
    fn hear_successors(
        &self,
        state: &Arc<State>,
        endpoint: Option<Endpoint>,
        relieved: oneshot::Sender<Relieved>,
    ) -> io::Result<()> {
        let Some(endpoint) = endpoint else { return Ok(()) };
        let shared = state.shared.clone();
        let admin = self.admin.as_ref().map(TcpListener::try_clone).transpose()?;
        let sockets = move || {
            let mut sockets = shared.duplicate_sockets()?;
            if let Some(admin) = &admin {
                sockets.push(admin.try_clone()?.into());
            }
            Ok(sockets)
        };
        let wait = move || {
            endpoint.serve(sockets, |relief| {
                // Without a receiver the process is about to end anyway.
                let _over = relieved.send(relief);
            });
        };
        std::thread::Builder::new().name("upgrade".into()).spawn(wait)?;
        Ok(())
    }

    fn serve_admin(&self, state: &Arc<State>) -> Option<tokio::task::JoinHandle<()>> {
        let listener = self.admin.as_ref()?.try_clone().and_then(tokio::net::TcpListener::from_std);
        match listener {
            Ok(listener) => Some(tokio::task::spawn_local(admin::serve(listener, state.clone()))),
            Err(error) => {
                eprintln!("cannot serve admin: {error}");
                None
            }
        }
    }

    /// Nobody takes our place: requests end up to the drain time; a second signal cuts it short.
    async fn drain(&mut self, state: &State, workers: &[JoinHandle<()>]) {
        self.supervisor.stopping();
        state.drain();
        let (accept, total) = (self.options.drain_accept_time, self.options.drain_time);
        let deadline = Instant::now() + total;
        tokio::select! {
            () = sleep(accept.min(total)) => {}
            () = self.signals.any() => return,
        }
        state.shared.close_listeners(&[]);
        tokio::select! {
            () = sleep_until(deadline) => {}
            () = self.signals.any() => {}
            () = over(workers) => {}
        }
    }

    /// A successor serves: our connections end when they end. A signal shortens that to a drain, another ends it.
    async fn drain_relieved(&mut self, state: &State, workers: &[JoinHandle<()>], relieved: &Relieved) {
        state.drain();
        state.shared.close_listeners(&relieved.kept);
        tokio::select! {
            () = sleep(relieved.within) => return,
            () = self.signals.any() => {}
            () = over(workers) => return,
        }
        tokio::select! {
            () = sleep(self.options.drain_time) => {}
            () = self.signals.any() => {}
            () = over(workers) => {}
        }
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn watch() -> io::Result<Signals> {
        Ok(Signals { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn open_admin(address: SocketAddr) -> Result<TcpListener, String> {
    let open = || {
        // As tokio does: with SO_REUSEADDR.
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|error: io::Error| format!("cannot serve admin on {address}: {error}"))
}

fn end_of(feed: Result<Result<(), String>, tokio::task::JoinError>) -> Reason {
    match feed {
        Ok(Ok(())) => Reason::Told,
        Ok(Err(error)) => Reason::Failed(error.lines().map(str::to_owned).collect()),
        Err(_) => Reason::Failed(vec!["the configuration task has panicked".to_owned()]),
    }
}

async fn over(workers: &[JoinHandle<()>]) {
    while !workers.iter().all(JoinHandle::is_finished) {
        sleep(LOOK).await;
    }
}
