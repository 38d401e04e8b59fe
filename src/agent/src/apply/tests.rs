//! Whole jobs on an installed system in a temporary folder.

mod hostile;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use groundcrew_core::Digest;
use groundcrew_core::bundle::manifest::Layers;
use groundcrew_core::bundle::{
    Bundle, Config, Descriptor, FileEntry, Inventory, Link, Manifest, Mode, RelPath, Source,
    Stored, Variables, limits, tree,
};
use groundcrew_core::enroll::{ReceiptResult, StepOutcome};

use super::command::{CommandError, Invocation, Runner};
use super::{Job, Outcome, Planned, Root, StepEvent, plan, run};

/// A bundle and a device, both in a temporary folder.
struct Bench {
    folder: tempfile::TempDir,
    bundle: Bundle,
    variables: Variables,
}

/// Runs nothing; makes what `creates` names, for `argv = ["make", PATH]`.
#[derive(Default)]
struct FakeRunner {
    root: PathBuf,
    ran: Vec<String>,
}

impl Runner for FakeRunner {
    fn run(
        &mut self,
        invocation: &Invocation<'_>,
        output: &mut dyn FnMut(&[u8]),
    ) -> Result<ExitStatus, CommandError> {
        self.ran.push(invocation.argv.words().join(" "));
        output(b"working\nstill working\n");
        let (code, path) = match invocation.argv.words() {
            [word, path] if word == "make" => (0, path.trim_start_matches('/').to_owned()),
            [word, ..] if word == "false" => (1, String::new()),
            _ => (0, String::new()),
        };
        if !path.is_empty() {
            fs::write(self.root.join(path), "made").unwrap();
        }
        Ok(ExitStatus::from_raw(code << 8))
    }
}

impl Bench {
    fn new(steps: &str, files: &[(&str, &[u8])]) -> Self {
        Self::with_links(steps, files, &[])
    }

