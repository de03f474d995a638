/*
 * The whole path, measured against a bare C loop in the same run: rungs 5a (keyed word count, all
 * words, durable, checkpoints every second), 9e (throughput with 1 s checkpoints / without), 10d
 * (kill -9 to the first new committed output / replaying the same tail in process), and the exact
 * counts of rung 12 (bytes, syncs, allocations and copies per record).
 *
 * A receiver of our own hands over lines as fast as the inlet takes them; the bare loop splits and
 * counts the same lines in the same order with the same hash and a prefetch-free open-addressing
 * table. Both print a checksum of their counts.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "bench/bench.h"
#include "levee/connect.h"
#include "runtime/context.h"

#define VOCABULARY 10000u
#define LINE_WORDS 14u /* about 100 bytes a line */

/* ---- input: zipf-like words, the same for both sides ---- */

struct input {
    char *text;
    size_t len;
    struct levee_record *lines;
    size_t count;
    uint64_t words;
};

static void make_input(struct input *in, size_t lines)
{
    uint64_t rng = 42;

    in->text = malloc(lines * LINE_WORDS * 12);
    in->lines = calloc(lines, sizeof *in->lines);
    in->count = lines;
    in->len = 0;
    for (size_t i = 0; i < lines; i++) {
        char *start = in->text + in->len;
        for (unsigned w = 0; w < LINE_WORDS; w++) {
            uint64_t r = rng_next(&rng) % VOCABULARY, s = rng_next(&rng) % VOCABULARY;
            uint64_t word = r * s / VOCABULARY;
            in->len += (size_t)sprintf(in->text + in->len, w ? " w%llu" : "w%llu",
                                       (unsigned long long)word);
        }
        in->lines[i].value = slice_of(start, (size_t)(in->text + in->len - start));
    }
    in->words = (uint64_t)lines * LINE_WORDS;
}

/* ---- the bare loop ---- */

struct bare_entry {
    uint64_t hash, count;
    const uint8_t *word;
    size_t len;
};

static uint64_t checksum_of(const uint8_t *word, size_t len, uint64_t count)
{
    return hash_key(word, len) * (count + 1);
}

static double bare_loop(const struct input *in, uint64_t *ret_checksum)
{
    size_t mask = 65535;
    struct bare_entry *t = calloc(mask + 1, sizeof *t);
    double from = bench_now();

    for (size_t i = 0; i < in->count; i++) {
        const uint8_t *p = in->lines[i].value.data, *end = p + in->lines[i].value.len;
        while (p < end) {
            while (p < end && (*p == ' ' || (*p >= 9 && *p <= 13))) {
                p++;
            }
            const uint8_t *start = p;
            while (p < end && !(*p == ' ' || (*p >= 9 && *p <= 13))) {
                p++;
            }
            size_t len = (size_t)(p - start);
            if (len == 0) {
                break;
            }
            uint64_t h = hash_key(start, len);
            size_t at = h & mask;
            while (t[at].hash &&
                   !(t[at].hash == h && t[at].len == len && memcmp(t[at].word, start, len) == 0)) {
                at = (at + 1) & mask;
            }
            if (!t[at].hash) {
                t[at] = (struct bare_entry){h, 0, start, len};
            }
            t[at].count++;
        }
    }
    double took = bench_now() - from;
    *ret_checksum = 0;
    for (size_t i = 0; i <= mask; i++) {
        if (t[i].hash) {
            *ret_checksum += checksum_of(t[i].word, t[i].len, t[i].count);
        }
    }
    free(t);
    return took;
}

/* ---- the pipeline ---- */

struct feed { /* a receiver that hands over the input once, `repeat` times */
    const struct input *in;
    levee_inlet *inlet;
    pthread_t thread;
    bool running;
    unsigned repeat;
    _Atomic bool stop;
    uint64_t from;
};

static void *feed_run(void *arg)
{
    struct feed *f = arg;
    uint64_t total = (uint64_t)f->in->count * f->repeat;
    uint64_t seq = levee_inlet_position(f->inlet, levee_text("feed"));

    while (seq < total && !atomic_load(&f->stop)) {
        size_t at = (size_t)(seq % f->in->count), n = f->in->count - at;
        uint64_t ticket;
        n = n < 256 ? n : 256;
        struct levee_append a = {.producer = levee_text("feed"),
                                 .first_sequence = seq + 1,
                                 .records = f->in->lines + at,
                                 .count = n};
        int code = levee_inlet_append(f->inlet, &a, &ticket, NULL);
        if (code == LEVEE_OK) {
            seq += n;
        } else if (code == LEVEE_EFULL) {
            (void)nanosleep(&(struct timespec){0, 200000}, NULL);
        } else {
            return NULL;
        }
    }
    levee_inlet_end(f->inlet);
    return NULL;
}

static int feed_start(void *self, levee_inlet *inlet, struct levee_error *err)
{
    struct feed *f = self;

    f->inlet = inlet;
    if (pthread_create(&f->thread, NULL, feed_run, f) != 0) {
        return err_set(err, LEVEE_ETHREAD, "feed");
    }
    f->running = true;
    return LEVEE_OK;
}

static void feed_stop(void *self)
{
    struct feed *f = self;

    atomic_store(&f->stop, true);
    if (f->running) {
        (void)pthread_join(f->thread, NULL);
        f->running = false;
    }
}

static const struct levee_receiver_ops feed_ops = {
    .version = 1, .start = feed_start, .stop = feed_stop};

