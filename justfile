# The commands of this house. `just` alone lists them.

default:
    @just --list

# Everything that must hold before a change lands
ci:
    .ci/run

# Format, lint
lint:
    cargo fmt --all
    cargo clippy --workspace --all-targets -- -D warnings

# All tests
test:
    cargo test --workspace

# The contract suite, also against a real server: just contract /usr/local/bin/bao
contract program:
    LEASEHOLD_TEST_VAULT={{program}} cargo test -p dev-vault --test contract

# Half a minute's tour
quickstart:
    cargo run --example quickstart

# Mounts a second against the bare calls, and memory after many volumes
bench *args:
    cargo bench --bench cost -- {{args}}

# Restarts, rolling updates and the return from an outage with a node full of volumes
scale *parts:
    cargo bench --bench scale -- {{parts}}

# Random lives, kills and faults: just chaos --scoped --cycles 10000 --seed 7 --at-once 160
chaos *args:
    cargo test --test chaos -- {{args}}

# One fuzz target guided by coverage, against the locked dependencies: just fuzz replies -max_total_time=600
fuzz target *args:
    cp Cargo.lock fuzz/Cargo.lock
    cargo +nightly fuzz run {{target}} -- -max_len=16384 -timeout=10 {{args}}

# What is in the shipped binary, as CycloneDX JSON: leasehold_bin.cdx.json
sbom:
    cargo cyclonedx --format json --spec-version 1.5 --describe binaries --target x86_64-unknown-linux-musl

# The shipped binary
build:
    cargo build --release
