/*
 * Rung 8: how long a word takes from its sending to its count in a committed output / the same in a
 * bare loop of consume and transactional produce.
 *
 *   8a  1,000 records/s      8b  100,000 records/s       each p50 and p99
 *
 * Records are sent by the clock (open loop) and timed from the moment they were due, so a side that
 * falls behind pays for it; they are seen by a read_committed consumer of the output. Both sides
 * have transactions of 10 ms. Ours logs every record, counts its word in a state with checkpoints,
 * and sends each changed total with the token. The bare loop only passes records on, with the
 * input's offsets in the transaction; it is tried with one transactional id and with two in turn,
 * sending at once or after a while, and the best p99 counts. It has no log and no state: what it
 * forwards it has not counted.
 *
 * Record k is the word k mod 1000, so the n-th total of a word says which record it answers, and
 * that no total comes twice. Half a second of each pass is warm-up. The time from sending to being
 * read back without any program between is printed: nobody can be below twice that.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "bench/kafka_tally.h"
#include "levee/levee.h"

#define PARTITIONS 4
#define WORDS      1000u /* a multiple of PARTITIONS: a word stays in its partition */
#define INTERVAL   0.010
#define WARM       0.5
#define MEASURED   1.0
#define LATE       20.0 /* seconds; then something is lost */
#define ASK_MS     30000
#define RATE_MAX   100000

enum way { DIRECT, BARE, OURS };

static const struct bare_kind { /* what is tried */
    const char *what;
    int ids, linger_ms;
} kinds[] = {{"one id", 1, 0}, {"two ids in turn", 2, 0}, {"two ids, linger 5 ms", 2, 5}};

struct pass {
    enum way way;
    uint64_t rate, total, warm; /* records: per second, in all, not measured */
    const char *input, *output;
    double from;    /* record k is due at from + k / rate */
    double *late;   /* seconds, by record */
    uint64_t *seen; /* by word: how many of its records were answered */
    uint64_t answered;
    _Atomic bool stop;
};

struct latency {
    double p50, p99;
    struct rig_cost took;
};

/* ---- sending ---- */

static void *feed(void *arg)
{
    struct pass *p = arg;
    rd_kafka_t *rk = rig_producer("linger.ms=1 acks=1 queue.buffering.max.messages=1000000");
    rd_kafka_topic_t *rkt = rig_meet(rk, p->input);
    char key[24], word[24];

    for (uint64_t k = 0; k < p->total; k++) {
        double due = p->from + (double)k / (double)p->rate;
        if (due > bench_now()) {
            (void)rd_kafka_poll(rk, 0);
            bench_sleep_until(due + 0.0005); /* the records of half a millisecond at once */
        }
        int n = snprintf(word, sizeof word, "w%u", (unsigned)(k % WORDS));
        int m = snprintf(key, sizeof key, "%llu", (unsigned long long)k);
        bench_must(rd_kafka_produce(rkt, (int32_t)(k % PARTITIONS), RD_KAFKA_MSG_F_COPY, word,
                                    (size_t)n, key, (size_t)m, NULL) == 0,
                   "produce");
    }
    rig_kafka(rd_kafka_flush(rk, ASK_MS), "flush");
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
    return NULL;
}

/* ---- the bare loop ---- */

struct bare {
    struct pass *pass;
    rd_kafka_t *consumer, *producer[2];
    rd_kafka_topic_t *rkt[2];
    const struct bare_kind *kind;
    int turn;
    int64_t next[PARTITIONS];
};

static void bare_open(struct bare *b)
{
    char settings[256];

    for (int i = 0; i < b->kind->ids; i++) {
        (void)snprintf(settings, sizeof settings,
                       "transactional.id=%s-%d linger.ms=%d retry.backoff.ms=2 "
                       "transaction.timeout.ms=10000",
                       b->pass->output, i, b->kind->linger_ms);
        b->producer[i] = rig_producer(settings);
        rig_kafka_error(rd_kafka_init_transactions(b->producer[i], ASK_MS), "init_transactions");
        b->rkt[i] = rig_meet(b->producer[i], b->pass->output);
    }
    b->consumer = rig_consumer(b->pass->input, PARTITIONS, "");
}

static void bare_commit(struct bare *b)
{
    rd_kafka_t *rk = b->producer[b->turn];
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);
    rd_kafka_consumer_group_metadata_t *group =
        rd_kafka_consumer_group_metadata_new(b->pass->output);

    for (int p = 0; p < PARTITIONS; p++) {
        rd_kafka_topic_partition_list_add(list, b->pass->input, p)->offset = b->next[p];
    }
    rig_kafka_error(rd_kafka_send_offsets_to_transaction(rk, list, group, ASK_MS), "send_offsets");
    rig_kafka_error(rd_kafka_commit_transaction(rk, ASK_MS), "commit");
    rd_kafka_consumer_group_metadata_destroy(group);
    rd_kafka_topic_partition_list_destroy(list);
    b->turn = (b->turn + 1) % b->kind->ids;
}

