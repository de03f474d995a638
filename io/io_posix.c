/*
 * The real world: files, names, clocks and randomness of Linux. Locks are in io_posix_lock.c, lanes
 * in io_posix_lanes.c.
 *
 *   P1  Every descriptor is close-on-exec.
 *   P2  sync is fdatasync: on Linux it makes the data durable and the size needed to read it back.
 *       A name is durable only after sync_dir on its directory.
 *   P3  An error of close is not reported: what matters was synced before, and what was not synced
 *       was promised to nobody. close is never repeated, not even after EINTR: the descriptor is
 *       gone.
 *   P4  The host may close our descriptors and get their numbers for files of its own (fault 114).
 *       A file remembers its (device, inode); fstat fails when they changed, and close then leaves
 *       the descriptor to whoever owns it now.
 *
 * SIGXFSZ (fault 74): a write above RLIMIT_FSIZE raises it, and its default kills. On lanes all
 * signals are blocked, so the write fails with EFBIG → NOSPACE. The library installs no handler; a
 * host that sets such a limit and uses files from its own threads ignores SIGXFSZ itself.
 */
#define _GNU_SOURCE /* sync_file_range, pwritev, statx, F_SETLEASE */
#include "io/io_posix.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define FILE_MODE 0666 /* the umask decides */
#define DIR_MODE  0777
/* A create that meets an existing file opens it, which may find it gone: try again, not for ever */
#define CREATE_TRIES 8

struct posix_file {
    struct io_file head;
    int fd;
    dev_t dev;
    ino_t inode;
};

static struct posix_file *posix_file(struct io_file *f)
{
    return CONTAINER_OF(f, struct posix_file, head);
}

/* ---- open files ---- */

static ssize_t raw_pread(struct io_file *f, void *buf, size_t len, uint64_t offset)
{
    return pread(posix_file(f)->fd, buf, len, (off_t)offset);
}

static ssize_t raw_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset)
{
    return pwritev(posix_file(f)->fd, iov, count, (off_t)offset);
}

static int raw_sync(struct io_file *f)
{
    return fdatasync(posix_file(f)->fd);
}

static int raw_truncate(struct io_file *f, uint64_t size)
{
    return ftruncate(posix_file(f)->fd, (off_t)size);
}

static const struct io_raw raw_ops = {raw_pread, raw_pwritev, raw_sync, raw_truncate};

/* open(2), repeated when a signal interrupted it. */
static int open_fd(const char *path, int flags)
{
    int fd;

    do {
        fd = open(path, flags | O_CLOEXEC, FILE_MODE);
    } while (fd < 0 && errno == EINTR);
    return fd;
}

/* Opens or creates; *ret_created says which, so that creates can be counted exactly. */
int io_posix_create_fd(const char *path, int flags, bool exclusive, bool *ret_created)
{
    int fd = -1;

    *ret_created = false;
    for (int i = 0; i < CREATE_TRIES; i++) {
        fd = open_fd(path, (flags & ~O_TRUNC) | O_CREAT | O_EXCL);
        if (fd >= 0) {
            *ret_created = true;
            return fd;
        }
        if (errno != EEXIST || exclusive) {
            return -1;
        }
        fd = open_fd(path, flags);
        if (fd >= 0 || errno != ENOENT) {
            return fd;
        }
    }
    return fd;
}

static int posix_open(struct io *io, const char *path, int flags, struct io_file **ret,
                      struct levee_error *err)
{
    bool created = false;
    struct stat st;
    int rc;
    int sys = (flags & IO_WRITE) != 0 ? O_RDWR : O_RDONLY;
    struct posix_file *f = mem_zalloc(sizeof *f);

