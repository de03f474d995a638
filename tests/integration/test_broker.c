/*
 * The broker that other tests lean on (tests/support/broker.h): it is a real one, its readers see
 * what was committed and nothing else, it comes back with the same data on the same ports after a
 * SIGKILL (process death), and nothing of it outlives a stop or the process that it belongs to.
 *
 * One broker of each version, started together, is shared by the tests that leave it running; each
 * test has topics of its own.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/support/broker.h"

#define LEN(array)     (sizeof(array) / sizeof *(array))
#define MESSAGE_MAX    20000
#define FOREVER_MS     60000
#define GONE_OFFSET    (-1001) /* RD_KAFKA_OFFSET_INVALID: nothing committed */
#define OFFSETS_MAX    2000
#define PARTITIONS_MAX 4

static const char *const versions[] = {"4.1", "3.9"};
static struct broker shared[LEN(versions)];

static const char *const properties[] = {"message.max.bytes=20000", NULL};

static void start_shared(void)
{
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_launch(&shared[i], versions[i], 1, properties);
    }
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_await(&shared[i]); /* what came of it: there_is */
    }
}

static void stop_shared(void)
{
    for (size_t i = 0; i < LEN(versions); i++) {
        (void)broker_stop(&shared[i]);
    }
}

/* Whether a broker runs; skips the test when this machine cannot have one, fails it when it could
 * have. */
