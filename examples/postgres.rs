//! cargo run --example postgres [-- OCI-LAYOUT] — as root, or as a plain user with sub-ids.
//!
//! A PostgreSQL for a test: a function that describes it, a handle that ends with the test, and a query. It needs no network, and no port of
//! this machine: `connect(5432)` gives a stream into the container, which any client that takes one speaks over. Without an argument it is
//! the official image.

use coracle::{Container, ContainerBuilder, Wait};
use std::time::Duration;

/// The fixture. Whoever uses it goes on describing.
fn postgres() -> ContainerBuilder {
    let container = match std::env::args_os().nth(1) {
        Some(layout) => Container::from_oci_layout(layout),
        None => Container::from_image("postgres:16"),
    };
    container
        .env("POSTGRES_HOST_AUTH_METHOD", "trust")
        .env("POSTGRES_DB", "app")
        // The image serves while it makes its tables, stops, and serves anew; that first server listens at no port.
        .wait(Wait::port(5432).and(Wait::exec(["pg_isready", "-h", "127.0.0.1"])))
        .startup_timeout(Duration::from_secs(300))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), coracle::Error> {
    let database = postgres().run().await?;
    let query = ["psql", "-h", "127.0.0.1", "-U", "postgres", "-tAc", "select 6 * 7", "app"];
    let out = database.exec(query).output().await?;
    print!("6 * 7 = {}", out.stdout_lossy());
    // What a client is given that speaks the protocol itself.
    let stream = database.connect(5432).await?;
    drop(stream);
    database.stop(Duration::from_secs(10)).await?;
    database.remove().await
}
