//! The apply engine: makes an installed system what a bundle says.
//!
//! [`run`] goes through three doors, and nothing of the installed system is
//! touched before the last:
//! 1. every template is rendered: an unknown variable ends it here;
//! 2. the present state is compared with the wanted one; the blobs that hold
//!    what is missing are verified and unpacked into a folder of their own;
//! 3. the steps are applied in order. The first that fails stops the run; the
//!    rest is told as skipped. A file is written beside its place, synced and
//!    renamed, so that it is the old one or the new one and never half.
//!
//! Run again, it compares and changes nothing.
//!
//! The caller mounts the installed system, and `/proc`, `/sys` and `/dev`
//! below it where the bundle has commands. Paths never leave the root: see
//! [`crate::root`].

pub mod accounts;
pub mod command;
pub mod files;
pub mod hosts;
pub mod owners;
pub mod stage;
mod users;

#[cfg(test)]
mod tests;

use std::path::Path;
use std::time::Instant;

use groundcrew_core::bundle::template::UnknownVariable;
use groundcrew_core::bundle::{
    Action, Bundle, CommandStep, Config, Content, FileEntry, Step, Variables,
};
use groundcrew_core::enroll::{ReceiptResult, StepOutcome, StepReceipt};
use groundcrew_core::ids::shown;

pub use crate::root::Root;
pub use command::{ChrootRunner, Runner, exec_in_root};

use crate::root::{Folder, FsError, Ids};
use accounts::AccountError;
use command::{CommandError, Invocation, failure};
use files::{Body, Needs};
use hosts::HostnameError;
use owners::{Owners, UnknownOwner};
use stage::{ContentError, Stage};

/// What to apply, and to what.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The installed system.
    pub root: &'a Root,
    /// The verified bundle.
    pub bundle: &'a Bundle,
    /// A folder with the bundle's blobs, each called by the 64 hex characters
    /// of its digest (such as a layout's `blobs/sha256`).
    pub blobs: &'a Path,
    /// The values for templates.
    pub variables: &'a Variables,
}

/// What is told while a job runs.
#[derive(Clone, Copy, Debug)]
pub enum StepEvent<'a> {
    /// Content is being verified; bytes.
    Verifying {
        /// Done so far.
        done: u64,
        /// In all.
        total: u64,
    },
    /// A step begins.
    Started {
        /// Counted from 0.
        index: usize,
        /// Number of steps.
        total: usize,
        /// The step's name.
        name: &'a str,
    },
    /// A step's program said something.
    Output {
        /// Which step.
        index: usize,
        /// What it said.
        bytes: &'a [u8],
    },
    /// A step ended, or was skipped.
    Finished {
        /// Counted from 0.
        index: usize,
        /// Number of steps.
        total: usize,
        /// How.
        receipt: &'a StepReceipt,
    },
}

/// How a job ended: what the receipt will say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether every step holds.
    pub result: ReceiptResult,
    /// Each step, in order.
    pub steps: Vec<StepReceipt>,
}

/// What a job would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Each step's name and what would become of it, in order.
    pub steps: Vec<(String, Planned)>,
    /// Content that has to be unpacked, by digest.
    pub needs: Needs,
}

/// What would become of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Planned {
    /// It is so already.
    Holds,
    /// It will be made so.
    Change,
    /// Only running its check (`unless`) can tell.
    Ask,
}

/// Why a step or a job failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// A file of the device.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Content of the bundle.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A template.
    #[error("step `{step}`: {source}")]
    Variable {
        /// The step's name.
        step: String,
        /// Which variable.
        source: UnknownVariable,
    },
    /// The system's name.
    #[error(transparent)]
    Hostname(#[from] HostnameError),
    /// An owner.
    #[error(transparent)]
    Owner(#[from] UnknownOwner),
    /// An account.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Not a system whose accounts we understand.
    #[error(
        "the installed system has no /etc/{0}: its accounts are not kept in files that we understand"
    )]
    NoAccounts(&'static str),
    /// A program.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A program's result.
    #[error("`{command}`: {how}{said}")]
    Failed {
        /// What was run.
        command: String,
        /// How it ended.
        how: String,
        /// Its last words.
        said: String,
    },
}

