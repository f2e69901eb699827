//! Where the next page of a list is: the header `Link` (RFC 8288; OCI distribution-spec, "Listing Tags").

/// The target of the first link with `rel="next"`.
pub(super) fn next(header: &str) -> Option<&str> {
    let mut rest = header;
    loop {
        let begin = rest.find('<')?;
        let (target, after) = rest[begin + 1..].split_once('>')?;
        let (parameters, following) = until_comma(after);
        if parameters.split(';').any(is_next) {
            return Some(target.trim());
        }
        rest = following;
    }
}

/// A link's parameters end at a comma that isn't quoted.
fn until_comma(text: &str) -> (&str, &str) {
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return (&text[..at], &text[at + 1..]),
            _ => {}
        }
    }
    (text, "")
}

fn is_next(parameter: &str) -> bool {
    let Some((name, value)) = parameter.split_once('=') else {
        return false;
    };
    let value = value.trim().trim_matches('"');
    name.trim().eq_ignore_ascii_case("rel") && value.split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_and_nothing_else() {
        let cases = [
            (r#"</v2/a/tags/list?last=b&n=2>; rel="next""#, Some("/v2/a/tags/list?last=b&n=2")),
            ("<x>;rel=next", Some("x")),
            (r#"<x>; title="a, b; rel=\"next"; rel="prev", <y>; REL="last Next""#, Some("y")),
            (r#"<x>; rel="prev""#, None),
            (r#"<x>; rel="nextish""#, None),
            ("", None),
            ("<x", None),
            ("rel=next", None),
            ("<é>;rel=next", Some("é")),
        ];
        for (header, expected) in cases {
            assert_eq!(next(header), expected, "{header}");
        }
    }
}
