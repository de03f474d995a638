/*
 * What the checkpoint tests share: a place for files (real or simulated), and a model of a stateful
 * job that says what every version must hold. The model keeps the whole state after every batch as
 * plain arrays; it knows nothing of slices, files or folds.
 */
#ifndef LEVEE_TEST_CKPT_H
#define LEVEE_TEST_CKPT_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "checkpoint/ckpt_impl.h"
#include "tests/support/suite.h"

/* ---- a place for files ---- */

enum place_kind { PLACE_LMDB, PLACE_FLAT, PLACE_SIM, PLACES };

struct place {
    struct io *io;
    const struct ckpt_format *format;
    char dir[IO_PATH_MAX];
};

static inline void place_open(struct place *p, int kind, const struct sim_faults *faults)
{
    struct sim_faults none = {.seed = 1};
    struct levee_error err;

    p->format = kind == PLACE_LMDB ? &ckpt_format_lmdb : &ckpt_format_flat;
    if (kind == PLACE_SIM) {
        ck_assert_int_eq(io_sim_new(faults != NULL ? faults : &none, &p->io, &err), LEVEE_OK);
        snprintf(p->dir, sizeof p->dir, "/ckpt");
        ck_assert_int_eq(p->io->ops->mkdir(p->io, p->dir, &err), LEVEE_OK);
        ck_assert_int_eq(p->io->ops->sync_dir(p->io, "/", &err), LEVEE_OK);
        return;
    }
    const char *tmp = getenv("TMPDIR");
    snprintf(p->dir, sizeof p->dir, "%s/levee-ckpt-XXXXXX", tmp != NULL ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(p->dir));
    ck_assert_int_eq(io_posix_new(&p->io, &err), LEVEE_OK);
}

static inline void place_remove_tree(struct io *io, const char *path)
{
    struct io_list list = {0};
    struct io_stat st;
    char child[IO_PATH_MAX];

    ck_assert_int_eq(io->ops->list(io, path, &list, NULL), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        ck_assert_int_eq(io_path(child, path, list.items[i].name, NULL), LEVEE_OK);
        ck_assert_int_eq(io->ops->stat(io, child, &st, NULL), LEVEE_OK);
        if (st.kind == IO_DIR) {
            place_remove_tree(io, child);
        } else {
            ck_assert_int_eq(io->ops->unlink(io, child, NULL), LEVEE_OK);
        }
    }
    io_list_free(&list);
    (void)rmdir(path);
}

static inline void place_close(struct place *p)
{
    if (!p->io->simulated) {
        place_remove_tree(p->io, p->dir);
    }
    io_free(p->io);
}

/* Overwrites or extends a real or simulated file; what = the new bytes. */
static inline void place_write(struct place *p, const char *path, const void *bytes, size_t len,
                               uint64_t offset)
{
    struct io_file *f;
    struct iovec iov = {(void *)(uintptr_t)bytes, len};

    ck_assert_int_eq(p->io->ops->open(p->io, path, IO_WRITE | IO_CREATE, &f, NULL), LEVEE_OK);
    ck_assert_int_eq(p->io->ops->pwritev(f, &iov, 1, offset, NULL), LEVEE_OK);
    ck_assert_int_eq(p->io->ops->sync(f, NULL), LEVEE_OK);
    p->io->ops->close(f);
}

/* ---- a model of a job: two tables, a history of whole states ---- */

#define MODEL_TABLES  2
#define MODEL_KEYS    40
#define MODEL_BATCHES 48

struct cell {
    bool present;
    uint32_t value;   /* names the bytes */
    uint64_t touched; /* the last batch that wrote or removed it */
    int64_t timer_ms;
};

struct model {
    uint64_t batches;
    struct cell state[MODEL_BATCHES + 1][MODEL_TABLES][MODEL_KEYS];
};

static const uint32_t model_tables[MODEL_TABLES] = {0x00000007, 0xfeedface};

/* Batches 1..batches, each changing some keys at random: sets, removals, sets again. */
static inline void model_fill(struct model *m, uint64_t batches, uint64_t seed)
{
    ck_assert_uint_le(batches, MODEL_BATCHES);
    memset(m, 0, sizeof *m);
    m->batches = batches;
    for (uint64_t b = 1; b <= batches; b++) {
        memcpy(m->state[b], m->state[b - 1], sizeof m->state[b]);
        for (int t = 0; t < MODEL_TABLES; t++) {
            for (int k = 0; k < MODEL_KEYS; k++) {
                if (rng_next(&seed) % 4 != 0) {
                    continue;
                }
                struct cell *c = &m->state[b][t][k];
                c->touched = b;
                c->present = rng_next(&seed) % 3 != 0;
                c->value = (uint32_t)rng_next(&seed);
                c->timer_ms = c->present && rng_next(&seed) % 2 == 0 ? (int64_t)b * 1000 + k : 0;
            }
        }
    }
}

