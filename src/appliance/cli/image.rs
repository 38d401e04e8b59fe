//! `groundcrew image …`.

use std::io::{IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use groundcrew_core::trust::ImageTrust;

use super::args::{ImageBuildArgs, ImageCommand};
use super::secure;
use crate::image::{
    self, Arch, ImageReport, ImageSpec, LoaderSet, Manifest, Packages, Progress, Recipe, UkiSpec,
};
use crate::site::settings::BiosLoader;
use crate::site::{Settings, Site, charter, publish};

pub fn run(command: ImageCommand) -> anyhow::Result<ExitCode> {
    match command {
        ImageCommand::Build(args) => build(args),
        ImageCommand::NewKey(args) => secure::new_key(&args),
        ImageCommand::EnrollKeys(args) => secure::enroll_keys(&args),
    }
}

fn build(args: ImageBuildArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    let settings = site.settings()?;
    let arch = args.arch;
    let out = site.boot_dir().join(arch.folder());
    let spec = ImageSpec {
        arch,
        trust_json: image_trust(&site)?,
        more_loaders: more_loaders(&args, &settings),
        uki: uki(&args, &settings, &out)?,
        kernel_deb: args.kernel_deb,
        loader_debs: Packages::new(args.loader_deb),
        agent: agent(args.agent, arch)?,
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        out,
        cache: cache(&site),
        ipxe_dirs: args.ipxe_dir.into_iter().collect(),
        recipe: Recipe::full(arch).context("the recipe of the boot image; this is a bug")?,
    };
    let new_kind = arch == Arch::Arm64 && !site.has_arm64();
    let mut line = ProgressLine::new();
    let report = image::build(&spec, &mut |progress| line.show(&progress))?;
    line.end();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", summary(&report));
        if new_kind {
            println!(
                "64-bit ARM machines are served from the next start of `groundcrew serve` on."
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn more_loaders(args: &ImageBuildArgs, settings: &Settings) -> Vec<LoaderSet> {
    let shim = args.shim || settings.boot.shim();
    let pxelinux = args.pxelinux || settings.boot.bios == BiosLoader::Pxelinux;
    let sets = [(shim, LoaderSet::Shim), (pxelinux, LoaderSet::Pxelinux)];
    let wanted = sets.into_iter().filter(|(wanted, _)| *wanted);
    wanted.map(|(_, set)| set).collect()
}

fn uki(args: &ImageBuildArgs, settings: &Settings, out: &Path) -> anyhow::Result<Option<UkiSpec>> {
    let signer = args.signer.read()?;
    if !args.uki && !settings.boot.uki() && signer.is_none() {
        return Ok(None);
    }
    let before = Manifest::read(out).ok().and_then(|before| before.uki);
    if let (Some(key), None, false) = (before.and_then(|uki| uki.signed_by), &signer, args.unsigned)
    {
        bail!(
            "the image in {} is signed by {key}, and machines with Secure Boot refuse one that is \
             not: add --sign-key and --sign-cert, or --unsigned",
            out.display()
        );
    }
    Ok(Some(UkiSpec {
        stub: args.uki_stub.clone().unwrap_or_else(|| args.arch.stub()),
        command_line: command_line(settings, args.arch),
        signer: signer.map(std::sync::Arc::new),
        behind_shim: settings.boot.behind_shim(),
    }))
}

/// The kernel's command line inside the image: nobody can add to it, so it says
/// where the appliance is. On several networks it is somewhere else on each, and
/// the agent takes the server that gave it its address.
fn command_line(settings: &Settings, arch: Arch) -> String {
    let server = match settings.networks.as_slice() {
        [only] => format!("gc.server={} ", only.address.address),
        _ => String::new(),
    };
    format!(
        "{server}gc.http={} gc.https={} {} loglevel=6",
        settings.ports.http,
        settings.ports.https,
        arch.consoles()
    )
}

/// What of the site's trust goes into its image. The time in it is that of the
/// site's newest signature and not the clock's: the same site gives the same image.
fn image_trust(site: &Site) -> anyhow::Result<Vec<u8>> {
    let settings = site.settings()?;
    let repo = publish::load(site)?;
    let charter = charter::bytes(site, &settings.site, &repo)?;
    let issued = repo.timestamp().and_then(|timestamp| timestamp.issued_at);
    let trust = ImageTrust {
        built_at: issued.unwrap_or(groundcrew_core::time::RELEASED),
        site: settings.site.clone(),
        root: repo.root_bytes().to_vec(),
        targets: repo.targets_bytes().unwrap_or_default().to_vec(),
        charter,
        minimum: groundcrew_core::trust::tuf::MinimumVersions::default(),
    };
    trust
        .verify(publish::now(site, &repo))
        .context("devices would refuse this site")?;
    Ok(trust.to_json()?)
}

/// The static agent: named, or where a build or an installation puts it.
fn agent(named: Option<PathBuf>, arch: Arch) -> anyhow::Result<PathBuf> {
    if let Some(path) = named {
        return Ok(path);
    }
    let program = std::env::current_exe()?;
    let beside = program.parent().unwrap_or(Path::new("."));
    let places = [
        beside.join("../agent").join(arch.agent()),
        beside.join(arch.agent()),
    ];
    match places.iter().find(|place| place.is_file()) {
        Some(place) => Ok(place.clone()),
        None => bail!(
            "the agent is not beside {}: build it with `scripts/build-agent --arch {arch}`, or name it with --agent FILE",
            program.display()
        ),
    }
}

/// Where fetched packages and prepared kernels are kept between builds.
fn cache(site: &Site) -> PathBuf {
    let folder = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    folder("GROUNDCREW_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|dir| dir.join("groundcrew")))
        .or_else(|| folder("HOME").map(|dir| dir.join(".cache/groundcrew")))
        .unwrap_or_else(|| site.dir().join("cache"))
}

fn summary(report: &ImageReport) -> String {
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut out = format!(
        "kernel and initrd: {:.1} MiB in {}\n",
        mebibytes(report.manifest.boot_bytes),
        report.out.display()
    );
    for file in &report.manifest.files {
        out.push_str(&format!(
            "  {:<22}{:>8.2} MiB\n",
            file.name,
            mebibytes(file.stored.bytes)
        ));
    }
    if let Some(uki) = &report.manifest.uki {
        out.push_str(&match &uki.signed_by {
            Some(fingerprint) => {
                format!("groundcrew.efi, local.efi and held.efi are signed by {fingerprint}\n")
            }
            None => {
                "groundcrew.efi is not signed: Secure Boot refuses it (--sign-key, --sign-cert)\n"
                    .to_owned()
            }
        });
    }
    if !report.within_budget && report.arch == Arch::Amd64 {
        out.push_str("This is more than 24 MiB: slow networks and small machines will feel it.\n");
    }
    out
}

/// On a terminal one line that changes; elsewhere a line each, without the counting.
struct ProgressLine {
    terminal: bool,
    open: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            open: false,
        }
    }

    fn show(&mut self, progress: &Progress) {
        let counting = matches!(progress, Progress::Compressing { .. });
        let mut err = std::io::stderr();
        // Progress that cannot be shown is no reason to stop.
        if self.terminal && counting {
            let _ = write!(err, "\r\x1b[K{progress}");
            self.open = true;
        } else if !counting {
            self.end();
            let _ = writeln!(err, "{progress}");
        }
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = writeln!(std::io::stderr());
        }
    }
}
