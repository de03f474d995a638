/*
 * Folding: several parts become one file, group by group.
 *
 * Every part is sorted by (table, key group), so a merge needs one group of one table in memory at
 * a time, and of that only views: keys and values stay in the parts' maps until they are copied
 * into the new file's slices. Inside a group a later part's entry replaces an earlier one of the
 * same key. A removal is kept when the fold is a delta (a file below may still hold the key) and
 * dropped when it is a base (nothing is below).
 *
 * Meta and small items are whole in every file: they are the last part's, but for the digest of the
 * state the fold starts from, which is the first part's.
 *
 * The work is cut into steps so that the lane's owner can pace it. A fold that is given up, fails
 * or dies leaves the parts as they were: it only ever adds a file, published like any other
 * (publish.c).
 */
#include "checkpoint/ckpt_impl.h"

#include <inttypes.h>

struct fold_part {
    struct ckpt_reader *reader;
    struct ckpt_slice_order order;
    struct ckpt_slice_cursor slice;
    bool open;  /* slice is being read */
    bool ended; /* no slice is left; else `entry` is the next one */
    uint32_t table;
    struct ckpt_entry entry;
};

struct ckpt_fold {
    struct ckpt_store *store;
    struct ckpt_pub pub;
    struct fold_part parts[CKPT_CHAIN_MAX];
    size_t part_count;
    uint64_t from;
    bool items_put;
    struct ckpt_slices out; /* of the table being merged */
    bool out_any;
    /* the group being merged: entries in the order they came, found by key */
    struct ckpt_entry *entries;
    size_t entry_count, entry_cap;
    struct map map;
};

/* ---- parts ---- */

/* Opens the part's next slice; sets ended when there is none. */
static int next_slice(struct ckpt_fold *f, struct fold_part *p, struct levee_error *err)
{
    struct levee_slice key;
    struct levee_slice value;
    uint32_t number = 0;
    int rc = f->store->format->next(p->reader, CKPT_DATA, &key, &value, err);

    if (rc == LEVEE_ENOTFOUND) {
        p->ended = true;
        return LEVEE_OK;
    }
    if (rc == LEVEE_OK) {
        rc = ckpt_slice_order_check(&p->order, key, &p->table, &number, err);
    }
    if (rc == LEVEE_OK) {
        rc = ckpt_slice_open(value, p->table, number, &p->slice, err);
    }
    p->open = rc == LEVEE_OK;
    return rc;
}

