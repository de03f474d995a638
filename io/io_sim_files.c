/*
 * The file calls of the simulator: counting steps, injecting faults, then acting on the image.
 *
 * A step is a call that may change the image or its durability: open that creates or truncates,
 * pwritev, sync, truncate, rename, link, unlink, a mkdir that makes something, sync_dir, a lock
 * that makes its file. Reads, and calls that fail because a path leads nowhere, are no steps.
 *
 *   S1  At the step of a crash nothing of it happens, but for a write, of which any number of
 *       leading sectors may have happened. From then on every call fails with CRASHED and has no
 *       effect.
 *   S2  At the step of an error nothing of it happens either, with two exceptions: a write may
 *       have happened in part, and a failed sync has made the file's dirty sectors lost. A
 *       failed sync_dir leaves its operations waiting: they may survive or not.
 *   S3  Below a step, writes and reads go through the loops of io_file.c, to which the raw calls
 *       here give short counts and EINTR by the seed.
 *   S4  A full disk takes what still fits, in whole sectors, then says ENOSPC. Overwriting never
 *       fails. A hole made by truncate or by writing behind the end counts from the file's
 *       highest written byte.
 */
#include "io/io_sim.h"

#include <errno.h>

/* With certain interruption the loops would never end. */
#define EINTR_MAX_PER_MILLE 900

struct sim_file {
    struct io_file head;
    struct sim_inode *inode;
    bool writable;
};

enum step { STEP_GO, STEP_CRASH, STEP_FAIL };

static struct sim_file *sim_file(struct io_file *f)
{
    return CONTAINER_OF(f, struct sim_file, head);
}

static int crashed(struct levee_error *err)
{
    return err_set(err, LEVEE_ECRASHED, "the simulated machine has crashed");
}

int sim_check_alive(const struct sim_io *sim, struct levee_error *err)
{
    return sim->crashed ? crashed(err) : LEVEE_OK;
}

static enum step next_step(struct sim_io *sim)
{
    sim->steps++;
    if (sim->steps == sim->faults.crash_at_step) {
        return STEP_CRASH;
    }
    return sim->steps == sim->faults.fail_at_step ? STEP_FAIL : STEP_GO;
}

/* A step that happens whole or not at all. */
int sim_whole_step(struct sim_io *sim, const char *verb, const char *path, struct levee_error *err)
{
    switch (next_step(sim)) {
    case STEP_CRASH:
        sim_crash(sim);
        return crashed(err);
    case STEP_FAIL:
        return io_fail(err, sim->faults.fail_errno, verb, path);
    case STEP_GO:
        break;
    }
    return LEVEE_OK;
}

/* ---- raw calls, one attempt each ---- */

static bool interrupted(struct sim_io *sim)
{
    uint32_t chance = sim->faults.eintr_per_mille;

    if (!sim_chance(&sim->disk_rng, chance < EINTR_MAX_PER_MILLE ? chance : EINTR_MAX_PER_MILLE)) {
        return false;
    }
    errno = EINTR;
    return true;
}

/* All of len, or by the seed only a part of it. */
static size_t maybe_short(struct sim_io *sim, size_t len)
{
    if (len < 2 || !sim_chance(&sim->disk_rng, sim->faults.short_write_per_mille)) {
        return len;
    }
    return 1 + (size_t)(rng_next(&sim->disk_rng) % (len - 1));
}

static ssize_t raw_pread(struct io_file *f, void *buf, size_t len, uint64_t offset)
{
    struct sim_io *sim = sim_io(f->io);
    const struct sim_inode *inode = sim_file(f)->inode;

    if (interrupted(sim)) {
        return -1;
    }
    if (offset >= inode->now_size) {
        return 0;
    }
    len = len < inode->now_size - offset ? len : (size_t)(inode->now_size - offset);
    if (inode->bad_len > 0 && offset + len > inode->bad_offset &&
        offset < inode->bad_offset + inode->bad_len) {
        if (offset >= inode->bad_offset) {
            errno = EIO;
            return -1;
        }
        len = (size_t)(inode->bad_offset - offset);
    }
    len = maybe_short(sim, len);
    memcpy(buf, inode->now + offset, len);
    return (ssize_t)len;
}