static inline size_t model_key(int k, uint8_t ret[16])
{
    return (size_t)snprintf((char *)ret, 16, "key-%0*d", 1 + k % 7, k);
}

static inline uint32_t model_group(int k)
{
    return (uint32_t)(k * 5 % 16);
}

/* Every value has its own length, zero and a few thousand among them. */
static inline size_t model_value(uint32_t value, uint8_t *ret, size_t max)
{
    size_t len = value % 8 == 0 ? 0 : value % 16 == 1 ? value % max : value % 24;
    uint64_t seed = value;

    for (size_t i = 0; i < len; i++) {
        ret[i] = (uint8_t)rng_next(&seed);
    }
    return len;
}

#define MODEL_VALUE_MAX 3000

static inline uint64_t model_digest(const struct model *m, uint64_t b)
{
    return b == 0 ? 0 : hash64(m->state[b], sizeof m->state[b], 99);
}

/* The entries of one table that changed in (from, to]; a base has no removals. */
static inline void model_slices(const struct model *m, int t, uint64_t from, uint64_t to,
                                struct ckpt_slices *ret)
{
    static uint8_t value[MODEL_VALUE_MAX];
    uint8_t key[16];

    ckpt_slices_init(ret, model_tables[t]);
    for (uint32_t group = 0; group < 16; group++) {
        for (int k = 0; k < MODEL_KEYS; k++) {
            const struct cell *c = &m->state[to][t][k];
            if (model_group(k) != group || c->touched <= from || (from == 0 && !c->present)) {
                continue;
            }
            struct ckpt_entry e = {.group = group,
                                   .key = slice_of(key, model_key(k, key)),
                                   .touch_ms = (int64_t)c->touched,
                                   .timer_ms = c->timer_ms};
            if (c->present) {
                e.value = slice_of(value, model_value(c->value, value, sizeof value));
            }
            ckpt_slices_add(ret, &e);
        }
    }
}

/* Publishes the model's step from → to; the caller looks at the answer. */
static inline int model_publish(const struct model *m, struct ckpt_store *s, uint64_t from,
                                uint64_t to, struct ckpt_version *ret, struct levee_error *err)
{
    struct ckpt_slices tables[MODEL_TABLES];
    uint8_t n[4][8];
    int rc = LEVEE_OK;

    put_le64(n[0], model_digest(m, from));
    put_le64(n[1], model_digest(m, to));
    put_le64(n[2], to * 100);
    put_le64(n[3], to * 7);
    struct ckpt_item meta[] = {{slice_str("batch"), slice_of(n[3], 8)},
                               {slice_str("digest-from"), slice_of(n[0], 8)},
                               {slice_str("digest-to"), slice_of(n[1], 8)},
                               {slice_str("replay-from"), slice_of(n[2], 8)}};
    struct ckpt_item small[] = {{slice_str("s-empty"), slice_of("", 0)},
                                {slice_str("s-positions"), slice_of(n[3], 8)}};
    for (int t = 0; t < MODEL_TABLES; t++) {
        model_slices(m, t, from, to, &tables[t]);
        int sealed = ckpt_slices_finish(&tables[t], err);
        rc = rc == LEVEE_OK ? sealed : rc;
    }
    struct ckpt_content content = {from, to, meta, 4, small, 2, tables, MODEL_TABLES};
    if (rc == LEVEE_OK) {
        rc = ckpt_publish(s, &content, to * 100, ret, err);
    }
    for (int t = 0; t < MODEL_TABLES; t++) {
        ckpt_slices_release(&tables[t]);
    }
    return rc;
}

/* ---- loading into another copy of the arrays ---- */

struct loaded {
    struct cell cells[MODEL_TABLES][MODEL_KEYS];
    uint8_t values[MODEL_TABLES][MODEL_KEYS][MODEL_VALUE_MAX];
    size_t lens[MODEL_TABLES][MODEL_KEYS];
    uint64_t batch, digest_from, digest_to, positions, replay_from;
    unsigned items, removals;
};

static inline int loaded_entry(void *arg, uint32_t table, const struct ckpt_entry *e,
                               struct levee_error *err)
{
    struct loaded *l = arg;
    uint8_t key[16];
    int t = table == model_tables[0] ? 0 : 1;