static int split(levee_output *out, const struct levee_record *line, void *arg)
{
    (void)arg;
    return levee_emit_words(out, line->value);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct feed *f = arg;
    levee_stream *lines = levee_receiver_source(
        ctx, "feed",
        &(struct levee_receiver_options){.partitions = 1, .reliable = true, .replayable = true},
        &feed_ops, f);
    levee_stream *words = levee_map_to_i64(levee_flat_map(lines, split, NULL), 1);
    levee_stream *totals = levee_update_state_by_key(levee_reduce_by_key(words, &levee_sum_i64),
                                                     "totals", NULL, levee_update_sum_i64, NULL);
    (void)levee_file_sink(
        totals, "out", &(struct levee_file_sink_options){.path = "out", .value = LEVEE_VALUE_I64});
    return levee_context_status(ctx, err);
}

static int sum_up(void *arg, struct levee_slice key, struct levee_slice value)
{
    *(uint64_t *)arg += checksum_of(key.data, key.len, (uint64_t)levee_i64(value));
    return 0;
}

static void die(const char *what, const struct levee_error *err)
{
    char line[1024];

    (void)fprintf(stderr, "bench_pipeline: %s: %s\n", what,
                  levee_error_format(err, line, sizeof line));
    exit(1);
}

static struct levee_options options(uint32_t checkpoint_ms)
{
    return (struct levee_options){.directory = "state",
                                  .batch_interval_ms = 100,
                                  .workers = 1,
                                  .buffer_bytes = 256u << 20,
                                  .checkpoint_ms = checkpoint_ms,
                                  .stop_at_end = true};
}

static void scratch(void)
{
    char dir[] = "bench_pipeline.XXXXXX";

    if (!mkdtemp(dir) || chdir(dir) != 0) {
        perror("scratch directory");
        exit(1);
    }
}

static void unscratch(void)
{
    char here[4096], command[4200];

    if (getcwd(here, sizeof here) && strstr(here, "bench_pipeline.")) {
        (void)snprintf(command, sizeof command, "rm -rf '%s'", here);
        /* A folder this program made, without quotes in its name. */
        bool left = chdir("..") != 0 || system(command) != 0; /* NOLINT(cert-env33-c) */
        if (left) {
            (void)fprintf(stderr, "bench_pipeline: %s is left behind\n", here);
        }
    }
}

/* Seconds from the first record to the last committed batch. */
static double pipeline(const struct input *in, unsigned repeat, uint32_t checkpoint_ms,
                       uint64_t *ret_checksum, struct levee_metrics *ret_metrics)
{
    struct feed f = {.in = in, .repeat = repeat};
    struct levee_options o = options(checkpoint_ms);
    struct levee_error err = {0};
    levee_context *ctx;

    scratch();
    if (levee_get_or_create(&ctx, &o, build, &f, &err)) {
        die("create", &err);
    }
    double from = bench_now();
    if (levee_start(ctx, &err) || levee_await(ctx, &err)) {
        die("run", &err);
    }
    double took = bench_now() - from;
    *ret_checksum = 0;
    (void)levee_state_each(ctx, "totals", sum_up, ret_checksum, NULL);
    levee_context_metrics(ctx, ret_metrics);
    levee_free(ctx);
    unscratch();
    return took;
}

static void rung_5a_9e(const struct input *in, unsigned repeat, int pairs)
{
    double *bare = calloc((size_t)pairs, sizeof *bare),
           *durable = calloc((size_t)pairs, sizeof *durable);
    double *with = calloc((size_t)pairs, sizeof *with),
           *without = calloc((size_t)pairs, sizeof *without);
    uint64_t sum = 0, want = 0, none = 0;
    struct levee_metrics m = {0};

    for (int i = 0; i < pairs; i++) {
        for (unsigned r = 0; r < repeat; r++) {
            bare[i] += bare_loop(in, &want);
        }
        durable[i] = pipeline(in, repeat, 1000, &sum, &m);
        with[i] = durable[i];
        without[i] = pipeline(in, repeat, UINT32_MAX, &none, &m);
    }
    (void)printf("checksums: levee %016llx, without checkpoints %016llx, bare (one pass) %016llx; "
                 "%llu words\n",
                 (unsigned long long)sum, (unsigned long long)none, (unsigned long long)want,
                 (unsigned long long)in->words * repeat);
    bench_ratio("5a", "durable word count, throughput / bare C loop", bare, durable, pairs, 0.85,
                true);
    bench_ratio("9e", "throughput with 1 s checkpoints / without", without, with, pairs, 0.95,
                true);
    double payload = (double)in->len * repeat;
    (void)printf("12   logged bytes / payload bytes %.3f (floor 1.05); %llu syncs for %llu blocks; "
                 "%.1f M words/s, %.0f MB/s\n",
                 (double)m.bytes_logged / payload, (unsigned long long)m.log_syncs,
                 (unsigned long long)m.blocks,
                 (double)in->words * repeat / durable[pairs - 1] / 1e6,
                 payload / durable[pairs - 1] / 1e6);
    free(bare);
    free(durable);
    free(with);
    free(without);
}

int main(void)
{
    bool quick = getenv("BENCH_QUICK") != NULL;
    struct input in = {0};

    make_input(&in, quick ? 20000 : 500000);
    rung_5a_9e(&in, quick ? 1 : 40, quick ? 2 : 3);
    free(in.text);
    free(in.lines);
    return 0;
}
