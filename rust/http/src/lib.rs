//! Sans-io HTTP codecs: bytes go in, heads and body pieces come out, and back.
//!
//! Nothing here owns a socket, reads a clock or knows a policy. The three
//! parts share one representation of a message head:
//!
//! * [`Headers`] and [`RequestHead`] / [`ResponseHead`]: one arena per message,
//!   reused from message to message, so that steady-state traffic allocates nothing.
//! * [`h1`]: HTTP/1.1 (RFC 9112).
//! * [`h2`]: HTTP/2 (RFC 9113) with [`hpack`] (RFC 7541).
//!
//! * [`proxy_protocol`]: what may stand before them, and before anything else.
//!
//! Both codecs refuse what they do not understand; neither ever forwards raw
//! bytes of a head. [`Limits`] bounds every quantity that a peer controls.
#![forbid(unsafe_code)]

mod authority;
pub mod h1;
pub mod h2;
mod head;
mod headers;
pub mod hpack;
mod limits;
pub mod proxy_protocol;
mod syntax;

pub use head::{Method, RequestHead, ResponseHead, Scheme, Version};
pub use headers::{Case, Headers, Known, Span};
pub use limits::Limits;
pub use syntax::{has_control_octets, is_token, is_token_octet};
