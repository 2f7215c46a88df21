//! Decisions about who may do what. Sans-io, like everything here: a subject in, a verdict out.

pub(crate) mod connection;
pub(crate) mod ext_authz;
pub(crate) mod rbac;