    fn with_links(steps: &str, files: &[(&str, &[u8])], links: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("blobs")).unwrap();
        let blobs = folder.path().join("blobs");
        let bundle = pack(steps, files, links, |bytes| bytes, &blobs);
        let mut variables = Variables::new();
        for (name, value) in [("hostname", "lab-7"), ("site", "hq")] {
            variables.set(name, value).unwrap();
        }
        let bench = Self {
            folder,
            bundle,
            variables,
        };
        bench.install();
        bench
    }

    /// A system as Debian leaves it. Its root is whoever runs the test.
    fn install(&self) {
        let me = fs::metadata(self.folder.path()).unwrap();
        let (uid, gid) = (me.uid(), me.gid());
        let write = |path: &str, text: String| {
            let path = self.root().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write(
            "etc/passwd",
            format!("root:x:{uid}:{gid}:root:/root:/bin/bash\n"),
        );
        write(
            "etc/group",
            format!("root:x:{gid}:\nsudo:x:27:\nadm:x:4:\n"),
        );
        write("etc/shadow", "root:*:19000:0:99999:7:::\n".into());
        write("etc/gshadow", "root:*::\nsudo:*::\nadm:*::\n".into());
        write("etc/hosts", "127.0.0.1\tlocalhost\n127.0.1.1\toem\n".into());
        write("etc/hostname", "oem\n".into());
        write("etc/skel/.profile", "# profile\n".into());
        write("etc/skel/.config/x", "y\n".into());
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap()
    }

    fn run(&self) -> Outcome {
        self.run_told(&mut |_| {}).0
    }

    fn run_told(&self, on: &mut dyn FnMut(StepEvent<'_>)) -> (Outcome, Vec<String>) {
        let root = Root::open(&self.root()).unwrap();
        let mut runner = FakeRunner {
            root: self.root(),
            ran: Vec::new(),
        };
        let blobs = self.folder.path().join("blobs");
        let job = Job {
            root: &root,
            bundle: &self.bundle,
            blobs: &blobs,
            variables: &self.variables,
        };
        (run(&job, &mut runner, on), runner.ran)
    }

    fn plan(&self) -> Vec<Planned> {
        let root = Root::open(&self.root()).unwrap();
        let job = Job {
            root: &root,
            bundle: &self.bundle,
            blobs: Path::new("/nonexistent"),
            variables: &self.variables,
        };
        plan(&job)
            .unwrap()
            .steps
            .into_iter()
            .map(|(_, planned)| planned)
            .collect()
    }
}

fn outcomes(outcome: &Outcome) -> Vec<StepOutcome> {
    outcome
        .steps
        .iter()
        .map(|step| step.outcome.clone())
        .collect()
}

fn reason(outcome: &Outcome) -> &str {
    match &outcome.result {
        ReceiptResult::Failed { reason } => reason,
        ReceiptResult::Provisioned => panic!("{outcome:?}"),
    }
}

/// Builds a bundle in memory; `spoil` changes the archive before compression.
fn pack(
    steps: &str,
    files: &[(&str, &[u8])],
    links: &[(&str, &str)],
    spoil: impl FnOnce(Vec<u8>) -> Vec<u8>,
    blobs: &Path,
) -> Bundle {
    let mut inventory = Inventory::default();
    let mut layers = Layers::default();
    let mut archive = Vec::new();
    let mut all: Vec<_> = files.to_vec();
    all.sort();
    let put = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    };
    let mut folders = std::collections::BTreeSet::new();
    for path in all
        .iter()
        .map(|(path, _)| path)
        .chain(links.iter().map(|(path, _)| path))
    {
        folders.extend(
            path.match_indices('/')
                .map(|(at, _)| path[..at].parse::<RelPath>().unwrap()),
        );
    }
    for (path, content) in all {
        let large = content.len() as u64 >= limits::LARGE_FILE;
        let mode = if path.ends_with(".sh") {
            Mode::PROGRAM
        } else {
            Mode::FILE
        };
        let entry = FileEntry {
            path: path.parse().unwrap(),
            digest: Digest::of(content),
            size: content.len() as u64,
            mode,
            stored: if large { Stored::Blob } else { Stored::Tree },
        };
        if large {
            layers
                .files
                .push(Descriptor::file(put(content), entry.size));
        } else {
            archive.extend(tree::header(&entry));
            archive.extend(content);
            archive.resize(archive.len() + tree::padding(entry.size), 0);
        }
        inventory.files.push(entry);
    }
    if !archive.is_empty() {
        archive.extend(tree::TRAILER);
        let packed = zstd::bulk::compress(&spoil(archive), 1).unwrap();
        layers.tree = Some(Descriptor::tree(put(&packed), packed.len() as u64));
    }
    inventory.directories = folders.into_iter().collect();
    inventory.links = links
        .iter()
        .map(|(path, target)| Link {
            path: path.parse().unwrap(),
            target: (*target).into(),
        })
        .collect();
    let source = Source::parse(
        "bundle.toml",
        &format!("name = \"b\"\nversion = \"1\"\n{steps}"),
    )
    .unwrap();
    let config = Config::new(source, inventory).unwrap();
    let bytes = config.to_bytes().unwrap();
    let manifest = Manifest::new(&config, &bytes, layers).unwrap();
    Bundle::assemble(manifest, &bytes).unwrap()
}

fn key() -> String {
    let mut blob = vec![0, 0, 0, 11];
    blob.extend(b"ssh-ed25519");
    blob.extend([0, 0, 0, 32]);
    blob.extend([7; 32]);
    format!("ssh-ed25519 {} crew", data_encoding::BASE64.encode(&blob))
}

