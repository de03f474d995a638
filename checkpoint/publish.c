/*
 * Publishing: how one file comes into being.
 *
 *   build at <sequence>.tmp → close → hash by pread, write back piece by piece → read back
 *   → sync → rename to the name that says it all → sync the directory
 *
 * Reading back comes after the write-back was started so that the disk works meanwhile.
 *
 * The last step is the one point at which batch `to` becomes a version; a crash before it leaves a
 * temporary name or a version that is as good as any (its bytes were synced before the rename).
 * Two syncs, whatever the size.
 *
 *   C1  A name that ends in .ckpt never existed before its file's bytes were durable.
 *   C2  No item is stored that did not read back as it was put: order, keys, values and number are
 *       compared by a running hash.
 *   C3  Our descriptor is open before the first item is written and is the one synced: a write-back
 *       error between the format's close and our sync cannot pass unseen.
 *   C4  A failed sync, rename or directory sync is final: nothing is removed, nothing tried again.
 *       Before that a full disk or lack of memory removes the file and leaves all as it was.
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>
#include <stdio.h>

/* Small enough that the log's next sync does not stand behind it (rung 9d). */
#define PIECE_BYTES ((size_t)256 << 10)

static void fingerprint(struct ckpt_fingerprint *f, struct levee_slice key,
                        struct levee_slice value)
{
    f->items++;
    f->hash = hash64(key.data, key.len, f->hash);
    f->hash = hash64(value.data, value.len, f->hash);
}

static void close_parts(struct ckpt_pub *p)
{
    const struct ckpt_format *format = p->store->format;

    if (p->builder != NULL) {
        format->abandon(p->builder);
        p->builder = NULL;
    }
    if (p->reader != NULL) {
        format->close(p->reader);
        p->reader = NULL;
    }
    if (p->file != NULL) {
        p->store->io->ops->close(p->file);
        p->file = NULL;
    }
    hash_stream_free(p->hash);
    p->hash = NULL;
    mem_free(p->piece);
    p->piece = NULL;
}

/* Ends a publication that failed: decides what its caller hears and what becomes of the file (C4).
 */
static int settle(struct ckpt_pub *p, int rc, struct levee_error *err)
{
    bool syncing = p->phase == CKPT_PUB_SYNC;

    ASSERT(rc != LEVEE_OK);
    close_parts(p);
    p->phase = CKPT_PUB_DONE;
    if (rc == LEVEE_ECRASHED || rc == LEVEE_EFORKED) {
        return rc;
    }
    if (!syncing && (rc == LEVEE_ENOSPACE || rc == LEVEE_ENOMEM || rc == LEVEE_ELIMIT ||
                     rc == LEVEE_EINVALID)) {
        /* The first error is the one to report; a leftover is removed at the next start. */
        (void)p->store->io->ops->unlink(p->store->io, p->temp, NULL);
        return rc;
    }
    if (err != NULL) {
        err->code = LEVEE_ECKPT_FAILED;
        (void)err_context(err, "checkpoint of batch %" PRIu64, p->version.to);
    }
    return LEVEE_ECKPT_FAILED;
}

/* ---- building ---- */

int ckpt_pub_begin(struct ckpt_pub *p, struct ckpt_store *s, uint64_t from, uint64_t to,
                   uint64_t bytes_hint, struct levee_error *err)
{
    char name[32];
    int rc;

    *p = (struct ckpt_pub){.store = s, .version = {.from = from, .to = to}};
    if (from >= to) {
        rc = err_set(err, LEVEE_EINVALID, "a checkpoint must end after it begins");
        err_expected(err, "a batch after %" PRIu64, from);
        err_found(err, "%" PRIu64, to);
        p->phase = CKPT_PUB_DONE;
        return rc;
    }
    p->version.sequence = s->next_sequence++; /* a name is tried once */
    (void)snprintf(name, sizeof name, "%016" PRIx64 IO_TEMP_SUFFIX, p->version.sequence);
    rc = io_path(p->temp, s->dir, name, err);
    if (rc == LEVEE_OK) {
        rc = s->format->begin(s->io, p->temp, bytes_hint, &p->builder, err);
    }
    if (rc == LEVEE_OK) {
        rc = s->io->ops->open(s->io, p->temp, IO_WRITE, &p->file, err);
    }
    return rc == LEVEE_OK ? rc : settle(p, rc, err);
}

int ckpt_pub_put(struct ckpt_pub *p, enum ckpt_db db, struct levee_slice key,
                 struct levee_slice value, struct levee_error *err)
{
    ASSERT(p->phase == CKPT_PUB_BUILD);
    int rc = p->store->format->put(p->builder, db, key, value, err);
    if (rc != LEVEE_OK) {
        return settle(p, rc, err);
    }
    fingerprint(&p->put[db], key, value);
    return LEVEE_OK;
}

