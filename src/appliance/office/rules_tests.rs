//! Requests that are really signed, on a site that was really made.

use super::*;
use crate::hq::found;
use crate::site::create::{FirstMode, NewSite};
use groundcrew_core::Digest;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{Code, Request, Start};
use groundcrew_core::hardware::{HardwareReport, SmbiosUuid};
use groundcrew_core::keys::{SealKey, SigningKey};

const RULE: &str = "
[[enrollment.rule]]
name = \"floor\"
at-most = 1
tag = \"kiosk\"
manufacturer = \"example corp\"
subnet = \"10.77.0.0/24\"
";

fn office(folder: &std::path::Path) -> (Site, Office) {
    let new = NewSite {
        organisation: "Test",
        name: &"hq".parse().unwrap(),
        address: "10.77.0.1/24".parse().unwrap(),
        interface: "eth0",
        mode: FirstMode::default(),
    };
    let site = found::create(folder, &new).unwrap();
    let path = site.settings_file();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text + RULE).unwrap();
    let office = open(&site);
    (site, office)
}

fn open(site: &Site) -> Office {
    let store = Store::open(&site.registry_file()).unwrap();
    Office::open(site, &site.settings().unwrap(), store).unwrap()
}

fn report(machine: u8) -> HardwareReport {
    let mut report = HardwareReport::default();
    report.smbios.uuid = Some(SmbiosUuid::from_canonical([
        machine, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
    ]));
    report.smbios.serial = Some(format!("SYNTH-{machine:04}"));
    report.smbios.manufacturer = Some("Example Corp".into());
    report.smbios.product = Some("Model One".into());
    report
}

/// One device's start, from its first message to where it stands then.
async fn ask(
    office: &Office,
    machine: u8,
    key: u8,
    peer: &str,
) -> (DeviceId, String, Option<Code>) {
    let signer = SigningKey::from_seed([key; 32]).unwrap();
    let mut request = Request {
        site: "hq".parse().unwrap(),
        sign_key: signer.public(),
        seal_key: SealKey(Bytes([key; 32])),
        nonce: Bytes([key; 32]),
        challenge: Bytes([0; 32]),
        report: report(machine),
        agent: "0.1.0".into(),
    };
    let commitment: Digest = request.commitment();
    request.challenge = office.challenge(&Start { commitment }).challenge;
    let envelope = Envelope::sign(&request, &signer).unwrap();
    let admission = office.request(&envelope, peer.parse().ok()).await.unwrap();
    let view = view_of(office, &admission.device).await;
    (admission.device, view.state, view.code)
}

async fn view_of(office: &Office, device: &DeviceId) -> DeviceView {
    let command = Command::ShowDevice(device.clone());
    match order(office, command).await.unwrap() {
        Outcome::Device(view) => *view,
        other => panic!("{other:?}"),
    }
}

async fn order(office: &Office, command: Command) -> anyhow::Result<Outcome> {
    let by = "tech".to_owned();
    office.execute(Order { by, command }).await
}

#[tokio::test]
async fn a_standing_rule_goes_by_where_a_device_asks_from_and_counts() {
    let folder = tempfile::tempdir().unwrap();
    let (_, office) = office(folder.path());
    let (far, state, code) = ask(&office, 1, 1, "10.78.0.9").await;
    assert!(
        state == "waiting" && code.is_some(),
        "from elsewhere: {state}"
    );
    let (near, state, code) = ask(&office, 1, 1, "10.77.0.9").await;
    assert_eq!(
        (&near, state.as_str(), code),
        (&far, "approved", None),
        "no bundle is published yet"
    );
    assert_eq!(view_of(&office, &near).await.tag.unwrap().as_str(), "kiosk");
    let (_, state, _) = ask(&office, 2, 2, "10.77.0.9").await;
    assert_eq!(state, "waiting", "one is one");
}

#[tokio::test]
async fn changed_hardware_is_explained_and_accepted_with_one_command() {
    let folder = tempfile::tempdir().unwrap();
    let (site, office) = office(folder.path());
    let (device, _, _) = ask(&office, 1, 1, "10.77.0.9").await;
    let mut signer_report = report(1);
    signer_report.smbios.uuid = report(9).smbios.uuid;
    let signer = SigningKey::from_seed([5; 32]).unwrap();
    let mut request = Request {
        site: "hq".parse().unwrap(),
        sign_key: signer.public(),
        seal_key: SealKey(Bytes([5; 32])),
        nonce: Bytes([5; 32]),
        challenge: Bytes([0; 32]),
        report: signer_report,
        agent: "0.1.0".into(),
    };
    let commitment = request.commitment();
    request.challenge = office.challenge(&Start { commitment }).challenge;
    let envelope = Envelope::sign(&request, &signer).unwrap();
    let peer = "10.77.0.9".parse().ok();
    let asked = office.request(&envelope, peer).await.unwrap().device;
    assert_eq!(asked, device, "the same machine with another board");
    let Outcome::Explained(views) = order(&office, Command::ExplainDevice(device.clone()))
        .await
        .unwrap()
    else {
        panic!("no explanation");
    };
    assert!(
        views[0].verdict.contains("changed hardware"),
        "{}",
        views[0].verdict
    );
    let uuid = views[0]
        .fields
        .iter()
        .find(|field| field.field == "UUID")
        .unwrap();
    assert_eq!(uuid.finding, "differs");
    order(&office, Command::Accept(device.clone()))
        .await
        .unwrap();
    let uuid = report(9).smbios.uuid.map(|uuid| uuid.to_string());
    assert_eq!(view_of(&office, &device).await.uuid, uuid);
    // The first line is signed, and what was decided when the office closes.
    office.close().await;
    drop(office);
    let lines = store::checkpoints_by_line(&site.registry_file()).unwrap();
    assert_eq!(lines.len(), 2);
    let retired = Command::Retire {
        device: device.clone(),
        reason: "sold".into(),
    };
    let again = reopened(&site).await;
    order(&again, retired).await.unwrap();
    order(&again, Command::Forget(device.clone()))
        .await
        .unwrap();
    assert!(order(&again, Command::ShowDevice(device)).await.is_err());
}

/// The writer's thread gives the site's lock back when it has ended.
async fn reopened(site: &Site) -> Office {
    loop {
        match Store::open(&site.registry_file()) {
            Ok(store) => return Office::open(site, &site.settings().unwrap(), store).unwrap(),
            Err(_) => tokio::task::yield_now().await,
        }
    }
}
