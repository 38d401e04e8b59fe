//! A stick as other people's tools see it: the partition table by sgdisk, the
//! start partition by dosfstools and mtools, the data partition by e2fsprogs.
//! That it starts is shown on machines by `scripts/lab-stick`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;
mod stick_kept;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::{GROUNDCREW, TestSite};
use groundcrew::image::{Agent, BootFile, Facts, INITRD, MANIFEST, Manifest, Stored, VMLINUZ};

const PIN: &str = "four horses";
const MIB: u64 = 1 << 20;

/// The least program that needs no loader: an ELF header and one `PT_LOAD`.
fn static_program() -> Vec<u8> {
    let mut elf = vec![0; 120];
    elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
    elf[16] = 2; // ET_EXEC
    elf[18] = 62; // x86-64
    elf[32] = 64; // program headers
    elf[54] = 56;
    elf[56] = 1;
    elf[64] = 1; // PT_LOAD
    elf
}

/// A site with what `image build` would have made, in small.
struct Bench {
    site: TestSite,
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Self {
            site: TestSite::new(),
            folder: tempfile::tempdir().unwrap(),
        };
        let boot = bench.site.dir().join("boot");
        let files = [(VMLINUZ, vec![1; 5000]), (INITRD, vec![2; 70_000])];
        for (name, content) in &files {
            fs::write(boot.join(name), content).unwrap();
        }
        let facts = Facts {
            version: "6.1.0-1-amd64".into(),
            package: "linux-image-6.1.0-1-amd64".into(),
            package_version: "6.1.1-1".into(),
            deb_sha256: String::new(),
            recipe_sha256: String::new(),
            modules: 0,
            left_out: Vec::new(),
        };
        let manifest = Manifest {
            format: 1,
            kernel: facts,
            agent: Agent {
                version: "0".into(),
                stored: Stored::of(b""),
            },
            trust_sha256: String::new(),
            files: files
                .iter()
                .map(|(name, content)| BootFile {
                    name: (*name).into(),
                    stored: Stored::of(content),
                })
                .collect(),
            boot_bytes: 75_000,
            uki: None,
        };
        fs::write(boot.join(MANIFEST), serde_json::to_vec(&manifest).unwrap()).unwrap();
        fs::write(bench.at("groundcrew"), static_program()).unwrap();
        fs::write(bench.at("pin"), format!("{PIN}\n")).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn build(&self, out: &str, more: &[&str]) -> Output {
        Command::new(GROUNDCREW)
            .args(["stick", "build", "--site"])
            .arg(self.site.dir())
            .arg("--out")
            .arg(self.at(out))
            .arg("--pin-file")
            .arg(self.at("pin"))
            .arg("--binary")
            .arg(self.at("groundcrew"))
            .args(more)
            .output()
            .unwrap()
    }

    fn built(&self, out: &str) -> PathBuf {
        let done = self.build(out, &[]);
        assert!(done.status.success(), "{}", text(&done));
        self.at(out)
    }
}

fn text(done: &Output) -> String {
    String::from_utf8_lossy(&[&done.stdout[..], &done.stderr].concat()).into_owned()
}

fn tool(name: &str, arguments: &[&str]) -> (bool, String) {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap());
    let done = Command::new(name)
        .args(arguments)
        .env("PATH", path)
        .output();
    let done = done.unwrap_or_else(|error| panic!("{name}: {error} (scripts/setup installs it)"));
    (done.status.success(), text(&done))
}

/// grep is faster over 200 MB than a test's unoptimised search.
fn contains(file: &Path, needle: &str) -> bool {
    let name = file.to_str().unwrap();
    let done = Command::new("grep")
        .args(["-qaF", "--", needle, name])
        .status();
    match done.unwrap().code() {
        Some(0) => true,
        Some(1) => false,
        other => panic!("grep: {other:?}"),
    }
}

#[test]
fn other_people_s_tools_find_everything_in_order() {
    let bench = Bench::new();
    let image = bench.built("stick.img");
    let name = image.to_str().unwrap();
    let (good, said) = tool("sgdisk", &["-v", name]);
    assert!(good && said.contains("No problems found"), "{said}");
    assert!(!said.contains("Warning"), "{said}");

    let start = format!("{name}@@2M");
    let fat = bench.at("fat.img");
    let bytes = fs::read(&image).unwrap();
    fs::write(&fat, &bytes[2 * MIB as usize..98 * MIB as usize]).unwrap();
    let (good, said) = tool("fsck.vfat", &["-n", fat.to_str().unwrap()]);
    assert!(good, "{said}");
    let (_, menu) = tool("mcopy", &["-i", &start, "::EFI/debian/grub.cfg", "-"]);
    for part in [
        "--id provision",
        "--id appliance",
        "--id check",
        "groundcrew.data=",
    ] {
        assert!(menu.contains(part), "{menu}");
    }
    let (_, list) = tool("mdir", &["-i", &start, "-/", "-b", "::"]);
    for file in [
        "BOOTX64.EFI",
        "grubx64.efi",
        "mmx64.efi",
        "vmlinuz",
        "initrd.img",
        "crew.img",
    ] {
        assert!(list.contains(file), "{list}");
    }

    let data = format!("{name}?offset={}", 99 * MIB);
    let (good, said) = tool("e2fsck", &["-f", "-n", &data]);
    assert!(good, "{said}");
    let (_, link) = tool("debugfs", &["-R", "stat /site/keys", &data]);
    assert!(
        link.contains("Fast link dest: \"/run/groundcrew/keys\""),
        "{link}"
    );
    let (_, registry) = tool("debugfs", &["-R", "stat /site/registry.db", &data]);
    assert!(
        registry.contains("Mode:  0600") && registry.contains("User:     0"),
        "{registry}"
    );
}

