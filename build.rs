//! Compiles the driver's protocol in pure Rust: no `protoc` on the machine is needed.

use std::error::Error;

const PROTO: &str = "v1alpha1/service.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto/{PROTO}");
    println!(
        "cargo::rustc-env=LEASEHOLD_TARGET={}",
        std::env::var("TARGET")?
    );
    let descriptors = protox::compile([PROTO], ["proto"])?;
    tonic_prost_build::configure()
        // The driver alone dials; our tests bring their own channel.
        .build_transport(false)
        .bytes(".v1alpha1.File.contents")
        // These three carry tokens or file contents: printing one must not compile.
        .skip_debug([
            ".v1alpha1.MountRequest",
            ".v1alpha1.MountResponse",
            ".v1alpha1.File",
        ])
        .compile_fds(descriptors)?;
    Ok(())
}