fn everything() -> String {
    format!(
        r#"
[[step]]
name = "name"
hostname = {{}}
[[step]]
name = "motd"
file = {{ path = "/etc/motd", content = "On {{{{hostname}}}} of {{{{site}}}}\n", template = true, mode = "0640" }}
[[step]]
name = "dir"
directory = {{ path = "/srv/site/data", mode = "0750" }}
[[step]]
name = "crew"
user = {{ name = "crew", gecos = "Crew", groups = ["adm"], sudo = true, ssh_authorized_keys = ["{}"] }}
[[step]]
name = "tree"
tree = {{ path = "/", source = "files" }}
[[step]]
name = "big"
file = {{ path = "/var/lib/big", source = "big" }}
[[step]]
name = "command"
command = {{ argv = ["make", "/var/done"], creates = "/var/done" }}
"#,
        key()
    )
}

const FILES: [(&str, &[u8]); 3] = [
    ("files/etc/a.conf", b"a\n"),
    ("files/usr/bin/tool.sh", b"#!/bin/sh\n"),
    ("files/opt/x/empty", b""),
];

/// Accounts are owned by other numbers, which only root may give away.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("not root: this test cannot give files to other users and proves nothing here");
    }
    root
}

#[test]
fn everything_once_and_then_nothing() {
    if !is_root() {
        return;
    }
    let large = vec![5; limits::LARGE_FILE as usize];
    let files: Vec<_> = FILES
        .into_iter()
        .chain([("big", large.as_slice())])
        .collect();
    let bench = Bench::with_links(&everything(), &files, &[("files/usr/bin/t", "tool.sh")]);
    assert_eq!(bench.plan(), [Planned::Change; 7]);
    let outcome = bench.run();
    assert_eq!(outcome.result, ReceiptResult::Provisioned, "{outcome:?}");
    assert_eq!(outcomes(&outcome), vec![StepOutcome::Changed; 7]);
    assert_eq!(bench.read("etc/motd"), "On lab-7 of hq\n");
    assert_eq!(
        bench.read("etc/hosts"),
        "127.0.0.1\tlocalhost\n127.0.1.1\tlab-7\n"
    );
    assert_eq!(bench.read("etc/hostname"), "lab-7\n");
    assert_eq!(
        bench.read("home/crew/.ssh/authorized_keys"),
        format!("{}\n", key())
    );
    assert_eq!(bench.read("home/crew/.config/x"), "y\n");
    assert_eq!(
        bench.read("etc/sudoers.d/groundcrew-crew"),
        "crew ALL=(ALL:ALL) NOPASSWD: ALL\n"
    );
    assert!(bench.read("etc/shadow").contains("\ncrew:!*::"));
    let stat = |path: &str| {
        let meta = fs::symlink_metadata(bench.root().join(path)).unwrap();
        (meta.permissions().mode() & 0o7777, meta.uid())
    };
    let me = fs::metadata(bench.folder.path()).unwrap().uid();
    assert_eq!(stat("etc/motd"), (0o640, me));
    assert_eq!(stat("srv/site/data"), (0o750, me));
    assert_eq!(stat("usr/bin/tool.sh"), (0o755, me));
    assert_eq!(stat("home/crew"), (0o700, 1000));
    assert_eq!(stat("home/crew/.profile").1, 1000);
    assert_eq!(stat("home/crew/.ssh/authorized_keys"), (0o600, 1000));
    assert_eq!(
        fs::read_link(bench.root().join("usr/bin/t")).unwrap(),
        Path::new("tool.sh")
    );
    assert_eq!(
        fs::metadata(bench.root().join("var/lib/big"))
            .unwrap()
            .len(),
        limits::LARGE_FILE
    );
    assert!(
        leftovers(&bench.root()).is_empty(),
        "{:?}",
        leftovers(&bench.root())
    );

    let before = snapshot(&bench.root());
    fs::remove_dir_all(bench.folder.path().join("blobs")).unwrap();
    let (again, ran) = bench.run_told(&mut |_| {});
    assert_eq!(
        outcomes(&again),
        vec![StepOutcome::Unchanged; 7],
        "{again:?}"
    );
    assert_eq!(ran, Vec::<String>::new());
    assert_eq!(
        snapshot(&bench.root()),
        before,
        "times included: nothing was written"
    );
}

