//! Tests that pass for root and for a plain user alike.

mod blocking;
mod changes;
mod connect;
mod copy;
mod defaults;
mod doctor;
mod errors;
mod escapes;
mod exec;
mod fixtures;
mod image;
mod life;
mod lifeline;
mod limits;
mod logs;
mod overlay;
mod owner;
mod ports;
mod postgres;
mod soak;
mod states;
mod store;
mod verdicts;
mod volumes;
mod wait;
