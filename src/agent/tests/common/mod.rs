//! A whole site in memory: keys, charter, repository, one bundle, and the two
//! servers of an appliance on loopback. What the agent meets in the field,
//! without the appliance's own code (which it must not depend on).
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "shared by test programs that each use a part of it"
)]

pub mod device;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use groundcrew_core::bundle::Mode;
use groundcrew_core::bundle::config::{FileEntry, Stored};
use groundcrew_core::bundle::manifest::Layers;
use groundcrew_core::bundle::{Config, Descriptor, Inventory, Manifest, Source, tree};
use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{
    Admission, Assurance, BundleRef, Challenge, Decision, Grant, Receipt, Request, path,
};
use groundcrew_core::keys::SigningKey;
use groundcrew_core::time::{Now, UnixTime};
use groundcrew_core::trust::tuf::repo::{
    OnlineExpiry, RoleSpec, RootSpec, TargetChange, add_signatures, draft_root, sign_root,
    target_file,
};
use groundcrew_core::trust::tuf::{MinimumVersions, Repo, RepoFile, TargetFile};
use groundcrew_core::trust::{Charter, ImageTrust};
use groundcrew_core::{DeviceId, Digest};

pub const DAY: u64 = 86_400;

pub fn now() -> UnixTime {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    UnixTime::new(since.as_secs())
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed([seed; 32]).unwrap()
}

/// What a device sent: the path and the body.
pub type Heard = (String, Vec<u8>);

/// The site; files can be changed while it serves.
pub struct Site {
    pub image: ImageTrust,
    pub bundle: BundleRef,
    pub http: u16,
    pub https: u16,
    /// Everything on the plain HTTP side, by path.
    pub files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// What devices sent, by path.
    pub heard: Arc<Mutex<Vec<Heard>>>,
    /// The last request that was let in.
    pub request: Arc<Mutex<Option<Request>>>,
    /// How many polls a device waits.
    pub waits: Arc<Mutex<u32>>,
    /// A grant to hand out whatever was asked.
    pub forced: Arc<Mutex<Option<Envelope>>>,
}

impl Site {
    /// A site whose bundle has these steps (`bundle.toml` without its head).
    pub fn serving(steps: &str) -> Self {
        Self::with_bundle(|files| publish_bundle(steps, files))
    }

    /// A site whose bundle puts `files/etc/a.conf` below `/`; the archive of it
    /// is spoiled before it is packed and named in the signed manifest.
    pub fn serving_spoiled(spoil: fn(Vec<u8>) -> Vec<u8>) -> Self {
        Self::with_bundle(|files| publish_spoiled(spoil, files))
    }

