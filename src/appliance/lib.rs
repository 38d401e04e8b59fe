//! The appliance: sockets, store, HTTP, TLS, CLI, image building. The only
//! room with effects on the site's side; it asks the pure rooms what to do.

pub mod bundle;
pub mod check;
pub mod cli;
pub mod clock;
pub mod durable;
pub mod flight;
pub mod hq;
pub mod image;
pub mod lan;
pub mod office;
pub mod once;
pub mod page;
pub mod serve;
pub mod site;
pub mod stick;
pub mod store;
pub mod transfers;
