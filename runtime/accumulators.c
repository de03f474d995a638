/*
 * Accumulators of a context. Three values of each, in this order:
 *
 *   a unit's sum ──batch computed──▶ total ──every sink has the batch──▶ shown
 *
 * Invariants. A1  the total is that after the last computed batch, as the state is: a checkpoint
 * holds it as of its batch, and a replay from there adds every batch once. A2  shown never runs
 * ahead of the sinks. A3  units are merged in their order, which does not depend on the workers.
 *
 * One that is stored and that nobody has asked for in this life keeps its bytes: it may be asked
 * for later, by a function that runs now and then. Total: loop. Shown, and the list: mutex.
 */
#include "runtime/exec.h"

#include "runtime/context.h"

#include <stddef.h>
#include <stdlib.h>

#define STORED_VERSION 1u

/* ---- the list ---- */

static levee_accumulator *find(const struct rt_accumulators *all, struct levee_slice name)
{
    for (size_t i = 0; i < all->count; i++) {
        if (slice_eq(slice_str(all->items[i]->name), name)) {
            return all->items[i];
        }
    }
    return NULL;
}

/* Mutex held. NULL: no memory. */
static levee_accumulator *add(struct rt_accumulators *all, struct levee_slice name, size_t size)
{
    levee_accumulator *a = mem_zalloc(sizeof *a);
    void *items = all->items;

    if (!a || !mem_grow(&items, &all->cap, all->count + 1, sizeof *all->items)) {
        mem_free(a);
        return NULL;
    }
    all->items = items;
    memcpy(a->name, name.data, name.len);
    a->size = size;
    a->mutex = &all->mutex;
    all->items[all->count++] = a;
    return a;
}

static int check(const char *name, const struct levee_reducer *r, struct levee_error *err)
{
    if (!name || !rt_uid_valid(name) || !rt_reducer_valid(r) || r->size > RT_ACCUMULATOR_MAX ||
        r->add == levee_concat.add) {
        err_set(err, LEVEE_EINVALID, "accumulator %s: its name or its reducer is not valid",
                name ? name : "(none)");
        return err_expected(err,
                            "a name as a uid; a reducer of version 1, up to %u bytes that "
                            "point to nothing",
                            RT_ACCUMULATOR_MAX);
    }
    return LEVEE_OK;
}

static int other_size(const levee_accumulator *a, size_t size, struct levee_error *err)
{
    err_set(err, LEVEE_ESTATE_VERSION, "accumulator %s is stored with another size", a->name);
    err_expected(err, "%zu bytes", a->size);
    err_found(err, "%zu", size);
    return LEVEE_ESTATE_VERSION;
}

static void show(levee_accumulator *a);

int levee_accumulator_open(levee_context *ctx, const char *name,
                           const struct levee_reducer *reducer, levee_accumulator **ret,
                           struct levee_error *err)
{
    if (!ctx || !ret) {
        return err_set(err, LEVEE_EINVALID, "levee_accumulator_open: an argument is NULL");
    }
    struct rt_accumulators *all = &ctx->accumulators;
    int code = check(name, reducer, err);

    if (code) {
        return code;
    }
    pthread_mutex_lock(&all->mutex);
    levee_accumulator *a = find(all, slice_str(name));
    if (a && a->size != reducer->size) {
        code = other_size(a, reducer->size, err);
    } else if (!a && !(a = add(all, slice_str(name), reducer->size))) {
        code = err_nomem(err, sizeof *a);
    }
    if (code == LEVEE_OK && a && a->reducer.version == 0) {
        a->reducer = *reducer;
        show(a);
    }
    pthread_mutex_unlock(&all->mutex);
    if (code == LEVEE_OK) {
        *ret = a;
    }
    return code;
}

/* ---- what is shown ---- */

