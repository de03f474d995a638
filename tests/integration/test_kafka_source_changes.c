/*
 * The Kafka source on a real broker whose topics change while they are read or between two starts:
 * deleted, made anew, trimmed by retention, compacted. Faults 85, 87 and 89.
 *
 * One broker of each version serves all tests; each has topics of its own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

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

START_TEST(f87_a_topic_made_anew_is_never_mixed_with_the_old_one)
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
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- records deleted before us ---- */

START_TEST(f85_retention_behind_us_is_no_gap_but_nothing_to_compare)
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
    rig_finish(&rig, &expected);
}
END_TEST

START_TEST(f85_retention_before_us_is_a_gap_that_may_be_skipped)
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
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- compaction ---- */

/* Keys 0 to keys-1, one message each; returns their offsets' end. */
static void send_keyed(const char *topic, int keys, const char *value)
{
    struct broker_message m[64];
    char names[64][16];

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

START_TEST(f89_a_compacted_topic_has_holes_and_tombstones)
{
    static const char *const config[] = {"cleanup.policy=compact", "segment.ms=100",
                                         "min.cleanable.dirty.ratio=0.001", NULL};

    if (!begin(_i, "compacted", 1, config)) {
        return;
    }
    for (int round = 0; round < 4; round++) {
        char value[16];
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
        if (records_in("compacted") == n) {
            break;
        }
        rig_down(&rig);
    } while (true);
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

int main(void)
{
    Suite *s = suite_create("kafka_source_changes");
    TCase *t = tcase_create("real broker");
    const int n = BROKER_VERSIONS;

    tcase_add_unchecked_fixture(t, start_shared, stop_shared);
    tcase_set_timeout(t, 120);
    tcase_add_loop_test(t, f87_a_topic_made_anew_is_never_mixed_with_the_old_one, 0, n);
    tcase_add_loop_test(t, a_topic_that_is_deleted_while_it_is_read_is_an_error, 0, n);
    tcase_add_test(t, a_deleted_topic_may_be_left_behind);
    tcase_add_loop_test(t, f85_retention_behind_us_is_no_gap_but_nothing_to_compare, 0, n);
    tcase_add_loop_test(t, f85_retention_before_us_is_a_gap_that_may_be_skipped, 0, n);
    tcase_add_test(t, f89_a_compacted_topic_has_holes_and_tombstones);
    suite_add_tcase(s, t);
    return suite_main(s);
}
