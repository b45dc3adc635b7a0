//! What is wrong with a request, in words fit for `kubectl describe pod`.

use std::fmt;

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
        write!(f, "{}", self.field)?;
        if let Some((line, column)) = self.place {
            write!(f, " (line {line}, column {column})")?;
        }
        write!(f, ": {}: {}", self.problem, self.fix)
    }
}

/// Every fault of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Of the class and the request; never empty in an error, unless the token is the only fault.
    pub faults: Vec<Fault>,
    /// Legal, but probably not meant: an unknown name may be the missing one, misspelt.
    pub warnings: Vec<String>,
    /// The class is right, but the pod's token has expired.
    pub expired_token: bool,
}

impl Faults {
    /// Whether all that is wrong is a token that has expired.
    #[must_use]
    pub fn only_expired_token(&self) -> bool {
        self.expired_token && self.faults.len() == 1
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.faults.len() > 1;
        if more {
            write!(f, "{} faults: ", self.faults.len())?;
        }
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            if more {
                write!(f, "({}) ", index + 1)?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}
