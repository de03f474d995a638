/*
 * What a Kafka source reads and from where, on the mock broker: several topics, patterns, explicit
 * sets shared by two contexts, and the starts of partitions that were never read. What is said
 * twice, or cannot be, is refused when the graph is built.
 */
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))

static struct mock mock;
static struct rig rig;
static struct rig_expected expected;

static void set_up(void)
{
    mock_open(&mock, 1);
}

static void tear_down(void)
{
    mock_close(&mock);
    rig_expected_release(&expected);
}

static void send_numbers(const char *topic, int32_t partition, uint64_t first, size_t count)
{
    BROKER_MUST(&mock.broker,
                broker_send_numbers(&mock.broker, topic, partition, first, count, NULL));
}

/* A context that reads nothing yet: what it reads is filled in by the test. */
static void begin(void)
{
    rig_open(&rig, mock.broker.address, NULL);
    rig.text = rig_text_timeless;
}

static void finish(void)
{
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}

/* ---- topics ---- */

START_TEST(several_topics_are_read_whole)
{
    static const char *const topics[] = {"a", "b", "c", NULL};

    for (uint64_t t = 0; t < 3; t++) {
        mock_topic(&mock, topics[t], (int)t + 1);
        for (uint64_t p = 0; p <= t; p++) {
            send_numbers(topics[t], (int32_t)p, t * 1000 + p * 100, 50 + t);
            rig_expect_numbers(&expected, t * 1000 + p * 100, 50 + t);
        }
    }
    mock_topic(&mock, "d", 1);
    send_numbers("d", 0, 77777, 1); /* nobody's */
    begin();
    rig.kafka.topics = topics;
    rig_up(&rig);
    rig_await(&rig, 1);
    rig_down(&rig);
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    rig_await_partitions(&rig, 6);
    ck_assert_uint_eq(rig_status(&rig).topics, 3);
    finish();
}
END_TEST

START_TEST(one_unknown_topic_among_several_is_named)
{
    static const char *const topics[] = {"a", "nowhere", NULL};
    struct levee_error err = {0};

    mock_topic(&mock, "a", 1);
    send_numbers("a", 0, 1, 10);
    rd_kafka_mock_topic_set_error(mock.cluster, "nowhere", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    begin();
    rig.kafka.topics = topics;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC);
    ck_assert_ptr_nonnull(strstr(err.what, "nowhere"));
    rig_close(&rig);
}
END_TEST

START_TEST(a_topic_we_may_not_read_is_named)
{
    struct levee_error err = {0};

    rd_kafka_mock_topic_set_error(mock.cluster, "secret",
                                  RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED);
    begin();
    rig.kafka.topic = "secret";
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EACCESS);
    ck_assert_ptr_nonnull(strstr(err.what, "secret"));
    rig_close(&rig);
}
END_TEST

/* Topics that match later are read from their beginning, whatever the start says about the others;
 * a topic matches with its whole name. */
START_TEST(a_pattern_takes_topics_that_show_up_later)
{
    begin();
    rig.kafka.topic_pattern = "in[0-9]|extra";
    rig.kafka.start = LEVEE_KAFKA_LATEST;
    mock_topic(&mock, "in1", 2);
    mock_topic(&mock, "in22", 1);
    mock_topic(&mock, "plain1", 1);
    mock_topic(&mock, "__in1", 1);
    send_numbers("in1", 0, 1, 10); /* before the first start: not wanted */
    send_numbers("in22", 0, 50, 10);
    send_numbers("plain1", 0, 60, 10);
    rig_up(&rig);
    rig_await_partitions(&rig, 2);
    send_numbers("in1", 1, 100, 10);
    rig_expect_numbers(&expected, 100, 10);
    rig_await(&rig, 10);
    mock_topic(&mock, "extra", 1);
    send_numbers("extra", 0, 200, 10);
    rig_expect_numbers(&expected, 200, 10);
    rig_await(&rig, 20);
    rig_down(&rig);
    mock_topic(&mock, "in3", 1); /* while nobody looks */
    send_numbers("in3", 0, 300, 10);
    rig_expect_numbers(&expected, 300, 10);
    send_numbers("in1", 0, 400, 10);
    rig_expect_numbers(&expected, 400, 10);
    rig_up(&rig);
    finish();
}
END_TEST

