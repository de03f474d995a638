/*
 * Kafka into the log and no further: what the rungs 4a and 4b have in common, on the mock and on a
 * real broker.
 */
#ifndef LEVEE_BENCH_KAFKA_LOG_H
#define LEVEE_BENCH_KAFKA_LOG_H

#include "runtime/context.h"

/* A graph that looks at every record and keeps none. */
void kafka_log_only(levee_stream *source);
/* Have so many records been received, and is all that was received durable? */
bool kafka_log_has(levee_context *ctx, struct levee_inlet *in, uint64_t count);
/* Sums up what the log of a stopped context holds, which must be so many records: first eight bytes
 * times length + 1. */
uint64_t kafka_log_sum(const struct rec_dir *dir, uint64_t count);

#endif
