//! The name of the system, as `/etc/hostname` and `/etc/hosts` hold it. No
//! effects here.

/// The address that Debian gives the machine's own name.
const OWN: &str = "127.0.1.1";

/// Text that cannot be a system's name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is not a host name: use letters, digits and inner hyphens, at most 63 between dots and 64 in all"
)]
pub struct HostnameError(String);

/// Checks a name: RFC 1123 §2.1 labels, and Linux's 64 bytes in all.
pub fn check_hostname(name: &str) -> Result<(), HostnameError> {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() <= 64 && name.split('.').all(label) {
        return Ok(());
    }
    Err(HostnameError(groundcrew_core::ids::shown(name)))
}

/// `/etc/hosts` with `name` at 127.0.1.1: the first such line is replaced, or
/// one is added after the loopback address. Every other byte stays.
pub fn with_hostname(hosts: &[u8], name: &str) -> Vec<u8> {
    let short = name.split('.').next().unwrap_or(name);
    let names: Vec<&str> = if short == name {
        vec![name]
    } else {
        vec![name, short]
    };
    let wanted = format!("{OWN}\t{}", names.join(" "));
    let mut lines: Vec<&[u8]> = hosts.split_inclusive(|&b| b == b'\n').collect();
    let own = lines
        .iter()
        .position(|line| words(line).first() == Some(&OWN.as_bytes()));
    if let Some(line) = own.and_then(|at| lines.get_mut(at)) {
        let found = words(line);
        if names.iter().all(|name| found.contains(&name.as_bytes())) {
            return hosts.to_vec();
        }
        let end: &[u8] = if line.ends_with(b"\n") { b"\n" } else { b"" };
        let new = [wanted.as_bytes(), end].concat();
        *line = &new;
        return lines.concat();
    }
    let loopback = lines
        .iter()
        .rposition(|line| words(line).first() == Some(&&b"127.0.0.1"[..]));
    let at = loopback.map_or(0, |at| at + 1);
    let (before, after) = lines.split_at(at);
    let mut out = before.concat();
    if !out.is_empty() && !out.ends_with(b"\n") {
        out.push(b'\n');
    }
    out.extend(wanted.as_bytes());
    out.push(b'\n');
    out.extend(after.concat());
    out
}

/// The words of a line before its comment.
fn words(line: &[u8]) -> Vec<&[u8]> {
    let line = line.split(|&b| b == b'#').next().unwrap_or_default();
    line.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit(hosts: &str, name: &str) -> String {
        String::from_utf8(with_hostname(hosts.as_bytes(), name)).unwrap()
    }

    #[test]
    fn the_own_line_is_replaced_or_added() {
        let debian = "127.0.0.1\tlocalhost\n127.0.1.1\toem\n\n# v6\n::1 localhost\n";
        assert_eq!(edit(debian, "lab-7"), debian.replace("oem", "lab-7"));
        assert_eq!(
            edit("127.0.0.1 localhost", "a.b"),
            "127.0.0.1 localhost\n127.0.1.1\ta.b a\n"
        );
        assert_eq!(edit("", "a"), "127.0.1.1\ta\n");
        assert_eq!(
            edit("# 127.0.1.1 x\n", "a"),
            "127.0.1.1\ta\n# 127.0.1.1 x\n"
        );
        assert_eq!(
            edit("127.0.1.1 other a # mine\n", "a"),
            "127.0.1.1 other a # mine\n"
        );
        assert_eq!(edit("127.0.1.1 x", "a"), "127.0.1.1\ta");
    }

    #[test]
    fn names() {
        for bad in [
            "",
            "-a",
            "a-",
            "a b",
            "a..b",
            "a_b",
            "ä",
            "a\n",
            &"a".repeat(65),
            "a.",
        ] {
            assert!(check_hostname(bad).is_err(), "{bad}");
        }
        assert!(check_hostname("Lab-7.example").is_ok());
    }

    proptest! {
        #[test]
        fn a_second_time_changes_nothing(hosts in "([0-9.]{1,9}|127\\.0\\.[01]\\.1|[ \t#\na-z])*", name in "[a-z]{1,8}(\\.[a-z]{1,5})?") {
            let once = with_hostname(hosts.as_bytes(), &name);
            prop_assert_eq!(with_hostname(&once, &name), once);
        }
    }
}
