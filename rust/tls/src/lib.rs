//! pymesh-tls.
