//! Packages made here, good and hostile, read back.

use std::io::Write as _;

use tar::{Builder, EntryType, Header};

use super::*;

/// One entry of a tar archive: name as raw bytes, so that it may be hostile.
pub(in crate::image) struct Item {
    pub name: String,
    pub kind: EntryType,
    pub content: Vec<u8>,
}

pub(in crate::image) fn file(name: &str, content: &[u8]) -> Item {
    Item {
        name: name.to_owned(),
        kind: EntryType::Regular,
        content: content.to_vec(),
    }
}

fn link(name: &str, kind: EntryType) -> Item {
    Item {
        name: name.to_owned(),
        kind,
        content: Vec::new(),
    }
}

pub(in crate::image) fn tar_of(items: &[Item]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for item in items {
        if item.name.len() > 100 {
            append(
                &mut builder,
                "././@LongLink",
                EntryType::GNULongName,
                &[item.name.as_bytes(), b"\0"].concat(),
            );
        }
        let short: String = item.name.chars().take(100).collect();
        append(&mut builder, &short, item.kind, &item.content);
    }
    builder.into_inner().unwrap()
}

fn append(builder: &mut Builder<Vec<u8>>, name: &str, kind: EntryType, content: &[u8]) {
    let mut header = Header::new_gnu();
    // Not set_path, which refuses what a hostile package contains.
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

pub(in crate::image) fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = xz2::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

pub(in crate::image) fn control(architecture: &str) -> Vec<u8> {
    let text = format!(
        "Package: linux-image-6.1.0-1-amd64\nVersion: 6.1.1-1\nArchitecture: {architecture}\nDescription: x\n Version: 9\n"
    );
    tar_of(&[file("./control", text.as_bytes())])
}

/// An ar archive, written by the `ar` crate: not by the code under test.
pub(in crate::image) fn ar_of(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = ar::Builder::new(Vec::new());
    for (name, content) in members {
        let header = ar::Header::new(name.as_bytes().to_vec(), content.len() as u64);
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(in crate::image) fn deb_of(items: &[Item]) -> Vec<u8> {
    let (control, data) = (xz(&control("amd64")), xz(&tar_of(items)));
    ar_of(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &control),
        ("data.tar.xz", &data),
    ])
}

/// Reads a package and returns `path (kind) content`.
fn read(bytes: &[u8]) -> Result<Vec<(String, Kind, Vec<u8>)>, DebError> {
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(bytes).unwrap();
    let mut seen = Vec::new();
    Deb::open(on_disk.path(), Arch::Amd64)?.for_each(&|e| e, &mut |entry| {
        let (path, kind) = (entry.path.clone(), entry.kind);
        seen.push((path, kind, entry.read(1000)?));
        Ok(())
    })?;
    Ok(seen)
}

fn refusal(bytes: &[u8]) -> String {
    read(bytes).unwrap_err().to_string()
}

#[test]
fn files_come_with_clean_paths_and_long_names() {
    let long = format!("./lib/modules/{}/x.ko", "d".repeat(120));
    let items = [
        link("./", EntryType::Directory),
        link("./boot/", EntryType::Directory),
        file("./boot/a", b"1"),
        file(&long, b"22"),
        link("./l", EntryType::Symlink),
    ];
    let (control, tar) = (xz(&control("amd64")), tar_of(&items));
    let zstd = zstd::encode_all(&tar[..], 1).unwrap();
    for (name, data) in [
        ("data.tar.xz", xz(&tar)),
        ("data.tar.zst", zstd),
        ("data.tar", tar.clone()),
    ] {
        let deb = ar_of(&[
            ("debian-binary", b"2.0\n"),
            ("control.tar.xz", &control),
            (name, &data),
        ]);
        let seen = read(&deb).unwrap();
        assert_eq!(
            seen,
            [
                ("boot/a".to_owned(), Kind::File, b"1".to_vec()),
                (long[2..].to_owned(), Kind::File, b"22".to_vec()),
                ("l".to_owned(), Kind::Other, vec![])
            ],
            "{name}"
        );
    }
}

#[test]
fn paths_that_leave_the_tree_are_refused() {
    for name in [
        "../etc/passwd",
        "./../x",
        "/etc/passwd",
        "./a/../../b",
        "a//b",
        "./a/./b",
        "./a\nb",
        "./..",
        ".//x",
    ] {
        let text = refusal(&deb_of(&[file("./boot/ok", b""), file(name, b"evil")]));
        assert!(text.contains("no Debian package does"), "{name}: {text}");
    }
    let long = format!("./{}/../../x", "d".repeat(120));
    assert!(refusal(&deb_of(&[file(&long, b"")])).contains("no Debian package does"));
    for kind in [EntryType::Symlink, EntryType::Link, EntryType::Directory] {
        assert!(refusal(&deb_of(&[link("/abs", kind)])).contains("no Debian package does"));
    }
}

#[test]
fn headers_that_rename_or_flood_are_refused() {
    let pax = Item {
        name: "./PaxHeaders/x".into(),
        kind: EntryType::XHeader,
        content: b"19 path=/etc/passwd\n".to_vec(),
    };
    assert!(refusal(&deb_of(&[pax, file("./x", b"")])).contains("pax"));
    let name = Item {
        name: "././@LongLink".into(),
        kind: EntryType::GNULongName,
        content: vec![b'a'; 5000],
    };
    assert!(refusal(&deb_of(&[name, file("./x", b"")])).contains("file name of 5000 bytes"));
    assert!(refusal(&deb_of(&[file("./big", &[0; 1001])])).contains("limit is 1000"));
    let bomb = xz(&tar_of(&[
        file("./other", &vec![0; 17 << 20]),
        file("./control", b"x"),
    ]));
    let text = refusal(&ar_of(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &bomb),
        ("data.tar", b""),
    ]));
    assert!(
        text.contains("control.tar.xz holds more than 16777216 bytes"),
        "{text}"
    );
}

