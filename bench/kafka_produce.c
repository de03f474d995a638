/*
 * Rung 7: records into a topic, transactionally and with a token, against a plain producer.
 *
 *   7a  records/s with a commit every 100 ms / a plain idempotent producer
 *   7b  the same with a commit every 10 ms
 *
 * It is the whole way: a receiver hands over records of 100 bytes as fast as the inlet
 * takes them, they are logged and synced, batches are cut by the clock, the sink sends them. The
 * buffer is as large as what the plain producer sends in one interval, so that batches cannot grow
 * beyond it: the mean time between commits is printed, and says whether they did. The plain
 * producer sends the same records from memory, without a copy, one record after the other to the
 * partitions in turn; it is tried with several settings and the fastest counts. Both count from the
 * first record to the last acknowledgement. The topic is read back and summed up at the end.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "bench/words.h"

#define PARTITIONS 4
#define BYTES      100
#define LINES      65536 /* different ones */

struct load {
    struct words words; /* LINES lines of BYTES */
    uint64_t count;     /* records of a pass */
};

/* ---- the plain producer ---- */

static const struct plain {
    const char *what, *settings;
} plains[] = {
    {"linger 5 ms, defaults", "linger.ms=5"},
    {"linger 2 ms, as our sink", "linger.ms=2"},
    {"linger 20 ms, 1 MB batches",
     "linger.ms=20 batch.size=1000000 batch.num.messages=100000 message.max.bytes=1048588"},
    {"linger 5 ms, 300 kB batches", "linger.ms=5 batch.size=300000 batch.num.messages=100000"},
};

static struct rig_cost plain_pass(const struct plain *p, const struct load *l)
{
    const char *topic = rig_topic("plain", PARTITIONS);
    char settings[512];

    (void)snprintf(settings, sizeof settings,
                   "enable.idempotence=true queue.buffering.max.messages=2000000 "
                   "queue.buffering.max.kbytes=1048576 %s",
                   p->settings);
    rd_kafka_t *rk = rig_producer(settings);
    rd_kafka_topic_t *rkt = rig_meet(rk, topic);
    struct rig_cost from = rig_begin();
    for (uint64_t i = 0; i < l->count; i++) {
        struct levee_slice v = l->words.lines[i % l->words.count].value;
        while (rd_kafka_produce(rkt, (int32_t)(i % PARTITIONS), 0, (void *)(uintptr_t)v.data, v.len,
                                NULL, 0, NULL) != 0) {
            bench_must(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL, "produce");
            (void)rd_kafka_poll(rk, 1);
        }
        if (i % 1000 == 0) {
            (void)rd_kafka_poll(rk, 0);
        }
    }
    rig_kafka(rd_kafka_flush(rk, 60000), "flush");
    struct rig_cost took = rig_since(from);
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
    rig_topic_delete(topic);
    return took;
}

static const struct plain *fastest_plain(const struct load *l, double *ret_rate)
{
    const struct plain *best = NULL;
    double least = 1e9;

    for (size_t i = 0; i < ARRAY_LEN(plains); i++) {
        double took[3];
        for (size_t k = 0; k < ARRAY_LEN(took); k++) {
            took[k] = plain_pass(&plains[i], l).wall;
        }
        double faster = bench_quantile(took, ARRAY_LEN(took), 0);
        (void)printf("      plain producer, %-28s %.2f M records/s\n", plains[i].what,
                     (double)l->count / faster / 1e6);
        if (faster < least) {
            least = faster;
            best = &plains[i];
        }
    }
    *ret_rate = (double)l->count / least;
    return best;
}

/* ---- the whole way through levee ---- */

struct ours {
    struct words_feed feed;
    const char *topic;
    _Atomic uint64_t committed; /* records of completed batches */
    _Atomic uint64_t batches;   /* … those that were not empty */
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct ours *o = arg;
    struct levee_kafka_sink_options k = {.brokers = rig_brokers, .topic = o->topic};

    (void)levee_kafka_sink(words_source(ctx, &o->feed), "out", &k);
    return levee_context_status(ctx, err);
}

static void batch_completed(void *arg, const struct levee_batch_info *info)
{
    struct ours *o = arg;

    atomic_fetch_add(&o->batches, info->records > 0);
    atomic_fetch_add(&o->committed, info->records);
}

/* What a stranger sees: so many records, and the sum of their hashes. */
static void check_topic(const char *topic, const struct load *l)
{
    rd_kafka_t *rk = rig_consumer(topic, PARTITIONS, "");
    uint64_t n = 0, sum = 0, want = 0;
    double deadline = bench_now() + 60;

    for (uint64_t i = 0; i < l->count; i++) {
        struct levee_slice v = l->words.lines[i % l->words.count].value;
        want += hash_key(v.data, v.len);
    }
    for (int ended = 0; ended < PARTITIONS;) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 1000);
        bench_must(bench_now() < deadline, "reading the topic back");
        if (m && !m->err) {
            n++;
            sum += hash_key(m->payload, m->len);
        }
        ended += m && m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF;
        if (m) {
            rd_kafka_message_destroy(m);
        }
    }
    bench_must(n == l->count && sum == want, "the topic holds every record once");
    rig_consumer_destroy(rk);
}

