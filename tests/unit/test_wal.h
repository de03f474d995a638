/*
 * What the tests of the log share.
 *
 * The reference: a log as wal/README.md describes it, byte by byte, made and read here without any
 * code of wal/. It is the independent model of the format: what it writes the scanner must read,
 * what the writer writes it must be able to read.
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
#include "tests/support/suite.h"
#include "wal/wal_impl.h"

#define BLOCK 4096u

static const struct uuid ref_context = {{0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19,
                                         0x1a, 0x1b, 0x1c, 0x1d, 0x1e, 0x1f}};

/* ---- the reference: numbers and hashes ---- */

static inline void ref_put(uint8_t *p, int bytes, uint64_t v)
{
    for (int i = 0; i < bytes; i++, v /= 256) {
        p[i] = (uint8_t)(v % 256);
    }
}

static inline uint64_t ref_get(const uint8_t *p, int bytes)
{
    uint64_t v = 0;

    for (int i = bytes; i-- > 0;) {
        v = v * 256 + p[i];
    }
    return v;
}

static inline uint64_t ref_header_hash(const uint8_t *header, uint64_t salt, uint64_t offset)
{
    return hash64(header, 56, salt ^ ((offset + 1) * 0x9e3779b97f4a7c15u));
}

static inline uint64_t ref_frame_size(uint64_t payload)
{
    return 64 + (payload + 7) / 8 * 8;
}

/* ---- the reference: a log in memory ---- */

#define REF_SEGMENTS 64
#define REF_GROUPS   1200
#define REF_FRAMES   8000

struct ref_frame {
    uint16_t type, flags;
    uint32_t stream, len;
    uint64_t lsn, seq, durable, offset;
    int segment, group;
};

struct ref_group {
    int segment;
    int first_frame, frames; /* of ref_log.frames, structural ones included */
    uint64_t offset, end;
    uint64_t first, last; /* data LSNs; last = first - 1: an idle seal */
};

struct ref_segment {
    uint64_t number, salt, size, epoch, first_lsn;
    uint64_t at, chain; /* the next frame */
    uint8_t *bytes;
};

struct ref_log {
    struct ref_segment segments[REF_SEGMENTS];
    struct ref_group groups[REF_GROUPS];
    struct ref_frame frames[REF_FRAMES];
    int segment_count, group_count, frame_count;
    uint64_t next_lsn, durable;
};

static inline void ref_release(struct ref_log *r)
{
    for (int i = 0; i < r->segment_count; i++) {
        free(r->segments[i].bytes);
    }
    memset(r, 0, sizeof *r);
}

static inline void ref_segment_header(uint8_t out[BLOCK], uint64_t number, uint64_t salt,
                                      uint64_t size)
{
    memset(out, 0, BLOCK);
    memcpy(out, "LEVEESEG", 8);
    ref_put(out + 8, 2, 1); /* format 1.0, no features */
    memcpy(out + 24, ref_context.b, 16);
    ref_put(out + 40, 8, number);
    ref_put(out + 48, 8, salt);
    ref_put(out + 56, 8, size);
    ref_put(out + 4088, 8, hash64(out, 4088, 0));
}

/* A segment with nothing in it: a spare until the first group. */
static inline struct ref_segment *ref_begin(struct ref_log *r, uint64_t number, uint64_t size,
                                            uint64_t epoch)
{
    struct ref_segment *s = &r->segments[r->segment_count++];

    MUST(r->segment_count <= REF_SEGMENTS);
    *s = (struct ref_segment){.number = number, .size = size, .epoch = epoch, .at = 8192};
    s->salt = s->chain = number * 0x1234567890abcdefu | 1;
    s->bytes = calloc(1, size);
    MUST(s->bytes != NULL);
    ref_segment_header(s->bytes, number, s->salt, size);
    memcpy(s->bytes + BLOCK, s->bytes, BLOCK);
    r->next_lsn = r->next_lsn ? r->next_lsn : 1;
    return s;
}

