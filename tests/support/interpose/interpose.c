/*
 * A preloaded library that makes the writes of chosen files fail, or takes back what was not
 * synced, as a power loss would. For code that does its own I/O (LMDB), which the simulated disk
 * cannot reach.
 *
 *   cc -shared -fPIC -o interpose.so interpose.c -lpthread; LD_PRELOAD=./interpose.so program
 *
 * Or include this file in a test program: its definitions then come before those of the C library,
 * for the shared libraries as well. Settings are read from the environment at the first call:
 *
 *   LEVEE_INTERPOSE_MATCH   files that are watched: a pattern of fnmatch(3) for the whole path
 *   LEVEE_INTERPOSE_FAIL    "call:n:errno[:bytes]", several by commas. The n-th call fails with
 * that errno (a number); "n+": the n-th and all later ones. With bytes, the n-th call writes only
 * so many and says so, and the next one fails. LEVEE_INTERPOSE_POWER   "call:n": the power fails
 * instead of the n-th call; or "exit": when the program ends in an orderly way LEVEE_INTERPOSE_KEEP
 * of 1000 unsynced sectors so many survive a power loss; default 0 LEVEE_INTERPOSE_SEED    which
 * ones LEVEE_INTERPOSE_COUNTS  a file that always holds a line "call number" for every call
 *
 * A call is one of write writev pwrite pwritev ftruncate fsync fdatasync msync, or anywrite (the
 * first five) or anysync (the last three). Only calls on watched files are counted.
 *
 * Power loss, also by calling levee_interpose_power_loss(): every 512-byte sector written since the
 * last sync of its file gets its old bytes back unless it is kept, every file its old size, then
 * the process kills itself. A sync that was made to fail has saved nothing, and no later one saves
 * those sectors (faults.md, fact 8). What O_SYNC and O_DSYNC descriptors write is safe at once. Not
 * covered: names (rename, unlink, truncation by open), copy_file_range and sendfile, and memory
 * written through a shared mapping.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* syscall, off64_t */
#endif
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define EXPORT    __attribute__((visibility("default")))
#define SECTOR    512
#define RULES_MAX 8
#define PATH_SIZE 4096

enum call {
    CALL_WRITE,
    CALL_WRITEV,
    CALL_PWRITE,
    CALL_PWRITEV,
    CALL_FTRUNCATE,
    CALL_FSYNC,
    CALL_FDATASYNC,
    CALL_MSYNC,
    CALL_ANYWRITE,
    CALL_ANYSYNC,
    CALLS
};

static const char *const call_names[CALLS] = {"write",     "writev", "pwrite",    "pwritev",
                                              "ftruncate", "fsync",  "fdatasync", "msync",
                                              "anywrite",  "anysync"};

struct rule {
    enum call call;
    uint64_t nth;
    bool later_too;
    int sys_errno;
    long bytes; /* -1: fail at once */
    bool power;
};

/* The durable bytes of a sector that was written since. */
struct saved {
    struct saved *next;
    uint64_t sector;
    bool lost; /* its sync failed */
    uint8_t bytes[SECTOR];
};

struct watched {
    struct watched *next;
    dev_t dev;
    ino_t inode;
    int fd; /* our own, to restore by */
    uint64_t durable_size;
    bool size_lost;
    struct saved **buckets;
};

#define BUCKETS 1024

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
/* All guarded by mutex. */
static bool is_ready;
static const char *pattern;
static struct rule rules[RULES_MAX];
static size_t rule_count;
static bool power_at_exit;
static uint64_t keep_per_mille;
static uint64_t random_state;
static int counts_fd = -1;
static uint64_t counts[CALLS];
static struct watched *files;

/* ---- settings ---- */

/* A setting nobody understands must not pass for a test that found nothing. */
static _Noreturn void bad_setting(const char *what)
{
    fprintf(stderr, "interpose: cannot understand %s\n", what);
    abort();
}