/* Moves on to the part's next entry. */
static int advance(struct ckpt_fold *f, struct fold_part *p, struct levee_error *err)
{
    while (!p->ended) {
        if (p->open) {
            if (ckpt_slice_next(&p->slice, &p->entry)) {
                return LEVEE_OK;
            }
            int rc = ckpt_slice_close(&p->slice, err);
            if (rc != LEVEE_OK) {
                return rc;
            }
        }
        int rc = next_slice(f, p, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
    }
    return LEVEE_OK;
}

static int open_part(struct ckpt_fold *f, struct ckpt_version *v, struct levee_error *err)
{
    struct fold_part *p = &f->parts[f->part_count];
    char path[IO_PATH_MAX];
    int rc = LEVEE_OK;

    if (!v->verified) {
        rc = ckpt_store_verify(f->store, v, err);
    }
    if (rc == LEVEE_OK && v->bad) {
        rc = err_set(err, LEVEE_ECKPT_CORRUPT, "a file to be folded differs from its name");
        err_where(err, "%s", v->name);
    }
    if (rc == LEVEE_OK) {
        rc = ckpt_version_path(f->store, v, path, err);
    }
    if (rc == LEVEE_OK) {
        rc = f->store->format->open(f->store->io, path, &p->reader, err);
    }
    if (rc != LEVEE_OK) {
        return rc;
    }
    f->part_count++;
    return LEVEE_OK;
}

int ckpt_fold_begin(struct ckpt_store *s, const struct ckpt_fold_plan *plan, struct ckpt_fold **ret,
                    struct levee_error *err)
{
    uint64_t bytes = 0;
    int rc = LEVEE_OK;
    struct ckpt_fold *f = mem_zalloc(sizeof *f);

    ASSERT(plan->parts.count > 0);
    if (f == NULL) {
        return err_nomem(err, sizeof *f);
    }
    f->store = s;
    f->from = plan->from;
    for (size_t i = 0; rc == LEVEE_OK && i < plan->parts.count; i++) {
        struct ckpt_version *v = &s->versions.items[plan->parts.index[i]];
        bytes += v->size;
        rc = open_part(f, v, err);
        if (rc == LEVEE_OK && i + 1 == plan->parts.count && v->replay_from == 0) {
            rc = ckpt_read_replay_from(s, v, err);
            rc =
                rc == LEVEE_ENOTFOUND ? LEVEE_OK : rc; /* the runtime's; without it there is none */
        }
    }
    if (rc == LEVEE_OK) {
        rc = ckpt_pub_begin(&f->pub, s, plan->from, plan->to, bytes, err);
    }
    if (rc != LEVEE_OK) {
        ckpt_fold_free(f);
        return rc;
    }
    f->pub.version.replay_from =
        s->versions.items[plan->parts.index[plan->parts.count - 1]].replay_from;
    *ret = f;
    return LEVEE_OK;
}

void ckpt_fold_free(struct ckpt_fold *f)
{
    if (f == NULL) {
        return;
    }
    ckpt_pub_release(&f->pub);
    for (size_t i = 0; i < f->part_count; i++) {
        f->store->format->close(f->parts[i].reader);
    }
    ckpt_slices_release(&f->out);
    mem_free(f->entries);
    map_release(&f->map);
    mem_free(f);
}

/* ---- meta and small items ---- */

/* The first part's digest-from, at its place in the order. NOTFOUND: it has none. */
static int put_digest_from(struct ckpt_fold *f, struct levee_error *err)
{
    struct levee_slice key = slice_str(CKPT_KEY_DIGEST_FROM);
    struct levee_slice value;
    int rc = f->store->format->get(f->parts[0].reader, CKPT_META, key, &value, err);

    if (rc == LEVEE_ENOTFOUND) {
        return LEVEE_OK;
    }
    return rc == LEVEE_OK ? ckpt_pub_put(&f->pub, CKPT_META, key, value, err) : rc;
}

static int put_meta(struct ckpt_fold *f, struct levee_error *err)
{
    const struct ckpt_format *format = f->store->format;
    struct ckpt_reader *last = f->parts[f->part_count - 1].reader;
    struct levee_slice digest_from = slice_str(CKPT_KEY_DIGEST_FROM);
    struct levee_slice key;
    struct levee_slice value;
    bool digest_put = false;
    int rc = format->seek(last, CKPT_META, slice_of(NULL, 0), err);

    while (rc == LEVEE_OK) {
        rc = format->next(last, CKPT_META, &key, &value, err);
        if (rc == LEVEE_OK && slice_eq(key, slice_str(CKPT_KEY_FORMAT))) {
            continue;
        }
        if (!digest_put &&
            (rc == LEVEE_ENOTFOUND || (rc == LEVEE_OK && slice_cmp(key, digest_from) >= 0))) {
            int put = put_digest_from(f, err);
            rc = put == LEVEE_OK ? rc : put;
            digest_put = true;
        }
        if (rc == LEVEE_OK && !slice_eq(key, digest_from)) {
            rc = ckpt_pub_put(&f->pub, CKPT_META, key, value, err);
        }
    }
    return rc == LEVEE_ENOTFOUND ? LEVEE_OK : rc;
}

static int put_small(struct ckpt_fold *f, struct levee_error *err)
{
    const struct ckpt_format *format = f->store->format;
    struct ckpt_reader *last = f->parts[f->part_count - 1].reader;
    struct levee_slice key;
    struct levee_slice value;
    int rc;

    while ((rc = format->next(last, CKPT_DATA, &key, &value, err)) == LEVEE_OK) {
        if (key.data[0] == 't') { /* the tables come last */
            return LEVEE_OK;
        }
        rc = ckpt_pub_put(&f->pub, CKPT_DATA, key, value, err);
        if (rc != LEVEE_OK) {
            return rc;
        }
    }
    return rc == LEVEE_ENOTFOUND ? LEVEE_OK : rc;
}

/* All that is small, and every part at its first entry. */
static int put_items(struct ckpt_fold *f, struct levee_error *err)
{
    int rc = put_meta(f, err);

    if (rc == LEVEE_OK) {
        rc = put_small(f, err);
    }
    for (size_t i = 0; rc == LEVEE_OK && i < f->part_count; i++) {
        rc = f->store->format->seek(f->parts[i].reader, CKPT_DATA, slice_str("t"), err);
        if (rc == LEVEE_OK) {
            rc = advance(f, &f->parts[i], err);
        }
    }
    f->items_put = rc == LEVEE_OK;
    return rc;
}

/* ---- merging ---- */

/* The place of an entry with this key in the group, or a new place. NULL: no memory. */
static struct ckpt_entry *place_of(struct ckpt_fold *f, const struct ckpt_entry *e)
{
    uint32_t pos = (uint32_t)e->hash & f->map.mask;
    struct map_slot *slot;
    void *entries = f->entries;

    while ((slot = map_probe(&f->map, e->hash, &pos)) != NULL) {
        if (slice_eq(f->entries[slot->index].key, e->key)) {
            return &f->entries[slot->index];
        }
        pos = (pos + 1) & f->map.mask;
    }
    bool ok = mem_grow(&entries, &f->entry_cap, f->entry_count + 1, sizeof *f->entries) &&
              map_insert(&f->map, e->hash, (uint32_t)f->entry_count);
    f->entries = entries;
    return ok ? &f->entries[f->entry_count++] : NULL;
}

static void emit(struct ckpt_fold *f, const struct ckpt_entry *e)
{
    if (f->from > 0 || e->value.data != NULL) {
        ckpt_slices_add(&f->out, e);
    }
}

/* Stores the slices that are full, or all when the table ends. */
static int store_slices(struct ckpt_fold *f, bool table_ends, struct levee_error *err)
{
    int rc = LEVEE_OK;

    if (table_ends || f->out.failed) {
        rc = ckpt_slices_finish(&f->out, err);
    }
    if (rc == LEVEE_OK) {
        rc = ckpt_pub_put_slices(&f->pub, &f->out, err);
    }
    ckpt_slices_flush(&f->out);
    return rc;
}

/* The lowest (table, group) any part still has. false: all have ended. */
static bool next_group(const struct ckpt_fold *f, uint32_t *ret_table, uint32_t *ret_group,
                       size_t *ret_parts)
{
    bool any = false;

    for (size_t i = 0; i < f->part_count; i++) {
        const struct fold_part *p = &f->parts[i];
        if (p->ended) {
            continue;
        }
        bool lower = !any || p->table < *ret_table ||
                     (p->table == *ret_table && p->entry.group < *ret_group);
        if (lower) {
            *ret_table = p->table;
            *ret_group = p->entry.group;
            *ret_parts = 1;
            any = true;
        } else if (p->table == *ret_table && p->entry.group == *ret_group) {
            (*ret_parts)++;
        }
    }
    return any;
}

/* Takes the group's entries from one part: straight to the output when no other part has the group.
 */
static int take_group(struct ckpt_fold *f, struct fold_part *p, uint32_t table, uint32_t group,
                      bool alone, size_t *bytes, struct levee_error *err)
{
    int rc = LEVEE_OK;

    while (rc == LEVEE_OK && !p->ended && p->table == table && p->entry.group == group) {
        *bytes += p->entry.key.len + p->entry.value.len + 1;
        if (alone) {
            emit(f, &p->entry);
        } else {
            struct ckpt_entry *e = place_of(f, &p->entry);
            if (e == NULL) {
                return err_nomem(err, sizeof *e);
            }
            *e = p->entry;
        }
        rc = advance(f, p, err);
    }
    return rc;
}

static int merge_group(struct ckpt_fold *f, uint32_t table, uint32_t group, size_t parts,
                       size_t *bytes, struct levee_error *err)
{
    int rc = LEVEE_OK;

    if (!f->out_any || f->out.table != table) {
        rc = f->out_any ? store_slices(f, true, err) : LEVEE_OK;
        ckpt_slices_restart(&f->out, table);
        f->out_any = true;
    }
    for (size_t i = 0; rc == LEVEE_OK && i < f->part_count; i++) {
        rc = take_group(f, &f->parts[i], table, group, parts == 1, bytes, err);
    }
    if (rc != LEVEE_OK) {
        return rc;
    }
    for (size_t i = 0; i < f->entry_count; i++) {
        emit(f, &f->entries[i]);
    }
    f->entry_count = 0;
    map_clear(&f->map);
    return store_slices(f, false, err);
}

static int merge(struct ckpt_fold *f, size_t max_bytes, struct levee_error *err)
{
    uint32_t table = 0;
    uint32_t group = 0;
    size_t parts = 0;
    size_t bytes = 0;
    int rc = f->items_put ? LEVEE_OK : put_items(f, err);

    while (rc == LEVEE_OK && bytes < max_bytes) {
        if (!next_group(f, &table, &group, &parts)) {
            rc = f->out_any ? store_slices(f, true, err) : LEVEE_OK;
            if (rc == LEVEE_OK) {
                rc = ckpt_pub_commit(&f->pub, err);
            }
            if (rc == LEVEE_OK) {
                crash_at(f->store->io, CP_FOLD_AFTER_BUILD);
            }
            return rc;
        }
        rc = merge_group(f, table, group, parts, &bytes, err);
    }
    return rc;
}

int ckpt_fold_step(struct ckpt_fold *f, size_t max_bytes, bool *ret_done, struct ckpt_version *ret,
                   struct levee_error *err)
{
    bool done = false;

    ASSERT(max_bytes > 0);
    int rc = f->pub.phase == CKPT_PUB_BUILD ? merge(f, max_bytes, err)
                                            : ckpt_pub_step(&f->pub, max_bytes, &done, ret, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    if (done) {
        crash_at(f->store->io, CP_FOLD_AFTER_PUBLISH);
    }
    *ret_done = done;
    return LEVEE_OK;
}
