//! Tests that pass for root and for a plain user alike.

mod fixtures;
