/*
 * Leaders that change under the Kafka source, on three real nodes. Process death (SIGKILL) of
 * nodes. Fault 80: a replica that has everything takes over, and no record is lost or repeated.
 * Fault 86: an unclean election truncates the topic below our position: an error with what was
 * expected and found, while it is read and at every later start.
 */
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define NODES 3

static struct broker broker;
static struct rig rig;
static struct rig_expected expected;

static void start_broker(void)
{
    (void)broker_start(&broker, "4.1", NODES, NULL);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

static bool begin(const char *topic, int replicas, const char *const *config)
{
    return rig_open_on(&rig, &broker, topic, 1, replicas, config);
}

static void send_numbers(uint64_t first, size_t count)
{
    BROKER_MUST(&broker, broker_send_numbers(&broker, rig.kafka.topic, 0, first, count, NULL));
}

START_TEST(f80_another_leader_goes_on_where_the_dead_one_was)
{
    unsigned leader;

    if (!begin("led", NODES, NULL)) {
        return;
    }
    send_numbers(1, 500);
    rig_expect_numbers(&expected, 1, 500);
    rig_up(&rig);
    rig_await(&rig, 500);
    BROKER_MUST(&broker, broker_topic_leader(&broker, "led", 0, &leader));
    BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, leader));
    send_numbers(501, 500);
    rig_expect_numbers(&expected, 501, 500);
    rig_await(&rig, 1000);
    rig_down(&rig);
    rig_up(&rig); /* its position is the same on the new leader */
    send_numbers(1001, 500);
    rig_expect_numbers(&expected, 1001, 500);
    rig_await(&rig, 1500);
    ck_assert_uint_eq(rig_status(&rig).verified, 1);
    BROKER_MUST(&broker, broker_restart(&broker, leader, NULL));
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* ---- unclean ---- */

/* Waits until only the leader is in sync; the other replica. */
static unsigned other_replica(rd_kafka_t *rk, rd_kafka_topic_t *topic, unsigned leader)
{
    const struct rd_kafka_metadata *md;
    unsigned other = 0;

    ck_assert_int_eq(rd_kafka_metadata(rk, 0, topic, &md, RIG_PATIENCE_MS), 0);
    const struct rd_kafka_metadata_partition *p = &md->topics[0].partitions[0];
    ck_assert_int_eq(p->replica_cnt, 2);
    for (int i = 0; i < p->replica_cnt; i++) {
        other = (unsigned)p->replicas[i] != leader ? (unsigned)p->replicas[i] : other;
    }
    rd_kafka_metadata_destroy(md);
    return other;
}

static void await_in_sync(rd_kafka_t *rk, rd_kafka_topic_t *topic, int count)
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;
    int now = -1;

    while (now != count) {
        const struct rd_kafka_metadata *md;
        ck_assert_msg(rig_now_ms() < end, "%d replicas are in sync, not %d", now, count);
        if (rd_kafka_metadata(rk, 0, topic, &md, 2000) == 0) {
            now = md->topics[0].partitions[0].isr_cnt;
            rd_kafka_metadata_destroy(md);
        }
    }
}

START_TEST(f86_an_unclean_election_is_an_error_and_never_a_silent_jump)
{
    static const char *const config[] = {"unclean.leader.election.enable=true",
                                         "min.insync.replicas=1", NULL};
    struct levee_error err = {0};
    unsigned leader, other;
    char text[256];

    if (!begin("unclean", 2, config)) {
        return;
    }
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    (void)rd_kafka_conf_set(conf, "bootstrap.servers", broker_address(&broker), text, sizeof text);
    (void)rd_kafka_conf_set(conf, "log_level", "0", text, sizeof text);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    rd_kafka_topic_t *topic = rd_kafka_topic_new(rk, "unclean", NULL);
    send_numbers(1, 50);
    rig_up(&rig);
    BROKER_MUST(&broker, broker_topic_leader(&broker, "unclean", 0, &leader));
    other = other_replica(rk, topic, leader);
    await_in_sync(rk, topic, 2);
    BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, other));
    await_in_sync(rk, topic, 1);
    send_numbers(51, 50); /* only the leader has them, and we */
    rig_await(&rig, 100);
    BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, leader));
    BROKER_MUST(&broker, broker_restart(&broker, other, NULL));
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED); /* while it is read */
    ck_assert_str_eq(err.expected, "offset 100");
    ck_assert_str_eq(err.found, "offsets from 0 to below 50");
    rig_down(&rig);
    send_numbers(1001, 60); /* now there is something at our position */
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED);
    ck_assert_ptr_nonnull(strstr(err.where, "offset 99 of partition 0"));
    ck_assert_ptr_nonnull(strstr(err.expected, "hash "));
    ck_assert_ptr_nonnull(strstr(err.found, "hash "));
    ck_assert_int_eq(rig.total, 100);
    rig_close(&rig);
    rd_kafka_topic_destroy(topic);
    rd_kafka_destroy(rk);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("elections under the Kafka source");
    TCase *t = tcase_create("three real nodes");

    tcase_add_unchecked_fixture(t, start_broker, stop_broker);
    tcase_set_timeout(t, 120);
    tcase_add_test(t, f80_another_leader_goes_on_where_the_dead_one_was);
    tcase_add_test(t, f86_an_unclean_election_is_an_error_and_never_a_silent_jump);
    suite_add_tcase(s, t);
    return suite_main(s);
}
