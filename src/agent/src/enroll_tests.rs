//! Whole enrollments against an appliance that plays a script.

use std::cell::RefCell;
use std::collections::BTreeMap;

use groundcrew_core::enroll::{Assurance, BundleRef};
use groundcrew_core::{Digest, UnixTime};

use super::*;

fn site_key() -> SigningKey {
    SigningKey::from_seed([9; 32]).unwrap()
}

fn charter() -> Charter {
    Charter {
        site: "lab".parse().unwrap(),
        version: 1,
        tls_key: Digest::of(b"tls"),
        grant_key: site_key().public(),
        journal_key: site_key().public(),
        tags: vec!["office".parse().unwrap()],
        expires: UnixTime::new(4_000_000_000),
        devices: 10,
        minimum: BTreeMap::from([("base".parse().unwrap(), "1.2".parse().unwrap())]),
    }
}

fn device() -> DeviceId {
    "lab-7k2m9qx4".parse().unwrap()
}

fn grant_for(request: &Request) -> Grant {
    Grant {
        site: request.site.clone(),
        device: device(),
        sign_key: request.sign_key,
        seal_key: request.seal_key,
        nonce: request.nonce,
        assurance: Assurance::Claimed,
        profile: "office".parse().unwrap(),
        bundle: BundleRef {
            name: "base".parse().unwrap(),
            version: "1.2.0".parse().unwrap(),
        },
        hostname: "lab-1".into(),
        variables: BTreeMap::new(),
        issued_at: UnixTime::new(1_800_000_000),
    }
}

/// Forgets the first `stale` challenges, then lets wait `polls` times.
struct Script {
    stale: RefCell<u32>,
    polls: RefCell<u32>,
    reject: bool,
    grant: fn(&Request) -> (Grant, SigningKey),
    commitments: RefCell<Vec<Digest>>,
    request: RefCell<Option<Request>>,
}

impl Script {
    fn new(grant: fn(&Request) -> (Grant, SigningKey)) -> Self {
        Self {
            stale: 0.into(),
            polls: 0.into(),
            reject: false,
            grant,
            commitments: RefCell::default(),
            request: RefCell::default(),
        }
    }

    fn decide(&self) -> Decision {
        let polls = *self.polls.borrow();
        if polls > 0 {
            *self.polls.borrow_mut() -= 1;
            return Decision::Waiting {
                reason: "not registered".into(),
            };
        }
        if self.reject {
            return Decision::Rejected {
                reason: "stolen".into(),
            };
        }
        let request = self.request.borrow();
        let (grant, key) = (self.grant)(request.as_ref().unwrap());
        Decision::Granted {
            grant: Envelope::sign(&grant, &key).unwrap(),
        }
    }
}

impl Appliance for Script {
    fn start(&self, start: &Start) -> Result<Challenge, HttpError> {
        self.commitments.borrow_mut().push(start.commitment);
        Ok(Challenge {
            site: "lab".parse().unwrap(),
            challenge: Bytes([5; 32]),
        })
    }

    fn request(&self, request: &Envelope) -> Result<Admission, HttpError> {
        if *self.stale.borrow() > 0 {
            *self.stale.borrow_mut() -= 1;
            return Err(HttpError::Refused {
                status: 409,
                code: "stale-challenge".into(),
                text: String::new(),
            });
        }
        let request = request
            .verify_self_signed::<Request>(|r| r.sign_key)
            .unwrap()
            .into_inner();
        assert_eq!(
            self.commitments.borrow().last(),
            Some(&request.commitment())
        );
        *self.request.borrow_mut() = Some(request);
        Ok(Admission {
            device: device(),
            session: Bytes([7; 32]),
            decision: self.decide(),
        })
    }

    fn decision(&self, session: &Session) -> Result<Decision, HttpError> {
        assert_eq!(*session, Bytes([7; 32]));
        Ok(self.decide())
    }
}

#[derive(Default)]
struct Seen(RefCell<Vec<String>>);
impl Watcher for Seen {
    fn enrolled(&self, device: &DeviceId) {
        self.0.borrow_mut().push(format!("enrolled {device}"));
    }
    fn waiting(&self, code: Code, reason: &str) {
        self.0.borrow_mut().push(format!("waiting {code} {reason}"));
    }
    fn trouble(&self, text: String) {
        self.0.borrow_mut().push(text);
    }
    fn pause(&self, _: Duration) {}
}

