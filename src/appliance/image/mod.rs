//! The boot image: Debian's kernel, the modules a device may need, the agent,
//! the site's trust root, and the loaders that fetch them.
//!
//! [`build`] reads a kernel package without installing it, chooses modules by
//! a recipe (`image/modules.toml`), writes the initrd itself and puts the
//! result into the site's boot folder. Same input, same bytes. No root is
//! needed, and on a machine without network only the kernel package's file.

mod arch;
mod catalogue;
mod cpio;
mod deb;
mod depmod;
mod elf;
mod error;
mod find;
mod initrd;
mod kernel;
mod loaders;
mod local;
mod manifest;
pub mod names;
mod packages;
mod progress;
mod recipe;
pub mod secure;
#[cfg(test)]
mod tests;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use local::Says;
use secure::Signer;
use serde::Serialize;

pub use arch::Arch;
pub use catalogue::ChoiceError;
pub use deb::DebError;
pub use elf::ElfError;
pub use error::ImageError;
pub use loaders::LoaderSet;
pub use manifest::{Agent, BootFile, Facts, MANIFEST, Manifest, Stored, UkiFacts};
pub use names::{INITRD, VMLINUZ};
pub use packages::Packages;
pub use progress::Progress;
pub use recipe::Recipe;

/// Kernel and initrd together (DESIGN section 6).
pub const BOOT_BUDGET: u64 = 24 << 20;

/// The agent's own budget is 4 MiB; a debug build may be larger.
const MAX_AGENT: u64 = 256 << 20;
/// systemd's stub has 100 KB.
const MAX_STUB: u64 = 8 << 20;
/// A TUF root with a few keys has 2 KB.
const MAX_TRUST: usize = 1 << 20;

/// What to build a boot image from.
#[derive(Clone, Debug)]
pub struct ImageSpec {
    /// For which processor.
    pub arch: Arch,
    /// The kernel package's file; else apt is asked.
    pub kernel_deb: Option<PathBuf>,
    /// The static agent; becomes `/init`.
    pub agent: PathBuf,
    /// Its version, for `image.json`.
    pub agent_version: String,
    /// The site's trust root; becomes `/etc/groundcrew/trust.json`.
    pub trust_json: Vec<u8>,
    /// The site's boot folder. Made if absent.
    pub out: PathBuf,
    /// Keeps fetched packages and prepared kernels. Made if absent.
    pub cache: PathBuf,
    /// Folders searched for iPXE before those of Debian's package.
    pub ipxe_dirs: Vec<PathBuf>,
    /// Packages with loaders, where they cannot be installed.
    pub loader_debs: Packages,
    /// Which modules go in.
    pub recipe: Recipe,
    /// Loaders beside iPXE.
    pub more_loaders: Vec<LoaderSet>,
    /// The site's own image for UEFI, if it is wanted.
    pub uki: Option<UkiSpec>,
}

/// What the site's own image for UEFI is made of, beside kernel and initrd.
#[derive(Clone, Debug)]
pub struct UkiSpec {
    /// systemd's EFI stub.
    pub stub: PathBuf,
    /// The kernel's whole command line.
    pub command_line: String,
    /// Signs it and what starts the own disk; without one Secure Boot refuses them.
    pub signer: Option<Arc<Signer>>,
    /// Also for shim to start, see [`names::BehindShim`].
    pub behind_shim: bool,
}

/// What was built.
#[derive(Clone, Debug, Serialize)]
pub struct ImageReport {
    /// For which processor.
    pub arch: Arch,
    /// The boot folder.
    pub out: PathBuf,
    /// The kernel package that was used.
    pub kernel_deb: PathBuf,
    /// Whether the kernel part lay ready from an earlier build.
    pub kernel_cached: bool,
    /// Whether kernel and initrd keep to [`BOOT_BUDGET`].
    pub within_budget: bool,
    /// What `image.json` says.
    #[serde(flatten)]
    pub manifest: Manifest,
}

