//! A store and a sink of a test's own, and how the tests' pulls reach registries.

use std::fs;
use std::future::Future;
use std::sync::Arc;

use coracle_image::{Error, Image, Puller, RegistryClient, Store};

use super::Memory;

#[track_caller]
pub fn assert_error(error: &Error, text: &str, remedy: Option<&str>) {
    assert_eq!(error.to_string(), text);
    assert_eq!(error.remedy().as_deref(), remedy, "{text}");
}

pub struct Place {
    pub dir: tempfile::TempDir,
    pub store: Store,
    pub sink: Arc<Memory>,
}

impl Place {
    pub fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        Place { dir, store, sink: Arc::default() }
    }

    pub fn pull_with(&self, puller: &Puller, name: &str) -> Result<Image, Error> {
        puller.pull_blocking(&self.store, &name.parse().unwrap(), self.sink.clone())
    }

    pub fn pull(&self, name: &str) -> Result<Image, Error> {
        self.pull_with(&puller(), name)
    }

    pub fn ingesting(&self) -> usize {
        fs::read_dir(self.store.path().join("ingest")).unwrap().count()
    }
}

/// For linux/amd64 and without this machine's credentials.
pub fn puller() -> Puller {
    Puller::new().platform("linux/amd64".parse().unwrap()).auth_file("/nonexistent/auth.json")
}

/// How the tests' pulls reach registries: without this machine's credentials.
pub fn client() -> RegistryClient {
    RegistryClient::new().auth_file("/nonexistent/auth.json")
}

/// One that gives up at once.
pub fn hasty() -> Puller {
    puller().client(client().retries(0))
}

/// Whether this is the process that a test runs in with variables of its own. In the test's own process it starts that one, which runs
/// the test of this name alone, and waits for it to succeed.
pub fn alone(test: &str, variables: &[(&str, &str)]) -> bool {
    const CHILD: &str = "CORACLE_TEST_ALONE";
    if std::env::var_os(CHILD).is_some() {
        return true;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--nocapture"]).env(CHILD, "1").envs(variables.iter().copied());
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Runs a future to its end.
pub fn wait<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
