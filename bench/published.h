/*
 * A table of 16-byte entries with a dirty list, as far as a checkpoint's gathering sees it, and a
 * store into which packed entries are published. What the checkpoint and recovery benchmarks
 * measure, without the runtime around it.
 */
#ifndef LEVEE_BENCH_PUBLISHED_H
#define LEVEE_BENCH_PUBLISHED_H

#include "bench/bench.h"
#include "checkpoint/ckpt.h"

struct entry {
    uint64_t key, value;
};

struct table {
    struct entry *entries; /* grouped: group g holds [g * per_group, (g + 1) * per_group) */
    size_t count;
};

struct table table_new(size_t count);
/* The dirty list of a batch: distinct entries anywhere in the table, in group order; at most n.
 * Returns how many. Their values change. */
size_t table_touch(struct table *t, uint32_t *ret, size_t n, uint64_t *rng);
/* Packs the dirty entries. */
void table_gather(const struct table *t, const uint32_t *dirty, size_t n, struct ckpt_slices *ret);

struct published {
    struct ckpt_store store;
    uint64_t batch;
};

/* In a directory of its own below the scratch directory. */
void published_open(struct published *p, struct io *io, const char *name);
struct ckpt_version published_add(struct published *p, const struct ckpt_slices *s);
/* Removes all versions but the newest: not part of what is timed. */
void published_trim(struct published *p);
void published_close(struct published *p);

#endif
