//! Signatures checked by other people's programs: OpenSSL and `sbverify`.

use std::path::Path;
use std::process::Command;

use groundcrew_core::UnixTime;

use super::*;

/// A fresh key, its certificate, and the folder they lie in.
pub(in crate::image) struct Pair {
    folder: tempfile::TempDir,
    signer: Signer,
}

impl Pair {
    pub(in crate::image) fn new(bits: u32) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (key, certificate) = (
            folder.path().join("key.pem"),
            folder.path().join("cert.pem"),
        );
        let made = Command::new("openssl")
            .args([
                "req", "-new", "-x509", "-nodes", "-sha256", "-days", "30", "-subj", "/CN=test",
            ])
            .args(["-newkey", &format!("rsa:{bits}"), "-keyout"])
            .arg(&key)
            .arg("-out")
            .arg(&certificate)
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        let read = |path: &Path| std::fs::read(path).unwrap();
        let signer = Signer::from_pem(&read(&key), &read(&certificate)).unwrap();
        Self { folder, signer }
    }

    fn write(&self, name: &str, content: &[u8]) -> std::path::PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// Once more, for who must own it.
    pub(in crate::image) fn signer(&self) -> Result<Signer, SecureError> {
        let read = |name| std::fs::read(self.folder.path().join(name)).unwrap();
        Signer::from_pem(&read("key.pem"), &read("cert.pem"))
    }

    pub(in crate::image) fn verifies(&self, image: &[u8]) -> bool {
        let image = self.write("image.efi", image);
        let done = Command::new("sbverify")
            .arg("--cert")
            .arg(self.folder.path().join("cert.pem"))
            .arg(image)
            .output()
            .expect("sbverify is missing: run scripts/setup");
        done.status.success()
    }
}

fn image() -> Vec<u8> {
    let kernel = tiny(0x8664);
    let parts = Parts {
        stub: &tiny(0x8664),
        os_release: "ID=groundcrew\n",
        command_line: "console=ttyS0 gc.server=10.77.0.1",
        kernel: &kernel,
        initrd: b"initrd",
    };
    uki(&parts).unwrap()
}

#[test]
fn sbverify_believes_the_right_key_only() {
    for bits in [2048, 4096] {
        let (ours, other) = (Pair::new(bits), Pair::new(2048));
        let signed = sign(image(), &ours.signer).unwrap();
        assert!(ours.verifies(&signed));
        assert!(!other.verifies(&signed));
        assert!(!ours.verifies(&image()), "unsigned");
        let mut changed = signed.clone();
        changed[0x605] ^= 1;
        assert!(!ours.verifies(&changed), "one bit of a section");
        assert_eq!(
            signed,
            sign(image(), &ours.signer).unwrap(),
            "same bytes each time"
        );
    }
}

#[test]
fn the_real_stub_takes_sections_and_a_signature() {
    let stub = std::fs::read("/usr/lib/systemd/boot/efi/linuxx64.efi.stub")
        .expect("systemd-boot-efi is missing: run scripts/setup");
    let kernel = tiny(0x8664);
    let parts = Parts {
        stub: &stub,
        os_release: "ID=groundcrew\n",
        command_line: "quiet",
        kernel: &kernel,
        initrd: &[5; 5000],
    };
    let pair = Pair::new(2048);
    assert!(pair.verifies(&sign(uki(&parts).unwrap(), &pair.signer).unwrap()));
}

#[test]
fn another_machines_kernel_is_refused() {
    let parts = Parts {
        stub: &tiny(0x8664),
        os_release: "",
        command_line: "",
        kernel: &tiny(0xaa64),
        initrd: b"",
    };
    let error = uki(&parts).unwrap_err().to_string();
    assert!(error.contains("different machines"), "{error}");
}

#[test]
fn keys_that_do_not_fit_say_why() {
    let (one, other) = (Pair::new(2048), Pair::new(2048));
    let read = |pair: &Pair, name: &str| std::fs::read(pair.folder.path().join(name)).unwrap();
    let key = read(&one, "key.pem");
    let error = Signer::from_pem(&key, &read(&other, "cert.pem")).unwrap_err();
    assert!(matches!(error, SecureError::Mismatch), "{error}");
    let error = Signer::from_pem(b"no key", &read(&one, "cert.pem")).unwrap_err();
    assert!(matches!(error, SecureError::Key(_)), "{error}");
    let error = Signer::from_pem(&key, b"no certificate").unwrap_err();
    assert!(error.to_string().contains("PEM"), "{error}");
}

/// What firmware checks of an authenticated variable, done by OpenSSL.
#[test]
fn variables_are_signed_over_what_firmware_hashes() {
    let pair = Pair::new(2048);
    let files = enrollment(&pair.signer, UnixTime::new(1_795_390_245)).unwrap();
    let file = |name: &str| &files.iter().find(|f| f.name == name).unwrap().content;
    let (auth, list) = (file("PK.auth"), file("db.esl"));
    assert!(auth.ends_with(list));
    let signature = &auth[40..auth.len() - list.len()];
    let length = u32::from_le_bytes(auth[16..20].try_into().unwrap()) as usize;
    assert_eq!(length, 24 + signature.len());
    let mut signed: Vec<u8> = b"P\0K\0".to_vec();
    signed.extend([
        0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0, 0xe0, 0x98, 3, 0x2b, 0x8c,
    ]);
    signed.extend(0x27u32.to_le_bytes());
    signed.extend(&auth[..16]);
    signed.extend(list);
    let verify = |content: &[u8]| {
        let done = Command::new("openssl")
            .args([
                "cms",
                "-verify",
                "-binary",
                "-inform",
                "DER",
                "-noverify",
                "-purpose",
                "any",
                "-in",
            ])
            .arg(pair.write("sig.der", &pkcs7::content_info(signature)))
            .arg("-content")
            .arg(pair.write("content", content))
            .arg("-certfile")
            .arg(pair.folder.path().join("cert.pem"))
            .args(["-out", "/dev/null"])
            .output()
            .unwrap();
        done.status.success()
    };
    assert!(verify(&signed));
    signed[0] = b'Q';
    assert!(!verify(&signed));
    // EDK2 looks for SHA-256's identifier at byte 13 and nowhere else.
    assert_eq!(&signature[13..22], der::oid::SHA256);
}