    ASSERT((flags & (IO_READ | IO_WRITE)) != 0);
    if (f == NULL) {
        return err_nomem(err, sizeof *f);
    }
    if ((flags & IO_TRUNCATE) != 0) {
        sys |= O_TRUNC;
    }
    f->head = (struct io_file){.io = io, .raw = &raw_ops, .path = mem_strdup(path)};
    f->fd = -1;
    if (f->head.path == NULL) {
        rc = err_nomem(err, strlen(path) + 1);
        goto fail;
    }
    f->fd = (flags & IO_CREATE) != 0
                ? io_posix_create_fd(path, sys, (flags & IO_EXCL) != 0, &created)
                : open_fd(path, sys);
    if (f->fd < 0 || fstat(f->fd, &st) < 0) {
        rc = io_fail(err, errno, "open", path);
        goto fail;
    }
    f->dev = st.st_dev;
    f->inode = st.st_ino;
    if (created) {
        counter_add(&io->counts.creates, 1);
    }
    *ret = &f->head;
    return LEVEE_OK;
fail:
    if (f->fd >= 0) {
        (void)close(f->fd);
    }
    mem_free(f->head.path);
    mem_free(f);
    return rc;
}

static void posix_close(struct io_file *file)
{
    struct posix_file *f = posix_file(file);
    struct stat st;

    /* P4: only if the descriptor still is our file. P3: the result of close is of no use. */
    if (fstat(f->fd, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->inode) {
        (void)close(f->fd);
    }
    mem_free(f->head.path);
    mem_free(f);
}

static int posix_write_back(struct io_file *f, uint64_t offset, uint64_t len,
                            struct levee_error *err)
{
    int rc = sync_file_range(posix_file(f)->fd, (off_t)offset, (off_t)len, SYNC_FILE_RANGE_WRITE);

    if (rc == 0 || errno == EINTR || errno == ENOSYS || errno == ESPIPE || errno == EINVAL) {
        return LEVEE_OK; /* a hint; a file system may not know it */
    }
    return io_fail(err, errno, "start write-back of", f->path);
}

/* statx, for the birth of the inode. 0 or -1 and errno, as stat. */
static int stat_at(int fd, const char *path, struct io_stat *ret)
{
    struct statx st;

    if (statx(fd, path, path[0] ? 0 : AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &st) < 0) {
        return -1;
    }
    *ret = (struct io_stat){
        .kind = S_ISREG(st.stx_mode)   ? IO_FILE
                : S_ISDIR(st.stx_mode) ? IO_DIR
                                       : IO_OTHER,
        .size = st.stx_size,
        .dev = makedev(st.stx_dev_major, st.stx_dev_minor),
        .inode = st.stx_ino,
        .mtime_ns = st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec,
        .links = st.stx_nlink,
    };
    if (st.stx_mask & STATX_BTIME) {
        ret->birth = (uint64_t)st.stx_btime.tv_sec * 1000000000u + st.stx_btime.tv_nsec;
    }
    return 0;
}

static int posix_fstat(struct io_file *file, struct io_stat *ret, struct levee_error *err)
{
    struct posix_file *f = posix_file(file);
    struct io_stat st;

    if (stat_at(f->fd, "", &st) < 0) {
        return io_fail(err, errno, "stat open file", file->path);
    }
    if (st.dev != f->dev || st.inode != f->inode) {
        int code =
            err_set(err, LEVEE_EIO, "the descriptor of %s was closed by somebody else", file->path);
        err_where(err, "%s, descriptor %d", file->path, f->fd);
        err_expected(err, "inode %ju", (uintmax_t)f->inode);
        err_found(err, "inode %ju", (uintmax_t)st.inode);
        return code;
    }
    *ret = st;
    return LEVEE_OK;
}

/* A lease for readers is granted only while nobody has the file open for writing. It is given back
 * at once; a writer that opens in between waits that long, and the signal of such a break is one
 * that is ignored by default. */
static bool posix_has_writer(struct io_file *file)
{
    int fd = posix_file(file)->fd;

    if (fcntl(fd, F_SETSIG, SIGURG) < 0) {
        return false;
    }
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) {
        return errno == EAGAIN;
    }
    (void)fcntl(fd, F_SETLEASE, F_UNLCK);
    return false;
}

/* ---- names ---- */

