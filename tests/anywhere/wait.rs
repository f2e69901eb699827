//! When a container is ready, and what is told where it isn't.

use crate::support::image::{Compressed, Layout};
use crate::support::need;
use crate::support::place::{Place, block_on, waker, within};
use coracle::{Container, Error, HealthState, HealthTest, Inside, OutputStream, Wait, WaitFailure};
use std::future::Future as _;
use std::pin::pin;
use std::task::Context;
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

const LONG: Duration = Duration::from_secs(300);

/// Why it isn't ready.
#[track_caller]
fn failed<T: std::fmt::Debug>(result: Result<T, Error>) -> WaitFailure {
    match result {
        Err(Error::Wait(failure)) => *failure,
        other => panic!("{other:?}"),
    }
}

fn ran(result: Result<Container, Error>) -> Container {
    result.unwrap_or_else(|error| panic!("{error}\n  fix: {:?}", error.remedy()))
}

const HTTP: &str = "import http.server, time\nclass H(http.server.BaseHTTPRequestHandler):\n  n = 0\n  def log_message(self, *a): pass\n  def do_GET(self):\n    \
    H.n += 1\n    up = H.n > 3\n    self.send_response(200 if up else 503)\n    self.send_header('X-State', 'up' if up else 'down')\n    self.end_headers()\n    \
    self.wfile.write(b'it is up' if up and self.path == '/health' else b'not yet')\nhttp.server.HTTPServer(('127.0.0.1', 8080), H).serve_forever()";

fn python(place: &Place, script: &str) -> coracle::ContainerBuilder {
    let described = place.container().cmd(["/usr/bin/python3", "-u", "-c", script]).env("MARK", place.path());
    let directories = ["/usr", "/lib", "/lib64"].into_iter().filter(|path| std::fs::exists(path).unwrap_or(false));
    directories.fold(described, |described, directory| described.mount(coracle::Mount::bind(directory, directory).read_only()))
}

