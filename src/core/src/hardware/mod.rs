//! What a machine says of its hardware.

pub mod mac;
pub mod report;
pub mod uuid;

pub use mac::MacAddr;
pub use report::HardwareReport;
pub use uuid::SmbiosUuid;