/// Builds a boot image and puts it into the boot folder. Takes about half a
/// minute for a kernel that is new to the cache and a second otherwise;
/// `progress` is called on this thread. On an error the folder keeps what it
/// had.
pub fn build(
    spec: &ImageSpec,
    progress: &mut dyn FnMut(Progress),
) -> Result<ImageReport, ImageError> {
    // What the user can put right at once comes before half a minute's work.
    let arch = spec.arch;
    let agent = read_agent(&spec.agent, arch)?;
    check_trust(&spec.trust_json)?;
    let mut loaders = loaders_of(spec, LoaderSet::Ipxe)?;
    for set in &spec.more_loaders {
        loaders.extend(loaders_of(spec, *set)?);
    }
    let behind_shim = spec.uki.as_ref().is_some_and(|uki| uki.behind_shim);
    if behind_shim {
        loaders.extend(loaders_of(spec, LoaderSet::BehindShim)?);
    }
    let own_disk = disk_starter(spec, behind_shim, Says::Nothing)?;
    // Whoever runs a text is told by the text.
    let held = match &spec.uki {
        Some(_) => Some(disk_starter(spec, behind_shim, Says::Held)?),
        None => None,
    };
    let stub = spec
        .uki
        .as_ref()
        .map(|uki| read_stub(spec, uki))
        .transpose()?;
    fs::create_dir_all(&spec.cache).map_err(ImageError::at(&spec.cache))?;
    let deb = match &spec.kernel_deb {
        Some(path) => path.clone(),
        None => find::kernel_deb(arch, &spec.cache, &find::Apt(arch), progress)?,
    };
    let kernel = kernel::prepare(arch, &deb, &spec.recipe, &spec.cache, progress)?;
    progress(Progress::Assembling);
    let mut initrd = kernel.modules;
    initrd.extend(initrd::agent_part(&agent)?);
    initrd.extend(initrd::trust_part(&spec.trust_json)?);
    let mut files: Vec<(&str, &[u8])> = vec![(VMLINUZ, &kernel.vmlinuz), (INITRD, &initrd)];
    files.extend(loaders.iter().map(|l| (l.name, &l.content[..])));
    files.push((names::OWN_DISK, &own_disk));
    let uki = match (&spec.uki, &stub) {
        (Some(spec), Some(stub)) => Some(uki(spec, stub, &kernel.facts, &kernel.vmlinuz, &initrd)?),
        _ => None,
    };
    if let (Some((content, _)), Some(held)) = (&uki, &held) {
        files.extend([(names::UKI, &content[..]), (names::HELD, held)]);
        if behind_shim {
            let names = arch.behind_shim();
            files.extend([
                (names.image.starts, &content[..]),
                (names.own_disk.starts, &own_disk),
                (names.held.starts, held),
            ]);
        }
    }
    let manifest = Manifest {
        format: 1,
        kernel: kernel.facts,
        agent: Agent {
            version: spec.agent_version.clone(),
            stored: Stored::of(&agent),
        },
        trust_sha256: Stored::of(&spec.trust_json).sha256,
        files: files
            .iter()
            .map(|(name, content)| BootFile {
                name: (*name).to_owned(),
                stored: Stored::of(content),
            })
            .collect(),
        boot_bytes: (kernel.vmlinuz.len() + initrd.len()) as u64,
        uki: uki.as_ref().map(|(_, facts)| facts.clone()),
    };
    progress(Progress::Writing {
        out: spec.out.clone(),
    });
    manifest::publish(&spec.out, &files, &manifest)?;
    Ok(ImageReport {
        arch,
        out: spec.out.clone(),
        kernel_deb: deb,
        kernel_cached: kernel.cached,
        within_budget: manifest.boot_bytes <= BOOT_BUDGET,
        manifest,
    })
}

