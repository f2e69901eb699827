//! A container engine that your program carries inside itself.
#![forbid(unsafe_code)]
