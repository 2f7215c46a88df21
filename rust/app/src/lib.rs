//! pymesh-app.
