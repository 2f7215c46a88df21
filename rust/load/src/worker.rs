//! A thread's loop: sockets and the clock around one client.
//!
//! Octets count as seen when the poll that told of them returned: all that it tells of had come by then, and what is
//! done about the first of them must not make the last one look late. Requests count as sent at the time at which
//! they are written.

use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use pymesh_engine::base::time::Time;
use rustix::time::{
    clock_gettime, timerfd_create, timerfd_settime, ClockId, Itimerspec, TimerfdClockId, TimerfdFlags,
    TimerfdTimerFlags, Timespec,
};

use crate::client::{Action, Client, Seen};
use crate::plan::{Plan, Share};
use crate::run::Progress;
use crate::tally::Tally;

const TIMER: Token = Token(usize::MAX);
const READ_SIZE: usize = 64 * 1024;
/// Reads of one socket in one turn, so that a large answer does not hold up the others.
const READS_PER_TURN: usize = 4;
/// A worker looks at least so often whether it is to stop.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

pub(crate) struct Worker {
    plan: Plan,
    poll: Poll,
    /// Epoll waits in milliseconds; intended starts are finer.
    timer: OwnedFd,
    client: Client,
    sockets: Vec<Option<Socket>>,
    again: Vec<usize>,
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    origin: Instant,
    seen: Seen,
}

/// A socket and what epoll, edge triggered, last said about it.
struct Socket {
    stream: TcpStream,
    connecting: bool,
    readable: bool,
    closed: bool,
    writable: bool,
}

impl Worker {
    /// `origin` is the instant at [`Time`] zero, the same for all workers.
    pub(crate) fn new(plan: &Plan, share: Share, origin: Instant) -> io::Result<Worker> {
        let poll = Poll::new()?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        let client = Client::new(plan.clone(), share, time(origin));
        Ok(Worker {
            plan: plan.clone(),
            poll,
            timer,
            client,
            sockets: Vec::new(),
            again: Vec::new(),
            dirty: Vec::new(),
            buffer: vec![0; READ_SIZE],
            origin,
            seen: Seen::default(),
        })
    }

    /// Opens the connections; says how many can be used.
    pub(crate) fn connect(&mut self, progress: &Progress) -> io::Result<usize> {
        let mut events = Events::with_capacity(1024);
        self.work();
        while !self.client.is_settled() && !progress.is_stopping() {
            self.turn(&mut events)?;
        }
        Ok(self.client.ready())
    }

    /// Why connections cannot be used.
    pub(crate) fn trouble(&self) -> Option<&str> {
        self.client.trouble()
    }

    /// Sends and counts until the plan's end.
    pub(crate) fn run(mut self, start: Time, progress: &Progress) -> io::Result<Tally> {
        let mut events = Events::with_capacity(1024);
        let (cpu, begun) = (cpu_time(), Instant::now());
        self.client.begin(start);
        self.work();
        while !self.client.is_done() {
            if progress.is_stopping() {
                self.client.interrupt(self.now());
                break;
            }
            self.turn(&mut events)?;
            self.report(progress);
        }
        self.report(progress);
        let mut tally = self.client.tally().clone();
        tally.busy = cpu_time().saturating_sub(cpu).as_secs_f64() / begun.elapsed().as_secs_f64().max(1e-9);
        Ok(tally)
    }

    fn report(&mut self, progress: &Progress) {
        let seen = self.client.seen();
        progress.answered.fetch_add(seen.answered - self.seen.answered, Ordering::Relaxed);
        progress.failed.fetch_add(seen.failed - self.seen.failed, Ordering::Relaxed);
        self.seen = seen;
    }

    fn now(&self) -> Time {
        time(self.origin)
    }

    /// Waits, and does what there is to do.
    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let wait = self.arm()?;
        match self.poll.poll(events, Some(wait)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let now = self.now();
        for event in events.iter() {
            let Token(at) = event.token();
            if event.token() == TIMER {
                // Intended starts are not to wait for what else has happened.
                self.work();
                continue;
            }
            let Some(Some(socket)) = self.sockets.get_mut(at) else { continue };
            socket.closed |= event.is_read_closed() || event.is_error();
            socket.readable |= event.is_readable() || socket.closed;
            socket.writable |= event.is_writable() || event.is_error();
            if socket.connecting && !self.on_connected(at, now) {
                continue;
            }
            self.read(at, now);
            self.work();
            self.flush(at);
        }
        let mut again = std::mem::take(&mut self.again);
        for at in again.drain(..) {
            self.read(at, now);
        }
        if self.again.is_empty() {
            self.again = again;
        }
        self.work();
        Ok(())
    }

