//! What a bundle says it does, for people and for other programs.

use std::fmt;

use groundcrew_core::Digest;
use groundcrew_core::bundle::{Action, Bundle, Content};
use groundcrew_core::enroll::BundleRef;
use serde::Serialize;

/// A bundle at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// Name and version.
    pub bundle: BundleRef,
    /// One line for people.
    pub description: String,
    /// The digest of the manifest.
    pub manifest: Digest,
    /// Files of content.
    pub files: usize,
    /// Bytes to download.
    pub stored_bytes: u64,
    /// The steps, in order.
    pub steps: Vec<ShownStep>,
}

/// A step at a glance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ShownStep {
    /// Its name.
    pub name: String,
    /// Its kind, as in `bundle.toml`.
    pub kind: &'static str,
    /// What it concerns.
    pub what: String,
}

impl Shown {
    pub(super) fn of(bundle: &Bundle, manifest: Digest) -> Self {
        let config = bundle.config();
        let steps = config.steps.iter().map(|step| ShownStep {
            name: step.name.to_string(),
            kind: step.action.kind(),
            what: what(&step.action),
        });
        Self {
            bundle: bundle.reference(),
            description: config.description.clone(),
            manifest,
            files: config.content.files.len(),
            stored_bytes: bundle.manifest().total_size(),
            steps: steps.collect(),
        }
    }
}

fn what(action: &Action) -> String {
    match action {
        Action::File(step) => {
            let from = match &step.content {
                Content::Stored(path) => format!(" from {path}"),
                Content::Inline(_) if step.template => " from a template".into(),
                Content::Inline(text) => format!(", {} bytes", text.len()),
            };
            format!(
                "{} {}:{} {}{from}",
                step.mode, step.owner, step.group, step.path
            )
        }
        Action::Tree(step) => format!(
            "{}:{} {} from {}/",
            step.owner, step.group, step.path, step.source
        ),
        Action::Directory(step) => {
            format!("{} {}:{} {}", step.mode, step.owner, step.group, step.path)
        }
        Action::User(step) => {
            let keys = step.ssh_authorized_keys.len();
            let sudo = if step.sudo { ", sudo" } else { "" };
            format!("{}, {keys} SSH keys{sudo}", step.name)
        }
        Action::Hostname(step) => step.name.to_string(),
        Action::Command(step) => step.argv.to_string(),
    }
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.bundle)?;
        if !self.description.is_empty() {
            writeln!(f, "{}", self.description)?;
        }
        writeln!(f, "manifest {}", self.manifest)?;
        write!(
            f,
            "{} files, {} bytes to download",
            self.files, self.stored_bytes
        )?;
        for (number, step) in self.steps.iter().enumerate() {
            write!(
                f,
                "\n{:>4}  {:<9} {}: {}",
                number + 1,
                step.kind,
                step.name,
                step.what
            )?;
        }
        Ok(())
    }
}
