/*
 * What a transform can do with data sets and no stream does: making them, putting them side by
 * side, sorting, choosing. Each gives a new data set; records are never copied, only arrays of
 * them.
 */
#include "runtime/sets.h"

const levee_batch *levee_batch_of(const levee_batch *like, const struct levee_record *records,
                                  size_t n, uint32_t partitions)
{
    struct rt_sets *s = rt_sets_of(&like, 1);

    if (!s) {
        return NULL;
    }
    if (partitions == 0 || partitions > RT_PARTITIONS_MAX || (n && !records)) {
        return rt_sets_fail(s, LEVEE_EINVALID);
    }
    struct levee_batch *b = rt_set_new(s, partitions);
    struct levee_record *items = rt_sets_alloc(s, n * sizeof *items);
    if (!b || !items) {
        return NULL;
    }
    if (n) {
        memcpy(items, records, n * sizeof *items);
    }
    for (uint32_t p = 0; p < partitions; p++) {
        size_t from = (size_t)((uint64_t)n * p / partitions);
        size_t to = (size_t)((uint64_t)n * (p + 1u) / partitions);
        b->data->parts[p] = (struct rt_records){items + from, to - from, to - from};
    }
    return b;
}

const levee_batch *levee_batch_union(const levee_batch *const *batches, size_t n)
{
    struct rt_sets *s = batches ? rt_sets_of(batches, n) : NULL;
    uint64_t partitions = 0;
    uint32_t at = 0;

    for (size_t i = 0; i < n && s; i++) {
        partitions += batches[i]->data->partitions;
    }
    if (!s || partitions > RT_PARTITIONS_MAX) {
        return s ? rt_sets_fail(s, LEVEE_EINVALID) : NULL;
    }
    struct levee_batch *b = rt_set_new(s, (uint32_t)partitions);
    for (size_t i = 0; i < n && b; i++) {
        for (uint32_t p = 0; p < batches[i]->data->partitions; p++) {
            b->data->parts[at++] = batches[i]->data->parts[p];
        }
    }
    return b;
}

const levee_batch *levee_batch_take(const levee_batch *in, size_t n)
{
    struct rt_sets *s = rt_sets_of(&in, 1);
    struct levee_batch *b = s ? rt_set_new(s, in->data->partitions) : NULL;

    for (uint32_t p = 0; b && p < in->data->partitions; p++) {
        struct rt_records part = in->data->parts[p];
        part.count = part.count < n ? part.count : n;
        b->data->parts[p] = part;
        n -= part.count;
    }
    return b;
}

/* Every record is kept or not by a number of its own, from the batch's seed and its place, so a
 * replay keeps the same ones. */
const levee_batch *levee_batch_sample(const levee_batch *in, double fraction)
{
    struct rt_sets *s = rt_sets_of(&in, 1);
    struct levee_batch *b = s ? rt_set_new(s, in->data->partitions) : NULL;

    if (!b) {
        return NULL;
    }
    uint32_t salt[2] = {s->samples++, 0};
    for (uint32_t p = 0; p < in->data->partitions; p++) {
        const struct rt_records *from = &in->data->parts[p];
        struct levee_record *items = rt_sets_alloc(s, from->count * sizeof *items);
        size_t n = 0;
        salt[1] = p;
        uint64_t rng = hash64(salt, sizeof salt, s->out.header->seed);
        for (size_t i = 0; i < from->count && items; i++) {
            double x = (double)(rng_next(&rng) >> 11) / 9007199254740992.0; /* 2^53: [0, 1) */
            if (x < fraction) {
                items[n++] = from->items[i];
            }
        }
        if (!items) {
            return NULL;
        }
        b->data->parts[p] = (struct rt_records){items, n, n};
    }
    return b;
}

/* ---- distinct ---- */

