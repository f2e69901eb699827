//! Asks a person before something is removed.

use std::io::Write as _;

/// Whether the answer is yes.
pub(crate) fn agreed(what: &str) -> bool {
    let _ = write!(std::io::stderr(), "{what} Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok() && matches!(answer.trim(), "y" | "Y" | "yes")
}