/* What the reducer makes of bytes: its one record's value, into *ret. false: it gave none. */
static bool finish(const levee_accumulator *a, const void *bytes, struct buf *ret)
{
    struct arena arena = {0};
    struct rt_header header = {0};
    struct levee_output out = {.arena = &arena, .header = &header};
    bool ok = a->reducer.finish(&out, slice_of(NULL, 0), bytes, a->reducer.arg) >= 0 &&
              !out.failed && out.count == 1;

    buf_clear(ret);
    if (ok) {
        buf_put(ret, out.items[0].value.data, out.items[0].value.len);
    }
    mem_free(out.items);
    arena_release(&arena);
    return ok && !ret->failed;
}

/* Mutex held: of a total that nothing is computed behind yet. */
static void show(levee_accumulator *a)
{
    a->has_shown = a->total && a->reducer.version && finish(a, a->total, &a->shown);
}

void rt_accumulators_publish(struct rt_batch *b)
{
    struct rt_accumulators *all = &b->ctx->accumulators;
    struct cursor c = cursor_of(buf_view(&b->accumulated));
    _Alignas(max_align_t) uint8_t bytes[RT_ACCUMULATOR_MAX]; /* a reducer may count on it */

    if (b->accumulated.len == 0) {
        return;
    }
    pthread_mutex_lock(&all->mutex);
    while (cur_left(&c)) {
        levee_accumulator *a = find(all, cur_slice(&c));
        struct levee_slice total = cur_slice(&c);
        ASSERT(!c.bad && a && total.len == a->size);
        memcpy(bytes, total.data, total.len);
        a->has_shown = finish(a, bytes, &a->shown);
    }
    pthread_mutex_unlock(&all->mutex);
}

bool levee_accumulator_value(levee_accumulator *a, void *buf, size_t *len_io)
{
    pthread_mutex_lock(a->mutex);
    bool ok = a->has_shown && a->shown.len <= *len_io;
    if (ok && a->shown.len) {
        memcpy(buf, a->shown.data, a->shown.len);
    }
    *len_io = a->has_shown ? a->shown.len : 0;
    pthread_mutex_unlock(a->mutex);
    return ok;
}

int64_t levee_accumulator_i64(levee_accumulator *a)
{
    uint8_t le[8];
    size_t len = sizeof le;

    return levee_accumulator_value(a, le, &len) && len == 8 ? (int64_t)get_le64(le) : 0;
}

double levee_accumulator_f64(levee_accumulator *a)
{
    int64_t bits = levee_accumulator_i64(a);
    double value;

    memcpy(&value, &bits, sizeof value);
    return value;
}

static int by_name(const void *a, const void *b)
{
    levee_accumulator *const *x = a, *const *y = b;

    return strcmp((*x)->name, (*y)->name);
}

int levee_accumulators_each(levee_context *ctx,
                            int (*each)(void *arg, const char *name, struct levee_slice value),
                            void *arg)
{
    struct rt_accumulators *all = &ctx->accumulators;
    int rc = 0;

    pthread_mutex_lock(&all->mutex);
    if (all->count) {
        qsort(all->items, all->count, sizeof(levee_accumulator *), by_name);
    }
    for (size_t i = 0; i < all->count && rc == 0; i++) {
        if (all->items[i]->has_shown) {
            rc = each(arg, all->items[i]->name, buf_view(&all->items[i]->shown));
        }
    }
    pthread_mutex_unlock(&all->mutex);
    return rc;
}

/* ---- a batch that was just computed ---- */

static int merge(const struct rt_batch *b, const struct rt_sum_of *sum, struct levee_error *err)
{
    levee_accumulator *a = sum->of;
    struct arena arena = {0};
    struct levee_output out = {.arena = &arena, .header = &b->header};
    int rc = 0;

    if (a->total) {
        rc = a->reducer.merge(&out, a->total, sum->bytes, a->reducer.arg);
    } else if ((a->total = mem_alloc(a->size)) != NULL) {
        memcpy(a->total, sum->bytes, a->size);
    }
    mem_free(out.items);
    arena_release(&arena);
    if (!a->total || out.failed) {
        return err_nomem(err, a->size);
    }
    if (rc < 0) {
        err_set(err, LEVEE_EFUNCTION, "accumulator %s: its reducer failed", a->name);
        return err_found(err, "%d", rc);
    }
    return LEVEE_OK;
}

