//! Resource names: opaque, but for the normal form of `xdstp:` names.

use crate::breaks;
use std::sync::Arc;

/// A resource name in normal form. Equality is by text; the empty name is
/// legal (C-191).
pub type Name = Arc<str>;

/// The wildcard subscription (C-055).
pub const WILDCARD: &str = "*";

const XDSTP: &str = "xdstp:";

/// The normal form of `name` (C-109): for `xdstp:` names context parameters
/// sorted by key, the last of equal keys winning, and no fragment (C-111). All
/// other names are themselves.
pub fn normal(name: &str) -> Name {
    if !name.starts_with(XDSTP) || breaks::on("C-109") {
        return name.into();
    }
    let name = name.split_once('#').filter(|_| !breaks::on("C-111")).map_or(name, |(before, _)| before);
    let Some((path, query)) = name.split_once('?') else { return name.into() };
    let mut params = std::collections::BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        params.insert(key, value);
    }
    if params.is_empty() || breaks::on("C-110") {
        return path.into();
    }
    let mut text = String::with_capacity(name.len());
    text.push_str(path);
    for (at, (key, value)) in params.into_iter().enumerate() {
        text.push(if at == 0 { '?' } else { '&' });
        text.push_str(key);
        text.push('=');
        text.push_str(value);
    }
    text.into()
}

/// A subscription to the members of one `xdstp:` directory (C-112).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glob<'a> {
    /// Everything before the `*`, the last `/` included.
    directory: &'a str,
    /// The context parameters, in normal form, without the `?`.
    params: &'a str,
}

impl<'a> Glob<'a> {
    /// The glob that `name`, in normal form, stands for, if it is one. An
    /// old-style name that ends in `/*` is an ordinary name.
    pub fn parse(name: &'a str) -> Option<Self> {
        if !name.starts_with(XDSTP) {
            return None;
        }
        let (path, params) = name.split_once('?').unwrap_or((name, ""));
        let directory = path.strip_suffix('*')?;
        directory.ends_with('/').then_some(Self { directory, params })
    }

    /// The only glob that can cover `name`, in normal form.
    pub fn over(name: &str) -> Option<String> {
        if !name.starts_with(XDSTP) {
            return None;
        }
        let (path, params) = name.split_once('?').unwrap_or((name, ""));
        let (directory, last) = path.rsplit_once('/')?;
        if last.is_empty() || last == "*" {
            return None;
        }
        let mark = if params.is_empty() { "" } else { "?" };
        Some(format!("{directory}/*{mark}{params}"))
    }

    /// Exactly one more segment, and equal parameters.
    pub fn covers(&self, name: &str) -> bool {
        let (path, params) = name.split_once('?').unwrap_or((name, ""));
        params == self.params
            && path
                .strip_prefix(self.directory)
                .is_some_and(|rest| !rest.is_empty() && rest != "*" && (!rest.contains('/') || breaks::on("C-112")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_forms() {
        let table = [
            ("plain?b=1&a=2", "plain?b=1&a=2"),
            ("", ""),
            ("xdstp://a/T/x", "xdstp://a/T/x"),
            ("xdstp://a/T/x?b=1&a=2", "xdstp://a/T/x?a=2&b=1"),
            ("xdstp://a/T/x?a=1&a=2", "xdstp://a/T/x?a=2"),
            ("xdstp://a/T/x?a=1#alt=y", "xdstp://a/T/x?a=1"),
            ("xdstp://a/T/x?", "xdstp://a/T/x"),
            ("xdstp://a/T/x?A=%20&a=1", "xdstp://a/T/x?A=%20&a=1"),
        ];
        for (name, want) in table {
            assert_eq!(&*normal(name), want, "{name}");
        }
    }

    #[test]
    fn globs_match_one_segment_with_equal_parameters() {
        assert_eq!(Glob::parse("col/*"), None);
        assert_eq!(Glob::parse("xdstp://a/T/foo"), None);
        let glob = Glob::parse("xdstp://a/T/foo/*").unwrap();
        for (name, want) in [
            ("xdstp://a/T/foo/bar", true),
            ("xdstp://a/T/foo/q/r", false),
            ("xdstp://a/T/foo/", false),
            ("xdstp://a/T/foo/*", false),
            ("xdstp://b/T/foo/bar", false),
            ("xdstp://a/T/foo/bar?s=t", false),
        ] {
            assert_eq!(glob.covers(name), want, "{name}");
        }
        let glob = Glob::parse("xdstp://a/T/foo/*?s=t").unwrap();
        assert!(glob.covers("xdstp://a/T/foo/a?s=t"));
        assert_eq!(Glob::over("xdstp://a/T/foo/a?s=t").as_deref(), Some("xdstp://a/T/foo/*?s=t"));
        assert_eq!(Glob::over("xdstp://a/T/foo/a").as_deref(), Some("xdstp://a/T/foo/*"));
        assert_eq!((Glob::over("xdstp://a/T/foo/*"), Glob::over("a/b")), (None, None));
        assert!(!glob.covers("xdstp://a/T/foo/b"));
    }
}
