//! Where the kernel package comes from: a file that was named, one that apt has
//! already fetched, or one that apt fetches now.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Arch, ImageError, Progress};

/// Where `apt` keeps what it installed from.
const APT_ARCHIVES: &str = "/var/cache/apt/archives";
/// What apt can do for us; a trait so that tests need neither apt nor network.
pub(super) trait Packages {
    /// The real package behind the metapackage, `linux-image-6.1.0-56-amd64`.
    fn wanted(&self) -> Option<String>;
    /// Fetches a package into a folder; the reason in words where it cannot.
    fn download(&self, package: &str, folder: &Path) -> Result<(), String>;
}

/// The machine's own apt.
pub(super) struct Apt(pub(super) Arch);

impl Packages for Apt {
    fn wanted(&self) -> Option<String> {
        let output = Command::new("apt-cache")
            .args([
                "depends",
                "--important",
                &qualified(&metapackage(self.0), self.0),
            ])
            .env("LC_ALL", "C")
            .output()
            .ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let names = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        names
            .map(str::trim)
            .map(|name| name.split(':').next().unwrap_or(name))
            .find(|name| kernel_version_of(name, self.0).is_some())
            .map(str::to_owned)
    }

    fn download(&self, package: &str, folder: &Path) -> Result<(), String> {
        let mut command = Command::new("apt-get");
        command
            .args(["--quiet", "download", &qualified(package, self.0)])
            .current_dir(folder)
            .env("LC_ALL", "C");
        let output = command
            .output()
            .map_err(|e| format!("apt-get cannot be started: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        let errors: Vec<_> = text
            .lines()
            .filter(|line| line.starts_with("E: "))
            .take(3)
            .collect();
        Err(if errors.is_empty() {
            format!("apt-get ended with {}", output.status)
        } else {
            errors.join(" ")
        })
    }
}

/// Depends on the newest kernel of the release.
fn metapackage(arch: Arch) -> String {
    format!("linux-image-{arch}")
}

/// How apt is asked for a package of a processor that need not be this machine's.
fn qualified(package: &str, arch: Arch) -> String {
    format!("{package}:{arch}")
}

/// The kernel package to use. `cache` keeps what is fetched.
pub(super) fn kernel_deb(
    arch: Arch,
    cache: &Path,
    apt: &dyn Packages,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, ImageError> {
    kernel_deb_among(
        arch,
        &[cache, Path::new(APT_ARCHIVES)],
        cache,
        apt,
        progress,
    )
}

fn kernel_deb_among(
    arch: Arch,
    folders: &[&Path],
    cache: &Path,
    apt: &dyn Packages,
    progress: &mut dyn FnMut(Progress),
) -> Result<PathBuf, ImageError> {
    let present: Vec<PathBuf> = folders
        .iter()
        .flat_map(|folder| kernels_in(folder, arch))
        .collect();
    let wanted = apt.wanted();
    let reason = match &wanted {
        Some(package) => {
            if let Some(path) = newest(
                present
                    .iter()
                    .filter(|p| package_of(p, arch) == Some(package)),
            ) {
                return Ok(path);
            }
            progress(Progress::Downloading {
                package: package.clone(),
            });
            match download(arch, package, cache, apt)? {
                Ok(path) => return Ok(path),
                Err(reason) => reason,
            }
        }
        None => format!(
            "apt does not know {} (not Debian, or `apt-get update` was never run{})",
            metapackage(arch),
            match arch {
                Arch::Amd64 => "",
                Arch::Arm64 => ", or `dpkg --add-architecture arm64` before it",
            }
        ),
    };
    let example = wanted.unwrap_or_else(|| format!("linux-image-6.1.0-NN-{arch}"));
    let path = newest(present.iter()).ok_or(ImageError::NoKernel {
        package: qualified(&example, arch),
        arch,
        reason: reason.clone(),
    })?;
    progress(Progress::OlderKernel {
        path: path.clone(),
        reason,
    });
    Ok(path)
}

/// Fetches into a folder of its own first: a broken download never looks like
/// a package. The inner error is apt's reason.
fn download(
    arch: Arch,
    package: &str,
    cache: &Path,
    apt: &dyn Packages,
) -> Result<Result<PathBuf, String>, ImageError> {
    let folder = cache.join(format!(".fetch-{}", std::process::id()));
    fs::create_dir_all(&folder).map_err(ImageError::at(&folder))?;
    let fetched = apt
        .download(package, &folder)
        .map(|()| newest(kernels_in(&folder, arch).iter()));
    let kept = match fetched {
        Ok(Some(path)) => {
            let to = cache.join(path.file_name().unwrap_or_default());
            fs::rename(&path, &to)
                .map(|()| Ok(to))
                .map_err(ImageError::at(&path))
        }
        Ok(None) => Ok(Err(format!(
            "apt-get download {package} left no package file"
        ))),
        Err(reason) => Ok(Err(reason)),
    };
    let _ = fs::remove_dir_all(&folder);
    kept
}

fn kernels_in(folder: &Path, arch: Arch) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|e| e.path())
        .filter(|p| package_of(p, arch).is_some())
        .collect()
}

/// `.../linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb` is of the package
/// `linux-image-6.1.0-56-amd64`; none for anything but a full kernel.
fn package_of(path: &Path, arch: Arch) -> Option<&str> {
    let name = path.file_name()?.to_str()?.strip_suffix(".deb")?;
    let package = name
        .strip_suffix(arch.debian())?
        .strip_suffix('_')?
        .split_once('_')?
        .0;
    kernel_version_of(package, arch).map(|_| package)
}

/// `6.1.0-56` of `linux-image-6.1.0-56-amd64`. The cloud flavour lacks most
/// drivers, the rt flavour and the unsigned and debug forms are for others.
fn kernel_version_of(package: &str, arch: Arch) -> Option<&str> {
    let version = package
        .strip_prefix("linux-image-")?
        .strip_suffix(arch.debian())?
        .strip_suffix('-')?;
    let full = !version.ends_with("-cloud") && !version.ends_with("-rt");
    (full && version.starts_with(|c: char| c.is_ascii_digit())).then_some(version)
}

fn newest<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Option<PathBuf> {
    paths
        .max_by_key(|path| natural(&path.file_name().unwrap_or_default().to_string_lossy()))
        .cloned()
}

/// Sorts `6.1.0-9` before `6.1.0-56`.
fn natural(text: &str) -> Vec<(u64, String)> {
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let words = after
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(after.len());
        let (word, next) = after.split_at(words);
        parts.push((number.parse().unwrap_or(0), word.to_owned()));
        rest = next;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fake(Option<&'static str>, Result<&'static str, &'static str>);

    impl Packages for Fake {
        fn wanted(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }
        fn download(&self, _: &str, folder: &Path) -> Result<(), String> {
            let name = self.1.map_err(str::to_owned)?;
            fs::write(folder.join(name), b"x").map_err(|e| e.to_string())
        }
    }

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            fs::write(folder.path().join(name), b"x").unwrap();
        }
        folder
    }