START_TEST(a_pattern_that_matches_nothing_waits_for_its_first_topic)
{
    begin();
    rig.kafka.topic_pattern = "first.*";
    rig.kafka.start = LEVEE_KAFKA_LATEST;
    mock_topic(&mock, "other", 1);
    rig_up(&rig);
    mock_topic(&mock, "first-1", 1);
    send_numbers("first-1", 0, 1, 10);
    /* It has shown up before or after the first look: read from its beginning or not at all. Only
     * what comes when it is known is certain. */
    rig_await_partitions(&rig, 1);
    send_numbers("first-1", 0, 11, 10);
    rig_await(&rig, 10);
    rig_close(&rig);
}
END_TEST

START_TEST(a_pattern_run_once_ends_at_the_end_of_what_matches)
{
    struct levee_error err = {0};

    mock_topic(&mock, "x1", 1);
    mock_topic(&mock, "x2", 2);
    send_numbers("x1", 0, 1, 100);
    send_numbers("x2", 1, 1000, 100);
    rig_expect_numbers(&expected, 1, 100);
    rig_expect_numbers(&expected, 1000, 100);
    begin();
    rig.kafka.topic_pattern = "x.";
    rig.levee.stop_at_end = true;
    rig.levee.max_rate = 100;
    rig_up(&rig);
    rig_await(&rig, 1);
    rig_down(&rig); /* as killed, in the middle of the run */
    mock_topic(&mock, "x3", 1);
    send_numbers("x3", 0, 5000, 10); /* not of this run */
    rig.levee.max_rate = 0;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_down(&rig);
    rig_expect_numbers(&expected, 5000, 10); /* of the next one */
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_OK);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}
END_TEST

/* Named by the user later, it is the user who says where it begins; its neighbour goes on. */
START_TEST(a_topic_that_is_named_later_begins_where_start_says)
{
    static const char *const one[] = {"a", NULL}, *const two[] = {"a", "b", NULL};

    mock_topic(&mock, "a", 1);
    mock_topic(&mock, "b", 1);
    send_numbers("b", 0, 1, 10); /* before it was named */
    begin();
    rig.kafka.topics = one;
    rig.kafka.start = LEVEE_KAFKA_LATEST;
    rig_up(&rig);
    rig_await_partitions(&rig, 1);
    rig_down(&rig);
    send_numbers("a", 0, 100, 10);
    rig_expect_numbers(&expected, 100, 10);
    rig.kafka.topics = two;
    rig_up(&rig);
    rig_await_partitions(&rig, 2);
    rig_await(&rig, 10);
    send_numbers("b", 0, 200, 10);
    rig_expect_numbers(&expected, 200, 10);
    finish();
}
END_TEST

/* Names longer than a producer id, and equal for most of it. */
START_TEST(long_names_are_told_apart)
{
    char names[2][250];
    const char *topics[] = {names[0], names[1], NULL};

    for (size_t i = 0; i < 2; i++) {
        memset(names[i], 'n', sizeof names[i] - 1);
        names[i][sizeof names[i] - 1] = '\0';
        names[i][sizeof names[i] - 2] = (char)('0' + i);
        mock_topic(&mock, names[i], 2);
        send_numbers(names[i], 1, i * 1000, 100 * (i + 1));
        rig_expect_numbers(&expected, i * 1000, 100 * (i + 1));
    }
    begin();
    rig.kafka.topics = topics;
    rig_up(&rig);
    rig_await(&rig, 300);
    rig_down(&rig);
    rig_up(&rig);
    for (size_t i = 0; i < 2; i++) {
        send_numbers(names[i], 0, 5000 + i * 1000, 10);
        rig_expect_numbers(&expected, 5000 + i * 1000, 10);
    }
    finish();
}
END_TEST

START_TEST(only_a_kafka_source_has_a_status)
{
    struct levee_kafka_status status;

    mock_topic(&mock, "t", 1);
    begin();
    rig.kafka.topic = "t";
    rig_up(&rig);
    ck_assert_int_eq(levee_kafka_source_status(rig.source, &status), LEVEE_OK);
    ck_assert_int_eq(levee_kafka_source_status(rig.source, NULL), LEVEE_EINVALID);
    ck_assert_int_eq(levee_kafka_source_status(rig.derived, &status), LEVEE_EINVALID);
    ck_assert_int_eq(levee_kafka_source_status(NULL, &status), LEVEE_EINVALID);
    rig_close(&rig);
}
END_TEST

/* ---- explicit sets ---- */

