//! In which type a run multiplies matrices: what is asked for, against what the device offers.

use std::fmt;
use std::str::FromStr;

use bellows_engine::kernels::Compute;
use serde::{Deserialize, Serialize};

use super::{CooperativeMatrix, Details, OpenDevice};
use crate::error::Error;

/// What `train.precision` accepts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The fastest type that the device's matrix units take, else f32.
    #[default]
    Auto,
    /// 32 bits.
    F32,
    /// IEEE half precision, with dynamic loss scaling.
    F16,
    /// bfloat16.
    Bf16,
}

impl Precision {
    /// As configurations write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Precision::Auto => "auto",
            Precision::F32 => "f32",
            Precision::F16 => "f16",
            Precision::Bf16 => "bf16",
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Auto, Self::F32, Self::F16, Self::Bf16];
        let found = all.into_iter().find(|known| known.as_str() == text);
        found.ok_or_else(|| format!("{text:?} is no precision: give auto, f32, f16 or bf16"))
    }
}

/// The name of a type as configurations and records write it.
fn name(compute: Compute) -> &'static str {
    match compute {
        Compute::F32 => "f32",
        Compute::F16 => "f16",
        Compute::Bf16 => "bf16",
    }
}

/// The type that a run multiplies in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The type.
    pub compute: Compute,
    /// Why this one, in words.
    pub reason: String,
}

impl Resolved {
    /// Its name: `f32`, `f16` or `bf16`.
    pub fn name(&self) -> &'static str {
        name(self.compute)
    }
}

impl fmt::Display for Resolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name(), self.reason)
    }
}

/// A type was asked for that the device does not multiply in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{setting} is {:?}: {device} offers {}, {lacks}", .asked.as_str(), list(.offered))]
pub struct PrecisionError {
    /// Which setting asked.
    pub setting: &'static str,
    /// What was asked for.
    pub asked: Precision,
    /// The device, as `--device` names it, and its own name.
    pub device: String,
    /// What it offers.
    pub offered: Vec<Compute>,
    /// What it would need.
    pub lacks: &'static str,
}

impl From<PrecisionError> for Error {
    fn from(error: PrecisionError) -> Self {
        let offered = list(&error.offered);
        let lacks_bf16 = error.asked == Precision::Bf16;
        // SPIR-V alone reaches the matrix units of a Vulkan device.
        let build = if lacks_bf16 && !cfg!(feature = "vulkan") {
            "; a build with `--features vulkan` finds bf16 where a Vulkan driver has it"
        } else {
            ""
        };
        Error::input(error.to_string()).help(format!(
            "set train.precision to \"auto\" or to what there is ({offered}), or choose another --device{build}"
        ))
    }
}

fn list(offered: &[Compute]) -> String {
    let names: Vec<&str> = offered.iter().map(|&compute| name(compute)).collect();
    names.join(", ")
}

/// What a device can multiply in beside f32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Offers {
    /// f16 in buffers and arithmetic.
    f16: bool,
    /// Matrix units that take f16 and sum in f32.
    f16_matrices: bool,
    /// The same for bf16. Without them nothing multiplies bf16.
    bf16_matrices: bool,
}

impl Offers {
    fn of(details: &Details) -> Self {
        let matrices = |wanted: &str| {
            let fits = |matrix: &CooperativeMatrix| {
                matrix.a == wanted && matrix.b == wanted && matrix.cd == "f32"
            };
            let kinds = [&details.subgroup_matrices, &details.workgroup_matrices];
            kinds.into_iter().flatten().any(fits)
        };
        Self {
            f16: details.dtypes.iter().any(|dtype| dtype == "f16"),
            f16_matrices: matrices("f16"),
            bf16_matrices: matrices("bf16"),
        }
    }

    fn list(self) -> Vec<Compute> {
        let mut offered = vec![Compute::F32];
        if self.f16 {
            offered.push(Compute::F16);
        }
        if self.bf16_matrices {
            offered.push(Compute::Bf16);
        }
        offered
    }
}

impl Precision {
    /// The type in which `device` multiplies for this choice.
    ///
    /// # Errors
    /// If the choice is explicit and the device does not offer it.
    pub fn resolve(self, device: &OpenDevice) -> Result<Resolved, PrecisionError> {
        let offers = device.details.as_ref().map(Offers::of);
        let name = format!("{} ({})", device.label, device.name());
        self.resolve_among(offers, name)
    }

    /// The same for a choice that `--precision` made.
    ///
    /// # Errors
    /// The same, in the words of the flag.
    pub fn of_flag(self, device: &OpenDevice) -> Result<Resolved, Error> {
        self.resolve(device).map_err(|error| {
            let error = PrecisionError {
                setting: "--precision",
                ..error
            };
            let offered = list(&error.offered);
            Error::input(error.to_string()).help(format!(
                "give --precision one of {offered}, or choose another --device"
            ))
        })
    }

