//! `leasehold check FILE…`: SecretProviderClasses of manifests, judged without a cluster by the daemon's own
//! parser, so that the two cannot disagree. `leasehold schema`: what editors need to know of `objects`.

mod advice;
mod manifest;
mod report;
pub mod schema;
mod synced;
mod workload;

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use serde_json::json;

use self::advice::About;
use self::manifest::{Class, Document};
use self::report::{Finding, Level};
use self::synced::Synced;
use crate::params::{self, Attributes, Defaults, Fault, Flavour};
use crate::spec::Tls;

/// How findings are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// A line each, for people and editors: `file:line:column: level: text`.
    Text,
    /// One JSON list.
    Json,
    /// SARIF 2.1.0, for code review.
    Sarif,
}

/// Check SecretProviderClasses of manifests without a cluster
#[derive(Parser)]
#[command(name = "leasehold check", bin_name = "leasehold check")]
struct Flags {
    /// Manifests in YAML or JSON; `-` is the standard input
    #[arg(required = true)]
    files: Vec<String>,
    /// How findings are written
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Let warnings count as faults
    #[arg(long)]
    deny_warnings: bool,
    /// Served as this provider: `vault` or `openbao`; classes of neither are passed over
    #[arg(long)]
    provider: Option<String>,
}

/// Runs the command over its arguments, with the program's name in front.
///
/// Exit code 0 where every class is valid, 1 where one is wrong, 2 where it could not run.
#[must_use]
pub fn run(arguments: impl IntoIterator<Item = String>) -> ExitCode {
    let flags = match Flags::try_parse_from(arguments) {
        Ok(flags) => flags,
        Err(told) => {
            // Asked for help, or misused: clap knows the stream. There is nobody else to tell.
            let _ = told.print();
            return ExitCode::from(if told.use_stderr() { 2 } else { 0 });
        }
    };
    let mut files = Vec::new();
    for file in &flags.files {
        match read(file) {
            Ok(text) => files.push((file.as_str(), manifest::documents(&text))),
            Err(error) => {
                eprintln!("{file}: {error}");
                return ExitCode::from(2);
            }
        }
    }
    let mut findings = Vec::new();
    let mut classes = Vec::new();
    for (file, documents) in &files {
        check(
            file,
            documents,
            flags.provider.as_deref(),
            &mut classes,
            &mut findings,
        );
    }
    // A Pod's class may stand in a later file.
    for (file, documents) in &files {
        for document in documents {
            if let Document::Workload(workload) = document {
                for (place, text) in workload.judge(&classes) {
                    findings.push(Finding::warning(file, place, &workload.name, text));
                }
            }
        }
    }
    let order = |finding: &Finding| files.iter().position(|(file, _)| finding.is_in(file));
    findings.sort_by_key(|finding| (order(finding), finding.place));
    let classes = classes.len();
    let text = report::write(&findings, classes, flags.output);
    if let Err(error) = io::stdout().write_all(text.as_bytes()) {
        eprintln!("the standard output: {error}");
        return ExitCode::from(2);
    }
    let wrong = findings.iter().any(|finding| match finding.level {
        Level::Error => true,
        Level::Warning => flags.deny_warnings,
        Level::Note => false,
    });
    ExitCode::from(u8::from(wrong))
}

fn read(file: &str) -> io::Result<String> {
    if file == "-" {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text)?;
        return Ok(text);
    }
    fs::read_to_string(Path::new(file))
}

/// Adds what is found in a file, and what its classes sync.
fn check(
    file: &str,
    documents: &[Document],
    provider: Option<&str>,
    classes: &mut Vec<Synced>,
    findings: &mut Vec<Finding>,
) {
    for document in documents {
        match document {
            Document::Broken { place, problem } => {
                findings.push(Finding::error(file, *place, "", problem.clone()));
            }
            Document::Class(class) => {
                let served = class.provider.as_deref().unwrap_or_default();
                let ours =
                    provider.map_or(matches!(served, "vault" | "openbao"), |ours| ours == served);
                if ours {
                    classes.push(judge(file, class, findings));
                } else {
                    let text = format!("provider {served:?} is another's: passed over");
                    findings.push(Finding::note(file, class.place, &class.name, text));
                }
            }
            Document::Driver(driver) => {
                for (place, text) in advice::of_driver(driver) {
                    findings.push(Finding::warning(file, place, &driver.name, text));
                }
            }
            // Judged when all classes are known.
            Document::Workload(_) => {}
        }
    }
}

