//! The program on the device: fetch, verify, plan, apply, report. It is
//! `/init` of the boot image; no async runtime, small and static.
//!
//! ```text
//! init       PID 1: mounts, drivers (modules, uevent), the end
//! provision  the run: net -> trust -> enroll -> download -> apply -> receipt
//! net        link, DHCP, renewal          http, tls   to the appliance, one key
//! root       the installed system's files: nothing leads out of it, nothing is half
//! trust      image, disk, TUF over HTTP   enroll      request, code, grant
//! system     which disk, mounted how      apply       the bundle's steps
//! hardware   the report                   console     screen, serial, log
//! stick      started from a stick: the appliance's program beside it decides
//! ```

pub mod apply;
pub mod cli;
pub mod cmdline;
pub mod console;
pub mod download;
pub mod enroll;
pub mod failure;
pub mod hardware;
pub mod http;
pub mod init;
pub mod modules;
pub mod net;
pub mod processes;
pub mod provision;
pub mod random;
pub mod report;
pub mod reporter;
pub mod root;
pub mod state;
pub mod steady;
pub mod stick;
pub mod system;
pub mod tls;
pub mod tpm;
pub mod trust;
pub mod uevent;
pub mod words;
