/*
 * Rung 4: lines from Kafka into the log / the best bare consumer of the same topic, in one run.
 *
 *   4a  messages of 100 bytes, messages/s      4b  messages of 1 KiB, bytes/s
 *
 * The broker is librdkafka's mock, in a process of its own on the same two cores; it keeps 5 MiB a
 * partition, so a topic has many partitions and every pass reads it again from the beginning. The
 * bare side consumes with poll or with a callback, under levee's settings or with far larger
 * queues: all four are tried and the fastest is what levee is held against. CRC checks and
 * read_committed are on for both sides; the batch call is on neither, it loses messages in
 * librdkafka 2.0.2.
 *
 * A pass counts from the first message to the last: taken, on the bare side; durable in the log, on
 * ours. Every pass of ours has a directory of its own, so the log is making its first segments. In
 * the rung no batch runs meanwhile, the blocks wait in memory: source and log, nothing else. The
 * rows beside it: with a batch every 100 ms that looks at every record and drops it; and with the
 * client's queue ten times as large, which shows what its pauses cost (librdkafka 2.0.2 stops
 * fetching for about a second when the queue is full).
 *
 * Both sides sum up the messages. Ours is summed up from the log: after the last pass it is read
 * back, every block decoded, every message counted.
 */
#include <librdkafka/rdkafka.h>
#include <librdkafka/rdkafka_mock.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench/bench.h"
#include "bench/kafka_log.h"
#include "levee/connect.h"
#include "runtime/context.h"

#define PARTITION_BYTES                                                                            \
    4400000u                /* what a partition is filled with; the mock drops beyond 5 MiB        \
                             */
#define RECORD_OVERHEAD 12u /* of a message in a batch, about */
#define POLL_SECONDS    0.0001
#define NEVER_MS        3600000u /* no batch falls into a pass */

struct topic {
    const char *name;
    size_t message; /* bytes */
    int partitions;
    uint64_t count; /* messages in all */
};

static char brokers[128];

/* ---- the broker, in a child ---- */

static struct {
    pid_t pid;
    int stop; /* closed: the child ends */
} broker;

static _Noreturn void serve(const struct topic *topics, size_t n, int tell, int stop)
{
    char text[256], byte;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    (void)rd_kafka_conf_set(conf, "log_level", "0", text, sizeof text);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof text);
    rd_kafka_mock_cluster_t *cluster = rk ? rd_kafka_mock_cluster_new(rk, 1) : NULL;

    for (size_t i = 0; i < n && cluster; i++) {
        if (rd_kafka_mock_topic_create(cluster, topics[i].name, topics[i].partitions, 1)) {
            _exit(1);
        }
    }
    const char *where = cluster ? rd_kafka_mock_cluster_bootstraps(cluster) : "";
    if (write(tell, where, strlen(where) + 1) < 0) {
        _exit(1);
    }
    (void)close(tell);
    (void)!read(stop, &byte, 1); /* until the parent is gone or has had enough */
    _exit(0);
}

static void broker_start(const struct topic *topics, size_t n)
{
    int tell[2], stop[2];

    bench_must(pipe(tell) == 0 && pipe(stop) == 0, "pipe");
    (void)fflush(stdout);
    broker.pid = fork(); /* before there is any client: they do not survive it */
    bench_must(broker.pid >= 0, "fork");
    if (broker.pid == 0) {
        (void)close(tell[0]);
        (void)close(stop[1]);
        serve(topics, n, tell[1], stop[0]);
    }
    (void)close(tell[1]);
    (void)close(stop[0]);
    broker.stop = stop[1];
    bench_must(read(tell[0], brokers, sizeof brokers - 1) > 1, "the mock broker does not start");
    (void)close(tell[0]);
}

static void broker_stop(void)
{
    (void)close(broker.stop);
    (void)waitpid(broker.pid, NULL, 0);
}

/* ---- clients ---- */

static void set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) != RD_KAFKA_CONF_OK) {
        bench_must(false, text);
    }
}

static rd_kafka_t *client(rd_kafka_type_t type, rd_kafka_conf_t *conf)
{
    char text[256];

    set(conf, "bootstrap.servers", brokers);
    set(conf, "log_level", "0");
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    bench_must(rk != NULL, text);
    return rk;
}

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *m, void *opaque)
{
    (void)rk;
    (void)opaque;
    bench_must(m->err == RD_KAFKA_RESP_ERR_NO_ERROR, "a message was not delivered");
}

/* Fills the topic evenly; the first 8 bytes of a message are its number. */
static void fill(struct topic *t)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    uint8_t *message = bench_alloc(t->message);

    set(conf, "batch.size", "100000");
    set(conf, "linger.ms", "20");
    set(conf, "queue.buffering.max.messages", "200000");
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    rd_kafka_t *rk = client(RD_KAFKA_PRODUCER, conf);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, t->name, NULL);
    t->count = PARTITION_BYTES / (t->message + RECORD_OVERHEAD) * (uint64_t)t->partitions;
    t->count = bench_quick ? t->count / 10 : t->count;
    memset(message, 'm', t->message);
    for (uint64_t i = 0; i < t->count; i++) {
        put_le64(message, i);
        while (rd_kafka_produce(topic, (int32_t)(i % (uint64_t)t->partitions), RD_KAFKA_MSG_F_COPY,
                                message, t->message, NULL, 0, NULL) != 0) {
            bench_must(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL, "produce");
            (void)rd_kafka_poll(rk, 10);
        }
        if (i % 1000 == 0) {
            (void)rd_kafka_poll(rk, 0);
        }
    }
    bench_must(rd_kafka_flush(rk, 30000) == RD_KAFKA_RESP_ERR_NO_ERROR, "flush");
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
    free(message);
}

