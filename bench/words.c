#include "bench/words.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"

#define LINE_BYTES 100u
#define AT_ONCE    256u /* lines of one append */

/* ---- lines ---- */

static uint64_t next_word(const struct words *w, uint64_t *rng, uint64_t *turn)
{
    if (w->order == WORDS_IN_TURN) {
        return (*turn)++ % w->vocabulary;
    }
    uint64_t word = rng_next(rng) % w->vocabulary;
    return w->order == WORDS_ZIPF ? word * (rng_next(rng) % w->vocabulary) / w->vocabulary : word;
}

void words_make(struct words *w)
{
    uint64_t rng = 42, turn = 0;
    size_t longest = (size_t)w->per_line * 12;

    w->text = bench_alloc(w->count * (longest > LINE_BYTES ? longest : LINE_BYTES) + 16);
    w->lines = bench_alloc(w->count * sizeof *w->lines);
    w->len = 0;
    for (size_t i = 0; i < w->count; i++) {
        char *start = w->text + w->len;
        size_t n = 0;
        for (unsigned k = 0; k < w->per_line; k++) {
            n += (size_t)snprintf(start + n, 16, k ? " w%llu" : "w%llu",
                                  (unsigned long long)next_word(w, &rng, &turn));
        }
        while (w->per_line == 1 && n < LINE_BYTES) {
            start[n] = n % 10 ? 'x' : ' ';
            n++;
        }
        w->lines[i].value = slice_of(start, n);
        w->len += n;
    }
}

void words_release(struct words *w)
{
    free(w->text);
    free(w->lines);
}

static inline bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static struct levee_slice first_word(struct levee_slice line)
{
    size_t n = 0;

    while (n < line.len && !is_space(line.data[n])) {
        n++;
    }
    return slice_of(line.data, n);
}

/* ---- the bare loop ---- */

struct bare_entry {
    uint64_t hash, count;
    struct levee_slice word;
};

struct bare_table {
    struct bare_entry *entries;
    size_t mask;
};

static inline void bare_add(struct bare_table *t, const uint8_t *word, size_t len)
{
    uint64_t h = hash_key(word, len);
    size_t at = h & t->mask;

    while (t->entries[at].hash && !(t->entries[at].hash == h && t->entries[at].word.len == len &&
                                    memcmp(t->entries[at].word.data, word, len) == 0)) {
        at = (at + 1) & t->mask;
    }
    if (!t->entries[at].hash) {
        t->entries[at] = (struct bare_entry){h, 0, {word, len}};
    }
    t->entries[at].count++;
}

static void bare_line(struct bare_table *t, struct levee_slice line)
{
    const uint8_t *p = line.data, *end = p + line.len;

    while (p < end) {
        while (p < end && is_space(*p)) {
            p++;
        }
        const uint8_t *start = p;
        while (p < end && !is_space(*p)) {
            p++;
        }
        if (p > start) {
            bare_add(t, start, (size_t)(p - start));
        }
    }
}

static uint64_t checksum_of(struct levee_slice word, uint64_t count)
{
    return hash_key(word.data, word.len) * (count + 1);
}

double words_count_bare(const struct words *w, unsigned repeat, uint64_t *ret_checksum)
{
    struct bare_table t = {.mask = 65535};

    while (t.mask < w->vocabulary * 2) {
        t.mask = t.mask * 2 + 1;
    }
    t.entries = bench_alloc((t.mask + 1) * sizeof *t.entries);
    double from = bench_now();
    for (unsigned r = 0; r < repeat; r++) {
        for (size_t i = 0; i < w->count; i++) {
            if (w->per_line == 1) {
                struct levee_slice key = first_word(w->lines[i].value);
                bare_add(&t, key.data, key.len);
            } else {
                bare_line(&t, w->lines[i].value);
            }
        }
    }
    double took = bench_now() - from;
    *ret_checksum = 0;
    for (size_t i = 0; i <= t.mask; i++) {
        if (t.entries[i].hash) {
            *ret_checksum += checksum_of(t.entries[i].word, t.entries[i].count);
        }
    }
    free(t.entries);
    return took;
}

