//! Patterns in which `*` stands for any text.

/// `text` is what `glob` describes: `*` is any text, the rest is itself.
pub fn matches(glob: &str, text: &str) -> bool {
    let Some((first, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut left) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, after)) = left.split_once(part) else { return false };
        left = after;
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let table = [
            ("n1", "n1", true),
            ("n1", "n12", false),
            ("", "", true),
            ("*", "", true),
            ("sidecar~*.shop~*", "sidecar~10.0.0.1~cart.shop~shop.svc", true),
            ("*a*a", "a", false),
            ("*a*a", "ba_a", true),
            ("a**b", "ab", true),
            ("*b*", "abc", true),
            ("n.", "nx", false),
        ];
        for (glob, text, want) in table {
            assert_eq!(matches(glob, text), want, "{glob} {text}");
        }
    }
}
