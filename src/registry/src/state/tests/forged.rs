//! What is read and is not what this site wrote.

use super::*;

#[test]
fn a_snapshot_that_was_touched_is_not_believed() {
    let mut site = Site::new();
    site.register(1);
    site.register(2);
    let frozen = site.registry.freeze();
    let lines: Vec<String> = frozen.lines().map(Result::unwrap).collect();
    let content = Digest::of(lines.join("\n").as_bytes());
    let seal = frozen.seal(2, content, UnixTime::new(1), &grant_key());
    let seal = seal.unwrap();
    let load = |lines: &[String], content, key: &SigningKey, name: &str| {
        let mut loader = Loader::new(name.parse().unwrap(), Limits::default());
        for line in lines {
            loader.device(line)?;
        }
        loader.finish(&seal, content, &key.public())
    };
    assert!(load(&lines, content, &grant_key(), "hq").is_ok());
    let foreign = SigningKey::from_seed([1; 32]).unwrap();
    let refused = [
        load(&lines[..1], content, &grant_key(), "hq"),
        load(&lines, Digest::of(b""), &grant_key(), "hq"),
        load(&lines, content, &grant_key(), "lab"),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(SnapshotError::Content)));
    }
    let refused = load(&lines, content, &foreign, "hq");
    assert!(matches!(refused, Err(SnapshotError::Signature(_))));
}

#[test]
fn what_is_not_for_this_site_is_refused_unread() {
    let mut site = Site::new();
    let mut huge = report(1);
    huge.nics = vec![huge.nics[0].clone(); 100];
    let (device, answer) = site.ask(huge, 1);
    assert_eq!(device, None);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("NICs")));
    assert!(site.lines.is_empty());
    site.registry.site = "lab".parse().unwrap();
    let (_, answer) = site.ask(report(1), 1);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("lab")));
}

#[test]
fn a_forged_approval_in_the_journal_is_refused() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    site.grant(&device);
    site.ask(report(1), 12);
    let sign_key = request(report(1), 12).0.sign_key;
    let assurance = Assurance::Claimed;
    let forged = Event::Approved {
        sign_key,
        assurance,
        rule: None,
    };
    let before = site.registry.clone();
    let refused = site
        .registry
        .record(UnixTime::new(1), vec![Change::by_site(&device, forged)]);
    assert!(matches!(
        refused,
        Err(RecordError::Impossible {
            why: Impossible::Consumed,
            ..
        })
    ));
    assert_eq!(site.registry, before);
}
