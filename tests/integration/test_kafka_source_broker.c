/*
 * The Kafka source on a real broker: what the mock does not have. Transactions, times, codecs,
 * topics that grow, messages of every size. Faults 88 and 92.
 *
 * One broker of each version serves all tests; each has topics of its own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct broker shared[BROKER_VERSIONS];
static struct broker *broker; /* of this test */
static struct rig rig;
static struct rig_expected expected;

/* Compaction at once, and messages larger than usual. */
static const char *const properties[] = {"log.cleaner.backoff.ms=50",
                                         "log.cleaner.min.cleanable.ratio=0.001",
                                         "message.max.bytes=10000000", NULL};

static void start_shared(void)
{
    broker_start_each(shared, properties);
}

static void stop_shared(void)
{
    broker_stop_each(shared);
}

static bool begin(int i, const char *topic, int partitions, const char *const *config)
{
    broker = &shared[i];
    return rig_open_on(&rig, broker, topic, partitions, 1, config);
}

static void send_numbers(int32_t partition, uint64_t first, size_t count,
                         const struct broker_how *how)
{
    rig_send_numbers(&rig, broker, &expected, partition, first, count, how);
}

static void await_all(void)
{
    rig_await(&rig, (int64_t)expected.count);
}

/* ---- transactions ---- */

static const struct broker_how commit = {.transaction = "tx", .end = BROKER_COMMIT};
static const struct broker_how abort_it = {.transaction = "tx", .end = BROKER_ABORT};

