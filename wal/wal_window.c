/* A read window over one segment file: large reads ahead, small ones where a sector cannot be read.
 */
#include "wal/wal_scan.h"

#define WINDOW_BYTES (1u << 20)

int wal_window_open(struct wal_window *v, struct io *io, const char *dir, const char *name,
                    struct levee_error *err)
{
    char path[IO_PATH_MAX];
    struct io_stat st = {0};
    int code = io_path(path, dir, name, err);

    *v = (struct wal_window){.io = io};
    if (code == LEVEE_OK) {
        code = io->ops->open(io, path, IO_READ, &v->file, err);
    }
    if (code == LEVEE_OK) {
        code = io->ops->fstat(v->file, &st, err);
        v->file_size = st.size;
    }
    return code;
}

int wal_window_segment(struct wal_window *v, struct io *io, const char *dir,
                       const struct wal_segment *seg, struct levee_error *err)
{
    int code = wal_window_open(v, io, dir, seg->name, err);

    return code || !seg->recycled ? code : wal_window_imprint(v, seg->groups_end, seg->salt);
}

void wal_window_close(struct wal_window *v)
{
    if (v->file) {
        v->io->ops->close(v->file);
    }
    buf_release(&v->bytes);
    buf_release(&v->imprint);
    *v = (struct wal_window){0};
}

static int fill(struct wal_window *v, uint64_t offset, size_t want, size_t need)
{
    size_t got = 0;

    v->base = offset;
    v->len = 0;
    buf_clear(&v->bytes);
    if (!buf_reserve(&v->bytes, want)) {
        v->bytes.failed = false;
        return LEVEE_ENOMEM;
    }
    int code = v->io->ops->pread(v->file, v->bytes.data, want, offset, &got, NULL);
    if (code == LEVEE_OK) {
        v->len = got;
        code = got < need ? LEVEE_ENOTFOUND : LEVEE_OK;
    }
    return code;
}

int wal_window_get(struct wal_window *v, uint64_t offset, size_t len, const uint8_t **ret)
{
    int code = LEVEE_OK;

    if (offset > v->file_size || len > v->file_size - offset) {
        return LEVEE_ENOTFOUND;
    }
    if (offset < v->base || offset + len > v->base + v->len) {
        uint64_t left = v->file_size - offset;
        size_t want = len > WINDOW_BYTES ? len : left < WINDOW_BYTES ? (size_t)left : WINDOW_BYTES;
        code = fill(v, offset, want, len);
        if (code && !wal_scan_fatal(code) && code != LEVEE_ENOTFOUND && want > len) {
            code = fill(v, offset, len, len); /* the bad sector may lie behind the wanted bytes */
        }
    }
    if (code == LEVEE_OK) {
        *ret = v->bytes.data + (offset - v->base);
    }
    return code;
}

bool wal_scan_fatal(int code)
{
    return code == LEVEE_ENOMEM || code == LEVEE_ECRASHED;
}

bool wal_is_zero(const uint8_t *p, size_t len)
{
    return len == 0 || (p[0] == 0 && memcmp(p, p + 1, len - 1) == 0);
}