fn run(script: &Script, seen: &Seen) -> Result<Granted, Failure> {
    let keys = Keys::generate().unwrap();
    enroll(script, &charter(), &keys, &HardwareReport::default(), seen)
}

#[test]
fn let_in_at_once() {
    let script = Script::new(|request| (grant_for(request), site_key()));
    let granted = run(&script, &Seen::default()).unwrap();
    assert_eq!(granted.grant.hostname, "lab-1");
}

#[test]
fn waits_with_the_code_that_the_appliance_shows() {
    let script = Script::new(|request| (grant_for(request), site_key()));
    *script.polls.borrow_mut() = 3;
    let seen = Seen::default();
    run(&script, &seen).unwrap();
    let code = script
        .request
        .borrow()
        .as_ref()
        .unwrap()
        .code(&charter().grant_key);
    assert_eq!(
        *seen.0.borrow(),
        [
            format!("enrolled {}", device()),
            format!("waiting {code} not registered")
        ],
        "told once, not at every poll"
    );
}

#[test]
fn begins_again_with_a_new_nonce_when_the_appliance_restarted() {
    let script = Script::new(|request| (grant_for(request), site_key()));
    *script.stale.borrow_mut() = 2;
    run(&script, &Seen::default()).unwrap();
    let commitments = script.commitments.borrow();
    assert_eq!(commitments.len(), 3);
    assert_ne!(commitments[0], commitments[1]);
}

#[test]
fn a_rejection_ends_it() {
    let mut script = Script::new(|request| (grant_for(request), site_key()));
    script.reject = true;
    let failure = run(&script, &Seen::default()).unwrap_err();
    assert!(
        failure.to_string().contains("rejected this device: stolen"),
        "{failure}"
    );
}

#[test]
fn a_grant_that_is_not_ours_is_refused() {
    type Case = (&'static str, fn(&Request) -> (Grant, SigningKey));
    let cases: [Case; 9] = [
        ("no signature", |r| {
            (grant_for(r), SigningKey::from_seed([8; 32]).unwrap())
        }),
        ("another site", |r| {
            (
                Grant {
                    site: "other".parse().unwrap(),
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("another signing key", |r| {
            let sign_key = SigningKey::from_seed([1; 32]).unwrap().public();
            (
                Grant {
                    sign_key,
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("another sealing key", |r| {
            (
                Grant {
                    seal_key: SealKey(Bytes([1; 32])),
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("another nonce", |r| {
            (
                Grant {
                    nonce: Bytes([1; 32]),
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("another device id", |r| {
            (
                Grant {
                    device: "lab-00000000".parse().unwrap(),
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("does not admit `kiosk`", |r| {
            let profile = "kiosk".parse().unwrap();
            (
                Grant {
                    profile,
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("does not admit `Vault`", |r| {
            let tag = BTreeMap::from([("tag".to_owned(), "Vault".to_owned())]);
            (
                Grant {
                    variables: tag,
                    ..grant_for(r)
                },
                site_key(),
            )
        }),
        ("is older than 1.2.0", |r| {
            let mut grant = grant_for(r);
            grant.bundle.version = "1.1".parse().unwrap();
            (grant, site_key())
        }),
    ];
    for (expected, grant) in cases {
        let failure = run(&Script::new(grant), &Seen::default()).unwrap_err();
        assert!(failure.what.contains(expected), "{expected}: {failure}");
        assert_eq!(failure.kind, crate::failure::Kind::Refused);
    }
}

#[test]
fn keys_from_the_disk_are_the_same_keys() {
    let keys = Keys::generate().unwrap();
    let (pem, seal) = (keys.sign.to_pem(), format!("{}\n", keys.seal_secret()));
    let again = Keys::saved(pem.as_bytes(), seal.as_bytes()).unwrap();
    assert_eq!(again.sign.public(), keys.sign.public());
    assert_eq!(again.seal_key(), keys.seal_key());
    assert!(Keys::saved(pem.as_bytes(), b"short").is_none());
    assert!(Keys::saved(b"", seal.as_bytes()).is_none());
}
