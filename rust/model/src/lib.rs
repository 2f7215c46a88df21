//! pymesh-model.
