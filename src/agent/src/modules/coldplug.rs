//! Drivers for the devices that are already there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Loader, ModuleError};

/// How deep `/sys/devices` is walked; a disk behind four USB hubs is at 20.
const MAX_DEPTH: usize = 32;

/// Loads drivers for every device below `/sys/devices`, storage and network
/// first, on as many threads as there are processors (at most four). Returns
/// what went wrong, for the log: a failure concerns one device only.
pub fn coldplug(loader: &Loader) -> Vec<ModuleError> {
    let mut found = BTreeSet::new();
    walk(Path::new("/sys/devices"), 0, &mut found);
    let mut wishes: Vec<String> = found.into_iter().collect();
    wishes.sort_by_key(|alias| rank(alias));
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
    let next = AtomicUsize::new(0);
    let errors = Mutex::new(Vec::new());
    let work = || {
        while let Some(alias) = wishes.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = loader.load_alias(alias) {
                let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
                errors.push(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    errors.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Buses and classes that carry disks and networks come first: everything
/// else can load while the link trains.
fn rank(alias: &str) -> u8 {
    let pci_class = alias.split_once("bc").map(|(_, class)| class.get(..2));
    match (alias.split(':').next(), pci_class) {
        (Some("virtio"), _) | (Some("pci"), Some(Some("02" | "01"))) => 0,
        (Some("pci"), Some(Some("0C" | "0c"))) => 1,
        (Some("pci" | "usb" | "scsi" | "nvme"), _) => 2,
        _ => 3,
    }
}

fn walk(dir: &Path, depth: usize, found: &mut BTreeSet<String>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        match entry.file_type() {
            // Symlinks lead to the same devices again.
            Ok(kind) if kind.is_dir() && depth < MAX_DEPTH => walk(&path, depth + 1, found),
            Ok(kind) if kind.is_file() && entry.file_name() == "modalias" => {
                found.extend(trimmed(&path));
            }
            _ => {}
        }
    }
}

fn trimmed(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_owned())
}

/// A PCI device of a kind we need that no driver took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// `network card` or `storage controller`.
    pub what: &'static str,
    /// Vendor and device, `8086:15f3`.
    pub id: String,
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { what, id } = self;
        write!(
            f,
            "this machine's {what} {id} has no driver in the boot image"
        )
    }
}

/// Network cards and storage controllers on PCI that no driver took.
pub fn missing_drivers() -> Vec<Missing> {
    let Ok(devices) = fs::read_dir("/sys/bus/pci/devices") else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = devices.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().filter_map(|path| missing_at(path)).collect()
}

fn missing_at(device: &Path) -> Option<Missing> {
    if device.join("driver").exists() {
        return None;
    }
    let class = trimmed(&device.join("class"))?;
    let what = match class.get(..4)? {
        "0x02" => "network card",
        "0x01" => "storage controller",
        _ => return None,
    };
    let number = |name| {
        Some(
            trimmed(&device.join(name))?
                .trim_start_matches("0x")
                .to_owned(),
        )
    };
    let id = format!("{}:{}", number("vendor")?, number("device")?);
    Some(Missing { what, id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_without_driver_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
        write("class", "0x020000\n");
        write("vendor", "0x8086\n");
        write("device", "0x15f3\n");
        assert_eq!(
            missing_at(dir.path()).unwrap().to_string(),
            "this machine's network card 8086:15f3 has no driver in the boot image"
        );
        write("class", "0x030000\n");
        assert_eq!(missing_at(dir.path()), None, "a display is not needed");
        write("class", "0x010601\n");
        fs::create_dir(dir.path().join("driver")).unwrap();
        assert_eq!(missing_at(dir.path()), None);
    }

    #[test]
    fn nics_and_disks_go_first() {
        let nic = rank("pci:v00008086d000015F3sv00008086sd00000000bc02sc00i00");
        let usb_host = rank("pci:v00008086d00001E31sv00008086sd00000000bc0Csc03i30");
        let display = rank("pci:v00001234d00001111sv00001AF4sd00001100bc03sc00i00");
        assert!(nic < usb_host && usb_host < display && display < rank("acpi:PNP0C0A:"));
    }
}