static int posix_stat(struct io *io, const char *path, struct io_stat *ret, struct levee_error *err)
{
    (void)io;
    if (path[0] && stat_at(AT_FDCWD, path, ret) == 0) {
        return LEVEE_OK;
    }
    if (!path[0] || errno == ENOENT || errno == ENOTDIR) {
        *ret = (struct io_stat){.kind = IO_NONE};
        return LEVEE_OK;
    }
    return io_fail(err, errno, "stat", path);
}

static int posix_rename(struct io *io, const char *from, const char *to, struct levee_error *err)
{
    if (rename(from, to) < 0) {
        return io_fail(err, errno, "rename", from);
    }
    counter_add(&io->counts.renames, 1);
    return LEVEE_OK;
}

static int posix_link(struct io *io, const char *from, const char *to, struct levee_error *err)
{
    (void)io;
    return link(from, to) < 0 ? io_fail(err, errno, "link", to) : LEVEE_OK;
}

static int posix_unlink(struct io *io, const char *path, struct levee_error *err)
{
    if (unlink(path) < 0) {
        return io_fail(err, errno, "remove", path);
    }
    counter_add(&io->counts.unlinks, 1);
    return LEVEE_OK;
}

static int posix_mkdir(struct io *io, const char *path, struct levee_error *err)
{
    struct stat st;

    (void)io;
    if (mkdir(path, DIR_MODE) == 0) {
        return LEVEE_OK;
    }
    int sys_errno = errno;
    if (sys_errno == EEXIST && stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        return LEVEE_OK;
    }
    return io_fail(err, sys_errno, "make directory", path);
}

static int posix_sync_dir(struct io *io, const char *path, struct levee_error *err)
{
    int rc;
    int sys_errno;
    int fd = open_fd(path, O_RDONLY | O_DIRECTORY);

    counter_add(&io->counts.dir_syncs, 1);
    if (fd < 0) {
        return io_fail(err, errno, "open directory", path);
    }
    do {
        rc = fsync(fd);
    } while (rc < 0 && errno == EINTR);
    sys_errno = errno;
    (void)close(fd); /* P3 */
    return rc < 0 ? io_fail(err, sys_errno, "sync directory", path) : LEVEE_OK;
}

static int posix_list(struct io *io, const char *path, struct io_list *ret, struct levee_error *err)
{
    struct io_list list = {0};
    size_t cap = 0;
    struct dirent *entry;
    int rc = LEVEE_OK;
    DIR *dir = opendir(path);

    (void)io;
    if (dir == NULL) {
        return io_fail(err, errno, "list", path);
    }
    for (;;) {
        errno = 0;
        entry = readdir(dir);
        if (entry == NULL) {
            rc = errno == 0 ? LEVEE_OK : io_fail(err, errno, "list", path);
            break;
        }
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) {
            continue;
        }
        if (!io_list_add(&list, &cap, entry->d_name)) {
            rc = err_nomem(err, strlen(entry->d_name) + 1);
            break;
        }
    }
    (void)closedir(dir);
    if (rc != LEVEE_OK) {
        io_list_free(&list);
        return rc;
    }
    io_list_sort(&list);
    *ret = list;
    return LEVEE_OK;
}

static int posix_free_space(struct io *io, const char *path, uint64_t *ret, struct levee_error *err)
{
    struct statvfs fs;
    int rc;

    (void)io;
    do {
        rc = statvfs(path, &fs);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return io_fail(err, errno, "ask for the free space of", path);
    }
    *ret = (uint64_t)fs.f_bavail * fs.f_frsize;
    return LEVEE_OK;
}

