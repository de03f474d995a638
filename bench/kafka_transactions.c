/*
 * Rung 7t: what one transaction of 10 records takes / in the best bare loop of transactions.
 *
 * Ours are the sink's own calls, begin, write, commit, driven without the engine: back to back, and
 * with 10 ms between two. The bare loop makes the client's calls under the settings of
 * connectors/kafka_txn.c, with a token like ours; it is tried with one transactional id and with
 * two in turn, with retry backoffs of 1, 2 and 5 ms, and the one with the best p99 back to back
 * counts. A pair is 200 transactions of each, cut into slices of 50 in turn, and compares their
 * p50 and their p99.
 *
 * The bare transactions are cut into their parts (records, offsets, flush, commit), so that the
 * rows show where the slowest ones wait. They wait for the markers of the transaction before, which
 * the broker writes after it has said "committed".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "connectors/kafka_sink.h"
#include "runtime/context.h"

#define PARTITIONS 4
#define RECORDS    10
#define SLICE      50
#define SLICES     4
#define SAMPLES    ((size_t)SLICE * SLICES)
#define ALL_MAX    (SAMPLES * BENCH_PAIRS)
#define ASK_MS     30000
#define PAUSE      0.010

enum part { PRODUCE, OFFSETS, FLUSH, COMMIT, PARTS };

static uint8_t value[100];

/* ---- the bare loop ---- */

static const struct bare_kind {
    const char *what, *settings;
    int ids;
} kinds[] = {
    {"one id, backoff 1 ms", "retry.backoff.ms=1", 1},
    {"one id, backoff 5 ms", "retry.backoff.ms=5", 1},
    {"two ids, backoff 1 ms", "retry.backoff.ms=1", 2},
    {"two ids, backoff 2 ms", "retry.backoff.ms=2", 2},
};

struct bare {
    rd_kafka_t *rk[2];
    rd_kafka_topic_t *rkt[2];
    const char *topic;
    int ids;
    uint64_t batch;
};

static struct bare bare_open(const struct bare_kind *k)
{
    struct bare b = {.topic = rig_topic("bare-transactions", PARTITIONS), .ids = k->ids};
    char settings[256];

    for (int i = 0; i < b.ids; i++) {
        (void)snprintf(settings, sizeof settings,
                       "transactional.id=%s-%d linger.ms=0 transaction.timeout.ms=10000 %s",
                       b.topic, i, k->settings);
        b.rk[i] = rig_producer(settings);
        rig_kafka_error(rd_kafka_init_transactions(b.rk[i], ASK_MS), "init_transactions");
        b.rkt[i] = rig_meet(b.rk[i], b.topic);
    }
    return b;
}

static void bare_close(struct bare *b)
{
    for (int i = 0; i < b->ids; i++) {
        rd_kafka_topic_destroy(b->rkt[i]);
        rd_kafka_destroy(b->rk[i]);
    }
    rig_topic_delete(b->topic);
}

static void send_token(const struct bare *b, rd_kafka_t *rk)
{
    static char metadata[] = "a token of the length that ours have, about a hundred and fifty "
                             "bytes: context, uid, epoch, batch, time, digest and records, as text";
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *p = rd_kafka_topic_partition_list_add(list, b->topic, 0);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata_new(b->topic);

    p->offset = (int64_t)b->batch;
    p->metadata = metadata;
    p->metadata_size = strlen(metadata);
    rig_kafka_error(rd_kafka_send_offsets_to_transaction(rk, list, group, ASK_MS), "send_offsets");
    p->metadata = NULL; /* not the list's */
    p->metadata_size = 0;
    rd_kafka_consumer_group_metadata_destroy(group);
    rd_kafka_topic_partition_list_destroy(list);
}

