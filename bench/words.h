/*
 * Lines of words, the bare C loop that counts them, and the pipeline that does: what the benchmarks
 * of the whole path have in common. A receiver hands over the lines as fast as the inlet takes
 * them; the bare loop splits and counts the same lines in the same order, with the same hash and an
 * open-addressing table of views. Both sum their counts up in the same way.
 */
#ifndef LEVEE_BENCH_WORDS_H
#define LEVEE_BENCH_WORDS_H

#include <pthread.h>
#include <stdatomic.h>

#include "bench/bench.h"
#include "levee/connect.h"

enum words_order {
    WORDS_ZIPF, /* the product of two even numbers: low words far more often */
    WORDS_EVEN,
    WORDS_IN_TURN /* 0, 1, 2 … */
};

/* Lines of about 100 bytes. */
struct words {
    size_t count;        /* lines */
    unsigned per_line;   /* 14: a line of words; 1: a key, then filler that is not counted */
    uint64_t vocabulary; /* words are w<number below this> */
    enum words_order order;
    /* made */
    char *text;
    size_t len;
    struct levee_record *lines;
};

void words_make(struct words *w); /* from the fields above; the same lines every time */
void words_release(struct words *w);

/* Counts all lines `repeat` times over; the checksum is of the counts. Returns seconds. */
double words_count_bare(const struct words *w, unsigned repeat, uint64_t *ret_checksum);
/* The same sum over the state of a pipeline that has stopped, and the number of words counted. */
uint64_t words_checksum(levee_context *ctx, uint64_t *ret_total);

struct words_feed { /* the receiver: lines 0, 1, 2 … of the words, over and over again */
    const struct words *words;
    _Atomic uint64_t total; /* hands over this many in all, over all lives … */
    bool rests;             /* … and then waits for total to rise instead of ending the source */
    /* its own */
    levee_inlet *inlet;
    pthread_t thread;
    bool running;
    _Atomic bool stop;
};

/* The lines as a reliable, replayable source with the uid "feed". */
levee_stream *words_source(levee_context *ctx, struct words_feed *f);

/* levee_setup_fn, arg is a words_feed: lines → words (or keys) → totals by word → files in "out" of
 * the working directory. */
int words_build(levee_context *ctx, void *arg, struct levee_error *err);

#endif