struct pass {
    struct bench_time took;
    uint64_t sum;
};

/* ---- the bare consumer ---- */

struct bare { /* the settings that are tried */
    const char *what;
    bool callback, large_queues;
};

static const struct bare bares[] = {{"poll", false, false},
                                    {"callback", true, false},
                                    {"poll, large queues", false, true},
                                    {"callback, large queues", true, true}};

struct taking {
    uint64_t count, sum;
    struct bench_time from;
};

static inline void take(const rd_kafka_message_t *m, struct taking *t)
{
    if (m->err == RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (t->count++ == 0) {
            t->from = bench_start();
        }
        t->sum += get_le64(m->payload) * (m->len + 1);
    }
}

static void on_message(rd_kafka_message_t *m, void *arg)
{
    take(m, arg);
}

static rd_kafka_t *bare_client(const struct bare *b, const struct topic *t)
{
    static const char *const ours[][2] = {
        /* levee's own (connectors/kafka_client.c) */
        {"group.id", "bare"},
        {"enable.auto.commit", "false"},
        {"enable.auto.offset.store", "false"},
        {"auto.offset.reset", "error"},
        {"check.crcs", "true"},
        {"isolation.level", "read_committed"},
        {"enable.partition.eof", "true"},
        {"socket.nagle.disable", "true"},
        {"fetch.wait.max.ms", "10"},
        {"fetch.message.max.bytes", "4194304"},
        {"fetch.max.bytes", "67108864"},
        {"receive.message.max.bytes", "134217728"},
    };
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    for (size_t i = 0; i < ARRAY_LEN(ours); i++) {
        set(conf, ours[i][0], ours[i][1]);
    }
    set(conf, "queued.min.messages", b->large_queues ? "1000000" : "100000");
    set(conf, "queued.max.messages.kbytes", b->large_queues ? "1048576" : "65536");
    rd_kafka_t *rk = client(RD_KAFKA_CONSUMER, conf);
    (void)rd_kafka_poll_set_consumer(rk);
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(t->partitions);
    for (int p = 0; p < t->partitions; p++) {
        rd_kafka_topic_partition_list_add(list, t->name, p)->offset = 0;
    }
    bench_must(rd_kafka_assign(rk, list) == RD_KAFKA_RESP_ERR_NO_ERROR, "assign");
    rd_kafka_topic_partition_list_destroy(list);
    return rk;
}

static struct pass bare_pass(const struct bare *b, const struct topic *t)
{
    rd_kafka_t *rk = bare_client(b, t);
    rd_kafka_queue_t *queue = rd_kafka_queue_get_consumer(rk);
    struct taking taking = {0};
    double deadline = bench_now() + 20;

    while (taking.count < t->count) {
        if (b->callback) {
            (void)rd_kafka_consume_callback_queue(queue, 100, on_message, &taking);
        } else {
            rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 100);
            if (m) {
                take(m, &taking);
                rd_kafka_message_destroy(m);
            } else {
                bench_must(bench_now() < deadline, "the bare consumer waits for messages");
            }
        }
    }
    struct pass p = {bench_since(taking.from), taking.sum};
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy_flags(rk, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
    return p;
}

/* ---- levee ---- */

struct ours { /* what a pass is like */
    const struct topic *topic;
    uint32_t batch_ms; /* NEVER_MS leaves batches out of the pass */
    bool large_queues, read_back;
    levee_stream *source;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    static const char *const large[] = {"queued.min.messages=1000000",
                                        "queued.max.messages.kbytes=1048576", NULL};
    struct ours *o = arg;
    struct levee_kafka_options k = {
        .brokers = brokers, .topic = o->topic->name, .properties = o->large_queues ? large : NULL};

    o->source = levee_kafka_source(ctx, "in", &k);
    kafka_log_only(o->source);
    return levee_context_status(ctx, err);
}

static struct pass our_pass(struct ours o, struct levee_metrics *ret_metrics)
{
    const struct topic *t = o.topic;
    struct levee_options options = {.directory = "state",
                                    .batch_interval_ms = o.batch_ms,
                                    .workers = 1,
                                    .buffer_bytes = o.batch_ms == NEVER_MS ? (uint64_t)1 << 30 : 0};
    struct levee_error err = {0};
    struct pass p = {{0, 0}, 0};
    levee_context *ctx;
    double deadline = bench_now() + 20;

