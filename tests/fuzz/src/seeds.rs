//! The first corpus, made of the project's own fixtures: packets of real
//! firmware, hardware tables, files as the programs write them.

use std::path::{Path, PathBuf};

use groundcrew_core::Digest;
use groundcrew_core::bundle::config::{FileEntry, Stored};

/// The seeds of one target.
pub fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "dhcp_request" | "dhcp_answer" | "dhcp_agent" => udp(&[67, 68, 4011]),
        "tftp_request" => udp(&[69]),
        "tftp_transfer" => vec![
            [&[0x05, 0xbc, 0, 16, 1, 0x11, 0, 99][..], &acks(20)].concat(),
            [&[0, 0, 0, 0, 0, 0x00, 3, 232][..], &acks(5)].concat(),
        ],
        "ipxe_query" => texts(&[
            "mac=52%3A54%3A00%3A77%3A00%3A01&ip=10.77.0.130&uuid=a1b2c3d4-e5f6-4789-8abc-000000000001&serialx=41263d2325&makerx=51454d55&modelx=&platform=pcbios&arch=i386",
            "serial=a%20b&platform=efi&arch=x86_64",
        ]),
        "boot_path" => texts(&[
            "/boot//x/%76mlinuz?try=1",
            "\\Boot\\x64\\pxe.n12",
            "/grub/grub.cfg-01-52-54-00-77-00-01",
            "pxelinux.cfg/A1B2C3D4-E5F6-4789-8ABC-000000000001",
            "autoexec.ipxe",
            "/%2e%2e/x",
        ]),
        "http_head" => texts(&[
            "GET /boot/vmlinuz HTTP/1.1\r\nHost: 10.77.0.1\r\nRange: bytes=0-99\r\n\r\nHEAD / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ]),
        "router_advertisement" => vec![
            vec![
                134, 0, 0, 0, 64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 7,
            ],
            [
                &[
                    134, 0, 0, 0, 64, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 4, 64, 192,
                ][..],
                &[0; 28],
            ]
            .concat(),
            vec![133, 0, 0, 0, 0, 0, 0, 0],
        ],
        "smbios_tables" => smbios(),
        "hardware_hash" => vec![file("hardware/hwhash-synthetic.b64")],
        "csv_import" => [
            "faults",
            "info.utf16be",
            "info.utf16le",
            "intune.ansi",
            "intune.utf8bom",
            "partner",
            "preparation",
        ]
        .map(|name| file(&format!("hardware/{name}.csv")))
        .into(),
        "envelope" => texts(&[
            r#"{"payload":"e30=","payloadType":"application/vnd.groundcrew.grant+json","signatures":[{"sig":"AAAA"}]}"#,
        ]),
        "enrollment" => texts(&[
            r#"{"commitment":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}"#,
            r#"{"granted":{"payload":"","payloadType":"x","signatures":[]}}"#,
            r#"{"phase":"download","done":1,"total":2}"#,
        ]),
        "tuf_metadata" => texts(&[
            r#"{"signatures":[{"keyid":"ab","sig":"cd"}],"signed":{"_type":"timestamp","spec_version":"1.0.34","version":1,"expires":"2027-01-01T00:00:00Z","meta":{"snapshot.json":{"version":1}}}}"#,
            r#"{"signatures":[],"signed":{"_type":"root","spec_version":"1.0.34","version":1,"expires":"2027-01-01T00:00:00Z","consistent_snapshot":true,"keys":{},"roles":{}}}"#,
        ]),
        "bundle_files" => vec![bundle_toml()],
        "bundle_tree" => vec![[&[64][..], &tree()].concat()],
        "journal_line" => texts(&[
            r#"{"seq":1,"prev":"sha256:00","at":"2026-01-01T00:00:00Z","device":"d-0000","by":"x","event":{"approved":{}}}"#,
        ]),
        "settings" => vec![read(&root().join("config/site.toml"))],
        "names" => texts(&[
            "10.77.0.1/24",
            "2026-01-01T00:00:00Z",
            "52:54:00:77:00:01",
            "{serial}-{mac:4}",
            "a/b-1.2",
        ]),
        "agent_texts" => texts(&[
            "gc.mac=52:54:00:77:00:01 gc.ip=10.77.0.130 gc.mask=255.255.255.0 gc.server=10.77.0.1 gc.http=80",
            "add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=net\0MODALIAS=pci:v1\0",
            "root:x:0:0:root:/root:/bin/sh\n",
            "kernel/a.ko: kernel/b.ko\u{1}alias pci:v* a\u{1}softdep a pre: b\n",
        ]),
        "courier" => vec![courier()],
        "sntp_and_arp" => vec![
            [
                &[0x23, 0, 6, 0xe9][..],
                &[0; 36],
                &[0xe8, 1, 2, 3, 4, 5, 6, 7],
            ]
            .concat(),
            [
                &[0xff; 6][..],
                &[
                    2, 0, 0, 0, 0, 2, 8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 2,
                ],
                &[10, 77, 0, 9, 2, 0, 0, 0, 0, 1, 10, 77, 0, 1],
            ]
            .concat(),
        ],
        "last_words" => last_words(),
        "stick_medium" => stick_medium(),
        _ => Vec::new(),
    }
}