/// Asks the daemon's parser what it would say of a class, as if a pod mounted it.
fn judge(file: &str, class: &Class, findings: &mut Vec<Finding>) -> Synced {
    for (text, place) in &class.not_text {
        findings.push(Finding::error(file, *place, &class.name, text.clone()));
    }
    let attributes = attributes(class);
    let message = Attributes {
        attributes: &attributes,
        secrets: "{}",
        target_path: "/var/lib/kubelet/pods/uid/volumes/kubernetes.io~csi/secrets/mount",
        permission: "420",
    };
    let openbao = class.provider.as_deref() == Some("openbao");
    let defaults = Defaults {
        flavour: if openbao {
            Flavour::OpenBao
        } else {
            Flavour::Vault
        },
        address: None,
        agent_address: None,
        namespace: None,
        auth_mount: "kubernetes".to_owned(),
        tls: Tls::default(),
    };
    let (parsed, faults) = match params::examine(&message, &defaults) {
        Ok(examined) => (Some(examined.parsed), examined.faults),
        Err(unreadable) => (None, unreadable.faults),
    };
    let mut is_faulty = BTreeSet::new();
    let is_sound = faults.is_empty();
    for fault in faults {
        let place = class.place_of_fault(&fault);
        let Fault {
            field,
            problem,
            fix,
            ..
        } = fault;
        let text = format!("{field}: {problem}: {fix}");
        findings.push(Finding::error(file, place, &class.name, text));
        is_faulty.insert(field.split('[').next().unwrap_or_default().to_owned());
    }
    let spec = parsed.map(|parsed| {
        findings.extend(unknown(file, class, parsed.warnings));
        parsed.spec
    });
    // What is legal and unwise is told beside what is wrong: nobody wants to run this twice.
    for (about, text) in spec.iter().flat_map(advice::of_class) {
        let place = match about {
            About::Parameter(name) if !is_faulty.contains(name) => class.place_of(name),
            About::Object(name) => class.place_of_object(name),
            // The other one may be there, with a fault.
            About::Alone(name) if !is_faulty.contains("objects") => class.place_of_object(name),
            About::Parameter(_) | About::Alone(_) => continue,
        };
        findings.push(Finding::warning(file, place, &class.name, text));
    }
    let spec = spec.filter(|_| is_sound);
    for (level, place, text) in synced::judge(class, spec.as_ref()) {
        findings.push(Finding::new(level, file, place, &class.name, text));
    }
    Synced::of(class, spec.as_ref())
}

fn unknown(file: &str, class: &Class, warnings: Vec<String>) -> impl Iterator<Item = Finding> {
    warnings.into_iter().map(move |text| {
        let place = class.place_of_name(&text);
        Finding::warning(file, place, &class.name, text)
    })
}

/// The attributes as the driver would compose them. Without a token: whose it
/// would be is not the class' affair.
fn attributes(class: &Class) -> String {
    let mut map = serde_json::Map::new();
    for (name, value) in &class.parameters {
        map.insert(name.clone(), json!(value));
    }
    for (name, value) in [
        ("csi.storage.k8s.io/pod.name", "pod"),
        ("csi.storage.k8s.io/pod.namespace", "namespace"),
        ("csi.storage.k8s.io/pod.uid", "uid"),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/ephemeral", "true"),
        ("secretProviderClass", class.name.as_str()),
    ] {
        map.insert(name.to_owned(), json!(value));
    }
    serde_json::Value::Object(map).to_string()
}
