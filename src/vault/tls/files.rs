//! The certificates and keys that settings name, within bounds: a tenant names the files.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::TlsError;
use super::certificate;
use super::chain::Trusted;
use super::pem::{Block, Blocks};
use super::places::TlsFiles;
use crate::spec::Tls;

/// In bytes: some eight times the CAs of a system.
const LARGEST_FILE: u64 = 2 * 1024 * 1024;
/// The files of a directory together, in bytes.
const LARGEST_DIRECTORY: u64 = 4 * 1024 * 1024;
/// More than a system's own directory, `/etc/ssl/certs`, has.
const MOST_FILES: usize = 4096;
/// Directories within one another.
const DEEPEST: usize = 8;

/// What tells one state of the files that settings name from another. A ConfigMap or Secret that is rotated
/// gets new files behind its links.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Vec<State>);

/// One file, links followed. The time of its last change (`ctime`) tells of a rewrite that keeps length and
/// time of modification, as `cp -p` and `touch` leave them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct State {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Whether settings name files, which may be rotated.
pub fn names_files(settings: &Tls) -> bool {
    named(settings).next().is_some()
}

fn named(settings: &Tls) -> impl Iterator<Item = &PathBuf> {
    let files = [
        &settings.ca_file,
        &settings.ca_directory,
        &settings.client_certificate,
        &settings.client_key,
    ];
    files.into_iter().flatten()
}

/// The state of the files now. It may take as long as their file system does.
pub fn fingerprint(settings: &Tls) -> Fingerprint {
    let listed = settings.ca_directory.iter().flat_map(|directory| {
        // What cannot be listed is told when it is read.
        listed(directory, MOST_FILES).unwrap_or_default()
    });
    let mut states: Vec<_> = named(settings)
        .cloned()
        .chain(listed)
        .filter_map(|path| fs::metadata(path).ok())
        .map(|state| State {
            device: state.dev(),
            inode: state.ino(),
            length: state.len(),
            modified: (state.mtime(), state.mtime_nsec()),
            changed: (state.ctime(), state.ctime_nsec()),
        })
        .collect();
    // A directory lists its entries in any order.
    states.sort_unstable();
    Fingerprint(states)
}

/// Inline certificates over a file over a directory over the system's: the most particular wins.
pub fn trusted(settings: &Tls, places: &TlsFiles) -> Result<Trusted, TlsError> {
    let mut trusted = Trusted::default();
    let field = if let Some(pem) = &settings.ca_pem {
        add(&mut trusted, pem.as_bytes());
        "vaultCACert"
    } else if let Some(file) = &settings.ca_file {
        add(&mut trusted, &contents("vaultCACertPath", file, places)?);
        "vaultCACertPath"
    } else if let Some(directory) = &settings.ca_directory {
        let field = "vaultCADirectory";
        let refused = |source| unreadable(field, directory, source);
        places.check(directory).map_err(refused)?;
        let files = listed(directory, MOST_FILES).map_err(refused)?;
        let mut total = 0;
        for file in files {
            // A file that holds none is no fault: CA directories carry hash links and READMEs.
            let bytes = contents(field, &file, places)?;
            total += bytes.len() as u64;
            if total > LARGEST_DIRECTORY {
                return Err(refused(io::Error::other("has more than 4 MiB of files")));
            }
            add(&mut trusted, &bytes);
        }
        field
    } else {
        for certificate in rustls_native_certs::load_native_certs().certs {
            trusted.add(&certificate);
        }
        "the system's CA certificates"
    };
    if trusted.is_empty() {
        return Err(TlsError::Content {
            field,
            problem: "no usable CA certificate in PEM; name the server's CA by vaultCACertPath or -vault-tls-ca-cert".to_owned(),
        });
    }
    Ok(trusted)
}

/// As Go's `AppendCertsFromPEM`: what is no certificate, or a broken one, is passed over.
fn add(trusted: &mut Trusted, pem: &[u8]) {
    for block in Blocks::of(pem) {
        if block.label == b"CERTIFICATE" && !block.has_headers {
            trusted.add(&block.content);
        }
    }
}

