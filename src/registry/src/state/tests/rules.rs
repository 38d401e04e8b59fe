//! Standing rules over whole lives of devices.

use super::*;
use crate::rules::{Circumstances, Rule, Rules};

fn floor(at_most: u32) -> Rules {
    let rule = Rule {
        name: "floor".parse().unwrap(),
        tag: Some("kiosk".parse().unwrap()),
        manufacturer: None,
        model: None,
        subnet: Some("10.77.0.0/24".parse().unwrap()),
        from: None,
        until: None,
        at_most,
    };
    Rules::new(vec![rule]).unwrap()
}

impl Site {
    fn ask_under(&mut self, rules: &Rules, report: HardwareReport, key: u8) -> (DeviceId, Answer) {
        self.entropy += 1;
        let [.., a, b, c, d, e] = self.entropy.to_be_bytes();
        let (request, statement) = request(report, key);
        let code = request.code(&grant_key().public());
        let entropy = [[a, b, c, d, e]; 4];
        let decided = self
            .registry
            .decide_enrollment(&request, statement, code, entropy);
        let seen = Circumstances {
            now: UnixTime::new(self.clock),
            peer: "10.77.0.9".parse().ok(),
        };
        let decided = self.registry.with_rules(decided, &request, rules, seen);
        self.record(decided.changes);
        (decided.device.unwrap(), decided.answer)
    }
}

#[test]
fn a_standing_rule_lets_strangers_in_and_counts_them_across_a_restart() {
    let mut site = Site::new();
    let rules = floor(2);
    // Who waits already is let in when it asks again.
    let (waiting, answer) = site.ask(report(1), 11);
    assert!(waits(&answer, &Cause::Unknown));
    let (first, answer) = site.ask_under(&rules, report(1), 11);
    assert_eq!(
        (Some(&first), answer),
        (
            waiting.as_ref(),
            Answer::Admit {
                assurance: Assurance::Claimed
            }
        )
    );
    assert_eq!(
        site.registry.device(&first).unwrap().tag,
        Some("kiosk".parse().unwrap())
    );
    let (_, answer) = site.ask_under(&rules, report(2), 12);
    assert!(matches!(answer, Answer::Admit { .. }));
    site.registry = site.restarted();
    assert_eq!(site.registry.let_in_by(&"floor".parse().unwrap()), 2);
    let (_, answer) = site.ask_under(&rules, report(3), 13);
    assert!(waits(&answer, &Cause::Unknown), "two are two");
}

#[test]
fn a_standing_rule_never_lets_a_second_key_or_changed_hardware_in() {
    let mut site = Site::new();
    let rules = floor(9);
    site.register(1);
    let mut board = report(1);
    board.smbios.uuid = report(7).smbios.uuid;
    let (_, answer) = site.ask_under(&rules, board, 11);
    assert!(matches!(answer, Answer::Wait { .. }));
    site.ask_under(&rules, report(2), 12);
    let (_, answer) = site.ask_under(&rules, report(2), 13);
    assert!(waits(&answer, &Cause::SecondKey));
    assert_eq!(site.registry.let_in_by(&"floor".parse().unwrap()), 1);
}
