//! From a kernel package to `vmlinuz` and the initrd's kernel part, kept for
//! the next build: unpacking and compressing take most of a build's time and
//! depend on nothing of the site.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use serde::{Deserialize, Serialize};

use super::catalogue::{Catalogue, Choice, Module};
use super::deb::{Deb, DebError, Entry, Kind};
use super::initrd::{self, MODULE_SUFFIX, PackedModule, Texts};
use super::manifest::{Digest, Facts, Stored};
use super::recipe::Recipe;
use super::{Arch, ImageError, Progress, depmod};
use crate::durable::{self, Access};

/// Raised whenever the kernel part's bytes change for the same input.
const FORM: u32 = 1;
/// Debian's largest module has 6 MB (amdgpu, 15 MB), its kernels 8 to 14 MB.
const MAX_FILE: u64 = 64 << 20;
const MAX_TEXT: u64 = 4 << 20;
const MAX_MODULES: usize = 20_000;
/// All modules of a Debian kernel have 350 MB.
const MAX_SPOOL: u64 = 2 << 30;

/// What a kernel package came to.
#[derive(Debug)]
pub(super) struct KernelPart {
    pub(super) facts: Facts,
    pub(super) vmlinuz: Vec<u8>,
    /// The first part of the initrd.
    pub(super) modules: Vec<u8>,
    /// Whether it lay ready from an earlier build.
    pub(super) cached: bool,
}

/// The kernel part for a package and a recipe, from the cache if it is there.
pub(super) fn prepare(
    arch: Arch,
    deb: &Path,
    recipe: &Recipe,
    cache: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<KernelPart, ImageError> {
    progress(Progress::ReadingPackage {
        path: deb.to_owned(),
    });
    let deb_sha256 = digest_of_file(deb)?;
    let recipe_sha256 = Digest::of(recipe.text.as_bytes()).to_hex();
    let zstd_version = zstd::zstd_safe::version_number();
    let key =
        Digest::of(format!("{FORM}\n{deb_sha256}\n{recipe_sha256}\n{zstd_version}").as_bytes())
            .to_hex();
    let kept = Kept {
        folder: cache.join(format!("kernel-{}", key.get(..24).unwrap_or(&key))),
    };
    if let Some(part) = kept.load() {
        progress(Progress::KernelCached {
            version: part.facts.version.clone(),
        });
        return Ok(part);
    }
    let package = Deb::open(deb, arch).map_err(ImageError::deb(deb))?;
    let contents = Contents::read(deb, &package, cache)?;
    let catalogue = Catalogue::new(contents.modules, &contents.builtin, &contents.order)?;
    let choice = catalogue.choose(recipe)?;
    progress(Progress::Chosen {
        modules: choice.modules.len(),
        of: catalogue.len(),
        left_out: choice.left_out.clone(),
    });
    let packed = pack(&choice, &contents.spool, progress)?;
    let indexes = depmod::indexes(&choice.modules, MODULE_SUFFIX)?;
    let texts = Texts {
        indexes,
        builtin: contents.builtin.clone(),
        order: chosen_order(&choice),
    };
    let facts = Facts {
        version: contents.version,
        package: package.package,
        package_version: package.version,
        deb_sha256,
        recipe_sha256,
        modules: packed.len(),
        left_out: choice.left_out,
    };
    let modules = initrd::kernel_part(&facts.version, &packed, &texts)?;
    let part = KernelPart {
        facts,
        vmlinuz: contents.vmlinuz,
        modules,
        cached: false,
    };
    kept.store(&part)?;
    Ok(part)
}

/// `modules.order` of the image: only what is in it.
fn chosen_order(choice: &Choice<'_>) -> String {
    choice
        .modules
        .iter()
        .map(|m| format!("{}\n", m.path))
        .collect()
}

fn digest_of_file(path: &Path) -> Result<String, ImageError> {
    let mut file = File::open(path).map_err(ImageError::at(path))?;
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = file.read(&mut buffer).map_err(ImageError::at(path))?;
        let Some(chunk) = buffer.get(..n).filter(|c| !c.is_empty()) else {
            break;
        };
        context.update(chunk);
    }
    Ok(data_encoding::HEXLOWER.encode(context.finish().as_ref()))
}

/// What the package holds that could matter.
struct Contents {
    version: String,
    vmlinuz: Vec<u8>,
    modules: Vec<Module>,
    spool: Spool,
    builtin: String,
    order: String,
}

/// The modules' bytes: 350 MB that need not lie in memory, in a file without
/// a name.
struct Spool {
    file: File,
    end: u64,
    places: BTreeMap<String, Range<u64>>,
}

