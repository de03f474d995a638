/*
 * What the tests of the log share, beside the reference (test_wal_ref.h).
 *
 * The tape: every call that changes the disk, recorded on its way into the simulator, so that a
 * test can say what was written, in which order, and what may never be written again; it can also
 * make one of these calls fail.
 */
#ifndef LEVEE_TEST_WAL_H
#define LEVEE_TEST_WAL_H

#include <stdio.h>
#include <stdlib.h>

#include "io/io_impl.h"
#include "tests/unit/test_wal_ref.h"
#include "wal/wal_impl.h"

/* ---- the tape ---- */

enum tape_kind {
    TAPE_NONE,
    TAPE_CREATE,
    TAPE_WRITE,
    TAPE_SYNC,
    TAPE_TRUNCATE,
    TAPE_RENAME,
    TAPE_UNLINK,
    TAPE_SYNC_DIR,
    TAPE_OPEN, /* from here on not recorded: they can only be made to fail */
    TAPE_READ,
    TAPE_STAT,
    TAPE_LIST
};

struct tape_event {
    enum tape_kind kind;
    char name[48]; /* the file's name at that time; of a rename the new one … */
    char from[48]; /* … and the old one */
    uint64_t offset, len;
    bool failed;
};

#define TAPE_EVENTS 8192

static struct {
    const struct io_ops *real;
    struct io_ops ops;
    struct tape_event events[TAPE_EVENTS];
    size_t count;
    /* The next call of this kind on a name that contains the text fails with the code, without any
     * effect; once. */
    enum tape_kind fail_kind;
    const char *fail_name;
    int fail_code;
    size_t fail_skip; /* calls of that kind to let pass before */
} tape;

static inline const char *tape_base(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash ? slash + 1 : path;
}

/* ".seg" means the segments in use, any other text the names that contain it. */
static inline bool tape_matches(const char *name, const char *text)
{
    return strcmp(text, ".seg") == 0 ? strlen(name) == 20 && strcmp(name + 16, ".seg") == 0
                                     : strstr(name, text) != NULL;
}

/* True: this call is the one to fail. */
static inline bool tape_fails(enum tape_kind kind, const char *path, struct levee_error *err)
{
    if (kind != tape.fail_kind || !tape_matches(tape_base(path), tape.fail_name)) {
        return false;
    }
    if (tape.fail_skip > 0) {
        tape.fail_skip--;
        return false;
    }
    tape.fail_kind = TAPE_NONE;
    err_set(err, tape.fail_code, "made to fail by the test");
    return true;
}

static inline bool tape_note(enum tape_kind kind, const char *path, uint64_t offset, uint64_t len,
                             struct levee_error *err)
{
    struct tape_event *e = &tape.events[tape.count++];

    MUST(tape.count < TAPE_EVENTS);
    *e = (struct tape_event){.kind = kind, .offset = offset, .len = len};
    (void)snprintf(e->name, sizeof e->name, "%.47s", tape_base(path));
    char *temp = strstr(e->name, IO_TEMP_SUFFIX);
    if (temp && (kind == TAPE_WRITE || kind == TAPE_SYNC)) { /* a file knows its first name only */
        for (size_t i = tape.count - 1; i-- > 0;) {
            const struct tape_event *r = &tape.events[i];
            if (r->kind == TAPE_RENAME && strcmp(r->name, e->name) == 0) {
                break; /* a trimmed segment, under its temporary name */
            }
            if (r->kind == TAPE_RENAME && strcmp(r->from, e->name) == 0) {
                memcpy(e->name, r->name, sizeof e->name);
                break;
            }
        }
    }
    e->failed = tape_fails(kind, e->name, err);
    return e->failed;
}

static inline int tape_open(struct io *io, const char *path, int flags, struct io_file **ret,
                            struct levee_error *err)
{
    bool fails = (flags & IO_CREATE) ? tape_note(TAPE_CREATE, path, 0, 0, err)
                                     : tape_fails(TAPE_OPEN, path, err);

    if (fails) {
        return tape.fail_code;
    }
    return tape.real->open(io, path, flags, ret, err);
}

static inline int tape_pwritev(struct io_file *f, const struct iovec *iov, int count,
                               uint64_t offset, struct levee_error *err)
{
    if (tape_note(TAPE_WRITE, f->path, offset, io_iov_bytes(iov, count), err)) {
        return tape.fail_code;
    }
    return tape.real->pwritev(f, iov, count, offset, err);
}

static inline int tape_sync(struct io_file *f, struct levee_error *err)
{
    return tape_note(TAPE_SYNC, f->path, 0, 0, err) ? tape.fail_code : tape.real->sync(f, err);
}

static inline int tape_truncate(struct io_file *f, uint64_t size, struct levee_error *err)
{
    return tape_note(TAPE_TRUNCATE, f->path, size, 0, err) ? tape.fail_code
                                                           : tape.real->truncate(f, size, err);
}

static inline int tape_rename(struct io *io, const char *from, const char *to,
                              struct levee_error *err)
{
    size_t at = tape.count;
    bool fails = tape_note(TAPE_RENAME, to, 0, 0, err);

    (void)snprintf(tape.events[at].from, sizeof tape.events[at].from, "%.47s", tape_base(from));
    return fails ? tape.fail_code : tape.real->rename(io, from, to, err);
}

