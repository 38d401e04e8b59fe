//! What became of the files of an attempt.

use super::checks::{Finding, View, plainly, shown};
use crate::story::attempt::{FileKind, for_uefi, kind};
use crate::story::cause::Cause;
use crate::story::event::{HttpFile, TftpFile, TftpStep, What};

impl View<'_> {
    /// A file that was not there or did not arrive, if nothing came after it.
    pub fn files(&self) -> Option<Finding> {
        for event in self.events.iter().rev() {
            match &event.what {
                What::Tftp(tftp) if kind(&tftp.file) != FileKind::Optional => {
                    return self.of_tftp(tftp);
                }
                What::Http(http) if http.path.starts_with("boot/") => return of_http(http),
                What::Http(_) | What::Agent(_) => return None,
                _ => {}
            }
        }
        None
    }

    fn of_tftp(&self, tftp: &TftpFile) -> Option<Finding> {
        let file = &tftp.file;
        match &tftp.step {
            TftpStep::Missing => match kind(file) {
                FileKind::Kernel | FileKind::Initrd => {
                    shown(Cause::BootImageMissing, format!("{file} is not there"))
                }
                _ => self
                    .wrong_loader(file)
                    .or_else(|| shown(Cause::LoaderMissing, format!("{file} is not there"))),
            },
            TftpStep::EndedByDevice {
                code: 8, sent: 0, ..
            } => shown(
                Cause::BlksizeRefused,
                format!("it ended the transfer of {file} with TFTP error 8"),
            ),
            TftpStep::EndedByDevice {
                code,
                text,
                sent,
                size,
            } => shown(
                Cause::TransferCut,
                format!(
                    "the device gave up {file} at byte {sent} of {size}: {text} (error {code})"
                ),
            ),
            TftpStep::Silent { sent, size } => shown(
                Cause::TransferCut,
                format!("{file} broke off at byte {sent} of {size}: no more acknowledgements"),
            ),
            TftpStep::Stopped { sent, size, why } => shown(
                Cause::ApplianceEnded,
                format!("{file} was ended at byte {sent} of {size}: {why}"),
            ),
            TftpStep::Refused { why } => {
                shown(Cause::ApplianceEnded, format!("{file} was refused: {why}"))
            }
            TftpStep::Busy => shown(Cause::TransfersFull, format!("{file} was not begun")),
            TftpStep::Begun { .. } | TftpStep::Sent { .. } => None,
        }
    }

    /// The last file that was sent.
    fn last_sent(&self) -> Option<&str> {
        self.events
            .iter()
            .rev()
            .find_map(|event| match &event.what {
                What::Tftp(TftpFile {
                    file,
                    step: TftpStep::Sent { .. },
                }) => Some(file.as_str()),
                What::Http(http) if http.status < 400 && !http.open => Some(http.path.as_str()),
                _ => None,
            })
    }

    /// The last file that was sent is kernel and initrd in one.
    pub fn image_is_whole(&self) -> bool {
        self.last_sent()
            .is_some_and(|file| kind(file) == FileKind::Image)
    }

    /// Kernel and initrd were sent, in one file or in two.
    pub fn image_sent(&self) -> Option<Finding> {
        match self.last_sent() {
            Some(file) if is_mok_manager(file) => {
                let evidence = format!("{file} was sent after the image");
                shown(Cause::KeyNotEnrolled, evidence)
            }
            Some(file) if kind(file) == FileKind::Image => self.wrong_loader(file).or_else(|| {
                let evidence = format!("{file} was sent to its last byte");
                shown(Cause::ImageNotStarted, evidence)
            }),
            _ => plainly(Cause::AgentNeverHeard),
        }
    }

    pub fn loader_sent(&self) -> Option<Finding> {
        let file = self.last_sent()?;
        let wrong = self.wrong_loader(file);
        wrong.or_else(|| {
            let cause = match self.uefi().or(for_uefi(file)) {
                Some(true) => Cause::SecureBootRefused,
                _ => Cause::LoaderNotStarted,
            };
            shown(cause, format!("{file} was sent to its last byte"))
        })
    }
}

/// shim's own name for it.
fn is_mok_manager(file: &str) -> bool {
    file.ends_with("mmx64.efi") || file.ends_with("mmaa64.efi")
}

fn of_http(http: &HttpFile) -> Option<Finding> {
    if http.open {
        return None;
    }
    let file = http.path.strip_prefix("boot/").unwrap_or(&http.path);
    if let Some(why) = &http.why {
        let evidence = format!(
            "{file} was ended at byte {} of {}: {why}",
            http.sent, http.size
        );
        return shown(Cause::ApplianceEnded, evidence);
    }
    if http.status >= 500 {
        let evidence = format!("{file} cannot be read here (HTTP {})", http.status);
        return shown(Cause::ApplianceEnded, evidence);
    }
    if http.status >= 400 {
        let cause = match kind(file) {
            FileKind::Kernel | FileKind::Initrd => Cause::BootImageMissing,
            FileKind::Optional => return None,
            FileKind::Loader | FileKind::Image | FileKind::OwnDisk => Cause::LoaderMissing,
        };
        return shown(cause, format!("{file} is not there"));
    }
    (http.sent < http.size).then(|| Finding {
        cause: Cause::TransferCut,
        evidence: Some(format!(
            "{file} broke off at byte {} of {}",
            http.sent, http.size
        )),
    })
}