static inline void ref_append(struct ref_log *r, struct ref_frame f, const void *payload)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    uint8_t *p = s->bytes + s->at;

    MUST(s->at + ref_frame_size(f.len) <= s->size);
    MUST(r->frame_count < REF_FRAMES);
    f.offset = s->at;
    f.durable = r->durable;
    f.segment = r->segment_count - 1;
    f.group = r->group_count;
    r->frames[r->frame_count++] = f;
    memcpy(p, "LWF1", 4);
    ref_put(p + 4, 2, f.type);
    ref_put(p + 6, 2, f.flags);
    ref_put(p + 8, 4, f.len);
    ref_put(p + 12, 4, f.stream);
    ref_put(p + 16, 8, f.lsn);
    ref_put(p + 24, 8, f.seq);
    ref_put(p + 32, 8, f.durable);
    s->chain = hash64(p, 40, s->chain);
    ref_put(p + 40, 8, s->chain);
    if (f.len) {
        memcpy(p + 64, payload, f.len);
    }
    ref_put(p + 48, 8, hash64(p + 64, f.len, s->salt ^ f.lsn));
    ref_put(p + 56, 8, ref_header_hash(p, s->salt, f.offset));
    s->at += ref_frame_size(f.len);
}

/* Opens a group; a fresh segment's first one begins with SEGMENT_START. */
static inline void ref_group_begin(struct ref_log *r)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    uint8_t start[40];

    MUST(r->group_count < REF_GROUPS);
    r->groups[r->group_count] = (struct ref_group){.segment = r->segment_count - 1,
                                                   .first_frame = r->frame_count,
                                                   .offset = s->at,
                                                   .first = r->next_lsn};
    if (s->at != 8192) {
        return;
    }
    const struct ref_segment *before = r->segment_count > 1 ? s - 1 : NULL;
    s->first_lsn = r->next_lsn;
    ref_put(start, 8, s->epoch);
    ref_put(start + 8, 8, r->next_lsn);
    ref_put(start + 16, 8, before ? before->number : 0);
    ref_put(start + 24, 8, before ? before->at : 0);
    ref_put(start + 32, 8, r->next_lsn - 1);
    ref_append(r, (struct ref_frame){.type = 16, .len = 40, .lsn = r->next_lsn}, start);
}

/* One data frame with `len` random bytes. */
static inline void ref_data(struct ref_log *r, uint32_t len, uint64_t *rng)
{
    static uint8_t payload[60000];
    struct ref_frame f = {.len = len, .lsn = r->next_lsn++};

    MUST(len <= sizeof payload);
    for (uint32_t i = 0; i < len; i++) {
        payload[i] = (uint8_t)rng_next(rng);
    }
    f.type = (uint16_t)(1 + rng_next(rng) % 7);
    f.flags = (uint16_t)rng_next(rng);
    f.stream = (uint32_t)rng_next(rng);
    f.seq = rng_next(rng);
    ref_append(r, f, payload);
}

/* Seal and pad: the group is as a sync leaves it. */
static inline void ref_group_end(struct ref_log *r)
{
    struct ref_segment *s = &r->segments[r->segment_count - 1];
    struct ref_group *g = &r->groups[r->group_count];
    static const uint8_t zeros[2 * BLOCK];
    uint8_t seal[32];

    g->last = r->next_lsn - 1;
    ref_put(seal, 8, g->last + 1 - g->first);
    ref_put(seal + 8, 8, g->first);
    ref_put(seal + 16, 8, g->last);
    ref_put(seal + 24, 8, s->at - g->offset);
    uint16_t type = g->last < g->first ? 18 : 17;
    ref_append(r, (struct ref_frame){.type = type, .len = 32, .lsn = r->next_lsn}, seal);
    uint64_t left = (BLOCK - s->at % BLOCK) % BLOCK;
    if (left > 0) {
        left += left < 64 ? BLOCK : 0;
        struct ref_frame pad = {.type = 19, .len = (uint32_t)left - 64, .lsn = r->next_lsn};
        ref_append(r, pad, zeros);
    }
    g->end = s->at;
    g->frames = r->frame_count - g->first_frame;
    r->group_count++;
    r->durable = g->last;
}

/* A whole group of n frames (0: an idle seal) of random lengths below max. */
static inline void ref_group(struct ref_log *r, int n, uint32_t max, uint64_t *rng)
{
    ref_group_begin(r);
    for (int i = 0; i < n; i++) {
        ref_data(r, (uint32_t)(rng_next(rng) % max), rng);
    }
    ref_group_end(r);
}

static inline bool ref_is_data(const struct ref_frame *f)
{
    return f->type < 16;
}

/* ---- the reference: reading strictly what somebody else has written ---- */

/* Parses all groups of a segment's bytes into r, and fails the test at the first thing that is not
 * exactly as the README says. Returns the end of the last group; all behind it must be zero. */