struct way { /* how a pass of ours runs */
    uint32_t interval_ms;
    uint64_t buffer;
    bool check;
};

static struct rig_cost our_pass(const struct way *way, struct load *l, double *ret_commit_ms)
{
    static const struct levee_listener listener = {.version = 1,
                                                   .batch_completed = batch_completed};
    struct ours o = {.topic = rig_topic("sink", PARTITIONS),
                     .feed = {.words = &l->words, .rests = true}};
    struct levee_options options = {.directory = "state",
                                    .batch_interval_ms = way->interval_ms,
                                    .workers = 1,
                                    .buffer_bytes = way->buffer,
                                    .listener = &listener,
                                    .listener_arg = &o};
    struct levee_error err = {0};
    levee_context *ctx;
    double deadline = bench_now() + 120;

    bench_check(levee_get_or_create(&ctx, &options, build, &o, &err), &err, "create");
    bench_check(levee_start(ctx, &err), &err, "start");
    struct rig_cost from = rig_begin();
    atomic_store(&o.feed.total, l->count);
    while (atomic_load(&o.committed) < l->count) {
        bench_must(bench_now() < deadline, "waiting for commits");
        bench_sleep_until(bench_now() + 0.0005);
    }
    struct rig_cost took = rig_since(from);
    *ret_commit_ms = took.wall / (double)atomic_load(&o.batches) * 1e3;
    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    levee_free(ctx);
    bench_remove("state");
    if (way->check) {
        check_topic(o.topic, l);
    }
    rig_topic_delete(o.topic);
    return took;
}

/* ---- the rungs ---- */

static void run(const struct bench_goal *goal, uint32_t interval_ms, struct load *l,
                const struct plain *best, double rate)
{
    double ratios[BENCH_PAIRS], commit_ms[BENCH_PAIRS], v[6][BENCH_PAIRS];
    double millions = (double)l->count / 1e6;
    /* A record takes about 30 bytes more in a block; blocks are of 128 KiB. */
    struct way way = {interval_ms, (uint64_t)(rate * interval_ms / 1e3 * (BYTES + 30)), false};
    size_t n = 0;

    way.buffer = way.buffer > (1u << 20) ? way.buffer : 1u << 20;
    (void)our_pass(&way, l, &commit_ms[0]); /* the broker compiles what it has not done yet */
    for (double deadline = rig_deadline(12); bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct rig_cost bare = plain_pass(best, l);
        way.check = n == 0;
        struct rig_cost ours = our_pass(&way, l, &commit_ms[n]);
        ratios[n] = bare.wall / ours.wall;
        v[0][n] = bare.wall;
        v[1][n] = ours.wall;
        v[2][n] = bare.cpu / millions;
        v[3][n] = ours.cpu / millions;
        v[4][n] = bare.broker / millions;
        v[5][n] = ours.broker / millions;
    }
    bench_row(goal, ratios, n);
    (void)printf("      %.1f M records: %.2f M/s (plain, %s: %.2f M/s); a commit every %.1f ms; "
                 "CPU-s per M %.2f + broker %.2f (plain %.2f + %.2f);\n      the topic was read "
                 "back: every record once\n",
                 millions, millions / bench_median(v[1], n), best->what,
                 millions / bench_median(v[0], n), bench_median(commit_ms, n),
                 bench_median(v[3], n), bench_median(v[5], n), bench_median(v[2], n),
                 bench_median(v[4], n));
}

void kafka_produce(void)
{
    static const struct bench_goal goals[] = {
        {"7a", "log and transactional sink, 100 ms commits / plain producer", 0.9, 0.96, 0.98,
         false},
        {"7b", "the same with 10 ms commits / plain producer", 0.75, 0.85, 0.95, false}};
    struct load l = {.words = {.per_line = 1, .vocabulary = 1000000, .order = WORDS_EVEN},
                     .count = bench_quick ? 50000 : 1000000};
    double rate = 0;

    if (!bench_wanted("7a") && !bench_wanted("7b")) {
        return;
    }
    l.words.count = LINES;
    words_make(&l.words);
    const struct plain *best = fastest_plain(&l, &rate);
    if (bench_wanted("7a")) {
        run(&goals[0], 100, &l, best, rate);
    }
    if (bench_wanted("7b")) {
        run(&goals[1], 10, &l, best, rate);
    }
    words_release(&l.words);
}
