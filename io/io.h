/*
 * io: the only door to files, clocks, randomness and threads. The product uses io_posix (real),
 * tests io_sim (a simulated disk, clock and schedule from one seed). A function here either did all
 * of what it says or returns a negative code with err filled in (what, path, errno).
 *
 * Lanes. Everything that runs, runs as a task on a lane; a lane runs its tasks one at a time, in
 * order. In io_posix a lane is a thread, in io_sim a queue from which the seeded scheduler takes.
 * Code on a lane may block on file I/O but never on another lane; lanes talk by posting tasks.
 */
#ifndef LEVEE_IO_H
#define LEVEE_IO_H

#include <sys/uio.h>

#include "base/base.h"
#include "io/crash_points.h"

struct io;
struct io_file;
struct io_lane;
struct io_lock;

enum io_open_flags {
    IO_READ = 1,   /* read only */
    IO_WRITE = 2,  /* read and write */
    IO_CREATE = 4, /* create if missing; with IO_EXCL fail with EXISTS if present */
    IO_EXCL = 8,
    IO_TRUNCATE = 16
};

enum io_kind { IO_NONE = 0, IO_FILE, IO_DIR, IO_OTHER };

struct io_stat {
    enum io_kind kind; /* IO_NONE: no such name (not an error) */
    uint64_t size;
    uint64_t dev, inode;
    int64_t mtime_ns; /* of the last change of its bytes, since 1970 */
    uint64_t birth;   /* when the inode was made: tells it from a later one with its number; 0: the
                         file system does not say */
    uint64_t links;   /* names the file has */
};

/* One name in a directory; the list is sorted by name. Freed with io_list_free. */
struct io_name {
    char *name;
};
struct io_list {
    struct io_name *items;
    size_t count;
};

/* A task: embedded in its owner, which keeps it alive until it ran. Posted once at a time. */
struct io_task {
    struct link link;
    void (*run)(struct io_task *task);
    uint64_t due_ns; /* used by io_lane_post_at */
    bool queued;     /* guarded by the lane */
};

/* Exact counts since creation: the regression gates of the budget (design 4d.20). A call of the
 * vtable counts once, however many system calls it took; creates are files that did not exist
 * before. */
struct io_counts {
    struct counter writes, write_bytes, reads, read_bytes, syncs, dir_syncs;
    struct counter renames, unlinks, creates;
};

struct io_ops {
    int version; /* 1 */
    int (*open)(struct io *io, const char *path, int flags, struct io_file **ret,
                struct levee_error *err);
    void (*close)(struct io_file *f);
    /* Reads up to len bytes at offset; *ret_got < len only at end of file. EINTR and short reads
     * are handled. */
    int (*pread)(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
                 struct levee_error *err);
    /* Writes all bytes of all vectors at offset, or fails. Short writes and EINTR are handled. */
    int (*pwritev)(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                   struct levee_error *err);
    /* Data and size durable on return. A failure is final for this file (design 4d.13). */
    int (*sync)(struct io_file *f, struct levee_error *err);
    /* Starts write-back of a range without waiting for durability (a hint; may do nothing). */
    int (*write_back)(struct io_file *f, uint64_t offset, uint64_t len, struct levee_error *err);
    int (*truncate)(struct io_file *f, uint64_t size, struct levee_error *err);
    /* Fails when the host has closed our descriptor and got its number for another file (114). */
    int (*fstat)(struct io_file *f, struct io_stat *ret, struct levee_error *err);

    int (*stat)(struct io *io, const char *path, struct io_stat *ret, struct levee_error *err);
    int (*rename)(struct io *io, const char *from, const char *to, struct levee_error *err);
    int (*link)(struct io *io, const char *from, const char *to, struct levee_error *err);
    int (*unlink)(struct io *io, const char *path, struct levee_error *err);
    int (*mkdir)(struct io *io, const char *path, struct levee_error *err); /* EXISTS is success */
    int (*sync_dir)(struct io *io, const char *path, struct levee_error *err);
    int (*list)(struct io *io, const char *path, struct io_list *ret, struct levee_error *err);
    /* File-system free space under path, bytes. */
    int (*free_space)(struct io *io, const char *path, uint64_t *ret, struct levee_error *err);
    /* Exclusive lock on a file (created if missing) that holds the owner's pid; DIR_BUSY names the
     * holder. Also refuses a second lock of the same file in this process. Released by unlock or
     * process death. */
    int (*lock)(struct io *io, const char *path, struct io_lock **ret, struct levee_error *err);
    void (*unlock)(struct io_lock *lock);