    bench_check(levee_get_or_create(&ctx, &options, build, &o, &err), &err, "create");
    struct levee_inlet *in = rt_stream_inlet(o.source);
    bench_check(levee_start(ctx, &err), &err, "start");
    while (counter_get(&ctx->count.received) == 0) {
        bench_must(bench_now() < deadline, "levee waits for messages");
        bench_sleep_until(bench_now() + POLL_SECONDS);
    }
    struct bench_time from = bench_start();
    while (!kafka_log_has(ctx, in, t->count)) {
        bench_must(bench_now() < deadline, "levee waits for messages");
        bench_sleep_until(bench_now() + POLL_SECONDS * 5);
    }
    p.took = bench_since(from);
    levee_context_metrics(ctx, ret_metrics);
    bench_check(levee_stop(ctx, &err), &err, "stop");
    bench_check(levee_await(ctx, &err), &err, "await");
    if (o.read_back) {
        p.sum = kafka_log_sum(&ctx->dir, t->count);
    }
    levee_free(ctx);
    bench_remove("state");
    return p;
}

/* ---- the rung ---- */

static const struct bare *fastest(const struct topic *t)
{
    const struct bare *best = &bares[0];
    double least = 1e9;

    for (size_t i = 0; i < ARRAY_LEN(bares); i++) {
        double took[2];
        for (size_t k = 0; k < ARRAY_LEN(took); k++) {
            took[k] = bare_pass(&bares[i], t).took.wall;
        }
        double faster = bench_quantile(took, ARRAY_LEN(took), 0);
        (void)printf("      bare consumer, %-24s %.2f M messages/s\n", bares[i].what,
                     (double)t->count / faster / 1e6);
        if (faster < least) {
            least = faster;
            best = &bares[i];
        }
    }
    return best;
}

/* A few pairs of another kind, for the rows beside the rung. */
static void aside(const char *what, const struct bare *b, struct ours o)
{
    double ratios[3];
    struct levee_metrics m;
    size_t n = 0;

    for (; n < (bench_quick ? 1 : ARRAY_LEN(ratios)); n++) {
        double bare = bare_pass(b, o.topic).took.wall;
        ratios[n] = bare / our_pass(o, &m).took.wall;
    }
    bench_aside(what, ratios, n);
}

static void run(const struct bench_goal *goal, struct topic *t, double seconds)
{
    double ratios[BENCH_PAIRS], wall[2][BENCH_PAIRS], cpu[2][BENCH_PAIRS], deadline;
    struct ours rung = {.topic = t, .batch_ms = NEVER_MS}, other = rung;
    struct levee_metrics m = {0};
    size_t n = 0;

    fill(t);
    const struct bare *b = fastest(t);
    for (deadline = bench_now() + seconds; bench_more(n, BENCH_PAIRS, deadline); n++) {
        struct pass bare = bare_pass(b, t), ours = our_pass(rung, &m);
        ratios[n] = bare.took.wall / ours.took.wall;
        wall[0][n] = bare.took.wall;
        wall[1][n] = ours.took.wall;
        cpu[0][n] = bare.took.cpu;
        cpu[1][n] = ours.took.cpu;
    }
    bench_row(goal, ratios, n);
    other.batch_ms = 100;
    aside("  with a batch every 100 ms that looks at every record", b, other);
    other = rung;
    other.large_queues = true;
    aside("  with a client queue of 1 M messages", b, other);
    rung.read_back = true;
    uint64_t want = bare_pass(b, t).sum, sum = our_pass(rung, &m).sum;
    bench_must(sum == want, "the log holds what the bare consumer got");
    double millions = (double)t->count / 1e6, mb = millions * (double)t->message;
    (void)printf("      %.2f M messages, %d partitions: %.2f M/s, %.0f MB/s (bare, %s: %.2f M/s); "
                 "CPU-s per M %.2f (bare %.2f);\n      log bytes / payload %.3f, %llu syncs for "
                 "%llu blocks; checksum %016llx, the same on both sides\n",
                 millions, t->partitions, millions / bench_median(wall[1], n),
                 mb / bench_median(wall[1], n), b->what, millions / bench_median(wall[0], n),
                 bench_median(cpu[1], n) / millions, bench_median(cpu[0], n) / millions,
                 (double)m.bytes_logged / mb / 1e6, (unsigned long long)m.log_syncs,
                 (unsigned long long)m.blocks, (unsigned long long)sum);
}

int main(void)
{
    static const struct bench_goal goals[] = {
        {"4a", "100 B messages, Kafka into the log / best bare consumer", 0.9, 0.97, 1.0, false},
        {"4b", "1 KiB messages, Kafka into the log / best bare consumer", 0.75, 0.9, 0.97, false}};
    struct topic topics[] = {{"small", 100, 24, 0}, {"large", 1024, 48, 0}};

    bench_init("bench_kafka_mock");
    bench_must(chdir(bench_scratch()) == 0, "scratch directory");
    broker_start(topics, ARRAY_LEN(topics));
    for (size_t i = 0; i < ARRAY_LEN(goals); i++) {
        if (bench_wanted(goals[i].rung)) {
            run(&goals[i], &topics[i], 12);
        }
    }
    broker_stop();
    return 0;
}