static void bare_pass_on(struct bare *b, const rd_kafka_message_t *m)
{
    rig_kafka(m->err, "the bare loop reads");
    while (rd_kafka_produce(b->rkt[b->turn], m->partition, RD_KAFKA_MSG_F_COPY, m->key, m->key_len,
                            m->payload, m->len, NULL) != 0) {
        bench_must(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL, "produce");
        (void)rd_kafka_poll(b->producer[b->turn], 1);
    }
    b->next[m->partition] = m->offset + 1;
}

static void *bare_loop(void *arg)
{
    struct bare *b = arg;
    bool open = false;

    for (double due = 0; !atomic_load(&b->pass->stop);) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(b->consumer, 1);
        if (m && m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            if (!open) {
                rig_kafka_error(rd_kafka_begin_transaction(b->producer[b->turn]), "begin");
                open = true;
                due = due + INTERVAL > bench_now() ? due + INTERVAL : bench_now() + INTERVAL;
            }
            bare_pass_on(b, m);
        }
        if (m) {
            rd_kafka_message_destroy(m);
        }
        if (open && bench_now() >= due) {
            bare_commit(b);
            open = false;
        }
    }
    if (open) {
        bare_commit(b);
    }
    return NULL;
}

static void bare_close(struct bare *b)
{
    for (int i = 0; i < b->kind->ids; i++) {
        rd_kafka_topic_destroy(b->rkt[i]);
        rd_kafka_destroy(b->producer[i]);
    }
    rig_consumer_destroy(b->consumer);
}

/* ---- levee ---- */

static int split(levee_output *out, const struct levee_record *r, void *arg)
{
    (void)arg;
    return levee_emit_words(out, r->value);
}

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    const struct pass *p = arg;
    struct levee_kafka_options in = {.brokers = rig_brokers, .topic = p->input};
    struct levee_kafka_sink_options out = {
        .brokers = rig_brokers, .topic = p->output, .value = LEVEE_VALUE_I64};
    levee_stream *words = levee_flat_map(levee_kafka_source(ctx, "in", &in), split, NULL);
    levee_stream *sums = levee_reduce_by_key(levee_map_to_i64(words, 1), &levee_sum_i64);

    (void)levee_kafka_sink(
        levee_update_state_by_key(sums, "totals", NULL, levee_update_sum_i64, NULL), "out", &out);
    return levee_context_status(ctx, err);
}

static levee_context *ours_open(struct pass *p)
{
    struct levee_options o = {.directory = "state", .batch_interval_ms = 10, .workers = 1};
    struct levee_error err = {0};
    levee_context *ctx;

    bench_check(levee_get_or_create(&ctx, &o, build, p, &err), &err, "create");
    bench_check(levee_start(ctx, &err), &err, "start");
    return ctx;
}

static void ours_close(levee_context *ctx)
{
    struct levee_error err = {0};

    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    levee_free(ctx);
    bench_remove("state");
}

/* ---- seeing ---- */

/* Everything of this word up to its n-th record is in committed output now. */
static void answer(struct pass *p, uint64_t word, uint64_t n, double now)
{
    bench_must(word < WORDS && n > p->seen[word], "an answer that came before");
    for (uint64_t i = p->seen[word]; i < n; i++) {
        uint64_t k = i * WORDS + word;
        bench_must(k < p->total, "an answer to nothing");
        p->late[k] = now - (p->from + (double)k / (double)p->rate);
        p->answered++;
    }
    p->seen[word] = n;
}

static void take(struct pass *p, const rd_kafka_message_t *m, double now)
{
    const char *word = p->way == DIRECT ? m->payload : m->key;
    size_t word_len = p->way == DIRECT ? m->len : m->key_len;
    const void *number = p->way == DIRECT ? m->key : m->payload;
    size_t number_len = p->way == DIRECT ? m->key_len : m->len;
    uint64_t w = tally_number(word + 1, word_len - 1), n = tally_number(number, number_len);

    answer(p, w, p->way == OURS ? n : n / WORDS + 1, now);
}

static void watch(struct pass *p, rd_kafka_t *rk)
{
    while (p->answered < p->total) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 10);
        double now = bench_now();
        if (m && !m->err) {
            take(p, m, now);
        }
        if (m) {
            rd_kafka_message_destroy(m);
        }
        bench_must(now < p->from + (double)p->total / (double)p->rate + LATE,
                   "waiting for answers");
    }
}

