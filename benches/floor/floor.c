/* The floor under a container's life: what the kernel alone takes for it.
 *
 * One process, one clone3, no supervisor, no init, no checks: the namespaces, mounts and cgroups that Coracle makes by default, the
 * command, its end, and everything removed. Nothing that does all this can be faster by much. The mounts are made by mount(2), which
 * takes fewer system calls than the new interface; nothing is looked up safely, and no error is explained.
 *
 * Usage: floor ROOTFS SCRATCH LIMITS UNIFIED MEMORY PIDS; LIMITS is 0 or 1, the last three are cgroup directories, or "-".
 * One life for each byte of standard input; its nanoseconds as a line of standard output.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *rootfs, *scratch, *unified, *memory, *pids;
static int limits;

#define MUST(call)                                                                  \
    do {                                                                            \
        if ((call) < 0) {                                                           \
            fprintf(stderr, "floor: line %d: %s: %m\n", __LINE__, #call);           \
            _exit(99);                                                              \
        }                                                                           \
    } while (0)

static void put(const char *path, const char *value) {
    int f = open(path, O_WRONLY | O_CLOEXEC);
    MUST(f);
    MUST(write(f, value, strlen(value)));
    close(f);
}

static void below(char *into, const char *directory, const char *name) { snprintf(into, 4096, "%s/%s", directory, name); }

static void file(const char *path, const char *contents) {
    int f = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    MUST(f);
    MUST(write(f, contents, strlen(contents)));
    close(f);
}

static void child(void) {
    const unsigned long quiet = MS_NOSUID | MS_NODEV | MS_NOEXEC;
    char data[8192], merged[4096], path[4096];
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    below(merged, scratch, "merged");
    snprintf(data, sizeof data, "lowerdir=%s,upperdir=%s/upper,workdir=%s/work,volatile", rootfs, scratch, scratch);
    MUST(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
    MUST(mount("overlay", merged, "overlay", 0, data));
    MUST(chdir(merged));
    MUST(mount("proc", "proc", "proc", quiet, NULL));
    MUST(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL));
    MUST(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=65536k"));
    MUST(mkdir("dev/pts", 0755));
    MUST(mkdir("dev/shm", 01777));
    MUST(mkdir("dev/mqueue", 0755));
    MUST(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    MUST(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"));
    MUST(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL));
    static const char *devices[] = {"null", "zero", "full", "random", "urandom", "tty"};
    for (unsigned i = 0; i < 6; i++) {
        char from[64], to[64];
        snprintf(from, sizeof from, "/dev/%s", devices[i]);
        snprintf(to, sizeof to, "dev/%s", devices[i]);
        int f = open(to, O_CREAT | O_WRONLY | O_CLOEXEC, 0666);
        MUST(f);
        close(f);
        MUST(mount(from, to, NULL, MS_BIND, NULL));
    }
    static const char *links[][2] = {{"/proc/self/fd", "dev/fd"}, {"/proc/self/fd/0", "dev/stdin"}, {"/proc/self/fd/1", "dev/stdout"},
                                     {"/proc/self/fd/2", "dev/stderr"}, {"pts/ptmx", "dev/ptmx"}};
    for (unsigned i = 0; i < 5; i++) MUST(symlink(links[i][0], links[i][1]));
    static const char *files[] = {"hosts", "hostname", "resolv.conf"};
    for (unsigned i = 0; i < 3; i++) {
        char from[4096], to[64];
        below(from, scratch, files[i]);
        snprintf(to, sizeof to, "etc/%s", files[i]);
        file(from, "127.0.0.1\tlocalhost\n");
        MUST(mount(from, to, NULL, MS_BIND, NULL));
    }
    static const char *masked[] = {"proc/acpi", "proc/asound", "proc/interrupts", "proc/kcore", "proc/keys", "proc/latency_stats",
                                   "proc/sched_debug", "proc/scsi", "proc/timer_list", "sys/devices/virtual/powercap", "sys/firmware"};
    MUST(mkdir("dev/empty", 0555));
    for (unsigned i = 0; i < 11; i++) {
        struct stat s;
        if (stat(masked[i], &s)) continue;
        MUST(mount(S_ISDIR(s.st_mode) ? "dev/empty" : "/dev/null", masked[i], NULL, MS_BIND, NULL));
        if (S_ISDIR(s.st_mode)) MUST(mount(NULL, masked[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | quiet, NULL));
    }
    static const char *read_only[] = {"proc/bus", "proc/fs", "proc/irq", "proc/sys", "proc/sysrq-trigger"};
    for (unsigned i = 0; i < 5; i++) {
        if (mount(read_only[i], read_only[i], NULL, MS_BIND | MS_REC, NULL)) continue;
        MUST(mount(NULL, read_only[i], NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | quiet, NULL));
    }
    MUST(sethostname("floor", 5));
    struct ifreq lo = {.ifr_name = "lo"};
    int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    MUST(s);
    lo.ifr_flags = IFF_UP | IFF_RUNNING;
    MUST(ioctl(s, SIOCSIFFLAGS, &lo));
    close(s);
    if (limits) {
        /* A thread that moves itself doesn't wait for an RCU grace period, as one that is moved by another does. */
        below(path, memory, "tasks");
        put(path, "0");
        below(path, pids, "tasks");
        put(path, "0");
    }
    MUST(unshare(CLONE_NEWCGROUP));
    if (limits) {
        MUST(mount("tmpfs", "sys/fs/cgroup", "tmpfs", quiet, "mode=755,size=4k"));
        MUST(mkdir("sys/fs/cgroup/memory", 0755));
        MUST(mkdir("sys/fs/cgroup/pids", 0755));
        MUST(mount("cgroup", "sys/fs/cgroup/memory", "cgroup", quiet | MS_RDONLY, "memory"));
        MUST(mount("cgroup", "sys/fs/cgroup/pids", "cgroup", quiet | MS_RDONLY, "pids"));
    }
    MUST(syscall(SYS_pivot_root, ".", "."));
    MUST(umount2(".", MNT_DETACH));
    MUST(chdir("/"));
    char *argv[] = {"/bin/true", NULL}, *envp[] = {"PATH=/bin", NULL};
    execve("/bin/true", argv, envp);
    _exit(97);
}

