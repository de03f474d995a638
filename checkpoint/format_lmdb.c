/*
 * The product's format: one LMDB file with the named databases "meta" and "data".
 *
 * LMDB is used as a sorted-table file, not as a database: a file is built once under a temporary
 * name by one writer, published, and from then on only read. What that buys is in the README; what
 * it asks for is kept here:
 *
 *  - MDB_NOSYNC: an unpublished file needs no durability, and the publication syncs once, itself,
 * with a descriptor that was open before LMDB wrote the first item (LMDB goes on after a failed
 * sync).
 *  - MDB_NOLOCK: nobody else may have a temporary file open, and published ones never change.
 *  - MDB_APPEND: items come in key order, so pages are filled and each is written once.
 *  - Never MDB_WRITEMAP: with it a full disk is a SIGBUS.
 *  - The map is address space, not disk. It grows before it is full (MAP_FULL would lose the whole
 *    transaction): `used` bounds the pages taken from above, and when the next item might not fit,
 *    the transaction is committed and the map doubled. The same commit keeps memory bounded, for
 * LMDB holds every dirty page until then: a small file is one transaction, a large one several.
 * Nobody can see the file in between.
 *  - A full disk reaches us as EIO when the write was short: the free space tells the two apart.
 *  - Every code of LMDB that is not expected becomes a typed error; none is ignored.
 */
#include "checkpoint/ckpt_impl.h"

#include <errno.h>
#include <inttypes.h>
#include <lmdb.h>

#define PAGE_BYTES 4096u
#define MAP_MIN    ((uint64_t)16 << 20)
/* Dirty bytes after which a transaction is committed. */
#define TXN_BYTES ((uint64_t)64 << 20)
/* Copied pages of the paths from root to leaf, the free list, the main database: per transaction.
 */
#define TXN_SPARE ((uint64_t)64 * PAGE_BYTES)
#define FILE_MODE 0666
#define VALUE_MAX ((size_t)1 << 31)

struct ckpt_builder {
    struct io *io;
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi[2];
    uint64_t map_bytes;
    uint64_t used;  /* upper bound of the file's pages, in bytes */
    uint64_t dirty; /* upper bound of this transaction's */
    char path[IO_PATH_MAX];
};

struct ckpt_reader {
    MDB_env *env;
    MDB_txn *txn;
    MDB_dbi dbi[2];
    MDB_cursor *cursor[2];
    bool positioned[2]; /* seek found key and value; next has not handed them out */
    MDB_val key[2], value[2];
    char path[IO_PATH_MAX];
};

static const char *const db_names[2] = {"meta", "data"};

/* ---- errors ---- */

/* The code that fits what LMDB answered. Positive ones are errnos, negative ones its own. */
static int code_of(int rc)
{
    switch (rc) {
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
    case MDB_VERSION_MISMATCH:
    case MDB_INCOMPATIBLE:
    case MDB_NOTFOUND:
        return LEVEE_ECKPT_CORRUPT;
    case MDB_KEYEXIST: /* out of order: MDB_APPEND */
    case MDB_BAD_VALSIZE:
        return LEVEE_EINVALID;
    case MDB_MAP_FULL:
    case MDB_MAP_RESIZED:
    case MDB_TXN_FULL:
    case MDB_READERS_FULL:
    case MDB_DBS_FULL:
    case EMFILE:
    case ENFILE:
        return LEVEE_ELIMIT;
    case ENOENT:
        return LEVEE_ENOTFOUND;
    default:
        return rc > 0 ? LEVEE_EIO : LEVEE_ECKPT_FAILED;
    }
}

static int lmdb_fail(int rc, const char *verb, const char *path, struct levee_error *err)
{
    int code = code_of(rc);

    if (code == LEVEE_EIO) {
        code = err_sys(err, code, rc, "LMDB cannot %s", verb);
    } else {
        code = err_set(err, code, "LMDB cannot %s: %s", verb, mdb_strerror(rc));
    }
    err_where(err, "%s", path);
    return code;
}

