//! `bundle.toml`: what the maker of a bundle writes. Unknown keys are refused,
//! and every mistake is told with file, line, caret and what to write instead.

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use super::limits;
use super::path::{Mode, RelPath, TargetPath};
use super::step::{
    AccountName, Action, CommandStep, Content, DirectoryStep, FileStep, HostnameStep, Step,
    StepName, TreeStep, UserStep,
};
use super::template::{Template, TemplateError};
use crate::ids::{Slug, Version};
use crate::toml_error;

/// A checked `bundle.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The bundle's name.
    pub name: Slug,
    /// Its version.
    pub version: Version,
    /// One line for people.
    pub description: String,
    /// The steps, in order.
    pub steps: Vec<Step>,
}

/// A mistake in `bundle.toml`, rendered with file, line, caret and advice.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SourceError(String);

impl Source {
    /// Reads the text of a `bundle.toml`; `file` is its name for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, SourceError> {
        if text.len() as u64 > limits::SOURCE {
            return Err(SourceError(format!(
                "{file}: longer than 1 MiB: put content into files beside it"
            )));
        }
        let raw: RawBundle = toml::from_str(text).map_err(|err| explain(file, text, &err))?;
        raw.check()
            .map_err(|(span, why)| SourceError(toml_error::at(file, text, Some(span), &why)))
    }

    /// Puts the text of template files into their steps, read by `read`, and
    /// checks it: a device can then compare without unpacking anything.
    pub fn inline_templates<E: From<TemplateFileError>>(
        &mut self,
        mut read: impl FnMut(&RelPath) -> Result<String, E>,
    ) -> Result<(), E> {
        for step in &mut self.steps {
            let Action::File(file) = &mut step.action else {
                continue;
            };
            let Content::Stored(path) = &file.content else {
                continue;
            };
            if !file.template {
                continue;
            }
            let text = read(path)?;
            let checked = text.parse::<Template>();
            checked.map_err(|err| TemplateFileError {
                path: path.clone(),
                err,
            })?;
            file.content = Content::Inline(text);
        }
        Ok(())
    }
}

/// A file beside `bundle.toml` that is not the template it is said to be.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{path}: {err}")]
pub struct TemplateFileError {
    path: RelPath,
    err: TemplateError,
}

/// Every key of the file, for suggestions across tables.
const KEYS: [&str; 31] = [
    "name",
    "version",
    "description",
    "step",
    "file",
    "tree",
    "directory",
    "user",
    "hostname",
    "command",
    "path",
    "content",
    "source",
    "template",
    "mode",
    "owner",
    "group",
    "uid",
    "gecos",
    "groups",
    "shell",
    "home",
    "ssh_authorized_keys",
    "sudo",
    "argv",
    "unless",
    "creates",
    "timeout",
    "env",
    "steps",
    "files",
];

