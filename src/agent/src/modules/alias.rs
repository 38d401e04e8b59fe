//! The matcher for `modules.alias`: the subset of fnmatch(3) that depmod
//! writes (`*`, `?`, `[a-z]`), over bytes.

/// Whether `name` matches `pattern`. Linear in memory, and in time bounded by
/// the product of both lengths (no exponential backtracking: only the last
/// `*` is ever retried).
pub fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    let mut retry: Option<(usize, usize)> = None;
    loop {
        match step(pattern, p, name.get(n).copied()) {
            Step::Star => {
                retry = Some((p + 1, n));
                p += 1;
                continue;
            }
            Step::End if n == name.len() => return true,
            Step::Match(next) => {
                p = next;
                n += 1;
                continue;
            }
            Step::End | Step::Mismatch => {}
        }
        match retry {
            Some((after_star, from)) if from < name.len() => {
                (p, n) = (after_star, from + 1);
                retry = Some((after_star, from + 1));
            }
            _ => return false,
        }
    }
}

enum Step {
    Star,
    Match(usize),
    Mismatch,
    End,
}

fn step(pattern: &[u8], at: usize, byte: Option<u8>) -> Step {
    match (pattern.get(at), byte) {
        (None, _) => Step::End,
        (Some(b'*'), _) => Step::Star,
        (Some(_), None) => Step::Mismatch,
        (Some(b'?'), Some(_)) => Step::Match(at + 1),
        (Some(b'['), Some(byte)) => match class(pattern, at + 1, byte) {
            Some((true, next)) => Step::Match(next),
            Some((false, _)) => Step::Mismatch,
            // No closing bracket: an ordinary character, as in fnmatch.
            None if byte == b'[' => Step::Match(at + 1),
            None => Step::Mismatch,
        },
        (Some(literal), Some(byte)) if *literal == byte => Step::Match(at + 1),
        _ => Step::Mismatch,
    }
}

/// Reads a bracket expression from behind its `[`; whether `byte` is in it
/// and where the pattern goes on.
fn class(pattern: &[u8], mut at: usize, byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(at), Some(b'!' | b'^'));
    at += usize::from(negated);
    let (first, mut found) = (at, false);
    loop {
        let low = *pattern.get(at)?;
        if low == b']' && at > first {
            return Some((found != negated, at + 1));
        }
        match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some(b'-'), Some(high)) if *high != b']' => {
                found |= (low..=*high).contains(&byte);
                at += 3;
            }
            _ => {
                found |= low == byte;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;
    use proptest::prelude::*;

    fn m(pattern: &str, name: &str) -> bool {
        matches(pattern.as_bytes(), name.as_bytes())
    }

    #[test]
    fn real_aliases() {
        let e1000e = "pci:v00008086d000015F3sv*sd*bc*sc*i*";
        assert!(m(
            e1000e,
            "pci:v00008086d000015F3sv00008086sd00000000bc02sc00i00"
        ));
        assert!(!m(
            e1000e,
            "pci:v00008086d000015F2sv00008086sd00000000bc02sc00i00"
        ));
        let usb = "usb:v0BDAp8152d*dc*dsc*dp*ic02isc06ip00in*";
        assert!(m(usb, "usb:v0BDAp8152d3000dc00dsc00dp00ic02isc06ip00in00"));
        assert!(m("virtio:d00000001v*", "virtio:d00000001v00001AF4"));
        assert!(m(
            "pci:v*d*sv*sd*bc01sc08i02*",
            "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"
        ));
        assert!(m("of:N*T*Cfsl,[0-9a-f]mx", "of:NethernetT(null)Cfsl,6mx"));
    }

    #[test]
    fn brackets_and_stars() {
        assert!(m("a[b-d]e", "ace") && !m("a[!b-d]e", "ace") && m("a[]]e", "a]e"));
        assert!(m("a[b-]", "a-") && m("a[", "a[") && !m("a[", "ab"));
        assert!(m("*", "") && m("**a", "bba") && !m("?", "") && m("a*b*c", "aXbbXc"));
        assert!(!m("", "a") && m("", ""));
    }

    /// The definition, exponential, to compare with.
    fn slow(p: &[u8], n: &[u8]) -> bool {
        match (p.split_first(), n.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                slow(rest, n) || n.split_first().is_some_and(|(_, tail)| slow(p, tail))
            }
            (Some((b'?', rest)), Some((_, tail))) => slow(rest, tail),
            (Some((c, rest)), Some((d, tail))) => c == d && slow(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(p in "[ab*?]{0,8}", n in "[ab]{0,8}") {
            prop_assert_eq!(m(&p, &n), slow(p.as_bytes(), n.as_bytes()), "{} {}", p, n);
        }

        #[test]
        fn any_bytes_end(p in proptest::collection::vec(any::<u8>(), 0..40), n in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = matches(&p, &n);
        }
    }
}