/* The same for a builder: EIO with no room left for what was to be written is a full disk. */
static int build_fail(struct ckpt_builder *b, int rc, const char *verb, struct levee_error *err)
{
    uint64_t space;

    if (rc == EIO && b->io->ops->free_space(b->io, b->path, &space, NULL) == LEVEE_OK &&
        space < b->dirty + TXN_SPARE) {
        rc = ENOSPC;
    }
    return lmdb_fail(rc, verb, b->path, err);
}

static int copy_path(char to[IO_PATH_MAX], const char *path, struct levee_error *err)
{
    size_t len = strlen(path);

    if (len >= IO_PATH_MAX) {
        return err_set(err, LEVEE_ELIMIT, "path too long: %.200s", path);
    }
    memcpy(to, path, len + 1);
    return LEVEE_OK;
}

/* ---- building ---- */

static void builder_free(struct ckpt_builder *b)
{
    if (b->txn != NULL) {
        mdb_txn_abort(b->txn);
    }
    if (b->env != NULL) {
        mdb_env_close(b->env);
    }
    mem_free(b);
}

static int begin_txn(struct ckpt_builder *b, struct levee_error *err)
{
    int rc = mdb_txn_begin(b->env, NULL, 0, &b->txn);

    if (rc != 0) {
        b->txn = NULL;
        return build_fail(b, rc, "begin a transaction in", err);
    }
    b->dirty = 0;
    b->used += TXN_SPARE;
    return LEVEE_OK;
}

static int commit_txn(struct ckpt_builder *b, struct levee_error *err)
{
    MDB_envinfo info;
    int rc = mdb_txn_commit(b->txn); /* frees it, whatever it answers */

    b->txn = NULL;
    if (rc != 0) {
        return build_fail(b, rc, "write", err);
    }
    (void)mdb_env_info(b->env, &info); /* fails only without an environment */
    b->used = ((uint64_t)info.me_last_pgno + 1) * PAGE_BYTES;
    return LEVEE_OK;
}

/* Makes sure that `need` more bytes of pages fit map and transaction. */
static int make_room(struct ckpt_builder *b, uint64_t need, struct levee_error *err)
{
    if (LIKELY(b->used + need <= b->map_bytes && b->dirty + need <= TXN_BYTES)) {
        return LEVEE_OK;
    }
    int rc = b->dirty > 0 ? commit_txn(b, err) : LEVEE_OK;
    if (rc != LEVEE_OK) {
        return rc;
    }
    if (b->txn != NULL) { /* nothing was put yet, but the map must not change under it */
        mdb_txn_abort(b->txn);
        b->txn = NULL;
    }
    uint64_t bytes = b->map_bytes;
    while (b->used + need + TXN_SPARE > bytes) {
        bytes *= 2;
    }
    if (bytes != b->map_bytes) {
        rc = mdb_env_set_mapsize(b->env, (size_t)bytes);
        if (rc != 0) {
            return build_fail(b, rc, "grow the map of", err);
        }
        b->map_bytes = bytes;
    }
    return begin_txn(b, err);
}

static int lmdb_put(struct ckpt_builder *b, enum ckpt_db db, struct levee_slice key,
                    struct levee_slice value, struct levee_error *err)
{
    if (key.len == 0 || key.len > CKPT_KEY_MAX || value.len > VALUE_MAX) {
        int code = err_set(err, LEVEE_ELIMIT, "an item of %s is too large", b->path);
        err_expected(err, "a key of 1 to %d bytes, a value of at most %zu", CKPT_KEY_MAX,
                     VALUE_MAX);
        err_found(err, "%zu and %zu bytes", key.len, value.len);
        return code;
    }
    /* A page with appended items is at least half full, a branch page holds seven keys or more:
     * four times an item's bytes bounds its share of leaf and branch pages. A big value has pages
     * of its own. */
    uint64_t need = 4 * (key.len + 32);
    need += value.len > PAGE_BYTES / 4 ? align_up(value.len + 16, PAGE_BYTES) : 4 * value.len;
    int rc = make_room(b, need, err);
    if (rc != LEVEE_OK) {
        return rc;
    }

