//! Stacks in private networks, each test on a host of its own.

use crate::support::host::Host;
use crate::support::need;
use crate::support::place::{Place, block_on};
use coracle::{Condition, Network, Part, Stack, Wait};
use std::sync::{Arc, Mutex};

#[test]
fn parts_of_a_stack_find_each_other_by_name() {
    need!(Root, Busybox);
    let (host, place) = (Host::new(), Place::new());
    let server = place.sh("echo hello > /tmp/index.html; exec httpd -f -p 80 -h /tmp").wait(Wait::port(80));
    let asks = place.sh("wget -q -O /dev/stderr http://web/index.html");
    let said = Arc::new(Mutex::new(String::new()));
    let theirs = said.clone();
    let stack = Stack::new()
        .network(Network::internal())
        .add(Part::service("web", server))
        .add(Part::job("asks", asks).depends_on("web", Condition::Healthy))
        .on_line(move |line| theirs.lock().expect("no panic").push_str(&line.text));
    let ends = host.at(|| block_on(stack.run())).unwrap_or_else(|error| panic!("{error}; {:?}", error.remedy()));
    assert_eq!((ends.len(), said.lock().expect("no panic").as_str()), (1, "hello"));
    assert!(host.at(|| place.engine().containers()).expect("they are listed").is_empty());
}
