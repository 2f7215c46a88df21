//! One worker's client: its connections, its part of the schedule, and what it has counted. Sans-io.
//!
//! # Phases
//! [`Client::new`] asks for all connections. When each of them can be used or has failed ([`Client::is_settled`]) the
//! driver says [`Client::begin`]: from then on requests begin, until the plan's end. Those under way, and those that
//! wait, are then given their time; [`Client::is_done`] says that none is left.
//!
//! # The driver's contract
//! Report every event with the time at which it was seen, then call [`Client::advance`] with the time at which it is
//! called, carry out every [`Action`], and write the [`Client::output`] of all connections that
//! [`Client::take_dirty`] names. Call `advance` again no later than [`Client::next_timeout`].

use std::collections::VecDeque;
use std::time::Duration;

use pymesh_engine::base::time::Time;

use crate::connection::{Begun, Connection, Failure, Outcome};
use crate::plan::{End, Pace, Plan, Share};
use crate::schedule::Schedule;
use crate::tally::{record, Kind, Tally};

/// How long a connection that failed waits before the next try; doubled each time it fails again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Requests are looked at so many times within their timeout, and at least ten times a second.
const LOOKS: u32 = 20;
const LONGEST_LOOK: Duration = Duration::from_millis(100);
/// Bins that a run of known length is cut into.
const BINS: u32 = 100;
/// The first width of bins of a run of unknown length.
const UNKNOWN_BIN: Duration = Duration::from_millis(100);

/// What the driver is to do with the socket of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect one to the plan's address.
    Connect(usize),
    /// Close it.
    Close(usize),
}

/// See the module's documentation.
pub struct Client {
    plan: Plan,
    share: Share,
    slots: Vec<Slot>,
    phase: Phase,
    schedule: Option<Schedule>,
    /// Requests that are meant to start earlier belong to the warm-up.
    counted_from: Time,
    /// Requests that are meant to start from here on do not begin.
    stop: Time,
    /// Counted requests that may still begin.
    left: u64,
    /// Connections with room, the one that had it longest first.
    free: VecDeque<usize>,
    /// Requests that are due and unsent, oldest first, and those that have to be sent again before them.
    waiting: VecDeque<Waiting>,
    /// Connections that something has happened on since the last `advance`.
    touched: Vec<usize>,
    dirty: Vec<usize>,
    actions: VecDeque<Action>,
    outcomes: Vec<Outcome>,
    next_look: Time,
    next_try: Time,
    next_request: usize,
    under_way: usize,
    /// Connections that are down and unreachable.
    unreachable: usize,
    /// The last thing that went wrong with a connection.
    trouble: Option<Failure>,
    seen: Seen,
    tally: Tally,
}

/// What a progress bar shows: everything so far, warm-up included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Requests that were answered.
    pub answered: u64,
    /// Requests that failed.
    pub failed: u64,
}

struct Slot {
    state: State,
    connection: Option<Connection>,
    /// Before the next try, should this one fail.
    pause: Duration,
    is_free: bool,
    is_dirty: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not before then; `unreachable` if the last attempt failed.
    Down {
        until: Time,
        unreachable: bool,
    },
    Opening {
        since: Time,
    },
    Ready,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Running,
    Ended,
}

#[derive(Clone, Copy)]
struct Waiting {
    intended: Time,
    request: usize,
}

impl Client {
    /// Asks for all connections at once.
    pub fn new(plan: Plan, share: Share, now: Time) -> Client {
        let count = usize::try_from(share.of(plan.connections as u64)).unwrap_or(usize::MAX);
        let slot = || Slot {
            state: State::Opening { since: now },
            connection: None,
            pause: FIRST_PAUSE,
            is_free: false,
            is_dirty: false,
        };
        Client {
            share,
            slots: (0..count).map(|_| slot()).collect(),
            phase: Phase::Connecting,
            schedule: None,
            counted_from: Time::NEVER,
            stop: Time::NEVER,
            left: 0,
            free: VecDeque::new(),
            waiting: VecDeque::new(),
            touched: Vec::new(),
            dirty: Vec::new(),
            actions: (0..count).map(Action::Connect).collect(),
            outcomes: Vec::new(),
            next_look: now + look(plan.timeout),
            next_try: Time::NEVER,
            next_request: share.worker,
            under_way: 0,
            unreachable: 0,
            trouble: None,
            seen: Seen::default(),
            tally: Tally::new(now, UNKNOWN_BIN),
            plan,
        }
    }

