/*
 * A real broker that is away, dead, stopped, or cut off under the Kafka source, or whose disk rots.
 * Process death of the broker (SIGKILL) in those that kill it. Faults 78, 79, 93.
 *
 * The oracle is the state at the end: every record once.
 */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/fault/kafka_trial.h"
#include "tests/integration/test_kafka_source_rig.h"
#include "tests/support/broker_proxy.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct broker broker, proxied;
static struct proxy proxy;
static struct rig rig;
static struct rig_expected expected;

static bool begin(const char *topic, int partitions)
{
    return rig_open_on(&rig, &broker, topic, partitions, 1, NULL);
}

static void send_numbers(int32_t partition, uint64_t first, size_t count,
                         const struct broker_how *how)
{
    rig_send_numbers(&rig, &broker, &expected, partition, first, count, how);
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
    rig_finish(&rig, &expected);
}
END_TEST

/* For longer than anything here waits: the source is idle, says so now and then, and goes on. */
START_TEST(f79_every_broker_is_away_for_long)
{
    int away_ms = numbered_full() ? 60000 : 12000;

    if (!begin("away", 2)) {
        return;
    }
    rig.kafka.group = "away";
    rig.kafka.commit_ms = 50;
    send_numbers(0, 1, 1000, NULL);
    rig_up(&rig);
    rig_await(&rig, 1000);
    unsigned before = rig.errors;
    BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
    (void)poll(NULL, 0, away_ms); /* the outage */
    unsigned told = rig.errors - before;
    ck_assert_uint_ge(told, 1);
    /* One in five seconds each of fetching and committing, and one that is more to the point. */
    ck_assert_msg(told <= 2 * (unsigned)(away_ms / 5000 + 1) + 1, "%u errors in %d ms:\n%s", told,
                  away_ms, rig.log);
    ck_assert_int_eq(rig.error.code, LEVEE_EBROKER);
    BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    send_numbers(1, 5000, 1000, NULL);
    rig_finish(&rig, &expected);
}
END_TEST

/* Stopped with its connections open, for longer than the client waits for an answer. */
START_TEST(l_slow_the_broker_is_stopped_under_the_source)
{
    /* The time-outs as they are take longer than that. */
    static const char *const impatient[] = {"socket.timeout.ms=1500", NULL};
    int silent_ms = numbered_full() ? 30000 : 5000;

    if (!begin("stopped", 2)) {
        return;
    }
    rig.kafka.properties = numbered_full() ? NULL : impatient;
    send_numbers(0, 1, 3000, NULL);
    rig.levee.max_rate = 1000; /* it is in the middle of them */
    rig_up(&rig);
    rig_await(&rig, 100);
    BROKER_MUST(&broker, broker_kill(&broker, SIGSTOP, BROKER_ALL));
    (void)poll(NULL, 0, silent_ms);
    BROKER_MUST(&broker, broker_kill(&broker, SIGCONT, BROKER_ALL));
    send_numbers(1, 5000, 1000, NULL);
    rig_finish(&rig, &expected);
}
END_TEST

/* ---- connections ---- */

/* The n-th fetch never reaches the broker, or its answer never comes back, again and again. */
START_TEST(f78_connections_that_break_while_fetching_cost_no_record)
{
    static const enum proxy_action actions[] = {PROXY_LOSE_REQUEST, PROXY_LOSE_REPLY, PROXY_STALL};
    unsigned rounds = numbered_full() ? 60 : 9, struck = 0;

    if (!broker_usable(&proxied)) {
        return;
    }
    BROKER_MUST(&proxied, broker_topic_create(&proxied, "cut", 1, 1, NULL));
    rig_open(&rig, broker_address(&proxied), "cut");
    rig.text = rig_text_timeless;
    rig.kafka.properties = (const char *const[]){"socket.timeout.ms=1500", "fetch.wait.max.ms=100",
                                                 "reconnect.backoff.max.ms=200", NULL};
    rig_up(&rig);
    for (unsigned i = 0; i < rounds; i++) {
        proxy_arm(&proxy, &(struct proxy_rule){
                              .api = PROXY_FETCH, .nth = 1 + i % 4, .action = actions[i % 3]});
        BROKER_MUST(&proxied,
                    broker_send_numbers(&proxied, "cut", 0, (uint64_t)i * 1000, 200, NULL));
        rig_expect_numbers(&expected, (uint64_t)i * 1000, 200);
        for (int64_t end = rig_now_ms() + RIG_PATIENCE_MS; !proxy_struck(&proxy);) {
            ck_assert_msg(rig_now_ms() < end, "rule %u never strikes", i);
            rig_wait_ms(&rig, 5);
        }
        struck++;
        rig_await(&rig, (int64_t)expected.count);
    }
    ck_assert_uint_eq(struck, rounds);
    proxy_disarm(&proxy);
    rig_finish(&rig, &expected);
    numbered_trials("f78_connections_that_break_while_fetching_cost_no_record", rounds);
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
    rig_finish(&rig, &expected);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("outages of the Kafka source");
    const TTest *tests[] = {
        f78_a_broker_that_dies_and_comes_back_costs_no_record,
        f78_connections_that_break_while_fetching_cost_no_record,
        f79_every_broker_is_away_for_long,
        l_slow_the_broker_is_stopped_under_the_source,
        f93_a_damaged_batch_is_an_error_and_nothing_behind_it_is_read,
    };

    (void)broker_launch(&proxied, ktrial_version(), 1, NULL);
    (void)broker_start(&broker, ktrial_version(), 1, NULL);
    (void)broker_await(&proxied);
    (void)proxy_start(&proxy, &proxied);
    for (size_t i = 0; i < LEN(tests); i++) {
        numbered_add(s, tests[i], 180);
    }
    int code = suite_main(s);
    proxy_stop(&proxy);
    (void)broker_stop(&proxied);
    (void)broker_stop(&broker);
    return code;
}
