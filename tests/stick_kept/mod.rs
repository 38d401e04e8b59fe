//! Sticks that exist: what may be done to one, and what is refused before
//! anything is written.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use super::common::GROUNDCREW;
use super::{Bench, MIB, run, text, tool};

#[test]
fn an_update_follows_the_boot_tree_into_new_folders_and_out_of_gone_ones() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    let stick = bench.built("stick.img");
    let boot = bench.site.dir().join("boot");
    let update = || {
        let out = run(&[
            &"stick",
            &"update",
            &"--json",
            &"--site",
            &bench.site.dir(),
            &"--stick",
            &stick,
            &"--binary",
            &bench.at("groundcrew"),
        ]);
        let done: serde_json::Value = serde_json::from_str(&out).unwrap();
        ["written", "removed"].map(|name| done[name].as_u64().unwrap())
    };
    assert_eq!(update(), [0, 0], "equal files are left alone");
    fs::create_dir_all(boot.join("arm64/deep")).unwrap();
    for (name, content) in [("arm64/deep/loader", "one"), ("extra", "two")] {
        fs::write(boot.join(name), content).unwrap();
    }
    assert_eq!(update(), [2, 0]);
    assert_eq!(
        bench.on_stick(&stick, "/site/boot/arm64/deep/loader"),
        b"one"
    );
    fs::remove_dir_all(boot.join("arm64")).unwrap();
    fs::write(boot.join("extra"), "too").unwrap();
    assert_eq!(update(), [1, 1]);
    assert_eq!(bench.on_stick(&stick, "/site/boot/extra"), b"too");
    // The folder that became empty is used again.
    fs::create_dir_all(boot.join("arm64/deep")).unwrap();
    fs::write(boot.join("arm64/deep/loader"), "three").unwrap();
    assert_eq!(update(), [1, 0]);
    let data = format!("{}?offset={}", stick.display(), 99 * MIB);
    assert!(tool("e2fsck", &["-f", "-n", &data]).0);
}

#[test]
fn a_backup_of_one_stick_goes_onto_the_next() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    let csv = bench.at("devices.csv");
    fs::write(&csv, "Device Serial Number,Windows Product ID,Hardware Hash,Manufacturer name,Device model\nSERIAL0001,,,Maker,Model\n").unwrap();
    let fresh = bench.built("fresh.img");
    run(&[&"device", &"import", &csv, &"--site", &bench.site.dir()]);
    let used = bench.built("used.img");
    let backup = bench.at("stick.backup");
    run(&[&"stick", &"backup", &"--stick", &used, &backup]);
    // The same form as any site's backup.
    let restored = bench.at("restored");
    run(&[&"restore", &backup, &"--site", &restored]);
    let said = run(&[&"stick", &"restore", &"--stick", &fresh, &backup]);
    assert!(said.contains("1 journal entries"), "{said}");
    let registry = bench.on_stick(&fresh, "/site/registry.db");
    assert!(registry == fs::read(restored.join("registry.db")).unwrap());
    assert_eq!(bench.sync(&fresh)["apart"], 0);
}

const CSV: &str =
    "Device Serial Number,Windows Product ID,Hardware Hash,Manufacturer name,Device model\n";

impl Bench {
    /// Registers devices of these serial numbers in the site's folder.
    fn registers(&self, serials: &[&str]) {
        let rows: String = serials
            .iter()
            .map(|serial| format!("{serial},,,Maker,Model\n"))
            .collect();
        let csv = self.at("devices.csv");
        fs::write(&csv, format!("{CSV}{rows}")).unwrap();
        run(&[&"device", &"import", &csv, &"--site", &self.site.dir()]);
    }

    /// `groundcrew stick WORD ... --stick STICK`, which must be refused, with
    /// nothing written.
    fn refused(&self, stick: &Path, words: &[&dyn AsRef<std::ffi::OsStr>]) -> String {
        let before = fs::read(stick).unwrap();
        let done = stick_command(stick, words);
        assert!(!done.status.success(), "{}", text(&done));
        assert!(before == fs::read(stick).unwrap(), "it was written to");
        text(&done)
    }

    fn backup(&self, stick: &Path, name: &str) -> std::path::PathBuf {
        let to = self.at(name);
        run(&[&"stick", &"backup", &"--stick", &stick, &to]);
        to
    }
}

fn stick_command(stick: &Path, words: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    Command::new(GROUNDCREW)
        .arg("stick")
        .args(words.iter().map(|word| word.as_ref()))
        .arg("--stick")
        .arg(stick)
        .output()
        .unwrap()
}

#[test]
fn a_journal_that_the_stick_would_refuse_is_not_put_onto_it() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    let empty = bench.backup(&bench.built("empty.img"), "empty.backup");
    bench.registers(&["SERIAL0001"]);
    let used = bench.built("used.img");
    let said = bench.refused(&used, &[&"restore", &empty]);
    assert!(
        said.contains("journal of 1 entries from which the backup does not go on")
            && said.contains("groundcrew restore BACKUP --site NEWDIR"),
        "{said}"
    );
    let same = bench.backup(&used, "used.backup");
    run(&[&"stick", &"restore", &"--stick", &used, &same]);
    // What is registered in the folder later does not come by a sync, which says so.
    bench.registers(&["SERIAL0002", "SERIAL0003"]);
    assert_eq!(bench.sync(&used)["apart"], 2);
}

