//! pymesh-xds.
