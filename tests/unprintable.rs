//! What holds a secret has neither `Debug` nor `Display` nor `Serialize`: a log line, an error or a dump of it
//! does not compile. Nor does this file where one of them is added.
//!
//! (The journal's records are the one exception, private to `registry::record`.)

use std::fmt::{Debug, Display};

use leasehold::grant::{Grant, Session};
use leasehold::mount::Mounted;
use leasehold::params::{Attributes, Parsed, PodToken, PodTokens};
use leasehold::provider::proto::{File as SentFile, MountRequest, MountResponse};
use leasehold::redacted::{Secret, SecretBytes};
use leasehold::render::File;
use serde::Serialize;

/// Does not compile where a type has one of the traits: the name of the method is ambiguous then.
macro_rules! without {
    ($($traits:ident),+ for $types:tt) => { $(without!(@one $traits for $types);)+ };
    (@one $trait:ident for [$($type:ty),+ $(,)?]) => {
        $(const _: fn() = || {
            struct Found;
            trait Ambiguous<Which> { fn look() {} }
            impl<T: ?Sized> Ambiguous<()> for T {}
            impl<T: ?Sized + $trait> Ambiguous<Found> for T {}
            let _ = <$type as Ambiguous<_>>::look;
        };)+
    };
}

without!(Debug, Display, Serialize for [
    Secret,
    SecretBytes,
    Session,
    Grant,
    File,
    Mounted,
    PodToken,
    PodTokens,
    Parsed,
    Attributes<'static>,
    MountRequest,
    MountResponse,
    SentFile,
]);