    /// How long the poll may wait; what is sooner than it can wait for, the timer tells.
    fn arm(&self) -> io::Result<Duration> {
        let due = self.client.next_timeout().since(self.now());
        if !self.again.is_empty() || due.is_zero() {
            return Ok(Duration::ZERO);
        }
        if due < LONGEST_WAIT {
            let it_value = Timespec { tv_sec: 0, tv_nsec: i64::from(due.subsec_nanos()) };
            let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
            timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        }
        Ok(LONGEST_WAIT)
    }

    /// Whether it has.
    fn on_connected(&mut self, at: usize, now: Time) -> bool {
        let Some(Some(socket)) = self.sockets.get_mut(at) else { return false };
        let failure = match socket.stream.take_error() {
            Ok(Some(error)) | Err(error) => Some(error),
            Ok(None) => match socket.stream.peer_addr() {
                Ok(_) => None,
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return false,
                Err(error) => Some(error),
            },
        };
        match failure {
            None => {
                socket.connecting = false;
                self.client.connected(at, now);
            }
            Some(error) => {
                self.client.failed(at, &text(&error), now);
                self.work();
            }
        }
        self.sockets.get(at).is_some_and(Option::is_some)
    }

    fn read(&mut self, at: usize, mut now: Time) {
        for _ in 0..READS_PER_TURN {
            let Some(Some(socket)) = self.sockets.get_mut(at) else { return };
            if !socket.readable || socket.connecting {
                return;
            }
            match socket.stream.read(&mut self.buffer) {
                Ok(0) => {
                    socket.readable = false;
                    return self.client.end_of_input(at, now);
                }
                Ok(n) => {
                    // A short read has emptied the socket; the next edge says when there is more.
                    socket.readable = n == self.buffer.len() || socket.closed;
                    self.client.receive(at, self.buffer.get(..n).unwrap_or_default(), now);
                    // It may be over, and is to be closed before anything else is read from it.
                    self.act();
                    now = self.now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.readable = false;
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return self.client.failed(at, &text(&error), now),
            }
        }
        self.again.push(at);
    }

    /// Lets the client advance, carries out what it asks, and writes what it has.
    fn work(&mut self) {
        loop {
            self.client.advance(self.now());
            let acted = self.act();
            self.client.take_dirty(&mut self.dirty);
            if self.dirty.is_empty() && !acted {
                return;
            }
            let mut dirty = std::mem::take(&mut self.dirty);
            for at in dirty.drain(..) {
                self.flush(at);
            }
            self.dirty = dirty;
        }
    }

    fn act(&mut self) -> bool {
        let mut acted = false;
        while let Some(action) = self.client.next_action() {
            acted = true;
            match action {
                Action::Close(at) => {
                    if let Some(place) = self.sockets.get_mut(at) {
                        *place = None;
                    }
                }
                Action::Connect(at) => {
                    if let Err(error) = self.open(at) {
                        self.client.failed(at, &text(&error), self.now());
                    }
                }
            }
        }
        acted
    }

    fn open(&mut self, at: usize) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.plan.address)?;
        self.poll.registry().register(&mut stream, Token(at), Interest::READABLE | Interest::WRITABLE)?;
        // Small writes must not wait for acknowledgements of earlier ones.
        let _best_effort = stream.set_nodelay(true);
        if self.sockets.len() <= at {
            self.sockets.resize_with(at + 1, || None);
        }
        if let Some(place) = self.sockets.get_mut(at) {
            *place = Some(Socket { stream, connecting: true, readable: false, closed: false, writable: false });
        }
        Ok(())
    }

    fn flush(&mut self, at: usize) {
        loop {
            let Some(Some(socket)) = self.sockets.get_mut(at) else { return };
            if socket.connecting || !socket.writable {
                return;
            }
            let output = self.client.output(at);
            if output.is_empty() {
                return;
            }
            match socket.stream.write(output) {
                Ok(n) => self.client.sent(at, n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket.writable = false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the target has said before it closed is still to be read; that tells of the end as well.
                Err(_) => {
                    (socket.readable, socket.closed, socket.writable) = (true, true, false);
                    return self.again.push(at);
                }
            }
        }
    }
}

/// The time now; zero is `origin`.
pub(crate) fn time(origin: Instant) -> Time {
    Time::from_nanos(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
}

fn cpu_time() -> Duration {
    let spent = clock_gettime(ClockId::ThreadCPUTime);
    let seconds = u64::try_from(spent.tv_sec).unwrap_or_default();
    Duration::new(seconds, u32::try_from(spent.tv_nsec).unwrap_or_default())
}

/// As people write it: without the number that Rust adds.
fn text(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
