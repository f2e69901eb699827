//! `coracle doctor`: what this machine can do, and what mends it where it can't.

use crate::arguments::Doctor;
use crate::failure::Failure;
use crate::json;
use crate::table::print;
use coracle_container::doctor::{self, Report, Row, Verdict};
use std::path::PathBuf;

/// 0 where all is well, 1 with a warning, 2 where no container runs.
pub(crate) fn run(root: Option<PathBuf>, arguments: &Doctor) -> Result<u8, Failure> {
    if arguments.fix {
        for done in doctor::fix()? {
            eprintln!("{done}");
        }
    }
    let report = match root {
        None => doctor::check(),
        Some(root) => doctor::check_with(&crate::engine(Some(root))?),
    };
    print(&if arguments.json { machine(&report) } else { person(&report) })?;
    Ok(match report.worst() {
        Verdict::Ok => 0,
        Verdict::Warning => 1,
        _ => 2,
    })
}

fn person(report: &Report) -> String {
    let mut text = String::new();
    for Row { check, verdict, found, lost, remedy, .. } in report.rows() {
        text += &format!("{verdict:7}  {check:15}  {found}\n");
        for (head, lines) in [("lost", lost), ("fix", remedy)] {
            for (n, line) in lines.iter().flat_map(|lines| lines.lines()).enumerate() {
                let head = if n == 0 { format!("{head}:") } else { String::new() };
                text += &format!("{:26}{head:6}{line}\n", "");
            }
        }
    }
    text
}

fn machine(report: &Report) -> String {
    let rows = report.rows().iter().map(|row| {
        let said = [("lost", &row.lost), ("remedy", &row.remedy)];
        let said = said.into_iter().filter_map(|(key, value)| Some((key, json::string(value.as_deref()?))));
        let known = [("check", row.check.to_string()), ("verdict", row.verdict.to_string()), ("found", row.found.clone())];
        json::object(known.iter().map(|(key, value)| (*key, json::string(value))).chain(said))
    });
    json::object([("worst", json::string(&report.worst().to_string())), ("rows", json::array(rows))]) + "\n"
}
