//! Writes real run directories, damages them, and reads them again.

mod damage;
mod round_trip;
mod support;
mod writers;