#[test]
fn no_private_key_lies_on_a_stick() {
    let bench = Bench::new();
    let image = bench.built("stick.img");
    // What is looked for can be found: a vault is there, in clear text.
    assert!(contains(&image, "\"argon2id\""));
    let keys = [
        "grant.pem",
        "journal.pem",
        "snapshot.pem",
        "timestamp.pem",
        "tls.pem",
    ];
    for key in keys {
        let pem = fs::read_to_string(bench.site.dir().join("keys").join(key)).unwrap();
        let body = pem.lines().nth(1).unwrap();
        assert!(body.len() > 40 && !contains(&image, body), "{key}");
    }
    assert!(!contains(&image, PIN));
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let bench = Bench::new();
    let first = fs::read(bench.built("one.img")).unwrap();
    let second = fs::read(bench.built("two.img")).unwrap();
    assert!(first == second);
    fs::write(bench.at("pin"), "five horses\n").unwrap();
    let third = fs::read(bench.built("three.img")).unwrap();
    assert!(first != third, "another PIN, another vault");
    // And other ids: two sticks of different content are never taken for each other.
    assert_ne!(first[512 + 56..512 + 72], third[512 + 56..512 + 72]);
}

#[test]
fn what_cannot_work_is_said_before_anything_is_written() {
    let bench = Bench::new();
    let refused = |change: &dyn Fn(&Bench), more: &[&str], expected: &str| {
        let bench = Bench::new();
        change(&bench);
        let done = bench.build("stick.img", more);
        assert!(
            !done.status.success() && text(&done).contains(expected),
            "{}",
            text(&done)
        );
        let left: Vec<_> = fs::read_dir(bench.folder.path())
            .unwrap()
            .flatten()
            .collect();
        assert_eq!(left.len(), 2, "only program and PIN: {left:?}");
    };
    let dynamic = |bench: &Bench| {
        fs::copy("/bin/true", bench.at("groundcrew")).unwrap();
    };
    refused(&dynamic, &[], "crt-static");
    refused(
        &|bench| fs::write(bench.at("pin"), "12345\n").unwrap(),
        &[],
        "at least 6",
    );
    let changed =
        |bench: &Bench| fs::write(bench.site.dir().join("boot/vmlinuz"), b"other").unwrap();
    refused(&changed, &[], "image build");
    let no_image =
        |bench: &Bench| fs::remove_file(bench.site.dir().join("boot/image.json")).unwrap();
    refused(&no_image, &[], "image build");

    // A file is no medium; a built-in disk is nobody's stick.
    let done = Command::new(GROUNDCREW)
        .args(["stick", "build", "--yes", "--site"])
        .arg(bench.site.dir())
        .arg("--device")
        .arg(bench.at("pin"))
        .output()
        .unwrap();
    assert!(text(&done).contains("no block device"), "{}", text(&done));
    let help = text(
        &Command::new(GROUNDCREW)
            .args(["stick", "build", "--help"])
            .output()
            .unwrap(),
    );
    assert!(help.lines().all(|line| line.len() <= 100), "{help}");
    assert!(Path::new(&bench.at("pin")).exists());
}

/// Runs `groundcrew` and demands success.
fn run(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
    let done = Command::new(GROUNDCREW)
        .args(arguments.iter().map(|a| a.as_ref()))
        .output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", text(&done));
    String::from_utf8(done.stdout).unwrap()
}

impl Bench {
    /// Publishes the sample bundle with another greeting.
    fn publish(&self, version: &str) {
        let source = self.site.dir().join("sources/welcome");
        let toml = fs::read_to_string(source.join("bundle.toml")).unwrap();
        let old = toml
            .lines()
            .find(|line| line.starts_with("version"))
            .unwrap();
        let new = toml.replacen(old, &format!("version = \"{version}\""), 1);
        fs::write(source.join("bundle.toml"), new).unwrap();
        fs::write(source.join("motd"), format!("greeting of {version}\n")).unwrap();
        let out = self.at(&format!("bundle-{version}"));
        run(&[&"bundle", &"build", &source, &"--out", &out]);
        let (hq, site) = (self.site.hq(), self.site.dir());
        run(&[&"bundle", &"publish", &out, &"--hq", &hq, &"--site", &site]);
    }

