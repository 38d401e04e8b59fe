//! What the agent finds on the device's disk and in its bundle: the agent's own
//! errors become its last words, and those a cause.

use std::path::PathBuf;

use groundcrew_agent::download::DownloadError;
use groundcrew_agent::failure::Failure;
use groundcrew_agent::http::HttpError;
use groundcrew_agent::system::SystemError;
use groundcrew_core::Digest;
use groundcrew_core::words::Trouble;
use groundcrew_netboot::story::Cause;

use crate::agent::words;
use crate::device::{Device, Firmware};
use crate::stage::Stage;

#[test]
fn disks_and_bundles() {
    let stage = Stage::authoritative();
    let digest = Digest::of(b"blob");
    let write = |error| DownloadError::Write {
        path: PathBuf::from("/var/lib/groundcrew/staging"),
        error,
    };
    let full = std::io::Error::from(rustix::io::Errno::NOSPC);
    let broken = std::io::Error::from(rustix::io::Errno::IO);
    let cases: Vec<(&str, Failure, Cause)> = vec![
        (
            "no installed system",
            SystemError::None("sda".into()).into(),
            Cause::NoSystem,
        ),
        (
            "two installed systems",
            SystemError::Several("sda2, sdb1".into()).into(),
            Cause::SeveralSystems,
        ),
        ("no disk", SystemError::NoDisk(vec![]).into(), Cause::NoDisk),
        ("disk full", write(full).into(), Cause::DiskFull),
        ("disk broken", write(broken).into(), Cause::DiskFault),
        (
            "bundle refused: changed",
            DownloadError::Changed {
                digest,
                found: "other bytes".into(),
            }
            .into(),
            Cause::BundleChanged,
        ),
        (
            "bundle refused: not there",
            DownloadError::Http {
                digest,
                came: 0,
                size: 4096,
                error: HttpError::Refused {
                    status: 404,
                    code: String::new(),
                    text: "not found".into(),
                },
            }
            .into(),
            Cause::BundleNotPublished,
        ),
        (
            "bundle refused: not for this agent",
            Failure::refused("the bundle: step 3 is of a kind not known", "")
                .about(Trouble::BundleInvalid),
            Cause::BundleInvalid,
        ),
    ];
    for (n, (staged, failure, cause)) in (1u8..).zip(cases) {
        words(&stage, n, failure.trouble, &failure.to_string());
        let device = Device::new(n, Firmware::Uefi);
        let told = stage.says(staged, &device.name(), cause);
        assert!(told.evidence.unwrap().contains(&failure.what), "{staged}");
    }
}