type Snapshot = BTreeMap<PathBuf, (u32, i64, i64, u64)>;

fn snapshot(folder: &Path) -> Snapshot {
    let mut all = Snapshot::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                open.push(path.clone());
            }
            all.insert(
                path,
                (meta.mode(), meta.ctime(), meta.ctime_nsec(), meta.ino()),
            );
        }
    }
    all
}

fn leftovers(folder: &Path) -> Vec<PathBuf> {
    snapshot(folder)
        .into_keys()
        .filter(|path| path.to_string_lossy().contains("groundcrew-"))
        .filter(|p| !p.ends_with("groundcrew-crew"))
        .collect()
}

#[test]
fn what_was_changed_by_hand_is_made_right_again() {
    let steps = "[[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"files\" }\n\
                 [[step]]\nname = \"d\"\ndirectory = { path = \"/srv\", mode = \"0711\" }\n";
    let bench = Bench::new(steps, &FILES);
    bench.run();
    fs::write(bench.root().join("etc/a.conf"), "b\n").unwrap();
    fs::set_permissions(
        bench.root().join("usr/bin/tool.sh"),
        fs::Permissions::from_mode(0o777),
    )
    .unwrap();
    fs::write(bench.root().join("etc/other"), "stays").unwrap();
    assert_eq!(bench.plan(), [Planned::Change, Planned::Holds]);
    assert_eq!(
        outcomes(&bench.run()),
        [StepOutcome::Changed, StepOutcome::Unchanged]
    );
    assert_eq!(bench.read("etc/a.conf"), "a\n");
    assert_eq!(bench.read("etc/other"), "stays");
    fs::set_permissions(bench.root().join("srv"), fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(
        outcomes(&bench.run()),
        [StepOutcome::Unchanged, StepOutcome::Changed]
    );
}

#[test]
fn a_failing_step_stops_the_run() {
    let steps = "[[step]]\nname = \"a\"\nfile = { path = \"/a\", content = \"a\" }\n\
                 [[step]]\nname = \"b\"\ncommand = { argv = [\"false\"] }\n\
                 [[step]]\nname = \"c\"\nfile = { path = \"/c\", content = \"c\" }\n";
    let bench = Bench::new(steps, &[]);
    let mut told = Vec::new();
    let (outcome, _) = bench.run_told(&mut |event| match event {
        StepEvent::Started { index, total, name } => told.push(format!("{name} {index}/{total}")),
        StepEvent::Output { index, bytes } => {
            told.push(format!("{index}: {}", String::from_utf8_lossy(bytes)));
        }
        StepEvent::Finished { receipt, .. } => told.push(format!("{} done", receipt.name)),
        StepEvent::Verifying { .. } => {}
    });
    let failed = "`false`: exit code 1; it said: working / still working";
    assert_eq!(
        outcomes(&outcome),
        [
            StepOutcome::Changed,
            StepOutcome::Failed {
                reason: failed.into()
            },
            StepOutcome::Skipped
        ]
    );
    assert_eq!(reason(&outcome), format!("step `b`: {failed}"));
    assert!(!bench.root().join("c").exists());
    let lines = [
        "a 0/3",
        "a done",
        "b 1/3",
        "1: working\nstill working\n",
        "b done",
        "c done",
    ];
    assert_eq!(told, lines);
}

#[test]
fn commands_are_guarded() {
    let step =
        |name: &str, rest: &str| format!("[[step]]\nname = \"{name}\"\n[step.command]\n{rest}\n");
    let steps = step("unless holds", "argv = [\"x\"]\nunless = [\"true\"]")
        + &step("unless fails", "argv = [\"y\"]\nunless = [\"false\"]")
        + &step("lies", "argv = [\"z\"]\ncreates = \"/never\"");
    let bench = Bench::new(&steps, &[]);
    assert_eq!(bench.plan(), [Planned::Ask, Planned::Ask, Planned::Change]);
    let (outcome, ran) = bench.run_told(&mut |_| {});
    assert_eq!(ran, ["true", "false", "y", "z"]);
    assert_eq!(
        outcomes(&outcome)[..2],
        [StepOutcome::Unchanged, StepOutcome::Changed]
    );
    assert!(reason(&outcome).contains("succeeded, but /never (`creates`) does not exist"));
}

#[test]
fn an_unknown_variable_stops_it_before_it_begins() {
    let steps = "[[step]]\nname = \"a\"\nfile = { path = \"/a\", content = \"a\" }\n\
                 [[step]]\nname = \"b\"\nfile = { path = \"/b\", content = \"{{nope}}\", template = true }\n";
    let bench = Bench::new(steps, &[]);
    let before = snapshot(&bench.root());
    let outcome = bench.run();
    assert_eq!(outcomes(&outcome), vec![StepOutcome::Skipped; 2]);
    assert!(
        reason(&outcome).contains("step `b`: no value for `{{nope}}`"),
        "{outcome:?}"
    );
    assert_eq!(snapshot(&bench.root()), before);
}

#[test]
fn merged_folders_are_followed_inside_the_system() {
    let steps = "[[step]]\nname = \"t\"\nfile = { path = \"/lib/systemd/x\", content = \"x\" }\n";
    let bench = Bench::new(steps, &[]);
    fs::create_dir_all(bench.root().join("usr/lib")).unwrap();
    symlink("/usr/lib", bench.root().join("lib")).unwrap();
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
    assert_eq!(bench.read("usr/lib/systemd/x"), "x");
    assert_eq!(outcomes(&bench.run()), [StepOutcome::Unchanged]);
}

#[test]
fn folders_in_the_way_are_spared() {
    let steps = "[[step]]\nname = \"t\"\nfile = { path = \"/srv/x\", content = \"x\" }\n";
    let bench = Bench::new(steps, &[]);
    fs::create_dir_all(bench.root().join("srv/x/precious")).unwrap();
    let outcome = bench.run();
    assert!(
        reason(&outcome).contains("/srv/x is a folder where a file is wanted"),
        "{outcome:?}"
    );
    assert!(bench.root().join("srv/x/precious").exists());
}

#[test]
fn two_steps_on_one_file_end_with_the_second() {
    let steps = "[[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"files\" }\n\
                 [[step]]\nname = \"u\"\nfile = { path = \"/etc/a.conf\", content = \"mine\" }\n\
                 [[step]]\nname = \"v\"\nfile = { path = \"/etc/b\", source = \"files/etc/a.conf\" }\n";
    let bench = Bench::new(steps, &FILES);
    for _ in 0..2 {
        assert_eq!(bench.run().result, ReceiptResult::Provisioned);
        assert_eq!(bench.read("etc/a.conf"), "mine");
        assert_eq!(bench.read("etc/b"), "a\n");
    }
}

#[test]
fn an_owner_made_by_an_earlier_step_is_known() {
    if !is_root() {
        return;
    }
    let steps = "[[step]]\nname = \"u\"\nuser = { name = \"crew\" }\n\
                 [[step]]\nname = \"f\"\nfile = { path = \"/srv/f\", source = \"f\", owner = \"crew\", group = \"crew\" }\n";
    let bench = Bench::new(steps, &[("f", b"f")]);
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
    assert_eq!(
        fs::metadata(bench.root().join("srv/f")).unwrap().uid(),
        1000
    );
    let bench = Bench::new(
        &steps.replace("owner = \"crew\"", "owner = \"nobody\""),
        &[("f", b"f")],
    );
    assert!(reason(&bench.run()).contains("has no user `nobody` (see its /etc/passwd)"));
}
