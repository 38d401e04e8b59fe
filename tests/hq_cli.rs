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
