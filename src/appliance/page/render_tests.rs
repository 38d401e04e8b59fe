use super::*;
use crate::page::{Gate, PageAddress};
use groundcrew_core::Digest;
use groundcrew_core::enroll::Code;
use tokio::time::Instant;

fn whose() -> Whose {
    Whose {
        site: "lab".into(),
        organisation: "A & B <Ltd>".into(),
    }
}

fn visitor() -> Visitor {
    let gate = Gate::new("https://10.0.0.1/".into(), &Digest::of(b"key")).unwrap();
    let (now, code) = (Instant::now(), gate.code().code.to_string());
    let cookie = gate
        .enter([10, 0, 0, 2].into(), "desk", &code, now)
        .unwrap();
    gate.visitor(&cookie, now).unwrap()
}

fn device(serial: &str) -> DeviceView {
    DeviceView {
        id: "hq-7k2m9qx4".parse().unwrap(),
        state: "waiting".into(),
        since: None,
        code: Some(Code::from_bytes([1, 2, 3, 4, 5])),
        reason: Some("this hardware is not registered here".into()),
        manufacturer: Some("Example Corp".into()),
        model: Some("Model One".into()),
        serial: Some(serial.into()),
        uuid: None,
        macs: Vec::new(),
        tag: None,
        profile: None,
        bundle: None,
        progress: None,
        step: None,
    }
}

fn found(devices: Vec<DeviceView>, matching: usize) -> FoundView {
    FoundView {
        devices,
        matching,
        counts: [("waiting".to_owned(), matching)].into(),
    }
}

#[test]
fn what_devices_say_is_text_and_never_markup() {
    let evil = "\"><script>alert(1)</script>'\u{202e}&\n";
    let all = found(vec![device(evil)], 1);
    let view = View {
        text: evil.into(),
        phase: "waiting".into(),
        page: 0,
    };
    let news = News {
        good: false,
        text: evil.into(),
    };
    let html = devices(&whose(), &visitor(), &view, &all, &all, Some(&news));
    assert!(html.contains("&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;&#39;?&amp;?"));
    assert!(!html.contains("<script>alert") && !html.contains('\u{202e}'));
    assert!(html.contains("A &amp; B &lt;Ltd&gt;"));
    assert_eq!(html.matches("<script>").count(), 1, "only the page's own");
}

#[test]
fn nothing_is_loaded_from_elsewhere() {
    let all = found(vec![device("S-1")], 1);
    for html in [
        devices(&whose(), &visitor(), &View::default(), &all, &all, None),
        login(&whose(), Some("no"), "desk"),
    ] {
        for part in html.split(['"', '(', ')', '\'']) {
            assert!(
                !part.starts_with("http") && !part.starts_with("//"),
                "{part}"
            );
        }
        assert!(
            !html.contains(" onclick") && !html.contains(" style="),
            "the policy forbids it"
        );
    }
}

#[test]
fn every_form_carries_the_token_and_the_log_in_tells_nothing() {
    let (visitor, all) = (visitor(), found(vec![device("S-1")], 1));
    let html = devices(&whose(), &visitor, &View::default(), &all, &all, None);
    let posts = html.matches("method=\"post\"").count();
    assert_eq!(posts, 3, "log out, approve, reject");
    assert_eq!(html.matches(&visitor.form).count(), posts);
    let html = login(&whose(), None, "");
    assert!(!html.contains("hq-7k2m9qx4") && !html.contains("waits"));
}

#[test]
fn pages_lead_on_and_keep_what_was_looked_for() {
    let all = found(vec![device("S-1"); ROWS], 120);
    let view = View {
        text: "a b".into(),
        phase: "waiting".into(),
        page: 1,
    };
    let html = list(&view, &all);
    assert!(
        html.contains("href=\"/?phase=waiting&amp;q=a%20b&amp;page=2\">Next"),
        "{html}"
    );
    assert!(html.contains("href=\"/?phase=waiting&amp;q=a%20b\">Back"));
    assert!(html.contains("51 to 100 of 120"));
}

#[test]
fn the_invitation_fits_a_console() {
    let gate = Gate::new("https://10.0.0.1/".into(), &Digest::of(b"key")).unwrap();
    let text = invitation(&gate.code());
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert_eq!(text.matches(':').count(), 1 + 30 + 1, "{text}");
    let gate = gate.also_at(vec![PageAddress {
        interface: "enp3s0f1".into(),
        url: "https://192.168.100.200:8443/".into(),
    }]);
    let both = invitation(&gate.code());
    let line = "  on enp3s0f1  https://192.168.100.200:8443/\n";
    assert!(both.contains(line) && both.starts_with("status page  https://10.0.0.1/\n"));
}