START_TEST(f89_only_committed_records_are_read_over_several_lives)
{
    uint64_t next = 0;

    if (!begin(_i, "committed", 2, NULL)) {
        return;
    }
    for (int life = 0; life < 4; life++) {
        for (int32_t p = 0; p < 2; p++) {
            const struct broker_how *const order[] = {&commit, &abort_it, NULL, &abort_it};
            for (size_t k = 0; k < LEN(order); k++) {
                send_numbers(p, next, 30, order[((size_t)life + k) % LEN(order)]);
                next += 30;
            }
        }
        rig_up(&rig);
        await_all();
        if (life % 2) {
            rig_drain(&rig);
        }
        rig_down(&rig);
    }
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* The end that was found is behind the markers of an aborted transaction: no record ever comes from
 * there, and the run ends all the same. */
START_TEST(f89_a_run_ends_at_a_topic_that_ends_in_an_aborted_transaction)
{
    struct levee_error err = {0};

    if (!begin(_i, "aborted-end", 2, NULL)) {
        return;
    }
    send_numbers(0, 1, 50, &commit);
    send_numbers(0, 1000, 50, &abort_it);
    send_numbers(1, 2000, 50, &abort_it); /* nothing else in this one */
    rig.levee.stop_at_end = true;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_down(&rig);
    send_numbers(1, 3000, 10, NULL); /* of the next run */
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* With an open transaction the end is where it begins, also for what is committed behind it. */
START_TEST(a_run_ends_before_an_open_transaction)
{
    static const struct broker_how other = {.transaction = "other", .end = BROKER_LEAVE_OPEN};
    static const struct broker_how ended = {.transaction = "other", .end = BROKER_ABORT};
    struct levee_error err = {0};

    if (!begin(_i, "open-end", 1, NULL)) {
        return;
    }
    send_numbers(0, 1, 50, &commit);
    BROKER_MUST(broker, broker_send_numbers(broker, "open-end", 0, 1000, 10, &other));
    rig.levee.stop_at_end = true;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_down(&rig);
    send_numbers(0, 2000, 50, &commit);
    BROKER_MUST(broker, broker_send_numbers(broker, "open-end", 0, 0, 0, &ended));
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- starts ---- */

START_TEST(a_time_is_where_partitions_begin)
{
    char texts[30][16];

    if (!begin(_i, "times", 3, NULL)) {
        return;
    }
    for (int i = 0; i < 30; i++) { /* the last partition stays empty */
        struct broker_message m = {.partition = i % 2, .timestamp_ms = 1000000 + i * 1000};
        (void)snprintf(texts[i], sizeof texts[i], "%d", i);
        m.value = levee_text(texts[i]);
        BROKER_MUST(broker, broker_send(broker, "times", &m, 1, NULL));
        if (i >= 11) {
            rig_expect_message(&expected, &m);
        }
    }
    rig.text = NULL; /* with times */
    rig.kafka.start = LEVEE_KAFKA_TIMESTAMP;
    rig.kafka.start_time_ms = 1000000 + 10 * 1000 + 1;
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    struct broker_message m = {
        .partition = 2, .value = levee_text("old"), .timestamp_ms = 1}; /* but new to the topic */
    BROKER_MUST(broker, broker_send(broker, "times", &m, 1, NULL));
    rig_expect_message(&expected, &m);
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- topics that grow ---- */

START_TEST(f88_partitions_that_a_topic_gains_are_read_from_their_beginning)
{
    if (!begin(_i, "growing", 1, NULL)) {
        return;
    }
    BROKER_MUST(broker, broker_send_numbers(broker, "growing", 0, 1, 10, NULL)); /* not wanted */
    rig.kafka.start = LEVEE_KAFKA_LATEST;
    rig_up(&rig);
    rig_await_partitions(&rig, 1);
    BROKER_MUST(broker, broker_topic_grow(broker, "growing", 3)); /* while it is read */
    send_numbers(2, 200, 10, NULL);
    send_numbers(0, 20, 10, NULL);
    await_all();
    rig_down(&rig);
    BROKER_MUST(broker, broker_topic_grow(broker, "growing", 5)); /* while nobody looks */
    send_numbers(4, 400, 10, NULL);
    send_numbers(1, 100, 10, NULL);
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* Nor do they belong to a run that has begun. */
START_TEST(a_run_has_the_partitions_of_its_first_start)
{
    struct levee_error err = {0};

    if (!begin(_i, "growing-run", 1, NULL)) {
        return;
    }
    send_numbers(0, 1, 3000, NULL);
    rig.levee.stop_at_end = true;
    rig.levee.max_rate = 1000;
    rig_up(&rig);
    rig_await(&rig, 1);
    rig_down(&rig); /* as killed */
    BROKER_MUST(broker, broker_topic_grow(broker, "growing-run", 2));
    BROKER_MUST(broker, broker_send_numbers(broker, "growing-run", 1, 9000, 10, NULL));
    rig.levee.max_rate = 0;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- bytes ---- */

START_TEST(f92_every_codec_and_messages_up_to_the_brokers_limit)
{
    static uint8_t large[9000000];
    static const char *const codecs[] = {"none", "gzip", "snappy", "lz4", "zstd"};

    if (!begin(_i, "codecs", 2, (const char *const[]){"max.message.bytes=10000000", NULL})) {
        return;
    }
    for (size_t i = 0; i < sizeof large; i++) {
        large[i] = (uint8_t)(i * 2654435761u >> 15);
    }
    for (size_t c = 0; c < LEN(codecs); c++) {
        char property[64];
        const char *const list[] = {property, "message.max.bytes=10000000", NULL};
        const struct broker_how how = {.properties = list};
        (void)snprintf(property, sizeof property, "compression.type=%s", codecs[c]);
        send_numbers((int32_t)(c % 2), c * 1000, 500, &how);
        const struct broker_message m = {.partition = (int32_t)(c % 2),
                                         .value = {large, sizeof large - c}};
        BROKER_MUST(broker, broker_send(broker, "codecs", &m, 1, &how));
        rig_expect_message(&expected, &m);
    }
    rig.levee.segment_bytes = 32u << 20;
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* A record that no segment of our log can hold is refused whole, by its place. */
START_TEST(f92_a_record_larger_than_a_segment_is_an_error_with_its_place)
{
    static uint8_t large[100000];
    struct levee_error err = {0};
    const struct broker_message m = {.value = {large, sizeof large}};

    if (!begin(_i, "oversized", 1, NULL)) {
        return;
    }
    send_numbers(0, 1, 10, NULL);
    BROKER_MUST(broker, broker_send(broker, "oversized", &m, 1, NULL));
    rig.levee.segment_bytes = 64u << 10;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ERECORD_TOO_LONG);
    ck_assert_ptr_nonnull(strstr(err.where, "partition 0 of topic oversized"));
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- a full queue ---- */

/* Many more messages than the client queues at once, and read as fast as can be: its queue is full
 * and then empty again within milliseconds, which the client by itself notices once a second. */
START_TEST(a_client_whose_queue_was_full_does_not_pause)
{
    enum { PARTITIONS = 4, EACH = 50000, PAUSE_MS = 700 };
    static const char *const batches[] = {"linger.ms=20", "batch.size=20000", NULL};
    static const struct broker_how how = {.properties = batches};
    struct levee_metrics now, before = {0};
    int pauses = 0;

    if (!begin(_i, "queue", PARTITIONS, NULL)) {
        return;
    }
    for (int32_t p = 0; p < PARTITIONS; p++) {
        BROKER_MUST(broker, broker_send_numbers(broker, "queue", p, 0, EACH, &how));
    }
    /* As with the defaults and some hundred megabytes: many fetches, each of which fills it. */
    rig.kafka.properties =
        (const char *const[]){"queued.min.messages=2000", "fetch.message.max.bytes=20000", NULL};
    rig.kafka.look_ms = 60000; /* a look would wake it, too */
    rig.levee.batch_interval_ms = 500;
    rig_up(&rig);
    int64_t moved = rig_now_ms(), end = moved + (int64_t)2 * RIG_PATIENCE_MS;
    do {
        rig_wait_ms(&rig, 1);
        levee_context_metrics(rig.ctx, &now);
        if (now.records_received != before.records_received) {
            pauses += before.records_received && rig_now_ms() - moved >= PAUSE_MS;
            moved = rig_now_ms();
            before = now;
        }
        ck_assert_msg(moved < end, "%" PRIu64 " records received", now.records_received);
    } while (now.records_received < (uint64_t)PARTITIONS * EACH);
    /* One the machine may have made. */
    ck_assert_msg(pauses <= 1, "%d pauses of %d ms and more", pauses, PAUSE_MS);
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_broker");
    TCase *t = tcase_create("real broker");
    const int n = BROKER_VERSIONS;

    tcase_add_unchecked_fixture(t, start_shared, stop_shared);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, f89_only_committed_records_are_read_over_several_lives, 0, n);
    tcase_add_loop_test(t, f89_a_run_ends_at_a_topic_that_ends_in_an_aborted_transaction, 0, n);
    tcase_add_loop_test(t, a_run_ends_before_an_open_transaction, 0, n);
    tcase_add_loop_test(t, a_time_is_where_partitions_begin, 0, n);
    tcase_add_loop_test(t, f88_partitions_that_a_topic_gains_are_read_from_their_beginning, 0, n);
    tcase_add_test(t, a_run_has_the_partitions_of_its_first_start);
    tcase_add_loop_test(t, f92_every_codec_and_messages_up_to_the_brokers_limit, 0, n);
    tcase_add_test(t, f92_a_record_larger_than_a_segment_is_an_error_with_its_place);
    tcase_add_test(t, a_client_whose_queue_was_full_does_not_pause);
    suite_add_tcase(s, t);
    return suite_main(s);
}
