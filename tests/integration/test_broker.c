/*
 * The broker that other tests lean on (tests/support/broker.h): its readers see what was committed
 * and nothing else, topics and groups come and go, and after a SIGKILL (process death) it comes
 * back with the same data on the same ports.
 *
 * One broker of each version, started together, is shared by all tests; each has topics of its own.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tests/support/broker.h"

#define LEN(array)     (sizeof(array) / sizeof *(array))
#define MESSAGE_MAX    20000
#define GONE_OFFSET    (-1001) /* RD_KAFKA_OFFSET_INVALID: nothing committed */
#define OFFSETS_MAX    2000
#define PARTITIONS_MAX 4

static struct broker shared[BROKER_VERSIONS];

static const char *const properties[] = {"message.max.bytes=20000", NULL};

static void start_shared(void)
{
    broker_start_each(shared, properties);
}

static void stop_shared(void)
{
    broker_stop_each(shared);
}

/* ---- a model of a topic: what was sent, in order ---- */

struct sent {
    int32_t partition;
    uint64_t first;
    size_t count;
    const struct broker_how *how;
};

/* Sends all of it, then compares the values of both kinds of readers, partition by partition, with
 * what the list says they are. `open`: the last transaction has not ended yet. */
static void send_all(struct broker *b, const char *topic, const struct sent *sent, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        BROKER_MUST(b, broker_send_numbers(b, topic, sent[i].partition, sent[i].first,
                                           sent[i].count, sent[i].how));
    }
}

static void must_hold(const struct broker_log *log, const struct sent *sent, size_t n,
                      bool committed)
{
    size_t at = 0;

    for (int32_t p = 0; p < PARTITIONS_MAX; p++) {
        for (size_t i = 0; i < n; i++) {
            bool visible = !sent[i].how || sent[i].how->end == BROKER_COMMIT || !committed;
            for (size_t k = 0; k < sent[i].count && visible && sent[i].partition == p; k++) {
                char text[24];
                ck_assert_msg(at < log->count, "only %zu records", log->count);
                const rd_kafka_message_t *m = log->records[at++];
                (void)snprintf(text, sizeof text, "%" PRIu64, sent[i].first + k);
                ck_assert_msg(m->partition == p && m->len == strlen(text) &&
                                  memcmp(m->payload, text, m->len) == 0,
                              "record %zu is %.*s of partition %d, not %s of %d", at - 1,
                              (int)m->len, (const char *)m->payload, m->partition, text, p);
            }
        }
    }
    ck_assert_uint_eq(at, log->count);
}

static void must_show(struct broker *b, const char *topic, const struct sent *sent, size_t n)
{
    struct broker_log log;

    BROKER_MUST(b, broker_read_committed(b, topic, &log));
    must_hold(&log, sent, n, true);
    broker_log_release(&log);
    BROKER_MUST(b, broker_read_all(b, topic, &log));
    must_hold(&log, sent, n, false);
    broker_log_release(&log);
}

static const struct broker_how commit = {.transaction = "t", .end = BROKER_COMMIT};
static const struct broker_how abort_it = {.transaction = "t", .end = BROKER_ABORT};
static const struct broker_how leave = {.transaction = "t", .end = BROKER_LEAVE_OPEN};

START_TEST(readers_see_what_was_committed)
{
    struct broker *b = &shared[_i];
    static const struct sent sent[] = {
        {0, 1, 100, &commit},  {1, 1001, 50, &abort_it}, {0, 101, 50, &abort_it},
        {0, 151, 50, &commit}, {1, 2001, 10, NULL},      {0, 201, 10, &leave},
        {0, 301, 10, &commit}, /* its producer ends what the one before has left */
        {2, 421, 5, &leave},   /* nothing is behind this one */
    };

    if (!broker_usable(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "committed", 4, 0, NULL));
    send_all(b, "committed", sent, LEN(sent));
    must_show(b, "committed", sent, LEN(sent));
}
END_TEST

/* A record behind an open transaction is committed, but no reader of committed records may get it
 * before the transaction has ended: the mock broker of librdkafka knows nothing of this. */
START_TEST(an_open_transaction_holds_readers_back)
{
    struct broker *b = &shared[_i];
    static const struct broker_how other = {.transaction = "other", .end = BROKER_LEAVE_OPEN};
    static const struct broker_how ended = {.transaction = "other", .end = BROKER_ABORT};
    static const struct sent sent[] = {{0, 1, 3, &commit}, {0, 4, 3, &other}, {0, 7, 3, &commit}};
    struct broker_log log;

    if (!broker_usable(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "held", 1, 0, NULL));
    send_all(b, "held", sent, LEN(sent));
    BROKER_MUST(b, broker_read_committed(b, "held", &log));
    must_hold(&log, sent, 1, true);
    broker_log_release(&log);
    BROKER_MUST(b, broker_send_numbers(b, "held", 0, 0, 0, &ended));
    must_show(b, "held", sent, LEN(sent));
}
END_TEST

/* ---- process death ---- */

