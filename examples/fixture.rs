//! cargo run --example fixture — as root or as a plain user.
//!
//! A ready-made fixture is a function that returns a `ContainerBuilder`; whoever uses it goes on describing. Here a key-value "server"
//! made of a shell that answers on its standard output, kept in a `static` as tests do: it ends with this process, however that ends.

use coracle::{Container, ContainerBuilder, Error};
use std::sync::OnceLock;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// The fixture.
fn upper_case_server() -> ContainerBuilder {
    Container::from_rootfs("/").cmd(["sh", "-c", "while read -r line; do echo \"$line\" | tr a-z A-Z; done"]).label("fixture", "upper-case")
}

static SERVER: OnceLock<Container> = OnceLock::new();

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let mut server = upper_case_server().env("LANG", "C").spawn().await?;
    let (Some(mut input), Some(output)) = (server.stdin.take(), server.stdout.take()) else { unreachable!("spawn() makes pipes") };
    let server = SERVER.get_or_init(|| server);

    let mut lines = BufReader::new(output).lines();
    for word in ["hello", "world"] {
        let answered = async {
            input.write_all(format!("{word}\n").as_bytes()).await?;
            lines.next_line().await
        };
        println!("{word} -> {:?}", answered.await.expect("the pipes are open"));
    }
    println!("container {} is PID {} here", server.id(), server.pid());
    server.remove().await
}