    uint64_t (*now_ns)(struct io *io); /* boot-time clock: monotonic, counts suspend */
    int64_t (*wall_ms)(struct io *io); /* wall clock, ms since 1970 */
    uint64_t (*random)(struct io *io);

    int (*lane_open)(struct io *io, const char *name, struct io_lane **ret,
                     struct levee_error *err);
    void (*lane_post)(struct io_lane *lane, struct io_task *task);
    void (*lane_post_at)(struct io_lane *lane, struct io_task *task, uint64_t due_ns);
    /* Takes a queued or timed task back; false: it runs or ran. Only from the lane itself. */
    bool (*lane_cancel)(struct io_lane *lane, struct io_task *task);
    /* Runs what is queued, drops what is timed, then ends the lane. Not from the lane itself. */
    void (*lane_close)(struct io_lane *lane);
    /* True on the lane's own thread. */
    bool (*lane_current)(struct io_lane *lane);
    /* Blocks the caller until done(arg) is true or the deadline passed (UINT64_MAX: none);
     * re-evaluated after every io_notify. In io_sim it runs the schedule. Returns the last
     * done(arg). Not from a lane. */
    bool (*wait)(struct io *io, bool (*done)(void *arg), void *arg, uint64_t deadline_ns);
    void (*notify)(struct io *io);
    void (*free)(struct io *io); /* called by io_free */
    /* Kind of the file system under path: "ext4", "xfs", "nfs" …, or "other" (fault 118). */
    int (*fs_type)(struct io *io, const char *path, const char **ret, struct levee_error *err);
    /* True if somebody certainly has this file, which is open for reading, open for writing. NULL,
     * or false: not known. */
    bool (*has_writer)(struct io_file *f);
};

struct io {
    const struct io_ops *ops;
    struct io_counts counts;
    /* Tests only: called at every named durable step; a test kills the process or fails there. */
    void (*crash_hook)(enum crash_point point, void *arg);
    void *crash_arg;
    uint32_t pid; /* of the creator; io_check_fork refuses use in a child */
    bool simulated;
};

int io_posix_new(struct io **ret, struct levee_error *err);
void io_free(struct io *io);
/* Processors this process may use, at least 1. */
uint32_t io_processors(void);

static inline void crash_at(struct io *io, enum crash_point point)
{
    if (UNLIKELY(io->crash_hook != NULL)) {
        io->crash_hook(point, io->crash_arg);
    }
}
const char *crash_point_name(enum crash_point point);

/* LEVEE_EFORKED in a forked child. */
int io_check_fork(const struct io *io, struct levee_error *err);

/* ---- helpers over the vtable (io/io.c) ---- */
int io_pread_all(struct io_file *f, struct io *io, void *buf, size_t len, uint64_t offset,
                 struct levee_error *err);
/* Writes a small file by temp name → write → sync → rename → sync directory. The named points are
 * hit between. */
int io_publish(struct io *io, const char *dir, const char *name, struct levee_slice data,
               struct levee_error *err);
/* Whole file into a buffer, refusing more than max bytes. */
int io_read_file(struct io *io, const char *path, size_t max, struct buf *ret,
                 struct levee_error *err);
/* XXH3-64 of the file's bytes, by pread in pieces of 1 MiB. */
int io_hash_file(struct io *io, const char *path, uint64_t *ret_size, uint64_t *ret_hash,
                 struct levee_error *err);
/* Moves a file into dir/quarantine/ under a name that does not exist there yet (8 at most kept per
 * prefix is the caller's business); the directory is synced. */
int io_quarantine(struct io *io, const char *dir, const char *path, struct levee_error *err);
void io_list_free(struct io_list *list);
/* dir + "/" + name into buf; LIMIT when too long. */
#define IO_PATH_MAX 1024
int io_path(char buf[IO_PATH_MAX], const char *dir, const char *name, struct levee_error *err);
/* Temporary names end in this; found at start they are removed. */
#define IO_TEMP_SUFFIX ".tmp"
bool io_is_temp(const char *name);

