#include "bench/published.h"

#include <stdlib.h>

#define GROUPS 128u

/* ---- the table ---- */

struct table table_new(size_t count)
{
    struct table t = {bench_alloc(count * sizeof(struct entry)), count};
    uint64_t rng = 7;

    for (size_t i = 0; i < count; i++) {
        t.entries[i] = (struct entry){rng_next(&rng), i};
    }
    return t;
}

static int by_index(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a;
    uint32_t y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

size_t table_touch(struct table *t, uint32_t *ret, size_t n, uint64_t *rng)
{
    size_t kept = 0;

    for (size_t i = 0; i < n; i++) {
        ret[i] = (uint32_t)(rng_next(rng) % t->count);
        t->entries[ret[i]].value++;
    }
    qsort(ret, n, sizeof *ret, by_index);
    for (size_t i = 0; i < n; i++) {
        if (kept == 0 || ret[kept - 1] != ret[i]) {
            ret[kept++] = ret[i];
        }
    }
    return kept;
}

void table_gather(const struct table *t, const uint32_t *dirty, size_t n, struct ckpt_slices *ret)
{
    size_t per_group = (t->count + GROUPS - 1) / GROUPS;
    struct levee_error err;

    ckpt_slices_init(ret, 1);
    for (size_t i = 0; i < n; i++) {
        if (i + 16 < n) {
            __builtin_prefetch(&t->entries[dirty[i + 16]]);
        }
        const struct entry *e = &t->entries[dirty[i]];
        struct ckpt_entry c = {.group = (uint32_t)(dirty[i] / per_group),
                               .key = slice_of(&e->key, 8),
                               .value = slice_of(&e->value, 8),
                               .touch_ms = 1700000000000};
        ckpt_slices_add(ret, &c);
    }
    bench_check(ckpt_slices_finish(ret, &err), &err, "pack");
}

/* ---- the store ---- */

void published_open(struct published *p, struct io *io, const char *name)
{
    char path[IO_PATH_MAX];
    struct levee_error err;

    bench_check(io_path(path, bench_scratch(), name, &err), &err, "path");
    bench_check(io->ops->mkdir(io, path, &err), &err, "mkdir");
    bench_check(ckpt_store_init(&p->store, io, &ckpt_format_lmdb, path), NULL, "store");
    p->batch = 0;
}

struct ckpt_version published_add(struct published *p, const struct ckpt_slices *s)
{
    struct ckpt_version v;
    struct levee_error err;
    uint8_t n[8] = {0};
    struct ckpt_item meta[] = {{slice_str("digest-from"), slice_of(n, 8)},
                               {slice_str("digest-to"), slice_of(n, 8)},
                               {slice_str("replay-from"), slice_of(n, 8)}};
    struct ckpt_item small = {slice_str("spositions"), slice_of(n, 8)};
    struct ckpt_content c = {p->batch, p->batch + 1, meta, 3, &small, 1, s, 1};

    bench_check(ckpt_publish(&p->store, &c, 0, &v, &err), &err, "publish");
    p->batch++;
    return v;
}

void published_trim(struct published *p)
{
    struct levee_error err;

    while (p->store.versions.count > 1) {
        bench_check(ckpt_remove(&p->store, &p->store.versions.items[0], &err), &err, "remove");
    }
}

void published_close(struct published *p)
{
    bench_remove(p->store.dir);
    ckpt_store_release(&p->store);
}