int ckpt_pub_put_slices(struct ckpt_pub *p, const struct ckpt_slices *s, struct levee_error *err)
{
    uint8_t key[CKPT_SLICE_KEY];
    size_t sealed = s->mark_count - (s->open ? 1 : 0);
    int rc = LEVEE_OK;

    for (size_t i = 0; rc == LEVEE_OK && i < sealed; i++) {
        ckpt_slice_key(key, s->table, s->first_number + (uint32_t)i);
        rc = ckpt_pub_put(p, CKPT_DATA, slice_of(key, sizeof key),
                          slice_of(s->bytes.data + s->marks[i].offset, s->marks[i].len), err);
    }
    return rc;
}

int ckpt_pub_commit(struct ckpt_pub *p, struct levee_error *err)
{
    struct io *io = p->store->io;
    struct io_stat st;

    ASSERT(p->phase == CKPT_PUB_BUILD);
    struct ckpt_builder *b = p->builder;
    p->builder = NULL; /* commit frees it, also on failure */
    int rc = p->store->format->commit(b, err);
    if (rc == LEVEE_OK) {
        crash_at(io, CP_CKPT_AFTER_BUILD);
        rc = io->ops->fstat(p->file, &st, err);
    }
    if (rc != LEVEE_OK) {
        return settle(p, rc, err);
    }
    p->size = st.size;
    p->phase = CKPT_PUB_HASH;
    return LEVEE_OK;
}

/* ---- hashing and writing back ---- */

static int hash_begin(struct ckpt_pub *p, struct levee_error *err)
{
    p->hash = hash_stream_new();
    p->piece = mem_alloc(PIECE_BYTES);
    if (p->hash == NULL || p->piece == NULL) {
        return err_nomem(err, PIECE_BYTES);
    }
    hash_stream_reset(p->hash, 0);
    return LEVEE_OK;
}

static int hash_pieces(struct ckpt_pub *p, size_t max_bytes, struct levee_error *err)
{
    struct io *io = p->store->io;
    int rc = p->piece == NULL ? hash_begin(p, err) : LEVEE_OK;

    for (size_t bytes = 0; rc == LEVEE_OK && bytes < max_bytes && p->offset < p->size;) {
        uint64_t left = p->size - p->offset;
        size_t n = left < PIECE_BYTES ? (size_t)left : PIECE_BYTES;
        rc = io_pread_all(p->file, io, p->piece, n, p->offset, err);
        if (rc == LEVEE_OK) {
            hash_stream_update(p->hash, p->piece, n);
            rc = io->ops->write_back(p->file, p->offset, n, err);
        }
        p->offset += n;
        bytes += n;
    }
    if (rc == LEVEE_OK && p->offset == p->size) {
        p->version.size = p->size;
        ckpt_version_seal(&p->version, hash_stream_digest(p->hash));
        rc = p->store->format->open(io, p->temp, &p->reader, err);
        p->phase = CKPT_PUB_CHECK;
    }
    return rc;
}

/* ---- checking ---- */

static int compare(const struct ckpt_pub *p, enum ckpt_db db, struct levee_error *err)
{
    if (p->put[db].items == p->read[db].items && p->put[db].hash == p->read[db].hash) {
        return LEVEE_OK;
    }
    int code = err_set(err, LEVEE_ECKPT_FAILED, "a checkpoint does not read back as written");
    err_where(err, "%s, %s", p->temp, db == CKPT_META ? "meta" : "data");
    err_expected(err, "%" PRIu64 " items, hash %016" PRIx64, p->put[db].items, p->put[db].hash);
    err_found(err, "%" PRIu64 " items, hash %016" PRIx64, p->read[db].items, p->read[db].hash);
    return code;
}

