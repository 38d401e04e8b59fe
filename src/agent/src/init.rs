//! Being PID 1: the mounts, the drivers, the run, and the end. PID 1 never
//! returns; whatever happens, the machine restarts and its own disk is as
//! bootable as it was.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;

use crate::console::{self, Console};
use crate::modules::{self, Loader};
use crate::processes;
use crate::provision;
use crate::stick::{self, End};
use crate::uevent::Uevents;

/// How long a result stays on the screen.
const GOOD_LINGER: Duration = Duration::from_secs(1);
const BAD_LINGER: Duration = Duration::from_secs(10);

/// Provisions the machine and restarts it.
pub fn run() -> ! {
    let began = Instant::now();
    let unmounted = essential_mounts();
    let console = Console::of_machine(began);
    // Nothing that goes wrong in any thread may end PID 1: the kernel would
    // panic and the device hang.
    let reporter = console.clone();
    std::panic::set_hook(Box::new(move |panic| {
        reporter.line(&format!("failed: the agent has a defect: {panic}"));
        end(&reporter, BAD_LINGER, End::Restart);
    }));
    console::quiet_kernel();
    console.line(&format!("agent {} started", env!("CARGO_PKG_VERSION")));
    for problem in unmounted {
        console.line(&format!("note: {problem}"));
    }
    let loader = start_drivers(&console);
    if stick::wanted() {
        let how = stick::run(&console);
        end(&console, GOOD_LINGER, how);
    }
    let good = provision::run(&console, &loader);
    let linger = if good { GOOD_LINGER } else { BAD_LINGER };
    end(&console, linger, End::Restart)
}

/// The kernel's file systems. Returns what did not work, for the log: PID 1
/// goes on with what it has.
fn essential_mounts() -> Vec<String> {
    let none = MountFlags::empty();
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    let all = [
        ("proc", "/proc", safe | MountFlags::NOEXEC),
        ("sysfs", "/sys", safe | MountFlags::NOEXEC),
        ("devtmpfs", "/dev", MountFlags::NOSUID),
        ("tmpfs", "/run", safe),
        ("tmpfs", "/tmp", safe),
        ("devpts", "/dev/pts", none),
    ];
    let attempt = |(kind, at, flags): &(&str, &str, MountFlags)| {
        let made = fs::create_dir_all(at);
        let done = mount(*kind, *at, *kind, *flags, None);
        match (done, made) {
            // Somebody mounted it before us.
            (Ok(()) | Err(rustix::io::Errno::BUSY), _) => None,
            (Err(errno), _) => Some(format!("mounting {at}: {errno}")),
        }
    };
    all.iter().filter_map(attempt).collect()
}

/// Loads drivers for what is there, and goes on doing so in the background
/// for what appears (a driver for a controller brings the disks behind it).
fn start_drivers(console: &Console) -> Arc<Loader> {
    let loader = Arc::new(Loader::open());
    if loader.index().is_empty() {
        console.line("note: the boot image carries no modules; using what the kernel has built in");
    }
    if let Ok(program) = fs::read_link("/proc/self/exe") {
        let _ = modules::serve_requests(&program.to_string_lossy());
    }
    // The socket first: what appears during the walk is heard.
    match Uevents::open() {
        Ok(events) => {
            let loader = loader.clone();
            std::thread::spawn(move || hotplug(&events, &loader));
        }
        Err(error) => console.line(&format!("note: no device events: {error}")),
    }
    let errors = modules::coldplug(&loader);
    for error in errors.iter().take(20) {
        console.line(&format!("note: {error}"));
    }
    mount_efivars();
    console.line(&format!(
        "drivers loaded ({} modules, {} failed)",
        loader.loaded(),
        errors.len()
    ));
    loader
}

fn hotplug(events: &Uevents, loader: &Loader) {
    let far = Duration::from_secs(3600);
    loop {
        match events.next(Instant::now() + far) {
            Ok(Some(event)) if event.action == "add" && !event.modalias.is_empty() => {
                let _ = loader.load_alias(&event.modalias);
            }
            // Events were lost: look at everything again.
            Ok(Some(event)) if event == crate::uevent::Uevent::default() => {
                modules::coldplug(loader);
            }
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_secs(1)),
        }
    }
}

/// For the Secure Boot variable; only UEFI has them.
fn mount_efivars() {
    let at = "/sys/firmware/efi/efivars";
    if Path::new(at).exists() {
        let flags =
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
        let _ = mount("efivarfs", at, "efivarfs", flags, None);
    }
}

/// Shows what stands there, syncs, restarts or switches off.
fn end(console: &Console, linger: Duration, how: End) -> ! {
    rustix::fs::sync();
    console.flush(Duration::from_secs(2));
    std::thread::sleep(linger);
    processes::end_other_processes();
    let (said, command, sysrq) = match how {
        End::Restart => ("rebooting", RebootCommand::Restart, "b"),
        End::PowerOff => ("switching off", RebootCommand::PowerOff, "o"),
    };
    console.line(said);
    console.flush(Duration::from_secs(2));
    rustix::fs::sync();
    // Whatever is still mounted writable becomes read-only (sysrq `u`).
    let _ = fs::write("/proc/sysrq-trigger", "u");
    loop {
        let _ = rustix::system::reboot(command);
        // Firmware that does not restart: the kernel's other ways.
        let _ = fs::write("/proc/sysrq-trigger", sysrq);
        std::thread::sleep(Duration::from_secs(5));
    }
}
