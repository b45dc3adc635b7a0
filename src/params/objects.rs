//! The YAML (or JSON) list under `objects`.

use std::collections::HashSet;

use serde_yaml::{Budget, Spanned};

use super::fault::Fault;
use super::object::{Item, Told};
use super::{cut, path, shared_args};
use crate::spec::Object;

/// The most objects of a class.
const MOST: usize = 500;
/// The most bytes that aliases may copy.
const COPIED: usize = 64 * 1024 * 1024;

/// Reads the list. Faults and warnings are added to those of the rest of the class; an object with a
/// fault is left out of the answer.
pub fn parse(
    text: &str,
    mode: u32,
    target_path: &str,
    faults: &mut Vec<Fault>,
    warnings: &mut Vec<String>,
) -> Vec<Object> {
    let (text, more) = first_document(text);
    if more {
        warnings.push("objects: only the first YAML document is read".to_owned());
    }
    let listed: Option<Vec<Spanned<Item>>> =
        match serde_yaml::from_str_with_options(text, options(text)) {
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
        let mut told = Told {
            index,
            faults,
            warnings,
        };
        let place = listed.referenced;
        objects.extend(listed.value.typed(text, place, mode, &mut told));
    }
    clashes(&objects, faults);
    lengths(&objects, target_path, faults);
    shared_args::share(&mut objects, warnings);
    objects
}

/// The driver writes each file under an absolute path, after every secret was read.
fn lengths(objects: &[Object], target_path: &str, faults: &mut Vec<Fault>) {
    let longest = path::longest_file(target_path);
    for object in objects.iter().filter(|object| object.name.len() > longest) {
        let problem = format!(
            "objectName {:?} {}",
            cut(&object.name),
            path::too_long(object.name.len(), longest)
        );
        let fix = "shorten it: with the volume's own path it is more than Linux takes";
        faults.push(Fault::new("objects", problem, fix));
    }
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
            return format!("the key {:?} is there twice", cut(key));
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
fn options(text: &str) -> serde_yaml::Options {
    let mut budget = Budget::default();
    // 500 objects with a dozen arguments each.
    budget.max_nodes = 100_000;
    budget.max_depth = 64;
    // And an anchor that all of them share. Each alias may copy nearly the whole text.
    budget.max_aliases = (COPIED / text.len().max(1)).clamp(64, 1024);
    budget.enforce_alias_anchor_ratio = false;
    serde_yaml::options! {
        legacy_octal_numbers: true,
        strict_booleans: true,
        with_snippet: false,
        budget: Some(budget),
    }
}

/// The text up to the end of its first YAML document, as the incumbents' parser stops there; and whether
/// more follows. A line that begins with `---` or `...` cannot stand within a document.
fn first_document(text: &str) -> (&str, bool) {
    let mut begun = false;
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        let bare = line.trim_end();
        let marks = |mark: &str| {
            bare.strip_prefix(mark)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t']))
        };
        if (begun && marks("---")) || marks("...") {
            let rest = text.get(end + line.len()..).unwrap_or_default();
            let more = bare.len() > 3 || !rest.trim().is_empty();
            return (text.get(..end).unwrap_or_default(), more);
        }
        // Comments and directives may stand before the first `---`.
        begun |= marks("---") || !(bare.trim_start().is_empty() || bare.starts_with(['#', '%']));
        end += line.len();
    }
    (text, false)
}

/// Two objects for one file, or a file where another needs a directory.
fn clashes(objects: &[Object], faults: &mut Vec<Fault>) {
    let mut names = HashSet::new();
    for object in objects {
        if !names.insert(object.name.as_str()) {
            faults.push(Fault::new(
                "objects",
                format!("objectName {:?} is given twice", cut(&object.name)),
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
                        "objectName {:?} is a file, and {:?} needs it as a directory",
                        cut(directory),
                        cut(&object.name)
                    ),
                    "rename one of them",
                ));
            }
            end += slash + 1;
        }
    }
}
