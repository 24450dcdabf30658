//! State of the calling thread that holds for the kernels it launches, wherever these are launched:
//! with Burn's fusion that is later, by a thread of the device's, in the caller's name.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use burn::backend::StreamId;

/// A value for each thread, its default where a thread set none.
pub struct Here<T>(Mutex<BTreeMap<u64, T>>);

impl<T: Default> Here<T> {
    pub const fn new() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }

    /// The calling thread's value, or that of the thread on whose behalf it works. `look` must not
    /// ask again.
    pub fn with<R>(&self, look: impl FnOnce(&mut T) -> R) -> R {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        look(values.entry(StreamId::current().value).or_default())
    }

    /// Sets the value and returns the one before.
    pub fn replace(&self, value: T) -> T {
        self.with(|held| std::mem::replace(held, value))
    }
}

impl<T: Default + Copy> Here<T> {
    pub fn get(&self) -> T {
        self.with(|value| *value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_sees_its_own_value_and_who_works_for_it_does_too() {
        static VALUE: Here<usize> = Here::new();
        assert_eq!(VALUE.replace(7), 0);
        let here = StreamId::current();
        let other = std::thread::spawn(move || (VALUE.get(), here.executes(|| VALUE.get())));
        assert_eq!(other.join().expect("no panic"), (0, 7));
    }
}