/// Compares the installed system with the bundle; changes nothing.
pub fn plan(job: &Job<'_>) -> Result<Plan, ApplyError> {
    let rendered = render(job)?;
    let mut context = Context::new(job);
    Ok(context.plan(&rendered))
}

/// Makes the installed system what the bundle says.
pub fn run(job: &Job<'_>, runner: &mut dyn Runner, on: &mut dyn FnMut(StepEvent<'_>)) -> Outcome {
    let mut log = Log {
        total: job.bundle.config().steps.len(),
        receipts: Vec::new(),
        on,
    };
    let result = attempt(job, runner, &mut log);
    for step in job.bundle.config().steps.iter().skip(log.receipts.len()) {
        log.finish(&step.name.to_string(), StepOutcome::Skipped, 0);
    }
    let result = match result {
        Ok(()) => ReceiptResult::Provisioned,
        Err(err) => ReceiptResult::Failed { reason: err },
    };
    Outcome {
        result,
        steps: log.receipts,
    }
}

/// The three doors. The error is the reason in words.
fn attempt(job: &Job<'_>, runner: &mut dyn Runner, log: &mut Log<'_>) -> Result<(), String> {
    let words = |err: ApplyError| err.to_string();
    let rendered = render(job).map_err(words)?;
    let mut context = Context::new(job);
    let plan = context.plan(&rendered);
    let owner = context.owners().map_err(|err| err.to_string())?.root();
    let mut progress = |done, total| (log.on)(StepEvent::Verifying { done, total });
    let stage = Stage::prepare(
        job.root,
        job.bundle,
        job.blobs,
        &plan.needs,
        owner,
        &mut progress,
    )
    .map_err(|err| err.to_string())?;
    context.stage = Some(stage);
    context.needs.clone_from(&plan.needs);
    let mut untouched = true;
    for ((name, planned), action) in plan.steps.iter().zip(&rendered) {
        log.start(name);
        let begun = Instant::now();
        let result = match planned {
            // what the plan saw is still so while nothing was changed
            Planned::Holds if untouched => Ok(false),
            _ => context.apply(action, runner, log),
        };
        untouched &= matches!(result, Ok(false)) && *planned != Planned::Ask;
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let outcome = match &result {
            Ok(true) => StepOutcome::Changed,
            Ok(false) => StepOutcome::Unchanged,
            Err(err) => StepOutcome::Failed {
                reason: err.to_string(),
            },
        };
        log.finish(name, outcome, millis);
        if let Err(err) = result {
            let _ = job.root.sync();
            return Err(format!("step `{name}`: {err}"));
        }
    }
    job.root.sync().map_err(|err| err.to_string())
}

struct Log<'a> {
    total: usize,
    receipts: Vec<StepReceipt>,
    on: &'a mut dyn FnMut(StepEvent<'_>),
}

impl Log<'_> {
    fn start(&mut self, name: &str) {
        (self.on)(StepEvent::Started {
            index: self.receipts.len(),
            total: self.total,
            name,
        });
    }

    fn output(&mut self, bytes: &[u8]) {
        (self.on)(StepEvent::Output {
            index: self.receipts.len(),
            bytes,
        });
    }

    fn finish(&mut self, name: &str, outcome: StepOutcome, millis: u64) {
        let receipt = StepReceipt {
            name: name.to_owned(),
            outcome,
            millis,
        };
        (self.on)(StepEvent::Finished {
            index: self.receipts.len(),
            total: self.total,
            receipt: &receipt,
        });
        self.receipts.push(receipt);
    }
}

/// A step with its templates rendered.
enum Rendered<'a> {
    Text(&'a Action, Vec<u8>),
    Hostname(String),
    AsIs(&'a Action),
}

fn render<'a>(job: &Job<'a>) -> Result<Vec<Rendered<'a>>, ApplyError> {
    job.bundle
        .config()
        .steps
        .iter()
        .map(|step| render_step(step, job.variables))
        .collect()
}

