//! SETTINGS (RFC 9113 section 6.5).

use super::frame::{ErrorCode, DEFAULT_FRAME_SIZE, DEFAULT_WINDOW, MAX_31};
use super::{Config, ConnectionError, Role};
use crate::hpack::DEFAULT_TABLE_SIZE;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;
const MAX_HEADER_LIST_SIZE: u16 = 6;
const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// What the peer has told us, starting with what it may assume untold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PeerSettings {
    pub(super) header_table_size: u32,
    pub(super) concurrent_streams: u32,
    pub(super) initial_window: u32,
    pub(super) frame_size: u32,
    pub(super) connect_protocol: bool,
}

impl Default for PeerSettings {
    fn default() -> Self {
        PeerSettings {
            header_table_size: DEFAULT_TABLE_SIZE,
            concurrent_streams: u32::MAX,
            initial_window: DEFAULT_WINDOW,
            frame_size: DEFAULT_FRAME_SIZE,
            connect_protocol: false,
        }
    }
}

impl PeerSettings {
    /// Applies a payload whose length is a multiple of six. `table_size` is
    /// told of every table size, since a brief small one counts too.
    pub(super) fn apply(
        &mut self,
        payload: &[u8],
        sender: Role,
        mut table_size: impl FnMut(u32),
    ) -> Result<(), ConnectionError> {
        let invalid = |code, reason| Err(ConnectionError { code, reason });
        let bad_value = |reason| invalid(ErrorCode::PROTOCOL_ERROR, reason);
        for entry in payload.chunks_exact(6) {
            let &[i1, i0, v3, v2, v1, v0] = entry else { continue };
            let value = u32::from_be_bytes([v3, v2, v1, v0]);
            match u16::from_be_bytes([i1, i0]) {
                HEADER_TABLE_SIZE => {
                    self.header_table_size = value;
                    table_size(value);
                }
                ENABLE_PUSH if value > 1 => return bad_value("settings_enable_push"),
                ENABLE_PUSH if value == 1 && sender == Role::Server => {
                    return bad_value("settings_enable_push_by_server")
                }
                MAX_CONCURRENT_STREAMS => self.concurrent_streams = value,
                INITIAL_WINDOW_SIZE if value > MAX_31 => {
                    return invalid(ErrorCode::FLOW_CONTROL_ERROR, "settings_initial_window")
                }
                INITIAL_WINDOW_SIZE => self.initial_window = value,
                MAX_FRAME_SIZE if !(DEFAULT_FRAME_SIZE..=0xff_ffff).contains(&value) => {
                    return bad_value("settings_frame_size")
                }
                MAX_FRAME_SIZE => self.frame_size = value,
                // RFC 8441 section 3: a boolean that is never taken back.
                ENABLE_CONNECT_PROTOCOL if value > 1 || (value == 0 && self.connect_protocol) => {
                    return bad_value("settings_connect_protocol")
                }
                ENABLE_CONNECT_PROTOCOL => self.connect_protocol = value == 1,
                _ => {}
            }
        }
        Ok(())
    }
}

/// The payload of our own SETTINGS.
pub(super) fn own_settings(config: &Config) -> Vec<u8> {
    let limits = &config.limits;
    let mut payload = Vec::with_capacity(36);
    let mut put = |id: u16, value: u32| {
        payload.extend_from_slice(&id.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    };
    if limits.header_table_size != DEFAULT_TABLE_SIZE {
        put(HEADER_TABLE_SIZE, limits.header_table_size);
    }
    match config.role {
        Role::Client => put(ENABLE_PUSH, 0),
        Role::Server => put(MAX_CONCURRENT_STREAMS, limits.concurrent_streams),
    }
    put(INITIAL_WINDOW_SIZE, limits.stream_window.min(MAX_31));
    put(MAX_FRAME_SIZE, own_frame_size(limits.frame_size));
    put(MAX_HEADER_LIST_SIZE, u32::try_from(limits.header_list_size).unwrap_or(u32::MAX));
    if config.enable_connect_protocol && config.role == Role::Server {
        put(ENABLE_CONNECT_PROTOCOL, 1);
    }
    payload
}

/// The frame size we accept: `Limits` may ask for what the protocol does not allow.
pub(super) fn own_frame_size(limit: u32) -> u32 {
    limit.clamp(DEFAULT_FRAME_SIZE, 0xff_ffff)
}
