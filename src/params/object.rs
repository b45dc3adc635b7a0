//! One entry of `objects`: from what is written to what is asked for.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_yaml::{Location, Spanned};

use super::args::{self, Arg};
use super::fault::Fault;
use super::written::{self, Written};
use super::{PARAMETERS, cut, names, path};
use crate::spec::{Encoding, Method, Object, Request, Selector};

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

/// Where an object's faults and warnings go.
pub struct Told<'a> {
    pub index: usize,
    pub faults: &'a mut Vec<Fault>,
    pub warnings: &'a mut Vec<String>,
}

impl Told<'_> {
    fn fault(&mut self, name: &str, at: Location, problem: impl Into<String>, fix: &str) {
        let field = match name {
            "" => format!("objects[{}]", self.index),
            name => format!("objects[{}].{name}", self.index),
        };
        let fault = Fault::new(field, problem, fix).at(at.line(), at.column());
        self.faults.push(fault);
    }

    fn warn(&mut self, warning: &str) {
        self.warnings
            .push(format!("objects[{}]: {warning}", self.index));
    }
}

/// An entry of the list.
pub enum Item {
    Object(Box<Listed>),
    Wrong,
}

/// An object as it is written.
#[derive(Default)]
pub struct Listed {
    object_name: Text,
    secret_path: Text,
    secret_key: Text,
    method: Text,
    encoding: Text,
    secret_args: Option<Spanned<Arg>>,
    file_permission: Option<Spanned<Option<Value>>>,
    unknown: Vec<String>,
}

