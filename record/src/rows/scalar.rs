use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;

/// A JSON value as far as a metric is concerned.
pub(super) enum Scalar {
    Integer(u64),
    Float(f64),
    Flag(bool),
    Null,
    /// Text or structure from a newer version: nothing a chart could show.
    Other,
}

impl Scalar {
    pub(super) fn number(&self) -> Option<f64> {
        match *self {
            Self::Integer(value) => Some(value as f64),
            Self::Float(value) => Some(value),
            Self::Flag(value) => Some(f64::from(value)),
            Self::Null => Some(f64::NAN),
            Self::Other => None,
        }
    }
}

/// A type that a metric may have.
pub(super) trait Metric: Sized {
    /// Whether null is a value (not a number) or the absence of one.
    const NULL_IS_NAN: bool = false;

    fn number(&self) -> Option<f64>;
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error>;
    fn from_scalar(value: Scalar) -> Self;
}

impl Metric for f64 {
    const NULL_IS_NAN: bool = true;

    fn number(&self) -> Option<f64> {
        Some(*self)
    }
    // serde_json writes what is not finite as null.
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry(key, self)
    }
    fn from_scalar(value: Scalar) -> Self {
        value.number().unwrap_or(f64::NAN)
    }
}

impl Metric for u64 {
    fn number(&self) -> Option<f64> {
        Some(*self as f64)
    }
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry(key, self)
    }
    fn from_scalar(value: Scalar) -> Self {
        match value {
            Scalar::Integer(value) => value,
            // pandas writes whole columns back as floats; `as` saturates and turns NaN into 0.
            other => other.number().unwrap_or(0.0) as u64,
        }
    }
}

impl Metric for u32 {
    fn number(&self) -> Option<f64> {
        Some(f64::from(*self))
    }
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry(key, self)
    }
    fn from_scalar(value: Scalar) -> Self {
        u32::try_from(u64::from_scalar(value)).unwrap_or(u32::MAX)
    }
}

impl Metric for bool {
    fn number(&self) -> Option<f64> {
        Some(f64::from(*self))
    }
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry(key, self)
    }
    fn from_scalar(value: Scalar) -> Self {
        matches!(value, Scalar::Flag(true))
            || matches!(value.number(), Some(n) if n != 0.0 && !n.is_nan())
    }
}

impl<T: Metric> Metric for Option<T> {
    fn number(&self) -> Option<f64> {
        self.as_ref().and_then(T::number)
    }
    fn write<M: SerializeMap>(&self, key: &'static str, map: &mut M) -> Result<(), M::Error> {
        self.as_ref().map_or(Ok(()), |value| value.write(key, map))
    }
    fn from_scalar(value: Scalar) -> Self {
        match value {
            Scalar::Other => None,
            Scalar::Null if !T::NULL_IS_NAN => None,
            // A key that is there was measured: null says that the result was not finite.
            measured => Some(T::from_scalar(measured)),
        }
    }
}

/// A key of a JSON object, borrowed from the line where it can be.
pub(super) struct Key<'de>(pub(super) Cow<'de, str>);

impl<'de> Deserialize<'de> for Key<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl<'de> Visitor<'de> for Text {
            type Value = Key<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Scalar;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON value")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Scalar, E> {
                Ok(Scalar::Integer(value))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value as f64))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Scalar, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar::Flag(value))
            }
            fn visit_unit<E>(self) -> Result<Scalar, E> {
                Ok(Scalar::Null)
            }
            fn visit_str<E>(self, _: &str) -> Result<Scalar, E> {
                Ok(Scalar::Other)
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Scalar, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Scalar, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Scalar::Other)
            }
        }
        deserializer.deserialize_any(Any)
    }
}
