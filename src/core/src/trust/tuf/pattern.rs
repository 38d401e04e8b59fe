//! Path patterns of delegations: `*` and `?`, neither of which matches `/`.

/// Whether `path` matches `pattern`, segment by segment.
pub(super) fn matches(pattern: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    pattern
        .split('/')
        .all(|p| segments.next().is_some_and(|s| segment(p, s)))
        && segments.next().is_none()
}

/// Wildcard match in time |pattern| x |text| at worst: on a mismatch only the
/// last `*` takes one character more.
fn segment(pattern: &str, text: &str) -> bool {
    let mut rest = (pattern.chars(), text.chars());
    let mut retry = None;
    loop {
        let (mut p, mut t) = rest.clone();
        match (p.next(), t.next()) {
            (None, None) => return true,
            (Some('*'), _) => {
                retry = Some((p.clone(), rest.1.clone()));
                rest.0 = p;
            }
            (Some(a), Some(b)) if a == '?' || a == b => rest = (p, t),
            _ => {
                let Some((after_star, mut taken)) = retry else {
                    return false;
                };
                if taken.next().is_none() {
                    return false;
                }
                retry = Some((after_star.clone(), taken.clone()));
                rest = (after_star, taken);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // The specification's own examples (section 4.5), then ours.
    #[test]
    fn as_the_specification_says() {
        for (pattern, path, expected) in [
            ("targets/*.tgz", "targets/foo.tgz", true),
            ("targets/*.tgz", "targets/foo.txt", false),
            ("foo-version-?.tgz", "foo-version-a.tgz", true),
            ("foo-version-?.tgz", "foo-version-alpha.tgz", false),
            ("*.tgz", "foo.tgz", true),
            ("*.tgz", "targets/foo.tgz", false),
            ("foo.tgz", "foo.tgz", true),
            ("foo.tgz", "foo", false),
            ("*", "", true),
            ("", "", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-b-b-d", false),
            ("**", "ä", true),
            ("?", "ä", true),
            ("a/b", "a", false),
            ("a", "a/b", false),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn many_stars_take_no_exponential_time() {
        let (pattern, path) = ("*a".repeat(200), "a".repeat(5_000) + "b");
        assert!(!matches(&pattern, &path));
    }
}
