//! Bounds on everything that a peer controls. Every default is a safe one.

/// Limits shared by the HTTP/1 and HTTP/2 codecs.
///
/// Sizes are octets. "Header list size" counts each field as RFC 9113
/// section 6.5.2 does: name + value + 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest header list of one message (request head, response head or trailers).
    pub header_list_size: usize,
    /// Most fields in one message, after cookie crumbs are counted one by one.
    pub header_count: usize,
    /// Longest request target or `:path`.
    pub target_size: usize,
    /// Longest chunk-size line including extensions (HTTP/1).
    pub chunk_line_size: usize,
    /// Most concurrent streams a peer may open (HTTP/2).
    pub concurrent_streams: u32,
    /// Receive window of a stream when it begins (HTTP/2).
    pub stream_window: u32,
    /// What a stream's receive window grows to while its octets are taken; below `stream_window` it does not grow.
    pub stream_window_most: u32,
    /// Receive window per connection (HTTP/2).
    pub connection_window: u32,
    /// Largest frame payload accepted (HTTP/2, 16,384 to 16,777,215).
    pub frame_size: u32,
    /// HPACK dynamic table size offered to the peer's encoder.
    pub header_table_size: u32,
    /// Most CONTINUATION frames after one HEADERS frame; a larger `header_list_size` allows more ([`Limits::continuations`]).
    pub continuation_frames: u32,
    /// Octets that the request heads of a connection's open streams may hold (HTTP/2). The next stream is refused.
    pub header_memory: usize,
    /// Interim responses before the final one.
    pub interim_responses: u32,
    /// Frames of any kind that may wait unsent (HTTP/2). DATA stops at half of it, so only a peer that makes us send
    /// and does not read comes here.
    pub outbound_frames: u32,
    /// Of these, frames that answer the peer: acknowledgements of SETTINGS and PING, RST_STREAM for what it broke.
    pub outbound_control_frames: u32,
    /// Streams that may be reset before they finished, by the peer or because it broke a rule: a leaky bucket that
    /// drains by one for each stream that completes.
    pub premature_resets: u32,
    /// Consecutive HEADERS, CONTINUATION and DATA frames with neither payload nor END_STREAM.
    pub empty_frames: u32,
    /// PRIORITY frames for each stream that was opened, and as many for the connection.
    pub priority_frames_per_stream: u32,
    /// WINDOW_UPDATE frames for each DATA frame that we have sent; see [`Limits::window_updates`].
    pub window_updates_per_data_frame: u32,
}

impl Limits {
    /// Most CONTINUATION frames of one header block: fragments of 4 KiB on average bring the largest list.
    pub(crate) fn continuations(&self) -> u32 {
        self.continuation_frames.max(u32::try_from(self.header_list_size / 4096).unwrap_or(u32::MAX))
    }

    /// Most PRIORITY frames on a connection that has seen so many streams (as Envoy counts them).
    pub(crate) fn priority_frames(&self, streams: u64) -> u64 {
        u64::from(self.priority_frames_per_stream).saturating_mul(streams.saturating_add(1))
    }

    /// Most WINDOW_UPDATE frames on a connection with so many streams and DATA frames sent (as Envoy counts them).
    pub(crate) fn window_updates(&self, streams: u64, data_frames: u64) -> u64 {
        let earned = u64::from(self.window_updates_per_data_frame).saturating_mul(data_frames);
        streams.saturating_add(earned).saturating_mul(2).saturating_add(5)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            header_list_size: 60 * 1024,
            header_count: 100,
            target_size: 16 * 1024,
            chunk_line_size: 1024,
            concurrent_streams: 100,
            stream_window: 256 * 1024,
            stream_window_most: 0,
            connection_window: 1024 * 1024,
            frame_size: 16_384,
            header_table_size: 4096,
            continuation_frames: 16,
            header_memory: 1024 * 1024,
            interim_responses: 16,
            outbound_frames: 10_000,
            outbound_control_frames: 1000,
            premature_resets: 250,
            empty_frames: 1,
            priority_frames_per_stream: 100,
            window_updates_per_data_frame: 10,
        }
    }
}
