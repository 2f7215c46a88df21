//! The state of one connection, and what changes it from both directions.

use super::frame::{kind, ErrorCode, DEFAULT_WINDOW, HEADER_LEN, MAX_31, PREFACE};
use super::output::Output;
use super::receive::Reading;
use super::settings::{own_settings, PeerSettings};
use super::streams::{Ending, Stream, Streams, NO_TAG};
use super::{Config, ConnectionError, Role, StreamId, Tally};
use crate::hpack::{Decoder, Encoder};
use crate::Limits;

/// One end of an HTTP/2 connection. See the [module](super) for the rules.
pub struct Connection {
    pub(super) config: Config,
    pub(super) reading: Reading,
    pub(super) output: Output,
    pub(super) decoder: Decoder,
    pub(super) encoder: Encoder,
    pub(super) streams: Streams,
    pub(super) peer: PeerSettings,
    /// Cookie crumbs of the head being read.
    pub(super) cookies: Vec<u8>,
    /// Streams that are not closed on both sides.
    pub(super) active: usize,
    /// Client: the next stream to open.
    pub(super) next_stream: u32,
    /// Server: the highest stream the peer has opened.
    pub(super) last_peer_stream: u32,
    pub(super) send_window: i32,
    pub(super) recv_window: i32,
    /// Octets of the connection's window to give back.
    pub(super) to_announce: u32,
    pub(super) settings_acked: bool,
    /// The peer has sent SETTINGS.
    pub(super) peer_known: bool,
    /// Streams above this are ignored: we have sent GOAWAY.
    pub(super) accept_up_to: u32,
    pub(super) go_away_sent: bool,
    pub(super) go_away_received: bool,
    pub(super) failed: Option<ConnectionError>,
    pub(super) premature_resets: u32,
    /// Frames without payload in a row.
    pub(super) empty_frames: u32,
    pub(super) priority_frames: u64,
    pub(super) window_updates: u64,
    pub(super) data_frames_sent: u64,
    /// Streams that were opened, by whoever opens them here.
    pub(super) opened: u64,
    /// Octets of the request heads of open streams.
    pub(super) header_memory: usize,
    pub(super) tally: Tally,
}

impl Connection {
    /// A new connection; its preface and SETTINGS stand in the output.
    pub fn new(config: Config) -> Connection {
        let mut output = Output::default();
        if config.role == Role::Client {
            output.raw(PREFACE);
        }
        output.frame(kind::SETTINGS, 0, 0, &own_settings(&config));
        let window = config.limits.connection_window.clamp(DEFAULT_WINDOW, MAX_31);
        if window > DEFAULT_WINDOW {
            output.window_update(0, window - DEFAULT_WINDOW);
        }
        Connection {
            reading: Reading::new(config.role),
            output,
            decoder: Decoder::new(),
            encoder: Encoder::new(),
            streams: Streams::default(),
            peer: PeerSettings::default(),
            cookies: Vec::new(),
            active: 0,
            next_stream: 1,
            last_peer_stream: 0,
            send_window: DEFAULT_WINDOW as i32,
            recv_window: window as i32,
            to_announce: 0,
            settings_acked: false,
            peer_known: false,
            accept_up_to: MAX_31,
            go_away_sent: false,
            go_away_received: false,
            failed: None,
            premature_resets: 0,
            empty_frames: 0,
            priority_frames: 0,
            window_updates: 0,
            data_frames_sent: 0,
            opened: 0,
            header_memory: 0,
            tally: Tally::default(),
            config,
        }
    }

    /// Sets the engine's key for a stream, which its events will carry.
    pub fn set_tag(&mut self, stream: StreamId, tag: u32) {
        if let Some(stream) = self.streams.get_mut(stream.0) {
            stream.tag = tag;
        }
    }