static enum call call_of(const char *name, size_t len)
{
    for (int i = 0; i < CALLS; i++) {
        if (strlen(call_names[i]) == len && memcmp(call_names[i], name, len) == 0) {
            return (enum call)i;
        }
    }
    bad_setting(name);
}

/* Parses "call:n[+][:errno[:bytes]]" and returns what follows. */
static const char *parse_rule(const char *text, bool power)
{
    struct rule rule = {.bytes = -1, .power = power};
    size_t len = strcspn(text, ":");
    char *end;

    if (text[len] != ':' || rule_count == RULES_MAX) {
        bad_setting(text);
    }
    rule.call = call_of(text, len);
    rule.nth = strtoull(text + len + 1, &end, 10);
    if (*end == '+') {
        rule.later_too = true;
        end++;
    }
    if (!power) {
        if (*end != ':') {
            bad_setting(text);
        }
        rule.sys_errno = (int)strtol(end + 1, &end, 10);
        if (*end == ':') {
            rule.bytes = strtol(end + 1, &end, 10);
        }
    }
    if (rule.nth == 0 || (*end != '\0' && *end != ',')) {
        bad_setting(text);
    }
    rules[rule_count++] = rule;
    return *end == ',' ? end + 1 : end;
}

static void read_settings(void)
{
    const char *fail = getenv("LEVEE_INTERPOSE_FAIL");
    const char *power = getenv("LEVEE_INTERPOSE_POWER");
    const char *keep = getenv("LEVEE_INTERPOSE_KEEP");
    const char *seed = getenv("LEVEE_INTERPOSE_SEED");
    const char *counts_path = getenv("LEVEE_INTERPOSE_COUNTS");

    is_ready = true;
    pattern = getenv("LEVEE_INTERPOSE_MATCH");
    while (fail != NULL && *fail != '\0') {
        fail = parse_rule(fail, false);
    }
    power_at_exit = power != NULL && strcmp(power, "exit") == 0;
    if (power != NULL && !power_at_exit) {
        (void)parse_rule(power, true);
    }
    keep_per_mille = keep != NULL ? strtoull(keep, NULL, 10) : 0;
    random_state = seed != NULL ? strtoull(seed, NULL, 10) : 0;
    if (counts_path != NULL) {
        counts_fd = open(counts_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (counts_fd < 0) {
            bad_setting(counts_path);
        }
    }
}

static bool path_matches(const char *path)
{
    return pattern != NULL && fnmatch(pattern, path, 0) == 0;
}

/* The descriptor's file is watched. Asked of the kernel each time, so renames are followed. */
static bool fd_matches(int fd)
{
    char link[64];
    char path[PATH_SIZE];

    if (!is_ready) {
        read_settings();
    }
    if (pattern == NULL) {
        return false;
    }
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t len = readlink(link, path, sizeof path - 1);
    if (len < 0) {
        return false;
    }
    path[len] = '\0';
    return path_matches(path);
}

static bool address_matches(const void *address)
{
    char line[PATH_SIZE + 128];
    bool matches = false;
    FILE *maps = fopen("/proc/self/maps", "re");

    if (!is_ready) {
        read_settings();
    }
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long long from = 0;
        unsigned long long to = 0;
        int at = 0;
        line[strcspn(line, "\n")] = '\0';
        if (sscanf(line, "%llx-%llx %*s %*s %*s %*s %n", &from, &to, &at) >= 2 &&
            (uintptr_t)address >= from && (uintptr_t)address < to) {
            matches = path_matches(line + at);
            break;
        }
    }
    if (maps != NULL) {
        (void)fclose(maps);
    }
    return matches;
}

/* ---- what is durable ---- */

static long raw_pwrite(int fd, const void *data, size_t len, uint64_t offset)
{
    return syscall(SYS_pwrite64, fd, data, len, offset);
}

static struct watched *watch(int fd)
{
    struct stat st;
    char link[64];

