//! Engines that are measured: the program `coracle`, and daemons of the field's, each with directories of its own, which end with the value.

use super::bench::Result;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// One that runs, as a process.
pub(crate) struct Daemon(pub(crate) Child);

impl Daemon {
    /// Starts it, and waits until a client of it works.
    pub(crate) fn start(mut command: Command, log: &Path, ready: &[String]) -> Result<Self> {
        let file = File::create(log)?;
        let mut daemon = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        let begun = Instant::now();
        loop {
            let mut client = Command::new(&ready[0]);
            client.args(&ready[1..]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            if client.status()?.success() {
                return Ok(Self(daemon));
            }
            if daemon.try_wait()?.is_some() || begun.elapsed() > Duration::from_secs(60) {
                let _ = daemon.kill();
                let _ = daemon.wait();
                let said = fs::read_to_string(log)?;
                return Err(said.lines().last().unwrap_or("it doesn't answer").to_owned().into());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Docker's, below a directory, with nothing of the machine's network; and the words that ask it for something.
    pub(crate) fn docker(home: &Path) -> Result<(Self, Vec<String>)> {
        fs::create_dir_all(home.join("config"))?;
        let at = |name: &str| home.join(name).display().to_string();
        let host = format!("unix://{}", at("socket"));
        let mut daemon = Command::new("dockerd");
        daemon.args(["--data-root", &at("data"), "--exec-root", &at("exec"), "--pidfile", &at("pid"), "--host", &host]);
        daemon.args(["--iptables=false", "--ip6tables=false", "--ip-forward=false", "--bridge=none", "--storage-driver=overlay2"]);
        let docker = if Path::new("/usr/bin/docker").exists() { "/usr/bin/docker" } else { "docker" };
        let words: Vec<String> = [docker, "--config", &at("config"), "--host", &host].map(str::to_owned).into();
        let mut ready = words.clone();
        ready.push("version".into());
        Ok((Self::start(daemon, &home.join("log"), &ready)?, words))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let begun = Instant::now();
        while matches!(self.0.try_wait(), Ok(None)) {
            if begun.elapsed() > Duration::from_secs(10) {
                let _ = self.0.kill();
                let _ = self.0.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The program `coracle`: what `cargo xtask bench` built, or what lies beside this program, target/release/deps/….
pub(crate) fn coracle() -> Result<String> {
    let beside = std::env::current_exe()?.ancestors().nth(2).map(|directory| directory.join("coracle").display().to_string());
    Ok(std::env::var("CORACLE_PROGRAM").ok().or(beside).ok_or("no directory")?)
}
