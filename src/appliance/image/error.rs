//! Why no boot image could be built, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::Arch;
use super::catalogue::ChoiceError;
use super::cpio::TooLarge;
use super::deb::DebError;
use super::elf::ElfError;

/// Why no boot image could be built.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// A file or folder of this machine.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// No kernel package, and none to be had.
    #[error(
        "no kernel package: {reason}\n  on any Debian machine with internet: apt-get download {package}\n  then here: groundcrew image build --arch {arch} --kernel-deb FILE"
    )]
    NoKernel {
        /// The package to get.
        package: String,
        /// For which processor.
        arch: Arch,
        /// Why it was not got.
        reason: String,
    },
    /// The program for the own disk of UEFI machines cannot be made.
    #[error(
        "the loader for UEFI machines' own disks cannot be made: {reason}\n  install what makes it: apt-get install grub-common {package}\n  for another processor than this machine's: apt-get download {package}, and name its file with --loader-deb"
    )]
    NoGrub {
        /// What failed.
        reason: String,
        /// The package of GRUB's modules.
        package: &'static str,
    },
    /// The package's container or paths.
    #[error("{} {error}", path.display())]
    Deb {
        /// The package's file.
        path: PathBuf,
        /// What is wrong with it.
        error: DebError,
    },
    /// A Debian package, but not of a kernel with its modules.
    #[error("{} is no kernel package: {why}; get linux-image-VERSION-amd64 or -arm64 (without VERSION it is empty)", deb.display())]
    NotAKernel {
        /// The package's file.
        deb: PathBuf,
        /// What is missing.
        why: String,
    },
    /// A link or device where the kernel or a module should be.
    #[error("{} is refused: {name} in it is not an ordinary file", deb.display())]
    NotAFile {
        /// The package's file.
        deb: PathBuf,
        /// The path in it.
        name: String,
    },
    /// A module that is not one.
    #[error("{}: {name} {error}", deb.display())]
    BadModule {
        /// The package's file.
        deb: PathBuf,
        /// The path in it.
        name: String,
        /// What is wrong.
        error: ElfError,
    },
    /// The recipe and the kernel do not go together.
    #[error(transparent)]
    Choice(#[from] ChoiceError),
    /// The agent cannot be `/init`.
    #[error("the agent {} {error}", path.display())]
    Agent {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        error: ElfError,
    },
    /// The agent's file is far too large to be one.
    #[error("the agent {} has {bytes} bytes; a boot image cannot carry that (build it with scripts/build-agent)", path.display())]
    AgentTooLarge {
        /// Its file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The trust root is not JSON.
    #[error("the site's trust root is not JSON: {0}")]
    Trust(serde_json::Error),
    /// The trust root is far too large to be one.
    #[error("the site's trust root has {0} bytes; at most 1 MiB is read")]
    TrustTooLarge(usize),
    /// Loaders are missing.
    #[error(
        "no {names} in {places}: run `apt-get install {packages}`, or name the packages' files with --loader-deb, or for iPXE a folder with --ipxe-dir"
    )]
    NoLoader {
        /// Which.
        names: String,
        /// Where they were looked for.
        places: String,
        /// Debian's packages that have them.
        packages: &'static str,
    },
    /// systemd's stub is missing.
    #[error(
        "no {} for the signed image: run `apt-get install systemd-boot-efi`, or name it with --uki-stub, or its package's file with --loader-deb", path.display()
    )]
    NoStub {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The image for Secure Boot.
    #[error("the signed image: {0}")]
    Secure(#[from] super::secure::SecureError),
    /// A loader is something else.
    #[error("{} cannot be used: {why}", path.display())]
    BadLoader {
        /// Its file.
        path: PathBuf,
        /// What is wrong.
        why: &'static str,
    },
    /// The temporary file for modules.
    #[error("the temporary file for kernel modules: {0}")]
    Spool(io::Error),
    /// The compressor.
    #[error("compressing: {0}")]
    Compress(io::Error),
    /// A file larger than the initrd's format can hold.
    #[error(transparent)]
    TooLarge(#[from] TooLargeForImage),
    /// `image.json` or the kept facts.
    #[error("image.json: {0}")]
    Json(serde_json::Error),
}

/// A file larger than the initrd's format can hold.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct TooLargeForImage(TooLarge);

impl From<TooLarge> for ImageError {
    fn from(error: TooLarge) -> Self {
        Self::TooLarge(TooLargeForImage(error))
    }
}

impl ImageError {
    /// Adds the path to an error of the system.
    pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |error| Self::File {
            path: path.to_owned(),
            error,
        }
    }

    /// Adds the package's path to what is wrong with it.
    pub(super) fn deb(path: &Path) -> impl Fn(DebError) -> Self {
        move |error| Self::Deb {
            path: path.to_owned(),
            error,
        }
    }
}