/* Where every record lies, too: not only the same values. */
static size_t offsets_of(struct broker *b, const char *topic, int64_t *ret)
{
    struct broker_log log;

    BROKER_MUST(b, broker_read_committed(b, topic, &log));
    size_t n = log.count;
    ck_assert_uint_le(n, OFFSETS_MAX);
    for (size_t i = 0; i < n; i++) {
        ret[i] = log.records[i]->offset * PARTITIONS_MAX + log.records[i]->partition;
    }
    broker_log_release(&log);
    return n;
}

/* Both at once: what takes time is that a controller takes a node in only when the session of its
 * earlier life is over. */
START_TEST(a_killed_broker_comes_back_as_it_was)
{
    static const struct sent sent[] = {
        {0, 1, 500, &commit}, {1, 501, 500, &commit},  {0, 1001, 100, &abort_it},
        {1, 1101, 100, NULL}, {1, 1201, 100, &leave}, /* the kill */
        {1, 1301, 100, NULL}, {0, 1401, 100, &commit},
    };
    static int64_t before[BROKER_VERSIONS][OFFSETS_MAX], after[OFFSETS_MAX];
    char address[BROKER_VERSIONS][sizeof shared->address];
    size_t n[BROKER_VERSIONS];

    for (size_t i = 0; i < BROKER_VERSIONS; i++) {
        struct broker *b = &shared[i];
        if (!broker_usable(b)) {
            return;
        }
        BROKER_MUST(b, broker_topic_create(b, "killed", 2, 0, NULL));
        send_all(b, "killed", sent, 5);
        must_show(b, "killed", sent, 5);
        n[i] = offsets_of(b, "killed", before[i]);
        memcpy(address[i], broker_address(b), sizeof address[i]);

        BROKER_MUST(b, broker_kill(b, SIGKILL, BROKER_ALL));
        ck_assert_int_eq(broker_kill(b, SIGKILL, 1), BROKER_SCRIPT); /* there is nobody to kill */
        BROKER_MUST(b, broker_relaunch(b, BROKER_ALL, NULL));
    }
    for (size_t i = 0; i < BROKER_VERSIONS; i++) {
        struct broker *b = &shared[i];
        BROKER_MUST(b, broker_await(b));
        ck_assert_str_eq(address[i], broker_address(b));
        ck_assert_uint_eq(n[i], offsets_of(b, "killed", after));
        ck_assert_mem_eq(before[i], after, n[i] * sizeof *after);
        send_all(b, "killed", sent + 5, 2);
        must_show(b, "killed", sent, LEN(sent));
    }
}
END_TEST

START_TEST(a_stopped_broker_does_not_answer)
{
    struct broker *b = &shared[_i];
    static const char *const impatient[] = {"message.timeout.ms=300", NULL};
    static const struct broker_how how = {.properties = impatient};
    static const struct sent sent[] = {{0, 1, 10, NULL}, {0, 11, 10, NULL}};

    if (!broker_usable(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "stopped", 1, 0, NULL));
    send_all(b, "stopped", sent, 1);
    BROKER_MUST(b, broker_kill(b, SIGSTOP, BROKER_ALL));
    ck_assert_int_eq(broker_send_numbers(b, "stopped", 0, 99, 1, &how), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR__MSG_TIMED_OUT);
    BROKER_MUST(b, broker_kill(b, SIGCONT, BROKER_ALL));
    send_all(b, "stopped", sent + 1, 1);

    struct broker_log log;
    BROKER_MUST(b, broker_read_committed(b, "stopped", &log));
    /* The one that timed out may or may not have arrived; it is between the others. */
    ck_assert_uint_ge(log.count, 20);
    ck_assert_uint_le(log.count, 21);
    broker_log_release(&log);
}
END_TEST

/* ---- topics, groups, records ---- */

START_TEST(topics_are_made_grown_trimmed_and_deleted)
{
    struct broker *b = &shared[_i];
    static const char *const compact[] = {"cleanup.policy=compact", NULL};
    static const char *const nonsense[] = {"cleanup.policy=nonsense", NULL};
    static const struct sent sent[] = {{0, 1, 10, NULL}, {2, 11, 10, NULL}};
    struct broker_log log;

    if (!broker_usable(b)) {
        return;
    }
    ck_assert_int_eq(broker_topic_create(b, "bad", 1, 0, nonsense), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR_INVALID_CONFIG);
    BROKER_MUST(b, broker_topic_create(b, "topic", 1, 0, NULL));
    ck_assert_int_eq(broker_topic_create(b, "topic", 1, 0, NULL), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS);
    BROKER_MUST(b, broker_topic_grow(b, "topic", 3));
    send_all(b, "topic", sent, LEN(sent));
    must_show(b, "topic", sent, LEN(sent));

    BROKER_MUST(b, broker_topic_trim(b, "topic", 0, 7));
    BROKER_MUST(b, broker_read_committed(b, "topic", &log));
    ck_assert_uint_eq(log.count, 13);
    ck_assert_int_eq(log.records[0]->offset, 7);
    broker_log_release(&log);

    BROKER_MUST(b, broker_topic_delete(b, "topic"));
    ck_assert_int_eq(broker_topic_delete(b, "topic"), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART);
    BROKER_MUST(b, broker_topic_create(b, "topic", 1, 0, compact));
    must_show(b, "topic", NULL, 0); /* a new one of the same name */
}
END_TEST

