/*
 * Rung 14: a source that is faster than its sink, for a while.
 *
 * Records of 100 bytes go from topic to topic, transactionally, with batches of 100 ms. The source
 * could take several times what the sink can send, so the buffer of received records is full from
 * the first half second on, and the source waits almost all the time. Compared is the throughput
 * with the default buffer of 64 MiB against one without a practical bound (2 GiB): a client that
 * stops fetching for a second whenever its queue was full would show here. With the bound the bytes
 * buffered must have stayed inside it; the process's largest resident set is shown for both, each
 * in a process of its own.
 *
 *     bench_kafka pressure BROKERS INPUT OUTPUT RECORDS BUFFER PIPE
 */
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "levee/levee.h"

#define PARTITIONS 4
#define BYTES      100
#define SMALL      ((uint64_t)64 << 20)
#define LARGE      ((uint64_t)2 << 30)
#define BLOCK      ((uint64_t)160 << 10) /* 128 KiB and what a block takes beside its bytes */
#define PATIENCE   300

extern char **environ;

/* ---- one run, in a process of its own ---- */

struct report {
    double seconds, memory; /* to the last commit; MiB */
    uint64_t buffered, batches;
};

struct run {
    const char *input, *output;
    _Atomic uint64_t committed, batches;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct run *r = arg;
    struct levee_kafka_options in = {.brokers = rig_brokers, .topic = r->input};
    struct levee_kafka_sink_options out = {.brokers = rig_brokers, .topic = r->output};

    (void)levee_kafka_sink(levee_kafka_source(ctx, "in", &in), "out", &out);
    return levee_context_status(ctx, err);
}

static void batch_completed(void *arg, const struct levee_batch_info *info)
{
    struct run *r = arg;

    atomic_fetch_add(&r->batches, info->records > 0);
    atomic_fetch_add(&r->committed, info->records);
}

int kafka_pressure_run(int argc, char **argv)
{
    static const struct levee_listener listener = {.version = 1,
                                                   .batch_completed = batch_completed};
    struct levee_error err = {0};
    levee_context *ctx;

    if (argc != 8) {
        return 1;
    }
    (void)snprintf(rig_brokers, sizeof rig_brokers, "%s", argv[2]);
    struct run r = {.input = argv[3], .output = argv[4]};
    uint64_t records = strtoull(argv[5], NULL, 10);
    struct levee_options o = {.directory = "state",
                              .batch_interval_ms = 100,
                              .workers = 1,
                              .buffer_bytes = strtoull(argv[6], NULL, 10),
                              .listener = &listener,
                              .listener_arg = &r};
    bench_check(levee_get_or_create(&ctx, &o, build, &r, &err), &err, "create");
    double from = bench_now();
    bench_check(levee_start(ctx, &err), &err, "start");
    while (atomic_load(&r.committed) < records) {
        bench_must(bench_now() < from + PATIENCE, "waiting for commits");
        bench_sleep_until(bench_now() + 0.001);
    }
    struct levee_metrics m;
    levee_context_metrics(ctx, &m);
    struct report report = {bench_now() - from, rig_memory_of(getpid()), m.buffered_bytes_max,
                            atomic_load(&r.batches)};
    int out = (int)strtol(argv[7], NULL, 10);
    bench_must(write(out, &report, sizeof report) == sizeof report, "tell the parent");
    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    levee_free(ctx);
    return 0;
}

static struct report run_once(const char *input, uint64_t records, uint64_t buffer)
{
    const char *output = rig_topic("pressure-out", PARTITIONS);
    char text[3][24], program[] = "bench_kafka", word[] = "pressure";
    const char *const argv[] = {program, word,    rig_brokers, input, output,
                                text[0], text[1], text[2],     NULL};
    struct report r;
    int fds[2], status = 0;
    pid_t child;

    bench_must(pipe(fds) == 0, "pipe");
    (void)snprintf(text[0], sizeof text[0], "%llu", (unsigned long long)records);
    (void)snprintf(text[1], sizeof text[1], "%llu", (unsigned long long)buffer);
    (void)snprintf(text[2], sizeof text[2], "%d", fds[1]);
    bench_must(
        posix_spawn(&child, rig_program, NULL, NULL, (char *const *)(uintptr_t)argv, environ) == 0,
        "spawn");
    (void)close(fds[1]);
    bench_must(read(fds[0], &r, sizeof r) == sizeof r, "the run has told nothing");
    (void)close(fds[0]);
    bench_must(waitpid(child, &status, 0) == child && status == 0, "the run failed");
    bench_remove("state");
    rig_topic_delete(output);
    return r;
}

/* ---- the rung ---- */

static void make(void *arg, uint64_t i, struct rig_record *ret)
{
    (void)i;
    *ret = (struct rig_record){arg, BYTES};
}

void kafka_pressure(void)
{
    static const struct bench_goal goal = {
        "14", "topic to topic, buffer of 64 MiB / without a bound, records/s", 0.9, 0.95, 1, false};
    double ratios[BENCH_PAIRS], rate[2][BENCH_PAIRS], memory[2][BENCH_PAIRS];
    uint64_t records = bench_quick ? 200000 : rig_patience > 1 ? 20000000 : 4000000, buffered = 0;
    uint8_t record[BYTES];
    size_t n = 0;

    if (!bench_wanted("14")) {
        return;
    }
    memset(record, 'p', sizeof record);
    const char *input = rig_topic("pressure-in", PARTITIONS);
    rig_fill(input, PARTITIONS, records, make, record);
    for (double deadline = rig_deadline(20); bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct report large = run_once(input, records, LARGE);
        struct report small = run_once(input, records, SMALL);
        ratios[n] = large.seconds / small.seconds;
        rate[0][n] = (double)records / large.seconds / 1e6;
        rate[1][n] = (double)records / small.seconds / 1e6;
        memory[0][n] = large.memory;
        memory[1][n] = small.memory;
        buffered = small.buffered > buffered ? small.buffered : buffered;
    }
    bench_must(buffered <= SMALL + PARTITIONS * BLOCK, "more was buffered than may be");
    bench_row(&goal, ratios, n);
    (void)printf("      %.1f M records: %.2f M/s (without a bound %.2f); at most %.1f MiB "
                 "buffered; largest resident set %.0f MiB (without a bound %.0f)\n",
                 (double)records / 1e6, bench_median(rate[1], n), bench_median(rate[0], n),
                 (double)buffered / (1 << 20), bench_median(memory[1], n),
                 bench_median(memory[0], n));
    rig_topic_delete(input);
}
