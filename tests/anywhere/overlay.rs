//! Overlays at their limits. These run in the virtual machine too, whose kernel takes layers another way: before Linux 6.7 they come
//! all in one value, and beyond 60 by mount(2).

use crate::support::image::{Compressed, Layout};
use crate::support::need;
use crate::support::place::{Place, said};
use crate::support::rootfs;
use coracle::Container;
use serde_json::json;

/// Runs an image of busybox and so many small layers on it, each of which changes one file and adds another.
fn stack(count: usize) {
    let mut place = Place::empty();
    let (base, path) = (place.path().join("base"), place.path().join("layout"));
    rootfs::busybox(&base);
    let mut layout = Layout::new(&path);
    let mut layers = vec![layout.layer_of(&base, Compressed::Gzip)];
    for n in 1..count {
        let upper = place.path().join("upper");
        std::fs::create_dir_all(upper.join("stack")).expect("it can be made");
        std::fs::write(upper.join("stack/newest"), format!("{n}\n")).expect("it can be written");
        std::fs::write(upper.join("stack").join(n.to_string()), "").expect("it can be written");
        layers.push(layout.layer_of(&upper, Compressed::No));
        std::fs::remove_dir_all(&upper).expect("it can be removed");
    }
    layout.image("latest", &layers, json!({ "Cmd": ["sh", "-c", "cat /stack/newest; ls /stack | wc -l; touch /stack/1 && echo written"] }));
    let image = |place: &Place| Container::from_oci_layout(&path).engine(place.engine());
    let expected = format!("{}\n{count}\nwritten\n", count - 1);
    assert_eq!(said(image(&place)), expected);
    // The layers stay, and the second is as the first.
    place.look_again();
    assert_eq!(said(image(&place)), expected);
    place.assert_clean();
}

#[test]
fn sixty_layers_are_one_root() {
    need!(Busybox, UserNamespaces);
    stack(60);
}

#[test]
fn a_hundred_and_thirty_layers_are_one_root() {
    need!(Busybox, UserNamespaces);
    stack(130);
}

#[test]
fn five_hundred_layers_are_one_root() {
    need!(Busybox, UserNamespaces);
    stack(500);
}
