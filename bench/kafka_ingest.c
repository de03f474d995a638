/*
 * Rung 4 on a real broker: records from Kafka into the log / the best bare consumer.
 *
 *   4a  records of 100 bytes      4b  records of 1 KiB
 *
 * The bare side is tried with poll and with a callback, each under levee's settings, under the
 * client's own defaults and with far larger queues and fetches; the fastest is what levee is held
 * against. CRC checks and read_committed are on for both sides; the batch call is on neither, it
 * loses messages in librdkafka 2.0.2.
 *
 * A pass counts from the first record to the last: taken, on the bare side; durable in the log, on
 * ours. Every pass of ours has a directory of its own, so the log is making its first segments. No
 * batch runs meanwhile, the blocks wait in memory: source and log, nothing else. The row beside it
 * has a batch every 100 ms that looks at every record.
 *
 * Both sides sum up the records; ours is summed up from the log, which is read back after a pass.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/kafka_log.h"
#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "levee/connect.h"
#include "runtime/context.h"

#define PARTITIONS   4
#define POLL_SECONDS 0.0005
#define PASS_SECONDS 60
#define NEVER_MS     3600000u /* no batch falls into a pass */

struct input {
    const char *topic;
    size_t bytes; /* of a record */
    uint64_t count;
};

struct pass {
    struct rig_cost took;
    uint64_t sum;
};

/* ---- the bare consumer ---- */

struct bare { /* the settings that are tried */
    const char *what;
    bool callback;
    const char *settings;
};

#define DEFAULTS                                                                                   \
    "queued.max.messages.kbytes=65536 fetch.message.max.bytes=1048576 fetch.max.bytes=52428800 "   \
    "fetch.wait.max.ms=500"
#define LARGE                                                                                      \
    "queued.min.messages=1000000 queued.max.messages.kbytes=1048576 "                              \
    "fetch.message.max.bytes=4194304 fetch.max.bytes=67108864"

static const struct bare bares[] = {
    {"poll, levee's settings", false, ""}, {"callback, levee's settings", true, ""},
    {"poll, defaults", false, DEFAULTS},   {"callback, defaults", true, DEFAULTS},
    {"poll, large queues", false, LARGE},  {"callback, large queues", true, LARGE}};

struct taking {
    uint64_t count, sum;
    struct rig_cost from;
};

static inline void take(const rd_kafka_message_t *m, struct taking *t)
{
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (t->count++ == 0) {
            t->from = rig_begin();
        }
        t->sum += get_le64(m->payload) * (m->len + 1);
    }
}

static void on_message(rd_kafka_message_t *m, void *arg)
{
    take(m, arg);
}

static struct pass bare_pass(const struct bare *b, const struct input *in)
{
    rd_kafka_t *rk = rig_consumer(in->topic, PARTITIONS, b->settings);
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    struct taking taking = {0};
    double deadline = bench_now() + PASS_SECONDS;

    while (taking.count < in->count) {
        rd_kafka_message_t *m = NULL;
        int got = 1;
        if (b->callback) {
            got = rd_kafka_consume_callback_queue(queue, 100, on_message, &taking);
        } else if ((m = rd_kafka_consumer_poll(rk, 100)) != NULL) {
            take(m, &taking);
            rd_kafka_message_destroy(m);
        }
        if (!m && (!b->callback || got <= 0)) {
            bench_must(bench_now() < deadline, "the bare consumer waits for records");
        }
    }
    struct pass p = {rig_since(taking.from), taking.sum};
    rd_kafka_queue_destroy(queue);
    rig_consumer_destroy(rk);
    return p;
}

static const struct bare *fastest(const struct input *in)
{
    const struct bare *best = NULL;
    double least = 1e9;

    for (size_t i = 0; i < ARRAY_LEN(bares); i++) {
        double took[3];
        for (size_t k = 0; k < ARRAY_LEN(took); k++) {
            took[k] = bare_pass(&bares[i], in).took.wall;
        }
        double faster = bench_quantile(took, ARRAY_LEN(took), 0);
        (void)printf("      bare consumer, %-28s %.2f M records/s\n", bares[i].what,
                     (double)in->count / faster / 1e6);
        if (faster < least) {
            least = faster;
            best = &bares[i];
        }
    }
    return best;
}

/* ---- levee ---- */

struct ours { /* what a pass is like */
    const struct input *in;
    uint32_t batch_ms; /* NEVER_MS leaves batches out of the pass */
    bool read_back;
    levee_stream *source;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct ours *o = arg;
    struct levee_kafka_options k = {.brokers = rig_brokers, .topic = o->in->topic};

    o->source = levee_kafka_source(ctx, "in", &k);
    kafka_log_only(o->source);
    return levee_context_status(ctx, err);
}

