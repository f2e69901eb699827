//! A container that runs, held still or limited anew.

use crate::container::Container;
use crate::error::Error;
use crate::kept;
use crate::limits::MemorySize;
use crate::resources::Resources;
use coracle_cgroups::Limits;

/// Limits that are set anew while a container runs: those that are said.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use = "Container::update sets them"]
pub struct Update {
    memory: Option<MemorySize>,
    cpus: Option<f64>,
    pids: Option<u64>,
    pub(crate) resources: Resources,
}

impl Update {
    /// Nothing is changed.
    pub fn new() -> Self {
        Self::default()
    }

    /// As [`ContainerBuilder::memory`](crate::ContainerBuilder::memory).
    pub fn memory(mut self, limit: impl Into<MemorySize>) -> Self {
        self.memory = Some(limit.into());
        self
    }

    /// As [`ContainerBuilder::cpus`](crate::ContainerBuilder::cpus).
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// As [`ContainerBuilder::pids`](crate::ContainerBuilder::pids).
    pub fn pids(mut self, pids: u64) -> Self {
        self.pids = Some(pids);
        self
    }
}

impl Container {
    /// Stops every process of it, until [`unpause`](Self::unpause): by the freezer, of which they notice nothing. Their connections stay, their
    /// timers run on, and so do limits on wall clock and silence. Answers when all have stopped; of one that is paused, at once.
    ///
    /// # Errors
    /// [`Error::Cgroups`] where there is no freezer: without control groups, and on pure cgroup v1 for what was started by
    /// [`spawn`](crate::ContainerBuilder::spawn). SIGSTOP isn't the same, as a parent sees it. [`Error::NotRunning`].
    pub async fn pause(&self) -> Result<(), Error> {
        self.runs()?;
        self.live().freeze()?;
        // Whoever watches the directory looks again.
        let _ = std::fs::File::create(self.run.join("paused"));
        Ok(())
    }

    /// Lets it go on. One that isn't paused does already.
    ///
    /// # Errors
    /// As [`pause`](Self::pause).
    pub async fn unpause(&self) -> Result<(), Error> {
        self.runs()?;
        self.live().thaw()?;
        let _ = std::fs::remove_file(self.run.join("paused"));
        Ok(())
    }

    /// Sets limits anew, and of a container that [stays](crate::ContainerBuilder::create) those of its later lives: of one that runs only
    /// limits that it was started with.
    ///
    /// # Errors
    /// [`Error::Limits`] for what is out of range, or can't be added to what runs; [`Error::Cgroups`] where the kernel refuses a value, as
    /// one below what is held; [`Error::NotRunning`] of one that doesn't stay. Nothing was kept then.
    pub async fn update(&self, update: &Update) -> Result<(), Error> {
        let mut problems = Vec::new();
        let mut limits = update.resources.limit(Limits::new(), &mut problems);
        if !problems.is_empty() {
            return Err(Error::Description { problems });
        }
        let memory = match &update.memory {
            Some(memory) => Some(memory.bytes().map_err(|error| {
                let problem = crate::Problem { what: format!("memory: {error}"), remedy: error.remedy() };
                Error::Description { problems: vec![problem] }
            })?),
            None => None,
        };
        limits.memory = memory;
        limits.cpus = update.cpus;
        limits.pids = update.pids;
        let running = match self.runs() {
            Ok(()) => true,
            Err(Error::NotRunning { .. }) if self.kept => false,
            Err(error) => return Err(error),
        };
        if running {
            self.live().update(&limits)?;
        } else {
            // Whether this machine can is known now.
            let refused = self.engine.place(&limits)?.refused().to_vec();
            if !refused.is_empty() {
                return Err(Error::Limits { refused });
            }
        }
        if self.kept {
            kept::rewrite(&self.engine, &self.run, |description| {
                if let Some(spec) = &mut description.spec {
                    spec.memory = memory.or(spec.memory);
                    spec.cpus = update.cpus.or(spec.cpus);
                    spec.pids = update.pids.or(spec.pids);
                    spec.resources.update(&update.resources);
                }
            })?;
        }
        Ok(())
    }

    /// Whether it runs; takes up a life that others have begun.
    pub(crate) fn runs(&self) -> Result<(), Error> {
        match self.current_or_attached() {
            Some(child) if matches!(child.try_wait(), Ok(None)) => Ok(()),
            _ => Err(Error::NotRunning { id: self.id.clone() }),
        }
    }
}
