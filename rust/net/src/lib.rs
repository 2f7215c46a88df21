//! pymesh-net.
