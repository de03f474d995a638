/*
 * The bare side of rung 13: a word count from topic to topic, exactly once, as small and as fast as
 * a program against the client alone can be. It keeps no log and no checkpoint.
 *
 *     bench_kafka bare-words BROKERS INPUT PARTITIONS OUTPUT PARTITIONS COMMIT_MS poll|callback
 *                 "NAME=VALUE …"
 *
 * One thread: takes lines, counts their words in a hash table, and every COMMIT_MS sends the
 * changed totals and the input's offsets in one transaction. After a start its state is what the
 * output topic says: init_transactions, then the offsets, then the output from its beginning.
 * Settings as kafka_txn.c has them: a delivery callback, no Nagle, a short retry backoff, metadata
 * ahead. Group and transactional id are named after the output. It lives until it is killed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench/kafka_rig.h"
#include "bench/kafka_rungs.h"
#include "bench/kafka_tally.h"

#define ASK_MS          30000
#define PARTITIONS_MAX  64
#define CLOCK_EVERY     256 /* lines between two looks at the clock */
#define READER_SETTINGS "queued.min.messages=1000000 queued.max.messages.kbytes=1048576"

struct bare {
    const char *input, *output;
    int input_partitions, output_partitions;
    rd_kafka_t *consumer, *producer;
    rd_kafka_topic_t *rkt;
    struct tally tally;
    int64_t next[PARTITIONS_MAX]; /* offsets behind what is counted */
};

/* ---- start ---- */

/* The totals that were committed. Words that were never sent are not in it, so it is exact. */
static void read_back(struct bare *b)
{
    rd_kafka_t *rk = rig_consumer(b->output, b->output_partitions, READER_SETTINGS);
    int ended = 0;

    while (ended < b->output_partitions) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(rk, 1000);
        if (!m) {
            continue;
        }
        if (m->err == RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            ended++;
        } else {
            rig_kafka(m->err, "reading the output back");
            tally_at(&b->tally, m->key, m->key_len)->count = tally_number(m->payload, m->len);
        }
        rd_kafka_message_destroy(m);
    }
    rig_consumer_destroy(rk);
}

static void start(struct bare *b, const char *settings)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    char consumer[1200], producer[400];

    (void)snprintf(producer, sizeof producer,
                   "transactional.id=%s retry.backoff.ms=2 linger.ms=2 "
                   "transaction.timeout.ms=10000 queue.buffering.max.messages=2000000",
                   b->output);
    b->producer = rig_producer(producer);
    rig_kafka_error(rd_kafka_init_transactions(b->producer, ASK_MS), "init_transactions");
    b->rkt = rig_meet(b->producer, b->output);
    read_back(b);
    (void)snprintf(consumer, sizeof consumer, "group.id=%s %s %s", b->output, rig_consumer_settings,
                   settings);
    b->consumer = rig_client(RD_KAFKA_CONSUMER, rig_conf(consumer));
    (void)rd_kafka_poll_set_consumer(b->consumer);
    rd_kafka_topic_destroy(rig_meet(b->consumer, b->input));
    for (int p = 0; p < b->input_partitions; p++) {
        (void)rd_kafka_topic_partition_list_add(list, b->input, p);
    }
    rig_kafka(rd_kafka_committed(b->consumer, list, ASK_MS), "the committed offsets");
    for (int i = 0; i < list->cnt; i++) {
        list->elems[i].offset = list->elems[i].offset < 0 ? 0 : list->elems[i].offset;
        b->next[list->elems[i].partition] = list->elems[i].offset;
    }
    rig_kafka(rd_kafka_assign(b->consumer, list), "assign");
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- a transaction ---- */

static void send_totals(struct bare *b)
{
    struct tally *t = &b->tally;
    char text[24];

    for (size_t i = 0; i < t->changed_count; i++) {
        struct tally_entry *e = &t->entries[t->changed[i]];
        int n = snprintf(text, sizeof text, "%llu", (unsigned long long)e->count);
        while (rd_kafka_produce(b->rkt, RD_KAFKA_PARTITION_UA, RD_KAFKA_MSG_F_COPY, text, (size_t)n,
                                e->word, e->len, NULL) != 0) {
            bench_must(rd_kafka_last_error() == RD_KAFKA_RESP_ERR__QUEUE_FULL, "produce");
            (void)rd_kafka_poll(b->producer, 10);
        }
        e->changed = false;
    }
    t->changed_count = 0;
}

static void commit(struct bare *b)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(4);
    rd_kafka_consumer_group_metadata_t *group = rd_kafka_consumer_group_metadata_new(b->output);

    rig_kafka_error(rd_kafka_begin_transaction(b->producer), "begin");
    send_totals(b);
    for (int p = 0; p < b->input_partitions; p++) {
        rd_kafka_topic_partition_list_add(list, b->input, p)->offset = b->next[p];
    }
    rig_kafka_error(rd_kafka_send_offsets_to_transaction(b->producer, list, group, ASK_MS),
                    "send_offsets");
    rig_kafka_error(rd_kafka_commit_transaction(b->producer, ASK_MS), "commit");
    rd_kafka_consumer_group_metadata_destroy(group);
    rd_kafka_topic_partition_list_destroy(list);
}

/* ---- lines ---- */

static inline void take(struct bare *b, const rd_kafka_message_t *m)
{
    const char *p = m->payload, *end = p + m->len;

    if (m->err) {
        if (m->err != RD_KAFKA_RESP_ERR__PARTITION_EOF) {
            rig_kafka(m->err, "reading the input");
        }
        return;
    }
    while (p < end) {
        while (p < end && *p == ' ') {
            p++;
        }
        const char *word = p;
        while (p < end && *p != ' ') {
            p++;
        }
        if (p > word) {
            tally_count(&b->tally, word, (size_t)(p - word));
        }
    }
    b->next[m->partition] = m->offset + 1;
}

static void on_message(rd_kafka_message_t *m, void *arg)
{
    take(arg, m);
}

static void take_some(struct bare *b, rd_kafka_queue_t *callback)
{
    if (callback) {
        (void)rd_kafka_consume_callback_queue(callback, 1, on_message, b);
        return;
    }
    for (int i = 0; i < CLOCK_EVERY; i++) {
        rd_kafka_message_t *m = rd_kafka_consumer_poll(b->consumer, 1);
        if (!m) {
            return;
        }
        take(b, m);
        rd_kafka_message_destroy(m);
    }
}

int kafka_bare_words(int argc, char **argv)
{
    struct bare b = {0};

    if (argc != 10) {
        return 1;
    }
    (void)snprintf(rig_brokers, sizeof rig_brokers, "%s", argv[2]);
    b.input = argv[3];
    b.input_partitions = (int)strtol(argv[4], NULL, 10);
    b.output = argv[5];
    b.output_partitions = (int)strtol(argv[6], NULL, 10);
    double interval = strtod(argv[7], NULL) / 1e3;
    bench_must(b.input_partitions <= PARTITIONS_MAX, "so many partitions");
    tally_init(&b.tally);
    start(&b, argv[9]);
    rd_kafka_queue_t *queue =
        strcmp(argv[8], "callback") == 0 ? rd_kafka_queue_get_consumer(b.consumer) : NULL;
    for (double due = bench_now() + interval;;) {
        take_some(&b, queue);
        double now = bench_now();
        if (now >= due) {
            if (b.tally.changed_count) {
                commit(&b);
            }
            due = now + interval;
        }
    }
}