static int64_t committed_offset(struct broker *b, const char *group, int64_t commit_first)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

    MUST(!rd_kafka_conf_set(conf, "bootstrap.servers", broker_address(b), text, sizeof text));
    MUST(!rd_kafka_conf_set(conf, "group.id", group, text, sizeof text));
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    MUST(rk);
    rd_kafka_topic_partition_list_add(list, "grouped", 0)->offset = commit_first;
    if (commit_first >= 0) {
        ck_assert_str_eq(rd_kafka_err2name(rd_kafka_commit(rk, list, 0)), "NO_ERROR");
    }
    ck_assert_str_eq(rd_kafka_err2name(rd_kafka_committed(rk, list, BROKER_PATIENCE_MS)),
                     "NO_ERROR");
    int64_t offset = list->elems[0].offset;
    rd_kafka_topic_partition_list_destroy(list);
    rd_kafka_destroy(rk);
    return offset;
}

START_TEST(a_deleted_group_has_no_offsets)
{
    struct broker *b = &shared[_i];

    if (!broker_usable(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "grouped", 1, 0, NULL));
    ck_assert_int_eq(committed_offset(b, "g", 42), 42);
    ck_assert_int_eq(committed_offset(b, "g", -1), 42);
    BROKER_MUST(b, broker_group_delete(b, "g"));
    ck_assert_int_eq(committed_offset(b, "g", -1), GONE_OFFSET);
    ck_assert_int_eq(broker_group_delete(b, "g"), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND);
}
END_TEST

START_TEST(every_part_of_a_record_arrives)
{
    struct broker *b = &shared[_i];
    static uint8_t big[MESSAGE_MAX + 1];
    static const struct broker_header headers[] = {{"one", {(const uint8_t *)"1", 1}},
                                                   {"none", {NULL, 0}}};
    const struct broker_message messages[] = {
        {.partition = 0,
         .key = {(const uint8_t *)"k", 1},
         .value = {(const uint8_t *)"v\0w", 3},
         .timestamp_ms = 1700000000123,
         .headers = headers,
         .header_count = 2},
        {.partition = 0, .key = {(const uint8_t *)"k", 1}}, /* a tombstone */
        {.partition = 0, .value = {(const uint8_t *)"", 0}},
    };
    const struct broker_message too_big = {.value = {big, sizeof big}};
    rd_kafka_timestamp_type_t type;
    rd_kafka_headers_t *seen;
    const void *value;
    size_t size;
    struct broker_log log;

    if (!broker_usable(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "parts", 1, 0, NULL));
    BROKER_MUST(b, broker_send(b, "parts", messages, LEN(messages), NULL));
    /* The limit of message.max.bytes, which this broker was started with. */
    ck_assert_int_eq(broker_send(b, "parts", &too_big, 1, NULL), BROKER_KAFKA);
    ck_assert_int_eq(b->failure.detail, RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE);

    BROKER_MUST(b, broker_read_committed(b, "parts", &log));
    ck_assert_uint_eq(log.count, 3);
    const rd_kafka_message_t *m = log.records[0];
    ck_assert_mem_eq(m->key, "k", m->key_len);
    ck_assert_uint_eq(m->len, 3);
    ck_assert_mem_eq(m->payload, "v\0w", 3);
    ck_assert_int_eq(rd_kafka_message_timestamp(m, &type), 1700000000123);
    ck_assert_int_eq(rd_kafka_message_headers(m, &seen), RD_KAFKA_RESP_ERR_NO_ERROR);
    ck_assert_int_eq(rd_kafka_header_get_last(seen, "one", &value, &size), 0);
    ck_assert_mem_eq(value, "1", size);
    ck_assert_int_eq(rd_kafka_header_get_last(seen, "none", &value, &size), 0);
    ck_assert_ptr_null(value);
    ck_assert_ptr_null(log.records[1]->payload);
    ck_assert_ptr_nonnull(log.records[2]->payload);
    ck_assert_uint_eq(log.records[2]->len, 0);
    ck_assert_ptr_null(log.records[2]->key);
    broker_log_release(&log);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("broker");
    TCase *tc = tcase_create("shared");
    const int both = BROKER_VERSIONS;

    tcase_add_unchecked_fixture(tc, start_shared, stop_shared);
    tcase_add_loop_test(tc, readers_see_what_was_committed, 0, both);
    tcase_add_loop_test(tc, an_open_transaction_holds_readers_back, 0, both);
    tcase_add_loop_test(tc, topics_are_made_grown_trimmed_and_deleted, 0, both);
    tcase_add_loop_test(tc, a_deleted_group_has_no_offsets, 0, both);
    tcase_add_loop_test(tc, every_part_of_a_record_arrives, 0, both);
    tcase_add_loop_test(tc, a_stopped_broker_does_not_answer, 0, 1);
    tcase_add_test(tc, a_killed_broker_comes_back_as_it_was);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
