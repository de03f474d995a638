/*
 * Helpers over the vtable: whole reads, publishing a small file, hashing, quarantine, paths and
 * lists.
 *
 * Publishing is the one way a small file comes into being: temporary name → write → sync → rename →
 * sync the directory. At any crash the name holds the old content or the new, whole; a temporary
 * name may be left and is removed at the next start. When the last step fails the new content is in
 * place but may not survive: the caller must take the whole call as failed.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#define HASH_PIECE ((size_t)1 << 20)
/* Names tried in the quarantine before giving up; the caller keeps far fewer files there. */
#define QUARANTINE_TRIES 10000

const char *crash_point_name(enum crash_point point)
{
    static const char *const names[] = {
#define CRASH_POINT_NAME(name) #name,
        CRASH_POINTS(CRASH_POINT_NAME)
#undef CRASH_POINT_NAME
    };
    size_t at = (size_t)point;

    return at < ARRAY_LEN(names) ? names[at] : "?";
}

int io_check_fork(const struct io *io, struct levee_error *err)
{
    uint32_t pid = (uint32_t)getpid();

    if (LIKELY(pid == io->pid)) {
        return LEVEE_OK;
    }
    int code = err_set(err, LEVEE_EFORKED, "used in a child of the process that created it");
    err_expected(err, "process %" PRIu32, io->pid);
    err_found(err, "process %" PRIu32, pid);
    return code;
}

void io_free(struct io *io)
{
    if (io != NULL) {
        io->ops->free(io);
    }
}

int io_path(char buf[IO_PATH_MAX], const char *dir, const char *name, struct levee_error *err)
{
    size_t dir_len = strlen(dir);
    size_t name_len = strlen(name);
    size_t sep = dir_len > 0 && dir[dir_len - 1] == '/' ? 0 : 1;

    if (dir_len + sep + name_len + 1 > IO_PATH_MAX) {
        int code = err_set(err, LEVEE_ELIMIT, "path too long: %.100s/%.100s", dir, name);
        err_expected(err, "at most %d bytes", IO_PATH_MAX - 1);
        err_found(err, "%zu bytes", dir_len + sep + name_len);
        return code;
    }
    memmove(buf, dir, dir_len); /* dir may be buf itself: paths are built up in place */
    if (sep == 1) {
        buf[dir_len] = '/';
    }
    memcpy(buf + dir_len + sep, name, name_len + 1);
    return LEVEE_OK;
}

bool io_is_temp(const char *name)
{
    size_t len = strlen(name);
    size_t suffix = strlen(IO_TEMP_SUFFIX);

    return len >= suffix && memcmp(name + len - suffix, IO_TEMP_SUFFIX, suffix) == 0;
}

/* ---- lists of names ---- */

bool io_list_add(struct io_list *list, size_t *cap, const char *name)
{
    void *items = list->items;

    if (!mem_grow(&items, cap, list->count + 1, sizeof *list->items)) {
        return false;
    }
    list->items = items;
    char *copy = mem_strdup(name);
    if (copy == NULL) {
        return false;
    }
    list->items[list->count++].name = copy;
    return true;
}

static int compare_names(const void *a, const void *b)
{
    const struct io_name *left = a;
    const struct io_name *right = b;

    return strcmp(left->name, right->name);
}

void io_list_sort(struct io_list *list)
{
    if (list->count > 1) {
        qsort(list->items, list->count, sizeof *list->items, compare_names);
    }
}

void io_list_free(struct io_list *list)
{
    for (size_t i = 0; i < list->count; i++) {
        mem_free(list->items[i].name);
    }
    mem_free(list->items);
    *list = (struct io_list){0};
}

/* ---- whole files ---- */

