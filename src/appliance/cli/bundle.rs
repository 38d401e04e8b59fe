//! `groundcrew bundle …`.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use groundcrew_core::enroll::BundleRef;

use super::args::{BundleBuildArgs, BundleCommand, BundleFolderArgs, BundlePublishArgs};
use super::hq_args::HqPublishArgs;
use crate::bundle;
use crate::hq::Hq;
use crate::hq::change::Progress;
use crate::hq::secret::Passphrase;
use crate::site::{Site, SiteKeys, import};

pub fn run(command: BundleCommand) -> anyhow::Result<ExitCode> {
    match command {
        BundleCommand::Build(args) => build(&args),
        BundleCommand::Publish(args) => publish(&args),
        BundleCommand::Verify(args) => verify(&args),
        BundleCommand::Show(args) => show(&args),
    }
    .map(|()| ExitCode::SUCCESS)
}

fn build(args: &BundleBuildArgs) -> anyhow::Result<()> {
    let report = with_progress("building", |progress| {
        bundle::build(&args.source, &args.out, progress)
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
        println!(
            "Next: groundcrew bundle publish {} --hq HQ --site SITE",
            args.out.display()
        );
    }
    Ok(())
}

/// Blobs first, then the manifest and HQ's list of targets, then the site's
/// word that this is the newest list: a device never finds a name without bytes.
fn publish(args: &BundlePublishArgs) -> anyhow::Result<()> {
    let site = Site::at(&args.site.dir);
    let name = site.settings()?.site;
    let hq = Hq::open(&args.hq.dir)?;
    let site_keys = SiteKeys::read(&site.keys_dir())?;
    let (reference, file) = checked_manifest(&args.bundle)?;
    let progress = listed(&hq, &reference, &file, &args.hq.passphrase.passphrase())?;
    let Progress::Done(hq) = progress else {
        super::hq::tell(&progress);
        println!(
            "Then: groundcrew trust export {name}.courier --hq {} --name {name} --bundle {}",
            args.hq.dir.display(),
            args.bundle.display()
        );
        return Ok(());
    };
    let blobs = site.blobs_dir().join("sha256");
    std::fs::create_dir_all(&blobs).with_context(|| format!("making {}", blobs.display()))?;
    with_progress("copying", |progress| {
        bundle::copy_blobs(&args.bundle, &blobs, progress)
    })?;
    import::take(&site, &hq.package(&name, vec![file])?, &site_keys)?;
    println!(
        "{reference} is published at {}; devices get it from now on",
        site.dir().display()
    );
    Ok(())
}

/// `groundcrew hq publish`: listed and signed at HQ; a courier brings it to sites.
pub fn publish_at_hq(args: &HqPublishArgs) -> anyhow::Result<()> {
    let hq = Hq::open(&args.hq.dir)?;
    let (reference, file) = checked_manifest(&args.bundle)?;
    let progress = listed(&hq, &reference, &file, &args.hq.passphrase.passphrase())?;
    super::hq::tell(&progress);
    println!(
        "{reference} goes to a site by: groundcrew trust export FILE --hq {} --name SITE --bundle {}",
        args.hq.dir.display(),
        args.bundle.display()
    );
    Ok(())
}

/// A bundle's reference, and its manifest as a target file.
pub(super) fn checked_manifest(folder: &Path) -> anyhow::Result<(BundleRef, (String, Vec<u8>))> {
    with_progress("checking", |progress| bundle::verify(folder, progress))?;
    let (manifest, built) = bundle::manifest_bytes(folder)?;
    let reference = built.reference();
    let path = reference.target_path();
    Ok((reference, (path, manifest)))
}

/// HQ signs that the bundle exists. Listed already with the same content: done.
fn listed(
    hq: &Hq,
    reference: &BundleRef,
    file: &(String, Vec<u8>),
    passphrase: &Passphrase,
) -> anyhow::Result<Progress> {
    match hq.listed(&file.0)? {
        Some(target) if target.verify(&file.1).is_ok() => return Ok(Progress::Done(hq.clone())),
        Some(_) => anyhow::bail!(
            "{reference} is published already with other content; devices may have it. Raise `version` in its bundle.toml and build it again"
        ),
        None => {}
    }
    let change = hq.list(&reference.to_string(), std::slice::from_ref(file));
    hq.carry_out(&change, passphrase)
}

fn verify(args: &BundleFolderArgs) -> anyhow::Result<()> {
    let report = with_progress("checking", |progress| {
        bundle::verify(&args.bundle, progress)
    })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

fn show(args: &BundleFolderArgs) -> anyhow::Result<()> {
    let shown = bundle::show(Path::new(&args.bundle))?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&shown)?);
    } else {
        println!("{shown}");
    }
    Ok(())
}

/// Runs long work; on a terminal a line counts along once there is much to do.
fn with_progress<T>(
    doing: &str,
    work: impl FnOnce(bundle::Progress<'_>) -> Result<T, bundle::Error>,
) -> anyhow::Result<T> {
    /// Less than this is over before anybody could read it.
    const WORTH_TELLING: u64 = 32 << 20;
    let terminal = std::io::stderr().is_terminal();
    let mut shown = None;
    let result = work(&mut |done, all| {
        let percent = done * 100 / all.max(1);
        if terminal && all >= WORTH_TELLING && shown != Some(percent) {
            shown = Some(percent);
            // Progress that cannot be shown is no reason to stop.
            let _ = write!(
                std::io::stderr(),
                "\r\x1b[K{doing}: {} of {} MiB ({percent} %)",
                done >> 20,
                all >> 20
            );
        }
    });
    if shown.is_some() {
        let _ = writeln!(std::io::stderr());
    }
    Ok(result?)
}
