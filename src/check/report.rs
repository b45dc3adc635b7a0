//! Findings, and the three ways to write them.

use std::fmt::Write;

use serde_json::{Value, json};

use super::Output;
use super::manifest::Place;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The daemon would refuse it.
    Error,
    /// Legal, and unwise.
    Warning,
    /// For information.
    Note,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something to be said of a place in a file.
pub struct Finding {
    pub level: Level,
    file: String,
    pub place: Place,
    class: String,
    text: String,
}

impl Finding {
    pub fn error(file: &str, place: Place, class: &str, text: String) -> Self {
        Self::new(Level::Error, file, place, class, text)
    }

    pub fn warning(file: &str, place: Place, class: &str, text: String) -> Self {
        Self::new(Level::Warning, file, place, class, text)
    }

    pub fn note(file: &str, place: Place, class: &str, text: String) -> Self {
        Self::new(Level::Note, file, place, class, text)
    }

    pub fn new(level: Level, file: &str, place: Place, class: &str, text: String) -> Self {
        Self {
            level,
            file: file.to_owned(),
            place,
            class: class.to_owned(),
            text,
        }
    }

    pub fn is_in(&self, file: &str) -> bool {
        self.file == file
    }

    fn line(&self) -> String {
        let (line, column) = self.place;
        let class = match self.class.as_str() {
            "" => String::new(),
            class => format!("{class}: "),
        };
        let (file, level, text) = (&self.file, self.level.name(), &self.text);
        format!("{file}:{line}:{column}: {level}: {class}{text}")
    }

    fn json(&self) -> Value {
        json!({
            "file": self.file,
            "line": self.place.0,
            "column": self.place.1,
            "level": self.level.name(),
            "class": self.class,
            "message": self.text,
        })
    }

    fn sarif(&self) -> Value {
        json!({
            "ruleId": format!("secretproviderclass/{}", self.level.name()),
            "level": self.level.name(),
            "message": { "text": self.text },
            "locations": [{
                "physicalLocation": {
                    "artifactLocation": { "uri": self.file },
                    "region": { "startLine": self.place.0, "startColumn": self.place.1 },
                },
            }],
        })
    }
}

/// Everything that was found in so many classes.
pub fn write(findings: &[Finding], classes: usize, output: Output) -> String {
    match output {
        Output::Text => text(findings, classes),
        Output::Json => {
            let findings: Vec<Value> = findings.iter().map(Finding::json).collect();
            format!("{}\n", Value::Array(findings))
        }
        Output::Sarif => {
            let results: Vec<Value> = findings.iter().map(Finding::sarif).collect();
            let rule = |level: &str| json!({ "id": format!("secretproviderclass/{level}") });
            let rules: Vec<Value> = ["error", "warning", "note"].map(rule).into();
            let driver = json!({
                "name": "leasehold",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            });
            let report = json!({
                "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
                "version": "2.1.0",
                "runs": [{ "tool": { "driver": driver }, "results": results }],
            });
            format!("{report}\n")
        }
    }
}

fn text(findings: &[Finding], classes: usize) -> String {
    let mut text = String::new();
    for finding in findings {
        text.push_str(&finding.line());
        text.push('\n');
    }
    let of = |level| findings.iter().filter(|found| found.level == level).count();
    let (errors, warnings) = (of(Level::Error), of(Level::Warning));
    // Writing to a String does not fail.
    let _ = writeln!(
        text,
        "{classes} classes, {errors} errors, {warnings} warnings"
    );
    text
}
