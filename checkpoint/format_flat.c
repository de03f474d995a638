/*
 * The simulator's format: the contract of format_lmdb.c over io, so that the whole core runs on a
 * simulated disk.
 *
 *   0  8 bytes "LEVFLAT1"
 *   8  items: u8 database, u16 key length, u32 value length, key, value
 *   -9 u8 0xff, u64 number of items
 *
 * Items of the two databases may be mixed; in each they ascend. The builder keeps one piece in
 * memory, the reader the whole file (the simulator's disk is memory too). Like LMDB's, such a file
 * is opened only after its whole hash was checked; a malformed one is a typed error all the same,
 * never a read past the end.
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>

#define MAGIC       "LEVFLAT1"
#define MAGIC_BYTES 8
#define END_MARK    0xff
#define END_BYTES   9
#define ITEM_HEADER 7
#define PIECE_BYTES ((size_t)64 << 10)
/* A reader refuses more: it reads the file whole. */
#define FILE_MAX ((size_t)1 << 31)

struct ckpt_builder {
    struct io *io;
    struct io_file *file;
    struct buf piece;
    struct buf last[2]; /* the last key of each database: order is checked */
    uint64_t offset, items;
};

struct flat_item {
    struct levee_slice key, value;
};

struct ckpt_reader {
    struct buf bytes;
    struct flat_db {
        struct flat_item *items;
        size_t count, cap, at;
    } db[2];
};

/* ---- building ---- */

static void builder_free(struct ckpt_builder *b)
{
    if (b->file != NULL) {
        b->io->ops->close(b->file);
    }
    buf_release(&b->piece);
    buf_release(&b->last[0]);
    buf_release(&b->last[1]);
    mem_free(b);
}

static int write_piece(struct ckpt_builder *b, struct levee_error *err)
{
    struct iovec iov = {b->piece.data, b->piece.len};

    if (b->piece.failed) {
        return err_nomem(err, b->piece.len);
    }
    int rc = b->io->ops->pwritev(b->file, &iov, 1, b->offset, err);
    if (rc == LEVEE_OK) {
        b->offset += b->piece.len;
        buf_clear(&b->piece);
    }
    return rc;
}

static int flat_put(struct ckpt_builder *b, enum ckpt_db db, struct levee_slice key,
                    struct levee_slice value, struct levee_error *err)
{
    if (key.len == 0 || key.len > CKPT_KEY_MAX || value.len > UINT32_MAX) {
        int code = err_set(err, LEVEE_ELIMIT, "an item of a checkpoint is too large");
        err_expected(err, "a key of 1 to %d bytes, a value of at most %" PRIu32, CKPT_KEY_MAX,
                     UINT32_MAX);
        err_found(err, "%zu and %zu bytes", key.len, value.len);
        return code;
    }
    if (b->last[db].len > 0 && slice_cmp(buf_view(&b->last[db]), key) >= 0) {
        return err_set(err, LEVEE_EINVALID, "items of a checkpoint are out of order");
    }
    buf_clear(&b->last[db]);
    buf_put(&b->last[db], key.data, key.len);
    buf_u8(&b->piece, (uint8_t)db);
    buf_u16(&b->piece, (uint16_t)key.len);
    buf_u32(&b->piece, (uint32_t)value.len);
    buf_put(&b->piece, key.data, key.len);
    buf_put(&b->piece, value.data, value.len);
    b->items++;
    if (b->last[db].failed || b->piece.failed) {
        return err_nomem(err, key.len + value.len);
    }
    return b->piece.len >= PIECE_BYTES ? write_piece(b, err) : LEVEE_OK;
}

static int flat_begin(struct io *io, const char *path, uint64_t bytes_hint,
                      struct ckpt_builder **ret, struct levee_error *err)
{
    struct ckpt_builder *b = mem_zalloc(sizeof *b);

    (void)bytes_hint;
    if (b == NULL) {
        return err_nomem(err, sizeof *b);
    }
    b->io = io;
    int rc = io->ops->open(io, path, IO_WRITE | IO_CREATE | IO_EXCL, &b->file, err);
    if (rc == LEVEE_OK) {
        buf_put(&b->piece, MAGIC, MAGIC_BYTES);
        rc = flat_put(b, CKPT_META, slice_str(CKPT_KEY_FORMAT), slice_str("flat 1"), err);
    } else {
        b->file = NULL;
    }
    if (rc != LEVEE_OK) {
        builder_free(b);
        return rc;
    }
    *ret = b;
    return LEVEE_OK;
}

