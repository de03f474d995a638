/*
 * The Kafka source on a real broker: what the mock does not have. Transactions, times, codecs,
 * topics that grow, are trimmed, compacted, deleted and made anew. Faults 85, 87–89 and 92.
 *
 * One broker of each version serves all tests; each has topics of its own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static const char *const versions[] = {"4.1", "3.9"};
static struct broker shared[LEN(versions)];
static struct broker *broker; /* of this test */
static struct rig rig;
static struct rig_expected expected;

/* Compaction at once, and messages larger than usual. */
static const char *const properties[] = {"log.cleaner.backoff.ms=50",
                                         "log.cleaner.min.cleanable.ratio=0.001",
                                         "message.max.bytes=10000000", NULL};

static void start_shared(void)
{
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_launch(&shared[i], versions[i], 1, properties);
    }
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_await(&shared[i]); /* what came of it: begin */
    }
}

static void stop_shared(void)
{
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_stop(&shared[i]);
    }
}

static bool begin(int i, const char *topic, int partitions, const char *const *config)
{
    broker = &shared[i];
    if (!broker_usable(broker)) {
        return false;
    }
    BROKER_MUST(broker, broker_topic_create(broker, topic, partitions, 1, config));
    rig_open(&rig, broker_address(broker), topic);
    rig.text = rig_text_timeless;
    return true;
}

static void send_numbers(int32_t partition, uint64_t first, size_t count,
                         const struct broker_how *how)
{
    BROKER_MUST(broker, broker_send_numbers(broker, rig.kafka.topic, partition, first, count, how));
    if (!how || how->end == BROKER_COMMIT) {
        rig_expect_numbers(&expected, first, count);
    }
}

static void await_all(void)
{
    rig_await(&rig, (int64_t)expected.count);
}

static void finish(void)
{
    await_all();
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}

/* ---- transactions ---- */

static const struct broker_how commit = {.transaction = "tx", .end = BROKER_COMMIT};
static const struct broker_how abort_it = {.transaction = "tx", .end = BROKER_ABORT};

START_TEST(only_committed_records_are_read_over_several_lives)
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
    finish();
}
END_TEST

/* The end that was found is behind the markers of an aborted transaction: no record ever comes from
 * there, and the run ends all the same. */
START_TEST(a_run_ends_at_a_topic_that_ends_in_an_aborted_transaction)
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
    char texts[30][8];

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
    finish();
}
END_TEST

/* ---- topics that grow ---- */

START_TEST(partitions_that_a_topic_gains_are_read_from_their_beginning)
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
    finish();
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

/* ---- topics that change under us ---- */

static void read_numbers(size_t count)
{
    send_numbers(0, 1, count, NULL);
    rig_up(&rig);
    await_all();
    rig_drain(&rig);
    rig_down(&rig);
}

static void make_anew(void)
{
    BROKER_MUST(broker, broker_topic_delete(broker, rig.kafka.topic));
    BROKER_MUST(broker, broker_topic_create(broker, rig.kafka.topic, 1, 1, NULL));
}

START_TEST(a_topic_made_anew_is_never_mixed_with_the_old_one)
{
    struct levee_error err = {0};

    if (!begin(_i, "anew", 1, NULL)) {
        return;
    }
    read_numbers(100);
    make_anew();
    for (size_t there = 0; there < 150; there += 60) { /* 0, 60, 120 records: fewer and more */
        rig_up(&rig);
        ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED);
        ck_assert_msg(strstr(err.expected, there > 100 ? "hash " : "offset 100") != NULL, "%s",
                      err.expected);
        rig_down(&rig);
        BROKER_MUST(broker, broker_send_numbers(broker, "anew", 0, 5000 + there, 60, NULL));
    }
    ck_assert_int_eq(rig.total, 100);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