    /// `offers` is absent for the CPU backend.
    fn resolve_among(
        self,
        offers: Option<Offers>,
        device: String,
    ) -> Result<Resolved, PrecisionError> {
        let resolved = |compute, reason: &str| {
            Ok(Resolved {
                compute,
                reason: reason.to_owned(),
            })
        };
        let has = offers.unwrap_or_default();
        let lacks = match self {
            Precision::Auto if offers.is_none() => {
                return resolved(Compute::F32, "the CPU backend computes in f32");
            }
            Precision::Auto if has.bf16_matrices => {
                return resolved(Compute::Bf16, "the device has matrix units for bf16");
            }
            // Without its storage type a matrix could not be fed.
            Precision::Auto if has.f16_matrices && has.f16 => {
                return resolved(
                    Compute::F16,
                    "the device has matrix units for f16, none for bf16; the loss is scaled",
                );
            }
            Precision::Auto => {
                return resolved(
                    Compute::F32,
                    "the device has no matrix units that this build reaches",
                );
            }
            Precision::F32 => return resolved(Compute::F32, "as configured"),
            Precision::F16 if has.f16 => {
                return resolved(Compute::F16, "as configured; the loss is scaled");
            }
            Precision::Bf16 if has.bf16_matrices => {
                return resolved(Compute::Bf16, "as configured");
            }
            Precision::F16 if offers.is_none() => "the CPU backend computes in f32",
            Precision::F16 => "f16 needs it in buffers and arithmetic (WebGPU's shader-f16)",
            Precision::Bf16 if offers.is_none() => "the CPU backend computes in f32",
            Precision::Bf16 => "bf16 needs matrix units that take it",
        };
        Err(PrecisionError {
            setting: "train.precision",
            asked: self,
            device,
            offered: has.list(),
            lacks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Offers = Offers {
        f16: false,
        f16_matrices: false,
        bf16_matrices: false,
    };
    const SHADER_F16: Offers = Offers {
        f16: true,
        ..NOTHING
    };
    const F16_UNITS: Offers = Offers {
        f16: true,
        f16_matrices: true,
        ..NOTHING
    };
    const ALL: Offers = Offers {
        bf16_matrices: true,
        ..F16_UNITS
    };

    fn resolve(precision: Precision, offers: Option<Offers>) -> Result<Compute, PrecisionError> {
        precision
            .resolve_among(offers, "gpu:0 (card)".into())
            .map(|resolved| resolved.compute)
    }

    #[test]
    fn auto_takes_the_best_matrix_units_and_never_a_type_without_them() {
        for (offers, compute) in [
            (None, Compute::F32),
            (Some(NOTHING), Compute::F32),
            (Some(SHADER_F16), Compute::F32),
            (Some(F16_UNITS), Compute::F16),
            (Some(ALL), Compute::Bf16),
        ] {
            assert_eq!(resolve(Precision::Auto, offers), Ok(compute), "{offers:?}");
        }
    }

    #[test]
    fn an_explicit_type_is_taken_where_it_exists_and_refused_where_not() {
        for (precision, compute, needs) in [
            (Precision::F32, Compute::F32, NOTHING),
            (Precision::F16, Compute::F16, SHADER_F16),
            (Precision::Bf16, Compute::Bf16, ALL),
        ] {
            assert_eq!(resolve(precision, Some(needs)), Ok(compute));
        }
        for (precision, offers) in [
            (Precision::F16, None),
            (Precision::Bf16, None),
            (Precision::F16, Some(NOTHING)),
            (Precision::Bf16, Some(F16_UNITS)),
        ] {
            let error = resolve(precision, offers).expect_err("it does not exist");
            assert_eq!(error.asked, precision);
            let error = Error::from(error);
            assert_eq!(error.kind(), crate::error::ErrorKind::Input);
            let text = error.to_string();
            assert!(text.contains("gpu:0 (card) offers f32"), "{text}");
            assert!(text.contains(precision.as_str()), "{text}");
            assert!(error.help_text().is_some_and(|help| help.contains("auto")));
        }
    }

    #[test]
    fn matrix_units_that_sum_in_half_precision_do_not_count() {
        let unit = |element: &str, sum: &str| CooperativeMatrix {
            a: element.into(),
            b: element.into(),
            cd: sum.into(),
            shape: "16×16×16".into(),
        };
        let details = |subgroup, workgroup| Details {
            compiler: "spirv".into(),
            dtypes: vec!["f32".into(), "f16".into()],
            storage_dtypes: Vec::new(),
            subgroup_min: 32,
            subgroup_max: 32,
            subgroup_operations: true,
            max_buffer_bytes: 0,
            memory_bytes: None,
            shared_memory_bytes: 0,
            max_workgroup_invocations: 256,
            max_workgroups: 65_535,
            subgroup_matrices: subgroup,
            workgroup_matrices: workgroup,
        };
        let found = |subgroup, workgroup| Offers::of(&details(subgroup, workgroup));
        assert_eq!(found(vec![unit("f16", "f16")], Vec::new()), SHADER_F16);
        assert_eq!(found(vec![unit("f16", "f32")], Vec::new()), F16_UNITS);
        assert_eq!(
            found(vec![unit("f16", "f32")], vec![unit("bf16", "f32")]),
            ALL
        );
    }
}
