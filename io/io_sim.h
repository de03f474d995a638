/*
 * What the files of the simulator share.
 *
 * io_sim_disk.c   what a file's bytes and size become at a power loss
 * io_sim_names.c  directories, and which names survive
 * io_sim_files.c  the vtable's calls on open files: steps, faults, raw calls
 * io_sim_paths.c  the vtable's calls on paths, and locks
 * io_sim.c        lives (crash, power loss, kill), clocks, lanes and the schedule
 */
#ifndef LEVEE_IO_SIM_H
#define LEVEE_IO_SIM_H

#include "io/io_impl.h"

#define SIM_SECTOR   512u
#define SIM_NAME_MAX 255u
#define SIM_NO_CUT   UINT64_MAX

enum sector_state {
    SECTOR_CLEAN = 0, /* on disk as it is read */
    SECTOR_DIRTY,     /* written since the last sync: kept, dropped or garbled at a power loss */
    SECTOR_LOST       /* its sync failed: read as written, but gone after a power loss */
};

struct sim_inode {
    struct sim_inode *next; /* in sim_disk.inodes, in order of creation */
    uint64_t number;        /* never used again */
    int64_t mtime_ns;
    enum io_kind kind;
    uint32_t refs;  /* links, open files and locks: freed at zero */
    uint32_t names; /* links that are visible now */
    uint32_t handles;
    bool locked;
    bool marked; /* scratch of one pass over the names */

    /* A file's bytes. `now` is what is read. A sector that is not clean has its durable bytes in
     * `old`. Both and `states` hold `cap` bytes' worth of sectors, and `now` is zero from now_size
     * on. */
    uint8_t *now, *old, *states;
    uint64_t cap;
    uint64_t now_size, disk_size;
    bool size_dirty;                  /* now_size is not durable yet, but may survive */
    uint64_t cut;                     /* the smallest size since the last sync; or SIM_NO_CUT */
    uint64_t dirty_first, dirty_last; /* sectors not clean lie in [first, last) */
    uint64_t charged;                 /* bytes of disk used, whole sectors */
    uint64_t bad_offset, bad_len;     /* reads here fail */
};

/* A name in a directory, in what is seen, on disk, or both. */
struct sim_link {
    struct sim_link *next; /* in sim_disk.links */
    struct sim_inode *dir;
    struct sim_inode *target;
    char *name;
    bool now, disk;
    uint32_t pending; /* operations that refer to it */
};

/* An operation on names that no sync_dir has made durable: takes away up to two links and makes
 * one. */
struct sim_op {
    struct sim_inode *dirs[2]; /* the second one is NULL unless a rename crosses directories */
    struct sim_link *add;
    struct sim_link *drops[2];
    bool chosen;
};

struct sim_disk {
    struct sim_inode *inodes, **inodes_tail;
    struct sim_link *links, **links_tail;
    struct sim_op **ops; /* in the order they happened */
    size_t op_count, op_cap;
    struct sim_inode *root;
    uint64_t next_number;
};

struct sim_io {
    struct io head;
    struct sim_faults faults;
    struct sim_disk disk;
    uint64_t disk_rng, schedule_rng, random_rng;
    uint64_t steps, reads;
    bool crashed;
    uint64_t now_ns;
    int64_t wall_base_ms; /* wall clock at now_ns == 0 */
    uint64_t image_hash;
    uint32_t open_files, open_locks;
    struct io_lane *lanes, **lanes_tail; /* in the order they were opened */
    struct io_lane *current;
};

static inline struct sim_io *sim_io(struct io *io)
{
    return CONTAINER_OF(io, struct sim_io, head);
}

static inline const struct sim_io *sim_io_const(const struct io *io)
{
    _Static_assert(offsetof(struct sim_io, head) == 0, "the head comes first");
    return (const struct sim_io *)(const void *)io;
}

/* True with a chance of per_mille in 1000. */
bool sim_chance(uint64_t *rng, uint32_t per_mille);
/* Everything after this fails; queued tasks are forgotten. */
void sim_crash(struct sim_io *sim);

/* ---- bytes of files (io_sim_disk.c) ---- */

