//! The documents of a manifest, and where in the file things stand.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use serde_yaml::Spanned;

use super::synced::SecretObject;
use super::workload::{self, Workload};
use crate::params::{Fault, not_text, spellings};

/// Line and column in the file, from 1.
pub type Place = (u64, u64);

/// A document that concerns us.
pub enum Document {
    /// It cannot be read.
    Broken { place: Place, problem: String },
    /// A SecretProviderClass.
    Class(Class),
    /// The driver's CSIDriver object.
    Driver(Driver),
    /// A Pod, or what makes Pods, with a volume of the driver's or a Secret in its environment.
    Workload(Workload),
}

/// A SecretProviderClass as it is written.
pub struct Class {
    /// `namespace/name`.
    pub name: String,
    pub provider: Option<String>,
    pub place: Place,
    pub parameters: BTreeMap<String, String>,
    /// Parameters that are no strings, and what to do about each.
    pub not_text: Vec<(String, Place)>,
    /// The Secrets that the driver makes of its files, with their places in the file.
    pub synced: Vec<SecretObject>,
    /// The line of the file (from 0) that the document begins after.
    pub offset: u64,
    places: BTreeMap<String, Place>,
    /// Where the lines of `objects` begin in the file, when they stand there as they are.
    objects: Option<Place>,
}

