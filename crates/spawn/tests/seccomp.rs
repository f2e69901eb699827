//! Installs compiled filters in real processes: the kernel accepts them and answers as they say. Needs python3, which makes
//! the system calls that this crate may not; needs no privilege.

use std::process::{Command, Output};

use coracle_spawn::seccomp::{Action, ArgCond, Filter, FilterBuilder, Op};

/// Sets no_new_privs, installs the filter in the file named first, and then runs the code named second, where `call(number,
/// *arguments)` makes a system call and returns its errno or 0.
const INSTALL: &str = r"
import ctypes, platform, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    ctypes.set_errno(0)
    failed = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments]) == -1
    return ctypes.get_errno() if failed else 0
program = open(sys.argv[1], 'rb').read()
class Fprog(ctypes.Structure):
    _fields_ = [('len', ctypes.c_ushort), ('filter', ctypes.c_void_p)]
buffer = ctypes.create_string_buffer(program, len(program))
fprog = Fprog(len(program) // 8, ctypes.addressof(buffer))
if libc.prctl(38, 1, 0, 0, 0) != 0: sys.exit('no_new_privs')
seccomp = {'x86_64': 317, 'aarch64': 277}[platform.machine()]
if libc.syscall(ctypes.c_long(seccomp), ctypes.c_long(1), ctypes.c_long(0), ctypes.byref(fprog)) != 0:
    sys.exit('seccomp: errno %d' % ctypes.get_errno())
exec(sys.argv[2])
";

/// Runs the code under the filter; `None`, said aloud, without python3.
fn under(filter: &Filter, code: &str) -> Option<Output> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, filter.as_bytes()).unwrap();
    match Command::new("python3").arg("-c").arg(INSTALL).arg(file.path()).arg(code).output() {
        Ok(output) => Some(output),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIP: python3");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// The code must end well and print exactly this.
fn check(filter: &Filter, code: &str, expected: &str) {
    let Some(output) = under(filter, code) else {
        return;
    };
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}: {err}", output.status);
    assert_eq!(out.trim(), expected, "{err}");
}

#[test]
fn the_kernel_takes_the_default_filter_and_ordinary_programs_run_under_it() {
    for filter in [Filter::docker_default(0), Filter::docker_default_native_only(0), Filter::docker_default(u64::MAX)] {
        let code = "
import os, socket, subprocess, tempfile, threading
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
a, b = socket.socketpair(); a.send(b'x'); assert b.recv(1) == b'x'
server = socket.socket(); server.bind(('127.0.0.1', 0))
with tempfile.TemporaryDirectory() as d:
    open(d + '/f', 'w').write('x'); os.chmod(d + '/f', 0o600); os.rename(d + '/f', d + '/g')
print(subprocess.run(['sh', '-c', 'ls / >/dev/null && echo fine | cat'], capture_output=True, text=True).stdout)";
        check(&filter, code, "fine");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_kernel_answers_forbidden_calls_as_the_default_filter_says() {
    // The last line of each table has the calls that must pass, so that a filter which refuses everything fails too.
    let code = "
calls = {
    1: [(250, 0, -3), (248,), (249,), (272, 0x10000000), (165,), (308, -1), (321, 0), (323,), (425, 1), (430,), (298,), (304,),
        (135, 0x40000), (155,), (56, 0x10000011), (41, 40, 1, 0), (41, 38, 5, 0), (41, 1 << 32 | 40, 1, 0)],
    38: [(435, 0, 0), (600,), (0x4000000d,)],
    0: [(135, 0xffffffff), (39,), (41, 1, 1, 0), (41, 2, 2, 0)],
}
for errno, rows in calls.items():
    for row in rows:
        if (real := call(*row)) != errno: print(row, real, 'not', errno)
print('done')";
    check(&Filter::docker_default(0), code, "done");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_filter_of_ones_own_forbids_what_it_says_and_nothing_else() {
    let filter = FilterBuilder::new(Action::Allow)
        .rule("getppid", Action::Errno(95))
        .rule_if("lseek", &[ArgCond::long(1, Op::Gt, 1 << 40)], Action::Errno(27))
        .build()
        .unwrap();
    let code = "
import tempfile
f = tempfile.TemporaryFile()
print(call(110), call(39), call(8, f.fileno(), 1 << 40, 0), call(8, f.fileno(), (1 << 40) + 1, 0))";
    check(&filter, code, "95 0 0 27");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_killing_rule_ends_the_process_with_sigsys() {
    use std::os::unix::process::ExitStatusExt;
    let filter = FilterBuilder::new(Action::Allow).rule("getppid", Action::KillProcess).build().unwrap();
    let Some(output) = under(&filter, "print('before', flush=True); call(110); print('after')") else {
        return;
    };
    assert_eq!(output.status.signal(), Some(31), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "before");
}

/// Makes i386 calls from a 64-bit process by `int 0x80`: push rbx; mov eax, edi; mov ebx, esi; xor ecx, ecx; int 0x80; pop rbx; ret.
#[cfg(target_arch = "x86_64")]
const I386: &str = r"
import mmap
page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
page.write(bytes.fromhex('5389f889f331c9cd805bc3'))
i386 = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
";

/// Needs a kernel with CONFIG_IA32_EMULATION.
#[cfg(target_arch = "x86_64")]
#[test]
fn the_kernel_answers_i386_calls_as_the_default_filter_says_and_native_only_kills() {
    use std::os::unix::process::ExitStatusExt;
    const GETPID: &str = "print(i386(20, 0) > 0, flush=True)";
    let everything = FilterBuilder::new(Action::Allow).build().unwrap();
    let Some(output) = under(&everything, &format!("{I386}{GETPID}")) else {
        return;
    };
    if output.stdout != b"True\n" {
        println!("SKIP: CONFIG_IA32_EMULATION");
        return;
    }
    // getpid; keyctl, mount, io_uring_setup, unshare, socket(AF_VSOCK); clone3, and a number that is nobody's.
    let code =
        "print(i386(20, 0) > 0, i386(288, 0), i386(21, 0), i386(425, 1), i386(310, 0x10000000), i386(359, 40), i386(435, 0), i386(600, 0))";
    check(&Filter::docker_default(0), &format!("{I386}{code}"), "True -1 -1 -1 -1 -1 -38 -38");

    let Some(output) = under(&Filter::docker_default_native_only(0), &format!("{I386}{GETPID}")) else {
        return;
    };
    assert_eq!(output.status.signal(), Some(31), "{output:?}");
}
