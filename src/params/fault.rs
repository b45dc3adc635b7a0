//! What is wrong with a request, in words fit for `kubectl describe pod`.

use std::fmt;

/// About the most bytes of a message that tells faults: a class can have thousands, its reader mends a few at a
/// time, and the message is sent as one header.
const TOLD: usize = 3500;
/// About the most bytes of a field's name, and of what is wrong with it, that a message shows. A class' own
/// names and values stand in both, and it may be a mebibyte.
const SHOWN: usize = 400;

/// A class' words on one line: no tenant writes lines of their own into the log or the pod's events, nor turns
/// round those that are there. Long ones are cut.
pub fn shown(text: &str) -> String {
    let unprintable = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        c.is_control() || turns
    };
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= SHOWN {
            shown.push('…');
            break;
        }
        match unprintable(c) {
            true => shown.extend(c.escape_unicode()),
            false => shown.push(c),
        }
    }
    shown
}

/// One fault: which field, where in it, what is wrong and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The field: `roleName`, `objects[1].secretPath`.
    pub field: String,
    /// Line and column within `objects`, from 1.
    pub place: Option<(u64, u64)>,
    /// What is wrong. Carries no token, no secret and no argument of a request.
    pub problem: String,
    /// How to mend it.
    pub fix: String,
}

impl Fault {
    /// A fault of a whole field.
    pub fn new(
        field: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            field: field.into(),
            place: None,
            problem: problem.into(),
            fix: fix.into(),
        }
    }

    /// The same at a place within `objects`.
    #[must_use]
    pub fn at(mut self, line: u64, column: u64) -> Self {
        // Zero stands for an unknown place.
        self.place = (line > 0).then_some((line, column));
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shown(&self.field))?;
        if let Some((line, column)) = self.place {
            write!(f, " (line {line}, column {column})")?;
        }
        write!(f, ": {}: {}", shown(&self.problem), self.fix)
    }
}

/// Every fault of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of the class and the request; never empty in an error.
    pub faults: Vec<Fault>,
    /// Legal, but probably not meant: an unknown name may be the missing one, misspelt.
    pub warnings: Vec<String>,
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.faults.len() > 1;
        if more {
            write!(f, "{} faults: ", self.faults.len())?;
        }
        let mut told = 0;
        for (index, fault) in self.faults.iter().enumerate() {
            let text = match more {
                true => format!("({}) {fault}", index + 1),
                false => fault.to_string(),
            };
            told += text.len();
            if index > 0 && told > TOLD {
                return write!(f, "; … and {} more", self.faults.len() - index);
            }
            if index > 0 {
                f.write_str("; ")?;
            }
            f.write_str(&text)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_class_writes_no_lines_of_its_own() {
        let forged = "a\nlevel=ERROR forged\u{202e}\u{1b}[31m";
        let told = Fault::new(forged, forged, "mend it").to_string();
        assert!(!told.contains(['\n', '\u{202e}', '\u{1b}']), "{told:?}");
        assert!(told.contains("a\\u{a}level=ERROR"), "{told}");
    }

    #[test]
    fn a_class_cannot_flood() {
        let fault = Fault::new("é".repeat(1 << 20), "x".repeat(1 << 20), "mend it");
        let faults = Faults {
            faults: vec![fault; 500],
            ..Faults::default()
        };
        let told = faults.to_string();
        assert!(told.len() < 4096, "{}", told.len());
        assert!(
            told.starts_with("500 faults: (1) é") && told.ends_with("; … and 496 more"),
            "{told}"
        );
    }
}
