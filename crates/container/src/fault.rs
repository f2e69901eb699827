//! Faults for tests: two containers that don't hear each other for a while.

use crate::container::Container;
use crate::error::{Error, Problem};
use coracle_netns::{Batch, Entry, Firewall, NetNs};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

/// Two containers of one network that don't hear each other, as long as this lives and its time isn't up.
#[must_use = "dropping it lets them hear each other again"]
pub struct Cut {
    entries: Vec<Entry>,
    /// Where the network's bridge is.
    home: NetNs,
}

impl Cut {
    /// Lets them hear each other again, within some ten milliseconds; as dropping it does, which says nothing where that fails.
    ///
    /// # Errors
    /// [`Error::Network`].
    pub fn heal(mut self) -> Result<(), Error> {
        self.end()
    }

    fn end(&mut self) -> Result<(), Error> {
        let entries = std::mem::take(&mut self.entries);
        let take_out = if Firewall::lets_expire() { Batch::firewall_expire } else { Batch::firewall_remove };
        match entries.is_empty() {
            true => Ok(()),
            // Whose time is up is gone already.
            false => Ok(self.home.run(|| Firewall::open()?.perform(&take_out(&entries)))??),
        }
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl fmt::Debug for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cut").field("entries", &self.entries).finish()
    }
}

impl Container {
    /// Cuts the cable between this container and another of its private networks: nothing goes between them, in either direction, in
    /// connections that stand too, and others hear both. Until the answer is healed or dropped, and for `time` at most: the kernel itself ends it
    /// then, so a program that is killed leaves nothing.
    ///
    /// Needs root, and a kernel with nf_tables for bridges. Blocks for a millisecond. In the network namespace that the containers were started in.
    ///
    /// # Errors
    /// [`Error::Description`] where they share no private network; [`Error::Network`].
    ///
    /// ```no_run
    /// # fn f(database: &coracle_container::Container, web: &coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// let cut = database.cut_from(web, std::time::Duration::from_secs(60))?;
    /// // What does the program do now?
    /// cut.heal()?;
    /// # Ok(()) }
    /// ```
    pub fn cut_from(&self, other: &Container, time: Duration) -> Result<Cut, Error> {
        cut(&flat(self), &flat(other), time)
    }
}

fn flat(container: &Container) -> Vec<IpAddr> {
    container.addresses().iter().flatten().copied().collect()
}

fn cut(ours: &[IpAddr], theirs: &[IpAddr], time: Duration) -> Result<Cut, Error> {
    let pairs = ours.iter().flat_map(|one| theirs.iter().map(move |other| (*one, *other)));
    let entries: Vec<Entry> =
        pairs.filter(|(one, other)| one.is_ipv4() == other.is_ipv4()).map(|(one, other)| Entry::Cut { one, other }).collect();
    if entries.is_empty() {
        let what = "there is no cable between these two: they share no private network".into();
        return Err(Error::Description { problems: vec![Problem { what, remedy: Some("give both one: Network::bridge()".into()) }] });
    }
    let firewall = Firewall::open()?;
    firewall.ensure()?;
    let time = u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 365 * 24 * 3600 * 1000);
    firewall.perform(&Batch::firewall_add_for(&entries, time))?;
    Ok(Cut { entries, home: NetNs::current()? })
}
