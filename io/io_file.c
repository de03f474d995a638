/*
 * The loops around raw reads, writes, syncs and truncations.
 *
 * A system call may do less than asked (a signal, a full disk, a limit) or nothing (EINTR). Callers
 * of io see neither: a call here did everything or failed. After a failed write an unknown part of
 * the range is on disk, exactly as after a power loss; the log's format copes with both in the same
 * way.
 *
 * EINTR: an interrupted write, read or truncate is repeated. So is an interrupted sync: the kernel
 * has not reported, and so not forgotten, any write-back error yet. Every other failure of a sync
 * is final and is not retried here or anywhere (design 4d.13).
 */
#include "io/io_impl.h"

#include <errno.h>

/* Vectors handed to one system call; the loop continues behind them. */
#define VECTORS_MAX 64

int io_fail(struct levee_error *err, int sys_errno, const char *verb, const char *path)
{
    int code = LEVEE_EIO;

    if (sys_errno == ENOENT || sys_errno == ENOTDIR) {
        code = LEVEE_ENOTFOUND;
    } else if (sys_errno == EEXIST) {
        code = LEVEE_EEXISTS;
    } else if (sys_errno == EMFILE || sys_errno == ENFILE || sys_errno == ENAMETOOLONG) {
        code = LEVEE_ELIMIT;
    }
    code = err_sys(err, code, sys_errno, "cannot %s %s", verb, path);
    err_where(err, "%s", path);
    return code;
}

uint64_t io_iov_bytes(const struct iovec *iov, int count)
{
    uint64_t bytes = 0;

    for (int i = 0; i < count; i++) {
        bytes += iov[i].iov_len;
    }
    return bytes;
}

static int fail_at(struct io_file *f, int sys_errno, const char *verb, uint64_t offset,
                   struct levee_error *err)
{
    int code = io_fail(err, sys_errno, verb, f->path);
    err_where(err, "%s, offset %llu", f->path, (unsigned long long)offset);
    return code;
}

int io_file_pread(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
                  struct levee_error *err)
{
    uint8_t *to = buf;
    size_t got = 0;

    while (got < len) {
        ssize_t n = f->raw->pread(f, to + got, len - got, offset + got);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail_at(f, errno, "read", offset + got, err);
        }
        if (n == 0) {
            break; /* end of file */
        }
        got += (size_t)n;
    }
    counter_add(&f->io->counts.reads, 1);
    counter_add(&f->io->counts.read_bytes, got);
    *ret_got = got;
    return LEVEE_OK;
}

/* Fills part with the vectors from iov on, of which the first `skip` bytes are done. */
static int vectors_left(struct iovec part[VECTORS_MAX], const struct iovec *iov, int count,
                        size_t skip)
{
    int n = count < VECTORS_MAX ? count : VECTORS_MAX;

    ASSERT(n > 0);
    for (int i = 0; i < n; i++) {
        part[i] = iov[i];
    }
    part[0].iov_base = (uint8_t *)part[0].iov_base + skip;
    part[0].iov_len -= skip;
    return n;
}

int io_file_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                    struct levee_error *err)
{
    struct iovec part[VECTORS_MAX];
    uint64_t bytes = io_iov_bytes(iov, count);
    uint64_t at = offset;
    size_t skip = 0; /* bytes of iov[0] that are written */

    for (;;) {
        while (count > 0 && skip >= iov->iov_len) {
            skip -= iov->iov_len;
            iov++;
            count--;
        }
        if (count == 0) {
            break;
        }
        int parts = vectors_left(part, iov, count, skip);
        ssize_t n = f->raw->pwritev(f, part, parts, at);
        if (n < 0) {
            if (errno == EINTR) {
                continue;
            }
            return fail_at(f, errno, "write", at, err);
        }
        if (n == 0) { /* no progress and no reason: never loop on that */
            return fail_at(f, EIO, "write", at, err);
        }
        at += (uint64_t)n;
        skip += (size_t)n;
    }
    counter_add(&f->io->counts.writes, 1);
    counter_add(&f->io->counts.write_bytes, bytes);
    return LEVEE_OK;
}

int io_file_sync(struct io_file *f, struct levee_error *err)
{
    int rc;

    counter_add(&f->io->counts.syncs, 1);
    do {
        rc = f->raw->sync(f);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? io_fail(err, errno, "sync", f->path) : LEVEE_OK;
}

int io_file_truncate(struct io_file *f, uint64_t size, struct levee_error *err)
{
    int rc;

    do {
        rc = f->raw->truncate(f, size);
    } while (rc < 0 && errno == EINTR);
    return rc < 0 ? io_fail(err, errno, "truncate", f->path) : LEVEE_OK;
}
