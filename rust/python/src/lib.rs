//! The extension module `pymesh._proxy`.
