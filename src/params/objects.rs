//! The YAML (or JSON) list under `objects`.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::Value;
use serde_yaml::{Budget, Location, Spanned};

use super::fault::Fault;
use super::{names, path};
use crate::spec::{Encoding, Method, Object, Request, Selector};

/// The most objects of a class.
const MOST: usize = 500;

/// The fields of an object.
pub const FIELDS: &[&str] = &[
    "objectName",
    "secretPath",
    "secretKey",
    "method",
    "secretArgs",
    "filePermission",
    "encoding",
];

/// Reads the list. Faults and warnings are added to those of the rest of the class; an object with a
/// fault is left out of the answer.
pub fn parse(
    text: &str,
    mode: u32,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) -> Vec<Object> {
    let listed: Option<Vec<Spanned<Listed>>> =
        match serde_yaml::from_str_with_options(text, options()) {
            Ok(listed) => listed,
            Err(error) => {
                let place = error.location();
                let (line, column) = place.map_or((0, 0), |at| (at.line(), at.column()));
                // The form that other providers of the driver want.
                let nested = text.trim_start().starts_with("array:");
                let fix = if nested {
                    "leave `array:` out and list the objects themselves"
                } else {
                    "write a YAML list of objects with objectName and secretPath"
                };
                let problem = format!("cannot be read: {}", said(&error));
                faults.push(Fault::new("objects", problem, fix).at(line, column));
                return Vec::new();
            }
        };
    let listed = listed.unwrap_or_default();
    if listed.is_empty() {
        faults.push(Fault::new(
            "objects",
            "there are none, so nothing would be read",
            "list at least one object with objectName and secretPath",
        ));
    }
    if listed.len() > MOST {
        faults.push(Fault::new(
            "objects",
            format!("there are {}, and at most {MOST} are read", listed.len()),
            "split the class",
        ));
        return Vec::new();
    }
    let mut objects = Vec::with_capacity(listed.len());
    for (index, listed) in listed.into_iter().enumerate() {
        let place = listed.referenced;
        objects.extend(listed.value.typed(index, place, mode, faults, warnings));
    }
    clashes(&objects, faults);
    objects
}

/// The message of a YAML error without a quotation of the text: arguments may stand in it.
fn said(error: &serde_yaml::Error) -> String {
    let error = error.without_snippet();
    match error {
        serde_yaml::Error::NonFiniteFloat { .. } => {
            // The parser's own message quotes the number, which may be an argument's.
            return "a number is not finite, or too large".to_owned();
        }
        serde_yaml::Error::DuplicateMappingKey { key: Some(key), .. } => {
            return format!("the key {:?} is there twice", super::cut(key));
        }
        serde_yaml::Error::MultipleDocuments { .. } => {
            return "there is more than one document".to_owned();
        }
        _ => {}
    }
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    // The place is told by itself.
    let line = line.split(" at line ").next().unwrap_or_default();
    line.chars().take(200).collect()
}

/// As yaml.v3, which the incumbents use: old octal numbers, `yes` a string, merge keys, no duplicates.
fn options() -> serde_yaml::Options {
    let mut budget = Budget::default();
    budget.max_nodes = 20_000;
    budget.max_depth = 16;
    budget.max_aliases = 64;
    serde_yaml::options! {
        legacy_octal_numbers: true,
        strict_booleans: true,
        with_snippet: false,
        budget: Some(budget),
    }
}

type Text = Option<Spanned<Option<String>>>;

