//! Terminals: of a container's own command and of further ones.

use crate::support::need;
use crate::support::place::{Place, block_on, within};
use coracle::{ContainerTerminal, Error, Reason, Stdio, TerminalEnd};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};

const PATIENCE: Duration = Duration::from_secs(60);

/// What is shown until a word is, or until nobody has the terminal any more.
#[track_caller]
fn shown(terminal: &mut ContainerTerminal, until: &str) -> String {
    let all = std::cell::RefCell::new((String::new(), terminal));
    let came = within(PATIENCE, || {
        let (text, terminal) = &mut *all.borrow_mut();
        let mut piece = [0; 4096];
        let mut into = ReadBuf::new(&mut piece);
        match Pin::new(&mut **terminal).poll_read(&mut Context::from_waker(Waker::noop()), &mut into) {
            Poll::Ready(Ok(())) if into.filled().is_empty() => return true,
            Poll::Ready(Ok(())) => text.push_str(&String::from_utf8_lossy(into.filled())),
            Poll::Ready(Err(error)) => panic!("{error}"),
            Poll::Pending => {}
        }
        text.contains(until)
    });
    let text = all.into_inner().0;
    assert!(came && text.contains(until), "no {until:?} in {text:?}");
    text
}

fn types(terminal: &mut ContainerTerminal, text: &str) {
    block_on(terminal.write_all(text.as_bytes())).expect("it is typed");
}

#[test]
fn a_command_has_a_terminal_of_the_containers_own_that_controls_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "trap 'echo size $(stty size)' WINCH; tty; stty size; echo error >&2; while :; do read word && echo \"heard $word\"; done";
    let mut container = block_on(place.sh(line).tty(100, 30).spawn()).expect("it starts");
    let mut terminal = container.terminal.take().expect("it has one");
    assert!(container.stdout.is_none());
    let first = shown(&mut terminal, "error");
    assert!(first.contains("/dev/pts/0\r\n30 100\r\n"), "{first:?}");
    types(&mut terminal, "hello\n");
    shown(&mut terminal, "heard hello");
    terminal.resize(120, 40).expect("it has a size");
    shown(&mut terminal, "size 40 120");
    // Ctrl-C is a signal to whoever is in the foreground.
    types(&mut terminal, "\u{3}");
    let status = block_on(container.wait()).expect("it ends");
    assert!(matches!(status.reason(), Reason::Signal(signal) if signal.number() == 2) || status.code() == Some(130), "{status}");
    block_on(container.remove()).expect("it goes");
    // Of this machine's terminals none is seen.
    let mut container = block_on(place.sh("ls /dev/pts; echo done").tty(80, 24).spawn()).expect("it starts");
    let said = shown(container.terminal.as_mut().expect("it has one"), "done");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "ptmx", "done"], "{said:?}");
    block_on(container.remove()).expect("it goes");
    place.assert_clean();
}

#[test]
fn a_terminal_is_its_users_and_ends_with_the_command() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let user = if crate::support::met(crate::support::needs::Need::NoSubIds) { "0" } else { "70" };
    let line = "stat -c %u $(tty); echo again > $(tty); echo done";
    let mut container = block_on(place.sh(line).user(user).tty(80, 24).spawn()).expect("it starts");
    let terminal = container.terminal.as_mut().expect("it has one");
    let said = shown(terminal, "done");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), [user, "again", "done"], "{said:?}");
    assert!(block_on(container.wait()).expect("it ends").success());
    block_on(container.remove()).expect("it goes");
    // Who lets go of it hangs up.
    let mut container = block_on(place.sh("trap 'exit 9' HUP; while :; do sleep 0.05; done").tty(80, 24).spawn()).expect("it starts");
    drop(container.terminal.take());
    block_on(container.kill()).expect("it ends");
    block_on(container.remove()).expect("it goes");
    place.assert_clean();
}