#[test]
fn each_sign_is_waited_for_and_not_sooner() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let later = |what: &str| format!("sleep 0.3; {what}; while :; do sleep 1; done");
    let check = |line: &str, wait: Wait, early: &str| {
        let begun = Instant::now();
        let container = ran(block_on(place.sh(&later(line)).startup_timeout(LONG).wait(wait).run()));
        assert!(begun.elapsed() >= Duration::from_millis(300), "{early}: after {:?}", begun.elapsed());
        block_on(container.remove()).expect("all is taken back");
    };
    check("nc -ll -p 80 -e cat & :", Wait::port(80), "port");
    check("touch /tmp/x", Wait::file("/tmp/x"), "file");
    check("touch /tmp/x", Wait::exec(["test", "-e", "/tmp/x"]), "exec");
    check("echo is ready", Wait::log("is rea").into(), "log");
    check("echo one; echo two ready >&2", Wait::log_regex("^two r.*y$").expect("one").stream(OutputStream::Stderr).into(), "regex");
    check("echo ready; echo ready", Wait::log("ready").times(2).into(), "log twice");
    let custom = Wait::custom("a file", |inside: Inside| async move {
        match inside.fs().exists("/tmp/x").await {
            Ok(true) => Ok(()),
            Ok(false) => Err("not there".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    });
    check("touch /tmp/x", custom, "closure");
    check("touch /tmp/x; touch /tmp/y", Wait::file("/tmp/x").and(Wait::file("/tmp/y")), "and");
    check("touch /tmp/y", Wait::file("/tmp/x").or(Wait::file("/tmp/y")), "or");
    // One that is to end is ready when it has.
    let begun = Instant::now();
    let container = ran(block_on(place.sh("sleep 0.3; exit 3").startup_timeout(LONG).wait(Wait::exit_code(3)).run()));
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!(block_on(container.wait()).expect("it has ended").code(), Some(3));
    assert!(block_on(place.sh("exit 4").wait(Wait::exit_code(3)).run()).is_err());
}

#[test]
fn a_service_is_asked_by_http() {
    need!(Busybox, UserNamespaces, Python3);
    let place = Place::new();
    let wait = Wait::http(8080).path("/health").header("Host", "example.test").response_header("X-State", "up").body_contains("is up");
    let container = ran(block_on(python(&place, HTTP).startup_timeout(LONG).wait(wait).run()));
    // Again, later, and for what doesn't come.
    block_on(container.wait_for(Wait::http(8080).status(200), LONG)).expect("it is up");
    let failure = failed(block_on(container.wait_for(Wait::http(8080).status(204), Duration::from_millis(300))));
    assert_eq!(failure.part, "GET http://localhost:8080/");
    assert_eq!(failure.observed.as_deref(), Some("it answered 200: \"not yet\""));
    assert!(failure.status.is_none() && failure.waited >= Duration::from_millis(300));
    let failure = failed(block_on(container.wait_for(Wait::http(8080).body_contains("else"), Duration::from_millis(300))));
    assert_eq!(failure.observed.as_deref(), Some("a body with \"else\" is wanted: \"not yet\""));
    // The container is as it was.
    assert!(container.try_wait().expect("it is watched").is_none());
}

#[test]
fn a_service_is_asked_by_https() {
    need!(Busybox, UserNamespaces, Python3);
    let Some(openssl) = crate::support::program::find("openssl") else {
        println!("SKIP: openssl");
        return;
    };
    let place = Place::new();
    let (key, certificate) = (place.path().join("key.pem"), place.path().join("cert.pem"));
    let made = std::process::Command::new(openssl)
        .args([
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=db.test",
            "-addext",
            "subjectAltName=DNS:db.test",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .expect("openssl runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let script = HTTP.replace(
        "http.server.HTTPServer(('127.0.0.1', 8080), H).serve_forever()",
        "s = http.server.HTTPServer(('127.0.0.1', 8443), H)\nimport ssl\nc = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)\nc.load_cert_chain('/c/cert.pem', '/c/key.pem')\n\
         s.socket = c.wrap_socket(s.socket, server_side=True)\nH.n = 9\ns.serve_forever()",
    );
    let described = python(&place, &script).copy_in(key.as_path(), "/c/key.pem").copy_in(certificate.as_path(), "/c/cert.pem");
    let container =
        ran(block_on(described.startup_timeout(LONG).wait(Wait::http(8443).path("/health").any_certificate().body_contains("up")).run()));
    let pem = std::fs::read(&certificate).expect("it was made");
    block_on(container.wait_for(Wait::http(8443).root_certificate(&pem).header("Host", "db.test"), LONG)).expect("it is believed");
    // Nobody else is.
    let short = Duration::from_millis(500);
    let failure = failed(block_on(container.wait_for(Wait::http(8443).https().header("Host", "db.test"), short)));
    assert!(failure.observed.as_ref().is_some_and(|seen| seen.contains("certificate")), "{failure}");
    let failure = failed(block_on(container.wait_for(Wait::http(8443).root_certificate(&pem), short)));
    assert!(failure.observed.as_ref().is_some_and(|seen| seen.contains("certificate")), "{failure}");
    assert!(matches!(block_on(container.wait_for(Wait::http(8443).root_certificate("none"), short)), Err(Error::Description { .. })));
}

#[test]
fn what_ends_while_it_is_waited_for_is_told_at_once_with_its_last_words() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    place.look_again();
    let begun = Instant::now();
    let described = place.sh("echo 'no such database' >&2; sleep 0.2; exit 7").startup_timeout(Duration::from_secs(3600));
    let failure = failed(block_on(described.wait(Wait::file("/x").and(Wait::port(5432))).run()));
    assert!(begun.elapsed() < Duration::from_secs(600));
    assert_eq!((failure.part.as_str(), failure.status.and_then(|status| status.code())), ("file /x", Some(7)));
    assert_eq!(failure.observed.as_deref(), Some("it isn't there"));
    assert_eq!(failure.log.iter().map(|line| line.text()).collect::<Vec<_>>(), ["no such database"]);
    let text = Error::Wait(Box::new(failure)).to_string();
    assert!(text.contains("exit code 7") && text.contains("\n  no such database"), "{text}");
    // And taken back.
    place.assert_clean();
}

#[test]
fn a_time_that_is_up_names_the_part_and_what_was_seen_last() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = ran(block_on(place.sh("echo started; touch /x; while :; do sleep 1; done").run()));
    let short = Duration::from_millis(300);
    let failure = |wait: Wait| failed(block_on(container.wait_for(wait, short)));
    let port = failure(Wait::file("/x").and(Wait::port(5432)));
    assert_eq!((port.part.as_str(), port.observed.as_deref()), ("port 5432", Some("nothing listens there")));
    assert_eq!(port.log.iter().map(|line| line.text()).collect::<Vec<_>>(), ["started"]);
    let exec = failure(Wait::exec(["sh", "-c", "echo wrong >&2; exit 2"]));
    assert_eq!(exec.observed.as_deref(), Some("exit code 2: \"wrong\""));
    let any = failure(Wait::port(1).or(Wait::file("/none")));
    assert!(any.observed.as_ref().is_some_and(|seen| seen.contains("port 1: nothing") && seen.contains("file /none: it isn't")), "{any}");
    assert_eq!(failure(Wait::log("started").times(2).into()).observed.as_deref(), Some("1 such lines of 2"));
    assert_eq!(failure(Wait::healthy()).observed.as_deref(), Some("it has no health test"));
    // A part with a time of its own ends the waiting, and one that hangs doesn't prolong it.
    let begun = Instant::now();
    let part = failed(block_on(container.wait_for(Wait::port(1).timeout(short).and(Wait::file("/x")), Duration::from_secs(3600))));
    assert!(part.observed.as_ref().is_some_and(|seen| seen.contains("it had 300ms; nothing listens there")), "{part}");
    let hangs = failed(block_on(container.wait_for(Wait::exec(["sleep", "1000"]), short)));
    assert!(hangs.status.is_none() && begun.elapsed() < Duration::from_secs(600));
    // One of two that can't be any more doesn't end the other.
    block_on(container.wait_for(Wait::port(1).timeout(Duration::ZERO).or(Wait::file("/x")), LONG)).expect("the file is there");
    assert!(matches!(block_on(container.wait_for(Wait::port(0), short)), Err(Error::Description { .. })));
}

#[test]
fn what_starts_stops_and_starts_again_isnt_ready_the_first_time() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // As PostgreSQL's image: it serves while it makes its tables, and then anew.
    let line = "touch /up; sleep 0.3; rm /up; sleep 0.5; touch /second /up; while :; do sleep 1; done";
    let stable = Wait::file("/up").stable_for(Duration::from_millis(1000));
    let container = ran(block_on(place.sh(line).startup_timeout(LONG).wait(stable).run()));
    assert!(block_on(container.fs().exists("/second")).expect("it is looked for"));
}

