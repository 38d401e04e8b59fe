//! The program on the device: fetch, verify, plan, apply, report. It is
//! `/init` of the boot image; no async runtime, small and static.

pub mod apply;