static inline uint64_t ref_read(struct ref_log *r, const uint8_t *bytes, uint64_t size,
                                uint64_t number)
{
    struct ref_segment *s = &r->segments[r->segment_count++];
    uint8_t header[BLOCK];
    uint64_t at = 8192;

    MUST(r->segment_count <= REF_SEGMENTS);
    *s = (struct ref_segment){.number = number, .size = size, .salt = ref_get(bytes + 48, 8)};
    s->bytes = malloc(size);
    MUST(s->bytes != NULL);
    memcpy(s->bytes, bytes, size);
    ref_segment_header(header, number, s->salt, ref_get(bytes + 56, 8));
    ck_assert_mem_eq(bytes, header, BLOCK);
    ck_assert_mem_eq(bytes + BLOCK, header, BLOCK);
    s->chain = s->salt;
    while (at < size && bytes[at] != 0) {
        struct ref_group *g = &r->groups[r->group_count];
        bool sealed = false;
        MUST(r->group_count < REF_GROUPS);
        *g = (struct ref_group){.segment = r->segment_count - 1,
                                .first_frame = r->frame_count,
                                .offset = at,
                                .first = r->next_lsn};
        do {
            const uint8_t *p = bytes + at;
            struct ref_frame f = {.type = (uint16_t)ref_get(p + 4, 2),
                                  .flags = (uint16_t)ref_get(p + 6, 2),
                                  .len = (uint32_t)ref_get(p + 8, 4),
                                  .stream = (uint32_t)ref_get(p + 12, 4),
                                  .lsn = ref_get(p + 16, 8),
                                  .seq = ref_get(p + 24, 8),
                                  .durable = ref_get(p + 32, 8),
                                  .offset = at,
                                  .segment = r->segment_count - 1,
                                  .group = r->group_count};
            MUST(memcmp(p, "LWF1", 4) == 0);
            MUST(ref_get(p + 56, 8) == ref_header_hash(p, s->salt, at));
            MUST(at + ref_frame_size(f.len) <= size);
            s->chain = hash64(p, 40, s->chain);
            MUST(ref_get(p + 40, 8) == s->chain);
            MUST(ref_get(p + 48, 8) == hash64(p + 64, f.len, s->salt ^ f.lsn));
            for (uint64_t i = f.len; i < (f.len + 7u) / 8 * 8; i++) {
                MUST(p[64 + i] == 0);
            }
            MUST(f.lsn == r->next_lsn);
            MUST(r->frame_count < REF_FRAMES);
            r->frames[r->frame_count++] = f;
            if (f.type == 16) { /* first in the segment, and only there */
                MUST(at == 8192 && f.len == 40);
                s->epoch = ref_get(p + 64, 8);
                s->first_lsn = ref_get(p + 72, 8);
                MUST(s->first_lsn == r->next_lsn);
                MUST(ref_get(p + 96, 8) == r->next_lsn - 1);
            } else if (ref_is_data(&f)) {
                MUST(!sealed && f.type >= 1);
                r->next_lsn++;
            } else if (f.type == 17 || f.type == 18) {
                MUST(!sealed && f.len == 32);
                MUST(ref_get(p + 64, 8) == r->next_lsn - g->first);
                MUST((f.type == 17) == (r->next_lsn > g->first));
                MUST(ref_get(p + 72, 8) == g->first);
                MUST(ref_get(p + 80, 8) == r->next_lsn - 1);
                MUST(ref_get(p + 88, 8) == at - g->offset);
                sealed = true;
            } else {
                MUST(f.type == 19 && sealed);
                for (uint64_t i = 0; i < f.len; i++) {
                    MUST(p[64 + i] == 0);
                }
            }
            at += ref_frame_size(f.len);
        } while (!sealed || at % BLOCK != 0);
        g->last = r->next_lsn - 1;
        g->end = at;
        g->frames = r->frame_count - g->first_frame;
        r->group_count++;
    }
    for (uint64_t i = at; i < size; i++) {
        MUST(bytes[i] == 0);
    }
    return at;
}

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
    char name[48]; /* the file's name at that time; of a rename the new one */
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
        *temp = '\0';
        bool renamed = false;
        for (size_t i = 0; i + 1 < tape.count && !renamed; i++) {
            renamed = tape.events[i].kind == TAPE_RENAME && !strcmp(tape.events[i].name, e->name);
        }
        *temp = renamed ? '\0' : '.';
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
    return tape_note(TAPE_RENAME, to, 0, 0, err) ? tape.fail_code
                                                 : tape.real->rename(io, from, to, err);
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
