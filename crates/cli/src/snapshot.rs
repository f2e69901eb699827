//! `coracle snapshot`: a container's files as they were, for others to be started from.

use crate::arguments::SnapshotCommand;
use crate::changes::find;
use crate::failure::Failure;
use crate::table::{self, print};
use indicatif::HumanBytes;
use std::path::PathBuf;
use std::time::SystemTime;

pub(crate) fn run(root: Option<PathBuf>, command: SnapshotCommand) -> Result<u8, Failure> {
    let failed = |error| Failure::from(error).code(1);
    match command {
        SnapshotCommand::Create { container, name } => {
            let container = find(root, &container)?;
            let snapshot = crate::block_on(async { container.snapshot(name).await.map_err(failed) })?;
            print(&format!("{}\n", snapshot.name()))?;
        }
        SnapshotCommand::Ls { quiet } => {
            let snapshots = crate::engine(root).and_then(|engine| engine.snapshots()).map_err(failed)?;
            if quiet {
                print(&snapshots.iter().map(|snapshot| format!("{}\n", snapshot.name)).collect::<String>())?;
                return Ok(0);
            }
            let rows: Vec<_> = snapshots
                .into_iter()
                .map(|snapshot| {
                    [
                        snapshot.name,
                        format!("{} ago", table::age(table::seconds(SystemTime::now()).saturating_sub(table::seconds(snapshot.created)))),
                        HumanBytes(snapshot.size).to_string(),
                    ]
                })
                .collect();
            print(&table::table(["NAME", "CREATED", "SIZE"], &rows))?;
        }
        SnapshotCommand::Rm { names } => {
            let engine = crate::engine(root).map_err(failed)?;
            let mut code = 0;
            for name in names {
                match engine.remove_snapshot(&name) {
                    Ok(()) => print(&format!("{name}\n"))?,
                    Err(error) => code = Failure::from(error).code(1).tell(),
                }
            }
            engine.empty_trash().map_err(failed)?;
            return Ok(code);
        }
    }
    Ok(0)
}