/// Our certificate with its key, as Go's `tls.LoadX509KeyPair` takes them. Not by rustls' own check, which
/// reads no X.509 version 1: `openssl x509 -req` makes such client certificates, and the servers and Go's
/// clients take them.
pub fn identity(
    provider: &CryptoProvider,
    certificate: &Path,
    key: &Path,
    places: &TlsFiles,
) -> Result<CertifiedKey, TlsError> {
    let field = "vaultTLSClientCertPath";
    let refused = |problem: &str| TlsError::Content {
        field,
        problem: problem.to_owned(),
    };
    let bytes = contents(field, certificate, places)?;
    let blocks = Blocks::of(&bytes).filter(|block| block.label == b"CERTIFICATE");
    let chain: Vec<_> = blocks
        .map(|block| CertificateDer::from(block.content.to_vec()))
        .collect();
    let first = chain
        .first()
        .ok_or_else(|| refused("no certificate in PEM"))?;
    let theirs = certificate::parse(first)
        .ok_or_else(|| refused("its first certificate is broken"))?
        .key
        .info
        .to_vec();
    let key = private_key(provider, key, places)?;
    if let Some(ours) = key.public_key()
        && theirs != ours.as_ref()
    {
        return Err(TlsError::Content {
            field: "vaultTLSClientKeyPath",
            problem: "this key and the first certificate of vaultTLSClientCertPath do not belong together".to_owned(),
        });
    }
    Ok(CertifiedKey::new(chain, key))
}

/// The first private key of a file: parameters of a curve, or certificates, may stand before it.
fn private_key(
    provider: &CryptoProvider,
    path: &Path,
    places: &TlsFiles,
) -> Result<std::sync::Arc<dyn rustls::sign::SigningKey>, TlsError> {
    let field = "vaultTLSClientKeyPath";
    let refused = |problem: &str| TlsError::Content {
        field,
        problem: problem.to_owned(),
    };
    let bytes = contents(field, path, places)?;
    let is_key = |block: &Block<'_>| block.label.ends_with(b"PRIVATE KEY");
    let block = Blocks::of(&bytes)
        .find(is_key)
        .ok_or_else(|| refused("no private key in PEM (PKCS#1, PKCS#8 or SEC1, not encrypted)"))?;
    // By content, as Go does: some tools write PKCS#8 below another label.
    let content = || block.content.to_vec();
    [
        PrivateKeyDer::Pkcs8(content().into()),
        PrivateKeyDer::Pkcs1(content().into()),
        PrivateKeyDer::Sec1(content().into()),
    ]
    .into_iter()
    .find_map(|key| provider.key_provider.load_private_key(key).ok())
    .ok_or_else(|| match block.has_headers || block.label == b"ENCRYPTED PRIVATE KEY" {
        true => refused(
            "this private key is encrypted; decrypt it by `openssl pkey -in KEY -out PLAIN`",
        ),
        false => refused(
            "a private key of no usable kind: RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519",
        ),
    })
}

fn unreadable(field: &'static str, path: &Path, source: io::Error) -> TlsError {
    TlsError::Read {
        field,
        path: path.to_owned(),
        source,
    }
}

/// A file's content, a key's perhaps. Only a regular file of a certificate's size is read: a device would be
/// read without end, and a pipe would hold the thread.
fn contents(
    field: &'static str,
    path: &Path,
    places: &TlsFiles,
) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    let read = || {
        // Some devices act when they are opened.
        if !fs::metadata(path)?.is_file() {
            return Err(not_regular());
        }
        let file = open(path)?;
        places.check_opened(&file, path)?;
        let length = file.metadata()?.len().min(LARGEST_FILE);
        // Of its size at once: a buffer that grows leaves copies of a key that are not wiped.
        let room = usize::try_from(length).unwrap_or_default() + 2;
        let mut bytes = Zeroizing::new(Vec::with_capacity(room));
        file.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(io::Error::other("is larger than 2 MiB"));
        }
        Ok(bytes)
    };
    read().map_err(|source| unreadable(field, path, source))
}

/// Opens a regular file. Whoever named it may have put a pipe into its place since it was looked at, which
/// would be waited for without `O_NONBLOCK`.
pub fn open(path: &Path) -> io::Result<fs::File> {
    let flags = OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let mut options = fs::OpenOptions::new();
    let options = options.read(true).custom_flags(flags.bits().cast_signed());
    let file = options.open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(not_regular()),
    }
}

fn not_regular() -> io::Error {
    io::Error::other("is no regular file")
}

/// Every regular file below a directory, links to files followed, links to directories not, as Go walks it.
/// Unlike Go, which fails there, we pass over the link `..data` by which a ConfigMap mounts its files.
pub fn listed(directory: &Path, most: usize) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut ahead = vec![(directory.to_owned(), 0)];
    while let Some((directory, depth)) = ahead.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if depth < DEEPEST {
                    ahead.push((path, depth + 1));
                }
            } else if fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
                // A dangling link is no certificate, and no reason to distrust the others.
                found.push(path);
            }
            if found.len() + ahead.len() > most {
                return Err(io::Error::other(format!("has more than {most} files")));
            }
        }
    }
    Ok(found)
}