/* How many of len bytes at offset the disk has room for. */
static size_t fitting(const struct sim_io *sim, const struct sim_inode *inode, size_t len,
                      uint64_t offset)
{
    if (sim->faults.capacity_bytes == 0 || offset + len <= inode->charged) {
        return len;
    }
    uint64_t used = sim_disk_used(&sim->disk);
    uint64_t room = sim->faults.capacity_bytes > used ? sim->faults.capacity_bytes - used : 0;
    uint64_t end = inode->charged + room / SIM_SECTOR * SIM_SECTOR;
    if (end <= offset) {
        return 0;
    }
    return end - offset < len ? (size_t)(end - offset) : len;
}

/* Writes the first len bytes of the vectors. false: no memory. */
static bool write_prefix(struct sim_inode *inode, const struct iovec *iov, uint64_t len,
                         uint64_t offset)
{
    for (; len > 0; iov++) {
        size_t n = iov->iov_len < len ? iov->iov_len : (size_t)len;
        if (!sim_inode_write(inode, iov->iov_base, n, offset)) {
            return false;
        }
        offset += n;
        len -= n;
    }
    return true;
}

static void touch(struct io *io, struct sim_inode *inode)
{
    inode->mtime_ns = io->ops->wall_ms(io) * 1000000;
}

static ssize_t raw_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset)
{
    struct sim_io *sim = sim_io(f->io);
    struct sim_inode *inode = sim_file(f)->inode;

    if (interrupted(sim)) {
        return -1;
    }
    size_t len = maybe_short(sim, (size_t)io_iov_bytes(iov, count));
    len = fitting(sim, inode, len, offset);
    if (len == 0) {
        errno = ENOSPC;
        return -1;
    }
    if (!write_prefix(inode, iov, len, offset)) {
        errno = ENOMEM;
        return -1;
    }
    touch(f->io, inode);
    return (ssize_t)len;
}

static int raw_sync(struct io_file *f)
{
    struct sim_io *sim = sim_io(f->io);

    if (interrupted(sim)) {
        return -1;
    }
    if (!sim->faults.lying_sync) {
        sim_inode_sync(sim_file(f)->inode);
    }
    return 0;
}

static int raw_truncate(struct io_file *f, uint64_t size)
{
    if (interrupted(sim_io(f->io))) {
        return -1;
    }
    if (!sim_inode_truncate(sim_file(f)->inode, size)) {
        errno = ENOMEM;
        return -1;
    }
    touch(f->io, sim_file(f)->inode);
    return 0;
}

static const struct io_raw raw_ops = {raw_pread, raw_pwritev, raw_sync, raw_truncate};

/* ---- open files ---- */

int sim_open_inode(struct sim_io *sim, const char *path, int flags, struct sim_inode **ret,
                   struct levee_error *err)
{
    struct sim_place at;
    int rc = sim_find(&sim->disk, path, &at);

    if (rc != 0) {
        return io_fail(err, rc, "open", path);
    }
    if (at.inode == NULL && (flags & IO_CREATE) == 0) {
        return io_fail(err, ENOENT, "open", path);
    }
    if (at.inode != NULL && (flags & IO_CREATE) != 0 && (flags & IO_EXCL) != 0) {
        return io_fail(err, EEXIST, "open", path);
    }
    if (at.inode != NULL && at.inode->kind == IO_DIR) {
        return io_fail(err, EISDIR, "open", path);
    }
    if (at.inode == NULL) {
        int step = sim_whole_step(sim, "create", path, err);
        if (step != LEVEE_OK) {
            return step;
        }
        rc = sim_name_create(&sim->disk, &at, IO_FILE, &at.inode);
        if (rc != 0) {
            return io_fail(err, rc, "create", path);
        }
        ASSERT(at.inode != NULL);
        touch(&sim->head, at.inode);
        counter_add(&sim->head.counts.creates, 1);
    } else if ((flags & IO_TRUNCATE) != 0 && at.inode->now_size > 0) {
        int step = sim_whole_step(sim, "truncate", path, err);
        if (step != LEVEE_OK) {
            return step;
        }
        (void)sim_inode_truncate(at.inode, 0); /* shrinking takes no memory */
        touch(&sim->head, at.inode);
    }
    *ret = at.inode;
    return LEVEE_OK;
}

int sim_open(struct io *io, const char *path, int flags, struct io_file **ret,
             struct levee_error *err)
{
    struct sim_io *sim = sim_io(io);
    int rc = sim_check_alive(sim, err);

