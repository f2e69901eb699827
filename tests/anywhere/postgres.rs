//! Readiness against a real PostgreSQL: the first query works, every time.

use crate::support::need;
use crate::support::place::{Place, block_on};
use crate::support::postgres;
use coracle::{Container, ContainerBuilder, ContainerStream, Error, Wait};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// The fixture: a function that returns a description.
fn fixture(place: &Place, image: &Path) -> ContainerBuilder {
    Container::from_oci_layout(image)
        .engine(place.engine())
        .env("MARK", place.path())
        .wait(Wait::port(5432).and(Wait::exec(["pg_isready", "-q", "-h", "127.0.0.1"])))
        .startup_timeout(Duration::from_secs(900))
}

fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let mut bytes: Vec<u8> = kind.into_iter().collect();
    bytes.extend((body.len() as u32 + 4).to_be_bytes());
    bytes.extend(body);
    bytes
}

async fn receive(stream: &mut ContainerStream) -> std::io::Result<(u8, Vec<u8>)> {
    let kind = stream.read_u8().await?;
    let length = stream.read_u32().await?;
    let mut body = vec![0; length.saturating_sub(4) as usize];
    stream.read_exact(&mut body).await?;
    Ok((kind, body))
}

/// The first column of the first row, by as much of the protocol (https://www.postgresql.org/docs/current/protocol.html) as that takes.
async fn query(stream: &mut ContainerStream, database: &str, sql: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let startup = [&196_608u32.to_be_bytes()[..], b"user\0postgres\0database\0", database.as_bytes(), b"\0\0"].concat();
    stream.write_all(&message(None, &startup)).await.map_err(failed)?;
    let mut asked = false;
    let mut found = None;
    loop {
        match receive(stream).await.map_err(failed)? {
            (b'E', body) => return Err(String::from_utf8_lossy(&body).replace('\0', " ")),
            (b'R', body) if body != [0; 4] => return Err("it wants a password".into()),
            (b'Z', _) if asked => return found.ok_or_else(|| "no row".into()),
            (b'Z', _) => {
                asked = true;
                stream.write_all(&message(Some(b'Q'), &[sql.as_bytes(), b"\0"].concat())).await.map_err(failed)?;
            }
            // Number of columns, length of the first, the first.
            (b'D', body) => {
                let length = u32::from_be_bytes(body[2..6].try_into().expect("four bytes")) as usize;
                found = Some(String::from_utf8_lossy(&body[6..6 + length]).into_owned());
            }
            _ => {}
        }
    }
}

/// Starts so many, one after another, each with a first query that has to work.
fn in_a_row(count: usize) -> Vec<Duration> {
    let mut place = Place::empty();
    let image = postgres::image(place.path());
    place.look_again();
    let mut times = Vec::new();
    for n in 0..count {
        let begun = Instant::now();
        let container = block_on(fixture(&place, &image).run()).unwrap_or_else(|error| panic!("{n}: {error}"));
        let answer = block_on(async {
            let mut stream = container.connect(5432).await.map_err(|error| error.to_string())?;
            query(&mut stream, "app", "select current_database() || ' ' || 6 * 7").await
        });
        times.push(begun.elapsed());
        assert_eq!(answer.as_deref(), Ok("app 42"), "{n}: the first query");
        if n == 0 {
            // By its Unix socket too, and by psql in there.
            let mut stream = block_on(container.connect_unix("/run/postgresql/.s.PGSQL.5432")).expect("it listens there");
            assert_eq!(block_on(query(&mut stream, "postgres", "select 1")).as_deref(), Ok("1"));
            let out = block_on(container.exec(["psql", "-h", "127.0.0.1", "-tAc", "select 2 + 3", "app"]).user("postgres").output());
            assert_eq!(out.expect("psql runs").stdout_lossy(), "5\n");
            // It did start twice.
            let log = container.logs().collect().expect("it is kept");
            let ready = log.iter().filter(|line| line.text().contains("database system is ready to accept connections")).count();
            assert_eq!(ready, 2, "{log:?}");
            let status = block_on(container.stop(Duration::from_secs(600))).expect("it ends");
            assert_eq!(status.code(), Some(0), "a fast shutdown by the image's signal");
        }
        block_on(container.remove()).expect("all is taken back");
    }
    times.sort();
    times
}

#[test]
fn the_first_query_of_a_fixture_works() {
    need!(Postgres);
    in_a_row(3);
}

#[test]
#[ignore = "soak: fifty fixtures of PostgreSQL"]
fn the_first_query_of_fifty_fixtures_in_a_row_works() {
    need!(Postgres);
    let times = in_a_row(50);
    println!(
        "RESULT: PostgreSQL, 50 fixtures in a row: each first query worked; from run() to its answer p50 {:.1?}, worst {:.1?}",
        times[25], times[49]
    );
}

#[test]
fn a_database_that_does_not_come_up_tells_why() {
    need!(Postgres);
    let place = Place::empty();
    let image = postgres::image(place.path());
    let described = fixture(&place, &image).env("PGDATA", "/proc/data");
    let error = block_on(described.run()).expect_err("there is no room in /proc");
    let Error::Wait(failure) = &error else { panic!("{error}") };
    assert_eq!((failure.part.as_str(), failure.status.map(|status| status.success())), ("port 5432", Some(false)));
    assert!(failure.log.iter().any(|line| line.text().contains("/proc/data")), "{error}");
}

#[test]
fn the_example_runs() {
    // As root: other users' tests may not look into the tree that it was built in.
    need!(Root, Postgres);
    let beside = std::env::current_exe().expect("a test knows its program");
    let beside = beside.parent().and_then(Path::parent).expect("target/debug/deps").join("examples/postgres");
    // The tiers run a copy of this program from elsewhere.
    let built = crate::support::repository().join("target/debug/examples/postgres");
    let example = if beside.is_file() { beside } else { built };
    if !example.is_file() {
        // A run of this test alone builds no examples.
        assert!(std::env::var_os("CORACLE_CI").is_none(), "{} isn't there", example.display());
        return;
    }
    let place = Place::empty();
    let image = postgres::image(place.path());
    let out = std::process::Command::new(example).arg(&image).env("CORACLE_ROOT", place.path().join("store")).output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success() && said.contains("6 * 7 = 42"), "{said}{}", String::from_utf8_lossy(&out.stderr));
}
