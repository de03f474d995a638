/*
 * The whole path, measured against a bare C loop in the same run.
 *
 *   5a  keyed word count, all words, 10 k vocabulary, everything logged and synced, a checkpoint
 *       every second: throughput / bare C loop over the same lines, which keeps nothing
 *   9e  throughput with 1 s checkpoints / without
 *   12  exact counts of one run: logged bytes, syncs
 *
 * A run is half a gigabyte and starts from an empty directory; that is a second or two, in which a
 * checkpoint falls once or twice. One worker. The counts of both sides are compared.
 */
#include <stdio.h>
#include <unistd.h>

#include "bench/words.h"

#define PAIRS 20

/* Seconds from the first record to the last committed batch. */
static double pipeline(const struct words *w, unsigned repeat, uint32_t checkpoint_ms,
                       uint64_t *ret_checksum, struct levee_metrics *ret_metrics)
{
    struct words_feed f = {.words = w, .total = (uint64_t)w->count * repeat};
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 100,
                              .workers = 1,
                              .buffer_bytes = 256u << 20,
                              .checkpoint_ms = checkpoint_ms,
                              .stop_at_end = true};
    struct levee_error err = {0};
    levee_context *ctx;

    bench_check(levee_get_or_create(&ctx, &o, words_build, &f, &err), &err, "create");
    double from = bench_now();
    bench_check(levee_start(ctx, &err), &err, "start");
    bench_check(levee_await(ctx, &err), &err, "run");
    double took = bench_now() - from;
    *ret_checksum = words_checksum(ctx, NULL);
    levee_context_metrics(ctx, ret_metrics);
    levee_free(ctx);
    bench_remove("state");
    bench_remove("out");
    return took;
}

static void run(const struct words *w, unsigned repeat)
{
    static const struct bench_goal rung_5a = {
        "5a", "durable word count, throughput / bare C loop", 0.85, 0.95, 0.98, false};
    static const struct bench_goal rung_9e = {
        "9e", "throughput with 1 s checkpoints / without", 0.95, 0.98, 0.995, false};
    double versus_bare[PAIRS], versus_none[PAIRS], ours[PAIRS], deadline = bench_now() + 50;
    double payload = (double)w->len * repeat, words = (double)w->count * w->per_line * repeat;
    uint64_t sum = 0, want = 0, none = 0;
    struct levee_metrics m = {0};
    size_t n = 0;

    for (; bench_more(n, PAIRS, deadline); n++) {
        double bare = words_count_bare(w, repeat, &want);
        struct levee_metrics other;
        double without = n % 2 ? pipeline(w, repeat, UINT32_MAX, &none, &other) : 0;
        ours[n] = pipeline(w, repeat, 1000, &sum, &m);
        without = n % 2 ? without : pipeline(w, repeat, UINT32_MAX, &none, &other);
        bench_must(sum == want && none == want, "the counts differ");
        versus_bare[n] = bare / ours[n];
        versus_none[n] = without / ours[n];
    }
    bench_row(&rung_5a, versus_bare, n);
    bench_row(&rung_9e, versus_none, n);
    (void)printf(
        "12    logged bytes / payload bytes %.3f (floor 1.05); %llu syncs for %llu blocks; "
        "%.1f M words/s, %.0f MB/s\n      checksum %016llx, the same on both sides\n",
        (double)m.bytes_logged / payload, (unsigned long long)m.log_syncs,
        (unsigned long long)m.blocks, words / bench_median(ours, n) / 1e6,
        payload / bench_median(ours, n) / 1e6, (unsigned long long)sum);
}

int main(void)
{
    struct words w = {.per_line = 14, .vocabulary = 10000, .order = WORDS_ZIPF};

    bench_init("bench_pipeline");
    if (!bench_wanted("5a") && !bench_wanted("9e") && !bench_wanted("12")) {
        return 0;
    }
    w.count = bench_quick ? 20000 : 500000;
    words_make(&w);
    bench_must(chdir(bench_scratch()) == 0, "scratch directory");
    run(&w, bench_quick ? 1 : 12);
    words_release(&w);
    return 0;
}