    MDB_val k = {key.len, (void *)(uintptr_t)key.data};
    MDB_val v = {value.len, (void *)(uintptr_t)value.data};
    if (value.len == 0) {
        v.mv_data = b->path; /* absent and empty are the same here, and memcpy wants a pointer */
    }
    rc = mdb_put(b->txn, b->dbi[db], &k, &v, MDB_APPEND);
    if (rc != 0) {
        return build_fail(b, rc, "put an item into", err);
    }
    b->used += need;
    b->dirty += need;
    return LEVEE_OK;
}

/* The first item of every file says who wrote it: an older program refuses a newer LMDB's file. */
static int put_format(struct ckpt_builder *b, struct levee_error *err)
{
    char text[64];
    int major;
    int minor;
    int patch;

    (void)mdb_version(&major, &minor, &patch);
    int n = snprintf(text, sizeof text, "lmdb %d.%d.%d", major, minor, patch);
    return lmdb_put(b, CKPT_META, slice_str(CKPT_KEY_FORMAT), slice_of(text, (size_t)n), err);
}

static int refuse_existing(struct io *io, const char *path, struct levee_error *err)
{
    struct io_stat st;
    int rc = io->ops->stat(io, path, &st, err);

    if (rc == LEVEE_OK && st.kind != IO_NONE) {
        rc = err_set(err, LEVEE_EEXISTS, "a file to be built exists already");
        err_where(err, "%s", path);
    }
    return rc;
}

static int env_open(MDB_env **env, const char *path, uint64_t map_bytes, unsigned flags)
{
    int rc = mdb_env_create(env);

    if (rc != 0) {
        *env = NULL;
        return rc;
    }
    rc = map_bytes > 0 ? mdb_env_set_mapsize(*env, (size_t)map_bytes) : 0;
    if (rc == 0) {
        rc = mdb_env_set_maxdbs(*env, ARRAY_LEN(db_names));
    }
    if (rc == 0) {
        rc = mdb_env_open(*env, path, flags | MDB_NOSUBDIR | MDB_NOLOCK | MDB_NOTLS, FILE_MODE);
    }
    return rc;
}

static int lmdb_begin(struct io *io, const char *path, uint64_t bytes_hint,
                      struct ckpt_builder **ret, struct levee_error *err)
{
    int rc = io_check_fork(io, err);
    struct ckpt_builder *b = NULL;

    if (rc == LEVEE_OK) {
        rc = refuse_existing(io, path, err);
    }
    if (rc != LEVEE_OK) {
        return rc;
    }
    b = mem_zalloc(sizeof *b);
    if (b == NULL) {
        return err_nomem(err, sizeof *b);
    }
    b->io = io;
    rc = copy_path(b->path, path, err);
    if (rc != LEVEE_OK) {
        goto fail;
    }
    b->map_bytes = align_up(bytes_hint + bytes_hint / 8, MAP_MIN) + MAP_MIN;
    rc = env_open(&b->env, path, b->map_bytes, MDB_NOSYNC);
    if (rc != 0) {
        rc = build_fail(b, rc, "create", err);
        goto fail;
    }
    rc = begin_txn(b, err);
    for (int i = 0; rc == LEVEE_OK && i < 2; i++) {
        int sys = mdb_dbi_open(b->txn, db_names[i], MDB_CREATE, &b->dbi[i]);
        rc = sys == 0 ? LEVEE_OK : build_fail(b, sys, "create a database in", err);
    }
    if (rc == LEVEE_OK) {
        rc = put_format(b, err);
    }
    if (rc != LEVEE_OK) {
        goto fail;
    }
    *ret = b;
    return LEVEE_OK;
fail:
    builder_free(b);
    return rc;
}

static int lmdb_commit(struct ckpt_builder *b, struct levee_error *err)
{
    int rc = commit_txn(b, err);

    builder_free(b);
    return rc;
}

/* ---- reading ---- */

static void lmdb_close(struct ckpt_reader *r)
{
    if (r == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        if (r->cursor[i] != NULL) {
            mdb_cursor_close(r->cursor[i]);
        }
    }
    if (r->txn != NULL) {
        mdb_txn_abort(r->txn);
    }
    if (r->env != NULL) {
        mdb_env_close(r->env);
    }
    mem_free(r);
}

