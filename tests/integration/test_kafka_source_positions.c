/*
 * The Kafka source in positions mode on a real broker: its log holds where messages are, and a life
 * that follows reads them again (process death: the context is freed without finishing anything).
 * What of it is the runtime's is test_positions.c; random kills are those of tests/fault-kafka.
 */
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

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

static bool begin(const char *topic, int partitions, const char *const *properties)
{
    bool there = rig_open_on(&rig, &broker, topic, partitions, 1, properties);

    rig.kafka.mode = LEVEE_KAFKA_POSITIONS;
    return there;
}

static void send_numbers(int32_t partition, uint64_t first, size_t count)
{
    rig_send_numbers(&rig, &broker, &expected, partition, first, count, NULL);
}

/* Received and durable, while no batch has had time to take it: the interval is long. */
static void receive_only(size_t count)
{
    struct levee_metrics m;

    do {
        levee_context_metrics(rig.ctx, &m);
        rig_wait_ms(&rig, 5);
    } while (m.records_received < count || m.log_groups == 0);
    ck_assert_uint_eq(m.records_processed, 0);
    rig_down(&rig);
}

START_TEST(what_was_received_is_read_again)
{
    static const char long_name[] =
        "a-topic-whose-name-is-longer-than-producer-ids-may-be-and-which-is-known-to-the-log-only-"
        "by-its-beginning-and-a-hash-of-all-of-it";
    struct levee_metrics m;

    if (!begin(_i ? long_name : "again", 3, NULL)) {
        return;
    }
    rig.levee.batch_interval_ms = 3000;
    for (int32_t p = 0; p < 3; p++) {
        send_numbers(p, (uint64_t)p * 1000, 700);
    }
    rig_up(&rig);
    rig_await_said(&rig, "retention.ms=604800000");
    do {
        levee_context_metrics(rig.ctx, &m);
        rig_wait_ms(&rig, 5);
    } while (m.records_received < 2100);
    ck_assert_uint_lt(m.bytes_logged, m.bytes_received / 2);
    rig_down(&rig);
    send_numbers(0, 5000, 10);
    rig_up(&rig);
    rig_finish(&rig, &expected);
}
END_TEST

/* f85: what was received and not yet processed is gone: the range is named, and nothing is skipped.
 */
START_TEST(f85_a_range_that_is_gone_is_named)
{
    struct levee_error err = {0};

    if (!begin("trimmed", 1, NULL)) {
        return;
    }
    rig.levee.batch_interval_ms = 3000;
    send_numbers(0, 0, 500);
    rig_up(&rig);
    receive_only(500);
    BROKER_MUST(&broker, broker_topic_trim(&broker, "trimmed", 0, 300));
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EOFFSET_RANGE);
    ck_assert_ptr_nonnull(strstr(err.what, "trimmed"));
    ck_assert_ptr_nonnull(strstr(err.expected, "offset 0"));
    ck_assert_ptr_nonnull(strstr(err.found, "300"));
    rig_down(&rig);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

/* f87: a topic of the same name with other records. */
START_TEST(f87_a_topic_made_anew_is_not_taken_for_the_old_one)
{
    struct levee_error err = {0};

    if (!begin("anew", 1, NULL)) {
        return;
    }
    rig.levee.batch_interval_ms = 3000;
    send_numbers(0, 0, 500);
    rig_up(&rig);
    receive_only(500);
    BROKER_MUST(&broker, broker_topic_delete(&broker, "anew"));
    BROKER_MUST(&broker, broker_topic_create(&broker, "anew", 1, 1, NULL));
    BROKER_MUST(&broker, broker_send_numbers(&broker, "anew", 0, 7000, 800, NULL));
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED);
    rig_down(&rig);
    rig_close(&rig);
    rig_expected_release(&expected);
}
END_TEST

START_TEST(f89_a_compacted_topic_is_refused)
{
    static const char *const compacted[] = {"cleanup.policy=compact", NULL};
    struct levee_error err = {0};

    if (!begin("compacted", 1, compacted)) {
        return;
    }
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.what, "compacted"));
    rig_down(&rig);
    rig.kafka.mode = LEVEE_KAFKA_DATA; /* which is fine */
    BROKER_MUST(&broker, broker_send(&broker, "compacted",
                                     &(struct broker_message){.key = levee_text("k"),
                                                              .value = levee_text("v")},
                                     1, NULL));
    rig_up(&rig);
    rig_await(&rig, 1);
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("the Kafka source, positions mode");
    TCase *c = tcase_create("real broker");

    tcase_set_timeout(c, 120);
    tcase_add_unchecked_fixture(c, start_broker, stop_broker);
    tcase_add_loop_test(c, what_was_received_is_read_again, 0, 2);
    tcase_add_test(c, f85_a_range_that_is_gone_is_named);
    tcase_add_test(c, f87_a_topic_made_anew_is_not_taken_for_the_old_one);
    tcase_add_test(c, f89_a_compacted_topic_is_refused);
    suite_add_tcase(s, c);
    return suite_main(s);
}
