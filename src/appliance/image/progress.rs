//! What a build is doing, for a person who waits.

use std::fmt;
use std::path::PathBuf;

/// A step of a build; [`fmt::Display`] says it in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// apt fetches a package (70 MB).
    Downloading {
        /// Its name.
        package: String,
    },
    /// The newest kernel cannot be had; an older package that lies here is used.
    OlderKernel {
        /// That package.
        path: PathBuf,
        /// Why not the newest.
        reason: String,
    },
    /// The package is read.
    ReadingPackage {
        /// Its file.
        path: PathBuf,
    },
    /// An earlier build prepared this kernel with this recipe.
    KernelCached {
        /// `6.1.0-56-amd64`.
        version: String,
    },
    /// The modules are chosen.
    Chosen {
        /// How many go in.
        modules: usize,
        /// Of how many.
        of: usize,
        /// Wanted, but not in this kernel.
        left_out: Vec<String>,
    },
    /// A module has been compressed.
    Compressing {
        /// So many are done.
        done: usize,
        /// Of so many.
        of: usize,
    },
    /// The initrd is put together.
    Assembling,
    /// The files are written.
    Writing {
        /// Where to.
        out: PathBuf,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Downloading { package } => {
                write!(f, "fetching {package} with apt-get (about 70 MB)")
            }
            Self::OlderKernel { path, reason } => {
                write!(
                    f,
                    "using {}, since the newest kernel cannot be had: {reason}",
                    path.display()
                )
            }
            Self::ReadingPackage { path } => write!(f, "reading {}", path.display()),
            Self::KernelCached { version } => {
                write!(f, "kernel {version} lies ready from an earlier build")
            }
            Self::Chosen {
                modules,
                of,
                left_out,
            } => {
                write!(f, "{modules} of {of} kernel modules chosen")?;
                if left_out.is_empty() {
                    Ok(())
                } else {
                    write!(f, "; not in this kernel: {}", left_out.join(", "))
                }
            }
            Self::Compressing { done, of } => write!(f, "compressing modules: {done} of {of}"),
            Self::Assembling => f.write_str("putting the initrd together"),
            Self::Writing { out } => write!(f, "writing to {}", out.display()),
        }
    }
}
