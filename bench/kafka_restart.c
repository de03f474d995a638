/*
 * Rung 11k: from kill -9 to the first new committed output, on a warm broker.
 *
 * The program is examples/kafka_wordcount with batches of 10 ms under 2,000 lines a second; it is
 * killed at random instants between 100 and 400 ms after its last recovery, so mostly inside an
 * open transaction, and started again at once. The clock runs from the kill to the first record
 * that a read_committed consumer is handed and whose time stamp, the time it was sent, lies behind
 * the kill. Everything is in it: the kill, exec, opening the directory, recovery, the broker, the
 * next batch. At the end the totals must be those of the lines that were sent.
 *
 * The other side is the least that a transactional writer with a token needs, in a process of its
 * own that is killed and started in the same way: init_transactions for two ids, reading the token,
 * one transaction. What of it is the broker's is printed: an open transaction of the dead is
 * aborted first, which takes the broker and the client half a second now and then.
 *
 *     bench_kafka bare-restart BROKERS TOPIC PIPE
 */
#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bench/kafka_rungs.h"
#include "bench/kafka_view.h"
#include "bench/words.h"

#define PARTITIONS 4
#define RATE       2000
#define DEATHS     100
#define ASK_MS     30000
#define STEP_MS    50
#define PRODUCERS  2

extern char **environ;

/* ---- the least that is needed ---- */

struct report { /* times of the monotonic clock */
    double entered, inited, token, committed;
};

static void settle(rd_kafka_t *rk[PRODUCERS])
{
    bool ready[PRODUCERS] = {false};

    for (int left = PRODUCERS; left > 0;) { /* both at once, as our sink does it */
        for (int i = 0; i < PRODUCERS; i++) {
            rd_kafka_error_t *e = ready[i] ? NULL : rd_kafka_init_transactions(rk[i], STEP_MS);
            if (e && rd_kafka_error_is_retriable(e)) {
                rd_kafka_error_destroy(e);
            } else if (!ready[i]) {
                rig_kafka_error(e, "init_transactions");
                ready[i] = true;
                left--;
            }
        }
    }
}

static int64_t read_token(const char *topic)
{
    char settings[300];

    (void)snprintf(settings, sizeof settings, "group.id=%s isolation.level=read_committed", topic);
    rd_kafka_t *rk = rig_client(RD_KAFKA_CONSUMER, rig_conf(settings));
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    (void)rd_kafka_topic_partition_list_add(list, topic, 0);
    rig_kafka(rd_kafka_committed(rk, list, ASK_MS), "the token");
    int64_t token = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rig_consumer_destroy(rk);
    return token < 0 ? 0 : token;
}

static void transaction(rd_kafka_t *rk, rd_kafka_topic_t *rkt, const char *topic, int64_t token)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata_new(topic);
    static char text[100];

    rig_kafka_error(rd_kafka_begin_transaction(rk), "begin");
    for (int i = 0; i < 10; i++) {
        bench_must(rd_kafka_produce(rkt, i % PARTITIONS, 0, text, sizeof text, NULL, 0, NULL) == 0,
                   "produce");
    }
    rd_kafka_topic_partition_list_add(list, topic, 0)->offset = token;
    rig_kafka_error(rd_kafka_send_offsets_to_transaction(rk, list, group, ASK_MS), "send_offsets");
    rig_kafka_error(rd_kafka_commit_transaction(rk, ASK_MS), "commit");
    rd_kafka_consumer_group_metadata_destroy(group);
    rd_kafka_topic_partition_list_destroy(list);
}