static int posix_fs_type(struct io *io, const char *path, const char **ret, struct levee_error *err)
{
    /* Numbers of linux/magic.h and the file systems' sources; not all are in the header. */
    static const struct {
        unsigned long magic;
        const char *name;
    } known[] = {
        {0xef53, "ext4"},      {0x58465342, "xfs"},     {0x9123683e, "btrfs"},
        {0xf2f52010, "f2fs"},  {0x2fc12fc1, "zfs"},     {0x01021994, "tmpfs"},
        {0x858458f6, "ramfs"}, {0x794c7630, "overlay"}, {0x6969, "nfs"},
        {0xff534d42, "cifs"},  {0xfe534d42, "cifs"},    {0x517b, "smb"},
        {0x65735546, "fuse"},  {0x01021997, "9p"},      {0x00c36400, "ceph"},
        {0x4d44, "vfat"},      {0x2011bab0, "exfat"},   {0x47504653, "gpfs"},
    };
    struct statfs fs;
    int rc;

    (void)io;
    do {
        rc = statfs(path, &fs);
    } while (rc < 0 && errno == EINTR);
    if (rc < 0) {
        return io_fail(err, errno, "ask for the file system of", path);
    }
    *ret = "other";
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (known[i].magic == ((unsigned long)fs.f_type & 0xffffffffUL)) {
            *ret = known[i].name;
        }
    }
    return LEVEE_OK;
}

/* ---- clocks and randomness ---- */

uint64_t io_posix_clock_ns(clockid_t clock)
{
    struct timespec ts;
    int rc = clock_gettime(clock, &ts);

    ASSERT(rc == 0); /* it fails only for a clock that does not exist */
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

uint64_t io_posix_now_ns(struct io *io)
{
    (void)io;
    return io_posix_clock_ns(CLOCK_BOOTTIME);
}

static int64_t posix_wall_ms(struct io *io)
{
    (void)io;
    return (int64_t)(io_posix_clock_ns(CLOCK_REALTIME) / 1000000);
}

static uint64_t posix_random(struct io *io)
{
    uint64_t value = 0;
    ssize_t n;

    do {
        n = getrandom(&value, sizeof value, 0); /* up to 256 bytes are never cut short */
    } while (n < 0 && errno == EINTR);
    if (n != (ssize_t)sizeof value) {
        /* A sandbox without the call. Identities need to differ, not to be secret. */
        uint64_t seed = io_posix_now_ns(io) ^ (uint64_t)posix_wall_ms(io) << 20 ^ io->pid;
        value = rng_next(&seed);
    }
    return value;
}

/* ---- the object ---- */

static void posix_free(struct io *io)
{
    struct posix_io *posix = posix_io(io);

    io_posix_lanes_release(posix);
    mem_free(posix);
}

static const struct io_ops posix_ops = {
    .version = 1,
    .open = posix_open,
    .close = posix_close,
    .pread = io_file_pread,
    .pwritev = io_file_pwritev,
    .sync = io_file_sync,
    .write_back = posix_write_back,
    .truncate = io_file_truncate,
    .fstat = posix_fstat,
    .stat = posix_stat,
    .rename = posix_rename,
    .link = posix_link,
    .unlink = posix_unlink,
    .mkdir = posix_mkdir,
    .sync_dir = posix_sync_dir,
    .list = posix_list,
    .free_space = posix_free_space,
    .lock = io_posix_lock,
    .unlock = io_posix_unlock,
    .now_ns = io_posix_now_ns,
    .wall_ms = posix_wall_ms,
    .random = posix_random,
    .lane_open = io_posix_lane_open,
    .lane_post = io_posix_lane_post,
    .lane_post_at = io_posix_lane_post_at,
    .lane_cancel = io_posix_lane_cancel,
    .lane_close = io_posix_lane_close,
    .lane_current = io_posix_lane_current,
    .wait = io_posix_wait,
    .notify = io_posix_notify,
    .free = posix_free,
    .fs_type = posix_fs_type,
    .has_writer = posix_has_writer,
};

int io_posix_new(struct io **ret, struct levee_error *err)
{
    struct posix_io *posix = mem_zalloc(sizeof *posix);

    if (posix == NULL) {
        return err_nomem(err, sizeof *posix);
    }
    posix->head.ops = &posix_ops;
    posix->head.pid = (uint32_t)getpid();
    int rc = io_posix_lanes_init(posix, err);
    if (rc != LEVEE_OK) {
        mem_free(posix);
        return rc;
    }
    *ret = &posix->head;
    return LEVEE_OK;
}

uint32_t io_processors(void)
{
    long n = sysconf(_SC_NPROCESSORS_ONLN);

    return n > 0 ? (uint32_t)n : 1;
}