#[test]
fn a_health_test_is_made_as_docker_makes_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let every = Duration::from_millis(50);
    let test = |line: &str| {
        let mut test = HealthTest::new(["sh", "-c", line]);
        (test.interval, test.timeout) = (every, LONG);
        test
    };
    let waits = "trap 'exit 0' TERM; while :; do sleep 0.1; done";
    // Nobody is asked who doesn't say so.
    let container = ran(block_on(place.sh(waits).run()));
    assert!(container.health().is_none());
    // Healthy when it says so, and then no more.
    let container = ran(block_on(place.sh(waits).health(test("echo looked; test -e /ok")).wait(Wait::running()).run()));
    block_on(container.fs().write("/ok", b"")).expect("written");
    block_on(container.wait_for(Wait::healthy(), LONG)).expect("it becomes healthy");
    let health = container.health().expect("it was tested");
    assert_eq!((health.state, health.failing, health.output.as_slice()), (HealthState::Healthy, 0, &b"looked\n"[..]));
    block_on(container.fs().remove("/ok")).expect("removed");
    let mut known = Some(health);
    while known.as_ref().is_some_and(|health| health.state != HealthState::Unhealthy) {
        known = block_on(container.health_changed(known.as_ref()));
    }
    let health = known.clone().expect("it was tested");
    assert_eq!((health.failing, health.status.code()), (3, Some(1)));
    let failure = failed(block_on(container.wait_for(Wait::healthy(), LONG)));
    assert!(
        failure.observed.as_ref().is_some_and(|seen| seen.contains("unhealthy")) && failure.health == Some(HealthState::Unhealthy),
        "{failure}"
    );
    block_on(container.fs().write("/ok", b"")).expect("written");
    while known.as_ref().is_some_and(|health| health.state != HealthState::Healthy) {
        known = block_on(container.health_changed(known.as_ref()));
    }
    // A detached one is asked too, and who attaches hears it.
    let id = block_on(container.detach()).expect("it is detached");
    let container = place.engine().attach(&id).expect("it is there");
    block_on(container.wait_for(Wait::healthy(), LONG)).expect("it is healthy");
    block_on(container.remove()).expect("all is taken back");
    // A start period is one in which failures don't count, and a test that takes too long is a failure.
    let mut slow = test("sleep 1000");
    (slow.timeout, slow.start_period, slow.start_interval, slow.retries) = (every, Duration::from_millis(1500), every, 1);
    let begun = Instant::now();
    let container = ran(block_on(place.sh(waits).health(slow).wait(Wait::running()).run()));
    let mut known = None;
    loop {
        known = block_on(container.health_changed(known.as_ref()));
        let health = known.as_ref().expect("it is tested");
        assert_eq!(health.status.signal(), Some(coracle::Signal::KILL));
        if health.state == HealthState::Unhealthy {
            assert!(begun.elapsed() >= Duration::from_millis(1500) && health.failing == 1, "{health:?}");
            break;
        }
        assert_eq!((health.state, health.failing), (HealthState::Starting, 0));
    }
    // One that says more than a pipe holds doesn't hang, and one that isn't there fails.
    let container = ran(block_on(place.sh(waits).health(test("head -c 1000000 /dev/zero")).startup_timeout(LONG).run()));
    assert_eq!(container.health().expect("it was tested").output.len(), 512);
    let mut none = HealthTest::new(["/no/such/program"]);
    none.interval = every;
    let failure = failed(block_on(place.sh(waits).health(none).startup_timeout(LONG).run()));
    assert_eq!(failure.health, Some(HealthState::Unhealthy));
}

