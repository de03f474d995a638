/*
 * Reading one file. After every piece the open file is asked for size and time of change: what was
 * read counts only if both are what they were when the file was opened, so a record that a writer
 * was just changing is never taken. (Time has the kernel's resolution, some milliseconds; the time
 * that a file must have rested before it is begun covers that.) Every byte goes through one hash,
 * which the ledger keeps.
 */
#include "connectors/dir_read.h"

#include <inttypes.h>

#define PIECE ((size_t)256 << 10)

int dir_reader_open(struct dir_reader *r, struct io *io, struct io_file *file, const char *path,
                    bool compressed, const struct dir_format *format, struct levee_error *err)
{
    *r = (struct dir_reader){.io = io, .file = file, .path = path, .format = format};
    int code = io->ops->fstat(file, &r->begun, err);
    if (code == LEVEE_OK && compressed) {
        code = gunzip_new(&r->gz, err);
    }
    if (code == LEVEE_OK && (r->hash = hash_stream_new()) == NULL) {
        code = err_nomem(err, PIECE);
    }
    if (code) {
        err_where(err, "%s", path);
        dir_reader_close(r);
        return code;
    }
    hash_stream_reset(r->hash, 0);
    return LEVEE_OK;
}

void dir_reader_close(struct dir_reader *r)
{
    if (r->file) {
        r->io->ops->close(r->file);
    }
    gunzip_free(r->gz);
    hash_stream_free(r->hash);
    buf_release(&r->packed);
    buf_release(&r->in);
    *r = (struct dir_reader){0};
}

static int at_offset(const struct dir_reader *r, uint64_t offset, int code, struct levee_error *err)
{
    err_where(err, "%s, offset %" PRIu64, r->path, offset);
    return code;
}

static int check_unchanged(struct dir_reader *r, size_t wanted, size_t got, struct levee_error *err)
{
    struct io_stat st = {0};
    int code = r->io->ops->fstat(r->file, &st, err);

    if (code) {
        return code;
    }
    if (st.size == r->begun.size && st.mtime_ns == r->begun.mtime_ns && got == wanted) {
        return LEVEE_OK;
    }
    err_set(err, LEVEE_EFILE_CHANGED, "a file changed while it was read");
    err_expected(err, "%" PRIu64 " bytes, of time %" PRId64 " ms", r->begun.size,
                 r->begun.mtime_ns / 1000000);
    err_found(err, "%" PRIu64 " bytes, of time %" PRId64 " ms", st.size, st.mtime_ns / 1000000);
    return at_offset(r, r->raw, LEVEE_EFILE_CHANGED, err);
}

/* A piece of the file, into `in` or before the decompressor. */
static int read_piece(struct dir_reader *r, struct buf *to, struct levee_error *err)
{
    uint64_t left = r->begun.size - r->raw;
    size_t want = left < PIECE ? (size_t)left : PIECE, got = 0;

    if (!buf_reserve(to, want + 1)) {
        to->failed = false;
        return err_nomem(err, want);
    }
    int code = r->io->ops->pread(r->file, to->data + to->len, want, r->raw, &got, err);
    if (code == LEVEE_OK) {
        code = check_unchanged(r, want, got, err);
    }
    if (code == LEVEE_OK) {
        hash_stream_update(r->hash, to->data + to->len, got);
        to->len += got;
        r->raw += got;
    }
    return code;
}

static int decompress(struct dir_reader *r, struct levee_error *err)
{
    size_t n = 0, before = r->in.len;

    if (r->packed_used == r->packed.len && r->raw < r->begun.size) {
        buf_clear(&r->packed);
        r->packed_used = 0;
        int code = read_piece(r, &r->packed, err);
        if (code) {
            return code;
        }
    }
    struct levee_slice left =
        slice_of(r->packed.data + r->packed_used, r->packed.len - r->packed_used);
    bool between = left.len == 0 && (gunzip_whole(r->gz) || r->begun.size == 0);
    int code = between ? LEVEE_OK : gunzip_some(r->gz, left, PIECE, &r->in, &n, err);
    if (code) {
        return at_offset(r, r->raw - left.len, code, err);
    }
    r->packed_used += n;
    r->ended =
        r->raw == r->begun.size && r->packed_used == r->packed.len && r->in.len == before && n == 0;
    if (r->ended && !between) {
        (void)err_set(err, LEVEE_ERECORD_DAMAGED, "gzip data ends early");
        return at_offset(r, r->raw, LEVEE_ERECORD_DAMAGED, err);
    }
    return LEVEE_OK;
}

