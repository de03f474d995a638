/*
 * Offsets committed to a consumer group, for lag monitors, on the mock broker: they follow what is
 * durable and never run ahead, they are never read back, and the text beside them tells two
 * contexts that read the same partitions in one group.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/integration/test_kafka_source_rig.h"

#define PARTITIONS    3
#define OFFSET_COMMIT 8 /* Kafka's numbers for requests */
#define OFFSET_FETCH  9

static struct mock mock;
static struct rig rig, second;
static struct rig_expected expected;

static void set_up(void)
{
    mock_open(&mock, 1);
    mock_topic(&mock, "t", PARTITIONS);
    for (int32_t p = 0; p < PARTITIONS; p++) {
        BROKER_MUST(&mock.broker,
                    broker_send_numbers(&mock.broker, "t", p, (uint64_t)p * 1000, 100, NULL));
        rig_expect_numbers(&expected, (uint64_t)p * 1000, 100);
    }
}

static void tear_down(void)
{
    mock_close(&mock);
    rig_expected_release(&expected);
}

static void open_rig(struct rig *r, const char *uid)
{
    rig_open(r, mock.broker.address, "t");
    r->uid = uid;
    r->text = rig_text_timeless;
    r->kafka.group = "monitors";
    r->kafka.commit_ms = 50;
}

/* ---- what a lag monitor sees ---- */

struct seen {
    int64_t offset; /* negative: none */
    char text[128];
};

static rd_kafka_t *member(void)
{
    char text[256];
    rd_kafka_conf_t *conf = rd_kafka_conf_new();

    (void)rd_kafka_conf_set(conf, "bootstrap.servers", mock.broker.address, text, sizeof text);
    (void)rd_kafka_conf_set(conf, "group.id", "monitors", text, sizeof text);
    rd_kafka_t *rk = rd_kafka_new(RD_KAFKA_CONSUMER, conf, text, sizeof text);
    ck_assert_ptr_nonnull(rk);
    return rk;
}

static void look(rd_kafka_t *rk, struct seen seen[PARTITIONS])
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(PARTITIONS);

    for (int32_t p = 0; p < PARTITIONS; p++) {
        rd_kafka_topic_partition_list_add(list, "t", p);
    }
    ck_assert_int_eq(rd_kafka_committed(rk, list, 10000), 0);
    for (int32_t p = 0; p < PARTITIONS; p++) {
        const rd_kafka_topic_partition_t *e = &list->elems[p];
        seen[p].offset = e->offset;
        (void)snprintf(seen[p].text, sizeof seen[p].text, "%.*s", (int)e->metadata_size,
                       e->metadata ? (const char *)e->metadata : "");
    }
    rd_kafka_topic_partition_list_destroy(list);
}

/* Somebody else's commit; text NULL: as an ordinary consumer does it. */
static void commit_as_another(rd_kafka_t *rk, int32_t partition, int64_t offset, const char *text)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_t *e = rd_kafka_topic_partition_list_add(list, "t", partition);

    e->offset = offset;
    if (text) {
        e->metadata_size = strlen(text);
        e->metadata = rd_kafka_mem_malloc(rk, e->metadata_size + 1);
        memcpy(e->metadata, text, e->metadata_size + 1);
    }
    ck_assert_int_eq(rd_kafka_commit(rk, list, 0), 0);
    rd_kafka_topic_partition_list_destroy(list);
}

static void await_offsets(rd_kafka_t *rk, int64_t offset, struct seen seen[PARTITIONS])
{
    int64_t end = rig_now_ms() + RIG_PATIENCE_MS;
    int done = 0;

    while (done < PARTITIONS) {
        ck_assert_msg(rig_now_ms() < end, "the group is at %" PRId64, seen[0].offset);
        look(rk, seen);
        done = 0;
        for (int p = 0; p < PARTITIONS; p++) {
            ck_assert_int_le(seen[p].offset, offset);
            done += seen[p].offset == offset;
        }
    }
}

