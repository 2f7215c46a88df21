//! The loop of one worker.
//!
//! A turn: wait; take a new snapshot if there is one; report every event to
//! the engine; with many streams on few connections pause for more of them
//! ([`gather`](crate::gather)); let it advance; run Python calls in one go; carry out its
//! actions; write each connection with output once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use pymesh_engine::base::time::Time;
use pymesh_engine::filter::log::LogCall;
use pymesh_engine::filter::FilterCall;
use pymesh_engine::overload::Overload;
use pymesh_engine::{Action, ConnKey, Engine, ListenerKey, Options};
use pymesh_model::listener::{Capture, Listener};
use pymesh_model::overload::OverloadAction;
use socket2::SockRef;

use crate::capture;
use crate::descriptors::{is_out_of_descriptors, Spare};
use crate::gather::{self, Gather};
use crate::log::LogHandle;
use crate::shared::{FilterHost, Shared, WorkerWaker};
use crate::sockets::{connect, Input, Sockets};

const WAKE: Token = Token(0);
const FIRST_LISTENER: usize = 1;
const FIRST_SOCKET: usize = 1 << 16;

/// Octets read at once from one socket.
const READ_SIZE: usize = 64 * 1024;
/// Reads of one socket in one turn, so that a fast sender does not starve the others.
const READS_PER_TURN: usize = 4;
/// Connections accepted from one listener in one turn.
const ACCEPTS_PER_TURN: usize = 64;
/// How long accepting pauses when the process has no file descriptor left, not even the spare one, or sheds load.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long access log lines may wait for company.
const LOG_DELAY: Duration = Duration::from_millis(100);

/// What a worker is made of.
pub struct WorkerOptions {
    /// Number of the worker, from 0.
    pub worker: usize,
    /// For its engine.
    pub engine: Options,
    /// The instant at [`Time`] zero.
    pub origin: Instant,
    /// Where access log lines go.
    pub log: LogHandle,
}

/// One thread's loop.
pub struct Worker<H> {
    poll: Poll,
    shared: Arc<Shared>,
    engine: Engine,
    host: H,
    sockets: Sockets,
    listeners: Vec<Listening>,
    options: Fixed,
    generation: u64,
    /// Sockets with input that was left in them.
    again: Vec<ConnKey>,
    dirty: Vec<ConnKey>,
    calls: Vec<FilterCall>,
    log_calls: Vec<LogCall>,
    buffer: Vec<u8>,
    next_log: Instant,
    gather: Gather,
    spare: Spare,
}

struct Fixed {
    worker: usize,
    overload: Arc<Overload>,
    origin: Instant,
    log: LogHandle,
}

struct Listening {
    key: ListenerKey,
    address: SocketAddr,
    capture: Capture,
    socket: mio::net::TcpListener,
    ready: bool,
    paused_until: Option<Instant>,
    /// Its address is not wanted any more; until then what is in the queue is accepted.
    closes_at: Option<Instant>,
}

impl Listening {
    /// The listener on this socket has changed.
    fn set_capture(&mut self, capture: Capture) {
        if self.capture.transparent != capture.transparent {
            let socket = SockRef::from(&self.socket);
            if let Err(error) = capture::set_transparent(&socket, self.address, capture.transparent) {
                eprintln!("cannot make {} transparent: {error}", self.address);
            }
        }
        self.capture = capture;
    }
}

