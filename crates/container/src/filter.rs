//! Which containers are listed.

use crate::state::{ContainerSummary, State};

/// Which containers [`Engine::list`](crate::Engine::list) answers with: all, if nothing is said. What is said of different things must all be
/// so; of what is said of one thing twice, one of both.
///
/// ```
/// use coracle_container::Filter;
/// let filter = Filter::new().label("job", None).state("exited").image("debian:12");
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use]
pub struct Filter {
    names: Vec<String>,
    ids: Vec<String>,
    labels: Vec<(String, Option<String>)>,
    states: Vec<String>,
    images: Vec<String>,
}

impl Filter {
    /// All containers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Those whose name has this in it.
    pub fn name(mut self, part: impl Into<String>) -> Self {
        self.names.push(part.into());
        self
    }

    /// Those whose id begins so.
    pub fn id(mut self, beginning: impl Into<String>) -> Self {
        self.ids.push(beginning.into());
        self
    }

    /// Those with this label, and this value of it if one is given. Several must all be there.
    pub fn label(mut self, key: impl Into<String>, value: Option<&str>) -> Self {
        self.labels.push((key.into(), value.map(str::to_owned)));
        self
    }

    /// Those in a state, by its [word](State::word): `created`, `running`, `paused`, `exited`, `dead`.
    pub fn state(mut self, word: impl Into<String>) -> Self {
        self.states.push(word.into());
        self
    }

    /// Those that run, paused or not.
    pub fn running(self) -> Self {
        self.state(State::Running.word()).state(State::Paused.word())
    }

    /// Those made from this, as it was written.
    pub fn image(mut self, image: impl Into<String>) -> Self {
        self.images.push(image.into());
        self
    }

    pub(crate) fn has(&self, container: &ContainerSummary) -> bool {
        fn any(said: &[String], so: impl Fn(&str) -> bool) -> bool {
            said.is_empty() || said.iter().any(|said| so(said))
        }
        any(&self.names, |part| container.name.as_ref().is_some_and(|name| name.contains(part)))
            && any(&self.ids, |beginning| container.id.starts_with(beginning))
            && any(&self.states, |word| container.state.word() == word)
            && any(&self.images, |image| container.image == image)
            && self
                .labels
                .iter()
                .all(|(key, value)| container.labels.get(key).is_some_and(|found| value.as_ref().is_none_or(|value| value == found)))
    }
}