/// The driver's CSIDriver object.
pub struct Driver {
    pub name: String,
    pub place: Place,
    pub republishes: bool,
    pub audiences: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClassManifest {
    #[serde(default)]
    metadata: Metadata,
    spec: Option<Spanned<ClassSpec>>,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    namespace: Option<String>,
}

#[derive(Deserialize)]
struct ClassSpec {
    #[serde(default)]
    provider: Option<String>,
    #[serde(default)]
    parameters: Option<BTreeMap<String, Spanned<Value>>>,
    #[serde(default, rename = "secretObjects")]
    secret_objects: Option<Vec<SecretObject>>,
}

#[derive(Deserialize)]
struct ListManifest {
    #[serde(default)]
    items: Vec<ClassManifest>,
}

/// The versions of the kind that the driver serves, or served.
const VERSIONS: [&str; 2] = [
    "secrets-store.csi.x-k8s.io/v1",
    "secrets-store.csi.x-k8s.io/v1alpha1",
];
pub const DRIVER: &str = "secrets-store.csi.k8s.io";

/// The documents of a file that concern us, in their order.
pub fn documents(text: &str) -> Vec<Document> {
    let lines: Vec<&str> = text.lines().collect();
    let mut documents = Vec::new();
    let mut from = 0;
    for to in 0..=lines.len() {
        let ends = lines
            .get(to)
            .is_none_or(|line| *line == "---" || line.starts_with("--- ") || *line == "...");
        if ends {
            let part = lines.get(from..to).unwrap_or_default();
            read(part, from, &mut documents);
            from = to + 1;
        }
    }
    documents
}

/// Reads one document, whose first line is the file's line `before` (from 0).
fn read(lines: &[&str], before: usize, documents: &mut Vec<Document>) {
    let text = lines.join("\n");
    let offset = u64::try_from(before).unwrap_or_default();
    let broken = |error: &serde_yaml::Error| {
        let place = error
            .location()
            .map_or((1, 1), |at| (at.line(), at.column()));
        let said = error.without_snippet().to_string();
        let said = said.lines().next().unwrap_or_default();
        let said = said
            .split(" at line ")
            .next()
            .unwrap_or_default()
            .to_owned();
        Document::Broken {
            place: (place.0 + offset, place.1),
            problem: format!("cannot be read: {said}"),
        }
    };
    let value: Option<Value> = match serde_yaml::from_str_with_options(&text, options()) {
        Ok(value) => value,
        Err(error) => {
            // A template, say. Only where it is about us does it concern us.
            if text.contains("SecretProviderClass") {
                documents.push(broken(&error));
            }
            return;
        }
    };
    let Some(value) = value else {
        return;
    };
    let is_class =
        |value: &Value| value.get("kind").and_then(Value::as_str) == Some("SecretProviderClass");
    let kind = value
        .get("kind")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let items = value.get("items").and_then(Value::as_array);
    if is_class(&value) {
        let version = value.get("apiVersion").and_then(Value::as_str);
        if !version.is_some_and(|version| VERSIONS.contains(&version)) {
            documents.push(Document::Broken {
                place: (offset + 1, 1),
                problem: format!(
                    "apiVersion {:?} is none that the driver serves: write {}",
                    version.unwrap_or_default(),
                    VERSIONS[0]
                ),
            });
        }
        match serde_yaml::from_str_with_options::<ClassManifest>(&text, options()) {
            Ok(manifest) => documents.push(Document::Class(class(manifest, lines, offset))),
            Err(error) => documents.push(broken(&error)),
        }
    } else if items.is_some_and(|items| items.iter().any(is_class)) {
        // As `kubectl get secretproviderclasses -o yaml` writes them.
        match serde_yaml::from_str_with_options::<ListManifest>(&text, options()) {
            Ok(list) => documents.extend(
                list.items
                    .into_iter()
                    .zip(items.into_iter().flatten())
                    .filter(|(_, value)| is_class(value))
                    .map(|(manifest, _)| Document::Class(class(manifest, lines, offset))),
            ),
            Err(error) => documents.push(broken(&error)),
        }
    } else if kind == "CSIDriver" && value.pointer("/metadata/name") == Some(&Value::from(DRIVER)) {
        documents.push(Document::Driver(driver(&value, offset)));
    } else {
        let listed = items.filter(|_| kind == "List");
        let found = listed.map_or_else(|| vec![&value], |items| items.iter().collect());
        let found = found.into_iter();
        let found = found.filter_map(|value| workload::read(value, lines, offset));
        documents.extend(found.map(Document::Workload));
    }
}

fn driver(value: &Value, offset: u64) -> Driver {
    let requests = value
        .pointer("/spec/tokenRequests")
        .and_then(Value::as_array);
    let audiences = requests.into_iter().flatten();
    Driver {
        name: DRIVER.to_owned(),
        place: (offset + 1, 1),
        republishes: value.pointer("/spec/requiresRepublish") == Some(&Value::Bool(true)),
        audiences: audiences
            .filter_map(|request| request.get("audience")?.as_str().map(str::to_owned))
            .collect(),
    }
}

fn class(manifest: ClassManifest, lines: &[&str], offset: u64) -> Class {
    let name = manifest.metadata.name.unwrap_or_default();
    let name = match manifest.metadata.namespace {
        Some(namespace) => format!("{namespace}/{name}"),
        None => name,
    };
    let mut class = Class {
        name,
        provider: None,
        place: (offset + 1, 1),
        parameters: BTreeMap::new(),
        not_text: Vec::new(),
        synced: Vec::new(),
        offset,
        places: BTreeMap::new(),
        objects: None,
    };
    let Some(spec) = manifest.spec else {
        return class;
    };
    class.place = (spec.referenced.line() + offset, spec.referenced.column());
    class.provider = spec.value.provider;
    class.synced = spec.value.secret_objects.unwrap_or_default();
    for (name, value) in spec.value.parameters.unwrap_or_default() {
        let (line, column) = (value.referenced.line(), value.referenced.column());
        let place = (line + offset, column);
        class.places.insert(name.clone(), place);
        if name == "objects" {
            class.objects = block(lines, line).map(|(line, column)| (line + offset, column));
        }
        match value.value {
            Value::String(text) => {
                class.parameters.insert(name, text);
            }
            Value::Null => {}
            other => {
                let (problem, fix) = not_text(&name, &other);
                class
                    .not_text
                    .push((format!("{name}: {problem}: {fix}"), place));
            }
        }
    }
    class
}

/// Where a literal block's content begins: below its `|`, at the indentation of its first line that is not
/// empty. Other scalars are folded or escaped: a place within them is not one in the file.
fn block(lines: &[&str], line: u64) -> Option<Place> {
    let at = usize::try_from(line.checked_sub(1)?).ok()?;
    // The parser names the indicator's place, or that of the first line below it.
    let before = at
        .checked_sub(1)
        .and_then(|at| lines.get(at))
        .copied()
        .unwrap_or_default();
    let here = lines.get(at).copied().unwrap_or_default();
    let opens = |line: &str| {
        let line = line.split(" #").next().unwrap_or_default().trim_end();
        let end = line.rsplit(": ").next().unwrap_or_default().trim();
        matches!(end, "|" | "|-" | "|+")
    };
    let first = if opens(here) {
        at + 1
    } else if opens(before) {
        at
    } else {
        return None;
    };
    let content = lines
        .get(first..)?
        .iter()
        .find(|line| !line.trim().is_empty())?;
    let indent = content.len() - content.trim_start().len();
    Some((
        u64::try_from(first).ok()? + 1,
        u64::try_from(indent).ok()? + 1,
    ))
}

fn options() -> serde_yaml::Options {
    let mut budget = serde_yaml::Budget::default();
    budget.max_nodes = 200_000;
    budget.max_depth = 64;
    serde_yaml::options! {
        legacy_octal_numbers: true,
        strict_booleans: true,
        with_snippet: false,
        budget: Some(budget),
    }
}

impl Class {
    /// Where a parameter stands, else the class.
    pub fn place_of(&self, parameter: &str) -> Place {
        let (start, _) = parameter.split_once('[').unwrap_or((parameter, ""));
        let mut spellings = spellings(start).into_iter();
        let place = spellings.find_map(|name| self.places.get(&name).copied());
        place.unwrap_or(self.place)
    }