#[test]
fn a_stick_whose_site_was_given_other_keys_is_left_alone() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    let stick = bench.built("stick.img");
    let backup = bench.backup(&stick, "stick.backup");
    let (hq, site) = (bench.site.hq(), bench.site.dir());
    let (keys, courier) = (bench.at("site.keys"), bench.at("site.courier"));
    let said = run(&[&"trust", &"rekey", &keys, &"--site", &site]);
    let fingerprint = said.trim().rsplit(' ').next().unwrap().to_owned();
    run(&[
        &"hq",
        &"site",
        &"rekey",
        &keys,
        &"--hq",
        &hq,
        &"--fingerprint",
        &fingerprint,
    ]);
    run(&[
        &"trust", &"export", &courier, &"--hq", &hq, &"--name", &"hq",
    ]);
    run(&[&"trust", &"import", &courier, &"--site", &site]);

    let program = bench.at("groundcrew");
    let said = [
        bench.refused(&stick, &[&"sync", &"--site", &site]),
        bench.refused(
            &stick,
            &[&"update", &"--site", &site, &"--binary", &program],
        ),
    ];
    for said in said {
        assert!(
            said.contains("other keys") && said.contains("build it anew"),
            "{said}"
        );
    }
    let anew = bench.built("anew.img");
    let said = bench.refused(&anew, &[&"restore", &backup]);
    assert!(
        said.contains("of a time when the site hq had other keys"),
        "{said}"
    );
}

#[test]
fn a_stick_is_changed_by_one_program_at_a_time() {
    let bench = Bench::new();
    let stick = bench.built("stick.img");
    let held = fs::File::open(&stick).unwrap();
    held.lock().unwrap();
    let backup = bench.at("stick.backup");
    let site = bench.site.dir();
    for words in [
        &[&"sync" as &dyn AsRef<std::ffi::OsStr>, &"--site", &site][..],
        &[&"backup", &backup],
    ] {
        let said = bench.refused(&stick, words);
        assert!(said.contains("in use by another program"), "{said}");
    }
    held.unlock().unwrap();
    bench.sync(&stick);
}

#[test]
fn a_backup_writes_nothing_to_the_stick_also_to_one_that_was_pulled() {
    let bench = Bench::new();
    bench.publish("1.0.0");
    bench.registers(&["SERIAL0001"]);
    let stick = bench.built("stick.img");
    let name = format!("{}?offset={}", stick.display(), 99 * MIB);
    // Its journal is to be replayed, as the kernel leaves it when a stick is pulled.
    assert!(tool("debugfs", &["-w", "-R", "feature needs_recovery", &name]).0);
    let before = fs::read(&stick).unwrap();
    let to = bench.at("stick.backup");
    let out = run(&[&"stick", &"backup", &"--json", &"--stick", &stick, &to]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["bytes"], fs::metadata(&to).unwrap().len());
    assert_eq!(told["left_out"], serde_json::json!([]));
    assert!(before == fs::read(&stick).unwrap());
    let restored = bench.at("restored");
    let said = run(&[&"restore", &to, &"--site", &restored]);
    assert!(said.contains("1 journal entries"), "{said}");
    // A blob that the medium gives with another content is left out, and named.
    let blobs = fs::read_dir(bench.site.dir().join("blobs/sha256")).unwrap();
    let blob = blobs.flatten().next().unwrap().file_name();
    let path = format!("/site/blobs/sha256/{}", blob.to_str().unwrap());
    let garbage = bench.at("garbage");
    fs::write(&garbage, "no longer").unwrap();
    tool("debugfs", &["-w", "-R", &format!("rm {path}"), &name]);
    let write = format!("write {} {path}", garbage.display());
    tool("debugfs", &["-w", "-R", &write, &name]);
    let partly = bench.at("partly.backup");
    let out = run(&[&"stick", &"backup", &"--json", &"--stick", &stick, &partly]);
    let told: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["left_out"], serde_json::json!([path]));
    // What the next one would have to write over is said before anything is copied.
    let said = bench.refused(&stick, &[&"backup", &to]);
    assert!(said.contains("exists already"), "{said}");
}

#[test]
fn an_image_takes_the_place_of_a_file_and_of_nothing_else() {
    let bench = Bench::new();
    // A node of the same kind as a medium's, but of no disk.
    for (out, expected) in [("/dev/null", "--device /dev/null"), ("/", "is a folder")] {
        let done = bench.build(out, &[]);
        assert!(
            !done.status.success() && text(&done).contains(expected),
            "{}",
            text(&done)
        );
    }
    use std::os::unix::fs::FileTypeExt as _;
    let kind = fs::metadata("/dev/null").unwrap().file_type();
    assert!(kind.is_char_device());
}