START_TEST(a_topic_that_is_deleted_while_it_is_read_is_an_error)
{
    struct levee_error err = {0};

    if (!begin(_i, "deleted", 1, NULL)) {
        return;
    }
    send_numbers(0, 1, 10, NULL);
    rig_up(&rig);
    await_all();
    BROKER_MUST(broker, broker_topic_delete(broker, "deleted"));
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC);
    ck_assert_ptr_nonnull(strstr(err.what, "deleted was deleted"));
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* Where gaps may be skipped, a deleted topic is left behind and the others go on. */
START_TEST(a_deleted_topic_may_be_left_behind)
{
    if (!begin(_i, "left-1", 1, NULL)) {
        return;
    }
    send_numbers(0, 1, 10, NULL);
    BROKER_MUST(broker, broker_topic_create(broker, "left-2", 1, 1, NULL));
    rig.kafka.topic = NULL;
    rig.kafka.topic_pattern = "left-.";
    rig.kafka.on_gap = LEVEE_KAFKA_SKIP;
    rig_up(&rig);
    await_all();
    rig_await_partitions(&rig, 2);
    BROKER_MUST(broker, broker_topic_delete(broker, "left-1"));
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_ETOPIC);
    rig.kafka.topic = "left-2"; /* for send_numbers */
    send_numbers(0, 100, 10, NULL);
    rig.kafka.topic = NULL;
    finish();
}
END_TEST

/* ---- records deleted before us ---- */

START_TEST(retention_behind_us_is_no_gap_but_nothing_to_compare)
{
    if (!begin(_i, "trimmed", 1, NULL)) {
        return;
    }
    read_numbers(100);
    BROKER_MUST(broker, broker_topic_trim(broker, "trimmed", 0, 50)); /* the last one is there */
    rig_up(&rig);
    send_numbers(0, 101, 10, NULL);
    await_all();
    ck_assert_uint_eq(rig_status(&rig).verified, 1);
    rig_drain(&rig);
    rig_down(&rig);
    BROKER_MUST(broker, broker_topic_trim(broker, "trimmed", 0, 110)); /* exactly to where we are */
    rig_up(&rig);
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_ETOPIC_CHANGED);
    ck_assert_ptr_nonnull(strstr(rig.error.what, "retention"));
    ck_assert_uint_eq(rig_status(&rig).absent, 1);
    send_numbers(0, 201, 10, NULL);
    finish();
}
END_TEST

START_TEST(retention_before_us_is_a_gap_that_may_be_skipped)
{
    struct levee_error err = {0};

    if (!begin(_i, "gap", 1, NULL)) {
        return;
    }
    read_numbers(100);
    BROKER_MUST(broker, broker_send_numbers(broker, "gap", 0, 5000, 50, NULL));
    BROKER_MUST(broker,
                broker_topic_trim(broker, "gap", 0, 150)); /* all of them: nothing is left */
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EOFFSET_RANGE);
    ck_assert_msg(strstr(err.what, "offsets 100 to 149") != NULL, "%s", err.what);
    rig_down(&rig);
    rig.kafka.on_gap = LEVEE_KAFKA_SKIP;
    for (int life = 0; life < 2;
         life++) { /* nothing follows the gap: it is remembered all the same */
        rig_up(&rig);
        if (life == 0) {
            rig_await_error(&rig, 1);
        }
        rig_await_partitions(&rig, 1);
        ck_assert_uint_eq(rig_status(&rig).gaps, 1);
        ck_assert_uint_eq(rig_status(&rig).gap_offsets, 50);
        rig_down(&rig);
    }
    rig_up(&rig);
    send_numbers(0, 6000, 10, NULL);
    finish();
}
END_TEST

/* ---- compaction ---- */

/* Keys 0 to keys-1, one message each; returns their offsets' end. */
static void send_keyed(const char *topic, int keys, const char *value)
{
    struct broker_message m[64];
    char names[64][8];

    for (int k = 0; k < keys; k++) {
        (void)snprintf(names[k], sizeof names[k], "k%d", k);
        m[k] = (struct broker_message){.key = levee_text(names[k])};
        if (value) {
            m[k].value = levee_text(value);
        }
    }
    BROKER_MUST(broker, broker_send(broker, topic, m, (size_t)keys, NULL));
}

static size_t records_in(const char *topic)
{
    struct broker_log log;

    BROKER_MUST(broker, broker_read_committed(broker, topic, &log));
    size_t n = log.count;
    broker_log_release(&log);
    return n;
}

static void expect_all_of(const char *topic)
{
    struct broker_log log;

    BROKER_MUST(broker, broker_read_committed(broker, topic, &log));
    for (size_t i = 0; i < log.count; i++) {
        const rd_kafka_message_t *r = log.records[i];
        struct broker_message m = {.key = {r->key, r->key_len}, .value = {r->payload, r->len}};
        rig_expect_message(&expected, &m);
    }
    broker_log_release(&log);
}