impl Contents {
    fn read(path: &Path, package: &Deb, cache: &Path) -> Result<Self, ImageError> {
        let mut spool = Spool::new(cache)?;
        let (mut vmlinuz, mut modules) = (BTreeMap::new(), Vec::new());
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        let mut versions: BTreeMap<String, ()> = BTreeMap::new();
        package.for_each(&ImageError::deb(path), &mut |entry| {
            match Wanted::of(&entry.path) {
                None => {}
                Some(_) if entry.kind == Kind::Other => {
                    return Err(ImageError::NotAFile {
                        deb: path.to_owned(),
                        name: entry.path,
                    });
                }
                Some(Wanted::Kernel(version)) => {
                    vmlinuz.insert(
                        version,
                        entry.read(MAX_FILE).map_err(ImageError::deb(path))?,
                    );
                }
                Some(Wanted::Module(version, inner)) => {
                    versions.insert(version, ());
                    modules.push(module(path, entry, &inner, &mut spool)?);
                }
                Some(Wanted::Text(name)) => {
                    let bytes = entry.read(MAX_TEXT).map_err(ImageError::deb(path))?;
                    texts.insert(name, String::from_utf8_lossy(&bytes).into_owned());
                }
            }
            Ok(())
        })?;
        let not_a_kernel = |why: &str| ImageError::NotAKernel {
            deb: path.to_owned(),
            why: why.to_owned(),
        };
        let one = vmlinuz.len() == 1;
        let Some((version, vmlinuz)) = vmlinuz.pop_first().filter(|_| one) else {
            return Err(not_a_kernel(
                "it does not hold exactly one boot/vmlinuz-VERSION",
            ));
        };
        if versions.keys().ne([&version]) {
            return Err(not_a_kernel(&format!(
                "it does not hold the modules of {version}"
            )));
        }
        let mut text = |name: &str| {
            texts
                .remove(&format!("{version}/{name}"))
                .ok_or_else(|| not_a_kernel(&format!("it has no {name}")))
        };
        Ok(Self {
            builtin: text("modules.builtin")?,
            order: text("modules.order")?,
            version,
            vmlinuz,
            modules,
            spool,
        })
    }
}

/// Paths of a kernel package that this room reads.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Version.
    Kernel(String),
    /// Version, and the path below its folder without a compression's suffix.
    Module(String, String),
    /// `VERSION/modules.order` or `VERSION/modules.builtin`.
    Text(String),
}

impl Wanted {
    fn of(path: &str) -> Option<Self> {
        if let Some(version) = path.strip_prefix("boot/vmlinuz-") {
            return is_version(version).then(|| Self::Kernel(version.to_owned()));
        }
        // Debian 13 packages modules below usr/.
        let inner = path
            .strip_prefix("usr/")
            .unwrap_or(path)
            .strip_prefix("lib/modules/")?;
        let (version, file) = inner
            .split_once('/')
            .filter(|(version, _)| is_version(version))?;
        if matches!(file, "modules.builtin" | "modules.order") {
            return Some(Self::Text(inner.to_owned()));
        }
        let plain = file
            .strip_suffix(".xz")
            .or_else(|| file.strip_suffix(".zst"))
            .unwrap_or(file);
        // A blank or a colon would be read as syntax in modules.dep.
        let clean = plain.bytes().all(|b| b.is_ascii_graphic() && b != b':');
        let is_module = plain.starts_with("kernel/") && plain.ends_with(".ko") && clean;
        is_module.then(|| Self::Module(version.to_owned(), plain.to_owned()))
    }
}

/// What `uname -r` may say; it becomes a folder's name.
fn is_version(text: &str) -> bool {
    let clean = text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || b".+-_~".contains(&b));
    clean && text.len() <= 64 && text.starts_with(|c: char| c.is_ascii_digit())
}

fn module(
    deb: &Path,
    entry: Entry<'_>,
    inner: &str,
    spool: &mut Spool,
) -> Result<Module, ImageError> {
    let name = entry.path.clone();
    if spool.places.len() == MAX_MODULES {
        return Err(ImageError::deb(deb)(DebError::TooMuch(format!(
            "more than {MAX_MODULES} modules"
        ))));
    }
    let packed = entry.read(MAX_FILE).map_err(ImageError::deb(deb))?;
    let plain = unpacked(&name, packed).map_err(|e| ImageError::deb(deb)(DebError::Read(e)))?;
    let module = Module::read(inner, &plain).map_err(|error| ImageError::BadModule {
        deb: deb.to_owned(),
        name,
        error,
    })?;
    spool.add(inner, &plain)?;
    Ok(module)
}

/// Newer kernels are packaged with compressed modules.
fn unpacked(name: &str, packed: Vec<u8>) -> std::io::Result<Vec<u8>> {
    let mut plain = Vec::new();
    let size = if name.ends_with(".xz") {
        xz2::read::XzDecoder::new(&packed[..])
            .take(MAX_FILE + 1)
            .read_to_end(&mut plain)?
    } else if name.ends_with(".zst") {
        zstd::stream::read::Decoder::new(&packed[..])?
            .take(MAX_FILE + 1)
            .read_to_end(&mut plain)?
    } else {
        return Ok(packed);
    };
    if size as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!(
            "{name} unpacks to more than {MAX_FILE} bytes"
        )));
    }
    Ok(plain)
}