/* ---- the receiver ---- */

static bool hand_over(struct words_feed *f, uint64_t *seq, uint64_t total)
{
    size_t at = (size_t)(*seq % f->words->count), n = f->words->count - at;
    uint64_t left = total - *seq, ticket;
    struct levee_error err = {0};

    n = n < AT_ONCE ? n : AT_ONCE;
    struct levee_append a = {.producer = levee_text("feed"),
                             .first_sequence = *seq + 1,
                             .records = f->words->lines + at,
                             .count = n < left ? n : (size_t)left};
    int code = levee_inlet_append(f->inlet, &a, &ticket, &err);
    if (code == LEVEE_OK) {
        *seq += a.count;
    }
    return code == LEVEE_OK || code == LEVEE_EFULL;
}

static void *feed_run(void *arg)
{
    struct words_feed *f = arg;
    uint64_t seq = levee_inlet_position(f->inlet, levee_text("feed"));

    while (!atomic_load(&f->stop)) {
        uint64_t before = seq, total = atomic_load(&f->total);
        if (seq < total) {
            if (!hand_over(f, &seq, total)) {
                return NULL; /* stopped or failed: the context says why */
            }
        } else if (!f->rests) {
            levee_inlet_end(f->inlet);
            return NULL;
        }
        if (seq == before) { /* full, or nothing to do */
            bench_sleep_until(bench_now() + 0.0002);
        }
    }
    return NULL;
}

static int feed_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct words_feed *f = self;

    f->inlet = inlet;
    atomic_store(&f->stop, false);
    if (pthread_create(&f->thread, NULL, feed_run, f) != 0) {
        return err_set(err, LEVEE_ETHREAD, "feed");
    }
    f->running = true;
    return LEVEE_OK;
}

static void feed_stop(void *self)
{
    struct words_feed *f = self;

    atomic_store(&f->stop, true);
    if (f->running) {
        (void)pthread_join(f->thread, NULL);
        f->running = false;
    }
}

static const struct levee_receiver_ops feed_ops = {
    .version = 1, .start = feed_start, .stop = feed_stop};

/* ---- the pipeline ---- */

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int key_of(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit(out, first_word(line->value), slice_of(NULL, 0));
}

levee_stream *words_source(levee_context *ctx, struct words_feed *f)
{
    return levee_receiver_source(
        ctx, "feed",
        &(struct levee_receiver_options){.partitions = 1, .reliable = true, .replayable = true},
        &feed_ops, f);
}

int words_build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct words_feed *f = arg;
    bool keys = f->words->per_line == 1;
    levee_stream *lines = words_source(ctx, f);
    levee_stream *ones = levee_map_to_i64(levee_flat_map(lines, keys ? key_of : split, NULL), 1);
    levee_stream *sums = keys ? ones : levee_reduce_by_key(ones, &levee_sum_i64);
    levee_stream *totals =
        levee_update_state_by_key(sums, "totals", NULL, levee_update_sum_i64, NULL);
    (void)levee_file_sink(
        totals, "out", &(struct levee_file_sink_options){.path = "out", .value = LEVEE_VALUE_I64});
    return levee_context_status(ctx, err);
}

struct summing {
    uint64_t checksum, total;
};

static int sum_up(void *arg, struct levee_slice key, struct levee_slice value)
{
    struct summing *s = arg;

    s->checksum += checksum_of(key, (uint64_t)levee_i64(value));
    s->total += (uint64_t)levee_i64(value);
    return 0;
}

uint64_t words_checksum(levee_context *ctx, uint64_t *ret_total)
{
    struct summing s = {0, 0};
    struct levee_error err = {0};

    bench_check(levee_state_each(ctx, "totals", sum_up, &s, &err), &err, "read the state");
    if (ret_total) {
        *ret_total = s.total;
    }
    return s.checksum;
}
