/*
 * Adding to accumulators, on the workers. What a call adds waits in its unit's share until the call
 * has succeeded, and is then folded into the unit's own sums: so a failed call leaves nothing
 * (4d.7), and no two workers touch one value. The sums of the units meet in their order
 * (accumulators.c).
 */
#include "runtime/exec.h"

int levee_accumulate(levee_output *out, levee_accumulator *a, struct levee_slice value)
{
    struct rt_adds *adds = out->adds;
    void *items = adds->items;
    const uint8_t *copy = value.data ? arena_copy(out->arena, value.data, value.len) : NULL;

    if ((value.data && !copy) ||
        !mem_grow(&items, &adds->cap, adds->count + 1, sizeof *adds->items)) {
        out->failed = true;
        return LEVEE_ENOMEM;
    }
    adds->items = items;
    adds->items[adds->count++] = (struct rt_add){a, slice_of(copy, value.len)};
    return LEVEE_OK;
}

int levee_accumulate_i64(levee_output *out, levee_accumulator *a, int64_t value)
{
    uint8_t le[8];

    put_le64(le, (uint64_t)value);
    return levee_accumulate(out, a, slice_of(le, sizeof le));
}

int levee_accumulate_f64(levee_output *out, levee_accumulator *a, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return levee_accumulate_i64(out, a, (int64_t)bits);
}

/* The unit's own sum of an accumulator; NULL: no memory. */
static struct rt_sum_of *sum_of(struct rt_share *s, levee_accumulator *a)
{
    void *all = s->sums;

    for (size_t i = 0; i < s->sum_count; i++) {
        if (s->sums[i].of == a) {
            return &s->sums[i];
        }
    }
    if (!mem_grow(&all, &s->sum_cap, s->sum_count + 1, sizeof *s->sums)) {
        return NULL;
    }
    s->sums = all;
    s->sums[s->sum_count] = (struct rt_sum_of){a, NULL};
    return &s->sums[s->sum_count++];
}

static int add_one(struct rt_worker *w, levee_output *out, const struct rt_add *add)
{
    struct rt_share *s = w->share;
    const struct levee_reducer *r = &add->to->reducer;
    struct rt_sum_of *sum = sum_of(s, add->to);
    bool first = sum && !sum->bytes;
    int rc;

    if (first) {
        sum->bytes = arena_alloc(&s->arena, r->size);
    }
    if (!sum || !sum->bytes) {
        return rt_worker_nomem(w);
    }
    if (first) {
        memset(sum->bytes, 0, r->size);
    }
    rc = (first ? r->create : r->add)(out, sum->bytes, add->value, r->arg);
    if (out->failed) {
        return rt_worker_nomem(w);
    }
    if (rc < 0) {
        s->code =
            err_set(&s->err, LEVEE_EFUNCTION, "accumulator %s: its reducer failed", add->to->name);
        err_found(&s->err, "%d", rc);
        return s->code;
    }
    return LEVEE_OK;
}

int rt_adds_take(struct rt_worker *w, levee_output *out)
{
    struct rt_adds *adds = out->adds;
    size_t count = out->count, n = adds->count;
    int code = LEVEE_OK;

    adds->count = 0;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code = add_one(w, out, &adds->items[i]);
    }
    out->count = count; /* a reducer emits only when it finishes */
    return code;
}
