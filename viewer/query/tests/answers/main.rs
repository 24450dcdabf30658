//! Questions about a small run whose answers can be worked out by hand, and about runs that are damaged, live or real.

mod damage;
mod flow;
mod live;
mod memory;
mod real;
mod rest;
mod routing;
mod support;
mod tokens;