static bool has(const char *topic, int64_t offset)
{
    struct broker_log log;
    bool found = false;

    BROKER_MUST(broker, broker_read_committed(broker, topic, &log));
    for (size_t i = 0; i < log.count; i++) {
        found = found || log.records[i]->offset == offset;
    }
    broker_log_release(&log);
    return found;
}

static int64_t last_offset(const char *topic)
{
    struct broker_log log;

    BROKER_MUST(broker, broker_read_committed(broker, topic, &log));
    int64_t offset = log.records[log.count - 1]->offset;
    broker_log_release(&log);
    return offset;
}

/* Writes until the cleaner has removed the record at this offset. */
static void compact(const char *topic, int64_t offset)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;

    while (has(topic, offset)) {
        ck_assert_msg(rig_now_ms() < end, "the broker does not compact");
        send_keyed(topic, 1, "roll"); /* the active segment is never compacted */
    }
}

START_TEST(a_compacted_topic_has_holes_and_tombstones)
{
    static const char *const config[] = {"cleanup.policy=compact", "segment.ms=100",
                                         "min.cleanable.dirty.ratio=0.001", NULL};

    if (!begin(_i, "compacted", 1, config)) {
        return;
    }
    for (int round = 0; round < 4; round++) {
        char value[8];
        (void)snprintf(value, sizeof value, "v%d", round);
        send_keyed("compacted", 40, round == 2 ? NULL : value);
    }
    compact("compacted", 100);
    send_keyed("compacted", 5, NULL);
    /* More may be compacted at any time: read it in one go, while it holds still. */
    rig.levee.stop_at_end = true;
    struct levee_error err = {0};
    size_t n;
    do {
        rig_expected_release(&expected);
        n = records_in("compacted");
        expect_all_of("compacted");
        rig_close(&rig);
        rig_open(&rig, broker_address(broker), "compacted");
        rig.text = rig_text_timeless;
        rig.levee.stop_at_end = true;
        rig_up(&rig);
        ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    } while (records_in("compacted") != n && (rig_down(&rig), true));
    rig_must_hold(&rig, &expected);
    rig_down(&rig);
    /* Now the record at our position goes: absent, which is legitimate here. */
    int64_t last = last_offset("compacted");
    send_keyed("compacted", 5, "after");
    compact("compacted", last);
    rig.levee.stop_at_end = false;
    rig_up(&rig);
    rig_await_error(&rig, 1);
    ck_assert_ptr_nonnull(strstr(rig.error.what, "compaction"));
    ck_assert_uint_eq(rig_status(&rig).absent, 1);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- bytes ---- */

START_TEST(every_codec_and_messages_up_to_the_brokers_limit)
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
    finish();
}
END_TEST

/* A record that no segment of our log can hold is refused whole, by its place. */
START_TEST(a_record_larger_than_a_segment_is_an_error_with_its_place)
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

int main(void)
{
    Suite *s = suite_create("kafka_source_broker");
    TCase *t = tcase_create("real broker");
    const int n = (int)LEN(versions);

    tcase_add_unchecked_fixture(t, start_shared, stop_shared);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, only_committed_records_are_read_over_several_lives, 0, n);
    tcase_add_loop_test(t, a_run_ends_at_a_topic_that_ends_in_an_aborted_transaction, 0, n);
    tcase_add_loop_test(t, a_run_ends_before_an_open_transaction, 0, n);
    tcase_add_loop_test(t, a_time_is_where_partitions_begin, 0, n);
    tcase_add_loop_test(t, partitions_that_a_topic_gains_are_read_from_their_beginning, 0, n);
    tcase_add_test(t, a_run_has_the_partitions_of_its_first_start);
    tcase_add_loop_test(t, a_topic_made_anew_is_never_mixed_with_the_old_one, 0, n);
    tcase_add_loop_test(t, a_topic_that_is_deleted_while_it_is_read_is_an_error, 0, n);
    tcase_add_test(t, a_deleted_topic_may_be_left_behind);
    tcase_add_loop_test(t, retention_behind_us_is_no_gap_but_nothing_to_compare, 0, n);
    tcase_add_loop_test(t, retention_before_us_is_a_gap_that_may_be_skipped, 0, n);
    tcase_add_test(t, a_compacted_topic_has_holes_and_tombstones);
    tcase_add_loop_test(t, every_codec_and_messages_up_to_the_brokers_limit, 0, n);
    tcase_add_test(t, a_record_larger_than_a_segment_is_an_error_with_its_place);
    suite_add_tcase(s, t);
    return suite_main(s);
}
