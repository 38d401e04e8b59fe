//! The appliance: sockets, store, HTTP, TLS, CLI, image building. The only
//! room with effects on the site's side; it asks the pure rooms what to do.

pub mod bundle;
pub mod image;