impl<H: FilterHost> Worker<H> {
    /// # Errors
    /// The system refuses an epoll instance.
    pub fn new(options: WorkerOptions, shared: Arc<Shared>, mut host: H) -> io::Result<Self> {
        let poll = Poll::new()?;
        let overload = options.engine.overload.clone();
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKE)?);
        shared.add_waker(waker.clone());
        host.serve(WorkerWaker::new(waker));
        Ok(Worker {
            poll,
            shared,
            engine: Engine::new(options.engine),
            host,
            sockets: Sockets::default(),
            listeners: Vec::new(),
            options: Fixed { worker: options.worker, overload, origin: options.origin, log: options.log },
            generation: 0,
            again: Vec::new(),
            dirty: Vec::new(),
            calls: Vec::new(),
            log_calls: Vec::new(),
            buffer: vec![0; READ_SIZE],
            next_log: options.origin,
            gather: Gather::default(),
            spare: Spare::new(),
        })
    }

    /// Runs until stopped, or until a drain has ended the last connection.
    ///
    /// # Errors
    /// Epoll itself fails.
    pub fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        // What was published before this worker had a waker. To be drained or stopped may be part of it, and nobody
        // says that again: so the end is looked for before each wait.
        self.engine.begin_turn(self.now());
        self.look_at_shared();
        loop {
            if self.shared.is_stopping() {
                self.engine.cut_off();
                self.work();
                self.write_logs(true);
                return Ok(());
            }
            let is_over = self.engine.is_draining() && self.listeners.is_empty();
            if is_over && self.engine.downstream_connections() == 0 {
                self.write_logs(true);
                return Ok(());
            }
            match self.poll.poll(&mut events, self.patience()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            self.engine.begin_turn(self.now());
            self.look_at_shared();
            for event in &events {
                self.on_event(event);
            }
            let (connections, requests, _) = self.engine.in_use();
            // A timer has nobody to wait for, and input left from the last turn is company already.
            let is_alone = !events.is_empty() && self.again.is_empty();
            if is_alone && self.gather.is_due(requests, connections) {
                let came = events.iter().count();
                std::thread::sleep(gather::PAUSE);
                match self.poll.poll(&mut events, Some(Duration::ZERO)) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => result?,
                }
                self.engine.begin_turn(self.now());
                // To be woken for a new snapshot or a drain may be among what came.
                self.look_at_shared();
                for event in &events {
                    self.on_event(event);
                }
                self.gather.judge(came, events.iter().count());
            }
            self.read_leftovers();
            self.accept_all();
            self.close_left();
            self.work();
        }
    }

    /// Lets the engine advance and carries out what it asks, until it rests.
    fn work(&mut self) {
        loop {
            self.host.turn(&mut self.engine);
            self.engine.advance();
            if self.engine.has_filter_calls() {
                self.engine.take_filter_calls(&mut self.calls);
                self.host.run(&mut self.engine, &self.calls);
                self.calls.clear();
                continue;
            }
            let acted = self.act();
            let wrote = self.flush();
            if !acted && !wrote && !self.engine.has_news_of_calls() {
                break;
            }
        }
        if self.engine.has_log_calls() {
            self.engine.take_log_calls(&mut self.log_calls);
            self.host.log(&self.log_calls);
            self.log_calls.clear();
        }
        if self.engine.has_lost_filters() {
            self.load_filters();
        }
        self.write_logs(false);
    }

    fn now(&self) -> Time {
        self.time_at(Instant::now())
    }

    fn time_at(&self, instant: Instant) -> Time {
        let elapsed = instant.saturating_duration_since(self.options.origin);
        Time::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long the poll may wait.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() {
            return Some(Duration::ZERO);
        }
        let now = Instant::now();
        let timer = self.engine.next_timeout().map(|due| due.since(self.time_at(now)));
        let accept =
            self.listeners.iter().filter(|l| l.ready).map(|listener| {
                listener.paused_until.map_or(Duration::ZERO, |until| until.saturating_duration_since(now))
            });
        let close = self.listeners.iter().filter_map(|l| Some(l.closes_at?.saturating_duration_since(now)));
        timer.into_iter().chain(accept).chain(close).chain(self.log_patience(now)).min()
    }

    fn log_patience(&self, now: Instant) -> Option<Duration> {
        self.engine.has_log_lines().then(|| self.next_log.saturating_duration_since(now))
    }

    fn look_at_shared(&mut self) {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.generation = generation;
            let snapshot = self.shared.snapshot();
            for error in self.engine.apply(snapshot) {
                if self.options.worker == 0 {
                    eprintln!("configuration: {error}");
                }
            }
            self.load_filters();
            self.bind();
            self.shared.set_applied(self.options.worker, generation);
        }
        let tap = self.shared.tap().log();
        if tap.is_some() != self.engine.is_tapped() {
            self.engine.tap(tap.cloned());
        }
        if self.shared.is_draining() && !self.engine.is_draining() {
            self.engine.drain();
        }
    }

    /// Has the host hold the filters that are in use, and no others.
    fn load_filters(&mut self) {
        let gates = self.host.load(self.engine.python_filters());
        self.engine.set_filter_gates(gates);
    }

    /// Brings the listening sockets in line with the engine's listeners.
    fn bind(&mut self) {
        let is_accepting = self.shared.is_accepting();
        let wanted: Vec<_> =
            self.engine.listeners().filter(|(_, config)| is_accepting && config.bind_to_port).collect();
        for old in &mut self.listeners {
            if wanted.iter().all(|(_, config)| config.address != old.address) {
                // What a successor has taken closes at once: there its queue goes on.
                old.closes_at = Some(self.shared.leaving(old.address).unwrap_or_else(Instant::now));
            }
        }
        for (key, config) in wanted {
            let mut is_bound = false;
            for old in self.listeners.iter_mut().filter(|old| old.address == config.address) {
                (old.key, old.closes_at, is_bound) = (key, None, true);
                old.set_capture(config.capture);
            }
            if !is_bound {
                self.listen(key, &config);
            }
        }
        self.watch_listeners();
        self.release_listeners();
    }

    /// Takes this worker's share of the sockets of an address.
    fn listen(&mut self, key: ListenerKey, config: &Listener) {
        let address = config.address;
        match self.shared.sockets_for(address, self.options.worker) {
            Ok(sockets) => self.listeners.extend(sockets.into_iter().map(|socket| {
                let socket = mio::net::TcpListener::from_std(socket);
                let capture = Capture::default();
                let (ready, paused_until, closes_at) = (true, None, None);
                let mut listening = Listening { key, address, capture, socket, ready, paused_until, closes_at };
                // A predecessor's may have been told otherwise.
                listening.set_capture(config.capture);
                listening
            })),
            Err(error) => eprintln!("worker {} cannot listen on {address}: {error}", self.options.worker),
        }
    }

    /// Tokens are positions, which may have shifted.
    fn watch_listeners(&mut self) {
        for (at, listening) in self.listeners.iter_mut().enumerate() {
            let registry = self.poll.registry();
            let token = Token(FIRST_LISTENER + at);
            if registry.reregister(&mut listening.socket, token, Interest::READABLE).is_err() {
                if let Err(error) = registry.register(&mut listening.socket, token, Interest::READABLE) {
                    eprintln!("cannot watch {}: {error}", listening.address);
                }
            }
        }
    }

    /// Closes the sockets whose time has come. Their queues were emptied in this turn, unless there is no descriptor
    /// left to accept with.
    fn close_left(&mut self) {
        if self.listeners.iter().all(|listening| listening.closes_at.is_none()) {
            return;
        }
        let now = Instant::now();
        let before = self.listeners.len();
        self.listeners.retain(|listening| {
            let is_busy = listening.ready && listening.paused_until.is_none();
            is_busy || listening.closes_at.is_none_or(|until| until > now)
        });
        if self.listeners.len() < before {
            self.shared.forget_left(now);
            self.watch_listeners();
            self.release_listeners();
        }
    }

    fn release_listeners(&mut self) {
        let listeners = &self.listeners;
        self.engine.release_listeners(|key| listeners.iter().any(|listening| listening.key == key));
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        let Token(token) = event.token();
        let Some(index) = token.checked_sub(FIRST_SOCKET) else {
            if let Some(listening) = token.checked_sub(FIRST_LISTENER).and_then(|at| self.listeners.get_mut(at)) {
                listening.ready = true;
            }
            return;
        };
        let Some(socket) = self.sockets.at(index) else { return };
        let key = socket.key;
        socket.read_closed |= event.is_read_closed() || event.is_error();
        socket.readable |= event.is_readable() || socket.read_closed;
        if event.is_writable() || event.is_error() {
            if socket.connecting {
                socket.writable = true;
                return self.on_connected(key);
            }
            // Every edge says that the socket is writable; it is news only after a full one.
            if !std::mem::replace(&mut socket.writable, true) {
                self.dirty.push(key);
            }
        }
        // Epoll says it once, and nobody reads what would say it again.
        if event.is_error() && !self.engine.wants_read(key) {
            return self.engine.reset_unread(key);
        }
        self.read(key);
    }

    fn on_connected(&mut self, key: ConnKey) {
        let Some(socket) = self.sockets.get(key) else { return };
        let outcome = match socket.stream.take_error() {
            Ok(Some(error)) | Err(error) => Err(error),
            Ok(None) => match socket.stream.peer_addr() {
                Ok(_) => socket.stream.local_addr(),
                // Not connected yet: a spurious event.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return,
                Err(error) => Err(error),
            },
        };
        match outcome {
            Ok(local) => {
                socket.connecting = false;
                self.engine.connected(key, local);
                self.read(key);
            }
            Err(error) => self.engine.failed(key, &error.to_string()),
        }
    }

    /// Reads until the socket is empty, the engine wants no more, or it is
    /// somebody else's turn.
    fn read(&mut self, key: ConnKey) {
        for _ in 0..READS_PER_TURN {
            let Some(socket) = self.sockets.get(key) else { return };
            if !socket.readable || socket.connecting || !self.engine.wants_read(key) {
                return;
            }
            let size = self.engine.read_size(key).min(READ_SIZE);
            match socket.read(self.buffer.get_mut(..size).unwrap_or_default()) {
                Input::Octets(n) => {
                    self.engine.receive(key, self.buffer.get(..n).unwrap_or_default());
                    if n == self.buffer.len() {
                        // Bulk: what it has become is written while it is in the cache, and its room is used again.
                        self.flush();
                    }
                }
                Input::Nothing => return,
                Input::End => {
                    socket.readable = false;
                    return self.engine.end_of_input(key);
                }
                Input::Failed(error) => return self.engine.failed(key, &error.to_string()),
            }
        }
        self.again.push(key);
    }

    fn read_leftovers(&mut self) {
        let mut again = std::mem::take(&mut self.again);
        for key in again.drain(..) {
            self.read(key);
        }
        if self.again.is_empty() {
            self.again = again;
        }
    }

    fn accept_all(&mut self) {
        let now = Instant::now();
        if self.options.overload.is_active(OverloadAction::StopAcceptingConnections) {
            for listening in self.listeners.iter_mut().filter(|listening| listening.ready) {
                listening.paused_until = Some(now + ACCEPT_PAUSE);
            }
            return;
        }
        for at in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let Some(listening) = self.listeners.get_mut(at) else { break };
                if !listening.ready || listening.paused_until.is_some_and(|until| until > now) {
                    break;
                }
                listening.paused_until = None;
                match listening.socket.accept() {
                    Ok((stream, remote)) => {
                        let (key, capture) = (listening.key, listening.capture);
                        self.on_accepted(key, capture, stream, remote);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        listening.ready = false;
                        break;
                    }
                    Err(error) if is_about_one_connection(&error) => {}
                    Err(error) => {
                        let Listening { socket, key, .. } = listening;
                        let is_closed = is_out_of_descriptors(&error) && self.spare.with(|| socket.accept().is_ok());
                        match is_closed.then_some(*key) {
                            Some(key) => self.engine.refuse_connection(key),
                            // Another thread was faster, or there is no memory: pause, do not spin.
                            None => listening.paused_until = Some(now + ACCEPT_PAUSE),
                        }
                    }
                }
            }
        }
    }

    fn on_accepted(
        &mut self,
        listener: ListenerKey,
        capture: Capture,
        stream: mio::net::TcpStream,
        remote: SocketAddr,
    ) {
        let Ok(local) = stream.local_addr() else { return };
        let original = match capture.restore {
            true => capture::original_destination(&stream, local, capture),
            false => None,
        };
        let accepted = match original {
            Some(wanted) => self.engine.accept_redirected(listener, remote, wanted),
            None => self.engine.accept(listener, remote, local),
        };
        let Some(key) = accepted else { return };
        let registry = self.poll.registry();
        if let Err(error) = self.sockets.insert(registry, FIRST_SOCKET, key, stream, false) {
            self.engine.failed(key, &error.to_string());
        }
    }

    /// Carries out the engine's actions; true if there were any.
    fn act(&mut self) -> bool {
        let mut acted = false;
        while let Some(action) = self.engine.next_action() {
            acted = true;
            match action {
                Action::Close(key) => self.sockets.close(key),
                Action::ShutdownWrite(key) => self.sockets.shutdown_write(key),
                Action::Connect(key, address) => {
                    let registry = self.poll.registry();
                    let bind = self.engine.upstream_bind(key).cloned().unwrap_or_default();
                    let opened = connect(address, &bind)
                        .and_then(|stream| self.sockets.insert(registry, FIRST_SOCKET, key, stream, true));
                    if let Err(error) = opened {
                        self.engine.failed(key, &error.to_string());
                    }
                }
            }
        }
        acted
    }

    /// Writes every connection that has output; true if any was looked at.
    fn flush(&mut self) -> bool {
        self.engine.take_dirty(&mut self.dirty);
        let any = !self.dirty.is_empty();
        let mut dirty = std::mem::take(&mut self.dirty);
        for key in dirty.drain(..) {
            self.flush_one(key);
        }
        if self.dirty.is_empty() {
            self.dirty = dirty;
        }
        any
    }

    fn flush_one(&mut self, key: ConnKey) {
        loop {
            let Some(socket) = self.sockets.get(key) else { return };
            if socket.connecting {
                return;
            }
            let output = self.engine.output(key);
            if output.is_empty() || !socket.writable {
                break;
            }
            match socket.write(output) {
                Ok(0) => break,
                Ok(n) => self.engine.sent(key, n),
                Err(error) => return self.engine.failed(key, &error.to_string()),
            }
        }
        self.engine.sent(key, 0);
        // The engine may want input again that was left in the socket.
        let is_readable = self.sockets.get(key).is_some_and(|socket| socket.readable);
        if is_readable && self.engine.wants_read(key) {
            self.again.push(key);
        }
    }

    fn write_logs(&mut self, now: bool) {
        if !self.engine.has_log_lines() {
            return;
        }
        let time = Instant::now();
        if !now && time < self.next_log {
            return;
        }
        self.next_log = time + LOG_DELAY;
        let log = &self.options.log;
        self.engine.take_log_lines(|sink, lines| log.write(sink, lines));
    }
}

/// Errors of `accept` that concern one connection, not the listener (accept(2)).
fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
            | io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    )
}
