//! pymesh-xds.
pub mod proto;
mod check;
mod diagnostic;
mod document;
mod json;
mod rules;
mod suggest;
mod translate;
mod unsupported;
pub use diagnostic::{Diagnostic, Place};
