//! `groundcrew stick …`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, Subcommand};

use super::site_arg::SiteArg;
use crate::hq::secret;
use crate::site::Site;
use crate::stick::build::{self, Progress, Report};
use crate::stick::device::{Access, Medium};
use crate::stick::kept::Kept;
use crate::stick::plan::{Plan, Spec};
use crate::stick::reader::Reader;
use crate::stick::run;
use crate::stick::start::StartParts;
use crate::stick::vault::Pin;

/// Where Debian's packages put GRUB and shim.
const USR_LIB: &str = "/usr/lib";

/// `groundcrew stick`.
#[derive(Debug, Subcommand)]
pub enum StickCommand {
    /// Make a stick of a site: an image, or straight onto a medium
    #[command(after_help = "\
Examples:
  groundcrew hq site add van-1 --hq hq --address 10.77.0.1/24 \\
    --interface eth0 --devices 20 --out van-1
  groundcrew image build --site van-1
  groundcrew stick build --site van-1 --out stick.img
  sudo groundcrew stick build --site van-1 --device /dev/sdX

The stick is an appliance of its own: give it a site of its own, whose charter
ends soon and admits few devices, so that a lost one is worth little. It starts
on BIOS, UEFI and Secure Boot.")]
    Build(StickBuildArgs),
    /// Bring bundles, trust and settings to a stick: only what differs
    #[command(after_help = "\
Example:
  groundcrew stick sync --site van-1 --stick /dev/sdX")]
    Sync(StickKeptArgs),
    /// Put a newer program, kernel and menu onto a stick; its state stays
    #[command(after_help = "\
Example:
  groundcrew image build --site van-1
  groundcrew stick update --site van-1 --stick /dev/sdX")]
    Update(StickUpdateArgs),
    /// Copy what a stick knows into one file, as `groundcrew backup` writes it
    #[command(after_help = "\
Example:
  groundcrew stick backup --stick /dev/sdX van-1.backup

The keys are not in it: they stay under the stick's PIN, and in the site's
folder.")]
    Backup(StickBackupArgs),
    /// Put a backup's devices and journal onto a newly built stick of its site
    #[command(after_help = "\
Example:
  groundcrew stick build --site van-1 --device /dev/sdX
  groundcrew stick restore --stick /dev/sdX van-1.backup

A stick that was in use goes on from its own state only and refuses an older
one.")]
    Restore(StickBackupArgs),
    /// What a stick starts by itself
    #[command(hide = true)]
    Run,
}

/// `groundcrew stick build`.
#[derive(Debug, Args)]
pub struct StickBuildArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Image file to write
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "device",
        conflicts_with = "device"
    )]
    pub out: Option<PathBuf>,
    /// Medium to overwrite, such as /dev/sdX
    #[arg(long, value_name = "DEV")]
    pub device: Option<PathBuf>,
    /// Do not ask before the medium is overwritten
    #[arg(long, requires = "device")]
    pub yes: bool,
    /// File whose first line is the PIN of its vault; else the terminal is asked
    #[arg(long, value_name = "FILE", env = "GROUNDCREW_PIN_FILE")]
    pub pin_file: Option<PathBuf>,
    /// The static groundcrew that runs on the stick; default: this program
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// What was built, as JSON
    #[arg(long)]
    pub json: bool,
}

/// A stick and the site it is of.
#[derive(Debug, Args)]
pub struct StickKeptArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The stick: a medium such as /dev/sdX, or an image
    #[arg(long, value_name = "PATH")]
    pub stick: PathBuf,
    /// What was done, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew stick update`.
#[derive(Debug, Args)]
pub struct StickUpdateArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The stick: a medium such as /dev/sdX, or an image
    #[arg(long, value_name = "PATH")]
    pub stick: PathBuf,
    /// The static groundcrew that runs on the stick; default: this program
    #[arg(long, value_name = "FILE")]
    pub binary: Option<PathBuf>,
    /// What was done, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew stick backup` and `restore`.
#[derive(Debug, Args)]
pub struct StickBackupArgs {
    /// The backup's file
    pub file: PathBuf,
    /// The stick: a medium such as /dev/sdX, or an image
    #[arg(long, value_name = "PATH")]
    pub stick: PathBuf,
    /// What was done, as JSON
    #[arg(long)]
    pub json: bool,
}

