//! Every family against the same computation written out in plain tensor operations, whose
//! gradients are Burn's own: the family on the device under test, the oracle on the CPU.

mod adamw;
mod attention;
mod chain;
mod cross_entropy;
mod cross_entropy_hazards;
mod device;
mod embedding;
mod experts;
mod experts_fused;
mod memcheck;
mod norm;
mod oracle;
mod rope;
mod routing;
mod vjp;
