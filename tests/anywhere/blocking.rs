//! The face without futures: the same lives, from plain threads and from threads of whatever runtime.

use crate::support::image::{Compressed, Layout};
use crate::support::need;
use crate::support::place::Place;
use coracle::blocking::{Container, ContainerBuilder, Engine};
use coracle::{Network, Reason, Signal, State, Wait};
use serde_json::json;
use std::io::{Read as _, Write as _};
use std::time::Duration;

/// Whatever blocks is to block on all of these alike. None of them makes anything happen elsewhere while its only thread is held.
fn on_every_kind_of_thread(work: fn()) {
    work();
    let current = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    current.block_on(async { work() });
    let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts");
    many.block_on(async { tokio::spawn(async move { work() }).await }).expect("it doesn't panic");
    many.block_on(async { tokio::task::spawn_blocking(work).await }).expect("it doesn't panic");
}

fn sh(place: &Place, line: &str) -> ContainerBuilder {
    place.sh(line).blocking()
}

#[test]
fn a_life_is_the_same_on_every_kind_of_thread() {
    need!(Busybox, UserNamespaces);
    on_every_kind_of_thread(|| {
        let place = Place::new();
        let out = sh(&place, "cat; echo err >&2; exit 3").stdin_bytes("in").output().expect("it runs");
        assert_eq!((out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref(), out.status.code()), ("in", "err\n", Some(3)));

        let container = sh(&place, "echo said; trap 'exit 7' TERM; while :; do sleep 0.05; done").run().expect("it runs");
        container.wait_for(Wait::log("said"), Duration::from_secs(30)).expect("it says so");
        let out = container.exec(["sh", "-c", "echo $WORD"]).env("WORD", "inside").output().expect("it is executed");
        assert_eq!(out.stdout_lossy(), "inside\n");
        let exec = container.exec(["sleep", "1000"]).spawn().expect("it is executed");
        assert_eq!(container.execs().expect("they are listed").len(), 1);
        exec.kill().expect("it ends");
        assert_eq!(exec.wait().expect("it ended").reason(), Reason::Killed);
        container.fs().write("/tmp/file", "written").expect("it can be written");
        assert_eq!(container.fs().read("/tmp/file").expect("it can be read"), b"written");
        assert_eq!(container.stop(Duration::from_secs(30)).expect("it ends").code(), Some(7));
        let lines: Vec<_> = container.logs().follow().expect("it is kept").map(|line| line.expect("a line").text().into_owned()).collect();
        assert_eq!(lines, ["said"]);
        container.remove().expect("all is taken back");
        place.assert_clean();
    });
}

#[test]
fn pipes_are_std_readers_and_writers() {
    need!(Busybox, UserNamespaces);
    on_every_kind_of_thread(|| {
        let place = Place::new();
        let mut container = sh(&place, "cat; echo end >&2").spawn().expect("it starts");
        let (mut stdin, mut stdout) = (container.stdin.take().expect("a pipe"), container.stdout.take().expect("a pipe"));
        // More than pipes hold: whoever writes waits for whoever reads.
        let sent = vec![b'x'; 1 << 20];
        let writer = std::thread::spawn(move || stdin.write_all(&sent));
        let mut came = Vec::new();
        stdout.read_to_end(&mut came).expect("it is read");
        writer.join().expect("no panic").expect("it is written");
        assert_eq!(came.len(), 1 << 20);
        let mut said = String::new();
        container.stderr.take().expect("a pipe").read_to_string(&mut said).expect("it is read");
        assert_eq!(said, "end\n");
        assert!(container.wait().expect("it ends").success());
    });
}

#[test]
fn a_port_inside_is_connected_to() {
    need!(Busybox, UserNamespaces);
    on_every_kind_of_thread(|| {
        let place = Place::new();
        let server =
            sh(&place, "exec nc -l -p 7 -e echo hello").network(Network::none()).wait(Wait::exec(["true"])).run().expect("it runs");
        let mut heard = String::new();
        // Nobody asked whether it listens: netcat serves one connection.
        let mut stream = loop {
            match server.connect(7) {
                Ok(stream) => break stream,
                Err(_) if server.try_wait().expect("it is watched").is_none() => std::thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}"),
            }
        };
        stream.read_to_string(&mut heard).expect("it is read");
        assert_eq!(heard, "hello\n");
    });
}

#[test]
fn one_that_stays_is_started_again_and_found() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let engine = Engine::from(place.engine().clone());
    let lived = |times: u32| Wait::exec(["sh", "-c", &format!("test $(wc -l < /tmp/lives) = {times}")]);
    let container = sh(&place, "echo once >> /tmp/lives; sleep 1000").name("stays").create().expect("it is made");
    container.start().expect("it starts");
    container.wait_for(lived(1), Duration::from_secs(60)).expect("it wrote");
    container.kill().expect("it is killed");
    container.wait().expect("it ends");
    container.settled().expect("all but the files is taken back");
    container.restart(Duration::ZERO).expect("it starts again");
    let found = engine.attach("stays").expect("it is found");
    assert_eq!((found.state().expect("it has one"), found.name().expect("it has one").as_deref()), (State::Running, Some("stays")));
    found.wait_for(lived(2), Duration::from_secs(60)).expect("both lives wrote");
    found.signal(Signal::KILL).expect("it is sent");
    assert_eq!(found.wait().expect("it ends").signal(), Some(Signal::KILL));
    let refused = found.exec(["true"]).status().expect_err("it has ended");
    assert!(refused.to_string().contains("ended") || refused.to_string().contains("doesn't run"), "{refused}");
    found.remove().expect("it is removed");
    place.assert_clean();
}

#[test]
fn images_come_in_and_are_run() {
    need!(Busybox, UserNamespaces);
    on_every_kind_of_thread(|| {
        let place = Place::new();
        let engine = Engine::from(place.engine().clone());
        let mut layout = Layout::new(&place.path().join("layout"));
        let layer = layout.layer_of(&place.rootfs(), Compressed::Gzip);
        layout.image("localhost/bb:1", &[layer], json!({ "Cmd": ["echo", "from an image"] }));
        let loaded = engine.load_images(layout.path(), |_| {}).expect("it is loaded");
        assert_eq!((loaded.len(), engine.images().expect("they are listed").len()), (1, 1));
        engine.check_images(false).expect("they are checked");
        let out = Container::from_image("localhost/bb:1").engine(&engine).output().expect("it runs");
        assert_eq!(out.stdout_lossy(), "from an image\n");
    });
}
