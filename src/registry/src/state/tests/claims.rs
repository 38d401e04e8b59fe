//! A machine that claims to be others.

use super::*;
use crate::import::{Importer, Outcome};
use groundcrew_core::hardware::Identity;
use groundcrew_core::hardware::report::Tpm;

#[test]
fn a_stranger_that_claims_to_be_two_registered_machines_is_one_at_most() {
    let mut site = Site::new();
    let mut claims = report(2);
    claims.nics.clear();
    let mut tpm = Tpm::default();
    tpm.set_ek(Bytes([7; 256]));
    claims.tpm = Some(tpm.clone());
    let device = site.ask(claims, 11).0.unwrap();
    // One row has the TPM, the other all else.
    let first = Identity {
        ek: tpm.ek,
        ..Identity::from(&report(1))
    };
    let rows = [first, Identity::from(&report(2))].map(|identity| Registration {
        identity,
        tag: None,
        user: None,
        product_id: None,
        hash: None,
        source: "both.csv".to_owned(),
    });
    let mut importer = Importer::default();
    let mut next = 0;
    let mut entropy = || {
        next += 1;
        [next; 5]
    };
    let plan = importer
        .plan(&site.registry, (2..).zip(rows), &mut entropy)
        .unwrap();
    let taken = |(_, outcome): &&(u64, Outcome)| match outcome {
        Outcome::LetIn { device: of } | Outcome::Registered { device: of } => *of == device,
        Outcome::Refused(_) => false,
    };
    assert!(plan.outcomes.iter().filter(taken).count() <= 1);
    site.record(plan.changes);
    assert_eq!(site.restarted(), site.registry);
}
