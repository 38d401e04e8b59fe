//! `groundcrew device import` and `export`: registrations from CSV files and back.
//!
//! The file is read here, row by row, and only what its rows say goes to the
//! appliance, some hundred rows at a time, each answered when it is on disk. They
//! count together once the last one came, so that all of a file is registered or
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use groundcrew_core::ids::shown;
use groundcrew_registry::device::Tag;
use groundcrew_registry::export;
use groundcrew_registry::import::{Fault, REFUSED, Rows};

use super::client::{self, Link};
use super::site_arg::SiteArg;
use crate::durable::{self, Access};
use crate::office::{
    Blob, Command, FileTerms, ImportRow, ImportView, Outcome, PART, Part, Progress, RefusedRow,
};
use crate::site::Site;

/// `groundcrew device import`.
#[derive(Debug, Args)]
pub struct DeviceImportArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The CSV file
    pub file: PathBuf,
    /// Say what would happen and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Pass over columns that are not known, as in lists exported from elsewhere
    #[arg(long)]
    pub ignore_columns: bool,
    /// A tag for rows that bring none
    #[arg(long, value_name = "TAG")]
    pub tag: Option<Tag>,
    /// Write the rows that are refused to a CSV file, each with its reason, to
    /// mend them and import that file
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Verdicts as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew device export`.
#[derive(Debug, Args)]
pub struct DeviceExportArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Folder to write `devices-001.csv`, … into, 500 rows each; without it one
    /// file goes to standard output
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub fn import(args: &DeviceImportArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    if let Some(path) = args.rejects.as_ref().filter(|path| path.exists()) {
        bail!(
            "{} exists already: refused rows never overwrite a file",
            path.display()
        );
    }
    let site = Site::at(&args.site.dir);
    let link = client::connect(&site)?;
    let mut tags = Tags::default();
    let view = upload(args, &link, &mut tags)?;
    tags.warn(&site);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!("{}", verdicts(&view, &name));
    }
    if let Some(path) = args.rejects.as_ref().filter(|_| !view.refused.is_empty()) {
        let file = rejects(&args.file, &view.refused)?;
        durable::create(path, &file, Access::Public)
            .with_context(|| format!("writing {} (it must not exist yet)", path.display()))?;
        if !args.json {
            println!(
                "The refused rows are in {}: mend them and import that file.",
                path.display()
            );
        }
    }
    Ok(ExitCode::from(u8::from(!view.refused.is_empty())))
}

/// The tags in a file, and how many rows have each.
#[derive(Default)]
struct Tags(BTreeMap<Tag, u64>);

/// Different tags that are counted.
const TAGS: usize = 200;

impl Tags {
    fn count(&mut self, tag: Option<&Tag>) {
        let Some(tag) = tag else { return };
        if let Some(count) = self.0.get_mut(tag) {
            *count += 1;
        } else if self.0.len() < TAGS {
            self.0.insert(tag.clone(), 1);
        }
    }

    /// Names those that select no profile: most are mistyped.
    fn warn(&self, site: &Site) {
        let Ok(settings) = site.settings() else {
            return; // whoever needs them says what is wrong
        };
        let rows = |count| if count == 1 { "row" } else { "rows" };
        for (tag, count) in &self.0 {
            if !settings.profiles.takes_tag(tag) {
                eprintln!(
                    "warning: no profile in site.toml takes the tag `{tag}` ({count} {})",
                    rows(*count)
                );
            }
        }
    }
}

/// Reads the file and brings it, part by part; then all of it is registered.
fn upload(args: &DeviceImportArgs, link: &Link, tags: &mut Tags) -> anyhow::Result<ImportView> {
    let context = || format!("reading {}", args.file.display());
    let file = File::open(&args.file).with_context(context)?;
    let size = file.metadata().map_or(0, |meta| meta.len());
    let source = args.file.file_name();
    let source = source.map_or_else(String::new, |name| shown(&name.to_string_lossy()));
    let mut counted = Counted {
        file,
        bar: Bar::new(size >= LONG, "reading", size, "MiB", 1 << 20),
    };
    let reader = std::io::BufReader::new(&mut counted);
    let rows = match args.ignore_columns {
        true => Rows::passing_over(reader, &source),
        false => Rows::new(reader, &source),
    };
    let rows = rows.with_context(context)?;
    let mut uploading = link.import(FileTerms {
        tag: args.tag.clone(),
        dry_run: args.dry_run,
    })?;
    let (mut all, mut part) = (Progress::default(), Part::default());
    let mut brought = 0;
    for row in rows {
        let row = row.with_context(context)?;
        let registration = match row.content {
            Ok(registration) => registration,
            Err(fault) => {
                all.refused
                    .push(RefusedRow::new(row.line, &Fault::Row(fault)));
                continue;
            }
        };
        if let Some(hash) = row.hash.filter(|_| !args.dry_run) {
            part.hashes.push(Blob(trimmed(hash.to_bytes()?)));
        }
        tags.count(registration.tag.as_ref().or(args.tag.as_ref()));
        let line = row.line;
        part.rows.push(ImportRow { line, registration });
        brought += 1;
        if part.rows.len() == PART {
            all.add(uploading.add(std::mem::take(&mut part))?);
        }
    }
    if !part.rows.is_empty() {
        all.add(uploading.add(part)?);
    }
    counted.bar.end();
    let long = size >= LONG && !args.dry_run;
    let mut bar = Bar::new(long, "registering", brought, "rows", 1);
    uploading.finish(|progress| {
        bar.advance((progress.registered + progress.refused.len()) as u64);
        all.add(progress);
    })?;
    bar.end();
    all.refused.sort_by_key(|row| row.line);
    Ok(ImportView {
        dry_run: args.dry_run,
        registered: all.registered,
        refused: all.refused,
    })
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes.truncate(used);
    bytes
}

/// The refused rows as they stand in the file, and the reason behind each. The
/// importer passes that column over.
fn rejects(path: &Path, refused: &[RefusedRow]) -> anyhow::Result<Vec<u8>> {
    let rows = Rows::passing_over(std::io::BufReader::new(File::open(path)?), "")?;
    let delimiter = char::from(rows.delimiter);
    let mut columns: Vec<String> = rows
        .columns()
        .filter(|name| *name != REFUSED)
        .map(str::to_owned)
        .collect();
    let place = rows.columns().position(|name| name == REFUSED);
    let width = columns.len();
    columns.push(REFUSED.to_owned());
    let mut out = csv_line(&columns, delimiter);
    let lines: BTreeSet<u64> = refused.iter().map(|row| row.line).collect();
    let mut reasons = refused.iter();
    for row in rows {
        let row = row?;
        if !lines.contains(&row.line) {
            continue;
        }
        let mut fields = row.fields;
        if let Some(place) = place.filter(|place| *place < fields.len()) {
            fields.remove(place);
        }
        // A row with a field too many keeps it: whoever mends it must see it.
        fields.resize(fields.len().max(width), String::new());
        let reason = reasons.find(|reason| reason.line == row.line);
        fields.push(
            reason
                .map(|r| format!("{}: {}", r.name, r.reason))
                .unwrap_or_default(),
        );
        out.push_str(&csv_line(&fields, delimiter));
    }
    Ok(out.into_bytes())
}

fn csv_line(fields: &[String], delimiter: char) -> String {
    let quoted = |field: &String| match field.contains([delimiter, '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let fields: Vec<String> = fields.iter().map(quoted).collect();
    let mut line = fields.join(&delimiter.to_string());
    line.push_str("\r\n");
    line
}

fn verdicts(view: &ImportView, file: &str) -> String {
    let mut out = String::new();
    for row in &view.refused {
        out.push_str(&format!(
            "{file}:{}: {}: {}\n",
            row.line, row.name, row.reason
        ));
    }
    let verb = if view.dry_run {
        "would be registered (nothing was changed)"
    } else {
        "registered"
    };
    out.push_str(&format!(
        "{} {verb}, {} refused\n",
        view.registered,
        view.refused.len()
    ));
    out
}

/// Counts what is read.
struct Counted {
    file: File,
    bar: Bar,
}

impl Read for &mut Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bar.advance(read as u64);
        Ok(read)
    }
}

/// How far a long file is, on one line of a terminal.
struct Bar {
    doing: &'static str,
    total: u64,
    /// What is counted, and how many of it make one to show.
    unit: (&'static str, u64),
    done: u64,
    shown: Option<Instant>,
}

/// Files below that are done before anybody could look.
const LONG: u64 = 4 * 1024 * 1024;

impl Bar {
    fn new(wanted: bool, doing: &'static str, total: u64, unit: &'static str, each: u64) -> Self {
        let wanted = wanted && std::io::stderr().is_terminal();
        Self {
            doing,
            total,
            unit: (unit, each),
            done: 0,
            shown: wanted.then(Instant::now),
        }
    }

    fn advance(&mut self, more: u64) {
        self.done += more;
        if self
            .shown
            .is_some_and(|shown| shown.elapsed() > Duration::from_millis(100))
        {
            self.shown = Some(Instant::now());
            let _ = write!(std::io::stderr(), "\r{}", self.drawn());
        }
    }

    fn end(&mut self) {
        self.done = self.total;
        if self.shown.is_some() {
            let _ = writeln!(std::io::stderr(), "\r{}", self.drawn());
        }
    }

    fn drawn(&self) -> String {
        let done = self.done.min(self.total);
        let all = self.total.max(1);
        let bar = "#".repeat(usize::try_from(done * 40 / all).unwrap_or(40));
        let (unit, each) = self.unit;
        format!(
            "{:<11} [{bar:<40}] {:>3}% of {} {unit}",
            self.doing,
            done * 100 / all,
            self.total / each
        )
    }
}

pub fn export(args: &DeviceExportArgs) -> anyhow::Result<ExitCode> {
    let link = client::connect(&Site::at(&args.site.dir))?;
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let (mut after, mut rows, mut files, mut left_out) = (None, Vec::new(), 0, 0);
    let mut total = 0;
    loop {
        let Outcome::Exported(page) = link.execute(Command::Export {
            after: after.take(),
        })?
        else {
            bail!("the appliance answered something else");
        };
        for (device, reason) in &page.left_out {
            eprintln!("{device} is left out: {reason}");
        }
        left_out += page.left_out.len();
        rows.extend(page.rows);
        after = page.last;
        // A full file waits for one row more: it may have been the last.
        while rows.len() > export::ROWS || (after.is_none() && !rows.is_empty()) {
            let rest = rows.split_off(rows.len().min(export::ROWS));
            let bytes = export::file(&rows);
            files += 1;
            total += rows.len();
            match &args.out {
                Some(dir) => {
                    let path = dir.join(format!("devices-{files:03}.csv"));
                    durable::create(&path, &bytes, Access::Public).with_context(|| {
                        format!("writing {} (it must not exist yet)", path.display())
                    })?;
                }
                None if !rest.is_empty() || files > 1 => {
                    bail!(
                        "more than {} devices: Intune takes that many in one file. Give --out DIR",
                        export::ROWS
                    )
                }
                None => std::io::stdout().write_all(&bytes)?,
            }
            rows = rest;
        }
        if after.is_none() {
            break;
        }
    }
    if args.out.is_some() || total == 0 {
        eprintln!("{total} devices in {files} file(s), {left_out} left out");
    }
    Ok(ExitCode::from(u8::from(left_out > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_come_back_as_they_are_with_their_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "Device model,Device Serial Number,Manufacturer name\nOne,S-1,X\n\"T,wo\",S-2,X\nThree,S-3,X,more\n").unwrap();
        let refused = [
            RefusedRow {
                line: 3,
                name: "N".into(),
                reason: "a, b".into(),
            },
            RefusedRow {
                line: 4,
                name: "M".into(),
                reason: "c".into(),
            },
        ];
        let file = String::from_utf8(rejects(&path, &refused).unwrap()).unwrap();
        assert_eq!(
            file,
            "Device model,Device Serial Number,Manufacturer name,Refused\r\n\"T,wo\",S-2,X,\"N: a, b\"\r\nThree,S-3,X,more,M: c\r\n"
        );
        // What comes back is read again, reasons passed over.
        std::fs::write(&path, file.replace(",more", "")).unwrap();
        let again: Vec<_> = Rows::new(File::open(&path).unwrap(), "")
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(again.iter().all(|row| row.content.is_ok()), "{again:?}");
        let file = String::from_utf8(
            rejects(
                &path,
                &[RefusedRow {
                    line: 2,
                    name: "N".into(),
                    reason: "d".into(),
                }],
            )
            .unwrap(),
        )
        .unwrap();
        assert!(file.ends_with("X,N: d\r\n"), "one reason, the last: {file}");
    }

    #[test]
    fn a_bar_is_one_line() {
        let mut bar = Bar::new(false, "reading", 400 << 20, "MiB", 1 << 20);
        let empty = format!("reading     [{}]   0% of 400 MiB", " ".repeat(40));
        assert_eq!(bar.drawn(), empty);
        bar.advance(9 << 30);
        let full = format!("reading     [{}] 100% of 400 MiB", "#".repeat(40));
        assert_eq!(bar.drawn(), full);
        assert!(full.len() < 80);
    }
}
