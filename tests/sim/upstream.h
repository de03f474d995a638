/*
 * Where the world's records come from: a sender that numbers them and can be asked for any of them
 * again. With `positions` the log holds only which they were; then it is away at times.
 */
#ifndef LEVEE_TESTS_UPSTREAM_H
#define LEVEE_TESTS_UPSTREAM_H

#include "levee/connect.h"

#define UPSTREAM_PENDING 512
#define UPSTREAM_LINE    24000

struct upstream {
    const int *words; /* what record i holds */
    bool positions;
    size_t padding; /* blanks behind each word, so that the log has many segments */
    uint64_t rng;
    levee_inlet *inlet;
    uint64_t durable, durable_ticket;
    struct {
        uint64_t ticket, last;
    } pending[UPSTREAM_PENDING];
    size_t pending_count;
    uint64_t reread; /* records that were read again */
};

levee_stream *upstream_source(levee_context *ctx, const char *uid, struct upstream *u);
/* Records first … first + n - 1, over two partitions. */
int upstream_push(struct upstream *u, uint64_t first, uint64_t n, struct levee_error *err);

#endif