    if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        return NULL;
    }
    for (struct watched *w = files; w != NULL; w = w->next) {
        if (w->dev == st.st_dev && w->inode == st.st_ino) {
            return w;
        }
    }
    struct watched *w = calloc(1, sizeof *w);
    (void)snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (w == NULL || (w->buckets = calloc(BUCKETS, sizeof *w->buckets)) == NULL ||
        (w->fd = open(link, O_RDWR | O_CLOEXEC)) < 0) {
        bad_setting("a watched file: it cannot be opened");
    }
    w->dev = st.st_dev;
    w->inode = st.st_ino;
    w->durable_size = (uint64_t)st.st_size; /* what was there before us is taken to be durable */
    w->next = files;
    files = w;
    return w;
}

static struct saved **find_saved(struct watched *w, uint64_t sector)
{
    struct saved **at = &w->buckets[sector % BUCKETS];

    while (*at != NULL && (*at)->sector != sector) {
        at = &(*at)->next;
    }
    return at;
}

/* Called before [offset, end) changes. */
static void save(struct watched *w, uint64_t offset, uint64_t end)
{
    for (uint64_t s = offset / SECTOR; s * SECTOR < end; s++) {
        struct saved **at = find_saved(w, s);
        if (*at != NULL) {
            (*at)->lost = false; /* written again: the next sync counts for it */
            continue;
        }
        struct saved *saved = calloc(1, sizeof *saved);
        if (saved == NULL) {
            bad_setting("memory");
        }
        saved->sector = s;
        (void)!pread(w->fd, saved->bytes, SECTOR, (off_t)(s * SECTOR)); /* zeros past the end */
        *at = saved;
    }
}

/* Forgets what is saved of [offset, end), for it is durable. */
static void settle(struct watched *w, uint64_t offset, uint64_t end)
{
    for (uint64_t i = 0; i < BUCKETS; i++) {
        for (struct saved **at = &w->buckets[i]; *at != NULL;) {
            struct saved *saved = *at;
            if (!saved->lost && saved->sector * SECTOR < end &&
                (saved->sector + 1) * SECTOR > offset) {
                *at = saved->next;
                free(saved);
            } else {
                at = &saved->next;
            }
        }
    }
}

static void lose(struct watched *w)
{
    for (uint64_t i = 0; i < BUCKETS; i++) {
        for (struct saved *saved = w->buckets[i]; saved != NULL; saved = saved->next) {
            saved->lost = true;
        }
    }
    w->size_lost = true;
}

static void settle_size(struct watched *w)
{
    struct stat st;

    if (fstat(w->fd, &st) == 0 && !w->size_lost) {
        w->durable_size = (uint64_t)st.st_size;
    }
}

static bool kept(void)
{
    uint64_t z = random_state += UINT64_C(0x9e3779b97f4a7c15); /* splitmix64 */

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return (z ^ z >> 31) % 1000 < keep_per_mille;
}

static void restore(struct watched *w)
{
    struct stat st;
    bool keep_size = !w->size_lost && kept() && fstat(w->fd, &st) == 0;
    uint64_t size = keep_size ? (uint64_t)st.st_size : w->durable_size;

    for (uint64_t i = 0; i < BUCKETS; i++) {
        for (const struct saved *saved = w->buckets[i]; saved != NULL; saved = saved->next) {
            if (saved->lost || !kept()) {
                (void)raw_pwrite(w->fd, saved->bytes, SECTOR, saved->sector * SECTOR);
            }
        }
    }
    /* Last, for restored sectors may reach beyond the end. */
    (void)syscall(SYS_ftruncate, w->fd, size);
}

static _Noreturn void power_loss(void)
{
    for (struct watched *w = files; w != NULL; w = w->next) {
        restore(w);
    }
    (void)kill(getpid(), SIGKILL);
    for (;;) {
        pause();
    }
}