/* ---- courtesy ---- */

START_TEST(the_group_follows_and_names_us)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "lines");
    rig_up(&rig);
    await_offsets(rk, 100, seen);
    for (int p = 0; p < PARTITIONS; p++) {
        char id[40], uid[40];
        ck_assert_int_eq(sscanf(seen[p].text, "levee %32[0-9a-f] %39s", id, uid), 2);
        ck_assert_uint_eq(strlen(id), 32);
        ck_assert_str_eq(uid, "lines");
        ck_assert(rig_said(&rig, id)); /* the context's own line at the start */
    }
    ck_assert_uint_ge(rig_status(&rig).commits, 1);
    ck_assert_uint_eq(rig_status(&rig).commit_failures, 0);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

/* Ours to begin with, then moved by hand, forwards and backwards: nothing is skipped or repeated.
 */
START_TEST(committed_offsets_are_never_read_back)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "lines");
    rig_up(&rig);
    await_offsets(rk, 100, seen);
    rig_down(&rig);
    commit_as_another(rk, 0, 7, seen[0].text);
    commit_as_another(rk, 1, 150, seen[1].text);
    for (int32_t p = 0; p < PARTITIONS; p++) {
        uint64_t first = 50000 + (uint64_t)p * 1000;
        BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", p, first, 100, NULL));
        rig_expect_numbers(&expected, first, 100);
    }
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    await_offsets(rk, 200, seen);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

/* Without a group nothing is ever committed. */
START_TEST(no_group_no_commits)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "monitors"); /* the client's own group would be levee-monitors */
    rig.kafka.group = NULL;
    rig_up(&rig);
    rig_await(&rig, (int64_t)expected.count);
    ck_assert_uint_eq(rig_status(&rig).commits, 0);
    rig_close(&rig);
    look(rk, seen);
    for (int p = 0; p < PARTITIONS; p++) {
        ck_assert_int_lt(seen[p].offset, 0);
    }
    rd_kafka_destroy(rk);
}
END_TEST

/* Commits that fail are counted and told; reading goes on. */
START_TEST(f83_commits_that_fail_cost_no_record)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    for (int i = 0; i < 3; i++) {
        rd_kafka_mock_push_request_errors(mock.cluster, OFFSET_COMMIT, 1,
                                          RD_KAFKA_RESP_ERR_INVALID_COMMIT_OFFSET_SIZE);
    }
    open_rig(&rig, "lines");
    rig_up(&rig);
    rig_await_error(&rig, 1);
    ck_assert_ptr_nonnull(strstr(rig.error.what, "group monitors"));
    await_offsets(rk, 100, seen);
    ck_assert_uint_ge(rig_status(&rig).commit_failures, 1);
    rig_await(&rig, (int64_t)expected.count);
    rig_drain(&rig);
    rig_must_hold(&rig, &expected);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

/* ---- overlaps ---- */

static void must_be_foreign(struct rig *r, const char *text)
{
    struct levee_error err = {0};

    ck_assert_int_eq(rig_end(r, &err), LEVEE_ESOURCE_FOREIGN);
    ck_assert_ptr_nonnull(strstr(err.what, "in group monitors"));
    ck_assert_ptr_nonnull(strstr(err.expected, "levee "));
    ck_assert_msg(strstr(err.found, text) != NULL, "%s", err.found);
}