static int check(struct ckpt_pub *p, size_t max_bytes, struct levee_error *err)
{
    const struct ckpt_format *format = p->store->format;
    struct levee_slice key;
    struct levee_slice value;

    for (size_t bytes = 0; bytes < max_bytes; bytes += key.len + value.len) {
        int rc = format->next(p->reader, p->checking, &key, &value, err);
        if (rc == LEVEE_OK && !slice_eq(key, slice_str(CKPT_KEY_FORMAT))) {
            fingerprint(&p->read[p->checking], key, value);
        }
        if (rc != LEVEE_OK && rc != LEVEE_ENOTFOUND) {
            return rc;
        }
        if (rc == LEVEE_OK) {
            continue;
        }
        rc = compare(p, p->checking, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
        if (p->checking == CKPT_DATA) {
            format->close(p->reader);
            p->reader = NULL;
            crash_at(p->store->io, CP_CKPT_AFTER_VERIFY);
            p->phase = CKPT_PUB_SYNC;
            return LEVEE_OK;
        }
        p->checking = CKPT_DATA;
        key = value = slice_of(NULL, 0);
    }
    return LEVEE_OK;
}

/* ---- the point ---- */

static int make_durable(struct ckpt_pub *p, struct levee_error *err)
{
    struct ckpt_store *s = p->store;
    struct io *io = s->io;
    char path[IO_PATH_MAX];
    int rc = ckpt_version_path(s, &p->version, path, err);

    if (rc == LEVEE_OK) {
        rc = io->ops->sync(p->file, err);
    }
    if (rc != LEVEE_OK) {
        return rc;
    }
    crash_at(io, CP_CKPT_AFTER_SYNC);
    io->ops->close(p->file);
    p->file = NULL;
    rc = io->ops->rename(io, p->temp, path, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    crash_at(io, CP_CKPT_AFTER_RENAME);
    rc = io->ops->sync_dir(io, s->dir, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    s->names_durable = true;
    crash_at(io, CP_CKPT_AFTER_DIR_SYNC);
    p->version.verified = true;
    return LEVEE_OK;
}

int ckpt_pub_step(struct ckpt_pub *p, size_t max_bytes, bool *ret_done, struct ckpt_version *ret,
                  struct levee_error *err)
{
    int rc = LEVEE_OK;
    bool done = false;

    ASSERT(max_bytes > 0);
    switch (p->phase) {
    case CKPT_PUB_HASH:
        rc = hash_pieces(p, max_bytes, err);
        break;
    case CKPT_PUB_CHECK:
        rc = check(p, max_bytes, err);
        break;
    case CKPT_PUB_SYNC:
        /* The place in the list first: behind the rename nothing of ours may fail. */
        rc = ckpt_store_reserve(p->store, err);
        if (rc != LEVEE_OK) {
            p->phase = CKPT_PUB_CHECK; /* the file was not touched yet: not final */
            break;
        }
        rc = make_durable(p, err);
        done = rc == LEVEE_OK;
        break;
    case CKPT_PUB_BUILD:
    case CKPT_PUB_DONE:
    default:
        ASSERT(p->phase == CKPT_PUB_HASH); /* a step out of order */
        break;
    }
    if (rc != LEVEE_OK) {
        return settle(p, rc, err);
    }
    if (done) {
        ckpt_store_add(p->store, &p->version);
        close_parts(p);
        p->phase = CKPT_PUB_DONE;
        *ret = p->version;
    }
    *ret_done = done;
    return LEVEE_OK;
}

void ckpt_pub_release(struct ckpt_pub *p)
{
    if (p->store == NULL) {
        return;
    }
    close_parts(p);
    if (p->phase != CKPT_PUB_DONE) {
        (void)p->store->io->ops->unlink(p->store->io, p->temp, NULL);
        p->phase = CKPT_PUB_DONE;
    }
}

/* ---- a whole version at once ---- */

static int put_items(struct ckpt_pub *p, enum ckpt_db db, const struct ckpt_item *items,
                     size_t count, struct levee_error *err)
{
    int rc = LEVEE_OK;

    for (size_t i = 0; rc == LEVEE_OK && i < count; i++) {
        rc = ckpt_pub_put(p, db, items[i].key, items[i].value, err);
    }
    return rc;
}

static uint64_t content_bytes(const struct ckpt_content *c)
{
    uint64_t bytes = 0;

    for (size_t i = 0; i < c->meta_count; i++) {
        bytes += c->meta[i].key.len + c->meta[i].value.len;
    }
    for (size_t i = 0; i < c->small_count; i++) {
        ASSERT(c->small[i].key.len > 0 && c->small[i].key.data[0] == 's');
        bytes += c->small[i].key.len + c->small[i].value.len;
    }
    for (size_t i = 0; i < c->table_count; i++) {
        ASSERT(!c->tables[i].open); /* finish was called */
        bytes += c->tables[i].bytes.len;
    }
    return bytes;
}

static int put_content(struct ckpt_pub *p, const struct ckpt_content *c, struct levee_error *err)
{
    int rc = put_items(p, CKPT_META, c->meta, c->meta_count, err);

    if (rc == LEVEE_OK) {
        rc = put_items(p, CKPT_DATA, c->small, c->small_count, err);
    }
    for (size_t i = 0; rc == LEVEE_OK && i < c->table_count; i++) {
        rc = ckpt_pub_put_slices(p, &c->tables[i], err);
    }
    return rc == LEVEE_OK ? ckpt_pub_commit(p, err) : rc;
}

int ckpt_publish(struct ckpt_store *s, const struct ckpt_content *content, uint64_t replay_from,
                 struct ckpt_version *ret, struct levee_error *err)
{
    struct ckpt_pub p;
    bool done = false;

    if (ckpt_chain_full(&s->versions, content->from)) {
        /* Published all the same it could never be loaded. The fold that is due makes room. */
        int code = err_set(err, LEVEE_EFULL, "the chain to batch %" PRIu64 " has no room for more",
                           content->from);
        err_expected(err, "a fold first: at most %d files", CKPT_CHAIN_MAX);
        return code;
    }
    int rc = ckpt_store_reserve(s, err);
    if (rc == LEVEE_OK) {
        rc = ckpt_pub_begin(&p, s, content->from, content->to, content_bytes(content), err);
    } else {
        return rc;
    }
    p.version.replay_from = replay_from;
    if (rc == LEVEE_OK) {
        rc = put_content(&p, content, err);
    }
    while (rc == LEVEE_OK && !done) {
        rc = ckpt_pub_step(&p, SIZE_MAX, &done, ret, err);
    }
    ckpt_pub_release(&p);
    return rc;
}