static int flat_commit(struct ckpt_builder *b, struct levee_error *err)
{
    buf_u8(&b->piece, END_MARK);
    buf_u64(&b->piece, b->items);
    int rc = write_piece(b, err);

    builder_free(b);
    return rc;
}

/* ---- reading ---- */

static void flat_close(struct ckpt_reader *r)
{
    if (r == NULL) {
        return;
    }
    buf_release(&r->bytes);
    mem_free(r->db[0].items);
    mem_free(r->db[1].items);
    mem_free(r);
}

static int malformed(const char *path, size_t offset, struct levee_error *err)
{
    int code = err_set(err, LEVEE_ECKPT_CORRUPT, "a checkpoint file is malformed");

    err_where(err, "%s, offset %zu", path, offset);
    return code;
}

static bool item_add(struct flat_db *db, struct levee_slice key, struct levee_slice value)
{
    void *items = db->items;
    bool ok = mem_grow(&items, &db->cap, db->count + 1, sizeof *db->items);

    db->items = items;
    if (ok) {
        db->items[db->count++] = (struct flat_item){key, value};
    }
    return ok;
}

static int index_items(struct ckpt_reader *r, const char *path, struct levee_error *err)
{
    struct cursor c = cursor_of(buf_view(&r->bytes));
    uint64_t items = 0;

    if (r->bytes.len < MAGIC_BYTES + END_BYTES || memcmp(r->bytes.data, MAGIC, MAGIC_BYTES) != 0) {
        return malformed(path, 0, err);
    }
    (void)cur_bytes(&c, MAGIC_BYTES);
    for (;; items++) {
        size_t at = (size_t)(c.p - r->bytes.data);
        uint8_t db = cur_u8(&c);
        if (db == END_MARK && !c.bad) {
            break;
        }
        uint16_t key_len = cur_u16(&c);
        uint32_t value_len = cur_u32(&c);
        struct levee_slice key = cur_bytes(&c, key_len);
        struct levee_slice value = cur_bytes(&c, value_len);
        if (c.bad || db > CKPT_DATA) {
            return malformed(path, at, err);
        }
        const struct flat_db *d = &r->db[db];
        if (key_len == 0 || (d->count > 0 && slice_cmp(d->items[d->count - 1].key, key) >= 0)) {
            return malformed(path, at, err);
        }
        if (!item_add(&r->db[db], key, value)) {
            return err_nomem(err, sizeof(struct flat_item));
        }
    }
    uint64_t stored = cur_u64(&c);
    if (c.bad || stored != items || cur_left(&c) != 0) {
        return malformed(path, r->bytes.len, err);
    }
    return LEVEE_OK;
}

static int flat_open(struct io *io, const char *path, struct ckpt_reader **ret,
                     struct levee_error *err)
{
    struct ckpt_reader *r = mem_zalloc(sizeof *r);

    if (r == NULL) {
        return err_nomem(err, sizeof *r);
    }
    int rc = io_read_file(io, path, FILE_MAX, &r->bytes, err);
    if (rc == LEVEE_OK) {
        rc = index_items(r, path, err);
    }
    if (rc != LEVEE_OK) {
        flat_close(r);
        return rc;
    }
    *ret = r;
    return LEVEE_OK;
}

/* The first item with a key >= key. */
static size_t lower_bound(const struct flat_db *db, struct levee_slice key)
{
    size_t low = 0;
    size_t high = db->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (slice_cmp(db->items[mid].key, key) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    return low;
}

static int flat_get(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
                    struct levee_slice *ret, struct levee_error *err)
{
    const struct flat_db *d = &r->db[db];
    size_t at = lower_bound(d, key);

    (void)err;
    if (at == d->count || slice_cmp(d->items[at].key, key) != 0) {
        return LEVEE_ENOTFOUND;
    }
    *ret = d->items[at].value;
    return LEVEE_OK;
}

static int flat_seek(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
                     struct levee_error *err)
{
    (void)err;
    r->db[db].at = lower_bound(&r->db[db], key);
    return LEVEE_OK;
}

static int flat_next(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice *ret_key,
                     struct levee_slice *ret_value, struct levee_error *err)
{
    struct flat_db *d = &r->db[db];

    (void)err;
    if (d->at == d->count) {
        return LEVEE_ENOTFOUND;
    }
    *ret_key = d->items[d->at].key;
    *ret_value = d->items[d->at].value;
    d->at++;
    return LEVEE_OK;
}

const struct ckpt_format ckpt_format_flat = {
    .name = "flat",
    .begin = flat_begin,
    .put = flat_put,
    .commit = flat_commit,
    .abandon = builder_free,
    .open = flat_open,
    .get = flat_get,
    .seek = flat_seek,
    .next = flat_next,
    .close = flat_close,
};
