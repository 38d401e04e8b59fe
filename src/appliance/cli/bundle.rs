//! `groundcrew bundle …`.

use std::io::{IsTerminal as _, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;

use super::args::{BundleBuildArgs, BundleCommand, BundleFolderArgs, BundlePublishArgs};
use crate::bundle;
use crate::site::{Site, SiteKeys, keys, publish};

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
    let hq_targets = keys::read(&args.hq.join("keys").join(keys::file::TARGETS))?;
    let site_keys = SiteKeys::read(&site.keys_dir())?;
    with_progress("checking", |progress| {
        bundle::verify(&args.bundle, progress)
    })?;
    let (manifest, built) = bundle::manifest_bytes(&args.bundle)?;
    let reference = built.reference();
    let _hold = publish::hold(&site)?;
    let mut repo = publish::load(&site)?;
    let path = reference.target_path();
    if let Some(listed) = repo
        .targets()
        .and_then(|targets| targets.targets.get(&path))
        && listed.verify(&manifest).is_err()
    {
        anyhow::bail!(
            "{reference} is published already with other content; devices may have it. Raise `version` in its bundle.toml and build it again"
        );
    }
    let blobs = site.blobs_dir().join("sha256");
    std::fs::create_dir_all(&blobs).with_context(|| format!("making {}", blobs.display()))?;
    with_progress("copying", |progress| {
        bundle::copy_blobs(&args.bundle, &blobs, progress)
    })?;
    publish::put_targets(
        &site,
        &mut repo,
        vec![(path, manifest)],
        &hq_targets,
        &site_keys,
    )?;
    println!(
        "{reference} is published at {}; devices get it from now on",
        site.dir().display()
    );
    Ok(())
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
