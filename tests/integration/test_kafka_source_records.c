/*
 * What functions see of a Kafka record, and how fast records may come, on the mock broker: the
 * envelope against what was sent and against every damage, and the rate of a partition.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
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

/* ---- envelopes ---- */

static size_t put(char *out, size_t n, const char *name, struct levee_slice s)
{
    return n + (size_t)(s.data ? snprintf(out + n, RIG_TEXT - n, " %s=%.*s", name, (int)s.len,
                                          (const char *)s.data)
                               : snprintf(out + n, RIG_TEXT - n, " %s:null", name));
}

static size_t place(char *out, const char *topic, int32_t partition, int64_t offset, int64_t time)
{
    return (size_t)snprintf(out, RIG_TEXT, "%s/%d@%" PRId64 " at %" PRId64, topic, (int)partition,
                            offset, time);
}

/* Everything that the public functions say of the record. */
static void text_of_envelope(const struct levee_record *record, char out[RIG_TEXT])
{
    struct levee_kafka_message m;
    struct levee_slice name, value;
    char topic[64];

    if (levee_kafka_record(record, &m) != LEVEE_OK) {
        (void)snprintf(out, RIG_TEXT, "no envelope");
        return;
    }
    (void)snprintf(topic, sizeof topic, "%.*s", (int)m.topic.len, (const char *)m.topic.data);
    size_t n = place(out, topic, m.partition, m.offset, m.time_ms);
    n = put(out, n, "key", m.key);
    n = put(out, n, "value", m.value);
    for (size_t i = 0; levee_kafka_header_at(&m, i, &name, &value); i++) {
        char text[64];
        (void)snprintf(text, sizeof text, "[%.*s]", (int)name.len, (const char *)name.data);
        n = put(out, n, text, value);
    }
    if (levee_kafka_header(&m, "twice", &value)) {
        (void)put(out, n, "last", value);
    }
}

START_TEST(an_envelope_holds_everything_a_message_has)
{
    static const uint8_t id[] = "seven";
    const struct levee_slice none = {0}, empty = levee_text("");
    const struct broker_header headers[] = {{"trace", {id, 5}},
                                            {"twice", {(const uint8_t *)"first", 5}},
                                            {"nothing", none},
                                            {"blank", empty},
                                            {"twice", {(const uint8_t *)"second", 6}}};
    const struct levee_slice keys[] = {none, empty, levee_text("k")};
    const struct levee_slice values[] = {none, empty, levee_text("v")};
    int64_t offset[2] = {0};

    mock_topic(&mock, "letters", 2);
    for (size_t i = 0; i < LEN(keys) * LEN(values) * LEN(headers); i++) {
        struct broker_message m = {.partition = (int32_t)(i % 2),
                                   .key = keys[i % LEN(keys)],
                                   .value = values[i / LEN(keys) % LEN(values)],
                                   .timestamp_ms = 1000 + (int64_t)i,
                                   .headers = headers,
                                   .header_count = i % (LEN(headers) + 1)};
        char text[RIG_TEXT];
        BROKER_MUST(&mock.broker, broker_send(&mock.broker, "letters", &m, 1, NULL));
        size_t n = place(text, "letters", m.partition, offset[i % 2]++, m.timestamp_ms);
        n = put(text, n, "key", m.key);
        n = put(text, n, "value", m.value);
        const struct broker_header *last = NULL;
        for (size_t h = 0; h < m.header_count; h++) {
            char name[64];
            (void)snprintf(name, sizeof name, "[%s]", headers[h].name);
            n = put(text, n, name, headers[h].value);
            last = strcmp(headers[h].name, "twice") == 0 ? &headers[h] : last;
        }
        if (last) {
            (void)put(text, n, "last", last->value);
        }
        rig_expect(&expected, text);
    }
    rig_open(&rig, mock.broker.address, "letters");
    rig.kafka.envelope = true;
    rig.text = text_of_envelope;
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}
END_TEST

/* The bytes as documented, made by hand. */
static size_t make_envelope(uint8_t *out)
{
    static const uint8_t bytes[] = {'K',  1,    3,      /* a value, the broker's time */
                                    2,    0,    0,   0, /* partition */
                                    0x39, 0x30, 0,   0,   0,   0,   0,   0, /* offset 12345 */
                                    6,    't',  'o', 'p', 'i', 'c',         /* topic */
                                    3,                                      /* headers */
                                    2,    'a',  3,   '1', '2', 2,   'b', 0,
                                    2,    'a',  1, /* a=12, b absent, a empty */
                                    'v',  'a',  'l', 'u', 'e'};

    memcpy(out, bytes, sizeof bytes);
    return sizeof bytes;
}

START_TEST(the_bytes_of_an_envelope_are_as_documented)
{
    uint8_t bytes[64];
    struct levee_record r = {.value = {bytes, make_envelope(bytes)}, .time_ms = 77};
    struct levee_kafka_message m;
    struct levee_slice name, value;

    ck_assert_int_eq(levee_kafka_record(&r, &m), LEVEE_OK);
    ck_assert_int_eq(m.partition, 2);
    ck_assert_int_eq(m.offset, 12345);
    ck_assert_int_eq(m.time_ms, 77);
    ck_assert(m.log_append_time);
    ck_assert_ptr_null(m.key.data);
    ck_assert(m.topic.len == 5 && memcmp(m.topic.data, "topic", 5) == 0);
    ck_assert(m.value.len == 5 && memcmp(m.value.data, "value", 5) == 0);
    ck_assert_uint_eq(m.header_count, 3);
    ck_assert(levee_kafka_header_at(&m, 0, &name, &value));
    ck_assert(name.len == 1 && name.data[0] == 'a' && value.len == 2);
    ck_assert(levee_kafka_header_at(&m, 1, &name, &value));
    ck_assert(name.data[0] == 'b' && !value.data);
    ck_assert(!levee_kafka_header_at(&m, 3, &name, &value));
    ck_assert(levee_kafka_header(&m, "a", &value));
    ck_assert(value.data && value.len == 0); /* the last one */
    ck_assert(!levee_kafka_header(&m, "c", &value));
    bytes[2] = 2; /* no value: a tombstone */
    ck_assert_int_eq(levee_kafka_record(&r, &m), LEVEE_OK);
    ck_assert_ptr_null(m.value.data);
}
END_TEST

