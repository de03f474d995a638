/*
 * Is the topic still the one that was read, and does it still have what was not read yet? On the
 * mock broker: a second mock stands for the topic made anew or truncated, the few megabytes that a
 * mock keeps of a partition for retention, injected fetch errors for records that cannot be read.
 * Faults 85, 86, 87, 93 as far as a mock can show them; the real broker has its own tests.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define LEN(array) (sizeof(array) / sizeof *(array))
#define FETCH      1 /* Kafka's number for the request */

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

static struct broker_message record(const char *value, int64_t time_ms)
{
    return (struct broker_message){.value = levee_text(value), .timestamp_ms = time_ms};
}

static void send_to(struct mock *m, const struct broker_message *messages, size_t n)
{
    BROKER_MUST(&m->broker, broker_send(&m->broker, "t", messages, n, NULL));
}

/* Three records, the last of them "c" at 3000, are read and in log and checkpoint. */
static void read_three(bool envelope)
{
    const struct broker_message three[] = {record("a", 1000), record("b", 2000), record("c", 3000)};

    mock_topic(&mock, "t", 1);
    send_to(&mock, three, LEN(three));
    rig_open(&rig, mock.broker.address, "t");
    rig.kafka.envelope = envelope;
    rig_up(&rig);
    rig_await(&rig, 3);
    rig_drain(&rig);
    rig_down(&rig);
}

/* What the next start finds. */
static struct mock other;

static void move_to_other(const struct broker_message *messages, size_t n)
{
    mock_open(&other, 1);
    mock_topic(&other, "t", 1);
    if (n) {
        send_to(&other, messages, n);
    }
    rig.kafka.brokers = other.broker.address;
}

static void close_other(void)
{
    rig_close(&rig);
    mock_close(&other);
}

/* ---- the same, different, absent ---- */

START_TEST(the_same_record_is_verified_and_read_once)
{
    read_three(false);
    for (int life = 0; life < 3; life++) {
        rig_up(&rig);
        const struct broker_message more[] = {record("more", 4000 + life)};
        send_to(&mock, more, 1);
        rig_await(&rig, 4 + life);
        ck_assert_uint_eq(rig_status(&rig).verified, 1);
        ck_assert_uint_eq(rig_status(&rig).absent, 0);
        if (life == 1) {
            rig_drain(&rig);
        }
        rig_down(&rig);
    }
    rig_close(&rig);
}
END_TEST

/* One field of the last record differs, each in turn. */
static const struct broker_message imposters[] = {
    {.value = {(const uint8_t *)"C", 1}, .timestamp_ms = 3000},
    {.value = {(const uint8_t *)"", 0}, .timestamp_ms = 3000},
    {.timestamp_ms = 3000},
    {.value = {(const uint8_t *)"c", 1}, .timestamp_ms = 3001},
    {.key = {(const uint8_t *)"", 0}, .value = {(const uint8_t *)"c", 1}, .timestamp_ms = 3000},
    {.key = {(const uint8_t *)"c", 1}, .timestamp_ms = 3000},
};

START_TEST(f87_another_record_in_its_place_is_an_error_with_both_hashes)
{
    const struct broker_message there[] = {record("a", 1000), record("b", 2000), imposters[_i],
                                           record("behind", 9000)};
    struct levee_error err = {0};
    unsigned long long stored, found;

    read_three(false);
    move_to_other(there, LEN(there));
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED);
    ck_assert_ptr_nonnull(strstr(err.where, "offset 2 of partition 0 of topic t"));
    ck_assert_int_eq(sscanf(err.expected, "hash %llx", &stored), 1);
    ck_assert_int_eq(sscanf(err.found, "hash %llx", &found), 1);
    ck_assert_uint_ne(stored, found);
    ck_assert_int_eq(rig.total, 3); /* nothing behind it was taken */
    close_other();
}
END_TEST

