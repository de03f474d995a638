/*
 * Segments as files: names, the double header, creation. A segment is written full of real zeros
 * before it gets its name, because overwriting written blocks is what makes a sync cheap, and so
 * that a full disk shows here and not under an acknowledgement.
 *
 *   temporary name → zeros → header twice (→ first group, when recovery builds it) → sync → rename
 * → sync directory
 *
 * A segment that was trimmed has all that already, and is made into a new one without the zeros
 * (wal_imprint.c says how its old bytes are told from new ones):
 *
 *   rename to a temporary name → sync directory → imprint → header twice → sync → rename → sync
 * directory
 *
 * So at every moment a file under a segment's name is whole: of its old life until the first sync
 * of the directory, of its new one from the second rename on. What is under a temporary name is
 * nobody's, and goes at the next start.
 */
#include "wal/wal_impl.h"

#include <stdio.h>

#define SEGMENT_MAGIC "LEVEESEG"
#define HASH_OFFSET   (WAL_GROUP_ALIGN - 8)
#define ZERO_CHUNK    (1u << 20)

void wal_segment_name(char out[WAL_NAME_BYTES], uint64_t number)
{
    (void)snprintf(out, WAL_NAME_BYTES, "%016llx.seg", (unsigned long long)number);
}

bool wal_segment_number(const char *name, uint64_t *ret)
{
    uint64_t n = 0;

    for (int i = 0; i < 16; i++) {
        char c = name[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'))) {
            return false;
        }
        n = n << 4 | (uint64_t)(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    *ret = n;
    return strcmp(name + 16, ".seg") == 0 && n > 0;
}

void wal_segment_header_encode(uint8_t out[WAL_GROUP_ALIGN], const struct wal_segment_header *h)
{
    memset(out, 0, WAL_GROUP_ALIGN);
    memcpy(out, SEGMENT_MAGIC, 8);
    put_le16(out + 8, h->major);
    put_le16(out + 10, h->minor);
    put_le32(out + 12, h->incompatible);
    put_le32(out + 16, h->ro_compatible);
    memcpy(out + 24, h->context.b, 16);
    put_le64(out + 40, h->number);
    put_le64(out + 48, h->salt);
    put_le64(out + 56, h->size);
    put_le64(out + 64, h->former);
    put_le64(out + HASH_OFFSET, hash64(out, HASH_OFFSET, 0));
}

static enum wal_header_state header_decode(const uint8_t *in, struct wal_segment_header *ret)
{
    if (memcmp(in, SEGMENT_MAGIC, 8) != 0 ||
        get_le64(in + HASH_OFFSET) != hash64(in, HASH_OFFSET, 0)) {
        return WAL_HEADER_BAD;
    }
    ret->major = get_le16(in + 8);
    ret->minor = get_le16(in + 10);
    ret->incompatible = get_le32(in + 12);
    ret->ro_compatible = get_le32(in + 16);
    memcpy(ret->context.b, in + 24, 16);
    ret->number = get_le64(in + 40);
    ret->salt = get_le64(in + 48);
    ret->size = get_le64(in + 56);
    ret->former = get_le64(in + 64);
    return ret->major > WAL_FORMAT_MAJOR || (ret->incompatible & ~WAL_RECYCLED) ? WAL_HEADER_NEWER
                                                                                : WAL_HEADER_OK;
}

enum wal_header_state wal_segment_header_read(struct io *io, struct io_file *f,
                                              struct wal_segment_header *ret, int *ret_code,
                                              struct levee_error *err)
{
    uint8_t block[WAL_GROUP_ALIGN];

    *ret_code = LEVEE_OK;
    for (uint64_t copy = 0; copy < 2; copy++) {
        size_t got = 0;
        int code = io->ops->pread(f, block, sizeof block, copy * WAL_GROUP_ALIGN, &got, err);
        enum wal_header_state state =
            code || got < sizeof block ? WAL_HEADER_BAD : header_decode(block, ret);
        if (state != WAL_HEADER_BAD) {
            return state == WAL_HEADER_OK && copy == 1 ? WAL_HEADER_REPAIRED : state;
        }
        if (code == LEVEE_ENOMEM || code == LEVEE_ECRASHED) {
            *ret_code = code;
        }
    }
    return WAL_HEADER_BAD;
}

static int fill_zeros(struct io *io, struct io_file *f, uint64_t size, struct levee_error *err)
{
    uint8_t *zeros = mem_zalloc(ZERO_CHUNK);
    int code = zeros ? LEVEE_OK : err_nomem(err, ZERO_CHUNK);

    for (uint64_t at = 0; at < size && code == LEVEE_OK; at += ZERO_CHUNK) {
        uint64_t n = size - at < ZERO_CHUNK ? size - at : ZERO_CHUNK;
        struct iovec iov = {zeros, (size_t)n};
        code = io->ops->pwritev(f, &iov, 1, at, err);
    }
    mem_free(zeros);
    return code;
}

static int write_contents(struct io *io, struct io_file *f, const struct wal_segment_header *h,
                          struct levee_slice first_group, struct levee_error *err)
{
    uint8_t block[WAL_GROUP_ALIGN];
    struct iovec twice[2] = {{block, sizeof block}, {block, sizeof block}};
    int code = fill_zeros(io, f, h->size, err);

    if (code) {
        return code;
    }
    crash_at(io, CP_SEGMENT_AFTER_ZERO);
    wal_segment_header_encode(block, h);
    code = io->ops->pwritev(f, twice, 2, 0, err);
    crash_at(io, CP_SEGMENT_AFTER_HEADER);
    if (code == LEVEE_OK && first_group.len) {
        struct iovec group = {(void *)(uintptr_t)first_group.data, first_group.len};
        code = io->ops->pwritev(f, &group, 1, WAL_HEADER_BYTES, err);
        crash_at(io, CP_REC_AFTER_REBUILD_WRITE);
    }
    if (code == LEVEE_OK) {
        code = io->ops->sync(f, err);
        crash_at(io, first_group.len ? CP_REC_AFTER_REBUILD_SYNC : CP_SEGMENT_AFTER_SYNC);
    }
    return code;
}

static int temp_path(char path[IO_PATH_MAX], const char *dir, uint64_t number,
                     struct levee_error *err)
{
    char name[WAL_NAME_BYTES + 8];

    wal_segment_name(name, number);
    memcpy(name + strlen(name), IO_TEMP_SUFFIX, sizeof IO_TEMP_SUFFIX);
    return io_path(path, dir, name, err);
}

int wal_segment_create(struct io *io, const char *dir, const struct wal_segment_header *h,
                       struct levee_slice first_group, struct io_file **ret,
                       struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_file *f = NULL;
    int code = temp_path(path, dir, h->number, err);

    if (code == LEVEE_OK) {
        code = io->ops->open(io, path, IO_WRITE | IO_CREATE | IO_TRUNCATE, &f, err);
    }
    if (code) {
        return code;
    }
    code = write_contents(io, f, h, first_group, err);
    if (code) {
        io->ops->close(f);
        (void)io->ops->unlink(
            io, path, NULL); /* it never had a name; a leftover is removed at the next start */
        return code;
    }
    *ret = f;
    return LEVEE_OK;
}

static int publish(struct io *io, const char *dir, uint64_t temp, uint64_t number,
                   enum crash_point renamed, enum crash_point synced, struct levee_error *err)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX], name[WAL_NAME_BYTES];
    int code = temp_path(from, dir, temp, err);

    wal_segment_name(name, number);
    if (code == LEVEE_OK) {
        code = io_path(to, dir, name, err);
    }
    if (code == LEVEE_OK) {
        code = io->ops->rename(io, from, to, err);
        crash_at(io, renamed);
    }
    if (code == LEVEE_OK) {
        code = io->ops->sync_dir(io, dir, err);
        crash_at(io, synced);
    }
    return code;
}

