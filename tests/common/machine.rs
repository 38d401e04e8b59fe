//! A machine that asks to be let in, by the protocol and curl.

use std::io::Write as _;
use std::process::Stdio;

use groundcrew_core::Digest;
use groundcrew_core::dsse::Envelope;
use groundcrew_core::encoding::Bytes;
use groundcrew_core::enroll::{
    Admission, Challenge, Decision, Grant, Progress, Receipt, ReceiptResult, Request, Start,
    commitment, path,
};
use groundcrew_core::hardware::HardwareReport;
use groundcrew_core::keys::{SealKey, SigningKey};
use serde::Serialize;

use super::{Net, succeeded};

/// A machine with a key of its own.
pub struct Machine {
    key: SigningKey,
    seed: u8,
    pub report: HardwareReport,
}

impl Machine {
    pub fn new(serial: &str, model: &str, seed: u8) -> Self {
        let mut report = HardwareReport::default();
        report.smbios.serial = Some(serial.to_owned());
        report.smbios.manufacturer = Some("Example Corp".into());
        report.smbios.product = Some(model.to_owned());
        Self {
            key: SigningKey::from_seed([seed; 32]).unwrap(),
            seed,
            report,
        }
    }

    /// Asks to be let in.
    pub fn ask(&self, net: &Net) -> Admission {
        let (seal_key, nonce) = (SealKey(Bytes([self.seed; 32])), Bytes([self.seed; 32]));
        let start = Start {
            commitment: commitment(&self.key.public(), &seal_key, &nonce),
        };
        let challenge: Challenge = post(net, path::START, None, &start);
        let request = Request {
            site: "hq".parse().unwrap(),
            sign_key: self.key.public(),
            seal_key,
            nonce,
            challenge: challenge.challenge,
            report: self.report.clone(),
            agent: "test".into(),
        };
        let envelope = Envelope::sign(&request, &self.key).unwrap();
        post(net, path::REQUEST, None, &envelope)
    }

    pub fn progress(&self, net: &Net, admission: &Admission, done: u64, message: &str) {
        let progress = Progress {
            phase: "apply".into(),
            done,
            total: 9,
            message: message.into(),
        };
        let _: serde_json::Value = post(net, path::PROGRESS, Some(admission), &progress);
    }

    /// Sends the receipt for a grant.
    pub fn finish(&self, net: &Net, admission: &Admission, result: ReceiptResult) {
        let Decision::Granted { grant } = &admission.decision else {
            panic!("{:?}", admission.decision)
        };
        let signed: Grant = serde_json::from_slice(&payload(grant)).unwrap();
        let receipt = Receipt {
            site: "hq".parse().unwrap(),
            device: admission.device.clone(),
            sign_key: self.key.public(),
            grant: grant.payload_digest(),
            bundle: signed.bundle,
            manifest: None::<Digest>,
            result,
            steps: Vec::new(),
            agent: "test".into(),
            millis: 1,
        };
        let envelope = Envelope::sign(&receipt, &self.key).unwrap();
        let _: serde_json::Value = post(net, path::RECEIPT, Some(admission), &envelope);
    }
}

fn payload(envelope: &Envelope) -> Vec<u8> {
    let json = serde_json::to_value(envelope).unwrap();
    let text = json["payload"].as_str().unwrap();
    data_encoding::BASE64.decode(text.as_bytes()).unwrap()
}

fn post<T: serde::de::DeserializeOwned>(
    net: &Net,
    path: &str,
    session: Option<&Admission>,
    message: &impl Serialize,
) -> T {
    let mut curl = net.in_client("curl");
    curl.args(["-s", "-S", "-k", "--max-time", "10", "--data-binary", "@-"]);
    if let Some(admission) = session {
        let token = data_encoding::BASE64.encode(&admission.session.0);
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    curl.arg(format!("https://10.77.0.1{path}"));
    let mut child = curl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let body = serde_json::to_vec(message).unwrap();
    child.stdin.take().unwrap().write_all(&body).unwrap();
    let text = succeeded("curl", &child.wait_with_output().unwrap());
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
