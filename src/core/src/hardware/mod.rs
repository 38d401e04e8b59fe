//! What a machine says of its hardware.
//!
//! Three sources say the same things in three forms: the raw SMBIOS tables
//! ([`smbios`]), Autopilot's hardware hash ([`hash4k`]) and our own report
//! ([`report`]). All end in one [`Identity`], which is what is compared.

pub mod hash4k;
pub mod identity;
pub mod mac;
pub mod report;
pub mod smbios;
pub mod uuid;

pub use hash4k::HardwareHash;
pub use identity::{Identity, IdentityDigest};
pub use mac::MacAddr;
pub use report::HardwareReport;
pub use uuid::SmbiosUuid;