START_TEST(two_contexts_share_a_topic_by_sets)
{
    static const struct levee_kafka_partition left[] = {{"shared", 0}, {"shared", 2}, {"more", 0}};
    static const struct levee_kafka_partition right[] = {{"shared", 1}, {"shared", 3}};
    struct rig_expected other = {0};

    mock_topic(&mock, "shared", 5); /* the last one is in no set */
    mock_topic(&mock, "more", 1);
    for (uint64_t p = 0; p < 5; p++) {
        send_numbers("shared", (int32_t)p, p * 1000, 100);
        if (p < 4) {
            rig_expect_numbers(p % 2 ? &other : &expected, p * 1000, 100);
        }
    }
    send_numbers("more", 0, 9000, 10);
    rig_expect_numbers(&expected, 9000, 10);
    for (int life = 0; life < 2; life++) { /* the second finds everything read */
        static struct rig second;
        begin();
        rig.kafka.partitions = left;
        rig.kafka.partition_count = LEN(left);
        rig_up(&rig);
        rig_open(&second, mock.broker.address, NULL);
        second.text = rig_text_timeless;
        second.kafka.partitions = right;
        second.kafka.partition_count = LEN(right);
        rig_up(&second);
        rig_await(&second, (int64_t)other.count);
        rig_drain(&second);
        rig_must_hold(&second, &other);
        rig_close(&second);
        finish();
    }
    rig_expected_release(&other);
}
END_TEST

START_TEST(a_partition_that_is_not_there_is_named)
{
    static const struct levee_kafka_partition set[] = {{"few", 0}, {"few", 7}};
    struct levee_error err = {0};

    mock_topic(&mock, "few", 2);
    begin();
    rig.kafka.partitions = set;
    rig.kafka.partition_count = LEN(set);
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC);
    ck_assert_ptr_nonnull(strstr(err.what, "few has no partition 7"));
    ck_assert_ptr_nonnull(strstr(err.found, "2 partitions"));
    rig_close(&rig);
}
END_TEST

/* ---- starts ---- */

START_TEST(latest_begins_at_the_first_start_and_never_again)
{
    mock_topic(&mock, "live", 2);
    send_numbers("live", 0, 1, 100);
    send_numbers("live", 1, 1000, 100);
    begin();
    rig.kafka.topic = "live";
    rig.kafka.start = LEVEE_KAFKA_LATEST;
    rig_up(&rig);
    rig_await_partitions(&rig, 2);
    rig_down(&rig); /* nothing was read, and yet the start is known */
    send_numbers("live", 0, 201, 10);
    rig_expect_numbers(&expected, 201, 10);
    rig_up(&rig);
    rig_await(&rig, 10);
    rig_down(&rig);
    send_numbers("live", 1, 1201, 10);
    rig_expect_numbers(&expected, 1201, 10);
    rig_up(&rig);
    finish();
}
END_TEST

START_TEST(given_offsets_are_where_partitions_begin)
{
    static const struct levee_kafka_offset offsets[] = {{"from", 0, 40}, {"from", 2, 100}};

    mock_topic(&mock, "from", 3);
    for (uint64_t p = 0; p < 3; p++) {
        send_numbers("from", (int32_t)p, p * 1000, 100);
    }
    rig_expect_numbers(&expected, 40, 60);    /* given */
    rig_expect_numbers(&expected, 1000, 100); /* not given: start */
    begin();
    rig.kafka.topic = "from";
    rig.kafka.offsets = offsets;
    rig.kafka.offset_count = LEN(offsets);
    rig_up(&rig);
    rig_await(&rig, 160);
    send_numbers("from", 2, 5000, 10); /* the third was given its end */
    rig_expect_numbers(&expected, 5000, 10);
    rig_await(&rig, 170);
    rig_down(&rig); /* they mean nothing to partitions that were read */
    rig_up(&rig);
    finish();
}
END_TEST

START_TEST(a_given_offset_that_is_not_there_is_an_error_with_the_range)
{
    static const struct levee_kafka_offset offsets[] = {{"short", 0, 101}};
    struct levee_error err = {0};

    mock_topic(&mock, "short", 1);
    send_numbers("short", 0, 1, 100);
    begin();
    rig.kafka.topic = "short";
    rig.kafka.offsets = offsets;
    rig.kafka.offset_count = 1;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EOFFSET_RANGE);
    ck_assert_str_eq(err.expected, "offset 101");
    ck_assert_str_eq(err.found, "offsets from 0 to below 100");
    rig_close(&rig);
}
END_TEST

/* ---- what is refused ---- */

static const char *const none[] = {NULL}, *const twice[] = {"a", "b", "a", NULL},
                         *const unnamed[] = {"a", "", NULL};
static const struct levee_kafka_partition set[] = {{"a", 0}}, same[] = {{"a", 0}, {"a", 0}},
                                          below[] = {{"a", -1}};