static struct latency run_pass(enum way way, const struct bare_kind *kind, uint64_t rate)
{
    struct pass p = {.way = way, .rate = rate, .warm = (uint64_t)(WARM * (double)rate)};
    struct bare b = {.pass = &p, .kind = kind};
    struct latency r;
    levee_context *ctx = NULL;
    pthread_t feeder, loop = pthread_self(); /* only if there is one */

    p.total = p.warm + (uint64_t)((bench_quick ? 0.2 : MEASURED) * (double)rate);
    p.late = bench_alloc(p.total * sizeof *p.late);
    p.seen = bench_alloc(WORDS * sizeof *p.seen);
    p.input = rig_topic("words-in", PARTITIONS);
    p.output = way == DIRECT ? p.input : rig_topic("words-out", PARTITIONS);
    rd_kafka_t *reader = rig_consumer(p.output, PARTITIONS, "");
    if (way == OURS) {
        ctx = ours_open(&p);
    } else if (way != DIRECT) {
        bare_open(&b);
        bench_must(pthread_create(&loop, NULL, bare_loop, &b) == 0, "thread");
    }
    struct rig_cost from = rig_begin();
    p.from = bench_now() + 0.05;
    bench_must(pthread_create(&feeder, NULL, feed, &p) == 0, "thread");
    watch(&p, reader);
    r.took = rig_since(from);
    (void)pthread_join(feeder, NULL);
    if (way == OURS) {
        ours_close(ctx);
    } else if (way != DIRECT) {
        atomic_store(&p.stop, true);
        (void)pthread_join(loop, NULL);
        bare_close(&b);
    }
    rig_consumer_destroy(reader);
    rig_topic_delete(p.input);
    if (way != DIRECT) {
        rig_topic_delete(p.output);
    }
    r.p50 = bench_quantile(p.late + p.warm, p.total - p.warm, 0.5);
    r.p99 = bench_quantile(p.late + p.warm, p.total - p.warm, 0.99);
    free(p.late);
    free(p.seen);
    return r;
}

/* ---- the rung ---- */

static const struct bare_kind *best_kind(uint64_t rate)
{
    const struct bare_kind *best = NULL;
    double least = 1e9;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        double first = run_pass(BARE, &kinds[i], rate).p99;
        double second = run_pass(BARE, &kinds[i], rate).p99;
        double p99 = first < second ? first : second;
        if (p99 < least) {
            least = p99;
            best = &kinds[i];
        }
    }
    return best;
}

static void run(const struct bench_goal goals[2], uint64_t rate)
{
    double ratio[2][BENCH_PAIRS], shown[6][BENCH_PAIRS];
    const struct bare_kind *kind = best_kind(rate);
    struct latency direct = run_pass(DIRECT, NULL, rate);
    size_t n = 0;

    for (double deadline = rig_deadline(15); bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct latency a = run_pass(BARE, kind, rate), b = run_pass(OURS, NULL, rate);
        ratio[0][n] = b.p50 / a.p50;
        ratio[1][n] = b.p99 / a.p99;
        shown[0][n] = a.p50;
        shown[1][n] = a.p99;
        shown[2][n] = b.p50;
        shown[3][n] = b.p99;
        shown[4][n] = a.took.cpu / a.took.wall;
        shown[5][n] = b.took.cpu / b.took.wall;
    }
    bench_row(&goals[0], ratio[0], n);
    bench_row(&goals[1], ratio[1], n);
    (void)printf("      ours p50 %.1f, p99 %.1f ms; bare (%s) p50 %.1f, p99 %.1f ms; no "
                 "program between: p50 %.1f, p99 %.1f ms;\n      processors used %.2f (bare %.2f), "
                 "sender and reader included; every record answered once\n",
                 1e3 * bench_median(shown[2], n), 1e3 * bench_median(shown[3], n), kind->what,
                 1e3 * bench_median(shown[0], n), 1e3 * bench_median(shown[1], n), 1e3 * direct.p50,
                 1e3 * direct.p99, bench_median(shown[5], n), bench_median(shown[4], n));
}

void kafka_latency(void)
{
    static const struct bench_goal slow[] = {
        {"8a", "word to committed count, 1,000/s, p50 / bare loop", 2, 1.5, 1.3, true},
        {"8a", "word to committed count, 1,000/s, p99 / bare loop", 3, 2, 1.6, true}};
    static const struct bench_goal fast[] = {
        {"8b", "word to committed count, 100,000/s, p50 / bare loop", 2, 1.5, 1.3, true},
        {"8b", "word to committed count, 100,000/s, p99 / bare loop", 3, 2, 1.6, true}};

    if (bench_wanted("8a")) {
        run(slow, 1000);
    }
    if (bench_wanted("8b")) {
        run(fast, RATE_MAX);
    }
}