static void bare_transaction(struct bare *b, double parts[PARTS])
{
    int turn = (int)(b->batch++ % (uint64_t)b->ids);
    rd_kafka_t *rk = b->rk[turn];
    double t[PARTS + 1] = {bench_now()};

    rig_kafka_error(rd_kafka_begin_transaction(rk), "begin");
    for (int i = 0; i < RECORDS; i++) {
        bench_must(rd_kafka_produce(b->rkt[turn], i % PARTITIONS, 0, value, sizeof value, NULL, 0,
                                    NULL) == 0,
                   "produce");
    }
    t[1] = bench_now();
    send_token(b, rk);
    t[2] = bench_now();
    rig_kafka(rd_kafka_flush(rk, ASK_MS), "flush");
    t[3] = bench_now();
    rig_kafka_error(rd_kafka_commit_transaction(rk, ASK_MS), "commit");
    t[4] = bench_now();
    for (int i = 0; i < PARTS; i++) {
        parts[i] = t[i + 1] - t[i];
    }
}

/* ---- the sink's own calls ---- */

struct ours {
    levee_context *ctx;
    const char *topic;
    const struct levee_sink_ops *ops;
    void *self;
    struct levee_token token;
    struct levee_record records[RECORDS];
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct ours *o = arg;
    struct levee_kafka_sink_options k = {.brokers = rig_brokers, .topic = o->topic};

    (void)levee_kafka_sink(levee_queue_source(ctx, "in", 1), "out", &k);
    return levee_context_status(ctx, err);
}

static struct ours ours_open(void)
{
    struct ours o = {.topic = rig_topic("our-transactions", PARTITIONS)};
    struct levee_options options = {.directory = "state"};
    struct levee_error err = {0};

    bench_check(levee_get_or_create(&o.ctx, &options, build, &o, &err), &err, "create");
    o.ops = o.ctx->graph->sinks[0]->sink->ops;
    o.self = o.ctx->graph->sinks[0]->sink->self;
    memset(o.token.context, '5', sizeof o.token.context - 1);
    memcpy(o.token.uid, "out", sizeof "out");
    o.token.epoch = 1;
    for (size_t i = 0; i < RECORDS; i++) {
        o.records[i].value = slice_of(value, sizeof value);
    }
    bench_check(o.ops->open(o.self, &o.token, &err), &err, "open");
    bench_check(o.ops->settle(o.self, &o.token, &err), &err, "settle");
    return o;
}

static void ours_close(struct ours *o)
{
    o->ops->close(o->self);
    levee_free(o->ctx);
    bench_remove("state");
    rig_topic_delete(o->topic);
}

static void our_transaction(struct ours *o)
{
    struct levee_error err = {0};

    o->token.batch++;
    bench_check(o->ops->begin(o->self, &o->token, &err), &err, "begin");
    bench_check(o->ops->write(o->self, 0, o->records, RECORDS, &err), &err, "write");
    bench_check(o->ops->commit(o->self, &err), &err, "commit");
}

/* ---- the rung ---- */

struct samples { /* seconds */
    double whole[ALL_MAX], parts[PARTS][ALL_MAX];
    size_t n;
};

static void bare_slice(struct bare *b, struct samples *s, double pause)
{
    for (int i = 0; i < SLICE; i++, s->n++) {
        double parts[PARTS], from = bench_now();
        bare_transaction(b, parts);
        s->whole[s->n] = bench_now() - from;
        for (int k = 0; k < PARTS; k++) {
            s->parts[k][s->n] = parts[k];
        }
        bench_sleep_until(bench_now() + pause);
    }
}

static void our_slice(struct ours *o, struct samples *s, double pause)
{
    for (int i = 0; i < SLICE; i++, s->n++) {
        double from = bench_now();
        our_transaction(o);
        s->whole[s->n] = bench_now() - from;
        bench_sleep_until(bench_now() + pause);
    }
}

static double quantile_of(const double *v, size_t n, double q)
{
    double *copy = bench_alloc(n * sizeof *copy);

    memcpy(copy, v, n * sizeof *copy);
    double x = bench_quantile(copy, n, q);
    free(copy);
    return x;
}

