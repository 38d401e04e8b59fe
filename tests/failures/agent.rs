//! What the agent runs into: enrollment through the real API handlers and the
//! registry's real decisions, everything else in the agent's own last words.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::Request as HttpRequest;
use groundcrew::flight::Flight;
use groundcrew::office::{Command, Office, Order};
use groundcrew::serve::{Peer, api};
use groundcrew::site::Site;
use groundcrew::store::Store;
use groundcrew_agent::http::{HttpError, Public};
use groundcrew_agent::words::{Voice, trouble};
use groundcrew_core::UnixTime;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{Admission, Challenge, Request, Start, commitment, path};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::keys::{SealKey, SigningKey};
use groundcrew_core::words::{LastWords, Trouble};
use groundcrew_netboot::story::{Cause, diagnose};
use tower_service::Service as _;

use crate::common::{SERVER, TestSite};
use crate::device::{Device, Firmware, get, only};
use crate::stage::{Stage, judged, later};

/// A site's office and its API, without a socket.
struct World {
    _site: TestSite,
    office: Arc<Office>,
    api: Router,
    runtime: tokio::runtime::Runtime,
    name: groundcrew_core::SiteId,
}

impl World {
    fn new() -> Self {
        let test = TestSite::new();
        let site = Site::at(test.dir());
        let settings = site.settings().unwrap();
        let store = Store::open(&site.registry_file()).unwrap();
        let office = Arc::new(Office::open(&site, &settings, store).unwrap());
        Self {
            api: api::routes(Arc::clone(&office)),
            office,
            name: settings.site,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
            _site: test,
        }
    }

    /// A request of the device at `ip`; status and body.
    fn ask(&self, ip: IpAddr, request: axum::http::request::Builder, body: Vec<u8>) -> Vec<u8> {
        let mut request: HttpRequest<Body> = request.body(Body::from(body)).unwrap();
        let peer = Peer(SocketAddr::new(ip, 40_000));
        request.extensions_mut().insert(peer);
        let mut api = self.api.clone();
        self.runtime.block_on(async move {
            let Ok(answer) = api.call(request).await;
            axum::body::to_bytes(answer.into_body(), 1 << 20)
                .await
                .unwrap()
                .to_vec()
        })
    }

    fn post(&self, ip: IpAddr, path: &str, body: &impl serde::Serialize) -> Vec<u8> {
        let request = HttpRequest::post(path).header("content-type", "application/json");
        self.ask(ip, request, serde_json::to_vec(body).unwrap())
    }

    /// The device at `ip` asks to be let in to `site`; the answer.
    fn enroll(&self, ip: IpAddr, seed: u8, site: &groundcrew_core::SiteId) -> Vec<u8> {
        let key = SigningKey::from_seed([seed; 32]).unwrap();
        let (seal_key, nonce) = (SealKey(Bytes([seed; 32])), Bytes([seed; 32]));
        let start = Start {
            commitment: commitment(&key.public(), &seal_key, &nonce),
        };
        let challenge: Challenge =
            serde_json::from_slice(&self.post(ip, path::START, &start)).unwrap();
        let mut report = HardwareReport::default();
        report.smbios.serial = Some(format!("SYNTH-{seed:04}"));
        let request = Request {
            site: site.clone(),
            sign_key: key.public(),
            seal_key,
            nonce,
            challenge: challenge.challenge,
            report,
            agent: "0".into(),
        };
        let envelope = Envelope::sign(&request, &key).unwrap();
        self.post(ip, path::REQUEST, &envelope)
    }

    fn decision(&self, ip: IpAddr, session: &Bytes<32>) {
        let token = data_encoding::BASE64.encode(&session.0);
        let request = HttpRequest::get(path::DECISION);
        let request = request.header("authorization", format!("Bearer {token}"));
        self.ask(ip, request, vec![]);
    }

    /// What is said at once.
    fn says_now(&self, staged: &str, name: &str, cause: Cause) {
        let fixture = self.office.flight().explain(name).unwrap();
        judged(staged, &fixture.diagnosis, cause);
    }

    fn says(&self, staged: &str, name: &str, cause: Cause) {
        let fixture = self.office.flight().explain(name).unwrap();
        judged(staged, &diagnose(&fixture.story, later(&fixture)), cause);
    }
}

fn at(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, last))
}

#[test]
fn enrollments() {
    let world = World::new();

    let answer = world.enroll(at(11), 11, &world.name);
    let waiting: Admission = serde_json::from_slice(&answer).unwrap();
    world.says_now("enrollment waits", waiting.device.as_str(), Cause::Waiting);
    world.says_now("enrollment waits (by serial)", "SYNTH-0011", Cause::Waiting);
    world.says(
        "switched off while it waited",
        "SYNTH-0011",
        Cause::AgentWentSilent,
    );

    let words = LastWords {
        trouble: Trouble::Clock,
        text: "the clock stands in 1970".into(),
        ..LastWords::default()
    };
    world.office.flight().words(Some(at(15)), &words);
    world.says_now("the device has no clock", "10.77.0.15", Cause::ClockUnknown);
    world.enroll(at(15), 15, &world.name);
    world.says_now("its clock was set", "SYNTH-0015", Cause::Waiting);

    let order = Order {
        by: "test".into(),
        command: Command::Reject {
            device: waiting.device.clone(),
            reason: "not ours".into(),
        },
    };
    world.runtime.block_on(world.office.execute(order)).unwrap();
    world.decision(at(11), &waiting.session);
    world.says("enrollment rejected", "10.77.0.11", Cause::Rejected);

    world.decision(at(12), &Bytes([9; 32]));
    world.says("session refused", "10.77.0.12", Cause::SessionRefused);

    world.enroll(at(13), 13, &"elsewhere".parse().unwrap());
    world.says("image of another site", "10.77.0.13", Cause::RootMismatch);

    // The site has proof that it is later than its clock says.
    world.office.proven(UnixTime::new(4_000_000_000));
    world.enroll(at(14), 14, &world.name);
    world.says(
        "clock unknown (appliance)",
        "10.77.0.14",
        Cause::ClockUnknown,
    );
}