EXPORT void levee_interpose_power_loss(void);
EXPORT void levee_interpose_power_loss(void)
{
    (void)pthread_mutex_lock(&mutex);
    power_loss();
}

static void __attribute__((destructor)) at_exit(void)
{
    if (power_at_exit) {
        levee_interpose_power_loss();
    }
}

/* ---- rules ---- */

static void show_counts(void)
{
    char text[CALLS * 40];
    int len = 0;

    if (counts_fd < 0) {
        return;
    }
    for (int i = 0; i < CALLS; i++) {
        len += snprintf(text + len, sizeof text - (size_t)len, "%s %llu\n", call_names[i],
                        (unsigned long long)counts[i]);
    }
    (void)raw_pwrite(counts_fd, text, (size_t)len, 0);
}

/* Counts the call. 0: go on; an errno: fail; *ret_bytes is lowered when the call is to be cut
 * short. */
static int judge(enum call call, size_t *ret_bytes)
{
    enum call group = call <= CALL_FTRUNCATE ? CALL_ANYWRITE : CALL_ANYSYNC;

    counts[call]++;
    counts[group]++;
    show_counts();
    for (size_t i = 0; i < rule_count; i++) {
        const struct rule *rule = &rules[i];
        if (rule->call != call && rule->call != group) {
            continue;
        }
        uint64_t n = counts[rule->call];
        bool cut_before = rule->bytes >= 0 && n == rule->nth;
        uint64_t first = rule->nth + (rule->bytes >= 0 ? 1 : 0);
        if (rule->power && n == rule->nth) {
            power_loss();
        } else if (!rule->power && cut_before) {
            *ret_bytes = (size_t)rule->bytes < *ret_bytes ? (size_t)rule->bytes : *ret_bytes;
        } else if (!rule->power && (n == first || (n > first && rule->later_too))) {
            return rule->sys_errno;
        }
    }
    return 0;
}

/* ---- the calls ---- */

/* Writes at an offset, or at the descriptor's own when it is negative. */
static ssize_t do_write(enum call call, int fd, const struct iovec *iov, int count, int64_t offset)
{
    struct iovec part[64];
    size_t len = 0;
    int parts = 0;

    for (int i = 0; i < count; i++) {
        len += iov[i].iov_len;
    }
    (void)pthread_mutex_lock(&mutex);
    bool watching = fd_matches(fd);
    struct watched *w = watching ? watch(fd) : NULL;
    size_t allowed = len;
    int sys_errno = watching ? judge(call, &allowed) : 0;
    ssize_t n = -1;
    if (sys_errno == 0) {
        /* Longer vectors than ours are cut short, which every caller must bear. */
        for (size_t left = allowed; left > 0 && parts < count && parts < 64; parts++) {
            part[parts] = iov[parts];
            part[parts].iov_len = iov[parts].iov_len < left ? iov[parts].iov_len : left;
            left -= part[parts].iov_len;
        }
        int64_t at = offset >= 0 ? offset : (int64_t)lseek(fd, 0, SEEK_CUR);
        if (w != NULL && at >= 0) {
            save(w, (uint64_t)at, (uint64_t)at + allowed);
        }
        n = offset >= 0 ? syscall(SYS_pwritev, fd, part, (long)parts, offset, 0L)
                        : syscall(SYS_writev, fd, part, (long)parts);
        sys_errno = n < 0 ? errno : 0;
        if (w != NULL && n > 0) {
            /* What reaches beyond the size on disk lets the next sync save a size again. */
            w->size_lost = w->size_lost && (uint64_t)at + (uint64_t)n <= w->durable_size;
            int flags = fcntl(fd, F_GETFL);
            if (flags >= 0 && (flags & (O_SYNC | O_DSYNC)) != 0) {
                settle(w, (uint64_t)at, (uint64_t)at + (uint64_t)n);
                settle_size(w);
            }
        }
    }
    (void)pthread_mutex_unlock(&mutex);
    if (sys_errno != 0) {
        errno = sys_errno;
        return -1;
    }
    return n;
}

