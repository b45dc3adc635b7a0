//! Which part of a reply each object's file is made of, and how large the file will be.

use std::collections::HashMap;
use std::ops::Range;

use serde_json::value::RawValue;

use super::gojson::{self, Measure, Unreadable};
use super::scan::Entries;
use super::{File, LARGEST_ANSWER, PER_FILE, RenderError, missing, raw};
use crate::grant::Grant;
use crate::spec::{Encoding, Object, Selector};

/// Where one file comes from.
#[derive(Clone)]
pub struct Part {
    /// The value's place in the body.
    pub value: Range<usize>,
    /// The file's size, in bytes; of a value that is in no right encoding, a bound.
    pub size: usize,
}

/// The files of one reply.
pub struct Measured {
    /// One for each object, in their order.
    pub(super) parts: Vec<Part>,
    /// All of them, in bytes.
    pub size: usize,
    /// What their making takes besides, at most, in bytes.
    pub extra: usize,
}

/// The size of an answer as it grows.
#[derive(Clone, Default)]
pub struct Total {
    size: usize,
    largest: (String, usize),
}

impl Total {
    /// The size of what was made already.
    ///
    /// # Errors
    /// It is too large together.
    pub fn of<'a>(files: impl Iterator<Item = &'a File>) -> Result<Self, RenderError> {
        let mut total = Self::default();
        for file in files {
            total.add(&file.path, file.contents.expose().len())?;
        }
        Ok(total)
    }

    fn add(&mut self, path: &str, size: usize) -> Result<(), RenderError> {
        if size > self.largest.1 || self.largest.0.is_empty() {
            self.largest = (path.to_owned(), size);
        }
        let message = (path.len() * 2).saturating_add(PER_FILE);
        self.size = self.size.saturating_add(size).saturating_add(message);
        if self.size > LARGEST_ANSWER {
            let (object, largest) = self.largest.clone();
            return Err(RenderError::TooLarge {
                last: path.to_owned(),
                object,
                largest,
            });
        }
        Ok(())
    }
}

/// Measures what objects of one reply give, up to the one at which the answer becomes too large.
///
/// # Errors
/// The reply lacks what an object asks for, or the files are too large together.
pub fn measure(
    objects: &[&Object],
    grant: &Grant,
    total: &mut Total,
) -> Result<Measured, RenderError> {
    let mut measured = Measured {
        parts: Vec::with_capacity(objects.len()),
        size: 0,
        extra: 0,
    };
    let reply = match (grant.raw, objects.first()) {
        (false, Some(first)) => {
            Some(Reply::of(grant, objects).map_err(|Unreadable| missing(first))?)
        }
        _ => None,
    };
    // Hundreds of objects may name one large value.
    let mut known: HashMap<(&Selector, Encoding), (Range<usize>, Measure)> = HashMap::new();
    for object in objects {
        let kind = (&object.selector, object.encoding);
        let (value, measure) = match (known.get(&kind), &reply) {
            (Some(known), _) => known.clone(),
            (None, Some(reply)) => reply.measure(object)?,
            (None, None) => raw::measure(object, &grant.body)?,
        };
        total.add(&object.name, measure.size)?;
        measured.size += measure.size;
        measured.extra = measured.extra.max(measure.extra);
        measured.parts.push(Part {
            value: value.clone(),
            size: measure.size,
        });
        known.insert(kind, (value, measure));
    }
    Ok(measured)
}

/// A reply, looked through once for all of its objects.
struct Reply<'a> {
    body: &'a str,
    /// The whole of it, without space around it.
    whole: &'a str,
    /// The values of the keys that objects name.
    values: HashMap<&'a str, &'a str>,
}

impl<'a> Reply<'a> {
    fn of(grant: &'a Grant, objects: &[&'a Object]) -> Result<Self, Unreadable> {
        let body = std::str::from_utf8(grant.body.expose()).map_err(|_| Unreadable)?;
        let whole: &RawValue = serde_json::from_str(body).map_err(|_| Unreadable)?;
        if !whole.get().starts_with('{') {
            return Err(Unreadable);
        }
        let names = objects.iter().filter_map(|object| match &object.selector {
            Selector::Key(key) => Some(key.as_str()),
            Selector::Response => None,
        });
        let mut wanted: HashMap<&str, Option<&str>> = names.map(|name| (name, None)).collect();
        if !wanted.is_empty() {
            let mut data = HashMap::from([("data", None)]);
            pick(whole.get(), &mut data)?;
            pick(unwrapped(data.remove("data").flatten())?, &mut wanted)?;
        }
        let found = wanted.into_iter();
        Ok(Self {
            body,
            whole: whole.get(),
            values: found
                .filter_map(|(name, value)| Some((name, value?)))
                .collect(),
        })
    }

    fn measure(&self, object: &Object) -> Result<(Range<usize>, Measure), RenderError> {
        let unreadable = |Unreadable| missing(object);
        let Selector::Key(key) = &object.selector else {
            let measure = super::whole::measure(self.whole).map_err(unreadable)?;
            return Ok((self.place(self.whole), measure));
        };
        let absent = || RenderError::KeyAbsent {
            object: object.name.clone(),
            path: object.request.path.clone(),
            key: key.clone(),
        };
        let value = self.values.get(key.as_str()).ok_or_else(absent)?;
        let measure = gojson::measure_plain(value).map_err(unreadable)?;
        let Measure { size, extra } = measure;
        // What is decoded is there as it came as well, perhaps twice.
        let measure = match object.encoding {
            Encoding::Utf8 => measure,
            Encoding::Base64 => Measure {
                size: decoded_base64(value, size),
                extra: extra + 2 * size,
            },
            Encoding::Hex => Measure {
                size: size / 2,
                extra: extra + 2 * size,
            },
        };
        Ok((self.place(value), measure))
    }

    fn place(&self, part: &str) -> Range<usize> {
        let begin = part.as_ptr().addr() - self.body.as_ptr().addr();
        begin..begin + part.len()
    }
}

/// The size of a value of so many signs when it is decoded. What is no sign of base64 makes it a bound.
fn decoded_base64(value: &str, signs: usize) -> usize {
    let breaks = value.matches("\\n").count() + value.matches("\\r").count();
    let padding = value
        .trim_end_matches('"')
        .bytes()
        .rev()
        .take(2)
        .filter(|byte| *byte == b'=');
    (signs.saturating_sub(breaks) / 4 * 3).saturating_sub(padding.count())
}

/// Looks through a map for names. Of two with one name the last holds, as in Go.
pub fn pick<'a>(
    map: &'a str,
    wanted: &mut HashMap<&str, Option<&'a str>>,
) -> Result<(), Unreadable> {
    for entry in Entries::of(map) {
        let (name, value) = entry?;
        if let Some(found) = wanted.get_mut(&*gojson::unescaped(name)?) {
            *found = Some(value);
        }
    }
    Ok(())
}

/// The reply's data; the `data` within it where that is a map (KV 2, and whatever else looks like it).
fn unwrapped(data: Option<&str>) -> Result<&str, Unreadable> {
    let is_map = |data: &&str| data.starts_with('{');
    let data = data.filter(is_map).unwrap_or("{}");
    let mut inner = HashMap::from([("data", None)]);
    pick(data, &mut inner)?;
    Ok(inner
        .remove("data")
        .flatten()
        .filter(is_map)
        .unwrap_or(data))
}