    fn sync(&self, stick: &Path) -> serde_json::Value {
        let out = run(&[
            &"stick",
            &"sync",
            &"--json",
            &"--site",
            &self.site.dir(),
            &"--stick",
            &stick,
        ]);
        serde_json::from_str(&out).unwrap()
    }

    /// What a file on the stick's data partition holds.
    fn on_stick(&self, stick: &Path, path: &str) -> Vec<u8> {
        let to = self.at("dumped");
        let data = format!("{}?offset={}", stick.display(), 99 * MIB);
        let request = format!("dump \"{path}\" {}", to.display());
        tool("debugfs", &["-R", &request, &data]);
        fs::read(to).unwrap()
    }
}

#[test]
fn sync_moves_what_differs_and_nothing_else() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    // As debugfs' own answers begin and look.
    let odd = bench.site.dir().join("sources/debugfs: dump_extents Level");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("Level Entries"), b"odd").unwrap();
    let stick = bench.built("stick.img");
    let name = "/site/sources/debugfs: dump_extents Level/Level Entries";
    assert_eq!(bench.on_stick(&stick, name), b"odd");
    let nothing = bench.sync(&stick);
    assert_eq!(
        (&nothing["written"], &nothing["removed"]),
        (&0.into(), &0.into()),
        "{nothing}"
    );

    let large = bench.site.dir().join("sources/welcome/files/Level.bin");
    fs::write(
        &large,
        (0..3_000_000_u32)
            .map(|n| (n.wrapping_mul(n) >> 3) as u8)
            .collect::<Vec<_>>(),
    )
    .unwrap();
    bench.publish("1.1.0");
    let first = bench.sync(&stick);
    assert!(first["written"].as_u64().unwrap() > 3, "{first}");
    bench.publish("1.2.0");
    let second = bench.sync(&stick);
    // The tree with the large file is the same blob as before.
    assert!(second["bytes"].as_u64().unwrap() < 200_000, "{second}");
    // With what the file system and its journal say of them.
    assert!(second["moved"].as_u64().unwrap() < 600_000, "{second}");
    let here = fs::read(bench.site.dir().join("trust/metadata/timestamp.json")).unwrap();
    assert!(bench.on_stick(&stick, "/site/trust/metadata/timestamp.json") == here);
    for blob in fs::read_dir(bench.site.dir().join("blobs/sha256"))
        .unwrap()
        .flatten()
    {
        let path = format!("/site/blobs/sha256/{}", blob.file_name().to_string_lossy());
        assert!(
            bench.on_stick(&stick, &path) == fs::read(blob.path()).unwrap(),
            "{path}"
        );
    }

    let other = Bench::new();
    other
        .site
        .edit_settings("name = \"hq\"", "name = \"other\"");
    let done = Command::new(GROUNDCREW)
        .args(["stick", "sync", "--site"])
        .arg(other.site.dir())
        .arg("--stick")
        .arg(&stick)
        .output()
        .unwrap();
    assert!(
        text(&done).contains("is a stick of the site hq"),
        "{}",
        text(&done)
    );
}

#[test]
fn an_update_changes_what_starts_it_and_not_what_it_knows() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    let stick = bench.built("stick.img");
    let (registry, vault) = (
        bench.on_stick(&stick, "/site/registry.db"),
        bench.on_stick(&stick, "/vault.json"),
    );
    // The site knows more by now, and its program is newer.
    bench.site.groundcrew(&["device", "list"]);
    let (site, program) = (bench.site.dir(), bench.at("groundcrew"));
    // Three times: each half of the start partition is written over once.
    for (old, new) in [(10, 31), (31, 32), (32, 33)] {
        let mut newer = static_program();
        newer.extend(vec![new; usize::from(new) * 1000]);
        fs::write(&program, newer).unwrap();
        let line = |seconds| format!("seconds = {seconds}");
        bench.site.edit_settings(&line(old), &line(new));
        run(&[
            &"stick",
            &"update",
            &"--site",
            &site,
            &"--stick",
            &stick,
            &"--binary",
            &program,
        ]);
    }

    assert!(bench.on_stick(&stick, "/site/registry.db") == registry);
    assert!(bench.on_stick(&stick, "/vault.json") == vault);
    let start = format!("{}@@2M", stick.display());
    let (_, menu) = tool("mcopy", &["-i", &start, "::EFI/debian/grub.cfg", "-"]);
    assert!(menu.contains("set timeout=33"), "{menu}");
    let fat = bench.at("fat.img");
    let bytes = fs::read(&stick).unwrap();
    fs::write(&fat, &bytes[2 * MIB as usize..98 * MIB as usize]).unwrap();
    let (good, said) = tool("fsck.vfat", &["-n", fat.to_str().unwrap()]);
    assert!(good, "{said}");
    let (good, said) = tool("sgdisk", &["-v", stick.to_str().unwrap()]);
    assert!(good && said.contains("No problems found"), "{said}");
    let data = format!("{}?offset={}", stick.display(), 99 * MIB);
    assert!(tool("e2fsck", &["-f", "-n", &data]).0);
}