static const struct levee_kafka_offset before[] = {{"a", 0, -1}},
                                       both[] = {{"a", 0, 1}, {"a", 0, 2}};
static const char long_name[] =
    "a123456789b123456789c123456789d123456789e123456789f123456789g123456789h123456789i123456789"
    "a123456789b123456789c123456789d123456789e123456789f123456789g123456789h123456789i123456789"
    "a123456789b123456789c123456789d123456789e123456789f123456789g123456789h123456789i123456789";

static const struct {
    struct levee_kafka_options o;
    const char *says;
} wrong[] = {
    {{.topic = "a"}, "brokers"},
    {{.brokers = "", .topic = "a"}, "brokers"},
    {{.brokers = "b"}, "exactly one of"},
    {{.brokers = "b", .topic = "a", .topic_pattern = "a"}, "exactly one of"},
    {{.brokers = "b", .topic = "a", .partitions = set, .partition_count = 1}, "exactly one of"},
    {{.brokers = "b", .topic = ""}, "no name for a topic"},
    {{.brokers = "b", .topic = "two words"}, "\"two words\" is no name"},
    {{.brokers = "b", .topic = ".."}, "no name for a topic"},
    {{.brokers = "b", .topic = long_name}, "no name for a topic"},
    {{.brokers = "b", .topics = none}, "list of topics is empty"},
    {{.brokers = "b", .topics = twice}, "a is named twice"},
    {{.brokers = "b", .topics = unnamed}, "no name for a topic"},
    {{.brokers = "b", .topic_pattern = "a(b"}, "topic_pattern \"a(b\""},
    {{.brokers = "b", .partitions = set}, "list of partitions is empty"},
    {{.brokers = "b", .topic = "a", .partition_count = 1}, "count without a list"},
    {{.brokers = "b", .partitions = same, .partition_count = 2}, "named twice"},
    {{.brokers = "b", .partitions = below, .partition_count = 1}, "no partition -1"},
    {{.brokers = "b", .topic = "a", .offset_count = 1}, "count without a list"},
    {{.brokers = "b", .topic = "a", .offsets = before, .offset_count = 1}, "cannot start at -1"},
    {{.brokers = "b", .topic = "a", .offsets = both, .offset_count = 2}, "two offsets"},
    {{.brokers = "b", .topic = "a", .start = (enum levee_kafka_start)3}, "no such value"},
    {{.brokers = "b", .topic = "a", .on_gap = (enum levee_kafka_gap)2}, "no such value"},
    {{.brokers = "b", .topic = "a", .start_time_ms = -1}, "1970"},
    {{.brokers = "b", .topic = "a", .group = ""}, "group is empty"},
    {{.brokers = "b", .topic = "a", .group = long_name}, "group is empty or longer"},
};

START_TEST(what_cannot_be_meant_is_refused_with_its_line)
{
    struct levee_error err = {0};

    begin();
    rig.kafka = wrong[_i].o;
    ck_assert_int_eq(rig_refused(&rig, &err), LEVEE_EINVALID);
    ck_assert_msg(strstr(err.what, wrong[_i].says) != NULL, "\"%s\": %s", wrong[_i].says, err.what);
    ck_assert_ptr_nonnull(strstr(err.where, "test_kafka_source_rig.c"));
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_subjects");
    TCase *t = tcase_create("mock broker");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, several_topics_are_read_whole);
    tcase_add_test(t, one_unknown_topic_among_several_is_named);
    tcase_add_test(t, a_topic_we_may_not_read_is_named);
    tcase_add_test(t, a_pattern_takes_topics_that_show_up_later);
    tcase_add_test(t, a_pattern_that_matches_nothing_waits_for_its_first_topic);
    tcase_add_test(t, a_pattern_run_once_ends_at_the_end_of_what_matches);
    tcase_add_test(t, a_topic_that_is_named_later_begins_where_start_says);
    tcase_add_test(t, long_names_are_told_apart);
    tcase_add_test(t, only_a_kafka_source_has_a_status);
    tcase_add_test(t, two_contexts_share_a_topic_by_sets);
    tcase_add_test(t, a_partition_that_is_not_there_is_named);
    tcase_add_test(t, latest_begins_at_the_first_start_and_never_again);
    tcase_add_test(t, given_offsets_are_where_partitions_begin);
    tcase_add_test(t, a_given_offset_that_is_not_there_is_an_error_with_the_range);
    suite_add_tcase(s, t);
    t = tcase_create("options");
    tcase_add_loop_test(t, what_cannot_be_meant_is_refused_with_its_line, 0, LEN(wrong));
    suite_add_tcase(s, t);
    return suite_main(s);
}