pub fn run(command: StickCommand) -> anyhow::Result<ExitCode> {
    match command {
        StickCommand::Build(args) => build(&args),
        StickCommand::Sync(args) => sync(&args),
        StickCommand::Update(args) => update(&args),
        StickCommand::Backup(args) => backup(&args),
        StickCommand::Restore(args) => restore(&args),
        StickCommand::Run => run::run(),
    }
}

fn sync(args: &StickKeptArgs) -> anyhow::Result<ExitCode> {
    let mut bar = Bar::new();
    let kept = Kept::open(&args.stick)?;
    let site = Site::at(&args.site.dir);
    let done = kept.sync(&site, &mut |progress| bar.show(progress))?;
    bar.end();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
    } else {
        println!(
            "{}: {} files ({} KiB) written, {} were there already, {} removed; {} KiB moved in all",
            args.stick.display(),
            done.written,
            done.bytes.div_ceil(1024),
            done.same,
            done.removed,
            done.moved.div_ceil(1024)
        );
    }
    if done.apart > 0 {
        eprintln!(
            "{} journal entries of this folder (devices registered or decided here) are not on the \
             stick, which goes on from its own journal; only a stick built anew has them",
            done.apart
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn update(args: &StickUpdateArgs) -> anyhow::Result<ExitCode> {
    let mut bar = Bar::new();
    let kept = Kept::open(&args.stick)?;
    let binary = binary(args.binary.as_deref())?;
    bar.show(Progress::Part("packing the program"));
    let site = Site::at(&args.site.dir);
    let mut parts = StartParts::make(&site, &binary, Path::new(USR_LIB), kept.bios_boot()?)?;
    let done = kept.update(&mut parts, &mut |progress| bar.show(progress))?;
    bar.end();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&done)?);
    } else {
        println!(
            "{}: updated and read back; its state is as it was",
            args.stick.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn backup(args: &StickBackupArgs) -> anyhow::Result<ExitCode> {
    // What can be put right comes before minutes of copying.
    ensure!(
        !args.file.exists(),
        "{} exists already: name another file",
        args.file.display()
    );
    let mut bar = Bar::new();
    let mut tell = |progress: Progress<'_>| bar.show(progress);
    let scratch = super::backup::scratch_beside(&args.file)?;
    let reader = Reader::open(&args.stick, scratch.path(), &mut tell)?;
    let saved = reader.copy_out(&scratch.path().join("site"), &mut tell)?;
    tell(Progress::Part("packing"));
    let written = super::backup::write(&super::backup::BackupArgs {
        file: args.file.clone(),
        site: SiteArg {
            dir: saved.site.dir().to_owned(),
        },
        with_keys: false,
        without_blobs: false,
    })?;
    bar.end();
    for path in &saved.left_out {
        eprintln!("left out: {path} cannot be read from the stick");
    }
    if args.json {
        let told = serde_json::json!({
            "file": args.file,
            "bytes": written.size,
            "left_out": saved.left_out,
        });
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!(
            "{}: {} KiB, without the site's keys",
            args.file.display(),
            written.size.div_ceil(1024)
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn restore(args: &StickBackupArgs) -> anyhow::Result<ExitCode> {
    let mut bar = Bar::new();
    let kept = Kept::open(&args.stick)?;
    bar.show(Progress::Part("reading the backup"));
    let scratch = tempfile::tempdir()?;
    let (site, entries) = super::backup::unpacked(&args.file, scratch.path())?;
    kept.put_registry(&site, &mut |progress| bar.show(progress))?;
    bar.end();
    if args.json {
        let told = serde_json::json!({ "stick": args.stick, "entries": entries });
        println!("{}", serde_json::to_string_pretty(&told)?);
    } else {
        println!(
            "{}: {entries} journal entries, every one in its place; the stick goes on from there",
            args.stick.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

fn binary(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    match named {
        Some(binary) => Ok(binary.to_owned()),
        None => Ok(std::env::current_exe()?),
    }
}

fn build(args: &StickBuildArgs) -> anyhow::Result<ExitCode> {
    // What the user can put right comes before any work, and before the last question.
    if let Some(out) = &args.out {
        build::check_out(out)?;
    }
    let medium = args.device.as_deref();
    let medium = medium.map(|path| Medium::examine(path, Access::Writing));
    let medium = medium.transpose()?;
    if let Some(medium) = medium.as_ref().filter(|_| !args.yes) {
        ensure!(
            std::io::stdin().is_terminal(),
            "{} would be overwritten, and nobody is there to be asked: add --yes",
            named(medium)
        );
    }
    let spec = Spec {
        site: Site::at(&args.site.dir),
        binary: binary(args.binary.as_deref())?,
        pin: pin(args.pin_file.as_deref())?,
        usr_lib: USR_LIB.into(),
    };
    let mut bar = Bar::new();
    let mut plan = Plan::make(&spec, &mut |part| bar.show(Progress::Part(part)))?;
    if let Some(medium) = &medium {
        medium.holds(plan.frame.bytes())?;
        plan.grub.get()?;
        bar.end();
        confirm(medium, args.yes)?;
    }
    let mut tell = |progress: Progress<'_>| bar.show(progress);
    let report = match (&args.out, &medium) {
        (Some(out), _) => build::to_file(&mut plan, out, &mut tell)?,
        (None, Some(medium)) => build::to_medium(&mut plan, medium, &mut tell)?,
        (None, None) => bail!("name an image with --out or a medium with --device"),
    };
    bar.end();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", summary(&report));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(report: &Report) -> String {
    let Report {
        out,
        bytes,
        checked,
        terms,
        ..
    } = report;
    format!(
        "{}: {} MiB, read back\n  data     {checked}\n  charter  {terms}\n",
        out.display(),
        bytes >> 20,
    )
}

fn named(medium: &Medium) -> String {
    format!(
        "{} ({}, {} MiB)",
        medium.path.display(),
        medium.model,
        medium.bytes >> 20
    )
}

/// Asks once.
fn confirm(medium: &Medium, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    eprint!(
        "Everything on {} will be lost. Type yes to go on: ",
        named(medium)
    );
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    ensure!(line.trim() == "yes", "nothing was written");
    Ok(())
}

/// From a file's first line, or typed twice.
fn pin(file: Option<&Path>) -> anyhow::Result<Pin> {
    if let Some(path) = file {
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("reading {}", path.display()))?;
        let line = text.lines().next().unwrap_or_default();
        let pin: Pin = line.parse().with_context(|| path.display().to_string())?;
        tell_of_keyboards(&pin);
        return Ok(pin);
    }
    ensure!(
        std::io::stdin().is_terminal(),
        "nobody is there to type the stick's PIN: name a file with --pin-file"
    );
    let first = secret::typed("the stick's vault (its PIN)")?;
    let pin: Pin = first.parse()?;
    tell_of_keyboards(&pin);
    ensure!(
        secret::typed("the stick's vault, once more")? == first,
        "the two differ; nothing was written"
    );
    Ok(pin)
}

fn tell_of_keyboards(pin: &Pin) {
    if let Some(warning) = pin.warning() {
        eprintln!("warning: {warning}");
    }
}

/// On a terminal one line with a bar; elsewhere a line for each part.
struct Bar {
    terminal: bool,
    part: String,
    drawn: Option<Instant>,
}

impl Bar {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            part: String::new(),
            drawn: None,
        }
    }

    fn show(&mut self, progress: Progress<'_>) {
        let mut err = std::io::stderr();
        // Progress that cannot be shown is no reason to stop.
        let _ = match progress {
            Progress::Part(part) => {
                self.end();
                part.clone_into(&mut self.part);
                writeln!(err, "{part}")
            }
            Progress::Bytes { done, of } if self.due(done == of) => {
                let cells = usize::try_from(done * 30 / of.max(1)).unwrap_or(30);
                let (full, empty) = ("#".repeat(cells), ".".repeat(30 - cells));
                write!(
                    err,
                    "\r\x1b[K[{full}{empty}] {}/{} MiB",
                    done >> 20,
                    of >> 20
                )
            }
            Progress::Bytes { .. } => Ok(()),
        };
    }

    /// Ten times a second is enough for anybody.
    fn due(&mut self, last: bool) -> bool {
        let soon = self
            .drawn
            .is_some_and(|at| at.elapsed() < Duration::from_millis(100));
        if !self.terminal || (soon && !last) {
            return false;
        }
        self.drawn = Some(Instant::now());
        true
    }

    fn end(&mut self) {
        if self.drawn.take().is_some() {
            let _ = writeln!(std::io::stderr());
        }
    }
}
