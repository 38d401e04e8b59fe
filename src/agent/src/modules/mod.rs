//! Kernel modules: what udev and modprobe do on an installed system, as far
//! as a provisioning run needs it.
//!
//! [`Index`] knows what depmod wrote, [`Loader`] puts modules into the kernel
//! in the right order, [`coldplug()`] walks the devices that are already there
//! and [`serve_requests`] answers the kernel's own wishes (a file system, a
//! cipher) that it normally sends to `/sbin/modprobe`.

pub mod alias;
mod coldplug;
mod index;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

pub use coldplug::{Missing, coldplug, missing_drivers};
pub use index::{Index, Module};

/// The largest module that is read into memory (real ones stay below 16 MiB).
const MAX_MODULE: u64 = 64 << 20;

/// `MODULE_INIT_COMPRESSED_FILE` of `finit_module(2)`: the kernel unpacks.
const COMPRESSED: i32 = 4;

/// Why a module could not be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ModuleError {
    /// Neither a module nor an alias of this name is in the boot image.
    #[error("no module `{0}` in the boot image")]
    Unknown(String),
    /// The kernel or the file said no.
    #[error("module {name}: {why}")]
    Load {
        /// The module.
        name: String,
        /// The system's words.
        why: String,
    },
}

type Slot = Arc<OnceLock<Result<(), ModuleError>>>;

/// Loads each module once, from whichever thread asks first.
pub struct Loader {
    dir: PathBuf,
    index: Index,
    slots: Mutex<HashMap<String, Slot>>,
}

impl Loader {
    /// Reads the index of the running kernel's modules below `/lib/modules`.
    /// A boot image without modules (all built in) gives an empty loader.
    pub fn open() -> Self {
        let uname = rustix::system::uname();
        Self::at(&Path::new("/lib/modules").join(uname.release().to_string_lossy().as_ref()))
    }

    /// The same for another directory.
    pub fn at(dir: &Path) -> Self {
        let text = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        let index = Index::parse(
            &text("modules.dep"),
            &text("modules.alias"),
            &text("modules.softdep"),
        );
        Self {
            dir: dir.to_owned(),
            index,
            slots: Mutex::default(),
        }
    }

    /// What there is to load.
    pub const fn index(&self) -> &Index {
        &self.index
    }

    /// How many modules were put into the kernel.
    pub fn loaded(&self) -> usize {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots
            .values()
            .filter(|slot| matches!(slot.get(), Some(Ok(()))))
            .count()
    }

    /// Loads every module that answers to a device's `modalias` (or to a name
    /// or alias). A device nobody answers to is no error here.
    pub fn load_alias(&self, modalias: &str) -> Result<usize, ModuleError> {
        let names = self.index.resolve(modalias);
        let mut loaded = 0;
        let mut failure = None;
        for name in names {
            match self.load(&name) {
                Ok(()) => loaded += 1,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if loaded == 0 => Err(error),
            _ => Ok(loaded),
        }
    }

    /// Loads a module after everything it needs.
    pub fn load(&self, name: &str) -> Result<(), ModuleError> {
        let module = self
            .index
            .module(name)
            .ok_or_else(|| ModuleError::Unknown(name.to_owned()))?;
        for soft in &module.soft {
            for wanted in self.index.resolve(soft) {
                // Soft: absence or failure is not ours to judge, and a cycle
                // of soft needs must not become a recursion.
                let _ = self.load_needs_then(&wanted);
            }
        }
        self.load_needs_then(name)
    }

    fn load_needs_then(&self, name: &str) -> Result<(), ModuleError> {
        let Some(module) = self.index.module(name) else {
            return Err(ModuleError::Unknown(name.to_owned()));
        };
        for need in &module.needs {
            self.load_one(need)?;
        }
        self.load_one(name)
    }

    fn load_one(&self, name: &str) -> Result<(), ModuleError> {
        let slot = {
            let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
            slots.entry(name.to_owned()).or_default().clone()
        };
        slot.get_or_init(|| self.insert(name)).clone()
    }

    fn insert(&self, name: &str) -> Result<(), ModuleError> {
        let Some(module) = self.index.module(name) else {
            return Err(ModuleError::Unknown(name.to_owned()));
        };
        insert_file(&self.dir.join(&module.path)).map_err(|error| ModuleError::Load {
            name: name.to_owned(),
            why: error.to_string(),
        })
    }
}

/// Puts one module file into the kernel; already there is as good.
fn insert_file(path: &Path) -> io::Result<()> {
    let plain = path.extension().is_some_and(|e| e == "ko");
    let file = fs::File::open(path)?;
    let flags = if plain { 0 } else { COMPRESSED };
    let done = match rustix::system::finit_module(&file, c"", flags) {
        // A kernel that cannot unpack by itself.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::INVAL) if !plain => {
            let image = unpack(path)?;
            rustix::system::init_module(&image, c"")
        }
        other => other,
    };
    match done {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

fn unpack(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read as _;
    if path.extension().is_none_or(|e| e != "zst") {
        return Err(io::Error::other(
            "this kernel cannot unpack modules of this form: build the boot image with plain ones",
        ));
    }
    let mut image = Vec::new();
    let limit = MAX_MODULE;
    zstd::stream::read::Decoder::new(fs::File::open(path)?)?
        .take(limit)
        .read_to_end(&mut image)?;
    Ok(image)
}

/// Makes this program the kernel's `modprobe`, so that mounting a file system
/// or asking for a cipher finds its module. The kernel then starts
/// `PROGRAM -q -- NAME`, see [`serve_request`].
pub fn serve_requests(program: &str) -> io::Result<()> {
    fs::write("/proc/sys/kernel/modprobe", program)
}

/// One request of the kernel, in a process of its own.
pub fn serve_request(name: &str) -> Result<usize, ModuleError> {
    Loader::open().load_alias(name)
}
