//! cargo run -p coracle-netns --example loopback   (root)
//!
//! Makes a network namespace, serves on its 127.0.0.1 and talks to it from inside, and shows that this machine's own
//! 127.0.0.1 is another one. Exits with 1 when anything isn't so.

use std::error::Error;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;

use coracle_netns::NetNs;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(remedy) = error.downcast_ref::<coracle_netns::Error>().and_then(coracle_netns::Error::remedy) {
                eprintln!("  fix: {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let inside = NetNs::new()?;
    let listener = inside.run(|| TcpListener::bind("127.0.0.1:0"))??;
    let address = listener.local_addr()?;
    println!("a server listens on {address}, inside");

    match TcpStream::connect(address) {
        Ok(_) => return Err("the host reached a server inside".into()),
        Err(error) => println!("from the host: {error}"),
    }

    // Opened inside, used out here.
    let mut client = inside.run(|| TcpStream::connect(address))??;
    let (mut server, peer) = listener.accept()?;
    server.write_all(b"hello from inside")?;
    drop(server);
    let mut text = String::new();
    client.read_to_string(&mut text)?;
    println!("from inside, as {peer}: {text}");
    if text != "hello from inside" {
        return Err("the text was lost".into());
    }
    Ok(())
}