static inline int tape_unlink(struct io *io, const char *path, struct levee_error *err)
{
    return tape_note(TAPE_UNLINK, path, 0, 0, err) ? tape.fail_code
                                                   : tape.real->unlink(io, path, err);
}

static inline int tape_sync_dir(struct io *io, const char *path, struct levee_error *err)
{
    return tape_note(TAPE_SYNC_DIR, path, 0, 0, err) ? tape.fail_code
                                                     : tape.real->sync_dir(io, path, err);
}

static inline int tape_pread(struct io_file *f, void *buf, size_t len, uint64_t offset,
                             size_t *ret_got, struct levee_error *err)
{
    return tape_fails(TAPE_READ, f->path, err)
               ? tape.fail_code
               : tape.real->pread(f, buf, len, offset, ret_got, err);
}

static inline int tape_fstat(struct io_file *f, struct io_stat *ret, struct levee_error *err)
{
    return tape_fails(TAPE_STAT, f->path, err) ? tape.fail_code : tape.real->fstat(f, ret, err);
}

static inline int tape_stat(struct io *io, const char *path, struct io_stat *ret,
                            struct levee_error *err)
{
    return tape_fails(TAPE_STAT, path, err) ? tape.fail_code : tape.real->stat(io, path, ret, err);
}

static inline int tape_list(struct io *io, const char *path, struct io_list *ret,
                            struct levee_error *err)
{
    return tape_fails(TAPE_LIST, path, err) ? tape.fail_code : tape.real->list(io, path, ret, err);
}

/* Puts the tape between io and whoever uses it. */
static inline void tape_start(struct io *io)
{
    memset(&tape, 0, sizeof tape);
    tape.real = io->ops;
    tape.ops = *io->ops;
    tape.ops.open = tape_open;
    tape.ops.pread = tape_pread;
    tape.ops.fstat = tape_fstat;
    tape.ops.stat = tape_stat;
    tape.ops.list = tape_list;
    tape.ops.pwritev = tape_pwritev;
    tape.ops.sync = tape_sync;
    tape.ops.truncate = tape_truncate;
    tape.ops.rename = tape_rename;
    tape.ops.unlink = tape_unlink;
    tape.ops.sync_dir = tape_sync_dir;
    io->ops = &tape.ops;
}

/* Events of a kind from `from` on whose name matches. */
static inline size_t tape_find(size_t from, enum tape_kind kind, const char *name)
{
    size_t n = 0;

    for (size_t i = from; i < tape.count; i++) {
        n += tape.events[i].kind == kind && tape_matches(tape.events[i].name, name);
    }
    return n;
}

static inline void tape_fail(enum tape_kind kind, const char *name, int code, size_t skip)
{
    tape.fail_kind = kind;
    tape.fail_name = name;
    tape.fail_code = code;
    tape.fail_skip = skip;
}

/* ---- a simulated machine with a wal directory ---- */

#define WAL_DIR "/wal"

static struct io *io;
static struct levee_error err;

static inline void open_machine(uint64_t seed)
{
    struct sim_faults faults = {.seed = seed};

    ck_assert_int_eq(io_sim_new(&faults, &io, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->mkdir(io, WAL_DIR, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->sync_dir(io, "/", &err), LEVEE_OK);
}

static inline void close_machine(void)
{
    io_free(io);
    io = NULL;
    ck_assert_int_eq(mem_live(), 0);
}

static inline void put_file(const char *name, const void *bytes, size_t len)
{
    char path[IO_PATH_MAX];
    struct io_file *f;
    struct iovec iov = {(void *)(uintptr_t)bytes, len};

    ck_assert_int_eq(io_path(path, WAL_DIR, name, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->open(io, path, IO_WRITE | IO_CREATE | IO_TRUNCATE, &f, &err),
                     LEVEE_OK);
    ck_assert_int_eq(io->ops->pwritev(f, &iov, 1, 0, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->sync(f, &err), LEVEE_OK);
    io->ops->close(f);
    ck_assert_int_eq(io->ops->sync_dir(io, WAL_DIR, &err), LEVEE_OK);
}

static inline void segment_path(char path[IO_PATH_MAX], uint64_t number)
{
    (void)snprintf(path, IO_PATH_MAX, WAL_DIR "/%016llx.seg", (unsigned long long)number);
}

/* The bytes of a segment on the simulated disk; they may be changed to damage it. */
static inline uint8_t *segment_bytes(uint64_t number, uint64_t *ret_size)
{
    char path[IO_PATH_MAX];

    segment_path(path, number);
    uint8_t *bytes = io_sim_bytes(io, path, ret_size);
    ck_assert_ptr_nonnull(bytes);
    return bytes;
}

static inline bool segment_exists(uint64_t number)
{
    char path[IO_PATH_MAX];
    uint64_t size;

    segment_path(path, number);
    return io_sim_bytes(io, path, &size) != NULL;
}

/* Writes the reference's segments into the machine's wal directory. */
static inline void put_log(const struct ref_log *r)
{
    for (int i = 0; i < r->segment_count; i++) {
        const struct ref_segment *s = &r->segments[i];
        char path[IO_PATH_MAX];
        segment_path(path, s->number);
        put_file(tape_base(path), s->bytes, s->size);
    }
}

#endif
