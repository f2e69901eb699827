//! Sizes as people write them.

use coracle_cgroups::parse_memory;
use serde::{Deserialize, Serialize};

/// An amount of memory: bytes, or a text as docker-run(1) takes it (`64m`, `1.5g`), which is read when the container starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySize(Given);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
enum Given {
    Bytes(u64),
    Text(String),
}

impl MemorySize {
    pub(crate) fn bytes(&self) -> Result<u64, coracle_cgroups::ParseMemoryError> {
        match &self.0 {
            Given::Bytes(bytes) => Ok(*bytes),
            Given::Text(text) => parse_memory(text),
        }
    }
}

impl From<u64> for MemorySize {
    fn from(bytes: u64) -> Self {
        Self(Given::Bytes(bytes))
    }
}

impl From<&str> for MemorySize {
    fn from(text: &str) -> Self {
        Self(Given::Text(text.to_owned()))
    }
}

impl From<String> for MemorySize {
    fn from(text: String) -> Self {
        Self(Given::Text(text))
    }
}