#[test]
fn what_is_no_package_for_amd64_is_told() {
    assert!(refusal(b"").contains("too short"));
    assert!(refusal(b"PK\x03\x04 not a deb at all").contains("ar archive"));
    let (good, arm) = (xz(&control("amd64")), xz(&control("arm64")));
    let text = refusal(&ar_of(&[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &arm),
        ("data.tar", b""),
    ]));
    assert_eq!(text, "is a package for arm64, not for amd64");
    let gz: &[(&str, &[u8])] = &[
        ("debian-binary", b"2.0\n"),
        ("control.tar.xz", &good),
        ("data.tar.gz", b"x"),
    ];
    let mut on_disk = tempfile::NamedTempFile::new().unwrap();
    on_disk.write_all(&ar_of(gz)).unwrap();
    let deb = Deb::open(on_disk.path(), Arch::Amd64).unwrap();
    assert_eq!(
        (deb.package.as_str(), deb.version.as_str()),
        ("linux-image-6.1.0-1-amd64", "6.1.1-1")
    );
    assert!(refusal(&ar_of(gz)).contains("data.tar.gz"));
    let whole = deb_of(&[file("./boot/a", &[7; 900])]);
    for cut in [20, 80, 200, whole.len() - 8] {
        assert!(read(&whole[..cut]).is_err(), "{cut}");
    }
}

#[test]
fn a_header_that_promises_gigabytes_costs_nothing() {
    let mut deb = b"!<arch>\n".to_vec();
    deb.extend_from_slice(
        format!(
            "{:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            "//", 0, 0, 0, 644, 9_999_999_999_u64
        )
        .as_bytes(),
    );
    assert!(refusal(&deb).contains("cut off"));
}

proptest::proptest! {
    #[test]
    fn damage_is_an_error_or_harmless_but_no_panic(at in 0_usize..2000, byte: u8) {
        let tar = tar_of(&[file("./boot/a", b"1"), file("./lib/b", b"2")]);
        let mut deb = ar_of(&[("debian-binary", b"2.0\n"), ("control.tar", &control("amd64")), ("data.tar", &tar)]);
        let len = deb.len();
        deb[at * 7 % len] = byte;
        for (path, _, _) in read(&deb).unwrap_or_default() {
            proptest::prop_assert!(!path.starts_with('/') && !path.contains(".."));
        }
    }
}
