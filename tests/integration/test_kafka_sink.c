/*
 * The Kafka sink on a real broker, seen by a stranger with read_committed: what a record becomes,
 * which records are refused and where they go, how a batch is cut. Deaths and damage are
 * tests/fault/test_kafka_kills.c's and tests/fault-kafka's. One answer that the real one gives by
 * luck is the mock's.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "levee/levee.h"
#include "runtime/context.h"
#include "tests/support/broker.h"
#include "tests/support/broker_mock.h"

#define LONG_VALUE  3000 /* above the topic's max.message.bytes, below the client's */
#define TOPIC_LIMIT "max.message.bytes=2000"
#define PATIENCE_MS 30000
#define RECORDS_MAX 300
#define ASKED_OFTEN 500
#define PRODUCE     0 /* in the protocol */
#define PUSHED      40

static struct broker broker;

static void start_broker(void)
{
    static const char *const properties[] = {
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found=true", NULL};

    (void)broker_start(&broker, "4.1", 1, properties);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

/* ---- a job: records in, a topic out ---- */

struct job {
    char directory[300], topic[64], letters[80];
    struct levee_kafka_sink_options sink;
    levee_record_fn shape; /* NULL: as they come */
    enum levee_on_failure on_failure;
    levee_context *ctx;
    levee_stream *source;
    uint64_t pushed;
};

static int build(levee_context *ctx, void *arg, struct levee_error *err)
{
    struct job *j = arg;

    j->source = levee_queue_source(ctx, "in", 1);
    levee_stream *s = j->shape ? levee_map(j->source, j->shape, NULL) : j->source;
    levee_kafka_sink(s, "out", &j->sink);
    if (j->letters[0]) {
        levee_kafka_sink(levee_dead_letters(ctx), "letters",
                         &(struct levee_kafka_sink_options){.brokers = broker_address(&broker),
                                                            .topic = j->letters});
    }
    return levee_context_status(ctx, err);
}

static struct job job_on(struct broker *b)
{
    static int n;
    struct job j = {.on_failure = LEVEE_DEAD_LETTER};

    (void)snprintf(j.topic, sizeof j.topic, "sink-%d-%d", (int)getpid(), ++n);
    const char *tmp = getenv("TMPDIR"); /* run-tests clears it away */
    (void)snprintf(j.directory, sizeof j.directory, "%s/%s", tmp ? tmp : "/tmp", j.topic);
    j.sink.brokers = broker_address(b);
    return j;
}

static struct job job_new(const char *const *topic_properties, int partitions)
{
    struct job j = job_on(&broker);

    BROKER_MUST(&broker, broker_topic_create(&broker, j.topic, partitions, 1, topic_properties));
    return j;
}

static void prepare(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];
    struct levee_options o = {.directory = j->directory,
                              .batch_interval_ms = 20,
                              .workers = 1,
                              .on_failure = j->on_failure,
                              .program_id = "test"};

    j->sink.topic = j->topic;
    ck_assert_msg(levee_get_or_create(&j->ctx, &o, build, j, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
}

static void start(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];

    prepare(j);
    ck_assert_msg(levee_start(j->ctx, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
    j->pushed = levee_queue_durable(j->source);
}

static void push(struct job *j, const struct levee_record *r, size_t n)
{
    ck_assert_int_eq(levee_queue_push(j->source, r, n, j->pushed + 1, NULL), LEVEE_OK);
    j->pushed += n;
}

static int drain(struct job *j, struct levee_error *err)
{
    (void)levee_drain(j->ctx, PATIENCE_MS, NULL);
    int code = levee_await(j->ctx, err);
    levee_free(j->ctx);
    return code;
}

static void must_drain(struct job *j)
{
    struct levee_error err = {0};
    char line[1024];
    struct levee_metrics m;

    ck_assert_int_eq(levee_drain(j->ctx, PATIENCE_MS, &err), LEVEE_OK);
    ck_assert_msg(levee_await(j->ctx, &err) == LEVEE_OK, "%s",
                  levee_error_format(&err, line, sizeof line));
    levee_context_metrics(j->ctx, &m);
    ck_assert_uint_eq(m.records_processed, m.records_received);
    levee_free(j->ctx);
}

/* The numbers from..to as keys; every seventh has a value too long for the topic. */
static bool is_long(int i)
{
    return i % 7 == 3;
}

static void push_numbers(struct job *j, int from, int to)
{
    static char keys[RECORDS_MAX][12], text[LONG_VALUE];
    struct levee_record r[RECORDS_MAX];
    size_t n = 0;

    for (uint32_t i = 0, x = 1; i < sizeof text; i++) { /* nothing that compresses */
        x = x * 1664525 + 1013904223;
        text[i] = (char)(x >> 24);
    }
    for (int i = from; i <= to; i++, n++) {
        (void)snprintf(keys[n], sizeof keys[n], "%d", i);
        r[n] = (struct levee_record){
            .key = levee_text(keys[n]),
            .value = {(const uint8_t *)text, is_long(i) ? LONG_VALUE : 5 + (size_t)i % 20}};
    }
    push(j, r, n);
}

static const char *header(const rd_kafka_message_t *m, const char *name)
{
    static char text[4][512];
    static unsigned turn;
    rd_kafka_headers_t *headers = NULL;
    const void *value = NULL;
    size_t len = 0;

    if (rd_kafka_message_headers(m, &headers) ||
        rd_kafka_header_get_last(headers, name, &value, &len) || len >= sizeof text[0]) {
        return NULL;
    }
    char *t = text[turn++ % 4];
    memcpy(t, value, len);
    t[len] = '\0';
    return t;
}

static bool is(const void *data, size_t len, const char *text)
{
    return data && len == strlen(text) && memcmp(data, text, len) == 0;
}

/* from..to, each once: the short ones in the topic, the long ones among the letters. */
static void check_numbers(const struct job *j, int from, int to)
{
    struct broker_log out, letters = {0};

    BROKER_MUST(&broker, broker_read_committed(&broker, j->topic, &out));
    if (j->letters[0]) {
        BROKER_MUST(&broker, broker_read_committed(&broker, j->letters, &letters));
    }
    for (int i = from; i <= to; i++) {
        char key[12];
        unsigned there = 0, letter = 0;
        (void)snprintf(key, sizeof key, "%d", i);
        for (size_t k = 0; k < out.count; k++) {
            there += is(out.records[k]->key, out.records[k]->key_len, key);
        }
        for (size_t k = 0; k < letters.count; k++) {
            const rd_kafka_message_t *m = letters.records[k];
            if (is(m->key, m->key_len, key)) {
                letter++;
                ck_assert_uint_eq(m->len, LONG_VALUE);
                ck_assert_str_eq(header(m, "levee.uid"), "out");
                ck_assert_str_eq(header(m, "levee.code"), "10"); /* MESSAGE_TOO_LARGE */
                ck_assert_int_eq(atoi(header(m, "levee.index")), (i - from) % 100);
            }
        }
        ck_assert_msg(there == !is_long(i) && (!j->letters[0] || letter == is_long(i)),
                      "%d: %u times there, %u letters", i, there, letter);
    }
    broker_log_release(&out);
    if (j->letters[0]) {
        broker_log_release(&letters);
    }
}

/* f92: the topic takes 2,000 bytes, some records have 3,000. The broker refuses whole requests, and
 * yet exactly those records become letters. With `compression` no length can be concluded from
 * another one's. */
START_TEST(f92_records_too_long_for_the_topic_become_dead_letters)
{
    static const char *const limit[] = {TOPIC_LIMIT, NULL};
    static const char *const none[] = {NULL};
    static const char *const gzip[] = {"compression.codec=gzip", NULL};
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(limit, 3);
    j.sink.properties = _i == 1 ? gzip : none;
    j.sink.at_least_once = _i == 2;
    if (_i < 2) {
        (void)snprintf(j.letters, sizeof j.letters, "%s-dead", j.topic);
        BROKER_MUST(&broker, broker_topic_create(&broker, j.letters, 1, 1, NULL));
    }
    start(&j);
    push_numbers(&j, 1, 100);
    must_drain(&j);
    if (_i < 2) {
        check_numbers(&j, 1, 100);
        start(&j); /* and from the checkpoint */
        push_numbers(&j, 101, 110);
        must_drain(&j);
        check_numbers(&j, 101, 110);
    }
}
END_TEST

/* Longer than the client's own limit: it never leaves the process. */
START_TEST(f92_records_too_long_for_the_client_become_dead_letters)
{
    static const char *const small[] = {"message.max.bytes=1500", NULL};
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(NULL, 2);
    j.sink.properties = small;
    (void)snprintf(j.letters, sizeof j.letters, "%s-dead", j.topic);
    BROKER_MUST(&broker, broker_topic_create(&broker, j.letters, 1, 1, NULL));
    start(&j);
    push_numbers(&j, 1, 100);
    must_drain(&j);
    check_numbers(&j, 1, 100);
}
END_TEST

START_TEST(f92_a_refused_record_stops_the_context_unless_told_otherwise)
{
    static const char *const limit[] = {TOPIC_LIMIT, NULL};
    struct levee_error err = {0};
    struct broker_log out;
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(limit, 1);
    j.on_failure = LEVEE_STOP;
    start(&j);
    push_numbers(&j, 1, 20);
    ck_assert_int_eq(drain(&j, &err), LEVEE_ESINK_REFUSED);
    ck_assert_ptr_nonnull(strstr(err.what, j.topic));
    ck_assert_ptr_nonnull(strstr(err.found, "too large"));
    BROKER_MUST(&broker, broker_read_committed(&broker, j.topic, &out));
    ck_assert_uint_eq(out.count, 0);
    broker_log_release(&out);
}
END_TEST

/* ---- what a record becomes ---- */

static int with_headers(levee_output *out, const struct levee_record *in, void *arg)
{
    struct levee_kafka_header h[] = {{levee_text("kind"), levee_text("test")},
                                     {levee_text("none"), {NULL, 0}}};
    struct levee_kafka_outgoing m = {.key = in->key,
                                     .value = in->value,
                                     .time_ms = 1700000000123,
                                     .headers = h,
                                     .header_count = 2,
                                     .has_partition = in->value.data == NULL,
                                     .partition = 2};

    (void)arg;
    return levee_emit_kafka(out, &m);
}

START_TEST(headers_time_partition_and_tombstones_go_through)
{
    struct broker_log out;
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(NULL, 3);
    j.sink.envelope = true;
    j.shape = with_headers;
    start(&j);
    push(&j,
         (struct levee_record[]){{.key = levee_text("a"), .value = levee_text("1")},
                                 {.key = levee_text("gone")}},
         2);
    must_drain(&j);
    BROKER_MUST(&broker, broker_read_committed(&broker, j.topic, &out));
    ck_assert_uint_eq(out.count, 2);
    for (size_t i = 0; i < out.count; i++) {
        const rd_kafka_message_t *m = out.records[i];
        bool tombstone = is(m->key, m->key_len, "gone");
        ck_assert_str_eq(header(m, "kind"), "test");
        ck_assert_int_eq(rd_kafka_message_timestamp(m, NULL), 1700000000123);
        ck_assert(tombstone ? m->payload == NULL && m->partition == 2
                            : is(m->payload, m->len, "1"));
    }
    broker_log_release(&out);
}
END_TEST

/* Java's partitioner is murmur2 of the key, positive, modulo partitions. The values are those of
 * org.apache.kafka.common.utils.Utils.murmur2's own test (KafkaProducer's UtilsTest). */
START_TEST(keys_lie_where_java_would_put_them)
{
    static const struct {
        const char *key;
        int32_t murmur2;
    } known[] = {{"21", -973932308},
                 {"foobar", -790332482},
                 {"a-little-bit-long-string", -985981536},
                 {"a-little-bit-longer-string", -1486304829},
                 {"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971},
                 {"abc", 479470107}};
    struct levee_record r[6];
    struct broker_log out;
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(NULL, 7);
    start(&j);
    for (size_t i = 0; i < 6; i++) {
        r[i] = (struct levee_record){.key = levee_text(known[i].key), .value = levee_text("v")};
    }
    push(&j, r, 6);
    must_drain(&j);
    BROKER_MUST(&broker, broker_read_committed(&broker, j.topic, &out));
    ck_assert_uint_eq(out.count, 6);
    for (size_t i = 0; i < out.count; i++) {
        const rd_kafka_message_t *m = out.records[i];
        for (size_t k = 0; k < 6; k++) {
            if (is(m->key, m->key_len, known[k].key)) {
                ck_assert_int_eq(m->partition, (known[k].murmur2 & 0x7fffffff) % 7);
            }
        }
    }
    broker_log_release(&out);
}
END_TEST

/* ---- parts ---- */

START_TEST(a_large_batch_is_committed_in_parts)
{
    struct broker_log out;
    struct job j;
    unsigned parts = 0, ends = 0;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(NULL, 1);
    j.sink.transaction_bytes = 2000;
    start(&j);
    push_numbers(&j, 1, 100); /* 14 of them are longer than that alone */
    must_drain(&j);
    BROKER_MUST(&broker, broker_read_committed(&broker, j.topic, &out));
    ck_assert_uint_eq(out.count, 100);
    for (size_t i = 0; i < out.count; i++) {
        const char *token = header(out.records[i], "levee");
        const char *part = token ? strstr(token, " records=") : NULL;
        parts += part != NULL;
        ends += token && !part;
        ck_assert(!part || strtoul(part + strlen(" records="), NULL, 10) == i + 1);
    }
    ck_assert_uint_ge(parts, 14);
    ck_assert_uint_eq(ends, 1);
    ck_assert_ptr_nonnull(header(out.records[99], "levee"));
    broker_log_release(&out);
}
END_TEST

/* ---- a group that may not be read ---- */

/* The client tells it in one event, while the sink may be busy with another question. */
START_TEST(a_denied_group_is_named_whenever_the_client_tells)
{
    const struct levee_token identity = {.context = "0123456789abcdef", .uid = "out"};
    struct levee_error err = {0};
    enum levee_token_state state;
    struct levee_token token;
    char group[128];
    struct job j;

    if (!broker_usable(&broker)) {
        return;
    }
    j = job_new(NULL, 1);
    (void)snprintf(group, sizeof group, "levee-sink-%s", j.topic);
    BROKER_MUST(&broker, broker_deny(&broker, RD_KAFKA_RESOURCE_GROUP, group,
                                     RD_KAFKA_ACL_OPERATION_DESCRIBE));
    prepare(&j);
    const struct rt_sink *sink = j.ctx->graph->sinks[0]->sink;
    for (int i = 0; i < ASKED_OFTEN; i++) { /* the event comes during one of them */
        ck_assert_int_eq(sink->ops->open(sink->self, &identity, &err), LEVEE_OK);
    }
    ck_assert_int_eq(sink->ops->last_token(sink->self, &state, &token, &err), LEVEE_ESINK_FAILED);
    ck_assert_msg(strstr(err.found, "Group authorization failed") != NULL, "%s", err.found);
    levee_free(j.ctx);
    BROKER_MUST(&broker, broker_allow_all(&broker));
}
END_TEST

/* ---- acknowledged, and not there ---- */

/* What becomes of the first request when a broker refuses it, while it takes the second, which was
 * already on its way: sequence numbers that come again are "duplicates", and the client reports
 * such a record as delivered. Injected: the mock answers so without taking it. */
START_TEST(a_record_reported_without_an_offset_is_written_again)
{
    struct broker_log out;
    bool there[PUSHED] = {false};
    struct mock mock;
    char key[12];

    mock_open(&mock, 1);
    struct job j = job_on(&mock.broker);
    j.sink.at_least_once = true;
    mock_topic(&mock, j.topic, 1);
    rd_kafka_mock_push_request_errors(mock.cluster, PRODUCE, 1,
                                      RD_KAFKA_RESP_ERR_DUPLICATE_SEQUENCE_NUMBER);
    start(&j);
    push_numbers(&j, 1, PUSHED);
    must_drain(&j);
    BROKER_MUST(&mock.broker, broker_read_committed(&mock.broker, j.topic, &out));
    for (size_t i = 0; i < out.count; i++) {
        const rd_kafka_message_t *m = out.records[i];
        (void)snprintf(key, sizeof key, "%.*s", (int)m->key_len, (const char *)m->key);
        unsigned long n = strtoul(key, NULL, 10);
        ck_assert(n >= 1 && n <= PUSHED);
        there[n - 1] = true;
    }
    for (size_t i = 0; i < PUSHED; i++) {
        ck_assert_msg(there[i], "%zu is lost", i + 1);
    }
    broker_log_release(&out);
    mock_close(&mock);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("the Kafka sink");
    TCase *c = tcase_create("real broker");

    tcase_set_timeout(c, 120);
    tcase_add_unchecked_fixture(c, start_broker, stop_broker);
    tcase_add_loop_test(c, f92_records_too_long_for_the_topic_become_dead_letters, 0, 3);
    tcase_add_test(c, f92_records_too_long_for_the_client_become_dead_letters);
    tcase_add_test(c, f92_a_refused_record_stops_the_context_unless_told_otherwise);
    tcase_add_test(c, headers_time_partition_and_tombstones_go_through);
    tcase_add_test(c, keys_lie_where_java_would_put_them);
    tcase_add_test(c, a_large_batch_is_committed_in_parts);
    tcase_add_test(c, a_denied_group_is_named_whenever_the_client_tells);
    suite_add_tcase(s, c);
    c = tcase_create("mock");
    tcase_set_timeout(c, 60);
    tcase_add_test(c, a_record_reported_without_an_offset_is_written_again);
    suite_add_tcase(s, c);
    return suite_main(s);
}
