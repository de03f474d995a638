/*
 * The Kafka source on librdkafka's mock broker, which lives in the test process: what a user meets
 * first, and every error that can be injected. What the mock cannot show (transactions, retention,
 * topics that grow or are made anew) is in test_kafka_source_broker.c.
 *
 * Restarts here are levee_free without a drain: what that leaves is what a killed process leaves.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct mock mock;
static struct rig rig;

static void set_up(void)
{
    mock_open(&mock, 1);
}

static void tear_down(void)
{
    mock_close(&mock);
}

static struct levee_slice bytes(const char *s)
{
    return levee_text(s);
}

static void send_numbers(const char *topic, int32_t partition, uint64_t first, size_t count)
{
    BROKER_MUST(&mock.broker,
                broker_send_numbers(&mock.broker, topic, partition, first, count, NULL));
}

/* ---- records as they are ---- */

/* Null, empty, binary and large; keys and values independently. */
START_TEST(every_shape_of_record_arrives_as_it_was_sent)
{
    static uint8_t large[900000], every_byte[256];
    static const uint8_t zeros[3] = {0, 0, 0};
    const struct levee_slice none = {0}, empty = bytes("");
    struct rig_expected expected = {0};

    for (size_t i = 0; i < sizeof large; i++) {
        large[i] = (uint8_t)(i * 2654435761u >> 13);
    }
    for (size_t i = 0; i < sizeof every_byte; i++) {
        every_byte[i] = (uint8_t)i;
    }
    const struct levee_slice shapes[] = {
        none, empty, bytes("text"), {zeros, 3}, {every_byte, 256}, {large, sizeof large}};
    mock_topic(&mock, "shapes", 2);
    for (size_t k = 0; k < LEN(shapes) - 1; k++) { /* no large keys */
        struct broker_message m[LEN(shapes)];
        for (size_t v = 0; v < LEN(shapes); v++) {
            m[v] = (struct broker_message){.partition = (int32_t)(k % 2),
                                           .key = shapes[k],
                                           .value = shapes[v],
                                           .timestamp_ms = 1000000 + (int64_t)(k * 10 + v)};
            rig_expect_message(&expected, &m[v]);
        }
        BROKER_MUST(&mock.broker, broker_send(&mock.broker, "shapes", m, LEN(shapes), NULL));
    }
    rig_open(&rig, mock.broker.address, "shapes");
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- topics and brokers that are not there ---- */

START_TEST(an_unknown_topic_is_an_error_that_names_it)
{
    struct levee_error err = {0};

    /* The mock makes any topic that is asked for, whatever the client says about that. */
    rd_kafka_mock_topic_set_error(mock.cluster, "nowhere", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    rig_open(&rig, mock.broker.address, "nowhere");
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC);
    ck_assert_ptr_nonnull(strstr(err.what, "nowhere"));
    ck_assert_ptr_nonnull(strstr(err.where, mock.broker.address));
    ck_assert_uint_eq(rig.errors, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_ETOPIC);
    rig_close(&rig);
}
END_TEST

/* A port of this machine on which nobody listens. */
#define NOBODY "127.0.0.1:1"

START_TEST(an_unreachable_broker_is_told_of_and_a_stop_is_quick)
{
    struct levee_error err = {0};

    rig_open(&rig, NOBODY, "topic");
    rig_up(&rig);
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
    ck_assert_ptr_nonnull(strstr(rig.error.what, NOBODY));
    int64_t before = rig_now_ms();
    ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    int64_t took = rig_now_ms() - before;
    ck_assert_msg(took < 2000, "the stop took %" PRId64 " ms", took);
    rig_close(&rig);
}
END_TEST

START_TEST(a_broker_that_comes_later_is_found)
{
    struct rig_expected expected = {0};

    mock_topic(&mock, "late", 1);
    send_numbers("late", 0, 1, 100);
    rig_expect_numbers(&expected, 1, 100);
    ck_assert_int_eq(rd_kafka_mock_broker_set_down(mock.cluster, -1), 0);
    rig_open(&rig, mock.broker.address, "late");
    rig.text = rig_text_timeless;
    rig_up(&rig);
    rig_await_error(&rig, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
    ck_assert_int_eq(rd_kafka_mock_broker_set_up(mock.cluster, -1), 0);
    rig_await(&rig, 100);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* Fault 78: the broker goes away in the middle and comes back. */
START_TEST(f78_a_broker_that_goes_and_comes_costs_no_record)
{
    struct rig_expected expected = {0};

    mock_topic(&mock, "gone", 3);
    rig_open(&rig, mock.broker.address, "gone");
    rig.text = rig_text_timeless;
    rig_up(&rig);
    for (int round = 0; round < 3; round++) {
        for (int32_t p = 0; p < 3; p++) {
            uint64_t first = (uint64_t)(round * 3 + p) * 1000;
            send_numbers("gone", p, first, 200);
            rig_expect_numbers(&expected, first, 200);
        }
        ck_assert_int_eq(rd_kafka_mock_broker_set_down(mock.cluster, -1), 0);
        ck_assert_int_eq(rd_kafka_mock_broker_set_up(mock.cluster, -1), 0);
    }
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- stopping ---- */

START_TEST(a_stop_while_fetching_is_quick_and_loses_nothing)
{
    struct rig_expected expected = {0};
    struct levee_error err = {0};

    mock_topic(&mock, "busy", 2);
    for (int32_t p = 0; p < 2; p++) {
        send_numbers("busy", p, (uint64_t)p * 100000, 20000);
        rig_expect_numbers(&expected, (uint64_t)p * 100000, 20000);
    }
    rig_open(&rig, mock.broker.address, "busy");
    rig.text = rig_text_timeless;
    for (int64_t seen = 1; seen < 30000; seen += 5000) {
        rig_up(&rig);
        rig_await(&rig, seen);
        int64_t before = rig_now_ms();
        ck_assert_int_eq(levee_stop(rig.ctx, &err), LEVEE_OK);
        ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
        int64_t took = rig_now_ms() - before;
        ck_assert_msg(took < 3000, "the stop took %" PRId64 " ms", took);
        rig_down(&rig);
    }
    rig_up(&rig);
    rig_await(&rig, 40000);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- the end of a run ---- */

START_TEST(stop_at_end_ends_at_the_end_of_its_first_start)
{
    struct rig_expected expected = {0};
    struct levee_error err = {0};

    mock_topic(&mock, "once", 3); /* the last one stays empty */
    for (int32_t p = 0; p < 2; p++) {
        send_numbers("once", p, (uint64_t)p * 100000, 5000);
        rig_expect_numbers(&expected, (uint64_t)p * 100000, 5000);
    }
    rig_open(&rig, mock.broker.address, "once");
    rig.text = rig_text_timeless;
    rig.levee.stop_at_end = true;
    rig.levee.max_rate = 4000; /* several lives */
    rig_up(&rig);
    rig_await(&rig, 1);
    rig_down(&rig); /* as killed */
    for (int32_t p = 0; p < 3; p++) {
        send_numbers("once", p, 900000 + (uint64_t)p, 1); /* behind the end */
    }
    rig_up(&rig);
    rig_await(&rig, 3000);
    rig_down(&rig);
    rig.levee.max_rate = 0;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- client properties ---- */

START_TEST(a_property_that_breaks_a_promise_is_refused_by_name)
{
    static const char *const refused[] = {
        "enable.auto.commit=true",
        "enable.auto.offset.store=true",
        "auto.offset.reset=earliest",
        "check.crcs=false",
        "isolation.level=read_uncommitted",
        "enable.partition.eof=false",
        "bootstrap.servers=other:9092",
        "allow.auto.create.topics=true",
        "group.instance.id=me",
        "partition.assignment.strategy=range",
        "auto.commit.enable=true",
        "metadata.broker.list=other:9092",
    };

    for (size_t i = 0; i < LEN(refused); i++) {
        const char *const properties[] = {"fetch.wait.max.ms=20", refused[i], NULL};
        struct levee_error err = {0};
        char name[64];
        rig_open(&rig, mock.broker.address, "topic");
        rig.kafka.properties = properties;
        ck_assert_int_eq(rig_refused(&rig, &err), LEVEE_EINVALID);
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(refused[i], "="), refused[i]);
        ck_assert_msg(strstr(err.what, name) && strstr(err.what, "promises"), "%s: %s", name,
                      err.what);
        ck_assert_ptr_nonnull(strstr(err.where, "test_kafka_source_rig.c"));
        rig_close(&rig);
    }
}
END_TEST

START_TEST(a_property_the_client_does_not_know_is_refused_by_name)
{
    static const char *const wrong[] = {"no.such.property=1", "fetch.min.bytes=many", "no-equals",
                                        "=value"};

    for (size_t i = 0; i < LEN(wrong); i++) {
        const char *const properties[] = {wrong[i], NULL};
        struct levee_error err = {0};
        rig_open(&rig, mock.broker.address, "topic");
        rig.kafka.properties = properties;
        ck_assert_int_eq(rig_refused(&rig, &err), LEVEE_EINVALID);
        ck_assert_msg(strstr(err.what, wrong[i]) != NULL, "%s: %s", wrong[i], err.what);
        rig_close(&rig);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source");
    TCase *t = tcase_create("mock broker");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, every_shape_of_record_arrives_as_it_was_sent);
    tcase_add_test(t, an_unknown_topic_is_an_error_that_names_it);
    tcase_add_test(t, an_unreachable_broker_is_told_of_and_a_stop_is_quick);
    tcase_add_test(t, a_broker_that_comes_later_is_found);
    tcase_add_test(t, f78_a_broker_that_goes_and_comes_costs_no_record);
    tcase_add_test(t, a_stop_while_fetching_is_quick_and_loses_nothing);
    tcase_add_test(t, stop_at_end_ends_at_the_end_of_its_first_start);
    tcase_add_test(t, a_property_that_breaks_a_promise_is_refused_by_name);
    tcase_add_test(t, a_property_the_client_does_not_know_is_refused_by_name);
    suite_add_tcase(s, t);
    return suite_main(s);
}
