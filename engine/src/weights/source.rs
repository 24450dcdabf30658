//! Where weights come from.

use std::collections::BTreeSet;

use safetensors::tensor::{Dtype, SafeTensors};

/// What can be wrong with a file of weights.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The file is not valid safetensors: header beyond the file, overlapping tensors, lengths that
    /// don't fit, …
    #[error("{file}: not a valid safetensors file: {problem}")]
    Malformed {
        /// The file.
        file: String,
        /// What the parser said.
        problem: String,
    },
    /// A tensor that the model needs is not there.
    #[error("tensor \"{name}\" is missing from {place}")]
    Missing {
        /// Its name.
        name: String,
        /// Where it was looked for.
        place: String,
    },
    /// A tensor has another shape than the model.
    #[error("{file}: tensor \"{name}\" has shape {found:?}, the model needs {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Shape in the file.
        found: Vec<usize>,
        /// Shape in the model.
        expected: Vec<usize>,
    },
    /// A tensor holds something other than floating-point numbers.
    #[error("{file}: tensor \"{name}\" is {dtype}, expected F32, F16, BF16 or F64")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its type.
        dtype: String,
    },
    /// Tensors that the model has no place for.
    #[error("{place} holds tensors that the model has no place for: {names}")]
    Unexpected {
        /// Where.
        place: String,
        /// Their names, the first few.
        names: String,
    },
}

/// Gives tensors by name, as f32.
pub trait TensorSource {
    /// The values of `name`, which must have `shape`.
    ///
    /// # Errors
    /// If it is missing, has another shape, or is not floating-point.
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError>;

    /// Whether `name` is there.
    fn contains(&self, name: &str) -> bool;

    /// Every name.
    fn names(&self) -> Vec<String>;

    /// What to call it in messages.
    fn place(&self) -> String;
}

/// One or more safetensors files, already in memory or mapped.
pub struct SafetensorsSource<'a> {
    files: Vec<(String, SafeTensors<'a>)>,
}

impl<'a> SafetensorsSource<'a> {
    /// Parses the headers of `files`: a name for messages, and the bytes.
    ///
    /// # Errors
    /// [`WeightError::Malformed`] if a header is broken or does not fit its file, or two files hold a
    /// tensor of the same name.
    pub fn new(files: &[(String, &'a [u8])]) -> Result<Self, WeightError> {
        let files: Vec<(String, SafeTensors<'a>)> = files
            .iter()
            .map(|(file, bytes)| {
                SafeTensors::deserialize(bytes)
                    .map(|tensors| (file.clone(), tensors))
                    .map_err(|error| WeightError::Malformed {
                        file: file.clone(),
                        problem: error.to_string(),
                    })
            })
            .collect::<Result<_, _>>()?;
        let mut seen = BTreeSet::new();
        for (file, tensors) in &files {
            for name in tensors.names() {
                if !seen.insert(name) {
                    return Err(WeightError::Malformed {
                        file: file.clone(),
                        problem: format!("tensor \"{name}\" is in another file as well"),
                    });
                }
            }
        }
        drop(seen);
        Ok(Self { files })
    }

    fn find(&self, name: &str) -> Option<(&str, safetensors::tensor::TensorView<'_>)> {
        self.files
            .iter()
            .find_map(|(file, tensors)| Some((file.as_str(), tensors.tensor(name).ok()?)))
    }

    /// Shape of `name`, if it is there.
    pub fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.find(name).map(|(_, view)| view.shape().to_vec())
    }

    /// The values of an i32 tensor.
    ///
    /// # Errors
    /// If it is missing or of another type.
    pub fn read_i32(&self, name: &str) -> Result<Vec<i32>, WeightError> {
        let (file, view) = self.find(name).ok_or_else(|| self.missing(name))?;
        if view.dtype() != Dtype::I32 {
            return Err(dtype_error(file, name, view.dtype()));
        }
        Ok(view
            .data()
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| i32::from_le_bytes(*bytes))
            .collect())
    }

    fn missing(&self, name: &str) -> WeightError {
        WeightError::Missing {
            name: name.to_owned(),
            place: self.place(),
        }
    }
}

fn dtype_error(file: &str, name: &str, dtype: Dtype) -> WeightError {
    WeightError::Dtype {
        file: file.to_owned(),
        name: name.to_owned(),
        dtype: format!("{dtype:?}"),
    }
}

impl TensorSource for SafetensorsSource<'_> {
    fn read(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, WeightError> {
        let (file, view) = self.find(name).ok_or_else(|| self.missing(name))?;
        if view.shape() != shape {
            return Err(WeightError::Shape {
                file: file.to_owned(),
                name: name.to_owned(),
                found: view.shape().to_vec(),
                expected: shape.to_vec(),
            });
        }
        let data = view.data();
        match view.dtype() {
            Dtype::F32 => Ok(data
                .as_chunks::<4>()
                .0
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect()),
            Dtype::F64 => Ok(data
                .as_chunks::<8>()
                .0
                .iter()
                .map(|bytes| f64::from_le_bytes(*bytes) as f32)
                .collect()),
            Dtype::F16 => Ok(data
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| half::f16::from_le_bytes(*bytes).to_f32())
                .collect()),
            Dtype::BF16 => Ok(data
                .as_chunks::<2>()
                .0
                .iter()
                .map(|bytes| half::bf16::from_le_bytes(*bytes).to_f32())
                .collect()),
            other => Err(dtype_error(file, name, other)),
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .files
            .iter()
            .flat_map(|(_, tensors)| tensors.names())
            .map(|name| name.to_string())
            .collect();
        names.sort();
        names
    }

    fn place(&self) -> String {
        let files: Vec<&str> = self.files.iter().map(|(file, _)| file.as_str()).collect();
        files.join(", ")
    }
}

#[cfg(test)]
mod tests;