#[test]
fn last_words() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;
    stage.boot_file("vmlinuz", 1000);
    stage.boot_file("initrd.img", 1000);

    let silent = Device::new(1, Firmware::Uefi);
    let ip = silent.up_to_initrd(net, "SYNTH-501");
    get(net, ip, "/tuf/metadata/timestamp.json", usize::MAX);
    stage.says(
        "agent cannot reach HTTPS (silent)",
        "SYNTH-501",
        Cause::HttpsUnreachable,
    );

    let stuck = Device::new(2, Firmware::Uefi);
    only(net, stuck.up_to_initrd(net, "SYNTH-502"));
    let mac = groundcrew_core::hardware::MacAddr(stuck.mac);
    net.on_client(move || {
        let report = HardwareReport::default();
        let voice = Voice::new(Public::new(SERVER, 80), mac, &report);
        for _ in 0..5 {
            let error = HttpError::Transport("connection refused".into());
            voice.stuck("enrollment", &error);
        }
    });
    let told = stage.says(
        "agent cannot reach HTTPS",
        "SYNTH-502",
        Cause::HttpsUnreachable,
    );
    assert!(told.evidence.unwrap().contains("connection refused"));
    let says = told
        .lines
        .iter()
        .filter(|line| line.text.contains("device says"));
    assert_eq!(says.count(), 1, "said at the third time, not at each");

    let refused = |code: &str| HttpError::Refused {
        status: 503,
        code: code.into(),
        text: "no".into(),
    };
    for (n, staged, error, cause) in [
        (
            3,
            "clock unknown",
            refused("clock-unknown"),
            Cause::ClockUnknown,
        ),
        (
            4,
            "session lost",
            refused("no-session"),
            Cause::SessionRefused,
        ),
        (
            5,
            "another machine answers HTTPS",
            HttpError::WrongServer("certificate".into()),
            Cause::WrongServer,
        ),
    ] {
        words(&stage, n, trouble(&error), &error.to_string());
        stage.says(staged, &Device::new(n, Firmware::Uefi).name(), cause);
    }
    // The agent's own tests hold that its refusals carry these.
    for (n, staged, trouble, cause) in [
        (
            6,
            "charter expired",
            Trouble::CharterExpired,
            Cause::CharterExpired,
        ),
        (
            7,
            "root mismatch",
            Trouble::TrustMismatch,
            Cause::RootMismatch,
        ),
        (
            8,
            "signatures expired",
            Trouble::TrustExpired,
            Cause::TrustExpired,
        ),
        (
            9,
            "image without trust root",
            Trouble::Image,
            Cause::ImageBroken,
        ),
    ] {
        words(&stage, n, trouble, staged);
        stage.says(staged, &Device::new(n, Firmware::Uefi).name(), cause);
    }
}

/// The agent of device `n` says why it gives up.
pub fn words(stage: &Stage, n: u8, trouble: Trouble, text: &str) {
    let device = Device::new(n, Firmware::Uefi);
    let net = &stage.switched.net;
    only(net, device.up_to_text(net, &format!("SYNTH-60{n}")));
    let (mac, text) = (
        groundcrew_core::hardware::MacAddr(device.mac),
        text.to_owned(),
    );
    net.on_client(move || {
        let voice = Voice::new(Public::new(SERVER, 80), mac, &HardwareReport::default());
        voice.say(trouble, "trust", &text);
    });
}

#[test]
fn nobody_can_talk_for_ever_or_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let flight = Flight::open(&folder.path().join("flight.db"));
    let words = |n: u8| groundcrew_core::words::LastWords {
        mac: Some(groundcrew_core::hardware::MacAddr([2, 0, 0, 0, 0, n])),
        text: "x\u{1b}[2J".into(),
        ..Default::default()
    };
    let heard = (0..20).filter(|_| flight.words(Some(at(21)), &words(1)));
    assert_eq!(heard.count(), 6);
    // From the same address, whatever card it claims to be.
    assert!(!flight.words(Some(at(21)), &words(2)));
    assert!(flight.explain("02:00:00:00:00:02").is_err());
    let told = flight.explain("10.77.0.21").unwrap();
    assert!(!told.diagnosis.lines[0].text.contains('\u{1b}'));
}

#[test]
fn two_machines_say_the_same_uuid() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;
    let mut twins = [
        Device::new(1, Firmware::Uefi),
        Device::new(2, Firmware::Uefi),
    ];
    for twin in &mut twins {
        twin.uuid = *b"\x01\x23\x45\x67\x89\xab\xcd\xef\x01\x23\x45\x67\x89\xab\xcd\x0f";
    }
    let [one, two] = &twins;
    let offered = one.discover(net).unwrap();
    two.discover(net).unwrap();
    one.request(net, offered, SERVER).unwrap();
    let told = stage.says("duplicate UUID", &one.name(), Cause::DuplicateUuid);
    assert!(told.evidence.unwrap().contains(&two.name()));
    stage.says(
        "duplicate UUID, the other",
        &two.name(),
        Cause::DuplicateUuid,
    );
}
