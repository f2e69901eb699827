//! What a registry wants to see before it answers: the header `WWW-Authenticate` (RFC 9110, section 11.6.1).

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(super) scheme: String,
    /// Names in lower case. Of a name that comes twice the first counts.
    parameters: Vec<(String, String)>,
}

impl Challenge {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// All challenges in one header's value. What can't be read ends the list.
pub(super) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let (word, after) = split_while(rest, is_token);
        if word.is_empty() {
            return challenges;
        }
        let value = after.trim_start_matches([' ', '\t']).strip_prefix('=');
        if let (Some(value), Some(challenge)) = (value, challenges.last_mut()) {
            let Some((value, after)) = parameter_value(value.trim_start_matches([' ', '\t'])) else {
                return challenges;
            };
            let name = word.to_ascii_lowercase();
            if challenge.get(&name).is_none() {
                challenge.parameters.push((name, value));
            }
            rest = after;
            continue;
        }
        challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
        rest = skip_token68(after);
    }
}

/// Past a scheme's data that isn't a list of parameters, as Negotiate has it.
fn skip_token68(after_scheme: &str) -> &str {
    let data = after_scheme.trim_start_matches([' ', '\t']);
    let (_, rest) = split_while(data, |c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
    let rest = rest.trim_start_matches('=').trim_start_matches([' ', '\t']);
    match rest.is_empty() || rest.starts_with(',') {
        true => rest,
        false => after_scheme,
    }
}

fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some write URLs without quotes.
        let (value, rest) = split_while(text, |c| c != ',' && c != ' ' && c != '\t' && c != '"');
        return Some((value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, c)) = characters.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            c => value.push(c),
        }
    }
    None
}

fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

fn split_while(text: &str, keep: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|c| !keep(c)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &str) -> String {
        let one = |c: Challenge| {
            let parameters: Vec<String> = c.parameters.iter().map(|(n, v)| format!("{n}={v}")).collect();
            format!("{}({})", c.scheme, parameters.join(";"))
        };
        parse(header).into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let cases = [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/debian:pull""#,
                "bearer(realm=https://auth.docker.io/token;service=registry.docker.io;scope=repository:library/debian:pull)",
            ),
            (r#"Basic realm="Registry Realm""#, "basic(realm=Registry Realm)"),
            (r#"BEARER Realm = "a" , SERVICE=b"#, "bearer(realm=a;service=b)"),
            ("Bearer realm=https://x.example/t?a=b,service=c", "bearer(realm=https://x.example/t?a=b;service=c)"),
            (r#"Negotiate, Basic realm="x", Bearer realm="y""#, "negotiate() basic(realm=x) bearer(realm=y)"),
            (r#"Negotiate YWJj==, Basic realm="x""#, "negotiate() basic(realm=x)"),
            (r#"Basic realm="a\"b, c\\""#, "basic(realm=a\"b, c\\)"),
            (r#"Bearer realm="first",realm="second""#, "bearer(realm=first)"),
            ("Basic", "basic()"),
        ];
        for (header, expected) in cases {
            assert_eq!(shown(header), expected, "{header}");
        }
    }

    #[test]
    fn nonsense_is_no_challenge_and_ends_what_can_be_read() {
        let cases = [
            ("", ""),
            (",,, ", ""),
            ("=x", ""),
            ("\"", ""),
            (r#"Bearer realm="never ends"#, "bearer()"),
            (r#"Bearer realm="x\"#, "bearer()"),
            ("Bearer realm=\"é\u{1F600}\", ü", "bearer(realm=é\u{1F600})"),
            // Without a scheme there is nothing that a parameter could belong to.
            (r#"realm="x""#, "realm()"),
        ];
        for (header, expected) in cases {
            assert_eq!(shown(header), expected, "{header}");
        }
    }
}