fn explain(file: &str, text: &str, err: &toml::de::Error) -> SourceError {
    let word = err
        .message()
        .strip_prefix("unknown field `")
        .and_then(|rest| rest.split('`').next())
        .map(str::to_lowercase);
    let secret = word.is_some_and(|w| w.contains("passw") || w.contains("hash"));
    if secret {
        let why = "a bundle holds no passwords and no password hashes: everybody can read it, and a hash can be \
                   cracked at leisure; use ssh_authorized_keys";
        return SourceError(toml_error::at(file, text, err.span(), why));
    }
    SourceError(toml_error::explain(file, text, err, &KEYS))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBundle {
    name: Slug,
    version: Version,
    #[serde(default)]
    description: Option<Spanned<String>>,
    #[serde(default)]
    step: Vec<Spanned<RawStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawStep {
    name: Spanned<StepName>,
    file: Option<Spanned<RawFile>>,
    tree: Option<Spanned<TreeStep>>,
    directory: Option<Spanned<DirectoryStep>>,
    user: Option<Spanned<UserStep>>,
    hostname: Option<Spanned<HostnameStep>>,
    command: Option<Spanned<CommandStep>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    path: TargetPath,
    content: Option<Spanned<String>>,
    source: Option<Spanned<RelPath>>,
    #[serde(default)]
    template: bool,
    mode: Option<Mode>,
    #[serde(default)]
    owner: AccountName,
    #[serde(default)]
    group: AccountName,
}

/// A mistake and where it stands.
type Wrong = (Range<usize>, String);

impl RawBundle {
    fn check(self) -> Result<Source, Wrong> {
        if let Some(step) = self.step.get(limits::STEPS) {
            return Err((step.span(), format!("more than {} steps", limits::STEPS)));
        }
        let mut names = std::collections::BTreeSet::new();
        let mut steps = Vec::with_capacity(self.step.len());
        for raw in self.step {
            let name_span = raw.get_ref().name.span();
            let step = check_step(raw)?;
            if !names.insert(step.name.clone()) {
                return Err((
                    name_span,
                    format!(
                        "two steps are called `{}`: receipts tell steps by name",
                        step.name
                    ),
                ));
            }
            steps.push(step);
        }
        Ok(Source {
            name: self.name,
            version: self.version,
            description: check_description(self.description)?,
            steps,
        })
    }
}

fn check_description(raw: Option<Spanned<String>>) -> Result<String, Wrong> {
    let Some(raw) = raw else {
        return Ok(String::new());
    };
    let span = raw.span();
    let text = raw.into_inner();
    if text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err((
            span,
            "a description is one line of at most 200 characters".into(),
        ));
    }
    Ok(text)
}

fn check_step(raw: Spanned<RawStep>) -> Result<Step, Wrong> {
    let span = raw.span();
    let raw = raw.into_inner();
    let mut kinds: Vec<(Range<usize>, Action)> = Vec::new();
    if let Some(file) = raw.file {
        kinds.push((file.span(), Action::File(check_file(file)?)));
    }
    add(&mut kinds, raw.tree, Action::Tree);
    add(&mut kinds, raw.directory, Action::Directory);
    add(&mut kinds, raw.user, Action::User);
    add(&mut kinds, raw.hostname, Action::Hostname);
    add(&mut kinds, raw.command, Action::Command);
    let name = raw.name.into_inner();
    let mut kinds = kinds.into_iter();
    let (place, action) = kinds.next().ok_or_else(|| {
        (span, format!("step `{name}` does nothing: give it one of file, tree, directory, user, hostname, command"))
    })?;
    if let Some((span, second)) = kinds.next() {
        let why = format!(
            "step `{name}` is both `{}` and `{}`: make it two steps",
            action.kind(),
            second.kind()
        );
        return Err((span, why));
    }
    action.check().map_err(|err| (place, err.to_string()))?;
    Ok(Step { name, action })
}

fn add<T>(kinds: &mut Vec<(Range<usize>, Action)>, raw: Option<Spanned<T>>, make: fn(T) -> Action) {
    if let Some(raw) = raw {
        kinds.push((raw.span(), make(raw.into_inner())));
    }
}

fn check_file(raw: Spanned<RawFile>) -> Result<FileStep, Wrong> {
    let span = raw.span();
    let raw = raw.into_inner();
    let content = match (raw.content, raw.source) {
        (Some(text), None) => {
            let place = text.span();
            let text = text.into_inner();
            if raw.template {
                text.parse::<Template>()
                    .map_err(|err| (place, err.to_string()))?;
            }
            Content::Inline(text)
        }
        (None, Some(path)) => Content::Stored(path.into_inner()),
        (Some(_), Some(path)) => {
            return Err((
                path.span(),
                "`content` and `source` exclude each other".into(),
            ));
        }
        (None, None) => {
            return Err((
                span,
                "a file needs `content` (text) or `source` (a file beside bundle.toml)".into(),
            ));
        }
    };
    Ok(FileStep {
        path: raw.path,
        content,
        template: raw.template,
        mode: raw.mode.unwrap_or(Mode::FILE),
        owner: raw.owner,
        group: raw.group,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEAD: &str = "name = \"welcome\"\nversion = \"1.0\"\n[[step]]\nname = \"one\"\n";

    fn wrong(steps: &str) -> String {
        Source::parse("bundle.toml", &format!("{HEAD}{steps}"))
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn reads_every_kind() {
        let text = r#"
name = "welcome"
version = "1.2.3"
description = "All kinds"
[[step]]
name = "motd"
file = { path = "/etc/motd", content = "Hello {{hostname}}\n", template = true, mode = "0640", owner = "root", group = "adm" }
[[step]]
name = "issue"
file = { path = "/etc/issue", source = "issue" }
[[step]]
name = "app"
tree = { path = "/opt/app", source = "app" }
[[step]]
name = "spool"
directory = { path = "/var/spool/app", mode = "0750" }
[[step]]
name = "crew"
[step.user]
name = "crew"
uid = 2000
gecos = "The crew"
groups = ["adm"]
shell = "/bin/sh"
home = "/srv/crew"
sudo = true
[[step]]
name = "name"
hostname = {}
[[step]]
name = "run"
[step.command]
argv = ["/bin/true"]
creates = "/var/lib/done"
unless = ["test", "-e", "/x"]
timeout = 10
env = { A = "b" }
"#;
        let source = Source::parse("bundle.toml", text).unwrap();
        let kinds: Vec<_> = source.steps.iter().map(|s| s.action.kind()).collect();
        assert_eq!(
            kinds,
            [
                "file",
                "file",
                "tree",
                "directory",
                "user",
                "hostname",
                "command"
            ]
        );
        let mut source = source;
        let read = |path: &RelPath| -> Result<String, TemplateFileError> {
            panic!("{path} is no template")
        };
        source.inline_templates(read).unwrap();
    }

    #[test]
    fn a_typo_gets_line_caret_and_the_right_key() {
        let told = wrong("[step.file]\npath = \"/etc/motd\"\ncontnet = \"x\"\n");
        assert!(
            told.starts_with("bundle.toml:7:1: unknown key `contnet`; did you mean `content`?"),
            "{told}"
        );
        assert!(told.ends_with("7 | contnet = \"x\"\n  | ^^^^^^^"), "{told}");
        assert!(wrong("flie = { path = \"/a\" }").contains("did you mean `file`?"));
    }

    #[test]
    fn a_bogus_key_is_refused_in_every_table() {
        for table in ["file", "tree", "directory", "user", "hostname", "command"] {
            let told = wrong(&format!("[step.{table}]\nbogus_zzz = 1\n"));
            assert!(
                told.starts_with("bundle.toml:6:1: unknown key `bogus_zzz`"),
                "{table}: {told}"
            );
        }
        assert!(wrong("bogus_zzz = 1").contains("unknown key"));
        let top = Source::parse("f", &format!("bogus_zzz = 1\n{HEAD}hostname = {{}}")).unwrap_err();
        assert!(top.to_string().starts_with("f:1:1: unknown key"));
    }

    #[test]
    fn passwords_are_refused_with_the_reason() {
        for key in ["password", "password_hash", "passwd", "hashed_passwd"] {
            let told = wrong(&format!("[step.user]\nname = \"a\"\n{key} = \"$6$\"\n"));
            assert!(
                told.contains("no password hashes") && told.contains("ssh_authorized_keys"),
                "{told}"
            );
            assert!(told.starts_with("bundle.toml:7:1:"), "{told}");
        }
    }

    #[test]
    fn values_are_checked_where_they_stand() {
        for (steps, place, why) in [
            (
                "file = { path = \"etc/motd\", content = \"\" }",
                "5:17",
                "not absolute",
            ),
            (
                "file = { path = \"/etc/../motd\", content = \"\" }",
                "5:17",
                "not normalised",
            ),
            (
                "file = { path = \"/a\", content = \"\", mode = \"888\" }",
                "5:44",
                "not a mode",
            ),
            (
                "file = { path = \"/a\", content = \"\", mode = 644 }",
                "5:44",
                "a mode as text",
            ),
            (
                "file = { path = \"/a\", source = \"../x\" }",
                "5:32",
                "not normalised",
            ),
            (
                "file = { path = \"/a\", source = \"/x\" }",
                "5:32",
                "is absolute",
            ),
            (
                "file = { path = \"/a\", source = \"x\", content = \"\" }",
                "5:32",
                "exclude",
            ),
            ("file = { path = \"/a\" }", "5:8", "needs `content`"),
            (
                "file = { path = \"/a\", content = \"{{x\", template = true }",
                "5:33",
                "not closed",
            ),
            (
                "file = { path = \"/etc/shadow\", content = \"\" }",
                "5:8",
                "`user` step",
            ),
            ("directory = { path = \"/\" }", "5:13", "cannot be written"),
            ("user = { name = \"Root\" }", "5:17", "not an account"),
            ("user = { name = \"a\", uid = 0 }", "5:28", "100 to 59999"),
            ("command = { argv = [] }", "5:20", "not a command"),
            ("command = { argv = [\"a\"], timeout = 0 }", "5:37", "3600"),
            (
                "hostname = {}\ntree = { path = \"/\", source = \"a\" }",
                "5:12",
                "two steps",
            ),
        ] {
            let told = wrong(steps);
            assert!(told.contains(why), "{steps}: {told}");
            assert!(
                told.starts_with(&format!("bundle.toml:{place}:")),
                "{steps}: {told}"
            );
        }
        assert!(wrong("").contains("does nothing"));
        let twice = wrong("hostname = {}\n[[step]]\nname = \"one\"\nhostname = {}\n");
        assert!(
            twice.starts_with("bundle.toml:7:8: two steps are called `one`"),
            "{twice}"
        );
    }

    #[test]
    fn template_files_are_put_into_their_steps() {
        let text = format!("{HEAD}file = {{ path = \"/a\", source = \"a.in\", template = true }}");
        let mut source = Source::parse("f", &text).unwrap();
        let bad = source
            .clone()
            .inline_templates(|_| Ok::<_, TemplateFileError>("\n{{".into()));
        assert!(bad.unwrap_err().to_string().starts_with("a.in: line 2:"));
        source
            .inline_templates(|_| Ok::<_, TemplateFileError>("{{a}}".into()))
            .unwrap();
        let Action::File(file) = &source.steps[0].action else {
            panic!()
        };
        assert_eq!(file.content, Content::Inline("{{a}}".into()));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,60}") {
            let _ = Source::parse("f", &text);
            let _ = Source::parse("f", &format!("{HEAD}{text}"));
        }
    }
}
