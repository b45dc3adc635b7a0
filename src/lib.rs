//! Leasehold

pub mod clock;
pub mod grant;
pub mod redacted;
pub mod spec;
