//! Compiles the default system call filter, and the supervisor: a freestanding program with the compiler and the linker that every Rust toolchain carries.
//!
//! cargo can't do it (a dependency on a binary for another "platform" is unstable), and a prebuilt program in the package
//! would be one that nobody can read. It takes a second and needs neither libc nor a C compiler. `CORACLE_SUPERVISOR=/path`
//! embeds a program built elsewhere. Off Linux and on docs.rs the file is empty: the crate documents, and says so at run time.

// The filter compiler of the crate, which this script runs once for all.
#[allow(dead_code, unexpected_cfgs, unreachable_pub, missing_docs)]
#[path = "src/seccomp/mod.rs"]
mod seccomp;

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=supervisor");
    println!("cargo::rerun-if-env-changed=CORACLE_SUPERVISOR");
    println!("cargo::rerun-if-env-changed=RUSTC_LINKER");
    println!("cargo::rerun-if-changed=src/seccomp");
    let out = PathBuf::from(variable("OUT_DIR"));
    std::fs::write(out.join("default.bpf"), default_filter()).expect("write the default filter");
    println!("cargo::rustc-check-cfg=cfg(coracle_filter_is_compiled)");
    println!("cargo::rustc-cfg=coracle_filter_is_compiled");
    let out = out.join("supervisor");
    let os = variable("CARGO_CFG_TARGET_OS");
    if os != "linux" || env::var_os("DOCS_RS").is_some() {
        std::fs::write(&out, []).expect("write an empty supervisor");
    } else if let Some(prebuilt) = env::var_os("CORACLE_SUPERVISOR") {
        println!("cargo::rerun-if-changed={}", Path::new(&prebuilt).display());
        std::fs::copy(&prebuilt, &out).unwrap_or_else(|e| panic!("CORACLE_SUPERVISOR={}: {e}", prebuilt.display()));
    } else {
        build(&out);
    }
}

/// What nearly every container gets, compiled here: at run time it would be a tenth of a short program's start.
fn default_filter() -> Vec<u8> {
    let architecture = match variable("CARGO_CFG_TARGET_ARCH").as_str() {
        "x86_64" => seccomp::Architecture::X86_64,
        "aarch64" => seccomp::Architecture::Aarch64,
        // The crate itself says why it can't be built there.
        _ => return Vec::new(),
    };
    seccomp::compile_default(architecture, false, seccomp::DOCKERS_CAPABILITIES).as_bytes().to_vec()
}

fn build(out: &Path) {
    let target = variable("TARGET");
    let rustc = variable("RUSTC");
    let lld = ["-Clinker-flavor=ld.lld", "-Clinker=rust-lld", "-Clink-arg=-Tsupervisor/link.ld", "-Clink-arg=--no-eh-frame-hdr"];
    let mut attempts = vec![lld.map(String::from).to_vec()];
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        attempts.push(vec![
            format!("-Clinker={linker}"),
            "-Clink-arg=-nostartfiles".into(),
            "-Clink-arg=-nostdlib".into(),
            "-Clink-arg=-static".into(),
        ]);
    }
    attempts.push(vec![
        "-Clinker=cc".into(),
        "-Clink-arg=-nostartfiles".into(),
        "-Clink-arg=-nostdlib".into(),
        "-Clink-arg=-static".into(),
    ]);

    let mut complaints = String::new();
    for linker in attempts {
        // RUSTC itself and none of the owner's RUSTFLAGS or wrappers: this program isn't theirs.
        let output = Command::new(&rustc)
            .args(["supervisor/main.rs", "--crate-name", "coracle_supervisor", "--edition", "2024", "--crate-type", "bin"])
            .args(["--target", &target])
            // For size: the text is most of what a waiting supervisor and init hold, and nothing in it is hot.
            .args(["-Cpanic=abort", "-Copt-level=z", "-Clto=fat", "-Ccodegen-units=1", "-Crelocation-model=static", "-Cstrip=symbols"])
            .args(["-Cforce-unwind-tables=no", "-Cdebuginfo=0", "-Coverflow-checks=yes"])
            // The musl targets bring start files of their own, whose `_start` would stand beside ours. Elsewhere older compilers
            // refuse the word.
            .args(target.ends_with("musl").then_some("-Clink-self-contained=no"))
            .args(&linker)
            .arg("-o")
            .arg(out)
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_ENCODED_RUSTFLAGS")
            .output()
            .unwrap_or_else(|e| panic!("run {rustc}: {e}"));
        if output.status.success() {
            return;
        }
        complaints += &format!("\nwith {}:\n{}", linker.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    panic!("can't build the supervisor for {target}; CORACLE_SUPERVISOR=/path takes a prebuilt one{complaints}");
}

fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| panic!("cargo sets {name}"))
}