    /// Where an object stands: exact within a literal block of `objects`. Of several of that name the last one.
    pub fn place_of_object(&self, name: &str) -> Place {
        let named = |(at, line): (u64, &str)| {
            let (before, value) = line.split_once("objectName")?;
            let value = value.trim_start_matches(['"', '\'', ' ', ':']);
            let value = value.split(" #").next().unwrap_or_default();
            let value = value.trim_end_matches(['}', ' ', ',', '"', '\'']);
            let column = u64::try_from(before.len()).unwrap_or_default();
            (value == name || value.starts_with(&format!("{name},"))).then_some((at, column))
        };
        let line = (0..).zip(self.object_lines()).filter_map(named).last();
        match (self.objects, line) {
            (Some((first, indent)), Some((at, column))) => (first + at, indent + column),
            _ => self.place_of("objects"),
        }
    }

    /// Where a fault is: exact within a literal block of `objects`, else the parameter's place.
    pub fn place_of_fault(&self, fault: &Fault) -> Place {
        match (self.objects, fault.place) {
            (Some((first, indent)), Some((line, column))) if fault.field.starts_with("objects") => {
                (first + line - 1, indent + column - 1)
            }
            // One that is about several objects quotes the name of one of them.
            (Some(_), None) if fault.field == "objects" => {
                self.place_of_object(quoted(&fault.problem))
            }
            _ => self.place_of(&fault.field),
        }
    }

    /// Where the first name that a warning quotes stands.
    pub fn place_of_name(&self, warning: &str) -> Place {
        let quoted = quoted(warning);
        let field = warning.split(':').next().unwrap_or_default();
        if let Some(place) = self.places.get(quoted) {
            return *place;
        }
        let index = field.strip_prefix("objects[");
        let index = index.and_then(|rest| rest.strip_suffix(']')?.parse().ok());
        let place = index.and_then(|index| self.place_within(index, quoted));
        place.unwrap_or_else(|| self.place_of(field))
    }

    /// Where a field of the object at this index stands, or the object, within a literal block of `objects`.
    fn place_within(&self, index: usize, field: &str) -> Option<Place> {
        let (first, indent) = self.objects?;
        let text = self.parameters.get("objects")?;
        let listed: Vec<Spanned<Value>> =
            serde_yaml::from_str_with_options(text, options()).ok()?;
        let (from, column) = listed.get(index).map(|object| {
            let at = object.referenced;
            (at.line(), at.column())
        })?;
        let next = listed.get(index + 1);
        let until = next.map_or(u64::MAX, |object| object.referenced.line());
        let lines = (1..).zip(self.object_lines());
        let mut own = lines.filter(|(at, _)| *at >= from && (*at < until || *at == from));
        let key = own.find_map(|(at, line)| {
            let (before, after) = line.split_once(field).filter(|_| !field.is_empty())?;
            let is_key = after.trim_start_matches(['"', '\'']).starts_with(':')
                && !before.ends_with(|c: char| c.is_alphanumeric());
            let before = u64::try_from(before.len()).ok()?;
            is_key.then_some((first + at - 1, indent + before))
        });
        let object = (
            first + from.checked_sub(1)?,
            indent + column.checked_sub(1)?,
        );
        Some(key.unwrap_or(object))
    }

    fn object_lines(&self) -> std::str::Lines<'_> {
        let text = self.parameters.get("objects");
        text.map_or("", String::as_str).lines()
    }
}

/// The first name in quotes.
fn quoted(text: &str) -> &str {
    text.split('"').nth(1).unwrap_or_default()
}