type Text = Option<Spanned<Written>>;

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = Item;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with objectName and secretPath")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Item, A::Error> {
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
        Ok(Item::Object(Box::new(listed)))
    }

    fn visit_unit<E>(self) -> Result<Item, E> {
        Ok(Item::Wrong)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Item, A::Error> {
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Item::Wrong)
    }

    fn visit_str<E>(self, _: &str) -> Result<Item, E> {
        Ok(Item::Wrong)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Item, E> {
        Ok(Item::Wrong)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Item, E> {
        Ok(Item::Wrong)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Item, E> {
        Ok(Item::Wrong)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Item, E> {
        Ok(Item::Wrong)
    }
}

impl Item {
    /// What is asked for; nothing where there was a fault. `source` is the text it was read from, `mode`
    /// the volume's.
    pub fn typed(
        self,
        source: &str,
        place: Location,
        mode: u32,
        told: &mut Told<'_>,
    ) -> Option<Object> {
        let before = told.faults.len();
        let Self::Object(listed) = self else {
            let fix = "write a map with objectName and secretPath";
            told.fault("", place, "is no object", fix);
            return None;
        };
        for name in &listed.unknown {
            let elsewhere = (
                PARAMETERS,
                "it is a parameter of the class: write it beside `objects`",
            );
            told.warn(&names::unknown("field", name, FIELDS, elsewhere));
        }
        let mut text = |name: &str, written: &Text| {
            let (text, at) = written::text(written.as_ref(), source, place);
            let text = text.map_err(|problem| {
                told.fault(name, at, problem, "write a text, in quotes where in doubt");
            });
            (text.ok(), at)
        };
        let name = text("objectName", &listed.object_name);
        let path = text("secretPath", &listed.secret_path);
        let (key, _) = text("secretKey", &listed.secret_key);
        let method = text("method", &listed.method);
        let encoding = text("encoding", &listed.encoding);
        let key = key.unwrap_or_default();
        let name = object_name(name, told);
        let (path, query) = secret_path(path, told).unwrap_or_default();
        let method = request_method(method, told);
        let encoding = value_encoding(encoding, key.is_empty(), told);
        let args = secret_args(listed.secret_args.as_ref(), source, told);
        let mode = file_permission(listed.file_permission, mode, told);
        let selector = if key.is_empty() {
            Selector::Response
        } else {
            Selector::Key(key)
        };
        let object = Object {
            name,
            request: Request {
                method,
                path,
                query,
                args,
            },
            selector,
            encoding,
            mode,
        };
        (told.faults.len() == before).then_some(object)
    }
}

/// A field's text, or nothing where its fault was told already.
type Field = (Option<String>, Location);

fn object_name((name, at): Field, told: &mut Told<'_>) -> String {
    let Some(name) = name else {
        return String::new();
    };
    if let Err(problem) = path::file(&name) {
        let fix = "give the file's path within the volume, relative and without \"..\"";
        let problem = format!("{:?} {problem}", cut(&name));
        told.fault("objectName", at, problem, fix);
    }
    name
}

fn secret_path((written, at): Field, told: &mut Told<'_>) -> Option<(String, path::Query)> {
    let written = written?;
    let (api, query) = written.split_once('?').unwrap_or((&written, ""));
    let fix = "give the API path as in `vault read`, e.g. secret/data/app";
    let path = path::api(api).map_err(|problem| {
        let problem = format!("{:?} {problem}", cut(api));
        told.fault("secretPath", at, problem, fix);
    });
    let fix = "write it as a form does: name=value&other=value, %25 for a percent sign";
    let query = path::query(query)
        .map_err(|problem| told.fault("secretPath", at, format!("its query {problem}"), fix));
    Some((path.ok()?, query.ok()?))
}

/// A method, in any case; none is a read.
fn request_method((written, at): Field, told: &mut Told<'_>) -> Method {
    let written = written.unwrap_or_default();
    match written.to_ascii_uppercase().as_str() {
        "" | "GET" => Method::Get,
        "LIST" => Method::List,
        "POST" => Method::Post,
        "PUT" => Method::Put,
        _ => {
            let problem = format!("{:?} gives nothing that could be a file", cut(&written));
            told.fault("method", at, problem, "use GET, LIST, POST or PUT");
            Method::Get
        }
    }
}

/// An encoding, in any case. A whole response is written as it is, so one named for it has no effect.
fn value_encoding((written, at): Field, whole: bool, told: &mut Told<'_>) -> Encoding {
    let written = written.unwrap_or_default();
    let known = match written.to_ascii_lowercase().as_str() {
        "" | "utf-8" => Some(Encoding::Utf8),
        "base64" => Some(Encoding::Base64),
        "hex" => Some(Encoding::Hex),
        _ => None,
    };
    if whole && known != Some(Encoding::Utf8) {
        told.warn("encoding has no effect without secretKey: a whole response is JSON");
        return Encoding::Utf8;
    }
    known.unwrap_or_else(|| {
        let problem = format!("{:?} is not known", cut(&written));
        told.fault("encoding", at, problem, "use utf-8, base64 or hex");
        Encoding::Utf8
    })
}

fn secret_args(
    written: Option<&Spanned<Arg>>,
    source: &str,
    told: &mut Told<'_>,
) -> Option<String> {
    let written = written.filter(|written| !matches!(written.value, Arg::Nothing))?;
    match args::body(written, source) {
        Ok(body) => Some(body),
        Err(problem) => {
            let fix = "give the request's fields as a map";
            told.fault("secretArgs", written.referenced, problem, fix);
            None
        }
    }
}

fn file_permission(
    written: Option<Spanned<Option<Value>>>,
    usual: u32,
    told: &mut Told<'_>,
) -> u32 {
    let Some(written) = written else {
        return usual;
    };
    match permission(written.value.as_ref()) {
        // The volume's own, as for the incumbents.
        Ok(0) => usual,
        Ok(bits) if bits > 0o777 => {
            told.warn(&format!(
                "filePermission {bits} is 0{bits:o} in octal, of which a file gets 0{:o}: write octal permissions with a leading zero, e.g. 0644",
                bits & 0o777
            ));
            bits & 0o777
        }
        Ok(bits) => bits,
        Err(problem) => {
            let fix = "give the permission bits in octal (0644) or decimal (420)";
            told.fault("filePermission", written.referenced, problem, fix);
            usual
        }
    }
}

/// Permission bits: a number (old octal was read as such, and a fraction is dropped, as Go drops it), or a
/// text that would be one without its quotes.
fn permission(written: Option<&Value>) -> Result<u32, String> {
    let bits = match written {
        None => return Ok(0),
        Some(Value::Number(number)) => {
            let whole = number.to_string();
            let whole = whole.split('.').next().unwrap_or_default();
            number
                .as_u64()
                .or_else(|| whole.parse().ok())
                .ok_or_else(|| format!("{number} is out of range"))?
        }
        Some(Value::String(text)) => {
            let octal = text
                .strip_prefix("0o")
                .or_else(|| text.strip_prefix('0').filter(|rest| !rest.is_empty()));
            let read = match octal {
                Some(digits) => u64::from_str_radix(digits, 8),
                None => text.parse(),
            };
            read.map_err(|_| format!("{:?} is no number", cut(text)))?
        }
        Some(_) => return Err("is no number".to_owned()),
    };
    u32::try_from(bits).map_err(|_| format!("{bits} is out of range"))
}