static bool there_is(const struct broker *b)
{
    if (b->failure.code == BROKER_ABSENT) {
        suite_skip(b->failure.what);
        return false;
    }
    ck_assert_msg(b->failure.code == BROKER_OK, "%s", b->failure.what);
    return true;
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

    if (!there_is(b)) {
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

    if (!there_is(b)) {
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

START_TEST(a_killed_broker_comes_back_as_it_was)
{
    struct broker *b = &shared[_i];
    static const struct sent sent[] = {
        {0, 1, 500, &commit}, {1, 501, 500, &commit},  {0, 1001, 100, &abort_it},
        {1, 1101, 100, NULL}, {1, 1201, 100, &leave}, /* the kill */
        {1, 1301, 100, NULL}, {0, 1401, 100, &commit},
    };
    static int64_t before[OFFSETS_MAX], after[OFFSETS_MAX];
    char address[sizeof b->address];

    if (!there_is(b)) {
        return;
    }
    BROKER_MUST(b, broker_topic_create(b, "killed", 2, 0, NULL));
    send_all(b, "killed", sent, 5);
    must_show(b, "killed", sent, 5);
    size_t n = offsets_of(b, "killed", before);
    memcpy(address, broker_address(b), sizeof address);

    BROKER_MUST(b, broker_kill(b, SIGKILL, BROKER_ALL));
    ck_assert_int_eq(broker_kill(b, SIGKILL, 1), BROKER_SCRIPT); /* there is nobody to kill */
    BROKER_MUST(b, broker_restart(b, BROKER_ALL, NULL));

    ck_assert_str_eq(address, broker_address(b));
    ck_assert_uint_eq(n, offsets_of(b, "killed", after));
    ck_assert_mem_eq(before, after, n * sizeof *before);
    send_all(b, "killed", sent + 5, 2);
    must_show(b, "killed", sent, LEN(sent));
}
END_TEST

START_TEST(a_stopped_broker_does_not_answer)
{
    struct broker *b = &shared[_i];
    static const char *const impatient[] = {"message.timeout.ms=300", NULL};
    static const struct broker_how how = {.properties = impatient};
    static const struct sent sent[] = {{0, 1, 10, NULL}, {0, 11, 10, NULL}};

    if (!there_is(b)) {
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

    if (!there_is(b)) {
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

    if (!there_is(b)) {
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

    if (!there_is(b)) {
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

/* ---- nodes ---- */

START_TEST(another_node_leads_when_the_leader_is_killed)
{
    static struct broker b;
    static const struct sent sent[] = {{0, 1, 50, &commit}, {0, 51, 50, &commit}};
    unsigned leader, next;

    (void)broker_start(&b, "4.1", 3, NULL);
    if (!there_is(&b)) {
        return;
    }
    BROKER_MUST(&b, broker_topic_create(&b, "led", 1, 0, NULL));
    send_all(&b, "led", sent, 1);
    BROKER_MUST(&b, broker_topic_leader(&b, "led", 0, &leader));
    ck_assert_uint_ge(leader, 1);
    ck_assert_uint_le(leader, 3);
    BROKER_MUST(&b, broker_kill(&b, SIGKILL, leader));
    send_all(&b, "led", sent + 1, 1);
    BROKER_MUST(&b, broker_topic_leader(&b, "led", 0, &next));
    ck_assert_uint_ne(next, leader);
    must_show(&b, "led", sent, 2);
    BROKER_MUST(&b, broker_restart(&b, leader, NULL));
    must_show(&b, "led", sent, 2);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

/* ---- nothing is left ---- */

/* A pipe whose one end every process inherits that is started from here on: it says end of file
 * when the last of them has ended, whoever it was, and not before. */
static int lifeline[2];

static bool all_ended(int wait_ms)
{
    struct pollfd fd = {.fd = lifeline[0], .events = POLLIN};

    return poll(&fd, 1, wait_ms) == 1 && (fd.revents & POLLHUP);
}

START_TEST(no_process_and_no_file_outlives_a_stop)
{
    struct broker b;
    struct stat st;
    char directory[sizeof b.directory];

    ck_assert_int_eq(pipe(lifeline), 0);
    (void)broker_start(&b, versions[_i], 1, NULL);
    close(lifeline[1]);
    if (!there_is(&b)) {
        return;
    }
    ck_assert(!all_ended(0));
    memcpy(directory, b.directory, sizeof directory);
    ck_assert_int_eq(stat(directory, &st), 0);
    BROKER_MUST(&b, broker_kill(&b, SIGSTOP, BROKER_ALL)); /* one that hears nothing ends, too */
    BROKER_MUST(&b, broker_stop(&b));
    ck_assert(all_ended(0));
    ck_assert_int_ne(stat(directory, &st), 0);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

START_TEST(a_broker_ends_with_its_process)
{
    int result[2];
    struct broker b;

    ck_assert_int_eq(pipe(lifeline), 0);
    ck_assert_int_eq(pipe(result), 0);
    pid_t pid = fork();
    ck_assert_int_ge(pid, 0);
    if (pid == 0) {
        (void)broker_start(&b, versions[_i], 1, NULL);
        (void)!write(result[1], &b, sizeof b);
        for (;;) {
            (void)pause();
        }
    }
    close(lifeline[1]);
    ck_assert_int_eq(read(result[0], &b, sizeof b), sizeof b);
    if (there_is(&b)) {
        ck_assert(!all_ended(0));
    }
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    ck_assert_int_eq(waitpid(pid, NULL, 0), pid);
    ck_assert(all_ended(FOREVER_MS));
    BROKER_MUST(&b, broker_stop(&b)); /* its files */
}
END_TEST

/* ---- failures ---- */

START_TEST(a_property_that_kafka_refuses_is_a_failure)
{
    struct broker b;
    static const char *const wrong[] = {"log.retention.ms=soon", NULL};

    if (!there_is(&shared[_i])) {
        return;
    }
    ck_assert_int_eq(broker_start(&b, versions[_i], 1, wrong), BROKER_SCRIPT);
    ck_assert_msg(strstr(b.failure.what, "Invalid value soon for configuration log.retention.ms"),
                  "%s", b.failure.what);
    BROKER_MUST(&b, broker_stop(&b));
}
END_TEST

/* A folder of links to what the script needs before it needs Java: a machine without that. */
static void make_poor_path(const char *folder)
{
    static const char *const tools[] = {"bash",  "env",  "cat",   "cmp", "cut", "date", "dirname",
                                        "flock", "head", "mkdir", "rm",  "sed", "tail", "timeout"};

    ck_assert_int_eq(mkdir(folder, 0700), 0);
    for (size_t i = 0; i < LEN(tools); i++) {
        char from[64], to[600];
        (void)snprintf(from, sizeof from, "/usr/bin/%s", tools[i]);
        (void)snprintf(to, sizeof to, "%s/%s", folder, tools[i]);
        ck_assert_int_eq(symlink(from, to), 0);
    }
}

START_TEST(a_machine_without_java_has_no_broker)
{
    char folder[512], cache[560], path[560];
    const char *tmp = getenv("TMPDIR");
    struct broker b[2];

    (void)snprintf(folder, sizeof folder, "%s/poor-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    (void)snprintf(cache, sizeof cache, "%s/cache", folder);
    (void)snprintf(path, sizeof path, "%s/bin", folder);
    make_poor_path(path);
    const char *was = getenv("PATH");
    ck_assert_ptr_nonnull(was);
    char *old = strdup(was); /* setenv may take it away */
    ck_assert_int_eq(setenv("PATH", path, 1), 0);
    ck_assert_int_eq(setenv("LEVEE_KAFKA_CACHE", cache, 1), 0);
    (void)broker_start(&b[0], "4.1", 1, NULL);
    (void)broker_start(&b[1], "4.1", 1, NULL); /* now it is remembered */
    ck_assert_int_eq(setenv("PATH", old, 1), 0);
    ck_assert_int_eq(unsetenv("LEVEE_KAFKA_CACHE"), 0);
    free(old);
    char command[600];
    (void)snprintf(command, sizeof command, "rm -r '%s'", folder);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): a fixed command */

    for (size_t i = 0; i < LEN(b); i++) {
        const struct broker_failure *f = &b[i].failure;
        ck_assert_int_eq(f->code, BROKER_ABSENT);
        if (f->detail == 0) { /* for another reason: it did not even get to the script */
            suite_skip(f->what);
            return;
        }
        ck_assert_msg(strstr(f->what, "NO REAL KAFKA: Java 17") && !strchr(f->what, '\n'), "%s",
                      f->what);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("broker");
    TCase *together = tcase_create("shared"), *alone = tcase_create("alone");
    const int both = LEN(versions);

    tcase_add_unchecked_fixture(together, start_shared, stop_shared);
    tcase_add_loop_test(together, readers_see_what_was_committed, 0, both);
    tcase_add_loop_test(together, an_open_transaction_holds_readers_back, 0, both);
    tcase_add_loop_test(together, topics_are_made_grown_trimmed_and_deleted, 0, both);
    tcase_add_loop_test(together, a_deleted_group_has_no_offsets, 0, both);
    tcase_add_loop_test(together, every_part_of_a_record_arrives, 0, both);
    tcase_add_loop_test(together, a_stopped_broker_does_not_answer, 0, 1);
    tcase_add_loop_test(together, a_killed_broker_comes_back_as_it_was, 0, both);
    tcase_add_loop_test(together, a_property_that_kafka_refuses_is_a_failure, 0, 1);
    tcase_add_loop_test(alone, no_process_and_no_file_outlives_a_stop, 0, both);
    tcase_add_loop_test(alone, a_broker_ends_with_its_process, 0, 1);
    tcase_add_test(alone, another_node_leads_when_the_leader_is_killed);
    tcase_add_test(alone, a_machine_without_java_has_no_broker);
    suite_add_tcase(suite, together);
    suite_add_tcase(suite, alone);
    return suite_main(suite);
}