    ASSERT((flags & (IO_READ | IO_WRITE)) != 0);
    if (rc != LEVEE_OK) {
        return rc;
    }
    struct sim_file *f = mem_zalloc(sizeof *f);
    if (f == NULL) {
        return err_nomem(err, sizeof *f);
    }
    f->head = (struct io_file){.io = io, .raw = &raw_ops, .path = mem_strdup(path)};
    f->writable = (flags & IO_WRITE) != 0;
    rc = f->head.path == NULL ? err_nomem(err, strlen(path) + 1)
                              : sim_open_inode(sim, path, flags, &f->inode, err);
    if (rc != LEVEE_OK) {
        mem_free(f->head.path);
        mem_free(f);
        return rc;
    }
    f->inode->refs++;
    f->inode->handles++;
    sim->open_files++;
    *ret = &f->head;
    return LEVEE_OK;
}

void sim_close(struct io_file *file)
{
    struct sim_io *sim = sim_io(file->io);
    struct sim_file *f = sim_file(file);

    f->inode->handles--;
    sim->open_files--;
    sim_inode_unref(&sim->disk, f->inode);
    mem_free(f->head.path);
    mem_free(f);
}

int sim_pread(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
              struct levee_error *err)
{
    struct sim_io *sim = sim_io(f->io);
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (++sim->reads == sim->faults.fail_at_read) {
        return io_fail(err, EIO, "read", f->path);
    }
    return io_file_pread(f, buf, len, offset, ret_got, err);
}

/* A write that a crash or an error cut off: some leading sectors of it, perhaps none or all. */
static void write_part(struct sim_io *sim, struct sim_inode *inode, const struct iovec *iov,
                       int count, uint64_t offset)
{
    uint64_t len = io_iov_bytes(iov, count);
    uint64_t first = offset / SIM_SECTOR;
    uint64_t sectors = len == 0 ? 0 : (offset + len - 1) / SIM_SECTOR - first + 1;
    uint64_t done = rng_next(&sim->disk_rng) % (sectors + 1);

    if (done < sectors) {
        len = done == 0 ? 0 : (first + done) * SIM_SECTOR - offset;
    }
    (void)write_prefix(inode, iov, fitting(sim, inode, (size_t)len, offset), offset);
}

int sim_pwritev(struct io_file *file, const struct iovec *iov, int count, uint64_t offset,
                struct levee_error *err)
{
    struct sim_io *sim = sim_io(file->io);
    struct sim_file *f = sim_file(file);
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (!f->writable) {
        return io_fail(err, EBADF, "write", file->path);
    }
    switch (next_step(sim)) {
    case STEP_CRASH:
        write_part(sim, f->inode, iov, count, offset);
        sim_crash(sim);
        return crashed(err);
    case STEP_FAIL:
        write_part(sim, f->inode, iov, count, offset);
        return io_fail(err, sim->faults.fail_errno, "write", file->path);
    case STEP_GO:
        break;
    }
    return io_file_pwritev(file, iov, count, offset, err);
}

int sim_sync(struct io_file *file, struct levee_error *err)
{
    struct sim_io *sim = sim_io(file->io);
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = sim_whole_step(sim, "sync", file->path, err);
    if (sim->crashed) {
        return rc;
    }
    sim->now_ns += sim->faults.slow_ns;
    if (rc != LEVEE_OK) {
        counter_add(&file->io->counts.syncs, 1);
        sim_inode_sync_failed(sim_file(file)->inode);
        return rc;
    }
    return io_file_sync(file, err);
}

int sim_write_back(struct io_file *f, uint64_t offset, uint64_t len, struct levee_error *err)
{
    (void)offset;
    (void)len;
    return sim_check_alive(sim_io(f->io), err); /* dirty sectors may be kept anyway */
}

int sim_truncate(struct io_file *file, uint64_t size, struct levee_error *err)
{
    struct sim_io *sim = sim_io(file->io);
    int rc = sim_check_alive(sim, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (!sim_file(file)->writable) {
        return io_fail(err, EBADF, "truncate", file->path);
    }
    rc = sim_whole_step(sim, "truncate", file->path, err);
    return rc != LEVEE_OK ? rc : io_file_truncate(file, size, err);
}

int sim_fstat(struct io_file *f, struct io_stat *ret, struct levee_error *err)
{
    int rc = sim_check_alive(sim_io(f->io), err);

    if (rc == LEVEE_OK) {
        *ret = sim_inode_stat(sim_file(f)->inode);
    }
    return rc;
}