/* The option may change between two starts; the record is the same all the same. */
START_TEST(an_envelope_more_or_less_is_no_difference)
{
    bool first = _i == 0;

    read_three(first);
    rig.kafka.envelope = !first;
    rig_up(&rig);
    const struct broker_message more[] = {record("d", 4000)};
    send_to(&mock, more, 1);
    rig_await(&rig, 4);
    ck_assert_uint_eq(rig_status(&rig).verified, 1);
    rig_drain(&rig);
    rig_down(&rig);
    rig_up(&rig);
    send_to(&mock, more, 1);
    rig_await(&rig, 5);
    ck_assert_uint_eq(rig_status(&rig).verified, 1);
    rig_close(&rig);
}
END_TEST

/* Fewer records than we have read, down to none. */
START_TEST(f86_a_topic_that_ends_before_our_position_is_an_error_with_its_range)
{
    const struct broker_message fewer[] = {record("a", 1000), record("b", 2000)};
    struct levee_error err = {0};
    char range[64];

    read_three(false);
    move_to_other(fewer, (size_t)_i);
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ETOPIC_CHANGED);
    ck_assert_str_eq(err.expected, "offset 3");
    (void)snprintf(range, sizeof range, "offsets from 0 to below %d", _i);
    ck_assert_str_eq(err.found, range);
    close_other();
}
END_TEST

/* ---- ranges that are gone ---- */

#define BIG 200000u

/* Big records, so many that the mock drops the oldest; returns how many there were ever. */
static uint64_t overflow(uint64_t first, size_t n)
{
    static uint8_t bytes[BIG];
    struct broker_message m[64];
    char numbers[64][24];

    ck_assert_uint_le(n, LEN(m));
    for (size_t i = 0; i < n; i++) {
        (void)snprintf(numbers[i], sizeof numbers[i], "%" PRIu64, first + i);
        m[i] = (struct broker_message){.key = levee_text(numbers[i]),
                                       .value = {bytes, sizeof bytes},
                                       .timestamp_ms = 1 + (int64_t)(first + i)};
    }
    /* One by one: the mock drops whole message sets. */
    static const char *const single[] = {"batch.num.messages=1", NULL};
    static const struct broker_how how = {.properties = single};
    BROKER_MUST(&mock.broker, broker_send(&mock.broker, "t", m, n, &how));
    return first + n;
}

static void expect_big(uint64_t first, uint64_t end)
{
    static uint8_t bytes[BIG];

    for (uint64_t i = first; i < end; i++) {
        char number[24];
        (void)snprintf(number, sizeof number, "%" PRIu64, i);
        const struct broker_message m = {.key = levee_text(number),
                                         .value = {bytes, sizeof bytes},
                                         .timestamp_ms = 1 + (int64_t)i};
        rig_expect_message(&expected, &m);
    }
}

/* What a stranger finds: the first offset that is still there. */
static int64_t first_offset(void)
{
    char text[256];
    int64_t low = 0, high = 0;
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    ck_assert_int_eq(
        rd_kafka_conf_set(conf, "bootstrap.servers", mock.broker.address, text, sizeof text),
        RD_KAFKA_CONF_OK);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    ck_assert_ptr_nonnull(rk);
    ck_assert_int_eq(rd_kafka_query_watermark_offsets(rk, "t", 0, &low, &high, 10000), 0);
    rd_kafka_destroy(rk);
    return low;
}

static void read_five_big(void)
{
    mock_topic(&mock, "t", 1);
    (void)overflow(0, 5);
    expect_big(0, 5);
    rig_open(&rig, mock.broker.address, "t");
    rig_up(&rig);
    rig_await(&rig, 5);
    rig_down(&rig);
}

START_TEST(f85_offsets_gone_before_they_were_read_are_an_error_with_the_missing_range)
{
    struct levee_error err = {0};
    char text[96];

    read_five_big();
    uint64_t high = overflow(5, 60);
    int64_t low = first_offset();
    ck_assert_int_gt(low, 5);
    for (int life = 0; life < 2; life++) { /* a restart changes nothing */
        rig_up(&rig);
        ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EOFFSET_RANGE);
        (void)snprintf(text, sizeof text, "offsets 5 to %" PRId64 " of partition 0", low - 1);
        ck_assert_msg(strstr(err.what, text) != NULL, "%s: %s", text, err.what);
        ck_assert_str_eq(err.expected, "offset 5");
        (void)snprintf(text, sizeof text, "offsets from %" PRId64 " to below %" PRIu64, low, high);
        ck_assert_str_eq(err.found, text);
        ck_assert_uint_eq(rig.errors, 1);
        rig_down(&rig);
    }
    rig_close(&rig);
}
END_TEST