int wal_segment_publish(struct io *io, const char *dir, uint64_t number, bool rebuild,
                        struct levee_error *err)
{
    return publish(io, dir, number, number,
                   rebuild ? CP_REC_AFTER_REBUILD_RENAME : CP_SEGMENT_AFTER_RENAME,
                   rebuild ? CP_REC_AFTER_REBUILD_DIR_SYNC : CP_SEGMENT_AFTER_DIR_SYNC, err);
}

/* ---- a second life ---- */

int wal_segment_retire(struct io *io, const char *dir, uint64_t number, struct levee_error *err)
{
    char from[IO_PATH_MAX], to[IO_PATH_MAX], name[WAL_NAME_BYTES];
    int code = temp_path(to, dir, number, err);

    wal_segment_name(name, number);
    if (code == LEVEE_OK) {
        code = io_path(from, dir, name, err);
    }
    return code ? code : io->ops->rename(io, from, to, err);
}

int wal_segment_drop(struct io *io, const char *dir, uint64_t number, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    int code = temp_path(path, dir, number, err);

    return code ? code : io->ops->unlink(io, path, err);
}

static int write_over(struct io *io, struct io_file *f, const struct wal_segment_header *h,
                      struct buf *imprint, struct levee_error *err)
{
    uint8_t block[WAL_GROUP_ALIGN];
    struct iovec twice[2] = {{block, sizeof block}, {block, sizeof block}};
    struct iovec table = {imprint->data, imprint->len};
    int code = io->ops->pwritev(f, &table, 1, h->size, err);

    crash_at(io, CP_RECYCLE_AFTER_IMPRINT);
    if (code == LEVEE_OK) {
        wal_segment_header_encode(block, h);
        code = io->ops->pwritev(f, twice, 2, 0, err);
        crash_at(io, CP_RECYCLE_AFTER_HEADER);
    }
    if (code == LEVEE_OK) {
        code = io->ops->sync(f, err);
        crash_at(io, CP_RECYCLE_AFTER_SYNC);
    }
    return code;
}

int wal_segment_recycle(struct io *io, const char *dir, const struct wal_segment_header *h,
                        struct io_file **ret, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_file *f = NULL;
    struct buf imprint = {0};
    int code = temp_path(path, dir, h->former, err);

    if (code == LEVEE_OK) {
        code = io->ops->open(io, path, IO_WRITE, &f, err);
    }
    if (code == LEVEE_OK) {
        code = wal_imprint_take(io, f, h, &imprint, err);
        if (code == LEVEE_EIO) { /* an old block that cannot be read says nothing of the log */
            err_clear(err);
            code = LEVEE_ENOTFOUND;
        }
    }
    if (code == LEVEE_OK) {
        code = write_over(io, f, h, &imprint, err);
        if (code == LEVEE_ENOSPACE) { /* for the imprint; what the file takes is enough for zeros */
            err_clear(err);
            code = LEVEE_ENOTFOUND;
        }
    }
    if (code == LEVEE_OK) {
        code = publish(io, dir, h->former, h->number, CP_RECYCLE_AFTER_RENAME,
                       CP_RECYCLE_AFTER_DIR_SYNC, err);
    }
    buf_release(&imprint);
    if (code == LEVEE_OK) {
        *ret = f;
        return LEVEE_OK;
    }
    if (f) {
        io->ops->close(f);
        (void)io->ops->unlink(io, path, NULL);
    }
    return code;
}