int dir_reader_fill(struct dir_reader *r, struct levee_error *err)
{
    ASSERT(!r->ended);
    if (r->used) {
        memmove(r->in.data, r->in.data + r->used, r->in.len - r->used);
        r->in.len -= r->used;
        r->offset += r->used;
        r->searched -= r->searched < r->used ? r->searched : r->used;
        r->used = 0;
    }
    if (r->gz) {
        return decompress(r, err);
    }
    int code = read_piece(r, &r->in, err);
    r->ended = code == LEVEE_OK && r->raw == r->begun.size;
    return code;
}

static int too_long(const struct dir_reader *r, uint64_t len, struct levee_error *err)
{
    err_set(err, LEVEE_ERECORD_TOO_LONG, "a record is longer than record_max");
    err_expected(err, "at most %u bytes", r->format->record_max);
    err_found(err, "%" PRIu64 " or more", len);
    return at_offset(r, r->offset + r->used, LEVEE_ERECORD_TOO_LONG, err);
}

static int cut_short(const struct dir_reader *r, uint64_t wanted, struct levee_error *err)
{
    err_set(err, LEVEE_ERECORD_DAMAGED, "a file ends inside a record");
    err_expected(err, "%" PRIu64 " bytes", wanted);
    err_found(err, "%zu", r->in.len - r->used);
    return at_offset(r, r->offset + r->used, LEVEE_ERECORD_DAMAGED, err);
}

/* Each finds the record that begins at `used`: *ret_take bytes with what surrounds it; 0: not all
 * of it is here. */

static int find_line(struct dir_reader *r, struct levee_slice *ret, size_t *ret_take,
                     struct levee_error *err)
{
    const uint8_t *from = r->in.data + r->used;
    size_t have = r->in.len - r->used;
    size_t known = r->searched > r->used ? r->searched - r->used : 0;
    const uint8_t *nl = have > known ? memchr(from + known, '\n', have - known) : NULL;
    size_t n = nl ? (size_t)(nl - from) : have;

    r->searched = nl ? r->used : r->in.len;
    if (n > r->format->record_max) {
        return too_long(r, n, err);
    }
    if (nl || (r->ended && have)) {
        *ret_take = n + (nl != NULL);
        *ret = slice_of(from, nl && n && from[n - 1] == '\r' ? n - 1 : n);
    }
    return LEVEE_OK;
}

static int find_whole(struct dir_reader *r, struct levee_slice *ret, size_t *ret_take,
                      struct levee_error *err)
{
    if (r->in.len > r->format->record_max) {
        return too_long(r, r->in.len, err);
    }
    if (r->ended && !r->given) {
        *ret = slice_of(r->in.len ? r->in.data : base_nothing, r->in.len);
        *ret_take = r->in.len;
    }
    return LEVEE_OK;
}

static int find_sized(const struct dir_reader *r, struct levee_slice *ret, size_t *ret_take,
                      struct levee_error *err)
{
    const uint8_t *from = r->in.data + r->used;
    size_t have = r->in.len - r->used, head = r->format->format == LEVEE_FILE_LENGTH ? 4 : 0;
    uint64_t len = r->format->record_bytes;

    if (have == 0) {
        return LEVEE_OK;
    }
    if (head && have >= head) {
        len = get_be32(from);
        if (len > r->format->record_max) {
            return too_long(r, len, err);
        }
    }
    if (have >= head && have - head >= len) {
        *ret = slice_of(from + head, (size_t)len);
        *ret_take = head + (size_t)len;
    } else if (r->ended) {
        return cut_short(r, have < head ? head : head + len, err);
    }
    return LEVEE_OK;
}

int dir_reader_next(struct dir_reader *r, struct levee_slice *ret, uint64_t *ret_offset,
                    bool *ret_more, struct levee_error *err)
{
    size_t take = 0;
    int code;

    *ret_more = false;
    if (r->format->format == LEVEE_FILE_LINES) {
        code = find_line(r, ret, &take, err);
    } else if (r->format->format == LEVEE_FILE_WHOLE) {
        code = find_whole(r, ret, &take, err);
        *ret_more = code == LEVEE_OK && r->ended && !r->given; /* an empty file is a record too */
        r->given = r->given || *ret_more;
    } else {
        code = find_sized(r, ret, &take, err);
    }
    if (code == LEVEE_OK && take) {
        *ret_more = true;
    }
    *ret_offset = r->offset + r->used;
    r->used += take;
    return code;
}

void dir_reader_back(struct dir_reader *r, uint64_t offset)
{
    ASSERT(offset >= r->offset && offset <= r->offset + r->used);
    r->used = (size_t)(offset - r->offset);
    r->given = false;
    r->searched = r->searched < r->used ? r->searched : r->used;
}

uint64_t dir_reader_length(const struct dir_reader *r)
{
    return r->offset + r->in.len;
}

uint64_t dir_reader_hash(const struct dir_reader *r)
{
    return hash_stream_digest(r->hash);
}