static struct pass our_pass(struct ours o, struct levee_metrics *ret_metrics)
{
    struct levee_options options = {.directory = "state",
                                    .batch_interval_ms = o.batch_ms,
                                    .workers = 1,
                                    .buffer_bytes = o.batch_ms == NEVER_MS ? (uint64_t)1 << 30 : 0};
    struct levee_error err = {0};
    struct pass p = {{0, 0, 0}, 0};
    levee_context *ctx;
    double deadline = bench_now() + PASS_SECONDS;

    bench_check(levee_get_or_create(&ctx, &options, build, &o, &err), &err, "create");
    struct levee_inlet *in = rt_stream_inlet(o.source);
    bench_check(levee_start(ctx, &err), &err, "start");
    while (counter_get(&ctx->count.received) == 0) {
        bench_must(bench_now() < deadline, "levee waits for records");
        bench_sleep_until(bench_now() + POLL_SECONDS / 5);
    }
    struct rig_cost from = rig_begin();
    while (!kafka_log_has(ctx, in, o.in->count)) {
        bench_must(bench_now() < deadline, "levee waits for records");
        bench_sleep_until(bench_now() + POLL_SECONDS);
    }
    p.took = rig_since(from);
    levee_context_metrics(ctx, ret_metrics);
    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    if (o.read_back) {
        p.sum = kafka_log_sum(&ctx->dir, o.in->count);
    }
    levee_free(ctx);
    bench_remove("state");
    return p;
}

/* ---- the rung ---- */

static void make(void *arg, uint64_t i, struct rig_record *ret)
{
    struct rig_record *r = arg;

    put_le64(r->data, i);
    *ret = *r;
}

static void compare_sums(const struct bare *b, const struct input *in, uint64_t *ret_sum)
{
    struct ours o = {.in = in, .batch_ms = NEVER_MS, .read_back = true};
    struct levee_metrics m;

    *ret_sum = our_pass(o, &m).sum;
    bench_must(bare_pass(b, in).sum == *ret_sum, "the log holds what the bare consumer got");
}

static void run(const struct bench_goal *goal, size_t bytes, uint64_t count)
{
    double ratios[BENCH_PAIRS], batched[BENCH_PAIRS], wall[2][BENCH_PAIRS], cpu[4][BENCH_PAIRS];
    struct rig_record record = {bench_alloc(bytes), bytes};
    struct input in = {rig_topic("ingest", PARTITIONS), bytes, bench_quick ? count / 20 : count};
    struct ours rung = {.in = &in, .batch_ms = NEVER_MS}, busy = {.in = &in, .batch_ms = 100};
    struct levee_metrics m = {0}, other;
    double millions = (double)in.count / 1e6;
    uint64_t sum;
    size_t n = 0;

    memset(record.data, 'm', bytes);
    rig_fill(in.topic, PARTITIONS, in.count, make, &record);
    const struct bare *b = fastest(&in);
    for (double deadline = rig_deadline(18); bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct pass bare = bare_pass(b, &in), ours = our_pass(rung, &m);
        ratios[n] = bare.took.wall / ours.took.wall;
        batched[n] = bare.took.wall / our_pass(busy, &other).took.wall;
        wall[0][n] = bare.took.wall;
        wall[1][n] = ours.took.wall;
        cpu[0][n] = bare.took.cpu / millions;
        cpu[1][n] = ours.took.cpu / millions;
        cpu[2][n] = bare.took.broker / millions;
        cpu[3][n] = ours.took.broker / millions;
    }
    bench_row(goal, ratios, n);
    bench_aside("  with a batch every 100 ms that looks at every record", batched, n);
    compare_sums(b, &in, &sum);
    double mb = millions * (double)bytes;
    (void)printf("      %.2f M records, %d partitions: %.2f M/s, %.0f MB/s (bare, %s: %.2f M/s); "
                 "CPU-s per M %.2f + broker %.2f\n      (bare %.2f + %.2f); log bytes / payload "
                 "%.3f, %llu syncs for %llu blocks; checksum %016llx, the same on both sides\n",
                 millions, PARTITIONS, millions / bench_median(wall[1], n),
                 mb / bench_median(wall[1], n), b->what, millions / bench_median(wall[0], n),
                 bench_median(cpu[1], n), bench_median(cpu[3], n), bench_median(cpu[0], n),
                 bench_median(cpu[2], n), (double)m.bytes_logged / mb / 1e6,
                 (unsigned long long)m.log_syncs, (unsigned long long)m.blocks,
                 (unsigned long long)sum);
    rig_topic_delete(in.topic);
    free(record.data);
}

void kafka_ingest(void)
{
    static const struct bench_goal goals[] = {
        {"4a", "100 B records, real Kafka into the log / best bare consumer", 0.9, 0.97, 1.0,
         false},
        {"4b", "1 KiB records, real Kafka into the log / best bare consumer", 0.75, 0.9, 0.97,
         false}};

    if (bench_wanted("4a")) {
        run(&goals[0], 100, 2000000);
    }
    if (bench_wanted("4b")) {
        run(&goals[1], 1024, 400000);
    }
}
