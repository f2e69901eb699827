//! `--format '{{…}}'`: the part of Go's templates that people use with Docker's commands.
//!
//! What there is: text, `{{.Name}}` and `{{.State.Status}}`, which write a string as it is and anything else as JSON, `{{json .}}` and
//! `{{json .State}}`, which write JSON, and `\t` and `\n` in the text. Nothing else: no `range`, `if`, pipes or functions. A name that
//! isn't there is an error, and so is what isn't understood.

use crate::failure::Fault;
use serde_json::Value;

/// A template that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Member { path: Vec<String>, json: bool },
}

/// How a command's answer is printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Style {
    Table,
    Json,
    Template(Template),
}

impl Style {
    /// From `--format`; a table if nothing is said.
    pub(crate) fn read(word: Option<&str>) -> Result<Self, Fault> {
        match word {
            None | Some("table" | "") => Ok(Self::Table),
            Some("json") => Ok(Self::Json),
            Some(text) => Template::read(text).map(Self::Template),
        }
    }
}

impl Template {
    pub(crate) fn read(text: &str) -> Result<Self, Fault> {
        let fix = "table, json, or a template of text, {{.Name}}, {{.State.Status}} and {{json .}}";
        let wrong = |what: &str| Fault::new(format!("--format: {what:?} isn't understood"), fix);
        if !text.contains("{{") {
            return Err(wrong(text));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, more)) = rest.split_once("{{") {
            pieces.push(Piece::Text(unescape(before)));
            let (inside, after) = more.split_once("}}").ok_or_else(|| wrong(&format!("{{{{{more}")))?;
            let words: Vec<&str> = inside.split_whitespace().collect();
            let (json, name) = match words[..] {
                ["json", name] => (true, name),
                [name] => (false, name),
                _ => return Err(wrong(&format!("{{{{{inside}}}}}"))),
            };
            let names = name.strip_prefix('.').ok_or_else(|| wrong(&format!("{{{{{inside}}}}}")))?;
            let path: Vec<String> = if names.is_empty() { Vec::new() } else { names.split('.').map(str::to_owned).collect() };
            if path.iter().any(|name| name.is_empty() || !name.chars().all(|c| c.is_alphanumeric() || c == '_')) {
                return Err(wrong(&format!("{{{{{inside}}}}}")));
            }
            pieces.push(Piece::Member { path, json });
            rest = after;
        }
        pieces.push(Piece::Text(unescape(rest)));
        Ok(Self(pieces))
    }

    /// One line of it, with its newline.
    pub(crate) fn line(&self, value: &Value) -> Result<String, Fault> {
        let mut line = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Member { path, json } => {
                    let mut found = value;
                    for name in path {
                        found = found.get(name).ok_or_else(|| {
                            let names: Vec<&str> =
                                found.as_object().map(|all| all.keys().map(String::as_str).collect()).unwrap_or_default();
                            Fault::new(format!("--format: there is no {name}"), format!("one of {}", names.join(", ")))
                        })?;
                    }
                    match found {
                        Value::String(text) if !json => line.push_str(text),
                        Value::Null if !json => {}
                        found => line.push_str(&found.to_string()),
                    }
                }
            }
        }
        line.push('\n');
        Ok(line)
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_and_json_are_written_and_text_stays() {
        let value = json!({ "Name": "a\"b", "State": { "Status": "running", "Pid": 7 }, "None": null });
        let check = |text: &str, line: &str| assert_eq!(Template::read(text).unwrap().line(&value).unwrap(), format!("{line}\n"), "{text}");
        check("{{.Name}}", "a\"b");
        check("{{ .Name }}\\t{{.State.Pid}}!", "a\"b\t7!");
        check("{{json .Name}}", "\"a\\\"b\"");
        check("{{json .State}}", "{\"Pid\":7,\"Status\":\"running\"}");
        check("[{{.None}}]", "[]");
        check("{{.State.Status}}{{.State.Status}}", "runningrunning");
        assert_eq!(Template::read("{{json .}}").unwrap().line(&value).unwrap(), format!("{value}\n"));
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for bad in ["xml", "{{.Name", "{{Name}}", "{{range .}}{{end}}", "{{.a..b}}", "{{.Name | lower}}", "{{}}", "{{.a-b}}"] {
            assert!(Template::read(bad).is_err(), "{bad}");
        }
        let fault = Template::read("{{.Nmae}}").unwrap().line(&json!({ "Name": 1 })).unwrap_err();
        assert_eq!((fault.what.as_str(), &fault.fixes[..]), ("--format: there is no Nmae", &["one of Name".to_owned()][..]));
    }
}