fn render_step<'a>(step: &'a Step, variables: &Variables) -> Result<Rendered<'a>, ApplyError> {
    let named = |source| ApplyError::Variable {
        step: step.name.to_string(),
        source,
    };
    match &step.action {
        Action::Hostname(wanted) => {
            let name = wanted.name.render(variables).map_err(named)?;
            hosts::check_hostname(&name)?;
            Ok(Rendered::Hostname(name))
        }
        Action::File(file) => match &file.content {
            Content::Stored(_) => Ok(Rendered::AsIs(&step.action)),
            Content::Inline(text) => {
                // its syntax was checked with the configuration
                let template = if file.template {
                    text.parse().ok()
                } else {
                    None
                };
                let template: Option<groundcrew_core::bundle::Template> = template;
                let text = template.map_or(Ok(text.clone()), |template| template.render(variables));
                Ok(Rendered::Text(
                    &step.action,
                    text.map_err(named)?.into_bytes(),
                ))
            }
        },
        action => Ok(Rendered::AsIs(action)),
    }
}

/// What the steps share while they plan or work.
pub struct Context<'a> {
    root: &'a Root,
    bundle: &'a Bundle,
    blobs: &'a Path,
    owners: Option<Owners>,
    /// There while working, absent while planning.
    stage: Option<Stage<'a>>,
    needs: Needs,
}

impl<'a> Context<'a> {
    fn new(job: &Job<'a>) -> Self {
        Self {
            root: job.root,
            bundle: job.bundle,
            blobs: job.blobs,
            owners: None,
            stage: None,
            needs: Needs::new(),
        }
    }

    fn plan(&mut self, rendered: &[Rendered<'_>]) -> Plan {
        let names = self
            .bundle
            .config()
            .steps
            .iter()
            .map(|step| step.name.to_string());
        let steps = names
            .zip(rendered.iter().map(|step| self.foresee(step)))
            .collect();
        Plan {
            steps,
            needs: std::mem::take(&mut self.needs),
        }
    }

    fn foresee(&mut self, step: &Rendered<'_>) -> Planned {
        match self.place(step) {
            Ok(Some(false)) => Planned::Holds,
            Ok(Some(true)) => Planned::Change,
            Ok(None) => Planned::Ask,
            Err(_) => {
                // it will fail, or an earlier step clears the way
                self.need_all(step);
                Planned::Change
            }
        }
    }

    /// Applies a step; true where something was changed.
    fn apply(
        &mut self,
        step: &Rendered<'_>,
        runner: &mut dyn Runner,
        log: &mut Log<'_>,
    ) -> Result<bool, ApplyError> {
        match step {
            Rendered::AsIs(Action::Command(command)) => {
                let ran = run_command(self.root, command, runner, log);
                // it may have added users
                self.forget_owners();
                ran
            }
            step => {
                let placed = match self.place(step) {
                    Err(ApplyError::Content(ContentError::NotPrepared(_))) => {
                        self.prepare_late(step)?;
                        self.place(step)
                    }
                    placed => placed,
                };
                Ok(placed?.unwrap_or(false))
            }
        }
    }

    /// Unpacks content that the plan found in place, and that an earlier step
    /// has changed since (a command, or two steps that write the same path).
    fn prepare_late(&mut self, step: &Rendered<'_>) -> Result<(), ApplyError> {
        self.need_all(step);
        let owner = self.owners()?.root();
        // first: its folder is removed with it
        self.stage = None;
        let stage = Stage::prepare(
            self.root,
            self.bundle,
            self.blobs,
            &self.needs,
            owner,
            &mut |_, _| {},
        )?;
        self.stage = Some(stage);
        Ok(())
    }

    /// Every kind but commands, of which only the guard on a path is looked
    /// at. None where nobody can tell without running something.
    fn place(&mut self, step: &Rendered<'_>) -> Result<Option<bool>, ApplyError> {
        let changed = match step {
            Rendered::Hostname(name) => users::hostname(self, name)?,
            Rendered::Text(Action::File(step), text) => files::file(self, step, Body::Bytes(text))?,
            Rendered::Text(..) => false,
            Rendered::AsIs(action) => match action {
                Action::File(step) => match self.stored(&step.content) {
                    Some(entry) => files::file(self, step, Body::Stored(entry))?,
                    None => false,
                },
                Action::Tree(step) => files::tree(self, step)?,
                Action::Directory(step) => files::directory(self, step)?,
                Action::User(step) => users::user(self, step)?,
                Action::Hostname(_) => false,
                Action::Command(step) => match &step.creates {
                    Some(path) if self.root.exists(path.relative())? => false,
                    _ if step.unless.is_some() => return Ok(None),
                    _ => true,
                },
            },
        };
        Ok(Some(changed))
    }

    fn need_all(&mut self, step: &Rendered<'_>) {
        match step {
            Rendered::AsIs(Action::File(step)) => {
                if let Some(entry) = self.stored(&step.content) {
                    self.need(Body::Stored(entry));
                }
            }
            Rendered::AsIs(Action::Tree(step)) => {
                let files = self.config().content.files.iter();
                files
                    .filter(|entry| entry.path.below(&step.source).is_some())
                    .for_each(|entry| self.need(Body::Stored(entry)));
            }
            _ => {}
        }
    }

    fn stored(&self, content: &Content) -> Option<&'a FileEntry> {
        match content {
            Content::Stored(path) => self.config().file(path),
            Content::Inline(_) => None,
        }
    }