    fn with_bundle(publish_it: impl FnOnce(&mut BTreeMap<String, Vec<u8>>) -> Vec<u8>) -> Self {
        let tls = rcgen::generate_simple_self_signed(["appliance".to_owned()]).unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&tls.signing_key);
        let charter = charter(Digest::of(&spki));
        let mut files = BTreeMap::new();
        let bundle = BundleRef {
            name: "base".parse().unwrap(),
            version: "1.2".parse().unwrap(),
        };
        let manifest = publish_it(&mut files);
        let image = publish(&charter, &bundle, &manifest, &mut files);
        let mut site = Self {
            image,
            bundle,
            http: 0,
            https: 0,
            files: Arc::new(Mutex::new(files)),
            heard: Arc::default(),
            request: Arc::default(),
            waits: Arc::default(),
            forced: Arc::default(),
        };
        site.http = site.serve_files();
        site.https = site.serve_api(&tls);
        site
    }

    fn serve_files(&self) -> u16 {
        let files = self.files.clone();
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let files = files.clone();
                std::thread::spawn(move || {
                    let Some((line, _)) = request_of(&mut stream) else {
                        return;
                    };
                    let path = line.split(' ').nth(1).unwrap_or_default();
                    let found = files.lock().unwrap().get(path).cloned();
                    let (status, body) = found.map_or((404, Vec::new()), |body| (200, body));
                    let _ = stream.write_all(&answer(status, &body));
                });
            }
        });
        port
    }

    fn serve_api(&self, tls: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(tls.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::ring::default_provider(),
        ))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![tls.cert.der().clone()], key.into())
        .unwrap();
        let config = Arc::new(config);
        let listener = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let api = Api {
            bundle: self.bundle.clone(),
            heard: self.heard.clone(),
            request: self.request.clone(),
            waits: self.waits.clone(),
            forced: self.forced.clone(),
        };
        let api = Arc::new(api);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (api, config) = (api.clone(), config.clone());
                std::thread::spawn(move || {
                    let connection = rustls::ServerConnection::new(config).unwrap();
                    let mut stream = rustls::StreamOwned::new(connection, stream);
                    let Some((line, body)) = request_of(&mut stream) else {
                        return;
                    };
                    let path = line.split(' ').nth(1).unwrap_or_default();
                    let body = api.answer(path, &body);
                    let _ = stream.write_all(&answer(200, &body));
                    stream.conn.send_close_notify();
                    let _ = stream.flush();
                });
            }
        });
        port
    }

    /// Changes the repository as whoever holds keys could; what `change` gives
    /// is served from then on.
    pub fn publish(&self, change: impl FnOnce(&mut Repo) -> Vec<RepoFile>) {
        let mut files = self.files.lock().unwrap();
        let read = |name: &str| files.get(&format!("/tuf/metadata/{name}")).cloned();
        let mut repo = Repo::load(read).unwrap();
        for file in change(&mut repo) {
            files.insert(format!("/tuf/metadata/{}", file.path), file.bytes);
        }
    }

    /// HQ lists a file, the site signs that this is current.
    pub fn list(&self, path: &str, bytes: &[u8]) {
        let target = target_file(path, bytes.to_vec()).unwrap();
        let at = format!("/tuf/targets/{}", target.path);
        self.files.lock().unwrap().insert(at, target.bytes);
        self.publish(|repo| {
            let put = TargetChange::Put(path.to_owned(), TargetFile::of(bytes));
            let (until, clock) = (now().plus(300 * DAY), Now::Clock(now()));
            let targets = repo.sign_targets(&[put], until, clock, &[&key(2)]);
            vec![targets.unwrap()]
                .into_iter()
                .chain(online(repo, &key(3)))
                .collect()
        });
    }

    /// The site signs anew that its repository is current.
    pub fn sign_again(&self) {
        self.sign_again_until(now().plus(7 * DAY));
    }

    /// The same, with signatures that are good until then.
    pub fn sign_again_until(&self, expires: UnixTime) {
        let mut files = self.files.lock().unwrap();
        let read = |name: &str| files.get(&format!("/tuf/metadata/{name}")).cloned();
        let mut repo = Repo::load(read).unwrap();
        let expiry = OnlineExpiry {
            snapshot: expires,
            timestamp: expires,
        };
        let signed = repo
            .sign_snapshot_and_timestamp(expiry, Now::Clock(now()), &[&key(3)])
            .unwrap();
        for file in signed {
            files.insert(format!("/tuf/metadata/{}", file.path), file.bytes);
        }
    }

    /// The receipts that came, verified by the key of the request.
    pub fn receipts(&self) -> Vec<Receipt> {
        let heard = self.heard.lock().unwrap();
        let receipts = heard.iter().filter(|(path, _)| path == path::RECEIPT);
        let read = |(_, body): &Heard| {
            let envelope: Envelope = serde_json::from_slice(body).unwrap();
            let sign_key = self.request.lock().unwrap().as_ref().unwrap().sign_key;
            envelope.verify::<Receipt>(&sign_key).unwrap().into_inner()
        };
        receipts.map(read).collect()
    }

    pub fn address(&self) -> Ipv4Addr {
        Ipv4Addr::LOCALHOST
    }
}

struct Api {
    bundle: BundleRef,
    heard: Arc<Mutex<Vec<Heard>>>,
    request: Arc<Mutex<Option<Request>>>,
    waits: Arc<Mutex<u32>>,
    forced: Arc<Mutex<Option<Envelope>>>,
}