    (void)err;
    ck_assert_uint_eq(table, model_tables[t]);
    ck_assert_uint_eq(e->hash, hash_key(e->key.data, e->key.len));
    for (int k = 0; k < MODEL_KEYS; k++) {
        if (!slice_eq(slice_of(key, model_key(k, key)), e->key)) {
            continue;
        }
        ck_assert_uint_eq(e->group, model_group(k));
        struct cell *c = &l->cells[t][k];
        *c = (struct cell){.present = e->value.data != NULL,
                           .touched = (uint64_t)e->touch_ms,
                           .timer_ms = e->timer_ms};
        l->removals += !c->present;
        l->lens[t][k] = e->value.len;
        ck_assert_uint_le(e->value.len, MODEL_VALUE_MAX);
        if (e->value.len > 0) {
            memcpy(l->values[t][k], e->value.data, e->value.len);
        }
        return LEVEE_OK;
    }
    ck_abort_msg("a key the model does not know");
    return LEVEE_EINVALID;
}

static inline int loaded_item(void *arg, enum ckpt_db db, struct levee_slice key,
                              struct levee_slice value, struct levee_error *err)
{
    struct loaded *l = arg;
    const struct {
        const char *name;
        uint64_t *to;
    } known[] = {{"batch", &l->batch},
                 {"digest-from", &l->digest_from},
                 {"digest-to", &l->digest_to},
                 {"replay-from", &l->replay_from},
                 {"s-positions", &l->positions}};

    (void)err;
    l->items++;
    if (slice_eq(key, slice_str("s-empty"))) {
        ck_assert_uint_eq(value.len, 0);
        ck_assert_int_eq(db, CKPT_DATA);
        return LEVEE_OK;
    }
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        if (slice_eq(key, slice_str(known[i].name))) {
            ck_assert_uint_eq(value.len, 8);
            ck_assert_int_eq(db, known[i].name[1] == '-' ? CKPT_DATA : CKPT_META);
            *known[i].to = get_le64(value.data);
            return LEVEE_OK;
        }
    }
    ck_abort_msg("an item the model does not know: %.*s", (int)key.len, (const char *)key.data);
    return LEVEE_EINVALID;
}

/* Loads a chain that starts at `from` and holds the model's state after chain->to wherever it
 * changed. */
static inline int model_check(const struct model *m, struct ckpt_store *s,
                              const struct ckpt_chain *chain, uint64_t from,
                              struct levee_error *err)
{
    static struct loaded l;
    static uint8_t value[MODEL_VALUE_MAX];
    static const struct ckpt_load_ops ops = {loaded_entry, loaded_item};
    uint64_t to = chain->to;

    memset(&l, 0, sizeof l);
    int rc = ckpt_load(s, chain, &ops, &l, err);
    if (rc != LEVEE_OK) {
        return rc;
    }
    for (int t = 0; t < MODEL_TABLES; t++) {
        for (int k = 0; k < MODEL_KEYS; k++) {
            const struct cell *want = &m->state[to][t][k];
            const struct cell *got = &l.cells[t][k];
            if (want->touched <= from) {
                ck_assert_uint_eq(got->touched, 0); /* not part of this step */
                continue;
            }
            ck_assert_int_eq(got->present, want->present);
            if (want->present) {
                ck_assert_uint_eq(got->touched, want->touched);
                ck_assert_int_eq(got->timer_ms, want->timer_ms);
                ck_assert_uint_eq(l.lens[t][k], model_value(want->value, value, sizeof value));
                ck_assert_mem_eq(l.values[t][k], value, l.lens[t][k]);
            }
        }
    }
    ck_assert_uint_eq(l.items, 6);
    ck_assert_uint_eq(l.batch, to * 7);
    ck_assert_uint_eq(l.positions, to * 7);
    ck_assert_uint_eq(l.replay_from, to * 100);
    ck_assert_uint_eq(l.digest_to, model_digest(m, to));
    if (chain->count == 1) {
        ck_assert_uint_eq(l.digest_from, model_digest(m, from));
        if (from == 0) {
            ck_assert_uint_eq(l.removals, 0);
        }
    }
    return LEVEE_OK;
}

/* Runs a due fold to its end. */
static inline int fold_all(struct ckpt_store *s, const struct ckpt_fold_plan *plan, size_t step,
                           struct ckpt_version *ret, struct levee_error *err)
{
    struct ckpt_fold *f;
    bool done = false;
    int rc = ckpt_fold_begin(s, plan, &f, err);

    if (rc != LEVEE_OK) {
        return rc;
    }
    while (rc == LEVEE_OK && !done) {
        rc = ckpt_fold_step(f, step, &done, ret, err);
    }
    ckpt_fold_free(f);
    return rc;
}

/* Removes what retention does not keep. */
static inline int retain_all(struct ckpt_store *s, struct levee_error *err)
{
    bool keep[CKPT_VERSIONS_MAX];
    int rc = LEVEE_OK;

    ckpt_retain(&s->versions, keep);
    for (size_t i = s->versions.count; rc == LEVEE_OK && i-- > 0;) {
        if (!keep[i]) {
            rc = ckpt_remove(s, &s->versions.items[i], err);
        }
    }
    return rc;
}

#endif