/// An object as it is written.
#[derive(Default)]
struct Listed {
    object_name: Text,
    secret_path: Text,
    secret_key: Text,
    method: Text,
    encoding: Text,
    secret_args: Option<Spanned<Option<Value>>>,
    file_permission: Option<Spanned<Option<Value>>>,
    unknown: Vec<String>,
}

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Listed;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with objectName and secretPath")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Listed, A::Error> {
                let mut listed = Listed::default();
                while let Some(name) = map.next_key::<String>()? {
                    match name.as_str() {
                        "objectName" => listed.object_name = Some(map.next_value()?),
                        "secretPath" => listed.secret_path = Some(map.next_value()?),
                        "secretKey" => listed.secret_key = Some(map.next_value()?),
                        "method" => listed.method = Some(map.next_value()?),
                        "encoding" => listed.encoding = Some(map.next_value()?),
                        "secretArgs" => listed.secret_args = Some(map.next_value()?),
                        "filePermission" => listed.file_permission = Some(map.next_value()?),
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            listed.unknown.push(name);
                        }
                    }
                }
                Ok(listed)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Listed {
    fn typed(
        self,
        index: usize,
        place: Location,
        mode: u32,
        faults: &mut Vec<Fault>,
        warnings: &mut Vec<String>,
    ) -> Option<Object> {
        let before = faults.len();
        let field = |name: &str| format!("objects[{index}].{name}");
        for name in &self.unknown {
            warnings.push(format!(
                "objects[{index}]: {}",
                names::unknown("field", name, FIELDS)
            ));
        }
        let mut tell = |name: &str, at: Location, problem: String, fix: &str| {
            faults.push(Fault::new(field(name), problem, fix).at(at.line(), at.column()));
        };
        let (name, at) = text(self.object_name.as_ref(), place);
        if let Err(problem) = path::file(name) {
            tell(
                "objectName",
                at,
                format!("{name:?} {problem}"),
                "give the file's path within the volume, relative and without \"..\"",
            );
        }
        let (written, at) = text(self.secret_path.as_ref(), place);
        let (api, query) = written.split_once('?').unwrap_or((written, ""));
        let api = path::api(api).unwrap_or_else(|problem| {
            tell(
                "secretPath",
                at,
                format!("{api:?} {problem}"),
                "give the API path as in `vault read`, e.g. secret/data/app",
            );
            String::new()
        });
        let (written, at) = text(self.method.as_ref(), place);
        let method = method(written).unwrap_or_else(|problem| {
            tell("method", at, problem, "use GET, POST or PUT");
            Method::Get
        });
        let (written, at) = text(self.encoding.as_ref(), place);
        let encoding = encoding(written).unwrap_or_else(|problem| {
            tell("encoding", at, problem, "use utf-8, base64 or hex");
            Encoding::Utf8
        });
        let args = self.secret_args.and_then(|args| {
            let at = args.referenced;
            match args.value? {
                // serde_json sorts the keys of its maps.
                Value::Object(map) => Some(Value::Object(map).to_string()),
                _ => {
                    tell(
                        "secretArgs",
                        at,
                        "is no map".to_owned(),
                        "give the request's fields as a map",
                    );
                    None
                }
            }
        });
        let mode = self.file_permission.map_or(mode, |written| {
            let at = written.referenced;
            permission(written.value.as_ref(), mode).unwrap_or_else(|problem| {
                tell("filePermission", at, problem, "give the permission bits, from 0 to 0777 in octal (0644) or 511 in decimal (420)");
                mode
            })
        });
        let (key, _) = text(self.secret_key.as_ref(), place);
        let object = Object {
            name: name.to_owned(),
            request: Request {
                method,
                path: api,
                query: path::query(query),
                args,
            },
            selector: if key.is_empty() {
                Selector::Response
            } else {
                Selector::Key(key.to_owned())
            },
            encoding,
            mode,
        };
        (faults.len() == before).then_some(object)
    }
}

fn text(written: Option<&Spanned<Option<String>>>, place: Location) -> (&str, Location) {
    written.map_or(("", place), |written| {
        (
            written.value.as_deref().unwrap_or_default(),
            written.referenced,
        )
    })
}

/// A method, in any case; none is a read.
fn method(written: &str) -> Result<Method, String> {
    match written.to_ascii_uppercase().as_str() {
        "" | "GET" => Ok(Method::Get),
        "POST" => Ok(Method::Post),
        "PUT" => Ok(Method::Put),
        _ => Err(format!("{written:?} cannot be used")),
    }
}

/// An encoding, in any case.
fn encoding(written: &str) -> Result<Encoding, String> {
    match written.to_ascii_lowercase().as_str() {
        "" | "utf-8" => Ok(Encoding::Utf8),
        "base64" => Ok(Encoding::Base64),
        "hex" => Ok(Encoding::Hex),
        _ => Err(format!("{written:?} is not known")),
    }
}

/// Permission bits: a number (old octal was read as such), or a text in octal. Zero and nothing mean the
/// volume's own, as for the incumbent.
fn permission(written: Option<&Value>, usual: u32) -> Result<u32, String> {
    let bits = match written {
        None => 0,
        Some(Value::Number(number)) => number
            .as_u64()
            .ok_or_else(|| format!("{number} is out of range"))?,
        Some(Value::String(text)) => {
            let digits = text.strip_prefix("0o").unwrap_or(text);
            u64::from_str_radix(digits, 8).map_err(|_| format!("{text:?} is no octal number"))?
        }
        Some(_) => return Err("is no number".to_owned()),
    };
    match u32::try_from(bits) {
        Ok(0) => Ok(usual),
        Ok(bits) if bits <= 0o777 => Ok(bits),
        _ => Err(format!("{bits} (0o{bits:o}) is out of range")),
    }
}

/// Two objects for one file, or a file where another needs a directory.
fn clashes(objects: &[Object], faults: &mut Vec<Fault>) {
    let mut names = HashSet::new();
    for object in objects {
        if !names.insert(object.name.as_str()) {
            faults.push(Fault::new(
                "objects",
                format!("objectName {:?} is given twice", object.name),
                "give each object a file of its own",
            ));
        }
    }
    for object in objects {
        let mut end = 0;
        while let Some(slash) = object.name.get(end..).and_then(|rest| rest.find('/')) {
            let directory = object.name.get(..end + slash).unwrap_or_default();
            if names.contains(directory) {
                faults.push(Fault::new(
                    "objects",
                    format!(
                        "objectName {directory:?} is a file, and {:?} needs it as a directory",
                        object.name
                    ),
                    "rename one of them",
                ));
            }
            end += slash + 1;
        }
    }
}