impl Api {
    fn answer(&self, path: &str, body: &[u8]) -> Vec<u8> {
        let device: DeviceId = "lab-7k2m9qx4".parse().unwrap();
        match path {
            path::START => serde_json::to_vec(&Challenge {
                site: "lab".parse().unwrap(),
                challenge: Bytes([5; 32]),
            }),
            path::REQUEST => {
                let envelope: Envelope = serde_json::from_slice(body).unwrap();
                let request = envelope.verify_self_signed::<Request>(|r| r.sign_key);
                *self.request.lock().unwrap() = Some(request.unwrap().into_inner());
                serde_json::to_vec(&Admission {
                    device,
                    session: Bytes([7; 32]),
                    decision: self.decision(),
                })
            }
            path::DECISION => serde_json::to_vec(&self.decision()),
            other => {
                self.heard
                    .lock()
                    .unwrap()
                    .push((other.to_owned(), body.to_vec()));
                Ok(b"{}".to_vec())
            }
        }
        .unwrap()
    }

    fn decision(&self) -> Decision {
        let mut waits = self.waits.lock().unwrap();
        if *waits > 0 {
            *waits -= 1;
            return Decision::Waiting {
                reason: "not registered".into(),
            };
        }
        if let Some(grant) = self.forced.lock().unwrap().clone() {
            return Decision::Granted { grant };
        }
        let request = self.request.lock().unwrap().clone().unwrap();
        let grant = Grant {
            site: request.site,
            device: "lab-7k2m9qx4".parse().unwrap(),
            sign_key: request.sign_key,
            seal_key: request.seal_key,
            nonce: request.nonce,
            assurance: Assurance::Claimed,
            profile: "office".parse().unwrap(),
            bundle: self.bundle.clone(),
            hostname: "lab-1".into(),
            variables: BTreeMap::new(),
            issued_at: now(),
        };
        Decision::Granted {
            grant: Envelope::sign(&grant, &key(5)).unwrap(),
        }
    }
}

/// Snapshot and timestamp by this key.
pub fn online(repo: &mut Repo, key: &SigningKey) -> Vec<RepoFile> {
    let expiry = OnlineExpiry {
        snapshot: now().plus(30 * DAY),
        timestamp: now().plus(7 * DAY),
    };
    let signed = repo.sign_snapshot_and_timestamp(expiry, Now::Clock(now()), &[key]);
    signed.unwrap()
}

/// A root that names these keys, signed by `signers`.
pub fn root_after(
    held: &[u8],
    root: RoleSpec,
    site: &SigningKey,
    signers: &[&SigningKey],
) -> RepoFile {
    let spec = RootSpec {
        expires: now().plus(700 * DAY),
        root,
        targets: RoleSpec::one(key(2).public()),
        snapshot: RoleSpec::one(site.public()),
        timestamp: RoleSpec::one(site.public()),
    };
    let draft = draft_root(&spec, Some(held)).unwrap();
    let bytes = add_signatures(&draft.bytes, signers).unwrap();
    RepoFile {
        path: draft.path,
        bytes,
    }
}

fn charter(tls_key: Digest) -> Charter {
    Charter {
        site: "lab".parse().unwrap(),
        version: 1,
        tls_key,
        grant_key: key(5).public(),
        journal_key: key(6).public(),
        tags: vec!["office".parse().unwrap()],
        expires: now().plus(100 * DAY),
        devices: 25,
        minimum: BTreeMap::new(),
    }
}