/// A static program as an initrd of its own, `/NAME` in it.
pub fn program_initrd(name: &str, program: &Path) -> Result<Vec<u8>, ImageError> {
    initrd::program_part(name, &read_agent(program, Arch::Amd64)?)
}

fn loaders_of(spec: &ImageSpec, set: LoaderSet) -> Result<Vec<loaders::Loader>, ImageError> {
    loaders::find(set, spec.arch, &spec.ipxe_dirs, &spec.loader_debs)
}

fn disk_starter(spec: &ImageSpec, behind_shim: bool, says: Says) -> Result<Vec<u8>, ImageError> {
    let sbat = match behind_shim {
        true => Some(sbat_of_grub(spec)?),
        false => None,
    };
    let starter = local::build(spec.arch, &spec.loader_debs, sbat.as_deref(), says)?;
    let signer = spec.uki.as_ref().and_then(|uki| uki.signer.as_deref());
    match signer {
        Some(signer) => Ok(secure::sign(starter, signer)?),
        None => Ok(starter),
    }
}

/// Debian's own word on how old its GRUB is, out of the GRUB that it signed: the
/// modules of one version are of one source.
fn sbat_of_grub(spec: &ImageSpec) -> Result<Vec<u8>, ImageError> {
    let signed = loaders_of(spec, LoaderSet::Shim)?;
    let grub = signed
        .into_iter()
        .find(|one| [names::GRUB, names::GRUB_ARM64].contains(&one.name));
    Ok(secure::sbat(
        grub.map(|grub| grub.content).unwrap_or_default(),
    )?)
}

fn read_stub(spec: &ImageSpec, uki: &UkiSpec) -> Result<Vec<u8>, ImageError> {
    match fs::read(&uki.stub) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let packed = spec.loader_debs.read(spec.arch, &uki.stub, MAX_STUB)?;
            packed.ok_or_else(|| ImageError::NoStub {
                path: uki.stub.clone(),
            })
        }
        read => read.map_err(ImageError::at(&uki.stub)),
    }
}

/// The site's own image, and what `image.json` says of it.
fn uki(
    spec: &UkiSpec,
    stub: &[u8],
    kernel: &Facts,
    vmlinuz: &[u8],
    initrd: &[u8],
) -> Result<(Vec<u8>, UkiFacts), ImageError> {
    let os_release = format!(
        "ID=groundcrew\nNAME=groundcrew\nPRETTY_NAME=\"groundcrew, kernel {}\"\n",
        kernel.version
    );
    let image = secure::uki(&secure::Parts {
        stub,
        os_release: &os_release,
        command_line: &spec.command_line,
        kernel: vmlinuz,
        initrd,
    })?;
    let facts = UkiFacts {
        command_line: spec.command_line.clone(),
        signed_by: spec.signer.as_ref().map(|signer| signer.fingerprint()),
    };
    match &spec.signer {
        Some(signer) => Ok((secure::sign(image, signer)?, facts)),
        None => Ok((image, facts)),
    }
}

fn read_agent(path: &Path, arch: Arch) -> Result<Vec<u8>, ImageError> {
    let size = fs::metadata(path).map_err(ImageError::at(path))?.len();
    if size > MAX_AGENT {
        return Err(ImageError::AgentTooLarge {
            path: path.to_owned(),
            bytes: size,
        });
    }
    let content = fs::read(path).map_err(ImageError::at(path))?;
    let checked = elf::Elf::parse(&content).and_then(|elf| elf.check_static(arch));
    checked.map_err(|error| ImageError::Agent {
        path: path.to_owned(),
        error,
    })?;
    Ok(content)
}

/// The agent reads it before it can say anything to anybody: a slip here would
/// be seen on a device's screen first.
fn check_trust(trust_json: &[u8]) -> Result<(), ImageError> {
    if trust_json.len() > MAX_TRUST {
        return Err(ImageError::TrustTooLarge(trust_json.len()));
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(trust_json)
        .map(|_| ())
        .map_err(ImageError::Trust)
}
