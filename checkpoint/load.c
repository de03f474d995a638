/*
 * Reading: a whole chain at start, and single meta values.
 *
 * Parts are read in order, base first; a later entry of a key replaces an earlier one, which is the
 * caller's table doing what it always does. Meta and small items are whole in every file, so the
 * last part's count. Only verified files are opened; slices prove their own hash once more, because
 * the bytes now come through a map and not through the pread that was verified.
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>

static int open_version(struct ckpt_store *s, const struct ckpt_version *v,
                        struct ckpt_reader **ret, struct levee_error *err)
{
    char path[IO_PATH_MAX];
    int rc = ckpt_version_path(s, v, path, err);

    ASSERT(v->verified);
    ASSERT(!v->bad);
    return rc == LEVEE_OK ? s->format->open(s->io, path, ret, err) : rc;
}

static int load_slice(struct levee_slice bytes, uint32_t table, uint32_t number,
                      const struct ckpt_load_ops *ops, void *arg, struct levee_error *err)
{
    struct ckpt_slice_cursor c;
    struct ckpt_entry e;
    int rc = ckpt_slice_open(bytes, table, number, &c, err);

    while (rc == LEVEE_OK && ckpt_slice_next(&c, &e)) {
        rc = ops->entry(arg, table, &e, err);
    }
    return rc == LEVEE_OK ? ckpt_slice_close(&c, err) : rc;
}

/* Slices of a table are numbered from 0 without a gap: a file that lost one is not complete. */
static int next_number(struct ckpt_slice_order *o, uint32_t table, uint32_t number,
                       struct levee_error *err)
{
    uint32_t expected = o->any && o->table == table ? o->number + 1 : 0;

    if (number != expected) {
        int code = err_set(err, LEVEE_ECKPT_CORRUPT, "a table misses a slice");
        err_where(err, "table %08" PRIx32, table);
        err_expected(err, "slice %" PRIu32, expected);
        err_found(err, "slice %" PRIu32, number);
        return code;
    }
    *o = (struct ckpt_slice_order){.any = true, .table = table, .number = number};
    return LEVEE_OK;
}

int ckpt_slice_order_check(struct ckpt_slice_order *o, struct levee_slice key, uint32_t *ret_table,
                           uint32_t *ret_number, struct levee_error *err)
{
    if (!ckpt_slice_key_parse(key, ret_table, ret_number)) {
        int code = err_set(err, LEVEE_ECKPT_CORRUPT, "a checkpoint holds a key of an unknown kind");
        err_found(err, "%zu bytes, the first is %d", key.len, key.len > 0 ? key.data[0] : 0);
        return code;
    }
    return next_number(o, *ret_table, *ret_number, err);
}

static int load_db(struct ckpt_store *s, struct ckpt_reader *r, enum ckpt_db db, bool last,
                   const struct ckpt_load_ops *ops, void *arg, struct levee_error *err)
{
    struct ckpt_slice_order order = {0};
    struct levee_slice key;
    struct levee_slice value;
    uint32_t table;
    uint32_t number;
    int rc;

    while ((rc = s->format->next(r, db, &key, &value, err)) == LEVEE_OK) {
        if (db == CKPT_DATA && key.data[0] == 't') {
            rc = ckpt_slice_order_check(&order, key, &table, &number, err);
            if (rc == LEVEE_OK && ops->entry != NULL) {
                rc = load_slice(value, table, number, ops, arg, err);
            }
        } else if (last && ops->item != NULL && !slice_eq(key, slice_str(CKPT_KEY_FORMAT))) {
            rc = ops->item(arg, db, key, value, err);
        }
        if (rc != LEVEE_OK) {
            return rc;
        }
    }
    return rc == LEVEE_ENOTFOUND ? LEVEE_OK : rc;
}

int ckpt_load(struct ckpt_store *s, const struct ckpt_chain *chain, const struct ckpt_load_ops *ops,
              void *arg, struct levee_error *err)
{
    for (size_t i = 0; i < chain->count; i++) {
        const struct ckpt_version *v = &s->versions.items[chain->index[i]];
        bool last = i + 1 == chain->count;
        struct ckpt_reader *r;
        int rc = open_version(s, v, &r, err);
        if (rc == LEVEE_OK) {
            rc = last ? load_db(s, r, CKPT_META, last, ops, arg, err) : LEVEE_OK;
            if (rc == LEVEE_OK) {
                rc = load_db(s, r, CKPT_DATA, last, ops, arg, err);
            }
            s->format->close(r);
        }
        if (rc != LEVEE_OK) {
            (void)err_context(err, "checkpoint %s", v->name);
            return rc;
        }
    }
    return LEVEE_OK;
}

int ckpt_read_meta(struct ckpt_store *s, const struct ckpt_version *v, struct levee_slice key,
                   struct buf *ret, struct levee_error *err)
{
    struct ckpt_reader *r;
    struct levee_slice value;
    int rc = open_version(s, v, &r, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    rc = s->format->get(r, CKPT_META, key, &value, err);
    if (rc == LEVEE_OK) {
        buf_clear(ret);
        buf_put(ret, value.data, value.len);
        rc = ret->failed ? err_nomem(err, value.len) : LEVEE_OK;
    } else if (rc == LEVEE_ENOTFOUND) {
        rc = err_set(err, LEVEE_ENOTFOUND, "a checkpoint has no meta value of this name");
        err_where(err, "%s, %.*s", v->name, (int)key.len, (const char *)key.data);
    }
    s->format->close(r);
    return rc;
}

int ckpt_read_replay_from(struct ckpt_store *s, struct ckpt_version *v, struct levee_error *err)
{
    struct buf value = {0};
    int rc = ckpt_read_meta(s, v, slice_str(CKPT_KEY_REPLAY_FROM), &value, err);

    if (rc == LEVEE_OK && value.data != NULL && value.len == 8) {
        v->replay_from = get_le64(value.data);
    } else if (rc == LEVEE_OK) {
        rc = err_set(err, LEVEE_ECKPT_CORRUPT, "replay-from is malformed");
        err_where(err, "%s", v->name);
        err_expected(err, "8 bytes");
        err_found(err, "%zu bytes", value.len);
    }
    buf_release(&value);
    return rc;
}