static int gone(const char *path) { return rmdir(path) == 0 || errno == ENOENT ? 0 : -1; }

/* The kernel lets go of a dead process's cgroup a moment after it can be reaped. */
static void remove_cgroup(const char *path) {
    while (gone(path)) {
        if (errno != EBUSY) MUST(-1);
        usleep(50);
    }
}

static int life(void) {
    char path[4096], main_cgroup[4096];
    int into = -1, pidfd = -1, status = 0;
    if (*unified != '-') {
        MUST(mkdir(unified, 0755));
        below(main_cgroup, unified, "main");
        MUST(mkdir(main_cgroup, 0755));
        into = open(main_cgroup, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        MUST(into);
    }
    if (limits) {
        MUST(mkdir(memory, 0755));
        below(path, memory, "memory.limit_in_bytes");
        put(path, "268435456");
        below(path, memory, "memory.memsw.limit_in_bytes");
        if (access(path, W_OK) == 0) put(path, "268435456");
        MUST(mkdir(pids, 0755));
        below(path, pids, "pids.max");
        put(path, "64");
    }
    MUST(mkdir(scratch, 0700));
    static const char *directories[] = {"upper", "work", "merged"};
    for (unsigned i = 0; i < 3; i++) {
        below(path, scratch, directories[i]);
        MUST(mkdir(path, 0755));
    }
    struct clone_args arguments = {
        .flags = CLONE_PIDFD | CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNET | (into >= 0 ? CLONE_INTO_CGROUP : 0),
        .pidfd = (uintptr_t)&pidfd,
        .exit_signal = SIGCHLD,
        .cgroup = into >= 0 ? into : 0,
    };
    pid_t pid = syscall(SYS_clone3, &arguments, sizeof arguments);
    MUST(pid);
    if (pid == 0) child();
    if (into >= 0) close(into);
    MUST(waitpid(pid, &status, 0));
    close(pidfd);
    if (*unified != '-') {
        remove_cgroup(main_cgroup);
        remove_cgroup(unified);
    }
    if (limits) {
        remove_cgroup(memory);
        remove_cgroup(pids);
    }
    static const char *names[] = {"hosts", "hostname", "resolv.conf"};
    for (unsigned i = 0; i < 3; i++) {
        below(path, scratch, names[i]);
        MUST(unlink(path));
    }
    static const char *left[] = {"work/work", "work", "upper", "merged"};
    for (unsigned i = 0; i < 4; i++) {
        below(path, scratch, left[i]);
        /* What a volatile overlay leaves to say that it was one. */
        if (i == 0) {
            below(path, scratch, "work/work/incompat/volatile/dirty");
            MUST(unlink(path));
            below(path, scratch, "work/work/incompat/volatile");
            MUST(rmdir(path));
            below(path, scratch, "work/work/incompat");
            MUST(rmdir(path));
            below(path, scratch, left[i]);
        }
        MUST(gone(path));
    }
    MUST(gone(scratch));
    return status;
}

int main(int argc, char **argv) {
    if (argc != 7) return 2;
    rootfs = argv[1], scratch = argv[2], limits = atoi(argv[3]), unified = argv[4], memory = argv[5], pids = argv[6];
    umask(0);
    char byte;
    while (read(0, &byte, 1) == 1) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        int status = life();
        clock_gettime(CLOCK_MONOTONIC, &b);
        if (status) {
            fprintf(stderr, "floor: the command ended with status %d\n", status);
            return 1;
        }
        printf("%lld\n", (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec);
        fflush(stdout);
    }
    return 0;
}
