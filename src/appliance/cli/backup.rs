//! `groundcrew backup` and `restore`: one file with what a site is, of a site
//! that may be served meanwhile.

use std::fs;
use std::io::{BufWriter, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;
use groundcrew_registry::checkpoint::Verifier;

use super::archive::{self, REGISTRY, unpack};
use super::site_arg::SiteArg;
use crate::site::{Site, charter, publish};
use crate::store;

/// `groundcrew backup`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  groundcrew backup site.backup
  groundcrew backup --with-keys /media/safe/site.backup

Holds site.toml, registry and journal, trust metadata, bundle sources and bundles; not what `image
build` makes. Without the keys nobody can act as the site with it.")]
pub struct BackupArgs {
    /// The file to write, which must not exist
    pub file: PathBuf,
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The site's private keys too: keep the file as safe as them
    #[arg(long)]
    pub with_keys: bool,
    /// Leave bundles out: they can be published again
    #[arg(long)]
    pub without_blobs: bool,
}

/// `groundcrew restore`.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  groundcrew restore site.backup --site /srv/gc/site")]
pub struct RestoreArgs {
    /// The file that `backup` wrote
    pub file: PathBuf,
    /// The folder to make, which must not exist
    #[arg(long = "site", value_name = "NEWDIR")]
    pub dir: PathBuf,
}

pub fn backup(args: &BackupArgs) -> anyhow::Result<ExitCode> {
    let Written { size, left_out } = write(args)?;
    for (path, why) in left_out {
        eprintln!("left out: {} {why}", path.display());
    }
    let keys = if args.with_keys {
        "with the site's keys: keep it safe"
    } else {
        "without the site's keys"
    };
    println!(
        "{}: {} KiB, {keys}",
        args.file.display(),
        size.div_ceil(1024)
    );
    Ok(ExitCode::SUCCESS)
}

/// A folder beside a backup's file, for what is made on the way.
pub fn scratch_beside(file: &Path) -> anyhow::Result<tempfile::TempDir> {
    let parent = file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let made = tempfile::Builder::new()
        .prefix(".groundcrew-backup-")
        .tempdir_in(parent.unwrap_or(Path::new(".")));
    made.with_context(|| format!("writing beside {}", file.display()))
}

/// A backup that was written.
pub struct Written {
    /// Bytes of the file.
    pub size: u64,
    /// Sources that cannot be in it, and why.
    pub left_out: Vec<(PathBuf, &'static str)>,
}

/// Writes the file.
pub fn write(args: &BackupArgs) -> anyhow::Result<Written> {
    let site = Site::at(&args.site.dir);
    site.settings()?;
    let scratch = scratch_beside(&args.file)?;
    let snapshot = scratch.path().join(REGISTRY);
    store::snapshot(&site.registry_file(), &snapshot)?;
    let mut file = tempfile::NamedTempFile::new_in(scratch.path())?; // mode 0600
    let zstd = zstd::Encoder::new(BufWriter::new(file.as_file_mut()), 3)?;
    let mut archive = archive::builder(zstd);
    archive.append_path_with_name(&snapshot, REGISTRY)?;
    archive.append_path_with_name(site.settings_file(), "site.toml")?;
    // Metadata and what it names must be of one moment.
    let hold = publish::hold(&site)?;
    let left_out = archive::append_sources(&mut archive, &site.sources_dir())?;
    let mut folders = vec![(site.trust_dir(), "trust")];
    if !args.without_blobs {
        folders.push((site.blobs_dir(), "blobs"));
    }
    if args.with_keys {
        folders.push((site.keys_dir(), "keys"));
    }
    for (folder, name) in folders {
        archive
            .append_dir_all(name, &folder)
            .with_context(|| format!("reading {}", folder.display()))?;
    }
    drop(hold);
    archive.into_inner()?.finish()?.flush()?;
    file.as_file().sync_all()?;
    let size = file.as_file().metadata()?.len();
    file.persist_noclobber(&args.file)
        .with_context(|| format!("writing {} (it must not exist yet)", args.file.display()))?;
    crate::durable::sync_folder_of(&args.file)?;
    Ok(Written { size, left_out })
}

pub fn restore(args: &RestoreArgs) -> anyhow::Result<ExitCode> {
    let dir = &args.dir;
    if dir.exists() {
        bail!(
            "{} exists already; restore never overwrites. Choose another folder, or move it away",
            dir.display()
        );
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    fs::create_dir_all(parent)?;
    let draft = tempfile::Builder::new()
        .prefix(".groundcrew-restore-")
        .tempdir_in(parent)?;
    let site = Site::at(draft.path().join("site"));
    unpack(&args.file, site.dir()).with_context(|| format!("unpacking {}", args.file.display()))?;
    let entries = check(&site).with_context(|| {
        format!(
            "{} does not hold together; nothing was restored",
            args.file.display()
        )
    })?;
    for folder in [
        site.keys_dir(),
        site.blobs_dir(),
        site.boot_dir(),
        site.sources_dir(),
    ] {
        fs::create_dir_all(folder)?;
    }
    let keys = fs::read_dir(site.keys_dir())?.next().is_some();
    fs::set_permissions(site.keys_dir(), fs::Permissions::from_mode(0o700))?;
    rustix::fs::sync();
    fs::rename(site.dir(), dir)?;
    crate::durable::sync_folder_of(dir)?;
    let dir = dir.display();
    println!("{dir}: {entries} journal entries, every one in its place.");
    println!("Next:");
    if !keys {
        println!("  put the site's keys into {dir}/keys (the backup was made without them)");
    }
    println!("  groundcrew image build --site {dir}");
    println!("  groundcrew check --site {dir}");
    Ok(ExitCode::SUCCESS)
}

/// A backup in a scratch folder, checked to its last line: the site and how many
/// entries its journal has.
pub fn unpacked(file: &Path, scratch: &Path) -> anyhow::Result<(Site, u64)> {
    let site = Site::at(scratch.join("site"));
    unpack(file, site.dir()).with_context(|| format!("unpacking {}", file.display()))?;
    let entries =
        check(&site).with_context(|| format!("{} does not hold together", file.display()))?;
    Ok((site, entries))
}

/// Settings, trust, and the journal to its last line.
fn check(site: &Site) -> anyhow::Result<u64> {
    let name = site.settings()?.site;
    let key = charter::read(site, &name)?.journal_key;
    let path = site.registry_file();
    store::check(&path)?;
    let mut verifier = Verifier::new(&name, &store::checkpoints(&path)?, &key)?;
    store::each_journal_line(&path, |line| Ok(verifier.line(line)?))?;
    Ok(verifier.finish()?.entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::site::create::{FirstMode, NewSite};

    fn site(folder: &Path) -> Site {
        let new = NewSite {
            organisation: "Test",
            name: &"berlin".parse().unwrap(),
            address: "10.9.0.1/24".parse().unwrap(),
            interface: "eth9",
            mode: FirstMode::default(),
        };
        let site = crate::hq::found::create(folder, &new).unwrap();
        drop(store::Store::open(&site.registry_file()).unwrap());
        site
    }

    #[test]
    fn sources_come_back_with_their_links_long_names_and_holes() {
        let folder = tempfile::tempdir().unwrap();
        let site = site(folder.path());
        let welcome = site.sources_dir().join("welcome");
        let deep = welcome.join("d".repeat(200)).join("e".repeat(200));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("long"), "far down").unwrap();
        symlink(
            Path::new("..").join("e".repeat(200)).join("long"),
            deep.join("link"),
        )
        .unwrap();
        symlink("bundle.toml", welcome.join("again.toml")).unwrap();
        symlink("/etc/hostname", welcome.join("away")).unwrap();
        let sparse = fs::File::create(welcome.join("sparse")).unwrap();
        sparse.set_len(8 << 20).unwrap();
        let (file, dir) = (folder.path().join("backup"), folder.path().join("again"));
        backup(&BackupArgs {
            file: file.clone(),
            site: SiteArg {
                dir: site.dir().to_owned(),
            },
            with_keys: true,
            without_blobs: false,
        })
        .unwrap();
        let args = RestoreArgs {
            file,
            dir: dir.clone(),
        };
        restore(&args).unwrap();
        let again = dir.join("sources/welcome");
        let link = fs::read_link(again.join("again.toml")).unwrap();
        assert_eq!(link, Path::new("bundle.toml"));
        let below = deep.strip_prefix(&welcome).unwrap();
        let text = fs::read_to_string(again.join(below).join("link")).unwrap();
        assert_eq!(text, "far down");
        assert_eq!(fs::metadata(again.join("sparse")).unwrap().len(), 8 << 20);
        assert!(fs::symlink_metadata(again.join("away")).is_err());
    }
}