    /// The streams that are known, each with the engine's key for it.
    pub fn tags(&self) -> impl Iterator<Item = (StreamId, u32)> + '_ {
        self.streams.iter().filter(|stream| stream.tag != NO_TAG).map(|stream| (StreamId(stream.id), stream.tag))
    }

    /// The consumer took `n` octets of DATA of this stream.
    pub fn release(&mut self, stream: StreamId, n: usize) {
        let Some(entry) = self.streams.get_mut(stream.0) else { return };
        let n = u32::try_from(n).unwrap_or(u32::MAX).min(entry.unreleased);
        entry.unreleased -= n;
        let finished = entry.is_closed() && entry.unreleased == 0;
        self.give_back_stream(stream.0, n);
        self.give_back(n);
        if finished {
            self.streams.remove(stream.0);
        }
    }

    /// Gives octets of a stream's window back, in batches of half a window. A window that may grow does so by each octet
    /// that was taken, like TCP's in its slow start: who takes nothing makes us hold little.
    pub(super) fn give_back_stream(&mut self, id: u32, n: u32) {
        let Limits { stream_window, stream_window_most, .. } = self.config.limits;
        let Some(stream) = self.streams.get_mut(id).filter(|stream| !stream.remote_done) else { return };
        let growth = stream_window_most.min(MAX_31).saturating_sub(stream.granted).min(n);
        stream.granted += growth;
        stream.to_announce += n + growth;
        let batch = (stream_window.max(stream_window_most.min(stream.granted)) / 2).max(1);
        if stream.to_announce >= batch {
            let increment = std::mem::take(&mut stream.to_announce);
            stream.recv_window = stream.recv_window.saturating_add_unsigned(increment);
            self.output.window_update(id, increment);
        }
    }

    /// Gives octets of the connection's window back as soon as they double what the peer has left. That is at half a
    /// window if nobody holds any of it; where streams that nobody reads keep most of it, a batch of that size would never
    /// come together. It is few frames in either case: a peer that counts ours against the DATA that it sends, as Envoy
    /// and we do, must see no flood.
    pub(super) fn give_back(&mut self, n: u32) {
        self.to_announce += n;
        if self.to_announce > 0 && i64::from(self.to_announce) >= i64::from(self.recv_window) {
            let increment = std::mem::take(&mut self.to_announce);
            self.recv_window = self.recv_window.saturating_add_unsigned(increment);
            self.output.window_update(0, increment);
        }
    }

    /// Resets a stream. Does nothing if it is gone; if it has ended, only
    /// gives back what was not released.
    pub fn reset(&mut self, stream: StreamId, code: ErrorCode) {
        if let Some(stream) = self.forget(stream.0, Ending::ResetByUs) {
            if !stream.is_closed() {
                self.tally.tx_reset += 1;
                self.output.rst_stream(stream.id, code);
            }
        }
    }

    /// Removes a stream and gives back what it held of the connection's window.
    pub(super) fn forget(&mut self, id: u32, ending: Ending) -> Option<Stream> {
        let stream = self.streams.remove(id)?;
        if !stream.is_closed() {
            self.active -= 1;
            self.header_memory -= stream.head_size as usize;
            self.streams.remember(id, ending);
        }
        self.give_back(stream.unreleased);
        Some(stream)
    }

    /// To be called when one side of a stream has ended.
    pub(super) fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get(id).filter(|stream| stream.is_closed()) else { return };
        let released = stream.unreleased == 0;
        self.active -= 1;
        self.header_memory -= stream.head_size as usize;
        self.premature_resets = self.premature_resets.saturating_sub(1);
        self.streams.remember(id, Ending::Finished);
        if released {
            self.streams.remove(id);
        }
    }

    /// Announces that this end will close, while requests on their way are still
    /// taken (RFC 9113 section 6.8). Follow with [`Connection::go_away`] a round trip later.
    pub fn shutdown_notice(&mut self) {
        if !self.go_away_sent {
            self.output.go_away(MAX_31, ErrorCode::NO_ERROR);
        }
    }

    /// Says GOAWAY: streams that the peer opens from now on are ignored, others go on.
    pub fn go_away(&mut self, code: ErrorCode) {
        self.tally.goaway_sent += 1;
        self.go_away_sent = true;
        self.accept_up_to = self.last_peer_stream;
        self.output.go_away(self.last_peer_stream, code);
    }

    /// Sends a PING; [`super::Event::PingAck`] answers it.
    pub fn ping(&mut self, payload: [u8; 8]) {
        self.output.frame(kind::PING, 0, 0, &payload);
    }

    /// Octets to be written to the peer.
    pub fn output(&self) -> &[u8] {
        self.output.unsent()
    }

    /// The first `n` octets of [`Connection::output`] have been written.
    pub fn advance_output(&mut self, n: usize) {
        self.output.advance(n);
    }

    /// Frames that wait to be written.
    pub fn queued_frames(&self) -> usize {
        self.output.queued()
    }

    /// DATA should wait: so many frames are unsent that the peer plainly does not read.
    pub fn is_congested(&self) -> bool {
        self.output.queued() >= self.config.limits.outbound_frames as usize / 2
    }

    /// A header block has begun and not ended.
    pub fn is_reading_head(&self) -> bool {
        self.reading.is_reading_head()
    }

    /// What has been counted since the last call.
    pub fn take_tally(&mut self) -> Tally {
        std::mem::take(&mut self.tally)
    }

    /// A stream that the peer has reset had lived long enough, or was answered: that was no attack.
    /// To be called upon the [`super::Event::Reset`].
    pub fn forgive_reset(&mut self) {
        self.premature_resets = self.premature_resets.saturating_sub(1);
    }

    /// Streams that have not ended on both sides.
    pub fn active_streams(&self) -> usize {
        self.active
    }

    /// GOAWAY was said by either side, or the connection failed: open nothing more.
    pub fn is_closing(&self) -> bool {
        self.go_away_sent || self.go_away_received || self.failed.is_some()
    }

    /// Closing, and nothing is left to do or to write.
    pub fn is_drained(&self) -> bool {
        self.is_closing() && (self.active == 0 || self.failed.is_some()) && self.output().is_empty()
    }

    /// Gives back memory that an idle connection does not need.
    pub fn shrink_idle(&mut self) {
        self.output.shrink();
        self.reading.shrink();
        self.cookies = Vec::new();
        self.streams.shrink();
        if self.active == 0 {
            self.encoder.shrink();
            self.decoder.shrink();
        }
    }
}

const _: () = assert!(HEADER_LEN == 9 && std::mem::size_of::<Connection>() < 1024);