/* ---- watching directories (io/io_watch.c); not on the simulated machine: UNSUPPORTED ---- */
enum io_watch_kind {
    IO_WATCH_FILE = 1, /* this name was made, moved here, or closed by a writer */
    IO_WATCH_DIR,      /* a directory of this name was made or moved here */
    IO_WATCH_GONE,     /* the watched directory itself has left */
    IO_WATCH_LOST      /* events were dropped: look at everything */
};
struct io_watch;
struct io_watch_event {
    enum io_watch_kind kind;
    int dir;          /* what io_watch_add gave */
    const char *name; /* until the next call */
};
/* Posts `task` to `lane` when there is something to read, and again only after io_watch_next has
 * said false. Close it before the lane; the task may then still run once. */
int io_watch_open(struct io *io, struct io_lane *lane, struct io_task *task, struct io_watch **ret,
                  struct levee_error *err);
void io_watch_close(struct io_watch *watch);
int io_watch_add(struct io_watch *watch, const char *path, int *ret_dir, struct levee_error *err);
bool io_watch_next(struct io_watch *watch, struct io_watch_event *ret);

/* ---- the simulator (io/io_sim.c); see levee/testing.h for the public side ---- */
struct sim_faults {
    uint64_t seed;
    /* The crash happens instead of the n-th I/O step (1-based); 0 = never. A step is a call that
     * may change the image or its durability; io_sim_files.c lists them. */
    uint64_t crash_at_step;
    /* At a power loss each unsynced 512 B sector is kept or garbled with these chances, otherwise
     * dropped. Names and sizes: kept with keep_per_mille. */
    uint32_t keep_per_mille, garble_per_mille;
    uint64_t fail_at_step; /* the n-th I/O step fails with fail_errno, once; 0 = never */
    uint64_t fail_at_read; /* the n-th pread fails with EIO, once; 0 = never */
    int fail_errno;
    uint32_t short_write_per_mille, eintr_per_mille; /* writes and reads; hidden by the loops */
    uint64_t capacity_bytes;                         /* disk size; 0 = unlimited */
    uint64_t slow_ns;                                /* virtual time every sync takes */
    bool lying_sync; /* syncs return 0 and persist nothing (fault 29) */
};
int io_sim_new(const struct sim_faults *faults, struct io **ret, struct levee_error *err);
/* Replaces the faults; a seed that differs also reseeds schedule and randomness. Steps and reads
 * are counted from zero again. */
void io_sim_set_faults(struct io *io, const struct sim_faults *faults);
uint64_t io_sim_steps(const struct io *io);
uint64_t io_sim_reads(const struct io *io);
bool io_sim_crashed(const struct io *io);
/* Crashes now, as crash_at_step does; for a crash_hook that stops at a named point. */
void io_sim_crash(struct io *io);
/* A life ends, after a crash or an orderly end: call it when its files, locks and lanes are closed.
 * The io is then ready for the next one. A power loss resolves every unsynced sector, name and size
 * by the seed. A process death (kill) keeps every written byte, but what was unsynced stays
 * unsynced: a power loss in a later life may still take it, as it may take the page cache's. */
void io_sim_power_loss(struct io *io);
void io_sim_kill(struct io *io);
/* Fingerprint of the disk image the last of these left (to count distinct crashes). */
uint64_t io_sim_image_hash(const struct io *io);
/* Runs tasks until none is runnable before the virtual deadline; virtual time ends there. */
void io_sim_run(struct io *io, uint64_t until_ns);
/* Runs one task; false: nothing is queued or timed. */
bool io_sim_step(struct io *io);
void io_sim_set_wall(struct io *io, int64_t wall_ms);
/* The bytes a reader sees, for damage tests; where they are synced (always after a power loss), the
 * durable ones as well. Valid until the file is written or truncated. NULL: no such file. */
uint8_t *io_sim_bytes(struct io *io, const char *path, uint64_t *ret_size);
/* Reads of this byte range fail with EIO (a bad sector); one range a file, len 0 clears. */
void io_sim_bad_range(struct io *io, const char *path, uint64_t offset, uint64_t len);

#endif