static int lmdb_open(struct io *io, const char *path, struct ckpt_reader **ret,
                     struct levee_error *err)
{
    struct ckpt_reader *r;
    int rc = io_check_fork(io, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    r = mem_zalloc(sizeof *r);
    if (r == NULL) {
        return err_nomem(err, sizeof *r);
    }
    rc = copy_path(r->path, path, err);
    if (rc != LEVEE_OK) {
        goto fail;
    }
    /* A map of its stored size: the file may be shorter, which is as good as its hash was. */
    rc = env_open(&r->env, path, 0, MDB_RDONLY);
    if (rc == 0) {
        rc = mdb_txn_begin(r->env, NULL, MDB_RDONLY, &r->txn);
    }
    for (int i = 0; rc == 0 && i < 2; i++) {
        rc = mdb_dbi_open(r->txn, db_names[i], 0, &r->dbi[i]);
        if (rc == 0) {
            rc = mdb_cursor_open(r->txn, r->dbi[i], &r->cursor[i]);
        }
    }
    if (rc != 0) {
        rc = lmdb_fail(rc, "open", path, err);
        goto fail;
    }
    *ret = r;
    return LEVEE_OK;
fail:
    lmdb_close(r);
    return rc;
}

static int lmdb_get(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
                    struct levee_slice *ret, struct levee_error *err)
{
    MDB_val k = {key.len, (void *)(uintptr_t)key.data};
    MDB_val v;

    if (key.len == 0 || key.len > CKPT_KEY_MAX) {
        return LEVEE_ENOTFOUND;
    }
    int rc = mdb_get(r->txn, r->dbi[db], &k, &v);
    if (rc == MDB_NOTFOUND) {
        return LEVEE_ENOTFOUND;
    }
    if (rc != 0) {
        return lmdb_fail(rc, "read", r->path, err);
    }
    *ret = slice_of(v.mv_data, v.mv_size);
    return LEVEE_OK;
}

static int lmdb_seek(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice key,
                     struct levee_error *err)
{
    MDB_val *k = &r->key[db];
    int rc;

    *k = (MDB_val){key.len, (void *)(uintptr_t)key.data};
    rc = mdb_cursor_get(r->cursor[db], k, &r->value[db], key.len == 0 ? MDB_FIRST : MDB_SET_RANGE);
    if (rc == MDB_NOTFOUND) {
        /* The cursor now stands nowhere sure; next must say "end" and not go on from there. */
        *k = (MDB_val){0, NULL};
    } else if (rc != 0) {
        return lmdb_fail(rc, "search", r->path, err);
    }
    r->positioned[db] = true;
    return LEVEE_OK;
}

static int lmdb_next(struct ckpt_reader *r, enum ckpt_db db, struct levee_slice *ret_key,
                     struct levee_slice *ret_value, struct levee_error *err)
{
    if (!r->positioned[db]) {
        int rc = mdb_cursor_get(r->cursor[db], &r->key[db], &r->value[db], MDB_NEXT);
        if (rc == MDB_NOTFOUND) {
            return LEVEE_ENOTFOUND;
        }
        if (rc != 0) {
            return lmdb_fail(rc, "read", r->path, err);
        }
    } else if (r->key[db].mv_data == NULL) {
        return LEVEE_ENOTFOUND; /* stays positioned at the end */
    }
    r->positioned[db] = false;
    *ret_key = slice_of(r->key[db].mv_data, r->key[db].mv_size);
    *ret_value = slice_of(r->value[db].mv_data, r->value[db].mv_size);
    return LEVEE_OK;
}

const struct ckpt_format ckpt_format_lmdb = {
    .name = "lmdb",
    .begin = lmdb_begin,
    .put = lmdb_put,
    .commit = lmdb_commit,
    .abandon = builder_free,
    .open = lmdb_open,
    .get = lmdb_get,
    .seek = lmdb_seek,
    .next = lmdb_next,
    .close = lmdb_close,
};
