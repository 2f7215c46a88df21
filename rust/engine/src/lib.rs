//! pymesh-engine.