/* NULL: no memory. The caller gives it its first reference. */
struct sim_inode *sim_inode_new(struct sim_disk *disk, enum io_kind kind);
void sim_inode_unref(struct sim_disk *disk, struct sim_inode *inode);
/* false: no memory, nothing changed. */
bool sim_inode_write(struct sim_inode *inode, const void *data, size_t len, uint64_t offset);
bool sim_inode_truncate(struct sim_inode *inode, uint64_t size);
void sim_inode_sync(struct sim_inode *inode);
void sim_inode_sync_failed(struct sim_inode *inode);
/* What a power loss leaves of one file. */
void sim_inode_resolve(struct sim_inode *inode, uint64_t *rng, uint32_t keep_per_mille,
                       uint32_t garble_per_mille);
/* Bytes in use by all files that have a name or are open. */
uint64_t sim_disk_used(const struct sim_disk *disk);

/* ---- names (io_sim_names.c). Each returns 0 or an errno and then has changed nothing. ---- */

struct sim_place {         /* where a path leads */
    struct sim_inode *dir; /* NULL: the path is the root */
    char name[SIM_NAME_MAX + 1];
    struct sim_link *link;   /* NULL: no such name */
    struct sim_inode *inode; /* its target, or the root */
};
/* ENOENT or ENOTDIR when the directory does not exist; a missing last name is a place without a
 * link. */
int sim_find(struct sim_disk *disk, const char *path, struct sim_place *ret);
int sim_names_init(struct sim_disk *disk);
void sim_names_release(struct sim_disk *disk);
int sim_name_create(struct sim_disk *disk, const struct sim_place *at, enum io_kind kind,
                    struct sim_inode **ret);
int sim_name_link(struct sim_disk *disk, const struct sim_place *from, const struct sim_place *to);
int sim_name_unlink(struct sim_disk *disk, const struct sim_place *at);
int sim_name_rename(struct sim_disk *disk, const struct sim_place *from,
                    const struct sim_place *to);
int sim_name_list(struct sim_disk *disk, struct sim_inode *dir, struct io_list *ret);
void sim_names_sync(struct sim_disk *disk, struct sim_inode *dir);
void sim_names_resolve(struct sim_disk *disk, uint64_t *rng, uint32_t keep_per_mille);
/* Paths, kinds, sizes and bytes of all that is visible, whatever the order of creation. */
uint64_t sim_image_hash(const struct sim_disk *disk);

/* ---- the vtable's calls on open files (io_sim_files.c) ---- */

/* CRASHED after the crash. */
int sim_check_alive(const struct sim_io *sim, struct levee_error *err);
/* Counts a step that happens whole or not at all; an error: the step does not happen. */
int sim_whole_step(struct sim_io *sim, const char *verb, const char *path, struct levee_error *err);
struct io_stat sim_inode_stat(const struct sim_inode *inode); /* NULL: IO_NONE */
/* Finds or makes the file as an open with these flags does. */
int sim_open_inode(struct sim_io *sim, const char *path, int flags, struct sim_inode **ret,
                   struct levee_error *err);

int sim_open(struct io *io, const char *path, int flags, struct io_file **ret,
             struct levee_error *err);
void sim_close(struct io_file *f);
int sim_pread(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
              struct levee_error *err);
int sim_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                struct levee_error *err);
int sim_sync(struct io_file *f, struct levee_error *err);
int sim_write_back(struct io_file *f, uint64_t offset, uint64_t len, struct levee_error *err);
int sim_truncate(struct io_file *f, uint64_t size, struct levee_error *err);
int sim_fstat(struct io_file *f, struct io_stat *ret, struct levee_error *err);

/* ---- the vtable's calls on paths (io_sim_paths.c) ---- */

int sim_stat(struct io *io, const char *path, struct io_stat *ret, struct levee_error *err);
int sim_rename(struct io *io, const char *from, const char *to, struct levee_error *err);
int sim_link(struct io *io, const char *from, const char *to, struct levee_error *err);
int sim_unlink(struct io *io, const char *path, struct levee_error *err);
int sim_mkdir(struct io *io, const char *path, struct levee_error *err);
int sim_sync_dir(struct io *io, const char *path, struct levee_error *err);
int sim_list(struct io *io, const char *path, struct io_list *ret, struct levee_error *err);
int sim_fs_type(struct io *io, const char *path, const char **ret, struct levee_error *err);
int sim_free_space(struct io *io, const char *path, uint64_t *ret, struct levee_error *err);
int sim_lock(struct io *io, const char *path, struct io_lock **ret, struct levee_error *err);
void sim_unlock(struct io_lock *lock);

#endif