static const struct bare_kind *best_kind(void)
{
    struct samples *s = bench_alloc(sizeof *s);
    const struct bare_kind *best = NULL;
    double least = 1e9;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        struct bare b = bare_open(&kinds[i]);
        s->n = 0;
        bare_slice(&b, s, 0); /* warm */
        s->n = 0;
        for (int k = 0; k < SLICES * 2; k++) {
            bare_slice(&b, s, 0);
        }
        bare_close(&b);
        double p99 = quantile_of(s->whole, s->n, 0.99);
        (void)printf("      bare transactions, %-22s p50 %.1f ms, p99 %.1f ms\n", kinds[i].what,
                     1e3 * quantile_of(s->whole, s->n, 0.5), 1e3 * p99);
        if (p99 < least) {
            least = p99;
            best = &kinds[i];
        }
    }
    free(s);
    return best;
}

/* The median transaction and the mean of the slowest hundredth, cut into their parts. */
static void print_parts(const struct samples *s)
{
    static const char *const names[PARTS] = {"records", "offsets", "flush", "commit"};
    double limit = quantile_of(s->whole, s->n, 0.99);

    (void)printf("      bare, ms: ");
    for (int k = 0; k < PARTS; k++) {
        double sum = 0;
        size_t slow = 0;
        for (size_t i = 0; i < s->n; i++) {
            if (s->whole[i] >= limit) {
                sum += s->parts[k][i];
                slow++;
            }
        }
        (void)printf("%s%s %.2f (slowest 1%%: %.1f)", k ? ", " : "", names[k],
                     1e3 * quantile_of(s->parts[k], s->n, 0.5), 1e3 * sum / (double)slow);
    }
    (void)printf("\n");
}

static void run(const struct bench_goal goals[2], const struct bare_kind *k, double pause)
{
    struct samples *bare = bench_alloc(sizeof *bare), *ours = bench_alloc(sizeof *ours);
    double ratio[2][BENCH_PAIRS];
    struct bare b = bare_open(k);
    struct ours o = ours_open();
    size_t n = 0;

    bare_slice(&b, bare, pause); /* warm */
    our_slice(&o, ours, pause);
    bare->n = ours->n = 0;
    for (double deadline = rig_deadline(8); bench_more(n, BENCH_PAIRS, deadline); n++) {
        size_t first = bare->n;
        for (int i = 0; i < SLICES; i++) {
            bare_slice(&b, bare, pause);
            our_slice(&o, ours, pause);
        }
        for (int q = 0; q < 2; q++) {
            double at = q ? 0.99 : 0.5;
            ratio[q][n] = quantile_of(ours->whole + first, SAMPLES, at) /
                          quantile_of(bare->whole + first, SAMPLES, at);
        }
    }
    bench_row(&goals[0], ratio[0], n);
    bench_row(&goals[1], ratio[1], n);
    (void)printf(
        "      ours p50 %.2f, p99 %.1f, longest %.1f ms; bare (%s) p50 %.2f, p99 %.1f, "
        "longest %.1f ms; %zu transactions each\n",
        1e3 * quantile_of(ours->whole, ours->n, 0.5), 1e3 * quantile_of(ours->whole, ours->n, 0.99),
        1e3 * quantile_of(ours->whole, ours->n, 1), k->what,
        1e3 * quantile_of(bare->whole, bare->n, 0.5), 1e3 * quantile_of(bare->whole, bare->n, 0.99),
        1e3 * quantile_of(bare->whole, bare->n, 1), bare->n);
    print_parts(bare);
    bare_close(&b);
    ours_close(&o);
    free(bare);
    free(ours);
}

void kafka_transactions(void)
{
    static const struct bench_goal tight[] = {
        {"7t", "10 records in a transaction, back to back, p50 / bare", 1.5, 1.2, 1, true},
        {"7t", "10 records in a transaction, back to back, p99 / bare", 2, 1.5, 1, true}};
    static const struct bench_goal spaced[] = {
        {"7t", "the same, 10 ms between two, p50 / bare", 1.5, 1.2, 1, true},
        {"7t", "the same, 10 ms between two, p99 / bare", 2, 1.5, 1, true}};

    if (bench_wanted("7t")) {
        const struct bare_kind *k = best_kind();
        run(tight, k, 0);
        run(spaced, k, PAUSE);
    }
}