int kafka_bare_restart(int argc, char **argv)
{
    struct report r = {.entered = bench_now()};
    rd_kafka_t *rk[PRODUCERS];
    rd_kafka_topic_t *rkt[PRODUCERS];
    char settings[300];

    if (argc != 5) {
        return 1;
    }
    const char *topic = argv[3];
    int out = (int)strtol(argv[4], NULL, 10);
    (void)snprintf(rig_brokers, sizeof rig_brokers, "%s", argv[2]);
    for (int i = 0; i < PRODUCERS; i++) {
        (void)snprintf(settings, sizeof settings,
                       "transactional.id=%s-%d linger.ms=0 retry.backoff.ms=2 "
                       "transaction.timeout.ms=10000",
                       topic, i);
        rk[i] = rig_producer(settings);
    }
    settle(rk);
    r.inited = bench_now();
    int64_t token = read_token(topic);
    r.token = bench_now();
    for (int i = 0; i < PRODUCERS; i++) {
        rkt[i] = rig_meet(rk[i], topic);
    }
    for (int i = 0;; i = (i + 1) % PRODUCERS) {
        transaction(rk[i], rkt[i], topic, ++token);
        if (!(r.committed > 0)) {
            r.committed = bench_now();
            bench_must(write(out, &r, sizeof r) == sizeof r, "tell the parent");
        }
        bench_sleep_until(bench_now() + 0.006);
    }
}

struct probe {
    const char *topic;
    pid_t child;
};

/* Starts it and waits for its first commit. */
static struct report start_probe(struct probe *p)
{
    char pipe_end[16], program[] = "bench_kafka", word[] = "bare-restart";
    const char *const argv[] = {program, word, rig_brokers, p->topic, pipe_end, NULL};
    struct report r;
    int fds[2];

    bench_must(pipe(fds) == 0, "pipe");
    (void)snprintf(pipe_end, sizeof pipe_end, "%d", fds[1]);
    bench_must(posix_spawn(&p->child, rig_program, NULL, NULL, (char *const *)(uintptr_t)argv,
                           environ) == 0,
               "spawn");
    (void)close(fds[1]);
    bench_must(read(fds[0], &r, sizeof r) == sizeof r, "the bare writer has told nothing");
    (void)close(fds[0]);
    return r;
}

/* ---- lines that never end ---- */

struct feeder {
    const struct words *words;
    const char *topic;
    _Atomic uint64_t sent;
    _Atomic bool stop;
    pthread_t thread;
};

static void *feed(void *arg)
{
    struct feeder *f = arg;
    rd_kafka_t *rk = rig_producer("linger.ms=0 enable.idempotence=true");
    rd_kafka_topic_t *rkt = rig_meet(rk, f->topic);
    double from = bench_now();

    for (uint64_t i = 0; !atomic_load(&f->stop); i++) {
        struct levee_slice v = f->words->lines[i % f->words->count].value;
        bench_must(rd_kafka_produce(rkt, (int32_t)(i % PARTITIONS), RD_KAFKA_MSG_F_COPY,
                                    (void *)(uintptr_t)v.data, v.len, NULL, 0, NULL) == 0,
                   "produce");
        (void)rd_kafka_poll(rk, 0);
        bench_sleep_until(from + (double)i / RATE);
        atomic_store(&f->sent, i + 1);
    }
    rig_kafka(rd_kafka_flush(rk, ASK_MS), "flush");
    rd_kafka_topic_destroy(rkt);
    rd_kafka_destroy(rk);
    return NULL;
}

/* ---- the rung ---- */

struct deaths { /* seconds */
    double ratio[DEATHS], ours[DEATHS], bare[DEATHS], init[DEATHS], token[DEATHS];
    size_t n;
};

static void live_a_while(struct view *v, uint64_t *rng)
{
    double until = bench_now() + 0.1 + (double)(rng_next(rng) % 300) / 1e3;

    while (bench_now() < until) {
        view_read(v);
    }
}

static void die_once(struct view *v, struct deaths *d, pid_t *ours, const char *const topics[2],
                     struct probe *probe)
{
    int64_t since_ms = view_now_ms() + 1;
    double at = bench_now();