EXPORT ssize_t write(int fd, const void *data, size_t len)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return do_write(CALL_WRITE, fd, &iov, 1, -1);
}

EXPORT ssize_t writev(int fd, const struct iovec *iov, int count)
{
    return do_write(CALL_WRITEV, fd, iov, count, -1);
}

EXPORT ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return do_write(CALL_PWRITE, fd, &iov, 1, (int64_t)offset);
}

EXPORT ssize_t pwrite64(int fd, const void *data, size_t len, off64_t offset)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data, .iov_len = len};
    return do_write(CALL_PWRITE, fd, &iov, 1, (int64_t)offset);
}

EXPORT ssize_t pwritev(int fd, const struct iovec *iov, int count, off_t offset)
{
    return do_write(CALL_PWRITEV, fd, iov, count, (int64_t)offset);
}

EXPORT ssize_t pwritev64(int fd, const struct iovec *iov, int count, off64_t offset)
{
    return do_write(CALL_PWRITEV, fd, iov, count, (int64_t)offset);
}

static int do_truncate(int fd, int64_t size)
{
    struct stat st;
    size_t unused = 0;

    (void)pthread_mutex_lock(&mutex);
    bool watching = fd_matches(fd);
    struct watched *w = watching ? watch(fd) : NULL;
    int sys_errno = watching ? judge(CALL_FTRUNCATE, &unused) : 0;
    if (sys_errno == 0) {
        if (w != NULL && fstat(fd, &st) == 0 && size >= 0 && size < st.st_size) {
            save(w, (uint64_t)size, (uint64_t)st.st_size);
        }
        sys_errno = syscall(SYS_ftruncate, fd, size) < 0 ? errno : 0;
        if (w != NULL) {
            w->size_lost = false;
        }
    }
    (void)pthread_mutex_unlock(&mutex);
    errno = sys_errno != 0 ? sys_errno : errno;
    return sys_errno != 0 ? -1 : 0;
}

EXPORT int ftruncate(int fd, off_t size)
{
    return do_truncate(fd, (int64_t)size);
}

EXPORT int ftruncate64(int fd, off64_t size)
{
    return do_truncate(fd, (int64_t)size);
}

static int do_sync(enum call call, int fd)
{
    size_t unused = 0;

    (void)pthread_mutex_lock(&mutex);
    bool watching = fd_matches(fd);
    struct watched *w = watching ? watch(fd) : NULL;
    int sys_errno = watching ? judge(call, &unused) : 0;
    if (sys_errno != 0) {
        if (w != NULL) {
            lose(w);
        }
    } else if (syscall(call == CALL_FSYNC ? SYS_fsync : SYS_fdatasync, fd) < 0) {
        sys_errno = errno;
    } else if (w != NULL) {
        settle(w, 0, UINT64_MAX);
        settle_size(w);
    }
    (void)pthread_mutex_unlock(&mutex);
    errno = sys_errno != 0 ? sys_errno : errno;
    return sys_errno != 0 ? -1 : 0;
}

EXPORT int fsync(int fd)
{
    return do_sync(CALL_FSYNC, fd);
}

EXPORT int fdatasync(int fd)
{
    return do_sync(CALL_FDATASYNC, fd);
}

EXPORT int msync(void *address, size_t len, int flags)
{
    size_t unused = 0;

    (void)pthread_mutex_lock(&mutex);
    int sys_errno = address_matches(address) ? judge(CALL_MSYNC, &unused) : 0;
    if (sys_errno == 0 && syscall(SYS_msync, address, len, flags) < 0) {
        sys_errno = errno;
    }
    (void)pthread_mutex_unlock(&mutex);
    errno = sys_errno != 0 ? sys_errno : errno;
    return sys_errno != 0 ? -1 : 0;
}