#[test]
fn a_further_command_has_a_terminal() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 600").run()).expect("it runs");
    let mut exec = block_on(container.exec(["sh", "-c", "tty; stty size; read word; echo heard $word; exit 7"]).tty(90, 20).spawn())
        .expect("it starts");
    let terminal = exec.terminal.as_mut().expect("it has one");
    let first = shown(terminal, "20 90");
    assert!(first.contains("/dev/pts/0"), "{first:?}");
    types(terminal, "it\n");
    shown(terminal, "heard it");
    assert_eq!(block_on(exec.wait()).expect("it ends").code(), Some(7));
    // Ctrl-C ends what runs there, and the container goes on.
    let mut exec = block_on(container.exec(["sleep", "600"]).tty(80, 24).spawn()).expect("it starts");
    types(exec.terminal.as_mut().expect("it has one"), "\u{3}");
    assert_eq!(block_on(exec.wait()).expect("it ends").signal().map(|signal| signal.number()), Some(2));
    assert!(block_on(exec.attach_terminal()).is_ok_and(|end| end == TerminalEnd::Ended));
    assert!(container.try_wait().expect("it is there").is_none());
    // One without a terminal has none to attach to.
    assert!(matches!(block_on(container.attach_terminal()), Err(Error::Start(_))));
    block_on(container.remove()).expect("it goes");
    place.assert_clean();
}

#[test]
fn a_terminal_that_nobody_would_have_is_refused() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let with = || place.sh("true").tty(80, 24);
    let refused = [
        block_on(with().output()).map(drop),
        block_on(with().status()).map(drop),
        block_on(with().run()).map(drop),
        block_on(with().create()).map(drop),
        block_on(with().stdin(Stdio::null()).spawn()).map(drop),
        block_on(with().output_limit(5).spawn()).map(drop),
    ];
    for (n, refused) in refused.into_iter().enumerate() {
        let error = refused.expect_err("it is refused");
        assert!(matches!(&error, Error::Description { .. }) && error.remedy().is_some(), "{n}: {error}");
    }
    place.assert_clean();
}

/// Plays somebody at a terminal: runs a program in one, types and waits for words; says how the program ended and whether the terminal echoes.
const AT_A_TERMINAL: &str = r#"
import os, pty, select, sys, termios, time
script, words = sys.argv[1].split("|"), sys.argv[2:]
pid, fd = pty.fork()
if pid == 0:
    os.execv(words[0], words)
seen, end = b"", time.time() + 60
def echoes():
    return bool(termios.tcgetattr(fd)[3] & termios.ECHO)
for step in script:
    if step.startswith(">"):
        os.write(fd, step[1:].encode().decode("unicode_escape").encode())
        continue
    while step.encode() not in seen and time.time() < end:
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 4096)
    if step.encode() not in seen:
        sys.exit("no %r in %r" % (step, seen))
    if step == "ready" and echoes():
        sys.exit("it isn't raw")
    seen = seen[seen.index(step.encode()) + len(step):]
while time.time() < end:
    # Before the last who has the other end goes, and the settings with it.
    restored = echoes()
    done, status = os.waitpid(pid, os.WNOHANG)
    if done:
        break
    time.sleep(0.01)
print(os.waitstatus_to_exitcode(status), restored)
"#;

#[test]
fn somebody_at_a_terminal_leaves_a_container_and_comes_back() {
    need!(Busybox, UserNamespaces, Python3, Program);
    let place = Place::new();
    let coracle = crate::support::program::coracle().expect("that is the need");
    let root = place.engine().root().to_owned();
    let rootfs = place.rootfs();
    let at = |script: &str, words: &[&std::ffi::OsStr]| {
        let python = std::process::Command::new("python3")
            .args(["-c", AT_A_TERMINAL, script])
            .arg(&coracle)
            .arg("--root")
            .arg(&root)
            .args(words)
            .output();
        let out = python.expect("python3 runs");
        (String::from_utf8_lossy(&out.stdout).into_owned(), String::from_utf8_lossy(&out.stderr).into_owned())
    };
    let line = "stty -echo; echo ready; while read word; do [ $word = end ] && exit 5; echo heard $word; done";
    let words = ["run", "-it", "--rootfs"].map(std::ffi::OsStr::new);
    let words: Vec<_> = words.into_iter().chain([rootfs.as_os_str()]).chain(["sh", "-c", line].map(std::ffi::OsStr::new)).collect();
    let (out, err) = at(r"ready|>hello\n|heard hello|>\x10\x11", &words);
    assert_eq!(out, "0 True\n", "{err}");
    let runs = place.engine().containers().expect("they are listed");
    assert_eq!(runs.len(), 1);
    let back: Vec<_> = ["attach", &runs[0].id].map(std::ffi::OsStr::new).to_vec();
    let (out, err) = at(r">again\n|heard again|>end\n", &back);
    assert_eq!(out, "5 True\n", "{err}");
    place.assert_clean();
}
