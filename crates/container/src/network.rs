//! Which network a container is in.

/// A container's network.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Network(pub(crate) Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    None,
    Host,
}

impl Network {
    /// A network namespace with nothing but loopback.
    pub fn none() -> Self {
        Self(Kind::None)
    }

    /// This process's network: ports, interfaces and abstract sockets are the host's. No isolation by network.
    pub fn host() -> Self {
        Self(Kind::Host)
    }
}