    view_kill(*ours);
    *ours = rig_wordcount(topics[0], topics[1], "10", "data");
    view_watch(v, UINT64_MAX, since_ms);
    d->ours[d->n] = v->newest - at;
    at = bench_now();
    view_kill(probe->child);
    struct report r = start_probe(probe);
    d->bare[d->n] = r.committed - at;
    d->init[d->n] = r.inited - r.entered;
    d->token[d->n] = r.token - r.inited;
    d->ratio[d->n] = d->ours[d->n] / d->bare[d->n];
    d->n++;
}

static void print(struct deaths *d)
{
    static const struct bench_goal goal = {
        "11k", "kill -9 to new committed output / bare writer, the same", 1.5, 1.2, 1, true};
    size_t n = d->n;

    bench_row(&goal, d->ratio, n);
    double median = bench_median(d->ours, n), bare = bench_median(d->bare, n);
    (void)printf(
        "      %zu deaths: median %.0f ms, worst %.0f ms; bare writer median %.0f, worst "
        "%.0f ms,\n      of which init_transactions of two ids median %.0f, worst %.0f ms, "
        "the token median %.0f, worst %.0f ms; totals exact\n",
        n, 1e3 * median, 1e3 * bench_quantile(d->ours, n, 1), 1e3 * bare,
        1e3 * bench_quantile(d->bare, n, 1), 1e3 * bench_median(d->init, n),
        1e3 * bench_quantile(d->init, n, 1), 1e3 * bench_median(d->token, n),
        1e3 * bench_quantile(d->token, n, 1));
}

/* What the totals must be after so many lines. */
static uint64_t checksum_of(const struct words *w, uint64_t lines)
{
    uint64_t sum;
    struct tally t;

    tally_init(&t);
    for (uint64_t i = 0; i < lines; i++) {
        const uint8_t *p = w->lines[i % w->count].value.data;
        const uint8_t *end = p + w->lines[i % w->count].value.len;
        while (p < end) {
            const uint8_t *space = memchr(p, ' ', (size_t)(end - p));
            const uint8_t *stop = space ? space : end;
            tally_count(&t, p, (size_t)(stop - p));
            p = stop + 1;
        }
    }
    sum = tally_checksum(&t);
    tally_release(&t);
    return sum;
}

void kafka_restart(void)
{
    struct words w = {.per_line = 10, .vocabulary = 50000, .order = WORDS_ZIPF, .count = 20000};
    struct deaths d = {.n = 0};
    uint64_t rng = 7;

    if (!bench_wanted("11k")) {
        return;
    }
    words_make(&w);
    const char *const topics[2] = {rig_topic("restart-in", PARTITIONS),
                                   rig_topic("restart-out", PARTITIONS)};
    struct feeder f = {.words = &w, .topic = topics[0]};
    struct probe probe = {.topic = rig_topic("restart-bare", PARTITIONS)};
    struct view *v = view_open(topics[1], PARTITIONS);
    bench_must(pthread_create(&f.thread, NULL, feed, &f) == 0, "thread");
    pid_t ours = rig_wordcount(topics[0], topics[1], "10", "data");
    view_watch(v, 1, INT64_MAX);
    (void)start_probe(&probe);
    for (double deadline = rig_deadline(20);
         d.n < (bench_quick ? 2 : DEATHS) && (d.n < 5 || bench_now() < deadline);) {
        live_a_while(v, &rng);
        die_once(v, &d, &ours, topics, &probe);
    }
    atomic_store(&f.stop, true);
    (void)pthread_join(f.thread, NULL);
    view_watch(v, atomic_load(&f.sent) * w.per_line, INT64_MAX);
    bench_must(tally_checksum(&v->tally) == checksum_of(&w, atomic_load(&f.sent)),
               "the totals are those of the lines");
    view_kill(ours);
    view_kill(probe.child);
    print(&d);
    view_close(v);
    bench_remove("state");
    rig_topic_delete(topics[0]);
    rig_topic_delete(topics[1]);
    rig_topic_delete(probe.topic);
    words_release(&w);
}
