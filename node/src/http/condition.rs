//! Whether a conditional request goes on (RFC 9110, section 13). Pure.
//!
//! The tag is the state id in quotes. Content without a fixed state (a primary's, while it is
//! written) has no tag, and no condition about a tag holds for it except `*`.

/// How the conditions of a request turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Serve it.
    Go,
    /// The client has it already (304).
    NotModified,
    /// It is not what the client wants to continue (412).
    Failed,
}

/// The conditional headers of a request; several lines of one header are joined by commas.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conditions<'a> {
    pub(crate) if_match: Option<&'a str>,
    pub(crate) if_none_match: Option<&'a str>,
    pub(crate) if_range: Option<&'a str>,
}

impl Conditions<'_> {
    /// In the order of section 13.2.2.
    pub(crate) fn check(&self, state: Option<&str>) -> Verdict {
        if let Some(list) = self.if_match
            && !any(list, state, false)
        {
            return Verdict::Failed;
        }
        match self.if_none_match {
            Some(list) if any(list, state, true) => Verdict::NotModified,
            _ => Verdict::Go,
        }
    }

    /// Whether a `Range` counts: if `If-Range` names another state, everything is sent.
    pub(crate) fn range_counts(&self, state: Option<&str>) -> bool {
        self.if_range.is_none_or(|tag| tag.trim() != "*" && any(tag, state, false))
    }
}

/// Whether one of the tags in `list` is the state's. Weak tags count only when `weak`.
fn any(list: &str, state: Option<&str>, weak: bool) -> bool {
    if list.trim() == "*" {
        return true;
    }
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let is_weak = rest.starts_with("W/");
        let Some((tag, after)) =
            rest.trim_start_matches("W/").strip_prefix('"').and_then(|r| r.split_once('"'))
        else {
            return false;
        };
        if Some(tag) == state && (weak || !is_weak) {
            return true;
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_compared_as_the_rfc_says() {
        for (list, weak, expected) in [
            ("\"a\"", false, true),
            ("\"b\"", false, false),
            ("*", false, true),
            ("\"b\", \"a\"", false, true),
            ("\"b\",\"a,c\",W/\"a\"", false, false),
            ("\"b\",\"a,c\",W/\"a\"", true, true),
            ("a", false, false),
            ("\"a", false, false),
            ("", false, false),
        ] {
            assert_eq!(any(list, Some("a"), weak), expected, "{list}");
        }
        assert!(!any("\"a\"", None, true));
    }

    #[test]
    fn order_and_outcome() {
        let c = |m, n| Conditions { if_match: m, if_none_match: n, if_range: None };
        assert_eq!(c(None, None).check(Some("a")), Verdict::Go);
        assert_eq!(c(Some("\"b\""), Some("\"a\"")).check(Some("a")), Verdict::Failed);
        assert_eq!(c(Some("\"a\""), Some("\"a\"")).check(Some("a")), Verdict::NotModified);
        assert_eq!(c(Some("\"a\""), None).check(None), Verdict::Failed);
        let r = |t| Conditions { if_range: t, ..Conditions::default() };
        assert!(r(None).range_counts(None));
        assert!(r(Some("\"a\"")).range_counts(Some("a")));
        assert!(!r(Some("W/\"a\"")).range_counts(Some("a")));
        assert!(!r(Some("\"b\"")).range_counts(Some("a")));
        assert!(!r(Some("Tue, 15 Nov 1994 12:45:26 GMT")).range_counts(Some("a")));
    }
}
