//! A scalar of the class as it was written, whatever kind YAML takes it for.
//!
//! The incumbents' parser (Go's yaml.v3) gives a text field the scalar's own letters: `secretKey: 1.10` is
//! the key `1.10`. A list or a map in its place is a fault of that field, told beside all others.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_yaml::{Location, Spanned};

/// What stands in a field that wants a text.
pub enum Written {
    /// A text.
    Text(String),
    /// A number or a boolean; its letters are in the source.
    Plain,
    /// Nothing: `~`, `null`, or no value.
    Nothing,
    /// Something that is no scalar.
    Wrong(&'static str),
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_str<E>(self, text: &str) -> Result<Written, E> {
                Ok(Written::Text(text.to_owned()))
            }

            fn visit_bool<E>(self, _: bool) -> Result<Written, E> {
                Ok(Written::Plain)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Written, E> {
                Ok(Written::Plain)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Written, E> {
                Ok(Written::Plain)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Written, E> {
                Ok(Written::Plain)
            }

            fn visit_unit<E>(self) -> Result<Written, E> {
                Ok(Written::Nothing)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Written, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Written::Wrong("is a list, not a text"))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Written, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Written::Wrong("is a map, not a text"))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// A field's text with its place in the source; absent is empty.
///
/// # Errors
/// Says what stands there in place of a text.
pub fn text(
    written: Option<&Spanned<Written>>,
    source: &str,
    place: Location,
) -> (Result<String, &'static str>, Location) {
    let Some(written) = written else {
        return (Ok(String::new()), place);
    };
    let text = match &written.value {
        Written::Text(text) => Ok(text.clone()),
        Written::Plain => Ok(letters(source, written.defined)
            .unwrap_or_default()
            .to_owned()),
        Written::Nothing => Ok(String::new()),
        Written::Wrong(problem) => Err(*problem),
    };
    (text, written.referenced)
}

/// The letters of a node in the source; an alias' are those of its anchor.
pub fn letters(source: &str, place: Location) -> Option<&str> {
    let span = place.span();
    let start = usize::try_from(span.byte_offset()?).ok()?;
    let length = usize::try_from(span.byte_len()?).ok()?;
    Some(source.get(start..start.checked_add(length)?)?.trim_end())
}