    /// Whether nothing may be changed.
    fn planning(&self) -> bool {
        self.stage.is_none()
    }

    fn config(&self) -> &'a Config {
        self.bundle.config()
    }

    /// Notes content that will have to be unpacked.
    fn need(&mut self, body: Body<'_>) {
        if let Body::Stored(entry) = body {
            *self.needs.entry(entry.digest).or_default() += 1;
        }
    }

    fn stage(&self) -> Result<&Stage<'a>, ContentError> {
        self.stage
            .as_ref()
            .ok_or_else(|| ContentError::NotPrepared("content".into()))
    }

    /// The folder at `path`; made while working, none where it is missing
    /// while planning.
    fn folder(&self, path: &str, owner: Ids) -> Result<Option<Folder<'a>>, FsError> {
        if self.planning() {
            self.root.folder(path)
        } else {
            self.root.make_folder(path, 0o755, Some(owner)).map(Some)
        }
    }

    fn owners(&mut self) -> Result<&Owners, FsError> {
        if self.owners.is_none() {
            self.owners = Some(Owners::read(self.root)?);
        }
        Ok(self.owners.get_or_insert_default())
    }

    fn forget_owners(&mut self) {
        self.owners = None;
    }
}

fn run_command(
    root: &Root,
    step: &CommandStep,
    runner: &mut dyn Runner,
    log: &mut Log<'_>,
) -> Result<bool, ApplyError> {
    let created = |path: &groundcrew_core::bundle::TargetPath| root.exists(path.relative());
    if step.creates.as_ref().map_or(Ok(false), created)? {
        return Ok(false);
    }
    let timeout = step.timeout.duration();
    if let Some(argv) = &step.unless {
        let asked = Invocation {
            argv,
            env: &step.env,
            timeout,
        };
        if runner.run(&asked, &mut |_| {})?.success() {
            return Ok(false);
        }
    }
    let mut last = Vec::new();
    let status = runner.run(
        &Invocation {
            argv: &step.argv,
            env: &step.env,
            timeout,
        },
        &mut |bytes| {
            log.output(bytes);
            last.extend_from_slice(bytes);
            last.drain(..last.len().saturating_sub(4096));
        },
    )?;
    let failed = |how: String| ApplyError::Failed {
        command: step.argv.to_string(),
        how,
        said: last_words(&last),
    };
    if let Some(how) = failure(status) {
        return Err(failed(how));
    }
    match &step.creates {
        Some(path) if !created(path)? => Err(failed(format!(
            "succeeded, but {path} (`creates`) does not exist"
        ))),
        _ => Ok(true),
    }
}

/// The last lines of a program's output that say something, for a reason.
fn last_words(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<String> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(3)
        .map(shown)
        .collect();
    lines.reverse();
    if lines.is_empty() {
        String::new()
    } else {
        format!("; it said: {}", lines.join(" / "))
    }
}