    fn find(folder: &Path, apt: &Fake) -> (Result<String, ImageError>, Vec<String>) {
        let mut said = Vec::new();
        let found = kernel_deb_among(Arch::Amd64, &[folder], folder, apt, &mut |p| {
            said.push(p.to_string());
        });
        (
            found.map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()),
            said,
        )
    }

    const WANTED: &str = "linux-image-6.1.0-56-amd64";
    const FILE: &str = "linux-image-6.1.0-56-amd64_6.1.192-2_amd64.deb";

    #[test]
    fn only_full_kernels_count_and_the_newest_wins() {
        let there = folder(&[
            "linux-image-6.1.0-9-amd64_6.1.27-1_amd64.deb",
            "linux-image-6.1.0-37-amd64_6.1.140-1_amd64.deb",
            "linux-image-6.1.0-99-cloud-amd64_6.1.140-1_amd64.deb",
            "linux-image-6.1.0-99-rt-amd64_6.1.140-1_amd64.deb",
            "linux-image-6.1.0-99-amd64-unsigned_6.1.140-1_amd64.deb",
            "linux-image-amd64_6.1.192-2_amd64.deb",
        ]);
        let (found, said) = find(there.path(), &Fake(None, Err("no network")));
        assert_eq!(
            found.unwrap(),
            "linux-image-6.1.0-37-amd64_6.1.140-1_amd64.deb"
        );
        assert!(said[0].contains("apt-get update"), "{said:?}");
    }

    #[test]
    fn what_apt_wants_is_taken_from_the_cache_or_fetched() {
        let there = folder(&[FILE]);
        assert_eq!(
            find(there.path(), &Fake(Some(WANTED), Err("no network")))
                .0
                .unwrap(),
            FILE
        );
        let empty = folder(&[]);
        let (found, said) = find(empty.path(), &Fake(Some(WANTED), Ok(FILE)));
        assert_eq!(found.unwrap(), FILE);
        assert_eq!(said.len(), 1);
        assert_eq!(
            fs::read_dir(empty.path()).unwrap().count(),
            1,
            "nothing else stays"
        );
    }

    #[test]
    fn offline_with_nothing_says_how_to_get_it() {
        let (found, _) = find(
            folder(&[]).path(),
            &Fake(Some(WANTED), Err("E: Could not resolve 'mirror.example'")),
        );
        let error = found.unwrap_err().to_string();
        for part in [
            "Could not resolve",
            "apt-get download linux-image-6.1.0-56-amd64:amd64",
            "--kernel-deb",
        ] {
            assert!(error.contains(part), "{error}");
        }
    }
}