int io_pread_all(struct io_file *f, struct io *io, void *buf, size_t len, uint64_t offset,
                 struct levee_error *err)
{
    size_t got;
    int rc = io->ops->pread(f, buf, len, offset, &got, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    if (got < len) {
        rc = err_set(err, LEVEE_EIO, "%s ends early", f->path);
        err_where(err, "%s, offset %" PRIu64, f->path, offset);
        err_expected(err, "%zu bytes", len);
        err_found(err, "%zu bytes", got);
    }
    return rc;
}

static int write_temp(struct io *io, const char *temp, struct levee_slice data,
                      struct levee_error *err)
{
    struct io_file *f;
    /* A write only reads its vectors; iovec has no const of its own. */
    struct iovec iov = {.iov_base = (void *)(uintptr_t)data.data, .iov_len = data.len};
    int rc = io->ops->open(io, temp, IO_WRITE | IO_CREATE | IO_TRUNCATE, &f, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = io->ops->pwritev(f, &iov, 1, 0, err);
    if (rc == LEVEE_OK) {
        crash_at(io, CP_PUBLISH_AFTER_WRITE);
        rc = io->ops->sync(f, err);
    }
    if (rc == LEVEE_OK) {
        crash_at(io, CP_PUBLISH_AFTER_SYNC);
    }
    io->ops->close(f);
    return rc;
}

int io_publish(struct io *io, const char *dir, const char *name, struct levee_slice data,
               struct levee_error *err)
{
    char path[IO_PATH_MAX];
    char temp[IO_PATH_MAX];
    int rc = io_path(path, dir, name, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    size_t len = strlen(path);
    if (len + sizeof IO_TEMP_SUFFIX > IO_PATH_MAX) {
        return err_set(err, LEVEE_ELIMIT, "path too long: %.200s", path);
    }
    memcpy(temp, path, len);
    memcpy(temp + len, IO_TEMP_SUFFIX, sizeof IO_TEMP_SUFFIX);

    rc = write_temp(io, temp, data, err);
    if (rc == LEVEE_OK) {
        rc = io->ops->rename(io, temp, path, err);
    }
    if (rc != LEVEE_OK) {
        /* The first error is the one to report; a leftover is removed at the next start. */
        (void)io->ops->unlink(io, temp, NULL);
        return rc;
    }
    crash_at(io, CP_PUBLISH_AFTER_RENAME);
    rc = io->ops->sync_dir(io, dir, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    crash_at(io, CP_PUBLISH_AFTER_DIR_SYNC);
    return LEVEE_OK;
}

int io_read_file(struct io *io, const char *path, size_t max, struct buf *ret,
                 struct levee_error *err)
{
    struct io_file *f;
    struct io_stat st;
    size_t got = 0;
    int rc = io->ops->open(io, path, IO_READ, &f, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    buf_clear(ret);
    rc = io->ops->fstat(f, &st, err);
    if (rc == LEVEE_OK && st.size > max) {
        rc = err_set(err, LEVEE_ELIMIT, "%s is too large", path);
        err_where(err, "%s", path);
        err_expected(err, "at most %zu bytes", max);
        err_found(err, "%" PRIu64 " bytes", st.size);
    }
    /* At least one byte: an empty file is empty, not absent (a NULL slice). */
    if (rc == LEVEE_OK && !buf_reserve(ret, st.size > 0 ? (size_t)st.size : 1)) {
        rc = err_nomem(err, (size_t)st.size);
    }
    if (rc == LEVEE_OK && st.size > 0) {
        rc = io->ops->pread(f, ret->data, (size_t)st.size, 0, &got, err);
    }
    if (rc == LEVEE_OK) {
        ret->len = got;
    }
    io->ops->close(f);
    return rc;
}

int io_hash_file(struct io *io, const char *path, uint64_t *ret_size, uint64_t *ret_hash,
                 struct levee_error *err)
{
    struct io_file *f = NULL;
    uint64_t size = 0;
    struct hash_stream *hash = hash_stream_new();
    uint8_t *piece = mem_alloc(HASH_PIECE);
    int rc;

    if (hash == NULL || piece == NULL) {
        rc = err_nomem(err, HASH_PIECE);
        goto out;
    }
    rc = io->ops->open(io, path, IO_READ, &f, err);
    if (rc != LEVEE_OK) {
        goto out;
    }
    hash_stream_reset(hash, 0);
    for (size_t got = HASH_PIECE; got == HASH_PIECE; size += got) {
        rc = io->ops->pread(f, piece, HASH_PIECE, size, &got, err);
        if (rc != LEVEE_OK) {
            goto out;
        }
        hash_stream_update(hash, piece, got);
    }
    *ret_size = size;
    *ret_hash = hash_stream_digest(hash);
out:
    if (f != NULL) {
        io->ops->close(f);
    }
    mem_free(piece);
    hash_stream_free(hash);
    return rc;
}

/* ---- quarantine ---- */

/* The directory part of path; "." when it has none. */
static int parent_of(char buf[IO_PATH_MAX], const char *path, struct levee_error *err)
{
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 1 : (size_t)(slash - path);

    if (slash == path) {
        len = 1;
    }
    if (len >= IO_PATH_MAX) {
        return err_set(err, LEVEE_ELIMIT, "path too long: %.200s", path);
    }
    memcpy(buf, slash == NULL ? "." : path, len);
    buf[len] = '\0';
    return LEVEE_OK;
}

/* A path in the quarantine that is not taken: <name>, then <name>.1, <name>.2 and so on. */
static int free_name(struct io *io, const char *quarantine, const char *name, char buf[IO_PATH_MAX],
                     struct levee_error *err)
{
    struct io_stat st;
    char suffix[16];

    int rc = io_path(buf, quarantine, name, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    size_t len = strlen(buf);
    for (int i = 0; i < QUARANTINE_TRIES; i++) {
        int n = i == 0 ? 0 : snprintf(suffix, sizeof suffix, ".%d", i);
        if (len + (size_t)n + 1 > IO_PATH_MAX) {
            return err_set(err, LEVEE_ELIMIT, "path too long: %.200s", buf);
        }
        memcpy(buf + len, suffix, (size_t)n);
        buf[len + (size_t)n] = '\0';
        rc = io->ops->stat(io, buf, &st, err);
        if (rc != LEVEE_OK || st.kind == IO_NONE) {
            return rc;
        }
    }
    return err_set(err, LEVEE_ELIMIT, "quarantine holds too many files named %.100s", name);
}

int io_quarantine(struct io *io, const char *dir, const char *path, struct levee_error *err)
{
    char quarantine[IO_PATH_MAX];
    char parent[IO_PATH_MAX];
    char to[IO_PATH_MAX];
    const char *slash = strrchr(path, '/');
    int rc = io_path(quarantine, dir, "quarantine", err);

    if (rc == LEVEE_OK) {
        rc = parent_of(parent, path, err);
    }
    if (rc == LEVEE_OK) {
        rc = io->ops->mkdir(io, quarantine, err);
    }
    if (rc == LEVEE_OK) {
        /* Evidence must not move into a directory that a power loss takes away. */
        rc = io->ops->sync_dir(io, dir, err);
    }
    if (rc == LEVEE_OK) {
        rc = free_name(io, quarantine, slash == NULL ? path : slash + 1, to, err);
    }
    if (rc == LEVEE_OK) {
        rc = io->ops->rename(io, path, to, err);
    }
    if (rc == LEVEE_OK) {
        rc = io->ops->sync_dir(io, quarantine, err);
    }
    if (rc == LEVEE_OK) {
        rc = io->ops->sync_dir(io, parent, err);
    }
    return rc;
}