static bool inside(struct levee_slice s, const uint8_t *bytes, size_t len)
{
    return !s.data || (s.data >= bytes && s.data + s.len <= bytes + len);
}

/* Every truncation and every byte at every value: refused, or what comes out lies inside. The bytes
 * end where memory ends, so that a sanitizer sees what reads beyond. */
START_TEST(a_damaged_envelope_is_refused_or_read_inside_its_bounds)
{
    uint8_t whole[64];
    size_t size = make_envelope(whole), accepted = 0;

    for (size_t len = 0; len <= size; len++) {
        uint8_t *bytes = malloc(len + !len);
        for (size_t at = 0; at < len + !len; at++) {
            for (unsigned byte = 0; byte < 256; byte++) {
                struct levee_kafka_message m;
                struct levee_slice name, value;
                memcpy(bytes, whole, len);
                if (len) {
                    bytes[at] = (uint8_t)byte;
                }
                struct levee_record r = {.value = {bytes, len}};
                if (levee_kafka_record(&r, &m) != LEVEE_OK) {
                    continue;
                }
                accepted++;
                MUST(inside(m.topic, bytes, len) && inside(m.value, bytes, len));
                for (size_t i = 0; levee_kafka_header_at(&m, i, &name, &value); i++) {
                    MUST(inside(name, bytes, len) && inside(value, bytes, len));
                }
                (void)levee_kafka_header(&m, "a", &value);
            }
        }
        free(bytes);
    }
    ck_assert_uint_gt(accepted, 1000); /* a value may be anything */
    ck_assert_int_eq(
        levee_kafka_record(&(struct levee_record){0}, &(struct levee_kafka_message){0}),
        LEVEE_EINVALID);
}
END_TEST

/* ---- the rate of a partition ---- */

/* Two partitions with a limit, one of them with far more than the other: neither is faster than the
 * limit, the small one does not wait for the big one, and what the client had fetched ahead and
 * threw away is read again. */
START_TEST(f90_a_partition_is_no_faster_than_its_rate)
{
    enum { RATE = 2000, BIG = 6000, SMALL = 1000 };

    mock_topic(&mock, "fast", 2);
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "fast", 0, 0, BIG, NULL));
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "fast", 1, 100000, SMALL, NULL));
    rig_expect_numbers(&expected, 0, BIG);
    rig_expect_numbers(&expected, 100000, SMALL);
    rig_open(&rig, mock.broker.address, "fast");
    rig.text = rig_text_timeless;
    rig.kafka.max_rate_per_partition = RATE;
    int64_t begin = rig_now_ms();
    rig_up(&rig);
    rig_await(&rig, BIG + SMALL);
    int64_t took = rig_now_ms() - begin;
    /* A burst of a quarter of a second goes first. */
    int64_t least = (int64_t)(BIG - RATE / 4) * 1000 / RATE;
    ck_assert_msg(took >= least * 95 / 100, "%d records at %d a second took %" PRId64 " ms", BIG,
                  RATE, took);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}
END_TEST

/* ---- a buffer that is full ---- */

/* Far more than the buffer and the client's own queue may hold, behind a sink that is slow: what is
 * in memory stays within the option, and all of it arrives once. */
START_TEST(f84_a_slow_sink_makes_the_source_wait_and_costs_nothing)
{
    enum { RECORDS = 3000 };
    static uint8_t bytes[1000];
    struct broker_message *m = calloc(RECORDS, sizeof *m);
    struct levee_metrics metrics;

    mock_topic(&mock, "deep", 2);
    for (size_t i = 0; i < RECORDS; i++) {
        m[i] = (struct broker_message){.partition = (int32_t)(i % 2),
                                       .value = {bytes, sizeof bytes},
                                       .timestamp_ms = 1 + (int64_t)i};
        rig_expect_message(&expected, &m[i]);
    }
    BROKER_MUST(&mock.broker, broker_send(&mock.broker, "deep", m, RECORDS, NULL));
    free(m);
    rig_open(&rig, mock.broker.address, "deep");
    rig.levee.buffer_bytes = 256u << 10;
    rig.levee.block_bytes = 16u << 10;
    rig.hold_ms = 40;
    rig_up(&rig);
    rig_await(&rig, RECORDS);
    levee_context_metrics(rig.ctx, &metrics);
    ck_assert_uint_le(metrics.buffered_bytes_max, 2 * rig.levee.buffer_bytes);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_records");
    TCase *t = tcase_create("mock broker");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, an_envelope_holds_everything_a_message_has);
    tcase_add_test(t, f90_a_partition_is_no_faster_than_its_rate);
    tcase_add_test(t, f84_a_slow_sink_makes_the_source_wait_and_costs_nothing);
    suite_add_tcase(s, t);
    t = tcase_create("envelope");
    tcase_add_test(t, the_bytes_of_an_envelope_are_as_documented);
    tcase_add_test(t, a_damaged_envelope_is_refused_or_read_inside_its_bounds);
    suite_add_tcase(s, t);
    return suite_main(s);
}