int rt_accumulators_computed(struct rt_batch *b, struct levee_error *err)
{
    struct rt_accumulators *all = &b->ctx->accumulators;
    size_t n = 0;
    const struct rt_sum_of *sums;
    bool any = false;
    int code = LEVEE_OK;

    for (size_t unit = 0; code == LEVEE_OK && rt_run_sums(&b->compute, unit, &sums, &n); unit++) {
        for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
            any = true;
            code = merge(b, &sums[i], err);
        }
    }
    if (!any || code) {
        return code;
    }
    pthread_mutex_lock(&all->mutex); /* the list may grow meanwhile */
    for (size_t i = 0; i < all->count; i++) {
        const levee_accumulator *a = all->items[i];
        if (a->total && a->reducer.version) {
            buf_slice(&b->accumulated, slice_str(a->name));
            buf_slice(&b->accumulated, slice_of(a->total, a->size));
        }
    }
    pthread_mutex_unlock(&all->mutex);
    return b->accumulated.failed ? err_nomem(err, b->accumulated.len) : LEVEE_OK;
}

/* ---- stored ---- */

void rt_accumulators_encode(levee_context *ctx, struct buf *ret)
{
    struct rt_accumulators *all = &ctx->accumulators;

    pthread_mutex_lock(&all->mutex);
    for (size_t i = 0; i < all->count; i++) {
        const levee_accumulator *a = all->items[i];
        if (a->total) {
            buf_u8(ret, STORED_VERSION);
            buf_slice(ret, slice_str(a->name));
            buf_slice(ret, slice_of(a->total, a->size));
        }
    }
    pthread_mutex_unlock(&all->mutex);
}

static int restore(struct rt_accumulators *all, struct levee_slice name, struct levee_slice bytes,
                   struct levee_error *err)
{
    levee_accumulator *a = find(all, name);

    if (a && a->size != bytes.len) {
        size_t asked = a->size;
        a->size = bytes.len; /* what is stored is expected, what was asked for found */
        return other_size(a, asked, err);
    }
    a = a ? a : add(all, name, bytes.len);
    void *total = a ? mem_alloc(bytes.len) : NULL;
    if (!total) {
        return err_nomem(err, bytes.len);
    }
    memcpy(total, bytes.data, bytes.len);
    mem_free(a->total);
    a->total = total;
    show(a);
    return LEVEE_OK;
}

int rt_accumulators_decode(levee_context *ctx, struct levee_slice stored, struct levee_error *err)
{
    struct rt_accumulators *all = &ctx->accumulators;
    struct cursor c = cursor_of(stored);
    int code = LEVEE_OK;

    pthread_mutex_lock(&all->mutex);
    while (cur_left(&c) && code == LEVEE_OK) {
        uint8_t version = cur_u8(&c);
        struct levee_slice name = cur_slice(&c), bytes = cur_slice(&c);
        if (c.bad || version != STORED_VERSION || name.len > 64 || bytes.len == 0 ||
            bytes.len > RT_ACCUMULATOR_MAX) {
            code = err_set(err, LEVEE_ECKPT_CORRUPT, "stored accumulators do not parse");
        } else {
            code = restore(all, name, bytes, err);
        }
    }
    pthread_mutex_unlock(&all->mutex);
    return code;
}

void rt_accumulators_init(struct rt_accumulators *all)
{
    (void)pthread_mutex_init(&all->mutex, NULL);
}

void rt_accumulators_release(struct rt_accumulators *all)
{
    for (size_t i = 0; i < all->count; i++) {
        mem_free(all->items[i]->total);
        buf_release(&all->items[i]->shown);
        mem_free(all->items[i]);
    }
    mem_free(all->items);
    (void)pthread_mutex_destroy(&all->mutex);
}