#[test]
fn the_default_is_what_the_image_says() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let layout = place.path().join("image");
    let image = |config: serde_json::Value| {
        let _ = std::fs::remove_dir_all(&layout);
        let mut made = Layout::new(&layout);
        let layer = made.layer_of(&place.rootfs(), Compressed::No);
        made.image("latest", &[layer], config);
        Container::from_oci_layout(&layout).engine(place.engine()).env("MARK", place.path()).startup_timeout(LONG)
    };
    let waits = ["sh", "-c", "sleep 0.3; touch /ok; nc -ll -p 8080 -e cat"];
    let exposed = image(serde_json::json!({"Cmd": waits, "ExposedPorts": {"8080/tcp": {}, "53/udp": {}}}));
    let container = ran(block_on(exposed.run()));
    block_on(container.connect(8080)).expect("it listens");
    let tested = image(serde_json::json!({
        "Cmd": waits, "ExposedPorts": {"1/tcp": {}},
        "Healthcheck": {"Test": ["CMD-SHELL", "test -e /ok && echo $0 is fine"], "Interval": 50_000_000, "Retries": 100}
    }));
    let container = ran(block_on(tested.clone().run()));
    assert_eq!(container.health().expect("it was tested").output, b"/bin/sh is fine\n");
    // What is said is stronger.
    let container = ran(block_on(tested.clone().no_healthcheck().wait(Wait::port(8080)).run()));
    assert!(container.health().is_none());
    let none = image(serde_json::json!({"Cmd": waits, "Healthcheck": {"Test": ["NONE"]}}));
    assert!(ran(block_on(none.run())).health().is_none());
}

#[test]
fn waiting_that_is_given_up_at_any_moment_leaves_nobody() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = ran(block_on(place.sh("while :; do sleep 1; done").run()));
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    let supervisor: u32 = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).expect("a parent");
    let children = || std::fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let waker = waker();
    for n in 0..60u64 {
        let wait = Wait::file("/none").or(Wait::exec(["sleep", "1000"])).or(Wait::port(9));
        let mut future = pin!(container.wait_for(wait, LONG));
        for _ in 0..n % 6 {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            std::thread::park_timeout(Duration::from_micros(n * 100));
        }
    }
    assert!(within(Duration::from_secs(60), || children().split_whitespace().count() == 1), "{}", children());
    let mut stream = Vec::new();
    let connected = block_on(container.connect(9));
    assert!(connected.is_err());
    if let Ok(mut connected) = connected {
        let _ = block_on(connected.read_to_end(&mut stream));
    }
}
