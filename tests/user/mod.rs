//! Tests of what a plain user gets, or is refused. Each begins with `need!(PlainUser);`.

mod layers;
mod tier;