/* Is this the first record with its key and value? -1: no memory. */
static int is_new(struct rt_sets *s, const struct levee_record *r)
{
    size_t size = rt_sequence_size(r->key) + rt_sequence_size(r->value);
    uint8_t *both = rt_sets_alloc(s, size);

    if (!both) {
        return -1;
    }
    (void)rt_sequence_put(rt_sequence_put(both, r->key), r->value);
    struct levee_slice whole = slice_of(both, size);
    uint64_t hash = hash_key(both, size), head = rt_key_head(whole);
    if (rt_keys_find(&s->keys, hash, whole, head)) {
        return 0;
    }
    if (!rt_keys_add(&s->keys, hash, whole, head)) {
        s->out.failed = true;
        (void)rt_sets_fail(s, LEVEE_ENOMEM);
        return -1;
    }
    return 1;
}

const levee_batch *levee_batch_distinct(const levee_batch *in)
{
    struct rt_sets *s = rt_sets_of(&in, 1);
    struct levee_batch *b = s ? rt_set_new(s, in->data->partitions) : NULL;

    if (!b) {
        return NULL;
    }
    rt_keys_clear(&s->keys);
    for (uint32_t p = 0; p < in->data->partitions; p++) {
        const struct rt_records *from = &in->data->parts[p];
        struct levee_record *items = rt_sets_alloc(s, from->count * sizeof *items);
        size_t n = 0;
        for (size_t i = 0; i < from->count && items; i++) {
            int fresh = is_new(s, &from->items[i]);
            if (fresh < 0) {
                return NULL;
            }
            if (fresh) {
                items[n++] = from->items[i];
            }
        }
        if (!items) {
            return NULL;
        }
        b->data->parts[p] = (struct rt_records){items, n, n};
    }
    return b;
}

/* ---- sorting ---- */

struct order {
    levee_compare_fn compare;
    void *arg;
};

/* Two sorted runs next to each other into one; of equals the left one's come first. */
static void merge(const struct order *o, const struct levee_record *from, size_t middle, size_t n,
                  struct levee_record *to)
{
    size_t left = 0, right = middle;

    for (size_t i = 0; i < n; i++) {
        bool take_left = right >= n || (left < middle &&
                                        o->compare(from[left].key, from[right].key, o->arg) <= 0);
        to[i] = from[take_left ? left++ : right++];
    }
}

/* Runs of 1, 2, 4 … records, back and forth between two arrays; returns the one that is sorted. */
static struct levee_record *sort(const struct order *o, struct levee_record *items,
                                 struct levee_record *other, size_t n)
{
    for (size_t run = 1; run < n; run *= 2) {
        for (size_t at = 0; at < n; at += 2 * run) {
            size_t both = n - at < 2 * run ? n - at : 2 * run;
            merge(o, items + at, run < both ? run : both, both, other + at);
        }
        struct levee_record *sorted = other;
        other = items;
        items = sorted;
    }
    return items;
}

int levee_compare_bytes(struct levee_slice a, struct levee_slice b, void *arg)
{
    (void)arg;
    return slice_cmp(a, b);
}

int levee_compare_i64(struct levee_slice a, struct levee_slice b, void *arg)
{
    int64_t x = levee_i64(a), y = levee_i64(b);

    (void)arg;
    return (x > y) - (x < y);
}

const levee_batch *levee_batch_sort_by_key(const levee_batch *in, levee_compare_fn compare,
                                           void *arg)
{
    struct rt_sets *s = rt_sets_of(&in, 1);
    struct order o = {compare ? compare : levee_compare_bytes, arg};
    size_t n = s ? levee_batch_count(in) : 0, at = 0;
    struct levee_record *items = s ? rt_sets_alloc(s, 2 * n * sizeof *items) : NULL;

    if (!items) {
        return NULL;
    }
    for (uint32_t p = 0; p < in->data->partitions; p++) {
        const struct rt_records *from = &in->data->parts[p];
        if (from->count) {
            memcpy(items + at, from->items, from->count * sizeof *items);
        }
        at += from->count;
    }
    return levee_batch_of(in, sort(&o, items, items + n, n), n, in->data->partitions);
}