/// The bundle's blobs into `files`; its manifest.
fn publish_bundle(steps: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Vec<u8> {
    let text = format!("name = \"base\"\nversion = \"1.2\"\n{steps}");
    let source = Source::parse("bundle.toml", &text).unwrap();
    let inventory = Inventory {
        directories: Vec::new(),
        files: Vec::new(),
        links: Vec::new(),
    };
    let config = Config::new(source, inventory).unwrap();
    let bytes = config.to_bytes().unwrap();
    let layers = Layers {
        tree: None,
        files: Vec::new(),
    };
    let manifest = Manifest::new(&config, &bytes, layers).unwrap();
    files.insert(format!("/blobs/sha256/{}", Digest::of(&bytes).hex()), bytes);
    manifest.to_bytes()
}

/// As [`publish_bundle`], with one file in a tree that `spoil` changes.
fn publish_spoiled(
    spoil: fn(Vec<u8>) -> Vec<u8>,
    files: &mut BTreeMap<String, Vec<u8>>,
) -> Vec<u8> {
    let content = b"a\n";
    let entry = FileEntry {
        path: "files/etc/a.conf".parse().unwrap(),
        digest: Digest::of(content),
        size: content.len() as u64,
        mode: Mode::FILE,
        stored: Stored::Tree,
    };
    let mut archive = tree::header(&entry).to_vec();
    archive.extend(content);
    archive.resize(archive.len() + tree::padding(entry.size), 0);
    archive.extend(tree::TRAILER);
    let packed = zstd::bulk::compress(&spoil(archive), 1).unwrap();
    let step = "[[step]]\nname = \"t\"\ntree = { path = \"/\", source = \"files\" }\n";
    let text = format!("name = \"base\"\nversion = \"1.2\"\n{step}");
    let source = Source::parse("bundle.toml", &text).unwrap();
    let inventory = Inventory {
        directories: ["files", "files/etc"].map(|d| d.parse().unwrap()).to_vec(),
        files: vec![entry],
        links: Vec::new(),
    };
    let config = Config::new(source, inventory).unwrap();
    let bytes = config.to_bytes().unwrap();
    let layers = Layers {
        tree: Some(Descriptor::tree(Digest::of(&packed), packed.len() as u64)),
        files: Vec::new(),
    };
    let manifest = Manifest::new(&config, &bytes, layers).unwrap();
    for blob in [bytes, packed] {
        files.insert(format!("/blobs/sha256/{}", Digest::of(&blob).hex()), blob);
    }
    manifest.to_bytes()
}

fn publish(
    charter: &Charter,
    bundle: &BundleRef,
    manifest: &[u8],
    files: &mut BTreeMap<String, Vec<u8>>,
) -> ImageTrust {
    let clock = Now::Clock(now());
    let spec = RootSpec {
        expires: now().plus(700 * DAY),
        root: RoleSpec::one(key(1).public()),
        targets: RoleSpec::one(key(2).public()),
        snapshot: RoleSpec::one(key(3).public()),
        timestamp: RoleSpec::one(key(3).public()),
    };
    let root = sign_root(&spec, None, clock, &[&key(1)]).unwrap();
    let mut repo = Repo::new(&root.bytes).unwrap();
    let charter_bytes = charter.to_json().unwrap();
    let mut changes = Vec::new();
    for (path, bytes) in [
        (Charter::target_path(&charter.site), charter_bytes.clone()),
        (bundle.target_path(), manifest.to_vec()),
    ] {
        changes.push(TargetChange::Put(path.clone(), TargetFile::of(&bytes)));
        let file = target_file(&path, bytes).unwrap();
        files.insert(format!("/tuf/targets/{}", file.path), file.bytes);
    }
    let targets = repo
        .sign_targets(&changes, now().plus(300 * DAY), clock, &[&key(2)])
        .unwrap();
    let expiry = OnlineExpiry {
        snapshot: now().plus(30 * DAY),
        timestamp: now().plus(7 * DAY),
    };
    let online = repo
        .sign_snapshot_and_timestamp(expiry, clock, &[&key(3)])
        .unwrap();
    for file in [root.clone(), targets.clone()].into_iter().chain(online) {
        files.insert(format!("/tuf/metadata/{}", file.path), file.bytes);
    }
    ImageTrust {
        built_at: now(),
        site: charter.site.clone(),
        root: root.bytes,
        targets: targets.bytes,
        charter: charter_bytes,
        minimum: MinimumVersions::default(),
    }
}

/// The request line and body.
fn request_of(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes: Vec<u8> = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        read_more(stream, &mut bytes)?;
    };
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
    while bytes.len() < end + 4 + length {
        read_more(stream, &mut bytes)?;
    }
    let line = String::from_utf8_lossy(&bytes[..end])
        .lines()
        .next()?
        .to_owned();
    Some((line, bytes.split_off(end + 4)))
}

fn read_more(stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<()> {
    let mut buffer = [0; 4096];
    let count = stream.read(&mut buffer).ok().filter(|count| *count > 0)?;
    bytes.extend_from_slice(&buffer[..count]);
    Some(())
}

fn answer(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
