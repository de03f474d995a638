/*
 * A real broker that dies under the Kafka source, or whose disk rots. Process death of the broker
 * (SIGKILL). Faults 78 and 93.
 *
 * The oracle is the state at the end: every record once.
 */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct broker broker;
static struct rig rig;
static struct rig_expected expected;

static void start_broker(void)
{
    (void)broker_start(&broker, "4.1", 1, NULL);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

static bool begin(const char *topic, int partitions)
{
    if (!broker_usable(&broker)) {
        return false;
    }
    BROKER_MUST(&broker, broker_topic_create(&broker, topic, partitions, 1, NULL));
    rig_open(&rig, broker_address(&broker), topic);
    rig.text = rig_text_timeless;
    return true;
}

static void send_numbers(int32_t partition, uint64_t first, size_t count,
                         const struct broker_how *how)
{
    BROKER_MUST(&broker,
                broker_send_numbers(&broker, rig.kafka.topic, partition, first, count, how));
    if (!how || how->end == BROKER_COMMIT) {
        rig_expect_numbers(&expected, first, count);
    }
}

static void finish(void)
{
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}

/* ---- the broker dies ---- */

START_TEST(f78_a_broker_that_dies_and_comes_back_costs_no_record)
{
    static const int signals[] = {SIGKILL, SIGTERM};

    if (!begin("survivor", 2)) {
        return;
    }
    rig_up(&rig);
    for (uint64_t i = 0; i < LEN(signals); i++) {
        send_numbers(0, i * 10000, 2000, NULL);
        BROKER_MUST(&broker, broker_kill(&broker, signals[i], BROKER_ALL));
        rig_await_error(&rig, (unsigned)i + 1);
        ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
        BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
        send_numbers(1, 500000 + i * 10000, 500, NULL);
        rig_await(&rig, (int64_t)expected.count);
    }
    finish();
}
END_TEST

/* ---- the broker's disk ---- */

/* One bit of the first record's batch behind `at` bytes; the same again undoes it. */
static void flip(const char *topic, long at)
{
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/node1/data/%s-0/00000000000000000000.log",
                   broker.directory, topic);
    FILE *f = fopen(path, "r+b");
    ck_assert_msg(f != NULL, "%s", path);
    ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
    int byte = getc(f);
    ck_assert_int_ne(byte, EOF);
    ck_assert_int_eq(fseek(f, at, SEEK_SET), 0);
    ck_assert_int_eq(putc(byte ^ 0x10, f), byte ^ 0x10);
    ck_assert_int_eq(fclose(f), 0);
}

static long size_of(const char *topic)
{
    char path[1024];

    (void)snprintf(path, sizeof path, "%s/node1/data/%s-0/00000000000000000000.log",
                   broker.directory, topic);
    FILE *f = fopen(path, "rb");
    ck_assert_msg(f != NULL, "%s", path);
    ck_assert_int_eq(fseek(f, 0, SEEK_END), 0);
    long size = ftell(f);
    ck_assert_int_eq(fclose(f), 0);
    return size;
}

/* A damaged batch in the middle: the client would report it and go on behind it. */
START_TEST(f93_a_damaged_batch_is_an_error_and_nothing_behind_it_is_read)
{
    struct levee_error err = {0};

    if (!begin("rotten", 1)) {
        return;
    }
    send_numbers(0, 1, 10, NULL);
    long first = size_of("rotten");
    send_numbers(0, 101, 10, NULL);
    send_numbers(0, 201, 10, NULL);
    BROKER_MUST(&broker,
                broker_kill(&broker, SIGTERM, BROKER_ALL)); /* it checks nothing at a start */
    flip("rotten", first + 80);
    BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    for (int life = 0; life < 2; life++) {
        rig_up(&rig);
        ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ERECORD_DAMAGED);
        ck_assert_msg(strstr(err.where, "at or behind offset 10") != NULL, "%s", err.where);
        ck_assert_msg(strstr(err.what, "CRC32") != NULL, "%s", err.what);
        rig_down(&rig);
    }
    ck_assert_int_le(rig.total, 10);
    BROKER_MUST(&broker, broker_kill(&broker, SIGTERM, BROKER_ALL));
    flip("rotten", first + 80); /* the disk is repaired */
    BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    rig_up(&rig);
    finish();
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_outage");
    TCase *t = tcase_create("real broker");

    tcase_add_unchecked_fixture(t, start_broker, stop_broker);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, f78_a_broker_that_dies_and_comes_back_costs_no_record);
    tcase_add_test(t, f93_a_damaged_batch_is_an_error_and_nothing_behind_it_is_read);
    suite_add_tcase(s, t);
    return suite_main(s);
}
