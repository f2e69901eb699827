//! An image of PostgreSQL, put together from the files of Debian's packages that are installed here, with an entry that does what the
//! official image's does: it makes the cluster, starts a server for itself, creates the database, stops it, and starts the real one.

use super::image::{Compressed, Layout};
use super::rootfs;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the newest of the installed versions is.
pub(crate) fn installed() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path());
    versions.filter(|path| path.join("bin/postgres").is_file() && path.join("bin/initdb").is_file()).max()
}

/// `exec` in front of the last: signals are the server's.
const ENTRY: &str = r#"#!/bin/sh
set -e
as() { su postgres -s /bin/sh -c "$1"; }
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    mkdir -p "$PGDATA"
    chown -R postgres:postgres /var/lib/postgresql /run/postgresql
    as "initdb -D $PGDATA -U postgres --auth=trust -E UTF8 --locale=C --no-sync"
    as "pg_ctl -D $PGDATA -w -t 600 -o \"-c listen_addresses='' -k /run/postgresql\" start"
    as "psql -h /run/postgresql -U postgres -v ON_ERROR_STOP=1 -c 'create database $POSTGRES_DB'"
    as "pg_ctl -D $PGDATA -m fast -w -t 600 stop"
    echo "PostgreSQL init process complete; ready for start up."
fi
exec su postgres -s /bin/sh -c "exec postgres -D $PGDATA -k /run/postgresql -c listen_addresses='*' -c fsync=off"
"#;

/// Makes the image, as an OCI layout. The test began with `need!(Postgres)`.
pub(crate) fn image(directory: &Path) -> PathBuf {
    let installed = installed().expect("the test began with need!(Postgres)");
    let version = installed.file_name().expect("a version").to_owned();
    let root = directory.join("postgres-root");
    std::fs::create_dir(&root).expect("a directory can be made");
    rootfs::busybox(&root);
    let mut files = BTreeSet::new();
    for name in ["postgres", "initdb", "pg_ctl", "psql", "pg_isready"] {
        files.insert(installed.join("bin").join(name));
    }
    for entry in std::fs::read_dir(installed.join("lib")).expect("its libraries").flatten() {
        // What a cluster loads by itself; the extensions of just-in-time compilers are larger than all the rest.
        let name = entry.file_name().to_string_lossy().into_owned();
        if ["dict_snowball.so", "libpqwalreceiver.so", "plpgsql.so", "euc2004_sjis2004.so"].contains(&name.as_str()) {
            files.insert(entry.path());
        }
    }
    for program in files.clone() {
        files.extend(libraries(&program));
    }
    for file in &files {
        copy(file, &root.join(file.strip_prefix("/").expect("absolute")));
    }
    for tree in [Path::new("/usr/share/postgresql").join(&version), PathBuf::from("/usr/share/zoneinfo/Etc")] {
        let to = root.join(tree.strip_prefix("/").expect("absolute"));
        std::fs::create_dir_all(to.parent().expect("below the root")).expect("a directory can be made");
        super::program::run("cp", ["-rL".as_ref(), tree.as_os_str(), to.as_os_str()]);
    }
    let append = |name: &str, line: &str| {
        let path = root.join("etc").join(name);
        let text = std::fs::read_to_string(&path).expect("it is there");
        std::fs::write(path, text + line).expect("it can be written");
    };
    append("passwd", "postgres:x:999:999::/var/lib/postgresql:/bin/sh\n");
    append("group", "postgres:x:999:\n");
    for name in ["run/postgresql", "var/lib/postgresql"] {
        std::fs::create_dir_all(root.join(name)).expect("a directory can be made");
    }
    let entry = root.join("docker-entrypoint.sh");
    std::fs::write(&entry, ENTRY).expect("it can be written");
    std::fs::set_permissions(&entry, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    let mut layout = Layout::new(&directory.join("postgres-image"));
    let layer = layout.layer_of(&root, Compressed::No);
    let path = format!("PATH={}/bin:/usr/bin:/bin", installed.display());
    let config = serde_json::json!({
        "Entrypoint": ["/docker-entrypoint.sh"],
        "Env": [path, "PGDATA=/var/lib/postgresql/data", "POSTGRES_DB=app", "TZ=Etc/UTC"],
        "ExposedPorts": {"5432/tcp": {}},
        "StopSignal": "SIGINT",
    });
    layout.image("latest", &[layer], config);
    std::fs::remove_dir_all(&root).expect("it is ours");
    layout.path().to_owned()
}

/// What a program is linked with, and its loader.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let out = Command::new("ldd").arg(program).output().expect("ldd runs");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).filter(|path| path.is_file()).collect()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().expect("below the root")).expect("a directory can be made");
    // By another process: what one of ours holds open for writing can't be executed.
    super::program::run("cp", ["-L".as_ref(), from.as_os_str(), to.as_os_str()]);
}
