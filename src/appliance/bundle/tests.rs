//! Built, changed, refused: in temporary folders.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use groundcrew_core::Digest;
use groundcrew_core::bundle::limits;

use super::{Error, build, copy_blobs, manifest_bytes, show, verify};

const HEAD: &str = "name = \"sample\"\nversion = \"1.0\"\n";
const TREE: &str = "[[step]]\nname = \"t\"\ntree = { path = \"/opt/x\", source = \"x\" }\n";

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new(steps: &str, files: &[(&str, &[u8])]) -> Self {
        let bench = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(bench.source()).unwrap();
        fs::write(bench.source().join("bundle.toml"), format!("{HEAD}{steps}")).unwrap();
        for (path, content) in files {
            let path = bench.source().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        bench
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn build(&self) -> Result<super::BuildReport, Error> {
        build(&self.source(), &self.out(), &mut |_, _| {})
    }

    fn refusal(&self) -> String {
        self.build().unwrap_err().to_string()
    }
}

fn every_file(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                all.insert(
                    path.strip_prefix(folder).unwrap().to_owned(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    all
}

fn large() -> Vec<u8> {
    (0..limits::LARGE_FILE as u32 / 4 + 1)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect()
}

#[test]
fn the_same_source_gives_the_same_bytes() {
    let large = large();
    let files: [(&str, &[u8]); 4] = [
        ("x/b", b"two"),
        ("x/a/c", b""),
        ("big", &large),
        ("x/run", b"#!"),
    ];
    let steps =
        format!("{TREE}[[step]]\nname = \"b\"\nfile = {{ path = \"/b\", source = \"big\" }}\n");
    let (one, two) = (Bench::new(&steps, &files), Bench::new(&steps, &files));
    for bench in [&one, &two] {
        fs::set_permissions(
            bench.source().join("x/run"),
            fs::Permissions::from_mode(0o700),
        )
        .unwrap();
        symlink("a/c", bench.source().join("x/link")).unwrap();
    }
    fs::set_permissions(one.source().join("x/b"), fs::Permissions::from_mode(0o600)).unwrap();
    let report = one.build().unwrap();
    assert_eq!(two.build().unwrap(), report);
    let (a, b) = (every_file(&one.out()), every_file(&two.out()));
    assert_eq!(a, b);
    assert_eq!(
        a.len(),
        2 + 4,
        "oci-layout, index.json; manifest, configuration, tree, large file"
    );
    assert_eq!((report.files, report.steps), (4, 2));
    let checked = verify(&one.out(), &mut |_, _| {}).unwrap();
    assert_eq!((checked.blobs, checked.manifest), (3, report.manifest));
    let blob = one
        .out()
        .join("blobs/sha256")
        .join(Digest::of(&large).hex());
    let mut bad = large;
    bad[limits::LARGE_FILE as usize - 9] ^= 1;
    fs::write(blob, bad).unwrap();
    assert!(matches!(
        verify(&one.out(), &mut |_, _| {}),
        Err(Error::Digest { .. })
    ));
}

#[test]
fn the_content_tree_is_an_archive_that_tar_reads() {
    let bench = Bench::new(
        TREE,
        &[
            ("x/a", b"content\n"),
            (&format!("x/{}/{}", "d".repeat(90), "f".repeat(90)), b"1"),
        ],
    );
    bench.build().unwrap();
    let (_, bundle) = manifest_bytes(&bench.out()).unwrap();
    let tree = bundle.manifest().tree().unwrap();
    let blob = fs::File::open(bench.out().join("blobs/sha256").join(tree.digest.hex())).unwrap();
    let mut archive = tar::Archive::new(zstd::stream::read::Decoder::new(blob).unwrap());
    let names: Vec<_> = archive
        .entries()
        .unwrap()
        .map(|e| e.unwrap().path().unwrap().into_owned())
        .collect();
    assert_eq!(names.len(), 2);
    assert_eq!(names[0], Path::new("x/a"));
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let bench = Bench::new(TREE, &[("x/a", b"content")]);
    bench.build().unwrap();
    for entry in fs::read_dir(bench.out().join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let good = fs::read(&path).unwrap();
        for at in [0, good.len() / 2, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&path, &bad).unwrap();
            assert!(
                verify(&bench.out(), &mut |_, _| {}).is_err(),
                "{}",
                path.display()
            );
        }
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(verify(&bench.out(), &mut |_, _| {}).is_err());
        fs::write(&path, &good).unwrap();
    }
    verify(&bench.out(), &mut |_, _| {}).unwrap();
}

#[test]
fn a_tree_blob_that_holds_something_else_is_refused() {
    let bench = Bench::new(TREE, &[("x/a", b"content")]);
    bench.build().unwrap();
    let (_, bundle) = manifest_bytes(&bench.out()).unwrap();
    let mut bomb =
        groundcrew_core::bundle::tree::header(bundle.config().content.tree_files()[0]).to_vec();
    bomb.extend(b"content");
    bomb.resize(16 << 20, 0);
    // level 19 wants a window of 8 MiB: refused before it is given any
    for (level, why) in [
        (1, "more than the configuration names"),
        (19, "too much memory"),
    ] {
        let layout = super::Layout::open(&bench.out()).unwrap();
        let (digest, size) = layout
            .put(&zstd::bulk::compress(&bomb, level).unwrap())
            .unwrap();
        let tree = groundcrew_core::bundle::Descriptor::tree(digest, size);
        let layers = groundcrew_core::bundle::manifest::Layers {
            tree: Some(tree),
            files: vec![],
        };
        let config = bundle.config().to_bytes().unwrap();
        let manifest =
            groundcrew_core::bundle::Manifest::new(bundle.config(), &config, layers).unwrap();
        let (digest, size) = layout.put(&manifest.to_bytes()).unwrap();
        layout.publish(&manifest, digest, size).unwrap();
        let told = verify(&bench.out(), &mut |_, _| {})
            .unwrap_err()
            .to_string();
        assert!(told.contains(why), "{told}");
    }
}

#[test]
fn nothing_outside_the_source_gets_in() {
    let bench = Bench::new(TREE, &[("x/a", b"")]);
    let link = bench.source().join("x/link");
    for target in ["/etc/passwd", "../bundle.toml", "../../secret"] {
        symlink(target, &link).unwrap();
        assert!(
            bench.refusal().contains("leaves `x`"),
            "{}",
            bench.refusal()
        );
        fs::remove_file(&link).unwrap();
    }
    let file = Bench::new(
        "[[step]]\nname = \"f\"\nfile = { path = \"/f\", source = \"f\" }\n",
        &[],
    );
    fs::write(file.folder.path().join("secret"), "s").unwrap();
    for target in ["../secret", "/etc/hostname"] {
        symlink(target, file.source().join("f")).unwrap();
        assert!(
            file.refusal().contains("leaves the bundle's folder"),
            "{}",
            file.refusal()
        );
        fs::remove_file(file.source().join("f")).unwrap();
    }
    symlink("bundle.toml", file.source().join("f")).unwrap();
    file.build().unwrap();
    let folder = Bench::new(TREE, &[]);
    symlink("/etc", folder.source().join("x")).unwrap();
    assert!(folder.build().is_err());
}

#[test]
fn mistakes_in_the_source_say_where() {
    let missing = Bench::new(TREE, &[]).refusal();
    assert!(missing.contains("source/x: No such file"), "{missing}");
    let template =
        "[[step]]\nname = \"f\"\nfile = { path = \"/f\", source = \"f\", template = true }\n";
    assert!(
        Bench::new(template, &[("f", b"a\n{{ b c }}")])
            .refusal()
            .contains("f: line 2:")
    );
    assert!(
        Bench::new(template, &[("f", b"\xff")])
            .refusal()
            .contains("not UTF-8")
    );
    let typo = Bench::new("[[step]]\nname = \"f\"\nflie = {}\n", &[]).refusal();
    assert!(
        typo.contains("bundle.toml:5:1:") && typo.contains("did you mean `file`?"),
        "{typo}"
    );
    let nested = Bench::new(TREE, &[("x/a", b"")]);
    let err = build(
        &nested.source(),
        &nested.source().join("x/out"),
        &mut |_, _| {},
    )
    .unwrap_err();
    assert!(
        err.to_string().contains("inside the bundle's own source"),
        "{err}"
    );
}

#[test]
fn a_rebuild_replaces_and_a_stranger_is_spared() {
    let bench = Bench::new(TREE, &[("x/a", b"one")]);
    let first = bench.build().unwrap();
    fs::write(bench.source().join("x/a"), "two").unwrap();
    let second = bench.build().unwrap();
    assert_ne!(first.manifest, second.manifest);
    verify(&bench.out(), &mut |_, _| {}).unwrap();
    assert_eq!(
        fs::read_dir(bench.out().join("blobs/sha256"))
            .unwrap()
            .count(),
        3
    );
    let stranger = Bench::new(TREE, &[("x/a", b"")]);
    fs::create_dir(stranger.out()).unwrap();
    fs::write(stranger.out().join("precious"), "x").unwrap();
    assert!(stranger.refusal().contains("is not a bundle"));
    assert_eq!(fs::read_dir(stranger.out()).unwrap().count(), 1);
}

#[test]
fn blobs_are_copied_checked_and_kept() {
    let bench = Bench::new(TREE, &[("x/a", b"one")]);
    bench.build().unwrap();
    let into = bench.folder.path().join("blobs");
    let digests = copy_blobs(&bench.out(), &into, &mut |_, _| {}).unwrap();
    assert_eq!(digests.len(), 2);
    let damaged = into.join(digests[1].hex());
    let good = fs::read(&damaged).unwrap();
    fs::write(&damaged, vec![0; good.len()]).unwrap();
    copy_blobs(&bench.out(), &into, &mut |_, _| {}).unwrap();
    assert_eq!(Digest::of(&fs::read(&damaged).unwrap()), digests[1]);
    assert_eq!(every_file(&into).len(), 2, "no leftovers");
    let (bytes, bundle) = manifest_bytes(&bench.out()).unwrap();
    assert_eq!(bytes, bundle.manifest().to_bytes());
}

#[test]
fn the_sample_builds_and_shows() {
    let out = tempfile::tempdir().unwrap();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/bundle/welcome");
    let report = build(&source, out.path(), &mut |_, _| {}).unwrap();
    assert_eq!(report.warnings, Vec::<String>::new());
    let shown = show(out.path()).unwrap();
    let kinds: Vec<_> = shown.steps.iter().map(|step| step.kind).collect();
    assert_eq!(
        kinds,
        [
            "hostname",
            "file",
            "file",
            "directory",
            "user",
            "tree",
            "command"
        ]
    );
    assert!(shown.to_string().contains("welcome 1.0.0"));
}

/// Every table of the sample refuses a key that it does not know.
#[test]
fn a_bogus_key_in_any_table_of_the_sample_is_refused() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/bundle/welcome/bundle.toml");
    let text = fs::read_to_string(path).unwrap();
    let tables: Vec<usize> = text
        .match_indices("\n[")
        .map(|(at, _)| at + 1)
        .chain([0])
        .collect();
    assert!(tables.len() > 14);
    for at in tables {
        let end = if at == 0 {
            0
        } else {
            at + text[at..].find('\n').unwrap() + 1
        };
        let bad = format!("{}bogus_key = 1\n{}", &text[..end], &text[end..]);
        let told = groundcrew_core::bundle::Source::parse("bundle.toml", &bad)
            .unwrap_err()
            .to_string();
        assert!(told.contains("unknown key `bogus_key`"), "{told}");
    }
}
