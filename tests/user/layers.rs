//! Layers that a plain user unpacked with other ids.

use crate::support::image::{Compressed, Layout};
use crate::support::needs::Need;
use crate::support::place::{Place, block_on, said};
use crate::support::{met, need, rootfs};
use coracle::Container;
use coracle::image::Store;
use coracle::layers::{LayerStore, Options, Ownership};

#[test]
fn layers_of_other_ids_are_pruned_unless_somebody_uses_them() {
    need!(PlainUser, Busybox);
    let place = Place::empty();
    let engine = place.engine();
    let (base, path) = (place.path().join("base"), place.path().join("layout"));
    rootfs::busybox(&base);
    let mut layout = Layout::new(&path);
    let layer = layout.layer_of(&base, Compressed::Gzip);
    layout.image("latest", &[layer], serde_json::json!({ "Cmd": ["true"] }));
    block_on(engine.load_images(&path, |_| {})).expect("it is loaded");
    let sub_ids = !met(Need::NoSubIds);
    // As if this user had been another: with sub-ids, or without.
    let (directory, ownership) = match sub_ids {
        true => (engine.root().join("single"), Ownership::Squash),
        false => (engine.root().to_owned(), Ownership::Defer),
    };
    let other = LayerStore::open(&directory, Options::user(ownership)).expect("it opens");
    let store = Store::open(engine.root()).expect("it opens");
    let image = store.images().expect("they are read").remove(0);
    store.unpack(&image, &other).expect("it is unpacked once more");
    assert_eq!(other.list().expect("it is read").len(), 1);
    let lease = store.lease(&image).expect("it is held");
    engine.prune_images(false).expect("it is pruned");
    assert_eq!(other.list().expect("it is read").len(), 1, "somebody uses it");
    drop(lease);
    let removed = engine.prune_images(false).expect("it is pruned");
    assert_eq!((other.list().expect("it is read").len(), removed.swept.len()), (0, 1));
    // The image is whole, and runs.
    assert_eq!(store.images().expect("they are read").len(), 1);
    assert_eq!(said(Container::from_image(image.reference.to_string()).engine(engine).cmd(["echo", "x"])), "x\n");
}
