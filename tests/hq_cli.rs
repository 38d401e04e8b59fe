//! HQ by its commands alone: a ceremony of two of three as people type it, and
//! keys with passphrases.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::process::{Command, Output, Stdio};

const GROUNDCREW: &str = env!("CARGO_BIN_EXE_groundcrew");

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

#[test]
fn the_ceremony_s_transcript_comes_to_its_end() {
    let output = Command::new("scripts/ceremony")
        .env("GROUNDCREW", GROUNDCREW)
        .output()
        .unwrap();
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    for step in [
        "2 of 3 root keys must sign",
        "1 more needed",
        "Complete. At HQ",
        "signatures are missing",
        "by 2 of HQ's 3 keys, 2 needed",
        "Done: rotate key root-1 to root-4",
        "Root version 1 -> 2",
    ] {
        assert!(told.contains(step), "no {step:?} in\n{told}");
    }
}

#[test]
fn an_encrypted_key_without_a_passphrase_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let (hq, pass) = (folder.path().join("hq"), folder.path().join("pass"));
    std::fs::write(&pass, "correct horse\n").unwrap();
    let made = Command::new(GROUNDCREW)
        .args([
            "hq",
            "init",
            "--org",
            "Test",
            "--encrypt",
            "--passphrase-file",
        ])
        .args([&pass, &hq])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", text(&made));
    let renew = |stdin: Stdio| {
        Command::new(GROUNDCREW)
            .args(["hq", "renew", "--hq"])
            .arg(&hq)
            .stdin(stdin)
            .output()
            .unwrap()
    };
    let without = renew(Stdio::null());
    let said = text(&without);
    assert_eq!(without.status.code(), Some(1));
    assert!(
        said.contains("root.pem needs a passphrase") && said.contains("--passphrase-file"),
        "{said}"
    );
    // In the background of a terminal, where asking would stop it for good.
    let line = format!(
        "bash -mc '{GROUNDCREW} hq renew --hq {} & wait $!; echo code=$?'",
        hq.display()
    );
    let output = Command::new("timeout")
        .args(["20", "script", "-qec", &line, "/dev/null"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = text(&output);
    assert!(
        said.contains("--passphrase-file") && said.contains("code=1"),
        "{said}"
    );
}

#[test]
fn a_device_goes_to_another_site_of_the_same_hq_without_a_key_by_hand() {
    let folder = tempfile::tempdir().unwrap();
    let groundcrew = |arguments: &str| {
        let output = Command::new(GROUNDCREW)
            .args(arguments.split_whitespace())
            .current_dir(folder.path())
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let done = |arguments: &str| {
        let (good, said) = groundcrew(arguments);
        assert!(good, "{arguments}: {said}");
        said
    };
    done("hq init --org Test hq");
    for (site, net) in [("berlin", 1), ("tokio", 2)] {
        done(&format!(
            "hq site add {site} --hq hq --address 10.9.{net}.1/24 --interface eth1 --out {site}"
        ));
    }
    std::fs::write(
        folder.path().join("one.csv"),
        "Example Corp,Model One,SYNTH-1\nExample Corp,Model One,SYNTH-2\n",
    )
    .unwrap();
    done("device import one.csv --site berlin");
    let listed = done("device list --json --site berlin");
    let listed: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let release = |n: usize| {
        let id = listed[n]["id"].as_str().unwrap();
        done(&format!(
            "device transfer {id} --to tokio --out {n}.release --site berlin"
        ));
    };
    // Tokio was there after Berlin: HQ's list names Berlin's charter.
    release(0);
    let said = done("device receive 0.release --site tokio");
    assert!(said.contains("site berlin released"), "{said}");
    let (good, said) = groundcrew("device receive 0.release --site tokio");
    assert!(!good && said.contains("ZtdDeviceAlreadyAssigned"), "{said}");
    // Another charter than the one that HQ signed means nothing.
    release(1);
    let path = folder.path().join("1.release");
    let mut file: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let charter = file["charter"].as_str().unwrap().to_owned();
    file["charter"] = format!("AAAA{charter}").into();
    std::fs::write(&path, file.to_string()).unwrap();
    let (good, said) = groundcrew("device receive 1.release --site tokio");
    assert!(!good && said.contains("not what HQ signed"), "{said}");
    // And neither does one that comes after what this site has of HQ.
    file["charter"] = serde_json::Value::Null;
    std::fs::write(&path, file.to_string()).unwrap();
    let (good, said) = groundcrew("device receive 1.release --site tokio");
    assert!(!good && said.contains("give --key"), "{said}");
}

#[test]
fn a_region_named_after_a_site_reaches_it_under_a_passphrase_and_what_waits_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pass"), "correct horse\n").unwrap();
    let groundcrew = |arguments: &str| {
        let output = Command::new(GROUNDCREW)
            .args(arguments.split_whitespace())
            .env("GROUNDCREW_PASSPHRASE_FILE", "pass")
            .current_dir(folder.path())
            .output()
            .unwrap();
        (output.status.success(), text(&output))
    };
    let done = |arguments: &str| {
        let (good, said) = groundcrew(arguments);
        assert!(good, "{arguments}: {said}");
        said
    };
    done("hq init --org Test --encrypt hq");
    for (site, net) in [("berlin", 1), ("berlin-2", 2), ("tokio", 3)] {
        done(&format!(
            "hq site add {site} --days 7 --address 10.9.{net}.1/24 --interface eth1 --out {site}"
        ));
    }
    let said = done("hq region add berlin");
    assert!(
        said.contains("region-berlin.pem, with a passphrase"),
        "{said}"
    );
    assert!(said.contains("goes to: berlin, berlin-2."), "{said}");
    let pem = std::fs::read_to_string(folder.path().join("hq/keys/region-berlin.pem")).unwrap();
    assert!(pem.contains("ENCRYPTED"), "{pem}");
    let said = done("hq region add apac");
    assert!(said.contains("hq region join apac"), "{said}");
    let (good, _) = groundcrew("hq key rotate target targets-2 --role targets");
    assert!(!good);
    done("hq key rotate targets targets-2 --role targets");

    let said = done("hq renew");
    assert!(
        said.contains("tokio: charter version 2, 10000 devices, any tag"),
        "{said}"
    );
    std::fs::remove_file(folder.path().join("hq/keys/targets-2.pem")).unwrap();
    let said = done("hq site charter tokio --devices 5");
    assert!(
        said.contains("tokio: charter version 3, 5 devices"),
        "{said}"
    );
    let shown: serde_json::Value = serde_json::from_str(&done("hq show --json")).unwrap();
    assert_eq!(shown["organisation"], "Test");
    let waiting = &shown["waiting"][0];
    assert_eq!(waiting["purpose"], "charter site tokio");
    assert_eq!(waiting["drafts"][0]["missing"], 1);
    let (good, said) = groundcrew("hq site charter tokio");
    assert!(!good && said.contains("nothing to change"), "{said}");
}