static int see_gap(void *arg, const struct levee_dead_letter *d)
{
    int64_t low = *(const int64_t *)arg;

    ck_assert_str_eq(d->source, d->uid);
    ck_assert_int_eq(d->code, LEVEE_EOFFSET_RANGE);
    ck_assert_uint_eq(d->first, 5 + 1); /* offset + 1 */
    ck_assert_uint_eq(d->last, (uint64_t)low);
    ck_assert_uint_gt(d->producer.len, 2);
    ck_assert_int_eq(memcmp(d->producer.data + d->producer.len - 2, "/0", 2), 0);
    return 1;
}

START_TEST(f85_a_gap_may_be_skipped_and_is_counted_once_for_ever)
{
    read_five_big();
    uint64_t high = overflow(5, 60);
    int64_t low = first_offset();
    rig.kafka.on_gap = LEVEE_KAFKA_SKIP;
    expect_big((uint64_t)low, high);
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    ck_assert_uint_eq(rig_status(&rig).gaps, 1);
    ck_assert_uint_eq(rig_status(&rig).gap_offsets, (uint64_t)low - 5);
    ck_assert_uint_ge(rig.errors, 1);
    ck_assert_int_eq(rig.error.code, LEVEE_EOFFSET_RANGE);
    rig_down(&rig);
    rig_up(&rig);
    (void)overflow(high, 1);
    expect_big(high, high + 1);
    rig_await(&rig, (int64_t)expected.count);
    ck_assert_uint_eq(rig_status(&rig).gaps, 1);
    ck_assert_uint_eq(rig_status(&rig).gap_offsets, (uint64_t)low - 5);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    ck_assert_int_eq(levee_dead_letters_each(rig.ctx, see_gap, &low, NULL), 1);
    rig_close(&rig);
}
END_TEST

/* ---- records that cannot be read ---- */

static void fail_fetches(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        rd_kafka_mock_push_request_errors(mock.cluster, FETCH, 1, RD_KAFKA_RESP_ERR_INVALID_MSG);
    }
}

START_TEST(f93_a_fetch_that_does_not_verify_is_repeated_and_skips_nothing)
{
    mock_topic(&mock, "t", 1);
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", 0, 1, 1000, NULL));
    rig_expect_numbers(&expected, 1, 1000);
    fail_fetches(2);
    rig_open(&rig, mock.broker.address, "t");
    rig.text = rig_text_timeless;
    rig_up(&rig);
    rig_await(&rig, 1000);
    ck_assert_uint_ge(rig.errors, 1);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}
END_TEST

START_TEST(f93_records_that_never_verify_are_an_error_with_their_place)
{
    struct levee_error err = {0};

    mock_topic(&mock, "t", 1);
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", 0, 1, 1000, NULL));
    rig_open(&rig, mock.broker.address, "t");
    rig_up(&rig);
    rig_await(&rig, 1000);
    fail_fetches(100);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ERECORD_DAMAGED);
    ck_assert_ptr_nonnull(strstr(err.where, "partition 0 of topic t, at or behind offset 1000"));
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_identity");
    TCase *t = tcase_create("mock broker");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, the_same_record_is_verified_and_read_once);
    tcase_add_loop_test(t, f87_another_record_in_its_place_is_an_error_with_both_hashes, 0,
                        LEN(imposters));
    tcase_add_loop_test(t, an_envelope_more_or_less_is_no_difference, 0, 2);
    tcase_add_loop_test(t, f86_a_topic_that_ends_before_our_position_is_an_error_with_its_range, 0,
                        3);
    tcase_add_test(t, f85_offsets_gone_before_they_were_read_are_an_error_with_the_missing_range);
    tcase_add_test(t, f85_a_gap_may_be_skipped_and_is_counted_once_for_ever);
    tcase_add_test(t, f93_a_fetch_that_does_not_verify_is_repeated_and_skips_nothing);
    tcase_add_test(t, f93_records_that_never_verify_are_an_error_with_their_place);
    suite_add_tcase(s, t);
    return suite_main(s);
}