/// As HQ writes it, with one bundle of one blob.
fn courier() -> Vec<u8> {
    use groundcrew_core::bundle::manifest::media;
    let blob = b"the configuration";
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","artifactType":"{}","config":{{"mediaType":"{}","digest":"{}","size":{}}},"layers":[],"annotations":{{"org.opencontainers.image.title":"welcome","org.opencontainers.image.version":"1.2.0"}}}}"#,
        media::MANIFEST,
        media::BUNDLE,
        media::CONFIG,
        Digest::of(blob),
        blob.len(),
    );
    let trust = root().join("src/core/tests/attacks/freeze_by_each_role/1/served");
    let mut tar = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| {
        tar.extend(tar_header(name, bytes.len()));
        tar.extend(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    add("groundcrew-site", b"berlin");
    add("metadata/1.root.json", &read(&trust.join("1.root.json")));
    add(
        "metadata/targets.json",
        &read(&trust.join("1.targets.json")),
    );
    add("targets/bundles/welcome/1.2.0", manifest.as_bytes());
    add(&format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// POSIX.1-1988's `ustar` header of a plain file.
fn tar_header(name: &str, size: usize) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

fn last_words() -> Vec<Vec<u8>> {
    let words = groundcrew_core::words::LastWords {
        mac: Some(groundcrew_core::hardware::MacAddr([2, 0, 0, 0, 0, 1])),
        uuid: None,
        serial: Some("SYNTH-1".to_owned()),
        trouble: groundcrew_core::words::Trouble::Other,
        phase: "download".to_owned(),
        text: "the disk is full".to_owned(),
    };
    let allowed = r#"{"site":"berlin","allowed":[{"bundle":{"name":"welcome","version":"1.2.0"},"device":null,"until":"2027-01-01T00:00:00Z"}]}"#;
    vec![words.query().into_bytes(), allowed.into()]
}

fn stick_medium() -> Vec<Vec<u8>> {
    let vault = r#"{"format":1,"site":"berlin","argon2id":{"memory_kib":65536,"passes":3},"salt":"AAAAAAAAAAAAAAAAAAAAAA==","sealed":"AAAA"}"#;
    let mut anchor = groundcrew::stick::anchor::Anchor::default();
    let mut sectors = vec![0; groundcrew::stick::anchor::LENGTH];
    for _ in 0..2 {
        let (at, copy) = anchor.advance();
        sectors[at..at + copy.len()].copy_from_slice(&copy);
    }
    vec![vault.into(), sectors]
}

/// The files that `bundle_tree` expects.
pub fn tree_entries() -> Vec<FileEntry> {
    let entry = |(path, content): &(&str, &[u8])| FileEntry {
        path: path.parse().expect("a path"),
        digest: Digest::of(content),
        size: content.len() as u64,
        mode: "0644".parse().expect("a mode"),
        stored: Stored::Tree,
    };
    FILES.iter().map(entry).collect()
}

const FILES: [(&str, &[u8]); 2] = [("etc/a", b"hello\n"), ("etc/b", &[7; 700])];

fn tree() -> Vec<u8> {
    use groundcrew_core::bundle::tree;
    let mut bytes = Vec::new();
    for (entry, (_, content)) in tree_entries().iter().zip(FILES) {
        bytes.extend(tree::header(entry));
        bytes.extend(content);
        bytes.resize(bytes.len() + tree::padding(entry.size), 0);
    }
    bytes.extend(tree::TRAILER);
    bytes
}

fn root() -> PathBuf {
    // This package lies in tests/fuzz; the replay test is the root package's.
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let above = here.ancestors();
    let mut roots = above.filter(|folder| folder.join("tests/fixtures").is_dir());
    roots.next().expect("tests/fixtures").to_owned()
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn file(name: &str) -> Vec<u8> {
    read(&root().join("tests/fixtures").join(name))
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The first example bundle's description.
fn bundle_toml() -> Vec<u8> {
    read(&root().join("config/bundle/welcome/bundle.toml"))
}

fn smbios() -> Vec<Vec<u8>> {
    let table = file("hardware/smbios-3.table.bin");
    let bare = file("hardware/smbios-bare.table.bin");
    let entries = ["2.4", "2.8", "3"].map(|v| file(&format!("hardware/smbios-{v}.entry.bin")));
    let whole =
        |entry: &Vec<u8>, table: &Vec<u8>| [&[entry.len() as u8], &entry[..], table].concat();
    let mut seeds: Vec<_> = entries.iter().map(|entry| whole(entry, &table)).collect();
    seeds.push(whole(&entries[0], &bare));
    seeds
}

/// ACKs of blocks 0 and up, 8 ms apart, as `tftp_transfer` reads them.
fn acks(count: u8) -> Vec<u8> {
    (0..count)
        .flat_map(|block| [4, 1, 0, 4, 0, block])
        .collect()
}

/// The UDP payloads of all captures to or from these ports, each once.
fn udp(ports: &[u16]) -> Vec<Vec<u8>> {
    let folder = root().join("tests/fixtures/captures");
    let files = std::fs::read_dir(folder).expect("captures");
    let mut found = std::collections::BTreeSet::new();
    for path in files.map(|entry| entry.expect("an entry").path()) {
        if path.extension().is_some_and(|e| e == "pcap") {
            found.extend(payloads(&read(&path), ports));
        }
    }
    found.into_iter().collect()
}

/// A little-endian pcap file of Ethernet frames.
fn payloads(pcap: &[u8], ports: &[u16]) -> Vec<Vec<u8>> {
    let (mut at, mut found) = (24, Vec::new());
    while at + 16 <= pcap.len() {
        let length = u32::from_le_bytes(pcap[at + 8..at + 12].try_into().expect("four")) as usize;
        let frame = &pcap[at + 16..at + 16 + length];
        at += 16 + length;
        if frame.len() < 42 || frame[12..14] != [8, 0] || frame[23] != 17 {
            continue;
        }
        let udp = &frame[14 + usize::from(frame[14] & 15) * 4..];
        let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        let wanted = ports.contains(&port(0)) || ports.contains(&port(2));
        if let Some(payload) = udp.get(8..usize::from(port(4))).filter(|_| wanted) {
            found.push(payload.to_vec());
        }
    }
    found
}
