//! A container engine that your program carries inside itself: no daemon, no helper packages, no KVM.
#![forbid(unsafe_code)]

pub use coracle_cgroups as cgroups;
pub use coracle_container::*;
pub use coracle_image as image;
pub use coracle_layers as layers;
pub use coracle_netns as netns;
pub use coracle_spawn as spawn;