    /// Each connection can be used, or has failed once.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| !matches!(slot.state, State::Opening { .. }))
    }

    /// Connections that can be used.
    pub fn ready(&self) -> usize {
        self.slots.iter().filter(|slot| slot.state == State::Ready).count()
    }

    /// What went wrong with a connection lately.
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_ref().map(|failure| failure.why.as_ref())
    }

    /// Requests begin: the warm-up now.
    pub fn begin(&mut self, now: Time) {
        self.counted_from = now + self.plan.warm_up;
        if let Pace::Open { rate, arrivals } = self.plan.pace {
            self.schedule = Some(Schedule::new(now, rate, arrivals, self.share));
        }
        let width = match self.plan.end {
            End::After(duration) => {
                (self.stop, self.left) = (self.counted_from + duration, u64::MAX);
                duration / BINS
            }
            End::Requests(count) => {
                self.left = self.share.of(count);
                UNKNOWN_BIN
            }
        };
        let mut tally = Tally::new(self.counted_from, width);
        std::mem::swap(&mut tally, &mut self.tally);
        (self.tally.connections, self.tally.connect) = (tally.connections, tally.connect);
        if let End::After(duration) = self.plan.end {
            self.tally.window = duration;
        }
        self.phase = Phase::Running;
        self.touched.extend(0..self.slots.len());
    }

    /// No more requests begin and none is left.
    pub fn is_done(&self) -> bool {
        self.phase == Phase::Ended && self.under_way == 0 && self.waiting.is_empty()
    }

    /// What has been counted.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// For a progress bar.
    pub fn seen(&self) -> Seen {
        self.seen
    }

    /// Cuts the run short: what is under way or waits is unfinished.
    pub fn interrupt(&mut self, now: Time) {
        let Client { slots, waiting, counted_from, .. } = self;
        let mut unfinished = waiting.drain(..).filter(|waiting| waiting.intended >= *counted_from).count();
        for connection in slots.iter_mut().filter_map(|slot| slot.connection.as_mut()) {
            connection.take_all(|begun| unfinished += usize::from(begun.intended >= *counted_from));
        }
        self.tally.unfinished += unfinished as u64;
        self.tally.window = now.min(self.stop).since(self.counted_from);
        self.under_way = 0;
        self.phase = Phase::Ended;
    }

    /// When to call [`Client::advance`] at the latest.
    pub fn next_timeout(&self) -> Time {
        let next = match (&self.schedule, self.phase) {
            (Some(schedule), Phase::Running) => schedule.next(),
            (None, Phase::Running) => self.stop,
            _ => Time::NEVER,
        };
        next.min(self.next_look).min(self.next_try)
    }

    /// Does what is due, and starts what can be started.
    pub fn advance(&mut self, now: Time) {
        if now >= self.next_try {
            self.try_again(now);
        }
        if now >= self.next_look {
            self.look_for_timeouts(now);
        }
        self.release(now);
        let mut touched = std::mem::take(&mut self.touched);
        for at in touched.drain(..) {
            let connection = self.slots.get(at).and_then(|slot| slot.connection.as_ref());
            match connection.is_some_and(Connection::is_over) {
                true => self.lose(at, &Failure::new(Kind::Closed, "the connection was closed"), now),
                false => self.look_for_room(at, now),
            }
        }
        self.touched = touched;
        while !self.waiting.is_empty() {
            let Some(at) = self.free.pop_front() else { break };
            if let Some(slot) = self.slots.get_mut(at) {
                slot.is_free = false;
            }
            self.start_next(at, now);
            self.note_room(at);
        }
        if !self.waiting.is_empty() {
            if let Some(failure) = self.trouble.clone() {
                self.fail_waiting_if_unreachable(&failure, now);
            }
            if now >= self.counted_from {
                self.tally.waiting_most = self.tally.waiting_most.max(self.waiting.len());
            }
        }
        let next = self.schedule.as_ref().map_or(now, Schedule::next);
        if self.phase == Phase::Running && !self.may_begin(next) {
            self.phase = Phase::Ended;
        }
    }

    /// What is due by now waits for room.
    fn release(&mut self, now: Time) {
        while let Some(intended) = self.schedule.as_ref().map(Schedule::next) {
            if intended > now || !self.may_begin(intended) {
                break;
            }
            if let Some(schedule) = &mut self.schedule {
                schedule.advance();
            }
            self.count_begun(intended);
            if intended >= self.counted_from {
                record(&mut self.tally.lag, nanos(now, intended));
            }
            let request = self.next_request();
            self.waiting.push_back(Waiting { intended, request });
        }
    }

    /// In a closed loop a connection that has room starts the next requests; in an open one it queues for them.
    fn look_for_room(&mut self, at: usize, now: Time) {
        while self.schedule.is_none() && self.start_next(at, now) {}
        self.note_room(at);
        self.note_output(at);
    }

    /// Starts one request on a connection, if there is room and something to start.
    fn start_next(&mut self, at: usize, now: Time) -> bool {
        let room = |slot: &Slot| slot.connection.as_ref().map_or(0, Connection::room);
        if self.slots.get(at).map_or(0, room) == 0 {
            return false;
        }
        let next = match self.waiting.pop_front() {
            Some(next) => next,
            None if self.schedule.is_none() && self.may_begin(now) => {
                self.count_begun(now);
                Waiting { intended: now, request: self.next_request() }
            }
            None => return false,
        };
        let begun = Begun { intended: next.intended, sent: now, request: next.request };
        let connection = self.slots.get_mut(at).and_then(|slot| slot.connection.as_mut());
        if connection.is_some_and(|connection| connection.start(begun)) {
            self.under_way += 1;
            self.note_output(at);
            return true;
        }
        self.waiting.push_front(next);
        false
    }

    fn note_room(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        if !slot.is_free && slot.connection.as_ref().is_some_and(|connection| connection.room() > 0) {
            slot.is_free = true;
            self.free.push_back(at);
        }
    }

    fn note_output(&mut self, at: usize) {
        let Some(slot) = self.slots.get_mut(at).filter(|slot| !slot.is_dirty) else { return };
        if slot.connection.as_mut().is_some_and(|connection| !connection.output().is_empty()) {
            slot.is_dirty = true;
            self.dirty.push(at);
        }
    }

    fn look_for_timeouts(&mut self, now: Time) {
        self.next_look = now + look(self.plan.timeout);
        let timeout = u64::try_from(self.plan.timeout.as_nanos()).unwrap_or(u64::MAX);
        let Some(limit) = now.as_nanos().checked_sub(timeout).map(Time::from_nanos) else { return };
        while let Some(waiting) = self.waiting.front().copied().filter(|waiting| waiting.intended <= limit) {
            self.waiting.pop_front();
            let failure = Failure::new(Kind::Timeout, "no connection had room for it in time");
            self.count_failure(waiting.intended, None, &failure, now);
        }
        for at in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(at) else { continue };
            if matches!(slot.state, State::Opening { since } if since <= limit) {
                let failure = Failure::new(Kind::Connect, "the connection could not be used in time");
                self.lose(at, &failure, now);
            } else if let Some(connection) = &mut slot.connection {
                connection.expire(limit, &mut self.outcomes);
                if !self.outcomes.is_empty() {
                    // Should it have to be replaced: that was no failure of the connection.
                    slot.pause = FIRST_PAUSE;
                    self.settle(at, now);
                    self.touched.push(at);
                }
            }
        }
    }

    fn try_again(&mut self, now: Time) {
        self.next_try = Time::NEVER;
        for at in 0..self.slots.len() {
            match self.slots.get(at).map(|slot| slot.state) {
                Some(State::Down { until, .. }) if until <= now => self.open(at, now),
                Some(State::Down { until, .. }) => self.next_try = self.next_try.min(until),
                _ => {}
            }
        }
    }

    /// The next thing for the driver to do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Connections that have output which the driver was not told of.
    pub fn take_dirty(&mut self, into: &mut Vec<usize>) {
        into.clear();
        std::mem::swap(&mut self.dirty, into);
        for at in into.iter() {
            if let Some(slot) = self.slots.get_mut(*at) {
                slot.is_dirty = false;
            }
        }
    }

    /// Octets for the socket of a connection.
    pub fn output(&mut self, at: usize) -> &[u8] {
        match self.slots.get_mut(at).and_then(|slot| slot.connection.as_mut()) {
            Some(connection) => connection.output(),
            None => &[],
        }
    }

    /// So many octets of the output have been written.
    pub fn sent(&mut self, at: usize, n: usize) {
        if let Some(connection) = self.slots.get_mut(at).and_then(|slot| slot.connection.as_mut()) {
            connection.advance_output(n);
        }
    }

    /// The socket has connected.
    pub fn connected(&mut self, at: usize, now: Time) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        match Connection::new(&self.plan) {
            Ok(connection) => {
                slot.connection = Some(connection);
                self.touched.push(at);
                self.look_whether_ready(at, now);
            }
            Err(failure) => self.lose(at, &failure, now),
        }
    }

    /// Octets have come.
    pub fn receive(&mut self, at: usize, octets: &[u8], now: Time) {
        let connection = self.slots.get_mut(at).and_then(|slot| slot.connection.as_mut());
        let result = connection.map_or(Ok(()), |connection| connection.receive(octets, &mut self.outcomes));
        self.settle(at, now);
        self.touched.push(at);
        match result {
            Ok(()) => self.look_whether_ready(at, now),
            Err(failure) => self.lose(at, &failure, now),
        }
    }

    /// The target sends no more.
    pub fn end_of_input(&mut self, at: usize, now: Time) {
        let connection = self.slots.get_mut(at).and_then(|slot| slot.connection.as_mut());
        let result = connection.map_or(Ok(()), |connection| connection.end_of_input(&mut self.outcomes));
        let had_answer = !self.outcomes.is_empty();
        self.settle(at, now);
        let failure = result.err().unwrap_or_else(|| {
            self.tally.connections.closed_by_target += u64::from(!had_answer);
            Failure::new(Kind::Closed, "the connection was closed")
        });
        self.lose(at, &failure, now);
    }

    /// The socket has failed, or could not be connected.
    pub fn failed(&mut self, at: usize, why: &str, now: Time) {
        let is_open = self.slots.get(at).is_some_and(|slot| slot.connection.is_some());
        let kind = if is_open { Kind::Reset } else { Kind::Connect };
        self.lose(at, &Failure::new(kind, why.to_owned()), now);
    }

    fn look_whether_ready(&mut self, at: usize, now: Time) {
        let Some(slot) = self.slots.get_mut(at) else { return };
        if let (State::Opening { since }, Some(connection)) = (slot.state, &slot.connection) {
            if connection.is_ready() {
                slot.state = State::Ready;
                self.tally.connections.opened += 1;
                record(&mut self.tally.connect, nanos(now, since));
            }
        }
    }

    /// Counts what has become of requests of a connection.
    fn settle(&mut self, at: usize, now: Time) {
        let mut outcomes = std::mem::take(&mut self.outcomes);
        for outcome in outcomes.drain(..) {
            self.under_way -= 1;
            match outcome {
                Outcome::Answered { begun, status, octets } => {
                    if let Some(slot) = self.slots.get_mut(at) {
                        slot.pause = FIRST_PAUSE;
                    }
                    self.count_answer(begun, status, octets, now);
                }
                Outcome::Failed { begun, failure } => {
                    self.count_failure(begun.intended, Some(begun.sent), &failure, now);
                }
                Outcome::Resend(begun) => {
                    self.tally.resent += 1;
                    self.waiting.push_front(Waiting { intended: begun.intended, request: begun.request });
                }
            }
        }
        self.outcomes = outcomes;
    }

    fn count_answer(&mut self, begun: Begun, status: u16, octets: u64, now: Time) {
        self.seen.answered += 1;
        if now >= self.counted_from && now < self.stop {
            self.tally.answered_in_time += 1;
            self.tally.series.answered(now);
        }
        if begun.intended >= self.counted_from {
            self.tally.count_status(status);
            self.tally.body_octets += octets;
            let latency = nanos(now, begun.intended);
            record(&mut self.tally.latency, latency);
            record(&mut self.tally.service, nanos(now, begun.sent));
            self.tally.series.latency(begun.intended, latency);
            self.note_window(now);
        }
    }

    fn count_failure(&mut self, intended: Time, sent: Option<Time>, failure: &Failure, now: Time) {
        self.seen.failed += 1;
        if intended < self.counted_from {
            return;
        }
        self.tally.count_failure(failure.kind, &failure.why);
        self.tally.series.failed(now);
        if failure.kind == Kind::Timeout {
            // It had to wait at least so long.
            record(&mut self.tally.latency, nanos(now, intended));
            self.tally.series.latency(intended, nanos(now, intended));
            if let Some(sent) = sent {
                record(&mut self.tally.service, nanos(now, sent));
            }
        }
        self.note_window(now);
    }

    /// A run of so many requests lasts until the last one has ended.
    fn note_window(&mut self, now: Time) {
        if let End::Requests(_) = self.plan.end {
            self.tally.window = now.since(self.counted_from);
        }
    }

    /// The connection is gone, and everything on it.
    fn lose(&mut self, at: usize, failure: &Failure, now: Time) {
        let mut lost = Vec::new();
        let Some(slot) = self.slots.get_mut(at) else { return };
        if let Some(mut connection) = slot.connection.take() {
            connection.take_all(|begun| lost.push(begun));
        }
        let (was, pause) = (slot.state, slot.pause);
        self.under_way -= lost.len();
        for begun in lost {
            self.count_failure(begun.intended, Some(begun.sent), failure, now);
        }
        if let State::Down { .. } = was {
            return;
        }
        self.actions.push_back(Action::Close(at));
        self.trouble = Some(failure.clone());
        // A connection that has answered something deserves another one at once (`settle` resets the pause).
        if was == State::Ready && pause == FIRST_PAUSE {
            self.open(at, now);
        } else if let State::Opening { since } = was {
            self.tally.connections.failed += 1;
            self.fail_unsent(since, failure, now);
            self.rest(at, true, now);
            self.fail_waiting_if_unreachable(failure, now);
        } else {
            self.rest(at, false, now);
        }
        if let Some(slot) = self.slots.get_mut(at) {
            slot.pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn open(&mut self, at: usize, now: Time) {
        if self.phase == Phase::Ended && self.waiting.is_empty() {
            return self.rest(at, false, Time::NEVER);
        }
        if let Some(slot) = self.slots.get_mut(at) {
            self.unreachable -= usize::from(matches!(slot.state, State::Down { unreachable: true, .. }));
            slot.state = State::Opening { since: now };
            self.actions.push_back(Action::Connect(at));
        }
    }

    fn rest(&mut self, at: usize, unreachable: bool, now: Time) {
        if let Some(slot) = self.slots.get_mut(at) {
            let until = now + slot.pause;
            self.unreachable -= usize::from(matches!(slot.state, State::Down { unreachable: true, .. }));
            self.unreachable += usize::from(unreachable);
            slot.state = State::Down { until, unreachable };
            self.next_try = self.next_try.min(until);
        }
    }

    /// A connection that never came to be takes one request with it: the one that it would have carried.
    fn fail_unsent(&mut self, since: Time, failure: &Failure, now: Time) {
        if let Some(waiting) = self.waiting.pop_front() {
            self.count_failure(waiting.intended, None, failure, now);
        } else if self.schedule.is_none() && self.may_begin(now) {
            self.count_begun(since);
            self.count_failure(since, None, failure, now);
        }
    }

    /// With no connection up, nor on its way, nor worth a try now, nothing is left to wait for.
    fn fail_waiting_if_unreachable(&mut self, failure: &Failure, now: Time) {
        if self.unreachable == self.slots.len() {
            for waiting in std::mem::take(&mut self.waiting) {
                self.count_failure(waiting.intended, None, failure, now);
            }
        }
    }

    /// Whether a request may begin that is meant to start then.
    fn may_begin(&self, intended: Time) -> bool {
        self.phase == Phase::Running && intended < self.stop && self.left > 0
    }

    fn count_begun(&mut self, intended: Time) {
        if intended >= self.counted_from {
            self.left -= 1;
            self.tally.begun += 1;
        }
    }

    fn next_request(&mut self) -> usize {
        let request = self.next_request % self.plan.requests.len().max(1);
        self.next_request = request + 1;
        request
    }
}

/// How often timeouts are looked for.
fn look(timeout: Duration) -> Duration {
    (timeout / LOOKS).clamp(Duration::from_millis(1), LONGEST_LOOK)
}

fn nanos(later: Time, earlier: Time) -> u64 {
    later.as_nanos().saturating_sub(earlier.as_nanos())
}
