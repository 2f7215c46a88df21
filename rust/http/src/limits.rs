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
    /// Receive window per stream (HTTP/2).
    pub stream_window: u32,
    /// Receive window per connection (HTTP/2).
    pub connection_window: u32,
    /// Largest frame payload accepted (HTTP/2, 16,384 to 16,777,215).
    pub frame_size: u32,
    /// HPACK dynamic table size offered to the peer's encoder.
    pub header_table_size: u32,
    /// Most CONTINUATION frames after one HEADERS frame.
    pub continuation_frames: u32,
    /// Control frames (SETTINGS, PING, RST_STREAM replies) that may wait unsent.
    pub queued_control_frames: u32,
    /// Streams that may be reset by either side before they finished, counted
    /// as a leaky bucket that drains by one for each stream that completes.
    pub premature_resets: u32,
    /// Consecutive DATA frames with no payload and no END_STREAM on a connection.
    pub empty_data_frames: u32,
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
            connection_window: 1024 * 1024,
            frame_size: 16_384,
            header_table_size: 4096,
            continuation_frames: 16,
            queued_control_frames: 1000,
            premature_resets: 200,
            empty_data_frames: 100,
        }
    }
}
