/*
 * The simulator's calls on paths: names, directories, free space and locks. Steps and faults are
 * those of io_sim_files.c, what becomes of names is in io_sim_names.c.
 */
#include "io/io_sim.h"

#include <errno.h>
#include <inttypes.h>

/* Free space of a disk without a capacity. */
#define PLENTY ((uint64_t)1 << 40)

struct io_lock {
    struct sim_io *sim;
    struct sim_inode *inode;
};

struct io_stat sim_inode_stat(const struct sim_inode *inode)
{
    if (inode == NULL) {
        return (struct io_stat){.kind = IO_NONE};
    }
    return (struct io_stat){.kind = inode->kind,
                            .size = inode->now_size,
                            .dev = 1,
                            .inode = inode->number,
                            .mtime_ns = inode->mtime_ns,
                            .birth = inode->number,
                            .links = inode->names};
}

int sim_stat(struct io *io, const char *path, struct io_stat *ret, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_place at;
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = sim_find(&sim->disk, path, &at);
    if (rc == ENOENT || rc == ENOTDIR) {
        at.inode = NULL;
    } else if (rc != 0) {
        return io_fail(err, rc, "stat", path);
    }
    *ret = sim_inode_stat(at.inode);
    return LEVEE_OK;
}

/* Rename and link: two places, one step, one change. */
static int two_names(struct io *io, const char *verb, const char *from, const char *to,
                     int (*change)(struct sim_disk *disk, const struct sim_place *from,
                                   const struct sim_place *to),
                     struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_place source;
    struct sim_place target;
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    int sys_errno = sim_find(&sim->disk, from, &source);
    if (sys_errno == 0) {
        sys_errno = sim_find(&sim->disk, to, &target);
    }
    if (sys_errno == 0 && source.inode == NULL) {
        sys_errno = ENOENT;
    }
    if (sys_errno == 0) {
        rc = sim_whole_step(sim, verb, from, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        sys_errno = change(&sim->disk, &source, &target);
    }
    return sys_errno != 0 ? io_fail(err, sys_errno, verb, from) : LEVEE_OK;
}

int sim_rename(struct io *io, const char *from, const char *to, struct levee_error *err)
{
    int rc = two_names(io, "rename", from, to, sim_name_rename, err);

    if (rc == LEVEE_OK) {
        counter_add(&io->counts.renames, 1);
    }
    return rc;
}

int sim_link(struct io *io, const char *from, const char *to, struct levee_error *err)
{
    return two_names(io, "link", from, to, sim_name_link, err);
}

int sim_unlink(struct io *io, const char *path, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_place at;
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    int sys_errno = sim_find(&sim->disk, path, &at);
    if (sys_errno == 0 && at.inode == NULL) {
        sys_errno = ENOENT;
    }
    if (sys_errno == 0) {
        rc = sim_whole_step(sim, "remove", path, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        sys_errno = sim_name_unlink(&sim->disk, &at);
    }
    if (sys_errno != 0) {
        return io_fail(err, sys_errno, "remove", path);
    }
    counter_add(&io->counts.unlinks, 1);
    return LEVEE_OK;
}

int sim_mkdir(struct io *io, const char *path, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_place at;
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    int sys_errno = sim_find(&sim->disk, path, &at);
    if (sys_errno == 0 && at.inode != NULL) {
        if (at.inode->kind == IO_DIR) {
            return LEVEE_OK;
        }
        sys_errno = EEXIST;
    }
    if (sys_errno == 0) {
        rc = sim_whole_step(sim, "make directory", path, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        sys_errno = sim_name_create(&sim->disk, &at, IO_DIR, &at.inode);
    }
    return sys_errno != 0 ? io_fail(err, sys_errno, "make directory", path) : LEVEE_OK;
}

/* The directory at path. */
static int find_dir(struct sim_io *sim, const char *verb, const char *path, struct sim_inode **ret,
                    struct levee_error *err)
{
    struct sim_place at;
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    int sys_errno = sim_find(&sim->disk, path, &at);
    if (sys_errno == 0 && at.inode == NULL) {
        sys_errno = ENOENT;
    }
    if (sys_errno == 0 && at.inode->kind != IO_DIR) {
        sys_errno = ENOTDIR;
    }
    if (sys_errno != 0) {
        return io_fail(err, sys_errno, verb, path);
    }
    *ret = at.inode;
    return LEVEE_OK;
}

int sim_sync_dir(struct io *io, const char *path, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_inode *dir = NULL;
    int rc = find_dir(sim, "sync directory", path, &dir, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = sim_whole_step(sim, "sync directory", path, err);
    if (sim->crashed) {
        return rc;
    }
    sim->now_ns += sim->faults.slow_ns;
    counter_add(&io->counts.dir_syncs, 1);
    if (rc == LEVEE_OK && !sim->faults.lying_sync) {
        sim_names_sync(&sim->disk, dir);
    }
    return rc;
}

int sim_list(struct io *io, const char *path, struct io_list *ret, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_inode *dir = NULL;
    int rc = find_dir(sim, "list", path, &dir, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    int sys_errno = sim_name_list(&sim->disk, dir, ret);
    return sys_errno != 0 ? io_fail(err, sys_errno, "list", path) : LEVEE_OK;
}

int sim_free_space(struct io *io, const char *path, uint64_t *ret, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct io_stat st = {0};
    int rc = sim_stat(io, path, &st, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (st.kind == IO_NONE) {
        return io_fail(err, ENOENT, "ask for the free space of", path);
    }
    uint64_t capacity = sim->faults.capacity_bytes;
    uint64_t used = sim_disk_used(&sim->disk);
    *ret = capacity == 0 ? PLENTY : capacity > used ? capacity - used : 0;
    return LEVEE_OK;
}

int sim_fs_type(struct io *io, const char *path, const char **ret, struct levee_error *err)
{
    uint64_t unused;
    int rc = sim_free_space(io, path, &unused, err); /* the same checks */

    if (rc == LEVEE_OK) {
        *ret = "simulated";
    }
    return rc;
}

/* ---- locks: one process, so a held lock is always ours ---- */

int sim_lock(struct io *io, const char *path, struct io_lock **ret, struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    struct sim_inode *inode;
    char text[16];
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    struct io_lock *lock = mem_zalloc(sizeof *lock);
    if (lock == NULL) {
        return err_nomem(err, sizeof *lock);
    }
    rc = sim_open_inode(sim, path, IO_WRITE | IO_CREATE, &inode, err);
    if (rc == LEVEE_OK && inode->locked) {
        rc = err_set(err, LEVEE_EDIR_BUSY, "in use by this process (%" PRIu32 ")", io->pid);
        err_where(err, "%s", path);
        err_expected(err, "nobody holds the lock");
        err_found(err, "held by this process (%" PRIu32 ")", io->pid);
    }
    if (rc != LEVEE_OK) {
        mem_free(lock);
        return rc;
    }
    int len = snprintf(text, sizeof text, "%" PRIu32 "\n", io->pid);
    (void)sim_inode_write(inode, text, (size_t)len, 0); /* a courtesy, as in io_posix */
    inode->locked = true;
    inode->refs++;
    inode->handles++;
    sim->open_locks++;
    *lock = (struct io_lock){.sim = sim, .inode = inode};
    *ret = lock;
    return LEVEE_OK;
}

void sim_unlock(struct io_lock *lock)
{
    lock->inode->locked = false;
    lock->inode->handles--;
    lock->sim->open_locks--;
    sim_inode_unref(&lock->sim->disk, lock->inode);
    mem_free(lock);
}
