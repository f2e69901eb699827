//! Takes secrets out of what is shown, also where they come in pieces.

use std::sync::Arc;

/// What stands in the place of a secret.
const MASK: &[u8] = b"***";

/// Words that nobody is to see.
#[derive(Clone, Default)]
pub(crate) struct Secrets(Arc<Vec<Vec<u8>>>);

impl Secrets {
    /// One more. What is empty, or white space, is none.
    pub(crate) fn add(&mut self, secret: &str) {
        let secret = secret.trim_end_matches(['\r', '\n']);
        if !secret.trim().is_empty() {
            Arc::make_mut(&mut self.0).push(secret.as_bytes().to_vec());
        }
    }

    /// A text without them.
    pub(crate) fn mask(&self, text: &str) -> String {
        let mut masking = Masking::new(self.clone());
        let mut bytes = masking.feed(text.as_bytes());
        bytes.extend(masking.finish());
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A stream of bytes out of which they are taken.
pub(crate) struct Masking {
    secrets: Secrets,
    /// What may be the beginning of one.
    held: Vec<u8>,
}

impl Masking {
    pub(crate) fn new(secrets: Secrets) -> Self {
        Self { secrets, held: Vec::new() }
    }

    /// What of the bytes so far may be shown now.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(bytes);
        self.take(true)
    }

    /// The rest: nothing more comes.
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        self.take(false)
    }

    fn take(&mut self, more_may_come: bool) -> Vec<u8> {
        let mut shown = Vec::new();
        let mut at = 0;
        while at < self.held.len() {
            let rest = &self.held[at..];
            if more_may_come && self.secrets.0.iter().any(|secret| secret.len() > rest.len() && secret.starts_with(rest)) {
                break;
            }
            match self.secrets.0.iter().filter(|secret| rest.starts_with(secret)).map(Vec::len).max() {
                Some(length) => {
                    shown.extend_from_slice(MASK);
                    at += length;
                }
                None => {
                    shown.push(rest[0]);
                    at += 1;
                }
            }
        }
        self.held.drain(..at);
        shown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secrets() -> Secrets {
        let mut secrets = Secrets::default();
        ["s3cret", "s3cret-and-more", "two\nlines\n", "", " \n"].iter().for_each(|secret| secrets.add(secret));
        secrets
    }

    #[test]
    fn secrets_are_masked_wherever_they_are_cut() {
        let text = "a s3cret, s3cret-and-more; two\nlines and two\nothers; s3cre s3s3cret s3cret-and";
        let expected = "a ***, ***; *** and two\nothers; s3cre s3*** ***-and";
        for size in 1..=text.len() {
            let mut masking = Masking::new(secrets());
            let mut shown: Vec<u8> = text.as_bytes().chunks(size).flat_map(|piece| masking.feed(piece)).collect();
            shown.extend(masking.finish());
            assert_eq!(String::from_utf8_lossy(&shown), expected, "in pieces of {size}");
        }
        assert_eq!(secrets().mask(text), expected);
    }

    #[test]
    fn what_can_be_no_secret_is_shown_at_once() {
        let mut masking = Masking::new(secrets());
        assert_eq!(masking.feed(b"plain s3"), b"plain ");
        assert_eq!(masking.feed(b"x"), b"s3x");
        assert_eq!(masking.finish(), b"");
    }
}
