//! Content and installed systems that mean harm.

use std::fs;
use std::os::unix::fs::symlink;

use groundcrew_core::bundle::limits;
use groundcrew_core::enroll::{ReceiptResult, StepOutcome};

use super::{Bench, FILES, everything, is_root, outcomes, pack, reason, snapshot};

const TREE: &str = "[[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"files\" }\n";

#[test]
fn spoiled_content_is_refused_before_anything_is_touched() {
    type Spoil = fn(Vec<u8>) -> Vec<u8>;
    let spoils: [(Spoil, &str); 6] = [
        (
            |mut b| {
                b[512] ^= 1;
                b
            },
            "is not what the configuration names",
        ),
        (
            |mut b| {
                b[156] = b'2';
                b
            },
            "entry type '2'",
        ),
        (
            |mut b| {
                b.truncate(600);
                b
            },
            "cut short",
        ),
        (
            |mut b| {
                b.resize(32 << 20, 0);
                b
            },
            "more than the configuration names",
        ),
        (
            |mut b| {
                b[..3].copy_from_slice(b"../");
                b
            },
            "holds `../",
        ),
        (
            |mut b| {
                let tail = b.split_off(1024);
                b.extend_from_within(..);
                b.extend(tail);
                b
            },
            "where `files/opt/x/empty` was expected",
        ),
    ];
    for (spoil, why) in spoils {
        let mut bench = Bench::new(TREE, &FILES);
        bench.bundle = pack(TREE, &FILES, &[], spoil, &bench.folder.path().join("blobs"));
        let before: Vec<_> = snapshot(&bench.root()).into_keys().collect();
        let outcome = bench.run();
        assert!(reason(&outcome).contains(why), "{outcome:?}");
        assert_eq!(outcomes(&outcome), [StepOutcome::Skipped]);
        assert_eq!(
            snapshot(&bench.root()).into_keys().collect::<Vec<_>>(),
            before
        );
    }
}

#[test]
fn changed_missing_and_short_blobs_are_refused() {
    let large = vec![5; limits::LARGE_FILE as usize];
    let steps = "[[step]]\nname = \"big\"\nfile = { path = \"/big\", source = \"big\" }\n"
        .to_owned()
        + TREE;
    let files: Vec<_> = FILES
        .into_iter()
        .chain([("big", large.as_slice())])
        .collect();
    let bench = Bench::new(&steps, &files);
    let before: Vec<_> = snapshot(&bench.root()).into_keys().collect();
    for blob in bench.bundle.manifest().blobs().skip(1) {
        let path = bench.folder.path().join("blobs").join(blob.digest.hex());
        let good = fs::read(&path).unwrap();
        let mut flipped = good.clone();
        flipped[good.len() / 2] ^= 1;
        for (bad, why) in [
            (Some(flipped), "was changed"),
            (Some(good[1..].to_vec()), "bytes instead of"),
            (None, "cannot be read"),
        ] {
            match bad {
                Some(bad) => fs::write(&path, bad).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
            let outcome = bench.run();
            assert!(reason(&outcome).contains(why), "{outcome:?}");
            assert_eq!(
                snapshot(&bench.root()).into_keys().collect::<Vec<_>>(),
                before
            );
        }
        fs::write(&path, good).unwrap();
    }
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
}

#[test]
fn links_planted_in_the_installed_system_lead_nowhere_else() {
    if !is_root() {
        return;
    }
    let files: Vec<_> = FILES.into_iter().chain([("big", &b"small"[..])]).collect();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("motd"), "safe").unwrap();
    let victim = outside.path().to_str().unwrap().to_owned();
    let up = format!("{}{}", "../".repeat(20), victim.trim_start_matches('/'));
    for target in [victim.as_str(), up.as_str()] {
        for link in [
            "etc/motd",
            "srv",
            "home",
            "usr",
            "opt/x",
            "var",
            "etc/sudoers.d",
            "etc/.motd.groundcrew-tmp",
        ] {
            let bench = Bench::new(&everything(), &files);
            let place = bench.root().join(link);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            let to = if link.ends_with("motd") {
                format!("{target}/motd")
            } else {
                target.to_owned()
            };
            symlink(to, &place).unwrap();
            fs::create_dir_all(bench.root().join("var")).ok();
            bench.run();
            assert_eq!(
                fs::read_to_string(outside.path().join("motd")).unwrap(),
                "safe"
            );
            assert_eq!(
                fs::read_dir(outside.path()).unwrap().count(),
                1,
                "{link} -> {target}"
            );
        }
    }
}

#[test]
fn a_home_folder_cannot_redirect_the_keys() {
    if !is_root() {
        return;
    }
    let bench = Bench::new(
        everything()
            .split("[[step]]\nname = \"tree\"")
            .next()
            .unwrap(),
        &[],
    );
    let home = bench.root().join("home/crew");
    fs::create_dir_all(&home).unwrap();
    fs::create_dir(bench.root().join("root")).unwrap();
    symlink("/root", home.join(".ssh")).unwrap();
    assert!(reason(&bench.run()).contains("home/crew/.ssh is not a folder"));
    fs::remove_file(home.join(".ssh")).unwrap();
    fs::create_dir(home.join(".ssh")).unwrap();
    symlink("/etc/shadow", home.join(".ssh/authorized_keys")).unwrap();
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
    assert!(bench.read("etc/shadow").starts_with("root:*:"));
}

#[test]
fn what_a_user_left_in_the_way_of_the_keys_is_replaced() {
    if !is_root() {
        return;
    }
    let steps = everything();
    let steps = steps.split("[[step]]\nname = \"tree\"").next().unwrap();
    let bench = Bench::new(steps, &[]);
    let ssh = bench.root().join("home/crew/.ssh");
    fs::create_dir_all(ssh.join(".authorized_keys.groundcrew-tmp/deep/er")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, ssh.join("authorized_keys"), mode).unwrap();
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
    assert!(
        bench
            .read("home/crew/.ssh/authorized_keys")
            .contains("ssh-")
    );
    assert_eq!(fs::read_dir(&ssh).unwrap().count(), 1);
}

#[test]
fn a_file_with_a_second_name_is_replaced_and_not_given_away() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let steps = "[[step]]\nname = \"f\"\n\
        file = { path = \"/srv/empty\", content = \"\", mode = \"0666\" }\n";
    let bench = Bench::new(steps, &[]);
    let path = |name: &str| bench.root().join(name);
    fs::create_dir(path("srv")).unwrap();
    fs::write(path("etc/securetty"), "").unwrap();
    fs::set_permissions(path("etc/securetty"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(path("etc/securetty"), path("srv/empty")).unwrap();
    assert_eq!(bench.run().result, ReceiptResult::Provisioned);
    let mode = |name: &str| fs::metadata(path(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("srv/empty"), mode("etc/securetty")), (0o666, 0o600));
}
