//! The window from outside, found and used as a screen reader would: on a record that the program made, on a generated
//! large one, and on damaged ones.

mod damage;
mod export;
#[path = "../../../examples/generated_record/mod.rs"]
mod generated_record;
mod panels;
mod pictures;
mod support;
mod use_it;
