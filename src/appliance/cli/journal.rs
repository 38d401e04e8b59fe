//! `groundcrew journal …`: read straight from the site's folder, line by line,
//! beside an appliance that serves it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::keys::PublicKey;
use groundcrew_core::{DeviceId, SiteId};
use groundcrew_registry::Entry;
use groundcrew_registry::checkpoint::{Proof, Verifier};
use groundcrew_registry::journal::MAX_LINE;

use super::site_arg::SiteArg;
use crate::site::{Site, charter};
use crate::store;

/// `groundcrew journal`.
#[derive(Debug, Subcommand)]
pub enum JournalCommand {
    /// Print every entry, oldest first
    #[command(after_help = "\
Examples:
  groundcrew journal show
  groundcrew journal show --device hq-7k2m9qx4")]
    Show(JournalShowArgs),
    /// Check the hash chain and the site's signatures under it
    #[command(after_help = "\
Examples:
  groundcrew journal verify
  groundcrew journal verify --file journal.jsonl

Names the first line that was changed, is missing or out of order, and finds an end that was cut
off after a checkpoint. The signatures must be by the journal key that the site's charter names.
Exit status 1 where something is wrong.")]
    Verify(JournalVerifyArgs),
    /// Write the journal with its checkpoints to a file
    #[command(after_help = "\
Example:
  groundcrew journal export journal.jsonl

One line of JSON per entry, and after the line it signs, each checkpoint as a DSSE envelope. Kept
elsewhere, it proves what the site's journal said.")]
    Export(JournalExportArgs),
}

/// `groundcrew journal show`.
#[derive(Debug, Args)]
pub struct JournalShowArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Only entries about this device
    #[arg(long, value_name = "ID")]
    pub device: Option<DeviceId>,
    /// The lines as they stand
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew journal verify`.
#[derive(Debug, Args)]
pub struct JournalVerifyArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Check this export instead of the site's own journal
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew journal export`.
#[derive(Debug, Args)]
pub struct JournalExportArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The file to write, which must not exist
    pub file: PathBuf,
}

pub fn run(command: JournalCommand) -> anyhow::Result<ExitCode> {
    match command {
        JournalCommand::Show(args) => show(&args),
        JournalCommand::Verify(args) => verify(&args),
        JournalCommand::Export(args) => export(&args),
    }
}

fn show(args: &JournalShowArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    site.settings()?;
    let mut out = std::io::stdout().lock();
    store::each_journal_line(&site.registry_file(), |line| {
        let entry = Entry::read(line).context("run `groundcrew journal verify`")?;
        if args
            .device
            .as_ref()
            .is_some_and(|device| device != entry.device())
        {
            return Ok(());
        }
        if args.json {
            writeln!(out, "{line}")?;
        } else {
            writeln!(out, "{}", crate::office::describe_entry(&entry))?;
        }
        Ok(())
    })?;
    Ok(ExitCode::SUCCESS)
}

fn verify(args: &JournalVerifyArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    let name = site.settings()?.site;
    let key = charter::read(&site, &name)?.journal_key;
    let proof = match &args.file {
        Some(path) => verify_file(path, &name, &key).with_context(|| path.display().to_string())?,
        None => {
            let path = site.registry_file();
            let checkpoints = store::checkpoints(&path)?;
            let mut verifier = Verifier::new(&name, &checkpoints, &key)?;
            store::each_journal_line(&path, |line| Ok(verifier.line(line)?))?;
            verifier.finish()?
        }
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&proof)?);
    } else {
        print!("{}", words(&proof));
    }
    Ok(ExitCode::SUCCESS)
}

fn words(proof: &Proof) -> String {
    let signed = match proof.signed {
        Some((line, at)) => format!(
            "{} checkpoint(s) fit; the last one signs line {line}, at {at}",
            proof.checkpoints
        ),
        None => {
            "no checkpoint yet: the site signs one every 1000 entries, each day, and when it stops"
                .to_owned()
        }
    };
    format!(
        "{} entries, every one in its place; the last one's hash is\n{}\n{signed}\n",
        proof.entries, proof.head
    )
}

/// Entries and checkpoints of an export.
fn verify_file(path: &Path, site: &SiteId, key: &PublicKey) -> anyhow::Result<Proof> {
    let mut checkpoints = Vec::new();
    each_line(path, |line| {
        if let Some(envelope) = checkpoint(line)? {
            checkpoints.push(envelope);
        }
        Ok(())
    })?;
    let mut verifier = Verifier::new(site, &checkpoints, key)?;
    each_line(path, |line| match checkpoint(line)? {
        Some(_) => Ok(()),
        None => Ok(verifier.line(line)?),
    })?;
    Ok(verifier.finish()?)
}

fn checkpoint(line: &str) -> anyhow::Result<Option<Envelope>> {
    if !line.starts_with("{\"payload\"") {
        return Ok(None);
    }
    serde_json::from_str(line)
        .map(Some)
        .context("a line is neither an entry nor a checkpoint")
}

fn each_line(path: &Path, mut each: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = MAX_LINE as u64 + 2;
        let read = std::io::Read::take(&mut reader, most).read_until(b'\n', &mut line)?;
        if read == 0 {
            return Ok(());
        }
        if read as u64 == most {
            bail!("a line is longer than any entry: this is no journal");
        }
        let text = std::str::from_utf8(&line).context("this is no text")?;
        each(text.trim_end_matches(['\n', '\r']))?;
    }
}

fn export(args: &JournalExportArgs) -> anyhow::Result<ExitCode> {
    let site = Site::at(&args.site.dir);
    site.settings()?;
    let path = site.registry_file();
    let mut signed: BTreeMap<u64, Vec<Envelope>> = BTreeMap::new();
    for (seq, envelope) in store::checkpoints_by_line(&path)? {
        signed.entry(seq).or_default().push(envelope);
    }
    let parent = args
        .file
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(parent.unwrap_or(Path::new(".")))?;
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    let mut count = 0;
    store::each_journal_line(&path, |line| {
        count += 1;
        writeln!(out, "{line}")?;
        for envelope in signed.remove(&count).unwrap_or_default() {
            writeln!(out, "{}", serde_json::to_string(&envelope)?)?;
        }
        Ok(())
    })?;
    out.flush()?;
    drop(out);
    file.as_file().sync_all()?;
    file.persist_noclobber(&args.file)
        .with_context(|| format!("writing {} (it must not exist yet)", args.file.display()))?;
    println!("{count} entries are in {}", args.file.display());
    Ok(ExitCode::SUCCESS)
}