START_TEST(f94_a_second_context_with_an_overlapping_set_is_refused)
{
    static const struct levee_kafka_partition left[] = {{"t", 0}, {"t", 1}};
    static const struct levee_kafka_partition right[] = {{"t", 1}, {"t", 2}};
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "lines");
    rig.kafka.topic = NULL;
    rig.kafka.partitions = left;
    rig.kafka.partition_count = 2;
    rig_up(&rig);
    rig_await(&rig, 200);
    open_rig(&second, "lines");
    second.kafka.topic = NULL;
    second.kafka.partitions = right;
    second.kafka.partition_count = 2;
    rig_up(&second);
    look(rk, seen);
    must_be_foreign(&second, seen[1].text + 6); /* the first one's context */
    ck_assert_int_eq(second.total, 0);          /* nothing was taken */
    look(rk, seen);
    ck_assert_int_lt(seen[2].offset, 0); /* and nothing claimed */
    rig_down(&second);
    second.kafka.partitions = right + 1; /* what is left over is fine */
    second.kafka.partition_count = 1;
    rig_up(&second);
    rig_await(&second, 100);
    rig_close(&second);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

/* Another source of the same context is somebody else, too. */
START_TEST(another_uid_in_the_same_directory_is_refused)
{
    struct seen seen[PARTITIONS] = {0};
    struct levee_error err = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "one");
    rig_up(&rig);
    await_offsets(rk, 100, seen);
    rig_drain(&rig); /* an operator has gone: nothing may be in flight */
    rig_down(&rig);
    rig.uid = "two";
    rig.levee.drop_orphaned_state = true;
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_ESOURCE_FOREIGN);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

/* An application's own offsets are not ours to overwrite. */
START_TEST(a_group_of_an_ordinary_consumer_is_refused)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    commit_as_another(rk, 2, 33, NULL);
    open_rig(&rig, "lines");
    rig_up(&rig);
    must_be_foreign(&rig, "offset 33");
    look(rk, seen);
    ck_assert_int_eq(seen[2].offset, 33);
    rig_close(&rig);
    rd_kafka_destroy(rk);
}
END_TEST

START_TEST(adopting_takes_over_and_the_former_owner_stops)
{
    struct seen seen[PARTITIONS] = {0};
    rd_kafka_t *rk = member();

    open_rig(&rig, "lines");
    rig_up(&rig);
    await_offsets(rk, 100, seen);
    open_rig(&second, "lines");
    second.kafka.adopt = true;
    rig_up(&second);
    rig_await(&second, 300);
    /* The first one looks before its next commit, and commits when there is something. */
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", 0, 90000, 1, NULL));
    must_be_foreign(&rig, "levee ");
    rig_close(&rig);
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", 1, 90001, 1, NULL));
    BROKER_MUST(&mock.broker, broker_send_numbers(&mock.broker, "t", 2, 90002, 1, NULL));
    await_offsets(rk, 101, seen);
    rig_close(&second);
    rd_kafka_destroy(rk);
}
END_TEST

START_TEST(no_right_to_use_the_group_is_an_error_that_names_it)
{
    struct levee_error err = {0};

    for (int i = 0; i < 20; i++) {
        rd_kafka_mock_push_request_errors(mock.cluster, OFFSET_FETCH, 1,
                                          RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED);
    }
    open_rig(&rig, "lines");
    rig_up(&rig);
    ck_assert_int_eq(rig_end(&rig, &err), LEVEE_EACCESS);
    ck_assert_ptr_nonnull(strstr(err.what, "monitors"));
    rig_close(&rig);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kafka_source_group");
    TCase *t = tcase_create("mock broker");

    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, the_group_follows_and_names_us);
    tcase_add_test(t, committed_offsets_are_never_read_back);
    tcase_add_test(t, no_group_no_commits);
    tcase_add_test(t, f83_commits_that_fail_cost_no_record);
    tcase_add_test(t, f94_a_second_context_with_an_overlapping_set_is_refused);
    tcase_add_test(t, another_uid_in_the_same_directory_is_refused);
    tcase_add_test(t, a_group_of_an_ordinary_consumer_is_refused);
    tcase_add_test(t, adopting_takes_over_and_the_former_owner_stops);
    tcase_add_test(t, no_right_to_use_the_group_is_an_error_that_names_it);
    suite_add_tcase(s, t);
    return suite_main(s);
}
