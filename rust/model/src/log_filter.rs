//! Which requests and connections an access log tells (Envoy `AccessLogFilter`).

use crate::matcher::HeaderMatch;

/// A condition, asked when the request is over.
#[derive(Clone, Debug)]
pub enum LogFilter {
    /// `runtime_filter`: one in so many, in millionths (1,000,000 is all).
    Sample(u32),
    /// `status_code_filter`: 0 without an answer.
    Status(Comparison),
    /// `duration_filter`: in whole milliseconds.
    Duration(Comparison),
    /// `header_filter`, of the request.
    Header(HeaderMatch),
    /// `response_flag_filter`: one of these, by their short names; any if it is empty.
    Flags(Vec<Box<str>>),
    /// `grpc_status_filter`: one of these, or (`exclude`) none of them.
    GrpcStatus {
        /// By number.
        statuses: Vec<u8>,
        /// The result is turned around.
        exclude: bool,
    },
    /// `and_filter`.
    And(Vec<LogFilter>),
    /// `or_filter`.
    Or(Vec<LogFilter>),
}

/// `ComparisonFilter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// How.
    pub order: Order,
    /// With what.
    pub value: u64,
}

/// `ComparisonFilter.Op`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Order {
    Equal,
    NotEqual,
    AtLeast,
    AtMost,
}

impl Comparison {
    /// True if `value` is as is asked for.
    pub fn holds(self, value: u64) -> bool {
        match self.order {
            Order::Equal => value == self.value,
            Order::NotEqual => value != self.value,
            Order::AtLeast => value >= self.value,
            Order::AtMost => value <= self.value,
        }
    }
}