impl Spool {
    fn new(folder: &Path) -> Result<Self, ImageError> {
        let path = folder.join(format!(".spool-{}", std::process::id()));
        // A name of this process's own that is still there is from a dead one.
        let _ = fs::remove_file(&path);
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(ImageError::at(&path))?;
        fs::remove_file(&path).map_err(ImageError::at(&path))?;
        Ok(Self {
            file,
            end: 0,
            places: BTreeMap::new(),
        })
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<(), ImageError> {
        let start = self.end;
        self.end += content.len() as u64;
        if self.end > MAX_SPOOL {
            return Err(ImageError::Spool(std::io::Error::other(
                "the modules are more than 2 GiB",
            )));
        }
        self.file.write_all(content).map_err(ImageError::Spool)?;
        self.places.insert(name.to_owned(), start..self.end);
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let place = self.places.get(name).cloned().unwrap_or_default();
        let size = usize::try_from(place.end - place.start).unwrap_or_default();
        let mut content = vec![0; size];
        self.file
            .read_exact_at(&mut content, place.start)
            .map_err(ImageError::Spool)?;
        Ok(content)
    }
}

/// Compresses the chosen modules on all processors; the result does not depend
/// on how many there are.
fn pack(
    choice: &Choice<'_>,
    spool: &Spool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<PackedModule>, ImageError> {
    let modules = &choice.modules;
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    let work = |sender: mpsc::Sender<Result<PackedModule, ImageError>>| {
        while let Some(module) = modules.get(next.fetch_add(1, Ordering::Relaxed)) {
            let content = spool
                .read(&module.path)
                .and_then(|plain| initrd::compressed(&plain));
            let packed = content.map(|content| PackedModule {
                path: module.path.clone(),
                content,
            });
            // The receiver is gone only after an error; then nobody waits.
            if sender.send(packed).is_err() {
                return;
            }
        }
    };
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(16);
    let mut packed = std::thread::scope(|scope| {
        for _ in 0..threads {
            let sender = sender.clone();
            scope.spawn(|| work(sender));
        }
        drop(sender);
        let numbered = receiver.into_iter().zip(1..);
        numbered
            .map(|(module, done)| {
                progress(Progress::Compressing {
                    done,
                    of: modules.len(),
                });
                module
            })
            .collect::<Result<Vec<_>, _>>()
    })?;
    packed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(packed)
}

/// A kernel part on the disk; `facts.json` is written last and names the
/// digests, so a half-written or damaged one is simply made again.
struct Kept {
    folder: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeptFacts {
    facts: Facts,
    vmlinuz: Stored,
    modules: Stored,
}

impl Kept {
    fn load(&self) -> Option<KernelPart> {
        let kept: KeptFacts =
            serde_json::from_slice(&fs::read(self.folder.join("facts.json")).ok()?).ok()?;
        let read = |name: &str, stored: &Stored| {
            let content = fs::read(self.folder.join(name)).ok()?;
            (Stored::of(&content) == *stored).then_some(content)
        };
        let (vmlinuz, modules) = (
            read("vmlinuz", &kept.vmlinuz)?,
            read("modules.img", &kept.modules)?,
        );
        Some(KernelPart {
            facts: kept.facts,
            vmlinuz,
            modules,
            cached: true,
        })
    }

    fn store(&self, part: &KernelPart) -> Result<(), ImageError> {
        fs::create_dir_all(&self.folder).map_err(ImageError::at(&self.folder))?;
        let facts = KeptFacts {
            facts: part.facts.clone(),
            vmlinuz: Stored::of(&part.vmlinuz),
            modules: Stored::of(&part.modules),
        };
        let facts = serde_json::to_vec_pretty(&facts).map_err(ImageError::Json)?;
        for (name, content) in [
            ("vmlinuz", &part.vmlinuz),
            ("modules.img", &part.modules),
            ("facts.json", &facts),
        ] {
            let path = self.folder.join(name);
            durable::write(&path, content, Access::Public).map_err(ImageError::at(&path))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clean_paths_are_wanted() {
        let module = |path: &str| Some(Wanted::Module("6.1.0-1-amd64".into(), path.into()));
        assert_eq!(
            Wanted::of("boot/vmlinuz-6.1.0-1-amd64"),
            Some(Wanted::Kernel("6.1.0-1-amd64".into()))
        );
        assert_eq!(
            Wanted::of("lib/modules/6.1.0-1-amd64/kernel/fs/x.ko"),
            module("kernel/fs/x.ko")
        );
        assert_eq!(
            Wanted::of("usr/lib/modules/6.1.0-1-amd64/kernel/fs/x.ko.xz"),
            module("kernel/fs/x.ko")
        );
        for other in [
            "boot/vmlinuz-$(id)",
            "boot/vmlinuz-",
            "boot/config-6.1.0-1-amd64",
            "lib/modules/6.1.0-1-amd64/kernel/fs/a b.ko",
            "lib/modules/6.1.0-1-amd64/kernel/fs/a:b.ko",
            "lib/modules/x y/kernel/a.ko",
            "lib/modules/6.1.0-1-amd64/updates/a.ko",
        ] {
            assert_eq!(Wanted::of(other), None, "{other}");
        }
    }
}
